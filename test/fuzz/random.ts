/** Random numbers from a seed: a sequence that found something is run again by its seed. */

/** Numbers at the edges of what fields hold. */
const EDGES = [0, 1, 2, 3, 4, 7, 8, 15, 16, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000];
const WIDE_EDGES = [...EDGES, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff];

export class Seeded {
  readonly seed: number;
  private state: number;

  constructor(seed: number) {
    this.seed = seed;
    this.state = seed >>> 0;
  }

  /** 32 random bits, unsigned (mulberry32). */
  u32(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** 0 … n - 1. */
  below(n: number): number {
    return Math.floor((this.u32() / 2 ** 32) * n);
  }

  /** True once in `n` calls. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)];
  }

  /** A 16-bit number, mostly at an edge. */
  edge16(): number {
    return this.oneIn(3) ? this.below(0x10000) : this.pick(EDGES) & 0xffff;
  }

  /** A 32-bit number, mostly at an edge. */
  edge32(): number {
    return this.oneIn(3) ? this.u32() : this.pick(WIDE_EDGES);
  }
}
