/**
 * The filters of system calls in the real service: on every thread, and against somebody who has taken one over. What is
 * tried runs inside (test/fixtures/sandbox/probe.cjs); each attempt has a service of its own, as most of them end it.
 */
import { appendFileSync, chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { constants, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { PROGRAM, launchProgram, type Running, SAME_USER } from '../support/program';
import { threadStatus } from '../support/run-service';

jest.setTimeout(60_000);

const { EPERM, ENOSYS, ENOENT, EACCES, EINVAL, EBADF } = constants.errno;
const KILLED = 'SIGSYS';
const PRELOAD = join(__dirname, '../fixtures/sandbox/probe.cjs');

type Thread = 'main' | 'data-plane';

let dir: string;
let server: Server;
const running = new Set<Running>();

beforeAll((done) => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-sandbox-'));
  server = createServer((socket) => socket.destroy()).listen(join(dir, 'other.sock'), done);
});

afterEach(() => {
  for (const { child } of running) child.kill('SIGKILL');
  running.clear();
});

afterAll(() => {
  server.close();
  rmSync(dir, { recursive: true });
});

/** `argv`: more options of the service. */
function launch(thread: Thread, what: string, argument = '', argv: readonly string[] = []): Promise<Running> {
  return launchWith([...SAME_USER, '--foreground', '--socket', join(dir, 'vu.sock'), ...argv], thread, what, argument);
}

async function launchWith(argv: readonly string[], thread: Thread, what: string, argument = ''): Promise<Running> {
  writeFileSync(join(dir, 'asked'), '');
  const service = launchProgram([...PROGRAM, ...argv], {
    NODE_OPTIONS: `--require ${PRELOAD}`,
    TUBETTI_SANDBOX_PROBE: `${thread} ${what} ${argument}`,
    TUBETTI_SANDBOX_ASKED: join(dir, 'asked'),
  });
  running.add(service);
  await service.says(/probe: ready/);
  return service;
}

/** Has it tried. */
function ask(thread: Thread, { child }: Running): void {
  if (thread === 'main') child.kill('SIGUSR2');
  else appendFileSync(join(dir, 'asked'), '!');
}

/** What came of it: the kernel's answer, or the signal that ended the service. */
async function attempt(thread: Thread, what: string, argument?: string): Promise<number | string> {
  const service = await launch(thread, what, argument);
  ask(thread, service);
  const answer = service.says(/probe: (-?[0-9]+)/).then(([, result]) => Number(result));
  const outcome = await Promise.race([answer.catch(() => 'end'), service.exit.then(({ signal }) => String(signal))]);
  service.child.kill('SIGKILL');
  await service.exit;
  return outcome;
}

test("filters are on every thread, and one more on the data plane's", async () => {
  const { child } = await launch('main', 'nothing');
  const pid = child.pid ?? -1;
  expect(new Set(threadStatus(pid, 'Seccomp'))).toEqual(new Set(['2']));
  expect(new Set(threadStatus(pid, 'NoNewPrivs'))).toEqual(new Set(['1']));
  const filters = threadStatus(pid, 'Seccomp_filters').map(Number).sort();
  const least = filters[0];
  // tubetti-launch's, and that of all threads.
  expect(least).toBe(2);
  expect(filters.slice(0, -1)).toEqual(filters.slice(0, -1).map(() => least));
  expect(filters.at(-1)).toBe(least + 1);
});

describe.each<Thread>(['main', 'data-plane'])('somebody in the thread %s', (thread) => {
  test.each([
    'execve',
    'fork',
    'vfork',
    'ptrace-parent',
    'raw-socket',
    'packet-socket',
    'setuid-0',
    'user-namespace',
    'own-memory',
    'mount',
    'bpf',
    'process-vm',
    'thread',
  ])('%s ends the service', async (what) => {
    expect(await attempt(thread, what)).toBe(KILLED);
  });

  test('cannot write to a file', async () => {
    const path = join(dir, 'written');
    expect(await attempt(thread, 'write-file', path)).toBe(KILLED);
    expect(existsSync(path)).toBe(false);
  });

  test('cannot signal another process', async () => {
    expect(await attempt(thread, 'kill-other', String(process.pid))).toBe(KILLED);
  });

  test('gets no io_uring', async () => {
    expect(await attempt(thread, 'io-uring')).toBe(-ENOSYS);
  });

  test('is told that calls of a later kernel are not there, and that of a thread whose flags no filter sees', async () => {
    expect(await attempt(thread, 'newer')).toBe(-ENOSYS);
    expect(await attempt(thread, 'clone3')).toBe(-ENOSYS);
  });

  test('is refused what is not in the table, which is said once', async () => {
    const service = await launch(thread, 'memfd');
    for (let count = 1; count <= 3; count++) {
      ask(thread, service);
      await service.says(new RegExp(`(probe: -1\\n[^]*){${count}}`));
    }
    const where = thread === 'main' ? '' : ' of the data plane';
    const line = `system call memfd_create${where} was refused by the sandbox (EPERM)`;
    await service.says(new RegExp(line.replace(/[()]/g, '\\$&')));
    service.child.kill('SIGTERM');
    expect((await service.exit).status).toBe(0);
    expect(service.stderr().split(line)).toHaveLength(2);
  });
});

describe.each<Thread>(['main', 'data-plane'])('--sandbox log: somebody in the thread %s', (thread) => {
  const where = thread === 'main' ? '' : ' of the data plane';

  test.each([
    // What is refused without `log`, and what ends the service.
    ['memfd', 'memfd_create', /probe: ([0-9]+)\n/],
    ['process-vm', 'process_vm_readv', /probe: (0)\n/],
    ['write-file', 'openat', /probe: (-[0-9]+)\n/],
  ])('%s: the call is made, said once, and the service goes on', async (what, name, answer) => {
    const service = await launch(thread, what, join(dir, 'written'), ['--sandbox', 'log']);
    const line = `system call ${name}${where} would be refused by the sandbox`;
    for (let count = 1; count <= 2; count++) {
      ask(thread, service);
      await service.says(new RegExp(`(${answer.source}[^]*){${count}}`));
    }
    await service.says(new RegExp(line));
    // The kernel's own answer, of other layers: there is no such directory.
    if (what === 'write-file') expect(Number(answer.exec(service.stderr())?.[1])).not.toBe(-EPERM);
    service.child.kill('SIGTERM');
    expect(await service.exit).toEqual({ status: 0, signal: null });
    expect(service.stderr().split(line)).toHaveLength(2);
    expect(service.stderr()).not.toContain('was refused');
  });
});

describe('somebody in the control plane, whose calls may pass: what is left to Landlock and the root directory', () => {
  test('a file that is still open from the start is not opened again', async () => {
    // Standard input, /dev/null of the host: there is a way to it, and everybody may read it.
    expect(await attempt('main', 'read-file', '/proc/self/fd/0')).toBe(-EACCES);
  });

  test('an abstract socket of another process is out of reach, where the kernel has that (Linux 6.12)', async () => {
    const name = `tubetti-sandbox-${process.pid}`;
    const abstract = createServer((socket) => socket.destroy());
    await new Promise<void>((resolve) => abstract.listen(`\0${name}`, resolve));
    const [major, minor] = release().split('.').map(Number);
    const scoped = major > 6 || (major === 6 && minor >= 12);
    expect(await attempt('main', 'abstract-socket', name)).toBe(scoped ? -EPERM : 0);
    abstract.close();
  });

  test('a file and a unix socket of the host are not there', async () => {
    expect(await attempt('main', 'read-file', '/etc/passwd')).toBe(-ENOENT);
    expect(await attempt('main', 'unix-socket', join(dir, 'other.sock'))).toBe(-ENOENT);
  });
});

describe('somebody in the control plane has the broker', () => {
  test.each([
    ['no other socket to connect to', '3:/nonexistent', EPERM],
    ['the front-end that was named, of which there is none', '5', EPERM],
    ['no second user', '4', EPERM],
    ['no second filter', '10:12345678', EPERM],
    ['no port without a socket', '1', EINVAL],
    ['nobody’s name without a socket', '11', EINVAL],
    ['no socket file where none was named at the start', '12,5:/nonexistent/s', EPERM],
    ['none by way of the directory above', '12,5:/tmp/../nonexistent/s', EPERM],
    ['no more socket files than there are places', '12,69:/tmp/s', EINVAL],
    ['nothing else', '13', ENOSYS],
  ])('%s', async (_what, request, errno) => {
    expect(await attempt('main', 'broker', request)).toBe(-errno);
  });

  test('no other socket file to remove', async () => {
    // One of this test's own: a broker that took it would remove it, with the rights that it has.
    const path = join(dir, 'kept');
    writeFileSync(path, '');
    expect(await attempt('main', 'broker', `2:${path}`)).toBe(-EPERM);
    expect(existsSync(path)).toBe(true);
  });

  test('open resolv.conf, which is what it is for', async () => {
    expect(await attempt('main', 'broker', '7')).toBe(0);
  });
});

describe('somebody in the data plane', () => {
  test('cannot open a file at all', async () => {
    expect(await attempt('data-plane', 'read-file', '/etc/passwd')).toBe(-EPERM);
  });

  test('has no unix sockets', async () => {
    expect(await attempt('data-plane', 'unix-socket', join(dir, 'other.sock'))).toBe(KILLED);
  });
});

describe('what moves streams past the link', () => {
  test('a virtual machine’s data plane has neither splice nor pipes', async () => {
    expect(await attempt('data-plane', 'splice')).toBe(KILLED);
    expect(await attempt('data-plane', 'pipe2')).toBe(-EPERM);
    expect(await attempt('main', 'splice')).toBe(KILLED);
  });

  test('a namespace’s has both', async () => {
    // Outside the command's root is nobody, who has to find the file that ends it.
    chmodSync(dir, 0o755);
    for (const [what, result] of [
      ['splice', -EBADF],
      ['pipe2', 0],
    ] as const) {
      const ended = join(dir, `ended-${what}`);
      const command = ['sh', '-c', `until [ -e ${ended} ]; do sleep 0.05; done`];
      const service = await launchWith(['netns', '--splice-only', '-q', '--', ...command], 'data-plane', what);
      ask('data-plane', service);
      const [, answer] = await service.says(/probe: (-?[0-9]+)/);
      writeFileSync(ended, '');
      expect({ what, answer: Number(answer), ...(await service.exit) }).toEqual({
        what,
        answer: result,
        status: 0,
        signal: null,
      });
    }
  });
});
