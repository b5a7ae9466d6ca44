/**
 * A service for front-ends, whatever they speak: gets them one after the other and serves each in a session.
 *
 * Three ways to a front-end: listen on a path; connect to a path and try again until somebody listens there (QEMU's
 * `server=on`); or be given a connected socket, which is served once. One front-end at a time: a second one is
 * accepted and closed at once, so that it fails at its start and does not hang. One that connects while the
 * former's session is still being taken down waits for that.
 */
import { EventEmitter } from 'node:events';
import { lstatSync, unlinkSync } from 'node:fs';
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import type { Native } from '../native';
import { FD_SOCKET } from '../native';

const { EAGAIN, ECONNABORTED, ECONNREFUSED, EINTR, ENOENT } = constants.errno;

const POLL_IN = 1;
const BACKLOG = 4;
const RETRY_MS = 500;

/** Where front-ends come from. */
export type FrontEndSource = { readonly listen: string } | { readonly connect: string } | { readonly fd: number };

export interface FrontEndServerOptions {
  readonly native: Native;
  readonly log: (level: 'debug' | 'info' | 'warn' | 'error', message: string) => void;
  readonly source: FrontEndSource;
  /** End when the first front-end has left. Always so for a given descriptor. */
  readonly oneOff?: boolean;
  /** Time between attempts to connect, in ms. */
  readonly retryMs?: number;
}

/** Why a session ended: the front-end left, we stopped it, the front-end broke the protocol, or we have a bug. */
export type FrontEndEnd =
  | { readonly reason: 'left' | 'stopped' }
  | { readonly reason: 'protocol'; readonly error: Error }
  | { readonly reason: 'internal'; readonly error: unknown };

/** One front-end, from its connection to the end. It owns the socket it was made for. */
export interface FrontEndSession<End extends FrontEndEnd> {
  /** Settles with how the session ended, when all it held was given back. */
  readonly done: Promise<End>;
  /** `done` settles soon. */
  readonly ending: boolean;
  start(): void;
  stop(): Promise<unknown>;
  /** Calls back when all that the front-end did so far was noticed, which may have ended the session. */
  whenIdle(callback: () => void): void;
}

/** The socket itself could not be had (listening, descriptor given). */
export class ServerError extends Error {
  readonly code: 'VU_ERR_LISTEN' | 'VU_ERR_SOCKET';

  constructor(code: 'VU_ERR_LISTEN' | 'VU_ERR_SOCKET', message: string) {
    super(message);
    this.name = 'ServerError';
    this.code = code;
  }
}

export interface FrontEndServerEvents<End extends FrontEndEnd> {
  /** The socket takes front-ends (or, for `connect`, the first attempt is about to be made). */
  listening: [];
  connected: [];
  /** All that the session held was given back. */
  disconnected: [end: End];
  /** Nothing more will happen: stopped, or one-off and done. */
  end: [];
}

export class FrontEndServer<End extends FrontEndEnd> extends EventEmitter<FrontEndServerEvents<End>> {
  readonly #options: FrontEndServerOptions;
  readonly #createSession: (fd: number) => FrontEndSession<End>;
  readonly #oneOff: boolean;
  #listenFd = -1;
  #listenPoll = -1;
  /** Device and inode of our socket file: only that one is removed. */
  #listenFile = '';
  #session: FrontEndSession<End> | null = null;
  /** A front-end that waits for the former's end. */
  #nextFd = -1;
  #retry: NodeJS.Timeout | null = null;
  /** Last reason why no front-end could be had, to say it once. */
  #complaint = '';
  #stopping = false;
  #ended = false;

  /** `createSession` is given each front-end's connected socket. */
  constructor(options: FrontEndServerOptions, createSession: (fd: number) => FrontEndSession<End>) {
    super();
    this.#options = options;
    this.#createSession = createSession;
    this.#oneOff = options.oneOff === true || 'fd' in options.source;
  }

  /** True while a front-end is served. */
  get connected(): boolean {
    return this.#session !== null;
  }

  /**
   * Makes the socket of a path, where front-ends can connect from now on; `start` serves them. Nothing to do for other
   * sources. Throws `ServerError` if the socket cannot be had.
   */
  listen(): void {
    const { source } = this.#options;
    if ('listen' in source && this.#listenFd < 0) this.#listen(source.listen);
  }

  /** Begins to serve. Throws `ServerError` if the socket cannot be had. */
  start(): void {
    const { source, log } = this.#options;
    if ('listen' in source) {
      this.listen();
      this.#pollListener();
      log('info', `waiting for a front-end on ${source.listen}`);
      this.emit('listening');
    } else if ('connect' in source) {
      this.emit('listening');
      this.#connect(source.connect);
    } else this.#serveGiven(source.fd);
  }

  /** Ends the session at work and gives everything back. Settles when that is done. */
  async stop(): Promise<void> {
    this.#stopping = true;
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#retry = null;
    this.#closeListener();
    this.#dropNext();
    await this.#session?.stop();
    this.#finish();
  }

  #listen(path: string): void {
    const { native } = this.#options;
    const fd = native.unixListen(path, BACKLOG);
    if (fd < 0) throw new ServerError('VU_ERR_LISTEN', `cannot listen on ${path}: ${getSystemErrorName(fd)}`);
    this.#listenFd = fd;
    this.#listenFile = identifyFile(path);
    native.setNonBlocking(fd);
  }

  #pollListener(): void {
    if (this.#listenFd < 0 || this.#listenPoll >= 0) return;
    this.#listenPoll = this.#options.native.pollStart(this.#listenFd, POLL_IN, () => {
      this.#accept();
    });
  }

  #unpollListener(): void {
    if (this.#listenPoll >= 0) this.#options.native.pollStop(this.#listenPoll);
    this.#listenPoll = -1;
  }

  #closeListener(): void {
    if (this.#listenFd < 0) return;
    this.#unpollListener();
    this.#options.native.close(this.#listenFd);
    this.#listenFd = -1;
    const { source } = this.#options;
    if (!('listen' in source)) return;
    // Its directory may be closed to the user who serves, or gone.
    try {
      if (identifyFile(source.listen) === this.#listenFile) unlinkSync(source.listen);
    } catch (error) {
      this.#options.log('debug', `socket file stays: ${String(error)}`);
    }
  }

  #accept(): void {
    const { native, log } = this.#options;
    const fd = native.unixAccept(this.#listenFd);
    if (fd >= 0) {
      this.#offer(fd);
      return;
    }
    if (fd === -EAGAIN || fd === -EINTR || fd === -ECONNABORTED) return;
    // Out of descriptors or memory: the poll would spin, so look again later.
    log('error', `cannot accept a front-end: ${getSystemErrorName(fd)}`);
    this.#unpollListener();
    this.#retry = setTimeout(() => {
      this.#pollListener();
    }, this.#retryMs);
  }

  /** A front-end is here. The present one may be gone without our having read that yet: look before refusing. */
  #offer(fd: number): void {
    if (this.#session === null) {
      this.#serve(fd);
      return;
    }
    if (this.#nextFd >= 0) {
      this.#refuse(fd);
      return;
    }
    this.#nextFd = fd;
    const session = this.#session;
    session.whenIdle(() => {
      if (!session.ending) this.#dropNext();
    });
  }

  #refuse(fd: number): void {
    this.#options.log('warn', 'second front-end turned away');
    this.#options.native.close(fd);
  }

  #dropNext(): void {
    const fd = this.#nextFd;
    if (fd < 0) return;
    this.#nextFd = -1;
    this.#refuse(fd);
  }

  get #retryMs(): number {
    return this.#options.retryMs ?? RETRY_MS;
  }

  #connect(path: string): void {
    if (this.#stopping) return;
    const { native, log } = this.#options;
    const fd = native.unixConnect(path);
    if (fd >= 0) {
      this.#complaint = '';
      this.#serve(fd);
      return;
    }
    const expected = fd === -ENOENT || fd === -ECONNREFUSED || fd === -EAGAIN;
    const complaint = expected ? 'no front-end' : getSystemErrorName(fd);
    if (complaint !== this.#complaint) {
      log(expected ? 'info' : 'warn', expected ? `waiting for a front-end at ${path}` : `${path}: ${complaint}`);
    }
    this.#complaint = complaint;
    this.#connectLater(path);
  }

  /** Not at once: neither an absent front-end nor one that drops us each time must make us spin. */
  #connectLater(path: string): void {
    this.#retry = setTimeout(() => {
      this.#connect(path);
    }, this.#retryMs);
  }

  #serveGiven(fd: number): void {
    if (this.#options.native.fdKind(fd) !== FD_SOCKET) {
      throw new ServerError('VU_ERR_SOCKET', `descriptor ${fd} is no socket`);
    }
    this.emit('listening');
    this.#serve(fd);
  }

  #serve(fd: number): void {
    const session = this.#createSession(fd);
    this.#session = session;
    this.#options.log('info', 'front-end connected');
    session.start();
    this.emit('connected');
    void session.done.then((end) => {
      this.#sessionEnded(end);
    });
  }

  #sessionEnded(end: End): void {
    this.#session = null;
    switch (end.reason) {
      case 'left':
        this.#options.log('info', 'front-end disconnected');
        break;
      case 'stopped':
        this.#options.log('info', 'front-end connection closed');
        break;
      case 'protocol':
        this.#options.log('warn', `front-end broke the protocol: ${end.error.message}; connection closed`);
        break;
      case 'internal':
        this.#options.log('error', `internal error, front-end connection closed: ${String(end.error)}`);
        break;
    }
    this.emit('disconnected', end);
    if (this.#stopping) return; // stop() waits for the session and finishes
    if (this.#oneOff) {
      void this.stop();
      return;
    }
    const next = this.#nextFd;
    this.#nextFd = -1;
    const { source } = this.#options;
    if (next >= 0) this.#serve(next);
    else if ('connect' in source) this.#connectLater(source.connect);
  }

  #finish(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.emit('end');
  }
}

/** Says which file is at `path`; empty if none is. @throws Error where the path cannot be followed. */
function identifyFile(path: string): string {
  const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return stat === undefined ? '' : `${stat.dev.toString()}:${stat.ino.toString()}`;
}
