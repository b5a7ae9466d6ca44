/**
 * `npm run trace:syscalls -- [PATTERN]`: runs tests with real service processes under strace (those of PATTERN, by default the
 * guest inside), then lists the system calls after the start, by who made them: threads of the service, its data plane, and
 * its broker. What the filters (src/sandbox/syscalls.ts) have no row for is marked. Needs strace, root and a build; the service
 * is many times slower.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { ROOT, run, which } from './lib/run.mjs';

const require = createRequire(import.meta.url);
const { CALLS } = require('../dist/sandbox/syscalls.js');
const passes = new Map(CALLS.map(({ name, process, dataPlane, broker }) => [name, { process, dataPlane, broker }]));
const COLUMNS = /** @type {const} */ (['process', 'dataPlane', 'broker']);

if (which('strace') === null) throw new Error('strace is not installed');
const directory = join(ROOT, '.cache', 'trace');
rmSync(directory, { recursive: true, force: true });
mkdirSync(directory, { recursive: true });
const launcher = `${join(ROOT, 'build', 'Release', 'tubetti-launch')} ${join(ROOT, 'bin', 'tubetti')}`;
const program = `${launcher} ${process.execPath} ${join(ROOT, 'bin', 'tubetti.js')} --foreground --runas 0`;
const strace = `strace -ff -qq -o ${join(directory, 'calls')}`;
const jest = join(ROOT, 'node_modules', 'jest', 'bin', 'jest.js');
const pattern = process.argv[2] ?? 'conformance/guest-inside.test';
// What asks for metrics fails, as with any other back-end.
const env = { TUBETTI_TEST_BACKEND: `${strace} ${program}`, NO_COLOR: '1' };
await run(process.execPath, [jest, '--runInBand', '--testTimeout=120000', '--testPathPatterns', pattern], { env });

/**
 * By thread: files of `strace -ff` end in its number. The data plane is who waits by our addon's epoll, the broker who takes
 * that name. @type {Map<string, Map<string, number>>}
 */
const counts = new Map();
for (const file of existsSync(directory) ? readdirSync(directory) : []) {
  const lines = readFileSync(join(directory, file), 'latin1').split('\n');
  const who = lines.some((line) => line.startsWith('epoll_pwait2('))
    ? 'dataPlane'
    : lines.some((line) => line.startsWith('prctl(PR_SET_NAME, "tubetti-broker"'))
      ? 'broker'
      : 'process';
  const sealed = lines.findLastIndex((line) => /^(seccomp|capset)\(/.test(line));
  for (const line of lines.slice(sealed + 1)) {
    const name = /^([a-z_0-9]+)\(/.exec(line)?.[1];
    if (name === undefined) continue;
    const of = counts.get(name) ?? new Map();
    counts.set(name, of.set(who, (of.get(who) ?? 0) + 1));
  }
}
console.log(`${''.padEnd(20)} ${COLUMNS.map((who) => who.padStart(16)).join('')}`);
for (const [name, of] of [...counts].sort(([a], [b]) => a.localeCompare(b))) {
  const cells = COLUMNS.map((who) => {
    const count = of.get(who) ?? 0;
    const verdict = passes.get(name)?.[who] ?? 'refuse';
    return count > 0 && ['refuse', 'kill'].includes(verdict) ? `${count} ${verdict}!` : String(count);
  });
  console.log(`${name.padEnd(20)} ${cells.map((cell) => cell.padStart(16)).join('')}`);
}
