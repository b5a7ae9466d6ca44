/** What TCP remembers from one flow to the next while it serves them: this turn of the loop, and the guest's buffers. */
export class Turn {
  /** Bytes of payload the flow served last has sent. */
  sentNow = 0;
  /** Light flows have sent data in this turn that is not yet published to the guest. */
  eager = false;
  /** The light flows took all receive buffers the last time: a bulk flow is served before them now. */
  bulkFirst = false;
  /** No receive buffers: everybody queues up until `onGuestReady`. */
  starved = false;
  /** When that began. */
  starvedAt = 0;

  /** The guest has no receive buffer. */
  starve(nowMs: number): void {
    if (this.starved) return;
    this.starved = true;
    this.starvedAt = nowMs;
  }

  reset(): void {
    this.eager = false;
    this.bulkFirst = false;
    this.starved = false;
  }
}
