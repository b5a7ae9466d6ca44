/**
 * Front-ends that come while another one is served. The first few are closed at once, so that a program that tries once
 * fails at its start and does not hang. QEMU connects again at once, for ever and before it runs its guest or answers its
 * monitor: 500 times a second. So one that comes after others, without a second's pause between them, is closed HOLD_MS
 * later, or served if the present one leaves in that time.
 */

/** Closed at once, until there is a pause. */
const AT_ONCE = 4;
const PAUSE_MS = 1000;
const HOLD_MS = 250;
/** Held at the same time; another takes the place of the oldest. */
const MOST_HELD = 8;

export class TurnedAway {
  private readonly refuse: (fd: number, held: boolean) => void;
  private readonly onHold: (ms: number) => void;
  /** Oldest first, and until when each is held. A flood of them leaves no garbage: there is one timer, for the oldest. */
  private readonly fds = new Int32Array(MOST_HELD);
  private readonly until = new Float64Array(MOST_HELD);
  private held = 0;
  private timer: NodeJS.Timeout | null = null;
  private lastAt = -Infinity;
  private inARow = 0;

  /** `refuse` closes a connection; `onHold`: from now on, until there is a pause, connections are closed `ms` later. */
  constructor(refuse: (fd: number, held: boolean) => void, onHold: (ms: number) => void) {
    this.refuse = refuse;
    this.onHold = onHold;
  }

  /** Takes a connection over: closes it, now or later. */
  add(fd: number): void {
    const now = performance.now();
    if (now - this.lastAt >= PAUSE_MS) this.inARow = 0;
    this.lastAt = now;
    if (++this.inARow <= AT_ONCE) {
      this.refuse(fd, false);
      return;
    }
    if (this.inARow === AT_ONCE + 1) this.onHold(HOLD_MS);
    if (this.held >= MOST_HELD) this.refuse(this.take(), true);
    this.fds[this.held] = fd;
    this.until[this.held] = now + HOLD_MS;
    this.held++;
    this.arm(HOLD_MS);
  }

  /** Gives back the connection that has waited longest; -1: none waits. */
  take(): number {
    if (this.held === 0) return -1;
    const fd = this.fds[0];
    this.fds.copyWithin(0, 1, this.held);
    this.until.copyWithin(0, 1, this.held);
    this.held--;
    return fd;
  }

  /** Closes all that wait. */
  close(): void {
    for (let fd = this.take(); fd >= 0; fd = this.take()) this.refuse(fd, true);
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }

  private arm(ms: number): void {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.letGo();
    }, ms);
  }

  private letGo(): void {
    const now = performance.now();
    while (this.held > 0 && this.until[0] <= now) {
      // The pause is counted from here: a front-end that was held connects again only now.
      this.lastAt = now;
      this.refuse(this.take(), true);
    }
    if (this.held > 0) this.arm(this.until[0] - now);
  }
}
