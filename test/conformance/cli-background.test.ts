/**
 * Called as passt is by libvirt and QEMU: what holds when the process that was called has returned. Needs a build (dist/
 * and the addon), which `npm test` makes first.
 */
import { existsSync, mkdtempSync, readFileSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FD_SOCKET, loadNative } from '../../src/native';
import * as p from '../../src/vhost/protocol';
import { call, connected, launchProgram, linkAs, SAME_USER } from '../support/program';
import { poll } from '../support/world/processes';
import { MockFrontEnd } from '../support/vhost/mock-front-end';
import { EMPTY, u64 } from '../support/vhost/payloads';

jest.setTimeout(30_000);

const native = loadNative();
const isRoot = process.getuid?.() === 0;

let dir: string;
let passt: string;
let tubetti: string;
let pidFile: string;
let socketPath: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-bg-'));
  passt = linkAs(dir, 'passt');
  tubetti = linkAs(dir, 'tubetti');
  pidFile = join(dir, 'pid');
  socketPath = join(dir, 's');
});

afterEach(() => {
  // Only what wrote its number into this test's own folder.
  const pid = existsSync(pidFile) ? Number(readFileSync(pidFile, 'utf8')) : 0;
  if (pid > 1 && isAlive(pid)) process.kill(pid, 'SIGKILL');
  rmSync(dir, { recursive: true });
});

function isAlive(pid: number): boolean {
  try {
    return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
  } catch {
    return false;
  }
}

const ended = (pid: number): Promise<true> =>
  poll(`the end of process ${pid}`, () => (isAlive(pid) ? null : true), 10_000);

function readPid(): number {
  const text = readFileSync(pidFile, 'utf8');
  expect(text).toMatch(/^[0-9]+\n$/);
  return Number(text);
}

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

describe('as libvirt starts passt', () => {
  test('it returns 0 when all is ready: socket, ports, process id; and keeps nothing of the caller', async () => {
    const port = await freePort();
    const log = join(dir, 'log');
    const line = ['--one-off', '--socket', socketPath, '--pid', pidFile, '--log-file', log, '--mtu', '1500'];
    const ports = ['--mac-addr', '52:54:00:01:02:03', '--tcp-ports', `127.0.0.1/${port}:22`];
    // The streams and a descriptor that leaked: call() waits for the end of all of them.
    const result = await call(passt, [...line, ...ports, '--vhost-user', ...SAME_USER], ['pipe', 'pipe']);
    expect(result).toMatchObject({ status: 0, signal: null, stdout: '' });
    expect(result.stderr).toContain(`forward  tcp 127.0.0.1:${port} -> 22`);

    const pid = readPid();
    expect(statSync(pidFile).mode & 0o777).toBe(0o600);
    expect(isAlive(pid)).toBe(true);
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
    expect({ session: Number(stat[3]), terminal: Number(stat[4]) }).toEqual({ session: pid, terminal: 0 });
    const { rdev } = statSync('/dev/null');
    for (const fd of [0, 1, 2]) expect(statSync(`/proc/${pid}/fd/${fd}`).rdev).toBe(rdev);
    expect(readlinkSync(`/proc/${pid}/cwd`)).toBe('/');

    const client = connect({ host: '127.0.0.1', port });
    await new Promise<void>((resolve, reject) => client.once('connect', resolve).once('error', reject));
    client.on('error', () => undefined).destroy();

    (await connected(socketPath)).destroy();
    await ended(pid);
    expect(existsSync(socketPath)).toBe(false);
    // As passt: whoever started it removes the file.
    expect(readPid()).toBe(pid);
    const [header, ...lines] = readFileSync(log, 'utf8').trimEnd().split('\n');
    expect(header).toContain(`${passt} (${pid})`);
    expect(lines.some((text) => text.endsWith('info:    front-end disconnected'))).toBe(true);
    expect(lines.some((text) => text.includes('Tubetti '))).toBe(true);
  });

  test('what fails is said in one line, with 1: nothing is left behind, nothing of others is touched', async () => {
    const holder = createServer();
    await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
    const { port } = holder.address() as { port: number };
    writeFileSync(pidFile, '1\n');
    const line = ['--quiet', '--vhost-user', '--socket', socketPath, '--pid', pidFile, '--tcp-ports', `${port}:22`];
    const result = await call(passt, [...line, ...SAME_USER]);
    holder.close();
    expect(result).toEqual({
      status: 1,
      signal: null,
      stdout: '',
      stderr: `passt: --tcp-ports ${port}:22: cannot bind port ${port}: address already in use\n`,
    });
    expect(existsSync(socketPath)).toBe(false);
    expect(readFileSync(pidFile, 'utf8')).toBe('1\n');
  });

  test('a second one on the same socket: 1, and the first one serves on', async () => {
    const line = ['--quiet', '--vhost-user', '--socket', socketPath, '--pid', pidFile, ...SAME_USER];
    expect((await call(passt, line)).status).toBe(0);
    const pid = readPid();
    const second = await call(passt, line);
    expect(second.status).toBe(1);
    expect(second.stderr).toMatch(/^passt: --socket \S+: .*address already in use.*\n$/);
    expect(readPid()).toBe(pid);
    (await connected(socketPath)).destroy();
    process.kill(pid, 'SIGTERM');
    await ended(pid);
  });

  test.each([
    [['--bogus'], 'passt: unknown option --bogus (see --help)\n'],
    [['--mtu', '1'.repeat(6)], 'passt: --mtu 111111: give a number from 0 to 65521\n'],
    [['--pid', '/nonexistent-dir/pid'], 'passt: --pid /nonexistent-dir/pid: '],
    [['--fd', '0'], 'passt: --fd 0: descriptor 0 is not a socket\n'],
    [['--fd', '77'], 'passt: --fd 77: descriptor 77 is not a socket\n'],
    [['--stats', '1'], 'passt: --stats writes to stderr'],
  ])('%j', async (argv, message) => {
    const extra = argv[0] === '--fd' ? [] : ['--socket', socketPath];
    const result =
      argv[1] === '0' ? await callWithoutStdin(argv) : await call(passt, ['-q', '--vhost-user', ...extra, ...argv]);
    expect({ status: result.status, stdout: result.stdout }).toEqual({ status: 1, stdout: '' });
    expect(result.stderr.startsWith(message)).toBe(true);
    expect(result.stderr.trimEnd()).not.toContain('\n');
  });
});

/** A shell in between: node's pipes are sockets, and descriptor 0 shall be none. */
function callWithoutStdin(argv: readonly string[]): ReturnType<typeof call> {
  return call('/bin/sh', ['-c', 'exec "$0" "$@" </dev/null', passt, '-q', '--vhost-user', ...argv]);
}

describe('as QEMU starts passt (-netdev passt)', () => {
  test.each([3, 5])('the front-end is on descriptor %i; SIGTERM ends it', async (fd) => {
    const ends = new Int32Array(2);
    expect(native.unixPair(ends)).toBe(0);
    const extra: (number | 'pipe')[] = [];
    while (extra.length < fd - 3) extra.push('pipe');
    const line = ['--vhost-user', '--quiet', '--pid', pidFile, '--fd', String(fd), ...SAME_USER];
    const result = await call(passt, line, [...extra, ends[1]]);
    native.close(ends[1]);
    expect(result).toEqual({ status: 0, signal: null, stdout: '', stderr: '' });
    const pid = readPid();
    const frontEnd = new MockFrontEnd(native, ends[0]);
    const features = await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
    expect(features.byteLength).toBe(8);
    process.kill(pid, 'SIGTERM');
    await frontEnd.closed();
    await ended(pid);
    frontEnd.close();
  });

  test('QEMU 11.1 closes its copy of the descriptor twice, and nothing it made in between is hit', async () => {
    const ends = new Int32Array(2);
    expect(native.unixPair(ends)).toBe(0);
    const line = ['--vhost-user', '--quiet', '--pid', pidFile, '--fd', '3', ...SAME_USER];
    expect((await call(passt, line, [ends[1]])).status).toBe(0);
    native.close(ends[1]);
    const frontEnd = new MockFrontEnd(native, ends[0]);
    const offered = await frontEnd.askU64(p.VHOST_USER_GET_PROTOCOL_FEATURES);
    frontEnd.send(p.VHOST_USER_SET_PROTOCOL_FEATURES, u64(offered));
    // The channel is made if it is offered, and gets the number that is free.
    const channel = new Int32Array([-1, -1]);
    if ((offered & (1n << BigInt(p.VHOST_USER_PROTOCOL_F_BACKEND_REQ))) !== 0n) {
      native.unixPair(channel);
      frontEnd.send(p.VHOST_USER_SET_BACKEND_REQ_FD, EMPTY, { fds: [channel[1]] });
    }
    native.close(ends[1]);
    for (const end of channel) if (end >= 0) expect(native.fdKind(end)).toBe(FD_SOCKET);
    expect(await frontEnd.askU64(p.VHOST_USER_GET_PROTOCOL_FEATURES)).toBe(offered);
    frontEnd.close();
    await ended(readPid());
  });

  test('called as tubetti (path=) it goes to the background all the same', async () => {
    const ends = new Int32Array(2);
    expect(native.unixPair(ends)).toBe(0);
    const line = ['--vhost-user', '--quiet', '--pid', pidFile, '--fd', '3', ...SAME_USER];
    expect(await call(tubetti, line, [ends[1]])).toMatchObject({ status: 0, stderr: '' });
    native.close(ends[1]);
    native.close(ends[0]);
    await ended(readPid());
  });

  test('without --vhost-user it speaks frames with their length in front', async () => {
    const addresses = ['-4', '-a', '198.51.100.7/25', '-g', '198.51.100.1'];
    const line = ['--quiet', ...addresses, '--socket', socketPath, '--pid', pidFile, '--one-off', ...SAME_USER];
    expect(await call(passt, line)).toEqual({ status: 0, signal: null, stdout: '', stderr: '' });
    const pid = readPid();
    const qemu = await connected(socketPath);
    const mac = '525400010203';
    // "Who has 198.51.100.1?" (RFC 826).
    const request = `ffffffffffff${mac}0806` + `0001080006040001${mac}c6336407000000000000c6336401`;
    const answer = new Promise<string>((resolve) => {
      let got = '';
      qemu.on('data', (chunk) => {
        got += chunk.toString('hex');
        const at = got.indexOf(`${mac}9a559a559a5508060001080006040002`);
        if (at >= 8) resolve(got.slice(at - 8, at + 84));
      });
    });
    qemu.write(Buffer.from(`0000002a${request}`, 'hex'));
    expect(await answer).toBe(`0000003c${mac}9a559a559a55080600010800060400029a559a559a55c6336401${mac}c6336407`);
    qemu.destroy();
    await ended(pid);
  });

  test('it ends with its front-end', async () => {
    const ends = new Int32Array(2);
    expect(native.unixPair(ends)).toBe(0);
    const line = ['--vhost-user', '--quiet', '--pid', pidFile, '--fd', '3', ...SAME_USER];
    expect((await call(passt, line, [ends[1]])).status).toBe(0);
    const pid = readPid();
    native.close(ends[1]);
    native.close(ends[0]);
    await ended(pid);
  });
});

describe('by which name', () => {
  test('tubetti goes to the background with -b only', async () => {
    expect((await call(tubetti, ['-q', '-b', '-s', socketPath, '-P', pidFile, ...SAME_USER])).status).toBe(0);
    const pid = readPid();
    process.kill(pid, 'SIGTERM');
    await ended(pid);
    const service = launchProgram([tubetti, '-s', socketPath, '-P', pidFile, ...SAME_USER]);
    await service.says(/<interface type='vhostuser'>/);
    await poll(
      'the process id',
      () => (readFileSync(pidFile, 'utf8') === `${service.child.pid}\n` ? true : null),
      10_000,
    );
    service.child.kill();
    expect(await service.exit).toEqual({ status: 0, signal: null });
  });

  test('passt -f stays in the foreground', async () => {
    const service = launchProgram([passt, '-f', '--vhost-user', '-s', socketPath, ...SAME_USER]);
    await service.says(/<interface type='vhostuser'>/);
    service.child.kill();
    expect(await service.exit).toEqual({ status: 0, signal: null });
  });

  test('passt says its name first', async () => {
    const { stdout } = await call(passt, ['--version']);
    expect(stdout).toMatch(/^passt [0-9.]+ \(tubetti\)\n/);
  });

  test('bin/passt.js is the same without a link', async () => {
    const { stdout } = await call(join(__dirname, '..', '..', 'bin', 'passt.js'), ['--version']);
    expect(stdout).toMatch(/^passt /);
  });

  test('pasta is another program', async () => {
    const { stdout } = await call(linkAs(dir, 'pasta.avx2'), ['--version']);
    expect(stdout).toMatch(/^pasta [0-9.]+ \(tubetti\)\n/);
  });
});

(isRoot ? describe : describe.skip)('started as root', () => {
  function idsOf(pid: number): string[] {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return [/^Uid:.*$/m, /^Gid:.*$/m, /^Groups:.*$/m, /^CapEff:.*$/m].map((line) => line.exec(status)?.[0] ?? '');
  }

  test('it becomes nobody, without groups and capabilities, after all was opened', async () => {
    const result = await call(passt, ['-q', '--vhost-user', '-s', socketPath, '-P', pidFile, '-t', '127.0.0.1/1:1']);
    expect(result).toMatchObject({ status: 0, stdout: '' });
    expect(result.stderr).toMatch(/^passt: warning: started as root, changing to nobody .*\n$/);
    const [uid, gid, groups, capabilities] = idsOf(readPid());
    expect(uid).toMatch(/^Uid:(\t65534){4}$/);
    expect(gid).toMatch(/^Gid:(\t65534){4}$/);
    expect(groups.trim()).toBe('Groups:');
    expect(capabilities).toMatch(/^CapEff:\t0{16}$/);
  });

  test('--runas says whom to become', async () => {
    const line = ['-q', '--vhost-user', '-s', socketPath, '-P', pidFile, '--runas', '1234:4321'];
    expect(await call(passt, line)).toMatchObject({ status: 0, stderr: '' });
    const [uid, gid] = idsOf(readPid());
    expect(uid).toMatch(/^Uid:(\t1234){4}$/);
    expect(gid).toMatch(/^Gid:(\t4321){4}$/);
    const refused = await call(passt, ['-q', '--vhost-user', '-s', join(dir, 'other'), '--runas', 'root']);
    expect(refused).toMatchObject({
      status: 1,
      stderr: 'passt: --runas root: root is root, give another user (or 0 to stay root)\n',
    });
  });
});
