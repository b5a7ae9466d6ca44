/**
 * The data plane may not make garbage: a million chains through both sides of a ring, then the collections counted.
 * A scavenge comes about every 16 MiB of garbage, so one number boxed per chain would already show.
 */
import { PerformanceObserver } from 'node:perf_hooks';
import { GuestMemory, SplitQueueDevice, SplitQueueDriver } from 'virtio-ring-ts';
import { HIGH, RawRing, makeRows } from '../../support/virtqueue/raw-ring';

const TOTAL = 1_000_000;

/** Runs `total` chains of two segments (one indirect in four) above 4 GiB, in batches of 32. */
function push(dev: SplitQueueDevice, drv: SplitQueueDriver, rows: ReturnType<typeof makeRows>, total: number): number {
  let done = 0;
  let signals = 0;
  while (done < total) {
    for (let i = 0; i < 32; i++) {
      drv.begin();
      drv.addReadable(HIGH + 64 * i, 12);
      drv.addWritable(HIGH + 64 * i + 16, 40);
      drv.commit(i, (i & 3) === 0);
    }
    if (drv.publish()) signals++;
    dev.disableNotify();
    dev.refresh();
    for (let i = 0; i < 31; i++) {
      dev.pop(rows, 0, 64);
      dev.pushUsed(dev.head, 40);
    }
    dev.pop(rows, 0, 64);
    dev.rewind(1);
    dev.pop(rows, 0, 64);
    dev.pushUsed(dev.head, 40);
    if (dev.publish()) signals++;
    if (dev.enableNotify()) signals++;
    while (drv.pollUsed() === 1) done++;
    drv.enableCallbacks();
  }
  return signals;
}

it.each([
  ['EVENT_IDX', true],
  ['flags', false],
])('a million chains cause no garbage (%s)', async (_name, eventIdx) => {
  const buffer = new SharedArrayBuffer(1 << 20);
  const memory = new GuestMemory();
  memory.add(0, new SharedArrayBuffer(4096), 0, 4096);
  memory.add(1, buffer, HIGH, 1 << 20);
  const ring = new RawRing(256);
  const features = { indirect: true, eventIdx };
  const area = { place: { buffer, offset: 1 << 19 }, gpa: HIGH + (1 << 19), entries: 4 };
  const drv = new SplitQueueDriver(ring.layout, features, { indirectArea: area });
  const dev = new SplitQueueDevice(memory, ring.layout, features, 0);
  const rows = makeRows(64);
  expect(push(dev, drv, rows, 100_000)).toBeGreaterThan(0); // compile first

  let collections = 0;
  const observer = new PerformanceObserver((list) => {
    collections += list.getEntries().length;
  });
  observer.observe({ entryTypes: ['gc'] });
  push(dev, drv, rows, TOTAL);
  // Entries are delivered in a later turn of the loop.
  await new Promise((resolve) => setImmediate(resolve));
  await new Promise((resolve) => setImmediate(resolve));
  observer.disconnect();
  expect(collections).toBeLessThanOrEqual(5);
});
