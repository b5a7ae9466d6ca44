/** Which service `tubetti ctl` and its like speak to. */
import { lstatSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { ConfigError } from '../errors';

/** The same name as that of the service's own option in its environment. */
export const CONTROL_VARIABLE = 'TUBETTI_CONTROL';

/** Where sockets are looked for, if none was named. */
export function socketDirectories(env: NodeJS.ProcessEnv): string[] {
  const { XDG_RUNTIME_DIR: runtime } = env;
  return [...(runtime === undefined || runtime === '' ? [] : [join(runtime, 'tubetti')]), '/run/tubetti'];
}

function socketsIn(directory: string): string[] {
  try {
    return readdirSync(directory)
      .map((name) => join(directory, name))
      .filter((path) => lstatSync(path).isSocket());
  } catch {
    return [];
  }
}

/**
 * `--control PATH`, else TUBETTI_CONTROL, else the only socket of the first directory that has any. Throws ConfigError,
 * which says what there is.
 */
export function controlPath(given: string | null, env: NodeJS.ProcessEnv): string {
  if (given !== null) return given;
  const named = env[CONTROL_VARIABLE];
  if (named !== undefined && named !== '') return named;
  const directories = socketDirectories(env);
  for (const directory of directories) {
    const sockets = socketsIn(directory);
    if (sockets.length === 1) return sockets[0];
    if (sockets.length > 1)
      throw new ConfigError(
        'CFG_ERR_USAGE',
        `${directory} has ${sockets.length} sockets: name one with --control PATH`,
      );
  }
  throw new ConfigError(
    'CFG_ERR_USAGE',
    `give --control PATH or ${CONTROL_VARIABLE}: there is no socket in ${directories.join(' or ')}`,
  );
}
