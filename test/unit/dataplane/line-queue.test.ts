import { LineQueue } from '../../../src/dataplane/line-queue';

const LIMIT = 1000;

test('no more lines wait for the log than the limit; those left out are counted', () => {
  const written = new Int32Array(1);
  const queue = new LineQueue(written, LIMIT);
  let taken = 0;
  for (let n = 0; n < LIMIT + 300; n += 2) if (queue.take(2)) taken += 2;
  expect(taken).toBe(LIMIT);
  expect(queue.take(1)).toBe(false);
  written[0] = 1;
  expect(queue.take(1)).toBe(true);
  expect(queue.takeLeftOut()).toBe(301);
  expect(queue.takeLeftOut()).toBe(0);
  expect(queue.take(1)).toBe(false);
  written[0] = taken + 1;
  expect(queue.take(1)).toBe(true);
  expect(queue.takeLeftOut()).toBe(1);
});

test('the count may pass 2^31 and 2^32', () => {
  const written = new Int32Array(1);
  const queue = new LineQueue(written, LIMIT);
  for (let n = 0; n < 2 ** 12 + 10; n++) {
    expect(queue.take(2 ** 20)).toBe(true);
    Atomics.add(written, 0, 2 ** 20);
  }
});
