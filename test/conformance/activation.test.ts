/**
 * Socket activation: the service serves on a socket that its parent listens on, as systemd passes it. A shell of one line is
 * that parent: it sets what systemd sets, and becomes the service. Needs a build.
 */
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdtempSync,
  openSync,
  closeSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import * as p from '../../src/vhost/protocol';
import {
  BIN,
  call,
  connected,
  launchProgram,
  linkAs,
  PROGRAM,
  type Running,
  SAME_USER,
  SCRIPT,
} from '../support/program';
import { MockFrontEnd } from '../support/vhost/mock-front-end';
import { poll } from '../support/world/processes';

jest.setTimeout(30_000);

const READY = /The guest gets:/;
const WITHOUT_LAUNCHER = [process.execPath, SCRIPT];
const HAS_ACTIVATE = spawnSync('systemd-socket-activate', ['--version']).status === 0;
/** Left out where the tool is not installed: scripts/test.mjs says so, and in CI that is a failure. */
const withSystemd = HAS_ACTIVATE ? test : test.skip;

const native = loadNative();
let dir: string;
let path: string;
let pidFile: string;
let listener: number;
const running: Running[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-activation-'));
  path = join(dir, 's');
  pidFile = join(dir, 'pid');
  listener = native.unixListen(path, 4);
});

afterEach(() => {
  for (const { child } of running.splice(0)) child.kill('SIGKILL');
  // Only what wrote its number into this test's own folder.
  const pid = existsSync(pidFile) ? Number(readFileSync(pidFile, 'utf8')) : 0;
  if (pid > 1 && existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL');
  native.close(listener);
  rmSync(dir, { recursive: true });
});

/** `command` as systemd starts it with `count` sockets. */
function passing(command: readonly string[], count = '1', pid = '$$'): string[] {
  const shell = `LISTEN_PID=${pid} LISTEN_FDS=${count} LISTEN_FDNAMES=one:two exec "$@"`;
  return ['sh', '-c', shell, 'sh', ...command];
}

/** Starts it in the foreground, and waits until it serves. */
async function serving(command: readonly string[], ...argv: string[]): Promise<Running> {
  const service = launchProgram(passing([...command, ...SAME_USER, ...argv]), {}, [listener]);
  running.push(service);
  await service.says(READY);
  return service;
}

/** A front-end that connects to `path`, which the service answers. */
async function expectServed(): Promise<void> {
  const frontEnd = new MockFrontEnd(native, native.unixConnect(path));
  expect((await frontEnd.ask(p.VHOST_USER_GET_FEATURES)).byteLength).toBe(8);
  frontEnd.close();
}

/** The socket is its owner's still: the file is there, and who connects waits in the queue for the next service. */
async function expectLeft(): Promise<void> {
  expect(existsSync(path)).toBe(true);
  (await connected(path)).destroy();
}

async function end(service: Running): Promise<void> {
  service.child.kill('SIGTERM');
  expect(await service.exit).toEqual({ status: 0, signal: null });
}

describe('the socket that was passed is served', () => {
  test.each<[string, readonly string[]]>([
    ['with the launcher', PROGRAM],
    ['by its shell, as people call it', [BIN]],
    ['without the launcher', WITHOUT_LAUNCHER],
  ])('%s', async (_name, command) => {
    const service = await serving(command);
    expect(service.stderr()).toContain(`back-end on ${path}. `);
    await expectServed();
    await expectServed();
    await end(service);
    await expectLeft();
  });

  test('where --socket names it too, by another path', async () => {
    symlinkSync(dir, `${dir}-link`);
    try {
      const service = await serving(PROGRAM, '--socket', join(`${dir}-link`, 's'));
      await expectServed();
      await end(service);
      await expectLeft();
    } finally {
      rmSync(`${dir}-link`);
    }
  });

  test('by the stream protocol', async () => {
    const service = await serving(PROGRAM, '--stream');
    expect(service.stderr()).toContain(`stream socket on ${path}. `);
    (await connected(path)).destroy();
    await service.says(/front-end connected/);
    await end(service);
    await expectLeft();
  });

  test('one-off: who waited in the queue is served, and the next one by the next start', async () => {
    for (let round = 0; round < 2; round++) {
      const frontEnd = new MockFrontEnd(native, native.unixConnect(path));
      const asked = frontEnd.ask(p.VHOST_USER_GET_FEATURES);
      const service = await serving(PROGRAM, '--one-off');
      expect((await asked).byteLength).toBe(8);
      frontEnd.close();
      expect(await service.exit).toEqual({ status: 0, signal: null });
      await poll('the queue to be empty', () => (existsSync(path) ? true : null), 1000);
    }
  });

  test.each<[string, readonly string[], readonly string[]]>([
    ['by the launcher', PROGRAM, ['-b']],
    ['by a configuration that only Node reads', PROGRAM, ['--config']],
    ['without the launcher', WITHOUT_LAUNCHER, ['-b']],
  ])('in the background, %s', async (_name, command, [word]) => {
    const config = join(dir, 'config.yaml');
    if (word === '--config') writeFileSync(config, 'background: true\n');
    const argv = [...(word === '--config' ? [word, config] : [word]), '-q', '-P', pidFile, ...SAME_USER];
    const [file, ...rest] = passing([...command, ...argv]);
    const { status, stderr } = await call(file, rest, [listener]);
    expect({ status, stderr: stderr.replace(/^.*sandbox: not in force.*\n/, '') }).toEqual({ status: 0, stderr: '' });
    await expectServed();
    const pid = Number(readFileSync(pidFile, 'utf8'));
    process.kill(pid, 'SIGTERM');
    await poll('its end', () => (existsSync(`/proc/${pid}`) ? null : true), 5000);
    await expectLeft();
  });

  test('called as passt', async () => {
    const [file, ...rest] = passing([linkAs(dir, 'passt'), '--vhost-user', '-q', '-P', pidFile, ...SAME_USER]);
    expect(await call(file, rest, [listener])).toMatchObject({ status: 0, stderr: '' });
    await expectServed();
  });
});

test('what is meant for another process is not ours', async () => {
  const own = join(dir, 'own');
  const argv = [...SAME_USER, '--socket', own];
  for (const command of [PROGRAM, WITHOUT_LAUNCHER]) {
    const service = launchProgram(passing([...command, ...argv], '1', '1'), {}, [listener]);
    running.push(service);
    await service.says(READY);
    (await connected(own)).destroy();
    await end(service);
    expect(existsSync(own)).toBe(false);
  }
});

test('no socket at all is as without', async () => {
  const own = join(dir, 'own');
  const service = launchProgram(passing([...PROGRAM, ...SAME_USER, '--socket', own], '0'));
  running.push(service);
  await service.says(READY);
  await end(service);
  expect(existsSync(own)).toBe(false);
});

describe('what cannot be served on ends the start with one line', () => {
  const WHO = 'systemd (LISTEN_FDS)';
  const UNIT = 'give ListenStream=PATH in the socket unit';

  async function expectRefused(
    fds: readonly number[],
    count: string,
    argv: readonly string[],
    said: string,
  ): Promise<void> {
    const [file, ...rest] = passing([...PROGRAM, '-q', ...argv], count);
    expect(await call(file, rest, fds)).toEqual({ status: 1, signal: null, stdout: '', stderr: `tubetti: ${said}\n` });
  }

  test('a port', async () => {
    const server: Server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
    await expectRefused([fd], '1', [], `descriptor 3 of ${WHO} is not a unix socket: ${UNIT}, not a port`);
    server.close();
  });

  test('a connection', async () => {
    const ends = new Int32Array(2);
    native.unixPair(ends);
    const said = `descriptor 3 of ${WHO} does not listen: set Accept=no in the socket unit`;
    await expectRefused([ends[1]], '1', [], said);
    for (const fd of ends) native.close(fd);
  });

  test('a file', async () => {
    const fd = openSync('/etc/passwd', 'r');
    await expectRefused([fd], '1', [], `descriptor 3 of ${WHO} is not a socket: ${UNIT}`);
    closeSync(fd);
  });

  test('nothing', async () => {
    await expectRefused([], '1', [], `descriptor 3 of ${WHO} is not open: ${UNIT}`);
  });

  test('two of them', async () => {
    const said = `${WHO} has passed 2 sockets (one:two): give one ListenStream= in the socket unit`;
    await expectRefused([listener, listener], '2', [], said);
  });

  test('a number that is none', async () => {
    await expectRefused([listener], 'many', [], 'LISTEN_FDS many: give the number of sockets that are passed');
  });

  test('another socket is wanted', async () => {
    const other = join(dir, 'other');
    const said = `--socket ${other}: ${WHO} has passed a socket that listens on ${path}: leave --socket out`;
    await expectRefused([listener], '1', ['--socket', other], said);
    for (const [option, value] of [
      ['--connect', other],
      ['--fd', '4'],
    ] as const) {
      const both = `${option}: ${WHO} has passed a socket to listen on, give only one of the two`;
      await expectRefused([listener, listener], '1', [option, value], both);
    }
    expect(existsSync(other)).toBe(false);
  });
});

describe("systemd's own program", () => {
  const at = join('/tmp', `tubetti-activate-${String(process.pid)}.sock`);
  const activate = (...argv: string[]): Running => {
    const command = ['systemd-socket-activate', '-E', 'TUBETTI_NODE', ...argv, BIN, ...SAME_USER];
    const service = launchProgram(command);
    running.push(service);
    return service;
  };

  afterEach(() => {
    rmSync(at, { force: true });
  });

  withSystemd('starts it when a front-end comes', async () => {
    const service = activate('-l', at);
    await service.says(/Listening on/);
    const frontEnd = new MockFrontEnd(native, native.unixConnect(at));
    expect((await frontEnd.ask(p.VHOST_USER_GET_FEATURES)).byteLength).toBe(8);
    expect(service.stderr()).toContain(`back-end on ${at}. `);
    frontEnd.close();
    await end(service);
    expect(existsSync(at)).toBe(true);
  });

  withSystemd('a datagram socket', async () => {
    const service = activate('--datagram', '-l', at);
    await service.says(/Listening on/);
    const sender = native.unixDatagram(at);
    native.write(sender, Buffer.from('!'), 0, 1);
    expect((await service.exit).status).toBe(1);
    native.close(sender);
    expect(service.stderr()).toMatch(/^tubetti: descriptor 3 of systemd \(LISTEN_FDS\) is not a stream socket: .*\n$/m);
  });
});
