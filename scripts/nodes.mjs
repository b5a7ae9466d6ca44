/**
 * `npm run test:nodes -- [--node 22,24,26] [--unit] [--conformance] [--demo] [--short] [PATTERN…]`: the tests under other
 * releases of Node, each in a tree of its own (lib/nodes.mjs), which are made first.
 *
 *   --node LIST     which (default: all that are tested)
 *   --unit          unit and property tests
 *   --conformance   the service against a front-end of our own
 *   --demo          a real guest, with the sandbox on
 *   --short         what `npm test` runs of it: the files in which the releases differ
 *   --trees         makes the trees and says where they are, nothing else
 *   PATTERN…        test files whose path matches, of the projects chosen
 *
 * Without a choice: unit, conformance, and the demo under the last of the list. The last line is "N passed, N failed, N skipped"; exit status 1 if
 * anything failed.
 */
import { parseArgs } from 'node:util';
import { MAJORS, demoOn, jestOn, parseMajors, prepareNode, shortRun, wholeRuns } from './lib/nodes.mjs';
import { SetupError } from './lib/setup.mjs';

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    node: { type: 'string', default: MAJORS.join() },
    unit: { type: 'boolean', default: false },
    conformance: { type: 'boolean', default: false },
    demo: { type: 'boolean', default: false },
    short: { type: 'boolean', default: false },
    trees: { type: 'boolean', default: false },
  },
});

/**
 * What jest is to run under a Node.
 * @param {string} major
 */
function jestRuns(major) {
  if (flags.short) return [shortRun(major)];
  const all = !flags.unit && !flags.conformance && !flags.demo;
  const projects = [(flags.unit || all) && 'unit', (flags.conformance || all) && 'conformance'].filter(Boolean);
  if (positionals.length > 0) return [{ name: 'chosen', projects, args: ['--testPathPatterns', ...positionals] }];
  return wholeRuns().filter((testRun) => testRun.projects.every((project) => projects.includes(project)));
}

async function main() {
  const total = { passed: 0, failed: 0, skipped: 0 };
  const unsteady = [];
  const majors = parseMajors(flags.node);
  const places = [];
  for (const major of majors) places.push(await prepareNode(major, (line) => console.log(line)));
  if (flags.trees) {
    for (const { version, node, tree } of places) console.log(`${version}  ${node}  ${tree}`);
    return 0;
  }
  for (const place of places) {
    for (const testRun of jestRuns(place.major)) {
      console.log(`\n=== Node ${place.version}: ${testRun.name}`);
      const outcome = await jestOn(place, testRun);
      total.passed += outcome.passed;
      total.failed += outcome.failed;
      total.skipped += outcome.skipped;
      unsteady.push(...outcome.unsteady.map((test) => `Node ${place.major}: ${test}`));
    }
  }
  const isChosen = flags.unit || flags.conformance || flags.short;
  for (const place of flags.demo ? places : isChosen ? [] : places.slice(-1)) {
    console.log(`\n=== Node ${place.version}: demo`);
    if (await demoOn(place)) total.passed++;
    else total.failed++;
  }
  for (const test of unsteady) console.log(`at the second attempt: ${test}`);
  console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  return total.failed === 0 ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
