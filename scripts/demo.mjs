/**
 * `npm run demo`: boots a real Linux guest whose network card is served by Tubetti, and shows that its network works.
 * On a fresh clone it sets up everything first (lib/setup.mjs). Nothing of the system is changed: the service and its
 * "internet" live in network namespaces of their own, which go when the demo ends, in whatever way.
 *
 *   --size=MIB     how much to send each way (default 256)
 *   --guest=KIND   uml, qemu or inside; without it, the first that this machine can boot
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ROOT } from './lib/run.mjs';
import { SetupError, setUp } from './lib/setup.mjs';

/**
 * One line of the result: what was looked at, what was seen, and whether that is right.
 * @typedef {{ what: string, seen: string, ok: boolean }} Row
 *
 * Shows one kind of guest. Reports progress line by line; throws when the guest does not get as far as a result.
 * @typedef {(options: { bytes: number, progress: (line: string) => void }) => Promise<Row[]>} Show
 *
 * @typedef {{ name: string, title: string, missing: string | null, show: Show }} Kind
 */

const started = Date.now();

/** @param {string} line */
function progress(line) {
  const seconds = ((Date.now() - started) / 1000).toFixed(1).padStart(6);
  console.log(`${seconds} s  ${line}`);
}

/**
 * The kinds of guest, best first.
 * @param {import('./lib/setup.mjs').SetupResult} available
 * @returns {Kind[]}
 */
function kindsOfGuest(available) {
  const require = createRequire(import.meta.url);
  require('./lib/ts-hook.cjs');
  const { whyNoNamespaces } = require('../test/support/world/host-world.ts');
  const { whyNoGuest } = require('../test/support/world/image.ts');
  const { showLinux } = require('../test/support/world/show.ts');
  const noWorld = whyNoNamespaces();
  const kinds = [
    { name: 'uml', title: 'User Mode Linux', missing: noWorld ?? whyNoGuest('uml'), show: showLinux('uml') },
    { name: 'qemu', title: 'Linux in QEMU', missing: noWorld ?? whyNoGuest('qemu'), show: showLinux('qemu') },
  ];
  for (const kind of kinds) {
    if (kind.missing === null && available[kind.name] !== true) kind.missing = 'the set-up could not provide it';
  }
  // The guest written in TypeScript needs no virtual machine at all.
  const inside = join(ROOT, 'test/support/guest/show.ts');
  if (existsSync(inside)) {
    kinds.push({ name: 'inside', title: "the tests' own guest", missing: noWorld, show: require(inside).showInside });
  }
  return kinds;
}

/** @param {Row[]} rows */
function printTable(rows) {
  const width = Math.max(...rows.map((row) => row.what.length));
  console.log('');
  for (const { what, seen, ok } of rows) console.log(`  ${ok ? '✓' : '✗'} ${what.padEnd(width)}  ${seen}`);
  console.log('');
}

async function main() {
  const { values } = parseArgs({ options: { size: { type: 'string', default: '256' }, guest: { type: 'string' } } });
  const megabytes = Number(values.size);
  if (!Number.isInteger(megabytes) || megabytes < 1 || megabytes > 512) {
    throw new SetupError('--size wants a whole number of MiB from 1 to 512');
  }
  const available = await setUp({ guests: true, log: (line) => progress(`set-up: ${line}`) });
  for (const note of available.notes) progress(`note: ${note}`);

  const kinds = kindsOfGuest(available).filter((kind) => values.guest === undefined || kind.name === values.guest);
  if (kinds.length === 0) throw new SetupError(`--guest=${values.guest}: no such kind of guest`);
  for (const { title, missing, show } of kinds) {
    if (missing !== null) {
      progress(`${title}: skipped, ${missing}`);
      continue;
    }
    try {
      const rows = await show({ bytes: megabytes << 20, progress });
      printTable(rows);
      const failed = rows.filter((row) => !row.ok).length;
      console.log(failed === 0 ? `Everything matched (${title}).` : `${failed} of ${rows.length} did not match.`);
      return failed === 0 ? 0 : 1;
    } catch (error) {
      progress(`${title}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  console.error('No guest could show anything.');
  return 1;
}

// Children and scratch files are cleaned up on `exit`, which these signals do not reach by themselves.
for (const [signal, status] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
]) {
  process.on(signal, () => process.exit(status));
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
