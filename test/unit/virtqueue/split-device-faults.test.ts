import {
  FAULT_ADDRESS,
  FAULT_AVAIL_INDEX,
  FAULT_HEAD,
  FAULT_INDIRECT,
  FAULT_LENGTH,
  FAULT_LOOP,
  FAULT_NEXT,
  FAULT_ORDER,
  FAULT_ROWS,
  FAULT_USED,
  GuestMemory,
  type SplitQueueDevice,
  faultName,
} from 'virtio-ring-ts';
import {
  HIGH,
  INDIRECT,
  LOW,
  MID,
  NEXT,
  RawRing,
  WRITE,
  makeDevice,
  makeMemory,
  makeRows,
  writeDesc,
} from '../../support/virtqueue/raw-ring';
import type { Fixture } from '../../support/virtqueue/raw-ring';

const rows = makeRows(2048);

describe('SplitQueueDevice: faults', () => {
  let ring: RawRing;
  let mem: Fixture;
  let dev: SplitQueueDevice;
  beforeEach(() => {
    ring = new RawRing(8);
    mem = makeMemory();
    dev = makeDevice(ring, mem.memory);
  });

  /** The fault of the chain at descriptor 0; nothing may have been popped. */
  function fault(): number {
    ring.offer(0, 0);
    const code = dev.pop(rows, 0, rows.capacity);
    if (code < 0) expect([dev.head, dev.lastAvail, dev.outstanding, dev.pending]).toEqual([-1, 0, 0, 1]);
    return code;
  }

  it('an available index more than N ahead', () => {
    ring.availIdx = 9;
    expect(dev.refresh()).toBe(FAULT_AVAIL_INDEX);
    expect(dev.pop(rows, 0, 64)).toBe(FAULT_AVAIL_INDEX);
    expect(dev.pending).toBe(0);
    expect(dev.enableNotify()).toBe(true);
    ring.availIdx = 8;
    expect(dev.refresh()).toBe(8);
  });

  it('an available index that went backwards', () => {
    ring.availIdx = 65535;
    expect(dev.pop(rows, 0, 64)).toBe(FAULT_AVAIL_INDEX);
  });

  it('N chains more while one is out: taken back, it would be one too many', () => {
    for (let i = 0; i < 8; i++) ring.desc(i, BigInt(LOW), 16, 0, 0);
    ring.availIdx = 1;
    expect(dev.pop(rows, 0, 64)).toBe(1);
    ring.availIdx = 9;
    expect(dev.refresh()).toBe(FAULT_AVAIL_INDEX);
    dev.rewind(1);
    expect(dev.pending).toBe(1);
    ring.availIdx = 8;
    expect(dev.refresh()).toBe(8);
  });

  it('more than N chains out at the same time', () => {
    ring.desc(0, LOW, 1);
    ring.availIdx = 8;
    for (let i = 0; i < 8; i++) expect(dev.pop(rows, 0, 64)).toBe(1);
    ring.availIdx = 9; // nothing was given back
    expect(dev.pop(rows, 0, 64)).toBe(FAULT_AVAIL_INDEX);
    dev.pushUsed(0, 0);
    expect(dev.pop(rows, 0, 64)).toBe(1);
  });

  it.each([8, 9, 0x8000, 0xffff])('head %i', (head) => {
    ring.offer(0, head);
    expect(dev.pop(rows, 0, 64)).toBe(FAULT_HEAD);
    expect(dev.head).toBe(-1);
  });

  it('next outside the table, direct and indirect', () => {
    ring.desc(0, LOW, 1, NEXT, 8);
    expect(fault()).toBe(FAULT_NEXT);
    writeDesc(mem.low, 0, LOW, 1, NEXT, 2);
    ring.desc(0, LOW, 32, INDIRECT);
    expect(fault()).toBe(FAULT_NEXT);
  });

  it('loops, direct and indirect, also of empty descriptors', () => {
    ring.desc(0, LOW, 0, NEXT, 1);
    ring.desc(1, LOW, 0, NEXT, 0);
    expect(fault()).toBe(FAULT_LOOP);
    ring.desc(0, LOW, 1, NEXT, 0);
    expect(fault()).toBe(FAULT_LOOP);
    writeDesc(mem.low, 0, LOW, 0, NEXT, 1);
    writeDesc(mem.low, 16, LOW, 0, NEXT, 0);
    ring.desc(0, LOW, 32, INDIRECT);
    expect(fault()).toBe(FAULT_LOOP);
  });

  it.each<[string, number | bigint, number]>([
    ['below all regions', 0, 1],
    ['last byte outside', HIGH + 0xffff, 2],
    ['in a hole', MID + 0x10000, 1],
    ['above 2^53', 1n << 53n, 1],
    ['top of the address space', 0xffff_ffff_ffff_fff8n, 0x10],
  ])('address %s', (_name, gpa, len) => {
    ring.desc(0, gpa, len);
    expect(fault()).toBe(FAULT_ADDRESS);
  });

  it.each<[string, number | bigint]>([
    ['unmapped', 0x1000],
    ['above 2^53', 1n << 60n],
    ['running out of memory inside a descriptor', MID + 0x10000 - 24],
  ])('indirect table %s', (_name, gpa) => {
    writeDesc(mem.mid, 0x10000 - 24, 0, 0, NEXT, 1); // its successor ends 8 bytes past the region
    ring.desc(0, gpa, 32, INDIRECT);
    expect(fault()).toBe(FAULT_ADDRESS);
  });

  it('readable after writable', () => {
    ring.desc(0, LOW, 1, NEXT | WRITE, 1);
    ring.desc(1, LOW, 1);
    expect(fault()).toBe(FAULT_ORDER);
    writeDesc(mem.low, 0, LOW, 1, 0, 0);
    ring.desc(1, LOW, 16, INDIRECT);
    expect(fault()).toBe(FAULT_ORDER);
  });

  it.each([0, 8, 17, 16 * 1025, 0xfffffff0])('indirect table of %i bytes', (len) => {
    ring.desc(0, LOW, len, INDIRECT);
    expect(fault()).toBe(FAULT_INDIRECT);
  });

  it('takes a table of 1024 entries', () => {
    for (let i = 0; i < 1024; i++) writeDesc(mem.low, 16 * i, MID + i, 1, i < 1023 ? NEXT : 0, i + 1);
    ring.desc(0, LOW, 16 * 1024, INDIRECT);
    expect(fault()).toBe(1024);
  });

  it('nested, with NEXT, or not negotiated', () => {
    ring.desc(0, LOW, 16, INDIRECT);
    writeDesc(mem.low, 0, LOW, 16, INDIRECT, 0);
    expect(fault()).toBe(FAULT_INDIRECT);
    writeDesc(mem.low, 0, LOW, 16, 0, 0);
    ring.desc(0, LOW, 16, INDIRECT | NEXT, 1);
    expect(fault()).toBe(FAULT_INDIRECT);
    ring.desc(0, LOW, 16, INDIRECT);
    expect(fault()).toBe(1);
    dev = makeDevice(ring, mem.memory, { indirect: false, eventIdx: false });
    expect(fault()).toBe(FAULT_INDIRECT);
  });

  it('a total above 2^31 - 1 bytes', () => {
    ring.desc(0, LOW, 0x10000, NEXT, 1);
    ring.desc(1, MID, 0x7fff0000);
    expect(fault()).toBe(FAULT_LENGTH);
    ring.desc(0, LOW, 0xffffffff);
    expect(fault()).toBe(FAULT_LENGTH);
    ring.desc(0, LOW, 0x7fffffff); // allowed by length, but memory ends before
    expect(fault()).toBe(FAULT_ADDRESS);
  });

  it('more segments than rows: nothing is popped, more room helps', () => {
    for (let i = 0; i < 3; i++) ring.desc(i, LOW + i, 1, i < 2 ? NEXT : 0, i + 1);
    ring.offer(0, 0);
    expect(dev.pop(rows, 10, 2)).toBe(FAULT_ROWS);
    expect([dev.head, dev.lastAvail]).toEqual([-1, 0]);
    expect(dev.pop(rows, rows.capacity - 2, 64)).toBe(FAULT_ROWS); // the table's own end
    expect(dev.pop(rows, 10, 3)).toBe(3);
  });

  it('bounds the rows of a buffer over many tiny regions', () => {
    const memory = new GuestMemory(512);
    for (let i = 0; i < 512; i++) memory.add(i, new SharedArrayBuffer(1), 0x5000 + i, 1);
    dev = makeDevice(ring, memory);
    ring.desc(0, 0x5000, 512);
    ring.offer(0, 0);
    expect(dev.pop(rows, 0, 511)).toBe(FAULT_ROWS);
    expect(dev.pop(rows, 0, 512)).toBe(512);
    expect(rows.region[511]).toBe(511);
  });
});

it('names every fault', () => {
  const codes = [FAULT_AVAIL_INDEX, FAULT_HEAD, FAULT_NEXT, FAULT_LOOP, FAULT_ADDRESS, FAULT_ORDER];
  codes.push(FAULT_INDIRECT, FAULT_LENGTH, FAULT_ROWS, FAULT_USED);
  const names = codes.map(faultName);
  expect(new Set(names).size).toBe(codes.length);
  for (const n of names) expect(n).toMatch(/^[a-z_]+$/);
  expect(names).not.toContain('unknown');
  expect(faultName(0)).toBe('unknown');
});
