/** Bounds on half-open flows, and the shares of the flow table. */
import { C_TCP_EVICTED_HALF_OPEN } from '../../../../src/stack/counters';
import { GUEST_ISN, TcpRig, openFromGuest, openFromHost } from '../../../support/stack/tcp-rig';
import type { Connection, TcpRigOptions } from '../../../support/stack/tcp-rig';

const rigOf = (maxTcpFlows: number, o: TcpRigOptions = {}): TcpRig =>
  new TcpRig({ ...o, config: { maxTcpFlows, ...o.config } });

/** SYNs to hosts that never answer. */
const scan = (rig: TcpRig, count: number, port = 2000): void => {
  for (let n = 0; n < count; n++) {
    rig.guest({ flags: 'S', seq: 1, dst: `203.0.113.${String(n % 250)}`, sport: port + n, dport: 23 });
  }
};

const echoes = (c: Connection): void => {
  c.send('still');
  expect(c.socket.readText()).toBe('still');
  c.rig.sent();
};

describe('the guest scans hosts that do not answer', () => {
  test('a new SYN takes the place of the oldest; established flows stay', () => {
    const rig = rigOf(16);
    const open = [1, 2, 3, 4].map((sport) => openFromGuest(rig, { sport }));
    scan(rig, 100);
    expect(rig.sent()).toEqual([]);
    expect(rig.drops('flow_table_full')).toBe(0);
    const c = openFromGuest(rig, { sport: 5 });
    for (const each of [...open, c]) echoes(each);
    expect(rig.counter(C_TCP_EVICTED_HALF_OPEN)).toBe(100 + 1 - 8);
    // Half of the table at the most.
    expect(rig.tcp.engine.outward.length).toBeLessThanOrEqual(8);
  });

  test('with the table full of established flows and them', () => {
    const rig = rigOf(16);
    scan(rig, 8);
    const open = [1, 2, 3, 4, 5, 6, 7, 8, 9].map((sport) => openFromGuest(rig, { sport }));
    scan(rig, 20, 3000);
    open.push(openFromGuest(rig, { sport: 10 }));
    for (const each of open) echoes(each);
  });

  test('one that made room is taken up again by its repeated SYN', () => {
    const rig = rigOf(16);
    rig.guest({ flags: 'S', seq: GUEST_ISN, sport: 9, mss: 1460 });
    const socket = rig.host.last;
    scan(rig, 20);
    expect(socket.ending).toBe('aborted');
    rig.wait(1000);
    openFromGuest(rig, { sport: 9 });
  });

  test('connections from outside come in all the same', () => {
    const rig = rigOf(16, { forward: [{ port: 80 }] });
    scan(rig, 40);
    for (let n = 0; n < 6; n++) echoes(openFromHost(rig, { from: `203.0.113.${String(n)}`, port: 1000 + n }));
    scan(rig, 40);
    echoes(openFromHost(rig, { from: '203.0.113.77' }));
  });

  test('attempts that come to nothing take a sixteenth of the time at the most', () => {
    const rig = rigOf(1000);
    // A connect takes 100 µs here.
    rig.host.onConnect = () => rig.clock.advance(0.1);
    for (let n = 0; n < 1000; n++) scan(rig, 1, 2000 + n);
    const burst = rig.host.count('connect');
    expect(burst).toBeGreaterThanOrEqual(200);
    expect(burst).toBeLessThan(300);
    expect(rig.drops('tcp_syn_limit')).toBe(1000 - burst);
    for (let ms = 0; ms < 1000; ms++) {
      rig.wait(1);
      scan(rig, 3, 10_000 + 3 * ms);
    }
    const share = rig.host.count('connect') - burst;
    expect(share).toBeGreaterThan(450);
    expect(share).toBeLessThan(900);
  });

  test('but a remote end that has answered is reached meanwhile, a few times until its next answer', () => {
    const rig = rigOf(1000);
    rig.host.onConnect = () => rig.clock.advance(0.1);
    openFromGuest(rig, { sport: 1500 });
    for (let n = 0; n < 1000; n++) scan(rig, 1, 2000 + n);
    rig.sent();
    for (let n = 0; n < 20; n++) openFromGuest(rig, { sport: 1600 + n });
    const before = rig.host.count('connect');
    // Nobody completes these.
    for (let n = 0; n < 100; n++) rig.guest({ sport: 1700 + n, flags: 'S', seq: 1, mss: 1460 });
    // Some find credit, which grows while the others take their time.
    const unanswered = rig.host.count('connect') - before;
    expect(unanswered).toBeGreaterThanOrEqual(8);
    expect(unanswered).toBeLessThan(20);
  });

  test('attempts that succeed have no such limit', () => {
    const rig = rigOf(1000);
    rig.host.onConnect = () => rig.clock.advance(0.1);
    for (let n = 0; n < 600; n++) openFromGuest(rig, { sport: 2000 + n });
    expect(rig.drops('tcp_syn_limit')).toBe(0);
  });
});

describe('forwarded ports', () => {
  const TWO = { forward: [{ port: 80 }, { port: 81 }] };
  const arrive = (rig: TcpRig, listener: number, count: number, from = '203.0.113.5', port = 1000): void => {
    for (let n = 0; n < count; n++) rig.host.incoming(rig.listeners[listener], from, port + n);
    rig.settle();
  };
  /** The guest accepts whatever it was sent a SYN for; returns how many. */
  const accept = (rig: TcpRig): number => {
    const syns = rig.sent().filter((s) => s.flags === 'S');
    for (const s of syns) {
      const ends = { dst: s.src, sport: s.dport, dport: s.sport };
      rig.guest({ ...ends, flags: 'S.', seq: 7, ack: s.seq + 1, mss: 1460 });
    }
    return syns.length;
  };
  const acceptAll = (rig: TcpRig): number => {
    let total = 0;
    for (let n = accept(rig); n > 0; n = accept(rig)) total += n;
    return total;
  };

  test('one of them does not take the table: others and the guest still get theirs', () => {
    const rig = rigOf(40, TWO);
    for (let n = 0; n < 100; n++) arrive(rig, 0, 1, `203.0.113.${String(n)}`);
    const first = acceptAll(rig);
    expect(first).toBeGreaterThanOrEqual(30);
    expect(first).toBeLessThan(36);
    expect(rig.stack.busy).toBe(false);
    expect(rig.listeners[0].backlog.length).toBe(100 - first);
    arrive(rig, 1, 4, '198.51.100.9');
    expect(acceptAll(rig)).toBe(4);
    openFromGuest(rig);
  });

  test('what waits is accepted when connections of that port end', () => {
    const rig = rigOf(40, TWO);
    const open: Connection[] = [];
    for (let n = 0; n < 20; n++) open.push(openFromHost(rig, { from: `203.0.113.${String(n)}` }));
    for (let n = 0; n < 30; n++) arrive(rig, 0, 1, `203.0.113.${String(100 + n)}`);
    acceptAll(rig);
    const waiting = rig.listeners[0].backlog.length;
    expect(waiting).toBeGreaterThan(10);
    for (const c of open) c.flags('R');
    acceptAll(rig);
    expect(rig.listeners[0].backlog.length).toBeLessThanOrEqual(waiting - 15);
  });

  test('one peer address does not take the table', () => {
    const rig = rigOf(64, TWO);
    for (const listener of [0, 1]) arrive(rig, listener, 60, '203.0.113.5', 1000 + 100 * listener);
    acceptAll(rig);
    arrive(rig, 1, 2, '203.0.113.6');
    expect(acceptAll(rig)).toBe(2);
    expect(rig.tcp.engine.table.count).toBeLessThan(64);
  });

  test('a guest that answers no SYN: connections wait, and the oldest goes once it was asked twice', () => {
    const rig = rigOf(32, TWO);
    arrive(rig, 0, 40);
    expect(rig.sent().filter((s) => s.flags === 'S')).toHaveLength(16);
    expect(rig.stack.busy).toBe(false);
    expect(rig.counter(C_TCP_EVICTED_HALF_OPEN)).toBe(0);
    rig.wait(1001);
    expect(rig.counter(C_TCP_EVICTED_HALF_OPEN)).toBeGreaterThan(10);
    expect(rig.listeners[0].backlog.length).toBeLessThanOrEqual(10);
    rig.sent();
    // A connection to the other port, which answers, is not kept waiting.
    const peer = rig.host.incoming(rig.listeners[1], '203.0.113.9', 5);
    rig.wait(1001);
    expect(rig.sent().filter((s) => s.dport === 81 && s.flags === 'S').length).toBeGreaterThan(0);
    expect(peer.ending).toBe('open');
  });

  test('connections that come to nothing wait for their share of the time', () => {
    const rig = rigOf(5000, TWO);
    rig.host.onWatch = () => rig.clock.advance(0.1);
    arrive(rig, 0, 1000);
    expect(rig.listeners[0].backlog.length).toBeGreaterThan(700);
    const pass = (ms: number): number => {
      for (let n = 0; n < ms; n++) {
        rig.clock.advance(1);
        rig.settle();
      }
      return rig.listeners[0].backlog.length;
    };
    const left = pass(100);
    expect(left).toBeGreaterThan(500);
    expect(pass(200)).toBeLessThan(left - 100);
  });

  test('nothing is counted twice: a table that empties is empty', () => {
    const rig = rigOf(64, TWO);
    const t = rig.tcp.engine;
    const c = openFromHost(rig);
    const d = openFromGuest(rig);
    arrive(rig, 1, 5);
    scan(rig, 5);
    c.flags('F.');
    rig.act(() => c.socket.close());
    c.acknowledge(1);
    rig.act(() => d.socket.close());
    d.acknowledge(1);
    d.flags('F.');
    expect(t.lingering.length).toBe(1);
    rig.stack.reset();
    expect([t.guestFlows, t.outward.length, t.inward.length, t.halfClosed.length, t.table.count]).toEqual([
      0, 0, 0, 0, 0,
    ]);
    expect(t.listeners.map((l) => l?.flows)).toEqual([0, 0]);
    expect(t.peers.every((n) => n === 0)).toBe(true);
  });
});
