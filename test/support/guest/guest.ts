/**
 * A guest: front-end, driver, IP, and the services a test drives, each as a promise. It is pointed at a vhost-user
 * back-end's socket:
 *
 *     const guest = await Guest.start(loadNative(), { socket: '/run/tubetti.sock' });
 *     await guest.dhcp();
 *     const { rttMs } = await guest.ping('192.0.2.1');
 *     const stream = await guest.tcpConnect('192.0.2.1', 80);
 *     await stream.write(Buffer.from('hello'));
 *     await stream.end();
 *     const answer = await stream.readAll();
 *     expect(guest.violations).toEqual([]);
 *     await guest.stop();
 */
import type { Native } from '../../../src/native';
import { be16, concat, equal, formatAddr, parseAddr, parseMac, viewOf } from './bytes';
import { VhostUserConnection, withTimeout } from './connection';
import {
  DHCP6_ADVERTISE,
  DHCP6_REPLY,
  DHCP6_REQUEST,
  DHCP6_SOLICIT,
  DHCPACK,
  DHCPDISCOVER,
  DHCPOFFER,
  DHCPREQUEST,
  dhcp6Request,
  dhcpRequest,
  leaseOf,
  parseDhcp,
  parseDhcp6,
  type Dhcp6Reply,
  type DhcpLease,
  type DhcpReply,
} from './dhcp';
import { FrontEnd, type FrontEndOptions } from './front-end';
import { Link, type RouterAdvert } from './link';
import { NetDriver, type NetDriverOptions, type NetHeader } from './net-driver';
import { PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, icmp, udp, type IpPacket } from './packets';
import { TcpTable, type ConnectOptions, type TcpListener } from './tcp-table';
import type { TcpStream } from './tcp';
import type { TcpOptions } from './tcp-types';
import { Inbox, UdpSocket, type IcmpError } from './udp';

export interface GuestOptions extends FrontEndOptions {
  /** Socket of the back-end, which listens there; or a connection made otherwise. */
  readonly socket?: string;
  readonly connection?: VhostUserConnection;
  /** Default 52:54:00:12:34:56. */
  readonly mac?: string;
  /** Fixed MTU; DHCP and router advertisements do not change it. Default: 1500 until one of them says otherwise. */
  readonly mtu?: number;
  readonly driver?: NetDriverOptions;
  /** Default options of TCP connections. */
  readonly tcp?: TcpOptions;
}

export interface PingResult {
  readonly rttMs: number;
  readonly ttl: number;
  readonly bytes: number;
}

interface PendingPing {
  readonly sequence: number;
  readonly payload: Uint8Array;
  readonly resolve: (r: { ttl: number; bytes: number }) => void;
  readonly reject: (e: Error) => void;
}

const ANY4 = new Uint8Array(4);
const BROADCAST4 = parseAddr('255.255.255.255');
const ALL_DHCP6 = parseAddr('ff02::1:2');

export class Guest {
  readonly frontEnd: FrontEnd;
  readonly link: Link;
  readonly tcp: TcpTable;
  driver: NetDriver;
  lease: DhcpLease | null = null;
  /** ICMP errors that no UDP socket took. */
  readonly icmpErrors = new Inbox<IcmpError>();
  /** Unknown UDP ports are answered with "port unreachable". */
  answersUnknownPorts = true;

  private readonly native: Native;
  private readonly options: GuestOptions;
  private readonly udp = new Map<number, UdpSocket>();
  private readonly pings = new Map<number, PendingPing>();
  private readonly dhcpReplies = new Inbox<DhcpReply>();
  private readonly dhcp6Replies = new Inbox<Dhcp6Reply>();
  private readonly watchers: ((frame: Uint8Array, header: NetHeader) => void)[] = [];
  private readonly ramMark: readonly [number, number];
  private readonly ownViolations: string[] = [];
  private nextPort = 33000 + Math.floor(Math.random() * 16000);
  private nextPing = 1;

  /** Use `Guest.start`. The front-end must have negotiated. */
  constructor(native: Native, frontEnd: FrontEnd, options: GuestOptions) {
    this.native = native;
    this.options = options;
    this.frontEnd = frontEnd;
    this.ramMark = frontEnd.ram.mark();
    this.driver = new NetDriver(frontEnd, options.driver);
    this.link = new Link(this.driver, parseMac(options.mac ?? '52:54:00:12:34:56'));
    if (options.mtu !== undefined) this.link.mtu = options.mtu;
    this.tcp = new TcpTable(this.link, options.tcp ?? {}, () => this.ephemeralPort());
    this.link.onPacket = (packet, _frame, { gsoSize }) => this.packet(packet, gsoSize);
    this.link.onFrame = (frame, header) => {
      for (const w of [...this.watchers]) w(frame, header);
    };
    this.driver.onBatchEnd = () => this.tcp.batchEnd();
  }

  /** Connects, negotiates, starts the device. */
  static async start(native: Native, options: GuestOptions): Promise<Guest> {
    const connection = options.connection ?? (await VhostUserConnection.connect(native, options.socket ?? ''));
    const frontEnd = new FrontEnd(native, connection, options);
    try {
      await frontEnd.negotiate();
      const guest = new Guest(native, frontEnd, options);
      await frontEnd.start();
      return guest;
    } catch (e) {
      frontEnd.close();
      throw e;
    }
  }

  /** Rules of virtio and of the protocols that the back-end broke. */
  get violations(): readonly string[] {
    return [...this.ownViolations, ...this.driver.violations, ...this.link.violations];
  }

  get address4(): string | null {
    return this.link.ip4 === null ? null : formatAddr(this.link.ip4.addr);
  }
  get addresses6(): readonly string[] {
    return this.link.ip6.map((a) => formatAddr(a.addr));
  }

  // ---- life

  /** Stops the rings and closes everything. */
  async stop(): Promise<void> {
    this.tcp.closeAll();
    try {
      if (!this.frontEnd.connection.isClosed) await this.frontEnd.stop();
    } finally {
      this.close();
    }
  }

  /** Closes everything without a word, as when the VMM is killed. */
  close(): void {
    this.tcp.closeAll();
    this.driver.close();
    this.frontEnd.close();
  }

  /** `stop` and `cont` of a VMM: rings are stopped and started again where they were. User-mode Linux has neither. */
  async pause(): Promise<void> {
    if (this.frontEnd.style === 'uml') throw new Error('user-mode Linux does not stop and go on');
    await this.frontEnd.stop();
  }
  async resume(): Promise<void> {
    await this.frontEnd.start();
    this.driver.poll();
  }

  /** A guest reboot: rings stopped, fresh driver, everything it knew forgotten. */
  async reboot(driver: NetDriverOptions | undefined = this.options.driver): Promise<void> {
    this.tcp.closeAll();
    await this.frontEnd.stop();
    this.ownViolations.push(...this.driver.violations);
    this.driver.close();
    this.frontEnd.ram.release(this.ramMark);
    for (const ring of this.frontEnd.rings) ring.base = (this.options.start ?? 0) & 0xffff;
    this.driver = new NetDriver(this.frontEnd, driver);
    this.link.attach(this.driver);
    this.link.ip4 = null;
    this.link.ip6.length = 1;
    this.link.gateway6 = null;
    this.link.flushNeighbours();
    this.driver.onBatchEnd = () => this.tcp.batchEnd();
    await this.frontEnd.start();
  }

  /** The back-end was restarted: connects again and goes on with the same rings, connections and addresses. */
  async reconnect(socket = this.options.socket ?? ''): Promise<void> {
    this.frontEnd.reconnect(await VhostUserConnection.connect(this.native, socket));
    await this.frontEnd.negotiate();
    await this.frontEnd.start();
    this.driver.poll();
    this.driver.kickAll();
  }

  // ---- configuration

  /**
   * DISCOVER, OFFER, REQUEST, ACK; takes address, router and MTU. `options` are added to both requests. Asks again each
   * second.
   */
  async dhcp(options: readonly (readonly [number, Uint8Array])[] = [], timeoutMs = 10_000): Promise<DhcpLease> {
    const wish: readonly [number, Uint8Array] = [55, Uint8Array.of(1, 3, 6, 12, 15, 26, 51, 54, 119, 121)];
    const all = options.some(([n]) => n === 55) ? options : [wish, ...options];
    const xid = Math.floor(Math.random() * 2 ** 32);
    const offer = await this.dhcpExchange(DHCPDISCOVER, xid, all, timeoutMs);
    if (offer.type !== DHCPACK) {
      const chosen: (readonly [number, Uint8Array])[] = [[50, offer.yiaddr]];
      const server = offer.options.get(54);
      if (server !== undefined) chosen.push([54, server]);
      const ack = await this.dhcpExchange(DHCPREQUEST, xid, [...chosen, ...all], timeoutMs);
      if (ack.type !== DHCPACK) throw new Error(`DHCP: message type ${ack.type} instead of ACK`);
      this.lease = leaseOf(ack);
    } else {
      this.lease = leaseOf(offer);
    }
    this.link.setIp4(this.lease.address, this.lease.prefixLen, this.lease.router);
    if (this.lease.mtu !== null && this.options.mtu === undefined) this.link.mtu = this.lease.mtu;
    return this.lease;
  }

  /** One DHCP message and its answer, for tests that look at it. */
  private async dhcpExchange(
    type: number,
    xid: number,
    options: readonly (readonly [number, Uint8Array])[],
    timeoutMs: number,
  ): Promise<DhcpReply> {
    const request = dhcpRequest(type, xid, this.link.mac, options);
    const ask = (): void => {
      void this.link.send(BROADCAST4, PROTO_UDP, udp(ANY4, BROADCAST4, 68, 67, request), ANY4);
    };
    ask();
    const again = setInterval(ask, 1000);
    try {
      const end = Date.now() + timeoutMs;
      for (;;) {
        const reply = await this.dhcpReplies.next(Math.max(1, end - Date.now()), 'a DHCP reply');
        const late = type === DHCPREQUEST && reply.type === DHCPOFFER;
        if (reply.xid === xid >>> 0 && !late) return reply;
      }
    } finally {
      clearInterval(again);
    }
  }

  /** Router solicitation; takes addresses, router and MTU. */
  async slaac(timeoutMs = 5000): Promise<RouterAdvert> {
    const ra = await this.link.solicitRouter(timeoutMs);
    if (this.options.mtu !== undefined) this.link.mtu = this.options.mtu;
    return ra;
  }

  /** DHCPv6: SOLICIT, ADVERTISE, REQUEST, REPLY. Takes the address. */
  async dhcp6(timeoutMs = 5000): Promise<Dhcp6Reply> {
    const advert = await this.dhcp6Exchange(DHCP6_SOLICIT, DHCP6_ADVERTISE, timeoutMs);
    const addr = advert.addresses[0] === undefined ? undefined : parseAddr(advert.addresses[0]);
    const reply = await this.dhcp6Exchange(DHCP6_REQUEST, DHCP6_REPLY, timeoutMs, advert.serverId, addr);
    for (const a of reply.addresses) this.link.addIp6(a, 128);
    return reply;
  }

  private async dhcp6Exchange(
    type: number,
    answer: number,
    timeoutMs: number,
    serverId?: Uint8Array,
    addr?: Uint8Array,
  ): Promise<Dhcp6Reply> {
    const xid = Math.floor(Math.random() * 2 ** 24);
    const src = this.link.linkLocal;
    const message = dhcp6Request(type, xid, this.link.mac, serverId, addr);
    const ask = (): void => {
      void this.link.send(ALL_DHCP6, PROTO_UDP, udp(src, ALL_DHCP6, 546, 547, message), src, 1);
    };
    ask();
    const again = setInterval(ask, 1000);
    try {
      const end = Date.now() + timeoutMs;
      for (;;) {
        const reply = await this.dhcp6Replies.next(Math.max(1, end - Date.now()), 'a DHCPv6 reply');
        if (reply.xid === xid && reply.type === answer) return reply;
      }
    } finally {
      clearInterval(again);
    }
  }

  /** Asks for a neighbour on the link: ARP or neighbour solicitation. Returns its MAC. */
  askNeighbour(addr: string, timeoutMs?: number): Promise<string> {
    return this.link.askNeighbour(addr, timeoutMs);
  }

  // ---- ICMP

  /** Echo request and reply, the payload compared. Rejects with the ICMP error if one comes instead. */
  async ping(addr: string, options: { size?: number; timeoutMs?: number; ttl?: number } = {}): Promise<PingResult> {
    const dst = parseAddr(addr);
    const src = this.link.source(dst);
    const id = this.nextPing++ & 0xffff;
    const sequence = 1;
    const payload = Uint8Array.from({ length: options.size ?? 56 }, (_, i) => (i * 7 + id) & 0xff);
    const message = icmp(src, dst, src.length === 4 ? 8 : 128, 0, concat(be16(id), be16(sequence), payload));
    const start = performance.now();
    const answer = new Promise<{ ttl: number; bytes: number }>((resolve, reject) => {
      this.pings.set(id, { sequence, payload, resolve, reject });
    });
    answer.catch(() => undefined); // it may be rejected before anybody waits
    await this.link.send(dst, src.length === 4 ? PROTO_ICMP : PROTO_ICMPV6, message, src, options.ttl);
    const what = `an echo reply from ${addr}`;
    const r = await withTimeout(answer, options.timeoutMs ?? 3000, what).finally(() => this.pings.delete(id));
    return { rttMs: performance.now() - start, ttl: r.ttl, bytes: r.bytes };
  }

  // ---- UDP

  /** Binds a UDP port, or a free one. */
  udpBind(port = 0): UdpSocket {
    const chosen = port === 0 ? this.ephemeralPort() : port;
    if (this.udp.has(chosen)) throw new Error(`UDP port ${chosen} is in use`);
    const socket = new UdpSocket(this.link, chosen, () => this.udp.delete(chosen));
    this.udp.set(chosen, socket);
    return socket;
  }

  // ---- TCP

  /** Opens a connection. Rejects with TcpError: ECONNREFUSED, ETIMEDOUT. */
  tcpConnect(addr: string, port: number, options: ConnectOptions = {}): Promise<TcpStream> {
    return this.tcp.connect(addr, port, options);
  }

  /** Listens on a port of all addresses. */
  tcpListen(port: number, options: TcpOptions = {}): TcpListener {
    return this.tcp.listen(port, options);
  }

  // ---- frames

  /** Sends any frame. */
  sendFrame(frame: Uint8Array, header?: NetHeader): void {
    this.driver.send(frame, header);
  }

  /** The next frame received for which `wanted` is true. */
  waitFrame(wanted: (frame: Uint8Array, header: NetHeader) => boolean, timeoutMs = 5000): Promise<Uint8Array> {
    let watcher: ((frame: Uint8Array, header: NetHeader) => void) | undefined;
    const found = new Promise<Uint8Array>((resolve) => {
      watcher = (frame, header) => {
        if (wanted(frame, header)) resolve(frame);
      };
      this.watchers.push(watcher);
    });
    return withTimeout(found, timeoutMs, 'a frame').finally(() => {
      const i = this.watchers.findIndex((w) => w === watcher);
      if (i >= 0) this.watchers.splice(i, 1);
    });
  }

  // ---- inside

  private ephemeralPort(): number {
    this.nextPort = this.nextPort >= 60000 ? 33000 : this.nextPort + 1;
    return this.nextPort;
  }

  private packet(p: IpPacket, gsoSize: number): void {
    if (p.protocol === PROTO_UDP) this.receivedUdp(p, gsoSize);
    else if (!this.link.isOurs(p.dst)) this.ownViolations.push(`a packet for ${formatAddr(p.dst)}`);
    else if (p.protocol === PROTO_TCP) this.tcp.receive(p);
    else if (p.protocol === PROTO_ICMP || p.protocol === PROTO_ICMPV6) this.receivedIcmp(p);
    else this.ownViolations.push(`IP protocol ${p.protocol}`);
  }

  /** `gsoSize`: the datagrams that one frame holds have this length; 0: it is one. */
  private receivedUdp(p: IpPacket, gsoSize: number): void {
    const dv = viewOf(p.segment);
    if (dv.getUint16(4) !== p.segment.length) {
      this.ownViolations.push(`UDP length ${dv.getUint16(4)} in ${p.segment.length} bytes`);
      return;
    }
    const [sport, dport] = [dv.getUint16(0), dv.getUint16(2)];
    const data = p.segment.slice(8);
    const dhcp = dport === 68 && p.src.length === 4 ? parseDhcp(data) : null;
    const dhcp6 = dport === 546 && p.src.length === 16 ? parseDhcp6(data) : null;
    if (dhcp !== null) this.dhcpReplies.push(dhcp);
    else if (dhcp6 !== null) this.dhcp6Replies.push(dhcp6);
    else if (!this.link.isOurs(p.dst)) this.ownViolations.push(`a datagram for ${formatAddr(p.dst)}`);
    else if (gsoSize === 0) this.deliverUdp(p, sport, dport, data);
    else {
      for (let at = 0; at < data.length; at += gsoSize) {
        this.deliverUdp(p, sport, dport, data.slice(at, at + gsoSize));
      }
    }
  }

  private deliverUdp(p: IpPacket, sport: number, dport: number, data: Uint8Array): void {
    const socket = this.udp.get(dport);
    const { ttl, tos } = p;
    if (socket !== undefined) {
      socket.received.push({ addr: formatAddr(p.src), port: sport, data, to: formatAddr(p.dst), ttl, tos });
    } else if (this.answersUnknownPorts) {
      // RFC 1122 §3.2.2.1, RFC 4443 §3.1: the offending packet's header and beginning are quoted.
      const v4 = p.src.length === 4;
      const quoted = concat(quoteHeader(p), p.segment.subarray(0, v4 ? 8 : 1000));
      const message = icmp(p.dst, p.src, v4 ? 3 : 1, v4 ? 3 : 4, concat(new Uint8Array(4), quoted));
      void this.link.send(p.src, v4 ? PROTO_ICMP : PROTO_ICMPV6, message, p.dst).catch(() => undefined);
    }
  }

  private receivedIcmp(p: IpPacket): void {
    const b = p.segment;
    const v4 = p.src.length === 4;
    if (b.length < 8) return;
    if (b[0] === (v4 ? 8 : 128)) {
      const reply = icmp(p.dst, p.src, v4 ? 0 : 129, 0, b.slice(4));
      void this.link.send(p.src, p.protocol, reply, p.dst).catch(() => undefined);
    } else if (b[0] === (v4 ? 0 : 129)) {
      const ping = this.pings.get(viewOf(b).getUint16(4));
      if (ping?.sequence !== viewOf(b).getUint16(6)) return;
      const payload = b.subarray(8);
      if (equal(payload, ping.payload)) ping.resolve({ ttl: p.ttl, bytes: payload.length });
      else ping.reject(new Error(`echo reply with ${payload.length} other bytes`));
    } else if (v4 ? [3, 5, 11, 12].includes(b[0]) : b[0] < 128) {
      this.receivedIcmpError(p);
    }
  }

  private receivedIcmpError(p: IpPacket): void {
    const b = p.segment;
    const inner = b.subarray(8);
    const v4 = p.src.length === 4;
    const headerLen = v4 ? (inner[0] & 15) * 4 : 40;
    if (inner.length < headerLen + 8) {
      this.ownViolations.push(`ICMP error that quotes ${inner.length} bytes`);
      return;
    }
    const dv = viewOf(inner);
    const tooBig = v4 ? b[0] === 3 && b[1] === 4 : b[0] === 2;
    const error: IcmpError = {
      type: b[0],
      code: b[1],
      from: formatAddr(p.src),
      mtu: !tooBig ? 0 : v4 ? viewOf(b).getUint16(6) : viewOf(b).getUint32(4),
      protocol: v4 ? inner[9] : inner[6],
      dst: formatAddr(v4 ? inner.subarray(16, 20) : inner.subarray(24, 40)),
      sport: dv.getUint16(headerLen),
      dport: dv.getUint16(headerLen + 2),
    };
    const isEcho = error.protocol === PROTO_ICMP || error.protocol === PROTO_ICMPV6;
    const ping = isEcho ? this.pings.get(dv.getUint16(headerLen + 4)) : undefined;
    ping?.reject(new Error(`ICMP type ${error.type} code ${error.code} from ${error.from}`));
    const socket = error.protocol === PROTO_UDP ? this.udp.get(error.sport) : undefined;
    (socket?.errors ?? this.icmpErrors).push(error);
  }
}

/** The IP header of a packet as it must have been, for quoting. */
function quoteHeader(p: IpPacket): Uint8Array {
  if (p.src.length === 16) {
    const h = new Uint8Array(40);
    viewOf(h).setUint32(0, 0x60000000);
    viewOf(h).setUint16(4, p.segment.length);
    h[6] = p.protocol;
    h[7] = p.ttl;
    h.set(p.src, 8);
    h.set(p.dst, 24);
    return h;
  }
  const h = new Uint8Array(20);
  h[0] = 0x45;
  viewOf(h).setUint16(2, 20 + p.segment.length);
  h[8] = p.ttl;
  h[9] = p.protocol;
  h.set(p.src, 12);
  h.set(p.dst, 16);
  return h;
}
