/** `--pcap`, `--stats` and `--trace` of the service as it is run, with Wireshark as the judge of the capture. */
import { readFileSync, statSync } from 'node:fs';
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import { loadNative } from '../../src/native';
import { BROADCAST_MAC } from '../support/guest/bytes';
import { ETHER_ARP, arp, ethernet } from '../support/guest/packets';
import { closeGuests, configure, datagrams, echo, pings, startGuest, stopGuest } from '../support/guest/exercises';
import { REMOTE_ADDRESS_4, REMOTE_ADDRESS_6, whyNoNamespaces } from '../support/world/host-world';
import { scratchDirectory } from '../support/world/paths';
import { poll } from '../support/world/processes';
import { StreamClient } from '../support/stream/stream-client';
import { fieldsOf, frameCount, problemsIn, whyNoTshark } from '../support/tshark';

jest.setTimeout(60_000);

describeWith('a capture', whyNoNamespaces() ?? whyNoTshark(), () => {
  const scratch = scratchDirectory();
  let bench: Bench;

  afterEach(async () => {
    closeGuests();
    await bench.destroy();
  });
  afterAll(scratch.remove);

  test('of a vhost-user guest with all offloads: every frame both ways, no wrong checksum', async () => {
    const file = `${scratch.path}/vhost.pcap`;
    bench = await setUpBench(['--pcap', file]);
    const guest = await startGuest(loadNative(), bench.service);
    await configure(guest, undefined);
    await pings(guest);
    await datagrams(guest, bench);
    for (const address of [REMOTE_ADDRESS_4, REMOTE_ADDRESS_6]) await echo(guest, bench, address, 500_000);
    await stopGuest(guest);
    const counted = await bench.service.metric('tubetti_frames_total');
    expect(await bench.service.metric('tubetti_captured_frames_total')).toBe(counted);
    expect(await bench.service.metric('tubetti_capture_lost_total')).toBe(0);
    await bench.service.stop();
    expect(frameCount(file)).toBe(counted);
    expect(problemsIn(file)).toEqual([]);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    // All that came back of the echo, each byte of it.
    for (const [version, address] of [
      ['ip', REMOTE_ADDRESS_4],
      ['ipv6', REMOTE_ADDRESS_6],
    ]) {
      const sizes = fieldsOf(file, `tcp && ${version}.src == ${address}`, ['tcp.len']);
      expect(sizes.reduce((sum, [[length]]) => sum + Number(length), 0)).toBe(500_000);
    }
  });

  test('of a stream guest, with times of now and the header of version 2.4', async () => {
    const file = `${scratch.path}/stream.pcap`;
    const before = Date.now() / 1000;
    bench = await setUpBench(['--stream', '--trace', '--stats', '1', '--pcap', file]);
    const client = await StreamClient.connect(bench.socketPath);
    const first = await client.receive((frame) => frame.readUInt16BE(12) === 0x0806);
    await client.receive((frame) => frame.readUInt16BE(12) === 0x86dd);
    await bench.service.process.waitForLine(
      /to guest: arp who has 192\.0\.2\.2, tell 192\.0\.2\.1 \(42 bytes\)/,
      10_000,
    );
    await bench.service.process.waitForLine(/^frames to_guest +\+[1-9]\d* +[1-9]\d*$/, 10_000);
    await client.destroy();
    await bench.service.stop();
    expect(readFileSync(file).subarray(0, 24).toString('hex')).toBe(
      'd4c3b2a1' + '02000400' + '00000000' + '00000000' + '00000400' + '01000000',
    );
    expect(problemsIn(file)).toEqual([]);
    const [[[time], [target]]] = fieldsOf(file, 'arp', ['frame.time_epoch', 'arp.dst.proto_ipv4']);
    expect(Number(time)).toBeGreaterThan(before);
    expect(Number(time)).toBeLessThan(Date.now() / 1000 + 1);
    expect(target).toBe([...first.subarray(38, 42)].join('.'));
  });

  test('beside it, lines for frames: as many as come, while the log follows', async () => {
    bench = await setUpBench(['--stream', '--trace']);
    const client = await StreamClient.connect(bench.socketPath);
    const senderMac = Uint8Array.of(2, 0, 0, 0, 0, 1);
    const ask = (third: number, fourth: number): void => {
      const question = arp({
        op: 1,
        senderMac,
        senderIp: Uint8Array.of(192, 0, 2, 2),
        targetMac: new Uint8Array(6),
        targetIp: Uint8Array.of(10, 0, third, fourth),
      });
      client.send(ethernet(BROADCAST_MAC, senderMac, ETHER_ARP, question));
    };
    for (let batch = 0; batch < 60; batch++) {
      for (let n = 0; n < 200; n++) ask(batch, n);
      // Read, or the service would stop reading as well.
      await client.receive((frame) => frame.readUInt16BE(12) === ETHER_ARP && frame[31] === 199);
      await bench.service.process.waitForLine(new RegExp(`arp who has 10\\.0\\.${batch}\\.199,`), 10_000);
    }
    expect(bench.service.process.lines.filter((line) => line.includes('the log was too slow'))).toEqual([]);
    await client.destroy();
  });

  test('that cannot be opened, or written, is said once, and the guest has its network', async () => {
    bench = await setUpBench(['--stream', '--pcap', '/nonexistent-dir/x']);
    expect(bench.service.process.tail(20)).toContain('--pcap /nonexistent-dir/x: cannot write the capture');
    await bench.destroy();
    bench = await setUpBench(['--stream', '--pcap', '/dev/full']);
    const client = await StreamClient.connect(bench.socketPath);
    await client.receive(() => true);
    const said = (): string[] => bench.service.process.lines.filter((line) => line.includes('capture'));
    await poll('the complaint', () => (said().length > 0 ? true : null), 10_000);
    await client.destroy();
    await (await StreamClient.connect(bench.socketPath)).receive(() => true);
    expect(said()).toHaveLength(1);
  });
});
