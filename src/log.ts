/**
 * The log: lines on stderr, and in a file with `--log-file`. Levels are passt's: by default errors, warnings
 * and information; `-q` leaves out information, `-d` adds debug, `--trace` adds a line per packet.
 *
 * Text that a guest or a peer may have chosen can reach a message: control characters are replaced, so that one
 * message is always one line. What a line looks like is log-format.ts's to say.
 */
import { BoundedFile } from './bounded-file';
import { jsonLine, jsonOf, type LogFormat, PLAIN, priority, type StderrStyle } from './log-format';
import { LineWriter } from './stderr';

export type LogLevel = 'error' | 'warn' | 'info' | 'debug' | 'trace';

const RANK: Readonly<Record<LogLevel, number>> = { error: 0, warn: 1, info: 2, debug: 3, trace: 4 };

/** What is known of a line with a site besides its text. */
export interface LineDetails {
  readonly site: string;
  /** Lines of the site that were left out before this one: `message` says so, `bare` does not. */
  readonly suppressed: number;
  readonly bare: string;
}

/** Takes one finished line, without its newline. */
export type LogSink = (level: LogLevel, message: string, details?: LineDetails) => void;

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
    const bare = oneLine(message);
    const line = suppressed === 0 ? bare : withSuppressed(bare, suppressed);
    const details = site === undefined ? undefined : { site, suppressed, bare };
    for (const sink of sinks) {
      try {
        sink(at, line, details);
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

/** Information is printed bare (it is the start-up summary); what is wrong says who speaks; debug lines carry the time. */
function textOf(level: LogLevel, message: string, speaker: string): string {
  switch (level) {
    case 'info':
      return message;
    case 'error':
      return `${speaker}: ${message}`;
    case 'warn':
      return `${speaker}: warning: ${message}`;
    default:
      return `${stamp()}: ${message}`;
  }
}

/** A line as standard error has it, without its newline. */
export function stderrLine(
  level: LogLevel,
  message: string,
  speaker: string,
  style: StderrStyle,
  details?: LineDetails,
): string {
  const line = style.format === 'json' ? jsonOf(level, message, speaker, details) : textOf(level, message, speaker);
  return priority(level, style) + line;
}

/** Standard error. `writer` says that lines were lost by `lostLine`, in the same style. */
export function stderrSink(speaker = 'tubetti', writer = new LineWriter(), style: StderrStyle = PLAIN): LogSink {
  return (level, message, details) => {
    writer.line(stderrLine(level, message, speaker, style, details));
  };
}

/** What a writer to standard error says of lines that nobody took. */
export function lostLine(speaker: string, style: StderrStyle): (lost: number) => string {
  return (lost) => {
    const message = `log lines lost while nobody read stderr: ${lost}`;
    return style.format === 'json'
      ? priority('warn', style) + jsonLine('warn', message, { program: speaker, lost })
      : priority('warn', style) + message;
  };
}

const FILE_LABEL: Readonly<Record<LogLevel, string>> = {
  error: 'ERROR:   ',
  warn: 'WARNING: ',
  info: 'info:    ',
  debug: '',
  trace: '',
};

/** What the lines of a log file look like, and who speaks in them. */
export interface FileForm {
  readonly format: LogFormat;
  readonly program: string;
}

const TEXT_FILE: FileForm = { format: 'text', program: 'tubetti' };

/**
 * A log file of at most `maxBytes`: mode 0600, a header line at each start, then `SECONDS: level: message`, or an object
 * for each. What is there already stays (the reason of a crash must outlive the restart), as far as there is room. When it
 * is full the oldest lines go; our header becomes the first one (bounded-file.ts). Throws if the file cannot be opened.
 */
export class LogFile {
  private readonly file: BoundedFile;
  private readonly form: FileForm;

  constructor(path: string, maxBytes: number, header: string, form: FileForm = TEXT_FILE) {
    this.form = form;
    const first = oneLine(header);
    const line = (form.format === 'json' ? jsonLine('info', first, { program: form.program }) : first) + '\n';
    this.file = new BoundedFile(path, maxBytes, line);
  }

  readonly sink: LogSink = (level, message, details) => {
    const { format, program } = this.form;
    const line =
      format === 'json' ? jsonOf(level, message, program, details) : `${stamp()}: ${FILE_LABEL[level]}${message}`;
    this.file.append(Buffer.from(`${line}\n`));
  };

  close(): void {
    this.file.close();
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
