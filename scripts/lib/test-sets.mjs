/** Which test files run together, and which by themselves (docs/testing.md, "In short and whole"). */
import { availableParallelism } from 'node:os';

/** Of the service's tests those that measure time, memory or a rate: nothing else runs beside them. */
const ALONE = [
  'bench-bare',
  'captures-stalled',
  'dataplane-garbage',
  'flood',
  'flood-link',
  'fuzz',
  'guest-inside',
  'guest-inside-ends',
  'guest-inside-memory',
  'pasta-ends',
  'rates',
  'rates-fast',
  'startup',
  'survival',
  'tcp-bounds',
  'tftp',
  'vhost-descriptors',
].map((name) => `conformance/${name}\\.test`);

/**
 * Of the end-to-end tests those that repeat with another guest, or with fewer features, what User Mode Linux has shown; and the
 * boots of UEFI firmware, which take minutes on a machine that is busy.
 */
export const REPEATED = ['offloads', 'tcp-qemu', 'datagram-qemu', 'netboot-ovmf'].map((name) => `e2e/${name}\\.test`);

/**
 * @typedef {object} TestRun
 * @property {string} name
 * @property {string[]} projects  jest's.
 * @property {string[]} args      jest's other arguments.
 */

/**
 * Single modules. jest's own choice of workers leaves a processor idle, which on two of them is half.
 * @param {string[]} [args]
 * @returns {TestRun}
 */
export function unitRun(args = []) {
  return { name: 'unit', projects: ['unit'], args: ['--maxWorkers=100%', ...args] };
}

/**
 * The service against a front-end of our own: most files wait for most of their time, so that two at a time cost nothing.
 * @returns {[TestRun, TestRun]}
 */
export function conformanceRuns() {
  const projects = ['conformance'];
  const workers = `--maxWorkers=${Math.max(2, availableParallelism() - 1)}`;
  return [
    { name: 'conformance, side by side', projects, args: [workers, '--testPathIgnorePatterns', ...ALONE] },
    { name: 'conformance, one by one', projects, args: ['--runInBand', '--testPathPatterns', ...ALONE] },
  ];
}
