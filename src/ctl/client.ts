/** The client's side of the HTTP API (src/control): `tubetti ctl`, `flows`, `top`. */
import { type IncomingMessage, request } from 'node:http';
import type { Socket } from 'node:net';
import { ConfigError, describeSystemError } from '../errors';
import type { Readable } from 'node:stream';
import type {
  Addresses,
  CaptureInfo,
  CaptureQuery,
  FlowPage,
  FlowQuery,
  Forward,
  ForwardList,
  ItemError,
  PolicyFile,
  PolicyState,
  Rates,
  ServiceStatus,
} from '../control/types';

const ANSWER_MS = 15_000;
/** An answer is a page of flows at the most. */
const MAX_ANSWER = 16 << 20;

/** The service has said no. */
export class Denied extends Error {
  readonly status: number;
  readonly errors: readonly ItemError[];

  constructor(status: number, errors: readonly ItemError[]) {
    super(errors.map(({ at, message }) => (at === '' ? message : `${at}: ${message}`)).join('\n'));
    this.name = 'Denied';
    this.status = status;
    this.errors = errors;
  }
}

export interface Reply<T> {
  readonly body: T;
  /** The version (ETag); null: there is none. */
  readonly version: number | null;
}

/** A change that is refused if there was another since. */
export interface Change {
  /** The version that the caller has seen. */
  readonly ifVersion?: number;
}

export interface ForwardChange extends Change {
  /** Resets the connections that came by forwards that go. Default: they live on. */
  readonly closeFlows?: boolean;
  /** Ports of a namespace's loopback that lead to the host's. */
  readonly outward?: boolean;
}

export interface Ask {
  readonly body?: unknown;
  readonly query?: Readonly<Record<string, string | number>>;
  /** Refused if what the service has is of another version by now. */
  readonly ifVersion?: number;
}

function pathOf(path: string, query: Ask['query']): string {
  if (query === undefined) return path;
  const words = new URLSearchParams(Object.entries(query).map(([name, value]): [string, string] => [name, `${value}`]));
  return words.size === 0 ? path : `${path}?${words.toString()}`;
}

/** What a refusal says; an answer of something else than the service is one as well. */
function deniedBy(status: number, text: string): Denied {
  try {
    const { errors } = JSON.parse(text) as { errors: ItemError[] };
    if (Array.isArray(errors) && errors.length > 0) return new Denied(status, errors);
  } catch {
    // Not the service's own words.
  }
  return new Denied(status, [{ at: '', code: 'http', message: `the service answers ${status}` }]);
}

function versionOf(response: IncomingMessage): number | null {
  const match = /^"([0-9]+)"$/.exec(response.headers.etag ?? '');
  return match === null ? null : Number(match[1]);
}

const FORWARD_ORDERS = {
  add: { method: 'POST', below: '' },
  remove: { method: 'POST', below: '/remove' },
  set: { method: 'PUT', below: '' },
} as const;

export class ControlClient {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  status(): Promise<ServiceStatus> {
    return this.ask<ServiceStatus>('GET', '/v1/status').then(({ body }) => body);
  }

  addresses(): Promise<Addresses> {
    return this.ask<Addresses>('GET', '/v1/addresses').then(({ body }) => body);
  }

  forwards(): Promise<Reply<ForwardList>> {
    return this.ask<ForwardList>('GET', '/v1/forwards');
  }

  async changeForwards(
    order: keyof typeof FORWARD_ORDERS,
    forwards: Forward | readonly Forward[],
    { closeFlows = false, outward = false, ...change }: ForwardChange = {},
  ): Promise<ForwardList> {
    const { method, below } = FORWARD_ORDERS[order];
    const path = `${outward ? '/v1/outward' : '/v1/forwards'}${below}`;
    const query = closeFlows ? { query: { closeFlows: 'true' } } : {};
    return (await this.ask<ForwardList>(method, path, { body: { forwards: [forwards].flat() }, ...query, ...change }))
      .body;
  }

  policy(): Promise<PolicyState> {
    return this.ask<PolicyState>('GET', '/v1/policy').then(({ body }) => body);
  }

  /** Null: the guest may talk to everybody. */
  setPolicy(policy: PolicyFile | null, change: Change = {}): Promise<PolicyState> {
    const asked =
      policy === null
        ? this.ask<PolicyState>('DELETE', '/v1/policy', change)
        : this.ask<PolicyState>('PUT', '/v1/policy', { body: policy, ...change });
    return asked.then(({ body }) => body);
  }

  rates(): Promise<Rates> {
    return this.ask<Rates>('GET', '/v1/rates').then(({ body }) => body);
  }

  setRates(rates: Rates): Promise<Rates> {
    return this.ask<Rates>('PUT', '/v1/rates', { body: rates }).then(({ body }) => body);
  }

  flows({ protocol, from, most }: FlowQuery = {}): Promise<FlowPage> {
    const query = {
      ...(protocol && { protocol }),
      ...(from !== undefined && { from }),
      ...(most !== undefined && { most }),
    };
    return this.ask<FlowPage>('GET', '/v1/flows', { query }).then(({ body }) => body);
  }

  /** False: there is none of that id. */
  async closeFlow(id: string): Promise<boolean> {
    try {
      await this.ask('DELETE', `/v1/flows/${encodeURIComponent(id)}`);
      return true;
    } catch (error) {
      if (error instanceof Denied && error.status === 404) return false;
      throw error;
    }
  }

  /** One operation. Throws Denied; ConfigError if there is no service to speak to. */
  async ask<T>(method: string, path: string, asked: Ask = {}): Promise<Reply<T>> {
    const response = await this.open(method, path, asked);
    const text = await this.textOf(response);
    const status = response.statusCode ?? 0;
    if (status < 200 || status > 299) throw deniedBy(status, text);
    return { body: (text === '' ? undefined : JSON.parse(text)) as T, version: versionOf(response) };
  }

  /**
   * The events of a stream (WHATWG HTML §9.2, server-sent events), until it or `signal` ends it. Throws as `ask` does, also
   * where the connection breaks.
   */
  async *events(path: string, signal?: AbortSignal): AsyncGenerator<{ readonly event: string; readonly data: string }> {
    const response = await this.open('GET', path, {}, signal);
    if (response.statusCode !== 200) throw deniedBy(response.statusCode ?? 0, await this.textOf(response));
    let rest = '';
    for await (const chunk of this.chunksOf(response, signal)) {
      rest += chunk;
      for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
        const lines = rest.slice(0, end).split('\n');
        rest = rest.slice(end + 2);
        const field = (name: string): string =>
          lines
            .filter((line) => line.startsWith(`${name}: `))
            .map((line) => line.slice(name.length + 2))
            .join('\n');
        if (lines.some((line) => !line.startsWith(':'))) yield { event: field('event'), data: field('data') };
      }
    }
  }

  /**
   * A capture that begins: its file, as it is written, until it ends or the stream is destroyed. Who reads slowly has packets left
   * out. Throws as `ask` does.
   */
  async capture(query: CaptureQuery = {}): Promise<{ readonly id: string; readonly stream: Readable }> {
    const response = await this.open('GET', '/v1/capture', { query: { ...query } });
    if (response.statusCode !== 200) throw deniedBy(response.statusCode ?? 0, await this.textOf(response));
    const { capture } = response.headers;
    return { id: typeof capture === 'string' ? capture : '', stream: response };
  }

  /** Those that run, and the last ones that are over. */
  captures(): Promise<readonly CaptureInfo[]> {
    return this.ask<{ captures: readonly CaptureInfo[] }>('GET', '/v1/captures').then(({ body }) => body.captures);
  }

  /** Ends one: its stream ends behind what there is. Throws Denied if it does not run. */
  async stopCapture(id: string): Promise<void> {
    await this.ask('DELETE', `/v1/captures/${encodeURIComponent(id)}`);
  }

  /** A connection that has become bytes of another protocol. Throws as `ask` does. */
  upgrade(path: string, protocol: string): Promise<{ readonly socket: Socket; readonly head: Buffer }> {
    return new Promise((resolve, reject) => {
      const headers = { Connection: 'Upgrade', Upgrade: protocol };
      const asked = request({ socketPath: this.path, path, method: 'POST', headers, agent: false });
      asked.on('error', (error) => {
        reject(this.unreachable(error));
      });
      asked.on('upgrade', (_response, socket: Socket, head) => {
        resolve({ socket, head });
      });
      asked.on('response', (response) => {
        this.textOf(response).then((text) => {
          reject(deniedBy(response.statusCode ?? 0, text));
        }, reject);
      });
      asked.end();
    });
  }

  private open(
    method: string,
    path: string,
    { body, query, ifVersion }: Ask,
    signal?: AbortSignal,
  ): Promise<IncomingMessage> {
    const text = body === undefined ? null : Buffer.from(JSON.stringify(body));
    const headers: Record<string, string | number> = {
      Host: 'tubetti',
      ...(text === null ? {} : { 'Content-Type': 'application/json', 'Content-Length': text.length }),
      ...(ifVersion === undefined ? {} : { 'If-Match': `"${ifVersion}"` }),
    };
    return new Promise((resolve, reject) => {
      const target = {
        socketPath: this.path,
        path: pathOf(path, query),
        method,
        headers,
        agent: false,
        ...(signal && { signal }),
      };
      const asked = request(target, resolve);
      // Until the head of the answer is there: a stream may stay open for ever.
      const timer = setTimeout(() => asked.destroy(new Error(`no answer within ${ANSWER_MS / 1000} s`)), ANSWER_MS);
      asked.once('close', () => {
        clearTimeout(timer);
      });
      asked.once('response', () => {
        clearTimeout(timer);
      });
      asked.on('error', (error) => {
        reject(this.unreachable(error));
      });
      asked.end(text);
    });
  }

  /** What comes until the answer or `signal` ends it. Throws ConfigError where the connection breaks before that. */
  private async *chunksOf(response: IncomingMessage, signal?: AbortSignal): AsyncGenerator<string> {
    response.setEncoding('utf8');
    try {
      yield* response as AsyncIterable<string>;
    } catch {
      // Node says "aborted", whatever it was.
      if (signal?.aborted !== true)
        throw new ConfigError('CFG_ERR_SOCKET', `${this.path}: the service is gone: the connection to it broke`);
    }
  }

  private async textOf(response: IncomingMessage): Promise<string> {
    let text = '';
    for await (const chunk of this.chunksOf(response)) {
      text += chunk;
      if (text.length > MAX_ANSWER)
        throw new ConfigError('CFG_ERR_SOCKET', `${this.path}: the answer has more than ${MAX_ANSWER} bytes`);
    }
    return text;
  }

  private unreachable(error: Error): ConfigError {
    return new ConfigError(
      'CFG_ERR_SOCKET',
      `${this.path}: cannot speak to the service: ${describeSystemError(error)}`,
    );
  }
}
