/** --rate-in and --rate-out of the running service, and that nothing is dropped for them. */
import { loadNative } from '../../src/native';
import { describeWith, type Bench } from '../e2e/support';
import { useBench, startGuest } from '../support/guest/exercises';
import { REMOTE_ADDRESS_4, whyNoNamespaces } from '../support/world/host-world';

jest.setTimeout(60_000);

const MBIT = 1e6;
const IN = 20 * MBIT;
const OUT = 10 * MBIT;
/** What a link that was idle may send at once (docs/policy.md). */
const BURST_MS = 50;
/** Headers of a frame, more than there are. */
const HEADERS = 0.02;

describeWith('rates', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;

  useBench(['--rate-in', '20M', '--rate-out', '10M'], (made) => {
    bench = made;
  });

  const bytesAt = (rate: number, seconds: number): number => Math.floor((rate / 8) * seconds);

  test('TCP in both directions at once, each at its rate', async () => {
    const guest = await startGuest(native, bench.service);
    await guest.dhcp();
    const retransmits = await bench.service.metric('tubetti_tcp_retransmits_total');
    const down = bytesAt(IN, 2);
    await bench.world.remote.call('setBlob', { bytes: down, seed: 1 });
    const { blob, sink } = bench.world.remote.ports;
    const receive = async (): Promise<number> => {
      // Before the connection: this process may come late to what follows, and not so the service.
      const start = performance.now();
      const stream = await guest.tcpConnect(REMOTE_ADDRESS_4, blob);
      expect((await stream.readAll()).length).toBe(down);
      return (down * 8000) / (performance.now() - start);
    };
    const send = async (): Promise<number> => {
      const up = bytesAt(OUT, 2);
      const start = performance.now();
      const stream = await guest.tcpConnect(REMOTE_ADDRESS_4, sink);
      await stream.write(new Uint8Array(up));
      await stream.end();
      await stream.readAll();
      return (up * 8000) / (performance.now() - start);
    };
    const near = (got: number, rate: number): boolean => got > rate * (0.95 - HEADERS);
    // Never faster; and as fast, unless this machine has no time for it.
    for (let tries = 1; ; tries++) {
      const [into, out] = await Promise.all([receive(), send()]);
      expect(into).toBeLessThan(IN * 1.05);
      expect(out).toBeLessThan(OUT * 1.05);
      if (near(into, IN) && near(out, OUT)) break;
      if (tries === 6) throw new Error(`too slow: ${Math.round(into)} to the guest, ${Math.round(out)} from it`);
    }
    expect(await bench.service.metric('tubetti_tcp_retransmits_total')).toBe(retransmits);
  });

  test('datagrams to the guest wait in the socket, and come at the rate', async () => {
    const guest = await startGuest(native, bench.service);
    await guest.dhcp();
    await bench.world.remote.call('udpEchoOn', { port: 7007 });
    const socket = guest.udpBind();
    // Each round as many as the socket's buffer holds; in all three times what a link that was idle may send at once.
    const size = 1000;
    const count = 60;
    const rounds = 3;
    const start = performance.now();
    for (let round = 0; round < rounds; round++) {
      for (let i = 0; i < count; i++) await socket.send(REMOTE_ADDRESS_4, 7007, 'x'.repeat(size));
      for (let i = 0; i < count; i++) expect((await socket.recv()).data).toHaveLength(size);
    }
    const leastMs = ((rounds * count * size * 8) / OUT) * 1000 - BURST_MS;
    expect(performance.now() - start).toBeGreaterThan(leastMs * 0.95);
    await guest.ping(REMOTE_ADDRESS_4);
  });
});
