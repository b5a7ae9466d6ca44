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

/** What tells a control socket from those of front-ends and of metrics beside it. */
const SUFFIX = '.control';
/** Names that an error lists. */
const MOST_NAMES = 5;

/** Names of the sockets with the suffix; where there is none, of all. */
function socketsIn(directory: string): string[] {
  try {
    const all = readdirSync(directory).filter((name) => lstatSync(join(directory, name)).isSocket());
    const own = all.filter((name) => name.endsWith(SUFFIX));
    return (own.length === 0 ? all : own).sort();
  } catch {
    return [];
  }
}

function namesOf(sockets: readonly string[]): string {
  return `${sockets.slice(0, MOST_NAMES).join(', ')}${sockets.length > MOST_NAMES ? ', …' : ''}`;
}

/**
 * `--control PATH`, else TUBETTI_CONTROL, else of the first directory that has sockets the only `*.control`, or the only one.
 * Throws ConfigError, which says what there is.
 */
export function controlPath(given: string | null, env: NodeJS.ProcessEnv): string {
  if (given !== null) return given;
  const named = env[CONTROL_VARIABLE];
  if (named !== undefined && named !== '') return named;
  const directories = socketDirectories(env);
  for (const directory of directories) {
    const sockets = socketsIn(directory);
    if (sockets.length === 1) return join(directory, sockets[0]);
    if (sockets.length > 1)
      throw new ConfigError(
        'CFG_ERR_USAGE',
        `${directory} has ${sockets.length} sockets, name one with --control PATH: ${namesOf(sockets)}`,
      );
  }
  throw new ConfigError(
    'CFG_ERR_USAGE',
    `give --control PATH or ${CONTROL_VARIABLE}: there is no socket in ${directories.join(' or ')}`,
  );
}
