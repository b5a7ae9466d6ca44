import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

/** The repository this file lies in. */
export const REPO_ROOT = resolve(__dirname, '../../..');

/** Kernels, images and compiled helpers: everything the set-up fetched or made and git ignores. */
export const CACHE_DIR = join(REPO_ROOT, '.cache');

/** `PATH` with the system directories: `ip`, `nsenter` and others are not on an ordinary user's path in Debian. */
export const SYSTEM_PATH = `${process.env.PATH ?? ''}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin`;

/** The full path of a program of the system, or null. */
export function which(name: string): string | null {
  for (const directory of SYSTEM_PATH.split(':')) {
    const path = join(directory, name);
    if (directory !== '' && existsSync(path)) return path;
  }
  return null;
}

/** A directory of the cache, made if it is not there. */
export function cacheDirectory(name: string): string {
  const path = join(CACHE_DIR, name);
  mkdirSync(path, { recursive: true });
  return path;
}

/** A scratch directory with a short name (unix socket paths hold 107 bytes), and the function that removes it. */
export function scratchDirectory(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), 'tubetti-'));
  return {
    path,
    remove: () => {
      rmSync(path, { recursive: true, force: true });
    },
  };
}
