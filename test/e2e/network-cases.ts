/**
 * What a guest's network must do, as data: each case is run on every kind of guest and in both address families.
 */
import type { Guest } from '../support/world/guest';
import {
  GATEWAY_4,
  GATEWAY_6,
  HOST_ADDRESS_4,
  HOST_ADDRESS_6,
  HOST_NETWORK_6,
  HOST_PREFIX_4,
  REMOTE_ADDRESS_4,
  REMOTE_ADDRESS_6,
  RESOLVER,
} from '../support/world/host-world';
import { hasDhclient } from '../support/world/image';
import type { Bench } from './support';

export const FORWARDED_PORT = 2222;
export const GUEST_PORT = 22;
/** The options the cases count on. */
export const SERVICE_ARGS = ['-t', `${FORWARDED_PORT}:${GUEST_PORT}`, '-u', `${FORWARDED_PORT}:${GUEST_PORT}`];

const MIB = 1 << 20;
/** TCG on a busy machine moves some tens of megabytes a second. */
const BULK_TIMEOUT_MS = 240_000;
const DEFAULT_MTU = '65520';

export interface Family {
  readonly name: 'IPv4' | 'IPv6';
  readonly gateway: string;
  readonly host: string;
  readonly remote: string;
  readonly loopback: string;
}

export const FAMILIES: readonly Family[] = [
  { name: 'IPv4', gateway: GATEWAY_4, host: HOST_ADDRESS_4, remote: REMOTE_ADDRESS_4, loopback: '127.0.0.1' },
  { name: 'IPv6', gateway: GATEWAY_6, host: HOST_ADDRESS_6, remote: REMOTE_ADDRESS_6, loopback: '::1' },
];

/** A guest, what it runs on, and the family to look at. */
export interface Place extends Family {
  readonly bench: Bench;
  readonly guest: Guest;
}

export interface CaseContext extends Place {
  /** How much a bulk transfer is. */
  readonly bulkBytes: number;
}

export interface NetworkCase {
  readonly title: string;
  /** Absent: both. */
  readonly only?: Family['name'];
  /** What it needs is not there (the set-up said so). */
  readonly skip?: boolean;
  readonly run: (context: CaseContext) => Promise<void>;
}

/**
 * Configures the guest's address, with nothing waited for that has a case of its own; a guest that has just booted needs
 * this in each family.
 */
export async function bringUp(guest: Guest, family: Family): Promise<void> {
  await guest.sh(family.name === 'IPv4' ? 'net-up 4' : 'net-up 6 at-once', { timeoutMs: 60_000 });
}

/** The shortest proof that the network works: an answer from beyond the gateway. */
export async function expectConnected(context: Place): Promise<void> {
  const prepare = `head -c ${MIB} /dev/urandom >/tmp/probe && [ $(wc -c </tmp/probe) = ${MIB} ]`;
  const received = await upload(context, prepare, '/tmp/probe');
  const digest = await context.guest.sh('sha256sum </tmp/probe');
  expect(received).toEqual({ sha256: digest.slice(0, 64), bytes: MIB });
}

export const NETWORK_CASES: readonly NetworkCase[] = [
  {
    title: 'DHCP gives the address, prefix, router, resolver and MTU of the host',
    only: 'IPv4',
    run: async ({ guest }) => {
      const lease = await guest.result('net-up 4', 'dhcp', { timeoutMs: 60_000 });
      expect(lease).toMatchObject({
        ip: HOST_ADDRESS_4,
        prefix: String(HOST_PREFIX_4),
        router: GATEWAY_4,
        dns: RESOLVER,
        mtu: DEFAULT_MTU,
      });
    },
  },
  {
    title: "SLAAC gives an address in the host's network, and a link-local router",
    only: 'IPv6',
    run: async ({ guest }) => {
      const slaac = await guest.result('net-up 6', 'slaac', { timeoutMs: 60_000 });
      expect(slaac).toMatchObject({ prefix: '64', mtu: DEFAULT_MTU });
      expect(slaac.ip).toMatch(new RegExp(`^${HOST_NETWORK_6}`));
      expect(slaac.router).toMatch(/^fe80::/);
    },
  },
  {
    title: "DHCPv6 gives the host's address",
    only: 'IPv6',
    skip: !hasDhclient(),
    run: async ({ guest }) => {
      expect(await guest.result('net-up dhcp6', 'dhcp6', { timeoutMs: 60_000 })).toMatchObject({ ip: HOST_ADDRESS_6 });
    },
  },
  {
    title: 'the gateway and an address beyond it answer pings',
    run: async ({ guest, gateway, remote }) => {
      for (const address of [gateway, remote]) {
        expect(await guest.sh(`ping -A -c 3 -W 5 ${address}`)).toMatch(/ 0% packet loss/);
      }
      expect(await guest.sh(`ping -A -c 2 -W 5 -s 1400 ${remote}`)).toMatch(/ 0% packet loss/);
    },
  },
  {
    title: 'bulk data comes down unchanged',
    run: async (context) => {
      const { guest, bench, remote, bulkBytes } = context;
      const { sha256 } = await bench.world.remote.call('setBlob', { bytes: bulkBytes, seed: 4 });
      const port = bench.world.remote.ports.blob;
      const digest = await guest.sh(`guest-net tcp-receive ${remote} ${port} >/tmp/bulk && sha256sum </tmp/bulk`, {
        timeoutMs: BULK_TIMEOUT_MS,
      });
      expect(digest.slice(0, 64)).toBe(sha256);
    },
  },
  {
    title: 'bulk data goes up unchanged',
    run: async (context) => {
      const { bulkBytes } = context;
      const { sha256 } = await context.bench.world.remote.call('setBlob', { bytes: bulkBytes, seed: 4 });
      expect(await upload(context, 'test -f /tmp/bulk', '/tmp/bulk')).toEqual({ sha256, bytes: bulkBytes });
      await context.guest.sh('rm /tmp/bulk');
    },
  },
  {
    title: 'fifty connections at once each get their own bytes back',
    run: async ({ guest, bench, remote }) => {
      const script = `
        rm -rf /tmp/many; mkdir /tmp/many; cd /tmp/many
        for i in $(seq 50); do
          { seq $i $((i + 5000)) >$i.sent; guest-net tcp-send ${remote} ${bench.world.remote.ports.echo} <$i.sent >$i.back; } &
        done
        wait
        for i in $(seq 50); do cmp $i.sent $i.back && echo same; done | grep -c same`;
      expect((await guest.sh(script, { timeoutMs: 90_000 })).trim()).toBe('50');
    },
  },
  {
    title: 'a closed port refuses at once',
    run: async ({ guest, remote }) => {
      const { status, output } = await guest.run(`guest-net tcp-send ${remote} 1`, { timeoutMs: 10_000 });
      expect({ status, output }).toEqual({ status: 1, output: 'connect: Connection refused' });
    },
  },
  ...[1, 1400, 8000].map((size): NetworkCase => {
    return {
      title: `datagrams of ${size} bytes come back unchanged`,
      run: async ({ guest, bench, remote }) => {
        const script = `guest-net udp-echo ${remote} ${bench.world.remote.ports.udp} ${size} 50`;
        expect(await guest.result(script, 'udp-echo')).toMatchObject({ count: '50', resent: '0' });
      },
    };
  }),
  {
    title: 'bursts of datagrams keep their boundaries and their order',
    run: async ({ guest, bench, remote }) => {
      for (const size of [200, 1400]) {
        const script = `guest-net udp-burst ${remote} ${bench.world.remote.ports.udp} ${size} 240`;
        expect(await guest.result(script, 'udp-burst')).toMatchObject({ count: '240', exact: '240' });
      }
    },
  },
  {
    title: "the gateway's address stands for the host's loopback",
    run: async ({ guest, bench, gateway }) => {
      const script = `echo hello | guest-net tcp-send ${gateway} ${bench.world.host.ports.echo}`;
      expect((await guest.sh(script)).trim()).toBe('hello');
    },
  },
  {
    title: 'a forwarded TCP port reaches the guest, from the host and from outside',
    run: async ({ guest, bench, loopback, host }) => {
      await guest.sh(`killall guest-net; guest-net tcp-serve ${GUEST_PORT}`);
      const bytes = 8 * MIB;
      const inside = await bench.world.host.call('tcpEcho', { address: loopback, port: FORWARDED_PORT, bytes });
      expect(inside.received).toMatchObject({ bytes, sha256: inside.sent.sha256 });
      const outside = await bench.world.remote.call('tcpEcho', { address: host, port: FORWARDED_PORT, bytes });
      expect(outside.received).toMatchObject({ bytes, sha256: outside.sent.sha256 });
    },
  },
  {
    title: 'a forwarded UDP port reaches the guest, from the host and from outside',
    run: async ({ guest, bench, loopback, host }) => {
      await guest.sh(`killall guest-net; guest-net udp-serve ${GUEST_PORT}`);
      for (const bytes of [1, 1400, 8000]) {
        const datagram = { port: FORWARDED_PORT, bytes, timeoutMs: 5000 };
        expect(await bench.world.host.call('udpEcho', { address: loopback, ...datagram })).toEqual({ ok: true });
        expect(await bench.world.remote.call('udpEcho', { address: host, ...datagram })).toEqual({ ok: true });
      }
    },
  },
];

/** The table in both families, with `test` as the function that makes a test of a title and a body. */
export function testNetwork(
  test: (title: string, body: () => Promise<void>) => void,
  context: () => Omit<CaseContext, keyof Family>,
): void {
  for (const family of FAMILIES) {
    describe(family.name, () => {
      for (const { title, only, skip, run } of NETWORK_CASES) {
        if (only !== undefined && only !== family.name) continue;
        if (skip === true) it.skip(title, () => undefined);
        else test(title, () => run({ ...context(), ...family }));
      }
    });
  }
}

/** Runs `prepare` in the guest and sends a file to the sink beyond the gateway; what the sink counted. */
async function upload(
  { guest, bench, remote }: Place,
  prepare: string,
  file: string,
): Promise<{ sha256: string; bytes: number }> {
  const script = `${prepare} && guest-net tcp-send ${remote} ${bench.world.remote.ports.sink} <${file}`;
  const output = await guest.sh(script, { timeoutMs: BULK_TIMEOUT_MS });
  const [sha256 = '', bytes = ''] = output.trim().split(' ');
  return { sha256, bytes: Number(bytes) };
}
