/**
 * A hostile driver: random descriptor tables, indirect tables, available rings and indices against random sequences of
 * calls, with the ring rewritten between the calls. Whatever is in there, no call throws or runs on, rows name nothing
 * but guest memory, and the device writes nothing but its own part of the used ring.
 */
import fc from 'fast-check';
import { GuestMemory, MAX_INDIRECT_ENTRIES, SplitQueueDevice } from 'virtio-ring-ts';
import { RawRing, makeRows, writeDesc } from '../support/virtqueue/raw-ring';

const runTimeMs = Number(process.env.PROPERTY_MS ?? 4000);

const BASE = 0x1000;
const REGION = 0x400;
/** Three regions of 1 KiB: two adjacent, one apart beyond 4 GiB. */
const REGIONS: readonly (readonly [number, number])[] = [
  [11, BASE],
  [12, BASE + REGION],
  [13, 2 ** 33],
];
const ROW_CAPACITY = 96;
const ROW_GUARD = 8;

/** Numbers near everything that matters, so that random rings are often almost right. */
const gpaArb = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: BASE - 8, max: BASE + 2 * REGION + 8 }).map(BigInt) },
  { weight: 2, arbitrary: fc.integer({ min: -4, max: REGION }).map((n) => BigInt(2 ** 33) + BigInt(n)) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }) },
);
const lenArb = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 0, max: 64 }) },
  { weight: 3, arbitrary: fc.integer({ min: 0, max: 40 }).map((n) => 16 * n) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffffffff }) },
);
const flagsArb = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: 0, max: 7 }) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
);
const nextArb = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: 0, max: 9 }) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
);
const descArb = fc.tuple(gpaArb, lenArb, flagsArb, nextArb);
const u16 = fc.integer({ min: 0, max: 0xffff });

type Desc = [bigint, number, number, number];
type Step =
  | { op: 'desc'; i: number; d: Desc }
  | { op: 'table'; off: number; d: Desc }
  | { op: 'head'; i: number; v: number }
  | { op: 'idx'; v: number }
  | { op: 'ahead'; n: number }
  | { op: 'events'; v: number; flags: number }
  | { op: 'pop'; row: number; max: number }
  | { op: 'rewind' | 'push' | 'publish' | 'refresh' | 'enable' | 'disable' | 'reset' };

const stepArb: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ op: fc.constant('desc' as const), i: fc.nat(7), d: descArb }),
  fc.record({ op: fc.constant('table' as const), off: fc.nat(2 * REGION - 16), d: descArb }),
  fc.record({ op: fc.constant('head' as const), i: fc.nat(7), v: fc.oneof(fc.nat(8), u16) }),
  fc.record({ op: fc.constant('idx' as const), v: u16 }),
  { weight: 3, arbitrary: fc.record({ op: fc.constant('ahead' as const), n: fc.integer({ min: 0, max: 9 }) }) },
  fc.record({ op: fc.constant('events' as const), v: u16, flags: u16 }),
  {
    weight: 6,
    arbitrary: fc.record({ op: fc.constant('pop' as const), row: fc.nat(ROW_CAPACITY), max: fc.nat(ROW_CAPACITY) }),
  },
  fc.constantFrom('rewind', 'push', 'publish', 'refresh', 'enable', 'disable', 'reset').map((op) => ({ op })),
);

const ringArb = fc.record({
  size: fc.constantFrom(1, 2, 4, 8),
  base: fc.oneof(fc.constant(0), fc.integer({ min: 65528, max: 65535 }), u16),
  usedIdx: u16,
  indirect: fc.boolean(),
  eventIdx: fc.boolean(),
  descs: fc.array(descArb, { minLength: 8, maxLength: 8 }),
  tables: fc.array(fc.tuple(fc.nat(2 * REGION - 16), descArb), { maxLength: 24 }),
  heads: fc.array(fc.oneof({ weight: 6, arbitrary: fc.nat(7) }, u16), { minLength: 8, maxLength: 8 }),
});

function scenario(r: typeof ringArb extends fc.Arbitrary<infer T> ? T : never, steps: readonly Step[]): void {
  const ring = new RawRing(r.size);
  const memory = new GuestMemory(4);
  const views = REGIONS.map(([number, gpa]) => {
    const buffer = new SharedArrayBuffer(REGION);
    expect(memory.add(number, buffer, gpa, REGION)).toBe(true);
    return new DataView(buffer);
  });
  const writeTable = (off: number, d: Desc): void => {
    const whole = new DataView(new ArrayBuffer(16));
    writeDesc(whole, 0, ...d);
    for (let i = 0; i < 16; i++) views[off + i < REGION ? 0 : 1].setUint8((off + i) % REGION, whole.getUint8(i));
  };
  for (let i = 0; i < r.size; i++) ring.desc(i, ...r.descs[i]);
  for (const [off, d] of r.tables) writeTable(off, d);
  for (let i = 0; i < r.size; i++) ring.availHead(i, r.heads[i]);
  ring.availIdx = r.base;
  ring.usedIdx = r.usedIdx;

  const dev = new SplitQueueDevice(memory, ring.layout, r, r.base);
  const rows = makeRows(ROW_CAPACITY + ROW_GUARD);
  rows.region.fill(-7);
  const capped = { ...rows, capacity: ROW_CAPACITY };
  const held: number[] = [];
  const guestBytes = (): string => Buffer.concat(views.map((v) => Buffer.from(v.buffer))).toString('latin1');
  const driverPart = (): string => Buffer.from(ring.bytes.subarray(0, ring.usedAt)).toString('latin1');

  for (const step of steps) {
    switch (step.op) {
      case 'desc':
        if (step.i < r.size) ring.desc(step.i, ...step.d);
        continue;
      case 'table':
        writeTable(step.off, step.d);
        continue;
      case 'head':
        ring.availHead(step.i, step.v);
        continue;
      case 'idx':
        ring.availIdx = step.v;
        continue;
      case 'ahead':
        ring.availIdx = dev.lastAvail + step.n;
        continue;
      case 'events':
        ring.usedEvent = step.v;
        ring.availFlags = step.flags;
        continue;
      default:
    }
    const before = guestBytes();
    const driverBefore = driverPart();
    switch (step.op) {
      case 'pop': {
        const at = dev.lastAvail;
        const n = dev.pop(capped, step.row, step.max);
        if (n < 0 || !dev.popped) {
          expect(dev.lastAvail).toBe(at);
          break;
        }
        expect(dev.head).toBeLessThan(r.size);
        held.push(dev.head);
        expect(n).toBeLessThanOrEqual(Math.min(step.max, r.size + MAX_INDIRECT_ENTRIES));
        expect(n).toBe(dev.readableRows + dev.writableRows);
        let bytes = 0;
        for (let i = step.row; i < step.row + n; i++) {
          expect([11, 12, 13]).toContain(rows.region[i]);
          expect(rows.length[i]).toBeGreaterThan(0);
          expect(rows.offset[i]).toBeGreaterThanOrEqual(0);
          expect(rows.offset[i] + rows.length[i]).toBeLessThanOrEqual(REGION);
          bytes += rows.length[i];
        }
        expect(bytes).toBe(dev.readableBytes + dev.writableBytes);
        break;
      }
      case 'rewind':
        if (held.pop() !== undefined) dev.rewind(1);
        break;
      case 'push': {
        const head = held.shift();
        if (head !== undefined) dev.pushUsed(head, 0);
        break;
      }
      case 'publish':
        dev.publish();
        expect(ring.usedIdx).toBe(dev.usedIdx);
        break;
      case 'refresh':
        expect(dev.refresh()).toBeLessThanOrEqual(r.size);
        break;
      case 'enable':
        dev.enableNotify();
        break;
      case 'disable':
        dev.disableNotify();
        break;
      case 'reset':
        dev.resetSignalled();
    }
    expect(dev.pending).toBeLessThanOrEqual(r.size);
    expect(dev.outstanding).toBe(held.length);
    expect(held.length).toBeLessThanOrEqual(r.size);
    expect(guestBytes()).toBe(before);
    expect(driverPart()).toBe(driverBefore);
  }
  expect(ring.guardsIntact()).toBe(true);
  for (let i = ROW_CAPACITY; i < ROW_CAPACITY + ROW_GUARD; i++) expect(rows.region[i]).toBe(-7);
}

it('survives any ring and any sequence of calls', () => {
  let popped = 0;
  fc.assert(
    fc.property(ringArb, fc.array(stepArb, { minLength: 1, maxLength: 40 }), (ring, steps) => {
      popped++;
      scenario(ring, steps);
    }),
    { numRuns: 1_000_000, interruptAfterTimeLimit: runTimeMs, markInterruptAsFailure: false },
  );
  expect(popped).toBeGreaterThan(50);
}, 120_000);

it('the generator makes all outcomes: chains popped, and most faults', () => {
  const seen = new Map<number, number>();
  const note = (n: number): void => void seen.set(n > 0 ? 1 : n, (seen.get(n > 0 ? 1 : n) ?? 0) + 1);
  for (const r of fc.sample(ringArb, { numRuns: 4000, seed: 1 })) {
    const ring = new RawRing(r.size);
    const memory = new GuestMemory(4);
    for (const [number, gpa] of REGIONS) memory.add(number, new SharedArrayBuffer(REGION), gpa, REGION);
    for (let i = 0; i < r.size; i++) ring.desc(i, ...r.descs[i]);
    for (let i = 0; i < r.size; i++) ring.availHead(i, r.heads[i]);
    ring.availIdx = r.base + r.size;
    const dev = new SplitQueueDevice(memory, ring.layout, r, r.base);
    note(dev.pop(makeRows(ROW_CAPACITY), 0, ROW_CAPACITY));
  }
  for (const outcome of [1, 0, -2, -3, -4, -5, -6, -7, -8])
    expect([outcome, seen.has(outcome)]).toEqual([outcome, true]);
});
