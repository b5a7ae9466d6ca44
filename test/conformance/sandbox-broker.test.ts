/**
 * The broker's own filter of system calls, in the process that a running service has beside it. No code of a test can run
 * in there: the test's addon has the process make the call (test/support/sandbox/inject.cc), as somebody would who has
 * taken it over. What the broker is there for is tested by conformance/sandbox. Needs root and a build.
 */
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative, PACKAGE_ROOT } from '../../src/native';
import { connected, launchProgram, PROGRAM, type Running, SAME_USER } from '../support/program';
import { threadStatus } from '../support/run-service';
import { poll } from '../support/world/processes';

jest.setTimeout(60_000);

interface TestAddon {
  /** What system call `number` gives in process `pid`; ENDED_BY less a signal's number where it ended that. */
  callIn(pid: number, number: number, a: number, b: number, c: number): number;
}

const ENDED_BY = -10_000;
const KILLED = ENDED_BY - constants.signals.SIGSYS;
const { EPERM, ENOSYS } = constants.errno;
const [AF_UNIX, AF_INET, SOCK_STREAM] = [1, 2, 1];
const [O_RDONLY, O_RDWR, AT_FDCWD] = [0, 2, -100];
const [PAGE, PROT_READ, PROT_WRITE, PROT_EXEC] = [4096, 1, 2, 4];

const asRoot = process.getuid?.() === 0 ? describe : describe.skip;
const native = loadNative();
let addon: TestAddon;
let dir: string;
let service: Running;

beforeAll(() => {
  addon = jest.requireActual<TestAddon>(join(PACKAGE_ROOT, 'build', 'Release', 'tubetti-test.node'));
});

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-broker-'));
});

afterEach(() => {
  service.child.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

/** The process that has this test's folder in its environment, and the broker's name. */
function brokerOfTest(): number {
  for (const pid of readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name))) {
    try {
      if (readFileSync(`/proc/${pid}/comm`, 'utf8') !== 'tubetti-broker\n') continue;
      if (readFileSync(`/proc/${pid}/environ`, 'latin1').includes(`SANDBOX_TEST=${dir}\0`)) return Number(pid);
    } catch {
      // It has ended.
    }
  }
  throw new Error('there is no broker');
}

async function brokerOf(...argv: string[]): Promise<number> {
  const user = argv.includes('--runas') ? [] : SAME_USER;
  const command = [...PROGRAM, ...user, '--foreground', '--socket', join(dir, 's'), ...argv];
  service = launchProgram(command, { SANDBOX_TEST: dir });
  await service.says(/<interface type='vhostuser'>/);
  const pid = brokerOfTest();
  // Its filter comes after what is said at the start.
  const wanted = argv.includes('off') ? '0' : '2';
  await poll('the filter', () => (threadStatus(pid, 'Seccomp')[0] === wanted ? true : null), 5000);
  return pid;
}

const numbers = new Int32Array(1);

/** What `name` gives in process `pid`. */
function callIn(pid: number, name: string, ...args: number[]): number {
  expect(native.syscallNumbers(name, numbers)).toBe(1);
  const [a = 0, b = 0, c = 0] = args;
  return addon.callIn(pid, numbers[0], a, b, c);
}

asRoot('the broker', () => {
  test.each([
    ['root', '0:0', '0000000000000400'],
    ['nobody', '65534:65534', '0000000000000000'],
  ])('of %s has a filter, no privileges but ports below 1024, and none to gain', async (_name, user, ports) => {
    chmodSync(dir, 0o777);
    const pid = await brokerOf('--runas', user);
    const status = (field: string): string => threadStatus(pid, field).join();
    const [uid] = user.split(':');
    expect(status('Uid')).toBe([uid, uid, uid, uid].join('\t'));
    expect([status('Seccomp'), status('Seccomp_filters'), status('NoNewPrivs')]).toEqual(['2', '1', '1']);
    for (const field of ['CapPrm', 'CapEff']) expect({ field, value: status(field) }).toEqual({ field, value: ports });
    for (const field of ['CapInh', 'CapBnd', 'CapAmb'])
      expect({ field, value: status(field) }).toEqual({ field, value: '0000000000000000' });
  });

  test.each<[string, number[]]>([
    ['execve', []],
    ['fork', []],
    ['clone', [constants.signals.SIGCHLD]],
    ['ptrace', [16, 1]],
    ['process_vm_readv', [1]],
    ['kill', [1, 0]],
    ['socket', [AF_INET, SOCK_STREAM]],
    ['openat', [AT_FDCWD, 0, O_RDWR]],
    ['mmap', [0, PAGE, PROT_READ | PROT_EXEC]],
    ['mount', []],
    ['unshare', [0]],
    ['setuid', [0]],
    ['prctl', [15]],
    ['bpf', []],
    ['io_uring_setup', [1]],
  ])('ends by %s', async (name, args) => {
    const pid = await brokerOf();
    expect(callIn(pid, name, ...args)).toBe(KILLED);
    // The service has lost what it did for it, and serves on.
    (await connected(join(dir, 's'))).destroy();
    await service.says(/front-end connected/);
  });

  test('is refused what it has no use for, and keeps what it has', async () => {
    const pid = await brokerOf();
    for (const name of ['getpid', 'memfd_create', 'mprotect', 'setsockopt', 'rename', 'write', 'listen'])
      expect([name, callIn(pid, name)]).toEqual([name, -EPERM]);
    expect(callIn(pid, 'clone3')).toBe(-ENOSYS);
    expect(callIn(pid, 'mmap', 0, PAGE, PROT_READ | PROT_WRITE)).toBeGreaterThan(0);
    expect(callIn(pid, 'socket', AF_UNIX, SOCK_STREAM)).toBeGreaterThanOrEqual(3);
    // A bad address: it was made.
    expect(callIn(pid, 'openat', AT_FDCWD, 0, O_RDONLY)).toBe(-constants.errno.EFAULT);
    // It does its last work all the same.
    service.child.kill('SIGKILL');
    await poll('the socket file to go', () => (readdirSync(dir).length === 0 ? true : null), 5000);
  });

  test('--sandbox log: nothing is refused', async () => {
    const pid = await brokerOf('--sandbox', 'log');
    expect(threadStatus(pid, 'Seccomp')).toEqual(['2']);
    expect(callIn(pid, 'getpid')).toBe(pid);
    expect(callIn(pid, 'unshare', 0)).toBe(0);
  });

  test('--sandbox off: it has no filter', async () => {
    const pid = await brokerOf('--sandbox', 'off');
    // The service is ready, and was asked something.
    (await connected(join(dir, 's'))).destroy();
    await service.says(/front-end connected/);
    expect(threadStatus(pid, 'Seccomp')).toEqual(['0']);
    expect(callIn(pid, 'getpid')).toBe(pid);
  });
});
