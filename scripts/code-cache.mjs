/**
 * `node scripts/code-cache.mjs`: writes V8's code of the bundles in dist/ beside them, for the Node that runs this. Any other
 * Node refuses it and compiles at each start (bin/load.js).
 */
import { existsSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const dist = join(dirname(dirname(fileURLToPath(import.meta.url))), 'dist');
const { compile } = createRequire(import.meta.url)('../bin/load.js');

for (const name of ['tubetti.js', 'data-plane.js']) {
  const bundle = join(dist, name);
  if (existsSync(bundle)) writeFileSync(`${bundle}.cache`, compile(bundle).createCachedData());
}
