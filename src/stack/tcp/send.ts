/**
 * Segments without payload toward the guest, and the header of those with. Every function here that sends returns
 * false if the guest has no receive buffer for it now, and has then changed nothing.
 *
 * All checksums are left to the port (COMMIT_NEEDS_CSUM): the field holds the pseudo-header's sum.
 */
import { C_TCP_RESETS_TO_GUEST, C_TCP_RETRANSMITS } from '../counters';
import type { FrameInfo } from '../context';
import { KEY_WORDS } from '../kit/flow-table';
import { CLASS_TCP, OUTPUT_HEADER_LEN4, OUTPUT_HEADER_LEN6, countToGuest, outputHeaders } from '../ip/to-guest';
import { COMMIT_NEEDS_CSUM, GSO_NONE } from '../ports';
import { seqAdd, seqLe } from '../kit/seq';
import { checksumFold, pseudoHeaderSum } from '../wire/checksum';
import { IP_PROTO_TCP, IPV4_HEADER_LEN, ipv4Write } from '../wire/ipv4';
import {
  TCP_ACK,
  TCP_CHECKSUM_OFFSET,
  TCP_FIN,
  TCP_HEADER_LEN,
  TCP_RST,
  TCP_SYN,
  tcpSetChecksum,
  tcpWrite,
  tcpWriteMss,
  tcpWriteWindowScale,
} from '../wire/tcp';
import {
  F_ACK_OWED,
  F_ACTIVE_CLOSE,
  F_GUEST_FIN,
  F_NO_DF,
  F_PROBE_DUE,
  F_SCALING,
  F_SYN_DUE,
  F_V6,
  OUR_WINDOW_SCALE,
  ST_CONNECTING,
  ST_SYN_RCVD,
  ST_SYN_SENT,
  TIMER_MAIN,
  setTimer,
  timerIsSet,
} from './flow';
import type { TcpEngine } from './flow';
import { refreshWindow, synWindowField, windowField } from './window';

const MSS_OPTION_LEN = 4;
const SCALE_OPTION_LEN = 4; // with its NOP

/** Offset of the TCP header in the flow's frames. */
export function l4Offset(t: TcpEngine, flow: number): number {
  return (t.flags[flow] & F_V6) !== 0 ? OUTPUT_HEADER_LEN6 : OUTPUT_HEADER_LEN4;
}

/**
 * Writes Ethernet, IP and TCP header of a segment of the flow into the frame `port.front` points at. `tcpLen` is the
 * TCP header with options, `payloadLen` what follows.
 */
export function writeSegment(
  t: TcpEngine,
  flow: number,
  seq: number,
  ack: number,
  tcpLen: number,
  flags: number,
  window: number,
  payloadLen: number,
): void {
  const keys = t.table.keys;
  const k = flow * KEY_WORDS;
  const l4Len = tcpLen + payloadLen;
  const ip = t.ip;
  ip.between((t.flags[flow] & F_V6) === 0, keys, k + 4, k);
  ip.flowLabel = t.iss[flow] >>> 12;
  const at = outputHeaders(t.ctx, ip, l4Len);
  if ((t.flags[flow] & F_NO_DF) !== 0) allowFragments(t, flow, at - IPV4_HEADER_LEN, IPV4_HEADER_LEN + l4Len);
  const out = t.port.out;
  tcpWrite(out, at, keys[k + 8], seq, ack, tcpLen, flags, window);
  tcpSetChecksum(out, at, checksumFold(t.pseudo[flow] + l4Len));
  countToGuest(t.ctx, CLASS_TCP, at - t.port.outOff + l4Len);
}

/**
 * Writes the IPv4 header at `at` again, without DF and with an identification, which must not come again soon (RFC 6864
 * §4.3). Who cuts a large frame counts it up for each segment.
 */
function allowFragments(t: TcpEngine, flow: number, at: number, length: number): void {
  t.ipId = (t.ipId + Math.max(1, Math.ceil(length / t.mss[flow]))) & 0xffff;
  ipv4Write(t.port.out, at, t.ip, length, t.ipId, 0);
}

/** Sum of the addresses' and protocol's part of the pseudo-header, for the column `pseudo`. */
export function pseudoSum(keys: Int32Array, k: number, v6: boolean): number {
  return pseudoHeaderSum(!v6, keys, k, IP_PROTO_TCP, 0);
}

function sendBare(t: TcpEngine, flow: number, seq: number, ack: number, flags: number, window: number): boolean {
  const l4 = l4Offset(t, flow);
  if (t.port.reserve(l4 + TCP_HEADER_LEN, 0, 0) < 0) return false;
  t.port.front();
  writeSegment(t, flow, seq, ack, TCP_HEADER_LEN, flags, window, 0);
  t.port.commit(0, COMMIT_NEEDS_CSUM, l4, TCP_CHECKSUM_OFFSET, GSO_NONE, 0);
  return true;
}

/** Sends a pure acknowledgement with a fresh window, and the duplicates owed. */
export function sendAck(t: TcpEngine, flow: number): boolean {
  refreshWindow(t, flow);
  for (;;) {
    if (!sendBare(t, flow, t.sndNxt[flow], t.rcvNxt[flow], TCP_ACK, windowField(t, flow))) return false;
    t.flags[flow] &= ~F_ACK_OWED;
    if (t.dupOwed[flow] === 0) return true;
    t.dupOwed[flow]--;
  }
}

/**
 * Sends a zero-window probe or keep-alive: sequence number just below what the guest must have acknowledged, no data.
 * The guest has to answer such an unacceptable segment with its acknowledgement and window (RFC 9293 §3.10.7.4). One
 * byte of new data (§3.8.6.1) would do the same, but may be taken and lost to view; Linux probes like this as well.
 */
export function sendProbe(t: TcpEngine, flow: number): boolean {
  if (!sendBare(t, flow, seqAdd(t.sndUna[flow], -1), t.rcvNxt[flow], TCP_ACK, windowField(t, flow))) return false;
  t.flags[flow] &= ~F_PROBE_DUE;
  return true;
}

/** Sends our FIN, at sequence number `seq`. */
export function sendFin(t: TcpEngine, flow: number, seq: number): boolean {
  const retransmit = !seqLe(t.sndMax[flow], seq);
  if (!sendBare(t, flow, seq, t.rcvNxt[flow], TCP_FIN | TCP_ACK, windowField(t, flow))) return false;
  t.flags[flow] &= ~F_ACK_OWED;
  if (retransmit) t.ctx.counters[C_TCP_RETRANSMITS]++;
  else noteFirstFin(t, flow);
  return true;
}

/** Our FIN goes out for the first time: the active close is ours if the guest's has not come (RFC 9293 §3.6). */
export function noteFirstFin(t: TcpEngine, flow: number): void {
  if ((t.flags[flow] & F_GUEST_FIN) === 0) t.flags[flow] |= F_ACTIVE_CLOSE;
}

/**
 * Sends the SYN (SYN_SENT) or SYN-ACK (SYN_RCVD) that is owed, always with the initial sequence number, and starts its
 * timer.
 */
export function sendSyn(t: TcpEngine, flow: number): boolean {
  const active = t.state[flow] === ST_SYN_SENT;
  const v6 = (t.flags[flow] & F_V6) !== 0;
  // Window scaling is offered in a SYN, and answered in a SYN-ACK only if the guest offered it (RFC 7323 §2.2).
  const scaling = active || (t.flags[flow] & F_SCALING) !== 0;
  const tcpLen = TCP_HEADER_LEN + MSS_OPTION_LEN + (scaling ? SCALE_OPTION_LEN : 0);
  const l4 = l4Offset(t, flow);
  if (t.port.reserve(l4 + tcpLen, 0, 0) < 0) return false;
  refreshWindow(t, flow);
  t.port.front();
  const flags = active ? TCP_SYN : TCP_SYN | TCP_ACK;
  writeSegment(t, flow, t.iss[flow], active ? 0 : t.rcvNxt[flow], tcpLen, flags, synWindowField(t, flow), 0);
  const options = t.port.outOff + l4 + TCP_HEADER_LEN;
  tcpWriteMss(t.port.out, options, v6 ? t.mss6 : t.mss4);
  if (scaling) tcpWriteWindowScale(t.port.out, options + MSS_OPTION_LEN, OUR_WINDOW_SCALE);
  t.port.commit(0, COMMIT_NEEDS_CSUM, l4, TCP_CHECKSUM_OFFSET, GSO_NONE, 0);
  t.flags[flow] &= ~(F_SYN_DUE | F_ACK_OWED);
  if (!timerIsSet(t, flow, TIMER_MAIN)) setTimer(t, flow, TIMER_MAIN, synTimeout(t, t.retries[flow]));
  return true;
}

/** Time until the next handshake retransmission: linear at first (net.ipv4.tcp_syn_linear_timeouts), then doubling. */
export function synTimeout(t: TcpEngine, retries: number): number {
  const linear = t.ctx.config.tcpSynLinearTimeouts;
  const doublings = retries > linear ? retries - linear : 0;
  return Math.min(1000 * 2 ** doublings, t.ctx.config.tcpRtoMaxMs);
}

/** Sends the flow's RST. */
export function sendReset(t: TcpEngine, flow: number, before: number): boolean {
  let seq = t.sndMax[flow];
  let flags = TCP_RST | TCP_ACK;
  if (before === ST_CONNECTING) seq = 0;
  if (before === ST_SYN_SENT) flags = TCP_RST;
  if (before === ST_SYN_RCVD) seq = seqAdd(t.iss[flow], 1);
  const ack = flags === TCP_RST ? 0 : t.rcvNxt[flow];
  if (!sendBare(t, flow, seq, ack, flags, 0)) return false;
  t.ctx.counters[C_TCP_RESETS_TO_GUEST]++;
  return true;
}

/**
 * Answers a segment that belongs to no flow, or an acknowledgement of something never sent, with an RST as RFC 9293
 * §3.10.7.1 says: from the segment's ACK field if it has one, else acknowledging all of it. `segLen` counts SYN and
 * FIN. Never called for an RST.
 */
export function answerReset(
  t: TcpEngine,
  frame: FrameInfo,
  ports: number,
  seq: number,
  ack: number,
  flags: number,
  segLen: number,
): boolean {
  const v6 = frame.version === 6;
  const l4 = v6 ? OUTPUT_HEADER_LEN6 : OUTPUT_HEADER_LEN4;
  const a = frame.addr;
  if (t.port.reserve(l4 + TCP_HEADER_LEN, 0, 0) < 0) return false;
  t.port.front();
  const ip = t.ip;
  ip.between(!v6, a, 4, 0);
  ip.flowLabel = 0;
  const at = outputHeaders(t.ctx, ip, TCP_HEADER_LEN);
  const hasAck = (flags & TCP_ACK) !== 0;
  const out = t.port.out;
  const reset = hasAck ? TCP_RST : TCP_RST | TCP_ACK;
  tcpWrite(out, at, ports, hasAck ? ack : 0, hasAck ? 0 : seqAdd(seq, segLen), TCP_HEADER_LEN, reset, 0);
  tcpSetChecksum(out, at, checksumFold(pseudoSum(a, 0, v6) + TCP_HEADER_LEN));
  countToGuest(t.ctx, CLASS_TCP, l4 + TCP_HEADER_LEN);
  t.port.commit(0, COMMIT_NEEDS_CSUM, l4, TCP_CHECKSUM_OFFSET, GSO_NONE, 0);
  t.ctx.counters[C_TCP_RESETS_TO_GUEST]++;
  return true;
}
