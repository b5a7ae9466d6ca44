/** The event `guest-address`: which addresses the guest uses, as the running service learns them. Needs a build. */
import { loadNative } from '../../src/native';
import { freePorts, type Ordered, startOrdered } from '../support/control/service';
import { Guest } from '../support/guest/guest';
import { scrape } from '../support/run-service';
import { ip } from '../support/stack/addresses';
import { bytes, icmpv6, packet } from '../support/stack/link-rig';
import { sumOfSamples } from '../support/world/service';

jest.setTimeout(30_000);

interface Told {
  readonly event: string;
  readonly data: { readonly address?: string; readonly mac?: string; readonly how?: string; readonly leftOut?: number };
}

const ADDRESS_4 = '192.0.2.10';
const ADDRESS_6 = '2001:db8::10';
/** One that the guest has made itself. */
const OWN = '2001:db8::77';
const MAC = '52:54:00:aa:bb:cc';
const srcMac = MAC.replaceAll(':', ' ');
/** Events that come at once, and then one a second (src/dataplane/address-news.ts). */
const BURST = 16;

const native = loadNative();
let service: Ordered;
let guest: Guest | null = null;
let stop: AbortController;
let events: AsyncGenerator<{ readonly event: string; readonly data: string }>;

afterEach(async () => {
  stop.abort();
  await guest?.stop();
  guest = null;
  service.remove();
});

/** A guest, and the events from its coming on. */
async function watched(...argv: string[]): Promise<Guest> {
  service = await startOrdered('-a', ADDRESS_4, '-a', ADDRESS_6, ...argv);
  stop = new AbortController();
  events = service.client.events('/v1/events', stop.signal);
  const first = events.next();
  // Its answer comes after the stream's head.
  await service.client.forwards();
  guest = await Guest.start(native, { socket: service.socket, mac: MAC });
  expect((await first).value as unknown).toMatchObject({ event: 'front-end-connected' });
  return guest;
}

async function next(): Promise<Told> {
  const told = await events.next();
  if (told.done === true) throw new Error('the events have ended');
  return JSON.parse(told.value.data) as Told;
}

/** The next event about this address. */
async function toldOf(address: string): Promise<Told['data']> {
  for (;;) {
    const { event, data } = await next();
    if (event === 'guest-address' && data.address === address) return data;
  }
}

/** A frame of a protocol for experiments (RFC 3692), of which nothing is kept. */
function frameFrom(source: string): Uint8Array {
  return packet(source, '192.0.2.1', 253, new Uint8Array(8), { srcMac });
}

/** What a guest sends before it uses an address that it has made itself (RFC 4862 §5.4.2). */
const PROBE = icmpv6('::', 'ff02::1:ff00:77', bytes('87 00 00 00 00000000', ip(OWN)), { srcMac });

test('leases, autoconfiguration, addresses that are just used: each once, and again after a reboot', async () => {
  const machine = await watched();
  await machine.dhcp();
  expect(await toldOf(ADDRESS_4)).toEqual({ address: ADDRESS_4, how: 'dhcp', mac: MAC });
  await machine.dhcp6();
  expect(await toldOf(ADDRESS_6)).toEqual({ address: ADDRESS_6, how: 'dhcpv6', mac: MAC });
  machine.sendFrame(PROBE);
  expect((await toldOf(OWN)).how).toBe('ndp');
  // Renewals are no news.
  await machine.dhcp();
  await machine.dhcp6();
  machine.sendFrame(PROBE);
  machine.sendFrame(frameFrom('198.51.100.77'));
  expect((await next()).data).toMatchObject({ address: '198.51.100.77', how: 'frame' });
  await machine.reboot();
  await machine.dhcp();
  expect((await toldOf(ADDRESS_4)).how).toBe('dhcp');
});

test('a guest that uses another address in each frame: few events, of which one says how many were left out', async () => {
  const metrics = await freePorts(1);
  const machine = await watched('--metrics', `${metrics}`);
  const FRAMES = 50_000;
  const began = performance.now();
  const heard: Told['data'][] = [];
  const all = (async () => {
    for (;;) {
      const { event, data } = await next();
      if (event === 'end') return;
      if (event === 'guest-address') heard.push(data);
    }
  })();
  for (let n = 0; n < FRAMES; n++) {
    machine.sendFrame(frameFrom(`10.${n >>> 16}.${(n >>> 8) & 255}.${n & 255}`));
    if (n % 100 === 0) await machine.driver.drained();
  }
  await machine.driver.drained();
  const frames = sumOfSamples(await scrape(metrics), 'tubetti_frames_total', { direction: 'from_guest' });
  expect(frames).toBeGreaterThanOrEqual(FRAMES);
  // When the interval is over the next address is told.
  for (let n = 0; heard.every(({ leftOut }) => leftOut === undefined); n++) {
    machine.sendFrame(frameFrom(`10.99.${n >>> 8}.${n & 255}`));
    await machine.ping('192.0.2.1', { timeoutMs: 20 }).catch(() => undefined);
  }
  const seconds = (performance.now() - began) / 1000;
  expect(heard.length).toBeGreaterThan(BURST);
  expect(heard.length).toBeLessThanOrEqual(BURST + Math.ceil(seconds));
  expect(heard.reduce((sum, { leftOut = 0 }) => sum + leftOut, 0)).toBeGreaterThan(1000);
  expect((await service.client.addresses()).guest).toHaveLength(32);
  await service.client.ask('POST', '/v1/end');
  await all;
});
