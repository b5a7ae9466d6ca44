/**
 * The project under another Node: `.cache/nodes/MAJOR/` holds that Node with its headers, as the npm package
 * `node-linux-ARCH` carries them, and `tree/`, a copy of this checkout in which everything that belongs to one Node (the
 * addon, V8's code of the bundles) is made by that Node. So the tests there meet what they would in an installation under
 * that Node, and no file of the program knows of more than one.
 */
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { delimiter, dirname, join, relative } from 'node:path';
import { runJest } from './jest.mjs';
import { fetchNode } from './node-packages.mjs';
import { PATH, ROOT, run, which } from './run.mjs';
import { SetupError } from './setup.mjs';
import { conformanceRuns, unitRun } from './test-sets.mjs';

/** The releases that are tested besides the one that is used every day, oldest first. */
export const MAJORS = ['22', '24', '26'];

const DIRECTORY = join(ROOT, '.cache', 'nodes');
/** What is not of the sources and yet in a tree: made there, or links. */
const MADE = new Set(['node_modules', 'build', 'dist', '.cache', 'src/virtqueue/dist']);
/** What the compiler makes of the sources is the same for each Node. */
const COMPILED = ['dist', 'src/virtqueue/dist'];
/** What the set-up has fetched, or fetches while a tree is made. */
const SHARED_CACHE = ['kernel', 'dhclient', 'uml', 'prometheus', 'pesto', 'quic'];

/** A Node that cannot be had here; everything else that goes wrong is a fault. */
export class NoSuchNode extends SetupError {}

/**
 * @typedef {object} Place
 * @property {string} major
 * @property {string} version  As `v26.1.0`.
 * @property {string} node     The program.
 * @property {string} tree     The copy of the checkout.
 */

/**
 * The majors of a list as `22,24`. Throws a SetupError that says what is wrong on anything else.
 * @param {string} text
 * @returns {string[]}
 */
export function parseMajors(text) {
  const majors = text.split(',').map((word) => word.trim());
  for (const major of majors) {
    if (!/^[1-9]\d$/.test(major)) {
      throw new SetupError(`${text}: give major versions of Node, separated by commas, such as ${MAJORS.join()}`);
    }
  }
  return [...new Set(majors)];
}

/**
 * Fetches a Node unless it is there already, and makes its tree what the checkout is now, the addon built. Throws a
 * SetupError that says what failed.
 * @param {string} major
 * @param {(line: string) => void} log
 * @returns {Promise<Place>}
 */
export async function prepareNode(major, log) {
  const { node, version } = await nodeOf(major, log);
  const tree = join(DIRECTORY, major, 'tree');
  copySources(tree);
  linkModules(tree);
  mkdirSync(join(tree, '.cache'), { recursive: true });
  for (const name of SHARED_CACHE) link(join(ROOT, '.cache', name), join(tree, '.cache', name));
  for (const name of COMPILED) copyNewer(join(ROOT, name), join(tree, name));
  const place = { major, version, node, tree };
  const started = Date.now();
  // Of a compiler cache, where there is one: most of the addon is the same for each Node.
  const launcher = process.env.CMAKE_CXX_COMPILER_LAUNCHER ?? (which('ccache') === null ? '' : 'ccache');
  await make(place, 'build-addon.mjs', launcher === '' ? {} : { CMAKE_CXX_COMPILER_LAUNCHER: launcher });
  await make(place, 'code-cache.mjs');
  log(`Node ${version.slice(1)}: ready after ${((Date.now() - started) / 1000).toFixed(0)} s`);
  return place;
}

/**
 * Runs a script of the tree with its Node, which programs find as `node`, too.
 * @param {Place} place
 * @param {string[]} args
 * @param {Parameters<typeof run>[2]} [options]
 */
export function runIn(place, args, options = {}) {
  const env = { ...options.env, PATH: `${dirname(place.node)}${delimiter}${PATH}`, TUBETTI_NODE: place.node };
  return run(place.node, args, { ...options, cwd: place.tree, env });
}

/**
 * @param {Place} place
 * @param {string} script
 * @param {Record<string, string>} [env]
 */
async function make(place, script, env = {}) {
  // What npm tells its scripts of headers is about the Node that runs npm.
  const { status, output } = await runIn(place, [join('scripts', script)], {
    quiet: true,
    env: { ...env, npm_config_nodedir: '' },
  });
  if (status !== 0) throw new SetupError(`Node ${place.version}: scripts/${script} failed:\n${output}`);
}

/**
 * @param {string} major
 * @param {(line: string) => void} log
 */
async function nodeOf(major, log) {
  let prefix;
  try {
    ({ prefix } = await fetchNode(major, process.arch, log));
  } catch (error) {
    throw new NoSuchNode(error.message);
  }
  const node = join(prefix, 'bin', 'node');
  const { stdout } = spawnSync(node, ['--version'], { encoding: 'utf8' });
  if (!stdout?.startsWith(`v${major}.`)) throw new NoSuchNode(`${node} is no Node ${major} that runs here`);
  return { node, version: stdout.trim() };
}

/** @param {string} tree */
function copySources(tree) {
  const listed = spawnSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: ROOT,
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  });
  if (listed.status !== 0) throw new SetupError('other Nodes are tried in a git checkout only');
  const files = new Set(listed.stdout.split('\0').filter((name) => name !== '' && existsSync(join(ROOT, name))));
  for (const name of files) copyFile(join(ROOT, name), join(tree, name));
  for (const name of existsSync(tree) ? filesBelow(tree) : []) if (!files.has(name)) rmSync(join(tree, name));
}

/**
 * Files of a tree that are copies, as names relative to it.
 * @param {string} tree
 * @param {string} [directory]
 * @returns {string[]}
 */
function filesBelow(tree, directory = tree) {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    const name = relative(tree, path);
    if (MADE.has(name)) return [];
    return entry.isDirectory() ? filesBelow(tree, path) : [name];
  });
}

/** Whether `to` is `from` as it is now. A copy's time is as exact as utimes(2) by way of Node: to the millisecond. */
function isCopy(/** @type {string} */ from, /** @type {string} */ to) {
  const source = lstatSync(from);
  const there = lstatSync(to, { throwIfNoEntry: false });
  return there?.size === source.size && Math.abs(there.mtimeMs - source.mtimeMs) < 2;
}

/** Copies a file that changed; times are kept, for what is built of it looks at them. */
function copyFile(/** @type {string} */ from, /** @type {string} */ to) {
  if (isCopy(from, to)) return;
  mkdirSync(dirname(to), { recursive: true });
  cpSync(from, to, { preserveTimestamps: true, verbatimSymlinks: true });
}

/** A directory that the compiler wrote, but for V8's code, which is another one's. */
function copyNewer(/** @type {string} */ from, /** @type {string} */ to) {
  if (!existsSync(from)) throw new SetupError(`${relative(ROOT, from)} is missing: run \`npm run build\` first`);
  const isWanted = (/** @type {string} */ source, /** @type {string} */ target) =>
    statSync(source).isDirectory() || !(source.endsWith('.cache') || isCopy(source, target));
  cpSync(from, to, { recursive: true, preserveTimestamps: true, filter: isWanted });
}

/**
 * The same packages by links, but for the package of this repository itself.
 * @param {string} tree
 */
function linkModules(tree) {
  const from = join(ROOT, 'node_modules');
  const to = join(tree, 'node_modules');
  mkdirSync(to, { recursive: true });
  for (const name of readdirSync(from)) {
    if (name !== '.cache') link(name === 'virtio-ring-ts' ? '../src/virtqueue' : join(from, name), join(to, name));
  }
}

/**
 * @param {string} target
 * @param {string} path
 */
function link(target, path) {
  const there = lstatSync(path, { throwIfNoEntry: false });
  if (there?.isSymbolicLink() && readlinkSync(path) === target) return;
  rmSync(path, { force: true, recursive: true });
  symlinkSync(target, path);
}

/** Where the releases differ: memory shared between the threads, a start, the data plane's loop as V8 compiles it. */
const SHORTEST = [
  'unit/native/memory',
  'unit/native/loading',
  'unit/sandbox/filter',
  'conformance/startup',
  'conformance/dataplane-garbage',
];
/** A guest, and threads that boot again inside the sandbox: under the newest. */
const NEWEST = ['conformance/guest-inside.test', 'conformance/survival'];

/**
 * What `npm test` runs under a release. The rest is TypeScript that any of them runs alike.
 * @param {string} major
 * @returns {import('./test-sets.mjs').TestRun}
 */
export function shortRun(major) {
  const patterns = major === MAJORS.at(-1) ? [...SHORTEST, ...NEWEST] : SHORTEST;
  const args = ['--maxWorkers=2', '--testPathPatterns', ...patterns];
  return { name: 'in short', projects: ['unit', 'conformance'], args };
}

/** All that can be run under a release without guests. */
export function wholeRuns() {
  return [unitRun(), ...conformanceRuns()];
}

/**
 * Runs jest in a place.
 * @param {Place} place
 * @param {import('./test-sets.mjs').TestRun} testRun
 */
export function jestOn(place, testRun) {
  return runJest(testRun, {
    root: place.tree,
    report: join(place.tree, '.cache', 'test-results', `${testRun.name}.json`),
    node: (args) => runIn(place, args, { discardOutput: true }),
  });
}

/**
 * Boots a guest on the service that runs in a place. True if its network worked.
 * @param {Place} place
 */
export async function demoOn(place) {
  const { status } = await runIn(place, ['scripts/demo.mjs', '--size=32', '--guest=uml']);
  return status === 0;
}
