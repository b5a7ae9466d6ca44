/**
 * Serves front-ends of any protocol, one after the other, each in a session.
 *
 * Three ways to a front-end: listen on a path, maybe by a socket that somebody else has opened; connect to a path and retry until a front-end listens there (QEMU's
 * `server=on`); or be given a connected socket, which is served once. One front-end at a time: a second one is
 * accepted and closed (turned-away.ts says when). One that connects while the former's session is still being taken down
 * waits for that.
 *
 * Every wait has a deadline: a second front-end is refused when the first one has not been checked within
 * OFFER_MS (it does not read its replies, say), and the end does not wait for a session longer than STOP_MS. Front-ends
 * that come by the thousand get ACCEPTS each ACCEPT_MS, and every line they provoke has a limit.
 */
import { EventEmitter } from 'node:events';
import { unlinkSync } from 'node:fs';
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import { identifyFile } from '../files';
import type { Native } from '../native';
import { FD_FOREIGN_SOCKET, FD_SOCKET, MOST_UNCLOSED, POLL_IN } from '../native';
import { TurnedAway } from './turned-away';
import { closeConnection, whenClosed } from './unclosed';

const { EAGAIN, ECONNABORTED, ECONNREFUSED, ENOENT } = constants.errno;

const BACKLOG = 4;
const RETRY_MS = 500;

/** How long a second front-end waits to hear whether the first one has left. */
const OFFER_MS = 1000;
/** How long the end waits for the session at work. */
const STOP_MS = 2000;
/** Front-ends accepted before the listener rests. */
const ACCEPTS = 64;
const ACCEPT_MS = 100;

/** Threads lost to descriptors that block (closer.cc loses no more). */
const MOST_LOST = 8;

type Level = 'debug' | 'info' | 'warn' | 'error';

/** Where front-ends come from. */
export type FrontEndSource =
  /** `opened`: the socket that listens there already, whose file is somebody else's. */
  | { readonly listen: string; readonly opened?: number | undefined }
  | { readonly connect: string }
  | { readonly fd: number };

export interface FrontEndServerOptions {
  readonly native: Native;
  /** With a `site` where a front-end can provoke the line: it is limited then (src/log.ts). */
  readonly log: (level: Level, message: string, site?: string) => void;
  readonly source: FrontEndSource;
  /** End when the first front-end has left. Always so for a given descriptor. */
  readonly oneOff?: boolean;
  /** Time between attempts to connect, in ms. */
  readonly retryMs?: number;
  /** Does it where we cannot ourselves any more. */
  readonly paths?: FrontEndPaths;
}

/** Who reaches the paths of `FrontEndSource` for us: told of them at the start, asked later. */
export interface FrontEndPaths {
  /** Our socket's file is there. */
  listensOn(path: string): void;
  /** Removes that file, if it is still ours. */
  remove(): unknown;
  connectsTo(path: string): void;
  /** As `Native.unixConnect`. */
  connect(): number;
}

/** Why a session ended: the front-end left, we stopped it, the front-end broke the protocol, or we have a bug. */
export type FrontEndEnd =
  | { readonly reason: 'left' | 'stopped' }
  /** `shortage`: this process or host had not what it needed; the front-end did nothing wrong. */
  | { readonly reason: 'protocol' | 'shortage'; readonly error: Error }
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
  private readonly options: FrontEndServerOptions;
  private readonly createSession: (fd: number) => FrontEndSession<End>;
  private readonly oneOff: boolean;
  private listenFd = -1;
  private listenPoll = -1;
  /** Device and inode of our socket file: only that one is removed. */
  private listenFile = '';
  private session: FrontEndSession<End> | null = null;
  /** A front-end that waits for the former's end, and how long it does. */
  private nextFd = -1;
  private nextTimer: NodeJS.Timeout | null = null;
  private readonly turnedAway: TurnedAway;
  /** The session was asked to say when it is idle, and has not said so. */
  private asked: FrontEndSession<End> | null = null;
  /** Accepted since `acceptsSince` (ms). */
  private accepts = 0;
  private acceptsSince = 0;
  private retry: NodeJS.Timeout | null = null;
  /** Last reason why no front-end could be had, to say it once. */
  private complaint = '';
  private stopping = false;
  private ended = false;

  /** `createSession` is given each front-end's connected socket. */
  constructor(options: FrontEndServerOptions, createSession: (fd: number) => FrontEndSession<End>) {
    super();
    this.options = options;
    this.createSession = createSession;
    this.oneOff = options.oneOff === true || 'fd' in options.source;
    this.turnedAway = new TurnedAway(
      (fd, held) => {
        this.refuse(fd, held);
      },
      (ms) => {
        const text = 'a front-end keeps connecting while one is connected already (two guests on one socket?)';
        this.say('warn', 'held', `${text}: each time it waits ${ms} ms now, and is served when the other one leaves`);
      },
    );
  }

  /** True while a front-end is served. */
  get connected(): boolean {
    return this.session !== null;
  }

  /**
   * Makes the socket of a path, where front-ends can connect from now on; `start` serves them. Nothing to do for other
   * sources. Throws `ServerError` if the socket cannot be had.
   */
  listen(): void {
    const { source } = this.options;
    if (!('listen' in source) || this.listenFd >= 0) return;
    if (source.opened === undefined) this.listenOn(source.listen);
    else this.listenFd = source.opened;
    this.options.native.setNonBlocking(this.listenFd);
  }

  /** Begins to serve. Throws `ServerError` if the socket cannot be had. */
  start(): void {
    const { source, log } = this.options;
    if ('listen' in source) {
      this.listen();
      this.pollListener();
      log('info', `waiting for a front-end on ${source.listen}`);
      this.emit('listening');
    } else if ('connect' in source) {
      this.emit('listening');
      this.options.paths?.connectsTo(source.connect);
      this.connect(source.connect);
    } else this.serveGiven(source.fd);
  }

  /** Ends the session at work and gives everything back. Settles when that is done. */
  async stop(): Promise<void> {
    this.stopping = true;
    if (this.retry !== null) clearTimeout(this.retry);
    this.retry = null;
    this.closeListener();
    const next = this.takeNext();
    if (next >= 0) this.refuse(next, false);
    this.turnedAway.close();
    const session = this.session;
    if (session !== null && !(await this.ends(session))) {
      this.options.log('error', 'the front-end session does not end: exiting without waiting for it');
    }
    await whenClosed(this.options.native);
    this.finish();
  }

  /** Stops a session. False: it was not done within STOP_MS. */
  private ends(session: FrontEndSession<End>): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        resolve(false);
      }, STOP_MS);
      const stopped = session.stop().finally(() => {
        clearTimeout(timer);
      });
      stopped.then(() => {
        resolve(true);
      }, reject);
    });
  }

  /** Logs what front-ends can provoke at will: with a site, so that it is limited. */
  private say(level: Level, site: string, message: string): void {
    this.options.log(level, message, `front-end.${site}`);
  }

  private listenOn(path: string): void {
    const { native } = this.options;
    const fd = native.unixListen(path, BACKLOG);
    if (fd < 0) throw new ServerError('VU_ERR_LISTEN', `cannot listen on ${path}: ${getSystemErrorName(fd)}`);
    this.listenFd = fd;
    this.listenFile = identifyFile(path);
    this.options.paths?.listensOn(path);
  }

  private pollListener(): void {
    if (this.listenFd < 0 || this.listenPoll >= 0) return;
    this.listenPoll = this.options.native.pollStart(this.listenFd, POLL_IN, () => {
      this.accept();
    });
    if (this.listenPoll < 0) this.listenLater(this.listenPoll);
  }

  /** Out of descriptors or memory: the poll would spin, so look again later. */
  private listenLater(error: number): void {
    this.say('error', 'accept', `cannot accept a front-end: ${getSystemErrorName(error)}`);
    this.restListener(this.retryMs);
  }

  private unpollListener(): void {
    if (this.listenPoll >= 0) this.options.native.pollStop(this.listenPoll);
    this.listenPoll = -1;
  }

  private closeListener(): void {
    if (this.listenFd < 0) return;
    this.unpollListener();
    // With what lies in the queues of connections that were not accepted.
    this.options.native.closeLater(this.listenFd);
    this.listenFd = -1;
    const { source } = this.options;
    if (!('listen' in source) || source.opened !== undefined) return;
    if (this.options.paths !== undefined) {
      this.options.paths.remove();
      return;
    }
    // Its directory may be closed to the user who serves, or gone.
    try {
      if (identifyFile(source.listen) === this.listenFile) unlinkSync(source.listen);
    } catch (error) {
      this.options.log('debug', `cannot remove the socket file: ${String(error)}`);
    }
  }

  private accept(): void {
    const { native } = this.options;
    if (native.closerLost() >= MOST_LOST || native.closerWait(0) > MOST_UNCLOSED) {
      // Each front-end could leave more of them. They wait in the listener's queue, where they cost nothing.
      this.say('error', 'unclosed', 'no front-end is accepted: descriptors of earlier ones still block in close');
      this.restListener(this.retryMs);
      return;
    }
    const fd = native.unixAccept(this.listenFd);
    if (fd >= 0) {
      this.count();
      this.offer(fd);
      return;
    }
    if (fd === -EAGAIN || fd === -ECONNABORTED) return;
    this.listenLater(fd);
  }

  private restListener(ms: number): void {
    this.unpollListener();
    this.retry = setTimeout(() => {
      this.pollListener();
    }, ms);
  }

  /** Counts a front-end; a flood of them gets a share of the thread's time, and no more. */
  private count(): void {
    const now = performance.now();
    if (now - this.acceptsSince >= ACCEPT_MS) {
      this.acceptsSince = now;
      this.accepts = 0;
    }
    if (++this.accepts >= ACCEPTS) this.restListener(ACCEPT_MS);
  }

  /** A front-end is here. The present one may be gone without our having read that yet: look before refusing. */
  private offer(fd: number): void {
    if (this.session === null) {
      this.serve(fd);
      return;
    }
    if (this.nextFd >= 0) {
      this.turnedAway.add(fd);
      return;
    }
    this.nextFd = fd;
    const session = this.session;
    this.nextTimer = setTimeout(() => {
      if (!session.ending) this.turnNextAway();
    }, OFFER_MS);
    if (this.asked === session) return;
    this.asked = session;
    session.whenIdle(() => {
      this.asked = null;
      if (!session.ending) this.turnNextAway();
    });
  }

  /** `held`: it waited, which was said when that began. */
  private refuse(fd: number, held: boolean): void {
    this.say(
      held ? 'debug' : 'warn',
      held ? 'let-go' : 'refused',
      'second front-end refused, one is connected already',
    );
    closeConnection(this.options.native, fd);
  }

  private turnNextAway(): void {
    const fd = this.takeNext();
    if (fd >= 0) this.turnedAway.add(fd);
  }

  private takeNext(): number {
    const fd = this.nextFd;
    this.nextFd = -1;
    if (this.nextTimer !== null) clearTimeout(this.nextTimer);
    this.nextTimer = null;
    return fd;
  }

  private get retryMs(): number {
    return this.options.retryMs ?? RETRY_MS;
  }

  private connect(path: string): void {
    if (this.stopping) return;
    const { native, log, paths } = this.options;
    const fd = paths === undefined ? native.unixConnect(path) : paths.connect();
    if (fd >= 0) {
      this.complaint = '';
      this.serve(fd);
      return;
    }
    const expected = fd === -ENOENT || fd === -ECONNREFUSED || fd === -EAGAIN;
    const complaint = expected ? 'no front-end' : getSystemErrorName(fd);
    if (complaint !== this.complaint) {
      log(expected ? 'info' : 'warn', expected ? `waiting for a front-end at ${path}` : `${path}: ${complaint}`);
    }
    this.complaint = complaint;
    this.connectLater(path);
  }

  /** Not at once: neither an absent front-end nor one that drops us each time must make us spin. */
  private connectLater(path: string): void {
    this.retry = setTimeout(() => {
      this.connect(path);
    }, this.retryMs);
  }

  private serveGiven(fd: number): void {
    const kind = this.options.native.fdKind(fd);
    if (kind !== FD_SOCKET && kind !== FD_FOREIGN_SOCKET) {
      throw new ServerError('VU_ERR_SOCKET', `descriptor ${fd} is not a socket`);
    }
    this.emit('listening');
    this.serve(fd);
  }

  private serve(fd: number): void {
    const session = this.createSession(fd);
    this.session = session;
    this.say('info', 'connected', 'front-end connected');
    session.start();
    this.emit('connected');
    void session.done.then((end) => {
      this.sessionEnded(end);
    });
  }

  private sessionEnded(end: End): void {
    this.session = null;
    this.asked = null;
    switch (end.reason) {
      case 'left':
        this.say('info', 'left', 'front-end disconnected');
        break;
      case 'stopped':
        this.say('info', 'closed', 'front-end connection closed');
        break;
      case 'protocol':
        this.say('warn', 'protocol', `front-end broke the protocol: ${end.error.message}; connection closed`);
        break;
      case 'shortage':
        this.say('error', 'shortage', `front-end connection closed: ${end.error.message}`);
        break;
      case 'internal':
        this.say('error', 'internal', `internal error, front-end connection closed: ${String(end.error)}`);
        break;
    }
    this.emit('disconnected', end);
    if (this.stopping) return; // stop() waits for the session and finishes
    if (this.oneOff) {
      void this.stop();
      return;
    }
    const offered = this.takeNext();
    const next = offered >= 0 ? offered : this.turnedAway.take();
    const { source } = this.options;
    if (next >= 0) this.serve(next);
    else if ('connect' in source) this.connectLater(source.connect);
  }

  private finish(): void {
    if (this.ended) return;
    this.ended = true;
    this.emit('end');
  }
}
