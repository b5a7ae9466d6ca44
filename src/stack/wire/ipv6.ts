/**
 * IPv6 header and the walk over extension headers, RFC 8200. Accessors are valid once `ipv6Check` returned 0 for the
 * same bytes. Addresses are read as four int32 words.
 */
import type { DropCode } from '../counters';
import { dropCode } from '../counters';
import { IP_PROTO_ICMPV6, IP_PROTO_TCP, IP_PROTO_UDP } from './ipv4';
import type { IpFields } from './ip-fields';

export const IPV6_HEADER_LEN = 40;
/** Smallest MTU that a link may have (RFC 8200 §5). */
export const IPV6_MIN_MTU = 1280;
/** Offset of the payload length: what an error about it points to. */
export const IPV6_PAYLOAD_LENGTH_AT = 4;

const VERSION_CLASS_FLOW = 0;
const PAYLOAD_LEN = 4;
const NEXT_HEADER = 6;
const HOP_LIMIT = 7;
const SRC = 8;
const DST = 24;

// Next-header values of extension headers.
export const IPV6_HOP_BY_HOP = 0;
export const IPV6_ROUTING = 43;
export const IPV6_FRAGMENT = 44;
export const IPV6_DEST_OPTIONS = 60;
export const IPV6_NO_NEXT = 59;

/** Most extension headers we walk. RFC 8200 §4.1 lists six at most; more is an attack or a mistake. */
export const IPV6_MAX_EXTENSIONS = 8;

/** Offset in a routing header (RFC 8200 §4.4). */
const ROUTING_SEGMENTS_LEFT = 3;

const TCP_FIXED_LEN = 20;
const TCP_DATA_OFFSET = 12;

const DROP_IPV6_HEADER = dropCode('ipv6_header');
const DROP_IPV6_LENGTH = dropCode('ipv6_length');
const DROP_IPV6_EXTENSION = dropCode('ipv6_extension');
const DROP_IPV6_FRAGMENT = dropCode('ipv6_fragment');
const DROP_HEAD_TOO_SHORT = dropCode('head_too_short');

/** `end` is the first byte past the frame. Bytes after the payload length are Ethernet padding. */
export function ipv6Check(dv: DataView, off: number, end: number): DropCode {
  const room = end - off;
  if (room < IPV6_HEADER_LEN || dv.getUint8(off) >> 4 !== 6) return DROP_IPV6_HEADER;
  return dv.getUint16(off + PAYLOAD_LEN) > room - IPV6_HEADER_LEN ? DROP_IPV6_LENGTH : 0;
}

export function ipv6TrafficClass(dv: DataView, off: number): number {
  return (dv.getUint32(off + VERSION_CLASS_FLOW) >>> 20) & 0xff;
}

export function ipv6FlowLabel(dv: DataView, off: number): number {
  return dv.getUint32(off + VERSION_CLASS_FLOW) & 0xfffff;
}

/** Extension headers and payload, bytes. */
export function ipv6PayloadLen(dv: DataView, off: number): number {
  return dv.getUint16(off + PAYLOAD_LEN);
}

export function ipv6NextHeader(dv: DataView, off: number): number {
  return dv.getUint8(off + NEXT_HEADER);
}

export function ipv6HopLimit(dv: DataView, off: number): number {
  return dv.getUint8(off + HOP_LIMIT);
}

/** Word `i` (0 … 3) of the source. */
export function ipv6SrcWord(dv: DataView, off: number, i: number): number {
  return dv.getInt32(off + SRC + 4 * i);
}

/** Word `i` (0 … 3) of the destination. */
export function ipv6DstWord(dv: DataView, off: number, i: number): number {
  return dv.getInt32(off + DST + 4 * i);
}

/** Copies the address at `off`, of a header or option, to `words[at…]`. */
export function ipv6ReadAddress(dv: DataView, off: number, words: Int32Array, at: number): void {
  for (let i = 0; i < 4; i++) words[at + i] = dv.getInt32(off + 4 * i);
}

/** Copies source and destination of the header at `off` to `words`, eight words. */
export function ipv6ReadAddresses(dv: DataView, off: number, words: Int32Array): void {
  for (let i = 0; i < 8; i++) words[i] = dv.getInt32(off + SRC + 4 * i);
}

/** Writes the fixed header. `payloadLen` counts everything after it, which begins with a header `nextHeader`. */
export function ipv6Write(dv: DataView, off: number, ip: IpFields, nextHeader: number, payloadLen: number): void {
  const { words, src, dst } = ip;
  dv.setInt32(off + VERSION_CLASS_FLOW, 0x60000000 | ((ip.tos & 0xff) << 20) | (ip.flowLabel & 0xfffff));
  dv.setUint16(off + PAYLOAD_LEN, payloadLen);
  dv.setUint8(off + NEXT_HEADER, nextHeader);
  dv.setUint8(off + HOP_LIMIT, ip.ttl);
  dv.setInt32(off + SRC, words[src]);
  dv.setInt32(off + SRC + 4, words[src + 1]);
  dv.setInt32(off + SRC + 8, words[src + 2]);
  dv.setInt32(off + SRC + 12, words[src + 3]);
  dv.setInt32(off + DST, words[dst]);
  dv.setInt32(off + DST + 4, words[dst + 1]);
  dv.setInt32(off + DST + 8, words[dst + 2]);
  dv.setInt32(off + DST + 12, words[dst + 3]);
}

/** Length of a fragment header (RFC 8200 §4.5), and where its fragment offset lies. */
export const IPV6_FRAGMENT_LEN = 8;
export const IPV6_FRAGMENT_OFFSET_AT = 2;

/** Writes a fragment header. `offset` is in bytes, a multiple of 8. */
export function ipv6FragmentWrite(
  dv: DataView,
  off: number,
  nextHeader: number,
  offset: number,
  more: boolean,
  id: number,
): void {
  dv.setUint8(off, nextHeader);
  dv.setUint8(off + 1, 0);
  dv.setUint16(off + 2, offset | (more ? 1 : 0));
  dv.setInt32(off + 4, id);
}

/**
 * Walks the extension headers of the packet at `off` (checked by `ipv6Check`) to its transport header. Hop-by-hop,
 * routing and destination options are skipped without looking at their options, so is an atomic fragment header (offset
 * 0, no more fragments: RFC 6946). A routing header must have no segments left: its packet is not yet on its way to
 * where it ends, and a socket cannot carry the header (RFC 5095 §3, RFC 8200 §4.4). `end` is the end of the packet,
 * `limit` the end of the bytes in `dv`.
 *
 * Returns protocol * 65536 + (offset of the transport header - off), or minus a drop code: 'ipv6_fragment' for real
 * fragments, 'ipv6_extension' for too many or cut headers, segments left and "no next header", 'head_too_short' if the
 * headers go on past `limit`. Unknown next headers are returned as the protocol, which the dispatcher refuses.
 */
export function ipv6Walk(dv: DataView, off: number, end: number, limit: number): number {
  let protocol = dv.getUint8(off + NEXT_HEADER);
  let at = off + IPV6_HEADER_LEN;
  for (let n = 0; n <= IPV6_MAX_EXTENSIONS; n++) {
    switch (protocol) {
      case IPV6_HOP_BY_HOP:
        // Allowed directly after the fixed header only (RFC 8200 §4.1).
        if (n > 0) return -DROP_IPV6_EXTENSION;
        break;
      case IPV6_ROUTING:
      case IPV6_FRAGMENT:
      case IPV6_DEST_OPTIONS:
        break;
      case IPV6_NO_NEXT:
        return -DROP_IPV6_EXTENSION;
      default:
        return protocol * 65536 + (at - off);
    }
    if (end - at < 8) return -DROP_IPV6_EXTENSION;
    if (limit - at < 8) return -DROP_HEAD_TOO_SHORT;
    let length = 8;
    if (protocol === IPV6_FRAGMENT) {
      // Offset (13 bits), reserved (2), more (1).
      if ((dv.getUint16(at + 2) & 0xfff9) !== 0) return -DROP_IPV6_FRAGMENT;
    } else {
      length = (dv.getUint8(at + 1) + 1) * 8;
      if (protocol === IPV6_ROUTING && dv.getUint8(at + ROUTING_SEGMENTS_LEFT) !== 0) return -DROP_IPV6_EXTENSION;
    }
    protocol = dv.getUint8(at);
    at += length;
    if (at > end) return -DROP_IPV6_EXTENSION;
  }
  return -DROP_IPV6_EXTENSION;
}

/**
 * Does a first fragment, whose data are bytes [at, end) and begin with header `next`, have all headers up to and with
 * that of the transport (RFC 7112 §5, RFC 8200 §4.5)? `limit` is the end of the bytes in `dv`: what lies behind is not
 * looked at.
 */
export function ipv6ChainComplete(dv: DataView, next: number, at: number, end: number, limit: number): boolean {
  let protocol = next;
  for (let n = 0; n <= IPV6_MAX_EXTENSIONS; n++) {
    const room = end - at;
    switch (protocol) {
      case IPV6_ROUTING:
      case IPV6_DEST_OPTIONS:
        if (room < 8) return false;
        if (limit - at < 2) return true;
        protocol = dv.getUint8(at);
        at += (dv.getUint8(at + 1) + 1) * 8;
        if (at > end) return false;
        break;
      case IP_PROTO_TCP:
        // With its options: the data offset counts words of 32 bits.
        if (room < TCP_FIXED_LEN) return false;
        return limit - at < TCP_FIXED_LEN || room >= (dv.getUint8(at + TCP_DATA_OFFSET) >> 4) * 4;
      case IP_PROTO_UDP:
      case IP_PROTO_ICMPV6:
        return room >= 8;
      default:
        return true; // nothing that is known to have a header
    }
  }
  return true;
}

/**
 * Offset of the field that names the transport of a packet whose transport header `ipv6Walk` found at `l4`: in the IPv6
 * header or in the last extension header.
 */
export function ipv6TransportNamedAt(dv: DataView, off: number, l4: number): number {
  let named = off + NEXT_HEADER;
  let at = off + IPV6_HEADER_LEN;
  while (at < l4) {
    const length = dv.getUint8(named) === IPV6_FRAGMENT ? IPV6_FRAGMENT_LEN : (dv.getUint8(at + 1) + 1) * 8;
    named = at;
    at += length;
  }
  return named;
}

/**
 * Offset of the fragment header of a packet of which `ipv6Walk`, with the same arguments, returned 'ipv6_fragment'.
 * What lies in front of it is hop-by-hop, routing and destination options.
 */
export function ipv6FragmentAt(dv: DataView, off: number): number {
  let protocol = dv.getUint8(off + NEXT_HEADER);
  let at = off + IPV6_HEADER_LEN;
  while (protocol !== IPV6_FRAGMENT) {
    protocol = dv.getUint8(at);
    at += (dv.getUint8(at + 1) + 1) * 8;
  }
  return at;
}

/** Next header after the fragment header at `at`. */
export function ipv6FragmentNext(dv: DataView, at: number): number {
  return dv.getUint8(at);
}

/** Offset in bytes (a multiple of 8), with 1 added if more fragments follow. */
export function ipv6FragmentOffset(dv: DataView, at: number): number {
  return dv.getUint16(at + 2) & 0xfff9;
}

export function ipv6FragmentId(dv: DataView, at: number): number {
  return dv.getInt32(at + 4);
}

// ---- addresses as words ---------------------------------------------------------------------------------------------

/** ff00::/8. */
export function ipv6IsMulticast(words: Int32Array, at: number): boolean {
  return words[at] >>> 24 === 0xff;
}

/** The unspecified address `::`. */
export function ipv6IsUnspecified(words: Int32Array, at: number): boolean {
  return (words[at] | words[at + 1] | words[at + 2] | words[at + 3]) === 0;
}

/** `::1`. */
export function ipv6IsLoopback(words: Int32Array, at: number): boolean {
  return (words[at] | words[at + 1] | words[at + 2]) === 0 && words[at + 3] === 1;
}

/** RFC 5952 text of an address; allocates. */
export function ipv6Text(words: Int32Array, at: number): string {
  const groups = [words[at], words[at + 1], words[at + 2], words[at + 3]].flatMap((w) => [w >>> 16, w & 0xffff]);
  // The longest run of at least two zero groups is written `::`, the first of equals.
  let best = -1;
  let bestLen = 1;
  for (let i = 0; i < 8; i++) {
    let n = 0;
    while (i + n < 8 && groups[i + n] === 0) n++;
    if (n > bestLen) {
      best = i;
      bestLen = n;
    }
  }
  const hex = groups.map((g) => g.toString(16));
  if (best < 0) return hex.join(':');
  return `${hex.slice(0, best).join(':')}::${hex.slice(best + bestLen).join(':')}`;
}

/** For traces and tests; allocates. */
export function ipv6Describe(dv: DataView, off: number): string {
  const text = (at: number): string => {
    const words = new Int32Array(4);
    ipv6ReadAddress(dv, at, words, 0);
    return ipv6Text(words, 0);
  };
  const rest = `next ${String(ipv6NextHeader(dv, off))} length ${String(ipv6PayloadLen(dv, off))} hops ${String(ipv6HopLimit(dv, off))}`;
  return `ipv6 ${text(off + SRC)} > ${text(off + DST)} ${rest}`;
}
