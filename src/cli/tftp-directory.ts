/** The directory of `--tftp`. What is done with its files is in supervisor/boot-files.ts, which only who asks for it loads. */
import { realpathSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { ConfigError, describeSystemError } from '../errors';

/** The directory's own path. Throws ConfigError where it is none. */
export function tftpDirectory(given: string): string {
  const wrong = (why: string): ConfigError => new ConfigError('CFG_ERR_VALUE', `--tftp ${given}: ${why}`);
  let path: string;
  let isDirectory: boolean;
  try {
    path = realpathSync(resolve(given));
    isDirectory = statSync(path).isDirectory();
  } catch (error) {
    throw wrong(`cannot read: ${describeSystemError(error)}`);
  }
  if (!isDirectory) throw wrong('not a directory, give the one with the files');
  if (path === '/') throw wrong('give a directory of its own, not the root directory');
  return path;
}
