/**
 * A credit of time for attempts that may fail: connections, and flows of datagrams that stay unanswered.
 *
 * It grows by one part in CREDIT_PART of the time that passes, and gets back what an attempt cost when it succeeds. So
 * failed attempts take at most an eighth of the data plane's time, and successful ones have no limit.
 */

/** The credit's growth: one part in this many of the time that passes. */
const CREDIT_PART = 8;
/** The most there can be, µs. */
const CREDIT_MOST_US = 20_000;

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
