/**
 * The form of the log as far as it can be told before the options are read: what is wrong with them is said in it, too.
 * The same as addon/launch/words.cc looks for. A file of `--config` is not read for it.
 */
import type { LogFormat } from '../log-format';
import { envName } from './settings';

/** Abbreviated, as getopt_long(3) takes it: `--log-f` might be `--log-file`. */
const LOG_FORMAT = /^--log-fo(?:r(?:m(?:at?)?)?)?(?:=(.*))?$/;

export function askedFormat(argv: readonly string[], env: NodeJS.ProcessEnv): LogFormat {
  let asked = env[envName('log-format')];
  argv.forEach((word, i) => {
    const match = LOG_FORMAT.exec(word) as (string | undefined)[] | null;
    if (match !== null) asked = match[1] ?? argv[i + 1];
  });
  return asked === 'json' ? 'json' : 'text';
}
