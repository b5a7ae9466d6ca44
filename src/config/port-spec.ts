/**
 * The language of `-t` and `-u`: which ports of the host are forwarded to which of the guest.
 *
 * ```
 * spec   = "none" | [ listen "/" ] chunk { "," chunk }
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
    const slash = text.indexOf('/');
    if (slash >= 0) return { addr: this.targetAddr(text.slice(0, slash)), range: this.range(text.slice(slash + 1)) };
    if (/^[0-9]+(-[0-9]*)?$/.test(text)) return { addr: null, range: this.range(text) };
    return { addr: this.targetAddr(text), range: null };
  }
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

/** True if one socket address can match both: null matches every address, 0.0.0.0 and :: their family. */
function listenOverlap(a: AddressBytes | null, b: AddressBytes | null): boolean {
  if (a === null || b === null) return true;
  if (addressFamily(a) !== addressFamily(b)) return false;
  return isUnspecified(a) || isUnspecified(b) || sameAddress(a, b);
}

/** The rules of a command line: all specs of both protocols. */
export class PortTable {
  private readonly list: PortRule[] = [];
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
    for (const rule of rules) {
      const clash = this.list.find(
        (other) =>
          other.protocol === protocol &&
          other.first <= rule.last &&
          rule.first <= other.last &&
          listenOverlap(other.addr, rule.addr),
      );
      if (clash !== undefined) {
        const what = clash.origin === origin ? 'twice' : `here and in ${clash.origin}`;
        const ports = Math.max(clash.first, rule.first);
        throw new ConfigError('CFG_ERR_CONFLICT', `${origin}: ${protocol} port ${ports} is forwarded ${what}`);
      }
      this.list.push(rule);
    }
    if (this.list.length > MAX_RULES) {
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
    if (rule.addr === null && on.v4 && on.v6) {
      fail(`a target address needs a listening address: put ${family === 4 ? '0.0.0.0/' : '::/'} in front`);
    }
    const listens = rule.addr === null ? (on.v4 ? 4 : 6) : addressFamily(rule.addr);
    if (listens !== family)
      fail(`target ${formatIp(rule.targetAddr)} must be an IPv${listens} address, like the one listened on`);
  }
}

/** One line for the start-up summary: `tcp  *:2222 -> 22`. */
export function describeRule(rule: PortRule): string {
  const range = (first: number, last: number): string => (first === last ? `${first}` : `${first}-${last}`);
  const device = rule.ifname === null ? '' : `%${rule.ifname}`;
  const host = rule.addr === null ? '*' : rule.addr.length === 4 ? formatIp(rule.addr) : `[${formatIp(rule.addr)}]`;
  const target = rule.targetAddr === null ? '' : `${formatIp(rule.targetAddr)} `;
  const to = range(rule.targetFirst, rule.targetFirst + rule.last - rule.first);
  return `${rule.protocol} ${host}${device}:${range(rule.first, rule.last)} -> ${target}${to}${rule.weak ? ' (those that are free)' : ''}`;
}
