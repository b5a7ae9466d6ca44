/**
 * `GET /metrics` for Prometheus over TCP or a UNIX socket, on the main thread: a scrape never disturbs the data plane.
 *
 * Theory of operation. Anyone who reaches the address may connect, so everything has a bound, and what a connection costs
 * is bounded before it is spent: of HTTP (RFC 9110, 9112) this is the part that a scraper needs, one request a
 * connection. The head of the request has MAX_HEAD bytes at most; once it is there nothing more is read (so pipelined
 * requests stay with the kernel), but LEFTOVER bytes of a body, which is thrown away so that the answer is not lost to
 * a reset. All of it, from the first byte to the last of the answer, has CONNECTION_MS. There are MAX_CONNECTIONS at
 * most: a new one takes the place of the oldest that waits for nothing from us, or of one whose answer takes longer
 * than SLOW_MS, so that a scraper gets in however many sit there. Scrapes that come together share one page, and a page
 * is made RENDERS_PER_SECOND times a second at most; it is always made after the request came.
 */
import { createServer, type Socket } from 'node:net';
import type { Registry } from 'prom-client';

/** Maximum of simultaneous scrapers; descriptors for them are reserved (config/host-config.ts). */
const MAX_CONNECTIONS = 16;
const CONNECTION_MS = 5000;
const SLOW_MS = 1000;
const RENDERS_PER_SECOND = 50;
const MAX_HEAD = 8192;
const LEFTOVER = 65536;

/** Where scrapers come: an address of ours, or a socket that is listened on already, which becomes the server's. */
export type MetricsSource = { readonly host: string; readonly port: number } | { readonly fd: number };

export interface MetricsServer {
  /** The address and port bound (the kernel's choice if 0 was requested); null: a UNIX socket. */
  readonly bound: { readonly address: string; readonly port: number } | null;
  close(): Promise<void>;
}

/** The page, made for all that ask for it at a time. */
class Page {
  private readonly registry: Registry;
  private next: Promise<string> | null = null;
  private madeAt = -Infinity;

  constructor(registry: Registry) {
    this.registry = registry;
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  /** A page made from now on. */
  get(): Promise<string> {
    this.next ??= this.make();
    return this.next;
  }

  private async make(): Promise<string> {
    const wait = this.madeAt + 1000 / RENDERS_PER_SECOND - performance.now();
    await new Promise((resolve) => (wait > 0 ? setTimeout(resolve, wait) : setImmediate(resolve)));
    // Who asks from here on gets another one.
    this.next = null;
    this.madeAt = performance.now();
    return this.registry.metrics();
  }
}

interface Answer {
  readonly status: string;
  readonly type: string;
  readonly body: string;
  /** Further header lines, each with its CRLF. */
  readonly more?: string;
}

const plain = (status: string, body: string, more = ''): Answer => ({ status, type: 'text/plain', body, more });
const BAD_REQUEST = plain('400 Bad Request', 'Not an HTTP request.\n');
const TOO_LARGE = plain('431 Request Header Fields Too Large', `The request header has more than ${MAX_HEAD} bytes.\n`);

/** `head`: a request up to its empty line. */
async function answerTo(head: string, page: Page): Promise<Answer> {
  const line = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP\/1\.[0-9]\r?\n/.exec(head);
  if (line === null) return BAD_REQUEST;
  const [, method, target] = line;
  // A scraper behind a proxy names the whole URL (RFC 9112 §3.2.2).
  const path = target.replace(/^http:\/\/[^/?]*/i, '').split('?')[0];
  if (path !== '/metrics') return plain('404 Not Found', 'Not found. The metrics are at /metrics.\n');
  if (method !== 'GET' && method !== 'HEAD')
    return plain('405 Method Not Allowed', 'Only GET and HEAD.\n', 'Allow: GET, HEAD\r\n');
  try {
    return { status: '200 OK', type: page.contentType, body: await page.get() };
  } catch (error) {
    return plain('500 Internal Server Error', `${error instanceof Error ? error.message : String(error)}\n`);
  }
}

function textOf({ status, type, body, more }: Answer, head: string): string {
  const length = Buffer.byteLength(body);
  const date = new Date().toUTCString();
  const fields = `Content-Type: ${type}\r\nContent-Length: ${length}\r\nDate: ${date}\r\n${more ?? ''}`;
  return `HTTP/1.1 ${status}\r\n${fields}Connection: close\r\n\r\n${head.startsWith('HEAD ') ? '' : body}`;
}

/** One connection and its one request. */
class Visit {
  readonly since = performance.now();
  /** The head of the request is there, and the answer is not with the kernel yet. */
  waits = false;
  private readonly socket: Socket;
  private readonly page: Page;
  private readonly deadline: NodeJS.Timeout;
  private head = '';
  private leftover = 0;

  constructor(socket: Socket, page: Page, onEnd: () => void) {
    this.socket = socket;
    this.page = page;
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
    const head = end === null ? '' : this.head.slice(0, end.index + end[0].length);
    void (end === null ? Promise.resolve(TOO_LARGE) : answerTo(head, this.page)).then((answer) => {
      this.leftover = LEFTOVER;
      if (!this.socket.destroyed) this.socket.end(textOf(answer, head)).resume();
    });
  }
}

/** The connections there are, oldest first. */
class Visits {
  private readonly page: Page;
  private readonly all = new Map<Socket, Visit>();

  constructor(page: Page) {
    this.page = page;
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
    this.all.set(socket, new Visit(socket, this.page, leave));
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

/** Listens; rejects with the system's error if it cannot. */
export async function startMetricsServer(registry: Registry, source: MetricsSource): Promise<MetricsServer> {
  const visits = new Visits(new Page(registry));
  const server = createServer({ noDelay: true }, (socket) => {
    visits.enter(socket);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ ...source, exclusive: true }, () => {
      server.off('error', reject);
      resolve();
    });
  });
  // For example out of descriptors: that scraper is not served, nothing else happens.
  server.on('error', () => undefined);
  // Of a UNIX socket Node knows the path or nothing.
  const bound = server.address();
  return {
    bound: typeof bound === 'string' ? null : bound,
    close: () =>
      new Promise((resolve) => {
        server.close(() => {
          resolve();
        });
        visits.close();
      }),
  };
}
