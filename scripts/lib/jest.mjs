/**
 * One run of jest and the number of its tests that passed. A file of the service's or the guests' tests that failed runs
 * once more, by itself: they keep time on machines that do other work too. A test that passes only then is named. Unit and
 * property tests keep no time, and their input is random, so their first word is the last.
 */
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';

/** More files than these fail for one reason, and that is not the time. */
const MOST_AGAIN = 3;
const KEEPS_TIME = /^test\/(conformance|e2e)\//;

/**
 * @typedef {object} Suite  A file, as in jest's report.
 * @property {string} name
 * @property {'passed' | 'failed' | 'focused' | 'skipped' | 'pending'} status
 * @property {{ status: string, title: string, fullName: string, ancestorTitles: string[] }[]} assertionResults
 */

/**
 * @typedef {object} Outcome
 * @property {number} passed
 * @property {number} failed    A file that could not be loaded is one, and so is a run that leaves no report or finds no test.
 * @property {number} skipped
 * @property {string[]} why       The reasons for which tests were skipped, by file.
 * @property {string[]} unsteady  Each test that passed at the second attempt only.
 */

/**
 * @param {import('./test-sets.mjs').TestRun} testRun
 * @param {object} options
 * @param {string} options.root    The checkout.
 * @param {string} options.report  Where jest writes what it found; is replaced.
 * @param {(args: string[]) => Promise<unknown>} options.node  Runs Node with the arguments, in the checkout.
 * @returns {Promise<Outcome>}
 */
export async function runJest({ projects, args }, { root, report, node }) {
  mkdirSync(dirname(report), { recursive: true });
  /** @param {string} file @param {string[]} options @returns {Promise<Suite[] | null>} */
  const suitesOf = async (file, options) => {
    rmSync(file, { force: true });
    const program = join('node_modules', 'jest', 'bin', 'jest.js');
    // A test that failed may leave something open for ever; without --forceExit jest then never ends, and nothing is said.
    await node([program, '--selectProjects', ...projects, ...options, '--json', `--outputFile=${file}`, '--forceExit']);
    const suites = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')).testResults : [];
    return suites.length === 0 ? null : suites;
  };

  const first = await suitesOf(report, args);
  if (first === null) return { passed: 0, failed: 1, skipped: 0, why: [], unsteady: [] };
  const again = first.filter(({ status }) => status === 'failed').map(({ name }) => name);
  if (
    again.length === 0 ||
    again.length > MOST_AGAIN ||
    !again.every((name) => KEEPS_TIME.test(relative(root, name)))
  ) {
    return count(root, first);
  }
  console.log(`once more, by themselves: ${again.map((name) => relative(root, name)).join(', ')}`);
  const second = await suitesOf(report.replace(/\.json$/, '-again.json'), [
    '--runInBand',
    '--runTestsByPath',
    ...again,
  ]);
  if (second === null) return count(root, first);
  const failed = new Set(titles(root, first, 'failed'));
  const unsteady = titles(root, second, 'passed').filter((test) => failed.has(test));
  return { ...count(root, [...first.filter(({ name }) => !again.includes(name)), ...second]), unsteady };
}

/**
 * @param {string} root
 * @param {Suite[]} suites
 * @returns {Outcome}
 */
function count(root, suites) {
  const tests = suites.flatMap(({ name, assertionResults }) => assertionResults.map((test) => ({ name, ...test })));
  const skipped = tests.filter(({ status }) => !['passed', 'failed'].includes(status));
  const unloaded = suites.filter(
    ({ status, assertionResults }) => status === 'failed' && assertionResults.length === 0,
  );
  return {
    passed: tests.filter(({ status }) => status === 'passed').length,
    failed: tests.filter(({ status }) => status === 'failed').length + unloaded.length,
    skipped: skipped.length,
    why: [...new Set(skipped.map((test) => `${relative(root, test.name)}: ${reasonOf(test)}`))],
    unsteady: [],
  };
}

/**
 * The title that says why, in brackets; else the first.
 * @param {{ title: string, ancestorTitles: string[] }} test
 */
function reasonOf({ title, ancestorTitles }) {
  return ancestorTitles.find((ancestor) => ancestor.endsWith(']')) ?? ancestorTitles[0] ?? title;
}

/**
 * File and title of the tests with a status.
 * @param {string} root
 * @param {Suite[]} suites
 * @param {string} wanted
 */
function titles(root, suites, wanted) {
  return suites.flatMap(({ name, assertionResults }) =>
    assertionResults
      .filter(({ status }) => status === wanted)
      .map(({ fullName }) => `${relative(root, name)}: ${fullName}`),
  );
}
