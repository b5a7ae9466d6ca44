/**
 * The language of `-t` and `-u`: which ports of the host are forwarded to which of the guest.
 *
 * ```
 * spec   = "none" | [ listen "/" ] chunk { "," chunk } | ( "unix:" path | "fd:" name ) ":" [ taddr "/" ] port
 * listen = [ addr | "*" ] [ "%" ifname ]
 * addr   = IPv4 | IPv6 | "[" IPv4 "]" | "[" IPv6 "]"
 * chunk  = "all" [ ":" taddr ] | "auto" | "~" range | range [ ":" target ]
 * target = range | taddr | taddr "/" range
 * range  = port [ "-" port ]
 * ```
 *
 * Ports of explicit ranges are forwarded or the start fails. `all`, and a spec of nothing but excludes, mean every
 * port but the host's ephemeral ones (net.ipv4.ip_local_port_range), as far as they can be bound: such rules are
 * *weak*. Excludes hold for the whole spec, wherever they stand in it. Explicit ranges beside `all` take their ports
 * out of it.
 */
import { ConfigError } from '../errors';
import type { AddressBytes } from '../stack/config';
import { addressFamily, formatIp, isMulticast, isUnspecified, parseIp, sameAddress } from './address-text';

export type ForwardProtocol = 'tcp' | 'udp';

/** Host ports `first … last` go to guest ports `targetFirst …`, in order. */
export interface PortRule {
  readonly protocol: ForwardProtocol;
  /** A UNIX stream socket of the host's, absolute; its ports are 0 then. */
  readonly path?: string;
  /** Sockets of this name (LISTEN_FDNAMES) that were passed to the service; its ports are 0 then. */
  readonly passed?: string;
  /** Address listened on; null: any, of every enabled family. */
  readonly addr: AddressBytes | null;
  /** Interface listened on (SO_BINDTODEVICE); null: any. */
  readonly ifname: string | null;
  readonly first: number;
  readonly last: number;
  readonly targetFirst: number;
  /** Guest-side address the traffic goes to; null: wherever the guest was seen. */
  readonly targetAddr: AddressBytes | null;
  /** Failures to bind are tolerated as long as one port of the rule can be bound. */
  readonly weak: boolean;
  /** Option and value as given, for messages: `-t 22:2222`. */
  readonly origin: string;
}

/** First and last port that the host hands out to outgoing connections. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** What passt takes as a rule table's size. */
export const MAX_RULES = 255;
const MAX_PORT = 65535;

interface Listen {
  readonly addr: AddressBytes | null;
  readonly ifname: string | null;
}

interface Target {
  readonly addr: AddressBytes | null;
  readonly range: PortRange | null;
}

/** Throws for one spec; says which. */
class SpecReader {
  readonly origin: string;

  constructor(origin: string) {
    this.origin = origin;
  }

  fail(reason: string): never {
    throw new ConfigError('CFG_ERR_VALUE', `${this.origin}: ${reason}`);
  }

  port(text: string): number {
    if (!/^[0-9]+$/.test(text)) this.fail(`"${text}" is not a port, give a number from 1 to ${MAX_PORT}`);
    const port = Number(text);
    if (port < 1 || port > MAX_PORT) this.fail(`port ${text} is out of range, give a number from 1 to ${MAX_PORT}`);
    return port;
  }

  range(text: string): PortRange {
    const dash = text.indexOf('-');
    if (dash < 0) {
      const port = this.port(text);
      return { first: port, last: port };
    }
    if (dash === 0) this.fail(`range ${text} has no first port, give FIRST-LAST`);
    if (dash === text.length - 1) this.fail(`range ${text} has no last port, give FIRST-LAST`);
    const range = { first: this.port(text.slice(0, dash)), last: this.port(text.slice(dash + 1)) };
    if (range.last < range.first) this.fail(`range ${text} runs backwards, give FIRST-LAST`);
    return range;
  }

  addr(text: string): AddressBytes {
    const addr = bareAddress(text);
    if (addr === null) this.fail(`"${text}" is not an address, give IPv4 or IPv6`);
    return addr;
  }

  targetAddr(text: string): AddressBytes {
    const addr = this.addr(text);
    if (isMulticast(addr)) this.fail(`target ${text} is a multicast address, give a unicast one`);
    if (isUnspecified(addr)) this.fail(`target ${text} is the unspecified address, leave it out to reach the guest`);
    return addr;
  }

  listen(text: string): Listen {
    const percent = text.indexOf('%');
    const addrText = percent < 0 ? text : text.slice(0, percent);
    let ifname: string | null = null;
    if (percent >= 0) {
      ifname = text.slice(percent + 1);
      if (!isInterfaceName(ifname)) this.fail(`"${ifname}" is not an interface name, give 1 to 15 characters`);
    }
    return { addr: addrText === '' || addrText === '*' ? null : this.addr(addrText), ifname };
  }

  target(text: string): Target {
    if (text === '') this.fail('there is nothing behind ":", give a port of the guest, like 8080:80');
    const slash = text.indexOf('/');
    if (slash >= 0) return { addr: this.targetAddr(text.slice(0, slash)), range: this.range(text.slice(slash + 1)) };
    if (/^[0-9]+(-[0-9]*)?$/.test(text)) return { addr: null, range: this.range(text) };
    return { addr: this.targetAddr(text), range: null };
  }
}

/** sockaddr_un's sun_path, less the zero. */
const MAX_PATH = 107;

/** What FileDescriptorName= takes, less blanks. */
const SOCKET_NAME = /^[!-9;-~]{1,255}$/;

/**
 * `PATH:[TADDR/]PORT` behind `unix:`, `NAME:[TADDR/]PORT` behind `fd:`; an IPv6 address stands in brackets, as a path may
 * have colons. `shape`: how the whole looks.
 */
function portlessRule(
  reader: SpecReader,
  protocol: ForwardProtocol,
  text: string,
  shape: string,
): { readonly source: string; readonly rule: PortRule } {
  const match = /^(.*):(?:(\[[^\]]*\]|[0-9.]+)\/)?([0-9]+)$/s.exec(text);
  if (match === null) reader.fail(`give ${shape}:PORT, or ${shape}:ADDRESS/PORT with an IPv6 address in brackets`);
  const [, source = '', addr, port] = match as readonly (string | undefined)[];
  const rule = {
    ...{ protocol, addr: null, ifname: null, first: 0, last: 0 },
    targetFirst: reader.port(port ?? ''),
    targetAddr: addr === undefined ? null : reader.targetAddr(addr),
    weak: false,
    origin: reader.origin,
  };
  return { source, rule };
}

function passedRule(reader: SpecReader, protocol: ForwardProtocol, text: string): PortRule {
  const { source, rule } = portlessRule(reader, protocol, text, 'fd:NAME');
  if (!SOCKET_NAME.test(source))
    reader.fail(`${JSON.stringify(source)} is not a socket's name, give that of FileDescriptorName= without blanks`);
  return { ...rule, passed: source };
}

function unixRule(reader: SpecReader, protocol: ForwardProtocol, text: string): PortRule {
  if (protocol !== 'tcp') reader.fail('a UNIX socket carries a stream, give it with -t');
  const { source: path, rule } = portlessRule(reader, protocol, text, 'unix:PATH');
  if (!path.startsWith('/')) reader.fail(`"${path}" is not a path from the root on, give /…`);
  if (/[\s\p{Cc}]/u.test(path) || path.endsWith('/'))
    reader.fail(`${JSON.stringify(path)} cannot be a socket's path, give one without blanks that is no directory`);
  if (Buffer.byteLength(path) > MAX_PATH) reader.fail(`a socket's path has at most ${MAX_PATH} bytes`);
  return { ...rule, path };
}

/** True if the rule's sources are ports of the host. */
export function isOfPorts({ path, passed }: PortRule): boolean {
  return path === undefined && passed === undefined;
}

function bareAddress(text: string): AddressBytes | null {
  return parseIp(text.startsWith('[') && text.endsWith(']') ? text.slice(1, -1) : text);
}

/** What the kernel takes as an interface name: 1 to 15 bytes, no slash, no blank, not "." or "..". */
export function isInterfaceName(name: string): boolean {
  const length = Buffer.byteLength(name);
  return length >= 1 && length <= 15 && !/[/\s:\0]/.test(name) && name !== '.' && name !== '..';
}

/**
 * Where the listening part ends: a "/" may also stand in a target (`8080:192.0.2.1/80`). What is in front of the first
 * one is taken for a listening address unless it can only be a chunk.
 */
function splitListen(spec: string): { listen: string; chunks: string } {
  const slash = spec.indexOf('/');
  if (slash < 0) return { listen: '', chunks: spec };
  const before = spec.slice(0, slash);
  const chunkOnly =
    before.includes(',') || (/^(all|[0-9-]+):/.test(before) && bareAddress(before.split('%')[0]) === null);
  return chunkOnly ? { listen: '', chunks: spec } : { listen: before, chunks: spec.slice(slash + 1) };
}

interface Mapping {
  readonly range: PortRange;
  readonly target: Target;
}

/** Calls `emit` for each maximal run of ports of `range` that `blocked` does not hold. */
function eachRun(range: PortRange, blocked: Uint8Array, emit: (first: number, last: number) => void): void {
  let first = -1;
  for (let port = range.first; port <= range.last; port++) {
    if (blocked[port] === 0) {
      if (first < 0) first = port;
    } else if (first >= 0) {
      emit(first, port - 1);
      first = -1;
    }
  }
  if (first >= 0) emit(first, range.last);
}

/**
 * Parses one spec into rules, in the order of the chunks, `all` last. Returns null for `none`. `origin` is the option
 * and its value, for messages. Throws ConfigError CFG_ERR_VALUE or CFG_ERR_UNSUPPORTED (`auto`).
 */
export function parsePortSpec(
  protocol: ForwardProtocol,
  spec: string,
  ephemeral: PortRange,
  origin: string,
): PortRule[] | null {
  if (spec === 'none') return null;
  const reader = new SpecReader(origin);
  if (spec.startsWith('unix:')) return [unixRule(reader, protocol, spec.slice('unix:'.length))];
  if (spec.startsWith('fd:')) return [passedRule(reader, protocol, spec.slice('fd:'.length))];
  const parts = splitListen(spec);
  const listen = reader.listen(parts.listen);
  const excluded = new Uint8Array(MAX_PORT + 1);
  const mappings: Mapping[] = [];
  let all: Target | null = null;
  let excludes = 0;

  for (const chunk of parts.chunks.split(',')) {
    if (chunk === '') reader.fail('empty item, give ports, ranges, "all" or "~" excludes');
    if (chunk === 'auto') {
      throw new ConfigError(
        'CFG_ERR_UNSUPPORTED',
        `${origin}: "auto" is for namespaces (pasta mode), listeners inside a guest cannot be seen: name the ports`,
      );
    }
    if (chunk === 'none') reader.fail('"none" cannot be combined with ports');
    if (chunk.startsWith('~')) {
      const range = reader.range(chunk.slice(1));
      excluded.fill(1, range.first, range.last + 1);
      excludes++;
      continue;
    }
    const colon = chunk.indexOf(':');
    const source = colon < 0 ? chunk : chunk.slice(0, colon);
    const target: Target = colon < 0 ? { addr: null, range: null } : reader.target(chunk.slice(colon + 1));
    if (source === 'all') {
      if (all !== null) reader.fail('"all" is given twice');
      if (target.range !== null) reader.fail('"all" takes a target address, but no target ports');
      all = target;
      continue;
    }
    const range = reader.range(source);
    if (target.range !== null && target.range.last - target.range.first !== range.last - range.first) {
      reader.fail(`target ports ${chunk.slice(colon + 1)}: give as many as in ${source}`);
    }
    mappings.push({ range, target });
  }
  if (all === null && mappings.length === 0 && excludes > 0) all = { addr: null, range: null };

  const rules: PortRule[] = [];
  const rule = (first: number, last: number, targetFirst: number, target: Target, weak: boolean): void => {
    rules.push({ protocol, ...listen, first, last, targetFirst, targetAddr: target.addr, weak, origin });
  };
  const taken = Uint8Array.from(excluded);
  for (const { range, target } of mappings) {
    const shift = target.range === null ? 0 : target.range.first - range.first;
    eachRun(range, excluded, (first, last) => {
      rule(first, last, first + shift, target, false);
    });
    taken.fill(1, range.first, range.last + 1);
  }
  if (all !== null) {
    const target = all;
    taken.fill(1, ephemeral.first, ephemeral.last + 1);
    eachRun({ first: 1, last: MAX_PORT }, taken, (first, last) => {
      rule(first, last, first, target, true);
    });
  }
  return rules;
}

/**
 * A spec with the item `auto`: rules of which ports are forwarded while something listens on them on the other side. The
 * other items say which those may be: all but the ephemeral ones, if there are only excludes. Null: it has no such item.
 */
export function parseScanSpec(
  protocol: ForwardProtocol,
  spec: string,
  ephemeral: PortRange,
  origin: string,
): PortRule[] | null {
  const { listen, chunks } = splitListen(spec);
  const items = chunks.split(',');
  if (!items.includes('auto')) return null;
  const others = items.filter((item) => item !== 'auto');
  const limits = others.length === 0 ? 'all' : others.join(',');
  const front = chunks.length === spec.length ? '' : `${listen}/`;
  return parsePortSpec(protocol, `${front}${limits}`, ephemeral, origin) ?? [];
}

/** Throws ConfigError if one of `rules` is not of ports alone, as those that lead from a namespace's loopback to the host's. */
export function checkLoopbackRules(rules: readonly PortRule[], origin: string): void {
  for (const rule of rules) {
    const { addr, ifname, targetAddr } = rule;
    if (!isOfPorts(rule)) throw new ConfigError('CFG_ERR_VALUE', `${origin}: give ports of the namespace's loopback`);
    if (addr !== null || ifname !== null || targetAddr !== null)
      throw new ConfigError(
        'CFG_ERR_VALUE',
        `${origin}: give ports without addresses: they lead from loopback to loopback`,
      );
  }
}

/** The rule for the one port of which `target` is the port on the other side; null: it is none of the rule's. */
export function ruleOfTarget(rule: PortRule, target: number): PortRule | null {
  const first = rule.first + target - rule.targetFirst;
  if (first < rule.first || first > rule.last) return null;
  return { ...rule, first, last: first, targetFirst: target, weak: false };
}

/** True if one socket address can match both: null matches every address, 0.0.0.0 and :: their family. */
function listenOverlap(a: AddressBytes | null, b: AddressBytes | null): boolean {
  if (a === null || b === null) return true;
  if (addressFamily(a) !== addressFamily(b)) return false;
  return isUnspecified(a) || isUnspecified(b) || sameAddress(a, b);
}

/** True if both cannot listen at the same time. */
function clashes(a: PortRule, b: PortRule): boolean {
  if (a.path !== undefined || b.path !== undefined) return a.path === b.path;
  if (a.passed !== undefined || b.passed !== undefined) return a.passed === b.passed && a.protocol === b.protocol;
  return a.protocol === b.protocol && a.first <= b.last && b.first <= a.last && listenOverlap(a.addr, b.addr);
}

/** The rules of a command line: all specs of both protocols. */
export class PortTable {
  private readonly list: PortRule[] = [];
  /** Those of `list` that are forwarded by now. */
  private readonly held = new Set<PortRule>();
  private readonly ephemeral: PortRange;

  constructor(ephemeral: PortRange) {
    this.ephemeral = ephemeral;
  }

  get rules(): readonly PortRule[] {
    return this.list;
  }

  /** Adds one `-t`/`-u` option. Throws ConfigError: malformed, conflicting, too many. */
  add(protocol: ForwardProtocol, spec: string, origin: string): void {
    const rules = parsePortSpec(protocol, spec, this.ephemeral, origin);
    if (rules === null) {
      const earlier = this.list.find((rule) => rule.protocol === protocol);
      if (earlier !== undefined) {
        throw new ConfigError('CFG_ERR_CONFLICT', `${origin}: conflicts with ${earlier.origin} before it`);
      }
      return;
    }
    this.take(rules);
  }

  /** What is forwarded by now, as the user knows it: `tcp 2222:22`. */
  hold(forward: string, rules: readonly PortRule[]): void {
    for (const rule of rules) {
      const own = { ...rule, origin: forward };
      this.held.add(own);
      this.list.push(own);
    }
  }

  /** Adds rules that were parsed already. Throws ConfigError: conflicting, too many; some may have been added then. */
  take(rules: readonly PortRule[]): void {
    for (const rule of rules) {
      const { origin, protocol } = rule;
      const clash = this.list.find((other) => clashes(other, rule));
      if (clash !== undefined) {
        const again = clash.origin === origin ? 'forwarded twice' : `forwarded here and in ${clash.origin}`;
        const what = this.held.has(clash) ? `taken by the forward ${clash.origin}` : again;
        const name = rule.passed === undefined ? undefined : `${protocol} fd:${rule.passed}`;
        const where = rule.path ?? name ?? `${protocol} port ${Math.max(clash.first, rule.first)}`;
        throw new ConfigError('CFG_ERR_CONFLICT', `${origin}: ${where} is ${what}`);
      }
      this.list.push(rule);
      if (this.list.length > MAX_RULES)
        throw new ConfigError('CFG_ERR_VALUE', `${origin}: more than ${MAX_RULES} forwarding rules`);
    }
  }
}

/**
 * Checks rules against what is switched on: a family or protocol that is off cannot be forwarded, and a target address
 * must be of the family listened on. Throws ConfigError CFG_ERR_CONFLICT.
 */
export function checkRules(
  rules: readonly PortRule[],
  on: { readonly v4: boolean; readonly v6: boolean; readonly tcp: boolean; readonly udp: boolean },
): void {
  for (const rule of rules) {
    const fail = (reason: string): never => {
      throw new ConfigError('CFG_ERR_CONFLICT', `${rule.origin}: ${reason}`);
    };
    if (!on[rule.protocol]) fail(`ports cannot be forwarded with --no-${rule.protocol}`);
    if (rule.addr !== null) {
      const family = addressFamily(rule.addr);
      if (!(family === 4 ? on.v4 : on.v6))
        fail(`${formatIp(rule.addr)} is an IPv${family} address, and IPv${family} is off`);
    }
    if (rule.targetAddr === null) continue;
    const family = addressFamily(rule.targetAddr);
    if (!isOfPorts(rule)) {
      if (!(family === 4 ? on.v4 : on.v6)) fail(`target ${formatIp(rule.targetAddr)}: IPv${family} is off`);
      continue;
    }
    if (rule.addr === null && on.v4 && on.v6) {
      fail(`a target address needs a listening address: put ${family === 4 ? '0.0.0.0/' : '::/'} in front`);
    }
    const listens = rule.addr === null ? (on.v4 ? 4 : 6) : addressFamily(rule.addr);
    if (listens !== family)
      fail(`target ${formatIp(rule.targetAddr)} must be an IPv${listens} address, like the one listened on`);
  }
}

/** The shortest text that is parsed to this rule; of a weak one, which has none, that of an ordinary one. */
export function specOf(rule: PortRule): string {
  const range = (first: number, last: number): string => (first === last ? `${first}` : `${first}-${last}`);
  const { addr, ifname, first, last, targetFirst, targetAddr, path, passed } = rule;
  if (!isOfPorts(rule)) {
    const to =
      targetAddr === null ? '' : `${targetAddr.length === 4 ? formatIp(targetAddr) : `[${formatIp(targetAddr)}]`}/`;
    return `${path === undefined ? `fd:${passed}` : `unix:${path}`}:${to}${targetFirst}`;
  }
  const listen =
    addr === null && ifname === null
      ? ''
      : `${addr === null ? '' : formatIp(addr)}${ifname === null ? '' : `%${ifname}`}/`;
  const ports = targetFirst === first ? '' : range(targetFirst, targetFirst + last - first);
  const target = targetAddr === null ? ports : `${formatIp(targetAddr)}${ports === '' ? '' : `/${ports}`}`;
  return `${listen}${range(first, last)}${target === '' ? '' : `:${target}`}`;
}

/** True if both forward the same ports in the same way. */
export function sameRule(a: PortRule, b: PortRule): boolean {
  const same = (x: AddressBytes | null, y: AddressBytes | null): boolean =>
    x === null || y === null ? x === y : x.length === y.length && sameAddress(x, y);
  return (
    a.protocol === b.protocol &&
    a.path === b.path &&
    a.passed === b.passed &&
    same(a.addr, b.addr) &&
    a.ifname === b.ifname &&
    a.first === b.first &&
    a.last === b.last &&
    a.targetFirst === b.targetFirst &&
    same(a.targetAddr, b.targetAddr) &&
    a.weak === b.weak
  );
}

/** One line for the start-up summary: `tcp  *:2222 -> 22`. */
export function describeRule(rule: PortRule): string {
  const range = (first: number, last: number): string => (first === last ? `${first}` : `${first}-${last}`);
  const device = rule.ifname === null ? '' : `%${rule.ifname}`;
  const host = rule.addr === null ? '*' : rule.addr.length === 4 ? formatIp(rule.addr) : `[${formatIp(rule.addr)}]`;
  const target = rule.targetAddr === null ? '' : `${formatIp(rule.targetAddr)} `;
  if (rule.path !== undefined) return `${rule.protocol} unix:${rule.path} -> ${target}${rule.targetFirst}`;
  if (rule.passed !== undefined) return `${rule.protocol} fd:${rule.passed} -> ${target}${rule.targetFirst}`;
  const to = range(rule.targetFirst, rule.targetFirst + rule.last - rule.first);
  return `${rule.protocol} ${host}${device}:${range(rule.first, rule.last)} -> ${target}${to}${rule.weak ? ' (those that are free)' : ''}`;
}
