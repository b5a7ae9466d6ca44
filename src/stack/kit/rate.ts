/**
 * A limit of bytes in time, one direction of the guest's link: a token bucket that may go into debt by what passes at once, as
 * nothing is cut or dropped for it. Who is told to wait leaves its bytes where they are (the guest's ring, a socket), and asks
 * again at `dueMs`.
 */
import type { Clock } from '../ports';

/**
 * Tokens of a link that was idle: what it may send at once, in time at its rate, µs. Also what makes up for a thread that was
 * woken late.
 */
const BURST_US = 50_000;
/** What one flow may send before others have their turn, likewise. */
const SHARE_US = 10_000;
/** Smallest share, bytes: a segment on an Ethernet. */
const MIN_SHARE = 1460;

export class Rate {
  /** There is a limit. */
  on: boolean;
  /** What one flow may send before others have their turn, bytes. Infinity: there is no limit. */
  share: number;
  /** Bytes in a µs. */
  private speed: number;
  private tokens: number;
  private most: number;
  /** When the tokens were last counted, CLOCK_MONOTONIC in µs. */
  private atUs: number;

  constructor() {
    this.on = false;
    this.share = Infinity;
    this.speed = 0;
    this.tokens = 0;
    this.most = 0;
    this.atUs = 0;
  }

  /** `bitsPerSecond` from now on; 0: no limit. */
  set(clock: Clock, bitsPerSecond: number): void {
    this.on = bitsPerSecond > 0;
    this.speed = bitsPerSecond / 8e6;
    this.most = this.speed * BURST_US;
    this.share = this.on ? Math.max(MIN_SHARE, Math.floor(this.speed * SHARE_US)) : Infinity;
    this.tokens = 0;
    this.atUs = clock.nowUs();
  }

  /** May something pass now? */
  allows(clock: Clock): boolean {
    if (!this.on) return true;
    const now = clock.nowUs();
    this.tokens = Math.min(this.most, this.tokens + (now - this.atUs) * this.speed);
    this.atUs = now;
    return this.tokens >= 0;
  }

  /** `bytes` pass. */
  take(bytes: number): void {
    this.tokens -= bytes;
  }

  /** When `allows` is worth asking again (clock.nowMs scale). */
  dueMs(clock: Clock): number {
    if (!this.on) return clock.nowMs;
    return clock.nowMs + Math.max(1, Math.ceil(-this.tokens / this.speed / 1000));
  }
}

/** Of the guest's link, by direction as the guest sees it. */
export class Rates {
  /** To the guest. */
  readonly in: Rate;
  /** From the guest. */
  readonly out: Rate;

  constructor() {
    this.in = new Rate();
    this.out = new Rate();
  }
}
