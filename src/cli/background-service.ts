/**
 * The service's side of going to the background (background-launcher.ts): the process that waits for it. Separate,
 * because the service itself starts no process and does not load the code for that.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { ConfigError, describeSystemError } from '../errors';
import type { Native } from '../native';
import type { Launched } from '../sandbox/launched';
import type { Transport } from './options';

/** Environment variable with the number of the pipe's descriptor, from the waiting process to the service only. */
export const WAITING_FD = 'TUBETTI_WAITING_FD';

/** The front-end's socket of `--fd` in the service, as with passt; or that of socket activation. */
const FRONT_END_FD = 3;
/** The descriptor of `--ready-fd` there: behind the pipe and the launcher's broker. */
export const SERVICE_READY_FD = 6;

export const FIRST_AFTER_STDIO = 3;

/** In the service: the process that waits for us to be ready. */
export class Waiting {
  /** It was let go. */
  released = false;
  private readonly fd: number;
  /** Whether the front-end's descriptor was given another number. */
  private readonly moved: boolean;
  private readonly nulls: number[] = [];

  private constructor(fd: number, moved: boolean) {
    this.fd = fd;
    this.moved = moved;
  }

  /**
   * Null if no process waits: we were started to stay in the foreground. The waiting process is another Node
   * (background-launcher.ts), or tubetti-launch, which gave us all descriptors under their own numbers.
   */
  static find(env: NodeJS.ProcessEnv, launched: Launched | null): Waiting | null {
    const value = env[WAITING_FD];
    if (value !== undefined) {
      Reflect.deleteProperty(env, WAITING_FD);
      return new Waiting(Number(value), true);
    }
    const fd = launched?.get('ready') ?? -1;
    return fd < 0 ? null : new Waiting(fd, false);
  }

  /** What was handed to us besides the standard streams. */
  get descriptors(): readonly number[] {
    return this.moved ? [this.fd, FRONT_END_FD] : [this.fd];
  }

  /** Where the front-end is: its descriptor has another number here. */
  transport(given: Transport): Transport {
    return given.kind === 'fd' && this.moved ? { kind: 'fd', fd: FRONT_END_FD } : given;
  }

  /** Where the descriptor of `--ready-fd` is, if one was given. */
  readyFd(given: number | null): number | null {
    return given !== null && this.moved ? SERVICE_READY_FD : given;
  }

  /** Opens what takes the place of the caller's streams: behind the door there is no /dev/null. */
  prepare(): void {
    for (let fd = 0; fd < FIRST_AFTER_STDIO; fd++) this.nulls.push(openSync('/dev/null', 'r+'));
  }

  /** Lets go of the caller's streams and lets the waiting process go. Throws ConfigError if it is gone already. */
  release(native: Native): void {
    this.nulls.forEach((from, fd) => native.moveFd(from, fd));
    try {
      writeSync(this.fd, 'R');
    } catch (error) {
      throw new ConfigError(
        'CFG_ERR_HOST',
        `the process that waited for the service to be ready is gone: ${describeSystemError(error)}`,
      );
    }
    closeSync(this.fd);
    this.released = true;
  }
}
