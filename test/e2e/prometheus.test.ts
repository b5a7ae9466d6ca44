/** The dashboard and the rules of examples/prometheus, as Debian's Prometheus understands them, under load. */
import { loadNative } from '../../src/native';
import { BLOB, GoodFlow } from '../support/guest/good-flow';
import { closeGuests, startGuest, stopGuest } from '../support/guest/exercises';
import { whyNoNamespaces } from '../support/world/host-world';
import { poll } from '../support/world/processes';
import { dashboardQueries, Prometheus, type Result, whyNoPrometheus } from '../support/world/prometheus';
import { describeWith, setUpBench, type Bench } from './support';

jest.setTimeout(60_000);

/** What is looked at, s, and what comes after. */
const WINDOW = 10;
const LATE = 1;
const SHARE = 0.15;
const SCRAPE_MS = 500;

/** Panels that are empty where nothing went wrong, or nothing of the kind was tried. */
const EMPTY_WHEN_WELL: readonly string[] = ['Drops', 'Layers of the sandbox not in force'];

describeWith('Prometheus', whyNoNamespaces() ?? whyNoPrometheus(), () => {
  let bench: Bench;
  let prometheus: Prometheus;

  beforeAll(async () => {
    bench = await setUpBench(['-t', '2222:22', '--label', 'vm=web1']);
    const target = `127.0.0.1:${bench.service.metricsPort}`;
    prometheus = await Prometheus.start(bench.world, bench.scratch, target, SCRAPE_MS);
  });

  afterEach(closeGuests);

  afterAll(async () => {
    await prometheus.stop();
    await bench.destroy();
  });

  test("the dashboard's queries return what the guest saw", async () => {
    const { world, service } = bench;
    await world.remote.call('setBlob', { bytes: BLOB, seed: 1 });
    const guest = await startGuest(loadNative(), service);
    await guest.dhcp();
    const good = new GoodFlow(guest, world.remote.ports.blob);
    const running = good.run();
    running.catch(() => undefined); // a test that fails ends its guest
    // It begins to scrape some seconds after it is ready.
    const isUp = async (): Promise<true | null> => ((await prometheus.query('up == 1')).length > 0 ? true : null);
    await poll('the first scrape', isUp, 15_000);
    const sentBefore = guest.driver.bytesSent;
    const began = performance.now();
    const bits = 8e6 * (await good.rate(WINDOW));
    const end = Date.now();
    const sent = (8000 * (guest.driver.bytesSent - sentBefore)) / (performance.now() - began);
    // A scrape may be late. The load goes on, so that nothing but its time tells the last one of the window.
    await good.rate(LATE);
    const queries = dashboardQueries(`${WINDOW}s`);
    const throughput = await prometheus.query(queries.get('Throughput')?.[0] ?? '', end);
    const instance = `127.0.0.1:${service.metricsPort}`;
    const of = (results: readonly Result[], labels: Record<string, string>): number => {
      const found = results.filter((one) =>
        Object.entries(labels).every(([name, value]) => one.labels[name] === value),
      );
      expect(found).toHaveLength(1);
      return found[0].value;
    };
    const received = of(throughput, { instance, direction: 'to_guest' });
    expect(Math.abs(received / bits - 1)).toBeLessThan(SHARE);
    // Acknowledgements: how many there are changes from second to second.
    const acknowledged = of(throughput, { instance, direction: 'from_guest' }) / sent;
    expect(acknowledged).toBeGreaterThan(0.5);
    expect(acknowledged).toBeLessThan(2);
    const byProtocol = await prometheus.query(queries.get('Throughput by protocol')?.[0] ?? '', end);
    expect(Math.abs(of(byProtocol, { protocol: 'tcp', direction: 'to_guest' }) / bits - 1)).toBeLessThan(SHARE);

    const empty: string[] = [];
    for (const [title, expressions] of queries) {
      for (const expression of expressions) {
        if ((await prometheus.query(expression, end)).length === 0) empty.push(title);
      }
    }
    expect(empty.filter((title) => !EMPTY_WHEN_WELL.includes(title))).toEqual([]);

    const [byLibvirt] = await prometheus.query(
      `8 * rate(libvirt_domain_interface_stats_receive_bytes_total{domain="web1"}[${WINDOW}s])`,
      end,
    );
    expect(byLibvirt.labels).toMatchObject({ domain: 'web1', target_device: 'tubetti0' });
    expect(Math.abs(byLibvirt.value / bits - 1)).toBeLessThan(SHARE);
    expect(await prometheus.query('ALERTS{alertstate="firing"}')).toEqual([]);
    good.stop();
    await running;
    await stopGuest(guest);
  });
});
