/**
 * Device against driver against a naive queue: random interleavings of what both sides do, with the indices near the
 * wrap-around. The model is arrays of objects; it also knows who sleeps, and a side that sleeps must be woken.
 */
import fc from 'fast-check';
import { GuestMemory, SplitQueueDevice, SplitQueueDriver } from 'virtio-ring-ts';
import type { Rows } from 'virtio-ring-ts';
import { RawRing, makeRows } from '../support/virtqueue/raw-ring';

const runTimeMs = Number(process.env.PROPERTY_MS ?? 4000);
const GPA = 2 ** 34;
const HALF = 0x8000;

interface Chain {
  readonly token: number;
  readonly readable: readonly number[];
  readonly writable: readonly number[];
  readonly descs: number;
}

/** The naive queue: a chain moves from list to list. */
interface Model {
  readonly size: number;
  readonly eventIdx: boolean;
  nextToken: number;
  free: number;
  committed: Chain[]; // not published
  available: Chain[]; // published, not popped
  popped: { chain: Chain; head: number }[];
  pushed: { chain: Chain; len: number }[]; // not published
  used: { chain: Chain; len: number }[]; // published, not polled
  /** available chains the device has seen (refresh). */
  known: number;
  /** Both indices as plain counts from the start, and the count each side asked to be told of; flags without EVENT_IDX. */
  availCount: number;
  kickAt: number;
  kickOff: boolean;
  usedCount: number;
  polledCount: number;
  signalledCount: number;
  callAt: number;
  callOff: boolean;
  deviceSleeps: boolean;
  driverSleeps: boolean;
  firstSignal: boolean;
}

interface Real {
  readonly dev: SplitQueueDevice;
  readonly drv: SplitQueueDriver;
  readonly rows: Rows;
}

type Cmd = fc.Command<Model, Real>;
const always = (): boolean => true;

const add = (readable: number[], writable: number[], indirect: boolean): Cmd => ({
  check: always,
  run(m, r) {
    const count = readable.length + writable.length;
    const descs = indirect ? 1 : count;
    const token = m.nextToken++;
    // Lengths are told apart by the addresses: segment i of a chain starts at 64 * i.
    let i = 0;
    r.drv.begin();
    for (const n of readable) r.drv.addReadable(GPA + 64 * i++, n);
    for (const n of writable) r.drv.addWritable(GPA + 64 * i++, n);
    const head = r.drv.commit(token, indirect);
    if (descs > m.free) {
      expect(head).toBe(-1);
      return;
    }
    expect(head).toBeGreaterThanOrEqual(0);
    m.free -= descs;
    m.committed.push({ token, readable, writable, descs });
  },
  toString: () => `add(${readable.join()};${writable.join()};${String(indirect)})`,
});

const driverPublish: Cmd = {
  check: always,
  run(m, r) {
    const fresh = m.committed.length;
    const kick = r.drv.publish();
    m.available.push(...m.committed.splice(0));
    const old = m.availCount;
    m.availCount += fresh;
    expect(kick).toBe(fresh > 0 && (m.eventIdx ? old <= m.kickAt && m.kickAt < m.availCount : !m.kickOff));
    if (fresh > 0 && m.deviceSleeps) {
      expect(kick).toBe(true); // else it sleeps for ever
      m.deviceSleeps = false;
    }
  },
  toString: () => 'driver.publish',
};

const pop: Cmd = {
  check: always,
  run(m, r) {
    m.deviceSleeps = false;
    m.kickOff = true;
    r.dev.disableNotify();
    const n = r.dev.pop(r.rows, 3, 64);
    if (m.known === 0) m.known = m.available.length;
    const chain = m.available.shift();
    if (chain === undefined) {
      expect([n, r.dev.head]).toEqual([0, -1]);
      return;
    }
    m.known--;
    const segments = [...chain.readable, ...chain.writable];
    const rows = segments.flatMap((len, i) => (len > 0 ? [[64 * i, len]] : []));
    expect(n).toBe(rows.length);
    expect(rows.map((_, i) => [r.rows.offset[3 + i], r.rows.length[3 + i]])).toEqual(rows);
    const sum = (a: readonly number[]): number => a.reduce((x, y) => x + y, 0);
    expect([r.dev.readableBytes, r.dev.writableBytes]).toEqual([sum(chain.readable), sum(chain.writable)]);
    m.popped.push({ chain, head: r.dev.head });
  },
  toString: () => 'device.pop',
};

const rewind = (n: number): Cmd => ({
  check: (m) => m.popped.length >= n,
  run(m, r) {
    const back = m.popped.splice(m.popped.length - n);
    r.dev.rewind(n);
    m.available.unshift(...back.map((p) => p.chain));
    m.known += n;
    expect(r.dev.pending).toBe(m.known);
  },
  toString: () => `device.rewind(${String(n)})`,
});

/** Gives a popped chain back. Only the oldest or newest is in the list's right place for later rewinds. */
const push = (): Cmd => ({
  check: (m) => m.popped.length > 0,
  run(m, r) {
    const p = m.popped.shift();
    if (p === undefined) return;
    const len = p.chain.writable.reduce((x, y) => x + y, 0);
    r.dev.pushUsed(p.head, len);
    m.pushed.push({ chain: p.chain, len });
  },
  toString: () => 'device.pushUsed',
});

const devicePublish: Cmd = {
  check: always,
  run(m, r) {
    const fresh = m.pushed.length;
    const signal = r.dev.publish();
    m.used.push(...m.pushed.splice(0));
    if (fresh === 0) {
      expect(signal).toBe(false);
      return;
    }
    const old = m.signalledCount;
    m.usedCount += fresh;
    m.signalledCount = m.usedCount;
    const wanted = m.eventIdx ? old <= m.callAt && m.callAt < m.usedCount : !m.callOff;
    expect(signal).toBe(m.firstSignal || wanted);
    m.firstSignal = false;
    if (m.driverSleeps) expect(signal).toBe(true);
    m.driverSleeps = false;
  },
  toString: () => 'device.publish',
};

const deviceSleep: Cmd = {
  check: always,
  run(m, r) {
    const stay = r.dev.enableNotify();
    expect(stay).toBe(m.available.length > m.known);
    const missed = m.available.length - m.known;
    m.known = m.available.length;
    m.kickAt = m.availCount - (stay ? missed : 0);
    m.kickOff = stay;
    m.deviceSleeps = !stay;
    if (stay) r.dev.disableNotify();
  },
  toString: () => 'device.enableNotify',
};

const poll: Cmd = {
  check: always,
  run(m, r) {
    m.driverSleeps = false;
    m.callOff = true;
    m.callAt = m.polledCount - 1;
    r.drv.disableCallbacks();
    const got = r.drv.pollUsed();
    const u = m.used.shift();
    expect(got).toBe(u === undefined ? 0 : 1);
    if (u === undefined) return;
    expect([r.drv.usedToken, r.drv.usedLen]).toEqual([u.chain.token, u.len]);
    m.polledCount++;
    m.free += u.chain.descs;
    expect(r.drv.freeCount).toBe(m.free);
  },
  toString: () => 'driver.pollUsed',
};

const driverSleep: Cmd = {
  check: always,
  run(m, r) {
    const stay = r.drv.enableCallbacks();
    expect(stay).toBe(m.used.length > 0);
    m.callAt = m.polledCount;
    m.callOff = false;
    m.driverSleeps = !stay;
  },
  toString: () => 'driver.enableCallbacks',
};

const lens = (min: number): fc.Arbitrary<number[]> =>
  fc.array(fc.integer({ min: 0, max: 64 }), { minLength: min, maxLength: 3 });
const commands = [
  fc.tuple(lens(1), lens(0), fc.boolean()).map(([a, b, i]) => add(a, b, i)),
  fc.tuple(lens(0), lens(1), fc.boolean()).map(([a, b, i]) => add(a, b, i)),
  fc.constant(driverPublish),
  fc.constant(pop),
  fc.integer({ min: 1, max: 3 }).map(rewind),
  fc.constant(null).map(push),
  fc.constant(devicePublish),
  fc.constant(deviceSleep),
  fc.constant(poll),
  fc.constant(driverSleep),
];

it('device and driver behave as a queue, and nobody sleeps through a wake-up', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(1, 2, 4, 8),
      fc.oneof(fc.constant(0), fc.integer({ min: 65500, max: 65535 })),
      fc.boolean(),
      fc.commands(commands, { maxCommands: 120, size: 'max' }),
      (size, start, eventIdx, cmds) => {
        const ring = new RawRing(size);
        const memory = new GuestMemory();
        const buffer = new SharedArrayBuffer(2 * HALF);
        memory.add(0, buffer, GPA, 2 * HALF);
        const features = { indirect: true, eventIdx };
        const indirectArea = { place: { buffer, offset: HALF }, gpa: GPA + HALF, entries: 6 };
        const drv = new SplitQueueDriver(ring.layout, features, { start, indirectArea });
        const dev = new SplitQueueDevice(memory, ring.layout, features, start);
        // Both are awake: the last thing either does on its way to sleep is to ask to be woken.
        dev.disableNotify();
        drv.disableCallbacks();
        if (eventIdx) ring.dv.setUint16(ring.usedAt + 4 + 8 * size, (start - 1) & 0xffff, true);
        const model: Model = {
          size,
          eventIdx,
          nextToken: 1,
          free: size,
          committed: [],
          available: [],
          popped: [],
          pushed: [],
          used: [],
          known: 0,
          availCount: 0,
          kickAt: -1,
          kickOff: true,
          usedCount: 0,
          polledCount: 0,
          signalledCount: 0,
          callAt: -1,
          callOff: true,
          deviceSleeps: false,
          driverSleeps: false,
          firstSignal: true,
        };
        fc.modelRun(() => ({ model, real: { dev, drv, rows: makeRows(64) } }), cmds);
        expect(ring.guardsIntact()).toBe(true);
      },
    ),
    { numRuns: 1_000_000, interruptAfterTimeLimit: runTimeMs, markInterruptAsFailure: false },
  );
}, 120_000);
