/** Which guests count as ones whose memory is not shared, and which never do. */
import type { SplitQueueDevice } from 'virtio-ring-ts';
import { PrivateMemoryWatch, SILENT_MS } from '../../../../src/dataplane/virtio/private-memory';

const RX = 0;
const TX = 1;

class FakeQueue {
  lastAvail = 0;
  idx = 0;

  refresh(): number {
    return (this.idx - this.lastAvail) & 0xffff;
  }
}

function started(atMs = 0): { watch: PrivateMemoryWatch; queues: FakeQueue[] } {
  const watch = new PrivateMemoryWatch();
  const queues = [new FakeQueue(), new FakeQueue()];
  queues.forEach((q, i) => watch.started(i, q as unknown as SplitQueueDevice, atMs));
  // QEMU's own, one for each ring.
  for (const ring of [RX, TX]) watch.kicked(ring, atMs);
  return { watch, queues };
}

/** As the loop does: looks when the watch says so. */
function found(watch: PrivateMemoryWatch): boolean {
  return watch.dueMs < Infinity && watch.look(watch.dueMs);
}

test('a guest with EVENT_IDX, which kicks each ring once more and never again', () => {
  const { watch } = started(1000);
  watch.kicked(RX, 1500);
  expect(watch.dueMs).toBe(Infinity);
  watch.kicked(TX, 1501);
  expect(watch.dueMs).toBe(1000 + SILENT_MS);
  expect(watch.look(1000 + SILENT_MS - 1)).toBe(false);
  expect(watch.look(1000 + SILENT_MS)).toBe(true);
});

test('one so fast that it kicks both rings while QEMU starts them', () => {
  const { watch } = started(1000);
  watch.kicked(RX, 1020);
  expect(watch.dueMs).toBe(Infinity);
  watch.kicked(TX, 1021);
  expect(watch.look(1000 + SILENT_MS)).toBe(true);
});

test('one that fills its receive ring while QEMU starts it, and sends long after that', () => {
  const { watch } = started();
  watch.kicked(RX, 20);
  expect(watch.dueMs).toBe(Infinity);
  watch.kicked(TX, 50_000);
  expect(watch.look(50_000)).toBe(true);
});

test('one whose front-end gives no kicks of its own', () => {
  const watch = new PrivateMemoryWatch();
  [RX, TX].forEach((ring) => watch.started(ring, new FakeQueue() as unknown as SplitQueueDevice, 0));
  watch.kicked(TX, 5000);
  expect(watch.dueMs).toBe(Infinity);
  watch.kicked(TX, 5001);
  expect(watch.look(5001)).toBe(true);
});

test('it is said once in a session, however often the guest restarts its rings', () => {
  const { watch, queues } = started();
  const again = (): void => {
    for (const ring of [RX, TX, RX, TX, RX, TX]) if (watch.open) watch.kicked(ring, 9000);
  };
  again();
  expect(found(watch)).toBe(true);
  for (let i = 0; i < 5; i++) {
    queues.forEach((q, ring) => watch.started(ring, q as unknown as SplitQueueDevice, 8000));
    again();
    expect(watch.dueMs).toBe(Infinity);
  }
  // The next front-end.
  watch.reset();
  queues.forEach((q, ring) => watch.started(ring, q as unknown as SplitQueueDevice, 5000));
  again();
  expect(watch.look(9000)).toBe(true);
});

describe('never', () => {
  test('a guest that starts and stays down', () => {
    const { watch } = started();
    expect(watch.dueMs).toBe(Infinity);
  });

  test.each([RX, TX])('one that kicks ring %p once more at its start', (ring) => {
    const { watch } = started();
    watch.kicked(ring, 20);
    expect(found(watch)).toBe(false);
  });

  test('one that kicks its receive ring now and then, without memory for it', () => {
    const { watch } = started();
    watch.kicked(RX, 500);
    expect(found(watch)).toBe(false);
  });

  test.each([RX, TX])('one that has put something into ring %p, at its first kick or before time is up', (ring) => {
    const early = started();
    early.queues[ring].idx = 1;
    early.watch.kicked(RX, 500);
    expect(early.watch.open).toBe(false);
    const late = started();
    for (const kicked of [RX, TX, TX, RX]) late.watch.kicked(kicked, 500);
    expect(late.watch.dueMs).toBe(SILENT_MS);
    late.queues[ring].idx = 1;
    expect(late.watch.look(SILENT_MS)).toBe(false);
    expect(late.watch.open).toBe(false);
  });

  test('one whose entries were taken, and a ring that stopped', () => {
    const taken = started();
    taken.queues[TX].idx = 5;
    taken.queues[TX].lastAvail = 5;
    taken.watch.kicked(TX, 500);
    expect(taken.watch.open).toBe(false);
    const stopped = started();
    stopped.watch.stopped(RX);
    for (let i = 0; i < 10; i++) stopped.watch.kicked(TX, 5000);
    expect(stopped.watch.dueMs).toBe(Infinity);
  });
});
