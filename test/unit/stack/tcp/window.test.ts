/** The window told to the guest, and a host socket that is full. */
import { Rate } from '../../../../src/stack/kit/rate';
import { TcpRig, openFromGuest, pattern } from '../../../support/stack/tcp-rig';
import type { Connection } from '../../../support/stack/tcp-rig';

/** Sends segments of `size` as far as the window goes; returns the bytes sent. */
function fill(rig: TcpRig, c: Connection, size: number, data: Uint8Array): number {
  let at = 0;
  let edge = (rig.tcp.engine.rcvAdv[0] | 0) >>> 0;
  for (;;) {
    const room = (edge - c.seq) | 0;
    const n = Math.min(size, room, data.length - at);
    if (n <= 0) return at;
    c.send(data.subarray(at, at + n));
    at += n;
    for (const s of rig.sent()) {
      const next = (s.ack + s.win * 256) >>> 0;
      // The right edge never moves left.
      expect((next - edge) | 0).toBeGreaterThanOrEqual(0);
      edge = next;
    }
  }
}

describe('window toward the guest', () => {
  test('follows the free send buffer, closes, and all that fitted is taken', () => {
    const rig = new TcpRig();
    rig.host.sndbuf = 100_000;
    const c = openFromGuest(rig);
    const data = pattern(300_000);
    const n = fill(rig, c, 1460, data);
    expect(n).toBeGreaterThan(85_000);
    expect(n).toBeLessThanOrEqual(100_000);
    expect(c.socket.sent.length).toBe(n);
    expect(rig.drops('tcp_socket_full')).toBe(0);
  });

  test.each([
    ['10 Mbit/s', 10e6, 25_000],
    ['10 kbit/s', 10e3, 2920],
  ])(
    '--rate-out %s: no more than 20 ms of it or two segments, for guests of 64 KiB too; all is sent',
    (_, bits, most) => {
      const rig = new TcpRig({ config: { mtu: 65520 } });
      const { engine } = rig.tcp;
      const { out } = engine.ctx.link.rates;
      const rate = new Rate();
      rate.set(engine.clock, bits);
      // The frames themselves need not wait here.
      out.share = rate.share;
      const c = openFromGuest(rig, { mss: 65480 });
      const told = (): number => (engine.rcvAdv[0] - engine.rcvNxt[0]) | 0;
      // To the scale's unit.
      expect(told()).toBeLessThan(most + 256);
      for (let at = 0; at < 10 * most; at += most / 2) {
        c.send(pattern(most / 2));
        rig.sent();
        c.socket.read();
        expect(told()).toBeGreaterThanOrEqual(most / 2);
        expect(told()).toBeLessThan(most + 256);
      }
      expect(engine.rcvNxt[0] >>> 0).toBe(c.seq);
      // Taken away: the window is the buffer's again.
      rate.set(engine.clock, 0);
      out.share = rate.share;
      c.send(pattern(most / 2));
      c.send(pattern(10));
      expect(told()).toBeGreaterThan(80_000);
    },
  );

  test('reopens promptly when the peer reads: by an event, without any timer', () => {
    const rig = new TcpRig();
    rig.host.sndbuf = 100_000;
    const c = openFromGuest(rig);
    const n = fill(rig, c, 1460, pattern(300_000));
    rig.act(() => c.socket.read(10_000));
    expect(rig.sent()).toEqual([]); // the kernel does not call this room
    rig.act(() => c.socket.read(40_000));
    const update = rig.one();
    expect(update).toMatchObject({ flags: '.', ack: (c.guestBase + n) >>> 0 });
    expect(update.win * 256).toBeGreaterThan(30_000);
  });

  test('no lost wake-up if the socket drains between the look and the watch', () => {
    const rig = new TcpRig();
    rig.host.sndbuf = 100_000;
    const c = openFromGuest(rig);
    fill(rig, c, 1460, pattern(300_000));
    // The announcement was asked for by renewing the watch while full.
    expect(rig.host.count('rewatch')).toBe(1);
    expect(c.socket.noSpace).toBe(true);
  });

  test('a third of a small buffer is less than a large segment: looked at until it is worth telling', () => {
    const rig = new TcpRig({ config: { mtu: 65520 } });
    rig.host.sndbuf = 90_000;
    const c = openFromGuest(rig, { mss: 65480 });
    fill(rig, c, 30_000, pattern(300_000));
    rig.act(() => c.socket.read(32_000));
    rig.sent();
    rig.act(() => c.socket.read(58_000));
    rig.wait(1000);
    const s = rig.sent();
    expect(s.length).toBeGreaterThan(0);
    expect(s[s.length - 1].win * 256).toBeGreaterThan(60_000);
    rig.wait(10_000);
    expect(rig.sent()).toEqual([]);
  });

  test('a peer that never reads costs no turn of the loop', () => {
    const rig = new TcpRig();
    rig.host.sndbuf = 10_000;
    const c = openFromGuest(rig);
    fill(rig, c, 1460, pattern(100_000));
    const turns = rig.turns;
    rig.wait(60_000);
    expect(rig.turns - turns).toBeLessThan(500);
    expect(rig.sent().every((s) => s.win === 0 || s.payload.length === 0)).toBe(true);
  });

  test('a full socket that fails while the guest has no receive buffer does not keep the loop busy', () => {
    const rig = new TcpRig();
    rig.host.sndbuf = 10_000;
    const c = openFromGuest(rig);
    fill(rig, c, 1460, pattern(100_000));
    rig.port.freeBuffers = 0;
    const turns = rig.turns;
    rig.act(() => c.socket.reset());
    expect(rig.turns - turns).toBeLessThan(10);
    rig.post(5);
    expect(rig.sent().at(-1)?.flags).toBe('R.');
  });

  test('zero-window probes of the guest, empty and with a byte, are answered with the window', () => {
    const rig = new TcpRig();
    rig.host.sndbuf = 10_000;
    const c = openFromGuest(rig);
    const n = fill(rig, c, 1460, pattern(100_000));
    c.flags('.', { seq: c.seq - 1 });
    expect(rig.one()).toMatchObject({ ack: c.seq, win: 0 });
    rig.guest(c.segment({ flags: 'P.', payload: 'p' }));
    expect(rig.one()).toMatchObject({ ack: c.seq, win: 0 });
    expect(c.socket.sent.length).toBe(n);
    c.socket.read();
    rig.guest(c.segment({ flags: 'P.', payload: 'p' }));
    expect(rig.sent().at(-1)?.win).toBeGreaterThan(0);
  });

  test('an acknowledgement counts even while our window is closed', () => {
    const rig = new TcpRig();
    rig.host.sndbuf = 10_000;
    const c = openFromGuest(rig);
    fill(rig, c, 1460, pattern(100_000));
    rig.act(() => c.socket.write('data'));
    rig.sent();
    c.acknowledge(4);
    expect(c.socket.receive.length).toBe(0);
  });

  test('a FIN needs no window', () => {
    const rig = new TcpRig();
    rig.host.sndbuf = 10_000;
    const c = openFromGuest(rig);
    fill(rig, c, 1460, pattern(100_000));
    c.flags('F.');
    expect(c.socket.writeShut).toBe(true);
    expect(rig.one().ack).toBe(c.seq);
  });
});

describe('a socket that takes less than promised', () => {
  test('only what it took is acknowledged; when there is room the guest is made to send again', () => {
    const rig = new TcpRig();
    rig.host.sndbuf = 100_000;
    const c = openFromGuest(rig);
    rig.act(() => (c.socket.overhead = 10)); // small segments are dear
    const data = pattern(15_000);
    rig.guest(c.segment({ flags: '.', payload: data }));
    expect(c.socket.sent.length).toBe(10_000);
    const [ack] = c.received();
    expect(ack.ack).toBe(10_000);
    expect(rig.drops('tcp_socket_full')).toBe(1);
    rig.act(() => c.socket.read());
    const acks = c.received();
    expect(acks).toHaveLength(4);
    for (const a of acks) expect(a.ack).toBe(10_000);
    expect(new Set(acks.slice(1).map((a) => a.win)).size).toBe(1); // three true duplicates
    c.seq += 10_000;
    rig.guest(c.segment({ flags: '.', payload: data.subarray(10_000) }));
    expect(c.socket.sent.length).toBe(5000);
  });

  test('refused for want of memory: asked again after a while', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.host.failures.set('send', 105);
    rig.guest(c.segment({ flags: 'P.', payload: 'abc' }));
    expect(c.received()).toMatchObject([{ ack: 0 }]);
    expect(c.socket.ending).toBe('open');
    rig.wait(100);
    expect(c.received()).toHaveLength(4);
    c.send('abc');
    expect(c.socket.readText()).toBe('abc');
  });
});
