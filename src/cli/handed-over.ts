/**
 * Sockets that systemd has passed (LISTEN_FDS) as sources of forwards (`-t fd:NAME:PORT`): what each of them is, and which
 * of them no forward names. They are systemd's, so none is closed: one whose forward goes can be given another.
 */
import { constants } from 'node:os';
import type { PassedSocket, PassedSockets } from '../config/forward-listeners';
import type { PortRule } from '../config/port-spec';
import { describeErrno } from '../errors';
import type { Native } from '../native';
import { addrSlotPort, addrSlotRead, isUnspecified } from '../stack/ip/address';
import { AF_INET, AF_INET6 } from '../stack/ports';
import { ADDR_SLOT_TCP } from '../stack/scratch';

export type HandedOverIo = Pick<
  Native,
  'addrs' | 'socketFacts' | 'setNonBlocking' | 'unixListenerPath' | 'getsockname'
>;

/** A descriptor that was passed, and its name. */
export interface Named {
  readonly fd: number;
  readonly name: string;
}

/** What a socket is, or why it cannot be the source of a forward. */
type Kind = Omit<PassedSocket, 'fd'> | string;

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const IPPROTO_TCP = 6;
const IPPROTO_UDP = 17;
const FACTS = 7;
const PATH_BYTES = 108;

const { ENOTSOCK, EBADF } = constants.errno;

function unixKind(fd: number, type: number, listens: number, io: HandedOverIo): Kind {
  if (type !== SOCK_STREAM) return 'is a UNIX socket that is no stream: give ListenStream= in the socket unit';
  if (listens === 0) return 'does not listen: set Accept=no in the socket unit';
  const out = Buffer.alloc(PATH_BYTES);
  const length = io.unixListenerPath(fd, out);
  // One with an abstract name serves as well.
  const path = length < 0 ? '(no path)' : out.toString('utf8', 0, length);
  return { protocol: 'tcp', family: 'v4', port: 0, onDevice: false, path };
}

function kindOf(fd: number, io: HandedOverIo): Kind {
  const facts = new Int32Array(FACTS);
  const error = io.socketFacts(fd, facts);
  if (error === -EBADF) return 'is not open';
  if (error === -ENOTSOCK) return 'is not a socket';
  if (error < 0) return `cannot be used: ${describeErrno(error)}`;
  const [family, type, protocol, listens, only6, onDevice, connected] = facts;
  if (family === AF_UNIX) return unixKind(fd, type, listens, io);
  if (family !== AF_INET && family !== AF_INET6)
    return `is a socket of family ${family}: give a port or a path in the socket unit`;
  const tcp = type === SOCK_STREAM && protocol === IPPROTO_TCP;
  if (!tcp && !(type === SOCK_DGRAM && protocol === IPPROTO_UDP))
    return `is neither TCP nor UDP (protocol ${protocol}): leave SocketProtocol= out of the socket unit`;
  if (tcp && listens === 0) return 'does not listen: set Accept=no in the socket unit';
  if (!tcp && connected === 1) return 'is connected: give ListenDatagram= in the socket unit';
  const named = io.getsockname(fd, ADDR_SLOT_TCP);
  if (named < 0) return `cannot be used: ${describeErrno(named)}`;
  const port = addrSlotPort(io.addrs, ADDR_SLOT_TCP);
  if (port === 0) return 'is not bound to a port: give ListenDatagram= in the socket unit';
  const words = new Int32Array(4);
  addrSlotRead(io.addrs, ADDR_SLOT_TCP, words, 0);
  const dual = family === AF_INET6 && only6 === 0 && isUnspecified(words, 0);
  return {
    protocol: tcp ? 'tcp' : 'udp',
    family: family === AF_INET ? 'v4' : dual ? 'dual' : 'v6',
    port,
    onDevice: onDevice === 1,
  };
}

/** True if it is a socket of IPv4 or IPv6: no front-end's. */
export function isPort(fd: number, io: Pick<Native, 'socketFacts'>): boolean {
  const facts = new Int32Array(FACTS);
  return io.socketFacts(fd, facts) >= 0 && (facts[0] === AF_INET || facts[0] === AF_INET6);
}

const WHO = 'systemd (LISTEN_FDS)';
const OPTIONS = { tcp: '-t', udp: '-u' } as const;
const KINDS = { tcp: 'a datagram socket, give it with -u', udp: 'a stream socket, give it with -t' } as const;

export class HandedOver implements PassedSockets {
  private readonly sockets: readonly (Named & { readonly kind: Kind })[];
  /** Those that a rule has or had. */
  private readonly used = new Set<number>();

  constructor(passed: readonly Named[], io: HandedOverIo) {
    this.sockets = passed.map(({ fd, name }) => {
      const kind = kindOf(fd, io);
      if (typeof kind === 'string') return { fd, name, kind };
      // systemd's are blocking: one accept(2) without a client would hold the data plane for ever.
      const error = io.setNonBlocking(fd);
      return { fd, name, kind: error < 0 ? `cannot be used: ${describeErrno(error)}` : kind };
    });
  }

  take({ protocol, passed = '' }: PortRule): readonly PassedSocket[] | string {
    const named = this.sockets.filter(({ name }) => name === passed);
    if (named.length === 0) {
      const names = [...new Set(this.sockets.map(({ name }) => name))].join(', ');
      const others = names === '' ? '' : `, or one of ${names}`;
      return `${WHO} has passed no socket named ${passed}: give FileDescriptorName=${passed} in the socket unit${others}`;
    }
    const taken: PassedSocket[] = [];
    for (const { fd, kind } of named) {
      if (typeof kind === 'string') return `descriptor ${fd} of ${WHO} ${kind}`;
      if (kind.protocol === protocol) taken.push({ fd, ...kind });
    }
    if (taken.length === 0) return `the socket named ${passed} is ${KINDS[protocol]}`;
    for (const { fd } of taken) this.used.add(fd);
    return taken;
  }

  /** What is to be said of those that had no forward; null: all had one. */
  warning(): string | null {
    const idle = this.sockets.filter(({ fd }) => !this.used.has(fd));
    if (idle.length === 0) return null;
    const words = idle.map(({ fd, name, kind }) => {
      const way = typeof kind === 'string' ? kind : `${OPTIONS[kind.protocol]} fd:${name}:PORT forwards it`;
      return `${name} (descriptor ${fd}: ${way})`;
    });
    return `${WHO} has passed sockets that no option names: ${words.join(', ')}`;
  }
}
