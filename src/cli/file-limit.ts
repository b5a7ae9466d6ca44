/**
 * The limit of open files: raised at start, and reported to the user if it is too low, before anything fails because of
 * it.
 */
import { ConfigError } from '../errors';
import { MIN_FILES } from '../config/host-config';
import type { Native } from '../native';

/** Raises the limit to the hard limit. Throws ConfigError if not even a service without connections has room. */
export function raiseFileLimit(native: Pick<Native, 'raiseFileLimit'>): number {
  const limit = native.raiseFileLimit();
  if (limit >= MIN_FILES) return limit;
  throw new ConfigError(
    'CFG_ERR_HOST',
    `a limit of ${limit} open files is too low: at least ${MIN_FILES} are needed, and one more for each connection of the guest; ` +
      'raise the limit (ulimit -Hn, LimitNOFILE=)',
  );
}

/** Throws ConfigError if `listeners` forwarded ports leave no room for connections under the limit. */
export function checkListeners(limit: number, listeners: number): void {
  const needed = MIN_FILES + listeners;
  if (listeners === 0 || limit >= needed) return;
  throw new ConfigError(
    'CFG_ERR_HOST',
    `a limit of ${limit} open files is too low for ${listeners} forwarded ports: at least ${needed} are needed, ` +
      'raise the limit (ulimit -Hn, LimitNOFILE=) or forward fewer',
  );
}
