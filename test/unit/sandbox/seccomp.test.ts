/** What becomes of the filters of system calls where the kernel takes them, and where it does not. */
import { loadNative } from '../../../src/native';
import { installFilter } from '../../../src/sandbox/install-filter';
import {
  dataPlaneProgram,
  Filters,
  installBrokerSeccomp,
  installSeccomp,
  nameOfCall,
  watchRefused,
} from '../../../src/sandbox/seccomp';
import { CALLS } from '../../../src/sandbox/syscalls';

const native = loadNative();
const EINVAL = 22;
const TRAP = 1234;

/** The kernel's side; numbers of calls are those of the addon. */
class Kernel {
  architecture = 0xc000_003e;
  trap = TRAP;
  installed = 0;
  readonly programs: { readonly length: number; readonly allThreads: number }[] = [];
  gates = 0;
  refused: (readonly [number, number])[] = [];
  ready: (events: number) => void = () => undefined;
  readonly watched: number[] = [];
  readonly stopped: number[] = [];

  syscallNumbers = (names: string, out: Int32Array): number => native.syscallNumbers(names, out);
  seccompArchitecture = (): number => this.architecture;
  seccompTrap = (): number => this.trap;

  seccompGate(): number {
    this.gates++;
    return 0x1000;
  }

  seccompInstall(program: Int32Array, allThreads: number): number {
    this.programs.push({ length: program.length, allThreads });
    return this.installed;
  }

  brokerFilter(program: Int32Array): number {
    this.programs.push({ length: program.length, allThreads: -1 });
    return this.installed;
  }

  seccompRefused(out: Int32Array): number {
    const some = this.refused.splice(0, out.length / 2);
    out.set(some.flat());
    return some.length;
  }

  pollStart(fd: number, _events: number, callback: (events: number) => void): number {
    this.watched.push(fd);
    this.ready = callback;
    return 7;
  }

  pollStop(handle: number): number {
    this.stopped.push(handle);
    return 0;
  }
}

let kernel: Kernel;

beforeEach(() => {
  kernel = new Kernel();
});

/** What a data plane's thread is given, and what it makes of that: null, or why there is no filter. */
function confineThread(mode: 'on' | 'log', pid?: number): string | null {
  const made = dataPlaneProgram(new Filters(kernel, mode, 'machine', pid));
  return 'why' in made ? made.why : installFilter(kernel, made.program, false);
}

const numberOf = (name: string): number => {
  const out = new Int32Array(1);
  native.syscallNumbers(name, out);
  return out[0];
};

test('one filter for all threads, and one more for the data plane alone', () => {
  const layer = installSeccomp(kernel, new Filters(kernel, 'on', 'machine', 77));
  // Node of the tests may have an io_uring, which is said as a layer that is missing.
  expect(layer.name).toBe('seccomp');
  if (layer.state !== 'on') expect(layer.why).toContain('io_uring');
  expect(confineThread('on', 77)).toBeNull();
  expect(kernel.programs.map(({ allThreads }) => allThreads)).toEqual([1, 0]);
  for (const { length } of kernel.programs) expect([length > 0, length % 4]).toEqual([true, 0]);
  expect(kernel.gates).toBe(0);
});

test('what was prepared is not made again, but where Node turns out to have an io_uring', () => {
  const filters = new Filters(kernel, 'on', 'machine', 77);
  filters.prepare(true);
  const asked = jest.spyOn(kernel, 'syscallNumbers');
  for (const which of ['process', 'dataPlane', 'broker'] as const) {
    const program = filters.program(which);
    expect(program).toBe(filters.program(which));
    expect(program).toEqual(new Filters(kernel, 'on', 'machine', 77).program(which));
  }
  expect(asked).toHaveBeenCalledTimes(3); // by the three that were not prepared
  expect(filters.program('process', true)).not.toEqual(filters.program('process'));
});

test('a namespace’s filters are other ones', () => {
  for (const which of ['process', 'dataPlane'] as const) {
    const program = new Filters(kernel, 'on', 'namespace', 77).program(which);
    expect(program).not.toEqual(new Filters(kernel, 'on', 'machine', 77).program(which));
  }
});

test('off: nothing is installed', () => {
  expect(installSeccomp(kernel, new Filters(kernel, 'off'))).toEqual({ name: 'seccomp', state: 'off' });
  expect(installBrokerSeccomp(kernel, new Filters(kernel, 'off'), true)).toMatchObject({
    state: 'off',
    why: '--sandbox=off',
  });
  expect(installBrokerSeccomp(kernel, new Filters(kernel, 'on'), false)).toMatchObject({
    state: 'off',
    why: 'there is no broker',
  });
  expect(kernel.programs).toEqual([]);
});

test('only the mode that refuses nothing asks for the gate', () => {
  confineThread('log');
  expect([kernel.gates, kernel.programs]).toEqual([1, [expect.objectContaining({ allThreads: 0 })]]);
});

test.each<[Partial<Pick<Kernel, 'architecture' | 'trap' | 'installed'>>, string]>([
  [{ architecture: 0 }, 'there is no filter for this processor'],
  [{ trap: -EINVAL }, 'no eventfd: invalid argument'],
  [{ installed: 4321 }, 'thread 4321 has a filter of its own'],
  [{ installed: -EINVAL }, 'seccomp(2): invalid argument'],
])('%j: missing, and why', (change, why) => {
  Object.assign(kernel, change);
  expect(confineThread('on')).toBe(why);
  expect(kernel.programs).toHaveLength('installed' in change ? 1 : 0);
});

test('the broker: on, refused by the kernel, no such processor', () => {
  expect(installBrokerSeccomp(kernel, new Filters(kernel, 'on'), true)).toEqual({
    name: 'seccomp-broker',
    state: 'on',
  });
  kernel.installed = -EINVAL;
  expect(installBrokerSeccomp(kernel, new Filters(kernel, 'log'), true)).toMatchObject({
    state: 'missing',
    why: 'seccomp(2): invalid argument',
  });
  kernel.architecture = 0;
  expect(installBrokerSeccomp(kernel, new Filters(kernel, 'on'), true)).toMatchObject({
    state: 'missing',
    why: 'there is no filter for this processor',
  });
  expect(kernel.programs).toHaveLength(2);
});

test('an addon that does not know a call of the table is no addon of ours', () => {
  kernel.syscallNumbers = () => CALLS.length - 1;
  expect(() => installSeccomp(kernel, new Filters(kernel, 'on'))).toThrow(
    'the addon does not know all system calls of the table',
  );
});

test('calls are named by the table, else by their number', () => {
  expect(nameOfCall(kernel, numberOf('execve'))).toBe('execve');
  expect([nameOfCall(kernel, 500), nameOfCall(kernel, 511)]).toEqual(['number 500', 'a number above 510']);
});

test.each([
  ['on', 'was refused by the sandbox (EPERM)'],
  ['log', 'would be refused by the sandbox'],
] as const)('mode %s: each refused call is said, however many there are', (mode, what) => {
  const said: string[] = [];
  const end = watchRefused(kernel, mode, (message) => said.push(message));
  expect(kernel.watched).toEqual([TRAP]);
  kernel.refused = [
    [numberOf('execve'), 0],
    [numberOf('ptrace'), 1],
    ...Array.from({ length: 100 }, (): readonly [number, number] => [500, 0]),
  ];
  kernel.ready(1);
  expect(said.slice(0, 2)).toEqual([
    `system call execve ${what}`,
    expect.stringMatching(` of the data plane ${what.replace(/[()]/g, '.')}$`),
  ]);
  expect(said).toHaveLength(102);
  end();
  expect(kernel.stopped).toEqual([7]);
});

test.each<['on' | 'off', number]>([
  ['off', TRAP],
  ['on', -EINVAL],
])('mode %s with trap %d: nobody is listened to', (mode, trap) => {
  kernel.trap = trap;
  watchRefused(kernel, mode, () => undefined)();
  expect([kernel.watched, kernel.stopped]).toEqual([[], []]);
});
