/**
 * A table of flows: slot numbers handed out from a free list, and a keyed hash index from a flow's 4-tuple to its
 * slot. All memory is taken at construction.
 *
 * Theory of operation. A flow is a slot number 0 … capacity - 1; protocols keep their state in columns of their own,
 * indexed by it. `alloc` takes a slot (last freed first: its columns are warm), `insert` puts it under the key that
 * stands in `probe`, `remove` takes it out of the index, `free` gives the slot back. A slot may live without being
 * indexed. Every `alloc` raises the slot's generation, so that an event queued for an earlier owner can be told.
 *
 * The index is open-addressed with linear probing, at most half full, with backward-shift deletion (no tombstones, so
 * it does not decay), and hashed with HalfSipHash under a random key: a guest cannot choose tuples that collide.
 *
 * A key is nine words: guest's address (4), the other end's address (4), guest's port << 16 | other port.
 */
import { halfSipHash } from './siphash';

/** Words in a key. */
export const KEY_WORDS = 9;

export class FlowTable {
  readonly capacity: number;
  /** Slots in use. */
  count: number;
  /** Key to look up or insert; filled by the caller before `lookup` and `insert`. */
  readonly probe: Int32Array;
  /** Key of slot i at KEY_WORDS * i. Valid from `insert` until the slot is freed. */
  readonly keys: Int32Array;
  /** Raised at each alloc of the slot; positive. */
  readonly generation: Int32Array;
  private readonly hashes: Int32Array;
  private readonly nextFree: Int32Array;
  private freeHead: number;
  private readonly buckets: Int32Array; // slot + 1; 0: empty
  /** Found last and still in the index, or -1: frames come in trains, whose key need not be hashed again. */
  private found: number;
  private readonly mask: number;
  private readonly k0: number;
  private readonly k1: number;

  /** `k0`, `k1`: 64 random bits. */
  constructor(capacity: number, k0: number, k1: number) {
    let size = 16;
    while (size < capacity * 2) size *= 2;
    this.capacity = capacity;
    this.count = 0;
    this.probe = new Int32Array(KEY_WORDS);
    this.keys = new Int32Array(capacity * KEY_WORDS);
    this.generation = new Int32Array(capacity);
    this.hashes = new Int32Array(capacity);
    this.nextFree = new Int32Array(capacity);
    this.buckets = new Int32Array(size);
    this.found = -1;
    this.mask = size - 1;
    this.k0 = k0 | 0;
    this.k1 = k1 | 0;
    for (let i = 0; i < capacity; i++) this.nextFree[i] = i + 1 < capacity ? i + 1 : -1;
    this.freeHead = capacity > 0 ? 0 : -1;
  }

  /** Takes a slot, or returns -1 if all are taken. */
  alloc(): number {
    const slot = this.freeHead;
    if (slot < 0) return -1;
    this.freeHead = this.nextFree[slot];
    this.generation[slot] = (this.generation[slot] + 1) & 0x7fffffff || 1;
    this.count++;
    return slot;
  }

  /** Gives back a slot that is not in the index (any more). */
  free(slot: number): void {
    this.nextFree[slot] = this.freeHead;
    this.freeHead = slot;
    this.count--;
  }

  /** Slot that stands under `probe`, or -1. */
  lookup(): number {
    const { found, probe, hashes, buckets, mask } = this;
    if (found >= 0 && this.holdsProbe(found)) return found;
    const hash = halfSipHash(probe, 0, KEY_WORDS, this.k0, this.k1);
    for (let b = hash & mask; ; b = (b + 1) & mask) {
      const slot = buckets[b] - 1;
      if (slot < 0) return -1;
      if (hashes[slot] !== hash || !this.holdsProbe(slot)) continue;
      this.found = slot;
      return slot;
    }
  }

  private holdsProbe(slot: number): boolean {
    const { probe, keys } = this;
    const k = slot * KEY_WORDS;
    // The ports first: flows of one guest differ there.
    let i = KEY_WORDS - 1;
    while (i >= 0 && keys[k + i] === probe[i]) i--;
    return i < 0;
  }

  /** Puts `slot` under the key in `probe`, which must not be taken. */
  insert(slot: number): void {
    const { probe, keys, buckets, mask } = this;
    const k = slot * KEY_WORDS;
    for (let i = 0; i < KEY_WORDS; i++) keys[k + i] = probe[i];
    const hash = halfSipHash(probe, 0, KEY_WORDS, this.k0, this.k1);
    this.hashes[slot] = hash;
    let b = hash & mask;
    while (buckets[b] !== 0) b = (b + 1) & mask;
    buckets[b] = slot + 1;
  }

  /** Takes an inserted slot out of the index. */
  remove(slot: number): void {
    const { buckets, hashes, mask } = this;
    if (slot === this.found) this.found = -1;
    let hole = hashes[slot] & mask;
    while (buckets[hole] !== slot + 1) {
      if (buckets[hole] === 0) return; // was not inserted
      hole = (hole + 1) & mask;
    }
    // Close the gap: move back every later entry of the run whose home lies at or before the hole.
    for (let b = (hole + 1) & mask; buckets[b] !== 0; b = (b + 1) & mask) {
      const home = hashes[buckets[b] - 1] & mask;
      if (((b - home) & mask) >= ((b - hole) & mask)) {
        buckets[hole] = buckets[b];
        hole = b;
      }
    }
    buckets[hole] = 0;
  }
}

/**
 * A queue of slot numbers (FIFO) with membership: each slot is in it at most once; push, remove and shift are O(1)
 * and allocate nothing.
 */
export class SlotQueue {
  length: number;
  private head: number;
  private tail: number;
  private readonly next: Int32Array; // slot + 1, 0: none
  private readonly prev: Int32Array;
  private readonly member: Uint8Array;

  constructor(capacity: number) {
    this.length = 0;
    this.head = -1;
    this.tail = -1;
    this.next = new Int32Array(capacity);
    this.prev = new Int32Array(capacity);
    this.member = new Uint8Array(capacity);
  }

  has(slot: number): boolean {
    return this.member[slot] === 1;
  }

  /** First slot, or -1. */
  first(): number {
    return this.head;
  }

  /** Appends; does nothing if the slot is queued already. */
  push(slot: number): void {
    if (this.member[slot] === 1) return;
    this.member[slot] = 1;
    this.next[slot] = 0;
    this.prev[slot] = this.tail + 1;
    if (this.tail >= 0) this.next[this.tail] = slot + 1;
    else this.head = slot;
    this.tail = slot;
    this.length++;
  }

  /** Takes the first slot out, or returns -1. */
  shift(): number {
    const slot = this.head;
    if (slot >= 0) this.remove(slot);
    return slot;
  }

  /** Takes a slot out; does nothing if it is not queued. */
  remove(slot: number): void {
    if (this.member[slot] !== 1) return;
    this.member[slot] = 0;
    const next = this.next[slot] - 1;
    const prev = this.prev[slot] - 1;
    if (prev >= 0) this.next[prev] = next + 1;
    else this.head = next;
    if (next >= 0) this.prev[next] = prev + 1;
    else this.tail = prev;
    this.length--;
  }
}
