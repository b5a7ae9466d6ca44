/** Opens the host's ends of forwarded ports, before anything is promised to anybody: a port that is taken ends the start. */
import { ConfigError, describeErrno, EACCES, EPERM } from '../errors';
import { addrSlotWrite, V4_MAPPED } from '../stack/address';
import type { ForwardListener } from '../stack/config';
import { ADDR_SLOT_TCP } from '../stack/context';
import { AF_INET, AF_INET6, type HostIo, SOCK_TCP, SOCK_UDP } from '../stack/ports';
import { isLinkLocal6 } from './address';
import type { PortRule } from './port-spec';

// Linux, <asm-generic/socket.h>, <linux/in.h>, <linux/in6.h>.
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const IPPROTO_IP = 0;
const IP_PKTINFO = 8;
const IP_RECVERR = 11;
const IP_FREEBIND = 15;
const IPPROTO_IPV6 = 41;
const IPV6_RECVERR = 25;
const IPV6_V6ONLY = 26;
const IPV6_RECVPKTINFO = 49;
const IPV6_FREEBIND = 78;

const TCP_BACKLOG = 128;

/** What of the addon listeners need. */
export interface ListenerIo extends Pick<
  HostIo,
  'addrs' | 'socket' | 'setsockopt' | 'bindToDevice' | 'bind' | 'listen' | 'close'
> {
  ifIndex(name: string): number;
}

export interface ListenerOptions {
  readonly v4: boolean;
  readonly v6: boolean;
  readonly freebind: boolean;
  /** Most sockets to open for weak rules, so that `-t all` leaves descriptors for connections. */
  readonly maxWeak: number;
}

export interface OpenedListeners {
  readonly listeners: readonly ForwardListener[];
  /** Options of weak rules, and how many of their ports could not be bound. */
  readonly skipped: ReadonlyMap<string, number>;
}

type ListenFamily = ForwardListener['family'];

function familyOf(rule: PortRule, options: ListenerOptions): ListenFamily {
  if (rule.addr !== null) return rule.addr.length === 4 ? 'v4' : 'v6';
  if (options.v4 && options.v6) return 'dual';
  return options.v4 ? 'v4' : 'v6';
}

/** Writes the address to bind to into slot ADDR_SLOT_TCP: any address of the family if the rule names none. */
function writeAddress(io: ListenerIo, rule: PortRule, family: ListenFamily, port: number): void {
  const { addr } = rule;
  if (family === 'v4') {
    const word = addr === null ? 0 : new DataView(addr.buffer, addr.byteOffset, 4).getInt32(0);
    addrSlotWrite(io.addrs, ADDR_SLOT_TCP, AF_INET, port, 0, 0, 0, V4_MAPPED, word);
    return;
  }
  const words = addr === null ? null : new DataView(addr.buffer, addr.byteOffset, 16);
  const word = (i: number): number => (words === null ? 0 : words.getInt32(4 * i));
  // A link-local address means nothing without its link.
  const scoped = addr !== null && isLinkLocal6(addr) && rule.ifname !== null;
  const scope = scoped ? Math.max(0, io.ifIndex(rule.ifname)) : 0;
  addrSlotWrite(io.addrs, ADDR_SLOT_TCP, AF_INET6, port, scope, word(0), word(1), word(2), word(3));
}

/** Sets what the family and protocol need, in order; the first failure ends it. */
function setOptions(io: ListenerIo, fd: number, rule: PortRule, family: ListenFamily, freebind: boolean): number {
  const settings: [level: number, name: number, value: number][] = [[SOL_SOCKET, SO_REUSEADDR, 1]];
  if (family === 'dual') settings.push([IPPROTO_IPV6, IPV6_V6ONLY, 0]);
  if (freebind) settings.push(family === 'v4' ? [IPPROTO_IP, IP_FREEBIND, 1] : [IPPROTO_IPV6, IPV6_FREEBIND, 1]);
  if (rule.protocol === 'udp') {
    if (family !== 'v6') settings.push([IPPROTO_IP, IP_RECVERR, 1], [IPPROTO_IP, IP_PKTINFO, 1]);
    if (family !== 'v4') settings.push([IPPROTO_IPV6, IPV6_RECVERR, 1], [IPPROTO_IPV6, IPV6_RECVPKTINFO, 1]);
  }
  for (const [level, name, value] of settings) {
    const result = io.setsockopt(fd, level, name, value);
    if (result < 0) return result;
  }
  return 0;
}

/** Opens one socket. Returns its descriptor or -errno. */
function openOne(io: ListenerIo, rule: PortRule, port: number, options: ListenerOptions): number {
  const family = familyOf(rule, options);
  const fd = io.socket(family === 'v4' ? AF_INET : AF_INET6, rule.protocol === 'tcp' ? SOCK_TCP : SOCK_UDP);
  if (fd < 0) return fd;
  let result = setOptions(io, fd, rule, family, options.freebind);
  if (result >= 0 && rule.ifname !== null) result = io.bindToDevice(fd, rule.ifname);
  if (result >= 0) {
    writeAddress(io, rule, family, port);
    result = io.bind(fd, ADDR_SLOT_TCP);
  }
  if (result >= 0 && rule.protocol === 'tcp') result = io.listen(fd, TCP_BACKLOG);
  if (result >= 0) return fd;
  io.close(fd);
  return result;
}

function bindError(rule: PortRule, port: number, result: number): ConfigError {
  const low = port < 1024 && (result === -EACCES || result === -EPERM);
  const hint = low
    ? ' (ports below 1024 need CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start)'
    : '';
  return new ConfigError('CFG_ERR_BIND', `${rule.origin}: cannot bind port ${port}: ${describeErrno(result)}${hint}`);
}

/**
 * Opens a socket for every port of every rule. A port of an ordinary rule that cannot be bound throws ConfigError
 * CFG_ERR_BIND; of a weak rule it is left out, and only an option none of whose ports can be bound throws. Nothing
 * stays open after a throw. The caller owns the descriptors.
 */
export function openListeners(io: ListenerIo, rules: readonly PortRule[], options: ListenerOptions): OpenedListeners {
  const listeners: ForwardListener[] = [];
  // By option, as one "all" makes a rule of every gap between excludes.
  const bound = new Map<string, number>();
  const failed = new Map<string, { count: number; error: ConfigError }>();
  let weak = 0;
  try {
    for (const rule of rules) {
      for (let port = rule.first; port <= rule.last; port++) {
        const full = rule.weak && weak >= options.maxWeak;
        const fd = full ? -24 : openOne(io, rule, port, options);
        if (fd < 0) {
          if (!rule.weak) throw bindError(rule, port, fd);
          const before = failed.get(rule.origin);
          failed.set(rule.origin, {
            count: (before?.count ?? 0) + 1,
            error: before?.error ?? bindError(rule, port, fd),
          });
          continue;
        }
        if (rule.weak) weak++;
        bound.set(rule.origin, (bound.get(rule.origin) ?? 0) + 1);
        listeners.push({
          fd,
          protocol: rule.protocol,
          family: familyOf(rule, options),
          port,
          targetPort: rule.targetFirst + port - rule.first,
          targetAddr: rule.targetAddr,
        });
      }
    }
    for (const [origin, { error }] of failed) if (!bound.has(origin)) throw error;
  } catch (error) {
    closeListeners(io, listeners);
    throw error;
  }
  return { listeners, skipped: new Map(Array.from(failed, ([origin, { count }]) => [origin, count])) };
}

export function closeListeners(io: Pick<HostIo, 'close'>, listeners: readonly ForwardListener[]): void {
  for (const { fd } of listeners) io.close(fd);
}
