/**
 * The Ethernet address of each of the guest's IP addresses.
 *
 * There may be more than one behind a link: bridges, macvlan, containers and VRRP in the guest. The table learns from
 * ARP, neighbour discovery and the source of every frame; the latest word counts, so an address that moves (a
 * gratuitous ARP, an unsolicited advertisement, or its first frame from elsewhere) is followed at once. While only one
 * Ethernet address has been seen on the link, every frame goes there and nothing is looked up.
 *
 * An entry that was not seen for STALE_MS, although frames go to it, is requested (who-has, neighbour
 * solicitation) once a second; after ASKS_BEFORE_GONE without a word it is forgotten. As the table itself sends
 * nothing, it leaves the address to ask for in `ask`, for `LinkServices` to take at the end of the turn. Addresses
 * without an entry are requested as well, and reached at the Ethernet address seen last.
 *
 * Memory is fixed: STATIONS entries, of which the one not heard of for longest makes room. The guest chooses what is in
 * here, so the hash is keyed; chains are short then whatever it sends.
 */
import { copyWords, wordsEqual } from '../ip/address';
import { halfSipHash } from '../kit/siphash';

/** Most addresses of the guest that are known at a time. */
export const STATIONS = 256;
/** How long an entry is taken to be right without a word from it, ms (as Linux's base_reachable_time). */
export const STALE_MS = 30_000;
/**
 * Interval of requests for one address, ms, and how many may stay unanswered before it is forgotten (RFC 4861 §10: 1 s,
 * 3).
 */
export const ASK_MS = 1000;
export const ASKS_BEFORE_GONE = 3;

/** How an address was learnt: from a frame's source, ARP, neighbour discovery, or by a lease of ours. */
export const HOW_FRAME = 0;
export const HOW_ARP = 1;
export const HOW_NDP = 2;
export const HOW_DHCP = 3;
export const HOW_DHCPV6 = 4;

/** Hears of an address (four words, IPv4 as v4-mapped) that is new, or of which there is a lease by now. */
export type OnStation = (how: number, words: Int32Array, at: number, hi: number, lo: number) => void;

const BUCKETS = 512;
/** Slots found last, by the lowest bits of an address: frames of a flow come in rows. */
const MEMO = 16;

export class StationTable {
  /** More than one Ethernet address has been seen on the link. */
  several: boolean;
  /** What `lookup` found. */
  macHi: number;
  macLo: number;
  /** Someone is to ask for the address in `ask` (four words) and clear this. */
  asking: boolean;
  readonly ask: Int32Array;
  /** Null: nobody wants to know. */
  onStation: OnStation | null;
  private readonly keys: Int32Array;
  private readonly hi: Int32Array;
  private readonly lo: Int32Array;
  private readonly how: Uint8Array;
  /** When the address was last seen, and when it was last requested since; number of those requests. */
  private readonly seenMs: Float64Array;
  private readonly askedMs: Float64Array;
  private readonly asks: Uint8Array;
  private readonly hash: Int32Array;
  /** First slot of a bucket, next slot of the same bucket; each + 1, 0 for none. */
  private readonly buckets: Int32Array;
  private readonly next: Int32Array;
  private readonly used: Uint8Array;
  private readonly memo: Uint16Array;
  private readonly key: Int32Array;
  /** When an address without an entry was last requested. */
  private unknownMs: number;

  constructor() {
    this.several = false;
    this.macHi = 0;
    this.macLo = 0;
    this.asking = false;
    this.ask = new Int32Array(4);
    this.onStation = null;
    this.how = new Uint8Array(STATIONS);
    this.keys = new Int32Array(4 * STATIONS);
    this.hi = new Int32Array(STATIONS);
    this.lo = new Int32Array(STATIONS);
    this.seenMs = new Float64Array(STATIONS);
    this.askedMs = new Float64Array(STATIONS);
    this.asks = new Uint8Array(STATIONS);
    this.hash = new Int32Array(STATIONS);
    this.buckets = new Int32Array(BUCKETS);
    this.next = new Int32Array(STATIONS);
    this.used = new Uint8Array(STATIONS);
    this.memo = new Uint16Array(MEMO);
    // No result of the hash leaves this file, so the key need not come from a cryptographic source.
    this.key = Int32Array.of(Math.random() * 2 ** 32, Math.random() * 2 ** 32);
    this.unknownMs = -Infinity;
  }

  /** `words[at…]` (IPv4 as v4-mapped) was heard of at an Ethernet address. `how`: HOW_…. */
  learn(words: Int32Array, at: number, hi: number, lo: number, nowMs: number, how: number): void {
    let slot = this.find(words, at);
    const fresh = slot < 0;
    if (fresh) slot = this.insert(words, at, nowMs);
    if (fresh || (how >= HOW_DHCP && this.how[slot] < how)) {
      this.how[slot] = how;
      if (this.onStation !== null) this.onStation(how, words, at, hi, lo);
    }
    this.hi[slot] = hi;
    this.lo[slot] = lo;
    this.seenMs[slot] = nowMs;
    this.asks[slot] = 0;
  }

  /**
   * Where frames to `words[at…]` go: `macHi` and `macLo` then hold it. `hi` and `lo` are the Ethernet address that spoke
   * last, for addresses without an entry.
   */
  lookup(words: Int32Array, at: number, hi: number, lo: number, nowMs: number): void {
    this.macHi = hi;
    this.macLo = lo;
    if (!this.several) return;
    const slot = this.find(words, at);
    if (slot < 0) {
      if (nowMs - this.unknownMs < ASK_MS) return;
      this.unknownMs = nowMs;
      this.wantAsked(words, at);
      return;
    }
    if (nowMs - this.seenMs[slot] > STALE_MS && this.isGone(slot, nowMs)) return;
    this.macHi = this.hi[slot];
    this.macLo = this.lo[slot];
  }

  /** Is the address in use by the guest, as far as can be known? One not seen for `staleMs` is requested. */
  isInUse(words: Int32Array, at: number, staleMs: number, nowMs: number): boolean {
    const slot = this.find(words, at);
    return slot >= 0 && (nowMs - this.seenMs[slot] <= staleMs || !this.isGone(slot, nowMs));
  }

  /**
   * When the address was last heard of at that Ethernet address, ms; -Infinity: it was not, or at another one since.
   */
  heardMs(words: Int32Array, at: number, hi: number, lo: number): number {
    const slot = this.find(words, at);
    return slot >= 0 && this.hi[slot] === hi && this.lo[slot] === lo ? this.seenMs[slot] : -Infinity;
  }

  /** Is the address the guest's own, at another Ethernet address than the one given? */
  isElsewhere(words: Int32Array, at: number, hi: number, lo: number, nowMs: number): boolean {
    if (!this.several) return false;
    const slot = this.find(words, at);
    if (slot < 0 || (this.hi[slot] === hi && this.lo[slot] === lo)) return false;
    return nowMs - this.seenMs[slot] <= STALE_MS || !this.isGone(slot, nowMs);
  }

  /**
   * Copies the addresses that are known, the one heard of last first, to `out[at…]`: four words each, as many as fit.
   * Returns how many.
   */
  list(out: Int32Array, at: number): number {
    let count = 0;
    let last = -1;
    for (let room = out.length - at; room >= 4; room -= 4) {
      let newest = -1;
      for (let slot = 0; slot < STATIONS; slot++) {
        if (this.used[slot] === 0 || (last >= 0 && !this.isBefore(slot, last))) continue;
        if (newest < 0 || this.isBefore(newest, slot)) newest = slot;
      }
      if (newest < 0) break;
      copyWords(this.keys, 4 * newest, out, at + 4 * count);
      count++;
      last = newest;
    }
    return count;
  }

  /** Requests an address now, unless another request is pending. */
  wantAsked(words: Int32Array, at: number): void {
    if (this.asking) return;
    this.asking = true;
    copyWords(words, at, this.ask, 0);
  }

  /** Is there an address in the table for which `is` says so? */
  any(is: (words: Int32Array, at: number) => boolean): boolean {
    for (let slot = 0; slot < STATIONS; slot++) if (this.used[slot] !== 0 && is(this.keys, 4 * slot)) return true;
    return false;
  }

  /** The guest was reset: all is forgotten. */
  reset(): void {
    this.several = false;
    this.asking = false;
    this.used.fill(0);
    this.buckets.fill(0);
    this.unknownMs = -Infinity;
  }

  /** Asks for an entry that is stale. True if that was in vain often enough: the entry is gone then. */
  private isGone(slot: number, nowMs: number): boolean {
    if (this.asks[slot] > 0 && nowMs - this.askedMs[slot] < ASK_MS) return false;
    if (this.asks[slot] >= ASKS_BEFORE_GONE) {
      this.remove(slot);
      return true;
    }
    if (this.asking) return false;
    this.asks[slot]++;
    this.askedMs[slot] = nowMs;
    this.wantAsked(this.keys, 4 * slot);
    return false;
  }

  /** Was `slot` heard of before `other`? Of two that were at one time, the later in the table was. */
  private isBefore(slot: number, other: number): boolean {
    const by = this.seenMs[slot] - this.seenMs[other];
    return by < 0 || (by === 0 && slot > other);
  }

  /** Slot of an address, or -1. */
  private find(words: Int32Array, at: number): number {
    const { keys, memo } = this;
    const m = words[at + 3] & (MEMO - 1);
    let slot = memo[m];
    if (this.used[slot] !== 0 && wordsEqual(keys, 4 * slot, words, at)) return slot;
    const hash = halfSipHash(words, at, 4, this.key[0], this.key[1]);
    slot = this.buckets[hash & (BUCKETS - 1)] - 1;
    while (slot >= 0 && !wordsEqual(keys, 4 * slot, words, at)) slot = this.next[slot] - 1;
    if (slot >= 0) memo[m] = slot;
    return slot;
  }

  /** A slot for an address that has none. */
  private insert(words: Int32Array, at: number, nowMs: number): number {
    let slot = -1;
    let oldestMs = Infinity;
    for (let i = 0; i < STATIONS; i++) {
      if (this.used[i] === 0) {
        slot = i;
        break;
      }
      if (this.seenMs[i] < oldestMs) {
        oldestMs = this.seenMs[i];
        slot = i;
      }
    }
    if (this.used[slot] !== 0) this.remove(slot);
    copyWords(words, at, this.keys, 4 * slot);
    const hash = halfSipHash(words, at, 4, this.key[0], this.key[1]);
    const bucket = hash & (BUCKETS - 1);
    this.hash[slot] = hash;
    this.next[slot] = this.buckets[bucket];
    this.buckets[bucket] = slot + 1;
    this.used[slot] = 1;
    this.seenMs[slot] = nowMs;
    return slot;
  }

  private remove(slot: number): void {
    const { buckets, next } = this;
    const bucket = this.hash[slot] & (BUCKETS - 1);
    this.used[slot] = 0;
    if (buckets[bucket] === slot + 1) {
      buckets[bucket] = next[slot];
      return;
    }
    let before = buckets[bucket] - 1;
    while (next[before] !== slot + 1) before = next[before] - 1;
    next[before] = next[slot];
  }
}
