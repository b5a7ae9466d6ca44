/**
 * Where the addon lies, and what to do if none fits. A build of one's own comes first (scripts/build-addon.mjs leaves it in
 * build/Release), then those that come with the package, prebuilds/linux-ARCH/node.abiN.glibc.node, of which node-gyp-build
 * chooses one: the addon belongs to a Node ABI, a processor and a C library. So a Node that is newer than one's own build
 * takes the prebuilt one, and neither a compiler nor an install script is needed.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { resolve as choosePrebuilt } from 'node-gyp-build';

/**
 * Files that may fit, the best one first; the next one is looked for when it is asked for. In the bundle node-gyp-build looks
 * for prebuilt ones only (scripts/build.mjs).
 */
export function* addonFiles(packageRoot: string): Generator<string> {
  const own = join(packageRoot, 'build', 'Release', 'tubetti.node');
  if (existsSync(own)) yield own;
  let prebuilt: string;
  try {
    prebuilt = choosePrebuilt(packageRoot);
  } catch {
    return; // Its message has a line for each thing it looked at; ours says what to do.
  }
  if (prebuilt !== own) yield prebuilt;
}

/** What there is to do where none fits: it depends on how the program came here. */
export function remedy(packageRoot: string): string {
  if (existsSync(join(packageRoot, 'tsconfig.json'))) return 'run "npm run build:addon"';
  if (packageRoot.endsWith('/lib/node_modules/tubetti')) return 'run "npm rebuild -g tubetti"';
  if (packageRoot.endsWith('/node_modules/tubetti')) return 'run "npm rebuild tubetti"';
  return 'set TUBETTI_NODE to a Node that the package tubetti was made for';
}
