/**
 * A User Mode Linux of a newer Debian, for processors on which this system's cannot run a program
 * (test/support/world/uml-kernel.ts says which). Not installed, for it wants a newer C library, which comes with it.
 */
import { existsSync, readFileSync, realpathSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { ROOT, run } from './run.mjs';
import { unpackFromSuite } from './suites.mjs';

/** The oldest that has it first: what changes least. */
const SUITES = ['forky', 'sid'];
const LIBRARIES = 'usr/lib/x86_64-linux-gnu';
/**
 * What the guests are started by. The kernel starts itself again, by /proc/self/exe, so it has to be the program, and not
 * an argument of its loader; as that it would have no memory either, which it looks for behind its own end.
 */
const RUN = `#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
LD_LIBRARY_PATH="$here/${LIBRARIES}" exec "$here/linux.uml" "$@"
`;

/** elf(5), of 64 bits: Elf64_Ehdr and Elf64_Phdr. */
const E_PHOFF = 32;
const E_PHENTSIZE = 54;
const E_PHNUM = 56;
const PT_INTERP = 3;
const P_OFFSET = 8;
const P_FILESZ = 32;

/**
 * A program with another loader. The loader's name goes behind the end of the file: nobody but execve(2), which looks for it
 * by its offset, reads it.
 * @param {Buffer} program
 * @param {string} loader  absolute path
 * @returns {Buffer}
 * @throws {Error} when the program has no loader
 */
export function withLoader(program, loader) {
  const name = Buffer.from(`${loader}\0`);
  const changed = Buffer.concat([program, name]);
  const table = Number(changed.readBigUInt64LE(E_PHOFF));
  for (let i = 0; i < changed.readUInt16LE(E_PHNUM); i++) {
    const header = table + i * changed.readUInt16LE(E_PHENTSIZE);
    if (changed.readUInt32LE(header) !== PT_INTERP) continue;
    changed.writeBigUInt64LE(BigInt(program.length), header + P_OFFSET);
    changed.writeBigUInt64LE(BigInt(name.length), header + P_FILESZ);
    return changed;
  }
  throw new Error('a program without a loader');
}

/**
 * Makes the program of the unpacked one, for the directory where it lies now.
 * @param {string} directory
 * @returns {Promise<string | null>} why it does not start
 */
async function prepare(directory) {
  const version = () => run(join(directory, 'run'), ['--version'], { quiet: true });
  // Another checkout may have made it, for itself.
  if (existsSync(join(directory, 'linux.uml')) && (await version()).status === 0) return null;
  const loader = join(realpathSync(directory), LIBRARIES, 'ld-linux-x86-64.so.2');
  const program = join(directory, 'linux.uml');
  writeFileSync(`${program}.new`, withLoader(readFileSync(join(directory, 'usr/bin/linux.uml')), loader), {
    mode: 0o755,
  });
  renameSync(`${program}.new`, program);
  writeFileSync(join(directory, 'run'), RUN, { mode: 0o755 });
  const { status, output } = await version();
  return status === 0 ? null : (output.trim().split('\n').at(-1) ?? 'it does not start');
}

/**
 * Fetches it if this machine's guests need it.
 * @param {(line: string) => void} log
 * @param {string[]} notes
 * @returns {Promise<boolean>} whether there is a User Mode Linux that runs here
 */
export async function provideUml(log, notes) {
  const require = createRequire(import.meta.url);
  require('./ts-hook.cjs');
  const { wantsFetchedUml, whyNoUml } = require('../../test/support/world/uml-kernel.ts');
  if (wantsFetchedUml()) await fetchUml(log, notes);
  return whyNoUml() === null;
}

/**
 * @param {(line: string) => void} log
 * @param {string[]} notes
 */
async function fetchUml(log, notes) {
  const directory = join(ROOT, '.cache', 'uml');
  if (existsSync(directory) && (await prepare(directory)) === null) return;
  const started = Date.now();
  let failure = '';
  for (const suite of SUITES) {
    failure = (await unpackFromSuite(`${directory}.new`, suite, ['user-mode-linux', 'libc6'])) ?? '';
    if (failure !== '') continue;
    rmSync(directory, { recursive: true, force: true });
    renameSync(`${directory}.new`, directory);
    failure = (await prepare(directory)) ?? '';
    if (failure !== '') continue;
    log(`User Mode Linux of ${suite} fetched in ${((Date.now() - started) / 1000).toFixed(0)} s`);
    return;
  }
  rmSync(directory, { recursive: true, force: true });
  notes.push(`no newer User Mode Linux, whose tests are skipped: ${failure}`);
}
