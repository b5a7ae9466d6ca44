import { TraceQueue } from '../../../src/dataplane/tracing-port';

const LIMIT = 10_000;

test('no more lines wait for the log than the limit; those left out are told of when it follows again', () => {
  const written = new Int32Array(1);
  const posted: string[] = [];
  const queue = new TraceQueue(written, (lines) => posted.push(...lines));
  for (let n = 0; n < LIMIT + 300; n += 2) queue.say([String(n), String(n + 1)]);
  expect(posted).toHaveLength(LIMIT);
  written[0] = 1;
  queue.say(['next']);
  expect(posted.slice(LIMIT)).toEqual(['frames left out, as the log did not follow: 300', 'next']);
  queue.say(['lost']);
  written[0] = posted.length;
  queue.say(['after']);
  expect(posted.slice(LIMIT + 2)).toEqual(['frames left out, as the log did not follow: 1', 'after']);
});

test('the count may pass 2^31 and 2^32', () => {
  const written = new Int32Array(1);
  let posted = 0;
  const queue = new TraceQueue(written, (lines) => (posted += lines.length));
  const many = new Array<string>(2 ** 20).fill('');
  for (let n = 0; n < 2 ** 12 + 10; n++) {
    queue.say(many);
    Atomics.add(written, 0, many.length);
  }
  expect(posted).toBe((2 ** 12 + 10) * 2 ** 20);
});
