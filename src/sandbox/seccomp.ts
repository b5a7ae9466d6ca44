/**
 * The layers of the sandbox that filter system calls: one for the process, when all that it needs is open, and a narrower
 * one for the data plane's thread besides, when that serves. What they let pass is in syscalls.ts.
 */
import { readdirSync, readlinkSync } from 'node:fs';
import { describeErrno } from '../errors';
import type { Native } from '../native';
import { compileFilter, type Which } from './filter';
import { installFilter } from './install-filter';
import type { Layer, SandboxMode } from './layer';
import { CALLS, callsOf } from './syscalls';

export type SeccompNative = Pick<
  Native,
  'seccompArchitecture' | 'seccompGate' | 'seccompTrap' | 'seccompRefused' | 'seccompInstall' | 'syscallNumbers'
>;

const AUDIT_ARCH_X86_64 = 0xc000_003e;
/** Numbers from here on are told as one (addon/seccomp.cc). */
const LAST_NUMBER = 511;

function numbersOf(native: Pick<Native, 'syscallNumbers'>): Int32Array {
  const numbers = new Int32Array(CALLS.length);
  const known = native.syscallNumbers(CALLS.map(({ name }) => name).join(' '), numbers);
  if (known !== CALLS.length) throw new Error('the addon does not know all system calls of the table');
  return numbers;
}

/** libuv has event loops with an io_uring: Node was not started by tubetti-launch (addon/io_uring.h). */
function hasIoUring(): boolean {
  try {
    return readdirSync('/proc/self/fd').some((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`).includes('[io_uring]');
      } catch {
        return false; // the directory itself
      }
    });
  } catch {
    return false;
  }
}

const NO_FILTER = 'there is no filter for this processor';

const IO_URING =
  'Node has an io_uring, through which files can be written past the filter; tubetti-launch gives it none';

/**
 * The filters' programs. Making them takes some milliseconds, and they do not depend on what the start comes to: `prepare`
 * makes them while it waits for something else.
 */
export class Filters {
  private readonly native: SeccompNative;
  readonly mode: SandboxMode;
  private readonly guest: 'namespace' | 'machine';
  private readonly pid: number;
  private numbers: Int32Array | null = null;
  private readonly made = new Map<string, Int32Array>();

  constructor(
    native: SeccompNative,
    mode: SandboxMode,
    guest: 'namespace' | 'machine' = 'machine',
    pid: number = process.pid,
  ) {
    this.native = native;
    this.mode = mode;
    this.guest = guest;
    this.pid = pid;
  }

  /** Makes all that will be asked for. `broker`: there is one. */
  prepare(broker: boolean): void {
    if (this.mode === 'off') return;
    this.program('process');
    this.program('dataPlane');
    if (broker) this.program('broker');
  }

  /** A program, as Native.seccompInstall takes it; null: there is none for this processor. `ioUring`: Node has one already. */
  program(which: Which, ioUring = false): Int32Array | null {
    const architecture = this.native.seccompArchitecture();
    if (architecture === 0) return null;
    const key = ioUring ? `${which} io_uring` : which;
    const program = this.made.get(key) ?? this.make(which, architecture, ioUring);
    this.made.set(key, program);
    return program;
  }

  private make(which: Which, architecture: number, ioUring: boolean): Int32Array {
    this.numbers ??= numbersOf(this.native);
    const log = this.mode === 'log';
    const common = { architecture, hasX32: architecture === AUDIT_ARCH_X86_64, numbers: this.numbers };
    const target =
      which === 'broker'
        ? { ...common, pid: 0, gate: 0, auditOnly: log }
        : { ...common, pid: this.pid, gate: log ? this.native.seccompGate() : 0, ioUring };
    return Int32Array.from(compileFilter(which, callsOf(this.guest), target));
  }
}

/**
 * Filters the calls of all threads, those made later included. To be called on the main thread when ports are bound, files
 * open and threads up, before any thread has a filter of its own.
 */
export function installSeccomp(native: SeccompNative, filters: Filters): Layer {
  const name = 'seccomp';
  if (filters.mode === 'off') return { name, state: 'off' };
  const ioUring = hasIoUring();
  const program = filters.program('process', ioUring);
  const why = program === null ? NO_FILTER : installFilter(native, program, true);
  if (why !== null) return { name, state: 'missing', why };
  return ioUring ? { name, state: 'missing', why: IO_URING } : { name, state: 'on' };
}

/**
 * The program that filters a data plane's thread further (install-filter.ts), once `installSeccomp` was called; or why there
 * is none.
 */
export function dataPlaneProgram(filters: Filters): { readonly program: Int32Array } | { readonly why: string } {
  const program = filters.program('dataPlane', hasIoUring());
  return program === null ? { why: NO_FILTER } : { program };
}

/**
 * Filters the calls of the broker, which is a process of its own. To be called when it is sealed: it takes one filter and no
 * other. `has`: there is a broker.
 */
export function installBrokerSeccomp(native: Pick<Native, 'brokerFilter'>, filters: Filters, has: boolean): Layer {
  const name = 'seccomp-broker';
  if (filters.mode === 'off') return { name, state: 'off', why: '--sandbox=off' };
  if (!has) return { name, state: 'off', why: 'there is no broker' };
  const program = filters.program('broker');
  if (program === null) return { name, state: 'missing', why: NO_FILTER };
  const result = native.brokerFilter(program);
  if (result === 0) return { name, state: 'on' };
  return { name, state: 'missing', why: `seccomp(2): ${describeErrno(result)}` };
}

/** What a call is named in messages. */
export function nameOfCall(native: SeccompNative, number: number): string {
  const index = numbersOf(native).indexOf(number);
  if (index >= 0) return CALLS[index].name;
  return number >= LAST_NUMBER ? `a number above ${LAST_NUMBER - 1}` : `number ${number}`;
}

const POLL_IN = 1;
/** Pairs that are fetched at once; there are no more than two for each number. */
const PAIRS = 64;

/**
 * Says each call that a filter refused, once for each filter: in mode `log` it was made all the same. Returns a function
 * that ends it.
 */
export function watchRefused(
  native: SeccompNative & Pick<Native, 'pollStart' | 'pollStop'>,
  mode: SandboxMode,
  say: (message: string) => void,
): () => void {
  const fd = mode === 'off' ? -1 : native.seccompTrap();
  if (fd < 0) return () => undefined;
  const pairs = new Int32Array(2 * PAIRS);
  const poll = native.pollStart(fd, POLL_IN, () => {
    for (;;) {
      const count = native.seccompRefused(pairs);
      for (let i = 0; i < count; i++) {
        const where = pairs[2 * i + 1] === 0 ? '' : ' of the data plane';
        const what = mode === 'log' ? 'would be refused by the sandbox' : 'was refused by the sandbox (EPERM)';
        say(`system call ${nameOfCall(native, pairs[2 * i])}${where} ${what}`);
      }
      if (count < PAIRS) return;
    }
  });
  return () => {
    if (poll >= 0) native.pollStop(poll);
  };
}
