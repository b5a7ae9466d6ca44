/**
 * Root directories of other Debian releases, in which tests install what users of those releases install: made once by
 * mmdebstrap and kept in .cache/roots/NAME. Tests see one by way of an overlay (test/support/world/debian-root.ts), so that
 * it stays as it was made.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT, run, which } from './run.mjs';

export const ROOTS_DIRECTORY = join(ROOT, '.cache', 'roots');

/**
 * @typedef {object} RootOptions
 * @property {string} name                   Of its directory.
 * @property {string} suite                  Debian's name of the release, as `trixie`.
 * @property {readonly string[]} packages    More than `Essential: yes` and apt.
 * @property {readonly string[]} [keep]      Words for mmdebstrap's --skip, what it would clean up.
 */

/**
 * What the tests of the package install into: no compiler, no Python, nothing that an addon is built with; `mount` is for the
 * tests. Debian 13 with its own Node; Debian 12 without, because its own is too old.
 * @type {readonly RootOptions[]}
 */
export const PACKAGE_ROOTS = [
  { name: 'debian-12', suite: 'bookworm', packages: ['mount'] },
  { name: 'debian-13', suite: 'trixie', packages: ['mount', 'nodejs'] },
];

/**
 * Makes a root unless it is there with these packages. Needs to be root: the files belong to root.
 * @param {RootOptions} options
 * @param {(line: string) => void} log
 * @returns {Promise<string | null>} why there is none, in one sentence; null if there is
 */
export async function makeRoot({ name, suite, packages, keep = [] }, log) {
  const directory = join(ROOTS_DIRECTORY, name);
  const record = join(ROOTS_DIRECTORY, `${name}.json`);
  const made = JSON.stringify({ suite, packages, keep });
  if (existsSync(directory) && existsSync(record) && readFileSync(record, 'utf8') === made) return null;
  if (process.getuid?.() !== 0) return `no root directory of Debian's ${suite}: only root can make one`;
  if (which('mmdebstrap') === null) return `no root directory of Debian's ${suite}: mmdebstrap is not installed`;
  log(`making a root directory of Debian's ${suite}`);
  const started = Date.now();
  const unfinished = `${directory}.new`;
  for (const path of [unfinished, directory]) rmSync(path, { recursive: true, force: true });
  mkdirSync(ROOTS_DIRECTORY, { recursive: true });
  const args = ['--mode=root', '--variant=minbase', '--quiet', ...keep.map((word) => `--skip=${word}`)];
  // Pages and translations that no test reads are half of the time that it takes.
  const leaveOut = ['/usr/share/man/*', '/usr/share/locale/*', '/usr/share/doc/*'];
  for (const path of leaveOut) args.push(`--dpkgopt=path-exclude=${path}`);
  args.push(`--include=${packages.join(',')}`, suite, unfinished, 'http://deb.debian.org/debian');
  const { status, output } = await run('mmdebstrap', args, { quiet: true });
  if (status !== 0) {
    rmSync(unfinished, { recursive: true, force: true });
    return `no root directory of Debian's ${suite}: mmdebstrap failed: ${output.trim().split('\n').slice(-3).join(' ')}`;
  }
  renameSync(unfinished, directory);
  writeFileSync(record, made);
  log(`${suite}: made in ${((Date.now() - started) / 1000).toFixed(0)} s`);
  return null;
}
