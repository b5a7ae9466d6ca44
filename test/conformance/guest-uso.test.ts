/**
 * Datagrams that share frames (USO), through the service and the host's kernel. The guest sends to a port that is
 * forwarded to itself: what it leaves to cut goes by UDP_SEGMENT through the host's loopback to the service's own
 * listener, joins there by UDP_GRO and comes back. QEMU does not hand the feature bits on, and no kernel that boots here
 * asks for them, so the guest inside stands for those that do.
 */
import { readFileSync } from 'node:fs';
import { loadNative } from '../../src/native';
import type { Guest } from '../support/guest/guest';
import * as vu from '../support/guest/constants';
import { noise } from '../support/guest/noise';
import {
  FORWARDED_PORT,
  GUEST_PORT,
  SERVICE_ARGS,
  useBench,
  configure,
  datagrams,
  sha256,
  startGuest,
  stopGuest,
} from '../support/guest/exercises';
import { GATEWAY_4, GATEWAY_6, whyNoNamespaces } from '../support/world/host-world';
import { describeWith, type Bench } from '../e2e/support';

jest.setTimeout(30_000);

const ALL = vu.DRIVER_FEATURES | vu.USO_FEATURES;
const PIECES = [12, 14, 20];

/** Messages that sockets of the service's namespace sent: those that the kernel cuts count once. */
function messagesSent({ service }: Bench): number {
  const proc = `/proc/${service.process.pid}/net`;
  const v4 = readFileSync(`${proc}/snmp`, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('Udp:'));
  const [names, values] = v4.map((line) => line.split(' '));
  const v6 = /^Udp6OutDatagrams\s+(\d+)$/m.exec(readFileSync(`${proc}/snmp6`, 'utf8'));
  return Number(values[names.indexOf('OutDatagrams')]) + Number(v6?.[1]);
}

const ROUNDS = [
  [1, 130],
  [200, 200],
  [1400, 130],
];

/** Sends datagrams of `size` bytes to the guest's own port by way of the host, and expects each of them, in order. */
async function round(guest: Guest, gateway: string, size: number, count: number): Promise<void> {
  const from = guest.udpBind();
  const to = guest.udpBind(GUEST_PORT);
  const data = noise(size * count - (size >> 1), size);
  // Not more at a time than any socket's buffer takes.
  const step = Math.max(1, Math.min(32, Math.floor(60_000 / size))) * size;
  for (let at = 0; at < data.length; at += step) {
    const part = data.subarray(at, at + step);
    await from.sendMany(gateway, FORWARDED_PORT, part, size);
    for (let off = 0; off < part.length; off += size) {
      const got = await to.recv();
      const want = part.subarray(off, off + size);
      expect([got.data.length, sha256(got.data)]).toEqual([want.length, sha256(want)]);
      if (off + size < part.length) continue;
      // The way back: from the listener's socket.
      await to.sendMany(got.addr, got.port, part, size);
      for (let o = 0; o < part.length; o += size) {
        expect(sha256((await from.recv()).data)).toBe(sha256(part.subarray(o, o + size)));
      }
    }
  }
  from.close();
  to.close();
}

describeWith('datagrams in one frame', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;

  useBench(SERVICE_ARGS, (made) => {
    bench = made;
  });

  test.each([
    ['both ways', ALL, {}, true],
    ['both ways, buffers of 1536 and frames in pieces', ALL, { rxSizes: [1536], txSizes: PIECES }, true],
    ['both ways, no MRG_RXBUF', ALL & ~vu.VIRTIO_NET_F_MRG_RXBUF, {}, true],
    ['from the guest only', vu.DRIVER_FEATURES | vu.VIRTIO_NET_F_HOST_USO, {}, false],
    ['to the guest only', ALL & ~vu.VIRTIO_NET_F_HOST_USO, {}, true],
    ['to the guest for IPv4 only', ALL & ~vu.VIRTIO_NET_F_GUEST_USO6, {}, null],
    ['neither', vu.DRIVER_FEATURES, {}, false],
  ])('%s', async (_title, features, driver, joined) => {
    const guest = await startGuest(native, bench.service, { features, driver, mtu: 1500 });
    expect(guest.frontEnd.features & vu.USO_FEATURES).toBe(features & vu.USO_FEATURES);
    await configure(guest, 1500);
    await datagrams(guest, bench);
    const before = messagesSent(bench);
    for (const gateway of [GATEWAY_4, GATEWAY_6]) {
      for (const [size, count] of ROUNDS) await round(guest, gateway, size, count);
    }
    // Both ways and families. Whether the guest joined them or sent one by one, they left the host together.
    const all = 4 * ROUNDS.reduce((sum, [, count]) => sum + count, 0);
    const messages = messagesSent(bench) - before;
    expect(messages).toBeGreaterThan(0);
    expect(messages).toBeLessThan(all / 4);
    expect(guest.violations).toEqual([]);
    // A port of both families stops joining for a guest that takes one, but was told to by the guest before.
    if (joined !== null) expect({ joined: guest.driver.usoReceived > 0 }).toEqual({ joined });
    expect({ cut: guest.driver.gsoSent > 0 }).toEqual({ cut: (features & vu.VIRTIO_NET_F_HOST_USO) !== 0n });
    await stopGuest(guest);
  });
});
