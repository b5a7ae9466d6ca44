/**
 * The window told to the guest: what the host socket will really take now.
 *
 * Linux accepts bytes into a TCP socket as long as the memory of what is queued (sk_wmem_queued, which counts buffer
 * heads too) is below sk_sndbuf; SO_MEMINFO tells both. The window is the free part, less an eighth for buffer heads,
 * or less what the queue's present ratio of bytes to memory says if that is worse (many small segments in flight). The
 * peer's own window is left out on purpose: the socket takes bytes beyond it, and a window bounded by it could close
 * without any event to reopen it.
 *
 * Looking costs a system call or two, so it is done again only when half of the room seen last is used up, or when what
 * is left is less than two segments (one, as long as a quarter is not used up): in bulk once for many acknowledgements,
 * in an exchange of messages hardly ever.
 *
 * A guest that may send only so much (`--rate-out`) is told no more than two turns of it, 20 ms: the rest would wait in its
 * transmit queue, and all it sends later, such as its acknowledgements of what it gets, would wait behind that. It is
 * enough for the whole rate: the acknowledgement comes from here, and an idle link makes up for 50 ms.
 *
 * The right edge never moves left (RFC 9293 §3.8.6), and moves right only by a useful step: a segment, or half of the
 * buffer if that is less (§3.8.6.2.2, silly windows).
 *
 * Reopening. The kernel announces room (EPOLLOUT, at a third free) only if it knows that someone waits: because a
 * send fell short, or because the socket was polled while full. So when the window told gets smaller than a useful
 * step, the socket's watch is renewed, which polls it: no edge can be lost, as a socket with room by then reports so
 * at once. Polling also tells the kernel that the sender is limited by the buffer, which makes it grow; see also
 * send-buffer.ts. Because a third of the buffer may be less than a useful step, a timer looks again from time to time
 * until the window is open.
 */
import { seqAdd, seqDiff, seqGt } from '../kit/seq';
import { EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, MEMINFO_SNDBUF, MEMINFO_WMEM_QUEUED } from '../ports';
import { KEY_KIND_SHIFT, KEY_TCP } from '../context';
import { F_ACK_DUE, F_GUEST_FIN, F_HOST_ERROR, F_OUT_ARMED, F_V6, TIMER_WINDOW, setTimer, timerIsSet } from './flow';
import type { TcpEngine } from './flow';
import { grownSendBuffer } from './send-buffer';

/** Urgent data (Linux): reads stop at its mark. */
export const EPOLLPRI = 0x002;

/** All a flow's socket is watched for, once and for all. */
export const SOCKET_EVENTS = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET;

const WINDOW_POLL_MS = 10;
/** 10 ms × 2^6 = 640 ms. */
const WINDOW_POLL_DOUBLINGS = 6;
/** Used where the kernel has no SO_MEMINFO. */
const WINDOW_BLIND = 65535;

export function socketKey(flow: number): number {
  return (KEY_TCP << KEY_KIND_SHIFT) | flow;
}

/**
 * Looks at the socket's send buffer and moves the right edge if there is a useful step's worth of room; sees to it
 * that a closed window opens again. Returns true if the edge moved.
 */
export function refreshWindow(t: TcpEngine, flow: number): boolean {
  const left = seqDiff(t.rcvAdv[flow], t.rcvNxt[flow]);
  const mss = (t.flags[flow] & F_V6) !== 0 ? t.mss6 : t.mss4;
  const seen = t.room[flow];
  const enough = left >= seen * 0.75 ? mss : 2 * mss;
  if (left >= enough && left >= seen / 2) return false;
  return look(t, flow, true);
}

/** `arm`: the kernel may be asked to announce room. Not in answer to its announcement: that could go round for ever. */
function look(t: TcpEngine, flow: number, arm: boolean): boolean {
  const fd = t.fd[flow];
  if (fd < 0 || (t.flags[flow] & (F_GUEST_FIN | F_HOST_ERROR)) !== 0) return false;
  const io = t.io;
  const mss = (t.flags[flow] & F_V6) !== 0 ? t.mss6 : t.mss4;
  const most = Math.min(65535 * 2 ** t.rcvScale[flow], 2 * t.ctx.link.rates.out.share);
  let available = WINDOW_BLIND;
  let step = mss;
  let writable = true;
  if (io.memInfo(fd) >= 0) {
    const queued = io.memInfoOut[MEMINFO_WMEM_QUEUED];
    const size = grownSendBuffer(t, flow, io.memInfoOut[MEMINFO_SNDBUF], queued);
    const free = size - queued;
    let share = 0.875;
    // Worth a second system call only once the queue says something about the traffic.
    if (queued > size / 4) {
      const bytes = io.outq(fd);
      if (bytes >= 0 && bytes < queued * share) share = bytes / queued;
    }
    available = free > 0 ? Math.floor(free * share) : 0;
    step = Math.min(mss, Math.floor(size * 0.4375));
    // The kernel's own idea of "writable" (sk_stream_is_writeable).
    writable = free > 0 && free >= Math.floor(queued / 2);
  }
  t.room[flow] = available;
  if (available > most) {
    available = most;
    // A window that cannot be told in full (a guest that does not scale, or has a rate) is worth a look each time.
    t.room[flow] = 2 * most;
  }
  if (step > most / 2) step = most / 2;
  const edge = seqAdd(t.rcvNxt[flow], available);
  const advance = seqDiff(edge, t.rcvAdv[flow]);
  let moved = false;
  if (advance >= step || (advance > 0 && available === most)) {
    t.rcvAdv[flow] = edge;
    moved = true;
  }
  if (seqDiff(t.rcvAdv[flow], t.rcvNxt[flow]) < step) {
    if (!writable && arm) armOutput(t, flow);
    if (!timerIsSet(t, flow, TIMER_WINDOW)) {
      const polls = t.windowPolls[flow];
      setTimer(t, flow, TIMER_WINDOW, WINDOW_POLL_MS * 2 ** polls);
      if (polls < WINDOW_POLL_DOUBLINGS) t.windowPolls[flow] = polls + 1;
    }
  } else {
    t.windowPolls[flow] = 0;
  }
  return moved;
}

/** Makes the kernel announce room in the send buffer. */
function armOutput(t: TcpEngine, flow: number): void {
  if ((t.flags[flow] & F_OUT_ARMED) !== 0) return;
  t.flags[flow] |= F_OUT_ARMED;
  t.io.rewatch(t.fd[flow], SOCKET_EVENTS, socketKey(flow), t.table.generation[flow]);
}

/**
 * The window field of the next segment. Rounded up to the scale's unit, so that rounding never takes back what was
 * promised.
 */
export function windowField(t: TcpEngine, flow: number): number {
  const scale = t.rcvScale[flow];
  const window = seqDiff(t.rcvAdv[flow], t.rcvNxt[flow]);
  if (window <= 0) return 0;
  const field = Math.min(65535, (window + (1 << scale) - 1) >> scale);
  const edge = seqAdd(t.rcvNxt[flow], field << scale);
  if (seqGt(edge, t.rcvAdv[flow])) t.rcvAdv[flow] = edge;
  return field;
}

/** The window field of a SYN or SYN-ACK, which is never scaled (RFC 7323 §2.2). */
export function synWindowField(t: TcpEngine, flow: number): number {
  const window = seqDiff(t.rcvAdv[flow], t.rcvNxt[flow]);
  return window <= 0 ? 0 : Math.min(65535, window);
}

/**
 * The kernel announced room, or (`byTimer`) it is time to look again: sends a window update if the window has grown.
 */
export function reopenWindow(t: TcpEngine, flow: number, byTimer: boolean): void {
  if (look(t, flow, byTimer)) t.flags[flow] |= F_ACK_DUE;
}
