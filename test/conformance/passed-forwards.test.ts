/**
 * Sockets that systemd hands over as sources of forwards (`-t fd:NAME:PORT`), through the running service. The parent is a
 * script that makes the sockets as systemd does, blocking ones, or systemd's own program. Needs a build.
 */
import { spawnSync } from 'node:child_process';
import { createSocket, type Socket as DatagramSocket } from 'node:dgram';
import { once } from 'node:events';
import { appendFileSync, existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ControlClient } from '../../src/ctl/client';
import { loadNative } from '../../src/native';
import { dial, freePorts } from '../support/control/service';
import { Guest } from '../support/guest/guest';
import { BIN, call, connected, launchProgram, PROGRAM, type Running, SAME_USER, SCRIPT } from '../support/program';
import { poll } from '../support/world/processes';

jest.setTimeout(30_000);

const HAS_ACTIVATE = spawnSync('systemd-socket-activate', ['--version']).status === 0;
/** Left out where the tool is not installed: scripts/test.mjs says so, and in CI that is a failure. */
const withSystemd = HAS_ACTIVATE ? test : test.skip;

const READY = /<interface type='vhostuser'>/;
const WHO = 'systemd (LISTEN_FDS)';

/** Sockets `name,kind,place`, from descriptor 3 on, and then a program, as systemd starts it. Debian always has perl. */
const PARENT = `use Socket qw(:all); $^F = 255; my @names;
while ((my $word = shift) ne '=') {
  my ($name, $kind, $at) = split /,/, $word; my $s; push @names, $name;
  my $type = $kind =~ /^(udp|dgram)/ ? SOCK_DGRAM : $kind eq 'packet' ? SOCK_SEQPACKET : SOCK_STREAM;
  if ($kind eq 'file') { open($s, '<', $at) or die; }
  elsif ($kind =~ /^(unix|dgram|packet)$/) { socket($s, PF_UNIX, $type, 0) or die; bind($s, pack_sockaddr_un($at)) or die; }
  elsif ($kind =~ /6$/) {
    my ($addr, $port) = split ' ', $at;
    socket($s, PF_INET6, $type, 0) or die; setsockopt($s, IPPROTO_IPV6, IPV6_V6ONLY, $addr eq '::' ? 0 : 1) or die;
    bind($s, pack_sockaddr_in6($port, inet_pton(AF_INET6, $addr))) or die "$addr $port: $!";
  } else {
    my ($addr, $port) = split ' ', $at;
    socket($s, PF_INET, $type, 0) or die; bind($s, pack_sockaddr_in($port, inet_aton($addr))) or die "$addr $port: $!";
  }
  if ($kind =~ /^(tcp|unix|packet)/ && $name !~ /mute/) { listen($s, 16) or die; }
  push @keep, $s;
}
$ENV{LISTEN_PID} = $$; $ENV{LISTEN_FDS} = @names; $ENV{LISTEN_FDNAMES} = join ':', @names; exec @ARGV or die;`;

const native = loadNative();
let dir: string;
let guest: Guest | null = null;
const running: Running[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-passed-'));
});

afterEach(async () => {
  await guest?.stop();
  guest = null;
  for (const { child } of running.splice(0)) child.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

const at = (name: string): string => join(dir, name);
const client = (): ControlClient => new ControlClient(at('c'));
const add = (spec: string, protocol = 'tcp'): Promise<unknown> =>
  client().ask('POST', '/v1/forwards', { body: { forwards: [{ protocol, spec }] } });
const remove = (spec: string, protocol = 'tcp'): Promise<unknown> =>
  client().ask('POST', '/v1/forwards/remove', { body: { forwards: [{ protocol, spec }] } });

function passing(sockets: readonly string[], command: readonly string[]): string[] {
  return ['perl', '-e', PARENT, ...sockets.map((word) => word.replaceAll('{}', dir)), '=', ...command];
}

async function serving(sockets: readonly string[], argv: readonly string[], env = {}): Promise<Running> {
  const command = [...PROGRAM, ...SAME_USER, '-s', at('s'), '--control', at('c'), ...argv];
  const service = launchProgram(passing(sockets, command), env);
  running.push(service);
  await service.says(READY);
  return service;
}

async function inside(): Promise<Guest> {
  guest = await Guest.start(native, { socket: at('s') });
  await guest.dhcp();
  return guest;
}

async function bound(): Promise<DatagramSocket> {
  const socket = createSocket('udp4').bind(0, '127.0.0.1');
  await once(socket, 'listening');
  return socket;
}

async function allOf(socket: Socket): Promise<string> {
  let text = '';
  for await (const chunk of socket) text += String(chunk);
  return text;
}

function dialAt(port: number, host: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host }, () => {
      resolve(socket);
    });
    socket.once('error', reject);
  });
}

test('TCP, two of one name; UDP of the same name; a UNIX socket; seen by ctl, /v1 and the metrics', async () => {
  const port = await freePorts(3);
  const sockets = [
    `web,tcp4,127.0.0.1 ${port}`,
    `web,tcp6,:: ${port + 1}`,
    `web,udp4,127.0.0.1 ${port + 2}`,
    'ssh,unix,{}/ssh',
  ];
  const metrics = await freePorts(1);
  const options = ['-t', 'fd:web:80', '-u', 'fd:web:53', '-t', 'fd:ssh:22', '--metrics', `${metrics}`];
  const service = await serving(sockets, options);
  expect(service.stderr()).toMatch(/tcp fd:web -> 80\n[\s\S]*udp fd:web -> 53\n[\s\S]*tcp fd:ssh -> 22\n/);
  expect(service.stderr()).not.toMatch(/warn|no option names|refused by the sandbox/);
  const machine = await inside();
  const [web, ssh, dns] = [machine.tcpListen(80), machine.tcpListen(22), machine.udpBind(53)];
  for (const [host, number] of [
    ['127.0.0.1', port],
    ['127.0.0.1', port + 1],
    ['::1', port + 1],
  ] as const) {
    const peer = await dialAt(number, host);
    const stream = await web.accept();
    await stream.write(Buffer.from('hello'));
    await stream.end();
    expect(await allOf(peer)).toBe('hello');
  }
  const sender = await bound();
  sender.send('question', port + 2, '127.0.0.1');
  const datagram = await dns.recv();
  expect(Buffer.from(datagram.data).toString()).toBe('question');
  const answer = once(sender, 'message');
  await dns.send(datagram.addr, datagram.port, 'answer');
  expect(String(((await answer) as [Buffer])[0])).toBe('answer');
  sender.close();
  const unix = await connected(at('ssh'));
  await ssh.accept();
  unix.destroy();

  const { body } = await client().forwards();
  expect(body.forwards).toEqual([
    { protocol: 'tcp', spec: 'fd:web:80', listeners: 2, connections: 3 },
    { protocol: 'udp', spec: 'fd:web:53', listeners: 1, connections: 1 },
    { protocol: 'tcp', spec: 'fd:ssh:22', listeners: 1, connections: 1 },
  ]);
  const listed = await call(BIN, ['ctl', '-c', at('c'), 'forward', 'list']);
  expect(listed.stdout).toMatch(/tcp +fd:web:80 /);
  const text = await (await fetch(`http://127.0.0.1:${metrics}/metrics`)).text();
  expect(text).toMatch(/^tubetti_forward_connections_total\{.*"fd:web:80".*\} 3$/m);
  service.child.kill('SIGTERM');
  expect(await service.exit).toEqual({ status: 0, signal: null });
  // It is its owner's.
  expect(existsSync(at('ssh'))).toBe(true);
  expect(machine.violations).toEqual([]);
});

test('later: leads elsewhere, goes, comes back; the socket stays its owner’s', async () => {
  const port = await freePorts(2);
  const service = await serving(
    [`web,tcp4,127.0.0.1 ${port}`, `spare,tcp4,127.0.0.1 ${port + 1}`, 'ssh,unix,{}/ssh'],
    ['-t', 'fd:web:80', '-t', 'fd:ssh:22'],
  );
  const warnings = service.stderr().match(/.*no option names.*/g);
  expect(warnings).toEqual([expect.stringContaining('spare (descriptor 4: -t fd:spare:PORT forwards it)')]);
  const machine = await inside();
  const [first, second] = [machine.tcpListen(80), machine.tcpListen(81)];
  const before = await dial(port);
  const old = await first.accept();
  await client().ask('PUT', '/v1/forwards', {
    body: { forwards: ['fd:web:81', 'fd:ssh:81'].map((spec) => ({ protocol: 'tcp', spec })) },
  });
  (await dial(port)).destroy();
  await second.accept();
  (await connected(at('ssh'))).destroy();
  await second.accept();
  before.write('1');
  expect(Buffer.from(await old.readExactly(1)).toString()).toBe('1');
  before.destroy();

  await remove('fd:web:81');
  await remove('fd:ssh:81');
  // Who comes now waits until it is forwarded again.
  const [tcp, unix] = [await dial(port), await connected(at('ssh'))];
  await add('fd:web:80');
  await first.accept();
  await add('fd:ssh:80');
  await first.accept();
  tcp.destroy();
  unix.destroy();
  await add('fd:spare:80');
  (await dial(port + 1)).destroy();
  await first.accept();

  for (const [spec, message] of [
    ['fd:web:9', /tcp fd:web is taken by the forward tcp fd:web:80/],
    ['fd:none:9', /has passed no socket named none: .*, or one of web, spare, ssh/],
  ] as const)
    await expect(add(spec)).rejects.toThrow(message);
  await expect(add('fd:web:9', 'udp')).rejects.toThrow(/the socket named web is a stream socket, give it with -t/);
  expect(machine.violations).toEqual([]);
});

test('the data plane is replaced: its sockets lead into the guest again', async () => {
  const port = await freePorts(2);
  const preload = join(__dirname, '../fixtures/dataplane/faults.cjs');
  const faults = mkdtempSync(join(tmpdir(), 'tubetti-faults-'));
  expect(spawnSync('mkfifo', [join(faults, 'fifo')]).status).toBe(0);
  const env = { TUBETTI_FAULTS: faults, NODE_OPTIONS: `--require ${preload}` };
  const sockets = [`web,tcp4,127.0.0.1 ${port}`, `web,udp4,127.0.0.1 ${port + 1}`, 'ssh,unix,{}/ssh'];
  const service = await serving(sockets, ['-t', 'fd:web:80', '-u', 'fd:web:53', '-t', 'fd:ssh:80'], env);
  const machine = await inside();
  const [web, dns] = [machine.tcpListen(80), machine.udpBind(53)];
  const use = async (): Promise<void> => {
    (await dial(port)).destroy();
    await web.accept();
    (await connected(at('ssh'))).destroy();
    await web.accept();
    const sender = await bound();
    sender.send('question', port + 1, '127.0.0.1');
    await dns.recv();
    sender.close();
  };
  await use();
  appendFileSync(join(faults, 'asked'), 't');
  await poll(
    'the fault',
    () => {
      if (statSync(join(faults, 'done')).size > 0) return true;
      void machine.ping('192.0.2.1', { timeoutMs: 20 }).catch(() => undefined);
      return null;
    },
    5000,
  );
  await service.says(/data plane failed, starting a new one/);
  await use();
  rmSync(faults, { recursive: true });
});

describe('what cannot be forwarded ends the start with one line', () => {
  test.each<[string, readonly string[], readonly string[], string]>([
    [
      'no socket of that name',
      ['web,tcp4,127.0.0.1 0'],
      ['-t', 'fd:ssh:22'],
      `-t fd:ssh:22: ${WHO} has passed no socket named ssh: give FileDescriptorName=ssh in the socket unit, or one of web`,
    ],
    [
      'none at all',
      [],
      ['-t', 'fd:ssh:22'],
      `-t fd:ssh:22: ${WHO} has passed no socket named ssh: give FileDescriptorName=ssh in the socket unit`,
    ],
    [
      'datagrams',
      ['a,udp4,127.0.0.1 0'],
      ['-t', 'fd:a:1'],
      '-t fd:a:1: the socket named a is a datagram socket, give it with -u',
    ],
    [
      'a stream',
      ['a,tcp4,127.0.0.1 0'],
      ['-u', 'fd:a:1'],
      '-u fd:a:1: the socket named a is a stream socket, give it with -t',
    ],
    ['a file', ['a,file,/etc/passwd'], ['-t', 'fd:a:1'], `-t fd:a:1: descriptor 3 of ${WHO} is not a socket`],
    [
      'one that does not listen',
      ['mute,tcp4,127.0.0.1 0'],
      ['-t', 'fd:mute:1'],
      `-t fd:mute:1: descriptor 3 of ${WHO} does not listen: set Accept=no in the socket unit`,
    ],
    [
      'a UNIX socket that does not listen',
      ['mute,unix,{}/x'],
      ['-t', 'fd:mute:1'],
      `-t fd:mute:1: descriptor 3 of ${WHO} does not listen: set Accept=no in the socket unit`,
    ],
    [
      'packets',
      ['a,packet,{}/x'],
      ['-t', 'fd:a:1'],
      `-t fd:a:1: descriptor 3 of ${WHO} is a UNIX socket that is no stream: give ListenStream= in the socket unit`,
    ],
    [
      'a family that is off',
      ['a,tcp6,::1 0'],
      ['-4', '-t', 'fd:a:1'],
      '-t fd:a:1: its socket is one of IPv6, and IPv6 is off',
    ],
    [
      'a target of the other family',
      ['a,tcp4,127.0.0.1 0'],
      ['-t', 'fd:a:[2001:db8::9]/1'],
      '-t fd:a:[2001:db8::9]/1: target 2001:db8::9 must be an IPv4 address, like that of its socket',
    ],
    [
      'a target of a socket of both',
      ['a,tcp6,:: 0'],
      ['-t', 'fd:a:192.0.2.9/1'],
      '-t fd:a:192.0.2.9/1: a target address needs a socket of one family: set BindIPv6Only=ipv6-only, or an IPv4 address, in the socket unit',
    ],
    [
      'one name twice',
      ['a,tcp4,127.0.0.1 0'],
      ['-t', 'fd:a:1', '-t', 'fd:a:2'],
      '-t fd:a:2: tcp fd:a is forwarded here and in -t fd:a:1',
    ],
    [
      'the name of the socket for scrapers',
      ['metrics,tcp4,127.0.0.1 0'],
      ['-t', 'fd:metrics:1'],
      'fd:metrics: the socket of that name is for scrapers, give it another name',
    ],
    [
      'no port',
      [],
      ['-t', 'fd:a'],
      '-t fd:a: give fd:NAME:PORT, or fd:NAME:ADDRESS/PORT with an IPv6 address in brackets',
    ],
    [
      'no name',
      [],
      ['-t', 'fd::1'],
      '-t fd::1: "" is not a socket\'s name, give that of FileDescriptorName= without blanks',
    ],
    [
      'too many',
      Array.from({ length: 33 }, () => 'a,tcp4,127.0.0.1 0'),
      ['-t', 'fd:a:1'],
      `${WHO} has passed 33 sockets: give at most 32`,
    ],
  ])('%s', async (_name, sockets, argv, said) => {
    const [file, ...rest] = passing(sockets, [...PROGRAM, ...SAME_USER, '-q', '-s', at('s'), ...argv]);
    expect(await call(file, rest)).toEqual({ status: 1, signal: null, stdout: '', stderr: `tubetti: ${said}\n` });
    expect(existsSync(at('s'))).toBe(false);
  });

  test('in the background, without the launcher', async () => {
    const argv = [process.execPath, SCRIPT, ...SAME_USER, '-q', '-b', '-s', at('s'), '-t', 'fd:a:1'];
    const [file, ...rest] = passing(['a,tcp4,127.0.0.1 0'], argv);
    const stderr = 'tubetti: sockets to forward: served in the foreground only, add --foreground\n';
    expect(await call(file, rest)).toMatchObject({ status: 1, stderr });
  });
});

test('in the background, by the launcher', async () => {
  const port = await freePorts(1);
  const argv = [...PROGRAM, ...SAME_USER, '-q', '-b', '-s', at('s'), '--control', at('c'), '-t', 'fd:a:80'];
  const [file, ...rest] = passing([`a,tcp4,127.0.0.1 ${port}`], argv);
  expect(await call(file, rest)).toMatchObject({ status: 0, stderr: '' });
  const web = (await inside()).tcpListen(80);
  (await dial(port)).destroy();
  await web.accept();
  await guest?.stop();
  guest = null;
  await client().ask('POST', '/v1/end');
});

withSystemd("systemd's own program starts it when a client of the guest's comes", async () => {
  const port = await freePorts(1);
  const sockets = ['-l', at('s'), '-l', `127.0.0.1:${port}`, '--fdname=link:web'];
  const service = launchProgram([
    ...['systemd-socket-activate', '-E', 'TUBETTI_NODE', ...sockets, BIN, ...SAME_USER],
    ...['--control', at('c'), '-t', 'fd:web:80'],
  ]);
  running.push(service);
  await service.says(/Listening on/);
  (await dial(port)).destroy();
  await service.says(READY);
  const web = (await inside()).tcpListen(80);
  const answer = dial(port).then(allOf);
  const stream = await web.accept();
  await stream.write(Buffer.from('hello'));
  await stream.end();
  expect(await answer).toBe('hello');
});
