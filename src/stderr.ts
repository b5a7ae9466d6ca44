/**
 * Writes whole lines to standard error, whether it is a file, terminal, pipe or socket, and whether or not it is read.
 *
 * Theory of operation. Node leaves descriptor 2 as it was inherited: a write to a pipe, a socket or a stopped terminal
 * without a reader would block the main thread for ever. Setting O_NONBLOCK on it would change it for the caller and
 * for all who share it. So a pipe or a terminal is opened a second time, without blocking (a description of our own),
 * and a socket is written to with MSG_DONTWAIT.
 *
 * A line is written at once or the write is retried, never queued: lines before a crash are not lost, and an absent
 * reader costs no memory. The time spent on waiting for a slow reader is limited: PATIENCE_MS at first, then one part
 * in REFILL of the time that passes, so that a reader of one line per second cannot block the main thread for long.
 * After that lines are dropped until it reads again, and the next line says how many were lost.
 */
import { closeSync, constants, fstatSync, openSync, writeSync } from 'node:fs';
import { EAGAIN } from './errors';
import { pause } from './pause';

const STDERR = 2;
const PATIENCE_MS = 1000;
const REFILL = 50;
const STEP_MS = 1;
/** While lines are dropped, how often one is tried. */
const RETRY_MS = 10;

/** Like writeSync: how many of the bytes from `offset` on were taken. Throws what that throws. */
export type Write = (bytes: Uint8Array, offset: number) => number;

/** sendmsg with MSG_DONTWAIT of all bytes from `offset` on: how many were taken, or -errno. */
export type Send = (fd: number, bytes: Uint8Array, offset: number) => number;

/** Standard error without waiting: the way to write there, and the descriptor it took (-1: none), for `closeStderr`. */
export interface UnblockedStderr {
  readonly write: Write;
  readonly fd: number;
}

function failure(result: number): Error {
  const code = result === -EAGAIN ? 'EAGAIN' : 'EPIPE';
  return Object.assign(new Error(code), { code });
}

/** A description of our own of a pipe or terminal, which does not block; its descriptor. Throws if it cannot be had. */
export function openAgain(fd: number): number {
  const { O_WRONLY, O_NONBLOCK, O_NOCTTY, O_APPEND } = constants;
  return openSync(`/proc/self/fd/${fd}`, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_APPEND);
}

/** See above. `send` is for a socket; where nothing else is possible it is written to as it is. */
export function openStderr(send: Send): UnblockedStderr {
  const plain: Write = (bytes, offset) => writeSync(STDERR, bytes, offset);
  try {
    const stat = fstatSync(STDERR);
    if (stat.isSocket()) {
      const write: Write = (bytes, offset) => {
        const n = send(STDERR, bytes, offset);
        if (n < 0) throw failure(n);
        return n;
      };
      return { write, fd: -1 };
    }
    if (!stat.isFIFO() && !stat.isCharacterDevice()) return { write: plain, fd: -1 };
    const fd = openAgain(STDERR);
    return { write: (bytes, offset) => writeSync(fd, bytes, offset), fd };
  } catch {
    // A terminal of another user (su), or a system without /proc.
    return { write: plain, fd: -1 };
  }
}

export function closeStderr({ fd }: UnblockedStderr): void {
  if (fd >= 0) closeSync(fd);
}

export class LineWriter {
  private readonly write: Write;
  private readonly nowMs: () => number;
  private readonly lostLine: (lost: number) => string;
  /** The last line was cut short. */
  private torn = false;
  /** Lines lost since one was taken whole. */
  private dropped = 0;
  private triedAt = 0;
  /** How long the reader may be waited for, in ms, as of `patientAt`. */
  private patience = PATIENCE_MS;
  private patientAt: number;

  /** `lostLine`: what is written, before the next line, of those that were lost. */
  constructor(
    write: Write = (bytes, offset) => writeSync(STDERR, bytes, offset),
    nowMs: () => number = () => performance.now(),
    lostLine = (lost: number): string => `log lines lost while nobody read stderr: ${lost}`,
  ) {
    this.write = write;
    this.lostLine = lostLine;
    this.nowMs = nowMs;
    this.patientAt = nowMs();
  }

  /** `line` without its newline. Throws what `write` throws but for EAGAIN. */
  line(line: string): void {
    if (this.dropped > 0) {
      const now = this.nowMs();
      if (now - this.triedAt < RETRY_MS) {
        this.dropped++;
        return;
      }
      this.triedAt = now;
    }
    const notice = this.dropped === 0 ? '' : `${this.lostLine(this.dropped)}\n`;
    const whole = this.put(`${this.torn ? '\n' : ''}${notice}${line}\n`);
    if (whole) this.dropped = 0;
    else this.dropped++;
  }

  /** Returns whether all of it was taken. */
  private put(text: string): boolean {
    const bytes = Buffer.from(text);
    let done = 0;
    while (done < bytes.length) {
      try {
        done += this.write(bytes, done);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
        // While lines are dropped nobody is waited for.
        if (this.dropped > 0 || !this.wait()) {
          if (done > 0) this.torn = true;
          return false;
        }
      }
    }
    this.torn = false;
    return true;
  }

  /** Waits a little, if there is patience for it. */
  private wait(): boolean {
    const now = this.nowMs();
    this.patience = Math.min(PATIENCE_MS, this.patience + (now - this.patientAt) / REFILL);
    this.patientAt = now;
    if (this.patience < STEP_MS) return false;
    pause(STEP_MS);
    // A busy machine lets us sleep for longer.
    this.patience -= Math.max(STEP_MS, this.nowMs() - now);
    return true;
  }
}
