/**
 * A credit of time for attempts that may fail: connections, and flows of datagrams that stay unanswered.
 *
 * It grows by one part in CREDIT_PART of the time that passes, and gets back what an attempt cost when it succeeds. So
 * failed attempts take at most an eighth of the data plane's time, and successful ones have no limit.
 */

import type { Clock } from '../ports';

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

/** The credit that flows of datagrams are opened on, with what each of them cost until it is answered. */
export class FlowCredit {
  private readonly clock: Clock;
  private readonly credit: Credit;
  /** µs, by flow number. */
  private readonly cost: Uint16Array;
  private fromUs: number;

  constructor(capacity: number, clock: Clock) {
    this.clock = clock;
    this.credit = new Credit(clock.nowMs);
    this.cost = new Uint16Array(capacity);
    this.fromUs = 0;
  }

  /** The guest wants a flow. False: there is no credit for it; else `opened` follows. */
  take(): boolean {
    if (!this.credit.left(this.clock.nowMs)) return false;
    this.fromUs = this.clock.nowUs();
    return true;
  }

  /** The attempt is over: `slot` is the flow's number, or negative. Returns it. */
  opened(slot: number): number {
    const cost = this.credit.spend(this.clock.nowUs() - this.fromUs);
    if (slot >= 0) this.cost[slot] = cost;
    return slot;
  }

  /** The flow is answered: what it cost is given back, once. */
  answered(slot: number): void {
    this.credit.giveBack(this.cost[slot]);
    this.cost[slot] = 0;
  }

  /** The number belongs to no flow any more. */
  free(slot: number): void {
    this.cost[slot] = 0;
  }
}
