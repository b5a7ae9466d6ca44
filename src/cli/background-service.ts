/**
 * The service's side of going to the background (background-launcher.ts): the process that waits for it. Separate,
 * because the service itself starts no process and does not load the code for that.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { ConfigError, describeSystemError } from '../errors';
import type { Native } from '../native';
import type { Transport } from './options';

/** Environment variable with the number of the pipe's descriptor, from the waiting process to the service only. */
export const READY_FD = 'TUBETTI_READY_FD';

/** The front-end's socket of `--fd` in the service, as with passt. */
const FRONT_END_FD = 3;

export const FIRST_AFTER_STDIO = 3;

/** In the service: the process that waits for us to be ready. */
export class Waiting {
  private readonly fd: number;

  private constructor(fd: number) {
    this.fd = fd;
  }

  /** Null if no process waits: we were started to stay in the foreground. */
  static find(env: NodeJS.ProcessEnv): Waiting | null {
    const value = env[READY_FD];
    if (value === undefined) return null;
    Reflect.deleteProperty(env, READY_FD);
    return new Waiting(Number(value));
  }

  /** What was handed to us besides the standard streams. */
  get descriptors(): readonly number[] {
    return [this.fd, FRONT_END_FD];
  }

  /** Where the front-end is: its descriptor has another number here. */
  transport(given: Transport): Transport {
    return given.kind === 'fd' ? { kind: 'fd', fd: FRONT_END_FD } : given;
  }

  /** Lets go of the caller's streams and lets the waiting process go. Throws ConfigError if it is gone already. */
  release(native: Native): void {
    for (let fd = 0; fd < FIRST_AFTER_STDIO; fd++) native.moveFd(openSync('/dev/null', 'r+'), fd);
    try {
      writeSync(this.fd, 'R');
    } catch (error) {
      throw new ConfigError(
        'CFG_ERR_HOST',
        `the process that waited for the service to be ready is gone: ${describeSystemError(error)}`,
      );
    }
    closeSync(this.fd);
  }
}
