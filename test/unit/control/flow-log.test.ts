/** The flow log: lines, what is missing, a full disk, the file's limit. */
import fs, { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FlowLog } from '../../../src/control/flow-log';
import { ENDS_ROWS, FlowEnds } from '../../../src/stack/kit/flow-ends';
import { END_CLOSED, FLOW_SLOT, FLOW_UDP, FLOW_WORDS } from '../../../src/stack/kit/flow-rows';
import { WORDS } from '../../support/stack/flow-list';

const CLOCK = { nowMs: 0, nowUs: () => 0 };

let directory: string;
let path: string;
const warnings: string[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tubetti-flow-log-'));
  path = join(directory, 'flows.json');
  warnings.length = 0;
  jest.useFakeTimers({ doNotFake: ['hrtime', 'performance'] });
});

afterEach(() => {
  jest.useRealTimers();
  rmSync(directory, { recursive: true });
});

function open(file = path, maxBytes = 1 << 20): FlowLog {
  const warn = (message: string): void => void warnings.push(message);
  return new FlowLog({ path: file, maxBytes, words: { ...WORDS, verdictText: (n) => `rule ${n}` }, warn });
}

function writer(log: FlowLog, worker = 1): FlowEnds {
  return new FlowEnds(log.open(worker), CLOCK, () => {
    log.filled();
  });
}

function end(ends: FlowEnds, slot: number): void {
  const at = ends.begin();
  if (at < 0) return;
  ends.rows.fill(0, at, at + FLOW_WORDS);
  ends.rows[at + FLOW_SLOT] = slot;
  ends.commit(at, END_CLOSED);
}

function lines(): Record<string, unknown>[] {
  const text = readFileSync(path, 'utf8');
  expect(text === '' || text.endsWith('\n')).toBe(true);
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

test('a line for each, soon; several rings follow each other', () => {
  const log = open();
  const ends = writer(log);
  end(ends, 1);
  end(ends, 2);
  expect(lines()).toEqual([]);
  jest.advanceTimersByTime(100);
  expect(lines()).toMatchObject([
    { id: 'tcp-1-1-0', reason: 'closed' },
    { id: 'tcp-1-2-0', reason: 'closed' },
  ]);
  expect(jest.getTimerCount()).toBe(0);
  end(ends, 3);
  log.lost(12);
  expect(lines().slice(2)).toMatchObject([{ id: 'tcp-1-3-0' }, { restart: 'data-plane', flows: 12 }]);
  end(writer(log, 2), 4);
  log.close();
  expect(lines().slice(4)).toMatchObject([{ id: 'tcp-2-4-0' }]);
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test('what a policy refused has its words', () => {
  const log = open();
  const key = Int32Array.of(0, 0, 0xffff, 0x0a000001, 0, 0, 0xffff, 0x08080808, (1000 << 16) | 53);
  writer(log).refused(FLOW_UDP, true, key, 0, 3);
  log.close();
  expect(lines()).toMatchObject([
    {
      protocol: 'udp',
      origin: 'guest',
      guest: { address: '10.0.0.1', port: 1000 },
      peer: { address: '8.8.8.8', port: 53 },
      reason: 'denied',
      verdict: 'rule 3',
    },
  ]);
});

test('ends that came too fast are counted, and the count is a line', () => {
  const log = open(path, 16 << 20);
  const ends = writer(log);
  for (let i = 0; i < 3 * ENDS_ROWS; i++) end(ends, i);
  jest.advanceTimersByTime(100);
  for (let i = 0; i < 10; i++) end(ends, i);
  jest.advanceTimersByTime(100);
  log.close();
  const all = lines();
  expect(all.filter(({ lost }) => lost !== undefined)).toMatchObject([{ lost: 2 * ENDS_ROWS }]);
  expect(all.filter(({ id }) => id !== undefined).length).toBe(ENDS_ROWS + 10);
  expect(jest.getTimerCount()).toBe(0);
});

test('the file has a limit; what goes is the oldest', () => {
  const log = open(path, 40_960);
  const ends = writer(log);
  for (let n = 0; n < 3; n++) {
    for (let i = 0; i < 1000; i++) end(ends, 1000 * n + i);
    jest.advanceTimersByTime(100);
    expect(statSync(path).size).toBeLessThanOrEqual(40_960);
  }
  log.close();
  const ids = lines().map(({ id }) => id);
  expect(ids.at(-1)).toBe('tcp-1-2999-0');
  expect(ids).toEqual(ids.map((_, i) => `tcp-1-${3000 - ids.length + i}-0`));
});

test('a full disk is said once; what it did not take is counted', () => {
  const log = open();
  const ends = writer(log);
  end(ends, 0);
  jest.advanceTimersByTime(100);
  const full = jest.spyOn(fs, 'writeSync').mockImplementation(() => {
    throw Object.assign(new Error('ENOSPC'), { errno: -28, code: 'ENOSPC' });
  });
  for (let i = 0; i < 5; i++) {
    end(ends, i);
    jest.advanceTimersByTime(100);
  }
  full.mockRestore();
  expect(warnings).toEqual([`--flow-log ${path}: cannot write, ends of flows are lost: no space left on device`]);
  end(ends, 9);
  log.close();
  expect(lines()).toMatchObject([{ id: 'tcp-1-0-0' }, { lost: 5 }, { id: 'tcp-1-9-0' }]);
});
