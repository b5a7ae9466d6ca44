/**
 * Send buffers of sockets on short paths.
 *
 * The window told to the guest is what the send buffer has room for (window.ts). Linux makes the buffer grow with the
 * congestion window, which is small where the round trip is: within a host or a data centre it may stay below 100 KB
 * for good. A process on the host does not notice, as it fills the buffer again within the round trip. A guest needs
 * longer, and does not send segments of more than half of the largest window it saw (RFC 9293 §3.8.6.2.1), so it would
 * pay for more and smaller frames, more interrupts and more acknowledgements.
 *
 * So the buffer of a flow that sends much over a path that drains it quickly is made larger, once. SO_SNDBUF ends the
 * kernel's own tuning; SO_BUF_LOCK (Linux 5.14) lets it go on from there. Buffers of slow paths are left as they are:
 * what is queued in them delays what the guest sends next.
 */
import { seqDiff } from '../kit/seq';
import { MEMINFO_SNDBUF } from '../ports';
import { SOL_SOCKET, SO_BUF_LOCK, SO_SNDBUF } from '../kit/linux';
import type { TcpEngine } from './flow';

/** Bytes from the guest before its flow counts as one that sends much. */
const MUCH = 65536;
/** Asked for, bytes: Linux's default upper limit (net.core.wmem_max). */
const WANTED = 212_992;
/** SO_MEMINFO reports twice the requested size of a buffer, for the kernel's bookkeeping (socket(7)). */
export const SEND_BUFFER_GOAL = 2 * WANTED;
/** SO_BUF_LOCK: neither buffer's size is fixed. */
const UNLOCKED = 0;

/** `size`, `queued`: the send buffer as SO_MEMINFO tells it. @returns its size now. */
export function grownSendBuffer(t: TcpEngine, flow: number, size: number, queued: number): number {
  if (size >= t.sendBufferGoal || queued > size / 4) return size;
  // From half of the sequence numbers on the difference is negative: that is much, too.
  const sent = seqDiff(t.rcvNxt[flow], t.irs[flow]);
  if (sent >= 0 && sent < MUCH) return size;
  const { io } = t;
  const fd = t.fd[flow];
  // First, to see whether it is known here: a size that cannot be unlocked again must not be set.
  if (io.setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, UNLOCKED) < 0) {
    t.sendBufferGoal = 0;
    return size;
  }
  io.setsockopt(fd, SOL_SOCKET, SO_SNDBUF, WANTED);
  io.setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, UNLOCKED);
  if (io.memInfo(fd) < 0) return size;
  const grown = io.memInfoOut[MEMINFO_SNDBUF];
  // The host allows no more: not tried again.
  if (grown < t.sendBufferGoal) t.sendBufferGoal = grown;
  return grown;
}
