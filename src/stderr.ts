/**
 * Whole lines to standard error, whatever it is. Node makes it non-blocking where it is a pipe or a socket (systemd's
 * journal, a parent process), so a reader that is slower than we for a moment would cost lines, or parts of them.
 *
 * Written at once or waited for, never queued: what was logged before a crash is there. A reader that takes nothing for
 * PATIENCE_MS is waited for that once; until it reads again, lines are dropped, and then it is told how many.
 */
import { writeSync } from 'node:fs';
import { pause } from './pause';

const STDERR = 2;
const PATIENCE_MS = 1000;
const STEP_MS = 1;

/** Like writeSync: how many of the bytes from `offset` on were taken. Throws what that throws. */
export type Write = (bytes: Uint8Array, offset: number) => number;

export class LineWriter {
  private readonly write: Write;
  /** The last line was cut short. */
  private torn = false;
  /** Lines lost since one was taken whole: meanwhile nobody is waited for. */
  private dropped = 0;

  constructor(write: Write = (bytes, offset) => writeSync(STDERR, bytes, offset)) {
    this.write = write;
  }

  /** `line` without its newline. Throws what `write` throws but for EAGAIN. */
  line(line: string): void {
    const notice = this.dropped === 0 ? '' : `lines dropped, as nobody read them: ${this.dropped}\n`;
    const whole = this.put(`${this.torn ? '\n' : ''}${notice}${line}\n`);
    if (whole) this.dropped = 0;
    else this.dropped++;
  }

  /** Returns whether all of it was taken. */
  private put(text: string): boolean {
    const bytes = Buffer.from(text);
    let done = 0;
    let patience = this.dropped === 0 ? PATIENCE_MS : 0;
    while (done < bytes.length) {
      try {
        done += this.write(bytes, done);
        patience = PATIENCE_MS;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
        if (patience <= 0) {
          if (done > 0) this.torn = true;
          return false;
        }
        pause(STEP_MS);
        patience -= STEP_MS;
      }
    }
    this.torn = false;
    return true;
  }
}
