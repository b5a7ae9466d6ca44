/**
 * ICMP and ICMPv6 errors to the guest (RFC 792, RFC 1812 §4.3.2, RFC 4443 §3) about packets that left as datagrams of
 * host sockets. The kernel keeps no IP header of what the guest sent, so the quoted packet is rebuilt in the guest's
 * terms from the flow it belongs to: the guest matches errors to its sockets by addresses, ports and identifiers only.
 */
import { copyWords, isGroup, isV4 } from './address';
import type { FrameInfo, StackContext } from '../context';
import { C_DROPS_TO_GUEST, dropCode } from '../counters';
import { CLASS_ICMP, OUTPUT_TTL, outputHeadersTo, sendSmall } from './to-guest';
import { checksumAdd, checksumFinish, pseudoHeaderSum6 } from '../wire/checksum';
import { ETHERNET_HEADER_LEN } from '../wire/ethernet';
import {
  ICMP_CODE_FRAGMENTATION_NEEDED,
  ICMP_DEST_UNREACHABLE,
  ICMP_HEADER_LEN,
  ICMP_PARAMETER_PROBLEM,
  ICMP_TIME_EXCEEDED,
  ICMPV6_CODE_UNRECOGNIZED_OPTION,
  ICMPV6_DEST_UNREACHABLE,
  ICMPV6_PACKET_TOO_BIG,
  ICMPV6_PARAMETER_PROBLEM,
  ICMPV6_TIME_EXCEEDED,
  icmpSetChecksum,
  icmpWrite,
} from '../wire/icmp';
import { IpFields } from '../wire/ip-fields';
import { IP_PROTO_ICMP, IP_PROTO_ICMPV6, IPV4_DF, IPV4_HEADER_LEN, ipv4Write } from '../wire/ipv4';
import { copyBytes } from '../kit/bytes';
import { IPV6_HEADER_LEN, IPV6_MIN_MTU, ipv6Write } from '../wire/ipv6';

const DROP_ICMP_MALFORMED = dropCode('icmp_malformed');

/** Longest error: IPv4 hosts need take 576 bytes only (RFC 1812 §4.3.2.3), IPv6 ones 1280 (RFC 4443 §2.4 c). */
const MAX_PACKET4 = 576;
const MAX_PACKET6 = IPV6_MIN_MTU;

/** Most bytes of the original transport header and payload that an error quotes. */
export const MAX_QUOTE4 = MAX_PACKET4 - IPV4_HEADER_LEN - ICMP_HEADER_LEN - IPV4_HEADER_LEN;
export const MAX_QUOTE6 = MAX_PACKET6 - IPV6_HEADER_LEN - ICMP_HEADER_LEN - IPV6_HEADER_LEN;

/** Is this (type, code) an error about a packet, of the kind we pass on? */
export function icmpErrorKnown(v4: boolean, type: number): boolean {
  if (v4) return type === ICMP_DEST_UNREACHABLE || type === ICMP_TIME_EXCEEDED || type === ICMP_PARAMETER_PROBLEM;
  switch (type) {
    case ICMPV6_DEST_UNREACHABLE:
    case ICMPV6_PACKET_TOO_BIG:
    case ICMPV6_TIME_EXCEEDED:
    case ICMPV6_PARAMETER_PROBLEM:
      return true;
    default:
      return false;
  }
}

/** Codes of errors are passed on as they came, but "packet too big" has none (RFC 4443 §3.2: 0 by the originator). */
function codeOf(v4: boolean, type: number, code: number): number {
  return !v4 && type === ICMPV6_PACKET_TOO_BIG ? 0 : code;
}

/** The second word of an error's header: an MTU or a pointer where the type has one, else 0. */
function restOfHeader(v4: boolean, type: number, code: number, info: number): number {
  if (!v4) return type === ICMPV6_PACKET_TOO_BIG || type === ICMPV6_PARAMETER_PROBLEM ? info | 0 : 0;
  if (type === ICMP_DEST_UNREACHABLE && code === ICMP_CODE_FRAGMENTATION_NEEDED) return Math.min(info, 0xffff);
  return type === ICMP_PARAMETER_PROBLEM ? (info & 0xff) << 24 : 0;
}

/** A pointer past the end of a packet of `length` bytes: the error cannot be about this packet. */
function pointsPastIt(v4: boolean, type: number, info: number, length: number): boolean {
  if (v4) return type === ICMP_PARAMETER_PROBLEM && (info & 0xff) >= length;
  return type === ICMPV6_PARAMETER_PROBLEM && info >>> 0 >= length;
}

/**
 * Nobody answers a packet to a group or to all with an error (RFC 1122 §3.2.2), but an IPv6 router that cannot pass it
 * on whole, or does not know an option that asks for it (RFC 4443 §2.4 e).
 */
function groupHasNone(v4: boolean, type: number, code: number, key: Int32Array, to: number): boolean {
  if (!isGroup(v4, key, to)) return false;
  if (v4) return true;
  if (type === ICMPV6_PACKET_TOO_BIG) return false;
  return type !== ICMPV6_PARAMETER_PROBLEM || code !== ICMPV6_CODE_UNRECOGNIZED_OPTION;
}

export class IcmpErrorSender {
  private readonly ctx: StackContext;
  private readonly frame: DataView;
  /** Header of the error being sent, and its addresses. */
  private readonly ip: IpFields;

  constructor(ctx: StackContext) {
    this.ctx = ctx;
    this.ip = new IpFields(IP_PROTO_ICMP, OUTPUT_TTL);
    this.frame = new DataView(new ArrayBuffer(ETHERNET_HEADER_LEN + MAX_PACKET6));
  }

  /**
   * Sends an error of `type` and `code` from `from[0…3]` about a packet that the guest sent: its header had `quoted`, and
   * the first `quoteLen` bytes of its transport header and payload lie at `quoteOff` in `quote` (cut as the RFCs say).
   * `info` is the MTU or pointer. Returns false if it could not be sent; that was counted.
   */
  send(
    type: number,
    code: number,
    info: number,
    from: Int32Array,
    quoted: IpFields,
    quote: DataView,
    quoteOff: number,
    quoteLen: number,
  ): boolean {
    const { frame } = this;
    const { v4, words } = quoted;
    const packetLen = (v4 ? IPV4_HEADER_LEN : IPV6_HEADER_LEN) + quoteLen;
    if (groupHasNone(v4, type, code, words, quoted.dst) || pointsPastIt(v4, type, info, packetLen)) {
      this.ctx.counters[C_DROPS_TO_GUEST + DROP_ICMP_MALFORMED]++;
      return false;
    }
    const quotedLen = Math.min(quoteLen, v4 ? MAX_QUOTE4 : MAX_QUOTE6);
    const icmpLen = ICMP_HEADER_LEN + (v4 ? IPV4_HEADER_LEN : IPV6_HEADER_LEN) + quotedLen;
    const at = this.headers(v4, from, words, quoted.src, icmpLen);
    icmpWrite(frame, at, type, codeOf(v4, type, code), 0, restOfHeader(v4, type, code, info));
    const q = this.quoteHeader(at + ICMP_HEADER_LEN, quoted, quoteLen);
    copyBytes(quote, quoteOff, frame, q, quotedLen);
    return this.finish(at, icmpLen);
  }

  /**
   * The next link carries `mtu` bytes and the packet must not be fragmented: the error that a router would send (RFC 1191
   * §4, RFC 8201 §3). The rest as for `send`.
   */
  sendTooLong(
    mtu: number,
    from: Int32Array,
    quoted: IpFields,
    quote: DataView,
    quoteOff: number,
    quoteLen: number,
  ): boolean {
    const { v4 } = quoted;
    const type = v4 ? ICMP_DEST_UNREACHABLE : ICMPV6_PACKET_TOO_BIG;
    const code = v4 ? ICMP_CODE_FRAGMENTATION_NEEDED : 0;
    return this.send(type, code, mtu, from, quoted, quote, quoteOff, quoteLen);
  }

  /**
   * As `send`, about a packet that is there: `length` bytes of it, from its IP header on, lie in `port.head`, and are
   * quoted as they came. That is what `info` may point into.
   */
  sendAbout(type: number, code: number, info: number, from: Int32Array, packet: FrameInfo, length: number): boolean {
    const { frame } = this;
    const { head } = this.ctx.port;
    const v4 = isV4(packet.addr, 0);
    const most = v4 ? MAX_QUOTE4 + IPV4_HEADER_LEN : MAX_QUOTE6 + IPV6_HEADER_LEN;
    const quotedLen = Math.min(length, most);
    const icmpLen = ICMP_HEADER_LEN + quotedLen;
    const at = this.headers(v4, from, packet.addr, 0, icmpLen);
    icmpWrite(frame, at, type, code, 0, restOfHeader(v4, type, code, info));
    copyBytes(head, packet.l3Off, frame, at + ICMP_HEADER_LEN, quotedLen);
    return this.finish(at, icmpLen);
  }

  /** Ethernet and IP headers of the error to `to[t…]`. Returns the offset behind them. */
  private headers(v4: boolean, from: Int32Array, to: Int32Array, t: number, icmpLen: number): number {
    const { ip } = this;
    ip.v4 = v4;
    ip.protocol = v4 ? IP_PROTO_ICMP : IP_PROTO_ICMPV6;
    copyWords(from, 0, ip.words, ip.src);
    copyWords(to, t, ip.words, ip.dst);
    return outputHeadersTo(this.ctx, this.frame, 0, ip, icmpLen);
  }

  /** Checksum of the message at `at`, and away with it. */
  private finish(at: number, icmpLen: number): boolean {
    const { frame, ip } = this;
    const sum = ip.v4 ? 0 : pseudoHeaderSum6(ip.words, ip.src, IP_PROTO_ICMPV6, icmpLen);
    icmpSetChecksum(frame, at, checksumFinish(checksumAdd(frame, at, icmpLen, sum)));
    return sendSmall(this.ctx, frame, at + icmpLen, CLASS_ICMP);
  }

  /** The IP header of the packet quoted. Returns the offset behind it. */
  private quoteHeader(at: number, quoted: IpFields, l4Len: number): number {
    if (quoted.v4) {
      ipv4Write(this.frame, at, quoted, IPV4_HEADER_LEN + l4Len, 0, IPV4_DF);
      return at + IPV4_HEADER_LEN;
    }
    ipv6Write(this.frame, at, quoted, quoted.protocol, l4Len);
    return at + IPV6_HEADER_LEN;
  }
}
