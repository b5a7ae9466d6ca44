/**
 * What the metrics' server answers: the metrics, and the page with its data.
 *
 * `/metrics` is for Prometheus, under any name of this host. `/` is the page (dist/page.html, read when it is asked
 * for: it lies in the sandbox's room). `/v1/status` and `/v1/flows` are the page's own, and private: they are answered
 * under an address or `localhost` only (http.ts, `isOwnName`), not to pages of other sites, and flows only where nobody
 * but this host's own users comes by (`flowsShown`).
 */
import { readFileSync } from 'node:fs';
import type { Registry } from 'prom-client';
import { isRefusal } from '../control/problem';
import { FLOWS_A_PAGE, type FlowProtocol, type FlowQuery, type Flows, type ServiceStatus } from '../control/types';
import { type Answer, isOwnName, plain, type Request, written } from './http';
import { Shared, Turns } from './pace';

/** Of the metrics, and of the page's file. */
const RENDERS_PER_SECOND = 20;
const RENDERS_AT_ONCE = 10;
/** Each is a question to the data plane. */
const STATUSES_PER_SECOND = 20;
/** A page of flows costs the data plane some of its time. */
const FLOW_PAGES_PER_SECOND = 20;
const FLOW_WAIT_MS = 1000;

/** What the page shows beside the metrics. */
export interface PageSources {
  /** dist/page.html. */
  readonly file: string;
  readonly status: () => Promise<ServiceStatus>;
  /** Null: nobody can list them. */
  readonly flows: Flows | null;
}

/** Who comes to the server. */
export interface Reach {
  /** A UNIX socket: a client's name for it says nothing, and no browser comes here by itself. */
  readonly unixSocket: boolean;
  /** Only this host's own users come. */
  readonly local: boolean;
}

const OK = '200 OK';
const NOT_FOUND = plain('404 Not Found', 'Not found. The page is at /, the metrics are at /metrics.\n');
const READ_ONLY = plain('405 Method Not Allowed', 'Only GET and HEAD.\n', 'Allow: GET, HEAD\r\n');
const NO_PAGE = plain(
  '503 Service Unavailable',
  'The page was not built: run "npm run build". Metrics are at /metrics.\n',
);
const BUSY = plain('429 Too Many Requests', 'Too many requests for flows.\n', 'Retry-After: 1\r\n');
const NO_FLOWS = plain('404 Not Found', 'This service does not list its flows.\n');
const NOT_LOCAL = plain(
  '403 Forbidden',
  'Flows are listed at a loopback address or a UNIX socket only: see docs/metrics.md, "Who sees what".\n',
);
const WRONG_NAME = plain(
  '421 Misdirected Request',
  'Ask by an address or as localhost: under any other name a page of another site could ask, too.\n',
);
const OTHER_SITE = plain('403 Forbidden', 'Not for pages of other sites.\n');

const json = (value: unknown): Answer => ({ status: OK, type: 'application/json', body: JSON.stringify(value) });
const badQuery = (what: string): Answer => plain('400 Bad Request', `${what}\n`);

const PROTOCOLS: readonly FlowProtocol[] = ['tcp', 'udp', 'icmp'];
const KNOWN = new Set(['protocol', 'from', 'most']);

/** The query's parameters; a text: what is wrong with them. */
export function flowQuery(query: URLSearchParams): FlowQuery | string {
  for (const name of query.keys()) {
    if (!KNOWN.has(name) || query.getAll(name).length > 1) return 'Give protocol, from and most, each once at most.';
  }
  const protocol = query.get('protocol');
  const known = PROTOCOLS.find((one) => one === protocol);
  if (protocol !== null && known === undefined) return `protocol: give one of ${PROTOCOLS.join(', ')}.`;
  const from = query.get('from');
  if (from !== null && !/^[!-~]{1,64}$/.test(from)) return 'from: give what "next" of the page before said.';
  const most = query.get('most');
  if (most !== null && !(/^[0-9]{1,4}$/.test(most) && Number(most) >= 1 && Number(most) <= FLOWS_A_PAGE))
    return `most: give a number from 1 to ${FLOWS_A_PAGE}.`;
  return {
    ...(known === undefined ? {} : { protocol: known }),
    ...(from === null ? {} : { from }),
    ...(most === null ? {} : { most: Number(most) }),
  };
}

/** The page says itself what it may do (scripts/build.mjs); that nobody frames it can only be said here. */
const PAGE_POLICY = /<meta http-equiv="Content-Security-Policy" content="([^"\r\n]+)"/i;

function pageAnswer(file: string): Answer {
  let body: string;
  try {
    body = readFileSync(file, 'utf8');
  } catch {
    return NO_PAGE;
  }
  const policy = PAGE_POLICY.exec(body)?.[1] ?? "default-src 'none'";
  const more = `Content-Security-Policy: ${policy}; frame-ancestors 'none'\r\n` + 'X-Frame-Options: DENY\r\n';
  return { status: OK, type: 'text/html; charset=utf-8', body, more };
}

/** Is this a page of another site that asks? A browser that is too old to say so is not kept out by this. */
function isOtherSite({ site, origin, authority }: Request): boolean {
  if (site !== null && site !== 'same-origin' && site !== 'none') return true;
  return origin !== null && origin !== `http://${authority ?? ''}`;
}

export class Routes {
  private readonly page: PageSources | null;
  private readonly reach: Reach;
  private readonly metrics: Shared<Answer>;
  private readonly html: Shared<Answer>;
  private readonly status: Shared<ServiceStatus>;
  private readonly turns = new Turns(FLOW_PAGES_PER_SECOND, FLOW_WAIT_MS);

  /** `page` null: there are the metrics only. */
  constructor(registry: Registry, page: PageSources | null, reach: Reach) {
    this.page = page;
    this.reach = reach;
    this.metrics = new Shared(RENDERS_PER_SECOND, RENDERS_AT_ONCE, async () =>
      written({ status: OK, type: registry.contentType, body: await registry.metrics() }),
    );
    this.html = new Shared(RENDERS_PER_SECOND, RENDERS_AT_ONCE, () =>
      Promise.resolve(page === null ? NOT_FOUND : pageAnswer(page.file)),
    );
    this.status = new Shared(STATUSES_PER_SECOND, 1, () =>
      page === null ? Promise.reject(new Error('there is no page')) : page.status(),
    );
  }

  async answer(request: Request): Promise<Answer> {
    const answer = this.find(request);
    if (answer === null) return NOT_FOUND;
    if (request.method !== 'GET' && request.method !== 'HEAD') return READ_ONLY;
    try {
      return await answer();
    } catch (error) {
      return plain('500 Internal Server Error', `${error instanceof Error ? error.message : String(error)}\n`);
    }
  }

  private find(request: Request): (() => Promise<Answer>) | null {
    const { page } = this;
    if (request.path === '/metrics') return () => this.metrics.get();
    if (page === null) return null;
    switch (request.path) {
      case '/':
        // Not private, but of no use under another name.
        return () => (this.isNamed(request) ? this.html.get() : Promise.resolve(WRONG_NAME));
      case '/v1/status':
        return () => this.ofOwn(request, async () => json(await this.status.get()));
      case '/v1/flows':
        return () => this.ofOwn(request, () => this.flows(page, request.query));
      default:
        return null;
    }
  }

  private isNamed({ authority }: Request): boolean {
    return this.reach.unixSocket || isOwnName(authority);
  }

  /** What is private: not to other sites, under whatever name they come. */
  private async ofOwn(request: Request, answer: () => Promise<Answer>): Promise<Answer> {
    if (!this.isNamed(request)) return WRONG_NAME;
    return isOtherSite(request) ? OTHER_SITE : answer();
  }

  private async flows({ flows }: PageSources, query: URLSearchParams): Promise<Answer> {
    if (!this.reach.local) return NOT_LOCAL;
    if (flows === null) return NO_FLOWS;
    const wanted = flowQuery(query);
    if (typeof wanted === 'string') return badQuery(wanted);
    if (!(await this.turns.take())) return BUSY;
    try {
      return json(await flows.list(wanted));
    } catch (error) {
      if (!isRefusal(error)) throw error;
      return error.status === 400 ? badQuery(error.message) : BUSY;
    }
  }
}
