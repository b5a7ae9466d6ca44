/** Hands a filter's program to the kernel: all that a data plane's thread needs of seccomp.ts, whose table it has no use for. */
import { describeErrno } from '../errors';
import type { Native } from '../native';

export type InstallNative = Pick<Native, 'seccompTrap' | 'seccompInstall'>;

/**
 * `program`: as of `compileFilter`; `all`: for all threads of the process, else for this one. Returns null, or why it is not
 * in force.
 */
export function installFilter(native: InstallNative, program: Int32Array, all: boolean): string | null {
  const trap = native.seccompTrap();
  if (trap < 0) return `no eventfd: ${describeErrno(trap)}`;
  const result = native.seccompInstall(program, all ? 1 : 0);
  if (result > 0) return `thread ${result} has a filter of its own`;
  return result < 0 ? `seccomp(2): ${describeErrno(result)}` : null;
}
