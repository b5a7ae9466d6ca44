/**
 * Following the host at run time (docs/adr/0004), with the program as it is run and a kernel's network that changes
 * under it: what the guest is told unasked, and what it is answered then.
 */
import { readFileSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ControlClient } from '../../src/ctl/client';
import { loadNative } from '../../src/native';
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import { closeGuests, startGuest } from '../support/guest/exercises';
import { formatAddr, formatMac, viewOf } from '../support/guest/bytes';
import type { Guest } from '../support/guest/guest';
import { GATEWAY_4, HOST_ADDRESS_4, HOST_NETWORK_6, whyNoNamespaces } from '../support/world/host-world';
import { command, poll } from '../support/world/processes';
import { Service } from '../support/world/service';

jest.setTimeout(30_000);

const WAIT_MS = 10_000;
const ETHER_ARP = 0x0806;
const ETHER_IPV6 = 0x86dd;
const NEIGHBOUR_ADVERT = 136;
const ROUTER_ADVERT = 134;
const ICMPV6_AT = 14 + 40;
/** As long as a lease holds. */
const LASTING = 3600;

/** rtnetlink(7). */
const RTMGRP_NEIGH = 0x4;
const RTMGRP_IPV6_IFADDR = 0x100;

/** The kernel's /proc/net/netlink: which sockets of the process are members of multicast groups. */
function groupsOf(pid: number): number[] {
  const fds = `/proc/${String(pid)}/fd`;
  const inodes = new Set(readdirSync(fds).map((fd) => /^socket:\[(\d+)\]$/.exec(readlinkSync(join(fds, fd)))?.[1]));
  return readFileSync(`/proc/${String(pid)}/net/netlink`, 'latin1')
    .trimEnd()
    .split('\n')
    .slice(1)
    .map((row) => row.trim().split(/\s+/))
    .filter((row) => inodes.has(row[9]))
    .map((row) => parseInt(row[3], 16));
}

/** How often threads of the process were switched to. */
function switches(pid: number): number {
  const tasks = `/proc/${String(pid)}/task`;
  return readdirSync(tasks)
    .map((task) => readFileSync(`${tasks}/${task}/status`, 'latin1'))
    .flatMap((text) => [.../ctxt_switches:\s+(\d+)/g[Symbol.matchAll](text)])
    .reduce((sum, match) => sum + Number(match[1]), 0);
}

/** The addresses in options of one type of a router advertisement, with their lifetimes. */
function optionsOf(frame: Uint8Array, type: number, addressAt: number, lifetimeAt: number): Record<string, number> {
  const found: Record<string, number> = {};
  for (let at = ICMPV6_AT + 16; at < frame.length; at += 8 * frame[at + 1]) {
    if (frame[at] !== type) continue;
    found[formatAddr(frame.slice(at + addressAt, at + addressAt + 16))] = viewOf(frame).getUint32(at + lifetimeAt);
  }
  return found;
}
/** Prefixes and their preferred lifetimes. */
const prefixesOf = (frame: Uint8Array): Record<string, number> => optionsOf(frame, 3, 16, 8);
/** Resolvers (one an option here) and their lifetimes. */
const resolversOf = (frame: Uint8Array): Record<string, number> => optionsOf(frame, 25, 8, 4);

const isNdp = (frame: Uint8Array, type: number): boolean =>
  viewOf(frame).getUint16(12) === ETHER_IPV6 && frame[20] === 58 && frame[ICMPV6_AT] === type;

describeWith('following the host', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;
  let guest: Guest;

  /** Runs commands where the host's network is. */
  const onHost = (script: string): Promise<string> => command(bench.world.inHost(['sh', '-ec', script]));
  const advert = (): Promise<Uint8Array> => guest.waitFrame((frame) => isNdp(frame, ROUTER_ADVERT), WAIT_MS);
  /** Does it, and gives the advertisement that comes unasked: the data plane then has the new configuration. */
  const advertAfter = async (act: () => Promise<unknown>): Promise<Uint8Array> => {
    const [frame] = await Promise.all([advert(), act()]);
    return frame;
  };

  beforeEach(async () => {
    bench = await setUpBench();
    guest = await startGuest(native, bench.service);
    await guest.dhcp();
    await guest.slaac();
  });

  afterEach(async () => {
    closeGuests();
    await bench.destroy();
  });

  test('another address, prefix and default route: the guest is told by IPv6, and answered by DHCP', async () => {
    expect(guest.address4).toBe(HOST_ADDRESS_4);
    const frame = await advertAfter(() =>
      onHost(`
        ip addr add 10.44.0.2/16 dev eth0
        ip addr del ${HOST_ADDRESS_4}/24 dev eth0
        ip route replace default via 10.44.0.1
        ip addr add 2001:db8:0:9::2/64 dev eth0 nodad
        ip addr del ${HOST_NETWORK_6}:2/64 dev eth0
        ip -6 route replace default via 2001:db8:0:9::1`),
    );
    expect(prefixesOf(frame)).toEqual({ '2001:db8:0:9::': LASTING, [`${HOST_NETWORK_6}:`]: 0 });
    const lease = await guest.dhcp();
    expect(lease).toMatchObject({ address: '10.44.0.2', prefixLen: 16, router: '10.44.0.1' });
    expect((await guest.dhcp6()).addresses).toEqual(['2001:db8:0:9::2']);
    expect(bench.service.process.lines.filter((line) => line.includes("the host's network changed"))).toHaveLength(1);
    expect(guest.violations).toEqual([]);
  });

  test('the cable is pulled and put back: no router meanwhile, addresses stay', async () => {
    const lost = await advertAfter(() => onHost('ip link set eth0 down'));
    expect(viewOf(lost).getUint16(ICMPV6_AT + 6)).toBe(0);
    expect(await guest.dhcp()).toMatchObject({ address: HOST_ADDRESS_4, router: GATEWAY_4 });
    const back = await advertAfter(() =>
      onHost(`
        ip link set eth0 up
        ip route add default via ${GATEWAY_4}
        ip addr replace ${HOST_NETWORK_6}:2/64 dev eth0 nodad
        ip -6 route add default via ${HOST_NETWORK_6}:1`),
    );
    expect(viewOf(back).getUint16(ICMPV6_AT + 6)).toBeGreaterThan(0);
    expect(prefixesOf(back)).toEqual({ [`${HOST_NETWORK_6}:`]: LASTING });
  });

  test('resolvers and search list: rewritten, and rewritten again', async () => {
    const resolvConf = join(bench.scratch, 'resolv.conf');
    for (const n of [7, 8]) {
      const frame = await advertAfter(() => {
        writeFileSync(resolvConf, `nameserver 198.51.100.${n}\nnameserver 2001:db8:5::${n}\nsearch n${n}.example\n`);
        return Promise.resolve();
      });
      expect(await guest.dhcp()).toMatchObject({ dns: [`198.51.100.${n}`], search: [`n${n}.example`] });
      expect(resolversOf(frame)).toEqual({
        [`2001:db8:5::${n}`]: LASTING,
        ...(n === 8 ? { '2001:db8:5::7': 0 } : {}),
      });
    }
  });

  test('a neighbour that the kernel gets to know is announced, answered for, and forgotten when it goes', async () => {
    const gateway = await guest.askNeighbour(GATEWAY_4);
    const announced = Promise.all([
      guest.waitFrame((frame) => viewOf(frame).getUint16(12) === ETHER_ARP && frame[31] === 9, WAIT_MS),
      guest.waitFrame((frame) => isNdp(frame, NEIGHBOUR_ADVERT) && frame[ICMPV6_AT + 23] === 9, WAIT_MS),
    ]);
    await onHost(`
      ip neigh add 192.0.2.9 lladdr 02:00:5e:00:53:09 nud permanent dev eth0
      ip neigh add ${HOST_NETWORK_6}:9 lladdr 02:00:5e:00:53:0a nud permanent dev eth0`);
    const [arp, na] = await announced;
    expect(formatMac(arp.subarray(22, 28))).toBe('02:00:5e:00:53:09');
    expect(formatMac(na.subarray(ICMPV6_AT + 26, ICMPV6_AT + 32))).toBe('02:00:5e:00:53:0a');
    expect(await guest.askNeighbour('192.0.2.9')).toBe('02:00:5e:00:53:09');
    expect(await guest.askNeighbour(`${HOST_NETWORK_6}:9`)).toBe('02:00:5e:00:53:0a');

    // The first goes and a third comes: when that is announced, what went is gone.
    const third = guest.waitFrame((f) => viewOf(f).getUint16(12) === ETHER_ARP && f[31] === 11, WAIT_MS);
    await onHost(`
      ip neigh del 192.0.2.9 dev eth0
      ip neigh add 192.0.2.11 lladdr 02:00:5e:00:53:0b nud permanent dev eth0`);
    await third;
    expect(await guest.askNeighbour('192.0.2.9')).toBe(await guest.askNeighbour(GATEWAY_4));
    expect(gateway).not.toBe('02:00:5e:00:53:09');
  });

  test('thousands of routes and neighbours at once: what is lost on the way is asked for again', async () => {
    const neighbour = (i: number): string =>
      `neigh replace 192.0.2.${10 + (i % 200)} lladdr 02:00:5e:01:${(i >> 8).toString(16)}:${(i & 255).toString(16)} nud permanent dev eth0\n`;
    const batch = join(bench.scratch, 'batch');
    const route = (i: number): string => `route add 10.${i >> 8}.${i & 255}.0/24 via 192.0.2.1\n`;
    const COUNT = 20_000;
    writeFileSync(
      batch,
      Array.from({ length: COUNT }, (_, i) => route(i) + neighbour(i)).join('') +
        'neigh replace 192.0.2.250 lladdr 02:00:5e:00:53:fa nud permanent dev eth0\n',
    );
    // The program does not read meanwhile.
    process.kill(bench.service.process.pid, 'SIGSTOP');
    const last = guest.waitFrame((f) => viewOf(f).getUint16(12) === ETHER_ARP && f[31] === 250, WAIT_MS);
    try {
      await onHost(`ip -batch ${batch}`);
    } finally {
      process.kill(bench.service.process.pid, 'SIGCONT');
    }
    await last;
    const at = COUNT - 1;
    const mac = `02:00:5e:01:${(at >> 8).toString(16)}:${(at & 255).toString(16).padStart(2, '0')}`;
    expect(await guest.askNeighbour(`192.0.2.${10 + (at % 200)}`)).toBe(mac);
    // And it still follows.
    await advertAfter(() => onHost('ip addr add 192.0.2.66/26 dev eth0'));
    expect(await guest.dhcp()).toMatchObject({ address: '192.0.2.66', prefixLen: 26 });
  });

  test('it costs nothing while nothing happens', async () => {
    await advertAfter(() => onHost('ip addr add 192.0.2.66/26 dev eth0'));
    // The guest is gone, so that its timers are too.
    closeGuests();
    let before = switches(bench.service.process.pid);
    for (let tries = 0; tries < 20; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 1200));
      const now = switches(bench.service.process.pid);
      if (now === before) return;
      before = now;
    }
    throw new Error('its threads keep running');
  });

  test('--no-follow: its flows move, and the guest keeps what the host had at the start', async () => {
    expect(groupsOf(bench.service.process.pid).filter((groups) => groups !== 0)).toHaveLength(2);
    const socketPath = join(bench.scratch, 'fixed.sock');
    const fixed = await Service.start({ world: bench.world, socketPath, args: ['--no-follow'] });
    try {
      // Of addresses and routes, for the flows; none of neighbours.
      const membership = await poll(
        'its membership',
        () => {
          const all = groupsOf(fixed.process.pid).filter((groups) => groups !== 0);
          return all.length === 1 ? all[0] : null;
        },
        WAIT_MS,
      );
      expect(membership & RTMGRP_NEIGH).toBe(0);
      expect(membership & RTMGRP_IPV6_IFADDR).toBe(RTMGRP_IPV6_IFADDR);
      const other = await startGuest(native, fixed);
      await advertAfter(() => onHost('ip addr add 192.0.2.66/26 dev eth0'));
      expect(await guest.dhcp()).toMatchObject({ address: '192.0.2.66' });
      expect(await other.dhcp()).toMatchObject({ address: HOST_ADDRESS_4 });
    } finally {
      closeGuests();
      await fixed.stop('SIGKILL');
    }
  });

  test("--control: the host's addresses are listed, and an event when they change", async () => {
    const control = join(bench.scratch, 'control');
    const other = await Service.start({
      world: bench.world,
      socketPath: join(bench.scratch, 'other.sock'),
      args: ['--control', control],
    });
    const client = new ControlClient(control);
    const stop = new AbortController();
    try {
      const events = client.events('/v1/events', stop.signal);
      const heard = events.next();
      const own = { interface: 'eth0', address: HOST_ADDRESS_4, prefix: 24 };
      const before = await client.addresses();
      expect(before).toMatchObject({ guest: [], assigned: [HOST_ADDRESS_4, `${HOST_NETWORK_6}:2`] });
      expect(before.host).toContainEqual(own);
      await onHost('ip addr add 192.0.2.66/26 dev eth0');
      const told = await heard;
      expect(JSON.parse(told.done === true ? '{}' : told.value.data)).toMatchObject({
        event: 'host-addresses',
        data: { addresses: expect.stringContaining('192.0.2.66/26') as string },
      });
      expect((await client.addresses()).host).toContainEqual({ ...own, address: '192.0.2.66', prefix: 26 });
    } finally {
      stop.abort();
      await other.stop('SIGKILL');
    }
  });
});
