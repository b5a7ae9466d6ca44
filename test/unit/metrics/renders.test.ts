import { get } from 'node:http';
import { createExporter } from '../../../src/metrics/exporter';
import { startMetricsServer } from '../../../src/metrics/server';
import { COUNTERS } from '../../../src/stack/counters';

const LOOPS = 8;
const PAGES = 30;
const PER_SECOND = 20;
const AT_ONCE = 10;

test('scrapers in a loop: after ten a page is made 20 times a second at most, and all get one', async () => {
  const shared = new SharedArrayBuffer(COUNTERS * 8);
  const registry = createExporter({ counters: shared, guestConnected: () => true, version: '1.2.3' });
  const made = jest.spyOn(registry, 'metrics');
  const server = await startMetricsServer(registry, { host: '127.0.0.1', port: 0 });
  const scrape = (): Promise<number | undefined> =>
    new Promise((resolve, reject) => {
      get({ host: '127.0.0.1', port: server.bound?.port, path: '/metrics', agent: false }, (response) => {
        response.resume().on('end', () => {
          resolve(response.statusCode);
        });
      }).on('error', reject);
    });
  const begun = performance.now();
  let answers = 0;
  await Promise.all(
    Array.from({ length: LOOPS }, async () => {
      while (made.mock.calls.length < PAGES) if ((await scrape()) === 200) answers++;
    }),
  );
  const seconds = (performance.now() - begun) / 1000;
  expect(made.mock.calls.length).toBeLessThanOrEqual(AT_ONCE + Math.ceil(seconds * PER_SECOND));
  expect(answers).toBeGreaterThan(made.mock.calls.length);
  await server.close();
});
