/**
 * Socket activation (sd_listen_fds(3)): systemd, or who does as it does, listens on the socket and passes it to us as
 * descriptor 3. We listen on none of our own then, and leave the socket's file to its owner.
 */
import { statSync } from 'node:fs';
import { constants } from 'node:os';
import { resolve } from 'node:path';
import { ConfigError, describeErrno } from '../errors';
import type { Native } from '../native';
import type { Launched } from '../sandbox/launched';
import { WAITING_FD } from './background-service';
import type { Transport } from './options';

/** SD_LISTEN_FDS_START. */
const FIRST_PASSED = 3;
/** FileDescriptorName= of the socket unit that scrapers connect to. */
const METRICS = 'metrics';
/** More are refused whatever they are. */
const MOST_NAMED = 8;
/** sockaddr_un's sun_path. */
const PATH_BYTES = 108;

const { EAFNOSUPPORT, EPROTOTYPE, EINVAL, EADDRNOTAVAIL, EBADF, ENOTSOCK } = constants.errno;

const PATH_UNIT = 'give ListenStream=PATH in the socket unit';

/** What is to be said of a descriptor that cannot be served on, by errno of `unixListenerPath`. */
const WRONG: ReadonlyMap<number, string> = new Map([
  [EBADF, `is not open: ${PATH_UNIT}`],
  [ENOTSOCK, `is not a socket: ${PATH_UNIT}`],
  [EAFNOSUPPORT, `is not a unix socket: ${PATH_UNIT}, not a port`],
  [EPROTOTYPE, `is not a stream socket: ${PATH_UNIT}, not ListenDatagram= or ListenSequentialPacket=`],
  [EINVAL, 'does not listen: set Accept=no in the socket unit'],
  [EADDRNOTAVAIL, `has no path: ${PATH_UNIT}, not an abstract name`],
]);

export interface Passed {
  /** Descriptors from FIRST_PASSED on. */
  readonly count: number;
  /** LISTEN_FDNAMES, '' where there is none. */
  readonly names: string;
}

function problem(text: string): ConfigError {
  return new ConfigError('CFG_ERR_SOCKET', text);
}

/**
 * Whether what LISTEN_FDS says is meant for this process. In the background it has another number than the one that was
 * called: the launcher has looked in time, and a Node that stands in for it (background-launcher.ts) names no process.
 */
function isForUs(env: NodeJS.ProcessEnv, launched: Launched | null): boolean {
  if (env[WAITING_FD] !== undefined) return env.LISTEN_PID === undefined;
  if (launched !== null) return launched.get('listen') === 1;
  return Number(env.LISTEN_PID) === process.pid;
}

/** What was passed to us; null: nothing. Takes it out of the environment: it is meant for no other process. */
export function takePassed(env: NodeJS.ProcessEnv, launched: Launched | null): Passed | null {
  const { LISTEN_FDS: fds, LISTEN_FDNAMES: names = '' } = env;
  const ours = fds !== undefined && isForUs(env, launched);
  for (const name of ['LISTEN_FDS', 'LISTEN_PID', 'LISTEN_FDNAMES']) Reflect.deleteProperty(env, name);
  if (!ours) return null;
  if (!/^[0-9]{1,9}$/.test(fds)) throw problem(`LISTEN_FDS ${fds}: give the number of sockets that are passed`);
  const count = Number(fds);
  return count === 0 ? null : { count, names };
}

/** What is passed, as numbers of descriptors. */
export function passedFds(passed: Passed | null): number[] {
  return Array.from({ length: Math.min(passed?.count ?? 0, MOST_NAMED) }, (_, i) => FIRST_PASSED + i);
}

/** Sockets that were passed, by what they are for. */
export interface Sorted {
  /** Descriptor of the one that is named `metrics`; null: none. */
  readonly metrics: number | null;
  /** The others, and the first one's descriptor. */
  readonly frontEnds: Passed | null;
  readonly first: number;
}

/** Throws ConfigError where several are for scrapers. */
export function sorted(passed: Passed | null): Sorted {
  const names = passed === null ? [] : passed.names.split(':').slice(0, passed.count);
  const at = names.indexOf(METRICS);
  if (passed === null || at < 0) return { metrics: null, frontEnds: passed, first: FIRST_PASSED };
  if (names.lastIndexOf(METRICS) !== at) throw problem('systemd (LISTEN_FDS) has passed several sockets named metrics');
  const count = passed.count - 1;
  const others = names.filter((name) => name !== METRICS).join(':');
  return {
    metrics: FIRST_PASSED + at,
    frontEnds: count === 0 ? null : { count, names: others },
    first: at === 0 ? FIRST_PASSED + 1 : FIRST_PASSED,
  };
}

/** What a background service finds in its environment when a new Node is started for it, where it is handed the socket. */
export const HANDED_ON: Readonly<NodeJS.ProcessEnv> = { LISTEN_FDS: '1' };

function isSameFile(one: string, other: string): boolean {
  if (resolve(one) === resolve(other)) return true;
  const [a, b] = [one, other].map((path) => statSync(path, { bigint: true, throwIfNoEntry: false }));
  return a !== undefined && a.dev === b?.dev && a.ino === b.ino;
}

/**
 * Where front-ends come from, with a socket that was passed. Throws ConfigError where it is none to serve on, or the command
 * line wants another. `first`: its descriptor. `own`: descriptors that are ours, one of which may have the number of a socket that was not passed.
 */
export function activated(
  given: Transport,
  passed: Passed,
  own: readonly number[],
  native: Pick<Native, 'unixListenerPath'>,
  first = FIRST_PASSED,
): Transport {
  const who = 'systemd (LISTEN_FDS)';
  if (given.kind !== 'listen')
    throw problem(`--${given.kind}: ${who} has passed a socket to listen on, give only one of the two`);
  if (passed.count > 1) {
    const names = passed.names === '' ? '' : ` (${passed.names})`;
    throw problem(`${who} has passed ${passed.count} sockets${names}: give one ListenStream= in the socket unit`);
  }
  const out = Buffer.alloc(PATH_BYTES);
  const length = own.includes(first) ? -EBADF : native.unixListenerPath(first, out);
  if (length < 0) {
    const what = WRONG.get(-length) ?? `cannot be used: ${describeErrno(length)}`;
    throw problem(`descriptor ${first} of ${who} ${what}`);
  }
  const path = out.toString('utf8', 0, length);
  if (given.path !== null && !isSameFile(given.path, path)) {
    throw problem(`--socket ${given.path}: ${who} has passed a socket that listens on ${path}: leave --socket out`);
  }
  return { kind: 'listen', path, opened: first };
}
