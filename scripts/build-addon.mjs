/**
 * Builds the native addon and the launcher (addon/, CMakeLists.txt) into build/Release/ with cmake-js. Run by `npm install`
 * and `npm rebuild`, also in a package that depends on this one. Does nothing if a prebuilt addon came with the package and
 * fits this Node, unless npm is told --build-from-source; nor if the addon is newer than its sources and was built for this
 * Node. `--force` builds from scratch.
 *
 * Node's headers are taken from npm's `nodedir` setting or from beside the running Node (with Debian's own that is the
 * package libnode-dev); only where there are none does cmake-js download them.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { cmakeJs, headersAbi, isNewerThanSources, missingTools } from './lib/cmake.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const output = join(root, 'build', 'Release', 'tubetti.node');
const launcher = join(root, 'build', 'Release', 'tubetti-launch');
const stamp = join(root, 'build', 'Release', 'tubetti.stamp');
const force = process.argv.includes('--force');
const platform = `Node ${process.version}, ABI ${process.versions.modules}, ${process.platform}-${process.arch}`;

function fail(message) {
  process.stderr.write(`tubetti: ${message}\n`);
  process.exit(1);
}

/** Whether an addon of prebuilds/ fits: one that was chosen by its name may still ask for a newer C library. */
function prebuiltFits() {
  let file;
  try {
    process.env.PREBUILDS_ONLY = '1';
    file = require('node-gyp-build').resolve(root);
  } catch {
    return false;
  }
  const script = 'process.exit(String(require(process.argv[1]).abi) === process.versions.modules ? 0 : 1)';
  return spawnSync(process.execPath, ['-e', script, file], { stdio: 'ignore' }).status === 0;
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
  return isNewerThanSources(statSync(stamp).mtimeMs);
}

/** cmake-js by itself needs a tree of packages: npm has installed it. */
function make(command, headers) {
  const defines = { TUBETTI_SANITIZE: process.env.TUBETTI_SANITIZE ? 'ON' : 'OFF' };
  return cmakeJs(command, { headers, defines }) ?? fail('cmake-js or node-addon-api is missing: run `npm install`');
}

function build() {
  const missing = missingTools();
  if (missing !== null) fail(isCheckout ? missing : `no prebuilt addon for this system (${platform}), and ${missing}`);
  const headers = findHeaders();
  if (headers === null) {
    const download = make('install', null);
    if (!download.ok) {
      process.stderr.write(download.text);
      fail(
        "Node's headers are not installed and could not be downloaded: install them beside Node, or say where they " +
          'are with npm_config_nodedir=PREFIX (PREFIX/include/node/node_api.h)',
      );
    }
  }
  const now = { ...identity(), headers };
  const result = make(force || !sameAs(readStamp(), now) ? 'rebuild' : 'build', headers);
  if (!result.ok) {
    process.stderr.write(result.text);
    fail('the native addon could not be built; the reason is above');
  }
  if (!existsSync(output)) fail(`cmake-js reported success, but ${output} is not there`);
  writeFileSync(stamp, JSON.stringify(now));
}

// Whoever has the sources' tests works on the addon: what was made for others is no use there.
const isCheckout = existsSync(join(root, 'test'));
const fromSource = force || isCheckout || process.env.npm_config_build_from_source === 'true';

if (process.platform !== 'linux') fail('runs on Linux only');
if (fromSource || !prebuiltFits()) {
  if (force || !isUpToDate()) build();
}
