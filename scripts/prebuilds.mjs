/**
 * `npm run prebuilds -- [--node 20,22,24,26] [--arch x64,arm64]`: the addons that the package carries, so that nobody needs a
 * compiler to install it: prebuilds/linux-ARCH/node.abiN.glibc.node, one for each release of Node, and the launcher. What is
 * newer than its sources stays.
 *
 *   --check   makes nothing, and fails if one is missing or older than its sources (npm does this before it publishes)
 *
 * They run with any C library from that of the system they are made on: make them on Debian 12 or older. libstdc++ is linked
 * in, which is what differs most between distributions.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { cmakeJs, headersAbi, isNewerThanSources, missingTools } from './lib/cmake.mjs';
import { fetchNode } from './lib/node-packages.mjs';
import { ROOT, which } from './lib/run.mjs';

/** Releases with an addon of their own in the package: those that `engines` allows and people have. */
const MAJORS = ['20', '22', '24', '26'];
/** What a compiler for another processor is called, and that processor to CMake. */
const PROCESSORS = {
  x64: { compiler: 'x86_64-linux-gnu-g++', cmake: 'x86_64', package: 'g++-x86-64-linux-gnu' },
  arm64: { compiler: 'aarch64-linux-gnu-g++', cmake: 'aarch64', package: 'g++-aarch64-linux-gnu' },
};

const { values: flags } = parseArgs({
  options: {
    node: { type: 'string', default: MAJORS.join() },
    arch: { type: 'string', default: 'x64' },
    check: { type: 'boolean', default: false },
  },
});

/** @param {string} message @returns {never} */
function fail(message) {
  process.stderr.write(`prebuilds: ${message}\n`);
  process.exit(1);
}

/** @param {'node' | 'arch'} option @param {(word: string) => boolean} isGood @param {string} right */
function listOf(option, isGood, right) {
  const words = flags[option].split(',').map((word) => word.trim());
  if (!words.every(isGood)) fail(`--${option} ${flags[option]}: give ${right}`);
  return [...new Set(words)];
}

/** @param {string} arch */
function crossDefines(arch) {
  const processor = PROCESSORS[arch];
  if (which(processor.compiler) === null) {
    fail(`${processor.compiler} not found: install it, e.g. apt-get install ${processor.package}`);
  }
  return {
    CMAKE_SYSTEM_NAME: 'Linux',
    CMAKE_SYSTEM_PROCESSOR: processor.cmake,
    CMAKE_CXX_COMPILER: processor.compiler,
  };
}

/** Headers of a Node: those beside ours, if that is the one, or else a package of npm's. */
async function headersFor(major, arch) {
  const ours = join(process.execPath, '..', '..');
  if (arch === process.arch && process.versions.node.split('.')[0] === major && headersAbi(ours) !== null) return ours;
  try {
    return (await fetchNode(major, arch, (line) => console.log(line))).prefix;
  } catch (error) {
    return fail(error.message);
  }
}

/** The file of a build's ABI, which tells whether it is there, is one of these sources, and what it is called. */
const stampOf = (/** @type {string} */ out) => join(out, 'prebuilt');

function readStamp(out) {
  return existsSync(stampOf(out)) ? readFileSync(stampOf(out), 'utf8').trim() : null;
}

/** Where a Node's addon and launcher go. */
function targets(arch, abi) {
  const directory = join(ROOT, 'prebuilds', `linux-${arch}`);
  return {
    directory,
    addon: join(directory, `node.abi${abi}.glibc.node`),
    launcher: join(directory, 'tubetti-launch'),
  };
}

function isThere(arch, out) {
  const abi = readStamp(out);
  if (abi === null) return false;
  const { addon, launcher } = targets(arch, abi);
  return existsSync(addon) && existsSync(launcher) && isNewerThanSources(statSync(stampOf(out)).mtimeMs);
}

async function prebuild(major, arch) {
  const out = join(ROOT, '.cache', 'prebuild', `${arch}-${major}`);
  if (isThere(arch, out)) return;
  if (flags.check) fail(`the addon for Node ${major}, ${arch} is missing or old: npm run prebuilds -- --arch ${arch}`);
  const started = Date.now();
  const headers = await headersFor(major, arch);
  const abi = headersAbi(headers);
  if (abi === null) fail(`no headers of Node in ${headers}`);
  const cross = arch === process.arch ? {} : crossDefines(arch);
  rmSync(stampOf(out), { force: true });
  const result = cmakeJs('build', { headers, out, defines: { TUBETTI_PREBUILD: 'ON', ...cross } });
  if (result === null) fail('cmake-js or node-addon-api is missing: run `npm install`');
  if (!result.ok) {
    process.stderr.write(result.text);
    fail(`the addon for Node ${major}, ${arch} could not be built; the reason is above`);
  }
  const { directory, addon, launcher } = targets(arch, abi);
  mkdirSync(directory, { recursive: true });
  copyFileSync(join(out, 'Release', 'tubetti.node'), addon);
  copyFileSync(join(out, 'Release', 'tubetti-launch'), launcher);
  writeFileSync(stampOf(out), `${abi}\n`);
  console.log(`Node ${major} (ABI ${abi}), ${arch}: built in ${((Date.now() - started) / 1000).toFixed(0)} s`);
}

// Of a compiler cache, where there is one: most of what changes between two runs is little.
if (which('ccache') !== null) process.env.CMAKE_CXX_COMPILER_LAUNCHER ??= 'ccache';
const majors = listOf('node', (word) => /^[1-9]\d$/.test(word), `majors, such as ${MAJORS.join()}`);
const archs = listOf('arch', (word) => word in PROCESSORS, 'x64, arm64 or both');
const missing = flags.check ? null : missingTools();
if (missing !== null) fail(missing);
for (const arch of archs) for (const major of majors) await prebuild(major, arch);
