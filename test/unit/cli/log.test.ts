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

  test('a line with a site is limited, one without is not, and lines that are not enabled spend nothing', () => {
    jest.useFakeTimers({ now: 0 });
    const lines: string[] = [];
    const { log } = createLog('info', [(_at, message) => lines.push(message)]);
    for (let i = 0; i < 50; i++) log('debug', 'quiet', 'site');
    for (let i = 0; i < 100_000; i++) log('warn', `m${i}`, 'site');
    for (let i = 0; i < 7; i++) log('warn', 'free');
    jest.advanceTimersByTime(1000);
    log('warn', 'later', 'site');
    jest.useRealTimers();
    const last = 'later (99995 similar messages suppressed)';
    expect(lines).toEqual(['m0', 'm1', 'm2', 'm3', 'm4', ...Array<string>(7).fill('free'), last]);
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

  test('private, with a header and labels', () => {
    const path = join(dir, 'log');
    const file = new LogFile(path, 1 << 20, 'tubetti 1: x');
    file.sink('error', 'e');
    file.sink('warn', 'w');
    file.sink('info', 'i');
    file.sink('debug', 'd');
    file.close();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const text = readFileSync(path, 'utf8').replace(/^[0-9]+\.[0-9]{4}/gm, 'T');
    expect(text).toBe('tubetti 1: x\nT: ERROR:   e\nT: WARNING: w\nT: info:    i\nT: d\n');
  });

  test('what an earlier run wrote stays, behind it a header and our lines', () => {
    const path = join(dir, 'log');
    const before = 'tubetti 1: x\n0.1: ERROR:   why it ended\n';
    writeFileSync(path, before);
    const file = new LogFile(path, 1 << 20, 'tubetti 2: x');
    file.sink('info', 'i');
    file.close();
    const text = readFileSync(path, 'utf8');
    expect(text.startsWith(`${before}tubetti 2: x\n`)).toBe(true);
    expect(text.endsWith(': info:    i\n')).toBe(true);
  });

  test('a file larger than the limit keeps its newest lines, the last of the earlier run among them', () => {
    const path = join(dir, 'log');
    writeFileSync(path, `${'an old line\n'.repeat(100_000)}why it ended\n`);
    new LogFile(path, 4096, 'header').close();
    const text = readFileSync(path, 'utf8');
    expect(text.length).toBeLessThanOrEqual(4096);
    expect(text.startsWith('header\nan old line\n')).toBe(true);
    expect(text.endsWith('why it ended\nheader\n')).toBe(true);
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
