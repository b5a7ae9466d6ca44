/** A clock that moves only when told to. */
import type { Clock } from '../../../src/stack/ports';

export class FakeClock implements Clock {
  nowMs: number;
  private us = 0;

  constructor(startMs = 1_000_000) {
    this.nowMs = startMs;
  }

  nowUs(): number {
    return this.nowMs * 1000 + this.us;
  }

  /** Moves time on by `ms` milliseconds (fractions down to a microsecond are kept for `nowUs`). */
  advance(ms: number): void {
    const us = this.us + Math.round(ms * 1000);
    if (us < 0) throw new Error('time does not run backwards');
    this.nowMs += Math.floor(us / 1000);
    this.us = us % 1000;
  }
}
