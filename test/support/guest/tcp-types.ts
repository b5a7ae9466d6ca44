/** What the parts of the guest's TCP tell each other, and the small machines a connection is built from. */
import { concat } from './bytes';
import type { TcpStream } from './tcp';

export interface TcpOptions {
  /** MSS to announce; 0 announces none. Default: the link's MTU less the headers. */
  readonly mss?: number;
  /** Window scale to announce, null: none. Default 8. */
  readonly windowScale?: number | null;
  /** Bytes of receive buffer, hence the largest window. Default 4 MiB. */
  readonly receiveBuffer?: number;
  /** Bytes of send buffer. Default 4 MiB. */
  readonly sendBuffer?: number;
  /** First retransmission timeout in ms. Default 1000. */
  readonly rtoMs?: number;
  /** Most retransmissions of one segment before the connection fails. Default 6. */
  readonly maxRetries?: number;
  readonly timeWaitMs?: number;
  /** Initial sequence number. Default: random. */
  readonly isn?: number;
}

export interface TcpStats {
  segmentsSent: number;
  segmentsReceived: number;
  bytesSent: number;
  bytesReceived: number;
  retransmits: number;
  duplicateAcks: number;
  outOfOrder: number;
  /** Bytes the peer sent beyond the window it was given. */
  beyondWindow: number;
  zeroWindowProbes: number;
}

export type TcpState =
  | 'SYN_SENT'
  | 'SYN_RCVD'
  | 'ESTABLISHED'
  | 'FIN_WAIT_1'
  | 'FIN_WAIT_2'
  | 'CLOSING'
  | 'TIME_WAIT'
  | 'CLOSE_WAIT'
  | 'LAST_ACK'
  | 'CLOSED';

/** What a connection needs from its host. */
export interface TcpHost {
  /** Sends a segment: `header` with checksum 0, payload in pieces of at most `mss` each if the device can do so. */
  output(stream: TcpStream, header: Uint8Array, payload: Uint8Array): void;
  /** Largest payload of one segment given to `output`: a multiple of `mss`, or `mss`. */
  largestPayload(stream: TcpStream, mss: number): number;
  /** The connection has received something and owes an acknowledgement at the end of the batch. */
  ackPending(stream: TcpStream): void;
  /** The connection is over: forget it. */
  remove(stream: TcpStream): void;
}

export interface TcpEndpoints {
  readonly localAddr: Uint8Array;
  readonly localPort: number;
  readonly remoteAddr: Uint8Array;
  readonly remotePort: number;
}

/** An error with an errno-like code: ECONNREFUSED, ECONNRESET, ETIMEDOUT. */
export class TcpError extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** Bytes to be sent, as a ring: written at the end, read anywhere, released at the front. */
export class SendRing {
  readonly capacity: number;
  /** Bytes in it. */
  length = 0;
  private readonly bytes: Uint8Array;
  private at = 0;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.bytes = new Uint8Array(capacity);
  }

  /** `data` must fit. */
  push(data: Uint8Array): void {
    const at = (this.at + this.length) % this.capacity;
    const first = Math.min(data.length, this.capacity - at);
    this.bytes.set(data.subarray(0, first), at);
    this.bytes.set(data.subarray(first), 0);
    this.length += data.length;
  }

  /** `n` bytes from `offset` on; a view unless they lie across the end. */
  peek(offset: number, n: number): Uint8Array {
    const at = (this.at + offset) % this.capacity;
    if (at + n <= this.capacity) return this.bytes.subarray(at, at + n);
    return concat(this.bytes.subarray(at), this.bytes.subarray(0, at + n - this.capacity));
  }

  release(n: number): void {
    this.at = (this.at + n) % this.capacity;
    this.length -= n;
  }
}

/** A timer that is set again far more often than it fires: only its deadline moves. */
export class LazyTimer {
  private timer: NodeJS.Timeout | null = null;
  private deadline = 0;
  private readonly fire: () => void;

  constructor(fire: () => void) {
    this.fire = fire;
  }

  get running(): boolean {
    return this.timer !== null;
  }

  start(ms: number): void {
    const deadline = Date.now() + ms;
    // A timer that would fire too late is the only one to be set anew.
    if (this.timer !== null && deadline < this.deadline) this.stop();
    this.deadline = deadline;
    this.timer ??= setTimeout(() => this.expired(), ms);
  }

  stop(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }

  private expired(): void {
    this.timer = null;
    const left = this.deadline - Date.now();
    if (left > 0) this.timer = setTimeout(() => this.expired(), left);
    else this.fire();
  }
}

/** Promises that wait for one thing to happen. */
export class Waiters {
  private list: { readonly resolve: () => void; readonly reject: (e: Error) => void }[] = [];

  wait(): Promise<void> {
    return new Promise((resolve, reject) => this.list.push({ resolve, reject }));
  }

  wake(): void {
    for (const w of this.list.splice(0)) w.resolve();
  }

  fail(error: Error): void {
    for (const w of this.list.splice(0)) w.reject(error);
  }
}
