/**
 * Ethernet II header, IEEE 802.3. Accessors are valid once `ethernetCheck` returned 0 for the same bytes. Addresses
 * are two numbers: the high 16 bits and the low 32 bits (int32).
 */
import type { DropCode } from '../counters';
import { dropCode } from '../counters';

export const ETHERNET_HEADER_LEN = 14;
/** Shortest frame on the link without its check sequence: shorter ones are padded with zeros. */
export const ETHERNET_MIN_FRAME = 60;

const DST = 0;
const SRC = 6;
const TYPE = 12;

export const ETHERTYPE_IPV4 = 0x0800;
export const ETHERTYPE_ARP = 0x0806;
export const ETHERTYPE_IPV6 = 0x86dd;
/** 802.1Q tag (a priority alone is taken) and 802.1ad tag (not supported on this link). */
export const ETHERTYPE_VLAN = 0x8100;
export const ETHERTYPE_QINQ = 0x88a8;

/** A tag: priority and VLAN, then the type that stood in its place. */
export const VLAN_TAG_LEN = 4;

export const MAC_BROADCAST_HI = 0xffff;
export const MAC_BROADCAST_LO = -1;

/** An Ethernet address. */
export interface Mac {
  hi: number;
  lo: number;
}

const DROP_FRAME_SHORT = dropCode('frame_short');

export function ethernetCheck(_dv: DataView, off: number, end: number): DropCode {
  return end - off < ETHERNET_HEADER_LEN ? DROP_FRAME_SHORT : 0;
}

export function ethernetDstHi(dv: DataView, off: number): number {
  return dv.getUint16(off + DST);
}

export function ethernetDstLo(dv: DataView, off: number): number {
  return dv.getInt32(off + DST + 2);
}

export function ethernetSrcHi(dv: DataView, off: number): number {
  return dv.getUint16(off + SRC);
}

export function ethernetSrcLo(dv: DataView, off: number): number {
  return dv.getInt32(off + SRC + 2);
}

export function ethernetType(dv: DataView, off: number): number {
  return dv.getUint16(off + TYPE);
}

/**
 * Bytes in front of the network header of the frame of `length` bytes at `off`: the Ethernet header, with a tag of 802.1Q
 * where there is one (the first alone). The type of what follows is `ethernetInnerType`.
 */
export function ethernetHeaderLen(dv: DataView, off: number, length: number): number {
  const tagged = ethernetType(dv, off) === ETHERTYPE_VLAN && length >= ETHERNET_HEADER_LEN + VLAN_TAG_LEN;
  return tagged ? ETHERNET_HEADER_LEN + VLAN_TAG_LEN : ETHERNET_HEADER_LEN;
}

/** Type of what follows a header of `headerLen` bytes, tag included. */
export function ethernetInnerType(dv: DataView, off: number, headerLen: number): number {
  return dv.getUint16(off + headerLen - 2);
}

/** VLAN of a tagged frame; 0: none, the tag has a priority alone (802.1Q §6.9.1). */
export function ethernetVlan(dv: DataView, off: number): number {
  return dv.getUint16(off + ETHERNET_HEADER_LEN) & 0xfff;
}

/** True for group (multicast and broadcast) addresses: the lowest bit of the first octet. */
export function macIsGroup(hi: number): boolean {
  return (hi & 0x0100) !== 0;
}

export function ethernetWrite(
  dv: DataView,
  off: number,
  dstHi: number,
  dstLo: number,
  srcHi: number,
  srcLo: number,
  type: number,
): void {
  dv.setUint16(off + DST, dstHi);
  dv.setInt32(off + DST + 2, dstLo);
  dv.setUint16(off + SRC, srcHi);
  dv.setInt32(off + SRC + 2, srcLo);
  dv.setUint16(off + TYPE, type);
}

export function ethernetSetSrc(dv: DataView, off: number, hi: number, lo: number): void {
  dv.setUint16(off + SRC, hi);
  dv.setInt32(off + SRC + 2, lo);
}

/** `aa:bb:cc:dd:ee:ff`; allocates. */
export function macText(hi: number, lo: number): string {
  const hex = (hi & 0xffff).toString(16).padStart(4, '0') + (lo >>> 0).toString(16).padStart(8, '0');
  return hex.replace(/(..)(?!$)/g, '$1:');
}

/** For traces and tests; allocates. */
export function ethernetDescribe(dv: DataView, off: number): string {
  const src = macText(ethernetSrcHi(dv, off), ethernetSrcLo(dv, off));
  const dst = macText(ethernetDstHi(dv, off), ethernetDstLo(dv, off));
  return `ethernet ${src} > ${dst} type 0x${ethernetType(dv, off).toString(16).padStart(4, '0')}`;
}
