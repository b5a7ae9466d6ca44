import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { programOf } from '../../../src/cli/invoked-name';
import { syslogLine, syslogSink, syslogTime } from '../../../src/cli/syslog';
import { loadNative, type Native } from '../../../src/native';

const AT = new Date(2026, 10, 4, 9, 5, 6);

test('time as RFC 3164 has it: the day is padded by a blank', () => {
  expect(syslogTime(AT)).toBe('Nov  4 09:05:06');
  expect(syslogTime(new Date(2027, 0, 31, 23, 59, 0))).toBe('Jan 31 23:59:00');
});

test('facility daemon, severity by level, debug not at all', () => {
  const line = (level: 'error' | 'warn' | 'info'): string | null => syslogLine(level, 'text', 'passt', AT);
  expect(line('error')).toBe(`<27>Nov  4 09:05:06 passt[${process.pid}]: text`);
  expect(line('warn')).toMatch(/^<28>/);
  expect(line('info')).toMatch(/^<30>/);
  expect(syslogLine('debug', 'text', 'passt', AT)).toBeNull();
  expect(syslogLine('trace', 'text', 'passt', AT)).toBeNull();
});

/** A log daemon that can be stopped, started and slow. */
function daemon(): { native: Native; state: { up: boolean; result: number }; lines: string[]; open: Set<number> } {
  const state = { up: true, result: 0 };
  const lines: string[] = [];
  const open = new Set<number>();
  let next = 100;
  const fake: Partial<Native> = {
    unixDatagram: () => {
      if (!state.up) return -2;
      open.add(++next);
      return next;
    },
    close: (fd) => {
      open.delete(fd);
      return 0;
    },
    write: (fd, bytes, offset, length) => {
      if (!open.has(fd)) return -9;
      if (state.result < 0) {
        const { result } = state;
        if (result !== -11) state.result = 0;
        return result;
      }
      lines.push(
        Buffer.from(bytes)
          .toString('utf8', offset, offset + length)
          .replace(/^.*\]: /, ''),
      );
      return length;
    },
  };
  return { native: fake as Native, state, lines, open };
}

test('lines go out; a daemon started anew gets a new socket and the same line', () => {
  const { native, state, lines, open } = daemon();
  const sink = syslogSink(native, 'tubetti');
  sink('info', 'one');
  state.result = -111;
  sink('info', 'two');
  expect(lines).toEqual(['one', 'two']);
  expect(open.size).toBe(1);
});

test('a slow daemon and one that is away lose lines, nothing else', () => {
  const { native, state, lines, open } = daemon();
  state.up = false;
  const sink = syslogSink(native, 'tubetti');
  sink('info', 'lost');
  state.up = true;
  sink('info', 'one');
  state.result = -11;
  sink('info', 'lost');
  state.result = 0;
  sink('info', 'two');
  expect(lines).toEqual(['one', 'two']);
  expect(open.size).toBe(1);
});

test('the addon: nobody there, and a socket of another kind', () => {
  const native = loadNative();
  const dir = mkdtempSync(join(tmpdir(), 'tubetti-syslog-'));
  try {
    expect(native.unixDatagram(join(dir, 'log'))).toBe(-2);
    const stream = native.unixListen(join(dir, 'stream'), 1);
    expect(native.unixDatagram(join(dir, 'stream'))).toBe(-91); // EPROTOTYPE
    native.close(stream);
    expect(native.unixDatagram('x'.repeat(200))).toBe(-36); // ENAMETOOLONG
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test.each<[string, string, string]>([
  ['/usr/bin/passt', 'node', 'passt'],
  ['/opt/passt.js', 'node', 'passt'],
  ['/opt/passt/bin/tubetti.js', '/usr/bin/node', 'tubetti'],
  ['/opt/tubetti.js', 'passt', 'passt'],
])('%s run by %s is %s', (script, argv0, program) => {
  expect(programOf(script, argv0)).toBe(program);
});

test('pasta, also as pasta-passt', () => {
  expect(programOf('/usr/bin/pasta', 'node')).toBe('pasta');
  expect(programOf('/usr/bin/pasta-passt', 'node')).toBe('pasta');
});
