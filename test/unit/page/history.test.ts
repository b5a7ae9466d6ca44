import { parseExposition } from '../../../src/page/exposition';
import { History, LATELY_MS, POINTS, summaryOf } from '../../../src/page/history';

/** A look `second` seconds on, with these bytes and frames to the guest. */
function look(second: number, bytes: number, start = 1): Parameters<History['add']>[0] {
  return {
    at: 1e12 + 1000 * second,
    samples: parseExposition(
      `tubetti_bytes_total{direction="to_guest",protocol="tcp"} ${bytes}
       tubetti_frames_total{direction="to_guest"} ${bytes / 100}
       process_start_time_seconds ${start}`.replace(/^ +/gm, ''),
    ),
  };
}

test('rates between two looks; none before there are two', () => {
  const history = new History();
  expect(history.last).toBeNull();
  history.add(look(0, 1000));
  expect(history.times).toEqual([]);
  history.add(look(2, 5000));
  expect(history.times).toEqual([1e9 + 2]);
  expect(history.columns.bitsTo).toEqual([16_000]);
  expect(history.columns.framesTo).toEqual([20]);
  expect(history.columns.bitsFrom).toEqual([0]);
  expect(history.columns.turnMedian).toEqual([null]);
});

test('a gap interrupts the lines, once', () => {
  const history = new History();
  history.gap(0);
  expect(history.times).toEqual([]);
  history.add(look(0, 0));
  history.add(look(1, 100));
  history.gap(1e12 + 2000);
  history.gap(1e12 + 3000);
  history.add(look(4, 400));
  expect(history.columns.bitsTo).toEqual([800, null, 800]);
});

test('another process begins at zero', () => {
  const history = new History();
  history.add(look(0, 1000));
  history.add(look(1, 2000));
  history.add(look(2, 10, 99));
  expect([history.times, history.columns.bitsTo]).toEqual([[], []]);
  history.add(look(3, 20, 99));
  expect(history.columns.bitsTo).toEqual([80]);
});

test('it keeps a bounded number of points and a minute of looks, however long it runs', () => {
  const history = new History();
  for (let i = 0; i < POINTS + 100; i++) history.add(look(i, 100 * i));
  expect(history.times).toHaveLength(POINTS);
  expect(history.columns.bitsTo).toHaveLength(POINTS);
  const oldest = history.since(10 * LATELY_MS);
  expect((history.last?.at ?? 0) - (oldest?.at ?? 0)).toBeLessThanOrEqual(LATELY_MS + 1000);
  expect(history.since(10_000)?.at).toBe((history.last?.at ?? 0) - 10_000);
});

test('a summary of what is there', () => {
  expect(summaryOf([])).toBeNull();
  expect(summaryOf([null, null])).toBeNull();
  expect(summaryOf([1, null, 3])).toEqual({ now: 3, mean: 2, max: 3 });
  expect(summaryOf([4, null])).toEqual({ now: null, mean: 4, max: 4 });
});
