/**
 * What is left to the running service, as the kernel shows it from outside: rights, namespaces, files, descriptors; as root
 * and as an ordinary user, in the foreground and in the background; and that what it needs later still works behind the
 * door. Needs a build.
 */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { spawnSync } from 'node:child_process';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { LAYER_NAMES } from '../../src/sandbox/layer';
import { call, LAUNCHER, launchProgram, linkAs, PROGRAM, type Running, SCRIPT } from '../support/program';
import { poll } from '../support/world/processes';
import { scrape, threadStatus } from '../support/run-service';

jest.setTimeout(60_000);

const READY = /<interface type='vhostuser'>/;
const NO_RIGHTS = '0000000000000000';
const isRoot = process.getuid?.() === 0;
const asRoot = isRoot ? describe : describe.skip;
/** Somebody without an account. */
const USER = ['setpriv', '--reuid', '12345', '--regid', '12345', '--clear-groups'];

const native = loadNative();
let dir: string;
const running: Running[] = [];
const pids: number[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-sandbox-'));
  chmodSync(dir, 0o777);
});

afterEach(() => {
  for (const { child } of running.splice(0)) child.kill('SIGKILL');
  for (const pid of pids.splice(0)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It is gone.
    }
  }
  rmSync(dir, { recursive: true });
});

async function foreground(before: readonly string[], ...argv: string[]): Promise<Running> {
  const service = launchProgram([...before, ...PROGRAM, '-s', join(dir, 's'), ...argv]);
  running.push(service);
  await service.says(READY);
  return service;
}

/** Returns its process id. */
async function background(before: readonly string[], ...argv: string[]): Promise<number> {
  const [file, ...rest] = [...before, ...PROGRAM, '-b', '-q', '-s', join(dir, 's'), '-P', join(dir, 'pid'), ...argv];
  expect((await call(file, rest)).status).toBe(0);
  const pid = Number(readFileSync(join(dir, 'pid'), 'utf8'));
  pids.push(pid);
  return pid;
}

const namespaceOf = (pid: number | 'self', name: string): string => readlinkSync(`/proc/${pid}/ns/${name}`);

function expectNoRights(pid: number): void {
  const all = (field: string, value: string): void => {
    for (const one of threadStatus(pid, field)) expect({ field, value: one }).toEqual({ field, value });
  };
  all('NoNewPrivs', '1');
  for (const field of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) all(field, NO_RIGHTS);
}

/** Its mounts: where, and whether all that can be forbidden there is. */
function expectEmptyRoot(pid: number): void {
  const root = join(SCRIPT, '..', '..');
  const mounts = readFileSync(`/proc/${pid}/mountinfo`, 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.split(' '));
  const places = mounts.map((fields) => fields[4]).sort();
  const own = ['bin', 'build/Release', 'dist', 'package.json'].map((name) => join(root, name));
  expect(places).toEqual(['/', '/proc/self', '/proc/sys/net', ...own].sort());
  for (const fields of mounts)
    expect(fields[5].split(',')).toEqual(expect.arrayContaining(['ro', 'nosuid', 'nodev', 'noexec']));
  expect(existsSync(`/proc/${pid}/root/etc`)).toBe(false);
  expect(readdirSync(`/proc/${pid}/root/proc`).sort()).toEqual(['net', 'self', 'sys']);
}

/** No file of the host but the standard streams, and no directory: from one there would be a way to all others. */
function expectNoFiles(pid: number): void {
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    const path = `/proc/${pid}/fd/${fd}`;
    const stat = statSync(path, { throwIfNoEntry: false });
    if (stat === undefined || Number(fd) < 3) continue;
    expect({ path: readlinkSync(path), directory: stat.isDirectory() }).toMatchObject({ directory: false });
    expect({ path: readlinkSync(path), file: stat.isFile() }).toMatchObject({ file: false });
  }
}

const NAMESPACES = ['mnt', 'ipc', 'uts'];

asRoot('what the kernel says of it', () => {
  test.each([
    ['root, foreground', [], false],
    ['root, background', [], true],
    ['an ordinary user, foreground', USER, false],
    ['an ordinary user, background', USER, true],
  ])('%s', async (_name, before: readonly string[], inBackground) => {
    const pid = inBackground ? await background(before) : ((await foreground(before)).child.pid ?? -1);
    expectNoRights(pid);
    const uid = before.length > 0 ? '12345' : '65534';
    expect(new Set(threadStatus(pid, 'Uid'))).toEqual(new Set([`${uid}\t${uid}\t${uid}\t${uid}`]));
    expectEmptyRoot(pid);
    expectNoFiles(pid);
    for (const name of NAMESPACES) expect(namespaceOf(pid, name)).not.toBe(namespaceOf('self', name));
    expect(namespaceOf(pid, 'user') === namespaceOf('self', 'user')).toBe(before.length === 0);
    expect(namespaceOf(pid, 'pid') === namespaceOf('self', 'pid')).toBe(!inBackground);
    // Not dumpable: its files in /proc are root's.
    expect(statSync(`/proc/${pid}/environ`).uid).toBe(0);
  });

  test('its metrics say which layers are in force', async () => {
    const service = await foreground(USER, '--metrics', '127.0.0.1:0');
    const port = Number(/metrics {2}http:\S+:([0-9]+)\/metrics/.exec(service.stderr())?.[1]);
    // The data plane's own filter is the last of all.
    const page = await poll(
      'all layers',
      async () => {
        const text = await scrape(port);
        return text.includes('tubetti_sandbox_layer{layer="seccomp-data-plane"} 1') ? text : null;
      },
      5000,
    );
    const layers = new Map(
      [...page.matchAll(/^tubetti_sandbox_layer\{layer="([a-z-]+)"\} ([01])$/gm)].map((m) => [m[1], m[2]]),
    );
    expect([...layers.keys()]).toEqual([...LAYER_NAMES]);
    for (const name of ['user-namespace', 'mount-namespace', 'root', 'capabilities', 'no-new-privs', 'seccomp']) {
      expect({ name, on: layers.get(name) }).toEqual({ name, on: '1' });
    }
    expect(layers.get('pid-namespace')).toBe('0');
    expect(Number(/^process_open_fds ([0-9]+)$/m.exec(page)?.[1])).toBeGreaterThan(3);
  });

  test('a port below 1024 that an ordinary user was given the right to', async () => {
    const caps = ['--inh-caps', '+net_bind_service', '--ambient-caps', '+net_bind_service'];
    const service = await foreground([...USER, ...caps], '-t', '127.0.0.1/986:22', '-u', '127.0.0.1/986:22');
    expect(service.stderr()).toContain('forward  tcp 127.0.0.1:986 -> 22');
    expectNoRights(service.child.pid ?? -1);
  });

  test('the socket file goes with the service, however it ends, but not that of another', async () => {
    const path = join(dir, 's');
    const service = await foreground(USER);
    service.child.kill('SIGKILL');
    await service.exit;
    await poll('its socket file to go', () => (existsSync(path) ? null : true), 5000);
    const second = await foreground(USER);
    rmSync(path);
    const other = native.unixListen(path, 1);
    second.child.kill('SIGTERM');
    expect(await second.exit).toEqual({ status: 0, signal: null });
    expect(existsSync(path)).toBe(true);
    native.close(other);
  });
});

describe('behind the door', () => {
  test('--connect: a front-end that comes back under its path is found again', async () => {
    const path = join(dir, 'front-end');
    const service = launchProgram(
      [...PROGRAM, '--runas', '0', '--connect', path].filter((word) => isRoot || !/^(--runas|0)$/.test(word)),
    );
    running.push(service);
    await service.says(READY);
    for (let round = 0; round < 2; round++) {
      // The file is another one each time.
      const server = createServer();
      const connection = new Promise<void>((resolve) =>
        server.once('connection', (socket) => {
          socket.destroy();
          resolve();
        }),
      );
      await new Promise<void>((resolve) => server.listen(path, resolve));
      await connection;
      await new Promise((resolve) => server.close(resolve));
    }
  });

  (isRoot ? test : test.skip)('resolv.conf is followed when it is replaced, and what it links to', async () => {
    const etc = join(dir, 'etc');
    mkdirSync(join(etc, 'real'), { recursive: true });
    const put = (place: string, server: string): void => {
      writeFileSync(join(etc, 'new'), `nameserver ${server}\n`);
      renameSync(join(etc, 'new'), join(etc, place));
    };
    put('real/stub.conf', '198.51.100.1');
    symlinkSync('real/stub.conf', join(etc, 'resolv.conf'));
    const shell = 'mount --bind "$0" /etc && exec "$@"';
    const service = await foreground(['unshare', '--mount', 'sh', '-c', shell, etc], '--runas', '12345', '-d', '-4');
    expect(service.stderr()).toContain('DNS 198.51.100.1');
    const changes = (): number => service.stderr().match(/the host's network changed/g)?.length ?? 0;
    for (const [i, place] of ['real/stub.conf', 'resolv.conf', 'resolv.conf'].entries()) {
      put(place, `198.51.100.${i + 2}`);
      await poll('the change', () => (changes() === i + 1 ? true : null), 10_000);
    }
  });

  test('a configuration that only Node reads sends it to the background: what it needs is handed on', async () => {
    const path = join(dir, 's');
    const own = isRoot ? 'runas: "0"\n' : '';
    writeFileSync(join(dir, 'config.yaml'), `background: true\nquiet: true\nsocket: ${path}\npid: ${dir}/pid\n${own}`);
    const [file, ...rest] = [...PROGRAM, '--config', join(dir, 'config.yaml')];
    expect(await call(file, rest)).toMatchObject({ status: 0, stderr: '' });
    const pid = Number(readFileSync(join(dir, 'pid'), 'utf8'));
    pids.push(pid);
    expectNoRights(pid);
    if (isRoot) expectEmptyRoot(pid);
    expect(existsSync(path)).toBe(true);
    process.kill(pid, 'SIGTERM');
    await poll('its socket file to go', () => (existsSync(path) ? null : true), 5000);
  });

  test('in the foreground after all: the process that waits hands on signals and the status', async () => {
    const own = isRoot ? ['--runas', '0'] : [];
    const passt = [linkAs(dir, 'passt'), '--vhost-user', ...own, '-s', join(dir, 's')];
    for (const [signal, end] of [
      ['SIGTERM', { status: 0, signal: null }],
      ['SIGINT', { status: 0, signal: null }],
    ] as const) {
      const service = launchProgram(passt, { TUBETTI_FOREGROUND: '1' });
      running.push(service);
      await service.says(READY);
      service.child.kill(signal);
      expect(await service.exit).toEqual(end);
      expect(existsSync(join(dir, 's'))).toBe(false);
    }
  });

  test('descriptors of the caller are closed, and streams that were closed are given a place', async () => {
    const shell = 'exec 7</etc/passwd 8</etc <&- >&-; exec "$@"';
    const service = await foreground(['sh', '-c', shell, 'sh']);
    const pid = service.child.pid ?? -1;
    if (!isRoot) return;
    expectNoFiles(pid);
    for (const fd of [0, 1]) expect(statSync(`/proc/${pid}/fd/${fd}`).rdev).toBe(statSync('/dev/null').rdev);
  });
});

describe('layers that cannot be had', () => {
  const withoutLauncher = [process.execPath, SCRIPT, '-q'];
  const own = isRoot ? ['--runas', '0'] : [];

  test('without the launcher: one line, and it serves', async () => {
    const service = launchProgram([...withoutLauncher, ...own, '-s', join(dir, 's')]);
    running.push(service);
    // From Node 22 on libuv may have an io_uring by then.
    const ring = process.versions.node.startsWith('20.') ? '' : '(; seccomp \\(Node has an io_uring, [^)]*\\))?';
    await service.says(
      new RegExp(`sandbox: not in force: user-namespace, .*root \\(not started by tubetti-launch\\)${ring}\n`),
    );
    await poll('its socket', () => (existsSync(join(dir, 's')) ? true : null), 5000);
    expect(service.stderr().match(/sandbox/g)).toHaveLength(1);
  });

  test('--sandbox strict refuses to start so', async () => {
    const argv = [...withoutLauncher.slice(1), ...own, '--sandbox', 'strict', '-s', join(dir, 's')];
    const { status, stderr } = await call(withoutLauncher[0], argv);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^tubetti: --sandbox strict: sandbox: not in force: .*\n$/);
    expect(existsSync(join(dir, 's'))).toBe(false);
  });

  test('--sandbox off warns and leaves the host in sight', async () => {
    const service = await foreground([], ...own, '--sandbox', 'off');
    await service.says(/warning: --sandbox off: for debugging/);
    if (isRoot) expect(existsSync(`/proc/${service.child.pid}/root/etc`)).toBe(true);
  });

  test('a word that is none', async () => {
    const [file, ...rest] = [...PROGRAM, '--sandbox', 'maybe'];
    const { status, stderr } = await call(file, rest);
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: 'tubetti: --sandbox maybe: give one of on, strict, log, off\n',
    });
  });

  test('the launcher: nobody comes to more rights by what it executes, and that has no io_uring', () => {
    const { stdout } = spawnSync(LAUNCHER, ['tubetti', '/bin/sh', '-c', 'cat /proc/self/status'], { encoding: 'utf8' });
    expect(stdout).toMatch(/^NoNewPrivs:\t1$/m);
    expect(stdout).toMatch(/^Seccomp:\t2$/m);
    expect(stdout).toMatch(/^CapBnd:\t0{16}$/m);
  });

  test('the launcher: Node reads no certificates at each start that the caller has for TLS', () => {
    const script = ['-c', 'echo "${NODE_EXTRA_CA_CERTS-none}"'];
    const env = { ...process.env, NODE_EXTRA_CA_CERTS: '/nonexistent' };
    const { stdout } = spawnSync(LAUNCHER, ['tubetti', '/bin/sh', ...script], { encoding: 'utf8', env });
    expect(stdout).toBe('none\n');
  });

  test('the launcher by itself says how it is called', async () => {
    expect(await call(LAUNCHER, [])).toMatchObject({ status: 2, stdout: '' });
  });
});
