/** One descriptor of a `FakeHostIo`, and the peer behind it. */
import { EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP } from '../../../src/stack/ports';
import { ByteQueue } from './byte-queue';

export const EPOLLPRI = 2;
export const ECONNRESET = 104;
export const ECONNREFUSED = 111;

/** Where sockets put their events. */
export interface EventQueue {
  queueEvent(s: FakeSocket): void;
}

export interface Endpoint {
  readonly address: string;
  readonly port: number;
  readonly scope: number;
}

interface Watch {
  events: number;
  key: number;
  generation: number;
}

/** One descriptor of the stack; its methods are the peer's side. */
export class FakeSocket {
  readonly io: EventQueue;
  readonly fd: number;
  readonly family: number;
  /** Set while connecting and after. */
  remote: Endpoint | null = null;
  local: Endpoint | null = null;
  device: string | null = null;
  readonly options = new Map<string, number>();
  state: 'new' | 'connecting' | 'connected' | 'listening' | 'closed' = 'new';
  /** How the stack got rid of it. */
  ending: 'open' | 'closed' | 'aborted' = 'open';
  /** The stack shut down writing: the peer reads an end of stream after the last byte. */
  writeShut = false;
  /** The peer sent FIN. */
  peerClosed = false;
  error = 0;
  peekOff = -1;
  watch: Watch | null = null;
  readonly receive = new ByteQueue();
  /** Absolute position of the urgent byte in the received stream, -1 none. */
  urgentAt = -1;
  received = 0; // bytes the stack has consumed
  /** Bytes the stack sent and the peer has not read. */
  readonly sent = new ByteQueue();
  sndbuf = 262144;
  /** SO_SNDBUF was set, which ends the kernel's own tuning until SO_BUF_LOCK takes that back. */
  sndbufLocked = false;
  /** Memory taken by a queued byte (buffer heads). */
  overhead = 1;
  noSpace = false;
  readonly backlog: FakeSocket[] = [];
  sends = 0;
  // What TCP_INFO says.
  rttUs = 1234;
  bytesAcked = 0;
  bytesReceived = 0;

  constructor(io: EventQueue, fd: number, family: number) {
    this.io = io;
    this.fd = fd;
    this.family = family;
  }

  get queued(): number {
    return Math.ceil(this.sent.length * this.overhead);
  }

  // ---- the peer's side

  /** Completes the connect under way. */
  accept(): void {
    if (this.state !== 'connecting') throw new Error('not connecting');
    this.state = 'connected';
    this.edge();
  }

  /** Fails the connect under way. */
  refuse(errno = ECONNREFUSED): void {
    if (this.state !== 'connecting') throw new Error('not connecting');
    this.state = 'closed';
    this.error = errno;
    this.edge();
  }

  write(data: Uint8Array | string): void {
    this.receive.push(typeof data === 'string' ? Buffer.from(data) : data);
    this.edge();
  }

  /** One byte of urgent data. */
  writeUrgent(byte: number): void {
    this.urgentAt = this.received + this.receive.length;
    this.write(Uint8Array.of(byte));
  }

  /** Takes what the stack sent. */
  read(max = Infinity): Uint8Array {
    const data = this.sent.take(Math.min(max, this.sent.length));
    if (this.noSpace && this.writable()) {
      this.noSpace = false;
      this.edge();
    }
    return data;
  }

  readText(): string {
    return Buffer.from(this.read()).toString('latin1');
  }

  /** True if the peer has read all and the stream ended. */
  get atEnd(): boolean {
    return this.sent.length === 0 && (this.writeShut || this.ending === 'closed');
  }

  close(): void {
    this.peerClosed = true;
    this.edge();
  }

  reset(errno = ECONNRESET): void {
    this.state = 'closed';
    this.peerClosed = true;
    this.error = errno;
    this.edge();
  }

  // ---- readiness

  writable(): boolean {
    const free = this.sndbuf - this.queued;
    return free > 0 && free * 2 >= this.queued;
  }

  /** As the kernel's poll: looking at a full socket makes it announce room. */
  poll(): number {
    let events = 0;
    if (this.state === 'listening') return this.backlog.length > 0 ? EPOLLIN : 0;
    if (this.state === 'connecting') return 0;
    if (this.state === 'new') return EPOLLOUT | EPOLLHUP;
    if (this.receive.length > 0 || this.peerClosed) events |= EPOLLIN;
    if (this.urgentAt >= this.received) events |= EPOLLPRI;
    if (this.peerClosed) events |= EPOLLRDHUP;
    if (this.error !== 0) events |= EPOLLERR;
    if (this.state === 'closed' || (this.peerClosed && this.writeShut)) events |= EPOLLHUP;
    if (this.writable() || this.writeShut || this.state === 'closed') events |= EPOLLOUT;
    else this.noSpace = true;
    return events;
  }

  edge(): void {
    if (this.watch !== null && this.ending === 'open') this.io.queueEvent(this);
  }
}
