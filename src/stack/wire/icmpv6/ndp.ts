/**
 * Neighbour Discovery messages and options, RFC 4861, RFC 8106 (resolvers). Offsets `off` are those of the ICMPv6
 * header. Accessors are valid once `ndpCheck` returned 0 for the same bytes.
 */
import type { DropCode } from '../../counters';
import { dropCode } from '../../counters';
import { icmpType } from '../icmp';
import { ipv6ReadAddress, ipv6Text } from '../ipv6';

export const NDP_ROUTER_SOLICITATION = 133;
export const NDP_ROUTER_ADVERTISEMENT = 134;
export const NDP_NEIGHBOR_SOLICITATION = 135;
export const NDP_NEIGHBOR_ADVERTISEMENT = 136;

/** Lengths without options, ICMPv6 header included. */
export const NDP_RS_LEN = 8;
export const NDP_RA_LEN = 16;
export const NDP_NS_LEN = 24;
export const NDP_NA_LEN = 24;

/** Hop limit that every ND message must arrive with: no router forwarded it (RFC 4861 §6.1, §7.1). */
export const NDP_HOP_LIMIT = 255;

const TARGET = 8;

/** Flags of a neighbour advertisement, in the first byte of the reserved word. */
export const NA_ROUTER = 0x80;
export const NA_SOLICITED = 0x40;
export const NA_OVERRIDE = 0x20;

/** Flags of a router advertisement. */
export const RA_MANAGED = 0x80;
export const RA_OTHER = 0x40;

export const NDP_OPTION_SOURCE_LL = 1;
export const NDP_OPTION_TARGET_LL = 2;
export const NDP_OPTION_PREFIX = 3;
export const NDP_OPTION_MTU = 5;
export const NDP_OPTION_RDNSS = 25;
export const NDP_OPTION_DNSSL = 31;

export const NDP_PREFIX_ON_LINK = 0x80;
export const NDP_PREFIX_AUTONOMOUS = 0x40;

/** Lifetime that never ends. */
export const NDP_INFINITE = -1;

const DROP_NDP_MALFORMED = dropCode('ndp_malformed');

/**
 * Checks the length of the message and walks its options: each must have a length other than zero and lie inside the
 * message (RFC 4861 §4.6). `end` is the first byte past the message and must be inside `dv`. Code must be 0.
 */
export function ndpCheck(dv: DataView, off: number, end: number): DropCode {
  if (end - off < NDP_RS_LEN || dv.getUint8(off + 1) !== 0) return DROP_NDP_MALFORMED;
  let i = off;
  switch (icmpType(dv, off)) {
    case NDP_ROUTER_SOLICITATION:
      i += NDP_RS_LEN;
      break;
    case NDP_ROUTER_ADVERTISEMENT:
      i += NDP_RA_LEN;
      break;
    case NDP_NEIGHBOR_SOLICITATION:
      i += NDP_NS_LEN;
      break;
    case NDP_NEIGHBOR_ADVERTISEMENT:
      i += NDP_NA_LEN;
      break;
    default:
      return DROP_NDP_MALFORMED;
  }
  while (i < end) {
    if (end - i < 8) return DROP_NDP_MALFORMED;
    const length = dv.getUint8(i + 1) * 8;
    if (length === 0 || length > end - i) return DROP_NDP_MALFORMED;
    i += length;
  }
  return i === end ? 0 : DROP_NDP_MALFORMED;
}

/** Offset of the first option of `kind` at or after `from` (the end of the fixed part), or -1. */
export function ndpFindOption(dv: DataView, from: number, end: number, kind: number): number {
  for (let i = from; i + 8 <= end; i += dv.getUint8(i + 1) * 8) {
    if (dv.getUint8(i) === kind) return i;
  }
  return -1;
}

/** Copies the target of a neighbour solicitation or advertisement to `words[at…]`. */
export function ndpTarget(dv: DataView, off: number, words: Int32Array, at: number): void {
  ipv6ReadAddress(dv, off + TARGET, words, at);
}

/** Flags of a neighbour advertisement (NA_*). */
export function ndpNaFlags(dv: DataView, off: number): number {
  return dv.getUint8(off + 4);
}

/** Writes a neighbour solicitation for `words[at…]`, checksum 0. */
export function ndpWriteNs(dv: DataView, off: number, words: Int32Array, at: number): void {
  dv.setInt32(off, NDP_NEIGHBOR_SOLICITATION << 24);
  dv.setInt32(off + 4, 0);
  writeTarget(dv, off, words, at);
}

/** Writes a neighbour advertisement of `words[at…]` with `flags` (NA_*), checksum 0. */
export function ndpWriteNa(dv: DataView, off: number, flags: number, words: Int32Array, at: number): void {
  dv.setInt32(off, NDP_NEIGHBOR_ADVERTISEMENT << 24);
  dv.setInt32(off + 4, flags << 24);
  writeTarget(dv, off, words, at);
}

function writeTarget(dv: DataView, off: number, words: Int32Array, at: number): void {
  for (let i = 0; i < 4; i++) dv.setInt32(off + TARGET + 4 * i, words[at + i]);
}

/** Writes the fixed part of a router advertisement, checksum 0, reachable time and retransmission timer unspecified. */
export function ndpWriteRa(dv: DataView, off: number, hopLimit: number, flags: number, lifetimeSec: number): void {
  dv.setInt32(off, NDP_ROUTER_ADVERTISEMENT << 24);
  dv.setUint8(off + 4, hopLimit);
  dv.setUint8(off + 5, flags);
  dv.setUint16(off + 6, lifetimeSec);
  dv.setInt32(off + 8, 0);
  dv.setInt32(off + 12, 0);
}

/** Writes a source or target link-layer address option; returns the offset after it. */
export function ndpWriteLinkLayer(dv: DataView, at: number, kind: number, macHi: number, macLo: number): number {
  dv.setUint8(at, kind);
  dv.setUint8(at + 1, 1);
  dv.setUint16(at + 2, macHi);
  dv.setInt32(at + 4, macLo);
  return at + 8;
}

/**
 * Writes a prefix information option for the /64 of the address `words`; lifetimes in seconds, NDP_INFINITE for ever. Returns
 * the offset after it.
 */
export function ndpWritePrefix64(
  dv: DataView,
  at: number,
  flags: number,
  words: Int32Array,
  validSec: number,
  preferredSec: number,
): number {
  dv.setUint8(at, NDP_OPTION_PREFIX);
  dv.setUint8(at + 1, 4);
  dv.setUint8(at + 2, 64);
  dv.setUint8(at + 3, flags);
  dv.setInt32(at + 4, validSec);
  dv.setInt32(at + 8, preferredSec);
  dv.setInt32(at + 12, 0);
  dv.setInt32(at + 16, words[0]);
  dv.setInt32(at + 20, words[1]);
  // Bits after the prefix length must be zero on the wire (RFC 4861 §4.6.2).
  dv.setInt32(at + 24, 0);
  dv.setInt32(at + 28, 0);
  return at + 32;
}

/** Writes an MTU option; returns the offset after it. */
export function ndpWriteMtu(dv: DataView, at: number, mtu: number): number {
  dv.setUint8(at, NDP_OPTION_MTU);
  dv.setUint8(at + 1, 1);
  dv.setUint16(at + 2, 0);
  dv.setInt32(at + 4, mtu);
  return at + 8;
}

/** Writes an RDNSS option (RFC 8106 §5.1) for `servers` of 16 bytes each; returns the offset after it. */
export function ndpWriteRdnss(dv: DataView, at: number, lifetimeSec: number, servers: readonly Uint8Array[]): number {
  dv.setUint8(at, NDP_OPTION_RDNSS);
  dv.setUint8(at + 1, 1 + 2 * servers.length);
  dv.setUint16(at + 2, 0);
  dv.setInt32(at + 4, lifetimeSec);
  let i = at + 8;
  for (const server of servers) {
    for (let b = 0; b < 16; b++) dv.setUint8(i + b, server[b]);
    i += 16;
  }
  return i;
}

/**
 * Writes a DNSSL option (RFC 8106 §5.2) for encoded names; padded with zeros to a multiple of 8 bytes, and not
 * more: a zero word after the option would be read as an option of length 0 and void the message.
 */
export function ndpWriteDnssl(dv: DataView, at: number, lifetimeSec: number, names: Uint8Array): number {
  const words = Math.ceil((8 + names.length) / 8);
  dv.setUint8(at, NDP_OPTION_DNSSL);
  dv.setUint8(at + 1, words);
  dv.setUint16(at + 2, 0);
  dv.setInt32(at + 4, lifetimeSec);
  for (let b = 0; b < words * 8 - 8; b++) dv.setUint8(at + 8 + b, b < names.length ? names[b] : 0);
  return at + words * 8;
}

/** For traces and tests; allocates. */
export function ndpDescribe(dv: DataView, off: number): string {
  const target = (): string => {
    const words = new Int32Array(4);
    ndpTarget(dv, off, words, 0);
    return ipv6Text(words, 0);
  };
  switch (icmpType(dv, off)) {
    case NDP_ROUTER_SOLICITATION:
      return 'ndp rs';
    case NDP_ROUTER_ADVERTISEMENT:
      return `ndp ra lifetime ${String(dv.getUint16(off + 6))}`;
    case NDP_NEIGHBOR_SOLICITATION:
      return `ndp ns ${target()}`;
    case NDP_NEIGHBOR_ADVERTISEMENT:
      return `ndp na ${target()} flags 0x${ndpNaFlags(dv, off).toString(16)}`;
    default:
      return 'ndp unknown';
  }
}
