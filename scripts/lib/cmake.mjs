/**
 * cmake-js, as build-addon.mjs and prebuilds.mjs call it. In the package too: what it needs is there with `npm install`.
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const require = createRequire(import.meta.url);

/**
 * Is there an executable of this name on the PATH (or at this path)?
 * @param {string} name
 */
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

/** What is missing for a build and how to get it, or null. @returns {string | null} */
export function missingTools() {
  const install = 'e.g. apt-get install cmake g++ make';
  if (!onPath('cmake')) return `cmake not found: install it, ${install}`;
  if (!onPath('ninja') && !onPath('make')) return `neither make nor ninja found: install one, ${install}`;
  const compiler = process.env.CXX?.split(' ')[0];
  const found = compiler ? onPath(compiler) : onPath('g++') || onPath('clang++');
  return found ? null : `no C++ compiler found (${compiler ?? 'g++ or clang++'}): install one, ${install}`;
}

/**
 * The Node version headers in `prefix`/include/node belong to, as their ABI number; null if they are not all there.
 * Debian's libnode-dev has them without libuv's, which lie in `prefix`/include, a directory that compilers look into.
 * @param {string} prefix
 */
export function headersAbi(prefix) {
  const include = join(prefix, 'include', 'node');
  if (!['node_api.h', 'v8.h', 'node_version.h'].every((name) => existsSync(join(include, name)))) return null;
  if (!existsSync(join(include, 'uv.h')) && !existsSync(join(prefix, 'include', 'uv.h'))) return null;
  const text = readFileSync(join(include, 'node_version.h'), 'utf8');
  return /^#\s*define NODE_MODULE_VERSION (\d+)/m.exec(text)?.[1] ?? null;
}

/** Whether what was made at `time` (ms) is newer than all it was made of. @param {number} time */
export function isNewerThanSources(time) {
  const sources = readdirSync(join(root, 'addon'), { recursive: true }).map((name) => join(root, 'addon', `${name}`));
  const ofTests = [join(root, 'test', 'support', 'sandbox', 'probe.cc')].filter((path) => existsSync(path));
  return [...sources, ...ofTests, join(root, 'CMakeLists.txt')].every((path) => statSync(path).mtimeMs <= time);
}

/**
 * Runs cmake-js and waits for it.
 * @param {'install' | 'build' | 'rebuild'} command `install` downloads Node's headers
 * @param {object} options
 * @param {string | null} options.headers  prefix of Node's headers, or null for those that cmake-js has downloaded
 * @param {string} [options.out]           directory for what it makes (default: build)
 * @param {Record<string, string>} [options.defines]  variables of CMake
 * @returns {{ ok: boolean, text: string } | null} null: cmake-js is not installed
 */
export function cmakeJs(command, { headers, out, defines = {} }) {
  let program;
  let nodeAddonApi;
  try {
    program = require.resolve('cmake-js/bin/cmake-js');
    nodeAddonApi = require('node-addon-api').include_dir;
  } catch {
    return null;
  }
  // A warning of a compiler we have not met must not keep anybody from installing; in a checkout it is an error.
  const werror = existsSync(join(root, 'test')) ? 'ON' : 'OFF';
  const args = [program, command, '--directory', root, '--log-level', 'warn'];
  if (out !== undefined) args.push('--out', out);
  args.push('--parallel', String(availableParallelism()));
  const all = { NODE_ADDON_API: nodeAddonApi, TUBETTI_WERROR: werror, ...defines };
  for (const [name, value] of Object.entries(all)) args.push(`--CD${name}=${value}`);
  const env = { ...process.env };
  // cmake-js reads this one for "headers are here, do not download".
  if (headers !== null) env.npm_config_nodedir = headers;
  else delete env.npm_config_nodedir;
  const result = spawnSync(process.execPath, args, { cwd: root, env, encoding: 'utf8', maxBuffer: 1 << 26 });
  return { ok: result.status === 0, text: `${result.stdout ?? ''}${result.stderr ?? ''}` };
}
