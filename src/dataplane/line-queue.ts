/**
 * Lines on their way from the worker to the log. The control plane may be busy for seconds, or hang: what a guest
 * provokes in that time must not pile up in the message port. So both sides count, and while too many lines wait,
 * further ones are dropped at their source, before they cost anything.
 */

/**
 * Lines of `trace` that may wait: a guest sends faster than a terminal shows, and what waits is written before the
 * control plane does anything else.
 */
export const MAX_WAITING_TRACE = 1000;
/** Other lines that may wait; each place that logs has its own limit per second besides (src/stack/kit/site-log.ts). */
export const MAX_WAITING_LOG = 256;
/** Names of addresses that may wait; further ones are not known to who looks at flows. */
export const MAX_WAITING_NAMES = 256;

/** Addresses of the guest's that may wait. */
export const MAX_WAITING_ADDRESSES = 64;

/** A count for a queue: its writer is the control plane, its reader the data plane. */
export function newCount(): Int32Array {
  return new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
}

export class LineQueue {
  private readonly written: Int32Array;
  private readonly limit: number;
  private posted: number;
  private leftOut: number;

  /** `written[0]`: how many of the posted lines are in the log, mod 2^32; counted by the log's writer. */
  constructor(written: Int32Array, limit: number) {
    this.written = written;
    this.limit = limit;
    this.posted = 0;
    this.leftOut = 0;
  }

  /** True if `count` lines may be posted, which counts them as such; else they are to be left out, and count so. */
  take(count: number): boolean {
    if (((this.posted - Atomics.load(this.written, 0)) | 0) >= this.limit) {
      this.leftOut += count;
      return false;
    }
    this.posted = (this.posted + count) | 0;
    return true;
  }

  /** How many lines were left out since the last call; 0: none. */
  takeLeftOut(): number {
    const { leftOut } = this;
    this.leftOut = 0;
    return leftOut;
  }
}
