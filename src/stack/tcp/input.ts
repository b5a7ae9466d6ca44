/**
 * Segments from the guest: RFC 9293 §3.10.7, with RFC 5961's stricter checks of RST, SYN and ACK.
 *
 * Payload of consecutive in-order segments of one flow is gathered: their rows are trimmed to the payload and moved
 * together, so that one system call at the end of the batch (or when another flow's data comes) sends it all. `rcvNxt`
 * moves only when the socket took the bytes; until then the expected sequence number is rcvNxt + gatherBytes.
 *
 * Out-of-order segments are not kept: each is answered with a duplicate acknowledgement.
 */
import { moveRows } from '../kit/rows';
import type { FrameInfo } from '../context';
import { ROWS_PER_CALL } from '../scratch';
import { C_TCP_RESETS_FROM_GUEST, dropCode } from '../counters';
import { seqAdd, seqDiff, seqGt, seqInWindow, seqLt } from '../kit/seq';
import { EAGAIN, ENOBUFS, ENOMEM, SOL_SOCKET, SO_KEEPALIVE } from '../kit/linux';
import { checksumAdd, checksumFold, checksumOk } from '../wire/checksum';
import {
  TCP_ACK,
  TCP_FIN,
  TCP_HEADER_LEN,
  TCP_RST,
  TCP_SYN,
  tcpAck,
  tcpCheck,
  tcpDataOffset,
  tcpDstPort,
  tcpFlags,
  tcpSeq,
  tcpSrcPort,
  tcpWindow,
} from '../wire/tcp';
import { END_GUEST_RESET } from '../kit/flow-rows';
import { processAck } from './ack';
import { mayChallenge, mayReset } from './challenge';
import { abortHost, finishIfDone, release } from './close';
import { connectFromGuest, established, learnSyn } from './connect';
import {
  ACK_DELAY_BYTES,
  ACK_DELAY_MS,
  F_ACK_DUE,
  F_ACK_LATER,
  F_ACK_OWED,
  F_FIN_ACKED,
  F_GUEST_FIN,
  F_HELD,
  F_HOST_EOF,
  F_HOST_ERROR,
  F_KEEPALIVE,
  F_OUT_ARMED,
  F_REFUSED,
  F_SYN_DUE,
  ST_CONNECTING,
  ST_OPEN,
  ST_RESET,
  ST_SYN_RCVD,
  ST_SYN_SENT,
  ST_TIME_WAIT,
  TIMER_ACK,
  TIMER_MAIN,
  TIMER_WINDOW,
  TIME_WAIT_MS,
  countDrop,
  setTimer,
  timerIsSet,
  touch,
  DUP_ACKS,
} from './flow';
import type { TcpEngine } from './flow';
import { endHeld, holdPayload } from './first-bytes';
import { noteHalfClosed } from './idle';
import { followMarks } from './ttl-dscp';
import { noteFromGuest } from './traffic-hints';
import { answerReset, pseudoSum } from './send';
import { publishLight } from './scheduler';
import type { Segment } from './segment';

const DROP_TCP_MALFORMED = dropCode('tcp_malformed');
const DROP_TCP_CHECKSUM = dropCode('tcp_checksum');
const DROP_TCP_NO_FLOW = dropCode('tcp_no_flow');
const DROP_TCP_OUT_OF_WINDOW = dropCode('tcp_out_of_window');
const DROP_TCP_BAD_ACK = dropCode('tcp_bad_ack');
const DROP_TCP_OUT_OF_ORDER = dropCode('tcp_out_of_order');
const DROP_TCP_SOCKET_FULL = dropCode('tcp_socket_full');
const DROP_HEAD_TOO_SHORT = dropCode('head_too_short');

/** Look again at a socket that refused data for another reason than a full buffer, ms. */
const REFUSED_POLL_MS = 50;
/** Before a send of this many bytes the guest gets what light flows have sent to it. */
const LARGE_SEND = 64 * 1024;
/** One TCP segment. Returns the first row that is free afterwards (FlowHandler.fromGuest). */
export function segmentFromGuest(t: TcpEngine, frame: FrameInfo): number {
  const code = parse(t, frame);
  if (code !== 0) {
    countDrop(t, code);
    return t.gathered.freeRow(frame);
  }
  const { probe } = t.table;
  for (let i = 0; i < 8; i++) probe[i] = frame.addr[i];
  probe[8] = t.segment.ports;
  const flow = t.table.lookup();
  if (flow < 0) {
    withoutFlow(t, frame);
    return t.gathered.freeRow(frame);
  }
  const now = t.clock.nowMs;
  t.guestAt[flow] = now;
  switch (t.state[flow]) {
    case ST_CONNECTING:
      inConnecting(t, flow, frame);
      break;
    case ST_SYN_SENT:
      inSynSent(t, flow, frame);
      break;
    case ST_RESET:
      // The RST is on its way, as soon as there is a buffer.
      break;
    default:
      synchronized(t, flow, frame);
      break;
  }
  return t.gathered.freeRow(frame);
}

function parse(t: TcpEngine, frame: FrameInfo): number {
  const port = t.port;
  const off = frame.l4Off;
  const end = off + frame.l4Len;
  const headLen = port.pull(Math.min(off + 60, end));
  if (frame.l4Len < TCP_HEADER_LEN) return DROP_TCP_MALFORMED;
  if (headLen < off + TCP_HEADER_LEN) return DROP_HEAD_TOO_SHORT;
  const head = port.head;
  const code = tcpCheck(head, off, end);
  if (code !== 0) return code;
  const tcpLen = tcpDataOffset(head, off);
  if (headLen < off + tcpLen) return DROP_HEAD_TOO_SHORT;
  const src = tcpSrcPort(head, off);
  const dst = tcpDstPort(head, off);
  if (src === 0 || dst === 0) return DROP_TCP_MALFORMED;
  const segment = t.segment;
  segment.ports = (src << 16) | dst;
  segment.seq = tcpSeq(head, off);
  segment.ack = tcpAck(head, off);
  segment.flags = tcpFlags(head, off);
  segment.window = tcpWindow(head, off);
  segment.payloadLen = frame.l4Len - tcpLen;
  segment.trimmed = false;
  if ((segment.flags & (TCP_SYN | TCP_FIN | TCP_RST)) !== 0) t.ctx.traffic.light = true;
  if (!port.csumPartial && !checksumIsRight(t, frame, tcpLen)) return DROP_TCP_CHECKSUM;
  return 0;
}

/** RFC 9293 §3.1 (MUST-3). The header was copied, so its part is summed here and the payload's by the host. */
function checksumIsRight(t: TcpEngine, frame: FrameInfo, tcpLen: number): boolean {
  let sum = checksumAdd(t.port.head, frame.l4Off, tcpLen, pseudoSum(frame.addr, 0, frame.version === 6));
  sum = checksumFold(sum + frame.l4Len);
  const { segment } = t;
  if (segment.payloadLen > 0) {
    const base = t.gathered.place(frame);
    const n = moveRows(t.io.rows, frame.row, frame.rowCount, frame.l4Off + tcpLen, segment.payloadLen, base);
    // The frame's rows name the payload only from now on.
    frame.row = base;
    frame.rowCount = n;
    sum = t.io.checksum(base, n, sum);
    segment.trimmed = true;
  }
  return checksumOk(sum);
}

/** RFC 9293 §3.10.7.1 and .2: CLOSED and LISTEN. */
function withoutFlow(t: TcpEngine, frame: FrameInfo): void {
  const { seq, flags, window: windowRaw, ports } = t.segment;
  if ((flags & TCP_RST) !== 0) {
    countDrop(t, DROP_TCP_NO_FLOW);
    return;
  }
  if ((flags & (TCP_SYN | TCP_ACK)) === TCP_SYN) {
    connectFromGuest(t, frame, ports, seq, windowRaw);
    return;
  }
  countDrop(t, DROP_TCP_NO_FLOW);
  refuse(t, frame);
}

function segmentLength(segment: Segment): number {
  const { payloadLen, flags } = segment;
  return payloadLen + ((flags & TCP_SYN) !== 0 ? 1 : 0) + ((flags & TCP_FIN) !== 0 ? 1 : 0);
}

function refuse(t: TcpEngine, frame: FrameInfo): void {
  const { seq, ack, flags, ports } = t.segment;
  // Not worth waiting for a receive buffer: the guest will send again, and ask again.
  if (!t.turn.starved && mayReset(t)) answerReset(t, frame, ports, seq, ack, flags, segmentLength(t.segment));
}

/** Nothing was sent to the guest yet: its SYN may come again, or another one, or it may give up. */
function inConnecting(t: TcpEngine, flow: number, frame: FrameInfo): void {
  const { seq, flags, window: windowRaw } = t.segment;
  if ((flags & TCP_RST) !== 0) {
    if (seq === t.rcvNxt[flow]) guestReset(t, flow);
    return;
  }
  if ((flags & (TCP_SYN | TCP_ACK)) === TCP_SYN) {
    if (seq !== t.irs[flow]) learnSyn(t, flow, t.port.head, frame.l4Off, seq, windowRaw);
    return;
  }
  refuse(t, frame);
}

/** RFC 9293 §3.10.7.3: we sent a SYN for a connection accepted on the host. */
function inSynSent(t: TcpEngine, flow: number, frame: FrameInfo): void {
  const { seq, ack, flags, window: windowRaw } = t.segment;
  const hasAck = (flags & TCP_ACK) !== 0;
  if (hasAck && ack !== seqAdd(t.iss[flow], 1)) {
    countDrop(t, DROP_TCP_BAD_ACK);
    if ((flags & TCP_RST) === 0) refuse(t, frame);
    return;
  }
  if ((flags & TCP_RST) !== 0) {
    if (hasAck) guestReset(t, flow);
    return;
  }
  if ((flags & TCP_SYN) === 0) return;
  learnSyn(t, flow, t.port.head, frame.l4Off, seq, windowRaw);
  if (hasAck) {
    established(t, flow, seq, ack, windowRaw);
    t.flags[flow] |= F_ACK_DUE;
  } else {
    // Both opened at once (RFC 9293 §3.5, figure 7).
    t.state[flow] = ST_SYN_RCVD;
    t.flags[flow] |= F_SYN_DUE;
  }
  touch(t, flow);
}

function guestReset(t: TcpEngine, flow: number): void {
  t.ctx.counters[C_TCP_RESETS_FROM_GUEST]++;
  abortHost(t, flow, END_GUEST_RESET);
}

/** What the guest must send next, counting what this batch gathered. */
function expected(t: TcpEngine, flow: number): number {
  return seqAdd(t.rcvNxt[flow], t.gathered.bytesOf(flow));
}

/** RFC 9293 §3.10.7.4. */
function synchronized(t: TcpEngine, flow: number, frame: FrameInfo): void {
  const { seq, ack, flags, window: windowRaw, payloadLen } = t.segment;
  const next = expected(t, flow);
  const window = Math.max(0, seqDiff(t.rcvAdv[flow], next));
  if ((flags & TCP_RST) !== 0) {
    resetFromGuest(t, flow, next, window);
    return;
  }
  if ((flags & TCP_SYN) !== 0) {
    synInSynchronized(t, flow, frame, next);
    return;
  }
  const ahead = seqDiff(seq, next);
  const length = segmentLength(t.segment);
  // A FIN alone needs no room, so the closed window does not keep it out (as Linux does).
  if (!(ahead === 0 && payloadLen === 0) && !acceptable(ahead, length, window)) {
    unacceptable(t, flow, ahead, window);
    // Even with the window closed, an acknowledgement at the right place counts (RFC 9293 §3.10.7.4).
    if (!(ahead === 0 && window === 0)) return;
  }
  if ((flags & TCP_ACK) === 0) return;
  if (t.state[flow] === ST_SYN_RCVD) {
    if (ack !== seqAdd(t.iss[flow], 1)) {
      countDrop(t, DROP_TCP_BAD_ACK);
      refuse(t, frame);
      return;
    }
    established(t, flow, seq, ack, windowRaw << t.sndScale[flow]);
  } else if (!processAck(t, flow, seq, ack, windowRaw << t.sndScale[flow], length)) {
    countDrop(t, DROP_TCP_BAD_ACK);
    challenge(t, flow, true);
    return;
  }
  touch(t, flow);
  followMarks(t, flow, frame.version === 6, frame.ttl, frame.tos);
  if (length > 0 && t.state[flow] === ST_OPEN && (t.flags[flow] & F_GUEST_FIN) === 0) {
    text(t, flow, frame, ahead, window);
  }
  finishIfDone(t, flow);
}

/** RFC 9293 §3.10.7.4, table 6; `ahead` is the sequence number's distance from what is expected. */
function acceptable(ahead: number, length: number, window: number): boolean {
  if (length === 0) return window === 0 ? ahead === 0 : ahead >= 0 && ahead < window;
  if (window === 0) return false;
  const last = ahead + length - 1;
  return (ahead >= 0 && ahead < window) || (last >= 0 && last < window) || (ahead < 0 && last >= window);
}

/** Answers what cannot be accepted with an acknowledgement; a keep-alive (RFC 9293 §3.8.4) is passed on. */
function unacceptable(t: TcpEngine, flow: number, ahead: number, window: number): void {
  const { flags, payloadLen } = t.segment;
  challenge(t, flow, segmentLength(t.segment) === 0);
  if (t.state[flow] === ST_TIME_WAIT && (flags & TCP_FIN) !== 0) setTimer(t, flow, TIMER_MAIN, TIME_WAIT_MS);
  if (ahead === -1 && payloadLen <= 1 && (flags & TCP_FIN) === 0) {
    if ((t.flags[flow] & F_KEEPALIVE) === 0 && t.fd[flow] >= 0) {
      t.flags[flow] |= F_KEEPALIVE;
      t.io.setsockopt(t.fd[flow], SOL_SOCKET, SO_KEEPALIVE, 1);
    }
    return;
  }
  if (ahead === 0 && window === 0) countDrop(t, DROP_TCP_SOCKET_FULL);
  else countDrop(t, DROP_TCP_OUT_OF_WINDOW);
}

/** Owes the guest an acknowledgement, once a batch, and within the bounds of challenge.ts. */
function challenge(t: TcpEngine, flow: number, limited: boolean): void {
  if (limited && !mayChallenge(t, flow)) return;
  t.flags[flow] |= F_ACK_DUE;
  touch(t, flow);
}

/** RFC 5961 §3.2: only an RST exactly where the next byte is expected resets. */
function resetFromGuest(t: TcpEngine, flow: number, next: number, window: number): void {
  const { seq } = t.segment;
  if (seq === next || seq === t.rcvNxt[flow]) {
    guestReset(t, flow);
  } else if (seqInWindow(seq, t.rcvNxt[flow], window)) {
    challenge(t, flow, true);
  } else {
    countDrop(t, DROP_TCP_OUT_OF_WINDOW);
  }
}

/** RFC 5961 §4.2, but a repeated SYN is answered by the SYN-ACK again, and TIME-WAIT may be reopened. */
function synInSynchronized(t: TcpEngine, flow: number, frame: FrameInfo, next: number): void {
  const { seq, ack, flags, window: windowRaw } = t.segment;
  const bare = (flags & TCP_ACK) === 0;
  if (t.state[flow] === ST_SYN_RCVD && seq === t.irs[flow]) {
    if (mayChallenge(t, flow)) t.flags[flow] |= bare ? F_SYN_DUE : F_ACK_DUE;
    touch(t, flow);
    if (!bare && ack === seqAdd(t.iss[flow], 1)) established(t, flow, seq, ack, windowRaw);
    return;
  }
  if (t.state[flow] === ST_TIME_WAIT && bare && seqGt(seq, next)) {
    // RFC 9293 §3.10.7.4: a later SYN may reopen the connection (MAY-2); ours lasts so that it may.
    release(t, flow);
    withoutFlow(t, frame);
    return;
  }
  challenge(t, flow, true);
}

/** RFC 9293 §3.10.7.4, seventh and eighth step: payload and FIN. */
function text(t: TcpEngine, flow: number, frame: FrameInfo, ahead: number, window: number): void {
  const { flags, payloadLen } = t.segment;
  if (ahead > 0) {
    countDrop(t, DROP_TCP_OUT_OF_ORDER);
    // One acknowledgement for each (RFC 5681 §4.2): three make the guest retransmit at once.
    if ((t.flags[flow] & F_ACK_DUE) !== 0 && t.dupOwed[flow] < DUP_ACKS) t.dupOwed[flow]++;
    t.flags[flow] |= F_ACK_DUE;
    return;
  }
  const overlap = -ahead;
  let take = payloadLen - overlap;
  // What comes again, or in vain, was not acknowledged in time.
  if (overlap > 0 || take > window) t.flags[flow] |= F_ACK_DUE;
  if (take > 0 && window === 0) return;
  let fin = (flags & TCP_FIN) !== 0;
  if (take > window) {
    take = window;
    fin = false;
  }
  const held = (t.flags[flow] & F_HELD) !== 0;
  if (take > 0 && !(held ? holdPayload(t, flow, frame, overlap, take) : gather(t, flow, frame, overlap, take))) {
    t.flags[flow] |= F_ACK_DUE;
    return;
  }
  if (fin && (!held || endHeld(t, flow))) finFromGuest(t, flow);
}

/** Adds payload to what is to be sent at the end of the batch. Returns false if it comes too late for that. */
function gather(t: TcpEngine, flow: number, frame: FrameInfo, skip: number, take: number): boolean {
  const { gathered } = t;
  const header = t.segment.trimmed ? 0 : frame.l4Off + tcpDataOffset(t.port.head, frame.l4Off);
  if (gathered.mustGoBefore(flow, frame)) {
    const before = expected(t, flow);
    flushGathered(t);
    // The socket did not take all that came before this segment, or failed.
    if (t.state[flow] !== ST_OPEN || t.rcvNxt[flow] !== before) return false;
  }
  const base = gathered.place(frame);
  const n = moveRows(t.io.rows, frame.row, frame.rowCount, header + skip, take, base);
  // A frame in more pieces than one call takes: the guest will send the rest again.
  if (n > ROWS_PER_CALL) return false;
  gathered.add(flow, base, n, take);
  return true;
}

/** Sends gathered payload to its socket; what the socket took is acknowledged. */
export function flushGathered(t: TcpEngine): void {
  const { flow, bytes, segments, first, count } = t.gathered;
  if (flow < 0) return;
  t.gathered.drop(flow);
  if (bytes >= LARGE_SEND) publishLight(t);
  const n = t.io.send(t.fd[flow], first, count, 0);
  t.activeAt[flow] = t.clock.nowMs;
  noteFromGuest(t, flow, bytes, n);
  if (n > 0) t.rcvNxt[flow] = seqAdd(t.rcvNxt[flow], n);
  touch(t, flow);
  if (n === bytes) {
    oweAck(t, flow, segments === 1 && bytes <= ACK_DELAY_BYTES);
    return;
  }
  t.flags[flow] |= F_ACK_DUE;
  countDrop(t, DROP_TCP_SOCKET_FULL);
  t.flags[flow] |= F_REFUSED;
  if (n >= 0 || n === -EAGAIN) {
    // A send that falls short makes the kernel announce room.
    t.flags[flow] |= F_OUT_ARMED;
    return;
  }
  switch (n) {
    case -ENOMEM:
    case -ENOBUFS:
      if (!timerIsSet(t, flow, TIMER_WINDOW)) setTimer(t, flow, TIMER_WINDOW, REFUSED_POLL_MS);
      return;
    default:
      t.flags[flow] |= F_HOST_ERROR;
  }
}

/** Owes the guest an acknowledgement: at once, unless it `mayWait` and nothing else is to be acknowledged. */
function oweAck(t: TcpEngine, flow: number, mayWait: boolean): void {
  if (!mayWait || (t.flags[flow] & F_ACK_OWED) !== 0 || t.ackScore[flow] < 0) {
    t.flags[flow] |= F_ACK_DUE;
    return;
  }
  t.flags[flow] |= F_ACK_LATER;
  setTimer(t, flow, TIMER_ACK, ACK_DELAY_MS);
}

/** The guest's FIN, if all before it was taken. */
function finFromGuest(t: TcpEngine, flow: number): void {
  const at = expected(t, flow);
  if (t.gathered.flow === flow) flushGathered(t);
  if (t.state[flow] !== ST_OPEN || t.rcvNxt[flow] !== at) return;
  // If that was all, the socket is closed in a moment (finishIfDone), which says the same to the peer.
  const last = (t.flags[flow] & (F_HOST_EOF | F_FIN_ACKED)) === (F_HOST_EOF | F_FIN_ACKED);
  if (!last && t.io.shutdown(t.fd[flow], 1) < 0) {
    t.flags[flow] |= F_HOST_ERROR;
    return;
  }
  t.rcvNxt[flow] = seqAdd(at, 1);
  if (seqLt(t.rcvAdv[flow], t.rcvNxt[flow])) t.rcvAdv[flow] = t.rcvNxt[flow];
  t.flags[flow] |= F_GUEST_FIN;
  noteHalfClosed(t, flow);
  // The peer's FIN is likely to follow, and carries it.
  oweAck(t, flow, (t.flags[flow] & F_HOST_EOF) === 0);
}
