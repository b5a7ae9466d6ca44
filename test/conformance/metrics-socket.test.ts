/** `--metrics unix:PATH`: the socket's file, and that the scrapers' bounds hold there as well. Needs a build. */
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { get } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { Guest } from '../support/guest/guest';
import { launchProgram, PROGRAM, type Running, runOnce, SAME_USER, SCRIPT } from '../support/program';
import { residentBytes } from '../support/run-service';
import { poll } from '../support/world/processes';

jest.setTimeout(30_000);

const MIB = 1 << 20;
const SOON_MS = 1000;

let dir: string;
let path: string;
const running: Running[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-scrape-'));
  path = join(dir, 'm');
});

afterEach(() => {
  for (const { child } of running.splice(0)) child.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

async function start(metrics = `unix:${path}`, program: readonly string[] = PROGRAM): Promise<Running> {
  const one = launchProgram([...program, ...SAME_USER, '-s', join(dir, 's'), '--metrics', metrics]);
  running.push(one);
  await one.says(/waiting for a front-end/);
  return one;
}

function scrape(): Promise<string> {
  return new Promise((resolve, reject) => {
    get({ socketPath: path, path: '/metrics', agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
      response.on('end', () => {
        resolve(body);
      });
    }).on('error', reject);
  });
}

function client(): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path, () => {
      resolve(socket);
    });
    socket.once('error', reject);
    socket.on('error', () => undefined);
  });
}

const modeOf = (): number => statSync(path).mode & 0o777;

/** The end of a process, and of the broker that outlives it by a moment. */
const removed = (): Promise<true> => poll('the removal of the socket', () => (existsSync(path) ? null : true), 5000);

test('it is for its owner, serves the page, is said at the start, and is removed at the end', async () => {
  const service = await start();
  expect(modeOf()).toBe(0o600);
  await service.says(new RegExp(`metrics {2}unix:${path}`));
  expect(await scrape()).toMatch(/^tubetti_guest_connected 0$/m);
  service.child.kill('SIGTERM');
  expect(await service.exit).toEqual({ status: 0, signal: null });
  expect(existsSync(path)).toBe(false);
});

test('a mode may be asked for', async () => {
  await start(`unix:${path},mode=660`);
  expect(modeOf()).toBe(0o660);
});

test('a service that is killed leaves none behind; without the launcher a stale one is replaced', async () => {
  const killed = await start();
  killed.child.kill('SIGKILL');
  await killed.exit;
  await removed();
  const alone = await start(undefined, [process.execPath, SCRIPT]);
  alone.child.kill('SIGKILL');
  await alone.exit;
  expect(existsSync(path)).toBe(true);
  const next = await start(undefined, [process.execPath, SCRIPT]);
  expect(await scrape()).toMatch(/^tubetti_build_info/m);
  next.child.kill('SIGTERM');
  await next.exit;
  expect(existsSync(path)).toBe(false);
});

test('another one in its place is left alone at the end', async () => {
  const service = await start();
  rmSync(path);
  const other = createServer().listen(path);
  service.child.kill('SIGTERM');
  await service.exit;
  expect(existsSync(path)).toBe(true);
  await new Promise((resolve) => other.close(resolve));
});

test.each<[string, (at: string) => string, RegExp]>([
  [
    'a socket on which somebody listens',
    (at) => at,
    /^tubetti: --metrics unix:\S+: cannot listen: address already in use \(another/,
  ],
  ['a file', (at) => `${at}.file`, /^tubetti: --metrics unix:\S+\.file: cannot listen: address already in use/],
  ['a directory that is not there', (at) => `${at}/x/y`, /^tubetti: --metrics unix:\S+: cannot listen: n/],
  ['no path', () => '', /^tubetti: --metrics unix:: give a path of 1 to 107 bytes after "unix:"/],
  ['a mode that executes', (at) => `${at},mode=777`, /^tubetti: --metrics unix:\S+: give a mode from 600 to 666/],
  ['a mode without us', (at) => `${at},mode=066`, /^tubetti: --metrics unix:\S+: give a mode from 600 to 666/],
])('%s is refused in one line', async (_title, name, line) => {
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(path, resolve));
  writeFileSync(`${path}.file`, 'kept');
  const argv = [...SAME_USER, '-q', '-s', join(dir, 's'), '--metrics', `unix:${name(path)}`];
  const { status, stderr } = runOnce(argv);
  expect(status).toBe(1);
  expect(stderr).toMatch(line);
  expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  expect(existsSync(path)).toBe(true);
  expect(statSync(`${path}.file`).size).toBe(4);
  await new Promise((resolve) => other.close(resolve));
});

describe('the bounds of scrapers', () => {
  test('1000 that say nothing keep nobody out and hold no descriptors; 16 that ask and do not read hold no memory', async () => {
    const service = await start();
    const pid = service.child.pid ?? -1;
    await scrape();
    const descriptors = readdirSync(`/proc/${pid}/fd`).length;
    const memory = residentBytes(pid);
    const idle: Socket[] = [];
    for (let i = 0; i < 1000; i++) idle.push(await client());
    const requests = 'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(10_000);
    for (let i = 0; i < 16; i++) {
      const one = (await client()).pause();
      one.write(requests);
      idle.push(one);
    }
    const asked = performance.now();
    expect(await scrape()).toMatch(/^tubetti_build_info/m);
    const guest = await Guest.start(loadNative(), { socket: join(dir, 's') });
    await guest.dhcp();
    expect(performance.now() - asked).toBeLessThan(3 * SOON_MS);
    await guest.stop();
    expect(readdirSync(`/proc/${pid}/fd`).length).toBeLessThanOrEqual(descriptors + 20);
    expect(residentBytes(pid) - memory).toBeLessThan(20 * MIB);
    for (const one of idle) one.destroy();
  });

  test('a request that is too large is refused; one that never ends is cut off', async () => {
    await start();
    const large = await client();
    let answer = '';
    large.setEncoding('utf8').on('data', (chunk: string) => (answer += chunk));
    const end = new Promise((resolve) => large.once('close', resolve));
    large.write(`GET /metrics HTTP/1.1\r\nX: ${'x'.repeat(10_000)}`);
    await end;
    expect(answer).toMatch(/^HTTP\/1\.1 431 /);

    const slow = await client();
    const closed = new Promise((resolve) => slow.once('close', resolve));
    const asked = performance.now();
    slow.write('GET /metrics HTTP/1.1\r\nX: ');
    const trickle = setInterval(() => slow.write('x'), 100);
    await closed;
    clearInterval(trickle);
    expect(performance.now() - asked).toBeLessThan(10_000);
  });
});

describe('a socket that systemd passes, named metrics', () => {
  const native = loadNative();

  /** As systemd starts it: descriptors from 3 on, their names. */
  function passing(names: string, command: readonly string[]): string[] {
    const shell = `LISTEN_PID=$$ LISTEN_FDS=${names.split(':').length} LISTEN_FDNAMES=${names} exec "$@"`;
    return ['sh', '-c', shell, 'sh', ...command, ...SAME_USER];
  }

  test.each([
    ['metrics:front', PROGRAM],
    ['front:metrics', PROGRAM],
    ['metrics:front', [process.execPath, SCRIPT]],
  ])('%s: scrapers come to it, front-ends to the other; both are left at the end', async (names, program) => {
    const socket = join(dir, 's');
    const [scrapers, frontEnds] = [native.unixListen(path, 4), native.unixListen(socket, 4)];
    const fds = names.startsWith('metrics') ? [scrapers, frontEnds] : [frontEnds, scrapers];
    const service = launchProgram(passing(names, program), {}, fds);
    running.push(service);
    for (const fd of fds) native.close(fd);
    await service.says(new RegExp(`metrics {2}unix:${path}\\n`));
    const guest = await Guest.start(native, { socket });
    expect(await scrape()).toMatch(/^tubetti_guest_connected 1$/m);
    await guest.stop();
    service.child.kill('SIGTERM');
    expect(await service.exit).toEqual({ status: 0, signal: null });
    expect([existsSync(path), existsSync(socket)]).toEqual([true, true]);
  });

  test('alone it takes nothing from --socket; a port will do, which the guest cannot reach', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { _handle } = server as unknown as { _handle: { fd: number } };
    const service = launchProgram(passing('metrics', [...PROGRAM, '-s', join(dir, 's')]), {}, [_handle.fd]);
    running.push(service);
    const { port } = server.address() as { port: number };
    server.close();
    await service.says(new RegExp(`metrics {2}http://127\\.0\\.0\\.1:${port}/metrics\\n`));
  });

  test.each<[string, string[], RegExp]>([
    [
      'with --metrics',
      ['--metrics', '0'],
      /^tubetti: --metrics: systemd \(LISTEN_FDS\) has passed a socket named metrics, give/,
    ],
    [
      'a file',
      [],
      /^tubetti: descriptor 3 of systemd \(LISTEN_FDS\), named metrics, cannot be served on: socket operation/,
    ],
  ])('%s is refused in one line', async (_title, more, line) => {
    const file = openSync(join(dir, 'file'), 'w');
    const argv = [...passing('metrics', [...PROGRAM, '-q', '-s', join(dir, 's')]), ...more];
    const service = launchProgram(argv, {}, [file]);
    running.push(service);
    expect(await service.exit).toEqual({ status: 1, signal: null });
    expect(service.stderr()).toMatch(line);
    closeSync(file);
  });
});
