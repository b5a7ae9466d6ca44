/**
 * Data from the host's socket to the guest: peeked into frames reserved on the guest's receive queue, one system call
 * for many segments.
 */
import { seqAdd, seqDiff, seqGt, seqLe, seqLt } from '../kit/seq';
import { ROWS_OUT, ROWS_PER_CALL, SCRATCH_TCP, SCRATCH_TCP_SIZE } from '../scratch';
import { C_TCP_RETRANSMITS } from '../counters';
import { COMMIT_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, MSG_PEEK } from '../ports';
import { rowBytes, setRow } from '../kit/rows';
import { EAGAIN, SOL_SOCKET, SO_PEEK_OFF } from '../kit/linux';
import { TCP_ACK, TCP_CHECKSUM_OFFSET, TCP_FIN, TCP_HEADER_LEN, TCP_PSH } from '../wire/tcp';
import {
  ACK_DELAY_MS,
  F_ACK_OWED,
  F_ANSWERS,
  F_FIN_ACKED,
  F_HOST_EOF,
  F_HOST_ERROR,
  F_LOSS,
  F_PEEK_OFF,
  F_PERSIST,
  F_RDHUP,
  F_READABLE,
  F_RTX_DUE,
  F_SQUEEZED,
  F_TIMING,
  F_URGENT,
  F_V6,
  HINT_MIN,
  MIN_MSS,
  TIMER_MAIN,
  backedOffRto,
  setTimer,
  timerIsSet,
} from './flow';
import type { TcpEngine } from './flow';
import { answerLimit, readAnswers } from './first-bytes';
import { noteWindowUsedUp } from './traffic-hints';
import { MAX_FRAMES } from './reserved-frames';
import { l4Offset, noteFirstFin, sendFin, writeSegment } from './send';
import { refreshWindow, windowField } from './window';

/** Nothing more can be sent before something happens that will be noticed. */
export const OUT_IDLE = 0;
/** The guest has no receive buffer. */
export const OUT_STARVED = 1;
/** The flow had its share of this turn. */
export const OUT_BUDGET = 2;

/** The guest may not get more at the moment (`--rate-in`): the flow waits in `t.throttled`. */
export const OUT_THROTTLED = 3;

/** Bytes a bulk flow may send before others have their turn. */
export const BULK_SHARE = 1024 * 1024;
/** Bytes a flow may send where its event is handled, before all bulk: one segment of the largest kind. */
export const LIGHT_SHARE = 64 * 1024;
/** A frame small enough for what a guest with few buffers left may have. */
const SMALL_FRAME = 1024;

/** Sends up to `budget` bytes of what can be sent, and counts them in `turn.sentNow`. Returns OUT_*. */
export function output(t: TcpEngine, flow: number, budget: number): number {
  const rate = t.ctx.link.rates.in;
  if (rate.on) budget = Math.min(budget, rate.share);
  t.turn.sentNow = 0;
  if ((t.flags[flow] & F_ACK_OWED) !== 0 && mayRead(t, flow)) refreshWindow(t, flow);
  for (;;) {
    const flags = t.flags[flow];
    if ((flags & F_HOST_EOF) !== 0 && t.sndNxt[flow] === t.finSeq[flow]) return outputFin(t, flow);
    if (!mayRead(t, flow)) return OUT_IDLE;
    const room = usableWindow(t, flow);
    if (room <= 0) {
      noteWindowUsedUp(t, flow);
      persist(t, flow);
      return OUT_IDLE;
    }
    if (rate.on && !rate.allows(t.clock)) {
      t.throttled.push(flow);
      return OUT_THROTTLED;
    }
    // Less than a segment of it left would make a runt.
    if (budget <= 0 || (t.turn.sentNow > 0 && budget < room && budget < segmentSize(t, flow))) return OUT_BUDGET;
    const want = Math.min(room, budget, t.hint[flow]);
    const sent = outputSegments(t, flow, want, room);
    if (sent < 0) {
      if (sent === -1) return OUT_STARVED;
      if ((t.flags[flow] & F_HOST_EOF) === 0 || t.sndNxt[flow] !== t.finSeq[flow]) return OUT_IDLE;
      continue; // end of stream: FIN
    }
    budget -= sent;
  }
}

/** True if there are, or may be, bytes in the socket after sndNxt. */
function mayRead(t: TcpEngine, flow: number): boolean {
  const end = (t.flags[flow] & F_HOST_EOF) !== 0 ? t.finSeq[flow] : t.sndMax[flow];
  if (seqLt(t.sndNxt[flow], end)) return true;
  return (t.flags[flow] & (F_READABLE | F_HOST_EOF)) === F_READABLE;
}

/**
 * Segment size toward the guest: its MSS, but at most half of the largest window it ever had. With a window of one
 * segment (64 KiB at MTU 65520) the guest would get one at a time and delay its acknowledgement of each, 40 ms on
 * Linux, and neither its nor the host's receive window would ever grow. Linux does the same (RFC 1122 §4.2.3.4).
 */
export function segmentSize(t: TcpEngine, flow: number): number {
  return Math.max(MIN_MSS, Math.min(t.mss[flow], t.maxWnd[flow] >> 1));
}

/**
 * Bytes the guest's window has room for now. A sliver of a window is not used while an acknowledgement is to come
 * that may open it (RFC 9293 §3.8.6.2.1).
 */
function usableWindow(t: TcpEngine, flow: number): number {
  let room = seqDiff(seqAdd(t.sndUna[flow], t.sndWnd[flow]), t.sndNxt[flow]);
  const inFlight = seqDiff(t.sndNxt[flow], t.sndUna[flow]);
  if ((t.flags[flow] & F_LOSS) !== 0) {
    const first = segmentSize(t, flow) - inFlight;
    if (room > first) room = first;
  } else if (inFlight > 0 && room < segmentSize(t, flow)) {
    return 0;
  }
  return room;
}

/** The window is used up: while nothing is in flight, only probes find out when it opens. */
function persist(t: TcpEngine, flow: number): void {
  if (t.sndMax[flow] !== t.sndUna[flow] || timerIsSet(t, flow, TIMER_MAIN)) return;
  t.flags[flow] |= F_PERSIST;
  setTimer(t, flow, TIMER_MAIN, backedOffRto(t, flow));
}

function outputFin(t: TcpEngine, flow: number): number {
  if ((t.flags[flow] & F_FIN_ACKED) !== 0) return OUT_IDLE;
  const seq = t.finSeq[flow];
  // The FIN takes a sequence number, hence a byte of window (RFC 9293 §3.4).
  if (seqLe(seqAdd(t.sndUna[flow], t.sndWnd[flow]), seq)) {
    persist(t, flow);
    return OUT_IDLE;
  }
  if ((t.flags[flow] & F_ACK_OWED) !== 0) refreshWindow(t, flow);
  if (!sendFin(t, flow, seq)) return OUT_STARVED;
  advanceTo(t, flow, seqAdd(seq, 1));
  return OUT_IDLE;
}

/** Segments up to `next` are out: moves sndNxt and sndMax, sees to the timer. */
function advanceTo(t: TcpEngine, flow: number, next: number): void {
  t.sndNxt[flow] = next;
  if (seqGt(next, t.sndMax[flow])) {
    if ((t.flags[flow] & F_TIMING) === 0 && t.backoff[flow] === 0) {
      // One segment at a time is timed, never one that was sent before (RFC 6298 §3, Karn).
      t.flags[flow] |= F_TIMING;
      t.rttSeq[flow] = next;
      t.rttAt[flow] = t.clock.nowMs;
    }
    t.sndMax[flow] = next;
  }
  if (!timerIsSet(t, flow, TIMER_MAIN)) setTimer(t, flow, TIMER_MAIN, backedOffRto(t, flow));
}

/**
 * Largest payload of one frame to the guest: a segment, or with segmentation offload as many whole ones as the frame
 * holds, but no more than half of the largest window the guest had: it acknowledges one half while the other comes.
 */
function frameLimit(t: TcpEngine, flow: number): number {
  const port = t.port;
  const v6 = (t.flags[flow] & F_V6) !== 0;
  const headers = l4Offset(t, flow) + TCP_HEADER_LEN;
  const most = Math.min(14 + 65535, port.maxFrame) - headers;
  const mss = segmentSize(t, flow);
  if (most <= mss) return most;
  if (!(v6 ? port.gsoTcp6 : port.gsoTcp4)) return mss;
  const large = Math.max(mss, Math.min(most, t.maxWnd[flow] >> 1));
  return large - (large % mss);
}

/** Reserves frames for up to `want` bytes, rows from `row` on: fills `t.reserved`. Returns their number. */
function reserveFrames(t: TcpEngine, flow: number, want: number, row: number): number {
  const { port, reserved } = t;
  const headers = l4Offset(t, flow) + TCP_HEADER_LEN;
  const limit = frameLimit(t, flow);
  const rowEnd = ROWS_OUT + ROWS_PER_CALL;
  const first = row;
  let frames = 0;
  let bytes = 0;
  reserved.ranOut = false;
  while (bytes < want && frames < MAX_FRAMES && row < rowEnd) {
    let room = Math.min(limit, want - bytes);
    let rows = port.reserve(headers, room, row);
    if (rows < 0 && frames === 0 && (t.flags[flow] & F_SQUEEZED) !== 0 && room > SMALL_FRAME) {
      // Not even one frame, the second time: the guest may never have room for a large one.
      room = SMALL_FRAME;
      rows = port.reserve(headers, room, row);
    }
    if (rows < 0) {
      reserved.ranOut = true;
      break;
    }
    if (row + rows > rowEnd) {
      rows = rowEnd - row;
      room = rowBytes(t.io.rows, row, rows);
    }
    reserved.room[frames++] = room;
    bytes += room;
    row += rows;
  }
  reserved.bytes = bytes;
  reserved.rows = row - first;
  if (frames === 0) t.flags[flow] |= F_SQUEEZED;
  else t.flags[flow] &= ~F_SQUEEZED;
  return frames;
}

/**
 * Reads up to `want` bytes from sndNxt on into frames and sends them. `room` is the guest's window. Returns bytes sent,
 * -1 if there are no receive buffers (any more), or -2 if nothing is left to read, or the socket failed.
 */
function outputSegments(t: TcpEngine, flow: number, want: number, room: number): number {
  const mss = segmentSize(t, flow);
  // Whole segments, unless the window leaves no choice: the rest would go out as a runt.
  if (want > mss) want -= want % mss;
  if ((t.flags[flow] & F_ANSWERS) !== 0) readAnswers(t, flow);
  const skip = skipRows(t, flow, t.sndNxt[flow]);
  if (skip < 0) return -2;
  const frames = reserveFrames(t, flow, want, ROWS_OUT + skip);
  if (frames === 0) return -1;
  const { bytes: asked, ranOut } = t.reserved;
  const n = peek(t, flow, t.sndNxt[flow], skip, t.reserved.rows);
  if (n <= 0) {
    t.port.cancel();
    if (n < 0) noteReadError(t, flow, n);
    else noteEndOfStream(t, flow);
    return -2;
  }
  const next = seqAdd(t.sndNxt[flow], n);
  const fin = n < asked && endsHere(t, flow, next) && takesFin(t, flow, n) ? 1 : 0;
  commitFrames(t, flow, frames, n, t.sndNxt[flow], fin);
  if (seqLt(t.sndNxt[flow], t.sndMax[flow])) t.ctx.counters[C_TCP_RETRANSMITS]++;
  advanceTo(t, flow, seqAdd(next, fin));
  t.turn.sentNow += n;
  t.ctx.traffic.toGuest += n;
  const now = t.clock.nowMs;
  t.activeAt[flow] = now;
  // A prompt answer to what the guest sent.
  if (t.ackScore[flow] < 0 && now - t.guestAt[flow] <= ACK_DELAY_MS) t.ackScore[flow]++;
  t.flags[flow] &= ~F_ACK_OWED;
  adaptHint(t, flow, n, asked, room);
  if (n < asked) {
    if ((t.flags[flow] & (F_RDHUP | F_URGENT | F_HOST_ERROR)) === 0) t.flags[flow] &= ~F_READABLE;
  } else if (ranOut) {
    return -1;
  }
  return n;
}

/**
 * A peek returned less than there was room for, up to `next`: notes that the stream ends there if its end was seen before
 * the peek and no urgent mark can have stopped that, which saves the peek that would say the same.
 */
function endsHere(t: TcpEngine, flow: number, next: number): boolean {
  const seen = t.flags[flow] & (F_RDHUP | F_URGENT | F_HOST_ERROR | F_HOST_EOF);
  // Rows that skip what is in flight take room from those of the peek.
  if (seen !== F_RDHUP || !t.ctx.config.tcpPeekOff || t.sndNxt[flow] !== t.sndMax[flow]) return false;
  t.flags[flow] &= ~F_READABLE;
  noteFin(t, flow, next);
  return true;
}

/** May the FIN go with the `n` bytes before it? With one segment of them: not every guest takes it from a larger frame. */
function takesFin(t: TcpEngine, flow: number, n: number): boolean {
  if (n > segmentSize(t, flow) || seqLe(seqAdd(t.sndUna[flow], t.sndWnd[flow]), t.finSeq[flow])) return false;
  noteFirstFin(t, flow);
  return true;
}

/** Next time's guess at how much is there: doubles while reads come back full, halves while they are mostly empty. */
function adaptHint(t: TcpEngine, flow: number, n: number, asked: number, room: number): void {
  const hint = t.hint[flow];
  if (n === asked) {
    if (asked < room && hint < BULK_SHARE) t.hint[flow] = hint * 2;
  } else if (n < hint / 4 && hint > HINT_MIN) {
    t.hint[flow] = hint / 2;
  }
}

/**
 * Writes headers in front of the `n` bytes read from `seq` on, commits the filled frames and cancels the others; `fin` 1: the
 * stream ends behind them.
 */
function commitFrames(t: TcpEngine, flow: number, frames: number, n: number, seq: number, fin: number): void {
  const { port } = t;
  const rate = t.ctx.link.rates.in;
  const { room } = t.reserved;
  const l4 = l4Offset(t, flow);
  const mss = segmentSize(t, flow);
  const gso = (t.flags[flow] & F_V6) !== 0 ? GSO_TCPV6 : GSO_TCPV4;
  const window = windowField(t, flow);
  const ack = t.rcvNxt[flow];
  let left = n;
  let i = 0;
  while (i < frames && left > 0) {
    const len = Math.min(room[i++], left);
    left -= len;
    port.front();
    const last = TCP_ACK | TCP_PSH | (fin === 1 ? TCP_FIN : 0);
    writeSegment(t, flow, seq, ack, TCP_HEADER_LEN, left === 0 ? last : TCP_ACK, window, len);
    rate.take(l4 + TCP_HEADER_LEN + len);
    const large = len > mss;
    port.commit(len, COMMIT_NEEDS_CSUM, l4, TCP_CHECKSUM_OFFSET, large ? gso : GSO_NONE, large ? mss : 0);
    seq = seqAdd(seq, len);
  }
  if (i < frames) port.cancel();
}

/**
 * Makes the next peek of the socket start at `seq`: by SO_PEEK_OFF, or by rows over scratch memory that take the bytes
 * before it. Returns the number of such rows, or -1 if the socket failed or too much is in flight.
 */
function skipRows(t: TcpEngine, flow: number, seq: number): number {
  let skip = seqDiff(seq, t.sockSeq[flow]);
  if (t.ctx.config.tcpPeekOff) {
    // Without it set, a peek starts at the head of the queue: many a short connection never needs it.
    if (skip === 0 && (t.flags[flow] & F_PEEK_OFF) === 0) return 0;
    if (t.peekSeq[flow] !== seq || (t.flags[flow] & F_PEEK_OFF) === 0) {
      const r = t.io.setsockopt(t.fd[flow], SOL_SOCKET, SO_PEEK_OFF, skip);
      if (r < 0) {
        t.flags[flow] |= F_HOST_ERROR;
        return -1;
      }
      t.flags[flow] |= F_PEEK_OFF;
      t.peekSeq[flow] = seq;
    }
    return 0;
  }
  let n = 0;
  while (skip > 0) {
    // The guest's acknowledgements bring the flow on from here.
    if (n === ROWS_PER_CALL / 2) return -1;
    const bytes = Math.min(skip, SCRATCH_TCP_SIZE);
    setRow(t.io.rows, ROWS_OUT + n, t.io.scratchRegion, SCRATCH_TCP, bytes);
    n++;
    skip -= bytes;
  }
  return n;
}

/** Peeks from `seq` on, as prepared by `skipRows`. Returns bytes, 0 at the end of the stream, or -errno. */
function peek(t: TcpEngine, flow: number, seq: number, skip: number, rows: number): number {
  const io = t.io;
  const n = io.recv(t.fd[flow], ROWS_OUT, Math.min(skip + rows, ROWS_PER_CALL), MSG_PEEK);
  if (n <= 0) return n;
  if (t.ctx.config.tcpPeekOff) {
    t.peekSeq[flow] = seqAdd(seq, n);
    return n;
  }
  const fresh = n - seqDiff(seq, t.sockSeq[flow]);
  if (fresh > 0) return fresh;
  // Bytes in flight only. A peek does not show the end of the stream after them; its event did.
  return fresh === 0 && (t.flags[flow] & F_RDHUP) !== 0 ? 0 : -EAGAIN;
}

function noteReadError(t: TcpEngine, flow: number, error: number): void {
  t.flags[flow] &= ~F_READABLE;
  if (error !== -EAGAIN) t.flags[flow] |= F_HOST_ERROR;
}

function noteEndOfStream(t: TcpEngine, flow: number): void {
  t.flags[flow] &= ~F_READABLE;
  // After an error the queue ends without a FIN; the reset follows.
  if ((t.flags[flow] & F_HOST_ERROR) !== 0) return;
  if (t.sndNxt[flow] !== t.sndMax[flow] || (t.flags[flow] & F_HOST_EOF) !== 0) {
    // Bytes that were there before are gone: nobody else reads this socket, but never pass a cut stream on as whole.
    t.flags[flow] |= F_HOST_ERROR;
    return;
  }
  noteFin(t, flow, t.sndNxt[flow]);
}

/** The host's stream ends: our FIN has the number `seq`. */
function noteFin(t: TcpEngine, flow: number, seq: number): void {
  t.flags[flow] |= F_HOST_EOF;
  t.finSeq[flow] = seq;
}

/** Sends the segment at sndUna again without moving sndNxt (fast retransmit). Returns OUT_IDLE or OUT_STARVED. */
export function retransmitFirst(t: TcpEngine, flow: number): number {
  const una = t.sndUna[flow];
  const eof = (t.flags[flow] & F_HOST_EOF) !== 0;
  const end = eof && seqGt(t.sndMax[flow], t.finSeq[flow]) ? t.finSeq[flow] : t.sndMax[flow];
  const len = Math.min(seqDiff(end, una), segmentSize(t, flow));
  t.flags[flow] &= ~F_TIMING;
  if (len <= 0) {
    if (eof && una === t.finSeq[flow] && una !== t.sndMax[flow] && !sendFin(t, flow, una)) return OUT_STARVED;
    t.flags[flow] &= ~F_RTX_DUE;
    return OUT_IDLE;
  }
  const skip = skipRows(t, flow, una);
  if (skip < 0) return OUT_IDLE;
  const frames = reserveFrames(t, flow, len, ROWS_OUT + skip);
  if (frames === 0) return OUT_STARVED;
  const n = peek(t, flow, una, skip, t.reserved.rows);
  t.flags[flow] &= ~F_RTX_DUE;
  if (n <= 0) {
    t.port.cancel();
    if (n < 0) noteReadError(t, flow, n);
    return OUT_IDLE;
  }
  commitFrames(t, flow, frames, n, una, 0);
  t.ctx.counters[C_TCP_RETRANSMITS]++;
  t.flags[flow] &= ~F_ACK_OWED;
  setTimer(t, flow, TIMER_MAIN, backedOffRto(t, flow));
  return OUT_IDLE;
}

/** Throws away what the guest has acknowledged. */
export function discardAcked(t: TcpEngine, flow: number): void {
  const eof = (t.flags[flow] & F_HOST_EOF) !== 0;
  let end = t.sndUna[flow];
  if (eof && seqGt(end, t.finSeq[flow])) end = t.finSeq[flow];
  if ((t.flags[flow] & F_ANSWERS) !== 0) end = answerLimit(t, flow, end);
  let n = seqDiff(end, t.sockSeq[flow]);
  while (n > 0) {
    // It stops at an urgent mark, hence the loop.
    const done = t.io.discard(t.fd[flow], n);
    if (done <= 0) {
      t.flags[flow] |= F_HOST_ERROR;
      return;
    }
    t.sockSeq[flow] = seqAdd(t.sockSeq[flow], done);
    n -= done;
  }
  // The kernel moves its peek offset along, but not below zero.
  if (seqLt(t.peekSeq[flow], t.sockSeq[flow])) t.peekSeq[flow] = t.sockSeq[flow];
}
