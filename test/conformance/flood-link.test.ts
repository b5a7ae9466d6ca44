/** A guest that asks what the link answers, and begins datagrams that it never ends: before the real service. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { GUEST_FLOODS } from '../support/guest/floods';
import { Guest } from '../support/guest/guest';
import { sumOfSamples } from '../support/world/service';
import { residentBytes, scrape, startService, type Started } from '../support/run-service';
import { ip } from '../support/stack/addresses';
import { BROADCAST_MAC, bytes, datagram, ethernet, icmpv6 } from '../support/stack/link-rig';

jest.setTimeout(120_000);

const MIB = 1 << 20;
const GROWTH = 20 * MIB;
const FRAMES = 50_000;
const BATCH = 100;
/** What the service says unasked, and what this machine's own network makes it say, in the time of a flood. */
const UNASKED = 100;

const MAC = '52 54 00 aa bb cc';
const LINK_LOCAL = 'fe80::5054:ff:feaa:bbcc';
const DISCOVER = bytes(
  '01 01 06 00 12345678 0000 8000',
  new Uint8Array(16),
  MAC,
  new Uint8Array(202),
  '63825363 35 01 01 ff',
);
const srcMac = MAC;
const REQUESTS: readonly Uint8Array[] = [
  ethernet(
    0x0806,
    bytes('0001 0800 06 04 0001', MAC, 'c6336401', '00 00 00 00 00 00', 'c6336402', new Uint8Array(18)),
    MAC,
    BROADCAST_MAC,
  ),
  datagram('0.0.0.0', 68, '255.255.255.255', 67, DISCOVER, { srcMac }),
  icmpv6(LINK_LOCAL, 'ff02::2', bytes('85 00 00 00 00000000'), { srcMac }),
  icmpv6(LINK_LOCAL, 'ff02::1:ff00:99', bytes('87 00 00 00 00000000', ip('2001:db8::99'), '01 01', MAC), { srcMac }),
  datagram(LINK_LOCAL, 546, 'ff02::1:2', 547, bytes('01 abcdef 0001 000a 0003 0001', MAC), { srcMac }),
];
const [, fragment] = GUEST_FLOODS.find(([name]) => name === 'first fragments') ?? GUEST_FLOODS[0];

let dir: string;
let service: Started | null = null;
let guest: Guest | null = null;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-flood-link-'));
});

afterEach(() => {
  guest?.close();
  service?.child.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

test.each<[string, number, (n: number) => Uint8Array]>([
  ['requests to the services on the link: an answer each at the most', 1, (n) => REQUESTS[n % REQUESTS.length]],
  ['fragments of datagrams that stay incomplete: no answer', 0, (n) => fragment(n, '192.0.2.10')],
])('%s', async (_name, answers, frame) => {
  const socket = join(dir, 's');
  service = await startService('-s', socket);
  guest = await Guest.start(loadNative(), { socket });
  const flood = async (frames: number): Promise<void> => {
    for (let sent = 0; sent < frames; sent += BATCH) {
      for (let n = sent; n < sent + BATCH; n++) guest?.sendFrame(frame(n));
      await guest?.driver.drained();
    }
  };
  const counted = async (direction: string): Promise<number> =>
    sumOfSamples(await scrape(service?.metricsPort ?? 0), 'tubetti_frames_total', { direction });
  await flood(FRAMES / 10); // compiled, buffers made
  const before = { resident: residentBytes(service.pid), sent: await counted('from_guest') };
  const said = await counted('to_guest');
  await flood(FRAMES);
  const sent = (await counted('from_guest')) - before.sent;
  expect(sent).toBeGreaterThanOrEqual(FRAMES);
  expect((await counted('to_guest')) - said).toBeLessThanOrEqual(answers * sent + UNASKED);
  if (answers > 0) expect((await counted('to_guest')) - said).toBeGreaterThan(UNASKED);
  expect(residentBytes(service.pid) - before.resident).toBeLessThan(GROWTH);
  await guest.dhcp();
});
