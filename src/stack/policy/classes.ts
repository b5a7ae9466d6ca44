/**
 * Classes of addresses that rules name: `host`, `lan`, `metadata`, `dns`. Bits, found once for each new flow. An IPv6
 * address of the translation prefix 64:ff9b::/96 (RFC 6052) belongs to the classes of the IPv4 address in it.
 */
import { addressWords, isLoopback, isMulticast, isUnspecified, isV4, mapWords4, wordsEqual } from '../ip/address';
import type { AddressBytes, StackConfig } from '../config';
import type { LinkState } from '../context';
import { type NatResult, isFormerResolver } from '../ip/nat';
import type { HostReach, Prefix } from './types';

export const CLASS_HOST = 1;
export const CLASS_LAN = 2;
export const CLASS_METADATA = 4;
export const CLASS_DNS = 8;
/** What a name must not lead to unless its rule says so: all of the above, groups, and addresses that mean nothing. */
export const CLASS_PRIVATE = 16;

/** Groups and broadcasts: what the host and its neighbours hear alike. They are CLASS_LAN and CLASS_PRIVATE as well. */
export const CLASS_GROUP = 32;

/** Prefixes: words, masks. Words are compared under their masks, so family is part of the prefix (v4-mapped words). */
export class PrefixList {
  private readonly words: Int32Array;
  private readonly masks: Int32Array;
  readonly count: number;

  constructor(prefixes: readonly Prefix[]) {
    this.count = prefixes.length;
    this.words = new Int32Array(4 * this.count);
    this.masks = new Int32Array(4 * this.count);
    for (const [i, { address, length }] of prefixes.entries()) {
      prefixWords(address, length, this.words, this.masks, 4 * i);
    }
  }

  /** Is `words[at…]` the last address of one of those of IPv4, its broadcast address (RFC 919)? One of two has none (RFC 3021). */
  hasBroadcast(words: Int32Array, at: number): boolean {
    if (!isV4(words, at)) return false;
    for (let i = 0; i < 4 * this.count; i += 4) {
      const mask = this.masks[i + 3];
      const ofNetwork = this.masks[i + 2] === -1 && mask < -2 && (words[at + 3] | mask) === -1;
      if (ofNetwork && inPrefix(this.words, this.masks, i, words, at)) return true;
    }
    return false;
  }

  /** Is `words[at…]` in one of them? */
  has(words: Int32Array, at: number): boolean {
    for (let i = 0; i < 4 * this.count; i += 4) if (inPrefix(this.words, this.masks, i, words, at)) return true;
    return false;
  }
}

/**
 * Writes a prefix as four words and their masks at `at`. An IPv4 prefix is one of v4-mapped words; one of IPv6 shorter
 * than 96 bits would hold those too, which is for the caller to keep apart.
 */
export function prefixWords(
  address: AddressBytes,
  length: number,
  words: Int32Array,
  masks: Int32Array,
  at: number,
): void {
  addressWords(address, words, at);
  const bits = address.length === 4 ? 96 + length : length;
  for (let i = 0; i < 4; i++) {
    const n = Math.min(32, Math.max(0, bits - 32 * i));
    masks[at + i] = n === 0 ? 0 : -1 << (32 - n);
    words[at + i] &= masks[at + i];
  }
}

/** Is `addr[j…]` in the prefix at `i`? */
export function inPrefix(words: Int32Array, masks: Int32Array, i: number, addr: Int32Array, j: number): boolean {
  return (
    (addr[j + 3] & masks[i + 3]) === words[i + 3] &&
    (addr[j + 2] & masks[i + 2]) === words[i + 2] &&
    (addr[j + 1] & masks[i + 1]) === words[i + 1] &&
    (addr[j] & masks[i]) === words[i]
  );
}

const v4 = (a: number, b: number, c: number, d: number, length: number): Prefix => ({
  address: Uint8Array.of(a, b, c, d),
  length,
});

function v6(text: string, length: number): Prefix {
  const address = new Uint8Array(16);
  for (let i = 0; i < text.length; i += 2) address[i / 2] = parseInt(text.slice(i, i + 2), 16);
  return { address, length };
}

/**
 * Private (RFC 1918), shared (RFC 6598), link-local (RFC 3927, RFC 4291 §2.5.6), unique local (RFC 4193) and site-local
 * (RFC 3879), "this network" (RFC 791), IETF protocol assignments (RFC 6890), benchmarking (RFC 2544).
 */
const LAN = new PrefixList([
  v4(10, 0, 0, 0, 8),
  v4(172, 16, 0, 0, 12),
  v4(192, 168, 0, 0, 16),
  v4(100, 64, 0, 0, 10),
  v4(169, 254, 0, 0, 16),
  v4(0, 0, 0, 0, 8),
  v4(192, 0, 0, 0, 24),
  v4(198, 18, 0, 0, 15),
  v6('fe80', 10),
  v6('fec0', 10),
  v6('fc00', 7),
]);

/**
 * Link-local 169.254.169.254 of AWS, Azure, Google, OpenStack, DigitalOcean; AWS: containers' credentials 169.254.170.2
 * and .23, its IPv6 addresses; Alibaba 100.100.100.200; Oracle 192.0.0.192; Azure's wire server 168.63.129.16; Google's
 * fd20:ce::254; Scaleway fd00:42::42; OpenStack fe80::a9fe:a9fe.
 */
const METADATA = new PrefixList([
  v4(169, 254, 169, 254, 32),
  v4(169, 254, 170, 2, 32),
  v4(169, 254, 170, 23, 32),
  v4(100, 100, 100, 200, 32),
  v4(192, 0, 0, 192, 32),
  v4(168, 63, 129, 16, 32),
  v6('fd000ec2000000000000000000000254', 128),
  v6('fd000ec2000000000000000000000023', 128),
  v6('fd2000ce000000000000000000000254', 128),
  v6('fd000042000000000000000000000042', 128),
  v6('fe8000000000000000000000a9fea9fe', 128),
]);

/** 64:ff9b::/96. */
const NAT64 = 0x0064ff9b;

export class AddressClasses {
  private own: PrefixList;
  private onLink: PrefixList;
  /** Resolvers that `known` gives the guest, four words each. */
  private resolvers: Int32Array;
  private known: StackConfig | null;
  private readonly inner: Int32Array;

  constructor(reach: HostReach) {
    this.own = new PrefixList(reach.own.map((address) => ({ address, length: 8 * address.length })));
    this.onLink = new PrefixList(reach.onLink);
    this.resolvers = new Int32Array(0);
    this.known = null;
    this.inner = new Int32Array(4);
  }

  /**
   * CLASS_* bits of what the guest addresses as `words[at…]`, port `port`, and what `to` says that it is on the host.
   */
  of(config: StackConfig, link: LinkState, words: Int32Array, at: number, port: number, to: NatResult): number {
    let bits = this.ofAddress(words, at);
    if (this.isResolver(config, link, words, at) && port === 53) bits |= CLASS_DNS;
    if (to.local || isLoopback(to.dst, 0) || this.own.has(to.dst, 0)) bits |= CLASS_HOST | CLASS_PRIVATE;
    return bits;
  }

  /** The bits that an address has by itself. */
  ofAddress(words: Int32Array, at: number): number {
    let bits = 0;
    if (words[at] === NAT64 && words[at + 1] === 0 && words[at + 2] === 0) {
      mapWords4(words[at + 3], this.inner, 0);
      bits = this.ofAddress4or6(this.inner, 0);
    }
    return bits | this.ofAddress4or6(words, at);
  }

  private ofAddress4or6(words: Int32Array, at: number): number {
    let bits = 0;
    if (isLoopback(words, at) || this.own.has(words, at)) bits |= CLASS_HOST | CLASS_PRIVATE;
    if (LAN.has(words, at) || this.onLink.has(words, at)) bits |= CLASS_LAN | CLASS_PRIVATE;
    if (METADATA.has(words, at)) bits |= CLASS_METADATA | CLASS_PRIVATE;
    if (isUnspecified(words, at)) bits |= CLASS_PRIVATE;
    const toAll = isV4(words, at) && words[at + 3] === -1;
    if (toAll || isMulticast(words, at) || this.onLink.hasBroadcast(words, at))
      bits |= CLASS_GROUP | CLASS_LAN | CLASS_PRIVATE;
    return bits;
  }

  private isResolver(config: StackConfig, link: LinkState, words: Int32Array, at: number): boolean {
    if (this.known !== config) this.learn(config);
    for (let i = 0; i < this.resolvers.length; i += 4) if (wordsEqual(this.resolvers, i, words, at)) return true;
    return isFormerResolver(link.nat, words, at);
  }

  /** A configuration is replaced as a whole, so its identity says whether it is known. */
  private learn(config: StackConfig): void {
    this.known = config;
    const all: AddressBytes[] = [];
    for (const ip of [config.ip4, config.ip6]) {
      if (ip === null) continue;
      all.push(...ip.dns);
      if (ip.dnsMatch !== null) all.push(ip.dnsMatch);
    }
    this.resolvers = new Int32Array(4 * all.length);
    for (const [i, address] of all.entries()) addressWords(address, this.resolvers, 4 * i);
  }
}
