import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Registry } from 'prom-client';
import { refuse } from '../../../src/control/problem';
import { type FlowPage, type FlowQuery, type Flows, type ServiceStatus } from '../../../src/control/types';
import { type Answer, parseRequest } from '../../../src/metrics/http';
import { flowQuery, type PageSources, type Reach, Routes } from '../../../src/metrics/routes';

const LOCAL: Reach = { unixSocket: false, local: true };
const PUBLIC: Reach = { unixSocket: false, local: false };
const SOCKET: Reach = { unixSocket: true, local: true };
const EMPTY: FlowPage = { flows: [], next: null };

let dir: string;
let looks: number;
let asked: FlowQuery[];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-routes-'));
  writeFileSync(
    join(dir, 'page.html'),
    `<!doctype html><meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'sha256-x'" />`,
  );
  looks = 0;
  asked = [];
});

afterEach(() => {
  rmSync(dir, { recursive: true });
});

function sources(): PageSources {
  const flows: Flows = {
    list: (query) => {
      asked.push(query);
      return Promise.resolve(EMPTY);
    },
    close: () => Promise.resolve(false),
  };
  const status = (): Promise<ServiceStatus> => {
    looks++;
    return Promise.resolve({ version: '1.2.3' } as ServiceStatus);
  };
  return { file: join(dir, 'page.html'), status, flows };
}

function ask(routes: Routes, target: string, fields: Record<string, string> = {}, method = 'GET'): Promise<Answer> {
  const lines = Object.entries({ Host: '127.0.0.1:9100', ...fields }).map(([name, value]) => `${name}: ${value}\r\n`);
  const request = parseRequest(`${method} ${target} HTTP/1.1\r\n${lines.join('')}\r\n`);
  if (request === null) throw new Error('no request');
  return routes.answer(request);
}

const make = (reach: Reach = LOCAL, page: PageSources | null = sources()): Routes =>
  new Routes(new Registry(), page, reach);

const statusOf = async (answer: Promise<Answer>): Promise<number> => parseInt((await answer).status, 10);

test('the page comes with its own policy, and frames it is not shown in', async () => {
  const answer = await ask(make(), '/');
  expect(answer.type).toBe('text/html; charset=utf-8');
  expect(answer.more).toContain(
    "Content-Security-Policy: default-src 'none'; script-src 'sha256-x'; frame-ancestors 'none'\r\n",
  );
  expect(answer.more).toContain('X-Frame-Options: DENY\r\n');
});

test('a page without a policy of its own gets one under which nothing runs', async () => {
  writeFileSync(join(dir, 'page.html'), '<script>alert(1)</script>');
  expect((await ask(make(), '/')).more).toContain("Content-Security-Policy: default-src 'none'; frame-ancestors");
});

test('a page that was not built is said to be missing', async () => {
  rmSync(join(dir, 'page.html'));
  const { status, body } = await ask(make(), '/');
  expect(status).toMatch(/^503 /);
  expect(body).toContain('npm run build');
});

const PRIVATE = ['/v1/status', '/v1/flows'];

test.each([...PRIVATE, '/'])('%s under a name that a name server may have made up', async (path) => {
  for (const name of ['evil.example', 'evil.example:9100', 'localhost.evil.example'])
    expect(await statusOf(ask(make(), path, { Host: name }))).toBe(421);
  expect(await statusOf(ask(make(), `http://evil.example${path}`))).toBe(421);
  for (const name of ['localhost', '[::1]:9100', '10.1.2.3'])
    expect(await statusOf(ask(make(), path, { Host: name }))).toBe(200);
  // Of a UNIX socket a client's name for it says nothing.
  expect(await statusOf(ask(make(SOCKET), path, { Host: 'anything' }))).toBe(200);
  expect(looks + asked.length).toBe(path === '/' ? 0 : 4);
});

test.each(PRIVATE)('%s asked for by a page of another site', async (path) => {
  for (const site of ['cross-site', 'same-site'])
    expect(await statusOf(ask(make(), path, { 'Sec-Fetch-Site': site }))).toBe(403);
  for (const origin of ['http://evil.example', 'null', 'http://127.0.0.1:1'])
    expect(await statusOf(ask(make(), path, { Origin: origin }))).toBe(403);
  for (const site of ['same-origin', 'none'])
    expect(await statusOf(ask(make(), path, { 'Sec-Fetch-Site': site }))).toBe(200);
  expect(await statusOf(ask(make(), path, { Origin: 'http://127.0.0.1:9100' }))).toBe(200);
  expect(looks + asked.length).toBe(3);
});

test('metrics are for every name, as a scraper may have one for this host', async () => {
  expect(await statusOf(ask(make(PUBLIC), '/metrics', { Host: 'guest-host.lan' }))).toBe(200);
});

test('flows are listed where only users of this host come', async () => {
  expect(await statusOf(ask(make(PUBLIC), '/v1/flows', { Host: '192.0.2.1' }))).toBe(403);
  expect(await statusOf(ask(make(PUBLIC), '/v1/status', { Host: '192.0.2.1' }))).toBe(200);
  expect(asked).toEqual([]);
  expect(JSON.parse((await ask(make(), '/v1/flows?most=7')).body)).toEqual(EMPTY);
  expect(asked).toEqual([{ most: 7 }]);
  expect(await statusOf(ask(make(LOCAL, { ...sources(), flows: null }), '/v1/flows'))).toBe(404);
});

test('nothing can be changed, and nothing else is here', async () => {
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS'])
    for (const path of ['/', '/metrics', ...PRIVATE]) expect(await statusOf(ask(make(), path, {}, method))).toBe(405);
  for (const path of ['/v1', '/v1/status/', '/../etc/passwd', '/page.html', '//', '*'])
    expect(await statusOf(ask(make(), path))).toBe(404);
  for (const path of ['/', ...PRIVATE]) expect(await statusOf(ask(make(LOCAL, null), path))).toBe(404);
});

test('what fails says so', async () => {
  const page = { ...sources(), status: () => Promise.reject(new Error('no data plane')) };
  const { status, body } = await ask(make(LOCAL, page), '/v1/status');
  expect([status, body]).toEqual(['500 Internal Server Error', 'no data plane\n']);
});

test('what the data plane will not list', async () => {
  const asking = (error: Error): Promise<number> => {
    const flows = { list: () => Promise.reject(error), close: () => Promise.resolve(false) };
    return statusOf(ask(make(LOCAL, { ...sources(), flows }), '/v1/flows?from=1.2'));
  };
  expect(await asking(refuse(400, 'invalid', 'old', 'query/from'))).toBe(400);
  expect(await asking(refuse(503, 'busy', 'too many'))).toBe(429);
  expect(await asking(new Error('a bug'))).toBe(500);
});

test('a hundred that ask together cost one look at the guest, and at most twenty at the flows a second', async () => {
  const routes = make();
  const began = performance.now();
  const hundred = <T>(one: () => T): T[] => Array.from({ length: 100 }, one);
  const statuses = await Promise.all(hundred(() => statusOf(ask(routes, '/v1/status'))));
  expect(new Set(statuses)).toEqual(new Set([200]));
  expect(looks).toBe(1);
  const flows = await Promise.all(hundred(() => statusOf(ask(routes, '/v1/flows'))));
  const seconds = (performance.now() - began) / 1000;
  expect(asked.length).toBeLessThanOrEqual(1 + Math.ceil(20 * seconds));
  // Nobody waits longer than a second: the others are told so at once.
  expect(flows.filter((status) => status === 200)).toHaveLength(asked.length);
  expect(flows.filter((status) => status === 429)).toHaveLength(100 - asked.length);
  expect(asked.length).toBeLessThanOrEqual(22);
});

describe('the query of flows', () => {
  test.each<[string, FlowQuery]>([
    ['', {}],
    ['protocol=udp', { protocol: 'udp' }],
    ['most=1000&from=tcp-17-3', { most: 1000, from: 'tcp-17-3' }],
  ])('%j', (text, expected) => {
    expect(flowQuery(new URLSearchParams(text))).toEqual(expected);
  });

  test.each<[string, RegExp]>([
    ['protocol=sctp', /^protocol: give one of tcp, udp, icmp/],
    ['protocol=', /^protocol/],
    ['most=0', /^most: give a number from 1 to 1000/],
    ['most=1001', /^most/],
    ['most=1e3', /^most/],
    ['most=', /^most/],
    ['from=', /^from/],
    [`from=${'x'.repeat(65)}`, /^from/],
    ['from=%0a', /^from/],
    ['most=1&most=2', /once at most/],
    ['limit=5', /^Give protocol, from and most/],
  ])('%j is refused', (text, expected) => {
    expect(flowQuery(new URLSearchParams(text))).toMatch(expected);
  });
});
