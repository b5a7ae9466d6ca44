/** Lines on a standard error that does not always take them. */
import { LineWriter } from '../../src/stderr';

function again(): Error {
  return Object.assign(new Error('EAGAIN'), { code: 'EAGAIN' });
}

/** A reader's end: takes as many bytes as `room` says, then refuses; `onRefuse` is called each time. */
function makePipe(room: number, onRefuse: () => number = () => 0) {
  const pipe = { text: '', room, refusals: 0 };
  let now = 0;
  const write = (bytes: Uint8Array, offset: number): number => {
    if (pipe.room === 0) {
      pipe.refusals++;
      pipe.room = onRefuse();
      throw again();
    }
    const n = Math.min(pipe.room, bytes.length - offset);
    pipe.text += Buffer.from(bytes).toString('utf8', offset, offset + n);
    pipe.room -= n;
    return n;
  };
  const writer = new LineWriter(write, () => now);
  const pass = (ms: number): void => {
    now += ms;
  };
  return { pipe, writer, pass };
}

test('a reader that is slow gets every line whole', () => {
  const { pipe, writer } = makePipe(3, () => 5);
  writer.line('first line');
  writer.line('second line');
  expect(pipe.text).toBe('first line\nsecond line\n');
  expect(pipe.refusals).toBeGreaterThan(2);
});

test('one that reads no more is waited for once; when it reads again it is told what it missed', () => {
  const { pipe, writer, pass } = makePipe(4);
  writer.line('cut short');
  const waited = pipe.refusals;
  expect(waited).toBeGreaterThan(100);
  pass(1000);
  writer.line('dropped');
  expect(pipe.refusals).toBe(waited + 1);
  for (let i = 0; i < 1000; i++) writer.line('not even tried');
  expect(pipe.refusals).toBe(waited + 1);
  pass(10);
  pipe.room = 1000;
  writer.line('next');
  writer.line('last');
  expect(pipe.text).toBe('cut \nlog lines lost while nobody read stderr: 1002\nnext\nlast\n');
});

test('one that takes a line now and then is not waited for again and again', () => {
  const { pipe, writer, pass } = makePipe(0);
  writer.line('dropped');
  const waited = pipe.refusals;
  for (let i = 0; i < 10; i++) {
    pass(1000);
    pipe.room = 1000;
    writer.line('taken');
    pipe.room = 0;
    writer.line('dropped');
  }
  // One fiftieth of the time that passed.
  expect(pipe.refusals - waited).toBeLessThanOrEqual(10 * (1000 / 50 + 1));
});

test('another error is the caller’s to hear of', () => {
  const writer = new LineWriter(() => {
    throw Object.assign(new Error('EPIPE'), { code: 'EPIPE' });
  });
  expect(() => {
    writer.line('x');
  }).toThrow('EPIPE');
});
