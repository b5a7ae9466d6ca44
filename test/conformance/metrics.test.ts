/** What the metrics of the real service say, beside what its guest and its peers count themselves. */
import { loadNative } from '../../src/native';
import { useBench, FORWARDED_PORT, GUEST_PORT, SERVICE_ARGS, startGuest, stopGuest } from '../support/guest/exercises';
import { noise } from '../support/guest/noise';
import { REMOTE_ADDRESS_4, whyNoNamespaces } from '../support/world/host-world';
import { poll } from '../support/world/processes';
import { sumOfSamples } from '../support/world/service';
import { describeWith, type Bench } from '../e2e/support';

jest.setTimeout(30_000);

const MIB = 1 << 20;
const SPEC = `${FORWARDED_PORT}:${GUEST_PORT}`;

/** Most that fills a frame up to Ethernet's 60 bytes: an ARP message's 18. The service does not count it. */
const PADDING = 18;

describeWith('metrics', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;

  useBench(SERVICE_ARGS, (made) => {
    bench = made;
  });

  const metric = (name: string, labels: Record<string, string> = {}): Promise<number> =>
    bench.service.metric(`tubetti_${name}`, labels);

  /** Waits until a metric has the value: what the page shows is a moment old. */
  const becomes = (name: string, labels: Record<string, string>, value: number): Promise<true> =>
    poll(
      `${name} ${JSON.stringify(labels)} of ${value}`,
      async () => ((await metric(name, labels)) === value ? true : null),
      5000,
    );

  test('bytes and frames are those that the guest sent and received; batches and turns add up', async () => {
    const guest = await startGuest(native, bench.service);
    await guest.dhcp();
    const stream = await guest.tcpConnect(REMOTE_ADDRESS_4, bench.world.remote.ports.echo);
    const data = noise(MIB, 1);
    await Promise.all([stream.readAll(), stream.write(data).then(() => stream.end())]);
    const socket = guest.udpBind();
    await socket.send(REMOTE_ADDRESS_4, bench.world.remote.ports.udp, noise(1000, 2));
    await socket.recv();
    await guest.ping(REMOTE_ADDRESS_4);
    const { driver } = guest;
    const all = async (): Promise<number[]> => {
      const page = await bench.service.metricsPage();
      const of = (name: string, direction: string): number => sumOfSamples(page, `tubetti_${name}`, { direction });
      const frames = ['frames_total', 'batch_frames_sum'].flatMap((name) => [
        of(name, 'from_guest'),
        of(name, 'to_guest'),
      ]);
      const padding = driver.bytesReceived - of('bytes_total', 'to_guest');
      return [...frames, of('bytes_total', 'from_guest'), Math.max(0, padding - PADDING * driver.framesReceived)];
    };
    const counted = (): number[] => {
      const { framesSent: sent, framesReceived: received, bytesSent } = driver;
      return [sent, received, sent, received, bytesSent, 0];
    };
    await poll('the same sums', async () => ((await all()).join() === counted().join() ? true : null), 5000);
    expect(await all()).toEqual(counted());
    expect(await metric('bytes_total', { direction: 'to_guest' })).toBeLessThanOrEqual(driver.bytesReceived);
    expect(driver.bytesSent).toBeGreaterThan(MIB);
    expect(driver.bytesReceived).toBeGreaterThan(MIB);
    // A turn is counted when the next one begins; the last may be any time ago.
    const turns = await metric('loop_turn_seconds_count');
    expect(turns).toBeGreaterThan(10);
    expect(Math.abs((await metric('loop_turns_total')) - turns)).toBeLessThan(100);
    expect(await metric('loop_turn_seconds_sum')).toBeLessThan(10);
    await stopGuest(guest);
  });

  test('connections of the guest by their result, and the time that those which succeed take', async () => {
    const guest = await startGuest(native, bench.service);
    await guest.dhcp();
    const before = await metric('tcp_connects_total', { result: 'ok' });
    for (let i = 0; i < 3; i++) {
      const stream = await guest.tcpConnect(REMOTE_ADDRESS_4, bench.world.remote.ports.echo);
      stream.reset();
    }
    await expect(guest.tcpConnect(REMOTE_ADDRESS_4, 9)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    await becomes('tcp_connects_total', { result: 'ok' }, before + 3);
    await becomes('tcp_connects_total', { result: 'ECONNREFUSED' }, 1);
    expect(await metric('tcp_connects_total', { result: 'other' })).toBe(0);
    expect(await metric('tcp_connect_seconds_count')).toBe(before + 3);
    const mean = (await metric('tcp_connect_seconds_sum')) / (before + 3);
    expect(mean).toBeGreaterThan(0);
    expect(mean).toBeLessThan(1);
    await stopGuest(guest);
  });

  test('forwarded ports: a listener for each rule, and what peers opened there', async () => {
    const guest = await startGuest(native, bench.service);
    await guest.dhcp();
    const listener = guest.tcpListen(GUEST_PORT);
    const socket = guest.udpBind(GUEST_PORT);
    const before = await metric('forward_connections_total', { protocol: 'tcp', rule: SPEC });
    for (let i = 0; i < 2; i++) {
      const client = bench.world.host.call('tcpEcho', { address: '127.0.0.1', port: FORWARDED_PORT, bytes: 1000 });
      const stream = await listener.accept();
      await stream.write(await stream.readAll());
      void stream.end();
      await client;
    }
    const answered = bench.world.host.call('udpEcho', {
      ...{ address: '127.0.0.1', port: FORWARDED_PORT, bytes: 100, timeoutMs: 5000 },
    });
    const { addr, port, data } = await socket.recv();
    await socket.send(addr, port, data);
    await answered;
    await becomes('forward_connections_total', { protocol: 'tcp', rule: SPEC }, before + 2);
    await becomes('forward_connections_total', { protocol: 'udp', rule: SPEC }, 1);
    expect(await metric('forward_listeners', { protocol: 'tcp', rule: SPEC })).toBe(1);
    expect(await metric('forward_listeners', { protocol: 'udp', rule: SPEC })).toBe(1);
    // The guest's own connections are no rule's.
    (await guest.tcpConnect(REMOTE_ADDRESS_4, bench.world.remote.ports.echo)).reset();
    expect(await metric('forward_connections_total', { protocol: 'tcp' })).toBe(before + 2);
    await stopGuest(guest);
  });

  test('a guest that gives no receive buffers is starved for as long as it gives none', async () => {
    const guest = await startGuest(native, bench.service);
    await guest.dhcp();
    const seconds = (): Promise<number> => metric('receive_starved_seconds_total');
    await bench.world.remote.call('setBlob', { bytes: 8 * MIB, seed: 3 });
    const stream = await guest.tcpConnect(REMOTE_ADDRESS_4, bench.world.remote.ports.blob);
    await stream.readExactly(1000);
    guest.driver.reposting = false;
    const before = await seconds();
    const asked = performance.now();
    await poll('half a second of starvation', async () => ((await seconds()) - before > 0.5 ? true : null), 10_000);
    expect((await seconds()) - before).toBeLessThanOrEqual((performance.now() - asked) / 1000 + 0.1);
    guest.driver.reposting = true;
    guest.driver.repost();
    // The rest comes; from then on nothing waits.
    await stream.readExactly(4 * MIB);
    stream.reset();
    const after = await poll(
      'the end of it',
      async () => {
        const one = await seconds();
        return one === (await seconds()) ? one : null;
      },
      5000,
    );
    expect(after).toBeGreaterThan(before + 0.5);
    await stopGuest(guest);
  });

  test('front-ends after the first', async () => {
    const before = await metric('front_end_reconnects_total');
    for (let i = 0; i < 2; i++) await stopGuest(await startGuest(native, bench.service));
    await becomes('front_end_reconnects_total', {}, before + 2);
  });

  test('drops have the direction of what was dropped', async () => {
    const guest = await startGuest(native, bench.service);
    const drops = (direction: string): Promise<number> =>
      metric('drops_total', { reason: 'ethertype_unsupported', direction });
    const before = await drops('from_guest');
    const frame = new Uint8Array(60);
    frame.set(guest.link.mac, 6);
    frame.set([0x88, 0xb5], 12); // for experiments (IEEE 802)
    guest.sendFrame(frame);
    await guest.driver.drained();
    expect(await drops('from_guest')).toBe(before + 1);
    expect(await drops('to_guest')).toBe(0);
    await stopGuest(guest);
  });
});
