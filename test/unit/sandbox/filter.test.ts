/** The table of system calls as a program: every call of it, by an interpreter of BPF. That it holds is another test's. */
import { readFileSync } from 'node:fs';
import { loadNative } from '../../../src/native';
import { compileFilter, INSTRUCTION, type Target, TRAP_DATA_PLANE, TRAP_PERFORM } from '../../../src/sandbox/filter';
import { BROKER, CALLS, callsOf, NEWEST_CALL } from '../../../src/sandbox/syscalls';
import { runFilter } from '../../support/sandbox/bpf';

const ALLOW = 0x7fff_0000;
const KILL = 0x8000_0000;
const ABSENT = 0x0005_0026;
const DENY = 0x0005_0001;
const REFUSE = 0x0003_0001;
const PID = 4321;

const native = loadNative();
const architecture = native.seccompArchitecture();
const numbers = new Int32Array(CALLS.length);
native.syscallNumbers(CALLS.map(({ name }) => name).join(' '), numbers);
const target: Target = { architecture, hasX32: true, numbers, pid: PID, gate: 0 };
const of = (name: string): number => numbers[CALLS.findIndex((call) => call.name === name)];

const process = compileFilter('process', CALLS, target);
const dataPlane = compileFilter('dataPlane', CALLS, target);
const broker = compileFilter('broker', CALLS, target);

type Args = readonly (number | bigint)[];
const run = (program: number[], number: number, args: Args = []): number =>
  runFilter(program, { number, architecture, args }).value;
const inProcess = (name: string, ...args: Args): number => run(process, of(name), args);
const inDataPlane = (name: string, ...args: Args): number => run(dataPlane, of(name), args);
const inBroker = (name: string, ...args: Args): number => run(broker, of(name), args);

describe('the table', () => {
  test('names each call once, and has a number for what every architecture has', () => {
    expect(new Set(CALLS.map(({ name }) => name)).size).toBe(CALLS.length);
    for (const name of ['read', 'execve', 'clone3', 'openat', 'io_uring_setup'])
      expect(of(name)).toBeGreaterThanOrEqual(0);
    const found = numbers.filter((number) => number >= 0);
    expect(new Set(found).size).toBe(found.length);
    expect(Math.max(...found)).toBeLessThanOrEqual(NEWEST_CALL);
  });

  test('the addon refuses names that it does not know', () => {
    expect(native.syscallNumbers('read no_such_call', new Int32Array(2))).toBe(-22);
    expect(native.syscallNumbers('read write', new Int32Array(1))).toBe(-22);
  });

  test('the data plane has no call that the process has not', () => {
    const order = { kill: 0, absent: 1, refuse: 1, deny: 1, allow: 3 };
    const rank = (verdict: (typeof CALLS)[number]['process']): number =>
      typeof verdict === 'string' ? order[verdict] : 2;
    for (const calls of [CALLS, callsOf('namespace')]) {
      for (const call of calls) expect([call.name, rank(call.dataPlane)]).toEqual([call.name, expect.any(Number)]);
      expect(calls.filter((call) => rank(call.dataPlane) > rank(call.process)).map(({ name }) => name)).toEqual([]);
    }
  });
});

test('what is allowed, killed and absent, whatever its arguments are', () => {
  const answers = { allow: ALLOW, kill: KILL, absent: ABSENT, refuse: REFUSE, deny: DENY };
  CALLS.forEach((call, i) => {
    if (numbers[i] < 0) return;
    for (const args of [[], [1, 2, 3, 4, 5, 6], [-1, -1, -1, -1, -1, -1]]) {
      if (typeof call.process === 'string')
        expect([call.name, run(process, numbers[i], args)]).toEqual([call.name, answers[call.process]]);
      if (typeof call.dataPlane === 'string') {
        const want = call.dataPlane === 'refuse' ? REFUSE | TRAP_DATA_PLANE : answers[call.dataPlane];
        expect([call.name, run(dataPlane, numbers[i], args)]).toEqual([call.name, want]);
      }
    }
  });
});

describe('what moves streams past the link is for namespaces', () => {
  const namespace = {
    process: compileFilter('process', callsOf('namespace'), target),
    dataPlane: compileFilter('dataPlane', callsOf('namespace'), target),
  };
  const [F_GETFL, F_SETPIPE_SZ, SIOCATMARK, SIOCOUTQ] = [3, 1031, 0x8905, 0x5411];

  test.each<[name: string, args: Args, process: number, dataPlane: number]>([
    ['splice', [], KILL, KILL],
    ['pipe2', [], ALLOW, REFUSE],
    ['fcntl', [3, F_SETPIPE_SZ], REFUSE, REFUSE],
    ['ioctl', [3, SIOCATMARK], REFUSE, REFUSE],
  ])('%s %j', (name, args, inService, inWorker) => {
    expect(inProcess(name, ...args)).toBe(inService);
    expect(inDataPlane(name, ...args)).toBe(inWorker === REFUSE ? REFUSE | TRAP_DATA_PLANE : inWorker);
    for (const program of [namespace.process, namespace.dataPlane]) expect(run(program, of(name), args)).toBe(ALLOW);
    expect([ABSENT, DENY, KILL]).toContain(inBroker(name, ...args));
  });

  test('all else is the same', () => {
    expect(CALLS.filter((call) => call.namespace !== undefined).map(({ name }) => name)).toEqual([
      'splice',
      'pipe2',
      'fcntl',
      'ioctl',
    ]);
    for (const [name, args] of [
      ['fcntl', [3, F_GETFL]],
      ['ioctl', [3, SIOCOUTQ]],
    ] as const) {
      for (const program of [process, dataPlane, namespace.process, namespace.dataPlane]) {
        expect(run(program, of(name), args)).toBe(ALLOW);
      }
    }
    expect(run(namespace.dataPlane, of('fcntl'), [3, 8])).toBe(REFUSE | TRAP_DATA_PLANE);
  });
});

test('every number that is not in the table is refused, and one that came later is absent', () => {
  const known = new Set(numbers);
  for (let number = 0; number <= NEWEST_CALL; number++) {
    if (known.has(number)) continue;
    expect([number, run(process, number)]).toEqual([number, REFUSE]);
    expect([number, run(dataPlane, number)]).toEqual([number, REFUSE | TRAP_DATA_PLANE]);
    expect([number, run(broker, number)]).toEqual([number, DENY]);
  }
  for (const number of [NEWEST_CALL + 1, 600, 0x3fff_ffff])
    for (const program of [process, dataPlane, broker]) expect(run(program, number)).toBe(ABSENT);
});

test('another architecture and the x32 ABI are killed', () => {
  for (const program of [process, dataPlane, broker]) {
    expect(runFilter(program, { number: of('read'), architecture: 0x4000_0003 }).value).toBe(KILL);
    for (const number of [0x4000_0000 + of('read'), -1]) expect(run(program, number)).toBe(KILL);
  }
});

describe('arguments', () => {
  const UNIX = 1;
  const [INET, INET6, NETLINK, PACKET] = [2, 10, 16, 17];
  const [STREAM, DGRAM, RAW] = [1, 2, 3];
  const FLAGS = 0o2004000; // SOCK_CLOEXEC | SOCK_NONBLOCK

  test.each([
    ['TCP', [INET, STREAM | FLAGS, 0], ALLOW, ALLOW],
    ['UDP', [INET6, DGRAM, 17], ALLOW, ALLOW],
    ['ping', [INET, DGRAM, 1], ALLOW, ALLOW],
    ['ping of IPv6', [INET6, DGRAM, 58], ALLOW, ALLOW],
    ['raw', [INET, RAW, 1], KILL, KILL],
    ['SCTP', [INET, STREAM, 132], KILL, KILL],
    ['MPTCP', [INET, STREAM, 262], KILL, KILL],
    ['UDP-Lite', [INET, DGRAM, 136], KILL, KILL],
    ['unix', [UNIX, STREAM, 0], ALLOW, KILL],
    ['unix, kept in packets', [UNIX, 5, 0], KILL, KILL],
    ['rtnetlink', [NETLINK, RAW | FLAGS, 0], ALLOW, KILL],
    ['netfilter by netlink', [NETLINK, RAW, 12], KILL, KILL],
    ['packet', [PACKET, RAW, 0x300], KILL, KILL],
    ["the kernel's cryptography", [38, 5, 0], KILL, KILL],
    ['virtual machines', [40, STREAM, 0], KILL, KILL],
  ])('socket: %s', (_, args, process_, data) => {
    expect([inProcess('socket', ...args), inDataPlane('socket', ...args)]).toEqual([process_, data]);
  });

  const [O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE] = [1, 2, 0o100, 0o1000, 0o20200000];
  test('files are opened for reading, and by the data plane not at all', () => {
    const READ = 0o2000000 | 0o200000; // O_CLOEXEC | O_DIRECTORY
    for (const [name, at] of [
      ['openat', 2],
      ['open', 1],
    ] as const) {
      if (of(name) < 0) continue;
      const args = (flags: number): number[] => [...Array<number>(at).fill(7), flags];
      expect([inProcess(name, ...args(READ)), inDataPlane(name, ...args(READ))]).toEqual([ALLOW, DENY]);
      for (const flags of [O_WRONLY, O_RDWR, 3, O_CREAT, O_TRUNC, O_TMPFILE]) {
        expect([flags, inProcess(name, ...args(flags | READ))]).toEqual([flags, KILL]);
      }
    }
  });

  test('threads may be made, by all but the data plane; processes and namespaces may not', () => {
    const THREAD = 0x3d0f00; // as glibc makes them
    expect(inProcess('clone', THREAD)).toBe(ALLOW);
    expect(inDataPlane('clone', THREAD)).toBe(KILL);
    for (const flags of [17, 0x4111, THREAD | 0x1000_0000, THREAD | 0x2_0000, THREAD & ~0x10000]) {
      expect([flags, inProcess('clone', flags)]).toEqual([flags, KILL]);
    }
  });

  test('signals go to this process', () => {
    for (const name of ['kill', 'tgkill']) {
      expect(inProcess(name, PID)).toBe(ALLOW);
      for (const pid of [0, 1, -1, -PID, PID + 1]) expect([pid, inProcess(name, pid)]).toEqual([pid, KILL]);
    }
  });

  test.each([
    ['prctl', [15], ALLOW, [22], KILL],
    ['prctl', [38, 1], ALLOW, [24, 1], KILL],
    ['seccomp', [1, 0], ALLOW, [0], KILL],
    ['fcntl', [5, 4], ALLOW, [5, 8], REFUSE],
    ['ioctl', [5, 0x5411], ALLOW, [5, 0x5412], REFUSE],
    ['prlimit64', [0, 7], ALLOW, [1, 7], REFUSE],
    ['setsockopt', [5, 1, 7], ALLOW, [5, 1, 50], REFUSE],
    ['setsockopt', [5, 6, 1], ALLOW, [5, 6, 31], REFUSE],
    ['setsockopt', [5, 270, 12], ALLOW, [5, 0, 64], REFUSE],
    ['socketpair', [1, 1, 0], ALLOW, [2, 1, 0], KILL],
  ])('%s(%p) is allowed', (name, good, allowed, bad, answer) => {
    expect([inProcess(name, ...good), inProcess(name, ...bad)]).toEqual([allowed, answer]);
  });

  test('only the low half of an int counts, as in the kernel', () => {
    expect(inProcess('socket', 2n + (1n << 40n), 1, 0)).toBe(ALLOW);
    expect(inProcess('kill', BigInt(PID) + (1n << 40n))).toBe(ALLOW);
    expect(inProcess('openat', 0, 0, 1n + (1n << 40n))).toBe(KILL);
  });
});

describe('the broker', () => {
  test('has the calls of its rows; what the service is killed for ends it, and the rest is EPERM', () => {
    const rows = BROKER.flatMap(({ names }) => names);
    expect(new Set(rows).size).toBe(rows.length);
    for (const name of rows) expect(CALLS.map((call) => call.name)).toContain(name);
    const answers = { allow: ALLOW, kill: KILL, absent: ABSENT, refuse: DENY, deny: DENY };
    CALLS.forEach((call, i) => {
      if (numbers[i] < 0 || typeof call.broker !== 'string') return;
      expect([call.name, run(broker, numbers[i])]).toEqual([call.name, answers[call.broker]]);
      if (call.process === 'kill') expect([call.name, call.broker]).toEqual([call.name, 'kill']);
      if (call.broker === 'allow') expect(rows).toContain(call.name);
    });
    for (const name of ['clone', 'kill', 'tgkill', 'prctl', 'seccomp', 'socketpair', 'execve'])
      expect([name, inBroker(name)]).toEqual([name, KILL]);
    for (const name of ['read', 'write', 'listen', 'accept4', 'mprotect', 'setsockopt', 'memfd_create', 'getpid'])
      expect([name, inBroker(name)]).toEqual([name, DENY]);
  });

  test('makes unix sockets, opens files for reading, and maps nothing to be executed', () => {
    expect([inBroker('socket', 1, 0o2004001), inBroker('socket', 1, 0o2004002)]).toEqual([ALLOW, ALLOW]);
    for (const args of [
      [2, 1, 0],
      [10, 2, 0],
      [16, 3, 0],
      [1, 3, 0],
      [1, 5, 0],
      [1, 1, 1],
    ])
      expect([args, inBroker('socket', ...args)]).toEqual([args, KILL]);
    expect(inBroker('openat', 0, 0, 0o2004400)).toBe(ALLOW);
    for (const flags of [1, 2, 0o100, 0o1000]) expect(inBroker('openat', 0, 0, flags)).toBe(KILL);
    expect([inBroker('mmap', 0, 4096, 3), inBroker('mmap', 0, 4096, 5)]).toEqual([ALLOW, KILL]);
  });

  test('takes its filter in one message', () => {
    expect((broker.length / INSTRUCTION) * 8).toBeLessThan(4096);
  });

  test('in mode log only the audit log hears of it', () => {
    const logs = compileFilter('broker', CALLS, { ...target, auditOnly: true });
    for (const name of ['execve', 'getpid']) expect([name, run(logs, of(name))]).toEqual([name, 0x7ffc_0000]);
    expect(run(logs, of('socket'), [2, 1, 0])).toBe(0x7ffc_0000);
    expect([run(logs, of('recvmsg')), run(logs, NEWEST_CALL + 1)]).toEqual([ALLOW, 0x7ffc_0000]);
  });
});

describe('mode log', () => {
  const GATE = 0x7f12_3456_789a;
  const program = compileFilter('process', CALLS, { ...target, gate: GATE });

  test('what would be refused or killed is handed to the handler, which may make it', () => {
    for (const name of ['execve', 'mount', 'ptrace']) expect(run(program, of(name))).toBe(0x0003_0000 | TRAP_PERFORM);
    expect(run(program, of('openat'), [0, 0, 1])).toBe(0x0003_0000 | TRAP_PERFORM);
    const execve = { number: of('execve'), architecture };
    expect(runFilter(program, { ...execve, pointer: BigInt(GATE) }).value).toBe(ALLOW);
    expect(runFilter(program, { ...execve, pointer: BigInt(GATE) + 1n }).value).not.toBe(ALLOW);
    expect(runFilter(program, { ...execve, pointer: BigInt(GATE % 2 ** 32) }).value).not.toBe(ALLOW);
  });

  test('a process that is made is left to the audit log, and what came later, too', () => {
    expect(run(program, of('clone'), [17])).toBe(0x7ffc_0000);
    expect(run(program, NEWEST_CALL + 1)).toBe(0x7ffc_0000);
  });
});

test('a Node that has an io_uring keeps it, and gets no other; one that has none may try', () => {
  for (const which of ['process', 'dataPlane'] as const) {
    const without = compileFilter(which, CALLS, target);
    expect([run(without, of('io_uring_enter')), run(without, of('io_uring_setup'))]).toEqual([KILL, ABSENT]);
    const program = compileFilter(which, CALLS, { ...target, ioUring: true });
    expect([run(program, of('io_uring_enter')), run(program, of('io_uring_setup'))]).toEqual([ALLOW, ABSENT]);
    expect(run(program, of('io_uring_register'))).toBe(KILL);
  }
});

test('programs are of a size that the kernel takes, and no call costs many steps', () => {
  for (const program of [process, dataPlane]) {
    expect(program.length / INSTRUCTION).toBeLessThan(4096);
    for (const name of [
      'read',
      'write',
      'recvmsg',
      'sendmsg',
      'epoll_pwait2',
      'io_submit',
      'recvmmsg',
      'sendmmsg',
      'futex',
    ])
      expect([name, runFilter(program, { number: of(name), architecture }).steps]).toEqual([name, expect.any(Number)]);
    const steps = CALLS.flatMap(({ name }, i) =>
      numbers[i] < 0 || name === 'setsockopt' ? [] : [runFilter(program, { number: numbers[i], architecture }).steps],
    );
    expect(Math.max(...steps)).toBeLessThan(40);
  }
});

test('socket options are those that the stack names', () => {
  const source = readFileSync(require.resolve('../../../src/stack/kit/linux'), 'utf8');
  const level = { SO: 1, IP: 0, IPV6: 41, UDP: 17 };
  let count = 0;
  for (const [, kind, rest, value] of source.matchAll(/^export const (SO|IPV6|IP|UDP)_(\w+) = ([0-9]+);$/gm)) {
    count++;
    const name = `${kind}_${rest}`;
    expect([name, inDataPlane('setsockopt', 3, level[kind as keyof typeof level], Number(value))]).toEqual([
      name,
      ALLOW,
    ]);
  }
  expect(count).toBeGreaterThan(25);
});

test('docs/syscalls.md has the table as it is', () => {
  const { tableOf, brokerTableOf } = jest.requireActual<{
    tableOf: (calls: typeof CALLS) => string[];
    brokerTableOf: (rows: typeof BROKER) => string[];
  }>('../../../scripts/lib/syscall-table.cjs');
  const page = readFileSync(require.resolve('../../../docs/syscalls.md'), 'utf8');
  const plain = (line: string): string => line.replace(/ +\|/g, ' |').replace(/\\/g, '');
  const rowsBehind = (mark: string): string[] =>
    page
      .slice(page.indexOf(mark))
      .split('<!-- end -->')[0]
      .split('\n')
      .filter((line) => line.startsWith('| `'));
  expect(rowsBehind('<!-- table -->').map(plain)).toEqual(tableOf(CALLS).slice(2).map(plain));
  expect(rowsBehind('<!-- broker -->').map(plain)).toEqual(brokerTableOf(BROKER).slice(2).map(plain));
});
