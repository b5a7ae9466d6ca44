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
import { MAJORS, jestOn, parseMajors, prepareNode, runIn, SHORT } from './lib/nodes.mjs';
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

/** What jest is to run under each Node, a list of arguments a run. @returns {string[][]} */
function jestRuns() {
  if (flags.short) return [SHORT];
  const all = !flags.unit && !flags.conformance && !flags.demo;
  const patterns = positionals.length === 0 ? [] : ['--testPathPatterns', ...positionals];
  const projects = [(flags.unit || all) && 'unit', (flags.conformance || all) && 'conformance'].filter(Boolean);
  return projects.map((project) => ['--selectProjects', project, ...patterns]);
}

async function main() {
  const total = { passed: 0, failed: 0, skipped: 0 };
  const majors = parseMajors(flags.node);
  const places = [];
  for (const major of majors) places.push(await prepareNode(major, (line) => console.log(line)));
  if (flags.trees) {
    for (const { version, node, tree } of places) console.log(`${version}  ${node}  ${tree}`);
    return 0;
  }
  for (const place of places) {
    for (const args of jestRuns()) {
      console.log(`\n=== Node ${place.version}: ${args.slice(1).join(' ')}`);
      const { passed, failed, skipped } = await jestOn(place, args);
      total.passed += passed;
      total.failed += failed;
      total.skipped += skipped;
    }
  }
  const isChosen = flags.unit || flags.conformance || flags.short;
  for (const place of flags.demo ? places : isChosen ? [] : places.slice(-1)) {
    console.log(`\n=== Node ${place.version}: demo`);
    const { status } = await runIn(place, ['scripts/demo.mjs', '--size=32', '--guest=uml']);
    if (status === 0) total.passed++;
    else total.failed++;
  }
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
