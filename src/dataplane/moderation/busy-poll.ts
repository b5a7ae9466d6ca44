/**
 * How long to look for work before going to sleep: as long as work has lately come soon enough for that to pay, and not
 * at all while it has not, so that a service with nothing to do costs nothing. Times in µs.
 */

/** The first window after none. Shorter ones are none. */
const LEAST_US = 16;

export class PollWindow {
  /** The longest that `us` becomes; 0: never look. */
  readonly maxUs: number;
  /** How long to look from now on. */
  us: number;

  /** @param maxUs whole µs, at least 0. */
  constructor(maxUs: number) {
    this.maxUs = maxUs;
    this.us = 0;
  }

  /** Work came `us` after there was none, and found the loop asleep: had it looked for longer, or need it not have? */
  slept(us: number): void {
    const { maxUs } = this;
    if (us <= maxUs) this.us = Math.min(Math.max(2 * this.us, LEAST_US), maxUs);
    else this.us = this.us < 2 * LEAST_US ? 0 : this.us >>> 1;
  }
}
