/**
 * The header shared by ICMP (RFC 792) and ICMPv6 (RFC 4443), with the identifier and sequence number of echo messages.
 * Accessors are valid once `icmpCheck` returned 0 for the same bytes.
 */
import type { DropCode } from '../counters';
import { dropCode } from '../counters';

export const ICMP_HEADER_LEN = 8;
/** Offset of the checksum in the header (for csumOffset). */
export const ICMP_CHECKSUM_OFFSET = 2;

const TYPE = 0;
const CODE = 1;
const REST = 4;
const ID = 4;
const SEQ = 6;

// ICMP, RFC 792.
export const ICMP_ECHO_REPLY = 0;
export const ICMP_DEST_UNREACHABLE = 3;
export const ICMP_ECHO_REQUEST = 8;
export const ICMP_TIME_EXCEEDED = 11;
/** Code of time exceeded, in both families: a datagram's fragments did not all come. */
export const ICMP_CODE_REASSEMBLY = 1;
export const ICMP_PARAMETER_PROBLEM = 12;
/** Codes of destination unreachable. */
export const ICMP_CODE_NET = 0;
export const ICMP_CODE_HOST = 1;
export const ICMP_CODE_PROTOCOL = 2;
export const ICMP_CODE_PORT = 3;
export const ICMP_CODE_FRAGMENTATION_NEEDED = 4;
export const ICMP_CODE_ADMIN_PROHIBITED = 13;

// ICMPv6, RFC 4443.
export const ICMPV6_DEST_UNREACHABLE = 1;
export const ICMPV6_PACKET_TOO_BIG = 2;
export const ICMPV6_TIME_EXCEEDED = 3;
export const ICMPV6_PARAMETER_PROBLEM = 4;
export const ICMPV6_ECHO_REQUEST = 128;
export const ICMPV6_ECHO_REPLY = 129;
/** Codes of parameter problem: a field with a wrong value; a next header, an option that is not known; a first fragment without all headers (RFC 7112 §7). */
export const ICMPV6_CODE_ERRONEOUS_FIELD = 0;
export const ICMPV6_CODE_UNRECOGNIZED_NEXT_HEADER = 1;
export const ICMPV6_CODE_UNRECOGNIZED_OPTION = 2;
export const ICMPV6_CODE_INCOMPLETE_CHAIN = 3;
/** First type of informational messages: those below are errors (RFC 4443 §2.1). */
export const ICMPV6_INFORMATIONAL = 128;
/** Codes of destination unreachable. */
export const ICMPV6_CODE_NO_ROUTE = 0;
export const ICMPV6_CODE_ADMIN_PROHIBITED = 1;
export const ICMPV6_CODE_ADDRESS = 3;
export const ICMPV6_CODE_PORT = 4;

const DROP_ICMP_MALFORMED = dropCode('icmp_malformed');

/** `end` is the first byte past the IP payload. The checksum is not verified here. */
export function icmpCheck(_dv: DataView, off: number, end: number): DropCode {
  return end - off < ICMP_HEADER_LEN ? DROP_ICMP_MALFORMED : 0;
}

export function icmpType(dv: DataView, off: number): number {
  return dv.getUint8(off + TYPE);
}

export function icmpCode(dv: DataView, off: number): number {
  return dv.getUint8(off + CODE);
}

export function icmpChecksum(dv: DataView, off: number): number {
  return dv.getUint16(off + ICMP_CHECKSUM_OFFSET);
}

/** Identifier of an echo message. */
export function icmpId(dv: DataView, off: number): number {
  return dv.getUint16(off + ID);
}

/** Sequence number of an echo message. */
export function icmpSeq(dv: DataView, off: number): number {
  return dv.getUint16(off + SEQ);
}

export function icmpSetChecksum(dv: DataView, off: number, checksum: number): void {
  dv.setUint16(off + ICMP_CHECKSUM_OFFSET, checksum);
}

/** `rest` is the second word (int32): identifier and sequence number, MTU, or 0. `checksum` is written as given. */
export function icmpWrite(dv: DataView, off: number, type: number, code: number, checksum: number, rest: number): void {
  dv.setUint8(off + TYPE, type);
  dv.setUint8(off + CODE, code);
  dv.setUint16(off + ICMP_CHECKSUM_OFFSET, checksum);
  dv.setInt32(off + REST, rest);
}

/** For traces and tests; allocates. */
export function icmpDescribe(dv: DataView, off: number): string {
  const echo = `id ${String(icmpId(dv, off))} seq ${String(icmpSeq(dv, off))}`;
  return `icmp type ${String(icmpType(dv, off))} code ${String(icmpCode(dv, off))} ${echo}`;
}
