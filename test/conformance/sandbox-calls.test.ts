/**
 * The filters of system calls in the real service: on every thread, and against somebody who has taken one over. What is
 * tried runs inside (test/fixtures/sandbox/probe.cjs); each attempt has a service of its own, as most of them end it.
 */
import { appendFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { PROGRAM, launchProgram, type Running, SAME_USER } from '../support/program';
import { threadStatus } from '../support/run-service';

jest.setTimeout(60_000);

const { EPERM, ENOSYS } = constants.errno;
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

async function launch(thread: Thread, what: string, argument = ''): Promise<Running> {
  writeFileSync(join(dir, 'asked'), '');
  const service = launchProgram([...PROGRAM, ...SAME_USER, '--foreground', '--socket', join(dir, 'vu.sock')], {
    NODE_OPTIONS: `--require ${PRELOAD}`,
    TUBETTI_SANDBOX_PROBE: `${thread} ${what} ${argument}`,
    TUBETTI_SANDBOX_ASKED: join(dir, 'asked'),
  });
  running.add(service);
  await service.says(/probe: ready/);
  return service;
}

/** What came of it: the kernel's answer, or the signal that ended the service. */
async function attempt(thread: Thread, what: string, argument?: string): Promise<number | string> {
  const service = await launch(thread, what, argument);
  if (thread === 'main') service.child.kill('SIGUSR2');
  else appendFileSync(join(dir, 'asked'), '!');
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
  expect(least).toBeGreaterThanOrEqual(1);
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
    expect([KILLED, -ENOSYS]).toContain(await attempt(thread, 'io-uring'));
  });

  test('is told that calls of a later kernel are not there, and that of a thread whose flags no filter sees', async () => {
    expect(await attempt(thread, 'newer')).toBe(-ENOSYS);
    expect(await attempt(thread, 'clone3')).toBe(-ENOSYS);
  });

  test('is refused what is not in the table, which is said once', async () => {
    const service = await launch(thread, 'memfd');
    const ask = async (count: number): Promise<void> => {
      const answered = (): number => service.stderr().match(/probe: -1\n/g)?.length ?? 0;
      if (thread === 'main') service.child.kill('SIGUSR2');
      else appendFileSync(join(dir, 'asked'), '!');
      while (answered() < count) await service.says(new RegExp(`(probe: -1\\n[^]*){${count}}`));
    };
    for (let count = 1; count <= 3; count++) await ask(count);
    const where = thread === 'main' ? '' : ' of the data plane';
    const line = `system call memfd_create${where} was refused by the sandbox (EPERM)`;
    await service.says(new RegExp(line.replace(/[()]/g, '\\$&')));
    service.child.kill('SIGTERM');
    expect((await service.exit).status).toBe(0);
    expect(service.stderr().split(line)).toHaveLength(2);
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
