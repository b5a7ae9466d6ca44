/** How service and front-end survive each other's end, and a guest that attacks its rings. */
import { loadNative } from '../../src/native';
import { describeWith, type Bench } from '../e2e/support';
import {
  OFFENCES,
  REMOTES,
  RingWords,
  SERVICE_ARGS,
  useBench,
  configure,
  echo,
  expectAlive,
  killGuest,
  openFds,
  pings,
  startGuest,
} from '../support/guest/exercises';
import { REMOTE_ADDRESS_4, whyNoNamespaces } from '../support/world/host-world';
import { poll } from '../support/world/processes';

jest.setTimeout(30_000);

const KILLS = 20;
const TCP = { protocol: 'tcp' };

describeWith('the guest inside', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;

  useBench(SERVICE_ARGS, (made) => {
    bench = made;
  });

  test.each(['qemu7', 'qemu10', 'uml'] as const)(
    '%s: the service is killed and another takes its place under the running guest',
    async (style) => {
      const guest = await startGuest(native, bench.service, { style });
      await configure(guest, undefined);
      const lost = await guest.tcpConnect(REMOTE_ADDRESS_4, bench.world.remote.ports.echo);
      for (let round = 0; round < 2; round++) {
        await bench.service.stop('SIGKILL');
        await guest.frontEnd.connection.closed;
        await bench.restart();
        await guest.reconnect();
        // Addresses and rings go on; connections were the service's.
        await pings(guest);
        for (const address of REMOTES) await echo(guest, bench, address, 300_000);
      }
      await expect(lost.write(Buffer.from('!')).then(() => lost.flush())).rejects.toMatchObject({ code: 'ECONNRESET' });
      expect(guest.violations).toEqual([]);
      killGuest(guest);
    },
  );

  test(`the front-end is killed in the middle of a transfer, ${KILLS} times: nothing is left behind`, async () => {
    const { service, world } = bench;
    await world.remote.call('setBlob', { bytes: 64 << 20, seed: 1 });
    const styles = ['qemu10', 'uml', 'qemu7'] as const;
    let fds = 0;
    for (let i = 0; i < KILLS; i++) {
      const guest = await startGuest(native, service, { style: styles[i % styles.length] });
      await guest.dhcp();
      // What the guest before this one had was closed when this one's rings began from nothing.
      expect(await service.metric('tubetti_flows', TCP)).toBe(0);
      const down = await guest.tcpConnect(REMOTE_ADDRESS_4, world.remote.ports.blob);
      const up = await guest.tcpConnect(REMOTE_ADDRESS_4, world.remote.ports.sink);
      await Promise.all([down.readExactly(100_000 * (1 + (i % 5))), up.write(Buffer.alloc(3 << 20))]);
      if (i === 0) fds = openFds(service);
      expect(openFds(service)).toBeLessThanOrEqual(fds);
      expect(guest.violations).toEqual([]);
      killGuest(guest);
    }
    // Nobody is there: the flows wait for a front-end that comes back.
    await poll('the end', async () => ((await service.metric('tubetti_guest_connected')) === 0 ? true : null), 5000);
    expect(await service.metric('tubetti_flows', TCP)).toBe(2);
    const guest = await startGuest(native, service);
    await expectAlive(guest, bench);
    expect(await service.metric('tubetti_flows', TCP)).toBe(0);
    killGuest(guest);
    await poll('two flows less', () => (openFds(service) <= fds - 2 ? true : null), 5000);
  });

  test.each(OFFENCES)('$title: the ring stops, the service does not', async ({ ring, reason, commit }) => {
    const { service } = bench;
    const guest = await startGuest(native, service);
    await guest.dhcp();
    await guest.driver.drained();
    // The log has five such lines in a second, and each case wants to see its own.
    await new Promise((resolve) => setTimeout(resolve, 350));
    const mark = service.process.mark();
    const frontRing = guest.frontEnd.rings[ring];
    const told = new Promise<void>((resolve) => (frontRing.onError = resolve));
    commit(new RingWords(guest, ring));
    frontRing.kick();
    if (ring === 0) guest.ping(REMOTE_ADDRESS_4, { timeoutMs: 1000 }).catch(() => undefined);
    const line = await service.process.waitForLine(new RegExp(`ring ${ring} stopped: (.+)`), 5000, mark);
    expect(line[1].replace(/ \(\d+ similar messages suppressed\)$/, '')).toBe(reason);
    await told;
    killGuest(guest);

    const next = await startGuest(native, service);
    await expectAlive(next, bench);
    expect(next.violations).toEqual([]);
    expect(service.process.exitStatus).toBeNull();
  });
});
