/**
 * `npm test`: everything CI checks, on a fresh clone too: set-up, lint, types, then the jest projects from the quickest
 * to the slowest, and a part of them under other releases of Node. Ends with the line "N passed, N failed, N skipped" over all of them.
 *
 *   --unit         unit tests only: no guests, no lint, no types
 *   --no-guests    everything but the end-to-end tests
 *   --long         also what is not needed each time (docs/testing.md, "In short and whole")
 *
 * With CI=true nothing may be skipped: what is missing is a failure, and so is a skipped test.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { runJest } from './lib/jest.mjs';
import { MAJORS, NoSuchNode, demoOn, jestOn, prepareNode, shortRun, wholeRuns } from './lib/nodes.mjs';
import { ROOT, run, which } from './lib/run.mjs';
import { SetupError, setUp } from './lib/setup.mjs';
import { REPEATED, conformanceRuns, unitRun } from './lib/test-sets.mjs';

const { values: flags } = parseArgs({
  options: {
    unit: { type: 'boolean', default: false },
    'no-guests': { type: 'boolean', default: false },
    long: { type: 'boolean', default: false },
  },
});
const inCi = process.env.CI === 'true';
const withGuests = !flags.unit && !flags['no-guests'];

const total = { passed: 0, failed: 0, skipped: 0 };
/** Steps that failed, by name. @type {string[]} */
const failures = [];
/** What was left out, and why. @type {string[]} */
const skips = [];
/** What passed at the second attempt (lib/jest.mjs). @type {string[]} */
const unsteady = [];

/** @param {string} title */
function heading(title) {
  const seconds = Math.round(process.uptime());
  console.log(`\n=== ${title} [${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}]`);
}

/**
 * Runs a program of Node's, its output shown when it ends; a failure is noted under `title`.
 * @param {string} title
 * @param {string} program  Its path in the checkout.
 * @param {string[]} args
 * @param {number} [niceness]
 */
async function step(title, program, args, niceness = 0) {
  const command = ['-n', String(niceness), process.execPath, join(ROOT, program), ...args];
  const { status, output } = await run('nice', command, { quiet: true });
  heading(title);
  process.stdout.write(output);
  if (status !== 0) failures.push(title);
}

/**
 * Runs jest and adds its tests to the total.
 * @param {import('./lib/test-sets.mjs').TestRun} testRun
 */
async function jest(testRun) {
  heading(`jest: ${testRun.name}`);
  const report = join(ROOT, '.cache', 'test-results', `${testRun.name}.json`);
  // --json sends the machine's report to standard output too; people read standard error.
  const node = (/** @type {string[]} */ args) => run(process.execPath, args, { cwd: ROOT, discardOutput: true });
  add(`jest ${testRun.name}`, await runJest(testRun, { root: ROOT, report, node }));
}

/**
 * @param {string} name
 * @param {import('./lib/jest.mjs').Outcome} outcome
 */
function add(name, outcome) {
  total.passed += outcome.passed;
  total.failed += outcome.failed;
  total.skipped += outcome.skipped;
  if (outcome.failed > 0) failures.push(name);
  skips.push(...outcome.why.map((test) => `${name}: ${test}`));
  unsteady.push(...outcome.unsteady.map((test) => `${name}: ${test}`));
}

/** The other releases of Node that could be prepared. @type {import('./lib/nodes.mjs').Place[]} */
const places = [];

async function prepareNodes() {
  for (const major of MAJORS) {
    try {
      places.push(await prepareNode(major, (line) => console.log(`set-up: ${line}`)));
    } catch (error) {
      if (!(error instanceof SetupError)) throw error;
      if (error instanceof NoSuchNode) skips.push(error.message);
      else failures.push(error.message);
    }
  }
}

/**
 * A part of the tests under each of the other releases of Node, or all.
 * @param {boolean} withDemo  Then the demo, too, under the newest.
 */
async function otherNodes(withDemo) {
  for (const place of places) {
    heading(`Node ${place.major}: jest${flags.long ? '' : ', in short'}`);
    for (const testRun of flags.long ? wholeRuns() : [shortRun(place.major)]) {
      add(`Node ${place.major}`, await jestOn(place, testRun));
    }
  }
  const newest = places.at(-1);
  if (withDemo && newest !== undefined) {
    heading(`Node ${newest.major}: demo`);
    const isGood = await demoOn(newest);
    add(`Node ${newest.major}, demo`, {
      passed: Number(isGood),
      failed: Number(!isGood),
      skipped: 0,
      why: [],
      unsteady: [],
    });
  }
}

async function lintAddon() {
  if (which('clang-tidy') === null || which('cppcheck') === null) return;
  await step('clang-tidy, cppcheck', 'scripts/lint-addon.mjs', [], 19);
}

const COVERAGE_DIRECTORY = join(ROOT, '.cache', 'coverage');
const COVERAGE_ARGS = [
  '--coverage',
  '--coverageProvider=v8',
  '--coverageReporters=json-summary',
  `--coverageDirectory=${COVERAGE_DIRECTORY}`,
  '--collectCoverageFrom=src/**/*.ts',
  // Runs in a browser only (test/e2e/page.test.ts).
  '--collectCoverageFrom=!src/page/dom/**',
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
  const afterBuild = flags.unit ? undefined : prepareNodes;
  const available = await setUp({ guests: withGuests, checks: !flags.unit, afterBuild });
  skips.push(...available.notes);
  if (!flags.unit) {
    await Promise.all([
      step('eslint', 'node_modules/eslint/bin/eslint.js', ['.']),
      step('prettier', 'node_modules/prettier/bin/prettier.cjs', ['--check', '--log-level', 'warn', '.']),
      step('types', 'node_modules/typescript/bin/tsc', ['-p', 'tsconfig.test.json', '--noEmit']),
      step('types of the page', 'node_modules/typescript/bin/tsc', ['-p', 'tsconfig.page.json']),
    ]);
  }
  await jest(unitRun(COVERAGE_ARGS));
  checkCoverage();
  if (!flags.unit) {
    const [sideBySide, oneByOne] = conformanceRuns();
    // The checkers take what those tests leave of the processors.
    await Promise.all([lintAddon(), jest(sideBySide)]);
    await jest(oneByOne);
    await otherNodes(withGuests && available.uml);
  }
  // By itself: its guests keep time while calls fail.
  if (!flags.unit && flags.long) await jest({ name: 'exhaustion', projects: ['exhaustion'], args: ['--runInBand'] });
  if (withGuests) {
    const isRepeated = available.uml && !flags.long;
    // One guest at a time: two would fight for the processor.
    const args = ['--runInBand', ...(isRepeated ? ['--testPathIgnorePatterns', ...REPEATED] : [])];
    await jest({ name: 'e2e', projects: ['e2e'], args });
  }

  heading('result');
  for (const skip of skips) console.log(`skipped: ${skip}`);
  if (inCi && skips.length > 0) failures.push('something was skipped, and CI=true');
  for (const test of unsteady) console.log(`at the second attempt: ${test}`);
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
