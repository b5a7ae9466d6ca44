/**
 * `node scripts/code-cache.mjs`: writes V8's code of the bundles in dist/ beside them, for the Node that runs this. Any other
 * Node refuses it and compiles at each start (bin/load.js).
 *
 * V8 compiles a function when it is called first. So the service is started here and ended, and its threads hand over the
 * code that they have by then (lib/keep-code.cjs): a later start compiles next to nothing. Where the service does not start
 * (the addon was not built yet, or the host refuses something) the code is that of the outermost functions only.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { compile } = createRequire(import.meta.url)('../bin/load.js');
const KEEP_CODE = join(root, 'scripts', 'lib', 'keep-code.cjs');

/** What the service loads at each start. */
const BUNDLES = ['tubetti.js', 'data-plane.js']
  .map((name) => join(root, 'dist', name))
  .filter((file) => existsSync(file));
const TIMEOUT_MS = 20_000;
/** What the service does in the turns after it has said that it is ready. */
const SETTLE_MS = 200;

/** Starts the service and ends it when it is ready. Returns its exit status; its threads' code is in files in `dir`. */
async function startIn(dir) {
  const env = {
    ...process.env,
    TUBETTI_NODE: process.execPath,
    NODE_OPTIONS: `--require ${JSON.stringify(KEEP_CODE)}`,
    KEEP_CODE: dir,
  };
  delete env.NODE_EXTRA_CA_CERTS;
  const words = ['--foreground', '--socket', join(dir, 'socket'), '--ready-fd', '3'];
  const child = spawn(join(root, 'bin', 'tubetti'), words, { env, stdio: ['ignore', 'ignore', 'ignore', 'pipe'] });
  const deadline = setTimeout(() => child.kill('SIGKILL'), TIMEOUT_MS);
  child.stdio[3].once('data', () => setTimeout(() => child.kill('SIGTERM'), SETTLE_MS));
  const status = await new Promise((resolve) => child.once('error', () => resolve(1)).once('close', resolve));
  clearTimeout(deadline);
  return status;
}

for (const bundle of BUNDLES) writeFileSync(`${bundle}.cache`, compile(bundle).createCachedData());
const dir = mkdtempSync(join(tmpdir(), 'tubetti-code-'));
try {
  if ((await startIn(dir)) === 0) {
    for (const bundle of BUNDLES) writeFileSync(`${bundle}.cache`, readFileSync(join(dir, basename(bundle))));
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}
