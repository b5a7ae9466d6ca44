/** How many ICMP errors of one kind the guest may provoke: a token bucket (RFC 4443 §2.4 f, RFC 1812 §4.3.2.8). */
import type { Clock } from '../ports';

/** Errors at once, and how soon another one may follow (RFC 4443 §2.4 f suggests ten, and ten a second). */
const BURST = 10;
const REFILL_MS = 100;

export class ErrorBudget {
  private readonly clock: Clock;
  private tokens: number;
  /** When the bucket was last filled, milliseconds. */
  private filledMs: number;

  constructor(clock: Clock) {
    this.clock = clock;
    this.tokens = BURST;
    this.filledMs = clock.nowMs;
  }

  /** Takes a token, if there is one. Does not allocate. */
  take(): boolean {
    const { nowMs } = this.clock;
    const fresh = Math.floor((nowMs - this.filledMs) / REFILL_MS);
    if (fresh > 0) {
      this.tokens = Math.min(BURST, this.tokens + fresh);
      this.filledMs += fresh * REFILL_MS;
    }
    if (this.tokens === 0) return false;
    this.tokens--;
    return true;
  }
}
