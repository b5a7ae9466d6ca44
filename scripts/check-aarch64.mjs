/**
 * `node scripts/check-aarch64.mjs`: compiles the addon's and the launcher's sources for aarch64, checks the numbers of the
 * filters of system calls there, and runs the launcher under qemu-user if that is installed. Not part of `npm test`: it
 * takes half a minute, and a cross compiler. Debian: apt-get install g++-aarch64-linux-gnu qemu-user
 *
 * Emulation knows neither seccomp nor the namespaces of another process: what holds on such a machine only that shows.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { ROOT, run, which } from './lib/run.mjs';

const COMPILER = 'aarch64-linux-gnu-g++';
const require = createRequire(import.meta.url);

if (which(COMPILER) === null) {
  process.stderr.write(`${COMPILER} not found: install it, e.g. apt-get install g++-aarch64-linux-gnu\n`);
  process.exit(1);
}

const cmake = readFileSync(join(ROOT, 'CMakeLists.txt'), 'utf8');
const sources = [...cmake.matchAll(/^ {2}(addon\/\S+\.cc)/gm)].map(([, name = '']) => join(ROOT, name));
const isLauncher = (/** @type {string} */ name) => name.includes('/launch/');
const warnings = ['-Wall', '-Wextra', '-Wshadow', '-Wconversion', '-Werror'];
const common = ['-std=c++20', '-D_GNU_SOURCE', '-fno-exceptions', '-fno-rtti', ...warnings];
const headers = [
  ...['-isystem', join(dirname(dirname(process.execPath)), 'include', 'node')],
  ...['-isystem', dirname(require.resolve('node-addon-api'))],
  ...['-DNAPI_VERSION=8', '-DNAPI_DISABLE_CPP_EXCEPTIONS', '-fPIC'],
];
const output = join(ROOT, '.cache', 'aarch64');
mkdirSync(output, { recursive: true });
const launcher = join(output, 'tubetti-launch');
const linked = ['-O2', '-static-libstdc++', '-static-libgcc', '-o', launcher];

/** @type {string[][]} */
const jobs = [
  [...common, ...linked, ...sources.filter(isLauncher)],
  [...common, ...headers, '-Wno-unused-function', '-fsyntax-only', join(ROOT, 'scripts', 'lib', 'aarch64-numbers.cc')],
  ...sources
    .filter((name) => !isLauncher(name))
    .map((name) => [...common, ...headers, '-O1', '-S', '-o', '/dev/null', name]),
];
const count = jobs.length;
let failed = 0;
async function work() {
  for (let job = jobs.shift(); job !== undefined; job = jobs.shift()) {
    const { status, output: text } = await run(COMPILER, job, { quiet: true });
    if (status === 0) continue;
    failed++;
    process.stdout.write(text);
  }
}
await Promise.all(Array.from({ length: availableParallelism() }, work));
process.stdout.write(`aarch64: ${count - failed} of ${count} compilations succeeded\n`);

const emulator = which('qemu-aarch64') ?? which('qemu-aarch64-static');
if (failed === 0 && emulator === null) process.stdout.write('aarch64: qemu-aarch64 not found, nothing was run\n');
if (failed === 0 && emulator !== null) {
  const words = ['-L', '/usr/aarch64-linux-gnu', launcher, 'tubetti', '/bin/sh', '-c', 'echo "$0: $TUBETTI_LAUNCH"'];
  const { stdout, stderr, status } = spawnSync(emulator, words, { encoding: 'utf8', timeout: 20_000 });
  process.stdout.write(`aarch64: the launcher under qemu-user: ${stdout}${stderr}`);
  if (status !== 0 || !/^\S+: user=-?\d+ mount=-?\d+ .* closed=1 listen=0\n$/.test(stdout)) failed++;
}
process.exitCode = failed === 0 ? 0 : 1;
