/**
 * `npm run fuzz:addon -- --seconds N`: builds the addon's row checks for libFuzzer with ASan and UBSan and runs it. What
 * it finds is left in .cache/fuzz/crash-*; exit status 1 then.
 */
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { ROOT, run, which } from './lib/run.mjs';

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '60' } } });
if (!/^[1-9]\d*$/.test(values.seconds)) fail(`--seconds ${values.seconds}: give a number of seconds`);
if (which('clang++') === null) fail('clang++ not found: install it, e.g. apt-get install clang');

/** @param {string} message */
function fail(message) {
  process.stderr.write(`fuzz-addon: ${message}\n`);
  process.exit(2);
}

const directory = join(ROOT, '.cache', 'fuzz');
const corpus = join(directory, 'corpus-rows');
mkdirSync(corpus, { recursive: true });
const program = join(directory, 'rows-fuzz');
const sources = ['memory', 'sigbus', 'address', 'checksum', 'copy'].map((name) => join(ROOT, 'addon', `${name}.cc`));
const headers = join(dirname(dirname(process.execPath)), 'include', 'node');
const build = await run('clang++', [
  ...['-std=c++20', '-g', '-O1', '-fno-exceptions', '-fsanitize=fuzzer,address,undefined', '-fno-sanitize-recover=all'],
  ...['-D_GNU_SOURCE', '-DNAPI_VERSION=8', '-iquote', join(ROOT, 'addon'), '-isystem', headers],
  ...[join(ROOT, 'test', 'fuzz', 'addon', 'rows-fuzz.cc'), ...sources, '-o', program],
]);
if (build.status !== 0) process.exit(build.status);
const limits = [
  `-max_total_time=${values.seconds}`,
  '-max_len=2048',
  `-artifact_prefix=${directory}/`,
  '-print_final_stats=1',
];
const { status } = await run(program, [...limits, corpus]);
process.exitCode = status === 0 ? 0 : 1;
