/**
 * MTUs of paths behind the guest: what "fragmentation needed" and "packet too big" said of one of its addresses
 * (RFC 1191, RFC 8201). Datagrams and echo replies to that address are cut to it; TCP has its own (tcp/path-mtu.ts).
 *
 * An entry holds for ten minutes (RFC 1191 §6.3) and then is forgotten, so that a path that became wider is found out.
 * The table is bounded: a new address takes the place of the oldest of the few that it could lie beside. Only the
 * guest's own traffic depends on it.
 */
import { isV4 } from './address';

/** RFC 1191 §6.3. */
const LIFE_MS = 600_000;
/** Linux's net.ipv4.route.min_pmtu: who says less is obeyed to here, and may fragment what comes. */
const LEAST_MTU4 = 552;
/** RFC 8200 §5: who says less is not believed (RFC 8201 §4). */
const LEAST_MTU6 = 1280;

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
  get(nowMs: number, w0: number, w1: number, w2: number, w3: number): number {
    if (nowMs >= this.lastUntil) return NO_PATH_MTU;
    const at = this.find(nowMs, w0, w1, w2, w3);
    return at < 0 ? NO_PATH_MTU : this.mtu[at];
  }

  /** A router cannot pass packets of more than `mtu` bytes on to the address. False if that cannot be true. */
  learn(nowMs: number, mtu: number, w0: number, w1: number, w2: number, w3: number): boolean {
    const v4 = isV4(w0, w1, w2);
    if (!v4 && mtu < LEAST_MTU6) return false;
    if (mtu >= NO_PATH_MTU) return true;
    const limit = Math.max(mtu, LEAST_MTU4);
    let at = this.find(nowMs, w0, w1, w2, w3);
    // Not until it ends may a path become wider: the narrowest of several ways to the address counts.
    if (at >= 0 && this.mtu[at] < limit) return true;
    if (at < 0) at = this.oldest(w0, w1, w2, w3);
    this.words[4 * at] = w0;
    this.words[4 * at + 1] = w1;
    this.words[4 * at + 2] = w2;
    this.words[4 * at + 3] = w3;
    this.mtu[at] = limit;
    this.until[at] = nowMs + LIFE_MS;
    this.lastUntil = nowMs + LIFE_MS;
    return true;
  }

  /** The guest was reset. */
  clear(): void {
    this.until.fill(0);
    this.lastUntil = 0;
  }

  private find(nowMs: number, w0: number, w1: number, w2: number, w3: number): number {
    const { words, until } = this;
    const first = WAYS * setOf(w0, w1, w2, w3);
    for (let at = first; at < first + WAYS; at++) {
      const w = 4 * at;
      if (until[at] <= nowMs) continue;
      if (words[w + 3] === w3 && words[w + 2] === w2 && words[w + 1] === w1 && words[w] === w0) return at;
    }
    return -1;
  }

  private oldest(w0: number, w1: number, w2: number, w3: number): number {
    const first = WAYS * setOf(w0, w1, w2, w3);
    let found = first;
    for (let at = first + 1; at < first + WAYS; at++) if (this.until[at] < this.until[found]) found = at;
    return found;
  }
}

function setOf(w0: number, w1: number, w2: number, w3: number): number {
  const mixed = Math.imul(w0 ^ Math.imul(w1, 0x9e3779b1) ^ Math.imul(w2 ^ w3, 0x85ebca6b), 0xc2b2ae35);
  return (mixed >>> 16) & (SETS - 1);
}
