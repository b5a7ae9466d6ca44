/**
 * HTTP for Prometheus and for the page, over TCP or a UNIX socket, on the main thread: a scrape never disturbs the data
 * plane. What is answered is routes.ts's to say.
 *
 * Theory of operation. Anyone who reaches the address may connect, so everything has a bound, and what a connection costs
 * is bounded before it is spent: of HTTP this is the part that a scraper and a browser need, one request a connection
 * (http.ts). The head of the request has MAX_HEAD bytes at most; once it is there nothing more is read (so pipelined
 * requests stay with the kernel), but LEFTOVER bytes of a body, which is thrown away so that the answer is not lost to
 * a reset. All of it, from the first byte to the last of the answer, has CONNECTION_MS. There are MAX_CONNECTIONS at
 * most: a new one takes the place of the oldest that waits for nothing from us, or of one whose answer takes longer
 * than SLOW_MS, so that a scraper gets in however many sit there. Those that come together share one answer (pace.ts).
 */
import { createServer, type Server, type Socket } from 'node:net';
import type { Registry } from 'prom-client';
import { type Answer, answerText, parseRequest, plain } from './http';
import { type PageSources, type Reach, Routes } from './routes';

/** Maximum of simultaneous scrapers; descriptors for them are reserved (config/host-config.ts). */
const MAX_CONNECTIONS = 16;
const CONNECTION_MS = 5000;
const SLOW_MS = 1000;
const MAX_HEAD = 8192;
const LEFTOVER = 65536;

/** Where scrapers come: an address of ours, or a socket that is listened on already, which becomes the server's. */
export type MetricsSource = { readonly host: string; readonly port: number } | { readonly fd: number };

export interface MetricsServer {
  /** The address and port bound (the kernel's choice if 0 was requested); null: a UNIX socket. */
  readonly bound: { readonly address: string; readonly port: number } | null;
  close(): Promise<void>;
}

const BAD_REQUEST = plain('400 Bad Request', 'Not an HTTP request.\n');
const TOO_LARGE = plain('431 Request Header Fields Too Large', `The request header has more than ${MAX_HEAD} bytes.\n`);

/** `head`: a request up to its empty line; null: it has none within its bound. */
function answerTo(head: string | null, routes: Routes): Promise<Answer> {
  if (head === null) return Promise.resolve(TOO_LARGE);
  const request = parseRequest(head);
  return request === null ? Promise.resolve(BAD_REQUEST) : routes.answer(request);
}

/** One connection and its one request. */
class Visit {
  readonly since = performance.now();
  /** The head of the request is there, and the answer is not with the kernel yet. */
  waits = false;
  private readonly socket: Socket;
  private readonly routes: Routes;
  private readonly deadline: NodeJS.Timeout;
  private head = '';
  private leftover = 0;

  constructor(socket: Socket, routes: Routes, onEnd: () => void) {
    this.socket = socket;
    this.routes = routes;
    this.deadline = setTimeout(() => {
      socket.destroy();
    }, CONNECTION_MS);
    this.deadline.unref();
    socket.on('data', (chunk: Buffer) => {
      this.take(chunk);
    });
    socket.once('finish', () => {
      this.waits = false;
    });
    socket.on('error', () => undefined); // 'close' follows
    socket.once('close', () => {
      clearTimeout(this.deadline);
      onEnd();
    });
  }

  private take(chunk: Buffer): void {
    if (this.leftover > 0) {
      this.leftover -= chunk.length;
      if (this.leftover <= 0) this.socket.destroy();
      return;
    }
    this.head += chunk.toString('latin1', 0, MAX_HEAD + 1 - this.head.length);
    const end = /\r?\n\r?\n/.exec(this.head);
    if (end === null && this.head.length <= MAX_HEAD) return;
    this.socket.pause();
    this.waits = true;
    const head = end === null ? null : this.head.slice(0, end.index + end[0].length);
    void answerTo(head, this.routes).then((answer) => {
      this.leftover = LEFTOVER;
      const isHead = head?.startsWith('HEAD ') === true;
      const bytes = (isHead ? undefined : answer.wire) ?? answerText(answer, isHead);
      if (!this.socket.destroyed) this.socket.end(bytes).resume();
    });
  }
}

/** The connections there are, oldest first. */
class Visits {
  private readonly routes: Routes;
  private readonly all = new Map<Socket, Visit>();

  constructor(routes: Routes) {
    this.routes = routes;
  }

  /** Takes a connection in, or closes it: every other one is being answered at this moment. */
  enter(socket: Socket): void {
    if (this.all.size >= MAX_CONNECTIONS && !this.makeRoom()) {
      socket.destroy();
      return;
    }
    const leave = (): void => {
      this.all.delete(socket);
    };
    this.all.set(socket, new Visit(socket, this.routes, leave));
  }

  close(): void {
    for (const socket of this.all.keys()) socket.destroy();
  }

  private makeRoom(): boolean {
    const now = performance.now();
    for (const answered of [false, true]) {
      for (const [socket, visit] of this.all) {
        if (answered ? now - visit.since < SLOW_MS : visit.waits) continue;
        this.all.delete(socket);
        socket.destroy();
        return true;
      }
    }
    return false;
  }
}

type Bound = ReturnType<Server['address']>;

/** 127/8 and ::1: nothing from outside of this host comes to them. */
function reachOf(bound: Bound): Reach {
  // Of a UNIX socket Node knows the path or nothing.
  if (bound === null || typeof bound === 'string') return { unixSocket: true, local: true };
  return { unixSocket: false, local: bound.address === '::1' || bound.address.startsWith('127.') };
}

/**
 * Listens; rejects with the system's error if it cannot.
 * @param page - what the page at `/` shows besides; null: there is none
 */
export async function startMetricsServer(
  registry: Registry,
  source: MetricsSource,
  page: PageSources | null = null,
): Promise<MetricsServer> {
  let visits: Visits | null = null;
  const server = createServer({ noDelay: true }, (socket) => {
    visits?.enter(socket);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ ...source, exclusive: true }, () => {
      server.off('error', reject);
      // In the turn in which it listens: none is accepted before.
      visits = new Visits(new Routes(registry, page, reachOf(server.address())));
      resolve();
    });
  });
  // For example out of descriptors: that scraper is not served, nothing else happens.
  server.on('error', () => undefined);
  const bound = server.address();
  return {
    bound: typeof bound === 'string' ? null : bound,
    close: () =>
      new Promise((resolve) => {
        server.close(() => {
          resolve();
        });
        visits?.close();
      }),
  };
}
