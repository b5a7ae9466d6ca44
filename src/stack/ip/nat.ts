/**
 * Address translation between the guest's view and the host's, compatible with passt's documented rules. Pure
 * functions over words; nothing is allocated after `natTables`.
 *
 * Theory of operation. The guest shares its address with the host, so two things need a name of their own on the
 * guest's side: the host's loopback (`mapHostLoopback`, by default the gateway) and the host's own address
 * (`mapGuestAddr`). Destinations are rewritten toward the host (`natToHost`), sources toward the guest
 * (`natSourceToGuest`). Everything else passes unchanged: there is no port translation here and no state. Replies of
 * a flow never come here: a flow remembers the addresses its guest side uses.
 *
 * Ports 53 and 853 of an advertised resolver lead where the host's queries go: to `dnsHost` if the address only
 * stands for that one, and to the current resolver if the address was one of the host's and is no longer. That may be
 * one of the other family.
 *
 * Differences from passt, on purpose: a resolver to match without a resolver to go to matches nothing (passt then
 * sends queries to 0.0.0.0), and a guest address that was never observed is never `::`.
 */
import {
  addressWords,
  copyWords,
  isLinkLocal6,
  isLoopback,
  isMulticast,
  isUnspecified,
  isV4,
  mapWords4,
  wordsEqual,
} from './address';
import type { AddressBytes, Ip4Config, Ip6Config, StackConfig } from '../config';
import type { LinkState } from '../context';
import { dropCode, type DropCode } from '../counters';
import { FormerResolvers } from '../link/former-resolvers';
import { IP_PROTO_TCP, IP_PROTO_UDP } from '../wire/ipv4';
import { ipv6IsUnspecified } from '../wire/ipv6';

const DROP_FAMILY_DISABLED = dropCode('family_disabled');
const DROP_LOOPBACK_ADDRESS = dropCode('loopback_address');
const DROP_SOURCE_INVALID = dropCode('source_invalid');
const DROP_DESTINATION_INVALID = dropCode('destination_invalid');

export const PORT_DNS = 53;
const PORT_DNS_TLS = 853;

// Rows of FamilyTables.words; four words each.
const MAP_HOST_LOOPBACK = 0;
const MAP_GUEST_ADDR = 1;
const ASSIGNED = 2;
const DNS_MATCH = 3;
const DNS_HOST = 4;
/** Our own address on the link: IPv4 gateway, IPv6 our link-local. */
const OURS = 5;
// What stood for the host, and as a resolver, when the guest was last told. Set while it has not heard of a change.
const FORMER_LOOPBACK = 6;
const FORMER_DNS_MATCH = 7;
/** Where queries go to resolvers that were advertised earlier and that the host no longer uses. */
const RESOLVER = 8;
const ROW_COUNT = 9;

/** ::1. */
const LOOPBACK6 = Int32Array.of(0, 0, 0, 1);

/** One family's addresses as words. Rows that are not set never match. */
class FamilyTables {
  /** Four words a row, see the constants above. */
  readonly words: Int32Array;
  readonly set: Uint8Array;
  enabled: boolean;
  /** The assigned address is (as far as we know) the host's own. */
  assignedIsHost: boolean;
  /** Interface index for link-local host destinations; 0: none. */
  scopeId: number;
  /** The same for DNS_HOST and RESOLVER, which may be of the other family. */
  dnsHostScope: number;
  resolverScope: number;
  readonly former: FormerResolvers;

  constructor() {
    this.words = new Int32Array(4 * ROW_COUNT);
    this.set = new Uint8Array(ROW_COUNT);
    this.enabled = false;
    this.assignedIsHost = false;
    this.scopeId = 0;
    this.dnsHostScope = 0;
    this.resolverScope = 0;
    this.former = new FormerResolvers();
  }
}

/** `StackConfig`'s addresses as words, for all handlers. */
export class NatTables {
  readonly v4: FamilyTables;
  readonly v6: FamilyTables;

  constructor(config: StackConfig) {
    this.v4 = new FamilyTables();
    this.v6 = new FamilyTables();
    this.configure(config);
  }

  /**
   * Translates by `config` from now on. Addresses that stood for the host before go on to do so until `guestKnows`:
   * the guest may go on to use what it was told. Allocates.
   */
  configure(config: StackConfig): void {
    const { ip4, ip6 } = config;
    makeRows(this.v4, ip4, ip4 === null ? null : ip4.gateway);
    makeRows(this.v6, ip6, ip6 === null ? null : ip6.ourLinkLocal);
    this.v6.scopeId = ip6 === null ? 0 : ip6.scopeId;
    if (ip4 !== null && config.advertiseDns) this.v4.former.supersede(ip4.dns);
    if (ip6 !== null && config.advertiseDns) this.v6.former.supersede(ip6.dns);
    makeResolver(this.v4, ip4, ip6, this.v6.scopeId);
    makeResolver(this.v6, ip6, ip4, this.v6.scopeId);
  }

  /** The guest was reset: what an earlier one was told does not matter any more. */
  forgetGuest(): void {
    this.guestKnows(4);
    this.guestKnows(6);
    this.v4.former.clear();
    this.v6.former.clear();
  }

  /** The guest has been told the present configuration of a family (4, 6): what it was told before is void. */
  guestKnows(version: number): void {
    const t = version === 4 ? this.v4 : this.v6;
    t.set[FORMER_LOOPBACK] = 0;
    t.set[FORMER_DNS_MATCH] = 0;
  }
}

function makeRows(t: FamilyTables, config: Ip4Config | Ip6Config | null, ours: AddressBytes | null): void {
  const put = (row: number, bytes: AddressBytes | null): void => {
    t.set[row] = bytes === null ? 0 : 1;
    if (bytes !== null) addressWords(bytes, t.words, 4 * row);
  };
  const keep = (row: number, former: number): void => {
    if (t.set[row] === 0 || t.set[former] === 1) return;
    t.words.copyWithin(4 * former, 4 * row, 4 * row + 4);
    t.set[former] = 1;
  };
  if (t.enabled) {
    keep(MAP_HOST_LOOPBACK, FORMER_LOOPBACK);
    keep(DNS_MATCH, FORMER_DNS_MATCH);
  }
  t.enabled = config !== null;
  t.assignedIsHost = config !== null && !config.addrFixed;
  put(MAP_HOST_LOOPBACK, config?.mapHostLoopback ?? null);
  put(MAP_GUEST_ADDR, config?.mapGuestAddr ?? null);
  put(ASSIGNED, config?.guestAddr ?? null);
  put(DNS_MATCH, config?.dnsMatch ?? null);
  put(DNS_HOST, config?.dnsHost ?? (t.set[FORMER_DNS_MATCH] === 1 ? (config?.dns.at(0) ?? null) : null));
  put(OURS, ours);
  // A currently advertised resolver is not translated, whatever its address meant before.
  const words = new Int32Array(4);
  for (const dns of config?.dns ?? []) {
    addressWords(dns, words, 0);
    for (const former of [FORMER_LOOPBACK, FORMER_DNS_MATCH]) {
      if (matches(t, former, words, 0)) t.set[former] = 0;
    }
  }
}

/** The host's resolver of the family, or else of the other one. */
function makeResolver(
  t: FamilyTables,
  own: Ip4Config | Ip6Config | null,
  other: Ip4Config | Ip6Config | null,
  linkScope: number,
): void {
  const of = (config: Ip4Config | Ip6Config | null): AddressBytes | null =>
    config?.dnsHost ?? config?.dns.at(0) ?? null;
  const from = of(own) === null ? other : own;
  const bytes = of(from);
  t.set[RESOLVER] = bytes === null ? 0 : 1;
  if (bytes !== null) addressWords(bytes, t.words, 4 * RESOLVER);
  const scope = from?.dnsHostScope ?? 0;
  t.resolverScope = scope !== 0 ? scope : linkScope;
  t.dnsHostScope = own !== null && own.dnsHostScope !== 0 ? own.dnsHostScope : linkScope;
}

/** Converts the addresses of `config`. Allocates. */
export const natTables = (config: StackConfig): NatTables => new NatTables(config);

/** Where the functions below leave their result. Reused; four words each, IPv4 as v4-mapped. */
export class NatResult {
  readonly src: Int32Array = new Int32Array(4);
  readonly dst: Int32Array = new Int32Array(4);
  /** `natToHost`: scope id for `dst`; 0: none. */
  scope = 0;
  /**
   * `natToHost`: `dst` is loopback or the host's own address. `outboundIf` and `outboundAddr` must not be applied:
   * a socket bound to another interface never gets an answer from there.
   */
  local = false;
}

function matches(t: FamilyTables, row: number, words: Int32Array, at: number): boolean {
  return t.set[row] === 1 && wordsEqual(t.words, 4 * row, words, at);
}

function matchesEither(t: FamilyTables, row: number, other: number, words: Int32Array, at: number): boolean {
  return matches(t, row, words, at) || matches(t, other, words, at);
}

function copyRow(t: FamilyTables, row: number, to: Int32Array): void {
  copyWords(t.words, 4 * row, to, 0);
}

/** Addresses that mean nothing without an interface: fe80::/10, ff01::/16 and ff02::/16 whatever their flags. */
function needsScope(words: Int32Array, at: number): boolean {
  if (isV4(words, at)) return false;
  if (isLinkLocal6(words, at)) return true;
  const scope = (words[at] >>> 16) & 0xf;
  return words[at] >>> 24 === 0xff && (scope === 1 || scope === 2);
}

/**
 * Destination on the host of what the guest sends to `words[at…]`, port `port` (0 for echo; host order).
 * Fills `out.dst` (of the other family for some resolvers), `out.scope`, `out.local`. Returns 0 or a drop code; `out`
 * is then undefined.
 *
 * Loopback destinations must not come from the guest: the host's loopback is reached through its mapping only.
 */
export function natToHost(
  nat: NatTables,
  protocol: number,
  words: Int32Array,
  at: number,
  port: number,
  out: NatResult,
): DropCode {
  const t = isV4(words, at) ? nat.v4 : nat.v6;
  if (!t.enabled) return DROP_FAMILY_DISABLED;
  if (isUnspecified(words, at)) return DROP_DESTINATION_INVALID;
  if (isLoopback(words, at)) return DROP_LOOPBACK_ADDRESS;

  const resolver = (protocol === IP_PROTO_TCP || protocol === IP_PROTO_UDP) && isResolverPort(port);
  const dst = out.dst;
  let linkScope = t.scopeId;
  if (resolver && t.set[DNS_HOST] === 1 && matchesEither(t, DNS_MATCH, FORMER_DNS_MATCH, words, at)) {
    copyRow(t, DNS_HOST, dst);
    linkScope = t.dnsHostScope;
  } else if (resolver && t.set[RESOLVER] === 1 && t.former.has(words, at)) {
    copyRow(t, RESOLVER, dst);
    linkScope = t.resolverScope;
  } else if (matchesEither(t, MAP_HOST_LOOPBACK, FORMER_LOOPBACK, words, at)) {
    if (t === nat.v4) mapWords4(0x7f000001, dst, 0);
    else dst.set(LOOPBACK6);
  } else if (t.set[ASSIGNED] === 1 && matches(t, MAP_GUEST_ADDR, words, at)) {
    copyRow(t, ASSIGNED, dst);
  } else {
    copyWords(words, at, dst, 0);
  }
  out.scope = needsScope(dst, 0) ? linkScope : 0;
  out.local = isHosts(nat, dst, 0);
  return 0;
}

/** Was the guest told that `words[at…]` is a resolver, by a configuration before this one? */
export function isFormerResolver(nat: NatTables, words: Int32Array, at: number): boolean {
  const t = isV4(words, at) ? nat.v4 : nat.v6;
  return t.former.has(words, at) || matches(t, FORMER_DNS_MATCH, words, at);
}

/** Are queries to this port redirected, if they are to a resolver? */
export function isResolverPort(port: number): boolean {
  return port === PORT_DNS || port === PORT_DNS_TLS;
}

/** Is the destination on the host itself (see `NatResult.local`)? */
export function isHosts(nat: NatTables, words: Int32Array, at: number): boolean {
  const t = isV4(words, at) ? nat.v4 : nat.v6;
  return isLoopback(words, at) || (t.assignedIsHost && matches(t, ASSIGNED, words, at));
}

function isObserved(link: LinkState, words: Int32Array, at: number): boolean {
  if (isV4(words, at)) return words[at + 3] === link.guest4;
  return wordsEqual(link.guest6, 0, words, at) || wordsEqual(link.guest6LinkLocal, 0, words, at);
}

/**
 * Address under which the guest sees the host-side peer `words[at…]`: fills `out.src`. Also for the offender of an ICMP
 * error. Returns 0, or a drop code if there is no address to show.
 */
export function natSourceToGuest(
  nat: NatTables,
  link: LinkState,
  words: Int32Array,
  at: number,
  out: NatResult,
): DropCode {
  const v4 = isV4(words, at);
  const t = v4 ? nat.v4 : nat.v6;
  if (!t.enabled) return DROP_FAMILY_DISABLED;
  const loopback = isLoopback(words, at);
  const theLoopback = v4 ? words[at + 3] === 0x7f000001 : loopback;
  if (theLoopback && t.set[MAP_HOST_LOOPBACK] === 1) {
    copyRow(t, MAP_HOST_LOOPBACK, out.src);
  } else if (t.set[MAP_GUEST_ADDR] === 1 && matches(t, ASSIGNED, words, at)) {
    copyRow(t, MAP_GUEST_ADDR, out.src);
  } else if (loopback || isUnspecified(words, at) || matches(t, ASSIGNED, words, at) || isObserved(link, words, at)) {
    // The guest could not answer these: it would answer itself.
    if (t.set[OURS] === 0) return DROP_SOURCE_INVALID;
    copyRow(t, OURS, out.src);
  } else {
    copyWords(words, at, out.src, 0);
  }
  return 0;
}

/**
 * What the guest sees of a connection or datagram that peer `peer[p…]` sent to the host's address `local[0…3]` (null: no
 * group's): fills `out.src` and `out.dst`. `target` is the listener's fixed guest-side address as four words, or null. Ports are the
 * caller's. Returns 0, or a drop code: refuse the connection, drop the datagram.
 */
export function natToGuest(
  nat: NatTables,
  link: LinkState,
  peer: Int32Array,
  p: number,
  local: Int32Array | null,
  target: Int32Array | null,
  out: NatResult,
): DropCode {
  const code = natSourceToGuest(nat, link, peer, p, out);
  if (code !== 0) return code;
  const { src, dst } = out;
  const v4 = isV4(peer, p);
  if (target !== null) {
    // A rule's target of the other family cannot be reached: there is no protocol translation.
    if (isV4(target, 0) !== v4) return DROP_DESTINATION_INVALID;
    copyWords(target, 0, dst, 0);
    return 0;
  }
  if (local !== null && isMulticast(local, 0)) {
    copyWords(local, 0, dst, 0);
    return 0;
  }
  if (v4) {
    if (link.guest4 === 0) return DROP_DESTINATION_INVALID;
    mapWords4(link.guest4, dst, 0);
    return 0;
  }
  const preferred = isLinkLocal6(src, 0) ? link.guest6LinkLocal : link.guest6;
  const other = preferred === link.guest6 ? link.guest6LinkLocal : link.guest6;
  const from = ipv6IsUnspecified(preferred, 0) ? other : preferred;
  if (ipv6IsUnspecified(from, 0)) return DROP_DESTINATION_INVALID;
  copyWords(from, 0, dst, 0);
  return 0;
}

/** Our own address on the link, for errors that we report ourselves: fills `out.src`. False if there is none. */
export function natOurAddress(nat: NatTables, v4: boolean, out: NatResult): boolean {
  const t = v4 ? nat.v4 : nat.v6;
  if (t.set[OURS] === 0) return false;
  copyRow(t, OURS, out.src);
  return true;
}
