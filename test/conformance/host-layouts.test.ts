/**
 * What the program makes of hosts with all sorts of addresses and routes: it runs in a network namespace of that layout
 * and its start-up summary is read. The rules are those of docs/compatibility.md. Needs a build, and a user that may make
 * network namespaces; the whole file is skipped otherwise.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describeWith } from '../e2e/support';
import { PROGRAM } from '../support/program';
import { whyNoNamespaces } from '../support/world/host-world';
import { dieWithParent, ManagedProcess } from '../support/world/processes';

const LAST_LINE = /<interface type='vhostuser'>/;
const START_LIMIT_MS = 20_000;

jest.setTimeout(30_000);

let dir: string;
const running: ManagedProcess[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-layout-'));
});

afterEach(async () => {
  await Promise.all(running.splice(0).map((program) => program.stop('SIGTERM')));
  rmSync(dir, { recursive: true });
});

/** Two cables, eth0 and eth1, with nobody at their other ends. */
const CABLES = `
set -e
ip link set lo up
for i in 0 1; do
  ip link add eth$i type veth peer name far$i
  ip link set far$i up
done
`;

interface World {
  /** Commands that lay the network out. */
  readonly net: string;
  readonly resolvConf?: string;
  readonly argv?: readonly string[];
  /** Hard limit of open files. */
  readonly files?: number;
}

/** Starts the program in a namespace of its own; settles when it serves. Rejects with its output if it ends. */
async function start({ net, resolvConf = '', argv = [], files = 1024 }: World): Promise<ManagedProcess> {
  const resolv = join(dir, 'resolv.conf');
  writeFileSync(resolv, resolvConf);
  const script = `${CABLES}${net}
if [ -e /etc/resolv.conf ]; then mount --bind "$1" /etc/resolv.conf; fi
ulimit -n ${String(files)}
shift
exec "$@"`;
  const user = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user'];
  const program = new ManagedProcess(
    'tubetti',
    dieWithParent([
      ...['unshare', ...user, '--net', '--mount', 'sh', '-c', script, 'sh', resolv],
      ...[...PROGRAM, '-s', join(dir, 'socket'), '--runas', '0', ...argv],
    ]),
  );
  running.push(program);
  await program.waitForLine(LAST_LINE, START_LIMIT_MS);
  return program;
}

/** The summary's lines of that name, without it, and the notes before the summary. */
async function summaryOf(
  world: World,
): Promise<{ ip4: string; ip6: string; host: string[]; dns: string[]; all: string[] }> {
  const { lines } = await start(world);
  const named = (name: string): string[] =>
    lines.filter((line) => line.startsWith(`  ${name} `)).map((line) => line.slice(10).trim());
  return { ip4: named('IPv4')[0], ip6: named('IPv6')[0], host: named('host'), dns: named('DNS'), all: lines };
}

const LOCAL4 = '169.254.2.1/16, gateway 169.254.2.2 (local mode)';
const LOCAL6 = 'no global address, gateway fe80::1 (local mode)';

interface Layout {
  readonly name: string;
  readonly net: string;
  readonly argv?: readonly string[];
  readonly ip4: string | undefined;
  readonly ip6: string | undefined;
}

/** A link-local address of our choice, as the kernel's own is random or late. */
const link6 = (dev: string, host: number): string => `ip addr add fe80::${host}/64 dev ${dev} nodad\n`;
/** The kernel makes no addresses of its own on these. */
const up = (...devs: string[]): string => devs.map((dev) => `ip link set ${dev} addrgenmode none up\n`).join('');

const LAYOUTS: readonly Layout[] = [
  { name: 'nothing but loopback', net: '', ip4: LOCAL4, ip6: LOCAL6 },
  {
    name: 'both families, a gateway each',
    net: `${up('eth0')}ip addr add 192.0.2.2/24 dev eth0
ip route add default via 192.0.2.1
${link6('eth0', 2)}ip addr add 2001:db8::2/64 dev eth0 nodad
ip -6 route add default via 2001:db8::1`,
    ip4: '192.0.2.2/24, gateway 192.0.2.1 (from eth0)',
    ip6: '2001:db8::2/64, gateway 2001:db8::1 (from eth0)',
  },
  {
    name: 'no default route: the first other route says which interface, and there is no gateway, so no DHCP',
    net: `${up('eth0', 'eth1')}ip addr add 192.0.2.2/24 dev eth0
ip addr add 10.0.0.2/8 dev eth1
ip route add 198.51.100.0/24 via 10.0.0.1`,
    ip4: '10.0.0.2/8, no gateway, no DHCP (from eth1)',
    ip6: LOCAL6,
  },
  {
    name: 'connected networks alone: they are routes on the link, not out of it',
    net: `${up('eth0')}ip addr add 192.0.2.2/24 dev eth0`,
    ip4: LOCAL4,
    ip6: LOCAL6,
  },
  {
    name: 'a /32 address with a gateway on the link (the habit of cloud hosts)',
    net: `${up('eth0')}ip addr add 192.0.2.2/32 dev eth0
ip route add 172.31.1.1 dev eth0
ip route add default via 172.31.1.1`,
    ip4: '192.0.2.2/32, gateway 172.31.1.1 (from eth0)',
    ip6: LOCAL6,
  },
  {
    name: 'the longest prefix wins, the first of equals',
    net: `${up('eth0')}ip addr add 192.0.2.2/24 dev eth0
ip addr add 203.0.113.7/28 dev eth0
ip addr add 203.0.113.99/28 dev eth0
ip route add default via 192.0.2.1`,
    ip4: '203.0.113.7/28, gateway 192.0.2.1 (from eth0)',
    ip6: LOCAL6,
  },
  {
    name: 'two uplinks: the lower metric',
    net: `${up('eth0', 'eth1')}ip addr add 192.0.2.2/24 dev eth0
ip addr add 198.51.100.2/24 dev eth1
ip route add default via 192.0.2.1 metric 200
ip route add default via 198.51.100.1 metric 100`,
    ip4: '198.51.100.2/24, gateway 198.51.100.1 (from eth1)',
    ip6: LOCAL6,
  },
  {
    name: 'two uplinks, one asked for',
    net: `${up('eth0', 'eth1')}ip addr add 192.0.2.2/24 dev eth0
ip addr add 198.51.100.2/24 dev eth1
ip route add default via 192.0.2.1 metric 200
ip route add default via 198.51.100.1 metric 100`,
    argv: ['-i', 'eth0'],
    ip4: '192.0.2.2/24, gateway 192.0.2.1 (from eth0)',
    ip6: LOCAL6,
  },
  {
    name: 'an uplink for each family',
    net: `${up('eth0', 'eth1')}ip addr add 192.0.2.2/24 dev eth0
ip route add default via 192.0.2.1
${link6('eth1', 2)}ip addr add 2001:db8:1::2/64 dev eth1 nodad
ip -6 route add default via fe80::99 dev eth1`,
    ip4: '192.0.2.2/24, gateway 192.0.2.1 (from eth0)',
    ip6: '2001:db8:1::2/64, gateway fe80::99 (from eth1)',
  },
  {
    name: 'several next hops: the first one says which interface, and the heaviest of those over it is the gateway',
    net: `${up('eth0', 'eth1')}ip addr add 192.0.2.2/24 dev eth0
ip addr add 198.51.100.2/24 dev eth1
ip route add default nexthop via 192.0.2.1 weight 1 nexthop via 198.51.100.1 weight 9 nexthop via 192.0.2.3 weight 5`,
    ip4: '192.0.2.2/24, gateway 192.0.2.3 (from eth0)',
    ip6: LOCAL6,
  },
  {
    name: 'several next hops, IPv6',
    net: `${up('eth0', 'eth1')}${link6('eth0', 2)}${link6('eth1', 3)}ip addr add 2001:db8::2/64 dev eth0 nodad
ip -6 route add default nexthop via fe80::a dev eth0 weight 1 nexthop via fe80::b dev eth1 weight 3`,
    ip4: LOCAL4,
    ip6: '2001:db8::2/64, gateway fe80::a (from eth0)',
  },
  {
    name: 'a default route onto the link: a gateway is made up for IPv4',
    net: `${up('eth0')}ip addr add 192.0.2.2/24 dev eth0
ip route add default dev eth0 scope global
${link6('eth0', 2)}ip addr add 2001:db8::2/64 dev eth0 nodad
ip -6 route add default dev eth0`,
    ip4: '192.0.2.2/24, gateway 169.254.2.2 (from eth0)',
    ip6: '2001:db8::2/64, no gateway (from eth0)',
  },
  {
    name: 'IPv4 by way of an IPv6 router',
    net: `${up('eth0')}ip addr add 192.0.2.2/32 dev eth0
${link6('eth0', 2)}ip -4 route add default via inet6 fe80::99 dev eth0`,
    ip4: '192.0.2.2/32, gateway 169.254.2.2 (from eth0)',
    ip6: LOCAL6,
  },
  {
    name: 'IPv4 by way of several IPv6 routers',
    net: `${up('eth0', 'eth1')}ip addr add 192.0.2.2/24 dev eth0
${link6('eth0', 2)}ip -4 route add default nexthop via inet6 fe80::98 dev eth0 nexthop via inet6 fe80::99 dev eth0`,
    ip4: '192.0.2.2/24, gateway 169.254.2.2 (from eth0)',
    ip6: LOCAL6,
  },
  {
    name: 'next hop objects that routes only name',
    net: `sysctl -qw net.ipv4.nexthop_compat_mode=0
${up('eth0', 'eth1')}ip addr add 192.0.2.2/24 dev eth0
${link6('eth1', 2)}ip addr add 2001:db8::2/64 dev eth1 nodad
ip nexthop add id 4 via 192.0.2.1 dev eth0
ip nexthop add id 6 via fe80::99 dev eth1
ip route add default nhid 4
ip -6 route add default nhid 6`,
    ip4: '192.0.2.2/24, gateway 192.0.2.1 (from eth0)',
    ip6: '2001:db8::2/64, gateway fe80::99 (from eth1)',
  },
  {
    name: 'a group of next hop objects, and one that throws packets away',
    net: `sysctl -qw net.ipv4.nexthop_compat_mode=0
${up('eth0')}ip addr add 192.0.2.2/24 dev eth0
ip nexthop add id 1 via 192.0.2.1 dev eth0
ip nexthop add id 2 via 192.0.2.3 dev eth0
ip nexthop add id 3 blackhole
ip nexthop add id 9 group 1,1/2,5
ip route add default nhid 3 metric 1
ip route add default nhid 9 metric 2`,
    ip4: '192.0.2.2/24, gateway 192.0.2.3 (from eth0)',
    ip6: LOCAL6,
  },
  {
    name: 'an address that is not preferred comes after one that is, whatever its prefix',
    net: `${up('eth0')}ip addr add 192.0.2.9/28 dev eth0 preferred_lft 0
ip addr add 192.0.2.2/24 dev eth0
ip route add default via 192.0.2.1`,
    ip4: '192.0.2.2/24, gateway 192.0.2.1 (from eth0)',
    ip6: LOCAL6,
  },
  {
    name: 'a default route of link scope leads nowhere beyond: a guest with a link of its own gets DHCP',
    net: `${up('eth0')}ip addr add 192.0.2.2/24 dev eth0
ip route add default dev eth0`,
    ip4: LOCAL4,
    ip6: LOCAL6,
  },
  {
    name: 'a peer address: the own one counts',
    net: `${up('eth0')}ip addr add 10.9.0.2 peer 10.9.0.1/32 dev eth0
ip route add default via 10.9.0.1`,
    ip4: '10.9.0.2/32, gateway 10.9.0.1 (from eth0)',
    ip6: LOCAL6,
  },
  {
    name: 'IPv6 only; a deprecated address does not count',
    net: `${up('eth0')}${link6('eth0', 2)}ip addr add 2001:db8::dead/128 dev eth0 nodad preferred_lft 0
ip addr add 2001:db8::2/64 dev eth0 nodad
ip -6 route add default via fe80::99 dev eth0`,
    ip4: LOCAL4,
    ip6: '2001:db8::2/64, gateway fe80::99 (from eth0)',
  },
  {
    name: 'link-local addresses only',
    net: `${up('eth0')}${link6('eth0', 2)}ip -6 route add default via fe80::99 dev eth0`,
    ip4: LOCAL4,
    ip6: LOCAL6,
  },
  {
    name: 'a global address without a link-local one',
    net: `${up('eth0')}ip addr add 2001:db8::2/64 dev eth0 nodad
ip -6 route add default via 2001:db8::1`,
    ip4: LOCAL4,
    ip6: LOCAL6,
  },
  {
    name: 'routes of other tables do not count',
    net: `${up('eth0', 'eth1')}ip addr add 192.0.2.2/24 dev eth0
ip addr add 198.51.100.2/24 dev eth1
ip route add default via 198.51.100.1 table 100
ip route add default via 192.0.2.1`,
    ip4: '192.0.2.2/24, gateway 192.0.2.1 (from eth0)',
    ip6: LOCAL6,
  },
  {
    name: 'a route that throws packets away is none',
    net: `${up('eth0')}ip addr add 192.0.2.2/24 dev eth0
ip route add unreachable default metric 1
ip route add default via 192.0.2.1 metric 2`,
    ip4: '192.0.2.2/24, gateway 192.0.2.1 (from eth0)',
    ip6: LOCAL6,
  },
  {
    name: 'one family only',
    net: `${up('eth0')}ip addr add 192.0.2.2/24 dev eth0
ip route add default via 192.0.2.1`,
    argv: ['-4'],
    ip4: '192.0.2.2/24, gateway 192.0.2.1 (from eth0)',
    ip6: undefined,
  },
  {
    name: 'what the command line says replaces what the host says',
    net: `${up('eth0')}ip addr add 192.0.2.2/24 dev eth0
ip route add default via 192.0.2.1`,
    argv: ['-a', '10.1.2.3', '-n', '255.255.255.128', '-g', '10.1.2.1', '-a', '2001:db8:7::7', '-g', '2001:db8:7::1'],
    ip4: '10.1.2.3/25, gateway 10.1.2.1 (from eth0)',
    ip6: '2001:db8:7::7/64, gateway 2001:db8:7::1 (local mode)',
  },
];

describeWith('the template interface', whyNoNamespaces(), () => {
  test.each(LAYOUTS)('$name', async ({ net, argv, ip4, ip6 }) => {
    const summary = await summaryOf({ net, ...(argv === undefined ? {} : { argv }) });
    expect({ ip4: summary.ip4, ip6: summary.ip6 }).toEqual({ ip4, ip6 });
  });
});

const ONE_UPLINK = `${up('eth0')}ip addr add 192.0.2.2/24 dev eth0
ip route add default via 192.0.2.1
${link6('eth0', 2)}ip addr add 2001:db8::2/64 dev eth0 nodad
ip -6 route add default via 2001:db8::1`;

interface Names {
  readonly name: string;
  readonly resolvConf: string;
  readonly argv?: readonly string[];
  /** Resolvers that the guest is told of. */
  readonly dns4: string | null;
  readonly dns6?: string;
  /** Where intercepted queries go. */
  readonly lines?: readonly string[];
  readonly search?: string;
  readonly warning?: RegExp;
}

const NAMES: readonly Names[] = [
  { name: 'none', resolvConf: '', dns4: null },
  {
    name: 'three of each family at most, unchanged, blanks and tabs alike',
    resolvConf: `nameserver 198.51.100.1
nameserver\t198.51.100.2
nameserver   198.51.100.3 # the third
nameserver 198.51.100.4
nameserver 2001:db8:5::1
nameserver fe80::5%eth0
options ndots:2`,
    dns4: '198.51.100.1, 198.51.100.2, 198.51.100.3',
    dns6: '2001:db8:5::1, fe80::5',
  },
  {
    name: 'a resolver on loopback is reached through the address that stands for the host',
    resolvConf: 'nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch example.test corp.example\n',
    dns4: '192.0.2.1',
    lines: ['queries to 192.0.2.1 go to 127.0.0.53:53'],
    search: 'example.test corp.example',
  },
  {
    name: 'on IPv6 loopback too, beside an ordinary one',
    resolvConf: 'nameserver ::1\nnameserver 2001:db8:5::1\n',
    dns4: null,
    dns6: '2001:db8::1, 2001:db8:5::1',
    lines: ['queries to 2001:db8::1 go to [::1]:53'],
  },
  {
    name: 'nothing stands for the host: the guest is not told of a resolver that it cannot reach',
    resolvConf: 'nameserver 127.0.0.53\n',
    argv: ['--no-map-gw'],
    dns4: null,
    warning: /127\.0\.0\.53 is not reachable from the guest/,
  },
  {
    name: '--dns-forward: an address of its own for that',
    resolvConf: 'nameserver 127.0.0.53\n',
    argv: ['--no-map-gw', '--dns-forward', '10.255.255.53'],
    dns4: '10.255.255.53',
    lines: ['queries to 10.255.255.53 go to 127.0.0.53:53'],
  },
  {
    name: '--dns-host: another resolver for what is intercepted',
    resolvConf: 'nameserver 198.51.100.1\n',
    argv: ['--dns-forward', '10.255.255.53', '--dns-host', '127.0.0.1'],
    dns4: '198.51.100.1',
    lines: ['queries to 10.255.255.53 go to 127.0.0.1:53'],
  },
  {
    name: '-D: what is given is told as it is, for its family alone',
    resolvConf: 'nameserver 198.51.100.1\nnameserver 2001:db8:5::1\n',
    argv: ['-D', '203.0.113.1', '-D', '203.0.113.2'],
    dns4: '203.0.113.1, 203.0.113.2',
    dns6: '2001:db8:5::1',
  },
  {
    name: '-D with --dns-forward: intercepted queries still have somewhere to go',
    resolvConf: 'nameserver 198.51.100.1\n',
    argv: ['-D', '203.0.113.1', '--dns-forward', '10.255.255.53'],
    dns4: '203.0.113.1',
    lines: ['queries to 10.255.255.53 go to 198.51.100.1:53'],
  },
  {
    name: 'a host without IPv4 resolvers, and a guest with both families',
    resolvConf: 'nameserver 2001:db8:5::1\n',
    dns4: null,
    dns6: '2001:db8:5::1',
  },
  { name: '-D none', resolvConf: 'nameserver 198.51.100.1\n', argv: ['-D', 'none'], dns4: null },
  {
    name: "-S instead of the host's search list",
    resolvConf: 'search example.test\n',
    argv: ['-S', 'a.example', '-S', 'b.example'],
    dns4: null,
    search: 'a.example b.example',
  },
];

describeWith('resolvers', whyNoNamespaces(), () => {
  test.each(NAMES)('$name', async ({ resolvConf, argv = [], dns4, dns6, lines = [], search, warning }) => {
    const summary = await summaryOf({ net: ONE_UPLINK, resolvConf, argv });
    const told = (dns: string | null | undefined): string => (dns === null || dns === undefined ? '' : `, DNS ${dns}`);
    expect(summary.ip4).toBe(`192.0.2.2/24, gateway 192.0.2.1${told(dns4)} (from eth0)`);
    expect(summary.ip6).toBe(`2001:db8::2/64, gateway 2001:db8::1${told(dns6)} (from eth0)`);
    expect(summary.dns).toEqual(lines);
    const link = summary.all.find((line) => line.startsWith('  link '));
    expect(/, search (.*)$/.exec(link ?? '')?.[1]).toBe(search);
    const warnings = summary.all.filter((line) => line.includes('warning'));
    expect(warnings).toHaveLength(warning === undefined ? 0 : 1);
    if (warning !== undefined) expect(warnings[0]).toMatch(warning);
  });
});

/** Local ports of sockets in the program's namespace, by /proc/net's table and the state's number. */
function portsIn(program: ManagedProcess, table: string, state: string): number[] {
  const rows = readFileSync(`/proc/${String(program.pid)}/net/${table}`, 'latin1')
    .trimEnd()
    .split('\n')
    .slice(1);
  const fields = rows.map((row) => row.trim().split(/\s+/));
  return fields.filter((row) => row[3] === state).map((row) => parseInt(row[1].split(':')[1], 16));
}

/** How often threads of the program were switched to. */
function switches(program: ManagedProcess): number {
  const tasks = `/proc/${String(program.pid)}/task`;
  return readdirSync(tasks)
    .map((task) => readFileSync(`${tasks}/${task}/status`, 'latin1'))
    .flatMap((text) => [.../ctxt_switches:\s+(\d+)/g[Symbol.matchAll](text)])
    .reduce((sum, match) => sum + Number(match[1]), 0);
}

describeWith('all ports', whyNoNamespaces(), () => {
  const TCP_LISTEN = '0A';
  const UDP_OPEN = '07';
  const firstPorts = (count: number): number[] => Array.from({ length: count }, (_, i) => 1 + i);
  const net = "echo '32768 60999' >/proc/sys/net/ipv4/ip_local_port_range";

  test('half of the limit of open files is for them, shared by -t and -u, lowest ports first', async () => {
    const program = await start({ net, argv: ['-t', 'all', '-u', 'all'], files: 600 });
    expect(portsIn(program, 'tcp6', TCP_LISTEN).sort((a, b) => a - b)).toEqual(firstPorts(150));
    expect(portsIn(program, 'udp6', UDP_OPEN).sort((a, b) => a - b)).toEqual(firstPorts(150));
    const left = String(32767 + 4536 - 150);
    for (const option of ['-t all', '-u all']) {
      expect(program.lines).toContain(
        `  forward  ${option}: left out the highest ${left} ports, the limit of open files is too low`,
      );
    }
  });

  test('named ports come first', async () => {
    const program = await start({ net, argv: ['-t', 'all', '-t', '40000-40009'], files: 600 });
    const ports = portsIn(program, 'tcp6', TCP_LISTEN);
    expect(ports.filter((port) => port >= 40000)).toHaveLength(10);
    expect(ports).toHaveLength(300);
  });

  test('named ports without descriptors: one line that says what to do, and the end', async () => {
    await expect(start({ net, argv: ['-t', '1-700'], files: 600 })).rejects.toThrow(
      /ended \(status 1\)[^]*-t 1-700: cannot bind port \d+: too many open files \(raise the hard limit of RLIMIT_NOFILE/,
    );
  });

  test('thousands of listeners cost nothing while nobody connects', async () => {
    const program = await start({ net, argv: ['-t', 'all', '-u', 'all'], files: 8000 });
    expect(portsIn(program, 'tcp6', TCP_LISTEN)).toHaveLength(2000);
    // The program may still tidy up after its start; then it must come to rest.
    let before = switches(program);
    for (let tries = 0; tries < 20; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 250));
      const now = switches(program);
      if (now === before) return;
      before = now;
    }
    throw new Error('its threads keep running');
  });
});
