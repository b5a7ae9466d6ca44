/**
 * pesto, passt's client for changes at run time, as Debian's unstable has it: for the test of our side of its protocol. It is
 * run and nothing else. Not installed, for it wants a newer C library, which comes with it.
 */
import { existsSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT, run } from './run.mjs';
import { unpackFromSuite } from './suites.mjs';

/** Starts it with the C library beside it; `$here` is its directory, wherever that was moved to. */
const RUN = `#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
libraries="$here/usr/lib/$(uname -m)-linux-gnu"
exec "$libraries"/ld-linux-*.so.* --library-path "$libraries" "$here/usr/bin/pesto" "$@"
`;

/** @param {string} directory @returns {Promise<string | null>} why not */
async function unpackInto(directory) {
  const failure = await unpackFromSuite(directory, 'sid', ['passt', 'libc6']);
  if (failure !== null) return failure;
  writeFileSync(join(directory, 'run'), RUN, { mode: 0o755 });
  const { status, output } = await run(join(directory, 'run'), ['--version'], { quiet: true });
  return status === 0 ? null : (output.trim().split('\n').at(-1) ?? 'it does not start');
}

/**
 * @param {(line: string) => void} log
 * @param {string[]} notes
 */
export async function fetchPesto(log, notes) {
  const directory = join(ROOT, '.cache', 'pesto');
  if (existsSync(join(directory, 'run'))) return;
  const started = Date.now();
  const failure = await unpackInto(`${directory}.new`);
  if (failure !== null) {
    notes.push(`no pesto, whose tests are skipped: ${failure}`);
    return;
  }
  renameSync(`${directory}.new`, directory);
  log(`pesto fetched in ${((Date.now() - started) / 1000).toFixed(0)} s`);
}
