/**
 * The HTTP API at the control socket (RFC 9110, 9112), on the main thread. Loaded with `--control` only.
 *
 * Theory of operation. OwnerSocket admits connections, node:http reads requests, routes.ts finds the operation. Who may
 * connect is the service's own user, but a client may be broken, so everything has a bound: MAX_CONNECTIONS at a time (a
 * new one takes the place of the oldest that waits for nothing from us: it is silent, in the middle of its request, or reads
 * its answer), MAX_REQUESTS on each, MAX_HEAD and MAX_BODY bytes of a request, REQUEST_MS from its first byte, or from the
 * answer before it, until its answer is with the kernel. Streams, and pipes into the guest, are not of these connections:
 * there are MAX_STREAMS and MAX_PIPES of them, without a time limit, but a stream whose client does not read is cut off when
 * STREAM_BACKLOG bytes wait for it. An operation costs the data plane one command at the most.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { messageOf } from '../errors';
import type { Native } from '../native';
import { HalfOpen } from './half-open';
import { join } from './joined';
import { OwnerSocket, type OwnerSocketIo, type OwnerSocketOptions } from './owner-socket';
import type { ControlParts } from './parts';
import { isRefusal, type Refusal, refuse, textOf } from './problem';
import {
  type Answer,
  check,
  convert,
  type Handover,
  hasTextErrors,
  type Result,
  type Route,
  type Stream,
} from './route';
import { ROUTES } from './routes';

export const MAX_CONNECTIONS = 32;
const MAX_REQUESTS = 10_000;
const MAX_HEAD = 8192;
export const MAX_BODY = 65536;
export const REQUEST_MS = 10_000;
export const MAX_STREAMS = 16;
export const MAX_PIPES = 32;
const STREAM_BACKLOG = 1 << 18;
/** How often streams are looked at. */
const STREAM_CHECK_MS = 1000;

export interface ControlServerOptions extends Omit<OwnerSocketOptions, 'onClient'> {
  readonly native: OwnerSocketIo & Pick<Native, 'sendFds'>;
  /** Bugs of ours that a request ran into. */
  readonly error: (message: string) => void;
  readonly routes?: readonly Route[];
}

export interface ControlServer {
  /** Answers from now on; requests that came before have waited. */
  serve(parts: ControlParts): void;
  close(): void;
}

interface Connection {
  readonly socket: Socket;
  readonly fd: number;
  timer: NodeJS.Timeout | null;
  /** Requests that are there as a whole, and not answered. */
  waits: number;
  /** It is a stream, or a pipe. */
  streams: boolean;
}

interface Target {
  readonly route: Route;
  readonly id: string;
}

/** The path's parts that an operation may leave open are of these characters. */
const ID = /^[A-Za-z0-9._~-]{1,128}$/;

/** Throws Refused: 404 for a path that there is not, 405 for another method of it. */
function find(routes: readonly Route[], method: string, path: string): Target {
  const parts = path.split('/');
  let other: Route | null = null;
  for (const route of routes) {
    const wanted = route.path.split('/');
    if (wanted.length !== parts.length) continue;
    const open = wanted.findIndex((part) => part.startsWith('{'));
    if (!wanted.every((part, i) => (i === open ? ID.test(parts[i]) : part === parts[i]))) continue;
    if (route.method === method) return { route, id: open < 0 ? '' : parts[open] };
    other = route;
  }
  if (other === null) throw refuse(404, 'not-found', `there is no ${path.slice(0, 200)}`);
  throw refuse(405, 'method', `${other.path} has no ${method}`);
}

/** Throws Refused for a name that is given twice, or a sequence that is no text. */
function queryOf(search: string): Record<string, string> {
  const words: Record<string, string> = {};
  for (const [name, value] of new URLSearchParams(search)) {
    if (Object.hasOwn(words, name)) throw refuse(400, 'invalid', 'is given twice', `query/${name}`);
    words[name] = value;
  }
  return words;
}

/** The request's body, as JSON. Throws Refused. */
async function bodyOf(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of request as AsyncIterable<Buffer>) {
      length += chunk.length;
      if (length > MAX_BODY) break;
      chunks.push(chunk);
    }
  } catch (error) {
    throw refuse(400, 'http', `the request has no end: ${messageOf(error)}`);
  }
  if (length > MAX_BODY) throw refuse(413, 'too-large', `a request has at most ${MAX_BODY} bytes`);
  if (length === 0) return {};
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks))) as unknown;
  } catch (error) {
    throw refuse(400, 'json', `the body is no JSON: ${messageOf(error)}`);
  }
}

/** `"7"` of If-Match (RFC 9110 §13.1.1): the version that ETag gave. Throws Refused. */
function versionOf(header: string | undefined): number | null {
  if (header === undefined || header === '*') return null;
  const match = /^"([0-9]{1,15})"$/.exec(header);
  if (match === null) throw refuse(400, 'invalid', 'give a version as ETag gave it', 'If-Match');
  return Number(match[1]);
}

function send(response: ServerResponse, { status, body, version }: Answer): void {
  if (version !== undefined) response.setHeader('ETag', `"${version}"`);
  if (body === undefined) {
    response.writeHead(status).end();
    return;
  }
  const text = Buffer.from(`${JSON.stringify(body)}\n`);
  response.writeHead(status, { 'Content-Type': 'application/json', 'Content-Length': text.length }).end(text);
}

class HttpControl implements ControlServer {
  private readonly options: ControlServerOptions;
  private readonly routes: readonly Route[];
  private readonly door: OwnerSocket;
  private readonly http: Server;
  private readonly connections = new Map<Duplex, Connection>();
  /** Of connections that were handed over. */
  private readonly handedOver = new Set<Socket>();
  /** Ends of streams. */
  private readonly streams = new Map<ServerResponse, () => void>();
  private watch: NodeJS.Timeout | null = null;
  /** Connections that are pipes, and those of them whose client may be gone. */
  private pipes = 0;
  private readonly halfOpen: HalfOpen;
  private parts: ControlParts = {};

  constructor(options: ControlServerOptions) {
    this.options = options;
    this.routes = options.routes ?? ROUTES;
    this.halfOpen = new HalfOpen(options.native);
    const { native, fd, startedAs, shown, warn } = options;
    this.door = new OwnerSocket(native, {
      fd,
      startedAs,
      shown,
      warn,
      onClient: (client) => {
        this.enter(client);
      },
    });
    this.http = createServer({ maxHeaderSize: MAX_HEAD, requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 0 });
    this.http.maxRequestsPerSocket = MAX_REQUESTS;
    this.http.on('request', (request: IncomingMessage, response: ServerResponse) => {
      void this.answer(request, response);
    });
    this.http.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
      void this.upgrade(request, socket, head);
    });
    this.http.on('clientError', (_error: Error, socket: Duplex) => {
      const text = JSON.stringify({ errors: [{ at: '', code: 'http', message: 'this is no request of HTTP' }] });
      const head = `HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: ${text.length}\r\n`;
      if (socket.writable) socket.end(`${head}Connection: close\r\n\r\n${text}`);
      else socket.destroy();
    });
  }

  serve(parts: ControlParts): void {
    this.parts = parts;
    this.door.serve();
  }

  close(): void {
    this.door.close();
    for (const [response, end] of this.streams) {
      end();
      response.end();
      // What was written to it leaves first.
      if (response.socket !== null) {
        this.connections.delete(response.socket);
        response.socket.destroySoon();
      }
    }
    this.streams.clear();
    if (this.watch !== null) clearInterval(this.watch);
    this.halfOpen.close();
    for (const { socket } of this.connections.values()) socket.destroy();
    this.http.close();
  }

  // ---- connections ----------------------------------------------------------------------------------------------

  private enter(fd: number): void {
    if (this.countShort() >= MAX_CONNECTIONS && !this.makeRoom()) {
      this.options.native.close(fd);
      return;
    }
    // A question that has ended may have an answer still, through a pipe into the guest; node:http ends the others.
    const socket = new Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
    const connection: Connection = { socket, fd, timer: null, waits: 0, streams: false };
    this.connections.set(socket, connection);
    socket.on('error', () => undefined); // 'close' follows
    socket.once('close', () => {
      if (connection.timer !== null) clearTimeout(connection.timer);
      this.connections.delete(socket);
    });
    this.limit(connection);
    this.http.emit('connection', socket);
  }

  /** Connections that are no streams. */
  private countShort(): number {
    let count = 0;
    for (const { streams } of this.connections.values()) if (!streams) count++;
    return count;
  }

  /** The oldest connection that waits for nothing from us goes. */
  private makeRoom(): boolean {
    for (const [key, { socket, waits, streams }] of this.connections) {
      if (waits > 0 || streams) continue;
      this.connections.delete(key);
      socket.destroy();
      return true;
    }
    return false;
  }

  /** The connection has REQUEST_MS from now on. */
  private limit(connection: Connection): void {
    if (connection.timer !== null) clearTimeout(connection.timer);
    connection.timer = setTimeout(() => {
      connection.socket.destroy();
    }, REQUEST_MS);
    connection.timer.unref();
  }

  private unlimited(connection: Connection | undefined): void {
    if (connection?.timer === null || connection === undefined) return;
    clearTimeout(connection.timer);
    connection.timer = null;
  }

  // ---- requests -------------------------------------------------------------------------------------------------

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const connection = this.connections.get(request.socket);
    if (connection !== undefined)
      response.once('finish', () => {
        this.limit(connection);
      });
    try {
      const result = await this.call(request, connection);
      if ('status' in result) send(response, result);
      else if ('stream' in result) this.stream(response, connection, result);
      else if ('handOver' in result) await this.handOver(connection, result);
      else throw refuse(426, 'upgrade', 'this operation needs "Connection: Upgrade"');
    } catch (error) {
      this.fail(response, error, hasTextErrors(request.url ?? ''));
    }
  }

  private fail(response: ServerResponse, error: unknown, asText: boolean): void {
    const refused = this.refusalOf(error);
    if (response.headersSent) {
      response.destroy();
      return;
    }
    // What is left of a body that is too large is not read.
    if (refused.status === 413) response.setHeader('Connection', 'close');
    if (asText) {
      const text = Buffer.from(`${textOf(refused)}\n`);
      response.writeHead(refused.status, {
        'Content-Type': 'text/plain; charset=utf-8',
        'Content-Length': text.length,
      });
      response.end(text);
      return;
    }
    send(response, { status: refused.status, body: { errors: refused.errors } });
  }

  private refusalOf(error: unknown): Refusal {
    if (isRefusal(error)) return error;
    if (error instanceof Error && error.name === 'BadFlowQuery') return refuse(400, 'invalid', error.message, 'query');
    if (error instanceof Error && error.name === 'TooManyLooks') return refuse(503, 'busy', error.message);
    this.options.error(
      `${this.options.shown}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
    );
    return refuse(500, 'internal', 'the service failed to do this: its log says more');
  }

  private async call(request: IncomingMessage, connection: Connection | undefined, upgrades = false): Promise<Result> {
    const { url = '/', method = 'GET' } = request;
    const [path, search = ''] = url.split('?', 2);
    const { route, id } = find(this.routes, method, path);
    const query = convert(route.query, queryOf(search));
    check(route.query, query, 'query');
    // Behind a request to change the protocol there are bytes of the new one.
    const body = upgrades ? {} : await bodyOf(request);
    if (route.checksBody !== true) check(route.body, body, 'body');
    const ifMatch = versionOf(request.headers['if-match']);
    if (connection !== undefined) connection.waits++;
    let result: Result;
    try {
      result = await route.run({ parts: this.parts, id, query, body, ifMatch }, request);
    } finally {
      if (connection !== undefined) connection.waits--;
    }
    if (method !== 'GET' && path.startsWith('/v1/policy') && 'status' in result)
      this.parts.events?.emit('policy-changed', { version: result.version ?? 0 });
    return result;
  }

  private stream(response: ServerResponse, connection: Connection | undefined, { stream }: Stream): void {
    this.checkStreams();
    this.unlimited(connection);
    if (connection !== undefined) connection.streams = true;
    const end = stream(response);
    this.streams.set(response, end);
    response.once('close', () => {
      if (this.streams.delete(response)) end();
    });
    this.watch ??= setInterval(() => {
      this.cutOff();
    }, STREAM_CHECK_MS).unref();
  }

  private checkStreams(): void {
    if (this.streams.size + this.handedOver.size >= MAX_STREAMS)
      throw refuse(503, 'busy', `there are ${MAX_STREAMS} streams already: end one of them`);
  }

  private async handOver(connection: Connection | undefined, { handOver }: Handover): Promise<void> {
    if (connection === undefined || connection.socket.destroyed) return;
    const { socket, fd } = connection;
    this.checkStreams();
    if (connection.streams) throw refuse(400, 'invalid', 'this connection has a stream already');
    this.handedOver.add(socket);
    try {
      connection.streams = true;
      this.unlimited(connection);
      const { ended, leave } = await handOver(fd);
      socket.once('close', leave);
      if (socket.destroyed) leave();
      await ended;
      // Never by the response's own end, which would write a head.
      socket.destroySoon();
    } catch (error) {
      connection.streams = false;
      throw error;
    } finally {
      this.handedOver.delete(socket);
    }
  }

  /** Streams whose clients do not read. */
  private cutOff(): void {
    for (const response of this.streams.keys()) {
      if (response.writableLength > STREAM_BACKLOG) response.destroy();
    }
    if (this.streams.size > 0 || this.watch === null) return;
    clearInterval(this.watch);
    this.watch = null;
  }

  private async upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    const connection = this.connections.get(socket);
    try {
      const result = await this.call(request, connection, true);
      if (!('upgrade' in result)) throw refuse(400, 'upgrade', 'this operation is plain HTTP: leave "Upgrade" out');
      const protocol = request.headers.upgrade ?? '';
      if (protocol !== 'tcp') throw refuse(400, 'upgrade', 'give "Upgrade: tcp"');
      if (connection === undefined) return; // it is gone
      if (this.pipes >= MAX_PIPES) throw refuse(503, 'busy', `there are ${MAX_PIPES} pipes already: end one of them`);
      this.unlimited(connection);
      connection.streams = true;
      this.pipes++;
      socket.once('close', () => {
        this.pipes--;
      });
      this.halfOpen.watch(connection.socket, connection.fd);
      const other = await result.upgrade();
      if (socket.destroyed) {
        other.destroy();
        return;
      }
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n');
      if (head.length > 0) other.write(head);
      join(socket, other);
    } catch (error) {
      const { status, errors } = this.refusalOf(error);
      const text = Buffer.from(`${JSON.stringify({ errors })}\n`);
      const type = `Content-Type: application/json\r\nContent-Length: ${text.length}\r\n`;
      const head = Buffer.from(`HTTP/1.1 ${status} Refused\r\n${type}Connection: close\r\n\r\n`);
      socket.end(Buffer.concat([head, text]));
      // Without waiting for the client's end, which has no limit any more.
      connection?.socket.destroySoon();
    }
  }
}

export function startControlServer(options: ControlServerOptions): ControlServer {
  return new HttpControl(options);
}
