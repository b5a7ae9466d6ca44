/**
 * Ethernet addresses of the host's neighbours, as the guest sees them.
 *
 * The guest shares the host's network, so an address on it should have the Ethernet address that the host knows it by:
 * software that watches its ARP table (or an administrator) finds what it would find on the host. The control plane
 * follows the kernel's neighbour table and hands over what it knows (`replace`); this is a copy, bounded and in typed
 * arrays, because every frame toward the guest asks it.
 *
 * Three kinds of answer: an address with an entry has that Ethernet address; any other has the gateway's entry, as
 * what lies behind a router has on any link; without that, ours. Addresses that stand for the host itself are *fixed*
 * to ours, so that a neighbour which happens to have such an address does not shine through. The guest's own addresses
 * are nobody's: callers see to that.
 *
 * Open addressing with linear probing in 1024 slots for at most 512 entries. Who has which address on the host's link
 * is chosen by its neighbours, so the hash is keyed.
 */
import { addressWords, copyWords, isV4, wordsEqual } from '../ip/address';
import type { AddressBytes, Ip6Config, StackConfig } from '../config';
import { halfSipHash } from '../kit/siphash';

/** Most entries taken from the host, as in passt; further ones are left out. */
export const MAX_NEIGHBOURS = 512;
/** Words of one entry handed over: address (four words, IPv4 as v4-mapped), Ethernet address (high 16, low 32 bits). */
export const NEIGHBOUR_WORDS = 6;

const SLOTS = 1024;
const MASK = SLOTS - 1;

/** Where the memo keeps the result of the last lookup; its key is in front. */
const MEMO_HI = 4;
const MEMO_LO = 5;

export class NeighbourTable {
  /** Four words a slot. */
  private readonly keys: Int32Array;
  private readonly slotMacHi: Int32Array;
  private readonly slotMacLo: Int32Array;
  private readonly used: Uint8Array;
  /** Key and result of the last lookup: frames of one flow arrive one after the other. */
  private readonly memo: Int32Array;
  /** Ethernet address for addresses without an entry: IPv4, IPv6. */
  private readonly defaultHi: Int32Array;
  private readonly defaultLo: Int32Array;
  /** Key of the hash. No result of it leaves this file, so it need not be cryptographic. */
  private readonly key: Int32Array;
  /** What the table was filled with: of the configuration, and of the host. */
  private config: StackConfig;
  private learnt: Int32Array;

  constructor(config: StackConfig) {
    this.keys = new Int32Array(4 * SLOTS);
    this.slotMacHi = new Int32Array(SLOTS);
    this.slotMacLo = new Int32Array(SLOTS);
    this.used = new Uint8Array(SLOTS);
    this.memo = new Int32Array(6);
    this.defaultHi = new Int32Array(2);
    this.defaultLo = new Int32Array(2);
    this.key = Int32Array.of(Math.random() * 2 ** 32, Math.random() * 2 ** 32);
    this.config = config;
    this.learnt = new Int32Array(0);
    this.makeTable();
  }

  /** Gateways and fixed addresses are those of `config` from now on. What came from the host stays. Allocates. */
  configure(config: StackConfig): void {
    this.config = config;
    this.makeTable();
  }

  /**
   * Takes what the host knows now: NEIGHBOUR_WORDS a neighbour, of which the first MAX_NEIGHBOURS are used. Returns
   * those whose address had no entry before, in the same form. Allocates.
   */
  /* eslint-disable no-restricted-syntax -- cold: when the host's neighbours changed */
  replace(entries: Int32Array): Int32Array {
    const whole = entries.length - (entries.length % NEIGHBOUR_WORDS);
    const taken = entries.slice(0, Math.min(whole, MAX_NEIGHBOURS * NEIGHBOUR_WORDS));
    const fresh: number[] = [];
    for (let at = 0; at < taken.length; at += NEIGHBOUR_WORDS) {
      const known = this.find(taken, at) >= 0;
      if (!known) fresh.push(...taken.subarray(at, at + NEIGHBOUR_WORDS));
    }
    this.learnt = taken;
    this.makeTable();
    return Int32Array.from(fresh);
  }
  /* eslint-enable no-restricted-syntax */

  /**
   * Looks for the Ethernet address of `words[at…]` (IPv4 as v4-mapped): `macHi` and `macLo` then hold it. Does not
   * allocate.
   */
  lookup(words: Int32Array, at: number): void {
    const memo = this.memo;
    if (wordsEqual(memo, 0, words, at)) return;
    copyWords(words, at, memo, 0);
    const slot = this.find(words, at);
    if (slot >= 0) {
      memo[MEMO_HI] = this.slotMacHi[slot];
      memo[MEMO_LO] = this.slotMacLo[slot];
      return;
    }
    const family = isV4(words, at) ? 0 : 1;
    memo[MEMO_HI] = this.defaultHi[family];
    memo[MEMO_LO] = this.defaultLo[family];
  }

  /** High 16 bits of what the last `lookup` found. */
  get macHi(): number {
    return this.memo[MEMO_HI];
  }

  /** Low 32 bits of what the last `lookup` found, as int32. */
  get macLo(): number {
    return this.memo[MEMO_LO];
  }

  /** Refills the table: first fixed entries, which nothing overrides. */
  private makeTable(): void {
    const { ip4, ip6, ourMac } = this.config;
    const mac = new DataView(ourMac.buffer, ourMac.byteOffset, 6);
    const ourHi = mac.getUint16(0);
    const ourLo = mac.getInt32(2);
    this.used.fill(0);
    const words = new Int32Array(4);
    const ours = [ip4?.mapHostLoopback, ip4?.mapGuestAddr, ip6?.mapHostLoopback, ip6?.mapGuestAddr, makeOwn(ip6)];
    for (const address of ours) {
      if (!address) continue;
      addressWords(address, words, 0);
      this.put(words, 0, ourHi, ourLo);
    }
    const learnt = this.learnt;
    for (let at = 0; at < learnt.length; at += NEIGHBOUR_WORDS) this.put(learnt, at, learnt[at + 4], learnt[at + 5]);
    [ip4?.gateway, ip6?.gateway].forEach((gateway, family) => {
      let slot = -1;
      if (gateway) {
        addressWords(gateway, words, 0);
        slot = this.find(words, 0);
      }
      this.defaultHi[family] = slot < 0 ? ourHi : this.slotMacHi[slot];
      this.defaultLo[family] = slot < 0 ? ourLo : this.slotMacLo[slot];
    });
    // No frame comes from `::`, so as a question it means that none was asked; the answer is right all the same.
    this.memo.fill(0);
    this.memo[MEMO_HI] = this.defaultHi[1];
    this.memo[MEMO_LO] = this.defaultLo[1];
  }

  /** Adds an entry; the first one of an address counts. */
  private put(words: Int32Array, at: number, hi: number, lo: number): void {
    if (this.find(words, at) >= 0) return;
    let slot = halfSipHash(words, at, 4, this.key[0], this.key[1]) & MASK;
    while (this.used[slot] !== 0) slot = (slot + 1) & MASK;
    copyWords(words, at, this.keys, 4 * slot);
    this.slotMacHi[slot] = hi;
    this.slotMacLo[slot] = lo;
    this.used[slot] = 1;
  }

  /** Slot of an address, or -1. About half of the slots are free at least, so the probing ends. */
  private find(words: Int32Array, at: number): number {
    let slot = halfSipHash(words, at, 4, this.key[0], this.key[1]) & MASK;
    for (; this.used[slot] !== 0; slot = (slot + 1) & MASK) {
      if (wordsEqual(this.keys, 4 * slot, words, at)) return slot;
    }
    return -1;
  }
}

/** Our own link-local address, unless the gateway of the host has it: then it is the gateway's. */
function makeOwn(ip6: Ip6Config | null): AddressBytes | null {
  if (ip6 === null) return null;
  const { gateway, ourLinkLocal } = ip6;
  return gateway?.every((byte, i) => byte === ourLinkLocal[i]) === true ? null : ourLinkLocal;
}
