/**
 * Resolvers that were advertised to the guest and that the host no longer uses. Programs in the guest may keep them: a
 * lease is renewed after half its time at best, and many read resolv.conf(5) once. Their queries go to the present one.
 */
import { addressWords, wordsEqual } from '../ip/address';
import type { AddressBytes } from '../config';

/** The most that is remembered for each family; the oldest is forgotten. */
export const FORMER_MAX = 8;

export class FormerResolvers {
  /** Four words each, the latest last. */
  private readonly words: Int32Array;
  private count: number;
  private advertised: readonly AddressBytes[];

  constructor() {
    this.words = new Int32Array(4 * FORMER_MAX);
    this.count = 0;
    this.advertised = [];
  }

  has(words: Int32Array, at: number): boolean {
    for (let i = 0; i < this.count; i++) if (wordsEqual(this.words, 4 * i, words, at)) return true;
    return false;
  }

  /** `now` is advertised instead of the resolvers before. Allocates. */
  supersede(now: readonly AddressBytes[]): void {
    const known = new Set(now.map(String));
    for (const addr of [...this.advertised, ...now]) this.forget(addr);
    for (const addr of this.advertised) {
      if (known.has(String(addr))) continue;
      if (this.count === FORMER_MAX) this.remove(0);
      addressWords(addr, this.words, 4 * this.count++);
    }
    this.advertised = now;
  }

  clear(): void {
    this.count = 0;
  }

  private forget(addr: AddressBytes): void {
    const words = new Int32Array(4);
    addressWords(addr, words, 0);
    for (let i = this.count - 1; i >= 0; i--) {
      if (wordsEqual(this.words, 4 * i, words, 0)) this.remove(i);
    }
  }

  private remove(i: number): void {
    this.words.copyWithin(4 * i, 4 * (i + 1), 4 * this.count);
    this.count--;
  }
}
