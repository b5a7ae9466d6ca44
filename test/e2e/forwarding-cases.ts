/**
 * A guest that passes frames on, as a bridge or a router, to a network namespace of its own whose interface has neither
 * offloads nor merging: what arrives there is what a wire would carry. Large frames must have told the guest's kernel
 * how to cut them, whoever receives them in the end.
 */
import { parseResults, type Guest } from '../support/world/guest';
import { FAMILIES, bringUp, type Family, type Place } from './network-cases';
import type { Stage } from './guest-suite';
import { losses } from './tcp-support';

const BULK = 32 << 20;
const MTU = 1500;
const ETHERNET_HEADER = 14;

/** Makes the namespace, with an interface `eth0` in it whose other end is `outer`; it lasts until the guest reboots. */
const MAKE_INNER = `
  while read -r module; do insmod "$module"; done </etc/modules.more
  set -e
  # Queues of the guest's own, of 1000 frames by default, drop what does not fit: 45 for one of 64 KiB on the way in, all
  # that a window holds on the way out, where nobody holds a sender back whose socket is elsewhere. (Linux 7.2 refuses a
  # queue of more than 32767.)
  echo 100000 >/proc/sys/net/core/netdev_max_backlog
  ip link set eth0 qlen 10000
  unshare -n sleep 100000 >/dev/null 2>&1 &
  inner=$!
  echo $inner >/tmp/inner
  until [ "$(readlink /proc/$inner/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do usleep 10000; done
  ip link add outer type veth
  peer=$(cd /sys/class/net && echo veth*)
  ip link set $peer netns $inner
  # No address is anybody's before.
  echo 0 >/proc/sys/net/ipv6/conf/outer/accept_dad
  ip link set outer mtu ${MTU} up
  guest-link plain outer
  nsenter -t $inner -n sh -ec "
    ip link set lo up
    ip link set $peer name eth0
    echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
    ip link set eth0 mtu ${MTU} up
    guest-link plain eth0"`;

/** The addresses behind the router, and the guest's own on that side. */
const ROUTED: Readonly<Record<Family['name'], { inner: string; outer: string; prefix: number }>> = {
  IPv4: { inner: '10.9.0.2', outer: '10.9.0.1', prefix: 24 },
  IPv6: { inner: 'fd00:9::2', outer: 'fd00:9::1', prefix: 64 },
};

type Shell = Pick<Guest, 'sh'>;

/** The namespace as a guest of its own. */
function innerOf(guest: Guest): Shell {
  return {
    sh: (script, options) => {
      const file = `cat >/tmp/inner.sh <<'END'\n${script}\nEND\n`;
      return guest.sh(`${file}nsenter -t $(cat /tmp/inner) -n sh /tmp/inner.sh`, options);
    },
  };
}

/** Bytes in each frame that the guest's own interface saw while `work` was done. */
async function meanFrame(guest: Guest, direction: 'rx' | 'tx', work: () => Promise<void>): Promise<number> {
  const count = async (): Promise<number[]> => {
    const names = ['bytes', 'packets'].map((what) => `/sys/class/net/eth0/statistics/${direction}_${what}`);
    return (await guest.sh(`cat ${names.join(' ')}`)).trim().split('\n').map(Number);
  };
  const before = await count();
  await work();
  const after = await count();
  return (after[0] - before[0]) / (after[1] - before[1]);
}

/** Frames too long for the namespace's wire while a script ran in it. @throws Error if the script fails. */
async function oversize(inner: Shell, script: string): Promise<string | undefined> {
  const limit = String(MTU + ETHERNET_HEADER);
  const output = await inner.sh(`guest-link oversize eth0 ${limit} sh -c '${script}'`, { timeoutMs: 60_000 });
  return parseResults(output).get('oversize')?.frames;
}

/** Bulk data each way between the namespace and beyond the gateway: whole, in frames that fit, and nothing sent twice. */
async function expectForwarded({ bench, guest, remote }: Place): Promise<void> {
  const inner = innerOf(guest);
  const { blob, sink } = bench.world.remote.ports;
  const { sha256 } = await bench.world.remote.call('setBlob', { bytes: BULK, seed: 11 });
  const before = await losses(inner, bench.service);
  const down = await meanFrame(guest, 'rx', async () => {
    expect(await oversize(inner, `guest-net tcp-receive ${remote} ${String(blob)} >/tmp/bulk`)).toBe('0');
  });
  expect((await inner.sh('sha256sum </tmp/bulk')).slice(0, 64)).toBe(sha256);
  await meanFrame(guest, 'tx', async () => {
    const send = `guest-net tcp-send ${remote} ${String(sink)} </tmp/bulk >/tmp/told`;
    expect(await oversize(inner, send)).toBe('0');
  });
  expect((await inner.sh('cat /tmp/told; rm /tmp/bulk')).trim()).toBe(`${sha256} ${String(BULK)}`);
  expect(await losses(inner, bench.service)).toEqual(before);
  // Or there would have been nothing to cut.
  expect(down).toBeGreaterThan(2 * MTU);
}

async function route(guest: Guest): Promise<void> {
  const inner = innerOf(guest);
  for (const family of FAMILIES) await bringUp(guest, family);
  const router = (await guest.sh("ip -6 route show default | sed -n 's/^default via \\([^ ]*\\) .*/\\1/p'")).trim();
  // A router does not listen to advertisements, and forgets what it learned of them.
  await guest.sh('echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; echo 1 >/proc/sys/net/ipv4/ip_forward');
  await guest.sh(`ip -6 route replace default via ${router.split('\n')[0]} dev eth0`);
  for (const { name } of FAMILIES) {
    const { inner: address, outer, prefix } = ROUTED[name];
    const family = name === 'IPv4' ? '-4' : '-6';
    await guest.sh(`ip ${family} addr add ${outer}/${String(prefix)} dev outer`);
    await inner.sh(`ip ${family} addr add ${address}/${String(prefix)} dev eth0`);
    await inner.sh(`ip ${family} route add default via ${outer} dev eth0`);
  }
}

async function bridge(guest: Guest): Promise<void> {
  await guest.sh(`
    ip addr flush dev eth0
    ip addr flush dev outer
    ip link set eth0 mtu ${String(MTU)} up
    ip link add br0 type bridge
    for each in eth0 outer br0; do echo 1 >/proc/sys/net/ipv6/conf/$each/disable_ipv6; done
    for each in eth0 outer; do ip link set $each master br0; done
    ip link set br0 up`);
  const inner = innerOf(guest);
  await inner.sh('ip addr flush dev eth0; net-up 4 && net-up 6 at-once', { timeoutMs: 60_000 });
  await inner.sh(`ip link set eth0 mtu ${String(MTU)}`);
}

/** More tests of a guest: as a router, then as a bridge. Its addresses are gone after them. */
export function testForwarding(test: (title: string, body: () => Promise<void>) => void, stage: () => Stage): void {
  test('a router with a wire behind it: both families', async () => {
    await stage().guest.sh(MAKE_INNER);
    await route(stage().guest);
    for (const family of FAMILIES) await expectForwarded({ ...stage(), ...family });
  });

  test('a bridge with a wire behind it: both families', async () => {
    await bridge(stage().guest);
    for (const family of FAMILIES) await expectForwarded({ ...stage(), ...family });
  });
}
