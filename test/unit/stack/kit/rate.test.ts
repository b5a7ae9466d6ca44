/** The token bucket, with a clock that does what it is told. */
import fc from 'fast-check';
import { Rate } from '../../../../src/stack/kit/rate';
import { FakeClock } from '../../../support/stack/fake-clock';

/** Lets pieces of `size` bytes pass for `ms`, woken when it is due but `late` ms later. Returns bits in a second. */
function run(bits: number, size: number, ms: number, late: number): number {
  const clock = new FakeClock();
  const rate = new Rate();
  rate.set(clock, bits);
  const start = clock.nowMs;
  let bytes = 0;
  while (clock.nowMs - start < ms) {
    while (rate.allows(clock)) {
      rate.take(size);
      bytes += size;
    }
    clock.advance(rate.dueMs(clock) - clock.nowMs + late);
  }
  // What passed last has not had its time yet.
  return ((bytes - size) * 8 * 1000) / (clock.nowMs - start);
}

test('from 1 Mbit/s to 1 Gbit/s, with frames of all sizes, woken late: within 5 %', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1_000_000, max: 1_000_000_000 }),
      fc.integer({ min: 60, max: 65_550 }),
      fc.nat(5),
      (bits, size, late) => {
        // Long enough for many frames.
        const ms = Math.max(1000, (size * 8 * 60 * 1000) / bits);
        const got = run(bits, size, ms, late);
        expect(got).toBeGreaterThan(bits * 0.95);
        expect(got).toBeLessThan(bits * 1.05);
      },
    ),
    { numRuns: 10 },
  );
});

test('an idle link saves no more than 50 ms; a limit that is taken away lets all pass at once', () => {
  const clock = new FakeClock();
  const rate = new Rate();
  expect(rate.allows(clock)).toBe(true);
  rate.set(clock, 8_000_000);
  clock.advance(60_000);
  let bytes = 0;
  for (; rate.allows(clock); bytes += 100) rate.take(100);
  expect(bytes).toBeLessThanOrEqual(50_000 + 200);
  rate.take(1e9);
  expect(rate.allows(clock)).toBe(false);
  expect(rate.dueMs(clock)).toBeGreaterThan(clock.nowMs + 1000);
  rate.set(clock, 0);
  expect(rate.allows(clock)).toBe(true);
  expect(rate.dueMs(clock)).toBe(clock.nowMs);
});
