/**
 * The bench's bare front-end (bench/bare) before the real service, with every byte, checksum and virtio header verified at
 * both ends: what it measures is worth nothing otherwise. Traffic goes to bench-net beyond the gateway.
 */
import { OURS, startBackend, type StartedBackend } from '../../bench/macro/backend';
import { startBare, type BareGuest } from '../../bench/macro/bare';
import type { Family } from '../../bench/macro/cases';
import { Lab } from '../../bench/macro/lab';
import { describeWith } from '../e2e/support';
import type { ResultFields } from '../support/world/guest';
import { whyNoNamespaces } from '../support/world/host-world';

jest.setTimeout(60_000);

const ALL = 'csum guest_csum guest_tso4 guest_tso6 host_tso4 host_tso6 mrg_rxbuf event_idx';
const SECONDS = 0.1;

interface Shape {
  readonly title: string;
  readonly mtu: number;
  readonly features: string;
  readonly ring?: number;
  readonly interrupts?: 'eventfd' | 'poll';
  readonly taken: string;
}

const SHAPES: readonly Shape[] = [
  { title: 'all features, large frames', mtu: 65520, features: 'all', taken: ALL },
  { title: 'all features, segments to be cut', mtu: 1500, features: 'all', ring: 1024, taken: ALL },
  { title: 'no features', mtu: 1500, features: 'none', taken: '' },
  { title: 'no features, large frames, a small ring', mtu: 65520, features: 'none', ring: 16, taken: '' },
  {
    title: 'large buffers, polling, no EVENT_IDX',
    mtu: 1500,
    features: 'all,-mrg_rxbuf,-event_idx',
    interrupts: 'poll',
    taken: ALL.replace(' mrg_rxbuf event_idx', ''),
  },
  {
    title: "passt's features",
    mtu: 65520,
    features: 'none,guest_csum,mrg_rxbuf',
    taken: 'guest_csum mrg_rxbuf',
  },
];

describeWith('the bare front-end', whyNoNamespaces(), () => {
  let lab: Lab;

  beforeAll(async () => {
    lab = await Lab.open('bare', null);
  });

  afterAll(() => lab.close());

  describe.each(SHAPES)('$title', ({ mtu, features, ring = 256, interrupts = 'eventfd', taken }) => {
    let backend: StartedBackend;
    let guest: BareGuest;

    beforeAll(async () => {
      backend = await startBackend(OURS, lab, mtu);
      const driver = { interrupts, features, ring, mtu, verify: true };
      guest = await startBare(lab.bare!, backend.socketPath, driver);
    });

    afterAll(async () => {
      await guest.powerOff();
      await backend.process.stop();
    });

    function run(verb: string, family: Family, result: string, ...more: number[]): Promise<ResultFields> {
      const client = [verb, lab.target(family), SECONDS, ...more].join(' ');
      return guest.client({ client, result, seconds: 30, timeoutMs: 30_000 });
    }

    test('it took what it should', () => {
      expect(guest.features).toBe(taken);
    });

    test.each([4, 6] as const)('bytes and transactions over IPv%d', async (family) => {
      for (const verb of ['up', 'down']) {
        expect(Number((await run(verb, family, 'bulk', family === 4 ? 1 : 3)).bytes)).toBeGreaterThan(0);
      }
      expect(Number((await run('rr', family, 'transactions', 1)).count)).toBeGreaterThan(0);
      expect(Number((await run('crr', family, 'transactions')).count)).toBeGreaterThan(0);
      expect(Number((await run('udp-rr', family, 'transactions', 1400)).count)).toBeGreaterThan(0);
      for (const verb of ['udp-up', 'udp-down']) {
        const { sent, received } = await run(verb, family, 'datagrams', 1400, 5000);
        expect(Number(received)).toBeGreaterThan(1);
        expect(Number(received)).toBeLessThanOrEqual(Number(sent));
      }
    });
  });

  test('bytes that are not those that were sent are noticed', async () => {
    const { process: service, socketPath } = await startBackend(OURS, lab, 1500);
    const driver = { interrupts: 'eventfd', features: 'all', ring: 256, mtu: 1500, verify: true } as const;
    const guest = await startBare(lab.bare!, socketPath, driver);
    try {
      const wrong = { client: `down-wrong ${lab.target(4)} ${String(SECONDS)}`, result: 'bulk' };
      await expect(guest.client({ ...wrong, seconds: 30, timeoutMs: 30_000 })).rejects.toThrow(
        /not those that were sent/,
      );
      const wrongUp = { client: `up-wrong ${lab.target(4)} ${String(SECONDS)}`, result: 'bulk' };
      await expect(guest.client({ ...wrongUp, seconds: 30, timeoutMs: 30_000 })).rejects.toThrow(/reset/);
    } finally {
      await guest.powerOff();
      await service.stop();
    }
  });
});
