/**
 * One row for each option: what it takes, what it refuses, what is said then, and with which exit status. Refusals are
 * those of the real program: one line on stderr that names the option, and 1. Needs a build (dist/ and the addon).
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseOptions } from '../../src/cli/options';
import { OPTIONS } from '../../src/cli/option-table';
import { launchProgram, type Result, runOnce, SAME_USER, PROGRAM } from '../support/program';

jest.setTimeout(60_000);

interface Row {
  /** Values that are taken, each by itself; [''] for a switch. */
  readonly good: readonly string[];
  /** A value that is refused, and what is said after `tubetti: `. */
  readonly bad?: readonly [value: string, message: string];
  /** Other arguments without which the good values would be a conflict. */
  readonly beside?: readonly string[];
}

const SWITCH = { good: [''] };
const pasta = (name: string): Row => ({
  good: [],
  bad: [
    OPTIONS.some(({ long, arg }) => long[0] === name && arg !== '') ? 'x' : '',
    `--${name} is for pasta mode only: call the program as pasta, or "tubetti netns"`,
  ],
});
const later = (name: string, value: string, why: string): Row => ({
  good: [],
  bad: [value, `--${name} is not supported yet: ${why}`],
});

const TABLE: Readonly<Record<string, Row>> = {
  'vhost-user': SWITCH,
  stream: SWITCH,
  moderation: {
    good: ['off', 'standard', 'adaptive'],
    bad: ['none', '--moderation none: give "off", "standard" or "adaptive"'],
  },
  'poll-us': { good: ['0', '50', '1000'], bad: ['1001', '--poll-us 1001: give a number from 0 to 1000'] },
  socket: { good: ['/tmp/x', 'relative'], bad: ['/' + 'x'.repeat(120), ''] },
  connect: { good: ['/tmp/x'], bad: ['/' + 'x'.repeat(120), ''] },
  fd: { good: ['0', '5'], bad: ['-1', ''] },
  'one-off': SWITCH,
  foreground: SWITCH,
  background: SWITCH,
  pid: { good: ['/tmp/pid'], bad: ['', ''] },
  runas: { good: ['0', '1000:1000', 'nobody'], bad: ['root', '--runas root: root is root'] },
  sandbox: {
    good: ['on', 'strict', 'log', 'off'],
    bad: ['maybe', '--sandbox maybe: give one of on, strict, log, off'],
  },
  config: { good: [], bad: ['/nonexistent', '--config /nonexistent: cannot read: no such file or directory'] },
  quiet: SWITCH,
  debug: SWITCH,
  trace: SWITCH,
  stderr: SWITCH,
  'log-file': { good: ['/tmp/log'], bad: ['', ''] },
  'log-format': { good: ['text', 'json'], bad: ['xml', '--log-format xml: give one of text, json'] },
  'ready-fd': { good: ['1', '9'], bad: ['0', '--ready-fd 0: give a number from 1 to 2147483647'] },
  'log-size': { good: ['40960', '0x20000'], bad: ['1', '--log-size 1: give a number from 40960 to 2147483647'] },
  pcap: { good: ['/tmp/pcap'], bad: ['', ''] },
  stats: { good: ['1'], beside: ['-f'], bad: ['0', '--stats 0: give a number from 1 to 86400'] },
  metrics: { good: ['9100', '[::1]:9100', '0.0.0.0:1', 'unix:/run/m', 'unix:m,mode=660'], bad: ['70000', ''] },
  label: {
    good: ['vm=web1', 'a=b=c'],
    bad: ['__a=b', `--label __a=b: names that begin with "__" are Prometheus's own`],
  },
  control: { good: ['/run/tubetti/c'], bad: ['', '--control "": give a path of 1 to 107 bytes'] },
  allow: {
    good: ['any', 'tcp/192.0.2.1:443'],
    bad: ['', '--allow "": the host is missing: give an address, a prefix, a name or "any"'],
  },
  deny: { good: ['lan', '[2001:db8::]/32'], bad: ['', '--deny "": the host is missing'] },
  policy: { good: [], bad: ['/nonexistent', '--policy /nonexistent: cannot read: no such file or directory'] },
  'flow-log': { good: ['/tmp/flows'], bad: ['', ''] },
  'slirp-api': { good: ['/tmp/slirp'], bad: ['', ''] },
  'policy-audit': { good: [''], beside: ['--allow', 'any'] },
  'rate-in': { good: ['800k', '2.5G', '0'], bad: ['x', '--rate-in x: give bits per second'] },
  'rate-out': { good: ['50M'], bad: ['x', '--rate-out x: give bits per second'] },
  'chroot-fallback': SWITCH,
  mtu: { good: ['0', '68', '65521', '0x5dc'], bad: ['65522', '--mtu 65522: give a number from 0 to 65521'] },
  df: { good: ['keep', 'fragment'], bad: ['set', '--df set: give "fragment" or "keep"'] },
  address: { good: ['192.0.2.9', '192.0.2.9/24', '2001:db8::9'], bad: ['127.0.0.1', ''] },
  netmask: { good: ['24', '255.255.240.0', '0'], bad: ['255.0.255.0', ''] },
  'mac-addr': { good: ['52:54:00:12:34:56'], bad: ['52:54:00:12:34', ''] },
  gateway: { good: ['192.0.2.1', 'fe80::1'], bad: ['127.0.0.1', ''] },
  interface: { good: ['lo', 'eth0'], bad: ['a/b', ''] },
  'no-follow': SWITCH,
  outbound: { good: ['192.0.2.9', '2001:db8::9', '127.0.0.1'], bad: ['224.0.0.1', ''] },
  'outbound-if4': { good: ['lo'], bad: ['much-too-long-name', ''] },
  'outbound-if6': { good: ['lo'], bad: ['much-too-long-name', ''] },
  dns: { good: ['192.0.2.53', '2001:db8::53', 'none', '127.0.0.53'], bad: ['resolver', ''] },
  'dns-forward': { good: ['192.0.2.53'], bad: ['127.0.0.1', ''] },
  'dns-host': { good: ['127.0.0.53', '::1'], bad: ['0.0.0.0', ''] },
  search: { good: ['example.org', 'a.example b.example', 'none'], bad: ['a b c d e f g', ''] },
  'no-dhcp-dns': SWITCH,
  'no-dhcp-search': SWITCH,
  hostname: { good: ['guest'], bad: ['a..b', ''] },
  fqdn: { good: ['guest.example.org'], bad: ['a..b', ''] },
  'dhcp-option': {
    good: ['42=192.0.2.1', 'option:ntp-server,192.0.2.1', '224=0x01', '6='],
    bad: ['53=1', '--dhcp-option 53=1: the server sets this option itself, leave it out'],
  },
  'dhcp6-option': { good: ['59=http://x/', '56=2001:db8::1'], bad: ['23=192.0.2.1', 'give IPv6 addresses'] },
  'lease-time': { good: ['3600', '12h', 'infinite'], bad: ['1', 'give at least 60 seconds'] },
  ntp: { good: ['192.0.2.1', '2001:db8::1'], bad: ['time.example', ''] },
  'boot-file': {
    good: ['http://192.0.2.1/x.efi'],
    bad: ['x', '--boot-file x: nobody has it; add --tftp DIR or --next-server ADDR'],
  },
  'dns-name': {
    good: ['printer=192.0.2.9', 'a.example=192.0.2.9,2001:db8::9'],
    bad: ['printer', '--dns-name printer: give NAME=ADDR, such as printer=192.0.2.9'],
  },
  tftp: { good: ['/srv/tftp'], bad: ['/nonexistent', '--tftp /nonexistent: cannot read: no such file or directory'] },
  'next-server': { good: ['192.0.2.1', '2001:db8::1'], bad: ['127.0.0.1', ''] },
  'map-host-loopback': { good: ['192.0.2.1', 'none', '2001:db8::1'], bad: ['127.0.0.1', ''] },
  'no-map-gw': SWITCH,
  'map-guest-addr': { good: ['192.0.2.3', 'none'], bad: ['224.0.0.1', ''] },
  'ipv4-only': SWITCH,
  'ipv6-only': SWITCH,
  'no-tcp': SWITCH,
  'no-udp': SWITCH,
  'no-icmp': SWITCH,
  'no-dhcp': SWITCH,
  'no-ndp': SWITCH,
  'no-dhcpv6': SWITCH,
  'no-ra': SWITCH,
  'tcp-ports': { good: ['22', '2222:22', 'all', 'none', '~25', '127.0.0.1/80-82:8080-8082'], bad: ['0', ''] },
  'udp-ports': { good: ['53', 'all,~1-1023', '%lo/69'], bad: ['22:', ''] },
  freebind: SWITCH,
  'conf-path': { good: ['/tmp/pesto'], bad: ['', ''] },
  'repair-path': { good: ['none'], bad: ['/x', '--repair-path /x is not supported yet: connections are not migrated'] },
  'migrate-exit': later('migrate-exit', '', 'connections are not migrated'),
  'migrate-no-linger': later('migrate-no-linger', '', 'connections are not migrated'),
};
/** What ends the program with 0 at once. */
const ANSWERS = ['help', 'version', 'print-capabilities'];
const PASTA = OPTIONS.filter(({ group }) => group === 'pasta').map(({ long }) => long[0]);

const rows = OPTIONS.map(({ long }) => long[0])
  .filter((name) => !ANSWERS.includes(name))
  .map((name) => [name, TABLE[name] ?? (PASTA.includes(name) ? pasta(name) : undefined)] as const);

function argv(name: string, value: string): string[] {
  return OPTIONS.some(({ long, arg }) => long[0] === name && arg !== '') ? [`--${name}`, value] : [`--${name}`];
}

test('the table has a row for each option, and no other', () => {
  expect(rows.filter(([, row]) => row === undefined).map(([name]) => name)).toEqual([]);
  const names = rows.map(([name]) => name);
  expect(Object.keys(TABLE).filter((name) => !names.includes(name))).toEqual([]);
});

test.each(rows)('--%s', (name, row) => {
  for (const value of row?.good ?? []) {
    expect(parseOptions([...(row?.beside ?? []), ...argv(name, value)])).toMatchObject({ action: 'run' });
  }
  const takesValue = argv(name, '').length === 2;
  if (row?.bad === undefined) {
    // A switch refuses what is given to it.
    expect(takesValue).toBe(false);
    expectRefusal(runOnce([`--${name}=x`]), `option --${name} takes no argument`);
    return;
  }
  const [value, message] = row.bad;
  expectRefusal(runOnce(argv(name, value)), message === '' ? `--${name} ${value}` : message);
  if (takesValue) expectRefusal(runOnce([`--${name}`]), `option --${name} needs an argument`);
});

function expectRefusal({ status, stdout, stderr }: Result, message: string): void {
  const line = stderr.trimEnd();
  expect({ status, stdout, line }).toEqual({ status: 1, stdout: '', line: expect.stringContaining(message) as string });
  expect(line.startsWith('tubetti: ')).toBe(true);
  expect(line).not.toContain('\n');
}

describe('options from elsewhere', () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'tubetti-options-'));
  });
  afterEach(() => {
    rmSync(dir, { recursive: true });
  });

  test('a file and the environment give what the command line gives', async () => {
    const file = join(dir, 'tubetti.yaml');
    writeFileSync(file, `socket: ${join(dir, 's')}\nmtu: 1400\nhostname: guest\ntcp-ports: ['none']\n`);
    const log = join(dir, 'log');
    const running = launchProgram([...PROGRAM, ...SAME_USER, '--config', file], {
      TUBETTI_MTU: '1300',
      TUBETTI_LOG_FILE: log,
    });
    await running.says(/waiting for a front-end/);
    await running.says(/MTU 1300/);
    running.child.kill('SIGTERM');
    expect(await running.exit).toEqual({ status: 0, signal: null });
    expect(readFileSync(log, 'utf8')).toContain(join(dir, 's'));
  });

  test('what is wrong there is said with its place, and 1', () => {
    const file = join(dir, 'tubetti.yaml');
    writeFileSync(file, 'mtu: 70000\n');
    expectRefusal(runOnce(['--config', file]), `${file}: mtu 70000: give a number from 0 to 65521`);
    expectRefusal(runOnce([], { TUBETTI_MTU: 'x' }), 'TUBETTI_MTU x: give a number from 0 to 65521');
  });
});
