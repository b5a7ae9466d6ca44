import fc from 'fast-check';
import { TICK_MS, TimerWheel } from '../../../../src/stack/kit/timer-wheel';

function drain(w: TimerWheel, now: number): number[] {
  const out: number[] = [];
  for (let id = w.expire(now); id >= 0; id = w.expire(now)) out.push(id);
  return out.sort((a, b) => a - b);
}

test('fires at its time, not before', () => {
  const w = new TimerWheel(4, 1000);
  w.set(0, 1100);
  expect(w.isSet(0)).toBe(true);
  expect(drain(w, 1099)).toEqual([]);
  expect(drain(w, 1100)).toEqual([0]);
  expect(w.isSet(0)).toBe(false);
  expect(w.nextDeadline()).toBe(Infinity);
});

test('putting off, bringing forward, cancelling', () => {
  const w = new TimerWheel(4, 0);
  w.set(0, 100);
  w.set(0, 500);
  w.set(1, 500);
  w.set(1, 100);
  w.set(2, 100);
  w.cancel(2);
  w.cancel(2);
  expect(drain(w, 499)).toEqual([1]);
  expect(drain(w, 500)).toEqual([0]);
  expect(w.count).toBe(0);
});

test('set while expiring, for a time that has come, fires in the same run', () => {
  const w = new TimerWheel(4, 0);
  w.set(0, 10);
  w.set(1, 11);
  expect(w.expire(5000)).toBeGreaterThanOrEqual(0);
  w.set(2, 3);
  w.set(3, 4999);
  expect(drain(w, 5000)).toHaveLength(3);
});

test('a timer has one place, however often it is set', () => {
  const w = new TimerWheel(4, 0);
  for (let n = 0; n < 100_000; n++) w.set(n & 3, 100 + ((n * 7919) % 1_000_000));
  expect(w.count).toBe(4);
  expect(drain(w, 2_000_000)).toEqual([0, 1, 2, 3]);
  expect(w.nextDeadline()).toBe(Infinity);
});

test('against a naive model', () => {
  const op = fc.oneof(
    fc.record({
      kind: fc.constant('set' as const),
      id: fc.nat(19),
      in: fc.oneof(fc.nat(50), fc.nat(40_000), fc.nat(8_000_000), fc.nat(40_000_000)),
    }),
    fc.record({ kind: fc.constant('cancel' as const), id: fc.nat(19) }),
    fc.record({ kind: fc.constant('advance' as const), by: fc.oneof(fc.nat(20), fc.nat(5000), fc.nat(200_000)) }),
    fc.record({ kind: fc.constant('sleep' as const) }),
  );
  fc.assert(
    fc.property(fc.nat(10_000_000), fc.array(op, { maxLength: 120 }), (start, ops) => {
      let now = start;
      const w = new TimerWheel(20, now);
      const model = new Map<number, number>();
      const step = (to: number): void => {
        now = to;
        const due = [...model].filter(([, at]) => at <= now).map(([id]) => id);
        for (const id of due) model.delete(id);
        expect(drain(w, now)).toEqual(due.sort((a, b) => a - b));
      };
      for (const o of ops) {
        if (o.kind === 'set') {
          w.set(o.id, now + o.in);
          model.set(o.id, now + o.in);
        } else if (o.kind === 'cancel') {
          w.cancel(o.id);
          model.delete(o.id);
        } else if (o.kind === 'advance') {
          step(now + o.by);
        } else {
          // Never sleeps over a timer.
          const next = w.nextDeadline();
          const earliest = Math.min(Infinity, ...model.values());
          expect(next).toBeLessThanOrEqual(earliest);
          if (next !== Infinity) step(Math.max(now, next));
        }
        expect(w.count).toBe(model.size);
      }
      // Sleeping until told reaches every timer, in few steps each: somewhat more than a round at most, or ten.
      const most = start % 2 === 0 ? 40_000 : 400_000;
      for (let n = 0; model.size > 0; n++) {
        expect(n).toBeLessThan(8000);
        const next = w.nextDeadline();
        step(Math.max(now, Math.min(next, now + most)));
        if (next <= now && model.size > 0 && w.nextDeadline() <= now) now += TICK_MS;
      }
    }),
    { numRuns: 60 },
  );
});

test('timers hours ahead wake nobody before their time', () => {
  const w = new TimerWheel(301, 0);
  for (let id = 0; id < 300; id++) w.set(id, 7_200_000 + 31 * id);
  const woken: number[] = [];
  let fired = 0;
  for (let now = 0; w.count > 0;) {
    now = Math.max(now, w.nextDeadline());
    woken.push(now);
    fired += drain(w, now).length;
    if (w.nextDeadline() <= now) now++;
  }
  expect(fired).toBe(300);
  // Once when the half minute begins in which they are due, or two of those, and then for each.
  expect(woken.filter((at) => at < 7_100_000)).toEqual([]);
  expect(woken.filter((at) => at < 7_200_000).length).toBeLessThanOrEqual(2);
});

test('a timer put off again and again by days is found when it is due, and brought forward at once', () => {
  const w = new TimerWheel(2, 0);
  const day = 86_400_000;
  w.set(0, 50_000);
  w.set(0, 3 * day);
  w.set(1, 4 * day);
  let now = 0;
  while (w.nextDeadline() < 3 * day) {
    now = Math.max(now + TICK_MS, w.nextDeadline());
    if (now >= 3 * day) break;
    expect(drain(w, now)).toEqual([]);
  }
  expect(drain(w, 3 * day)).toEqual([0]);
  w.set(1, 3 * day + 10);
  expect(w.nextDeadline()).toBeLessThanOrEqual(3 * day + 10);
  expect(drain(w, 3 * day + 10)).toEqual([1]);
});
