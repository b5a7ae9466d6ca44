/**
 * Files of the directory that the guest may read by TFTP (`--tftp`). Behind the door the directory is in the service's own
 * root, read-only; where there is none, the checks here keep a guest inside it: names have no "..", and what links lead to must
 * lie in it. Regular files only. Nothing is kept open, and no read blocks the control plane.
 */
import { constants } from 'node:fs';
import { open, realpath } from 'node:fs/promises';
import { sep } from 'node:path';
import { describeSystemError } from '../errors';
import type { LogFunction } from '../log';
import { FILE_ABSENT, FILE_OK, FILE_REFUSED, type FileAnswer, type FileRequest } from '../stack/config';

/** The largest file: block numbers are 16 bits, and a client may not count beyond; nobody boots more. */
const MAX_BYTES = 4 * 2 ** 30 - 1;
const NONE = new Uint8Array(0);

export class BootFiles {
  private readonly root: string;
  private readonly log: LogFunction;

  /** `root`: as `tftpDirectory` gave it. */
  constructor(root: string, log: LogFunction) {
    this.root = root;
    this.log = log;
  }

  /** Never rejects. */
  async read({ slot, id, name, offset, length }: FileRequest): Promise<FileAnswer> {
    const answer = { slot, id, offset, size: 0, stamp: 0, data: NONE };
    try {
      const path = this.pathOf(name);
      const found = path === null ? null : await realpath(path);
      if (found?.startsWith(this.root + sep) !== true) {
        this.say(name, 'it is not in the directory');
        return { ...answer, status: FILE_REFUSED };
      }
      // Between the two it may have been replaced by who may write there, but not by a link or a FIFO to wait for.
      const file = await open(found, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
      try {
        const stat = await file.stat();
        if (!stat.isFile() || stat.size > MAX_BYTES) {
          this.say(name, stat.isFile() ? 'it is too large' : 'not a regular file');
          return { ...answer, status: FILE_REFUSED };
        }
        const data = new Uint8Array(Math.max(0, Math.min(length, stat.size - offset)));
        let done = 0;
        while (done < data.length) {
          const { bytesRead } = await file.read(data, done, data.length - done, offset + done);
          if (bytesRead === 0) break;
          done += bytesRead;
        }
        if (offset === 0) this.log('info', `TFTP: the guest reads ${name} (${stat.size} bytes)`, 'tftp.read');
        const stamp = stat.mtimeMs;
        return { ...answer, status: FILE_OK, size: stat.size, stamp, data: data.subarray(0, done) };
      } finally {
        await file.close();
      }
    } catch (error) {
      this.say(name, describeSystemError(error));
      const absent = error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR');
      return { ...answer, status: absent ? FILE_ABSENT : FILE_REFUSED };
    }
  }

  private say(name: string, why: string): void {
    this.log('warn', `TFTP: the guest asked for ${name}: ${why}`, 'tftp.refused');
  }

  /** Null: it leads out. Windows' loaders write "\". */
  private pathOf(name: string): string | null {
    const parts = name.split(/[/\\]+/).filter((part) => part !== '' && part !== '.');
    if (parts.length === 0 || parts.some((part) => part === '..' || part.includes('\0'))) return null;
    return [this.root, ...parts].join(sep);
  }
}
