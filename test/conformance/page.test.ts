/** The page at `/` of `--metrics` and its data from the running service, behind the sandbox's door: who gets what, how often. */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { get } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import type { ServiceStatus } from '../../src/control/types';
import { Guest } from '../support/guest/guest';
import { residentBytes, scrape, startService, type Started } from '../support/run-service';
import { poll } from '../support/world/processes';

jest.setTimeout(30_000);

const MIB = 1 << 20;
const FLOOD_MS = 2000;
const GROWTH = 20 * MIB;
const CLIENTS = 24;

let dir: string;
let service: Started;
let guest: Guest | null;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-page-'));
  guest = null;
});

afterEach(() => {
  guest?.close();
  service.child.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

interface Got {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: string;
}

function ask(path: string, headers: Record<string, string> = {}): Promise<Got> {
  return new Promise((resolve, reject) => {
    get({ host: '127.0.0.1', port: service.metricsPort, path, headers, agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body });
      });
      response.on('error', reject);
    }).on('error', reject);
  });
}

const status = async (): Promise<ServiceStatus> => JSON.parse((await ask('/v1/status')).body) as ServiceStatus;

test('one file with all in it, whose policy names its script and its style and nothing else', async () => {
  service = await startService('-s', join(dir, 's'));
  const { headers, body } = await ask('/');
  const policy = String(headers['content-security-policy']);
  const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
  const of = (tag: string): string[] =>
    [...body.matchAll(new RegExp(`<${tag}>([^]*?)</${tag}>`, 'g'))].map(([, text]) => hash(text));
  expect(of('script')).toHaveLength(1);
  expect(of('style')).toHaveLength(1);
  expect(policy).toBe(
    `default-src 'none'; script-src ${of('script')[0]}; style-src ${of('style')[0]}; connect-src 'self'; img-src data:; ` +
      "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  );
  expect(headers).toMatchObject({ 'x-content-type-options': 'nosniff', 'x-frame-options': 'DENY' });
  // Nothing is fetched from anywhere; the licence of what is inside is there.
  expect(body).not.toMatch(/(?:src|href)="(?!#|data:|\/metrics")/);
  expect(body).not.toMatch(/\son[a-z]+="/);
  expect(body).toContain('Permission is hereby granted, free of charge');
  expect(Buffer.byteLength(body)).toBeLessThan(120_000);
});

test('the status is of the guest that is there', async () => {
  service = await startService('-s', join(dir, 's'), '--label', 'vm=web1');
  expect((await status()).guest).toMatchObject({ connected: false, mac: null, addresses: [], features: [] });
  guest = await Guest.start(loadNative(), { socket: join(dir, 's') });
  const { address } = await guest.dhcp();
  await guest.udpBind().send('203.0.113.77', 9, new Uint8Array(1));
  await guest.driver.drained();
  const now = await status();
  expect(now.labels).toEqual({ vm: 'web1' });
  expect(now.guest.connected).toBe(true);
  expect(now.guest.mac).toBe(
    Buffer.from(guest.link.mac)
      .toString('hex')
      .replace(/(..)(?=.)/g, '$1:'),
  );
  expect(now.guest.features).toEqual(expect.arrayContaining(['csum', 'mrg_rxbuf', 'event_idx', 'version_1']));
  expect(now.guest.addresses).toContain(address);
  await guest.stop();
  guest = null;
  const gone = async (): Promise<boolean | null> => !(await status()).guest.connected || null;
  await poll('the end of the session', gone, 5000);
  expect((await status()).guest).toMatchObject({ connected: false, features: [] });
});

test('not for pages of other sites, under whatever name they come; metrics are for every name', async () => {
  service = await startService('-s', join(dir, 's'));
  for (const path of ['/', '/v1/status', '/v1/flows'])
    expect((await ask(path, { Host: 'evil.example' })).status).toBe(421);
  const crossSite = { 'Sec-Fetch-Site': 'cross-site' };
  for (const path of ['/v1/status', '/v1/flows']) {
    const { status: refused, headers } = await ask(path, crossSite);
    expect(refused).toBe(403);
    expect(Object.keys(headers).filter((name) => name.startsWith('access-control'))).toEqual([]);
  }
  expect((await ask('/', crossSite)).status).toBe(200);
  expect((await ask('/metrics', { Host: 'scraped.example' })).status).toBe(200);
});

test('at an address that others reach the flows are not listed', async () => {
  service = await startService('-s', join(dir, 's'), '--metrics', '0.0.0.0:0');
  const { status: refused, body } = await ask('/v1/flows');
  expect(refused).toBe(403);
  expect(body).toMatch(/loopback address or a UNIX socket/);
  expect((await ask('/v1/status')).status).toBe(200);
  expect((await ask('/')).status).toBe(200);
});

test('those who ask for all of it as fast as they can take no memory, and neither guest nor scraper waits', async () => {
  service = await startService('-s', join(dir, 's'));
  const paths = ['/', '/v1/status', '/v1/flows?most=1000', '/metrics'];
  for (const path of paths) await ask(path);
  const before = residentBytes(service.pid);
  let stopped = false;
  let answers = 0;
  const client = async (i: number): Promise<void> => {
    while (!stopped) {
      // One more than there is room for is cut off.
      const got = await ask(paths[i++ % paths.length]).catch(() => null);
      if (got !== null) answers++;
    }
  };
  const clients = Promise.all(Array.from({ length: CLIENTS }, (_, i) => client(i)));
  const began = performance.now();
  guest = await Guest.start(loadNative(), { socket: join(dir, 's') });
  await guest.dhcp();
  expect(performance.now() - began).toBeLessThan(3000);
  let slowest = 0;
  while (performance.now() - began < FLOOD_MS) {
    const asked = performance.now();
    await scrape(service.metricsPort).catch(() => '');
    slowest = Math.max(slowest, performance.now() - asked);
  }
  stopped = true;
  await clients;
  expect(answers).toBeGreaterThan(CLIENTS);
  expect(slowest).toBeLessThan(2000);
  expect(residentBytes(service.pid) - before).toBeLessThan(GROWTH);
  await guest.stop();
  guest = null;
});
