/**
 * The form of a line of the log on standard error, in the log file and in the system log: text for people, or JSON, one
 * object a line, for collectors; and in front of it, where the journal reads standard error, its priority.
 */
import { fstatSync } from 'node:fs';
import type { LineDetails, LogLevel } from './log';

export const LOG_FORMATS = ['text', 'json'] as const;
export type LogFormat = (typeof LOG_FORMATS)[number];

/** Standard error, as it was found at the start. */
export interface StderrStyle {
  readonly format: LogFormat;
  /** The journal reads it: a line begins with its priority (sd-daemon(3)). */
  readonly journal: boolean;
}

export const PLAIN: StderrStyle = { format: 'text', journal: false };

/** LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG of syslog(3). */
const PRIORITY: Readonly<Record<LogLevel, number>> = { error: 3, warn: 4, info: 6, debug: 7, trace: 7 };

const STDERR = 2;

/**
 * Whether the journal reads standard error: systemd names device and inode of the stream it made (systemd.exec(5),
 * $JOURNAL_STREAM). Who was given another stream since, a file or a pipe, has the variable all the same.
 */
export function isJournal(named: string | undefined, fd: number = STDERR): boolean {
  if (named === undefined || named === '') return false;
  try {
    const { dev, ino } = fstatSync(fd, { bigint: true });
    return named === `${dev.toString()}:${ino.toString()}`;
  } catch {
    return false; // closed
  }
}

/** `<4>`, or nothing where the journal does not read. */
export function priority(level: LogLevel, { journal }: StderrStyle): string {
  return journal ? `<${PRIORITY[level]}>` : '';
}

/** One object: time (RFC 3339, UTC, ms), level, message, then `fields`. */
export function jsonLine(
  level: LogLevel,
  message: string,
  fields: Readonly<Record<string, unknown>> = {},
  at: Date = new Date(),
): string {
  return JSON.stringify({ time: at.toISOString(), level, message, ...fields });
}

/** A line of the log as an object: what stands in the text's brackets has fields of its own. */
export function jsonOf(level: LogLevel, message: string, program: string, details?: LineDetails): string {
  if (details === undefined) return jsonLine(level, message, { program });
  const { site, suppressed, bare } = details;
  return jsonLine(level, bare, { program, site, ...(suppressed > 0 ? { suppressed } : {}) });
}
