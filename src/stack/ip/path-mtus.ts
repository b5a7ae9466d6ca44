/**
 * MTUs of paths behind the guest: what "fragmentation needed" and "packet too big" said of one of its addresses
 * (RFC 1191, RFC 8201). Datagrams and echo replies to that address are cut to it; TCP has its own (tcp/path-mtu.ts).
 *
 * An entry holds for ten minutes (RFC 1191 §6.3) and then is forgotten, so that a path that became wider is found out.
 * The table is bounded: a new address takes the place of the oldest of the few that it could lie beside. Only the
 * guest's own traffic depends on it.
 */
import { copyWords, isV4, wordsEqual } from './address';
import { IPV6_MIN_MTU } from '../wire/ipv6';

/** RFC 1191 §6.3. */
const LIFE_MS = 600_000;
/** Linux's net.ipv4.route.min_pmtu: who says less is obeyed to here, and may fragment what comes. */
export const LEAST_MTU4 = 552;

const WAYS = 4;
const SETS = 128;
/** `get`: nothing is known. */
export const NO_PATH_MTU = 0xffff;

export class PathMtus {
  private readonly words: Int32Array;
  private readonly mtu: Uint16Array;
  /** When each entry ends; 0: it is free. */
  private readonly until: Float64Array;
  /** When the last of them ends: afterwards there is nothing to look for. */
  private lastUntil: number;

  constructor() {
    this.words = new Int32Array(4 * WAYS * SETS);
    this.mtu = new Uint16Array(WAYS * SETS);
    this.until = new Float64Array(WAYS * SETS);
    this.lastUntil = 0;
  }

  /** Largest IP packet to an address; 0xffff: nothing is known. Does not allocate. */
  get(nowMs: number, words: Int32Array, at: number): number {
    if (nowMs >= this.lastUntil) return NO_PATH_MTU;
    const entry = this.find(nowMs, words, at);
    return entry < 0 ? NO_PATH_MTU : this.mtu[entry];
  }

  /** A router cannot pass packets of more than `mtu` bytes on to the address. False if that cannot be true. */
  learn(nowMs: number, mtu: number, words: Int32Array, at: number): boolean {
    const v4 = isV4(words, at);
    if (!v4 && mtu < IPV6_MIN_MTU) return false; // not believed (RFC 8201 §4)
    if (mtu >= NO_PATH_MTU) return true;
    const limit = Math.max(mtu, LEAST_MTU4);
    let entry = this.find(nowMs, words, at);
    // Not until it ends may a path become wider: the narrowest of several ways to the address counts.
    if (entry >= 0 && this.mtu[entry] < limit) return true;
    if (entry < 0) entry = this.oldest(words, at);
    copyWords(words, at, this.words, 4 * entry);
    this.mtu[entry] = limit;
    this.until[entry] = nowMs + LIFE_MS;
    this.lastUntil = nowMs + LIFE_MS;
    return true;
  }

  /** The guest was reset. */
  clear(): void {
    this.until.fill(0);
    this.lastUntil = 0;
  }

  private find(nowMs: number, words: Int32Array, at: number): number {
    const first = WAYS * setOf(words, at);
    for (let entry = first; entry < first + WAYS; entry++) {
      if (this.until[entry] > nowMs && wordsEqual(this.words, 4 * entry, words, at)) return entry;
    }
    return -1;
  }

  private oldest(words: Int32Array, at: number): number {
    const first = WAYS * setOf(words, at);
    let found = first;
    for (let i = first + 1; i < first + WAYS; i++) if (this.until[i] < this.until[found]) found = i;
    return found;
  }
}

function setOf(words: Int32Array, at: number): number {
  const w23 = words[at + 2] ^ words[at + 3];
  const mixed = Math.imul(words[at] ^ Math.imul(words[at + 1], 0x9e3779b1) ^ Math.imul(w23, 0x85ebca6b), 0xc2b2ae35);
  return (mixed >>> 16) & (SETS - 1);
}
