/** The guest's TCP connections by their four-tuple, its listeners, and the way to the link. */
import { equal, formatAddr, parseAddr } from './bytes';
import { withTimeout } from './connection';
import type { Link } from './link';
import { ACK, FIN, RST, SYN, parseTcp, tcpHeader, type IpPacket, type TcpSegment } from './packets';
import { TcpStream } from './tcp';
import { TcpError, type TcpHost, type TcpOptions } from './tcp-types';
import { Inbox } from './udp';

export interface ConnectOptions extends TcpOptions {
  readonly localPort?: number;
  readonly localAddr?: string;
  readonly timeoutMs?: number;
}

const key = (addr: Uint8Array, port: number, localPort: number): string => `${formatAddr(addr)}|${port}|${localPort}`;

export class TcpListener {
  readonly port: number;
  readonly options: TcpOptions;
  readonly ready = new Inbox<TcpStream>();
  private readonly onClose: () => void;

  constructor(port: number, options: TcpOptions, close: () => void) {
    this.port = port;
    this.options = options;
    this.onClose = close;
  }

  /** The next connection, once its handshake is complete. */
  accept(timeoutMs = 5000): Promise<TcpStream> {
    return this.ready.next(timeoutMs, `a connection to port ${this.port}`);
  }

  close(): void {
    this.onClose();
  }
}

export class TcpTable implements TcpHost {
  /** Segments that belong to no connection are answered with RST. */
  answersUnknown = true;
  private readonly link: Link;
  private readonly defaults: TcpOptions;
  private readonly port: () => number;
  private readonly streams = new Map<string, TcpStream>();
  private readonly listeners = new Map<number, TcpListener>();
  private readonly pendingAcks = new Set<TcpStream>();

  constructor(link: Link, defaults: TcpOptions, port: () => number) {
    this.link = link;
    this.defaults = defaults;
    this.port = port;
  }

  get size(): number {
    return this.streams.size;
  }

  async connect(addr: string, port: number, options: ConnectOptions): Promise<TcpStream> {
    const remoteAddr = parseAddr(addr);
    const localAddr = options.localAddr === undefined ? this.link.source(remoteAddr) : parseAddr(options.localAddr);
    const localPort = options.localPort ?? this.port();
    await this.link.nextHop(remoteAddr);
    const ends = { localAddr, localPort, remoteAddr, remotePort: port };
    const stream = new TcpStream(this, ends, this.linkMss(remoteAddr), { ...this.defaults, ...options }, null);
    this.streams.set(key(remoteAddr, port, localPort), stream);
    try {
      await withTimeout(stream.opened(), options.timeoutMs ?? 10_000, `a connection to ${addr} port ${port}`);
    } catch (e) {
      stream.destroy(e instanceof TcpError ? e : new TcpError('ETIMEDOUT', (e as Error).message));
      throw e;
    }
    return stream;
  }

  listen(port: number, options: TcpOptions): TcpListener {
    if (this.listeners.has(port)) throw new Error(`TCP port ${port} is in use`);
    const listener = new TcpListener(port, { ...this.defaults, ...options }, () => this.listeners.delete(port));
    this.listeners.set(port, listener);
    return listener;
  }

  closeAll(): void {
    for (const stream of [...this.streams.values()]) stream.destroy(null);
    this.listeners.clear();
  }

  receive(p: IpPacket): void {
    const s = parseTcp(p.segment);
    if (s === null) return;
    const stream = this.streams.get(key(p.src, s.sport, s.dport));
    if (stream !== undefined && equal(stream.localAddr, p.dst)) {
      stream.receive(s);
      return;
    }
    const listener = this.listeners.get(s.dport);
    if (listener !== undefined && (s.flags & (SYN | ACK | RST)) === SYN) this.incoming(p, s, listener);
    else if ((s.flags & RST) === 0 && this.answersUnknown) this.refuse(p, s);
  }

  /** Sends the acknowledgements owed, one for each connection. */
  batchEnd(): void {
    for (const stream of this.pendingAcks) stream.flushAck();
    this.pendingAcks.clear();
  }

  output(stream: TcpStream, header: Uint8Array, payload: Uint8Array): void {
    // Whatever is sent carries the acknowledgement.
    this.pendingAcks.delete(stream);
    this.link.sendTcp(stream.localAddr, stream.remoteAddr, header, payload, stream.mss);
  }

  largestPayload(stream: TcpStream, mss: number): number {
    const { csum, tso4, tso6 } = this.link.driver.offloads;
    const tso = csum && (stream.remoteAddr.length === 4 ? tso4 : tso6);
    return tso ? Math.max(1, Math.floor(65400 / mss)) * mss : mss;
  }

  ackPending(stream: TcpStream): void {
    this.pendingAcks.add(stream);
  }

  remove(stream: TcpStream): void {
    this.pendingAcks.delete(stream);
    const k = key(stream.remoteAddr, stream.remotePort, stream.localPort);
    if (this.streams.get(k) === stream) this.streams.delete(k);
  }

  private linkMss(remote: Uint8Array): number {
    return this.link.mtu - (remote.length === 4 ? 40 : 60);
  }

  private incoming(p: IpPacket, s: TcpSegment, listener: TcpListener): void {
    const ends = { localAddr: p.dst, localPort: s.dport, remoteAddr: p.src, remotePort: s.sport };
    const stream = new TcpStream(this, ends, this.linkMss(p.src), listener.options, s);
    this.streams.set(key(p.src, s.sport, s.dport), stream);
    stream.opened().then(
      () => listener.ready.push(stream),
      () => undefined, // reset during the handshake: nobody has seen it
    );
  }

  /** RFC 9293 §3.10.7.1. */
  private refuse(p: IpPacket, s: TcpSegment): void {
    const ports = { localPort: s.dport, remotePort: s.sport };
    const end = s.seq + s.data.length + ((s.flags & SYN) !== 0 ? 1 : 0) + ((s.flags & FIN) !== 0 ? 1 : 0);
    const header = (s.flags & ACK) !== 0 ? tcpHeader(ports, s.ack, 0, RST, 0) : tcpHeader(ports, 0, end, RST | ACK, 0);
    this.link.sendTcp(p.dst, p.src, header, new Uint8Array(0), 536);
  }
}
