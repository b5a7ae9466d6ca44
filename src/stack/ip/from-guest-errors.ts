/**
 * ICMP and ICMPv6 errors from the guest, or from a router behind it, about packets that we sent to it: parsed once, the
 * quoted packet too, and handed to the transport that the packet belongs to. An error is answered by nothing.
 */
import { mapWords4 } from './address';
import type { FlowHandler, FrameInfo, QuotedPacket, StackContext } from '../context';
import { dropCode } from '../counters';
import type { DropCode } from '../counters';
import { MAX_HEAD } from '../ports';
import { checksumAdd, checksumOk, pseudoHeaderSum6 } from '../wire/checksum';
import {
  ICMP_CODE_FRAGMENTATION_NEEDED,
  ICMP_DEST_UNREACHABLE,
  ICMP_HEADER_LEN,
  ICMPV6_DEST_UNREACHABLE,
  ICMPV6_PACKET_TOO_BIG,
  icmpCode,
  icmpType,
} from '../wire/icmp';
import {
  IP_PROTO_ICMPV6,
  IP_PROTO_TCP,
  IP_PROTO_UDP,
  IPV4_HEADER_LEN,
  IPV4_OFFSET_MASK,
  ipv4Dst,
  ipv4FlagsFragment,
  ipv4HeaderLen,
  ipv4Protocol,
  ipv4Src,
  ipv4TotalLen,
} from '../wire/ipv4';
import {
  IPV6_FRAGMENT,
  IPV6_FRAGMENT_LEN,
  IPV6_HEADER_LEN,
  ipv6FragmentNext,
  ipv6FragmentOffset,
  ipv6NextHeader,
  ipv6ReadAddresses,
} from '../wire/ipv6';

const DROP_HEAD_TOO_SHORT = dropCode('head_too_short');
const DROP_ICMP_MALFORMED = dropCode('icmp_malformed');
const DROP_ICMP_UNSUPPORTED = dropCode('icmp_unsupported');

/** RFC 1191 §7: MTUs of common links, for routers that do not say theirs. */
const PLATEAUS = Uint16Array.of(32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68);

/** Is this type of message one that `fromGuest` is to have? */
export function isPathError(v4: boolean, type: number): boolean {
  return v4 ? type === ICMP_DEST_UNREACHABLE : type === ICMPV6_DEST_UNREACHABLE || type === ICMPV6_PACKET_TOO_BIG;
}

export class ErrorsFromGuest {
  private readonly ctx: StackContext;
  private readonly tcp: FlowHandler;
  private readonly udp: FlowHandler;
  private readonly quote: QuotedPacket;

  constructor(ctx: StackContext, tcp: FlowHandler, udp: FlowHandler) {
    this.ctx = ctx;
    this.tcp = tcp;
    this.udp = udp;
    this.quote = { head: ctx.port.head, version: 0, protocol: 0, l4Off: 0, l4Len: 0, addr: new Int32Array(8) };
  }

  /** A message of which `isPathError` is true. */
  fromGuest(frame: FrameInfo): DropCode {
    const { port } = this.ctx;
    const off = frame.l4Off;
    const end = off + frame.l4Len;
    const v4 = frame.version === 4;
    if (frame.l4Len < ICMP_HEADER_LEN) return DROP_ICMP_MALFORMED;
    // Errors have 576 bytes at the most, or 1280 (RFC 1812 §4.3.2.3, RFC 4443 §2.4 c).
    if (end > MAX_HEAD) return DROP_ICMP_MALFORMED;
    if (port.pull(end) < end) return DROP_HEAD_TOO_SHORT;
    const head = port.head;
    const a = frame.addr;
    let sum = 0;
    if (!v4) sum = pseudoHeaderSum6(a, 0, IP_PROTO_ICMPV6, frame.l4Len);
    if (!port.csumPartial && !checksumOk(checksumAdd(head, off, frame.l4Len, sum))) return DROP_ICMP_MALFORMED;
    this.quote.head = head;
    const from = off + ICMP_HEADER_LEN;
    // Nothing that we can have sent.
    if (!(v4 ? this.parse4(head, from, end) : this.parse6(head, from, end))) return DROP_ICMP_UNSUPPORTED;
    const type = icmpType(head, off);
    const tooBig = v4 ? icmpCode(head, off) === ICMP_CODE_FRAGMENTATION_NEEDED : type === ICMPV6_PACKET_TOO_BIG;
    if (!tooBig) return this.unreachable() ? 0 : DROP_ICMP_UNSUPPORTED;
    let mtu = v4 ? head.getUint16(off + 6) : head.getUint32(off + 4);
    if (v4 && mtu === 0) mtu = plateauBelow(ipv4TotalLen(head, from));
    return this.pathMtu(mtu) ? 0 : DROP_ICMP_UNSUPPORTED;
  }

  private pathMtu(mtu: number): boolean {
    const { quote } = this;
    switch (quote.protocol) {
      case IP_PROTO_TCP:
        return this.tcp.pathMtu?.(quote, mtu) ?? false;
      case IP_PROTO_UDP:
        return this.udp.pathMtu?.(quote, mtu) ?? false;
      default:
        return false;
    }
  }

  private unreachable(): boolean {
    const { quote } = this;
    return quote.protocol === IP_PROTO_TCP && (this.tcp.unreachable?.(quote) ?? false);
  }

  /** The quoted packet [off, end), of which the end may be missing. False if it is none, or not the first fragment. */
  private parse4(head: DataView, off: number, end: number): boolean {
    const { quote } = this;
    if (end - off < IPV4_HEADER_LEN || head.getUint8(off) >> 4 !== 4) return false;
    const headerLen = ipv4HeaderLen(head, off);
    if (headerLen < IPV4_HEADER_LEN || off + headerLen > end) return false;
    if ((ipv4FlagsFragment(head, off) & IPV4_OFFSET_MASK) !== 0) return false;
    const { addr } = quote;
    quote.version = 4;
    quote.protocol = ipv4Protocol(head, off);
    quote.l4Off = off + headerLen;
    quote.l4Len = end - quote.l4Off;
    mapWords4(ipv4Src(head, off), addr, 0);
    mapWords4(ipv4Dst(head, off), addr, 4);
    return true;
  }

  /** As `parse4`. We send no extension headers but that of a fragment. */
  private parse6(head: DataView, off: number, end: number): boolean {
    const { quote } = this;
    if (end - off < IPV6_HEADER_LEN || head.getUint8(off) >> 4 !== 6) return false;
    const { addr } = quote;
    ipv6ReadAddresses(head, off, addr);
    let at = off + IPV6_HEADER_LEN;
    let protocol = ipv6NextHeader(head, off);
    if (protocol === IPV6_FRAGMENT) {
      if (end - at < IPV6_FRAGMENT_LEN || ipv6FragmentOffset(head, at) > 1) return false;
      protocol = ipv6FragmentNext(head, at);
      at += IPV6_FRAGMENT_LEN;
    }
    quote.version = 6;
    quote.protocol = protocol;
    quote.l4Off = at;
    quote.l4Len = end - at;
    return true;
  }
}

/** The largest plateau below a packet of `length` bytes that did not pass. */
function plateauBelow(length: number): number {
  let i = 0;
  while (i < PLATEAUS.length - 1 && PLATEAUS[i] >= length) i++;
  return PLATEAUS[i];
}
