/**
 * Builds the native addon and the launcher (addon/, CMakeLists.txt) into build/Release/ with cmake-js. Run by `npm install`,
 * also in a package that depends on this one. Does nothing if the addon is newer than its sources and was built for
 * this Node; `--force` builds from scratch.
 *
 * Node's headers are taken from npm's `nodedir` setting or from beside the running Node; only where there are none does
 * cmake-js download them.
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const output = join(root, 'build', 'Release', 'tubetti.node');
const launcher = join(root, 'build', 'Release', 'tubetti-launch');
const stamp = join(root, 'build', 'Release', 'tubetti.stamp');
const force = process.argv.includes('--force');

function fail(message) {
  process.stderr.write(`tubetti: ${message}\n`);
  process.exit(1);
}

/** Is there an executable of this name on the PATH (or at this path)? */
function onPath(name) {
  const places = name.includes('/') ? [''] : (process.env.PATH ?? '').split(delimiter);
  return places.some((place) => {
    try {
      accessSync(join(place, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** The Node version headers in `dir`/include/node belong to, as their ABI number; null if they are not all there. */
function headersAbi(dir) {
  const include = join(dir, 'include', 'node');
  if (!['node_api.h', 'uv.h', 'v8.h'].every((name) => existsSync(join(include, name)))) return null;
  const text = readFileSync(join(include, 'node_version.h'), 'utf8');
  return /^#\s*define NODE_MODULE_VERSION (\d+)/m.exec(text)?.[1] ?? null;
}

/** Prefix of the headers to use, or null to let cmake-js download them. */
function findHeaders() {
  const nodedir = process.env.npm_config_nodedir;
  const candidates = [nodedir, dirname(dirname(process.execPath))].filter(Boolean);
  return candidates.find((dir) => headersAbi(dir) === process.versions.modules) ?? null;
}

/** What the built file depends on besides its sources, as kept in the stamp. */
function identity() {
  return { abi: process.versions.modules, arch: process.arch, root, sanitize: Boolean(process.env.TUBETTI_SANITIZE) };
}

/** The stamp of the last build that succeeded, or null. */
function readStamp() {
  try {
    return JSON.parse(readFileSync(stamp, 'utf8'));
  } catch {
    return null;
  }
}

function sameAs(last, now) {
  return last !== null && Object.entries(now).every(([key, value]) => last[key] === value);
}

function isUpToDate() {
  if (!existsSync(output) || !existsSync(launcher) || !sameAs(readStamp(), identity())) return false;
  const built = statSync(stamp).mtimeMs;
  const sources = readdirSync(join(root, 'addon'), { recursive: true }).map((name) => join(root, 'addon', name));
  const ofTests = [join(root, 'test', 'support', 'sandbox', 'probe.cc')].filter((path) => existsSync(path));
  return [...sources, ...ofTests, join(root, 'CMakeLists.txt')].every((path) => statSync(path).mtimeMs <= built);
}

function checkTools() {
  const install = 'e.g. apt-get install cmake g++ make';
  if (!onPath('cmake')) fail(`cmake not found: install it, ${install}`);
  if (!onPath('ninja') && !onPath('make')) fail(`neither make nor ninja found: install one, ${install}`);
  const compiler = process.env.CXX?.split(' ')[0];
  const found = compiler ? onPath(compiler) : onPath('g++') || onPath('clang++');
  if (!found) fail(`no C++ compiler found (${compiler ?? 'g++ or clang++'}): install one, ${install}`);
}

function cmakeJs(command, headers) {
  let program;
  let nodeAddonApi;
  try {
    program = require.resolve('cmake-js/bin/cmake-js');
    nodeAddonApi = require('node-addon-api').include_dir;
  } catch {
    fail('cmake-js or node-addon-api is missing: run `npm install`');
  }
  // A warning of a compiler we have not met must not keep anybody from installing; in a checkout it is an error.
  const werror = existsSync(join(root, 'test')) ? 'ON' : 'OFF';
  const args = [program, command, '--directory', root, '--log-level', 'warn'];
  args.push('--parallel', String(availableParallelism()));
  args.push(`--CDNODE_ADDON_API=${nodeAddonApi}`, `--CDTUBETTI_WERROR=${werror}`);
  args.push(`--CDTUBETTI_SANITIZE=${process.env.TUBETTI_SANITIZE ? 'ON' : 'OFF'}`);
  const env = { ...process.env };
  // cmake-js reads this one for "headers are here, do not download".
  if (headers) env.npm_config_nodedir = headers;
  else delete env.npm_config_nodedir;
  const result = spawnSync(process.execPath, args, { cwd: root, env, encoding: 'utf8', maxBuffer: 1 << 26 });
  return { ok: result.status === 0, text: `${result.stdout ?? ''}${result.stderr ?? ''}` };
}

function build() {
  checkTools();
  const headers = findHeaders();
  if (headers === null) {
    const download = cmakeJs('install', null);
    if (!download.ok) {
      process.stderr.write(download.text);
      fail(
        "Node's headers are not installed and could not be downloaded: install them beside Node, or say where they " +
          'are with npm_config_nodedir=PREFIX (PREFIX/include/node/node_api.h)',
      );
    }
  }
  const now = { ...identity(), headers };
  const result = cmakeJs(force || !sameAs(readStamp(), now) ? 'rebuild' : 'build', headers);
  if (!result.ok) {
    process.stderr.write(result.text);
    fail('the native addon could not be built; the reason is above');
  }
  if (!existsSync(output)) fail(`cmake-js reported success, but ${output} is not there`);
  writeFileSync(stamp, JSON.stringify(now));
}

if (process.platform !== 'linux') fail('runs on Linux only');
if (force || !isUpToDate()) build();
