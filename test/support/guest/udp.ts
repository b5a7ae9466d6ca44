/** The guest's UDP sockets. */
import { be16, concat, parseAddr } from './bytes';
import { withTimeout } from './connection';
import { PROTO_UDP, udp } from './packets';
import type { Link } from './link';

export interface Datagram {
  readonly addr: string;
  readonly port: number;
  readonly data: Uint8Array;
  /** The guest's address it was sent to, TTL and TOS as received. */
  readonly to: string;
  readonly ttl: number;
  readonly tos: number;
}

/** An ICMP error about something this guest sent. */
export interface IcmpError {
  readonly type: number;
  readonly code: number;
  /** Who sent it. */
  readonly from: string;
  /** MTU for "fragmentation needed" and "packet too big", else 0. */
  readonly mtu: number;
  /** Of the packet it is about. */
  readonly protocol: number;
  readonly dst: string;
  readonly sport: number;
  readonly dport: number;
}

/** A queue whose reader waits. */
export class Inbox<T> {
  private readonly items: T[] = [];
  private readonly waiters: ((item: T) => void)[] = [];

  push(item: T): void {
    const waiter = this.waiters.shift();
    if (waiter === undefined) this.items.push(item);
    else waiter(item);
  }

  get length(): number {
    return this.items.length;
  }

  async next(timeoutMs: number, what: string): Promise<T> {
    if (this.items.length > 0) return this.items.shift()!;
    let waiter: ((item: T) => void) | undefined;
    const promise = new Promise<T>((resolve) => {
      waiter = resolve;
      this.waiters.push(resolve);
    });
    return withTimeout(promise, timeoutMs, what).finally(() => {
      const i = this.waiters.findIndex((w) => w === waiter);
      if (i >= 0) this.waiters.splice(i, 1);
    });
  }
}

export class UdpSocket {
  readonly port: number;
  readonly received = new Inbox<Datagram>();
  readonly errors = new Inbox<IcmpError>();
  private readonly link: Link;
  private readonly forget: () => void;

  constructor(link: Link, port: number, forget: () => void) {
    this.link = link;
    this.port = port;
    this.forget = forget;
  }

  /** Sends one datagram; resolves when it is handed to the driver. */
  async send(
    addr: string,
    port: number,
    data: Uint8Array | string,
    options: { src?: string; ttl?: number } = {},
  ): Promise<void> {
    const dst = parseAddr(addr);
    const src = options.src === undefined ? this.link.source(dst) : parseAddr(options.src);
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    await this.link.send(dst, PROTO_UDP, udp(src, dst, this.port, port, bytes), src, options.ttl);
  }

  /**
   * Sends `data` as datagrams of `size` bytes, the last perhaps shorter: in frames that the device cuts, 64 datagrams each
   * at the most, if it offered to, else one by one.
   */
  async sendMany(addr: string, port: number, data: Uint8Array, size: number): Promise<void> {
    const dst = parseAddr(addr);
    const src = this.link.source(dst);
    const step = this.link.driver.offloads.uso ? size * Math.min(64, Math.floor(65_487 / size)) : size;
    const sent: Promise<void>[] = [];
    for (let at = 0; at < data.length; at += step) {
      const part = data.subarray(at, at + step);
      if (part.length <= size) sent.push(this.send(addr, port, part));
      else {
        const header = concat(be16(this.port), be16(port), be16(8 + part.length), be16(0));
        sent.push(this.link.sendUdpMany(src, dst, header, part, size));
      }
    }
    // All at once, so that they are one batch for the device.
    await Promise.all(sent);
  }

  /** The next datagram. */
  recv(timeoutMs = 5000): Promise<Datagram> {
    return this.received.next(timeoutMs, `a datagram for port ${this.port}`);
  }

  /** The next ICMP error about a datagram of this socket. */
  nextError(timeoutMs = 5000): Promise<IcmpError> {
    return this.errors.next(timeoutMs, `an ICMP error for port ${this.port}`);
  }

  close(): void {
    this.forget();
  }
}
