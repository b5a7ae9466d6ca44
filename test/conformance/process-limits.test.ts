/**
 * What the program does with the files its user names, with few descriptors, a full disk, rights and descriptors that it
 * was given, and that the guest does not reach its own listeners. Needs a build.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import * as fs from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { Guest } from '../support/guest/guest';
import { PROGRAM, launchProgram, linkAs, runOnce, SAME_USER, type Running } from '../support/program';
import { sumOfSamples } from '../support/world/service';
import { poll } from '../support/world/processes';
import { scrape, startService, threadStatus } from '../support/run-service';

jest.setTimeout(60_000);

let dir: string;
const children: ChildProcess[] = [];
const guests: Guest[] = [];

beforeEach(() => {
  dir = fs.mkdtempSync(join(tmpdir(), 'tubetti-limits-'));
});

afterEach(() => {
  for (const guest of guests.splice(0)) guest.close();
  for (const child of children.splice(0)) child.kill('SIGKILL');
  fs.rmSync(dir, { recursive: true });
});

const STARTED = /<interface type='vhostuser'>/;

function launch(command: readonly string[]): Running {
  const running = launchProgram(command);
  children.push(running.child);
  return running;
}

/** In a shell that does `first`; `exec` keeps the process id. */
const inShell = (first: string, ...argv: string[]): string[] => [
  'sh',
  '-c',
  `${first}; exec "$@"`,
  'sh',
  ...PROGRAM,
  ...SAME_USER,
  ...argv,
];

async function guestOn(socket: string, features?: bigint): Promise<Guest> {
  const guest = await Guest.start(loadNative(), { socket, ...(features === undefined ? {} : { features }) });
  guests.push(guest);
  return guest;
}

function fifo(): string {
  const path = join(dir, 'fifo');
  expect(spawnSync('mkfifo', [path]).status).toBe(0);
  return path;
}

describe('files', () => {
  test.each([
    ['--log-file', 'cannot write: it is a pipe without a reader, or a socket'],
    ['--pid', 'cannot write: it is a pipe without a reader, or a socket'],
    ['--config', 'cannot read: it is a pipe, give a regular file'],
  ])('%s at a pipe: one line, 1, at once', (option, why) => {
    const path = fifo();
    const { status, stderr } = runOnce([...SAME_USER, '-q', '-s', join(dir, 's'), option, path]);
    expect({ status, stderr }).toEqual({ status: 1, stderr: `tubetti: ${option} ${path}: ${why}\n` });
  });

  test.each([
    ['a pipe that nobody reads', (): string => fifo(), 'it is a pipe without a reader, or a socket'],
    ['a directory that is not there', (): string => join(dir, 'missing/x'), 'no such file or directory'],
    ['/dev/full', (): string => '/dev/full', 'no space left on device'],
  ])('--pcap at %s: one line, and the service serves, as with passt', async (_title, path, why) => {
    const file = path();
    const service = launch([...PROGRAM, ...SAME_USER, '-s', join(dir, 's'), '--pcap', file]);
    await service.says(STARTED);
    expect(service.stderr()).toContain(`tubetti: --pcap ${file}: cannot write the capture: ${why}\n`);
  });

  test('--log-file goes on behind what an earlier run wrote; /dev/stderr is taken', () => {
    const path = join(dir, 'log');
    fs.writeFileSync(path, 'why the last one crashed\n');
    const argv = [...SAME_USER, '-q', '-s', join(dir, 's'), '-i', 'nosuchdev0', '-l'];
    expect(runOnce([...argv, path]).status).toBe(1);
    const lines = fs.readFileSync(path, 'utf8').split('\n');
    expect(lines[0]).toBe('why the last one crashed');
    expect(lines[1]).toMatch(/^tubetti [0-9.]+: /);
    expect(lines[2]).toContain('ERROR:   --interface nosuchdev0');
    const shell = spawnSync('sh', ['-c', '"$@" 2>&1 | cat', 'sh', ...PROGRAM, ...argv, '/dev/stderr']);
    expect(shell.stdout.toString()).toMatch(/: ERROR: {3}--interface nosuchdev0/);
  });
});

describe('few descriptors', () => {
  test.each([24, 32, 48, 63])('ulimit -n %d: one line that says what is needed, 1', (limit) => {
    const [file, ...argv] = inShell(`ulimit -n ${limit}`, '-q', '-s', join(dir, 's'));
    const { status, stderr } = spawnSync(file, argv, { encoding: 'utf8', timeout: 20_000 });
    expect(stderr).toMatch(
      /^tubetti: a limit of [0-9]+ open files is too low: at least 64 are needed, .*\(ulimit -Hn, LimitNOFILE=\)\n$/,
    );
    expect({ status, says: stderr.includes(`: a limit of ${limit} open files`) }).toEqual({ status: 1, says: true });
  });

  test('more forwarded ports than there is room for: the same', () => {
    const [file, ...argv] = inShell('ulimit -n 70', '-q', '-s', join(dir, 's'), '-t', '127.0.0.1/42001-42010');
    const { status, stderr } = spawnSync(file, argv, { encoding: 'utf8', timeout: 20_000 });
    expect(stderr).toContain('a limit of 70 open files is too low for 10 forwarded ports: at least 74 are needed');
    expect(status).toBe(1);
  });

  test('64 are enough: a guest gets its address and connects', async () => {
    const echo = createServer((socket) => socket.on('error', () => undefined).pipe(socket));
    await new Promise<void>((resolve) => echo.listen(0, '127.0.0.1', resolve));
    const socket = join(dir, 's');
    const service = launch(inShell('ulimit -n 64', '-s', socket, '--metrics', '0'));
    const [, port] = await service.says(/metrics {2}http:\S+:([0-9]+)\/metrics/);
    await service.says(STARTED);
    const guest = await guestOn(socket);
    const { router } = await guest.dhcp();
    const streams = [];
    for (let i = 0; i < 4; i++) {
      const stream = await guest.tcpConnect(router ?? '', (echo.address() as AddressInfo).port);
      await stream.write(Buffer.from('x'));
      expect(await stream.readExactly(1)).toHaveLength(1);
      streams.push(stream);
    }
    expect(await scrape(Number(port))).toContain('tubetti_flows{protocol="tcp"} 4');
    for (const stream of streams) stream.reset();
    echo.close();
  });
});

test('a capture that the disk has no room for: whole records, the rest counted as lost, said once', async () => {
  const socket = join(dir, 's');
  const file = join(dir, 'pcap');
  // SIGXFSZ would end a process that does not ignore it.
  const service = launch(inShell('ulimit -f 8', '-s', socket, '--metrics', '0', '--pcap', file));
  const [, port] = await service.says(/metrics {2}http:\S+:([0-9]+)\/metrics/);
  await service.says(STARTED);
  const guest = await guestOn(socket);
  for (let i = 0; i < 40; i++) await guest.dhcp();
  const page = await scrape(Number(port));
  const lost = sumOfSamples(page, 'tubetti_capture_lost_total', {});
  const kept = sumOfSamples(page, 'tubetti_captured_frames_total', {});
  expect(lost).toBeGreaterThan(20);
  expect(kept).toBeGreaterThan(2);
  expect(kept + lost).toBe(sumOfSamples(page, 'tubetti_frames_total', {}));
  expect(service.stderr().match(/cannot write to the capture/g)).toHaveLength(1);
  const bytes = fs.readFileSync(file);
  let at = 24;
  let records = 0;
  for (; at < bytes.length; records++) at += 16 + bytes.readUInt32LE(at + 8);
  expect([at, records]).toEqual([bytes.length, kept]);
});

describe('the guest and our own listeners', () => {
  test.each([
    ['127.0.0.1:0', []],
    ['0.0.0.0:0', ['--map-guest-addr', '203.0.113.9']],
    ['[::]:0', ['--map-guest-addr', '203.0.113.9']],
    ['127.0.0.1:0', ['--no-map-gw', '--map-host-loopback', '203.0.113.8']],
  ])('metrics at %s %j: refused and counted; other services of the host are not', async (metrics, args) => {
    const other = createServer((socket) => socket.on('error', () => undefined).end('x'));
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const socket = join(dir, 's');
    const service = await startService('-s', socket, '--metrics', metrics, ...args);
    children.push(service.child);
    const guest = await guestOn(socket);
    const { router } = await guest.dhcp();
    const targets = args.filter((arg) => arg.startsWith('203.'));
    if (!args.includes('--no-map-gw')) targets.push(router ?? '');
    for (const target of targets) {
      await expect(guest.tcpConnect(target, service.metricsPort)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    }
    const page = await scrape(service.metricsPort);
    expect(sumOfSamples(page, 'tubetti_drops_total', { reason: 'own_listener' })).toBe(targets.length);
    const loopback = args.includes('--no-map-gw') ? '203.0.113.8' : (router ?? '');
    const stream = await guest.tcpConnect(loopback, (other.address() as AddressInfo).port);
    expect(Buffer.from(await stream.readAll()).toString()).toBe('x');
    other.close();
  });
});

test('SIGUSR1 opens no debugger, which the guest and all users of the host could reach', async () => {
  const service = await startService('-s', join(dir, 's'));
  children.push(service.child);
  for (let n = 0; n < 20; n++) {
    service.child.kill('SIGUSR1');
    await scrape(service.metricsPort);
  }
  service.child.kill('SIGTERM');
  expect(await service.exit).toEqual({ status: 0, signal: null });
  expect(service.stderr()).not.toMatch(/debugger/i);
});

describe('rights and descriptors that it was given', () => {
  const NONE = '0000000000000000';

  async function expectConfined(service: Running, kept: string): Promise<void> {
    await service.says(STARTED);
    const pid = service.child.pid ?? -1;
    await poll('no_new_privs', () => (threadStatus(pid, 'NoNewPrivs')[0] === '1' ? true : null), 5000);
    const threads = threadStatus(pid, 'Name').length;
    expect(threads).toBeGreaterThan(3);
    const all = (value: string): string[] => Array<string>(threads).fill(value);
    expect(threadStatus(pid, 'NoNewPrivs')).toEqual(all('1'));
    for (const field of ['CapInh', 'CapAmb']) expect(threadStatus(pid, field)).toEqual(all(NONE));
    for (const field of ['CapPrm', 'CapEff']) expect(threadStatus(pid, field)).toEqual(all(kept));
    service.child.kill('SIGTERM');
    expect(await service.exit).toEqual({ status: 0, signal: null });
  }

  test('no thread can gain rights any more', async () => {
    const service = launch([...PROGRAM, ...SAME_USER, '-s', join(dir, 's')]);
    await expectConfined(service, NONE);
  });

  const testAsRoot = process.getuid?.() === 0 ? test : test.skip;

  testAsRoot('an ordinary user with ambient capabilities: the low port is bound, then they are gone', async () => {
    fs.chmodSync(dir, 0o777);
    const user = ['setpriv', '--reuid', '12345', '--regid', '12345', '--clear-groups'];
    const caps = ['--inh-caps', '+net_bind_service,+net_admin', '--ambient-caps', '+net_bind_service,+net_admin'];
    const argv = ['-s', join(dir, 's'), '-t', '127.0.0.1/987:22'];
    const service = launch([...user, ...caps, ...PROGRAM, ...argv]);
    await expectConfined(service, NONE);
  });

  testAsRoot('root becomes another user after a low port was bound, and keeps nothing', async () => {
    fs.chmodSync(dir, 0o777);
    const argv = ['--runas', '12345:12345', '-s', join(dir, 's'), '-t', '127.0.0.1/987:22'];
    await expectConfined(launch([...PROGRAM, ...argv]), NONE);
  });

  test('descriptors of the caller are closed, also in the foreground', async () => {
    const file = fs.openSync(join(dir, 'file'), 'w');
    const child = spawn(PROGRAM[0], [...PROGRAM.slice(1), ...SAME_USER, '-s', join(dir, 's')], {
      stdio: ['ignore', 'ignore', 'pipe', 'pipe', file, fs.openSync(dir, 'r')],
    });
    children.push(child);
    const pipe = child.stdio[3];
    const ended = new Promise((resolve) => pipe?.on('close', resolve));
    pipe?.on('error', () => undefined).on('data', () => undefined);
    await ended; // while it runs
    expect(child.exitCode).toBeNull();
    const held = (): string[] =>
      fs.readdirSync(`/proc/${String(child.pid)}/fd`).map((fd) => {
        try {
          return fs.readlinkSync(`/proc/${String(child.pid)}/fd/${fd}`);
        } catch {
          return '';
        }
      });
    await poll('the files to be closed', () => (held().some((path) => path.startsWith(dir)) ? null : true), 5000);
  });
});

describe('options', () => {
  const started = async (...argv: string[]): Promise<string> => {
    const service = launch([...PROGRAM, ...SAME_USER, '-s', join(dir, 's'), ...argv]);
    await service.says(STARTED);
    return service.stderr();
  };

  test('-4 -6: the last one counts, which is said', async () => {
    const text = await started('-6', '-4');
    expect(text).toContain('warning: -4: IPv4 only, --ipv6-only before it has no effect');
    expect(text).toMatch(/^ {2}IPv4 /m);
    expect(text).not.toMatch(/^ {2}IPv6 /m);
  });

  test('a gateway outside of the subnet is taken and reached by a route, and said to be one', async () => {
    const text = await started('-a', '198.51.100.7/24', '-g', '203.0.113.1', '-4');
    expect(text).toContain("warning: --gateway 203.0.113.1: not in the guest's subnet (198.51.100.7/24)");
    expect(await started('-s', join(dir, 't'), '-a', '198.51.100.7/24', '-g', '198.51.100.1', '-4')).not.toContain(
      'subnet',
    );
  });

  test('passt --help speaks as passt', () => {
    const { stdout } = spawnSync(linkAs(dir, 'passt'), ['--help'], { encoding: 'utf8' });
    expect(stdout.split('\n')[0]).toBe('Usage: passt [OPTION]...');
    expect(stdout).toContain('run in the background once ready (default)');
    expect(stdout).toContain('Example: passt --socket');
    expect(stdout).not.toMatch(/stay in the foreground \(default\)|use the vhost-user protocol \(default\)/);
    expect(runOnce(['--help']).stdout.split('\n')[0]).toBe('Usage: tubetti [OPTION]...');
    for (const line of stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(100);
  });
});
