/** Repeatable random numbers: scripted values first, then a seeded sequence (mulberry32). */
import type { Random } from '../../../src/stack/ports';

export class FakeRandom implements Random {
  private readonly script: number[] = [];
  private state: number;

  constructor(seed = 1) {
    this.state = seed | 0;
  }

  /** The next calls of `u32` return these values, in turn. */
  push(...values: number[]): void {
    for (const value of values) this.script.push(value | 0);
  }

  u32(): number {
    const scripted = this.script.shift();
    if (scripted !== undefined) return scripted;
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) | 0;
  }
}
