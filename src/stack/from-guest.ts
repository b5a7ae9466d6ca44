/**
 * Frames from the guest, from Ethernet to the handler of their transport.
 *
 * Theory of operation. A frame is parsed once: Ethernet, then IP down to the transport header, into one `FrameInfo`, from
 * the port's private copy. It is dropped, with a reason counted, or goes to one of the services on the link (ARP, DHCP,
 * DHCPv6, ND), or to the TCP, UDP or ICMP handler. Handlers may gather payload rows of many frames; rows stay valid up to
 * `endOfBatch`, after which the guest gets its buffers back. A batch ends when the port is empty, the budget is spent, or
 * the row table might not hold another frame.
 *
 * Address words: IPv4 is v4-mapped inside the stack, so an IPv6 packet from or to ::ffff:0:0/96 would be taken for
 * IPv4; such packets are invalid on a link (RFC 4291 §2.5.5.2) and dropped here. So are loopback, unspecified and
 * multicast sources: no handler sees one.
 */
import { isV4, mapWords4 } from './ip/address';
import type { FlowHandler, FrameInfo, StackContext, StackHandlers } from './context';
import { SEEN_V4, SEEN_V6 } from './context';
import { ROWS_IN, ROWS_IN_LAST } from './scratch';
import type { DropCode } from './counters';
import { C_BYTES_FROM_GUEST_TCP, C_DROPS, C_FRAMES_FROM_GUEST, dropCode } from './counters';
import { Reassembly } from './ip/reassembly';
import { ErrorsFromGuest, isPathError } from './ip/from-guest-errors';
import { ProtocolErrors } from './ip/protocol-errors';
import { learn4, learn6, learnMac, learnMtu, learnSegmentSize } from './link/guest-state';
import { HOW_FRAME } from './link/stations';
import { DNS_PORT } from './link/names';
import type { LinkServices } from './link/services';
import { CLASS_ICMP, CLASS_OTHER, CLASS_TCP, CLASS_UDP } from './ip/to-guest';
import { setRow } from './kit/rows';
import { GSO_NONE, MAX_HEAD } from './ports';
import { DHCP_SERVER_PORT } from './wire/dhcp';
import { DHCPV6_SERVER_PORT } from './wire/dhcpv6';
import {
  ETHERNET_HEADER_LEN,
  ETHERTYPE_ARP,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  ETHERTYPE_QINQ,
  ETHERTYPE_VLAN,
  ethernetCheck,
  ethernetHeaderLen,
  ethernetInnerType,
  ethernetSrcHi,
  ethernetSrcLo,
  ethernetVlan,
} from './wire/ethernet';
import { NDP_NEIGHBOR_ADVERTISEMENT, NDP_ROUTER_SOLICITATION } from './wire/icmpv6/ndp';
import {
  IPV4_BROADCAST,
  IPV4_DF,
  IPV4_MF,
  IPV4_OFFSET_MASK,
  IP_PROTO_ICMP,
  IP_PROTO_ICMPV6,
  IP_PROTO_TCP,
  IP_PROTO_UDP,
  ipv4Check,
  ipv4Dst,
  ipv4FlagsFragment,
  ipv4HeaderLen,
  ipv4Id,
  ipv4IsFragment,
  ipv4IsLoopback,
  ipv4IsMulticast,
  ipv4Protocol,
  ipv4Src,
  ipv4Tos,
  ipv4TotalLen,
  ipv4Ttl,
} from './wire/ipv4';
import {
  IPV6_FRAGMENT_LEN,
  IPV6_HEADER_LEN,
  ipv6Check,
  ipv6ReadAddresses,
  ipv6FragmentAt,
  ipv6FragmentId,
  ipv6FragmentNext,
  ipv6FragmentOffset,
  ipv6HopLimit,
  ipv6IsLoopback,
  ipv6IsMulticast,
  ipv6IsUnspecified,
  ipv6PayloadLen,
  ipv6TrafficClass,
  ipv6Walk,
} from './wire/ipv6';
import { UDP_HEADER_LEN, udpDstPort } from './wire/udp';

const DROP_FRAME_SHORT = dropCode('frame_short');
const DROP_ETHERTYPE = dropCode('ethertype_unsupported');
const DROP_VLAN = dropCode('vlan_tagged');
const DROP_FAMILY_DISABLED = dropCode('family_disabled');
const DROP_IPV6_FRAGMENT = dropCode('ipv6_fragment');
const DROP_IPV6_EXTENSION = dropCode('ipv6_extension');
const DROP_PROTOCOL = dropCode('ip_protocol_unsupported');
const DROP_LOOPBACK = dropCode('loopback_address');
const DROP_SOURCE = dropCode('source_invalid');
const DROP_DESTINATION = dropCode('destination_invalid');
const DROP_PROTOCOL_DISABLED = dropCode('protocol_disabled');
const DROP_HEAD_TOO_SHORT = dropCode('head_too_short');

/**
 * Bytes taken from the guest in one go, a frame more at the most: with frames of 64 KiB, a budget of frames alone would
 * let one flow's bulk keep every other socket waiting for milliseconds.
 */
const BYTES_PER_GO = 512 * 1024;

/** Bytes of transport header that are in `port.head` whenever a handler is called (or all of a shorter packet). */
const L4_HEAD = 60;

export class FramesFromGuest {
  private readonly ctx: StackContext;
  private readonly tcp: FlowHandler;
  private readonly udp: FlowHandler;
  private readonly icmp: FlowHandler;
  private readonly services: LinkServices;
  private readonly errors: ErrorsFromGuest;
  private readonly fragments: Reassembly;
  private readonly protocolErrors: ProtocolErrors;
  private readonly frame: FrameInfo;
  /** Byte counter class of the frame being handled. */
  private byteClass: number;
  /** First row free for the next frame. */
  private row: number;
  /** The frame being handled was put together from fragments. */
  private whole: boolean;
  /** The frame came from an Ethernet address that can be a guest's: what it says is learnt. */
  private learns: boolean;
  /** The last `take` may have left frames, which the rate may forbid. */
  private waits: boolean;

  constructor(ctx: StackContext, handlers: StackHandlers, services: LinkServices) {
    this.ctx = ctx;
    this.tcp = handlers.tcp;
    this.udp = handlers.udp;
    this.icmp = handlers.icmp;
    this.services = services;
    this.errors = new ErrorsFromGuest(ctx, handlers.tcp, handlers.udp);
    this.fragments = new Reassembly(ctx);
    this.protocolErrors = new ProtocolErrors(ctx);
    this.frame = {
      frameLen: 0,
      row: 0,
      rowCount: 0,
      version: 0,
      l3Off: 0,
      protocol: 0,
      l4Off: 0,
      l4Len: 0,
      ttl: 0,
      tos: 0,
      df: false,
      addr: new Int32Array(8),
    };
    this.byteClass = CLASS_OTHER;
    this.row = ROWS_IN;
    this.whole = false;
    this.learns = false;
    this.waits = false;
  }

  /** Forgets fragments that have waited too long for the rest of their datagram. */
  onTimer(): void {
    this.fragments.onTimer();
  }

  /** Milliseconds (clock.nowMs scale) of the next time that `onTimer` is due, or Infinity. */
  nextDeadline(): number {
    const rate = this.ctx.link.rates.out;
    const due = this.fragments.nextDeadline();
    return rate.on && this.waits ? Math.min(due, rate.dueMs(this.ctx.clock)) : due;
  }

  /** The guest was reset. */
  reset(): void {
    this.fragments.reset();
  }

  /** Frames that wait have to wait longer: `--rate-out`. */
  get held(): boolean {
    const rate = this.ctx.link.rates.out;
    return rate.on && !rate.allows(this.ctx.clock);
  }

  /** Handles up to `budget` frames, and up to BYTES_PER_GO bytes. Returns true if there may be more. */
  take(budget: number): boolean {
    const port = this.ctx.port;
    const rate = this.ctx.link.rates.out;
    this.waits = false;
    this.row = ROWS_IN;
    let left = budget;
    let bytes = BYTES_PER_GO;
    for (; left > 0 && bytes > 0; left--) {
      if (rate.on && !rate.allows(this.ctx.clock)) break;
      if (this.row > ROWS_IN_LAST || this.fragments.full) this.endBatch();
      const length = port.receive(this.row);
      if (length === 0) {
        this.endBatch();
        return false;
      }
      rate.take(length);
      bytes -= length;
      this.receive(length);
    }
    this.endBatch();
    // Also where the budget ended it: its last frame may have used up the rate.
    this.waits = true;
    return true;
  }

  private endBatch(): void {
    this.tcp.endOfBatch();
    this.udp.endOfBatch();
    this.icmp.endOfBatch();
    this.fragments.endOfBatch();
    this.ctx.port.releaseReceived();
    this.row = ROWS_IN;
  }

  private receive(length: number): void {
    const { port, counters } = this.ctx;
    const frame = this.frame;
    frame.frameLen = length;
    frame.row = this.row;
    frame.rowCount = port.rowCount;
    this.byteClass = CLASS_OTHER;
    const drop = this.ethernet(frame);
    if (this.byteClass !== CLASS_TCP) this.ctx.traffic.light = true;
    if (drop !== 0) counters[C_DROPS + drop]++;
    counters[C_BYTES_FROM_GUEST_TCP + this.byteClass] += length;
    counters[C_FRAMES_FROM_GUEST]++;
  }

  private ethernet(frame: FrameInfo): DropCode {
    const head = this.ctx.port.head;
    if (ethernetCheck(head, 0, frame.frameLen) !== 0) return DROP_FRAME_SHORT;
    frame.l3Off = ethernetHeaderLen(head, 0, frame.frameLen);
    // VLAN 0 is none: the tag has a priority alone. Rows and offsets count it, as the guest's do.
    if (frame.l3Off !== ETHERNET_HEADER_LEN && ethernetVlan(head, 0) !== 0) {
      this.services.firstUse.vlan(ethernetVlan(head, 0));
      return DROP_VLAN;
    }
    switch (ethernetInnerType(head, 0, frame.l3Off)) {
      case ETHERTYPE_IPV4:
        this.learns = learnMac(this.ctx, ethernetSrcHi(head, 0), ethernetSrcLo(head, 0));
        return this.ipv4(frame, head);
      case ETHERTYPE_IPV6:
        this.learns = learnMac(this.ctx, ethernetSrcHi(head, 0), ethernetSrcLo(head, 0));
        return this.ipv6(frame, head);
      case ETHERTYPE_ARP:
        learnMac(this.ctx, ethernetSrcHi(head, 0), ethernetSrcLo(head, 0));
        if (this.ctx.config.ip4 === null) return DROP_FAMILY_DISABLED;
        this.ctx.link.seen |= SEEN_V4;
        return this.services.arp.fromGuest(frame);
      case ETHERTYPE_VLAN:
      case ETHERTYPE_QINQ:
        return DROP_VLAN;
      default:
        return DROP_ETHERTYPE;
    }
  }

  private ipv4(frame: FrameInfo, head: DataView): DropCode {
    const off = frame.l3Off;
    if (this.ctx.config.ip4 === null) return DROP_FAMILY_DISABLED;
    const malformed = ipv4Check(head, off, frame.frameLen);
    if (malformed !== 0) return malformed;
    const headerLen = ipv4HeaderLen(head, off);
    const src = ipv4Src(head, off);
    const dst = ipv4Dst(head, off);
    const a = frame.addr;
    frame.version = 4;
    frame.protocol = ipv4Protocol(head, off);
    frame.l4Off = off + headerLen;
    frame.l4Len = ipv4TotalLen(head, off) - headerLen;
    frame.ttl = ipv4Ttl(head, off);
    frame.tos = ipv4Tos(head, off);
    frame.df = (ipv4FlagsFragment(head, off) & IPV4_DF) !== 0;
    mapWords4(src, a, 0);
    mapWords4(dst, a, 4);
    this.byteClass = classOf(frame.protocol);
    if (ipv4IsLoopback(src) || ipv4IsLoopback(dst)) return DROP_LOOPBACK;
    if (ipv4IsMulticast(src) || src === IPV4_BROADCAST) return DROP_SOURCE;
    if (dst === 0) return DROP_DESTINATION;
    if (src !== 0) {
      if (this.learns) learn4(this.ctx, a, 0, HOW_FRAME);
      this.ctx.link.seen |= SEEN_V4;
    }
    if (ipv4IsFragment(head, off)) {
      const word = ipv4FlagsFragment(head, off);
      const at = (word & IPV4_OFFSET_MASK) << 3;
      const more = (word & IPV4_MF) !== 0;
      return this.fragment(frame, ipv4Id(head, off), frame.protocol, at, more, frame.l4Off, frame.l4Len);
    }
    return this.transport(frame, src === 0);
  }

  private ipv6(frame: FrameInfo, head: DataView): DropCode {
    const off = frame.l3Off;
    if (this.ctx.config.ip6 === null) return DROP_FAMILY_DISABLED;
    const malformed = ipv6Check(head, off, frame.frameLen);
    if (malformed !== 0) return malformed;
    const a = frame.addr;
    ipv6ReadAddresses(head, off, a);
    frame.version = 6;
    frame.ttl = ipv6HopLimit(head, off);
    frame.tos = ipv6TrafficClass(head, off);
    frame.df = !this.whole;
    if (ipv6IsLoopback(a, 0) || ipv6IsLoopback(a, 4)) return DROP_LOOPBACK;
    if (ipv6IsMulticast(a, 0) || isV4(a, 0)) return DROP_SOURCE;
    if (ipv6IsUnspecified(a, 4) || isV4(a, 4)) return DROP_DESTINATION;
    const noSource = ipv6IsUnspecified(a, 0);
    if (!noSource) {
      if (this.learns) learn6(this.ctx, a, 0, HOW_FRAME);
      this.ctx.link.seen |= SEEN_V6;
    }

    const port = this.ctx.port;
    const end = off + IPV6_HEADER_LEN + ipv6PayloadLen(head, off);
    let found = ipv6Walk(head, off, end, port.headLen);
    if (found === -DROP_HEAD_TOO_SHORT) found = ipv6Walk(head, off, end, port.pull(MAX_HEAD));
    if (found === -DROP_IPV6_FRAGMENT) {
      const at = ipv6FragmentAt(head, off);
      const word = ipv6FragmentOffset(head, at);
      const data = at + IPV6_FRAGMENT_LEN;
      const next = ipv6FragmentNext(head, at);
      return this.fragment(frame, ipv6FragmentId(head, at), next, word & ~7, (word & 1) !== 0, data, end - data);
    }
    if (found < 0) return -found;
    frame.protocol = found >>> 16;
    frame.l4Off = off + (found & 0xffff);
    frame.l4Len = end - frame.l4Off;
    this.byteClass = classOf(frame.protocol);
    return this.transport(frame, noSource);
  }

  /** One fragment (see `Reassembly.add`), and what is whole with it. */
  private fragment(
    frame: FrameInfo,
    id: number,
    protocol: number,
    offset: number,
    more: boolean,
    dataOff: number,
    dataLen: number,
  ): DropCode {
    const { io, port } = this.ctx;
    // What was put together cannot be a fragment again: its header is ours.
    if (this.whole) return DROP_IPV6_EXTENSION;
    const length = this.fragments.add(frame, id, protocol, offset, more, dataOff, dataLen);
    if (length <= 0) return -length;
    const row = frame.row;
    setRow(io.rows, row, io.scratchRegion, this.fragments.at, length);
    frame.frameLen = length;
    frame.rowCount = 1;
    frame.l3Off = ETHERNET_HEADER_LEN;
    port.substitute(io.scratch, this.fragments.at, length, row);
    this.whole = true;
    const drop = frame.version === 4 ? this.ipv4(frame, port.head) : this.ipv6(frame, port.head);
    this.whole = false;
    return drop;
  }

  /** Addresses are checked; `noSource`: the source is 0.0.0.0 or `::`, which only the services on the link accept. */
  private transport(frame: FrameInfo, noSource: boolean): DropCode {
    const { port, config } = this.ctx;
    const need = frame.l4Off + (frame.l4Len < L4_HEAD ? frame.l4Len : L4_HEAD);
    if (port.headLen < need && port.pull(need) < need) return DROP_HEAD_TOO_SHORT;
    const length = frame.l4Off + frame.l4Len - frame.l3Off;
    // One packet of the guest's own, so its link takes as long ones.
    if (length > this.ctx.link.mtu.bound(true) && port.gsoType === GSO_NONE && !this.whole) {
      learnMtu(this.ctx, length);
    }
    switch (frame.protocol) {
      case IP_PROTO_TCP:
        if (noSource) return DROP_SOURCE;
        if (!config.tcp) return DROP_PROTOCOL_DISABLED;
        learnSegmentSize(this.ctx, frame);
        this.row = this.tcp.fromGuest(frame);
        return 0;
      case IP_PROTO_UDP:
        return this.datagram(frame, noSource);
      case IP_PROTO_ICMP:
        if (frame.version !== 4) return DROP_PROTOCOL;
        if (frame.l4Len > 0 && isPathError(true, port.head.getUint8(frame.l4Off))) return this.error(frame, noSource);
        break;
      case IP_PROTO_ICMPV6: {
        if (frame.version !== 6) return DROP_PROTOCOL;
        const type = frame.l4Len > 0 ? port.head.getUint8(frame.l4Off) : 0;
        if (type >= NDP_ROUTER_SOLICITATION && type <= NDP_NEIGHBOR_ADVERTISEMENT) {
          // RFC 6980 §5: neighbour discovery does not come in fragments.
          if (this.whole) return DROP_IPV6_FRAGMENT;
          this.ctx.link.seen |= SEEN_V6;
          if (noSource) this.tcp.onGuestStart?.();
          return config.ndp ? this.services.ndp.fromGuest(frame) : DROP_PROTOCOL_DISABLED;
        }
        if (isPathError(false, type)) return this.error(frame, noSource);
        break;
      }
      default:
        return this.unknownProtocol(frame, noSource);
    }
    if (noSource) return DROP_SOURCE;
    if (!config.icmp) return DROP_PROTOCOL_DISABLED;
    this.row = this.icmp.fromGuest(frame);
    return 0;
  }

  /** Obeyed with `--no-icmp` too: they are of TCP and UDP. */
  private error(frame: FrameInfo, noSource: boolean): DropCode {
    return noSource ? DROP_SOURCE : this.errors.fromGuest(frame);
  }

  /** A transport that we do not support: answered with an ICMP error. */
  private unknownProtocol(frame: FrameInfo, noSource: boolean): DropCode {
    if (noSource) return DROP_SOURCE;
    this.protocolErrors.report(frame);
    return DROP_PROTOCOL;
  }

  private datagram(frame: FrameInfo, noSource: boolean): DropCode {
    const { port, config } = this.ctx;
    const dstPort = frame.l4Len < UDP_HEADER_LEN ? 0 : udpDstPort(port.head, frame.l4Off);
    if (frame.version === 4) {
      // Whatever its destination: a client that renews sends to its server, which is us.
      if (dstPort === DHCP_SERVER_PORT) {
        this.ctx.link.seen |= SEEN_V4;
        if (noSource) this.tcp.onGuestStart?.();
        return config.dhcp ? this.services.dhcp.fromGuest(frame) : DROP_PROTOCOL_DISABLED;
      }
    } else if (dstPort === DHCPV6_SERVER_PORT && ipv6IsMulticast(frame.addr, 4)) {
      if (noSource) return DROP_SOURCE;
      return this.services.servesDhcpv6 ? this.services.dhcpv6.fromGuest(frame) : DROP_PROTOCOL_DISABLED;
    }
    if (noSource) return DROP_SOURCE;
    if (!config.udp) return DROP_PROTOCOL_DISABLED;
    if (this.services.tftp?.fromGuest(frame, dstPort) === true) return 0;
    if (dstPort === DNS_PORT && this.services.names?.fromGuest(frame) === true) return 0;
    this.row = this.udp.fromGuest(frame);
    return 0;
  }
}

function classOf(protocol: number): number {
  switch (protocol) {
    case IP_PROTO_TCP:
      return CLASS_TCP;
    case IP_PROTO_UDP:
      return CLASS_UDP;
    case IP_PROTO_ICMP:
    case IP_PROTO_ICMPV6:
      return CLASS_ICMP;
    default:
      return CLASS_OTHER;
  }
}
