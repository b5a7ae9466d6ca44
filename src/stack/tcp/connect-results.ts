/** What became of the guest's connections at the host, for the metrics. */
import { C_CONNECTS, CONNECT_RESULTS, H_CONNECT_US } from '../counters';
import { MOST, observe } from '../kit/histogram';
import {
  EACCES,
  EADDRINUSE,
  EADDRNOTAVAIL,
  ECONNREFUSED,
  ECONNRESET,
  EHOSTDOWN,
  EHOSTUNREACH,
  EINVAL,
  EMFILE,
  ENETDOWN,
  ENETUNREACH,
  ENFILE,
  ENOBUFS,
  ENOMEM,
  EPERM,
  ETIMEDOUT,
} from '../kit/linux';
import type { TcpEngine } from './flow';

/** By errno: the place in CONNECT_RESULTS. Errnos are below 134 (errno.h). */
const RESULT_OF = new Uint8Array(256).fill(CONNECT_RESULTS.indexOf('other'));
const OK = CONNECT_RESULTS.indexOf('ok');
const ERRNOS: readonly (readonly [number, (typeof CONNECT_RESULTS)[number]])[] = [
  [ECONNREFUSED, 'ECONNREFUSED'],
  [ETIMEDOUT, 'ETIMEDOUT'],
  [EHOSTUNREACH, 'EHOSTUNREACH'],
  [ENETUNREACH, 'ENETUNREACH'],
  [ECONNRESET, 'ECONNRESET'],
  [EADDRNOTAVAIL, 'EADDRNOTAVAIL'],
  [EADDRINUSE, 'EADDRINUSE'],
  [EACCES, 'EACCES'],
  [EPERM, 'EPERM'],
  [EMFILE, 'EMFILE'],
  [ENFILE, 'ENFILE'],
  [ENOBUFS, 'ENOBUFS'],
  [ENOMEM, 'ENOMEM'],
  [EINVAL, 'EINVAL'],
  [ENETDOWN, 'ENETDOWN'],
  [EHOSTDOWN, 'EHOSTDOWN'],
];
for (const [errno, name] of ERRNOS) RESULT_OF[errno] = CONNECT_RESULTS.indexOf(name);

/** The host's connection of `flow` is there. */
export function countConnected(t: TcpEngine, flow: number): void {
  const us = t.clock.nowUs() - t.connectUs[flow];
  observe(t.ctx.counters, H_CONNECT_US, us < MOST ? us | 0 : MOST);
  t.ctx.counters[C_CONNECTS + OK]++;
}

/** A connection that could not be begun; `result`: -errno. */
export function countNotConnected(t: TcpEngine, result: number): void {
  const errno = -result & 0xff;
  t.ctx.counters[C_CONNECTS + RESULT_OF[errno]]++;
}

/** One that failed: the socket has the reason, for the first call that asks for anything (SO_ERROR of socket(7)). */
export function countFailed(t: TcpEngine, fd: number): void {
  const result = t.io.discard(fd, 1);
  countNotConnected(t, result < 0 ? result : 0);
}
