/**
 * clang-tidy (.clang-tidy) and cppcheck over addon/, with the flags of the last build of the addon. `npm test` runs it;
 * by itself: `npm run lint:addon`. Exit status 1 and the tools' own lines if one of them finds something.
 */
import { existsSync, readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { ROOT, run, which } from './lib/run.mjs';

const build = join(ROOT, 'build');
const sources = readdirSync(join(ROOT, 'addon'), { recursive: true })
  .filter((name) => name.endsWith('.cc'))
  .map((name) => join(ROOT, 'addon', name));

/** Runs the jobs on all processors; true if all of them exited with 0. Prints what the others wrote. */
async function all(jobs) {
  const waiting = [...jobs];
  let good = true;
  const worker = async () => {
    for (let job = waiting.shift(); job !== undefined; job = waiting.shift()) {
      const { status, output } = await run(job[0], job.slice(1), { quiet: true });
      if (status === 0) continue;
      good = false;
      process.stdout.write(output);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return good;
}

for (const tool of ['clang-tidy', 'cppcheck']) {
  if (which(tool) !== null) continue;
  process.stderr.write(`${tool} not found: install it, e.g. apt-get install clang-tidy cppcheck\n`);
  process.exit(1);
}
if (!existsSync(join(build, 'compile_commands.json'))) {
  process.stderr.write('no flags to check with: run `npm run build:addon` first\n');
  process.exit(1);
}
const cppcheck = [
  '--std=c++20',
  '--enable=warning,performance,portability',
  '--inline-suppr',
  '--error-exitcode=1',
  '-q',
];
// Glue deduces how arguments are converted from their types, which are values.
const spared = ['--suppress=missingIncludeSystem', '--suppress=passedByValue'];
const good = await all([
  ...sources.map((file) => ['clang-tidy', '--quiet', '-p', build, file]),
  ['cppcheck', ...cppcheck, ...spared, ...sources],
]);
process.exitCode = good ? 0 : 1;
