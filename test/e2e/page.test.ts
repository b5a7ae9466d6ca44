/**
 * The page at `/` of `--metrics` in a real browser: what it plots and lists is what /metrics says and what the guest saw, it
 * keeps its own policy, and it can be read in the dark, by keyboard, by a screen reader and on a narrow screen.
 */
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { bytes, count } from '../../src/page/format';
import { BLOB, GoodFlow } from '../support/guest/good-flow';
import { closeGuests, startGuest, stopGuest } from '../support/guest/exercises';
import type { Guest } from '../support/guest/guest';
import { Browser, whyNoBrowser } from '../support/world/browser';
import { HOST_ADDRESS_4, REMOTE_ADDRESS_4, whyNoNamespaces } from '../support/world/host-world';
import { poll } from '../support/world/processes';
import { describeWith, setUpBench, type Bench } from './support';

jest.setTimeout(60_000);

const SHARE = 0.2;
const SECONDS = 5;
const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1e3, M: 1e6, G: 1e9 };

/** "1.23 Gbit/s" in bit/s. */
function bitsOf(text: string): number {
  const [, digits, unit] = /^([0-9.]+) (k|M|G|)bit\/s$/.exec(text) ?? [];
  return Number(digits) * UNITS[unit];
}

/** The cells of a table, row by row. */
const rowsOf = (selector: string): string =>
  `[...document.querySelectorAll(${JSON.stringify(`${selector} tbody tr`)})].map((row) => [...row.cells].map((c) => c.textContent))`;

const listOf = (id: string): string =>
  `Object.fromEntries([...document.querySelectorAll('#${id} dt')].map((t) => [t.textContent, t.nextSibling.textContent]))`;

describeWith('the page', whyNoNamespaces() ?? whyNoBrowser(), () => {
  let bench: Bench;
  let browser: Browser;
  let guest: Guest;
  let good: GoodFlow;
  let running: Promise<void>;
  let url: string;

  beforeAll(async () => {
    bench = await setUpBench(['-t', '2222:22', '--label', 'vm=web1']);
    url = `http://127.0.0.1:${bench.service.metricsPort}/`;
    await bench.world.remote.call('setBlob', { bytes: BLOB, seed: 1 });
    guest = await startGuest(loadNative(), bench.service);
    await guest.dhcp();
    good = new GoodFlow(guest, bench.world.remote.ports.blob);
    running = good.run();
    running.catch(() => undefined); // a test that fails ends its guest
    browser = await Browser.start(bench.world, join(bench.scratch, 'profile'));
    await browser.open(url, 'light');
  });

  afterAll(async () => {
    closeGuests();
    await browser.stop();
    await bench.destroy();
  });

  const rows = (selector: string): Promise<string[][]> => browser.evaluate(rowsOf(selector));
  const list = (id: string): Promise<Record<string, string>> => browser.evaluate(listOf(id));
  const metric = (name: string, labels: Record<string, string> = {}): Promise<number> =>
    bench.service.metric(`tubetti_${name}`, labels);

  test('the throughput that is plotted is what the guest received and sent', async () => {
    const details = "document.querySelector('[data-plot=throughput] details')";
    await browser.evaluate(`${details}.open = true`);
    await browser.until('a plotted point', `${rowsOf('[data-plot=throughput] details')}.length > 0`);
    const { driver } = guest;
    const before = { received: driver.bytesReceived, sent: driver.bytesSent, at: performance.now() };
    await good.rate(SECONDS);
    const seconds = (performance.now() - before.at) / 1000;
    const plotted = (await rows('[data-plot=throughput] details')).slice(0, SECONDS);
    const mean = (column: number): number => plotted.reduce((sum, row) => sum + bitsOf(row[column]), 0) / SECONDS;
    expect(Math.abs(mean(1) / ((8 * (driver.bytesReceived - before.received)) / seconds) - 1)).toBeLessThan(SHARE);
    // Acknowledgements: how many there are changes from second to second.
    const sent = mean(2) / ((8 * (driver.bytesSent - before.sent)) / seconds);
    expect(sent).toBeGreaterThan(0.5);
    expect(sent).toBeLessThan(2);
    // And what is drawn is what is listed.
    const summary = await rows('[data-plot=throughput] > .table');
    expect(summary.map(([title]) => title)).toEqual(['To guest', 'From guest']);
    expect(bitsOf(summary[0][3])).toBeGreaterThanOrEqual(bitsOf(plotted[0][1]));
    const drawn = await browser.evaluate<boolean>(`(() => {
      const canvas = document.querySelector('[data-plot=throughput] canvas');
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      const line = getComputedStyle(document.documentElement).getPropertyValue('--first').match(/[0-9a-f]{2}/g).map((x) => parseInt(x, 16));
      let pixels = 0;
      for (let i = 0; i < data.length; i += 4) if (line.every((part, j) => data[i + j] === part)) pixels++;
      return pixels > 50;
    })()`);
    expect(drawn).toBe(true);
    for (const name of ['packets', 'turns', 'connects']) {
      const [[, now]] = await rows(`[data-plot=${name}] > .table`);
      expect(now).toMatch(name === 'packets' ? /^[0-9.]+ k?\/s$/ : /^([0-9.]+ (µs|ms|s)|–)$/);
    }
  });

  test('the page requests open flows while somebody can see them: with whom, how much', async () => {
    const asked = `performance.getEntriesByType('resource').filter((e) => e.name.includes('/v1/flows')).length`;
    expect(await browser.evaluate<number>(asked)).toBe(0);
    await browser.evaluate("document.querySelector('#flow-list').scrollIntoView()");
    const peer = `${REMOTE_ADDRESS_4}:${bench.world.remote.ports.blob}`;
    await browser.until('the flow', `document.querySelector('#flow-table').textContent.includes('${peer}')`);
    const flows = await rows('#flow-table');
    const [flow] = flows.filter(([, , , to]) => to === peer);
    expect(flow.slice(0, 5)).toEqual(['TCP', expect.stringMatching(`^${HOST_ADDRESS_4}:`), 'guest', peer, 'open']);
    expect(flow[5]).toMatch(/^\d+ s$/);
    expect(flow[7]).toMatch(/^[0-9.]+ [kMG]?B$/);
    // On a phone as well a flow has a row of a few lines: addresses are not broken into columns of letters.
    await browser.look('light', 320);
    const highest =
      "Math.max(...[...document.querySelectorAll('#flow-table tbody tr')].map((row) => row.offsetHeight))";
    expect(await browser.evaluate<number>(highest)).toBeLessThan(60);
    await browser.look('light');
    await browser.evaluate(
      "(() => { const s = document.querySelector('#flow-protocol'); s.value = 'udp'; s.dispatchEvent(new Event('change')); })()",
    );
    await browser.until('no flow of TCP', `!document.querySelector('#flow-table').textContent.includes('${peer}')`);
    await browser.evaluate('window.scrollTo(0, 0)');
  });

  test('once nothing moves, tables and lists say what /metrics and /v1/status say', async () => {
    good.stop();
    await running;
    const frame = new Uint8Array(60);
    frame.set(guest.link.mac, 6);
    frame.set([0x88, 0xb5], 12); // for experiments (IEEE 802)
    guest.sendFrame(frame);
    await guest.driver.drained();
    const drop = ['ethertype_unsupported', 'from guest', '1', '1'];
    await browser.until('the drop', `JSON.stringify(${rowsOf('#drop-table')}).includes('ethertype')`);
    expect(await rows('#drop-table')).toContainEqual(drop);
    const expected = (): Promise<string[][]> =>
      Promise.all(
        (['tcp', 'udp', 'icmp'] as const).map(async (protocol) => [
          { tcp: 'TCP', udp: 'UDP', icmp: 'ICMP echo' }[protocol],
          count(await metric('flows', { protocol })),
          count(await metric('flows_opened_total', { protocol })),
          bytes(await metric('bytes_total', { protocol, direction: 'from_guest' })),
          bytes(await metric('bytes_total', { protocol, direction: 'to_guest' })),
        ]),
      );
    const same = async (): Promise<true | null> =>
      JSON.stringify(await rows('#protocols')) === JSON.stringify(await expected()) ? true : null;
    await poll('the same counts', same, 10_000);
    expect((await rows('#protocols'))[0][4]).toMatch(/[MG]B$/);
    expect(await rows('#connect-table')).toEqual([['ok', count(await metric('tcp_connects_total', { result: 'ok' }))]]);
    expect(await rows('#forward-table')).toEqual([['2222:22', 'TCP', '1', '0']]);
    const layers = await rows('#sandbox-table');
    for (const [layer, state] of layers)
      expect([layer, state === '✓ in force' ? 1 : 0]).toEqual([layer, await metric('sandbox_layer', { layer })]);
    expect(layers.length).toBeGreaterThan(10);
    await browser.until('the guest', `document.querySelector('#guest-list').textContent.includes('${HOST_ADDRESS_4}')`);
    const known = await list('guest-list');
    const mac = Buffer.from(guest.link.mac)
      .toString('hex')
      .replace(/(..)(?=.)/g, '$1:');
    expect(known).toMatchObject({ 'Front-end': 'connected', 'Ethernet address': mac, 'MTU told': '65520' });
    expect(known.Features).toMatch(/^csum, .*mrg_rxbuf.*version_1/);
    expect((await list('service-list')).Link).toBe(`vhost-user, ${bench.socketPath}`);
    expect(await browser.evaluate('document.title')).toBe('web1 – Tubetti');
    expect(await browser.evaluate("document.querySelector('h1').textContent")).toBe('Tubetti vm=web1');
    expect(await browser.evaluate("document.querySelector('#state').textContent")).toBe('Guest connected');
  });

  test('headings, captions and names: what a screen reader is told', async () => {
    const headings = await browser.evaluate<string[]>(
      "[...document.querySelectorAll('h1, h2, h3')].map((h) => h.localName)",
    );
    expect(headings.filter((name) => name === 'h1')).toHaveLength(1);
    expect(headings[0]).toBe('h1');
    expect(headings.length).toBeGreaterThan(10);
    const nameless = await browser.evaluate<number>(
      "[...document.querySelectorAll('table')].filter((t) => !t.caption.textContent || t.querySelector('th:not([scope])')).length",
    );
    expect(nameless).toBe(0);
    const { nodes } = (await browser.send('Accessibility.getFullAXTree')) as {
      nodes: { role?: { value: string }; name?: { value: string }; ignored: boolean }[];
    };
    const named = (role: string): string[] =>
      nodes.filter((n) => !n.ignored && n.role?.value === role).map((n) => n.name?.value ?? '');
    expect(named('image').filter((name) => name.startsWith('Plot. To guest: '))).toHaveLength(2);
    expect(named('image').filter((name) => name.startsWith('Plot. Median: '))).toHaveLength(2);
    expect(named('region').filter((name) => name === '')).toEqual([]);
    expect(named('region')).toEqual(expect.arrayContaining(['Throughput', 'Flows', 'Drops', 'Sandbox']));
    expect(named('button')).toContain('Pause');
    // Only what is of interest is said aloud.
    const live = await browser.evaluate<string[]>(
      "[...document.querySelectorAll('[role=status], [aria-live]')].map((e) => e.id || e.className)",
    );
    expect(live).toEqual(['state', 'readout', 'readout', 'readout', 'readout']);
  });

  test('by keyboard: past the header, through the points of a plot, and it can be stopped', async () => {
    await browser.evaluate("document.querySelector('[data-plot=throughput] details').open = false");
    const focused = (): Promise<string> =>
      browser.evaluate(
        'document.activeElement.id || document.activeElement.className || document.activeElement.localName',
      );
    await browser.press('Tab');
    expect(await focused()).toBe('skip');
    await browser.press('Tab');
    expect(await focused()).toBe('pause');
    await browser.press('Enter');
    await browser.until('the stop', "document.querySelector('#state').textContent === 'Paused'");
    await browser.press('Tab');
    expect(await focused()).toBe('canvas');
    const readout = "document.querySelector('[data-plot=throughput] .readout').textContent";
    await browser.press('Home');
    const first = await browser.evaluate<string>(readout);
    expect(first).toMatch(/^[0-9:]{8}: To guest [0-9.]+ .?bit\/s, From guest [0-9.]+ .?bit\/s$/);
    await browser.press('ArrowRight');
    expect(await browser.evaluate<string>(readout)).not.toBe(first);
    await browser.press('ArrowLeft');
    expect(await browser.evaluate<string>(readout)).toBe(first);
    await browser.press('Escape');
    expect(await browser.evaluate<string>(readout)).toBe('');
    const asked = "performance.getEntriesByType('resource').length";
    const before = await browser.evaluate<number>(asked);
    await new Promise((resolve) => setTimeout(resolve, 1500)); // nothing comes: there is no event of that
    expect(await browser.evaluate<number>(asked)).toBe(before);
    await browser.evaluate("document.querySelector('#pause').click()");
    await browser.until('more', `${asked} > ${before}`);
  });

  test.each([1280, 320])('light and dark, in a window of %d', async (width) => {
    const ground = 'getComputedStyle(document.body).backgroundColor';
    const ink = "document.querySelector('[data-plot=packets] canvas').toDataURL()";
    const seen: string[][] = [];
    for (const scheme of ['light', 'dark'] as const) {
      await browser.look(scheme, width);
      await browser.until('its width', `document.documentElement.clientWidth <= ${width}`);
      // Nothing has to be scrolled sideways but tables, in places of their own.
      await browser.until('no overflow', `document.documentElement.scrollWidth <= ${width}`);
      seen.push([await browser.evaluate(ground), await browser.evaluate(ink)]);
      expect((await browser.picture(width, 800)).length).toBeGreaterThan(5000);
    }
    expect(seen[0][0]).not.toBe(seen[1][0]);
    expect(seen[0][1]).not.toBe(seen[1][1]);
  });

  test('nothing was complained of; what is not of the page does not run in it', async () => {
    expect(browser.complaints).toEqual([]);
    const fetched = await browser.evaluate<string[]>("performance.getEntriesByType('resource').map((e) => e.name)");
    expect(fetched.length).toBeGreaterThan(5);
    for (const name of fetched) expect(name).toMatch(new RegExp(`^${url}(metrics|v1/status|v1/flows\\?\\S*)$|^data:`));
    await browser.evaluate(
      "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.alien = 1' }))",
    );
    expect(await browser.evaluate<string>('typeof window.alien')).toBe('undefined');
    await expect(browser.evaluate("fetch('http://198.51.100.1/')")).rejects.toThrow(/Failed to fetch/);
    expect(browser.complaints.some((text) => text.includes('Content Security Policy'))).toBe(true);
  });

  test('a service that is gone is said to be', async () => {
    await stopGuest(guest);
    await bench.service.stop('SIGKILL');
    await browser.until('the word', "document.querySelector('#state').textContent.startsWith('No answer from')");
    expect(await browser.evaluate<string>("document.querySelector('#state').className")).toBe('bad');
  });
});
