/**
 * ICMP and ICMPv6 errors to the guest (RFC 792, RFC 1812 §4.3.2, RFC 4443 §3) about packets that left as datagrams of
 * host sockets. The kernel keeps no IP header of what the guest sent, so the quoted packet is rebuilt in the guest's
 * terms from the flow it belongs to: the guest matches errors to its sockets by addresses, ports and identifiers only.
 */
import { isGroup, isV4 } from './address';
import type { StackContext } from '../context';
import { C_DROPS, dropCode } from '../counters';
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
import { IP_PROTO_ICMP, IP_PROTO_ICMPV6, IPV4_DF, IPV4_HEADER_LEN, ipv4Write } from '../wire/ipv4';
import { IPV6_HEADER_LEN, ipv6Write } from '../wire/ipv6';

const DROP_ICMP_MALFORMED = dropCode('icmp_malformed');

/** Longest error: IPv4 hosts need take 576 bytes only (RFC 1812 §4.3.2.3), IPv6 ones 1280 (RFC 4443 §2.4 c). */
const MAX_PACKET4 = 576;
const MAX_PACKET6 = 1280;

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
  if (!isGroup(v4, key[to], key[to + 1], key[to + 2], key[to + 3])) return false;
  if (v4) return true;
  if (type === ICMPV6_PACKET_TOO_BIG) return false;
  return type !== ICMPV6_PARAMETER_PROBLEM || code !== ICMPV6_CODE_UNRECOGNIZED_OPTION;
}

export class IcmpErrorSender {
  private readonly ctx: StackContext;
  private readonly frame: DataView;

  constructor(ctx: StackContext) {
    this.ctx = ctx;
    this.frame = new DataView(new ArrayBuffer(ETHERNET_HEADER_LEN + MAX_PACKET6));
  }

  /**
   * Sends an error of `type` and `code` from `from[0…3]` about a packet that the guest sent: source is the guest's
   * end in `key[k…]` (a flow key: guest's address, other address), protocol `protocol`, whose first `quoteLen` bytes of
   * transport header and payload lie at `quoteOff` in `quote` (cut as the RFCs say). `info` is the MTU or pointer.
   * Returns false if it could not be sent; that was counted.
   */
  send(
    type: number,
    code: number,
    info: number,
    from: Int32Array,
    key: Int32Array,
    k: number,
    protocol: number,
    ttl: number,
    quote: DataView,
    quoteOff: number,
    quoteLen: number,
  ): boolean {
    const { frame } = this;
    const v4 = isV4(key[k], key[k + 1], key[k + 2]);
    const packetLen = (v4 ? IPV4_HEADER_LEN : IPV6_HEADER_LEN) + quoteLen;
    if (groupHasNone(v4, type, code, key, k + 4) || pointsPastIt(v4, type, info, packetLen)) {
      this.ctx.counters[C_DROPS + DROP_ICMP_MALFORMED]++;
      return false;
    }
    const quotedLen = Math.min(quoteLen, v4 ? MAX_QUOTE4 : MAX_QUOTE6);
    const icmpLen = ICMP_HEADER_LEN + (v4 ? IPV4_HEADER_LEN : IPV6_HEADER_LEN) + quotedLen;
    const at = this.headers(v4, from, key, k, icmpLen);
    icmpWrite(frame, at, type, codeOf(v4, type, code), 0, restOfHeader(v4, type, code, info));
    const q = this.quoteHeader(at + ICMP_HEADER_LEN, v4, key, k, protocol, ttl, quoteLen);
    for (let i = 0; i < quotedLen; i++) frame.setUint8(q + i, quote.getUint8(quoteOff + i));
    return this.finish(v4, from, key, k, at, icmpLen);
  }

  /**
   * As `send`, about a packet that is there: `length` bytes of it, from its IP header on, lie at `off` in `packet`, and
   * are quoted as they came. That is what `info` may point into.
   */
  sendAbout(
    type: number,
    code: number,
    info: number,
    from: Int32Array,
    key: Int32Array,
    k: number,
    packet: DataView,
    off: number,
    length: number,
  ): boolean {
    const { frame } = this;
    const v4 = isV4(key[k], key[k + 1], key[k + 2]);
    const most = v4 ? MAX_QUOTE4 + IPV4_HEADER_LEN : MAX_QUOTE6 + IPV6_HEADER_LEN;
    const quotedLen = Math.min(length, most);
    const icmpLen = ICMP_HEADER_LEN + quotedLen;
    const at = this.headers(v4, from, key, k, icmpLen);
    icmpWrite(frame, at, type, code, 0, restOfHeader(v4, type, code, info));
    for (let i = 0; i < quotedLen; i++) frame.setUint8(at + ICMP_HEADER_LEN + i, packet.getUint8(off + i));
    return this.finish(v4, from, key, k, at, icmpLen);
  }

  /** Ethernet and IP headers of the error. Returns the offset behind them. */
  private headers(v4: boolean, from: Int32Array, key: Int32Array, k: number, icmpLen: number): number {
    return outputHeadersTo(
      this.ctx,
      this.frame,
      0,
      v4 ? 4 : 6,
      from[0],
      from[1],
      from[2],
      from[3],
      key[k],
      key[k + 1],
      key[k + 2],
      key[k + 3],
      v4 ? IP_PROTO_ICMP : IP_PROTO_ICMPV6,
      icmpLen,
      OUTPUT_TTL,
      0,
      0,
    );
  }

  /** Checksum of the message at `at`, and away with it. */
  private finish(v4: boolean, from: Int32Array, key: Int32Array, k: number, at: number, icmpLen: number): boolean {
    const { frame } = this;
    let sum = 0;
    if (!v4) {
      sum = pseudoHeaderSum6(
        from[0],
        from[1],
        from[2],
        from[3],
        key[k],
        key[k + 1],
        key[k + 2],
        key[k + 3],
        IP_PROTO_ICMPV6,
        icmpLen,
      );
    }
    icmpSetChecksum(frame, at, checksumFinish(checksumAdd(frame, at, icmpLen, sum)));
    return sendSmall(this.ctx, frame, at + icmpLen, CLASS_ICMP);
  }

  /** The IP header of the packet quoted. Returns the offset behind it. */
  private quoteHeader(
    at: number,
    v4: boolean,
    key: Int32Array,
    k: number,
    protocol: number,
    ttl: number,
    l4Len: number,
  ): number {
    const frame = this.frame;
    if (v4) {
      ipv4Write(frame, at, IPV4_HEADER_LEN + l4Len, 0, 0, IPV4_DF, ttl, protocol, key[k + 3], key[k + 7]);
      return at + IPV4_HEADER_LEN;
    }
    ipv6Write(
      frame,
      at,
      l4Len,
      protocol,
      ttl,
      0,
      0,
      key[k],
      key[k + 1],
      key[k + 2],
      key[k + 3],
      key[k + 4],
      key[k + 5],
      key[k + 6],
      key[k + 7],
    );
    return at + IPV6_HEADER_LEN;
  }
}
