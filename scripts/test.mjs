/**
 * `npm test`: everything CI checks, on a fresh clone too: set-up, lint, types, then the jest projects from the quickest
 * to the slowest, and a part of them under other releases of Node. Ends with the line "N passed, N failed, N skipped" over all of them.
 *
 *   --unit         unit tests only: no guests, no lint, no types
 *   --no-guests    everything but the end-to-end tests
 *
 * With CI=true nothing may be skipped: what is missing is a failure, and so is a skipped test.
 */
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { MAJORS, NoSuchNode, SHORT, jestOn, prepareNode } from './lib/nodes.mjs';
import { ROOT, run, which } from './lib/run.mjs';
import { SetupError, setUp } from './lib/setup.mjs';

const { values: flags } = parseArgs({
  options: { unit: { type: 'boolean', default: false }, 'no-guests': { type: 'boolean', default: false } },
});
const inCi = process.env.CI === 'true';
const withGuests = !flags.unit && !flags['no-guests'];

const total = { passed: 0, failed: 0, skipped: 0 };
/** Steps that failed, by name. @type {string[]} */
const failures = [];
/** What was left out, and why. @type {string[]} */
const skips = [];

/** @param {string} title */
function heading(title) {
  console.log(`\n=== ${title}`);
}

/**
 * Runs a program of node_modules, its output shown when it ends; a failure is noted under `title`.
 * @param {string} title
 * @param {string} program
 * @param {string[]} args
 */
async function step(title, program, args) {
  const { status, output } = await run(process.execPath, [join(ROOT, 'node_modules', program), ...args], {
    quiet: true,
  });
  heading(title);
  process.stdout.write(output);
  if (status !== 0) failures.push(title);
}

/**
 * Runs one jest project and adds its tests to the total.
 * @param {string} project
 * @param {string[]} [args]
 */
async function jest(project, args = []) {
  heading(`jest: ${project}`);
  const directory = join(ROOT, '.cache', 'test-results');
  mkdirSync(directory, { recursive: true });
  const file = join(directory, `${project}.json`);
  rmSync(file, { force: true });
  const program = join(ROOT, 'node_modules', 'jest', 'bin', 'jest.js');
  // A test that failed may leave something open for ever; without --forceExit jest then never ends, and nothing is said.
  const options = ['--selectProjects', project, '--json', `--outputFile=${file}`, '--forceExit', ...args];
  // --json sends the machine's report to standard output too; people read standard error.
  const { status } = await run(process.execPath, [program, ...options], { discardOutput: true });
  const result = readResult(file);
  if (result === null) {
    failures.push(`jest ${project} (no result)`);
    return;
  }
  total.passed += result.numPassedTests;
  // A file that could not even be loaded has no tests to count.
  total.failed += result.numFailedTests + result.numRuntimeErrorTestSuites;
  total.skipped += result.numPendingTests + result.numTodoTests;
  if (status !== 0) failures.push(`jest ${project}`);
  for (const suite of result.testResults) {
    const left = suite.assertionResults.filter((/** @type {{ status: string }} */ test) => test.status !== 'passed');
    const titles = left.filter((test) => test.status !== 'failed').map((test) => test.ancestorTitles[0] ?? test.title);
    for (const title of new Set(titles)) skips.push(`${relative(ROOT, suite.name)}: ${title}`);
  }
}

/** A part of the tests under each of the other releases of Node. `npm run test:nodes` runs all. */
async function otherNodes() {
  for (const major of MAJORS) {
    heading(`Node ${major}: jest, in short`);
    try {
      const result = await jestOn(await prepareNode(major, (line) => console.log(line)), SHORT);
      total.passed += result.passed;
      total.failed += result.failed;
      total.skipped += result.skipped;
      if (result.failed > 0) failures.push(`Node ${major}`);
      skips.push(...result.why);
    } catch (error) {
      if (!(error instanceof SetupError)) throw error;
      if (error instanceof NoSuchNode) skips.push(error.message);
      else failures.push(error.message);
    }
  }
}

const COVERAGE_DIRECTORY = join(ROOT, '.cache', 'coverage');
const COVERAGE_ARGS = [
  '--coverage',
  '--coverageProvider=v8',
  '--coverageReporters=json-summary',
  `--coverageDirectory=${COVERAGE_DIRECTORY}`,
  '--collectCoverageFrom=src/**/*.ts',
];

/**
 * The coverage ratchet: what the unit tests cover of src/ may not fall below test/coverage.json (per cent). A change that
 * raises the coverage may raise the numbers there.
 */
function checkCoverage() {
  const floor = readResult(join(ROOT, 'test', 'coverage.json'));
  const total = readResult(join(COVERAGE_DIRECTORY, 'coverage-summary.json'))?.total;
  if (total === undefined) return; // jest failed, which is said already
  for (const [kind, least] of Object.entries(floor)) {
    const { pct } = total[kind];
    console.log(`coverage of ${kind} by unit tests: ${pct} % (at least ${least})`);
    if (pct < least) failures.push(`coverage of ${kind} fell from ${least} % to ${pct} %`);
    else if (pct >= least + 1) console.log(`  test/coverage.json may be raised to ${Math.floor(pct * 2) / 2}`);
  }
}

/** @param {string} file */
function readResult(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return null;
  }
}

async function main() {
  heading('set-up');
  const available = await setUp({ guests: withGuests, checks: !flags.unit });
  skips.push(...available.notes);
  if (!flags.unit) {
    await Promise.all([
      step('eslint', 'eslint/bin/eslint.js', ['.']),
      step('prettier', 'prettier/bin/prettier.cjs', ['--check', '--log-level', 'warn', '.']),
      step('types', 'typescript/bin/tsc', ['-p', 'tsconfig.test.json', '--noEmit']),
    ]);
    if (which('clang-tidy') !== null && which('cppcheck') !== null) {
      await step('clang-tidy, cppcheck', '../scripts/lint-addon.mjs', []);
    }
  }
  // jest's own choice leaves a processor idle, which on two of them is half.
  await jest('unit', [...COVERAGE_ARGS, '--maxWorkers=100%']);
  checkCoverage();
  if (!flags.unit) await jest('conformance');
  if (!flags.unit) await otherNodes();
  // By itself: its guests keep time while calls fail.
  if (!flags.unit) await jest('exhaustion', ['--runInBand']);
  // One guest at a time: two would fight for the processor.
  if (withGuests) await jest('e2e', ['--runInBand']);

  heading('result');
  for (const skip of skips) console.log(`skipped: ${skip}`);
  if (inCi && skips.length > 0) failures.push('something was skipped, and CI=true');
  for (const failure of failures) console.log(`failed: ${failure}`);
  console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  return failures.length === 0 ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
