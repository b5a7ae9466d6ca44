import { SplitQueueDevice } from 'virtio-ring-ts';
import {
  HIGH,
  INDIRECT,
  LOW,
  MID,
  NEXT,
  PLAIN,
  RawRing,
  WRITE,
  makeDevice,
  makeMemory,
  makeRows,
  rowsOf,
  writeDesc,
} from '../../support/virtqueue/raw-ring';
import type { Fixture } from '../../support/virtqueue/raw-ring';

const rows = makeRows(64);

describe('SplitQueueDevice.pop: descriptor formats', () => {
  let ring: RawRing;
  let mem: Fixture;
  let dev: SplitQueueDevice;
  beforeEach(() => {
    ring = new RawRing(8);
    mem = makeMemory();
    dev = makeDevice(ring, mem.memory);
  });

  it('finds nothing in an empty ring', () => {
    expect(dev.pop(rows, 0, 64)).toBe(0);
    expect(dev.head).toBe(-1);
    expect(dev.popped).toBe(false);
  });

  it('pops one direct descriptor', () => {
    ring.desc(3, LOW + 0x100, 60);
    ring.offer(0, 3);
    expect(dev.pop(rows, 5, 64)).toBe(1);
    expect(dev.head).toBe(3);
    expect(rowsOf(rows, 5, 1)).toEqual([[7, 0x100, 60]]);
    expect([dev.readableRows, dev.writableRows, dev.readableBytes, dev.writableBytes]).toEqual([1, 0, 60, 0]);
    expect(dev.lastAvail).toBe(1);
    expect(dev.pop(rows, 0, 64)).toBe(0);
    expect(dev.head).toBe(-1);
  });

  it('follows a chain, readable rows before writable ones', () => {
    ring.desc(7, LOW, 10, NEXT, 2);
    ring.desc(2, HIGH + 0x10, 20, NEXT, 0);
    ring.desc(0, MID, 30, NEXT | WRITE, 5);
    ring.desc(5, LOW + 0x200, 40, WRITE, 1 /* ignored: NEXT is not set */);
    ring.offer(0, 7);
    expect(dev.pop(rows, 0, 64)).toBe(4);
    expect(rowsOf(rows, 0, 4)).toEqual([
      [7, 0, 10],
      [5, 0x10, 20],
      [3, 0, 30],
      [7, 0x200, 40],
    ]);
    expect([dev.readableRows, dev.writableRows, dev.readableBytes, dev.writableBytes]).toEqual([2, 2, 30, 70]);
  });

  it('takes a chain of all N descriptors', () => {
    for (let i = 0; i < 8; i++) ring.desc(i, LOW + i, 1, i < 7 ? NEXT : 0, i + 1);
    ring.offer(0, 0);
    expect(dev.pop(rows, 0, 64)).toBe(8);
  });

  it('reads an indirect table, also one longer than the ring', () => {
    for (let i = 0; i < 20; i++) writeDesc(mem.mid, 0x400 + 16 * i, LOW + 100 * i, 100, i < 19 ? NEXT : 0, i + 1);
    ring.desc(1, MID + 0x400, 20 * 16, INDIRECT | WRITE /* ignored */);
    ring.offer(0, 1);
    expect(dev.pop(rows, 0, 64)).toBe(20);
    expect(rowsOf(rows, 19, 1)).toEqual([[7, 1900, 100]]);
    expect(dev.readableBytes).toBe(2000);
    expect(dev.writableRows).toBe(0);
  });

  it('follows next inside a table in any order', () => {
    writeDesc(mem.low, 0, LOW + 0x1000, 1, NEXT, 2);
    writeDesc(mem.low, 16, LOW + 0x3000, 3, WRITE, 0);
    writeDesc(mem.low, 32, LOW + 0x2000, 2, NEXT, 1);
    ring.desc(0, LOW, 48, INDIRECT);
    ring.offer(0, 0);
    expect(dev.pop(rows, 0, 64)).toBe(3);
    expect(rowsOf(rows, 0, 3).map((r) => r[1])).toEqual([0x1000, 0x2000, 0x3000]);
  });

  it('accepts an indirect table at the end of a direct chain', () => {
    writeDesc(mem.low, 0, MID, 5, NEXT, 1);
    writeDesc(mem.low, 16, MID + 8, 6, WRITE, 0);
    ring.desc(4, LOW + 0x800, 4, NEXT, 6);
    ring.desc(6, LOW, 32, INDIRECT);
    ring.offer(0, 4);
    expect(dev.pop(rows, 0, 64)).toBe(3);
    expect(rowsOf(rows, 0, 3)).toEqual([
      [7, 0x800, 4],
      [3, 0, 5],
      [3, 8, 6],
    ]);
    expect([dev.readableBytes, dev.writableBytes]).toEqual([9, 6]);
  });

  it('reads an indirect table that lies across two regions, split inside a descriptor', () => {
    const table = new DataView(new ArrayBuffer(48));
    writeDesc(table, 0, LOW + 0x10, 11, NEXT, 1);
    writeDesc(table, 16, HIGH + 0x20, 22, NEXT, 2);
    writeDesc(table, 32, MID + 0x8000, 33, WRITE, 0);
    const at = MID - 16 - 7;
    for (let i = 0; i < 48; i++) {
      const b = table.getUint8(i);
      if (at + i < MID) mem.low.setUint8(at + i - LOW, b);
      else mem.mid.setUint8(at + i - MID, b);
    }
    ring.desc(0, at, 48, INDIRECT);
    ring.offer(0, 0);
    expect(dev.pop(rows, 0, 64)).toBe(3);
    expect(rowsOf(rows, 0, 3)).toEqual([
      [7, 0x10, 11],
      [5, 0x20, 22],
      [3, 0x8000, 33],
    ]);
  });

  it('splits a buffer that crosses into the next region', () => {
    ring.desc(0, MID - 100, 300, WRITE);
    ring.offer(0, 0);
    expect(dev.pop(rows, 0, 64)).toBe(2);
    expect(rowsOf(rows, 0, 2)).toEqual([
      [7, 0x10000 - 100, 100],
      [3, 0, 200],
    ]);
    expect([dev.writableRows, dev.writableBytes]).toEqual([2, 300]);
  });

  it('skips zero-length descriptors without translating them', () => {
    ring.desc(0, 0xdead_beef_dead_beefn, 0, NEXT, 1);
    ring.desc(1, LOW, 8, NEXT, 2);
    ring.desc(2, 0n, 0, WRITE);
    ring.offer(0, 0);
    expect(dev.pop(rows, 0, 64)).toBe(1);
    expect([dev.readableBytes, dev.writableBytes]).toEqual([8, 0]);
  });

  it('pops a chain without any byte, with 0 rows and a head', () => {
    ring.desc(6, 0, 0);
    ring.offer(0, 6);
    expect(dev.pop(rows, 0, 64)).toBe(0);
    expect(dev.head).toBe(6);
    expect(dev.popped).toBe(true);
    dev.pushUsed(6, 0);
    dev.publish();
    expect(ring.usedElem(0)).toEqual([6, 0]);
  });
});

describe('SplitQueueDevice: indices', () => {
  it('wraps from 65535 to 0 on both rings', () => {
    const ring = new RawRing(4);
    const mem = makeMemory();
    for (let i = 0; i < 4; i++) ring.desc(i, LOW + 16 * i, 16);
    ring.availIdx = 65534;
    ring.usedIdx = 65534;
    const dev = makeDevice(ring, mem.memory, PLAIN, 65534);
    expect(dev.usedIdx).toBe(65534);
    for (let i = 0; i < 4; i++) ring.availHead(65534 + i, 3 - i);
    ring.availIdx = 65538;
    expect(dev.refresh()).toBe(4);
    for (let i = 0; i < 4; i++) {
      expect(dev.pop(rows, 0, 64)).toBe(1);
      expect(dev.head).toBe(3 - i);
    }
    expect(dev.lastAvail).toBe(2);
    expect(dev.pending).toBe(0);
    for (let i = 0; i < 4; i++) dev.pushUsed(i, i * 10);
    expect([dev.publishedIdx, dev.usedIdx]).toEqual([65534, 2]);
    dev.publish();
    expect(ring.usedIdx).toBe(2);
    expect([65534, 65535, 65536, 65537].map((i) => ring.usedElem(i))).toEqual([
      [0, 0],
      [1, 10],
      [2, 20],
      [3, 30],
    ]);
  });

  it('hides used elements until publish', () => {
    const ring = new RawRing(4);
    const dev = makeDevice(ring, makeMemory().memory);
    ring.desc(0, LOW, 1);
    ring.availHead(0, 0);
    ring.availHead(1, 0);
    ring.availIdx = 2;
    dev.pop(rows, 0, 64);
    dev.pop(rows, 0, 64);
    dev.pushUsed(0, 0);
    dev.pushUsed(0, 0);
    expect(ring.usedIdx).toBe(0);
    dev.publish();
    expect(ring.usedIdx).toBe(2);
  });

  it('rewinds pops, newest first, and pops the same chains again', () => {
    const ring = new RawRing(8);
    const dev = makeDevice(ring, makeMemory().memory, PLAIN, 65535);
    for (let i = 0; i < 8; i++) ring.desc(i, LOW + i, 1 + i, WRITE);
    for (let i = 0; i < 5; i++) ring.availHead(65535 + i, i);
    ring.availIdx = 65540;
    for (let i = 0; i < 4; i++) dev.pop(rows, 0, 64);
    dev.pushUsed(0, 1);
    expect(dev.outstanding).toBe(3);
    dev.rewind(3);
    expect([dev.lastAvail, dev.pending, dev.outstanding]).toEqual([0, 4, 0]);
    expect(dev.pop(rows, 0, 64)).toBe(1);
    expect(dev.head).toBe(1);
    expect(dev.writableBytes).toBe(2);
  });

  it('takes used.idx from the ring and starts at the given base', () => {
    const ring = new RawRing(8);
    ring.usedIdx = 77;
    ring.availIdx = 80;
    const dev = makeDevice(ring, makeMemory().memory, PLAIN, 79);
    expect([dev.usedIdx, dev.publishedIdx, dev.lastAvail]).toEqual([77, 77, 79]);
    expect(dev.refresh()).toBe(1);
  });

  it('works on a ring of one descriptor and on one of 32768', () => {
    for (const size of [1, 32768]) {
      const ring = new RawRing(size);
      ring.usedIdx = 65535;
      const dev = makeDevice(ring, makeMemory().memory, PLAIN, 65535);
      ring.desc(size - 1, LOW, 9);
      ring.offer(65535, size - 1);
      expect(dev.pop(rows, 0, 64)).toBe(1);
      dev.pushUsed(dev.head, 0);
      dev.publish();
      expect(ring.usedIdx).toBe(0);
      expect(ring.usedElem(65535)).toEqual([size - 1, 0]);
      expect(ring.guardsIntact()).toBe(true);
    }
  });

  it('refuses layouts that do not fit', () => {
    const ring = new RawRing(8);
    const { memory } = makeMemory();
    const make = (change: object): (() => SplitQueueDevice) => {
      return () => new SplitQueueDevice(memory, { ...ring.layout, ...change }, PLAIN, 0);
    };
    const end = ring.buffer.byteLength;
    for (const size of [0, 3, -8, 65536, 1.5, NaN]) expect(make({ size })).toThrow(RangeError);
    expect(make({ avail: { buffer: ring.buffer, offset: 65 } })).toThrow(RangeError);
    expect(make({ used: { buffer: ring.buffer, offset: 66 } })).toThrow(RangeError);
    expect(make({ desc: { buffer: ring.buffer, offset: end - 127 } })).toThrow(RangeError);
    expect(make({ avail: { buffer: ring.buffer, offset: end - 20 } })).toThrow(RangeError);
    expect(make({ used: { buffer: ring.buffer, offset: end - 68 } })).toThrow(RangeError);
    expect(make({ used: { buffer: ring.buffer, offset: -4 } })).toThrow(RangeError);
    expect(make({ desc: { buffer: ring.buffer, offset: end - 128 } })).not.toThrow();
  });
});
