/** Files of lines that end at a size: the log's, the flow log's. */
import * as fs from 'node:fs';
import { openForAppending } from './files';

/** Share of the limit that is dropped, oldest lines first, when a file is full. */
const ROTATE_SHARE = 0.3;

/**
 * A file of at most `maxBytes`, mode 0600, to which lines are appended. What is there already stays, as far as there is
 * room. When it is full the oldest 30 % go, and the header becomes the first line. A terminal, a pipe or /dev/null is
 * written to and never cut. Throws if the file cannot be opened (src/files.ts says what is refused).
 */
export class BoundedFile {
  private readonly fd: number;
  private readonly header: string;
  private readonly maxBytes: number;
  /** False for what cannot be cut: a terminal, a pipe. */
  private readonly regular: boolean;
  private size: number;

  /** `header`: a line that is appended now; '': none. */
  constructor(path: string, maxBytes: number, header: string) {
    // Read access too: rotation reads back what it keeps.
    const { fd, stat } = openForAppending(path);
    this.fd = fd;
    this.header = header;
    this.maxBytes = maxBytes;
    this.regular = stat.isFile();
    this.size = this.regular ? stat.size : 0;
    if (header === '') return;
    try {
      this.append(Buffer.from(header));
    } catch (error) {
      fs.closeSync(fd);
      throw error;
    }
  }

  /** Appends whole lines. False: a full disk took a part of them, and none is there. Throws the system's error. */
  append(lines: Buffer): boolean {
    if (this.regular && this.size + lines.length > this.maxBytes) this.rotate();
    const done = fs.writeSync(this.fd, lines);
    this.size += done;
    if (done === lines.length) return true;
    // The next line shall begin as one.
    if (this.regular) {
      this.size -= done;
      fs.ftruncateSync(this.fd, this.size);
    }
    return false;
  }

  close(): void {
    fs.closeSync(this.fd);
  }

  /** Keeps the newest lines, as many as leave ROTATE_SHARE of the limit free. */
  private rotate(): void {
    const room = Math.max(0, Math.floor(this.maxBytes * (1 - ROTATE_SHARE)) - Buffer.byteLength(this.header));
    const old = Buffer.alloc(Math.min(this.size, room));
    const got = fs.readSync(this.fd, old, 0, old.length, this.size - old.length);
    const from = old.indexOf(0x0a);
    const kept = from < 0 ? Buffer.alloc(0) : old.subarray(from + 1, got);
    fs.ftruncateSync(this.fd, 0);
    this.size = this.header === '' ? 0 : fs.writeSync(this.fd, this.header);
    if (kept.length > 0) this.size += fs.writeSync(this.fd, kept);
  }
}
