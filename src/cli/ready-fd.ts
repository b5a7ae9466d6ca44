/**
 * `--ready-fd`: a descriptor that gets a newline when the service is ready, and is closed then. One who waits reads the
 * newline, or the end where the service could not start.
 */
import { closeSync, constants, fstatSync, openSync, readFileSync, writeSync } from 'node:fs';
import { ConfigError, describeErrno, describeSystemError } from '../errors';
import type { Native } from '../native';
import { openAgain } from '../stderr';
import { isHeldByNode } from './inherited';

const STDOUT = 1;
const STDERR = 2;
const NEWLINE = Uint8Array.of(0x0a);
const NO_FDS = new Int32Array(0);

type ReadyIo = Pick<Native, 'sendFds' | 'moveFd'>;

/** Whether it is open for writing; the flags are octal (proc_pid_fdinfo(5)). Throws if there is no such descriptor. */
function isForWriting(fd: number): boolean {
  const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1] ?? '';
  return (parseInt(flags, 8) & (constants.O_WRONLY | constants.O_RDWR)) !== 0;
}

/**
 * Throws ConfigError for a descriptor that cannot be told. `given`: its number on the command line, `fd` here. To be
 * called before anything of ours is open.
 */
export function checkReadyFd(fd: number, given: number = fd): void {
  const refuse = (why: string): never => {
    throw new ConfigError('CFG_ERR_VALUE', `--ready-fd ${given}: ${why}`);
  };
  if (fd === STDERR) refuse("standard error is the log's, give another descriptor");
  let writes = false;
  try {
    fstatSync(fd);
    writes = isForWriting(fd);
  } catch {
    refuse(`descriptor ${given} is not open, give one that is open for writing`);
  }
  if (!writes) refuse(`descriptor ${given} is not open for writing`);
  if (fd > STDERR && isHeldByNode(fd)) refuse(`descriptor ${given} is no pipe, socket or file of the caller's`);
}

export class ReadyFd {
  private readonly native: ReadyIo;
  private readonly given: number;
  private readonly socket: boolean;
  private fd: number;
  /** What takes the place of standard output. */
  private readonly nothing: number;

  /** A descriptor that `checkReadyFd` let pass. To be called before the door is closed. */
  constructor(native: ReadyIo, fd: number, given: number = fd) {
    this.native = native;
    this.given = given;
    this.socket = fstatSync(fd).isSocket();
    this.fd = fd;
    this.nothing = fd === STDOUT ? openSync('/dev/null', 'r+') : -1;
    if (this.socket) return;
    try {
      // A full pipe must not hold us up, and its flags are the caller's.
      this.fd = openAgain(fd);
    } catch {
      return; // another user's: as it is
    }
    this.giveBack(fd);
  }

  /** Says it, once, and lets go of the descriptor. Returns why it could not be said, or null. */
  tell(): string | null {
    let why: string | null = null;
    try {
      if (this.socket) {
        const result = this.native.sendFds(this.fd, NEWLINE, 0, 1, NO_FDS, 0);
        if (result < 0) why = describeErrno(result);
      } else writeSync(this.fd, NEWLINE);
    } catch (error) {
      why = describeSystemError(error);
    }
    this.giveBack(this.fd);
    return why === null ? null : `--ready-fd ${this.given}: nobody could be told that the service is ready: ${why}`;
  }

  private giveBack(fd: number): void {
    if (fd !== STDOUT) closeSync(fd);
    else this.native.moveFd(this.nothing, STDOUT);
  }
}
