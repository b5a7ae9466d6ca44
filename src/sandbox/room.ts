/** What there is in the service's root directory behind the door: what it reads again. All of it read-only. */
import { existsSync, realpathSync } from 'node:fs';
import { join, resolve } from 'node:path';

/**
 * Of the package: what a data plane is started from that takes the place of one that died, with what names the lines of
 * its sources.
 */
const OF_PACKAGE = ['package.json', 'bin', 'dist'];
/** Where the program was not bundled (scripts/build.mjs) it is many modules, and a package that lies in another place. */
const BUNDLE = 'dist/data-plane.js';
const OF_MODULES = ['src/virtqueue', 'node_modules/virtio-ring-ts'];

/** Of the kernel: our own threads and descriptors (fd_kind.cc, watchdog.cc, the metrics), settings of the network. */
const OF_KERNEL = ['/proc/self', '/proc/sys/net'];

const PRELOADS = new Set(['-r', '--require', '--import', '--loader', '--experimental-loader']);

/** Files that Node was told to load into each thread. */
function preloaded(words: readonly string[]): string[] {
  return words.flatMap((word, i) => {
    const equals = word.indexOf('=');
    if (equals > 0 && PRELOADS.has(word.slice(0, equals))) return [word.slice(equals + 1)];
    return PRELOADS.has(word) && i + 1 < words.length ? [words[i + 1]] : [];
  });
}

/**
 * Absolute paths that are there, those of directories before what is in them. `addonDirectory`: where the addon was loaded
 * from, build/Release or one of prebuilds. `tftp`: what the guest may read, by its own path (`tftpDirectory`).
 */
export function roomPaths(
  packageRoot: string,
  addonDirectory: string,
  nodeWords: readonly string[],
  tftp: string | null = null,
): string[] {
  const names = existsSync(join(packageRoot, BUNDLE)) ? OF_PACKAGE : [...OF_PACKAGE, ...OF_MODULES];
  const ofPackage = [...names.map((name) => join(packageRoot, name)), addonDirectory];
  const named = [...ofPackage, ...preloaded(nodeWords).map((p) => resolve(p))];
  const there = named.filter((path) => existsSync(path));
  // Node looks modules up under their real names.
  const all = new Set([
    ...OF_KERNEL.filter((path) => existsSync(path)),
    ...there,
    ...there.map((p) => realpathSync(p)),
    ...(tftp === null ? [] : [tftp]),
  ]);
  return [...all].sort();
}
