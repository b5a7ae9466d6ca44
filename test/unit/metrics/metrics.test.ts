import { get, request } from 'node:http';
import { createExporter } from '../../../src/metrics/exporter';
import { HISTOGRAMS, METRICS, OTHERS } from '../../../src/metrics/names';
import { type MetricsServer, startMetricsServer } from '../../../src/metrics/server';
import * as c from '../../../src/stack/counters';

const shared = new SharedArrayBuffer(c.COUNTERS * 8);
const counters = new Float64Array(shared);
let connected = false;
const registry = createExporter({ counters: shared, guestConnected: () => connected, version: '1.2.3' });
let server: MetricsServer;
const portOf = ({ bound }: MetricsServer): number => bound?.port ?? -1;

beforeAll(async () => {
  server = await startMetricsServer(registry, { host: '127.0.0.1', port: 0 });
});
afterAll(() => server.close());

interface Answer {
  readonly status: number | undefined;
  readonly type: string | undefined;
  readonly body: string;
}

function fetchPath(path: string, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    request({ host: '127.0.0.1', port: portOf(server), path, method, agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => (body += chunk));
      response.on('end', () => {
        resolve({ status: response.statusCode, type: response.headers['content-type'], body });
      });
    })
      .on('error', reject)
      .end();
  });
}

/** Samples by their name and labels as Prometheus' text format writes them. */
async function scrape(): Promise<Map<string, number>> {
  const { body } = await fetchPath('/metrics');
  const lines = body.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]),
  );
}

test('a scrape shows what the data plane counted, each time anew', async () => {
  counters.fill(0);
  counters[c.C_BYTES_FROM_GUEST_TCP] = 2 ** 40 + 1;
  counters[c.C_BYTES_TO_GUEST_OTHER] = 60;
  counters[c.C_FRAMES_TO_GUEST] = 7;
  counters[c.C_FLOWS_UDP] = 3;
  counters[c.C_FLOWS_OPENED_ICMP] = 4;
  counters[c.C_TCP_RETRANSMITS] = 5;
  counters[c.C_DROPS + c.dropCode('vlan_tagged')] = 6;
  const first = await scrape();
  expect(first.get('tubetti_bytes_total{direction="from_guest",protocol="tcp"}')).toBe(2 ** 40 + 1);
  expect(first.get('tubetti_bytes_total{direction="to_guest",protocol="other"}')).toBe(60);
  expect(first.get('tubetti_frames_total{direction="to_guest"}')).toBe(7);
  expect(first.get('tubetti_flows{protocol="udp"}')).toBe(3);
  expect(first.get('tubetti_flows_opened_total{protocol="icmp"}')).toBe(4);
  expect(first.get('tubetti_tcp_retransmits_total')).toBe(5);
  expect(first.get('tubetti_drops_total{reason="vlan_tagged",direction="from_guest"}')).toBe(6);
  expect(first.get('tubetti_drops_total{reason="udp_checksum",direction="to_guest"}')).toBe(0);
  expect(first.get('tubetti_guest_connected')).toBe(0);

  counters[c.C_TCP_RETRANSMITS] = 8;
  counters[c.C_FLOWS_UDP] = 0;
  connected = true;
  const second = await scrape();
  expect(second.get('tubetti_tcp_retransmits_total')).toBe(8);
  expect(second.get('tubetti_flows{protocol="udp"}')).toBe(0);
  expect(second.get('tubetti_guest_connected')).toBe(1);
  expect(second.get(`tubetti_build_info{version="1.2.3",node="${process.version}"}`)).toBe(1);
  expect(second.get('process_resident_memory_bytes')).toBeGreaterThan(0);
});

test('every counter of the data plane has a name, and none has two', () => {
  const named = METRICS.flatMap((metric) => metric.series.map((series) => series.index));
  expect(new Set(named).size).toBe(named.length);
  // The first of several, and those that are one metric together (exporter.test.ts).
  const others = ['C_DROPS', 'C_DROPS_TO_GUEST', 'C_CONNECTS', 'C_RULES', 'C_STARVED_US', 'C_STARVED_SINCE'];
  const known = Object.entries(c)
    .filter(([name, value]) => name.startsWith('C_') && !others.includes(name) && typeof value === 'number')
    .map(([, value]) => value as number);
  for (let code = 1; code < c.DROP_NAMES.length; code++) known.push(c.C_DROPS + code, c.C_DROPS_TO_GUEST + code);
  for (let result = 0; result < c.CONNECT_RESULTS.length; result++) known.push(c.C_CONNECTS + result);
  expect(named.sort((a, b) => a - b)).toEqual(known.sort((a, b) => a - b));
  expect(c.DROP_NAMES.length).toBeLessThanOrEqual(c.C_DROPS_TO_GUEST - c.C_DROPS);
  expect(c.DROP_NAMES.length).toBeLessThanOrEqual(c.C_CONNECTS - c.C_DROPS_TO_GUEST);
});

test('names follow the conventions of Prometheus', () => {
  const histograms = HISTOGRAMS.map(({ name, help }) => ({ name, help, kind: 'histogram' }));
  for (const { name, kind, help } of [...METRICS, ...histograms, ...Object.values(OTHERS)]) {
    expect(name).toMatch(/^tubetti_[a-z_]+$/);
    expect(name.endsWith('_total')).toBe(kind === 'counter');
    expect(help).toMatch(/^[A-Z].*\.$/);
  }
});

test('only /metrics, only reading', async () => {
  expect((await fetchPath('/metrics')).type).toMatch(/^text\/plain; version=0\.0\.4/);
  expect(await fetchPath('/')).toMatchObject({ status: 404 });
  expect(await fetchPath('/metrics/x')).toMatchObject({ status: 404 });
  expect(await fetchPath('/metrics', 'POST')).toMatchObject({ status: 405 });
  expect(await fetchPath('/metrics', 'HEAD')).toMatchObject({ status: 200, body: '' });
});

test("a port that is taken is the system's error", async () => {
  await expect(startMetricsServer(registry, { host: '127.0.0.1', port: portOf(server) })).rejects.toMatchObject({
    code: 'EADDRINUSE',
  });
});

test('closing does not wait for a client that holds on', async () => {
  const other = await startMetricsServer(registry, { host: '127.0.0.1', port: 0 });
  const hanging = get({
    host: '127.0.0.1',
    port: portOf(other),
    path: '/metrics',
    agent: false,
    headers: { Connection: 'keep-alive' },
  });
  const gone = new Promise((resolve) => {
    hanging.on('error', resolve);
    hanging.on('close', resolve);
  });
  await new Promise((resolve) => hanging.on('socket', (socket) => socket.on('connect', resolve)));
  await other.close();
  await gone;
});

test('a buffer that is too small is our mistake, found at the start', () => {
  expect(() =>
    createExporter({ counters: new SharedArrayBuffer(8), guestConnected: () => false, version: '' }),
  ).toThrow(RangeError);
});
