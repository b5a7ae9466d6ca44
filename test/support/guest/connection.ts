/**
 * vhost-user framing over a unix stream socket, for either end: messages out with descriptors, messages in, in order.
 * It judges nothing, so that a test can say anything.
 */
import { constants } from 'node:os';
import type { Native } from '../../../src/native';
import { HEADER_SIZE, NEED_REPLY, REPLY, VERSION } from './constants';

export interface Message {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  /** Descriptors that came with it; whoever takes the message owns them. */
  readonly fds: readonly number[];
}

interface Waiter {
  readonly resolve: (m: Message) => void;
  readonly reject: (e: Error) => void;
}

const POLL_IN = 1;
const POLL_OUT = 4;
const MAX_PAYLOAD = 1 << 20;
const NO_BYTES = new Uint8Array(0);

/** A payload of one u64. */
export function u64(value: bigint | number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes;
}

/** A payload of two u32 (vring state). */
export function vringState(index: number, num: number): Uint8Array {
  const bytes = new Uint8Array(8);
  const dv = new DataView(bytes.buffer);
  dv.setUint32(0, index, true);
  dv.setUint32(4, num, true);
  return bytes;
}

export function readU64(payload: Uint8Array): bigint {
  if (payload.length !== 8) throw new Error(`a u64 of ${payload.length} bytes`);
  return new DataView(payload.buffer, payload.byteOffset, 8).getBigUint64(0, true);
}

export class VhostUserConnection {
  /** Settles when the other side closed the connection or this side did. */
  readonly closed: Promise<void>;
  /** If set, messages go here instead of to `next`. */
  onMessage: ((message: Message) => void) | null = null;

  private readonly native: Native;
  private fd: number;
  private poll: number;
  private polling = POLL_IN;
  private readonly inbox: Message[] = [];
  private readonly waiters: Waiter[] = [];
  private readonly outbox: { bytes: Uint8Array; fds: readonly number[] }[] = [];
  private readonly header = new Uint8Array(HEADER_SIZE);
  private payload = NO_BYTES;
  private have = 0;
  private fds: number[] = [];
  private readonly fdScratch = new Int32Array(65);
  private readonly sendScratch = new Int32Array(64);
  private settleClosed!: () => void;

  /** Takes over `fd`, a connected unix stream socket. */
  constructor(native: Native, fd: number) {
    if (fd < 0) throw new Error(`no connection: ${errnoName(fd)}`);
    this.native = native;
    this.fd = fd;
    this.closed = new Promise((resolve) => (this.settleClosed = resolve));
    native.setNonBlocking(fd);
    this.poll = native.pollStart(fd, POLL_IN, (events) => this.ready(events));
  }

  /** Connects to `path`, trying again while nobody listens there yet. */
  static async connect(native: Native, path: string, timeoutMs = 5000): Promise<VhostUserConnection> {
    const end = Date.now() + timeoutMs;
    for (;;) {
      const fd = native.unixConnect(path);
      if (fd >= 0) return new VhostUserConnection(native, fd);
      const { ENOENT, ECONNREFUSED, EAGAIN } = constants.errno;
      if (![ENOENT, ECONNREFUSED, EAGAIN].includes(-fd) || Date.now() >= end) {
        throw new Error(`connect ${path}: ${errnoName(fd)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** Listens on `path`, as `server=on` of QEMU does, and takes the first connection. */
  static async accept(native: Native, path: string, timeoutMs = 5000): Promise<VhostUserConnection> {
    const listener = native.unixListen(path, 1);
    if (listener < 0) throw new Error(`listen ${path}: ${errnoName(listener)}`);
    let poll = -1;
    try {
      await withTimeout(
        new Promise<void>((resolve) => (poll = native.pollStart(listener, POLL_IN, () => resolve()))),
        timeoutMs,
        `a connection to ${path}`,
      );
      return new VhostUserConnection(native, native.unixAccept(listener));
    } finally {
      native.pollStop(poll);
      native.close(listener);
    }
  }

  get isClosed(): boolean {
    return this.fd < 0;
  }

  /**
   * Sends one message. `size` is what the header says, if it shall not be the payload's length. The descriptors stay the
   * caller's, and must stay open until the message is out (at once, unless the socket is full).
   */
  send(
    request: number,
    flags: number,
    payload: Uint8Array = NO_BYTES,
    fds: readonly number[] = [],
    size = payload.length,
  ): void {
    const bytes = new Uint8Array(HEADER_SIZE + payload.length);
    const dv = new DataView(bytes.buffer);
    dv.setUint32(0, request, true);
    dv.setUint32(4, flags, true);
    dv.setUint32(8, size, true);
    bytes.set(payload, HEADER_SIZE);
    this.sendBytes(bytes, fds);
  }

  /** Sends any bytes at all: part of a header, two messages in one. */
  sendBytes(bytes: Uint8Array, fds: readonly number[] = []): void {
    if (this.fd < 0) throw new Error('the connection is closed');
    this.outbox.push({ bytes, fds });
    this.flush();
  }

  /** The next message, in order. Rejects when the connection closes, or after `timeoutMs`. */
  next(timeoutMs = 5000): Promise<Message> {
    const first = this.inbox.shift();
    if (first !== undefined) return Promise.resolve(first);
    if (this.fd < 0) return Promise.reject(new Error('the connection is closed'));
    let waiter: Waiter | undefined;
    const promise = new Promise<Message>((resolve, reject) => {
      waiter = { resolve, reject };
      this.waiters.push(waiter);
    });
    return withTimeout(promise, timeoutMs, 'a message').finally(() => {
      const i = this.waiters.findIndex((w) => w === waiter);
      if (i >= 0) this.waiters.splice(i, 1);
    });
  }

  /** The next message, which must be the reply to `request`. Returns it. */
  async expectReply(request: number, timeoutMs = 5000): Promise<Message> {
    const message = await this.next(timeoutMs).catch((e: unknown) => {
      throw new Error(`reply to request ${request}: ${(e as Error).message}`);
    });
    if (message.request !== request || message.flags !== (VERSION | REPLY)) {
      throw new Error(`request ${request} answered by ${message.request}, flags 0x${message.flags.toString(16)}`);
    }
    return message;
  }

  /** Sends a request and waits for its reply. */
  call(
    request: number,
    payload: Uint8Array = NO_BYTES,
    fds: readonly number[] = [],
    flags = VERSION,
  ): Promise<Message> {
    this.send(request, flags, payload, fds);
    return this.expectReply(request);
  }

  /** Sends with need_reply and waits for the acknowledgement (REPLY_ACK). Returns its value: 0 is success. */
  async callAck(request: number, payload: Uint8Array = NO_BYTES, fds: readonly number[] = []): Promise<bigint> {
    return readU64((await this.call(request, payload, fds, VERSION | NEED_REPLY)).payload);
  }

  /** Closes the connection. */
  close(): void {
    if (this.fd < 0) return;
    this.native.pollStop(this.poll);
    this.native.close(this.fd);
    this.fd = -1;
    for (const fd of this.fds) this.native.close(fd);
    this.fds = [];
    for (const w of this.waiters.splice(0)) w.reject(new Error('the connection closed'));
    this.settleClosed();
  }

  private ready(events: number): void {
    if ((events & POLL_OUT) !== 0) this.flush();
    if ((events & ~POLL_OUT) === 0) return;
    while (this.fd >= 0 && this.read());
  }

  /** Reads what is missing of the current message, never more. False when the socket is empty or gone. */
  private read(): boolean {
    const inHeader = this.have < HEADER_SIZE;
    const target = inHeader ? this.header : this.payload;
    const at = inHeader ? this.have : this.have - HEADER_SIZE;
    const n = this.native.recvFds(this.fd, target, at, target.length - at, this.fdScratch);
    if (n === -constants.errno.EAGAIN) return false;
    if (n <= 0) {
      this.close();
      return false;
    }
    for (let i = 0; i < this.fdScratch[0]; i++) this.fds.push(this.fdScratch[1 + i]);
    this.have += n;
    if (this.have < HEADER_SIZE) return true;
    const dv = new DataView(this.header.buffer);
    const size = dv.getUint32(8, true);
    if (inHeader) {
      if (size > MAX_PAYLOAD) {
        this.close();
        return false;
      }
      this.payload = new Uint8Array(size);
    }
    if (this.have === HEADER_SIZE + size) this.deliver(dv.getUint32(0, true), dv.getUint32(4, true));
    return true;
  }

  private deliver(request: number, flags: number): void {
    const message = { request, flags, payload: this.payload, fds: this.fds };
    this.have = 0;
    this.fds = [];
    this.payload = NO_BYTES;
    const waiter = this.waiters.shift();
    if (this.onMessage !== null) this.onMessage(message);
    else if (waiter !== undefined) waiter.resolve(message);
    else this.inbox.push(message);
  }

  private flush(): void {
    while (this.fd >= 0 && this.outbox.length > 0) {
      const { bytes, fds } = this.outbox[0];
      for (let i = 0; i < fds.length; i++) this.sendScratch[i] = fds[i];
      const n = this.native.sendFds(this.fd, bytes, 0, bytes.length, this.sendScratch, fds.length);
      if (n === -constants.errno.EAGAIN) break;
      if (n < 0) {
        this.outbox.length = 0; // the reader sees the end of the stream
        break;
      }
      if (n === bytes.length) this.outbox.shift();
      else this.outbox[0] = { bytes: bytes.subarray(n), fds: [] };
    }
    const wanted = this.outbox.length > 0 ? POLL_IN | POLL_OUT : POLL_IN;
    if (this.fd >= 0 && wanted !== this.polling) {
      this.polling = wanted;
      this.native.pollChange(this.poll, wanted);
    }
  }
}

/** Name of a negative errno. */
export function errnoName(result: number): string {
  return Object.entries(constants.errno).find(([, value]) => value === -result)?.[0] ?? `error ${result}`;
}

/** Rejects with a clear message if `promise` does not settle within `timeoutMs`. */
export async function withTimeout<T>(promise: Promise<T>, timeoutMs: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out after ${timeoutMs} ms waiting for ${what}`)), timeoutMs);
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}
