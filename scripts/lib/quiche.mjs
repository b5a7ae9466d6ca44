/**
 * quiche, for the test of policies with a real QUIC client: the one file that an npm package for Linux on x86-64 carries. The package
 * around it has many for other systems, and is not needed.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { installInto } from './node-packages.mjs';
import { ROOT } from './run.mjs';

const PACKAGE = '@matrixai/quic-linux-x64';
const VERSION = '2.0.9';

/**
 * @param {(line: string) => void} log
 * @param {string[]} notes
 */
export async function fetchQuiche(log, notes) {
  const directory = join(ROOT, '.cache', 'quic');
  const file = join(directory, 'node_modules', PACKAGE, 'node.napi.node');
  if (existsSync(file)) return;
  if (process.arch !== 'x64') {
    notes.push('no QUIC client for this processor: its test is skipped');
    return;
  }
  const { status, output } = await installInto(directory, `${PACKAGE}@${VERSION}`);
  if (status === 0 && existsSync(file)) log('quiche fetched');
  else notes.push(`no QUIC client, whose test is skipped: ${output.trim().split('\n').at(-1)}`);
}
