/** UDP header, RFC 768. Accessors are valid once `udpCheck` returned 0 for the same bytes. */
import type { DropCode } from '../counters';
import { dropCode } from '../counters';

export const UDP_HEADER_LEN = 8;
/** Offset of the checksum in the header (for csumOffset). */
export const UDP_CHECKSUM_OFFSET = 6;

const SRC_PORT = 0;
const DST_PORT = 2;
const LENGTH = 4;

const DROP_UDP_MALFORMED = dropCode('udp_malformed');

/**
 * Returns 0 or a drop code; does not touch payload. `end` is the first byte past the IP payload, which may lie past
 * the bytes in `dv` as long as the header itself does not.
 */
export function udpCheck(dv: DataView, off: number, end: number): DropCode {
  if (end - off < UDP_HEADER_LEN) return DROP_UDP_MALFORMED;
  const length = dv.getUint16(off + LENGTH);
  return length < UDP_HEADER_LEN || length > end - off ? DROP_UDP_MALFORMED : 0;
}

export function udpSrcPort(dv: DataView, off: number): number {
  return dv.getUint16(off + SRC_PORT);
}

export function udpDstPort(dv: DataView, off: number): number {
  return dv.getUint16(off + DST_PORT);
}

/** Header and payload, bytes. */
export function udpLength(dv: DataView, off: number): number {
  return dv.getUint16(off + LENGTH);
}

/** As on the wire; 0: the sender computed none. */
export function udpChecksum(dv: DataView, off: number): number {
  return dv.getUint16(off + UDP_CHECKSUM_OFFSET);
}

export function udpSetChecksum(dv: DataView, off: number, checksum: number): void {
  dv.setUint16(off + UDP_CHECKSUM_OFFSET, checksum);
}

/** `length` counts header and payload; `checksum` is written as given. */
export function udpWrite(
  dv: DataView,
  off: number,
  srcPort: number,
  dstPort: number,
  length: number,
  checksum: number,
): void {
  dv.setUint16(off + SRC_PORT, srcPort);
  dv.setUint16(off + DST_PORT, dstPort);
  dv.setUint16(off + LENGTH, length);
  dv.setUint16(off + UDP_CHECKSUM_OFFSET, checksum);
}

/** For traces and tests; allocates. */
export function udpDescribe(dv: DataView, off: number): string {
  return `udp ${String(udpSrcPort(dv, off))} > ${String(udpDstPort(dv, off))} length ${String(udpLength(dv, off))}`;
}
