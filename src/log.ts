/**
 * The log: lines on stderr, and in a file with `--log-file`. Levels are passt's: by default errors, warnings
 * and information; `-q` leaves out information, `-d` adds debug, `--trace` adds a line per packet.
 *
 * Text that a guest or a peer may have chosen can reach a message: control characters are replaced, so that one
 * message is always one line.
 */
import * as fs from 'node:fs';
import { openForAppending } from './files';
import { LineWriter } from './stderr';

export type LogLevel = 'error' | 'warn' | 'info' | 'debug' | 'trace';

const RANK: Readonly<Record<LogLevel, number>> = { error: 0, warn: 1, info: 2, debug: 3, trace: 4 };

/** Takes one finished line, without its newline. */
export type LogSink = (level: LogLevel, message: string) => void;

/** What components are given to log with: see `Log.log`. */
export type LogFunction = (level: LogLevel, message: string, site?: string) => void;

/** Its functions need no `this`: they can be handed on by themselves. */
export interface Log {
  readonly level: LogLevel;
  readonly enabled: (level: LogLevel) => boolean;
  /**
   * `site`: a constant that names the place in the code. Given where an outsider (a front-end, a guest, a remote
   * host, a scraper) can provoke the line: then LOG_LIMIT_PER_SECOND lines of the site are written, and the next one
   * after that says how many were suppressed.
   */
  readonly log: LogFunction;
  readonly error: (message: string) => void;
  readonly warn: (message: string) => void;
  readonly info: (message: string) => void;
  readonly debug: (message: string) => void;
  readonly trace: (message: string) => void;
}

/** Joins lines and replaces control characters (C0, DEL, C1, line separators), so that a message stays one line. */
export function oneLine(message: string): string {
  return message.replace(/\s*\n\s*/g, ' | ').replace(/[\p{Cc}\u2028\u2029]/gu, '?');
}

/** A log of lines at `level` and more important ones, given to each sink. A sink that throws is skipped. */
export function createLog(level: LogLevel, sinks: readonly LogSink[]): Log {
  const limit = RANK[level];
  const limiter = new RateLimiter();
  const log = (at: LogLevel, message: string, site?: string): void => {
    if (RANK[at] > limit) return;
    const suppressed = site === undefined ? 0 : limiter.take(site);
    if (suppressed < 0) return;
    const line = oneLine(suppressed === 0 ? message : withSuppressed(message, suppressed));
    for (const sink of sinks) {
      try {
        sink(at, line);
      } catch {
        // A full disk or a closed terminal must not take the guest's network down.
      }
    }
  };
  return {
    level,
    enabled: (at) => RANK[at] <= limit,
    log,
    error: (message) => {
      log('error', message);
    },
    warn: (message) => {
      log('warn', message);
    },
    info: (message) => {
      log('info', message);
    },
    debug: (message) => {
      log('debug', message);
    },
    trace: (message) => {
      log('trace', message);
    },
  };
}

/** Seconds since the process started, four decimals. */
function stamp(): string {
  return process.uptime().toFixed(4);
}

/**
 * Information is printed bare (it is the start-up summary); what is wrong says who speaks; debug lines carry the time.
 */
export function stderrSink(speaker = 'tubetti', writer = new LineWriter()): LogSink {
  return (level, message) => {
    const text =
      level === 'info'
        ? message
        : level === 'error'
          ? `${speaker}: ${message}`
          : level === 'warn'
            ? `${speaker}: warning: ${message}`
            : `${stamp()}: ${message}`;
    writer.line(text);
  };
}

const FILE_LABEL: Readonly<Record<LogLevel, string>> = {
  error: 'ERROR:   ',
  warn: 'WARNING: ',
  info: 'info:    ',
  debug: '',
  trace: '',
};

/** Share of the limit that is dropped, oldest lines first, when a log file is full. */
const ROTATE_SHARE = 0.3;

/**
 * A log file of at most `maxBytes`: mode 0600, a header line at each start, then `SECONDS: level: message`. What is
 * there already stays (the reason of a crash must outlive the restart), as far as there is room. When it is full the
 * oldest 30 % go; our header becomes the first line. A terminal, a pipe or /dev/null is written to and never cut.
 * Throws if the file cannot be opened (src/files.ts says what is refused).
 */
export class LogFile {
  private readonly fd: number;
  private readonly header: string;
  private readonly maxBytes: number;
  /** False for what cannot be cut: a terminal, a pipe. */
  private readonly regular: boolean;
  private size: number;

  constructor(path: string, maxBytes: number, header: string) {
    // Read access too: rotation reads back what it keeps.
    const { fd, stat } = openForAppending(path);
    this.fd = fd;
    this.header = oneLine(header) + '\n';
    this.maxBytes = maxBytes;
    this.regular = stat.isFile();
    this.size = this.regular ? stat.size : 0;
    try {
      this.append(Buffer.from(this.header));
    } catch (error) {
      fs.closeSync(fd);
      throw error;
    }
  }

  readonly sink: LogSink = (level, message) => {
    this.append(Buffer.from(`${stamp()}: ${FILE_LABEL[level]}${message}\n`));
  };

  close(): void {
    fs.closeSync(this.fd);
  }

  private append(line: Buffer): void {
    if (this.regular && this.size + line.length > this.maxBytes) this.rotate();
    const done = fs.writeSync(this.fd, line);
    this.size += done;
    // A full disk took a part: the next line shall begin as one.
    if (done < line.length && this.regular) {
      this.size -= done;
      fs.ftruncateSync(this.fd, this.size);
    }
  }

  /** Keeps the newest lines, as many as leave ROTATE_SHARE of the limit free. */
  private rotate(): void {
    const room = Math.max(0, Math.floor(this.maxBytes * (1 - ROTATE_SHARE)) - Buffer.byteLength(this.header));
    const old = Buffer.alloc(Math.min(this.size, room));
    const got = fs.readSync(this.fd, old, 0, old.length, this.size - old.length);
    const from = old.indexOf(0x0a);
    const kept = from < 0 ? Buffer.alloc(0) : old.subarray(from + 1, got);
    fs.ftruncateSync(this.fd, 0);
    this.size = fs.writeSync(this.fd, this.header);
    if (kept.length > 0) this.size += fs.writeSync(this.fd, kept);
  }
}

function withSuppressed(message: string, suppressed: number): string {
  return `${message} (${suppressed} similar messages suppressed)`;
}

/** Messages that a guest or a peer can provoke are limited to this many a second at each place in the code. */
export const LOG_LIMIT_PER_SECOND = 5;

/**
 * Limits messages per site (a constant string naming a place in the code, never text from outside: the table of
 * sites only grows).
 */
export class RateLimiter {
  private readonly perSecond: number;
  private readonly nowMs: () => number;
  private readonly sites = new Map<string, { second: number; count: number; suppressed: number }>();

  constructor(perSecond: number = LOG_LIMIT_PER_SECOND, nowMs: () => number = () => performance.now()) {
    this.perSecond = perSecond;
    this.nowMs = nowMs;
  }

  /** -1: say nothing. Else: speak, and this many messages of the site were suppressed since it last spoke. */
  take(site: string): number {
    const second = Math.floor(this.nowMs() / 1000);
    let state = this.sites.get(site);
    if (state === undefined) {
      state = { second, count: 0, suppressed: 0 };
      this.sites.set(site, state);
    }
    if (state.second !== second) {
      state.second = second;
      state.count = 0;
    }
    if (state.count >= this.perSecond) {
      state.suppressed++;
      return -1;
    }
    state.count++;
    const suppressed = state.suppressed;
    state.suppressed = 0;
    return suppressed;
  }

  /** Logs through the limit, with a note on what was left out before. */
  log(log: Log, level: LogLevel, site: string, message: string): void {
    if (!log.enabled(level)) return;
    const suppressed = this.take(site);
    if (suppressed < 0) return;
    log.log(level, suppressed === 0 ? message : withSuppressed(message, suppressed));
  }
}
