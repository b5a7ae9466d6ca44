/** TCP header and its options, RFC 9293 §3.1, RFC 7323 §2. Accessors are valid once `tcpCheck` returned 0. */
import type { DropCode } from '../counters';
import { dropCode } from '../counters';

export const TCP_HEADER_LEN = 20;
/** IPv4 or IPv6 header and TCP's, without options: what a segment size leaves out of the MTU (RFC 9293 §3.7.1). */
export const TCP_HEADERS4 = 40;
export const TCP_HEADERS6 = 60;
/** Offset of the checksum in the header (for csumOffset). */
export const TCP_CHECKSUM_OFFSET = 16;

const SRC_PORT = 0;
const DST_PORT = 2;
const SEQ = 4;
const ACK = 8;
const DATA_OFFSET = 12;
const FLAGS = 13;
const WINDOW = 14;
const URGENT = 18;

export const TCP_FIN = 0x01;
export const TCP_SYN = 0x02;
export const TCP_RST = 0x04;
export const TCP_PSH = 0x08;
export const TCP_ACK = 0x10;
export const TCP_URG = 0x20;
export const TCP_ECE = 0x40;
export const TCP_CWR = 0x80;

const OPTION_END = 0;
const OPTION_NOP = 1;
const OPTION_MSS = 2;
const OPTION_WINDOW_SCALE = 3;
const OPTION_MSS_LEN = 4;
const OPTION_WINDOW_SCALE_LEN = 3;

const DROP_TCP_MALFORMED = dropCode('tcp_malformed');

/**
 * `end` is the first byte past the IP payload. The header with its options, at most 60 bytes, must be in `dv` (handlers
 * `pull` l4Off + 60 bytes first); the fixed 20 bytes are read here.
 */
export function tcpCheck(dv: DataView, off: number, end: number): DropCode {
  if (end - off < TCP_HEADER_LEN) return DROP_TCP_MALFORMED;
  const headerLen = (dv.getUint8(off + DATA_OFFSET) >> 4) * 4;
  return headerLen < TCP_HEADER_LEN || headerLen > end - off ? DROP_TCP_MALFORMED : 0;
}

export function tcpSrcPort(dv: DataView, off: number): number {
  return dv.getUint16(off + SRC_PORT);
}

export function tcpDstPort(dv: DataView, off: number): number {
  return dv.getUint16(off + DST_PORT);
}

/** Sequence number as int32. */
export function tcpSeq(dv: DataView, off: number): number {
  return dv.getInt32(off + SEQ);
}

/** Acknowledgement number as int32. */
export function tcpAck(dv: DataView, off: number): number {
  return dv.getInt32(off + ACK);
}

/** Header length with options, bytes. */
export function tcpDataOffset(dv: DataView, off: number): number {
  return (dv.getUint8(off + DATA_OFFSET) >> 4) * 4;
}

/** The eight flags, TCP_FIN … TCP_CWR. */
export function tcpFlags(dv: DataView, off: number): number {
  return dv.getUint8(off + FLAGS);
}

/** As on the wire, not scaled. */
export function tcpWindow(dv: DataView, off: number): number {
  return dv.getUint16(off + WINDOW);
}

export function tcpChecksum(dv: DataView, off: number): number {
  return dv.getUint16(off + TCP_CHECKSUM_OFFSET);
}

export function tcpUrgent(dv: DataView, off: number): number {
  return dv.getUint16(off + URGENT);
}

export function tcpSetChecksum(dv: DataView, off: number, checksum: number): void {
  dv.setUint16(off + TCP_CHECKSUM_OFFSET, checksum);
}

/**
 * Offset (from the start of `dv`) of the option of that kind and length, or -1. Bounded by the header length; stops at
 * a malformed option as if the list ended there. An option of the kind with another length is passed over.
 */
export function tcpFindOption(dv: DataView, off: number, kind: number, length: number): number {
  const end = off + tcpDataOffset(dv, off);
  let i = off + TCP_HEADER_LEN;
  while (i < end) {
    const k = dv.getUint8(i);
    if (k === OPTION_END) return -1;
    if (k === OPTION_NOP) {
      i++;
      continue;
    }
    if (i + 2 > end) return -1;
    const len = dv.getUint8(i + 1);
    if (len < 2 || i + len > end) return -1;
    if (k === kind && len === length) return i;
    i += len;
  }
  return -1;
}

/** Maximum segment size option, or -1 if absent. */
export function tcpOptionMss(dv: DataView, off: number): number {
  const i = tcpFindOption(dv, off, OPTION_MSS, OPTION_MSS_LEN);
  return i < 0 ? -1 : dv.getUint16(i + 2);
}

/** Window scale option, at most 14 (RFC 7323 §2.3: larger values are used as 14), or -1 if absent. */
export function tcpOptionWindowScale(dv: DataView, off: number): number {
  const i = tcpFindOption(dv, off, OPTION_WINDOW_SCALE, OPTION_WINDOW_SCALE_LEN);
  if (i < 0) return -1;
  const shift = dv.getUint8(i + 2);
  return shift > 14 ? 14 : shift;
}

/**
 * Writes the fixed header but for the checksum (`tcpSetChecksum`); no urgent data. `ports` is the source port and, in the
 * high half, the destination's. `headerLen` is 20 plus the bytes of options (a multiple of 4), which the caller writes
 * from off + 20 on.
 */
export function tcpWrite(
  dv: DataView,
  off: number,
  ports: number,
  seq: number,
  ack: number,
  headerLen: number,
  flags: number,
  window: number,
): void {
  dv.setUint16(off + SRC_PORT, ports & 0xffff);
  dv.setUint16(off + DST_PORT, ports >>> 16);
  dv.setInt32(off + SEQ, seq);
  dv.setInt32(off + ACK, ack);
  dv.setUint8(off + DATA_OFFSET, (headerLen >> 2) << 4);
  dv.setUint8(off + FLAGS, flags);
  dv.setUint16(off + WINDOW, window);
  dv.setUint16(off + URGENT, 0);
}

/** Writes the MSS option (4 bytes) at `at`. */
export function tcpWriteMss(dv: DataView, at: number, mss: number): void {
  dv.setUint8(at, OPTION_MSS);
  dv.setUint8(at + 1, OPTION_MSS_LEN);
  dv.setUint16(at + 2, mss);
}

/** Writes a NOP and the window scale option (4 bytes together) at `at`. */
export function tcpWriteWindowScale(dv: DataView, at: number, shift: number): void {
  dv.setUint8(at, OPTION_NOP);
  dv.setUint8(at + 1, OPTION_WINDOW_SCALE);
  dv.setUint8(at + 2, OPTION_WINDOW_SCALE_LEN);
  dv.setUint8(at + 3, shift);
}

/** For traces and tests; allocates. */
export function tcpDescribe(dv: DataView, off: number): string {
  const flags = tcpFlags(dv, off);
  const names = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR'].filter((_, i) => (flags & (1 << i)) !== 0);
  const numbers = `seq ${String(tcpSeq(dv, off) >>> 0)} ack ${String(tcpAck(dv, off) >>> 0)} window ${String(tcpWindow(dv, off))}`;
  return `tcp ${String(tcpSrcPort(dv, off))} > ${String(tcpDstPort(dv, off))} ${names.join('|')} ${numbers}`;
}
