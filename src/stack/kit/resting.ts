/**
 * Sockets at which a call failed because the kernel had no memory, buffer or watch left. They are watched
 * edge-triggered, so data that waits in them may cause no further event: they are tried again after a time.
 */
import { SlotQueue } from './flow-table';
import { ENOBUFS, ENOMEM, ENOSPC } from './linux';

/** Pause before they are tried again, ms. */
export const REST_MS = 50;

/** -errno of a call says that the host is short of something now, and nothing of the socket. */
export function isShortage(error: number): boolean {
  return error === -ENOMEM || error === -ENOBUFS || error === -ENOSPC;
}

/** The log line for a forwarded port whose socket could not be watched. */
export function unwatchedText(protocol: string, port: number, error: number, later: boolean): string {
  const what = `${protocol} port ${String(port)}: the socket cannot be watched (errno ${String(-error)})`;
  return later ? `${what}, trying again` : `${what}: the port is not forwarded`;
}

export class RestingSockets {
  /** When they are to be tried again (clock.nowMs); Infinity: none rests. */
  dueMs: number;
  private readonly queue: SlotQueue;

  /** Sockets are numbers below `capacity`. */
  constructor(capacity: number) {
    this.dueMs = Infinity;
    this.queue = new SlotQueue(capacity);
  }

  /** How many rest. */
  get length(): number {
    return this.queue.length;
  }

  /** Lets a socket rest, unless it does. Those that come while others rest are tried with them. */
  push(id: number, nowMs: number): void {
    this.queue.push(id);
    if (this.dueMs === Infinity) this.dueMs = nowMs + REST_MS;
  }

  /** The socket is no more, or was served. */
  remove(id: number): void {
    this.queue.remove(id);
    if (this.queue.length === 0) this.dueMs = Infinity;
  }

  /**
   * The time is over: how many to `take` now, 0 before. Those that come to rest after this call are not among them, and are due
   * after another pause.
   */
  due(nowMs: number): number {
    if (this.dueMs > nowMs) return 0;
    this.dueMs = Infinity;
    return this.queue.length;
  }

  /** The next of those that are due, which rests no more; -1: none is left. */
  take(): number {
    return this.queue.shift();
  }
}
