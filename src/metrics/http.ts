/**
 * As much of HTTP (RFC 9110, RFC 9112) as a scraper and a browser need of a server that answers GET: one request a
 * connection, without a body. Knows no path and no socket.
 */

/** A request's line and the fields that are looked at. */
export interface Request {
  readonly method: string;
  /** Without authority and query. */
  readonly path: string;
  readonly query: URLSearchParams;
  /** Whom the client thinks it talks to: of the target, if that names it, else of `Host`; null: nobody, or several. */
  readonly authority: string | null;
  /** What a browser says of who asks: `same-origin`, `cross-site`, …; null: nothing. */
  readonly site: string | null;
  /** `Origin`; null: none. */
  readonly origin: string | null;
}

export interface Answer {
  readonly status: string;
  readonly type: string;
  readonly body: string;
  /** Further header lines, each with its CRLF. */
  readonly more?: string;
  /** All that goes over the wire in answer to GET, made once for those who share it (`written`). */
  readonly wire?: Buffer;
}

export const plain = (status: string, body: string, more = ''): Answer => ({
  status,
  type: 'text/plain; charset=utf-8',
  body,
  more,
});

/** The values of a field, one for each line of it. */
function fieldsOf(head: string, name: string): string[] {
  const values: string[] = [];
  for (const line of head.split(/\r?\n/).slice(1)) {
    const colon = line.indexOf(':');
    if (colon > 0 && line.slice(0, colon).toLowerCase() === name) values.push(line.slice(colon + 1).trim());
  }
  return values;
}

const only = (values: readonly string[]): string | null => (values.length === 1 ? values[0] : null);

/** `head`: a request up to its empty line. Null: it is none. */
export function parseRequest(head: string): Request | null {
  const line = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP\/1\.[0-9]\r?\n/.exec(head);
  if (line === null) return null;
  const [, method, target] = line;
  // A client behind a proxy names the whole URL (RFC 9112 §3.2.2), and then that is whom it means.
  const absolute = /^http:\/\/([^/?#]*)/i.exec(target);
  const rest = absolute === null ? target : target.slice(absolute[0].length);
  const [path, query = ''] = rest.split(/\?(.*)/s);
  return {
    method,
    path: path === '' ? '/' : path,
    query: new URLSearchParams(query),
    authority: absolute === null ? only(fieldsOf(head, 'host')) : absolute[1],
    site: fieldsOf(head, 'sec-fetch-site').at(0) ?? null,
    origin: fieldsOf(head, 'origin').at(0) ?? null,
  };
}

/** Of every answer: no browser takes it for anything else than it is, keeps it, or shows it to another site. */
const ALWAYS =
  'X-Content-Type-Options: nosniff\r\n' +
  'Cross-Origin-Resource-Policy: same-origin\r\n' +
  'Cache-Control: no-store\r\n' +
  'Referrer-Policy: no-referrer\r\n';

/** What goes over the wire. `isHead`: without the body, whose length is said. */
export function answerText({ status, type, body, more }: Answer, isHead: boolean): string {
  const length = Buffer.byteLength(body);
  const date = new Date().toUTCString();
  const fields = `Content-Type: ${type}\r\nContent-Length: ${length}\r\nDate: ${date}\r\n${ALWAYS}${more ?? ''}`;
  return `HTTP/1.1 ${status}\r\n${fields}Connection: close\r\n\r\n${isHead ? '' : body}`;
}

/** The same answer with its bytes: made once, however many get it. */
export const written = (answer: Answer): Answer => ({ ...answer, wire: Buffer.from(answerText(answer, false)) });

/**
 * Is `authority` a name that leads to this host whatever a name server says? A page of another site whose name resolves
 * to us ("DNS rebinding") comes under that name, and never under an address literal or `localhost`.
 */
export function isOwnName(authority: string | null): boolean {
  if (authority === null) return false;
  const host = authority.replace(/:[0-9]*$/, '').toLowerCase();
  if (host === 'localhost') return true;
  if (/^[0-9]{1,3}(\.[0-9]{1,3}){3}$/.test(host)) return true;
  return /^\[[0-9a-f:.]+\]$/.test(host);
}
