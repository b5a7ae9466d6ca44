/** TCP of the running service under floods and on odd paths: what one party does is not felt by others. */
import { readFileSync } from 'node:fs';
import { loadNative } from '../../src/native';
import { describeWith, type Bench } from '../e2e/support';
import { GUEST_FLOODS, floodFromGuest, floodFromOutside } from '../support/guest/floods';
import { FORWARDED_PORT, GUEST_PORT, useBench, openFds, sha256, startGuest } from '../support/guest/exercises';
import { be16, concat } from '../support/guest/bytes';
import { DRIVER_FEATURES, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6 } from '../support/guest/constants';
import { PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, icmp, ipHeader, type IpPacket } from '../support/guest/packets';
import { REMOTE_ADDRESS_4, REMOTE_ADDRESS_6, whyNoNamespaces } from '../support/world/host-world';
import { guestFrame } from '../support/stack/tcp-segment';

jest.setTimeout(60_000);

const OTHER_PORT = 2223;
const OTHER_GUEST_PORT = 23;
const MIB = 1 << 20;
/** How long the guest scans. */
const FLOOD_MS = 500;

describeWith('bounds of TCP', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;

  useBench(['-t', `${FORWARDED_PORT}:${GUEST_PORT}`, '-t', `${OTHER_PORT}:${OTHER_GUEST_PORT}`], (made) => {
    bench = made;
  });

  test('a scan of hosts that do not answer: connections go on, new ones are made, descriptors are bounded', async () => {
    const guest = await startGuest(native, bench.service);
    await guest.dhcp();
    const before = await bench.service.metric('tubetti_drops_total', { reason: 'flow_table_full' });
    const open = await guest.tcpConnect(REMOTE_ADDRESS_4, bench.world.remote.ports.echo);
    const [, frame] = GUEST_FLOODS[0];
    const stop = floodFromGuest(guest, frame, 20_000);
    // New connections to a host that has answered need no second SYN: the flood has to have its time.
    const end = performance.now() + FLOOD_MS;
    for (let n = 0; n < 5 || performance.now() < end; n++) {
      await open.write(Buffer.from('still here'));
      expect(Buffer.from(await open.readExactly(10)).toString()).toBe('still here');
      const fresh = await guest.tcpConnect(REMOTE_ADDRESS_4, bench.world.remote.ports.echo, { rtoMs: 200 });
      await fresh.write(Buffer.from('new'));
      expect(Buffer.from(await fresh.readExactly(3)).toString()).toBe('new');
      fresh.reset();
    }
    expect(stop()).toBeGreaterThan(500);
    expect(await bench.service.metric('tubetti_drops_total', { reason: 'flow_table_full' })).toBe(before);
    expect(openFds(bench.service)).toBeLessThan(4096 + 200);
    expect(guest.violations).toEqual([]);
  });

  test('a flood of connections that the guest does not answer: the other forwarded port is served', async () => {
    const guest = await startGuest(native, bench.service);
    await guest.dhcp();
    await guest.slaac();
    guest.tcp.answersUnknown = false;
    const listener = guest.tcpListen(OTHER_GUEST_PORT);
    const flood = await floodFromOutside(bench.world, 'tcp', FORWARDED_PORT);
    try {
      for (let n = 0; n < 20; n++) {
        const client = bench.world.host.call('tcpEcho', { address: '127.0.0.1', port: OTHER_PORT, bytes: 1000 });
        const stream = await listener.accept();
        const received = await stream.readAll();
        await stream.write(received);
        void stream.end();
        const { sent, received: back } = await client;
        expect(back.sha256).toBe(sent.sha256);
      }
    } finally {
      await flood.stop('SIGKILL');
    }
  });

  test('a guest that answers every acknowledgement with one of what was never sent: a few frames a second', async () => {
    const guest = await startGuest(native, bench.service);
    await guest.dhcp();
    const stream = await guest.tcpConnect(REMOTE_ADDRESS_4, bench.world.remote.ports.echo, { localPort: 40_001 });
    await stream.write(Buffer.from('x'));
    await stream.readExactly(1);
    const src = guest.address4 ?? '';
    const { echo: dport } = bench.world.remote.ports;
    let frames = 0;
    let last = { seq: 0, ack: 0 };
    const wrong = (): void =>
      guest.sendFrame(
        guestFrame({
          src,
          dst: REMOTE_ADDRESS_4,
          sport: 40_001,
          dport,
          flags: '.',
          ...last,
          ack: (last.ack + MIB) >>> 0,
        }),
      );
    const { onPacket } = guest.link;
    guest.link.onPacket = (packet, frame, header) => {
      if (packet.protocol !== PROTO_TCP) {
        onPacket?.(packet, frame, header);
        return;
      }
      frames++;
      const segment = new DataView(packet.segment.buffer, packet.segment.byteOffset);
      last = { seq: segment.getUint32(8), ack: segment.getUint32(4) };
      wrong();
    };
    // Whatever its sequence number, the first provokes an acknowledgement.
    wrong();
    await new Promise((resolve) => setTimeout(resolve, 2000));
    expect(frames).toBeGreaterThan(0);
    expect(frames).toBeLessThan(10);
  });

  test.each([
    [REMOTE_ADDRESS_4, 1400, false],
    [REMOTE_ADDRESS_4, 1400, true],
    [REMOTE_ADDRESS_6, 1300, false],
    [REMOTE_ADDRESS_6, 1300, true],
  ] as const)(
    '%s through a router in the guest with an MTU of %p, segments cut by the guest: %p',
    async (address, mtu, gso) => {
      const guest = await startGuest(native, bench.service, {
        mtu: 1500,
        ...(gso ? {} : { features: DRIVER_FEATURES & ~(VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6) }),
      });
      await guest.dhcp();
      await guest.slaac();
      const { sha256: sum } = await bench.world.remote.call('setBlob', { bytes: 200_000, seed: 5 });
      const { onPacket } = guest.link;
      let refused = 0;
      guest.link.onPacket = (packet, frame, header) => {
        const size = header.gsoSize > 0 ? header.gsoSize + (packet.src.length === 4 ? 40 : 60) : frame.length - 14;
        if (packet.protocol !== PROTO_TCP || size <= mtu) {
          onPacket?.(packet, frame, header);
          return;
        }
        refused++;
        const v4 = packet.src.length === 4;
        const quoted = concat(quoteHeader(packet), packet.segment.subarray(0, v4 ? 8 : 1000));
        const rest = concat(Uint8Array.of(0, 0), be16(mtu));
        const message = icmp(packet.dst, packet.src, v4 ? 3 : 2, v4 ? 4 : 0, concat(rest, quoted));
        void guest.link.send(packet.src, v4 ? PROTO_ICMP : PROTO_ICMPV6, message, packet.dst);
      };
      const stream = await guest.tcpConnect(address, bench.world.remote.ports.blob);
      const data = await stream.readAll();
      expect(sha256(data)).toBe(sum);
      expect(refused).toBeGreaterThan(0);
      expect(stream.stats.bytesReceived).toBeGreaterThanOrEqual(200_000);
      void stream.end();
    },
  );

  test('localhost in both families reaches a guest that speaks IPv4 only', async () => {
    const guest = await startGuest(native, bench.service);
    guest.link.answersNeighbours = true;
    await guest.dhcp();
    // It is heard: without, nobody knows what it speaks.
    await guest.ping(REMOTE_ADDRESS_4);
    const listener = guest.tcpListen(GUEST_PORT);
    for (const address of ['::1', '127.0.0.1']) {
      const client = bench.world.host.call('tcpEcho', { address, port: FORWARDED_PORT, bytes: 1000 });
      const stream = await listener.accept(1000);
      const received = await stream.readAll();
      await stream.write(received);
      void stream.end();
      const { sent, received: back } = await client;
      expect(back.sha256).toBe(sent.sha256);
    }
  });

  test('a privileged source port is kept', async () => {
    const guest = await startGuest(native, bench.service);
    await guest.dhcp();
    const stream = await guest.tcpConnect(REMOTE_ADDRESS_4, bench.world.remote.ports.echo, { localPort: 800 });
    const table = readFileSync(`/proc/${String(bench.service.process.pid)}/net/tcp`, 'latin1');
    expect(table).toMatch(/ [0-9A-F]{8}:0320 /);
    stream.reset();
  });
});

/** The IP header of a packet received, as a router quotes it. */
function quoteHeader(p: IpPacket): Uint8Array {
  return ipHeader(p.src, p.dst, p.protocol, p.segment.length);
}
