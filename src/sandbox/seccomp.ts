/**
 * The layers of the sandbox that filter system calls: one for the process, when all that it needs is open, and a narrower
 * one for the data plane's thread besides, when that serves. What they let pass is in syscalls.ts.
 */
import { readdirSync, readlinkSync } from 'node:fs';
import { describeErrno } from '../errors';
import type { Native } from '../native';
import { compileFilter, type Target } from './filter';
import type { Layer, SandboxMode } from './layer';
import { CALLS } from './syscalls';

export type SeccompNative = Pick<
  Native,
  'seccompArchitecture' | 'seccompGate' | 'seccompTrap' | 'seccompRefused' | 'seccompInstall' | 'syscallNumbers'
>;

export type BrokerSeccompNative = Pick<Native, 'seccompArchitecture' | 'syscallNumbers' | 'brokerFilter'>;

const AUDIT_ARCH_X86_64 = 0xc000_003e;
/** Numbers from here on are told as one (addon/seccomp.cc). */
const LAST_NUMBER = 511;

function numbersOf(native: Pick<Native, 'syscallNumbers'>): Int32Array {
  const numbers = new Int32Array(CALLS.length);
  const known = native.syscallNumbers(CALLS.map(({ name }) => name).join(' '), numbers);
  if (known !== CALLS.length) throw new Error('the addon does not know all system calls of the table');
  return numbers;
}

/** What all filters have in common. */
function targetOf(
  native: Pick<Native, 'syscallNumbers'>,
  architecture: number,
): Pick<Target, 'architecture' | 'hasX32' | 'numbers'> {
  return { architecture, hasX32: architecture === AUDIT_ARCH_X86_64, numbers: numbersOf(native) };
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

function install(native: SeccompNative, mode: SandboxMode, which: 'process' | 'dataPlane', pid: number): Layer {
  const name = which === 'process' ? 'seccomp' : 'seccomp-data-plane';
  if (mode === 'off') return { name, state: 'off' };
  const missing = (why: string): Layer => ({ name, state: 'missing', why });
  const architecture = native.seccompArchitecture();
  if (architecture === 0) return missing(NO_FILTER);
  const ioUring = hasIoUring();
  const program = compileFilter(which, CALLS, {
    ...targetOf(native, architecture),
    pid,
    gate: mode === 'log' ? native.seccompGate() : 0,
    ioUring,
  });
  const trap = native.seccompTrap();
  if (trap < 0) return missing(`no eventfd: ${describeErrno(trap)}`);
  const result = native.seccompInstall(Int32Array.from(program), which === 'process' ? 1 : 0);
  if (result > 0) return missing(`thread ${result} has a filter of its own`);
  if (result < 0) return missing(`seccomp(2): ${describeErrno(result)}`);
  return ioUring && which === 'process' ? missing(IO_URING) : { name, state: 'on' };
}

/**
 * Filters the calls of all threads, those made later included. To be called on the main thread when ports are bound, files
 * open and threads up, before any thread has a filter of its own.
 */
export function installSeccomp(native: SeccompNative, mode: SandboxMode, pid: number = process.pid): Layer {
  return install(native, mode, 'process', pid);
}

/** Filters the calls of this thread further. To be called on the data plane's thread, once `installSeccomp` was. */
export function installDataPlaneSeccomp(native: SeccompNative, mode: SandboxMode, pid: number = process.pid): Layer {
  return install(native, mode, 'dataPlane', pid);
}

/**
 * Filters the calls of the broker, which is a process of its own. To be called when it is sealed: it takes one filter and no
 * other. `has`: there is a broker.
 */
export function installBrokerSeccomp(native: BrokerSeccompNative, mode: SandboxMode, has: boolean): Layer {
  const name = 'seccomp-broker';
  if (mode === 'off') return { name, state: 'off', why: '--sandbox=off' };
  if (!has) return { name, state: 'off', why: 'there is no broker' };
  const architecture = native.seccompArchitecture();
  if (architecture === 0) return { name, state: 'missing', why: NO_FILTER };
  const target: Target = { ...targetOf(native, architecture), pid: 0, gate: 0, auditOnly: mode === 'log' };
  const result = native.brokerFilter(Int32Array.from(compileFilter('broker', CALLS, target)));
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
