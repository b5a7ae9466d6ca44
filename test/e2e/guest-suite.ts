/** The suite a kind of guest goes through: every network case, then what counts, restarts and ends. */
import type { Guest } from '../support/world/guest';
import type { GuestKind } from '../support/world/image';
import { FAMILIES, SERVICE_ARGS, bringUp, expectConnected, testNetwork } from './network-cases';
import { describeWith, setUpBench, whyNotGuest, withGuest, type Bench, type Booted } from './support';

const BULK = 256 << 20;

/** What a test of one kind of guest works with. */
export type Stage = Booted;

export function describeGuest(
  kind: GuestKind,
  boot: (bench: Bench) => Promise<Guest>,
  more: (it: (title: string, body: () => Promise<void>) => void, stage: () => Stage) => void = () => {},
  { title = `a ${kind} guest`, serviceArgs = [] as readonly string[] } = {},
): void {
  describeWith(title, whyNotGuest(kind), () => {
    const { stage, test } = withGuest(
      () => setUpBench([...SERVICE_ARGS, ...serviceArgs]),
      boot,
      (bench, guest) => Promise.resolve({ bench, guest }),
    );

    testNetwork(test, () => ({ ...stage(), bulkBytes: BULK }));

    test('bytes of a known exchange appear in the metrics, and nothing is sent twice', async () => {
      const {
        bench: { service, world },
        guest: client,
      } = stage();
      const direction = async (name: string) => ({
        udp: await service.metric('tubetti_bytes_total', { direction: name, protocol: 'udp' }),
        tcp: await service.metric('tubetti_bytes_total', { direction: name, protocol: 'tcp' }),
      });
      const measure = async () => ({ from: await direction('from_guest'), to: await direction('to_guest') });
      const remote = FAMILIES[0].remote;
      const bytes = 32 << 20;
      await world.remote.call('setBlob', { bytes, seed: 9 });

      const before = await measure();
      const retransmits = await service.metric('tubetti_tcp_retransmits_total');
      await client.sh(`guest-net udp-echo ${remote} ${world.remote.ports.udp} 1000 100`);
      await client.sh(`guest-net tcp-receive ${remote} ${world.remote.ports.blob} >/dev/null`, { timeoutMs: 60_000 });
      const after = await measure();

      // Ethernet, IPv4 and UDP headers: 14 + 20 + 8.
      expect(after.from.udp - before.from.udp).toBe(100 * 1042);
      expect(after.to.udp - before.to.udp).toBe(100 * 1042);
      const down = after.to.tcp - before.to.tcp;
      expect(down).toBeGreaterThan(bytes);
      expect(down).toBeLessThan(bytes * 1.06);
      expect(after.from.tcp - before.from.tcp).toBeLessThan(bytes * 0.1);
      expect(await service.metric('tubetti_tcp_retransmits_total')).toBe(retransmits);
      expect(await service.metric('tubetti_ring_faults_total')).toBe(0);
    });

    test('a guest that reboots has its network again', async () => {
      const { guest: client } = stage();
      await client.reboot();
      for (const family of FAMILIES) {
        await bringUp(client, family);
        await expectConnected({ ...stage(), ...family });
      }
    });

    more(test, stage);

    test('SIGTERM ends the service with status 0 while the guest is connected', async () => {
      expect(await stage().bench.service.stop('SIGTERM')).toEqual({ code: 0, signal: null });
    });
  });
}
