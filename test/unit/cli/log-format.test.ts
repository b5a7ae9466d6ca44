import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { askedFormat } from '../../../src/cli/log-options';
import { syslogSink } from '../../../src/cli/syslog';
import { createLog, LogFile, lostLine, stderrLine, stderrSink } from '../../../src/log';
import { isJournal, jsonLine, PLAIN, type StderrStyle } from '../../../src/log-format';
import type { Native } from '../../../src/native';
import { LineWriter } from '../../../src/stderr';

const JSON_STYLE: StderrStyle = { format: 'json', journal: false };
const JOURNAL: StderrStyle = { format: 'text', journal: true };

/** Lines that a sink of standard error writes. */
function written(): { writer: LineWriter; lines: () => string[] } {
  let text = '';
  const writer = new LineWriter((bytes, offset) => {
    text += Buffer.from(bytes).toString('utf8', offset);
    return bytes.length - offset;
  });
  return { writer, lines: () => text.trimEnd().split('\n') };
}

test('an object has the time in RFC 3339 with milliseconds, the level, the message, then fields', () => {
  const at = new Date(Date.UTC(2026, 10, 29, 4, 5, 6, 7));
  expect(jsonLine('warn', 'a "b"\\', { program: 'tubetti' }, at)).toBe(
    '{"time":"2026-11-29T04:05:06.007Z","level":"warn","message":"a \\"b\\"\\\\","program":"tubetti"}',
  );
});

test('a line with a site has site and number of suppressed lines as fields, not in the message', () => {
  jest.useFakeTimers({ now: 0 });
  const { writer, lines } = written();
  const { log } = createLog('info', [stderrSink('passt', writer, JSON_STYLE)]);
  for (let i = 0; i < 8; i++) log('warn', `m${i}`, 'front-end.refused');
  jest.advanceTimersByTime(1000);
  log('warn', 'later', 'front-end.refused');
  log('info', 'a\nb');
  jest.useRealTimers();
  const objects = lines().map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(objects).toHaveLength(7);
  expect(objects[0]).toMatchObject({ level: 'warn', message: 'm0', site: 'front-end.refused', program: 'passt' });
  expect(objects[0]).not.toHaveProperty('suppressed');
  expect(objects[5]).toMatchObject({ message: 'later', suppressed: 3, time: '1970-01-01T00:00:01.000Z' });
  expect(objects[6]).toMatchObject({ level: 'info', message: 'a | b' });
  expect(objects[6]).not.toHaveProperty('site');
});

test('for the journal a line of either form begins with its priority, and for nobody else', () => {
  const line = (level: 'error' | 'warn' | 'info' | 'debug' | 'trace', style: StderrStyle): string =>
    stderrLine(level, 'x', 'tubetti', style);
  expect(line('error', JOURNAL)).toBe('<3>tubetti: x');
  expect(line('warn', JOURNAL)).toBe('<4>tubetti: warning: x');
  expect(line('info', JOURNAL)).toBe('<6>x');
  expect(line('debug', JOURNAL)).toMatch(/^<7>[0-9.]+: x$/);
  expect(line('trace', JOURNAL)).toMatch(/^<7>[0-9.]+: x$/);
  expect(line('info', PLAIN)).toBe('x');
  expect(line('error', { format: 'json', journal: true })).toMatch(/^<3>\{"time":/);
});

test('what was lost is told in the form of the other lines', () => {
  expect(lostLine('tubetti', PLAIN)(3)).toBe('log lines lost while nobody read stderr: 3');
  expect(lostLine('tubetti', JOURNAL)(3)).toBe('<4>log lines lost while nobody read stderr: 3');
  expect(JSON.parse(lostLine('tubetti', JSON_STYLE)(3))).toMatchObject({ level: 'warn', lost: 3 });
});

describe('whether the journal reads standard error', () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'tubetti-format-'));
  });
  afterEach(() => {
    rmSync(dir, { recursive: true });
  });

  test('it does if $JOURNAL_STREAM names device and inode of the stream', () => {
    const fd = openSync(join(dir, 'stream'), 'w');
    const { dev, ino } = fstatSync(fd, { bigint: true });
    expect(isJournal(`${dev}:${ino}`, fd)).toBe(true);
    expect(isJournal(`${dev}:${ino + 1n}`, fd)).toBe(false);
    expect(isJournal(`${dev + 1n}:${ino}`, fd)).toBe(false);
    for (const other of [undefined, '', 'x', `${ino}`]) expect(isJournal(other, fd)).toBe(false);
    closeSync(fd);
    expect(isJournal(`${dev}:${ino}`, fd)).toBe(false);
  });

  test('a log file of objects: the header is one too', () => {
    const path = join(dir, 'log');
    const file = new LogFile(path, 1 << 20, 'tubetti 1: x', { format: 'json', program: 'tubetti' });
    createLog('debug', [file.sink]).debug('text');
    file.close();
    const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
    expect(lines.map((line) => JSON.parse(line) as unknown)).toMatchObject([
      { level: 'info', message: 'tubetti 1: x' },
      { level: 'debug', message: 'text', program: 'tubetti' },
    ]);
  });

  test('the system log gets an object behind its own header', () => {
    const sent: string[] = [];
    const native: Partial<Native> = {
      write: (_fd, bytes, offset, length) => {
        sent.push(Buffer.from(bytes).toString('utf8', offset, offset + length));
        return length;
      },
    };
    const sink = syslogSink(native as Native, 'tubetti', () => 9, 77, 'json');
    createLog('info', [sink]).error('broken');
    expect(sent).toHaveLength(1);
    const [, head, object] = /^(<27>.*? tubetti\[77\]: )(\{.*)$/.exec(sent[0]) ?? [];
    expect(head).toBeDefined();
    expect(JSON.parse(object)).toMatchObject({ level: 'error', message: 'broken' });
  });
});

test.each<[string[], NodeJS.ProcessEnv, string]>([
  [[], {}, 'text'],
  [['--log-format', 'json'], {}, 'json'],
  [['--log-format=json'], {}, 'json'],
  [['--log-fo=json'], {}, 'json'],
  [['--log-file=json'], {}, 'text'],
  [['--log-format'], {}, 'text'],
  [[], { TUBETTI_LOG_FORMAT: 'json' }, 'json'],
  [['--log-format', 'text'], { TUBETTI_LOG_FORMAT: 'json' }, 'text'],
])('before the options are read, %p with %p asks for %s', (argv, env, format) => {
  expect(askedFormat(argv, env)).toBe(format);
});
