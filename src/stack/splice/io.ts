/** What the bypass needs of the system besides `HostIo`: pairs of sockets (addon/splice.cc), and sockets of a namespace. */
import type { HostIo } from '../ports';

// Answers of `spliceMove` that are no -errno.
export const SPLICE_WAITS = 0;
/** The budget is used up, and no event will say that there is more to do. */
export const SPLICE_MORE = 1;
/** Both ends have closed, and all that they sent before is delivered. */
export const SPLICE_DONE = 2;

/** Indices into `spliceOut`: bytes that the last `spliceMove` moved from each side; the side of the socket that failed. */
export const SPLICE_FROM_A = 0;
export const SPLICE_FROM_B = 1;
export const SPLICE_FAILED = 2;

export interface SpliceIo extends HostIo {
  /** Makes pair `id` (its slot) of two TCP sockets, side 0 connected, side 1 connecting. Both are the pair's from now on. */
  spliceOpen(id: number, a: number, b: number): number;
  /**
   * `ofA` and `ofB` (EPOLL*; 0: none new) were seen at the two sides, which are watched edge-triggered: moves what can be
   * moved, up to `budget` bytes each way. SPLICE_*, or the -errno of the socket that failed; a reset is -ECONNRESET or
   * -EPIPE.
   */
  spliceMove(id: number, ofA: number, ofB: number, budget: number): number;
  /** Bytes that came from side `side` and were given to the other. */
  spliceMoved(id: number, side: number): number;
  /** Closes both sockets; `abort` 1: by a reset. */
  spliceClose(id: number, abort: number): number;
  readonly spliceOut: Float64Array;
  /**
   * Asks the process inside the namespace, over socket `fd`, for `count` (64 at the most) sockets: AF_* and SOCK_STREAM (1)
   * or SOCK_DGRAM (2).
   */
  askSockets(fd: number, family: number, type: number, count: number): number;
  /** An answer: `out[0]` its family, `out[1]` its type, then the descriptors, of which the number is returned. -EPIPE: it is gone. */
  takeSockets(fd: number, out: Int32Array): number;
}
