/**
 * Tells the control plane which addresses the guest uses, as they are learnt (stack/link/stations.ts). A guest can use
 * another one in each frame: BURST of them are told at once, and then one each INTERVAL_MS; how many were left out is said
 * with the next one that is told. Nothing is told while as many wait as may (LineQueue).
 */
import type { Clock } from '../stack/ports';
import type { LineQueue } from './line-queue';
import type { AddressNews } from './commands';

export const BURST = 16;
export const INTERVAL_MS = 1000;

export class AddressTeller {
  private readonly queue: LineQueue;
  private readonly clock: Clock;
  private readonly post: (news: AddressNews) => void;
  private left: number;
  /** From when on time counts toward the next one. */
  private sinceMs: number;
  private leftOut: number;

  constructor(queue: LineQueue, clock: Clock, post: (news: AddressNews) => void) {
    this.queue = queue;
    this.clock = clock;
    this.post = post;
    this.left = BURST;
    this.sinceMs = clock.nowMs;
    this.leftOut = 0;
  }

  /** For `StationTable.onStation`. */
  readonly told = (how: number, words: Int32Array, at: number, hi: number, lo: number): void => {
    const { nowMs } = this.clock;
    const earned = Math.floor((nowMs - this.sinceMs) / INTERVAL_MS);
    this.left = Math.min(BURST, this.left + earned);
    this.sinceMs = this.left === BURST ? nowMs : this.sinceMs + earned * INTERVAL_MS;
    if (this.left === 0 || !this.queue.take(1)) {
      this.leftOut++;
      return;
    }
    this.left--;
    const { leftOut } = this;
    this.leftOut = 0;
    this.post({ how, address: words.slice(at, at + 4), mac: [hi, lo], leftOut });
  };
}
