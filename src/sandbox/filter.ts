/**
 * Turns the table of system calls into a program for the kernel: classic BPF over struct seccomp_data (seccomp(2)). Calls
 * are found by a binary search over their numbers, so that none costs more than a dozen comparisons; since Linux 5.11 the
 * kernel keeps a bitmap besides of those that pass whatever their arguments are, and runs no program for them.
 */
import { type Call, type Filter, NEWEST_CALL, NOT_REPEATABLE, type Test, type Verdict } from './syscalls';

/** Instructions are four numbers each, as in struct sock_filter: code, jt, jf, k. */
export const INSTRUCTION = 4;

const LOAD = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN = 0x06; // BPF_RET | BPF_K

const NUMBER_AT = 0;
const ARCHITECTURE_AT = 4;
const POINTER_AT = 8;
const ARGUMENTS_AT = 16;

const X32_BIT = 0x4000_0000;
const FAR = 255;

export const RET_KILL = 0x8000_0000;
export const RET_TRAP = 0x0003_0000;
export const RET_ERRNO = 0x0005_0000;
export const RET_LOG = 0x7ffc_0000;
export const RET_ALLOW = 0x7fff_0000;

/** What the handler of SIGSYS is told beside the error (addon/seccomp.cc). */
export const TRAP_DATA_PLANE = 0x100;
export const TRAP_PERFORM = 0x200;

const EPERM = 1;
const ENOSYS = 38;

export interface Target {
  /** AUDIT_ARCH_* of the kernel's headers. */
  readonly architecture: number;
  /** x86-64: its second ABI marks its numbers by a bit, and is refused. */
  readonly hasX32: boolean;
  /** Numbers of `calls`, -1 for what the architecture has not. */
  readonly numbers: ArrayLike<number>;
  readonly pid: number;
  /** Where the one system call instruction ends that passes whatever it asks (mode `log`); 0: none. */
  readonly gate: number;
  /** Of the broker, which has no handler of SIGSYS: nothing is refused, the kernel's audit log has it (mode `log`). */
  readonly auditOnly?: boolean;
  /** Node has an io_uring already, and would abort without it. */
  readonly ioUring?: boolean;
}

type Instruction = readonly [code: number, jt: number, jf: number, k: number];
type Code = readonly Instruction[];
export type Which = 'process' | 'dataPlane' | 'broker';

const give = (k: number): Instruction => [RETURN, 0, 0, k];
const load = (at: number): Instruction => [LOAD, 0, 0, at];

function isSame(one: Code, other: Code): boolean {
  if (one === other) return true;
  if (one.length !== other.length) return false;
  return one.every((instruction, i) => instruction.every((value, k) => value === other[i][k]));
}

/** What becomes of all numbers from `from` to the next range's. */
interface Range {
  readonly from: number;
  readonly code: Code;
}

/** Instructions of the search in `ranges` from `low` to before `high`. */
function sizeOf(ranges: readonly Range[], low: number, high: number): number {
  if (high - low === 1) return ranges[low].code.length;
  const middle = (low + high) >> 1;
  const below = sizeOf(ranges, low, middle);
  return (below <= FAR ? 1 : 2) + below + sizeOf(ranges, middle, high);
}

/** Appends that search to `out`. */
function search(ranges: readonly Range[], low: number, high: number, out: number[]): void {
  if (high - low === 1) {
    for (const [code, jt, jf, k] of ranges[low].code) out.push(code, jt, jf, k);
    return;
  }
  const middle = (low + high) >> 1;
  const below = sizeOf(ranges, low, middle);
  const { from } = ranges[middle];
  if (below <= FAR) out.push(IF_AT_LEAST, below, 0, from);
  else out.push(IF_AT_LEAST, 0, 1, from, JUMP, 0, 0, below);
  search(ranges, low, middle, out);
  search(ranges, middle, high, out);
}

class Compiler {
  private readonly which: Which;
  private readonly target: Target;
  private readonly origin: number;
  /** Most calls have one of a few. */
  private readonly answers = new Map<number, Code>();

  constructor(which: Which, target: Target) {
    this.which = which;
    this.target = target;
    this.origin = which === 'dataPlane' ? TRAP_DATA_PLANE : 0;
  }

  compile(calls: readonly Call[]): number[] {
    const { architecture, hasX32, gate } = this.target;
    const code: Instruction[] = [load(ARCHITECTURE_AT), [IF_EQUAL, 1, 0, architecture], give(RET_KILL)];
    if (gate !== 0) {
      code.push(load(POINTER_AT), [IF_EQUAL, 0, 3, gate % 2 ** 32]);
      code.push(load(POINTER_AT + 4), [IF_EQUAL, 0, 1, Math.floor(gate / 2 ** 32)], give(RET_ALLOW));
    }
    code.push(load(NUMBER_AT));
    if (hasX32) code.push([IF_AT_LEAST, 0, 1, X32_BIT], give(RET_KILL));
    const out = code.flat();
    const ranges = this.ranges(calls);
    search(ranges, 0, ranges.length, out);
    return out;
  }

  /** In order from 0 on. */
  private ranges(calls: readonly Call[]): Range[] {
    const ranges: Range[] = [{ from: 0, code: this.codeOf('refuse') }];
    const known = calls
      .map((call, i) => ({ call, number: this.target.numbers[i] }))
      .filter(({ number }) => number >= 0)
      .sort((a, b) => a.number - b.number);
    const add = (from: number, code: Code): void => {
      const last = ranges[ranges.length - 1];
      if (last.from === from) ranges.pop();
      const before = ranges.at(-1);
      // Neighbours of one kind are one range.
      if (before !== undefined && isSame(before.code, code)) return;
      ranges.push({ from, code });
    };
    for (const { call, number } of known) {
      add(number, this.codeOf(this.verdictOf(call), call.name));
      add(number + 1, this.codeOf('refuse'));
    }
    const refuses = this.target.gate === 0 && this.target.auditOnly !== true;
    add(NEWEST_CALL + 1, [give(refuses ? RET_ERRNO | ENOSYS : RET_LOG)]);
    return ranges;
  }

  private verdictOf({ name, [this.which]: verdict }: Call): Verdict {
    return this.target.ioUring === true && name === 'io_uring_enter' ? 'allow' : verdict;
  }

  private codeOf(verdict: Verdict, name = ''): Code {
    if (typeof verdict !== 'string') return this.filter(verdict, name);
    const answer = this.answer(verdict, name);
    const code = this.answers.get(answer) ?? [give(answer)];
    this.answers.set(answer, code);
    return code;
  }

  private answer(verdict: Exclude<Verdict, Filter>, name: string): number {
    if (verdict === 'allow') return RET_ALLOW;
    if (verdict === 'absent') return RET_ERRNO | ENOSYS;
    if (this.target.auditOnly === true) return RET_LOG;
    if (this.target.gate !== 0) {
      return NOT_REPEATABLE.has(name) ? RET_LOG : RET_TRAP | TRAP_PERFORM | this.origin;
    }
    if (verdict === 'deny' || (verdict === 'refuse' && this.which === 'broker')) return RET_ERRNO | EPERM;
    return verdict === 'kill' ? RET_KILL : RET_TRAP | EPERM | this.origin;
  }

  private filter({ allow, otherwise }: Filter, name: string): Code {
    let code: Code = [give(this.answer(otherwise, name))];
    for (const row of [...allow].reverse()) code = this.row(row, code);
    return code;
  }

  /** All tests, then ALLOW; the first that fails continues at `rest`. */
  private row(tests: readonly Test[], rest: Code): Code {
    let code: Code = [give(RET_ALLOW)];
    for (const test of [...tests].reverse()) code = [...this.test(test, code.length), ...code];
    return [...code, ...rest];
  }

  /** Falls through if it passes, else jumps over `length` more instructions. */
  private test({ argument, mask, values }: Test, length: number): Code {
    const code: Instruction[] = [load(ARGUMENTS_AT + 8 * argument)];
    if (mask !== undefined) code.push([AND, 0, 0, mask]);
    values.forEach((value, i) => {
      const left = values.length - 1 - i;
      const k = value === 'self' ? this.target.pid : value;
      code.push([IF_EQUAL, left, left === 0 ? length : 0, k]);
    });
    return code;
  }
}

/** The program for `which` filter, INSTRUCTION numbers for each instruction. */
export function compileFilter(which: Which, calls: readonly Call[], target: Target): number[] {
  return new Compiler(which, target).compile(calls);
}
