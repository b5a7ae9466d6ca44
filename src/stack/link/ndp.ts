/**
 * Neighbour Discovery, RFC 4861: we are the guest's router, and the neighbour at every address, with the Ethernet
 * address that the host knows it by (neighbours.ts).
 *
 * Solicitations are answered for any target but the guest's own addresses and those under duplicate address detection
 * (source `::`, RFC 4862 §5.4). Advertisements from the guest are only learnt from.
 * Router advertisements answer solicitations, are sent when the link comes up, and are repeated every 200 to 600 s.
 */
import { IpFields } from '../wire/ip-fields';
import { addressWords, copyWords, wordsEqual } from '../ip/address';
import { DEFAULT_MTU, INFINITE_SEC, MAX_DNS } from '../config';
import type { FrameInfo, StackContext } from '../context';
import type { DropCode } from '../counters';
import { dropCode } from '../counters';
import type { Mac } from '../wire/ethernet';
import { learn6, learn6At, macFor } from './guest-state';
import { HOW_NDP } from './stations';
import { CLASS_ICMP, OUTPUT_HEADER_LEN6, outputHeadersTo, sendSmall, trySendSmall } from '../ip/to-guest';
import { MAX_HEADER } from '../ports';
import { Withdrawn } from './ra-withdrawals';
import { checksumAdd, checksumFinish, checksumOk, pseudoHeaderSum6 } from '../wire/checksum';
import { encodeNames } from '../wire/domain-name';
import { ethernetSetSrc } from '../wire/ethernet';
import { icmpSetChecksum, icmpType } from '../wire/icmp';
import {
  NA_OVERRIDE,
  NA_ROUTER,
  NA_SOLICITED,
  NDP_HOP_LIMIT,
  NDP_NA_LEN,
  NDP_NEIGHBOR_ADVERTISEMENT,
  NDP_NEIGHBOR_SOLICITATION,
  NDP_NS_LEN,
  NDP_OPTION_SOURCE_LL,
  NDP_OPTION_TARGET_LL,
  NDP_PREFIX_AUTONOMOUS,
  NDP_PREFIX_ON_LINK,
  NDP_RA_LEN,
  NDP_ROUTER_SOLICITATION,
  NDP_RS_LEN,
  RA_MANAGED,
  ndpCheck,
  ndpFindOption,
  ndpTarget,
  ndpWriteDnssl,
  ndpWriteLinkLayer,
  ndpWriteMtu,
  ndpWriteNa,
  ndpWriteNs,
  ndpWritePrefix64,
  ndpWriteRa,
  ndpWriteRdnss,
} from '../wire/icmpv6/ndp';
import { IP_PROTO_ICMPV6 } from '../wire/ipv4';
import { IPV6_MIN_MTU, ipv6IsLoopback, ipv6IsMulticast, ipv6IsUnspecified } from '../wire/ipv6';

const DROP_NDP_MALFORMED = dropCode('ndp_malformed');
const DROP_HEAD_TOO_SHORT = dropCode('head_too_short');

/** Hop limit suggested to the guest. */
const RA_CUR_HOP_LIMIT = 255;
/**
 * What an advertisement says holds for the lease (`Ip6Config.leaseSec`), and for three intervals at least (RFC 4861
 * §6.2.1).
 */
const RA_LIFETIME_SEC_MIN = 1800;
/** A router's own lifetime has 16 bits (RFC 8319 §4). */
const RA_ROUTER_SEC_MAX = 0xffff;

/** Unsolicited advertisements come every RA_INTERVAL_MS plus a random part below RA_INTERVAL_SPREAD_S seconds. */
const RA_INTERVAL_MS = 200_000;
const RA_INTERVAL_SPREAD_S = 400;

/** First word of ff02::1:ff00:0/104, the solicited-node groups (RFC 4291 §2.7.1). */
const NODE_GROUP_0 = 0xff020000 | 0;
const ALL_NODES = Int32Array.of(0xff020000, 0, 0, 1);

/** Offset of the ICMPv6 message in frames we build. */
const L4 = OUTPUT_HEADER_LEN6;

export class NdpService {
  private readonly ctx: StackContext;
  /** Header of what we send: ours is the source. */
  private readonly ip: IpFields;
  /** Target of the message in hand. */
  private readonly target: Int32Array;
  /** Address assigned to the guest; all zero: none. */
  private readonly assigned: Int32Array;
  /** NS and NA are built here. */
  private readonly out: DataView;
  /** The router advertisement, complete but for headers and checksum. */
  private readonly ra: DataView;
  private readonly raLen: number;
  private readonly mac: Mac;
  private raAtMs: number;

  /** `withdrawn`: what earlier advertisements said and must be taken back. */
  constructor(ctx: StackContext, withdrawn: Withdrawn = new Withdrawn()) {
    this.ctx = ctx;
    this.ip = new IpFields(IP_PROTO_ICMPV6, NDP_HOP_LIMIT);
    this.ip.v4 = false;
    this.target = new Int32Array(4);
    this.assigned = new Int32Array(4);
    const ip6 = ctx.config.ip6;
    if (ip6 !== null) {
      addressWords(ip6.ourLinkLocal, this.ip.words, this.ip.src);
      if (ip6.guestAddr !== null) addressWords(ip6.guestAddr, this.assigned, 0);
    }
    this.out = new DataView(new ArrayBuffer(L4 + NDP_NS_LEN + 8));
    this.ra = new DataView(new ArrayBuffer(MAX_HEADER));
    this.mac = { hi: 0, lo: 0 };
    this.raLen = this.buildRa(withdrawn);
    this.raAtMs = Infinity;
  }

  /** An ND message (ICMPv6 type 133 … 136) from the guest. */
  fromGuest(frame: FrameInfo): DropCode {
    const port = this.ctx.port;
    const off = frame.l4Off;
    const end = off + frame.l4Len;
    if (port.pull(end) < end) return DROP_HEAD_TOO_SHORT;
    const head = port.head;
    const a = frame.addr;
    if (frame.ttl !== NDP_HOP_LIMIT) return DROP_NDP_MALFORMED;
    const drop = ndpCheck(head, off, end);
    if (drop !== 0) return drop;
    const sum = pseudoHeaderSum6(a, 0, IP_PROTO_ICMPV6, frame.l4Len);
    if (!port.csumPartial && !checksumOk(checksumAdd(head, off, frame.l4Len, sum))) return DROP_NDP_MALFORMED;
    switch (icmpType(head, off)) {
      case NDP_NEIGHBOR_SOLICITATION:
        return this.solicited(frame, head, off, end);
      case NDP_ROUTER_SOLICITATION:
        return this.routerSolicited(frame, head, off, end);
      case NDP_NEIGHBOR_ADVERTISEMENT:
        this.advertisedBy(head, off, end);
        return 0;
      default:
        return 0; // a router advertisement of the guest's: nothing to do
    }
  }

  private solicited(frame: FrameInfo, head: DataView, off: number, end: number): DropCode {
    const target = this.target;
    ndpTarget(head, off, target, 0);
    if (ipv6IsMulticast(target, 0) || ipv6IsUnspecified(target, 0) || ipv6IsLoopback(target, 0)) {
      return DROP_NDP_MALFORMED;
    }
    const a = frame.addr;
    if (ipv6IsUnspecified(a, 0)) {
      // RFC 4861 §7.1.1: only to a solicited-node group, and without saying where nobody is found.
      const toGroup = a[4] === NODE_GROUP_0 && a[5] === 0 && a[6] === 1 && a[7] >>> 24 === 0xff;
      if (!toGroup || ndpFindOption(head, off + NDP_NS_LEN, end, NDP_OPTION_SOURCE_LL) >= 0) return DROP_NDP_MALFORMED;
      // Duplicate address detection: the guest is about to use it (RFC 4862 §5.4). One that autoconfigures, and then
      // serves without ever sending first, is found by nothing else.
      learn6(this.ctx, target, 0, HOW_NDP);
      return 0;
    }
    if (this.isGuests(target, 0)) return 0;
    const { link, clock } = this.ctx;
    // Behind another Ethernet address of the guest's: it answers for itself.
    if (link.stations.isElsewhere(target, 0, link.guestMacHi, link.guestMacLo, clock.nowMs)) return 0;
    macFor(this.ctx, target, 0, this.mac);
    ndpWriteNa(this.out, L4, NA_ROUTER | NA_SOLICITED | NA_OVERRIDE, target, 0);
    ndpWriteLinkLayer(this.out, L4 + NDP_NA_LEN, NDP_OPTION_TARGET_LL, this.mac.hi, this.mac.lo);
    const length = this.complete(this.out, NDP_NA_LEN + 8, a, 0);
    sendSmall(this.ctx, this.out, length, CLASS_ICMP);
    return 0;
  }

  /** The guest says where an address of its own is found, asked or not (RFC 4861 §7.2.6: it may have moved). */
  private advertisedBy(head: DataView, off: number, end: number): void {
    const { link } = this.ctx;
    const target = this.target;
    ndpTarget(head, off, target, 0);
    if (ipv6IsMulticast(target, 0) || ipv6IsUnspecified(target, 0) || ipv6IsLoopback(target, 0)) return;
    const at = ndpFindOption(head, off + NDP_NA_LEN, end, NDP_OPTION_TARGET_LL);
    const hi = at < 0 ? link.guestMacHi : head.getUint16(at + 2);
    const lo = at < 0 ? link.guestMacLo : head.getInt32(at + 4);
    learn6At(this.ctx, target, 0, hi, lo);
  }

  private isGuests(words: Int32Array, at: number): boolean {
    const link = this.ctx.link;
    return (
      wordsEqual(this.assigned, 0, words, at) ||
      wordsEqual(link.guest6, 0, words, at) ||
      wordsEqual(link.guest6LinkLocal, 0, words, at)
    );
  }

  private routerSolicited(frame: FrameInfo, head: DataView, off: number, end: number): DropCode {
    if (!this.ctx.config.ra) return 0;
    const a = frame.addr;
    if (!ipv6IsUnspecified(a, 0)) {
      const length = this.complete(this.ra, this.raLen, a, 0);
      sendSmall(this.ctx, this.ra, length, CLASS_ICMP);
      return 0;
    }
    // RFC 4861 §6.1.1: nobody without an address can have told us where it is found.
    if (ndpFindOption(head, off + NDP_RS_LEN, end, NDP_OPTION_SOURCE_LL) >= 0) return DROP_NDP_MALFORMED;
    this.advertiseOrDrop();
    return 0;
  }

  /**
   * Asks for the guest's assigned address, to learn its Ethernet address (RFC 4291 §2.7.1). False if it must be tried
   * again.
   */
  probe(): boolean {
    return this.ask(this.assigned, 0);
  }

  /** Asks the guest for one of its addresses, to that one's solicited-node group. False if it must be tried again. */
  ask(words: Int32Array, at: number): boolean {
    if (this.ctx.config.ip6 === null || ipv6IsUnspecified(words, at)) return true;
    const { ourMacHi, ourMacLo } = this.ctx.link;
    ndpWriteNs(this.out, L4, words, at);
    ndpWriteLinkLayer(this.out, L4 + NDP_NS_LEN, NDP_OPTION_SOURCE_LL, ourMacHi, ourMacLo);
    const group = this.target;
    group[0] = NODE_GROUP_0;
    group[1] = 0;
    group[2] = 1;
    group[3] = 0xff000000 | (words[at + 3] & 0xffffff);
    const length = this.complete(this.out, NDP_NS_LEN + 8, group, 0);
    return trySendSmall(this.ctx, this.out, length, CLASS_ICMP);
  }

  /**
   * Announces that the host found `words[at…]` at an Ethernet address (RFC 4861 §7.2.6), so that a guest which asked before
   * corrects its table. Not for the guest's own addresses: it would take it for a conflict.
   */
  announce(words: Int32Array, at: number, macHi: number, macLo: number): void {
    if (this.isGuests(words, at)) return;
    ndpWriteNa(this.out, L4, NA_ROUTER | NA_OVERRIDE, words, at);
    ndpWriteLinkLayer(this.out, L4 + NDP_NA_LEN, NDP_OPTION_TARGET_LL, macHi, macLo);
    const length = this.complete(this.out, NDP_NA_LEN + 8, ALL_NODES, 0);
    ethernetSetSrc(this.out, 0, macHi, macLo);
    sendSmall(this.ctx, this.out, length, CLASS_ICMP);
  }

  /** Sends a router advertisement to all nodes. False if it must be tried again. */
  advertise(): boolean {
    if (this.ctx.config.ip6 === null || !this.ctx.config.ra) return true;
    return trySendSmall(this.ctx, this.ra, this.completeRa(), CLASS_ICMP);
  }

  /**
   * We go on under another link-local address: under this one we are no router any more (RFC 4861 §6.2.5). If there is
   * no receive buffer the guest keeps seeing two routers, which does no harm: both forward.
   */
  retire(): void {
    if (!this.ctx.config.ra || !this.ctx.port.up) return;
    ndpWriteRa(this.out, L4, RA_CUR_HOP_LIMIT, 0, 0);
    trySendSmall(this.ctx, this.out, this.complete(this.out, NDP_RA_LEN, ALL_NODES, 0), CLASS_ICMP);
  }

  private advertiseOrDrop(): void {
    sendSmall(this.ctx, this.ra, this.completeRa(), CLASS_ICMP);
  }

  private completeRa(): number {
    this.ctx.link.mtu.advertised(this.ctx.clock.nowMs);
    return this.complete(this.ra, this.raLen, ALL_NODES, 0);
  }

  /** Starts (again) the interval to the next unsolicited advertisement. */
  schedule(): void {
    const { config, clock, random } = this.ctx;
    if (config.ip6 === null || !config.ndp || !config.ra) return;
    this.raAtMs = clock.nowMs + RA_INTERVAL_MS + ((random.u32() >>> 0) % RA_INTERVAL_SPREAD_S) * 1000;
  }

  /** Time of the next unsolicited advertisement, or Infinity. */
  nextDeadline(): number {
    return this.raAtMs;
  }

  onTimer(): void {
    if (this.ctx.clock.nowMs < this.raAtMs) return;
    if (!this.ctx.port.up) {
      this.raAtMs = Infinity; // the link coming up starts it again
      return;
    }
    this.advertiseOrDrop();
    this.schedule();
  }

  /**
   * Completes headers and checksum of the message of `length` bytes at L4 of `dv`, to `words[at…]`. Returns all its bytes.
   */
  private complete(dv: DataView, length: number, words: Int32Array, at: number): number {
    const ip = this.ip;
    copyWords(words, at, ip.words, ip.dst);
    outputHeadersTo(this.ctx, dv, 0, ip, length);
    ethernetSetSrc(dv, 0, this.ctx.link.ourMacHi, this.ctx.link.ourMacLo);
    icmpSetChecksum(dv, L4, 0);
    const sum = pseudoHeaderSum6(ip.words, ip.src, IP_PROTO_ICMPV6, length);
    icmpSetChecksum(dv, L4, checksumFinish(checksumAdd(dv, L4, length, sum)));
    return L4 + length;
  }

  /** Builds the advertisement; returns its length. */
  private buildRa(withdrawn: Withdrawn): number {
    const { config, link } = this.ctx;
    const { ip6 } = config;
    if (ip6 === null) return 0;
    const dv = this.ra;
    const lifetimeSec = Math.max(RA_LIFETIME_SEC_MIN, ip6.leaseSec);
    const routerSec = Math.min(RA_ROUTER_SEC_MAX, lifetimeSec);
    const managed = config.dhcpv6 && ip6.guestAddr !== null;
    ndpWriteRa(dv, L4, RA_CUR_HOP_LIMIT, managed ? RA_MANAGED : 0, ip6.withdrawn ? 0 : routerSec);
    let at = L4 + NDP_RA_LEN;
    const flags = NDP_PREFIX_ON_LINK | NDP_PREFIX_AUTONOMOUS;
    if (ip6.guestAddr !== null) {
      // A prefix that is withdrawn may come back: addresses of it are deprecated, not removed.
      const preferredSec = ip6.withdrawn ? 0 : lifetimeSec;
      at = ndpWritePrefix64(dv, at, flags, this.assigned, Math.min(INFINITE_SEC, 2 * lifetimeSec), preferredSec);
    }
    const words = new Int32Array(4);
    for (const prefix of withdrawn.prefixes) {
      addressWords(prefix, words, 0);
      at = ndpWritePrefix64(dv, at, flags, words, 0, 0);
    }
    at = ndpWriteLinkLayer(dv, at, NDP_OPTION_SOURCE_LL, link.ourMacHi, link.ourMacLo);
    if (link.mtu.told >= IPV6_MIN_MTU) at = ndpWriteMtu(dv, at, link.mtu.told);
    if (config.advertiseDns && ip6.dns.length > 0 && !ip6.withdrawn) {
      at = ndpWriteRdnss(dv, at, lifetimeSec, ip6.dns.slice(0, MAX_DNS));
    }
    if (withdrawn.dns.length > 0) at = ndpWriteRdnss(dv, at, 0, withdrawn.dns);
    if (config.advertiseSearch && !ip6.withdrawn) at = this.writeSearch(at, lifetimeSec, config.search);
    return this.writeSearch(at, 0, withdrawn.search) - L4;
  }

  /** Writes a DNSSL option with those names that fit; none, no option. Returns the offset after it. */
  private writeSearch(at: number, lifetimeSec: number, search: readonly string[]): number {
    const mtu = this.ctx.link.mtu.told;
    // The advertisement must fit into one packet; an option's length is counted in one byte of 8-byte units.
    const linkMtu = mtu >= IPV6_MIN_MTU ? mtu : mtu === 0 ? DEFAULT_MTU : IPV6_MIN_MTU;
    const room = Math.min(linkMtu + 14, MAX_HEADER) - at - 16;
    const names = encodeNames(search, Math.min(room, 255 * 8 - 8));
    return names.length > 0 ? ndpWriteDnssl(this.ra, at, lifetimeSec, names) : at;
  }
}
