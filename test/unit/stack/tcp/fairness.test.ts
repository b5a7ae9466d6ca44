/** Who is served when: what waits for what, counted in bytes, with bulk in both directions. */
import { BULK_SHARE, LIGHT_SHARE } from '../../../../src/stack/tcp/output';
import { GUEST_ISN, TcpRig, guestFrame, openFromGuest, pattern } from '../../../support/stack/tcp-rig';
import type { Connection, Segment } from '../../../support/stack/tcp-rig';

const MIB = 1 << 20;
/** For several turns of one flow. */
const MUCH = 4 * BULK_SHARE;
const ASK = 'ask';

const total = (s: readonly Segment[]): number => s.reduce((n, x) => n + x.payload.length, 0);

/** What the guest got before the first segment of `c`; an error if there is none. */
function before(sent: readonly Segment[], c: Connection): Segment[] {
  const at = sent.findIndex((s) => s.dport === c.sport);
  if (at < 0) throw new Error('the flow was not served');
  return sent.slice(0, at);
}

function bulkFlows(rig: TcpRig, n: number): Connection[] {
  return Array.from({ length: n }, (_, i) => openFromGuest(rig, { sport: 1000 + i, ws: 14, mss: 65480 }));
}

/** Bulk that has used its first share, so that all of it is known as bulk. */
function inFullSwing(rig: TcpRig, flows: readonly Connection[]): void {
  for (const f of flows) f.socket.write(Buffer.alloc(MUCH));
  for (let n = 0; n <= flows.length; n++) rig.turn();
  rig.sent();
}

describe.each([2, 10, 40])('beside %i bulk flows to the guest', (count) => {
  test('a message of another flow is sent before any of their bytes', () => {
    const rig = new TcpRig({ config: { mtu: 65520 }, port: { memorySize: 32 << 20 } });
    const bulk = bulkFlows(rig, count);
    const small = openFromGuest(rig, { sport: 7 });
    inFullSwing(rig, bulk);
    // More for all of them, and the small one last.
    for (const f of bulk) f.socket.write(Buffer.alloc(MUCH));
    small.socket.write(ASK);
    rig.turn();
    expect(total(before(rig.sent(), small))).toBe(0);
    expect(rig.stack.busy).toBe(true);
  });

  test('a turn sends one share of bulk, and the flows take turns', () => {
    const rig = new TcpRig({ config: { mtu: 65520 }, port: { memorySize: 32 << 20 } });
    const bulk = bulkFlows(rig, count);
    inFullSwing(rig, bulk);
    const order: number[] = [];
    for (let n = 0; n < 2 * count; n++) {
      rig.turn();
      const sent = rig.sent();
      const ports = new Set(sent.map((s) => s.dport));
      expect(ports.size).toBe(1);
      expect(total(sent)).toBeLessThanOrEqual(BULK_SHARE);
      expect(total(sent)).toBeGreaterThan(BULK_SHARE / 2);
      order.push(...ports);
    }
    expect(order.slice(0, count)).toEqual(order.slice(count));
    expect(new Set(order).size).toBe(count);
    rig.settle();
    expect(rig.sent().every((s) => s.payload.length >= 1000)).toBe(true); // no runts at the ends of shares
  });

  test('without receive buffers, the message goes first when some are posted', () => {
    const rig = new TcpRig({ config: { mtu: 65520 }, port: { memorySize: 32 << 20 } });
    const bulk = bulkFlows(rig, count);
    const small = openFromGuest(rig, { sport: 7 });
    inFullSwing(rig, bulk);
    rig.port.freeBuffers = 0;
    rig.settle();
    small.socket.write(ASK);
    rig.settle();
    rig.post(2);
    expect(before(rig.sent(), small)).toEqual([]);
  });
});

test('new flows begin with a light share each, then wait in turn', () => {
  const rig = new TcpRig({ config: { mtu: 65520 }, port: { memorySize: 32 << 20 } });
  const flows = bulkFlows(rig, 5);
  for (const f of flows) f.socket.write(Buffer.alloc(MUCH));
  rig.turn();
  const sent = rig.sent();
  for (const f of flows.slice(1)) {
    const own = total(sent.filter((s) => s.dport === f.sport));
    expect(own).toBeGreaterThan(0);
    expect(own).toBeLessThanOrEqual(LIGHT_SHARE);
  }
  expect(total(sent)).toBeLessThanOrEqual(5 * LIGHT_SHARE + BULK_SHARE);
  rig.settle();
  expect(total(sent.concat(rig.sent()))).toBe(5 * MUCH);
});

test('a flow that was bulk and now sends messages is light again', () => {
  const rig = new TcpRig({ config: { mtu: 65520 }, port: { memorySize: 32 << 20 } });
  const [was, ...bulk] = bulkFlows(rig, 3);
  was.socket.write(Buffer.alloc(MUCH));
  rig.settle();
  rig.act(() => was.socket.write(ASK));
  rig.sent();
  inFullSwing(rig, bulk);
  was.socket.write(ASK);
  rig.turn();
  expect(before(rig.sent(), was)).toEqual([]);
});

test('what a light flow sent is published before the bulk is copied', () => {
  const rig = new TcpRig({ config: { mtu: 65520 }, port: { memorySize: 32 << 20 } });
  const bulk = bulkFlows(rig, 2);
  const small = openFromGuest(rig, { sport: 7 });
  inFullSwing(rig, bulk);
  const flushes = rig.port.flushes;
  rig.turn();
  expect(rig.port.flushes - flushes).toBe(1); // bulk alone: at the end of the turn
  small.socket.write(ASK);
  rig.turn();
  expect(rig.port.flushes - flushes).toBe(3);
});

test('bulk is not starved of receive buffers by a crowd of light flows', () => {
  const rig = new TcpRig({ port: { bufferSize: 1600 } });
  const [bulk] = bulkFlows(rig, 1);
  const crowd = Array.from({ length: 20 }, (_, i) => openFromGuest(rig, { sport: 1 + i }));
  bulk.socket.write(Buffer.alloc(MUCH));
  rig.turn();
  rig.port.freeBuffers = 0;
  rig.settle();
  rig.sent();
  let served = 0;
  for (let n = 0; n < 20; n++) {
    for (const c of crowd) c.socket.write(Buffer.alloc(1000));
    rig.post(4); // never enough for the crowd
    served += total(rig.sent().filter((s) => s.dport === bulk.sport));
  }
  expect(served).toBeGreaterThan(5 * 1460);
});

describe('bulk from the guest', () => {
  test('is taken in goes of half a mebibyte: sockets are looked at in between', () => {
    const rig = new TcpRig({ config: { mtu: 65520 }, port: { memorySize: 32 << 20 } });
    rig.host.sndbuf = 8 * MIB;
    const up = openFromGuest(rig, { sport: 1, mss: 65480 });
    const small = openFromGuest(rig, { sport: 2 });
    const frame = pattern(60_000);
    for (let n = 0; n < 60; n++) {
      rig.port.inject(guestFrame(up.segment({ flags: '.', seq: GUEST_ISN + 1 + n * frame.length, payload: frame })));
    }
    small.socket.write(ASK);
    rig.turn();
    const taken = up.socket.sent.length;
    expect(taken).toBeGreaterThan(MIB / 4);
    expect(taken).toBeLessThan(MIB / 2 + 2 * frame.length);
    // Published before that was copied, as well as at the end.
    expect(rig.sent().map((s) => [s.dport, s.payload.length])).toEqual([
      [2, ASK.length],
      [1, 0],
    ]);
    expect(rig.port.flushes).toBeGreaterThan(rig.turns);
    rig.settle();
    expect(up.socket.sent.length).toBe(60 * frame.length);
  });

  test('is acknowledged at once, though data to the same guest waits its turn', () => {
    const rig = new TcpRig({ config: { mtu: 65520 }, port: { memorySize: 32 << 20 } });
    const [both, ...others] = bulkFlows(rig, 12);
    inFullSwing(rig, [both, ...others]);
    rig.port.inject(guestFrame(both.segment({ flags: 'P.', payload: ASK })));
    rig.turn();
    expect(rig.sent()[0]).toMatchObject({
      dport: both.sport,
      ack: (both.seq + ASK.length) >>> 0,
      payload: new Uint8Array(0),
    });
  });
});
