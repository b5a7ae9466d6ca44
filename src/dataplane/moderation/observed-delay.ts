/**
 * How long to wait for something that mostly happens by itself: about twice as long as it has lately taken, within
 * bounds. That it has happened is seen only when the loop looks, so a time seen before the wait was over is an upper
 * bound, and "by the end of the wait" says nothing but that the wait was long enough: it becomes a little shorter then,
 * until it proves too short. After several waits in a row in which nothing happened the shortest one has to do, and a
 * long one is tried again after many. Times in µs.
 */

/** Weight of one time seen. */
const GAIN = 1 / 8;
/** What a wait at whose end it had happened takes off. */
const SHRINK = 1 / 64;
/** What a single wait that was too short adds; from the second in a row on it doubles. */
const GROWTH = 1.25;
/** After this many waits in a row in which it did not happen, it counts as something that does not happen. */
const MISSES = 8;
/** Short waits before a long one is tried again. */
const SKIPS = 1024;

export class ObservedDelay {
  readonly leastUs: number;
  readonly mostUs: number;
  private readonly firstUs: number;
  private usualUs: number;
  private misses: number;
  private skips: number;

  /** @param firstUs how long the first wait is. */
  constructor(leastUs: number, mostUs: number, firstUs: number) {
    this.leastUs = leastUs;
    this.mostUs = mostUs;
    this.firstUs = firstUs;
    this.usualUs = firstUs / 2;
    this.misses = 0;
    this.skips = 0;
  }

  /** Another guest: nothing is known of it. */
  reset(): void {
    this.usualUs = this.firstUs / 2;
    this.misses = 0;
    this.skips = 0;
  }

  /** How long it usually takes; 0: it does not happen. */
  get usual(): number {
    return this.misses < MISSES ? this.usualUs : 0;
  }

  /** How long to wait, a whole number. */
  get us(): number {
    if (this.misses === MISSES) return this.skips === 0 ? this.mostUs : this.leastUs;
    return Math.min(Math.max(Math.ceil(2 * this.usualUs), this.leastUs), this.mostUs);
  }

  /** It had happened when the loop looked, `afterUs` after the wait began. */
  happened(afterUs: number): void {
    const after = Math.min(afterUs, this.mostUs);
    if (this.misses === MISSES) this.usualUs = after / 2;
    else if (after < this.us) this.usualUs += GAIN * (after - this.usualUs);
    else this.usualUs -= SHRINK * this.usualUs;
    this.misses = 0;
  }

  /** It had not happened when the wait was over. */
  missed(): void {
    if (this.misses === MISSES) {
      this.skips = this.skips === 0 ? SKIPS : this.skips - 1;
      return;
    }
    const factor = this.misses === 0 ? GROWTH : 2;
    this.usualUs = Math.min(factor * Math.max(this.usualUs, this.leastUs / 2), this.mostUs / 2);
    if (++this.misses === MISSES) this.skips = SKIPS;
  }
}
