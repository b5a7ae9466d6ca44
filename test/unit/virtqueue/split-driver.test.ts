import { FAULT_USED, SplitQueueDriver } from 'virtio-ring-ts';
import {
  ALL,
  HIGH,
  LOW,
  PLAIN,
  RawRing,
  makeDevice,
  makeMemory,
  makeRows,
  rowsOf,
} from '../../support/virtqueue/raw-ring';

const rows = makeRows(64);
const seg = (gpa: number, length: number): { gpa: number; length: number } => ({ gpa, length });

describe('SplitQueueDriver', () => {
  it('writes direct chains as virtio 1.2 §2.7.5 has them', () => {
    const ring = new RawRing(4);
    const drv = new SplitQueueDriver(ring.layout, PLAIN);
    const head = drv.addChain([seg(HIGH, 10), seg(LOW, 20)], [seg(LOW + 64, 30)], 42);
    expect(head).toBe(0);
    expect(drv.freeCount).toBe(1);
    expect(ring.dv.getUint16(ring.availAt + 2, true)).toBe(0); // not visible yet
    expect(drv.publish()).toBe(true);
    expect(ring.dv.getUint16(ring.availAt + 2, true)).toBe(1);
    const d = (i: number): unknown[] => {
      const at = ring.descAt + 16 * i;
      return [
        ring.dv.getBigUint64(at, true),
        ring.dv.getUint32(at + 8, true),
        ring.dv.getUint16(at + 12, true),
        ring.dv.getUint16(at + 14, true),
      ];
    };
    expect([d(0), d(1), d(2)]).toEqual([
      [BigInt(HIGH), 10, 1, 1],
      [BigInt(LOW), 20, 1, 2],
      [BigInt(LOW + 64), 30, 2, 0],
    ]);
    expect(ring.guardsIntact()).toBe(true);
  });

  it('says when descriptors run out, and reuses freed ones', () => {
    const ring = new RawRing(4);
    const mem = makeMemory();
    const drv = new SplitQueueDriver(ring.layout, PLAIN, { start: 65533 });
    const dev = makeDevice(ring, mem.memory, PLAIN, 65533);
    for (let round = 0; round < 50; round++) {
      const a = drv.addChain([seg(LOW, 1), seg(LOW, 2)], [], 2 * round);
      const b = drv.addChain([seg(LOW, 3)], [seg(LOW, 4)], 2 * round + 1);
      expect(a).toBeGreaterThanOrEqual(0);
      expect(b).toBeGreaterThanOrEqual(0);
      expect(drv.addChain([seg(LOW, 1)], [])).toBe(-1);
      drv.publish();
      const order: number[] = [];
      while (dev.pop(rows, 0, 64) > 0) order.push(dev.head);
      expect(order).toEqual([a, b]);
      for (const h of round % 2 === 0 ? order : order.reverse()) dev.pushUsed(h, h === b ? 4 : 0);
      dev.publish();
      const tokens: number[] = [];
      while (drv.pollUsed() === 1) {
        tokens.push(drv.usedToken);
        expect(drv.usedLen).toBe(drv.usedHead === b ? 4 : 0);
      }
      expect(tokens.sort((x, y) => x - y)).toEqual([2 * round, 2 * round + 1]);
      expect([drv.freeCount, drv.inFlight]).toEqual([4, 0]);
    }
  });

  it('builds indirect chains that take one descriptor each', () => {
    const ring = new RawRing(2);
    const mem = makeMemory();
    const area = {
      place: { buffer: mem.low.buffer as SharedArrayBuffer, offset: 0x100 },
      gpa: LOW + 0x100,
      entries: 5,
    };
    const drv = new SplitQueueDriver(ring.layout, ALL, { indirectArea: area });
    const dev = makeDevice(ring, mem.memory, ALL);
    const five = [0, 1, 2, 3, 4].map((i) => seg(HIGH + 16 * i, i + 1));
    expect(drv.addChain(five.slice(0, 3), five.slice(3), 1, true)).toBe(0);
    expect(drv.addChain(five.slice(0, 1), [], 2, true)).toBe(1);
    expect(drv.freeCount).toBe(0);
    expect(() => drv.addChain([...five, seg(LOW, 1)], [], 0, true)).toThrow(RangeError);
    drv.publish();
    expect(dev.pop(rows, 0, 64)).toBe(5);
    expect(rowsOf(rows, 0, 5)).toEqual([0, 1, 2, 3, 4].map((i) => [5, 16 * i, i + 1]));
    expect([dev.readableBytes, dev.writableBytes]).toEqual([6, 9]);
    expect(dev.pop(rows, 0, 64)).toBe(1);
  });

  it('refuses empty chains and indirect ones that were not negotiated', () => {
    const drv = new SplitQueueDriver(new RawRing(4).layout, { indirect: false, eventIdx: false });
    expect(() => drv.addChain([], [])).toThrow(RangeError);
    expect(() => drv.addChain([seg(LOW, 1)], [], 0, true)).toThrow(RangeError);
  });

  it('asks for kicks as the device wishes', () => {
    const mem = makeMemory();
    for (const features of [ALL, PLAIN]) {
      const ring = new RawRing(8);
      const drv = new SplitQueueDriver(ring.layout, features, { start: 65535 });
      const dev = makeDevice(ring, mem.memory, features, 65535);
      const add = (): boolean => {
        drv.addChain([seg(LOW, 1)], []);
        return drv.publish();
      };
      expect(dev.enableNotify()).toBe(false);
      expect(add()).toBe(true);
      dev.disableNotify();
      expect(add()).toBe(false);
      expect(drv.publish()).toBe(false); // nothing new
      expect(dev.enableNotify()).toBe(true); // it was not told of one
      while (dev.pop(rows, 0, 64) > 0);
      expect(dev.enableNotify()).toBe(false);
      expect(add()).toBe(true);
    }
  });

  it('gets called as it wishes', () => {
    const mem = makeMemory();
    for (const features of [ALL, PLAIN]) {
      const ring = new RawRing(8);
      const drv = new SplitQueueDriver(ring.layout, features, { start: 65532 });
      const dev = makeDevice(ring, mem.memory, features, 65532);
      for (let i = 0; i < 8; i++) drv.addChain([seg(LOW, 1)], []);
      drv.publish();
      const give = (): boolean => {
        dev.pop(rows, 0, 64);
        dev.pushUsed(dev.head, 0);
        return dev.publish();
      };
      expect(drv.enableCallbacks()).toBe(false);
      expect(give()).toBe(true);
      drv.disableCallbacks();
      expect(drv.pollUsed()).toBe(1);
      expect(give()).toBe(false);
      expect(drv.enableCallbacks()).toBe(true); // one came while they were off
      expect(drv.pollUsed()).toBe(1);
      expect(drv.enableCallbacks()).toBe(false);
      expect(give()).toBe(true);
      if (!features.eventIdx) continue;
      expect(drv.pollUsed()).toBe(1);
      expect(drv.enableCallbacksAfter(2)).toBe(false);
      expect([give(), give(), give()]).toEqual([false, false, true]);
      expect(drv.enableCallbacksAfter(2)).toBe(true);
    }
  });

  it.each<[string, (r: RawRing) => void]>([
    ['a head outside the ring', (r) => r.dv.setUint32(r.usedAt + 4, 4, true)],
    ['a head that is not out', (r) => r.dv.setUint32(r.usedAt + 4, 1, true)],
    ['more bytes than the chain holds', (r) => r.dv.setUint32(r.usedAt + 8, 17, true)],
    ['an index too far ahead', (r) => (r.usedIdx = 2)],
    ['an index that went backwards', (r) => (r.usedIdx = 65535)],
  ])('refuses from the device %s', (_name, spoil) => {
    const ring = new RawRing(4);
    const drv = new SplitQueueDriver(ring.layout, PLAIN);
    drv.addChain([], [seg(LOW, 16)]);
    drv.publish();
    ring.usedIdx = 1;
    ring.dv.setUint32(ring.usedAt + 4, 0, true);
    ring.dv.setUint32(ring.usedAt + 8, 16, true);
    spoil(ring);
    expect(drv.pollUsed()).toBe(FAULT_USED);
    expect(drv.inFlight).toBe(1);
  });
});
