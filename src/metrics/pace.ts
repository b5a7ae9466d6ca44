/** How often something is done for those who ask, however often they do. */

/**
 * One result for all that ask for it at a time, never older than the question: `atOnce` of them in a row are made at once,
 * then `perSecond` a second, for which one waits.
 */
export class Shared<T> {
  private readonly make: () => Promise<T>;
  private readonly intervalMs: number;
  private readonly leadMs: number;
  private next: Promise<T> | null = null;
  /** When the next one would be due if they were evenly spaced (ms); it is made up to `leadMs` earlier. */
  private dueAt = -Infinity;

  constructor(perSecond: number, atOnce: number, make: () => Promise<T>) {
    this.make = make;
    this.intervalMs = 1000 / perSecond;
    this.leadMs = (atOnce - 1) * this.intervalMs;
  }

  /** A result made from now on. */
  get(): Promise<T> {
    this.next ??= this.begin();
    return this.next;
  }

  private async begin(): Promise<T> {
    const wait = this.dueAt - this.leadMs - performance.now();
    await new Promise((resolve) => (wait > 0 ? setTimeout(resolve, wait) : setImmediate(resolve)));
    // Who asks from here on gets another one.
    this.next = null;
    this.dueAt = Math.max(this.dueAt, performance.now()) + this.intervalMs;
    return this.make();
  }
}

/** Turns for what cannot be shared: `perSecond` of them, for which one waits `mostMs` at the most. */
export class Turns {
  private readonly intervalMs: number;
  private readonly mostMs: number;
  private nextAt = -Infinity;

  constructor(perSecond: number, mostMs: number) {
    this.intervalMs = 1000 / perSecond;
    this.mostMs = mostMs;
  }

  /** Settles when it is one's turn; false at once where that would take too long. */
  async take(): Promise<boolean> {
    const now = performance.now();
    const at = Math.max(now, this.nextAt);
    if (at - now > this.mostMs) return false;
    this.nextAt = at + this.intervalMs;
    if (at > now) await new Promise((resolve) => setTimeout(resolve, at - now));
    return true;
  }
}
