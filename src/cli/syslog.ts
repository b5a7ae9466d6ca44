/** The system log: datagrams to /dev/log, in the form of syslog(3) (RFC 3164 without the host's name). */
import { EAGAIN } from '../errors';
import type { LogLevel, LogSink } from '../log';
import { jsonOf, type LogFormat } from '../log-format';
import type { Native } from '../native';

export const SYSLOG_PATH = '/dev/log';

/** LOG_DAEMON << 3 (syslog.h). */
const FACILITY = 3 << 3;
/** LOG_ERR, LOG_WARNING, LOG_INFO. Debug lines are for a terminal or a file: they would flood the system's log. */
const SEVERITY: Readonly<Partial<Record<LogLevel, number>>> = { error: 3, warn: 4, info: 6 };

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/** "Nov  4 09:05:06", local time: RFC 3164 §4.1.2. */
export function syslogTime(date: Date): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  const day = String(date.getDate()).padStart(2, ' ');
  return `${MONTHS[date.getMonth()]} ${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** The datagram of a line, or null for levels that do not go to the system log. */
export function syslogLine(
  level: LogLevel,
  message: string,
  tag: string,
  date: Date,
  pid: number = process.pid,
): string | null {
  const severity = SEVERITY[level];
  if (severity === undefined) return null;
  return `<${FACILITY | severity}>${syslogTime(date)} ${tag}[${pid}]: ${message}`;
}

/**
 * A sink into the system log. A host without one loses the lines; one whose log daemon was restarted gets a new
 * socket; one that is too slow loses what does not fit: the service never waits for it.
 */
export function syslogSink(
  native: Native,
  tag: string,
  connect: () => number = () => native.unixDatagram(SYSLOG_PATH),
  pid: number = process.pid,
  format: LogFormat = 'text',
): LogSink {
  let fd = connect();
  return (level, message, details) => {
    const text = format === 'json' ? jsonOf(level, message, tag, details) : message;
    const line = syslogLine(level, text, tag, new Date(), pid);
    if (line === null) return;
    const bytes = Buffer.from(line);
    for (let attempt = 0; attempt < 2; attempt++) {
      const result = fd >= 0 ? native.write(fd, bytes, 0, bytes.length) : fd;
      if (result >= 0 || result === -EAGAIN) return;
      if (fd >= 0) native.close(fd);
      fd = connect();
    }
  };
}
