import { createExporter } from '../../../src/metrics/exporter';
import { HISTOGRAMS } from '../../../src/metrics/names';
import * as c from '../../../src/stack/counters';
import { MOST, observe } from '../../../src/stack/kit/histogram';

const RULES = [
  { protocol: 'tcp', spec: '2222:22', listeners: 1 },
  { protocol: 'udp', spec: '[::1]/53,"\\', listeners: 2 },
] as const;

const shared = new SharedArrayBuffer(c.countersFor(RULES.length) * 8);
const counters = new Float64Array(shared);
let now = 0;
const registry = createExporter({
  counters: shared,
  guestConnected: () => true,
  version: '1.2.3',
  outward: () => [{ protocol: 'tcp', spec: 'auto', listeners: 3, connections: 9 }],
  rules: () => RULES.map((rule, i) => ({ number: i + 1, rule })),
  labels: { vm: 'web1', note: 'a "b"\\\nc' },
  layers: () => [{ name: 'seccomp', state: 'on' }],
  nowUs: () => now,
});

beforeEach(() => {
  counters.fill(0);
});

/** Samples by their name and labels as Prometheus' text format writes them. */
async function page(): Promise<Map<string, number>> {
  const lines = (await registry.metrics()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const samples = lines.map((line): [string, number] => {
    const at = line.lastIndexOf(' ');
    return [line.slice(0, at), Number(line.slice(at + 1))];
  });
  expect(new Set(samples.map(([name]) => name)).size).toBe(samples.length);
  return new Map(samples);
}

test('drops have a direction', async () => {
  counters[c.C_DROPS + c.dropCode('flow_table_full')] = 2;
  counters[c.C_DROPS_TO_GUEST + c.dropCode('flow_table_full')] = 3;
  const samples = await page();
  expect(samples.get('tubetti_drops_total{reason="flow_table_full",direction="from_guest"}')).toBe(2);
  expect(samples.get('tubetti_drops_total{reason="flow_table_full",direction="to_guest"}')).toBe(3);
});

test('forwarding rules: listeners, and what came to them', async () => {
  counters[c.C_RULES] = 100; // of none
  counters[c.C_RULES + 1] = 7;
  counters[c.C_RULES + 2] = 8;
  const samples = await page();
  expect(samples.get('tubetti_forward_listeners{protocol="tcp",rule="2222:22"}')).toBe(1);
  expect(samples.get('tubetti_forward_connections_total{protocol="tcp",rule="2222:22"}')).toBe(7);
  expect(samples.get('tubetti_forward_listeners{protocol="udp",rule="[::1]/53,\\"\\\\"}')).toBe(2);
  expect(samples.get('tubetti_forward_connections_total{protocol="udp",rule="[::1]/53,\\"\\\\"}')).toBe(8);
  expect(samples.get('tubetti_outward_listeners{protocol="tcp",rule="auto"}')).toBe(3);
  expect(samples.get('tubetti_outward_connections_total{protocol="tcp",rule="auto"}')).toBe(9);
});

test("the user's labels are on tubetti_info, and on nothing else", async () => {
  const samples = await page();
  expect(samples.get('tubetti_info{vm="web1",note="a \\"b\\"\\\\\\nc"}')).toBe(1);
  expect([...samples.keys()].filter((name) => name.includes('web1'))).toHaveLength(1);
});

test('a layer of the sandbox is 1 if it is in force', async () => {
  const samples = await page();
  expect(samples.get('tubetti_sandbox_layer{layer="seccomp"}')).toBe(1);
  expect(samples.get('tubetti_sandbox_layer{layer="landlock"}')).toBe(0);
});

test('a histogram: buckets hold the values up to their bound, cumulatively; sum and count', async () => {
  for (const value of [0, 1, 2, 3, 4, 256, 1025]) observe(counters, c.H_BATCH_TO_GUEST, value);
  const samples = await page();
  const bucket = (le: string): number | undefined =>
    samples.get(`tubetti_batch_frames_bucket{direction="to_guest",le="${le}"}`);
  expect(['1', '2', '4', '128', '256', '1024', '+Inf'].map(bucket)).toEqual([2, 3, 5, 5, 6, 6, 7]);
  expect(samples.get('tubetti_batch_frames_sum{direction="to_guest"}')).toBe(1291);
  expect(samples.get('tubetti_batch_frames_count{direction="to_guest"}')).toBe(7);
  expect(samples.get('tubetti_batch_frames_count{direction="from_guest"}')).toBe(0);
});

test('times are in seconds, from 8 µs and 64 µs on', async () => {
  for (const us of [8, 9, 16, MOST]) observe(counters, c.H_TURN_US, us);
  observe(counters, c.H_CONNECT_US, 64);
  const samples = await page();
  expect(samples.get('tubetti_loop_turn_seconds_bucket{le="0.000008"}')).toBe(1);
  expect(samples.get('tubetti_loop_turn_seconds_bucket{le="0.000016"}')).toBe(3);
  expect(samples.get('tubetti_loop_turn_seconds_bucket{le="1.048576"}')).toBe(3);
  expect(samples.get('tubetti_loop_turn_seconds_bucket{le="+Inf"}')).toBe(4);
  expect(samples.get('tubetti_loop_turn_seconds_sum')).toBeCloseTo((33 + MOST) / 1e6, 6);
  expect(samples.get('tubetti_tcp_connect_seconds_bucket{le="0.000064"}')).toBe(1);
  expect(samples.get('tubetti_tcp_connect_seconds_bucket{le="134.217728"}')).toBe(1);
});

test('every bucket takes exactly the values up to its bound', () => {
  for (const { series } of HISTOGRAMS) {
    for (const { histogram } of series) {
      const { at, shift, buckets } = histogram;
      for (let i = 0; i <= buckets; i++) {
        for (const [value, to] of [
          [2 ** (shift + i), i],
          [2 ** (shift + i) + 1, i + 1],
        ]) {
          counters.fill(0);
          observe(counters, histogram, value);
          expect(counters[at + 1 + Math.min(to, buckets)]).toBe(1);
          expect(counters.reduce((sum, one) => sum + one, 0)).toBe(value + 1);
        }
      }
    }
  }
});

test('histograms and counters do not overlap', () => {
  const taken = HISTOGRAMS.flatMap(({ series }) =>
    series.flatMap(({ histogram: { at, buckets } }) => Array.from({ length: buckets + 2 }, (_, i) => at + i)),
  );
  expect(new Set(taken).size).toBe(taken.length);
  expect(Math.min(...taken)).toBeGreaterThanOrEqual(c.C_CONNECTS + c.CONNECT_RESULTS.length);
  expect(Math.max(...taken)).toBeLessThan(c.C_RULES);
});

test('the time for which frames wait for buffers grows while they do, and never shrinks', async () => {
  const seconds = async (): Promise<number | undefined> => (await page()).get('tubetti_receive_starved_seconds_total');
  now = 10e6;
  expect(await seconds()).toBe(0);
  counters[c.C_STARVED_SINCE] = 9e6;
  expect(await seconds()).toBe(1);
  now = 12e6;
  expect(await seconds()).toBe(3);
  // Read between the two steps of the data plane.
  counters[c.C_STARVED_SINCE] = 0;
  expect(await seconds()).toBe(3);
  counters[c.C_STARVED_US] = 3e6;
  expect(await seconds()).toBe(3);
  counters[c.C_STARVED_US] = 4e6;
  expect(await seconds()).toBe(4);
});
