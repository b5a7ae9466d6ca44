/** Opens the listening sockets of forwarded ports, before anything else is visible: a port in use ends the start. */
import { ConfigError, describeErrno, EACCES, EMFILE, EPERM } from '../errors';
import type { Native } from '../native';
import { addrSlotWrite, anyOf, makeWords } from '../stack/ip/address';
import type { ForwardListener, ForwardRule } from '../stack/config';
import { ADDR_SLOT_TCP } from '../stack/scratch';
import { AF_INET, AF_INET6 } from '../stack/ports';
import { formatIp, isLinkLocal6 } from './address-text';
import type { PortRule } from './port-spec';

// Flags of Native.openPorts.
export const OPEN_UDP = 1;
export const OPEN_DUAL = 2;
export const OPEN_FREEBIND = 4;

const TCP_BACKLOG = 128;

/** Sockets that have a file. */
export interface UnixSockets {
  /** One that listens at a path, where nobody else does, or -errno. */
  open(path: string): number;
  /** Closes it, and removes its file. */
  close(fd: number): void;
  /** What can be done about an error of `open`; '' if that is plain. */
  hint(error: number): string;
}

/** A socket that somebody else has opened, and passed to the service. */
export interface PassedSocket extends Pick<ForwardListener, 'fd' | 'protocol' | 'family' | 'port' | 'path'> {
  readonly onDevice: boolean;
}

/** Sockets that were passed, by their names. */
export interface PassedSockets {
  /** Those of the rule's name and protocol, which no other rule has; they stay open. Or why there are none. */
  take(rule: PortRule): readonly PassedSocket[] | string;
}

/** What of the addon listeners need; `unix`, `passed`: left out where there are none. */
export interface ListenerIo extends Pick<Native, 'addrs' | 'openPorts' | 'close' | 'ifIndex'> {
  readonly unix?: UnixSockets;
  readonly passed?: PassedSockets;
}

export interface ListenerOptions {
  readonly v4: boolean;
  readonly v6: boolean;
  readonly freebind: boolean;
  /**
   * Weak rules get what ordinary ones leave of this many sockets, so that `-t all` leaves descriptors for connections.
   */
  readonly maxWeak: number;
}

/** Ports of an option's weak rules that are not forwarded. */
export interface Skipped {
  /** Taken on the host, or not for this user. */
  readonly taken: number;
  /** There are not descriptors enough. */
  readonly noFiles: number;
}

/** The sockets of one rule. */
export interface RuleListeners {
  readonly rule: PortRule;
  /** Its option's number (ForwardRule). */
  readonly number: number;
  readonly listeners: readonly ForwardListener[];
}

export interface OpenedListeners {
  /** By rule, as they were opened. */
  readonly parts: readonly RuleListeners[];
  readonly listeners: readonly ForwardListener[];
  readonly rules: readonly ForwardRule[];
  /** By option; only those that left something out. */
  readonly skipped: ReadonlyMap<string, Skipped>;
}

type ListenFamily = ForwardListener['family'];

/** The family that a rule's sockets are of. */
export function familyOf(rule: PortRule, options: Pick<ListenerOptions, 'v4' | 'v6'>): ListenFamily {
  if (rule.addr !== null) return rule.addr.length === 4 ? 'v4' : 'v6';
  if (options.v4 && options.v6) return 'dual';
  return options.v4 ? 'v4' : 'v6';
}

/** Writes the first address to bind to into slot ADDR_SLOT_TCP: any of the family if the rule names none. */
function writeAddress(io: ListenerIo, rule: PortRule, family: ListenFamily): void {
  const { addr, first } = rule;
  const words = addr === null ? anyOf(family === 'v4') : makeWords(addr);
  if (family === 'v4') {
    addrSlotWrite(io.addrs, ADDR_SLOT_TCP, AF_INET, first, 0, words, 0);
    return;
  }
  // A link-local address means nothing without its link.
  const scoped = addr !== null && isLinkLocal6(addr) && rule.ifname !== null;
  const scope = scoped ? Math.max(0, io.ifIndex(rule.ifname)) : 0;
  addrSlotWrite(io.addrs, ADDR_SLOT_TCP, AF_INET6, first, scope, words, 0);
}

function bindError(rule: PortRule, port: number, result: number): ConfigError {
  const low = port < 1024 && (result === -EACCES || result === -EPERM);
  const hint = low
    ? ' (ports below 1024 need CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start)'
    : result === -EMFILE
      ? ' (raise the hard limit of RLIMIT_NOFILE, or forward fewer ports)'
      : '';
  return new ConfigError('CFG_ERR_BIND', `${rule.origin}: cannot bind port ${port}: ${describeErrno(result)}${hint}`);
}

function portsOf(rule: PortRule): number {
  return rule.last - rule.first + 1;
}

/**
 * Shares `limit` out between options with weak rules, to each in proportion to its ports, so that `-t all` leaves as
 * much for `-u all` as it takes.
 */
function weakShares(rules: readonly PortRule[], limit: number): Map<string, number> {
  const wanted = new Map<string, number>();
  for (const rule of rules) {
    if (rule.weak) wanted.set(rule.origin, (wanted.get(rule.origin) ?? 0) + portsOf(rule));
  }
  const total = [...wanted.values()].reduce((sum, ports) => sum + ports, 0);
  return new Map(
    Array.from(wanted, ([origin, ports]) => [
      origin,
      Math.max(1, Math.min(ports, Math.floor((ports * limit) / total))),
    ]),
  );
}

/** What became of one option's weak rules. */
interface WeakAccount {
  /** Sockets it may still open. */
  left: number;
  bound: number;
  taken: number;
  noFiles: number;
  error: ConfigError | null;
}

/** Opens the UNIX socket of one rule. Throws ConfigError. */
function openUnix({ unix }: ListenerIo, rule: PortRule, path: string, number: number): ForwardListener {
  const { protocol, targetFirst, targetAddr, origin } = rule;
  if (unix === undefined) throw new ConfigError('CFG_ERR_UNSUPPORTED', `${origin}: there are no UNIX sockets here`);
  const fd = unix.open(path);
  if (fd < 0) throw new ConfigError('CFG_ERR_BIND', `${origin}: cannot listen: ${describeErrno(fd)}${unix.hint(fd)}`);
  return { fd, protocol, path, family: 'v4', port: 0, targetPort: targetFirst, targetAddr, rule: number };
}

/** Why a socket that was passed cannot serve the rule; null: it can. `dual` ones serve whichever family is on. */
function misfit(rule: PortRule, { family, path }: PassedSocket, on: ListenerOptions): string | null {
  const target = rule.targetAddr;
  if (path !== undefined) return null;
  if ((family === 'v4' && !on.v4) || (family === 'v6' && !on.v6))
    return `its socket is one of IP${family}, and IP${family} is off`;
  if (target === null) return null;
  const wanted = target.length === 4 ? 'v4' : 'v6';
  if (family === wanted) return null;
  if (family === 'dual')
    return on.v4 && on.v6
      ? 'a target address needs a socket of one family: set BindIPv6Only=ipv6-only, or an IPv4 address, in the socket unit'
      : null;
  return `target ${formatIp(target)} must be an IP${family} address, like that of its socket`;
}

/** Takes the sockets of one rule that were passed. Throws ConfigError. */
function takePassed(io: ListenerIo, rule: PortRule, options: ListenerOptions, number: number): ForwardListener[] {
  const { passed } = io;
  const { targetFirst: targetPort, targetAddr, origin } = rule;
  if (passed === undefined)
    throw new ConfigError('CFG_ERR_UNSUPPORTED', `${origin}: no sockets were passed (LISTEN_FDS)`);
  const taken = passed.take(rule);
  if (typeof taken === 'string') throw new ConfigError('CFG_ERR_SOCKET', `${origin}: ${taken}`);
  for (const socket of taken) {
    const reason = misfit(rule, socket, options);
    if (reason !== null) throw new ConfigError('CFG_ERR_CONFLICT', `${origin}: ${reason}`);
  }
  return taken.map(({ onDevice, ...socket }) => ({
    ...{ ...socket, targetPort, targetAddr, rule: number, passed: true },
    ...(onDevice ? { onDevice } : {}),
  }));
}

/** Opens the ports of one rule and adds them to `to`. Throws ConfigError if the rule is not weak and one failed. */
function openRule(
  io: ListenerIo,
  rule: PortRule,
  options: ListenerOptions,
  weak: WeakAccount | null,
  to: ForwardListener[],
  number: number,
): void {
  if (rule.path !== undefined) {
    to.push(openUnix(io, rule, rule.path, number));
    return;
  }
  if (rule.passed !== undefined) {
    to.push(...takePassed(io, rule, options, number));
    return;
  }
  const family = familyOf(rule, options);
  const count = weak === null ? portsOf(rule) : Math.min(portsOf(rule), weak.left);
  const fds = new Int32Array(count);
  const flags =
    (rule.protocol === 'udp' ? OPEN_UDP : 0) |
    (family === 'dual' ? OPEN_DUAL : 0) |
    (options.freebind ? OPEN_FREEBIND : 0);
  // First: an interface that is replaced in between is another one then, to who looks later.
  const bound = rule.ifname === null ? {} : { onDevice: true, ifIndex: io.ifIndex(rule.ifname) };
  writeAddress(io, rule, family);
  const opened = io.openPorts(ADDR_SLOT_TCP, flags, rule.ifname ?? '', TCP_BACKLOG, fds);
  if (opened < 0) throw bindError(rule, rule.first, opened);
  let failed = -1;
  for (let i = 0; i < count; i++) {
    const fd = fds[i];
    if (fd < 0) {
      if (failed < 0) failed = i;
      if (weak !== null && fd === -EMFILE) weak.noFiles++;
      else if (weak !== null) weak.taken++;
      continue;
    }
    to.push({
      fd,
      protocol: rule.protocol,
      family,
      port: rule.first + i,
      targetPort: rule.targetFirst + i,
      targetAddr: rule.targetAddr,
      rule: number,
      ...bound,
    });
  }
  const error = failed < 0 ? null : bindError(rule, rule.first + failed, fds[failed]);
  if (weak === null) {
    if (error !== null) throw error;
    return;
  }
  weak.left -= opened;
  weak.bound += opened;
  weak.noFiles += portsOf(rule) - count;
  weak.error ??= error;
}

/** The options that the rules come from, by protocol and what was given, with their numbers: several rules have one. */
function numbersOf(rules: readonly PortRule[]): Map<string, number> {
  const numbers = new Map<string, number>();
  for (const rule of rules) {
    const key = keyOf(rule);
    if (!numbers.has(key)) numbers.set(key, numbers.size + 1);
  }
  return numbers;
}

/** `tcp 2222:22`: the specification is the last word of its origin (`-t 2222:22`, `TUBETTI_TCP_PORTS 2222:22`). */
function keyOf({ protocol, origin }: PortRule): string {
  return `${protocol} ${origin.slice(origin.lastIndexOf(' ') + 1)}`;
}

function rulesOf(numbers: ReadonlyMap<string, number>, listeners: readonly ForwardListener[]): ForwardRule[] {
  const counts = new Array<number>(numbers.size + 1).fill(0);
  for (const { rule } of listeners) counts[rule ?? 0]++;
  return Array.from(numbers, ([key, number]) => ({
    protocol: key.startsWith('tcp ') ? 'tcp' : 'udp',
    spec: key.slice(4),
    listeners: counts[number],
  }));
}

/**
 * Opens a socket for every port of every rule. A port of an ordinary rule that cannot be bound throws ConfigError
 * CFG_ERR_BIND; of a weak rule it is left out, and only an option none of whose ports can be bound throws. Nothing
 * stays open after a throw. The caller owns the descriptors.
 *
 * Ordinary rules come first, whatever their order: they must have their descriptors. Where descriptors do not suffice
 * for all ports of a weak rule, it gets the lowest.
 */
export function openListeners(io: ListenerIo, rules: readonly PortRule[], options: ListenerOptions): OpenedListeners {
  const listeners: ForwardListener[] = [];
  const parts: RuleListeners[] = [];
  // By option, as one "all" makes a rule of every gap between excludes.
  const accounts = new Map<string, WeakAccount>();
  const ordinary = rules.reduce((sum, rule) => (rule.weak ? sum : sum + portsOf(rule)), 0);
  for (const [origin, left] of weakShares(rules, Math.max(0, options.maxWeak - ordinary))) {
    accounts.set(origin, { left, bound: 0, taken: 0, noFiles: 0, error: null });
  }
  const numbers = numbersOf(rules);
  const open = (rule: PortRule, account: WeakAccount | null): void => {
    const before = listeners.length;
    const number = numbers.get(keyOf(rule)) ?? 0;
    openRule(io, rule, options, account, listeners, number);
    parts.push({ rule, number, listeners: listeners.slice(before) });
  };
  try {
    for (const rule of rules) if (!rule.weak) open(rule, null);
    for (const rule of rules) if (rule.weak) open(rule, accounts.get(rule.origin) ?? null);
    for (const { bound, error } of accounts.values()) if (bound === 0 && error !== null) throw error;
  } catch (error) {
    closeListeners(io, listeners);
    throw error;
  }
  const skipped = new Map<string, Skipped>();
  for (const [origin, { taken, noFiles }] of accounts) {
    if (taken + noFiles > 0) skipped.set(origin, { taken, noFiles });
  }
  return { parts, listeners, rules: rulesOf(numbers, listeners), skipped };
}

type CloserIo = Pick<ListenerIo, 'close' | 'unix'>;

/** But for one that was passed, which stays its owner's. */
export function closeListener(io: CloserIo, { fd, path, passed }: ForwardListener): void {
  if (passed === true) return;
  if (path !== undefined && io.unix !== undefined) io.unix.close(fd);
  else io.close(fd);
}

export function closeListeners(io: CloserIo, listeners: readonly ForwardListener[]): void {
  for (const listener of listeners) closeListener(io, listener);
}
