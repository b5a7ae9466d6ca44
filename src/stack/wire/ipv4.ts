/** IPv4 header, RFC 791. Accessors are valid once `ipv4Check` returned 0 for the same bytes. */
import type { DropCode } from '../counters';
import { dropCode } from '../counters';
import { checksumAdd, checksumFinish } from './checksum';
import type { IpFields } from './ip-fields';

export const IPV4_HEADER_LEN = 20;

const VERSION_IHL = 0;
const TOS = 1;
const TOTAL_LEN = 2;
const ID = 4;
const FLAGS_FRAGMENT = 6;
const TTL = 8;
const PROTOCOL = 9;
const CHECKSUM = 10;
const SRC = 12;
const DST = 16;

/** Flags in the flags-and-fragment-offset word. */
export const IPV4_DF = 0x4000;
export const IPV4_MF = 0x2000;
/** The offset, in units of 8 bytes. */
export const IPV4_OFFSET_MASK = 0x1fff;

export const IP_PROTO_ICMP = 1;
export const IP_PROTO_TCP = 6;
export const IP_PROTO_UDP = 17;
export const IP_PROTO_ICMPV6 = 58;

const DROP_IPV4_HEADER = dropCode('ipv4_header');
const DROP_IPV4_LENGTH = dropCode('ipv4_length');

/**
 * `end` is the first byte past the frame. Bytes after the total length are Ethernet padding. The header checksum is not
 * verified: the link is the guest's memory, and Linux's TSO path may leave it to the device.
 */
export function ipv4Check(dv: DataView, off: number, end: number): DropCode {
  const room = end - off;
  if (room < IPV4_HEADER_LEN) return DROP_IPV4_HEADER;
  const versionIhl = dv.getUint8(off + VERSION_IHL);
  const headerLen = (versionIhl & 0x0f) * 4;
  if (versionIhl >> 4 !== 4 || headerLen < IPV4_HEADER_LEN || headerLen > room) return DROP_IPV4_HEADER;
  const totalLen = dv.getUint16(off + TOTAL_LEN);
  return totalLen < headerLen || totalLen > room ? DROP_IPV4_LENGTH : 0;
}

/** Header length with options, bytes. */
export function ipv4HeaderLen(dv: DataView, off: number): number {
  return (dv.getUint8(off + VERSION_IHL) & 0x0f) * 4;
}

export function ipv4Tos(dv: DataView, off: number): number {
  return dv.getUint8(off + TOS);
}

/** Header and payload, bytes. */
export function ipv4TotalLen(dv: DataView, off: number): number {
  return dv.getUint16(off + TOTAL_LEN);
}

export function ipv4Id(dv: DataView, off: number): number {
  return dv.getUint16(off + ID);
}

/** The whole word: IPV4_DF, IPV4_MF, and the offset in units of 8 bytes. */
export function ipv4FlagsFragment(dv: DataView, off: number): number {
  return dv.getUint16(off + FLAGS_FRAGMENT);
}

/** True for any fragment of a datagram: more to come, or not the first. */
export function ipv4IsFragment(dv: DataView, off: number): boolean {
  return (dv.getUint16(off + FLAGS_FRAGMENT) & (IPV4_MF | IPV4_OFFSET_MASK)) !== 0;
}

export function ipv4Ttl(dv: DataView, off: number): number {
  return dv.getUint8(off + TTL);
}

export function ipv4Protocol(dv: DataView, off: number): number {
  return dv.getUint8(off + PROTOCOL);
}

export function ipv4Src(dv: DataView, off: number): number {
  return dv.getInt32(off + SRC);
}

export function ipv4Dst(dv: DataView, off: number): number {
  return dv.getInt32(off + DST);
}

/** Writes a header without options, checksum included. `flagsFragment` is the whole word, see `ipv4FlagsFragment`. */
export function ipv4Write(
  dv: DataView,
  off: number,
  ip: IpFields,
  totalLen: number,
  id: number,
  flagsFragment: number,
): void {
  const { ttl, tos, protocol } = ip;
  const src = ip.words[ip.src + 3];
  const dst = ip.words[ip.dst + 3];
  dv.setUint8(off + VERSION_IHL, 0x45);
  dv.setUint8(off + TOS, tos);
  dv.setUint16(off + TOTAL_LEN, totalLen);
  dv.setUint16(off + ID, id);
  dv.setUint16(off + FLAGS_FRAGMENT, flagsFragment);
  dv.setUint8(off + TTL, ttl);
  dv.setUint8(off + PROTOCOL, protocol);
  dv.setInt32(off + SRC, src);
  dv.setInt32(off + DST, dst);
  // Summed from the arguments, not read back: the header lies in guest memory, which another CPU may write meanwhile.
  let sum = 0x4500 + (tos & 0xff) + (totalLen & 0xffff) + (id & 0xffff) + (flagsFragment & 0xffff);
  sum += ((ttl & 0xff) << 8) + (protocol & 0xff);
  sum += (src >>> 16) + (src & 0xffff) + (dst >>> 16) + (dst & 0xffff);
  dv.setUint16(off + CHECKSUM, checksumFinish(sum));
}

/** True if the header checksum is right. */
export function ipv4ChecksumOk(dv: DataView, off: number): boolean {
  return checksumFinish(checksumAdd(dv, off, ipv4HeaderLen(dv, off), 0)) === 0;
}

// ---- addresses as int32 ---------------------------------------------------------------------------------------------

/** 127.0.0.0/8. */
export function ipv4IsLoopback(addr: number): boolean {
  return addr >>> 24 === 127;
}

/** 224.0.0.0/4. */
export function ipv4IsMulticast(addr: number): boolean {
  return addr >>> 28 === 0xe;
}

export const IPV4_BROADCAST = -1;

/** Dotted decimal; allocates. */
export function ipv4Text(addr: number): string {
  return `${String(addr >>> 24)}.${String((addr >>> 16) & 255)}.${String((addr >>> 8) & 255)}.${String(addr & 255)}`;
}

/** For traces and tests; allocates. */
export function ipv4Describe(dv: DataView, off: number): string {
  const ends = `${ipv4Text(ipv4Src(dv, off))} > ${ipv4Text(ipv4Dst(dv, off))}`;
  const df = (ipv4FlagsFragment(dv, off) & IPV4_DF) !== 0 ? ' DF' : '';
  return `ipv4 ${ends} protocol ${String(ipv4Protocol(dv, off))} length ${String(ipv4TotalLen(dv, off))} ttl ${String(ipv4Ttl(dv, off))}${df}`;
}
