/**
 * The program as callers see it: exit statuses, which stream says what, the socket file's life. Needs a build (dist/
 * and the addon), which `npm test` makes first.
 */
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { PROGRAM, connected, launchProgram, type Result, type Running, runOnce, SAME_USER } from '../support/program';

// Each test starts the program once or more, on machines that do other things too.
jest.setTimeout(30_000);

const native = loadNative();
let dir: string;
const children: ChildProcess[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-cli-'));
});

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

const once = (...argv: string[]): Result => runOnce([...SAME_USER, ...argv]);

function launch(...argv: string[]): Running {
  const running = launchProgram([...PROGRAM, ...SAME_USER, ...argv]);
  children.push(running.child);
  return running;
}

/** What is said last at the start. */
const STARTED = /<interface type='vhostuser'>/;

describe('what needs no host', () => {
  test('-h: usage on stdout, 0', () => {
    const { status, stdout, stderr } = once('-h');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    for (const word of ['--socket', '--tcp-ports', '--metrics', '--no-dhcp-search', '--config', 'TUBETTI_MTU=1500'])
      expect(stdout).toContain(word);
    for (const line of stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(100);
  });

  test('--version: name and version first', () => {
    const { version } = JSON.parse(readFileSync(join(__dirname, '../../package.json'), 'utf8')) as { version: string };
    const { status, stdout, stderr } = once('--version');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout.split('\n')[0]).toBe(`tubetti ${version}`);
  });

  test('--print-capabilities: JSON on stdout', () => {
    const { status, stdout, stderr } = once('--print-capabilities');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(JSON.parse(stdout)).toEqual({ type: 'net' });
  });
});

describe('errors: one line on stderr, 1', () => {
  test.each<[string[], string]>([
    [['--bogus'], 'tubetti: unknown option --bogus (see --help)\n'],
    [['--mtu', '70000'], 'tubetti: --mtu 70000: give a number from 0 to 65521\n'],
    [['-t', '22', '--no-tcp'], 'tubetti: -t 22: ports cannot be forwarded with --no-tcp\n'],
    [['-i', 'nosuchdev0'], 'tubetti: --interface nosuchdev0: no such interface'],
    [
      ['-s', '/nonexistent-dir/x'],
      'tubetti: --socket /nonexistent-dir/x: cannot listen on /nonexistent-dir/x: no such file or directory',
    ],
    [['-F', '40'], 'tubetti: --fd 40: '],
    [['-l', '/nonexistent-dir/x'], 'tubetti: --log-file /nonexistent-dir/x: '],
  ])('%j', (argv, message) => {
    const { status, stdout, stderr } = once('-q', ...argv);
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr.startsWith(message)).toBe(true);
    expect(stderr.trimEnd()).not.toContain('\n');
  });

  test('a port that is taken', async () => {
    const holder = createServer();
    await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
    const { port } = holder.address() as { port: number };
    const path = join(dir, 's');
    const { status, stderr } = once('-q', '-s', path, '-t', `${port}:22`);
    holder.close();
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: `tubetti: -t ${port}:22: cannot bind port ${port}: address already in use\n`,
    });
    expect(existsSync(path)).toBe(false);
  });

  test('a metrics port that is taken', async () => {
    const holder = createServer();
    await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
    const { port } = holder.address() as { port: number };
    const { status, stderr } = once('-q', '-s', join(dir, 's'), '--metrics', String(port));
    holder.close();
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: `tubetti: --metrics 127.0.0.1:${port}: cannot listen: address already in use\n`,
    });
  });
});

describe('a service', () => {
  test.each(['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP'] as const)(
    '%s is a clean end: 0, and the socket file is gone',
    async (signal) => {
      const path = join(dir, 's');
      const service = launch('-s', path);
      await service.says(STARTED);
      expect(statSync(path).isSocket()).toBe(true);
      expect(statSync(path).mode & 0o777).toBe(0o600);
      service.child.kill(signal);
      expect(await service.exit).toEqual({ status: 0, signal: null });
      expect(existsSync(path)).toBe(false);
    },
  );

  test('says what the guest gets and what to paste', async () => {
    const path = join(dir, "it's,here");
    const service = launch('-s', path, '-a', '198.51.100.7/25', '-g', '198.51.100.1', '-m', '1500', '-4');
    await service.says(STARTED);
    const text = service.stderr();
    expect(text).toContain('IPv4     198.51.100.7/25, gateway 198.51.100.1');
    expect(text).toContain("198.51.100.1 is this host's 127.0.0.1");
    expect(text).toContain('MTU 1500');
    expect(text).toContain('memory-backend-memfd,id=mem,size=1G,share=on');
    // A comma doubled for QEMU, the quote closed and opened for the shell, an entity for XML.
    expect(text).toContain(`'socket,id=net0,path=${join(dir, "it'\\''s,,here")},reconnect=1'`);
    const socket = `path='${join(dir, 'it&apos;s,here')}' mode='client'`;
    expect(text).toContain(`<source type='unix' ${socket}><reconnect enabled='yes' timeout='1'/></source>`);
    expect(text).not.toContain('IPv6');
  });

  test('a socket that is served is not taken away, a stale one is replaced', async () => {
    const path = join(dir, 's');
    const first = launch('-s', path);
    await first.says(STARTED);
    const second = once('-q', '-s', path);
    expect(second.status).toBe(1);
    expect(second.stderr).toContain(`--socket ${path}: `);
    expect(second.stderr).toContain('address already in use (another process listens there');
    first.child.kill('SIGTERM');
    await first.exit;
    native.close(native.unixListen(path, 1));
    expect(existsSync(path)).toBe(true);
    const third = launch('-s', path);
    await third.says(STARTED);
    third.child.kill();
    expect((await third.exit).status).toBe(0);
  });

  test('--one-off ends with its first front-end', async () => {
    const path = join(dir, 's');
    const service = launch('-1', '-s', path);
    await service.says(STARTED);
    (await connected(path)).destroy();
    expect(await service.exit).toEqual({ status: 0, signal: null });
    expect(existsSync(path)).toBe(false);
  });

  test('without --one-off the next front-end is waited for', async () => {
    const path = join(dir, 's');
    const service = launch('-s', path);
    await service.says(STARTED);
    (await connected(path)).destroy();
    await service.says(/front-end disconnected/);
    (await connected(path)).destroy();
    await service.says(/front-end disconnected[^]*front-end disconnected/);
    service.child.kill();
    expect((await service.exit).status).toBe(0);
  });

  test('--connect goes to a front-end that listens', async () => {
    const path = join(dir, 'qemu');
    const frontEnd = createServer();
    const arrival = new Promise<Socket>((resolve) => frontEnd.once('connection', resolve));
    await new Promise<void>((resolve) => frontEnd.listen(path, resolve));
    const service = launch('--one-off', '--connect', path);
    (await arrival).destroy();
    expect(await service.exit).toEqual({ status: 0, signal: null });
    expect(service.stderr()).toContain(`path=${path},server=on`);
    frontEnd.close();
  });

  test('--metrics: the page, and whether a guest is there', async () => {
    const path = join(dir, 's');
    const service = launch('-s', path, '--metrics', '0');
    const [, url] = await service.says(/metrics {2}(http:\S+)/);
    await service.says(STARTED);
    const page = async (): Promise<string> => (await fetch(url)).text();
    expect(await page()).toMatch(/^tubetti_guest_connected 0$/m);
    const socket = await connected(path);
    await service.says(/front-end connected/);
    expect(await page()).toMatch(/^tubetti_guest_connected 1$/m);
    socket.destroy();
    service.child.kill();
    expect((await service.exit).status).toBe(0);
  });

  test('a forwarded port is listened on', async () => {
    const probe = createServer();
    await new Promise<void>((resolve) => probe.listen(0, '::', resolve));
    const { port } = probe.address() as { port: number };
    await new Promise((resolve) => probe.close(resolve));
    const service = launch('-s', join(dir, 's'), '-t', `${port}:22`);
    await service.says(new RegExp(`forward {2}tcp \\*:${port} -> 22`));
    const socket = connect({ host: '127.0.0.1', port });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    socket.on('error', () => {});
    service.child.kill();
    expect((await service.exit).status).toBe(0);
    socket.destroy();
  });

  test('--log-file: the same lines with times, private', async () => {
    const log = join(dir, 'log');
    const service = launch('-s', join(dir, 's'), '-l', log);
    await service.says(STARTED);
    service.child.kill();
    await service.exit;
    expect(statSync(log).mode & 0o777).toBe(0o600);
    const [header, ...lines] = readFileSync(log, 'utf8').trimEnd().split('\n');
    expect(header).toMatch(/^tubetti [0-9.]+: .*\/bin\/tubetti \([0-9]+\)$/);
    expect(lines.some((line) => /^[0-9]+\.[0-9]{4}: info: {4}Tubetti /.test(line))).toBe(true);
  });
});
