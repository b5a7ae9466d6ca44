/**
 * Ethernet, ARP, IPv4, IPv6, UDP, TCP and ICMP as the guest writes and reads them: from the RFCs, sharing nothing with
 * src/stack/wire, so that each checks the other. Reading verifies lengths and every checksum that is not the device's
 * business by its virtio_net_hdr; what is wrong comes back as text.
 */
import { be16, concat, finish, pseudoSum, sum, viewOf } from './bytes';
import { VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM } from './constants';
import type { NetHeader } from './net-driver';

export const ETHER_IPV4 = 0x0800;
export const ETHER_ARP = 0x0806;
export const ETHER_IPV6 = 0x86dd;
export const PROTO_ICMP = 1;
export const PROTO_TCP = 6;
export const PROTO_UDP = 17;
export const PROTO_ICMPV6 = 58;

export const FIN = 1;
export const SYN = 2;
export const RST = 4;
export const PSH = 8;
export const ACK = 16;

export function ethernet(dst: Uint8Array, src: Uint8Array, type: number, payload: Uint8Array): Uint8Array {
  return concat(dst, src, be16(type), payload);
}

/** An IP header for `length` bytes of payload. The family is that of the addresses. */
export function ipHeader(src: Uint8Array, dst: Uint8Array, protocol: number, length: number, ttl = 64): Uint8Array {
  if (src.length === 16) {
    const h = new Uint8Array(40);
    const dv = viewOf(h);
    dv.setUint32(0, 0x60000000);
    dv.setUint16(4, length);
    h[6] = protocol;
    h[7] = ttl;
    h.set(src, 8);
    h.set(dst, 24);
    return h;
  }
  const h = new Uint8Array(20);
  const dv = viewOf(h);
  h[0] = 0x45;
  dv.setUint16(2, 20 + length);
  dv.setUint16(6, 0x4000); // DF
  h[8] = ttl;
  h[9] = protocol;
  h.set(src, 12);
  h.set(dst, 16);
  dv.setUint16(10, finish(sum(h)));
  return h;
}

/** Checksum of a transport segment; 0 becomes 0xffff for UDP (RFC 768). */
export function transportChecksum(src: Uint8Array, dst: Uint8Array, protocol: number, segment: Uint8Array): number {
  const initial = src.length === 4 && protocol === PROTO_ICMP ? 0 : pseudoSum(src, dst, protocol, segment.length);
  const value = finish(sum(segment, 0, segment.length, initial));
  return value === 0 && protocol === PROTO_UDP ? 0xffff : value;
}

export function udp(src: Uint8Array, dst: Uint8Array, sport: number, dport: number, data: Uint8Array): Uint8Array {
  const segment = concat(be16(sport), be16(dport), be16(8 + data.length), be16(0), data);
  viewOf(segment).setUint16(6, transportChecksum(src, dst, PROTO_UDP, segment));
  return segment;
}

/** ICMP or ICMPv6 message: `rest` is everything behind the checksum. */
export function icmp(src: Uint8Array, dst: Uint8Array, type: number, code: number, rest: Uint8Array): Uint8Array {
  const segment = concat(Uint8Array.of(type, code, 0, 0), rest);
  const protocol = src.length === 4 ? PROTO_ICMP : PROTO_ICMPV6;
  viewOf(segment).setUint16(2, transportChecksum(src, dst, protocol, segment));
  return segment;
}

export interface ArpPacket {
  readonly op: number;
  readonly senderMac: Uint8Array;
  readonly senderIp: Uint8Array;
  readonly targetMac: Uint8Array;
  readonly targetIp: Uint8Array;
}

export function arp(p: ArpPacket): Uint8Array {
  return concat(Uint8Array.of(0, 1, 8, 0, 6, 4, 0, p.op), p.senderMac, p.senderIp, p.targetMac, p.targetIp);
}

export function parseArp(b: Uint8Array): ArpPacket | null {
  if (b.length < 28 || viewOf(b).getUint32(0) !== 0x00010800 || b[4] !== 6 || b[5] !== 4) return null;
  return {
    op: viewOf(b).getUint16(6),
    senderMac: b.slice(8, 14),
    senderIp: b.slice(14, 18),
    targetMac: b.slice(18, 24),
    targetIp: b.slice(24, 28),
  };
}

export interface IpPacket {
  readonly src: Uint8Array;
  readonly dst: Uint8Array;
  readonly protocol: number;
  readonly ttl: number;
  /** TOS or traffic class. */
  readonly tos: number;
  /** Offset of the transport header in the frame. */
  readonly offset: number;
  /** The transport segment, padding cut off. */
  readonly segment: Uint8Array;
}

/** Reads the IP packet of a frame whose Ethernet header was read. A string says what is wrong with it. */
export function parseIp(frame: Uint8Array, type: number): IpPacket | string {
  const b = frame.subarray(14);
  const dv = viewOf(b);
  if (type === ETHER_IPV6) {
    if (b.length < 40 || b[0] >> 4 !== 6) return 'IPv6: bad header';
    const length = dv.getUint16(4);
    if (40 + length > b.length) return `IPv6: payload length ${length} in a frame of ${frame.length}`;
    return {
      src: b.slice(8, 24),
      dst: b.slice(24, 40),
      protocol: b[6],
      ttl: b[7],
      tos: (dv.getUint16(0) >> 4) & 0xff,
      offset: 54,
      segment: b.subarray(40, 40 + length),
    };
  }
  const ihl = (b[0] & 15) * 4;
  if (b.length < 20 || b[0] >> 4 !== 4 || ihl < 20 || ihl > b.length) return 'IPv4: bad header';
  const total = dv.getUint16(2);
  if (total < ihl || total > b.length) return `IPv4: total length ${total} in a frame of ${frame.length}`;
  if (sum(b, 0, ihl) !== 0xffff) return 'IPv4: wrong header checksum';
  if ((dv.getUint16(6) & 0x3fff) !== 0) return 'IPv4: a fragment';
  return {
    src: b.slice(12, 16),
    dst: b.slice(16, 20),
    protocol: b[9],
    ttl: b[8],
    tos: b[1],
    offset: 14 + ihl,
    segment: b.subarray(ihl, total),
  };
}

/** Where a protocol keeps its checksum, or -1. */
function checksumOffset(protocol: number): number {
  switch (protocol) {
    case PROTO_TCP:
      return 16;
    case PROTO_UDP:
      return 6;
    case PROTO_ICMP:
    case PROTO_ICMPV6:
      return 2;
    default:
      return -1;
  }
}

/**
 * Verifies a segment's checksum. With NEEDS_CSUM the field must hold the sum of the pseudo-header (virtio 1.2 §5.1.6.4.1)
 * and csum_start/csum_offset must name it; with DATA_VALID nothing is verified. Returns null, or what is wrong.
 */
export function checkTransport(p: IpPacket, h: NetHeader): string | null {
  const at = checksumOffset(p.protocol);
  if (at < 0) return null;
  const { segment } = p;
  if (segment.length < at + 2) return `protocol ${p.protocol}: ${segment.length} bytes`;
  const field = viewOf(segment).getUint16(at);
  if ((h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) !== 0) {
    if (h.csumStart !== p.offset || h.csumOffset !== at)
      return `csum_start ${h.csumStart}, csum_offset ${h.csumOffset}`;
    const expected = pseudoSum(p.src, p.dst, p.protocol, segment.length);
    return field === expected ? null : `protocol ${p.protocol}: partial checksum ${field} instead of ${expected}`;
  }
  if ((h.flags & VIRTIO_NET_HDR_F_DATA_VALID) !== 0) return null;
  if (p.protocol === PROTO_UDP && field === 0 && p.src.length === 4) return null;
  const initial = p.protocol === PROTO_ICMP ? 0 : pseudoSum(p.src, p.dst, p.protocol, segment.length);
  return sum(segment, 0, segment.length, initial) === 0xffff ? null : `protocol ${p.protocol}: wrong checksum`;
}

export interface TcpSegment {
  readonly sport: number;
  readonly dport: number;
  /** uint32. */
  readonly seq: number;
  readonly ack: number;
  readonly flags: number;
  /** Unscaled field. */
  readonly window: number;
  /** Options: -1 or 0 if absent. */
  readonly mss: number;
  readonly windowScale: number;
  readonly data: Uint8Array;
}

/** A TCP header whose checksum is still 0. `options` are padded already. */
export function tcpHeader(
  ports: { readonly localPort: number; readonly remotePort: number },
  seq: number,
  ack: number,
  flags: number,
  window: number,
  options: Uint8Array = new Uint8Array(0),
): Uint8Array {
  const header = new Uint8Array(20 + options.length);
  const dv = viewOf(header);
  dv.setUint16(0, ports.localPort);
  dv.setUint16(2, ports.remotePort);
  dv.setUint32(4, seq);
  dv.setUint32(8, ack);
  header[12] = (header.length / 4) << 4;
  header[13] = flags;
  dv.setUint16(14, window);
  header.set(options, 20);
  return header;
}

export function parseTcp(b: Uint8Array): TcpSegment | null {
  if (b.length < 20) return null;
  const dv = viewOf(b);
  const headerLen = (b[12] >> 4) * 4;
  if (headerLen < 20 || headerLen > b.length) return null;
  let mss = 0;
  let windowScale = -1;
  for (let i = 20; i < headerLen && b[i] !== 0;) {
    if (b[i] === 1) {
      i++;
      continue;
    }
    const len = b[i + 1];
    if (!(len >= 2) || i + len > headerLen) return null;
    if (b[i] === 2 && len === 4) mss = dv.getUint16(i + 2);
    if (b[i] === 3 && len === 3) windowScale = b[i + 2];
    i += len;
  }
  return {
    sport: dv.getUint16(0),
    dport: dv.getUint16(2),
    seq: dv.getUint32(4),
    ack: dv.getUint32(8),
    flags: b[13],
    window: dv.getUint16(14),
    mss,
    windowScale,
    data: b.subarray(headerLen),
  };
}
