/** Captures as the control plane keeps them: who hears of their ends, and that no descriptor is closed while it is used. */
import { Captures, MAX_CAPTURES } from '../../../src/control/captures';
import { type ControlEvent, Events } from '../../../src/control/events';
import type { CaptureEnd, CaptureStart } from '../../../src/dataplane/commands';

const CLIENT = 7;
const OWN = 100;
const head = (id: string): string => `head of ${id}\n`;

/** A data plane that answers when the test says so. */
class Plane {
  onCaptureEnded: ((id: number, end: CaptureEnd) => void) | null = null;
  readonly starts: CaptureStart[] = [];
  readonly stops: [number, boolean][] = [];
  begins = true;
  private waiting: (() => void)[] = [];

  startCapture(start: CaptureStart): Promise<boolean> {
    this.starts.push(start);
    return Promise.resolve(this.begins);
  }

  stopCapture(id: number, now: boolean): Promise<boolean> {
    this.stops.push([id, now]);
    return new Promise((resolve) => {
      this.waiting.push(() => {
        resolve(now);
      });
    });
  }

  async answer(): Promise<void> {
    const { waiting } = this;
    this.waiting = [];
    for (const one of waiting) one();
    for (let i = 0; i < 10; i++) await Promise.resolve();
  }
}

let plane: Plane;
let captures: Captures;
let told: ControlEvent[];
let closed: number[];
let own: number;

beforeEach(() => {
  jest.useFakeTimers();
  plane = new Plane();
  told = [];
  closed = [];
  own = OWN;
  const events = new Events();
  events.listen((event) => told.push(event));
  const io = { dupFd: () => own++, close: (fd: number) => closed.push(fd) };
  captures = new Captures(io, plane, events);
});
afterEach(() => {
  jest.useRealTimers();
});

const reasons = (): unknown[] => captures.list().map(({ reason }) => reason);

test('it gets a descriptor of its own and the head; its limit is its end, and then the descriptor is closed', async () => {
  const { id, ended } = await captures.start(CLIENT, { snap: 64, packets: 3 }, head);
  const { head: begins, counts, ...start } = plane.starts[0];
  expect(start).toEqual({ id: 1, fd: OWN, snap: 64, frames: 3, bytes: null });
  expect(Buffer.from(begins).toString('latin1')).toMatch(/^head of 1\n\xd4\xc3\xb2\xa1/);
  new Float64Array(counts).set([3, 240, 1]);
  expect(captures.list()).toMatchObject([{ id, packets: 3, bytes: 240, lost: 1, endedAt: null, reason: null }]);
  plane.onCaptureEnded?.(1, 'done');
  plane.onCaptureEnded?.(1, 'done');
  expect([plane.stops, closed, reasons()]).toEqual([[[1, true]], [], [null]]);
  await plane.answer();
  await ended;
  expect([closed, reasons()]).toEqual([[OWN], ['limit']]);
  expect(told.map(({ event, data }) => [event, data])).toEqual([
    ['capture-started', { id: '1', snap: 64 }],
    ['capture-stopped', { id: '1', reason: 'limit', packets: 3, bytes: 240, lost: 1 }],
  ]);
});

test('an order, or its time: the client may read what there is, for a while', async () => {
  await captures.start(CLIENT, {}, head);
  await captures.start(CLIENT, { seconds: 5 }, head);
  expect([captures.end('1'), captures.end('01'), captures.end('9'), captures.end('x')]).toEqual([
    ...[true, false, false, false],
  ]);
  jest.advanceTimersByTime(5000);
  expect(plane.stops).toEqual([
    [1, false],
    [1, true],
    [2, false],
  ]);
  plane.onCaptureEnded?.(2, 'done');
  await plane.answer();
  expect(reasons()).toEqual(['order', 'time']);
  expect(closed).toEqual([OWN, OWN + 1]);
});

test('the client leaves, it cannot be written, the data plane is replaced, the service ends', async () => {
  const [one] = await Promise.all([0, 1, 2, 3].map(() => captures.start(CLIENT, {}, head)));
  await expect(captures.start(CLIENT, {}, head)).rejects.toThrow(`there are ${MAX_CAPTURES} captures already`);
  one.leave();
  plane.onCaptureEnded?.(2, 'failed');
  plane.onCaptureEnded?.(3, 'left');
  captures.lost();
  captures.close();
  one.leave();
  await plane.answer();
  expect(reasons()).toEqual(['client', 'error', 'client', 'data-plane']);
  expect(closed).toEqual([0, 1, 2, 3].map((i) => OWN + i));
  expect(jest.getTimerCount()).toBe(0);
});

test('one that cannot begin: refused, and nothing is left of it', async () => {
  plane.begins = false;
  await expect(captures.start(CLIENT, { seconds: 1 }, head)).rejects.toThrow('cannot begin a capture');
  expect([captures.list(), closed, told]).toEqual([[], [OWN], []]);
  own = -24;
  await expect(captures.start(CLIENT, {}, head)).rejects.toThrow('no descriptor for it');
  expect(plane.starts).toHaveLength(1);
});

test('those that are over are listed, but not all of them', async () => {
  for (let i = 0; i < 40; i++) {
    (await captures.start(CLIENT, {}, head)).leave();
    await plane.answer();
  }
  expect(captures.list().map(({ id }) => Number(id))).toEqual(Array.from({ length: 16 }, (_, i) => 25 + i));
});
