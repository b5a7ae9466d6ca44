/**
 * Which User Mode Linux the guests run: the installed one, or that of a newer Debian in `.cache/uml` (scripts/lib/uml.mjs).
 * TUBETTI_TEST_UML says `installed` or `fetched`; else it is the installed one unless this processor has AMX, on which kernels
 * before 6.16 cannot run a program: they hand their processes' floating-point state to the host by ptrace(2), in a buffer that
 * is smaller than this processor's, and the first process dies of SIGSEGV. From 6.16 on they need not use ptrace.
 */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { CACHE_DIR, which } from './paths';

const FETCHED = join(CACHE_DIR, 'uml');
const MODULES = 'usr/lib/uml/modules';

export interface Kernel {
  /** What boots it. */
  readonly kernel: string;
  /** The directory of its modules. */
  readonly modules: string;
}

/** Whether the guests run the kernel in `.cache/uml`, which the set-up fetches then. */
export function wantsFetchedUml(): boolean {
  const choice = process.env.TUBETTI_TEST_UML ?? '';
  if (choice !== '' && choice !== 'installed' && choice !== 'fetched') {
    throw new Error(`TUBETTI_TEST_UML=${choice}: it is "installed" or "fetched"`);
  }
  if (choice !== '') return choice === 'fetched';
  return hasAmx() && !runsWithAmx(newestIn(join('/', MODULES)));
}

/** Null if there is one to run here, else what is missing, in one sentence. */
export function whyNoUml(): string | null {
  if (wantsFetchedUml()) {
    if (existsSync(join(FETCHED, 'run'))) return null;
    const why = hasAmx() ? 'which this processor needs, for it has AMX' : 'which TUBETTI_TEST_UML chooses';
    return `no newer User Mode Linux in .cache (node scripts/setup.mjs fetches one), ${why}`;
  }
  if (which('linux.uml') === null) return 'user-mode-linux is not installed';
  return null;
}

/** What {@link whyNoUml} finds nothing missing of. */
export function umlKernel(): Kernel {
  const [kernel, modules] = wantsFetchedUml()
    ? [join(FETCHED, 'run'), join(FETCHED, MODULES)]
    : [which('linux.uml') ?? '', join('/', MODULES)];
  return { kernel, modules: join(modules, newestIn(modules)) };
}

function hasAmx(): boolean {
  return /^flags\s*:.*\bamx_tile\b/m.test(readFileSync('/proc/cpuinfo', 'latin1'));
}

function runsWithAmx(version: string): boolean {
  const [major, minor] = version.split('.').map(Number);
  return major > 6 || (major === 6 && minor >= 16);
}

/** The version of the newest modules of a directory, '' if there are none. */
function newestIn(directory: string): string {
  if (!existsSync(directory)) return '';
  const inOrder = new Intl.Collator('en', { numeric: true });
  return readdirSync(directory).sort(inOrder.compare).pop() ?? '';
}
