/**
 * The guest's network layer: Ethernet, ARP (RFC 826), neighbour and router discovery (RFC 4861, RFC 4862), addresses,
 * and IP packets in and out. Every frame received is checked; what is wrong is noted in `violations` and dropped.
 */
import {
  BROADCAST_MAC,
  be16,
  be32,
  concat,
  equal,
  eui64,
  formatAddr,
  formatMac,
  multicastMac,
  parseAddr,
  pseudoSum,
  samePrefix,
  solicitedNode,
  viewOf,
} from './bytes';
import * as vu from './constants';
import { withTimeout } from './connection';
import type { NetDriver, NetHeader } from './net-driver';
import {
  ETHER_ARP,
  ETHER_IPV4,
  ETHER_IPV6,
  PROTO_ICMPV6,
  PROTO_TCP,
  PROTO_UDP,
  arp,
  checkTransport,
  ethernet,
  icmp,
  ipHeader,
  parseArp,
  parseIp,
  transportChecksum,
  type IpPacket,
} from './packets';

export interface RouterAdvert {
  readonly router: string;
  readonly managed: boolean;
  readonly lifetime: number;
  readonly hopLimit: number;
  readonly prefixes: readonly { prefix: string; length: number; onLink: boolean; autonomous: boolean }[];
  readonly mtu: number | null;
  readonly dns: readonly string[];
  /** DNSSL option, raw, or null. */
  readonly dnssl: Uint8Array | null;
  readonly routerMac: string | null;
}

interface Neighbour {
  mac: Uint8Array | null;
  waiters: ((mac: Uint8Array) => void)[];
}

const ANY4 = new Uint8Array(4);
const ANY6 = new Uint8Array(16);
const ALL_NODES = parseAddr('ff02::1');
const ALL_ROUTERS = parseAddr('ff02::2');

export class Link {
  readonly mac: Uint8Array;
  readonly linkLocal: Uint8Array;
  driver: NetDriver;
  mtu = 1500;
  ip4: { addr: Uint8Array; prefixLen: number; gateway: Uint8Array | null } | null = null;
  readonly ip6: { addr: Uint8Array; prefixLen: number }[] = [];
  gateway6: Uint8Array | null = null;
  /** Protocol rules that a received frame broke, in words. */
  readonly violations: string[] = [];
  /** Every IP packet for this guest, its checksums verified. */
  onPacket: ((packet: IpPacket, frame: Uint8Array, header: NetHeader) => void) | null = null;
  /** Every frame, before it is looked at. */
  onFrame: ((frame: Uint8Array, header: NetHeader) => void) | null = null;
  /** ARP requests for our address and neighbour solicitations are answered. */
  answersNeighbours = true;

  private readonly neighbours = new Map<string, Neighbour>();
  private adverts: ((ra: RouterAdvert) => void)[] = [];

  constructor(driver: NetDriver, mac: Uint8Array) {
    this.mac = mac;
    this.linkLocal = eui64(parseAddr('fe80::'), mac);
    this.ip6.push({ addr: this.linkLocal, prefixLen: 64 });
    this.driver = driver;
    this.attach(driver);
  }

  /** Uses another driver: the guest rebooted. */
  attach(driver: NetDriver): void {
    this.driver = driver;
    driver.onFrame = (frame, header) => this.received(frame, header);
  }

  setIp4(addr: string, prefixLen: number, gateway: string | null): void {
    this.ip4 = { addr: parseAddr(addr), prefixLen, gateway: gateway === null ? null : parseAddr(gateway) };
  }

  addIp6(addr: string, prefixLen: number): void {
    const bytes = parseAddr(addr);
    if (!this.ip6.some((a) => equal(a.addr, bytes))) this.ip6.push({ addr: bytes, prefixLen });
  }

  /** Forgets what was learnt about neighbours. */
  flushNeighbours(): void {
    this.neighbours.clear();
  }

  isOurs(addr: Uint8Array): boolean {
    if (addr.length === 4) return this.ip4 !== null && equal(addr, this.ip4.addr);
    return this.ip6.some((a) => equal(a.addr, addr));
  }

  /** Source address for a destination: the family's own, link-local to link-local. */
  source(dst: Uint8Array): Uint8Array {
    if (dst.length === 4) return this.ip4?.addr ?? ANY4;
    const local = dst[0] === 0xfe && (dst[1] & 0xc0) === 0x80;
    const global = this.ip6.find((a) => !equal(a.addr, this.linkLocal));
    return local || global === undefined ? this.linkLocal : global.addr;
  }

  /** Ethernet address a packet for `dst` goes to: asks, if it is not known. */
  async nextHop(dst: Uint8Array, timeoutMs = 3000): Promise<Uint8Array> {
    const known = this.cachedHop(dst);
    if (known !== null) return known;
    return this.resolve(this.hopAddr(dst), timeoutMs);
  }

  /** Asks for an address by ARP or neighbour solicitation, whether or not it is known. Returns the MAC as text. */
  async askNeighbour(addr: string, timeoutMs = 3000): Promise<string> {
    this.neighbours.delete(formatAddr(parseAddr(addr)));
    return formatMac(await this.resolve(parseAddr(addr), timeoutMs));
  }

  /** Sends a transport segment whose checksum is complete. */
  async send(dst: Uint8Array, protocol: number, segment: Uint8Array, src = this.source(dst), ttl = 64): Promise<void> {
    const mac = await this.nextHop(dst);
    const type = dst.length === 4 ? ETHER_IPV4 : ETHER_IPV6;
    this.driver.send(ethernet(mac, this.mac, type, concat(ipHeader(src, dst, protocol, segment.length, ttl), segment)));
  }

  /**
   * Sends a TCP segment, header with checksum 0. The device computes the checksum and cuts the payload into pieces of
   * `mss` if it offered to; else the payload must not exceed `mss`. The neighbour should be known: if not, the segment is
   * sent when it answers.
   */
  sendTcp(src: Uint8Array, dst: Uint8Array, header: Uint8Array, payload: Uint8Array, mss: number): void {
    const hop = this.cachedHop(dst);
    if (hop === null) {
      const copy = payload.slice();
      const retry = (): void => this.sendTcp(src, dst, header, copy, mss);
      this.nextHop(dst).then(retry, () => undefined); // unreachable: TCP will notice by its own timer
      return;
    }
    const length = header.length + payload.length;
    const ip = ipHeader(src, dst, PROTO_TCP, length);
    const frame = concat(hop, this.mac, be16(dst.length === 4 ? ETHER_IPV4 : ETHER_IPV6), ip, header, payload);
    const start = 14 + ip.length;
    if (!this.driver.offloads.csum) {
      viewOf(frame).setUint16(start + 16, transportChecksum(src, dst, PROTO_TCP, frame.subarray(start)));
      this.driver.send(frame);
      return;
    }
    viewOf(frame).setUint16(start + 16, pseudoSum(src, dst, PROTO_TCP, length));
    const gso = payload.length > mss;
    const gsoType = dst.length === 4 ? vu.VIRTIO_NET_HDR_GSO_TCPV4 : vu.VIRTIO_NET_HDR_GSO_TCPV6;
    this.driver.send(frame, {
      flags: vu.VIRTIO_NET_HDR_F_NEEDS_CSUM,
      gsoType: gso ? gsoType : 0,
      hdrLen: start + header.length,
      gsoSize: gso ? mss : 0,
      csumStart: start,
      csumOffset: 16,
      numBuffers: 0,
    });
  }

  /**
   * Sends datagrams of `size` bytes (the last may be shorter), header with checksum 0, in one frame that the device cuts:
   * only if it offered to.
   */
  async sendUdpMany(
    src: Uint8Array,
    dst: Uint8Array,
    header: Uint8Array,
    payload: Uint8Array,
    size: number,
  ): Promise<void> {
    const hop = await this.nextHop(dst);
    const ip = ipHeader(src, dst, PROTO_UDP, header.length + payload.length);
    const frame = concat(hop, this.mac, be16(dst.length === 4 ? ETHER_IPV4 : ETHER_IPV6), ip, header, payload);
    const start = 14 + ip.length;
    viewOf(frame).setUint16(start + 6, pseudoSum(src, dst, PROTO_UDP, header.length + payload.length));
    this.driver.send(frame, {
      flags: vu.VIRTIO_NET_HDR_F_NEEDS_CSUM,
      gsoType: vu.VIRTIO_NET_HDR_GSO_UDP_L4,
      hdrLen: start + header.length,
      gsoSize: size,
      csumStart: start,
      csumOffset: 6,
      numBuffers: 0,
    });
  }

  /** Sends a router solicitation (again each second) and takes the answer: addresses, router, MTU. */
  async solicitRouter(timeoutMs = 5000): Promise<RouterAdvert> {
    const answer = new Promise<RouterAdvert>((resolve) => this.adverts.push(resolve));
    const ask = (): void => {
      const option = concat(Uint8Array.of(1, 1), this.mac);
      const rs = icmp(this.linkLocal, ALL_ROUTERS, 133, 0, concat(be32(0), option));
      this.send6(multicastMac(ALL_ROUTERS), this.linkLocal, ALL_ROUTERS, rs);
    };
    ask();
    const again = setInterval(ask, 1000);
    const ra = await withTimeout(answer, timeoutMs, 'a router advertisement').finally(() => clearInterval(again));
    this.gateway6 = ra.lifetime > 0 ? parseAddr(ra.router) : null;
    if (ra.mtu !== null) this.mtu = ra.mtu;
    for (const p of ra.prefixes) {
      if (p.autonomous && p.length === 64) this.addIp6(formatAddr(eui64(parseAddr(p.prefix), this.mac)), 64);
    }
    return ra;
  }

  /** An Ethernet address that needs no question, or null. */
  private cachedHop(dst: Uint8Array): Uint8Array | null {
    if (dst.length === 16 && dst[0] === 0xff) return multicastMac(dst);
    if (dst.length === 4 && dst.every((b) => b === 255)) return BROADCAST_MAC;
    return this.neighbours.get(formatAddr(this.hopAddr(dst)))?.mac ?? null;
  }

  /** The neighbour on the way to `dst`: itself if it is on the link, else the gateway. */
  private hopAddr(dst: Uint8Array): Uint8Array {
    if (dst.length === 4) {
      if (this.ip4 === null || samePrefix(dst, this.ip4.addr, this.ip4.prefixLen)) return dst;
      return this.ip4.gateway ?? dst;
    }
    const onLink = this.ip6.some((a) => samePrefix(dst, a.addr, a.prefixLen));
    return onLink ? dst : (this.gateway6 ?? dst);
  }

  private async resolve(addr: Uint8Array, timeoutMs: number): Promise<Uint8Array> {
    const key = formatAddr(addr);
    const entry = this.neighbours.get(key) ?? { mac: null, waiters: [] };
    this.neighbours.set(key, entry);
    if (entry.mac !== null) return entry.mac;
    const answer = new Promise<Uint8Array>((resolve) => entry.waiters.push(resolve));
    const ask = (): void => (addr.length === 4 ? this.arpRequest(addr) : this.solicit(addr));
    ask();
    const again = setInterval(ask, 1000);
    return withTimeout(answer, timeoutMs, `the neighbour ${key}`).finally(() => clearInterval(again));
  }

  private learn(addr: Uint8Array, mac: Uint8Array): void {
    const entry = this.neighbours.get(formatAddr(addr));
    if (entry === undefined) return; // nobody asked
    entry.mac = mac;
    for (const resolve of entry.waiters.splice(0)) resolve(mac);
  }

  private arpRequest(addr: Uint8Array): void {
    const request = { op: 1, senderMac: this.mac, senderIp: this.ip4?.addr ?? ANY4, targetMac: new Uint8Array(6) };
    this.driver.send(ethernet(BROADCAST_MAC, this.mac, ETHER_ARP, arp({ ...request, targetIp: addr })));
  }

  private solicit(addr: Uint8Array): void {
    const dst = solicitedNode(addr);
    const src = this.source(addr);
    const ns = icmp(src, dst, 135, 0, concat(be32(0), addr, Uint8Array.of(1, 1), this.mac));
    this.send6(multicastMac(dst), src, dst, ns);
  }

  /** Neighbour discovery wants hop limit 255. */
  private send6(mac: Uint8Array, src: Uint8Array, dst: Uint8Array, message: Uint8Array): void {
    const packet = concat(ipHeader(src, dst, PROTO_ICMPV6, message.length, 255), message);
    this.driver.send(ethernet(mac, this.mac, ETHER_IPV6, packet));
  }

  private violation(text: string): void {
    if (this.violations.length < 100) this.violations.push(text);
  }

  private received(frame: Uint8Array, header: NetHeader): void {
    this.onFrame?.(frame, header);
    if (frame.length < 14) return;
    const type = viewOf(frame).getUint16(12);
    if ((frame[0] & 1) === 0 && !equal(frame.subarray(0, 6), this.mac)) {
      this.violation(`a frame for ${formatMac(frame.subarray(0, 6))}`);
      return;
    }
    if (type === ETHER_ARP) {
      this.receivedArp(frame.subarray(14));
      return;
    }
    if (type !== ETHER_IPV4 && type !== ETHER_IPV6) {
      this.violation(`EtherType 0x${type.toString(16)}`);
      return;
    }
    const packet = parseIp(frame, type);
    if (typeof packet === 'string') {
      this.violation(packet);
      return;
    }
    const wrong = checkTransport(packet, header);
    if (wrong !== null) {
      this.violation(`${formatAddr(packet.src)} → ${formatAddr(packet.dst)}: ${wrong}`);
      return;
    }
    this.judgeGso(packet, header, frame.length);
    const ndp = packet.protocol === PROTO_ICMPV6 && packet.segment[0] >= 133 && packet.segment[0] <= 137;
    if (ndp) this.receivedNdp(packet);
    else this.onPacket?.(packet, frame, header);
  }

  /** A frame larger than the MTU is legal only as one to be cut, in pieces that fit. */
  private judgeGso(p: IpPacket, h: NetHeader, length: number): void {
    if (h.gsoType === 0) {
      if (length > this.mtu + 14) this.violation(`a frame of ${length} bytes on a link of MTU ${this.mtu}`);
      return;
    }
    const tcpHeader = p.protocol === PROTO_TCP ? (p.segment[12] >> 4) * 4 : 8;
    const headers = p.offset + tcpHeader;
    if (h.gsoSize + headers - 14 > this.mtu) this.violation(`gso_size ${h.gsoSize} on a link of MTU ${this.mtu}`);
    if ((p.protocol === PROTO_UDP) !== (h.gsoType === vu.VIRTIO_NET_HDR_GSO_UDP_L4)) {
      this.violation(`gso_type ${h.gsoType} on protocol ${p.protocol}`);
    }
    const uso = p.src.length === 4 ? vu.VIRTIO_NET_F_GUEST_USO4 : vu.VIRTIO_NET_F_GUEST_USO6;
    if (p.protocol === PROTO_UDP && !this.driver.has(uso)) this.violation('datagrams in one frame: not negotiated');
    const wanted = p.src.length === 4 ? vu.VIRTIO_NET_HDR_GSO_TCPV4 : vu.VIRTIO_NET_HDR_GSO_TCPV6;
    if (p.protocol === PROTO_TCP && (h.gsoType & 0x7f) !== wanted) this.violation(`gso_type ${h.gsoType} on TCP`);
    if (length - headers <= h.gsoSize) this.violation(`gso_size ${h.gsoSize} for ${length - headers} bytes`);
  }

  private receivedArp(b: Uint8Array): void {
    const p = parseArp(b);
    if (p === null) {
      this.violation('ARP: bad packet');
      return;
    }
    if (p.op === 2) this.learn(p.senderIp, p.senderMac);
    if (p.op !== 1 || !this.answersNeighbours || this.ip4 === null || !equal(p.targetIp, this.ip4.addr)) return;
    const reply = { op: 2, senderMac: this.mac, senderIp: p.targetIp, targetMac: p.senderMac, targetIp: p.senderIp };
    this.driver.send(ethernet(p.senderMac, this.mac, ETHER_ARP, arp(reply)));
  }

  private receivedNdp(p: IpPacket): void {
    const { segment } = p;
    if (p.ttl !== 255) this.violation(`NDP with hop limit ${p.ttl}`);
    if (segment[0] === 134) {
      this.receivedAdvert(p);
      return;
    }
    if (segment.length < 24) {
      this.violation(`NDP: ${segment.length} bytes`);
      return;
    }
    const target = segment.slice(8, 24);
    const options = readOptions(segment.subarray(24));
    if (options === null) {
      this.violation('NDP: bad options');
    } else if (segment[0] === 136) {
      const mac = options.get(2)?.[0];
      if (mac !== undefined) this.learn(target, mac.slice(2, 8));
    } else if (segment[0] === 135 && this.answersNeighbours && this.isOurs(target)) {
      const dst = equal(p.src, ANY6) ? ALL_NODES : p.src;
      const mac = options.get(1)?.[0].slice(2, 8) ?? (dst === ALL_NODES ? multicastMac(dst) : BROADCAST_MAC);
      const flags = dst === ALL_NODES ? 0x20000000 : 0x60000000;
      const na = icmp(target, dst, 136, 0, concat(be32(flags), target, Uint8Array.of(2, 1), this.mac));
      this.send6(mac, target, dst, na);
    }
  }

  private receivedAdvert(p: IpPacket): void {
    const { segment } = p;
    const options = segment.length < 16 ? null : readOptions(segment.subarray(16));
    if (options === null) {
      this.violation('RA: bad options');
      return;
    }
    const all = (n: number): Uint8Array[] => options.get(n) ?? [];
    const mtu = all(5)[0];
    const slla = all(1)[0];
    const ra: RouterAdvert = {
      router: formatAddr(p.src),
      managed: (segment[5] & 0x80) !== 0,
      hopLimit: segment[4],
      lifetime: viewOf(segment).getUint16(6),
      prefixes: all(3).map((o) => ({
        prefix: formatAddr(o.subarray(16, 32)),
        length: o[2],
        onLink: (o[3] & 0x80) !== 0,
        autonomous: (o[3] & 0x40) !== 0,
      })),
      mtu: mtu === undefined ? null : viewOf(mtu).getUint32(4),
      dns: all(25).flatMap((o) =>
        Array.from({ length: (o.length - 8) >> 4 }, (_, i) => formatAddr(o.subarray(8 + 16 * i, 24 + 16 * i))),
      ),
      dnssl: all(31)[0] ?? null,
      routerMac: slla === undefined ? null : formatMac(slla.subarray(2, 8)),
    };
    if (slla !== undefined) {
      const key = formatAddr(p.src);
      this.neighbours.set(key, { mac: slla.slice(2, 8), waiters: this.neighbours.get(key)?.waiters ?? [] });
      this.learn(p.src, slla.slice(2, 8));
    }
    for (const resolve of this.adverts.splice(0)) resolve(ra);
  }
}

/** NDP options by type, header included. Null if one has length 0 or runs out of the message (RFC 4861 §4.6). */
function readOptions(b: Uint8Array): Map<number, Uint8Array[]> | null {
  const options = new Map<number, Uint8Array[]>();
  for (let i = 0; i < b.length;) {
    const len = b[i + 1] * 8;
    if (!(len > 0) || i + len > b.length) return null;
    const list = options.get(b[i]) ?? [];
    list.push(b.slice(i, i + len));
    options.set(b[i], list);
    i += len;
  }
  return options;
}
