/**
 * What datagrams of a real guest must do beside arriving: ports, hop limits, errors, groups, sizes, numbers. The MTU is
 * 1500.
 */
import type { Guest } from '../support/world/guest';
import { GATEWAY_4, GATEWAY_6, REMOTE_ADDRESS_4, REMOTE_ADDRESS_6 } from '../support/world/host-world';
import { command } from '../support/world/processes';
import type { Bench } from './support';
import { openDescriptors } from './tcp-support';

/** Addresses that the remote end, as a router, has a route for, and nobody beyond. */
export const BEYOND_4 = '203.0.113.9';
/** The MTU of the way there, less than that of the cable. */
export const NARROW = 1300;
const BEYOND_6 = '2001:db8:0:3::9';
const NTP = 123;
const DNS = 53;
const GROUP = '239.255.1.2';
const GROUP_PORT = 1900;
const TFTP = 69;
const LARGEST = 65_507;
/** Addresses that stand for the resolver which {@link SERVICE_ARGS} names. */
const INTERCEPTED_4 = '10.255.255.53';
const INTERCEPTED_6 = 'fd00:53::53';

const REMOTES = [
  ['IPv4', REMOTE_ADDRESS_4],
  ['IPv6', REMOTE_ADDRESS_6],
] as const;

/** The cases count on these options; questions to the intercepted addresses go to the remote end. */
export const SERVICE_ARGS = [
  ...['-m', '1500'],
  ...['--dns-forward', INTERCEPTED_4, '--dns-host', REMOTE_ADDRESS_4],
  ...['--dns-forward', INTERCEPTED_6, '--dns-host', REMOTE_ADDRESS_6],
];

export interface DatagramStage {
  readonly bench: Bench;
  readonly guest: Guest;
  /** Ports in each family that a question is asked from: {@link LARGE_CASES}. */
  readonly questions: number;
}

export interface DatagramCase {
  readonly title: string;
  readonly run: (stage: DatagramStage) => Promise<void>;
}

/** What the cases need of the world: the remote end routes, and answers at ports that are known. */
export async function prepareWorld(bench: Bench): Promise<void> {
  const routing = `
    echo 1 >/proc/sys/net/ipv4/ip_forward
    echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
    echo 0 >/proc/sys/net/ipv6/icmp/ratelimit
    echo 0 >/proc/sys/net/ipv4/icmp_ratelimit
    echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts
    echo 0 >/proc/sys/net/ipv4/conf/all/send_redirects
    echo 0 >/proc/sys/net/ipv4/conf/eth0/send_redirects
    echo 1 >/proc/sys/net/ipv4/neigh/eth0/mcast_solicit
    ip route add 203.0.113.0/24 dev eth0 mtu ${String(NARROW)}
    ip -6 route add 2001:db8:0:3::/64 dev eth0`;
  await command(bench.world.inRemote(['sh', '-ec', routing]));
  const { remote } = bench.world;
  await remote.call('udpEchoOn', { port: NTP });
  await remote.call('udpEchoOn', { port: DNS });
  await remote.call('tftpOn', { port: TFTP });
  await remote.call('groupResponder', { group: GROUP, address: GATEWAY_4, port: GROUP_PORT });
}

export const DATAGRAM_CASES: readonly DatagramCase[] = [
  {
    title: 'an exchange from source port 123, which the host does not give to users',
    run: async ({ guest }) => {
      for (const [, address] of REMOTES) {
        const echo = await guest.result(`guest-net udp-echo ${address} ${String(NTP)} 48 3 123`, 'udp-echo');
        expect(echo.count).toBe('3');
      }
    },
  },
  {
    title: 'the hop limit is the guest’s: ping -t 1 gets as far as the router',
    run: async ({ guest }) => {
      expect((await guest.run(`ping -c 1 -W 1 -t 1 ${BEYOND_4}`)).output).toContain('0 packets received');
      await guest.sh(`ping -c 1 -W 3 -t 1 ${GATEWAY_4}`);
    },
  },
  {
    title: 'the hop limit of a reply is the network’s',
    run: async ({ guest }) => {
      expect(await guest.sh(`ping -c 1 -W 3 ${REMOTE_ADDRESS_4}`)).toContain('ttl=64');
    },
  },
  {
    title: 'traceroute by datagrams and by echo names the router',
    run: async ({ guest }) => {
      for (const how of ['', '-I']) {
        const output = await guest.sh(`traceroute ${how} -n -m 1 -q 1 -w 3 ${BEYOND_4}`);
        expect(output).toMatch(/^ *1 +192\.0\.2\.1 /m);
      }
      const there = await guest.sh(`traceroute -n -m 3 -q 1 -w 3 ${REMOTE_ADDRESS_4}`);
      expect(there).toMatch(/^ *1 +198\.51\.100\.1 /m);
      const six = await guest.sh(`traceroute6 -n -m 1 -q 1 -w 3 ${BEYOND_6}`);
      expect(six).toContain(GATEWAY_6);
    },
  },
  {
    title: 'a question to a group is answered by one that the guest did not know',
    run: async ({ guest }) => {
      const found = await guest.result(`guest-net udp-discover ${GROUP} ${String(GROUP_PORT)}`, 'udp-discover');
      expect(found).toEqual({ from: GATEWAY_4, port: String(GROUP_PORT) });
    },
  },
  {
    title: 'TFTP, whose server answers from another port, both ways',
    run: async ({ bench, guest }) => {
      const { remote } = bench.world;
      const bytes = 100_000;
      const { sha256 } = await remote.call('setBlob', { bytes, seed: 4 });
      for (const [, address] of REMOTES) {
        const got = await guest.sh(`rm -f /tmp/got && tftp -g -r any -l /tmp/got ${address} && sha256sum </tmp/got`);
        expect(got).toContain(sha256);
        await guest.sh(`head -c 70001 /tmp/got >/tmp/put && tftp -p -l /tmp/put -r any ${address}`);
        const put = await guest.sh('sha256sum </tmp/put');
        expect(await remote.call('lastTftpPut', {})).toEqual({ sha256: put.slice(0, 64), bytes: 70_001 });
      }
    },
  },
];

/** What moves much: not to be captured. */
export const LARGE_CASES: readonly DatagramCase[] = [
  {
    title: 'the largest datagrams, both ways, in fragments of 1500 bytes',
    run: async ({ bench, guest }) => {
      const { udp } = bench.world.remote.ports;
      for (const [, address] of REMOTES) {
        for (const size of [1472, 1473, 9000, LARGEST]) {
          const echo = await guest.result(`guest-net udp-echo ${address} ${String(udp)} ${String(size)} 5`, 'udp-echo');
          expect(echo.size).toBe(String(size));
        }
      }
    },
  },
  {
    title: 'ping of any length',
    run: async ({ guest }) => {
      for (const size of [0, 1472, 1473, 60_000]) {
        for (const [family, address] of REMOTES) {
          const ping = family === 'IPv4' ? 'ping' : 'ping6';
          const output = await guest.sh(`${ping} -c 2 -i 0.1 -W 5 -s ${String(size)} ${address}`);
          expect(output).toMatch(/2 packets transmitted, 2 packets received/);
        }
      }
    },
  },
  {
    title: 'questions to an intercepted resolver, each from a socket of its own, and none lost',
    run: ({ guest }) => askFromPorts(guest, 'udp-many', 500),
  },
  {
    title: 'questions from a hundred thousand ports (fewer, if emulated), and none lost',
    run: async ({ bench, guest, questions }) => {
      await askFromPorts(guest, 'udp-ports', questions);
      expect(await bench.service.metric('tubetti_drops_total', { reason: 'no_descriptors' })).toBe(0);
      expect(openDescriptors(bench.service)).toBeLessThan(100_000);
    },
  },
];

/** Asks the intercepted resolver in each family, by a verb of guest-net, from `count` ports. */
async function askFromPorts(guest: Guest, verb: string, count: number): Promise<void> {
  for (const address of [INTERCEPTED_4, INTERCEPTED_6]) {
    const command = `guest-net ${verb} ${address} ${String(DNS)} ${String(count)}`;
    const asked = await guest.result(command, verb, { timeoutMs: 120_000 });
    expect(asked).toMatchObject({ count: String(count), answered: String(count), lost: '0' });
  }
}
