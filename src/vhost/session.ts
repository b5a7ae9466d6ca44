/**
 * One front-end, from its connection to the end.
 *
 * Theory of operation
 *
 * Each message is looked up in the dispatch table (requests.ts), checked in the order feature → descriptors → size →
 * body, and run against the back-end's state (backend.ts). Replies are made here only: a request with an answer of
 * its own gets that; any other gets a u64 of 0 (done) or 1 (refused), if it asked and REPLY_ACK was negotiated, looked
 * at *after* the request ran, because user-mode Linux asks on the very SET_PROTOCOL_FEATURES that negotiates it.
 * Messages are strictly in order: while one waits for the device, the connection reads no other. A reply never waits
 * for the front-end (QEMU holds its main lock until it comes).
 *
 * The session ends when the front-end leaves, breaks the protocol, takes its memory away, or when we stop. Then, in
 * this order: no more messages; the request at work finishes; rings stop; the device lets go of memory; descriptors and
 * memory go (a descriptor that blocks is left to its thread, see closer.cc); and the socket is closed last, so that a
 * front-end that sees it close can rely on its rings not being used any more (QEMU reads the used index right then, to
 * continue from there).
 *
 * Invariants: every received descriptor is closed on every path (by the message, the ring or the back-end that owns
 * it); nothing a front-end says ends more than its own session.
 */
import { whenClosed } from '../front-end/unclosed';
import { POLL_IN } from '../native';
import type { BackendOptions } from './backend';
import { Backend } from './backend';
import type { Message } from './connection';
import { Connection } from './connection';
import { ProtocolError, disposition, shortage } from './protocol-errors';
import { encodeU64Reply, validateFds, validateSize } from './messages';
import { VHOST_USER_PROTOCOL_F_REPLY_ACK } from './protocol';
import type { Reply, Request } from './requests';
import { REQUESTS } from './requests';

/**
 * Refusals logged in a session, besides the limit of all sessions: a front-end that was heard is not helped by more.
 */
const LOGGED_REFUSALS = 10;

export interface SessionOptions extends BackendOptions {
  /** Connected stream socket, which the session owns from now on. */
  readonly fd: number;
}

/** Why a session ended: the front-end left, we stopped it, the front-end broke the protocol, or we have a bug. */
export type SessionEnd =
  | { readonly reason: 'left' | 'stopped' }
  | { readonly reason: 'protocol' | 'shortage'; readonly error: ProtocolError }
  | { readonly reason: 'internal'; readonly error: unknown };

function endFor(error: ProtocolError): SessionEnd {
  return { reason: error.code === 'VU_ERR_SHORTAGE' ? 'shortage' : 'protocol', error };
}

export class Session {
  private readonly options: SessionOptions;
  private readonly backend: Backend;
  private readonly connection: Connection;
  /** Settles with how the session ended, when all it held was given back. */
  readonly done: Promise<SessionEnd>;
  private resolveDone: (end: SessionEnd) => void = () => undefined;
  /** The request that waits for the device. */
  private atWork: Promise<void> = Promise.resolve();
  /** When the session began: descriptors given to be closed from then on are its own. */
  private readonly since: number;
  private isEnding = false;
  private refusals = 0;
  private faultWatch = -1;

  constructor(options: SessionOptions) {
    this.options = options;
    this.since = options.native.nowUs();
    this.backend = new Backend(options);
    this.connection = new Connection(options.native, options.fd, {
      message: (message) => this.message(message),
      ended: (error) => {
        this.end(error === null ? { reason: 'left' } : endFor(error));
      },
    });
    this.done = new Promise((resolve) => {
      this.resolveDone = resolve;
    });
  }

  /** No message is handled any more; `done` settles soon. */
  get ending(): boolean {
    return this.isEnding;
  }

  start(): void {
    const { device, native } = this.options;
    device.onRingFault = (index, reason) => {
      this.backend.rings.fault(index, reason);
      this.checkMemory();
    };
    device.onFailed = (error) => {
      this.end({ reason: 'internal', error });
    };
    device.attach();
    // A truncated memory file, or a descriptor that blocks a thread, wakes this thread at once.
    const event = native.faultEvent();
    this.faultWatch = event < 0 ? event : this.watchFaults(event);
    const watched = this.faultWatch < 0 ? this.faultWatch : this.connection.start();
    if (watched < 0) this.end(endFor(shortage("the front-end's connection cannot be watched", watched)));
  }

  private watchFaults(event: number): number {
    const { native } = this.options;
    return native.pollStart(event, POLL_IN, () => {
      native.drain(event);
      this.checkMemory();
      this.checkDescriptors();
    });
  }

  /** Ends the session from our side. */
  stop(): Promise<SessionEnd> {
    this.end({ reason: 'stopped' });
    return this.done;
  }

  /** Calls back when everything the front-end has sent so far was handled, which may have ended the session. */
  whenIdle(callback: () => void): void {
    this.connection.whenIdle(callback);
  }

  private message(message: Message): Promise<void> | null {
    const request = REQUESTS.get(message.request);
    this.checkDescriptors();
    if (this.isEnding) return null;
    try {
      const result = this.run(request, message);
      if (result instanceof Promise) {
        this.atWork = this.finish(request, message, result);
        return this.atWork;
      }
      this.reply(message, result);
    } catch (error) {
      this.failed(request, message, error);
    }
    this.checkMemory();
    return null;
  }

  private async finish(request: Request | undefined, message: Message, result: Promise<Reply>): Promise<void> {
    try {
      this.reply(message, await result);
    } catch (error) {
      this.failed(request, message, error);
    }
    this.checkMemory();
  }

  private run(request: Request | undefined, message: Message): Reply | Promise<Reply> {
    if (request === undefined) {
      throw new ProtocolError('VU_ERR_REQUEST', `unknown request ${message.request}`);
    }
    const { name, feature, fds, size } = request;
    if (feature >= 0 && !this.backend.has(feature)) {
      throw new ProtocolError('VU_ERR_NOT_NEGOTIATED', `${name} without the protocol feature it needs`);
    }
    if (fds >= 0) validateFds(name, message.fds.count, fds);
    if (size >= 0) validateSize(name, message.payload.byteLength, size);
    return request.run(this.backend, message);
  }

  private reply(message: Message, reply: Reply): void {
    if (reply !== null) this.connection.send(reply);
    else if (this.wantsAck(message)) this.connection.send(encodeU64Reply(message.request, 0n));
  }

  private wantsAck(message: Message): boolean {
    return message.needReply && this.backend.has(VHOST_USER_PROTOCOL_F_REPLY_ACK);
  }

  private failed(request: Request | undefined, message: Message, error: unknown): void {
    if (!(error instanceof ProtocolError)) {
      this.end({ reason: 'internal', error });
      return;
    }
    // A refusal in place of an answer would be taken for the answer.
    const canRefuse = disposition(error.code) === 'refuse' && this.wantsAck(message) && request?.replies !== true;
    if (!canRefuse) {
      this.end(endFor(error));
      return;
    }
    this.refusals++;
    if (this.refusals <= LOGGED_REFUSALS)
      this.options.log('warn', `front-end request refused: ${error.message}`, 'vhost.refusal');
    this.connection.send(encodeU64Reply(message.request, 1n));
  }

  private checkMemory(): void {
    if (this.isEnding || !this.backend.memoryLost) return;
    const error = new ProtocolError('VU_ERR_MEMORY_LOST', 'guest memory was truncated while in use');
    this.end({ reason: 'protocol', error });
  }

  /** A descriptor that blocks cost a thread. There are few of those, so none is given to this front-end again. */
  private checkDescriptors(): void {
    if (this.isEnding || this.options.native.closerLostAt() < this.since) return;
    const error = new ProtocolError('VU_ERR_FD_KIND', 'closing a descriptor of the front-end blocks');
    this.end({ reason: 'protocol', error });
  }

  private end(end: SessionEnd): void {
    if (this.isEnding) return;
    this.isEnding = true;
    this.connection.stop();
    void this.tearDown(end);
  }

  private async tearDown(end: SessionEnd): Promise<void> {
    if (this.faultWatch >= 0) this.options.native.pollStop(this.faultWatch);
    this.faultWatch = -1;
    // Also lets a request that fails inside its own handler come to its end.
    await this.atWork;
    await this.backend.release((error) => {
      this.options.log('error', `internal error while a session ends: ${String(error)}`, 'vhost.release');
    });
    this.options.device.onRingFault = null;
    this.options.device.onFailed = null;
    this.connection.close();
    if (!(await whenClosed(this.options.native))) {
      this.options.log(
        'warn',
        'closing a descriptor of the front-end blocks: left to a helper thread',
        'vhost.unclosed',
      );
    }
    this.resolveDone(end);
  }
}
