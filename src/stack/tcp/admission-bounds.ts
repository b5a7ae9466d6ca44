/** The bounds of admission.ts as numbers. */

/** The credit's growth: one part in so many of the time that passes; and the most there can be, µs. */
const CREDIT_PART = 8;
const CREDIT_MOST_US = 20_000;

/** Half-open flows of one side, for a table of `capacity`. */
export function halfOpenLimit(capacity: number): number {
  return Math.max(4, Math.min(4096, capacity >> 1));
}

/** A credit of time for connection attempts. */
export class Credit {
  private us: number;
  private atMs: number;

  constructor(nowMs: number) {
    this.us = CREDIT_MOST_US;
    this.atMs = nowMs;
  }

  /** May an attempt be made now? */
  left(nowMs: number): boolean {
    const passed = nowMs - this.atMs;
    if (passed > 0) {
      this.atMs = nowMs;
      this.us = Math.min(CREDIT_MOST_US, this.us + (passed * 1000) / CREDIT_PART);
    }
    return this.us > 0;
  }

  /** An attempt took `us`. Returns what `giveBack` is to get if it succeeds. */
  spend(us: number): number {
    const cost = Math.max(0, Math.min(0xffff, us));
    this.us -= cost;
    return cost;
  }

  giveBack(us: number): void {
    this.us = Math.min(CREDIT_MOST_US, this.us + us);
  }
}
