/**
 * One vhost-user connection: framing and descriptors.
 *
 * Theory of operation
 *
 * vhost-user runs over a unix stream socket without any framing but the header. Descriptors ride on a message's first
 * bytes, and a stream recvmsg may return bytes of two messages but descriptors of one only. So the reader asks for
 * exactly the 12 header bytes, then for exactly the payload, and takes descriptors from whichever call returned them.
 * It never waits: a message that comes byte by byte, or half of one that never ends, costs a few words of state.
 *
 * Messages are handed over strictly one at a time. While a handler is at work (it may wait for the data plane), or
 * while a reply does not fit into the socket, nothing is read: later messages wait in the socket buffer, and the
 * sender with them. So one message buffer is enough, at most one reply is ever kept, and a handler may use the
 * payload until its promise settles.
 *
 * States: reading ⇄ busy (handler or output pending) → ended (no more messages; socket still open, so that the peer
 * does not think us gone while rings still run) → closed.
 */
import { constants } from 'node:os';
import { closeConnection } from '../front-end/unclosed';
import { MOST_UNCLOSED, type Native, POLL_IN, POLL_OUT } from '../native';
import { ProtocolError, shortage } from './protocol-errors';
import { decodeHeader, validateHeader } from './messages';
import { MAX_FDS, MAX_PAYLOAD, VHOST_USER_HDR_SIZE } from './protocol';

const { EAGAIN, EMFILE, EMSGSIZE, ENOBUFS, ENOMEM } = constants.errno;

/** Messages handled before other events of the thread get their turn. */
const MESSAGES_PER_TURN = 64;

const NO_FDS = new Int32Array(1);

/** Descriptors of one message. Whoever takes one owns it; the rest are closed with the message. */
export class ReceivedFds {
  private readonly native: Native;
  private readonly fds: number[] = [];

  constructor(native: Native) {
    this.native = native;
  }

  get count(): number {
    return this.fds.length;
  }

  /** The i-th descriptor, which stays ours. */
  peek(i: number): number {
    return this.fds[i] ?? -1;
  }

  /** Hands the first descriptor over, -1 if there is none. */
  take(): number {
    return this.fds.shift() ?? -1;
  }

  put(fd: number): void {
    this.fds.push(fd);
  }

  closeAll(): void {
    for (const fd of this.fds.splice(0)) this.native.closeLater(fd);
  }
}

/** A whole message with a valid header. `payload` and `fds` belong to the connection until the handler is done. */
export interface Message {
  readonly request: number;
  readonly needReply: boolean;
  readonly payload: DataView;
  readonly fds: ReceivedFds;
}

export interface ConnectionHandler {
  /** Handles one message; a promise holds later messages back until it settles. Must not throw nor reject. */
  message(message: Message): Promise<void> | null;
  /** No message comes any more. `error` is null if the front-end left between two messages. Called once. */
  ended(error: ProtocolError | null): void;
}

/** The kernel has no memory for the call now: what waits in the socket stays there. */
const isMemoryShort = (error: number): boolean => error === -ENOMEM || error === -ENOBUFS;

export class Connection {
  private readonly native: Native;
  private readonly fd: number;
  private readonly handler: ConnectionHandler;
  private readonly buf = new Uint8Array(VHOST_USER_HDR_SIZE + MAX_PAYLOAD);
  private readonly header = new DataView(this.buf.buffer, 0, VHOST_USER_HDR_SIZE);
  /** Descriptor scratch: one more than allowed, so that one too many is our error and not the kernel's. */
  private readonly scratch = new Int32Array(1 + MAX_FDS + 1);
  private readonly fds: ReceivedFds;
  /** Bytes of the message received so far, and how many make the part being read (header, then all). */
  private have = 0;
  private goal = VHOST_USER_HDR_SIZE;
  private output: Uint8Array | null = null;
  private busy = false;
  private reading = false;
  private ended = false;
  private closed = false;
  private poll = -1;
  private polled = 0;
  private idle: (() => void)[] = [];

  /** Takes over `fd`, a connected stream socket. */
  constructor(native: Native, fd: number, handler: ConnectionHandler) {
    this.native = native;
    this.fd = fd;
    this.handler = handler;
    this.fds = new ReceivedFds(native);
  }

  /** Begins to read. Returns 0, or -errno: the kernel has no memory or no watches left (epoll_ctl(2)). */
  start(): number {
    this.native.setNonBlocking(this.fd);
    this.poll = this.native.pollStart(this.fd, POLL_IN, () => {
      if (this.output !== null) this.flush();
      else if (!this.busy) this.read();
    });
    if (this.poll < 0) return this.poll;
    this.polled = POLL_IN;
    return 0;
  }

  /**
   * Sends a reply. Only for the handler of the message being handled, once: a second one would pass a reply that
   * still waits for room.
   */
  send(bytes: Uint8Array): void {
    if (this.ended) return;
    this.output = bytes;
    this.flush();
  }

  /** Stops reading, for a reason of ours: no `ended` call follows. The socket stays open until `close`. */
  stop(): void {
    this.ended = true;
    this.output = null;
    this.fds.closeAll();
    this.updatePoll();
    this.runIdle();
  }

  /** Closes the socket. The peer sees the end of the session now. */
  close(): void {
    if (this.closed) return;
    this.stop();
    this.closed = true;
    if (this.poll >= 0) this.native.pollStop(this.poll); // before the descriptor goes
    this.poll = -1;
    closeConnection(this.native, this.fd);
  }

  /** Calls back once everything that has arrived so far is handled, or the connection has ended: maybe at once. */
  whenIdle(callback: () => void): void {
    if (this.ended) {
      callback();
      return;
    }
    this.idle.push(callback);
    if (!this.blocked) this.read();
  }

  private get blocked(): boolean {
    return this.busy || this.output !== null;
  }

  private runIdle(): void {
    for (const callback of this.idle.splice(0)) callback();
  }

  /** Makes the poll handle watch what is wanted now; none at all while a handler works, lest it spin. */
  private updatePoll(): void {
    let wanted = 0;
    if (!this.ended) {
      if (this.output !== null) wanted = POLL_OUT;
      else if (!this.busy) wanted = POLL_IN;
    }
    if (wanted === this.polled || this.poll < 0) return;
    this.polled = wanted;
    this.native.pollChange(this.poll, wanted);
  }

  private flush(): void {
    while (this.output !== null) {
      const bytes = this.output;
      const n = this.native.sendFds(this.fd, bytes, 0, bytes.length, NO_FDS, 0);
      if (n === -EAGAIN || isMemoryShort(n)) break;
      if (n < 0) {
        this.end(null); // the peer is gone: EPIPE, ECONNRESET
        return;
      }
      this.output = n < bytes.length ? bytes.subarray(n) : null;
    }
    this.unblock();
  }

  /** After a handler is done or a reply is out. */
  private unblock(): void {
    this.updatePoll();
    // Somebody waits to hear that all is read, and there may be nothing more that would wake us.
    if (this.idle.length > 0 && !this.blocked && !this.ended) this.read();
  }

  private end(error: ProtocolError | null): void {
    if (this.ended) return;
    this.ended = true;
    this.output = null;
    this.fds.closeAll();
    this.updatePoll();
    this.handler.ended(error);
    this.runIdle();
  }

  /** Reads and hands over messages until the socket is empty, something blocks or the turn is over. */
  private read(): void {
    if (this.reading || this.ended) return;
    this.reading = true;
    try {
      for (let i = 0; i < MESSAGES_PER_TURN && !this.blocked && this.fill(); i++) this.dispatch();
    } finally {
      this.reading = false;
      this.updatePoll();
    }
  }

  /** True once a whole message is in the buffer; false if there is no more now, or the connection ended. */
  private fill(): boolean {
    const native = this.native;
    if (this.ended) return false; // by the message before
    for (;;) {
      while (this.have < this.goal) {
        const n = native.recvFds(this.fd, this.buf, this.have, this.goal - this.have, this.scratch);
        if (n === -EAGAIN) {
          this.runIdle();
          return false;
        }
        if (isMemoryShort(n)) return false; // what came is still there, and the poll says so again
        if (n === -EMSGSIZE) {
          this.end(new ProtocolError('VU_ERR_FDS', `more than ${MAX_FDS} descriptors at once`));
          return false;
        }
        if (n === -EMFILE) {
          this.end(shortage('descriptors of the front-end were lost', n));
          return false;
        }
        if (n <= 0) {
          this.end(this.have > 0 ? new ProtocolError('VU_ERR_TRUNCATED', 'connection ended inside a message') : null);
          return false;
        }
        this.have += n;
        for (let i = 1; i <= this.scratch[0]; i++) this.fds.put(this.scratch[i]);
        if (this.scratch[0] > 0 && native.closerWait(0) > MOST_UNCLOSED) {
          this.end(new ProtocolError('VU_ERR_FDS', 'descriptors come faster than they can be closed'));
          return false;
        }
        if (this.fds.count > MAX_FDS) {
          this.end(new ProtocolError('VU_ERR_FDS', `message with more than ${MAX_FDS} descriptors`));
          return false;
        }
      }
      if (this.goal > VHOST_USER_HDR_SIZE) return true;
      try {
        validateHeader(this.header);
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
        this.end(error);
        return false;
      }
      const size = decodeHeader(this.header).size;
      if (size === 0) return true;
      this.goal = VHOST_USER_HDR_SIZE + size;
    }
  }

  private dispatch(): void {
    const { request, needReply, size } = decodeHeader(this.header);
    const message: Message = {
      request,
      needReply,
      payload: new DataView(this.buf.buffer, VHOST_USER_HDR_SIZE, size),
      fds: this.fds,
    };
    this.have = 0;
    this.goal = VHOST_USER_HDR_SIZE;
    const pending = this.handler.message(message);
    if (pending === null) {
      this.fds.closeAll();
      return;
    }
    this.busy = true;
    void pending.then(() => {
      this.fds.closeAll();
      this.busy = false;
      this.unblock();
    });
  }
}
