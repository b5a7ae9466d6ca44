import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLog, LogFile, type LogLevel, oneLine, RateLimiter } from '../../../src/log';

const LEVELS: readonly LogLevel[] = ['error', 'warn', 'info', 'debug', 'trace'];

test.each(LEVELS)('at level %s that and more important lines pass', (level) => {
  const lines: string[] = [];
  const log = createLog(level, [(at, message) => lines.push(`${at} ${message}`)]);
  for (const at of LEVELS) log[at]('x');
  expect(lines).toEqual(LEVELS.slice(0, LEVELS.indexOf(level) + 1).map((at) => `${at} x`));
  expect(LEVELS.filter((at) => log.enabled(at))).toHaveLength(lines.length);
});

test('a message is one line, whatever a guest put into it', () => {
  expect(oneLine('a\nERROR: b\r\x1b[31m\u2028c\tü')).toBe('a | ERROR: b??[31m?c?ü');
  const lines: string[] = [];
  createLog('info', [(_at, message) => lines.push(message)]).info('host name "a\nb"');
  expect(lines).toEqual(['host name "a | b"']);
});

test('a sink that fails does not keep others from writing', () => {
  const lines: string[] = [];
  const failing = (): never => {
    throw new Error('disk full');
  };
  createLog('info', [failing, (_at, message) => lines.push(message)]).error('x');
  expect(lines).toEqual(['x']);
});

describe('rate limit', () => {
  test('five a second at a site, then a note on the rest', () => {
    let now = 0;
    const lines: string[] = [];
    const log = createLog('info', [(_at, message) => lines.push(message)]);
    const limiter = new RateLimiter(5, () => now);
    for (let i = 0; i < 12; i++) limiter.log(log, 'warn', 'site', `m${i}`);
    limiter.log(log, 'warn', 'other site', 'o');
    limiter.log(log, 'debug', 'third', 'not enabled');
    now = 1000;
    limiter.log(log, 'warn', 'site', 'm12');
    limiter.log(log, 'warn', 'site', 'm13');
    expect(lines).toEqual(['m0', 'm1', 'm2', 'm3', 'm4', 'o', 'm12 (7 similar messages suppressed)', 'm13']);
  });
});

describe('log file', () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'tubetti-log-'));
  });
  afterEach(() => {
    rmSync(dir, { recursive: true });
  });

  test('truncated, private, with a header and labels', () => {
    const path = join(dir, 'log');
    writeFileSync(path, 'old\n');
    const file = new LogFile(path, 1 << 20, 'tubetti 1: x');
    rmSync(path);
    const other = new LogFile(path, 1 << 20, 'tubetti 1: x');
    other.sink('error', 'e');
    other.sink('warn', 'w');
    other.sink('info', 'i');
    other.sink('debug', 'd');
    file.close();
    other.close();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const text = readFileSync(path, 'utf8').replace(/^[0-9]+\.[0-9]{4}/gm, 'T');
    expect(text).toBe('tubetti 1: x\nT: ERROR:   e\nT: WARNING: w\nT: info:    i\nT: d\n');
  });

  test('never grows beyond its limit: the oldest lines go, header and order stay', () => {
    const path = join(dir, 'log');
    const file = new LogFile(path, 4096, 'header');
    for (let i = 0; i < 2000; i++) {
      file.sink('info', `line ${i}`);
      if (i % 100 === 0) expect(statSync(path).size).toBeLessThanOrEqual(4096);
    }
    file.close();
    const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
    expect(lines[0]).toBe('header');
    const numbers = lines.slice(1).map((line) => Number(/: info: {4}line ([0-9]+)$/.exec(line)?.[1]));
    expect(numbers.at(-1)).toBe(1999);
    numbers.forEach((number, i) => {
      if (i > 0) expect(number).toBe(numbers[i - 1] + 1);
    });
    expect(numbers.length).toBeGreaterThan(50);
  });
});
