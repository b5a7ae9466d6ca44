/** The file that says which process serves (`-P`): one line, the process id. */
import * as fs from 'node:fs';
import { ConfigError, describeSystemError } from '../errors';
import { openForWriting } from '../files';

/**
 * Opened at the start, so that what is wrong with the path is said then and with the first user's rights; written when
 * the service is ready. Until then the file of another service is left as it is. It is never removed, as with passt:
 * its callers do that, and after a change of the user we could not.
 */
export class PidFile {
  private readonly fd: number;

  /** Throws ConfigError if it cannot be opened. */
  constructor(path: string) {
    try {
      this.fd = openForWriting(path).fd;
    } catch (error) {
      throw new ConfigError('CFG_ERR_VALUE', `--pid ${path}: cannot write: ${describeSystemError(error)}`);
    }
  }

  /** Writes it, once, and lets go of the file. */
  write(pid: number): void {
    // In this order, so that a concurrent reader never finds an empty file.
    const length = fs.writeSync(this.fd, `${pid}\n`, 0);
    fs.ftruncateSync(this.fd, length);
    fs.closeSync(this.fd);
  }
}
