/**
 * A front-end that sends what its caller gives it: raw messages with descriptors over a unix socket, legal or not. It
 * keeps no rings and judges nothing.
 */
import { constants } from 'node:os';
import type { Native } from '../native';
import { EMPTY } from './payloads';

const { EAGAIN } = constants.errno;

export interface ReplyMessage {
  readonly request: number;
  readonly flags: number;
  readonly payload: DataView;
}

export interface SendOptions {
  readonly needReply?: boolean;
  readonly fds?: readonly number[];
  /** Header fields, if they shall differ from what is right. */
  readonly flags?: number;
  readonly size?: number;
}

export function encode(request: number, payload: Uint8Array = EMPTY, options: SendOptions = {}): Uint8Array {
  const bytes = new Uint8Array(12 + payload.length);
  const dv = new DataView(bytes.buffer);
  dv.setUint32(0, request, true);
  dv.setUint32(4, options.flags ?? (options.needReply === true ? 0x9 : 0x1), true);
  dv.setUint32(8, options.size ?? payload.length, true);
  bytes.set(payload, 12);
  return bytes;
}

/** The connection ended where a reply was due. */
export class ConnectionClosed extends Error {
  constructor() {
    super('connection closed instead of a reply');
    this.name = 'ConnectionClosed';
  }
}

/** Nothing came in time. */
export class NoReply extends Error {
  constructor(timeoutMs: number) {
    super(`no answer within ${timeoutMs} ms`);
    this.name = 'NoReply';
  }
}

export class RawFrontEnd {
  private readonly native: Native;
  private readonly owned: number[] = [];
  private fd: number;
  private poll = -1;
  private received: Uint8Array = EMPTY;
  private replies: ReplyMessage[] = [];
  private eof = false;
  private wake: (() => void)[] = [];

  /** Speaks over `fd`, a connected stream socket, and owns it. */
  constructor(native: Native, fd: number) {
    if (fd < 0) throw new Error(`no connection: ${fd}`);
    this.native = native;
    this.fd = fd;
    native.setNonBlocking(fd);
    this.poll = native.pollStart(fd, 1, () => {
      this.read();
    });
  }

  static connect(native: Native, path: string): RawFrontEnd {
    return new RawFrontEnd(native, native.unixConnect(path));
  }

  /** A new eventfd, closed with the front-end. */
  eventFd(initial = 0): number {
    return this.own(this.native.eventFd(initial));
  }

  /** New memory to share, closed with the front-end. */
  memfd(size: number, seals = 0): number {
    return this.own(this.native.memfdCreate('mock-guest', size, seals));
  }

  /** One end of a new socket pair; both are closed with the front-end. */
  socket(): number {
    const pair = new Int32Array(2);
    this.native.unixPair(pair);
    this.own(pair[0]);
    return this.own(pair[1]);
  }

  send(request: number, payload: Uint8Array = EMPTY, options: SendOptions = {}): void {
    this.sendRaw(encode(request, payload, options), options.fds ?? []);
  }

  /** Sends bytes and descriptors as they are. False if the other end is gone. */
  sendRaw(bytes: Uint8Array, fds: readonly number[] = []): boolean {
    return this.native.sendFds(this.fd, bytes, 0, bytes.length, Int32Array.from([...fds, 0]), fds.length) >= 0;
  }

  /**
   * The next reply; rejects with `ConnectionClosed` if the connection ends instead, with `NoReply` after `timeoutMs`.
   */
  async receive(timeoutMs = 0): Promise<ReplyMessage> {
    const end = timeoutMs === 0 ? Infinity : performance.now() + timeoutMs;
    for (;;) {
      const reply = this.replies.shift();
      if (reply !== undefined) return reply;
      if (this.eof) throw new ConnectionClosed();
      if (!(await this.eventBefore(end))) throw new NoReply(timeoutMs);
    }
  }

  /** Sends a request and awaits its reply, which must be for it and have flags 0x5. */
  async ask(request: number, payload: Uint8Array = EMPTY, options: SendOptions = {}): Promise<DataView> {
    this.send(request, payload, options);
    const reply = await this.receive();
    if (reply.request !== request || reply.flags !== 0x5) {
      throw new Error(`reply ${reply.request} flags ${reply.flags} to request ${request}`);
    }
    return reply.payload;
  }

  async askU64(request: number, payload: Uint8Array = EMPTY, options: SendOptions = {}): Promise<bigint> {
    const payloadOut = await this.ask(request, payload, options);
    if (payloadOut.byteLength !== 8) throw new Error(`reply of ${payloadOut.byteLength} bytes`);
    return payloadOut.getBigUint64(0, true);
  }

  /** Settles when the other end has closed the connection; the replies it sent before are returned. */
  async closed(): Promise<readonly ReplyMessage[]> {
    while (!this.eof) await this.event();
    return this.replies.splice(0);
  }

  /** True once the other end has closed the connection; false if it did not within `timeoutMs`. */
  async closedWithin(timeoutMs: number): Promise<boolean> {
    const end = performance.now() + timeoutMs;
    while (!this.eof) if (!(await this.eventBefore(end))) return this.eof;
    return true;
  }

  get isClosed(): boolean {
    return this.eof;
  }

  /** Replies not taken yet. */
  get waiting(): number {
    return this.replies.length;
  }

  /** Leaves. Everything that was made here is closed. */
  close(): void {
    this.stopPoll();
    for (const fd of this.owned.splice(0)) this.native.close(fd);
    if (this.fd >= 0) this.native.close(this.fd);
    this.fd = -1;
    this.eof = true;
  }

  /** Takes over a descriptor, which is closed with the front-end. */
  own(fd: number): number {
    if (fd < 0) throw new Error(`descriptor: ${fd}`);
    this.owned.push(fd);
    return fd;
  }

  private event(): Promise<void> {
    return new Promise((resolve) => this.wake.push(resolve));
  }

  /** Waits for an event until `end` (ms, as performance.now). False: it did not come. */
  private async eventBefore(end: number): Promise<boolean> {
    if (end === Infinity) {
      await this.event();
      return true;
    }
    const left = end - performance.now();
    if (left <= 0) return false;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<boolean>((resolve) => {
      timer = setTimeout(resolve, left, false);
    });
    const came = await Promise.race([this.event().then(() => true), late]);
    clearTimeout(timer);
    return came;
  }

  private stopPoll(): void {
    if (this.poll >= 0) this.native.pollStop(this.poll);
    this.poll = -1;
  }

  private read(): void {
    const chunk = new Uint8Array(4096);
    const fds = new Int32Array(9);
    for (;;) {
      const n = this.native.recvFds(this.fd, chunk, 0, chunk.length, fds);
      if (n === -EAGAIN) break;
      if (n <= 0) {
        this.eof = true;
        this.stopPoll();
        break;
      }
      for (let i = 1; i <= fds[0]; i++) this.native.close(fds[i]);
      this.received = Buffer.concat([this.received, chunk.subarray(0, n)]);
    }
    this.parse();
    for (const wake of this.wake.splice(0)) wake();
  }

  private parse(): void {
    for (;;) {
      const bytes = this.received;
      const dv = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      if (bytes.length < 12 || bytes.length < 12 + dv.getUint32(8, true)) return;
      const end = 12 + dv.getUint32(8, true);
      const payload = bytes.slice(12, end);
      this.replies.push({
        request: dv.getUint32(0, true),
        flags: dv.getUint32(4, true),
        payload: new DataView(payload.buffer, payload.byteOffset, payload.length),
      });
      this.received = bytes.slice(end);
    }
  }
}
