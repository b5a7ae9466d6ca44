/** Data to the guest: segments, windows, receive buffers. */
import { C_BYTES_TO_GUEST_TCP, C_TCP_RETRANSMITS } from '../../../../src/stack/counters';
import { GUEST_ISN, TcpRig, openFromGuest, pattern, payloadText } from '../../../support/stack/tcp-rig';
import type { Segment } from '../../../support/stack/tcp-rig';

const total = (s: readonly Segment[]): number => s.reduce((n, x) => n + x.payload.length, 0);
const bytes = (s: readonly Segment[]): Buffer => Buffer.concat(s.map((x) => x.payload));

describe('segments to the guest', () => {
  test('full segments, PSH on the last, one read', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    const data = pattern(4000);
    const reads = rig.host.count('recv');
    rig.act(() => c.socket.write(data));
    const sent = rig.sent();
    expect(sent.map((s) => [s.flags, s.payload.length])).toEqual([
      ['.', 1460],
      ['.', 1460],
      ['P.', 1080],
    ]);
    expect(bytes(sent).equals(data)).toBe(true);
    // A short read has emptied the queue: nothing to ask again.
    expect(rig.host.count('recv') - reads).toBe(1);
    expect(rig.counter(C_BYTES_TO_GUEST_TCP)).toBeGreaterThan(4000 + 3 * 54);
  });

  test('the segment is the smaller of the guest’s and the link’s', () => {
    const rig = new TcpRig({ config: { mtu: 1000 } });
    const c = openFromGuest(rig, { mss: 1460 });
    rig.act(() => c.socket.write(Buffer.alloc(2000)));
    expect(rig.sent().map((s) => s.payload.length)).toEqual([960, 960, 80]);
  });

  test.each([
    [false, 1],
    [true, 4],
  ])('with segmentation offload (IPv6 %s) frames of up to 64 KiB, marked', (v6, type) => {
    const rig = new TcpRig({ port: { gsoTcp4: !v6, gsoTcp6: v6 } });
    const c = openFromGuest(rig, { v6, ws: 10 });
    const data = pattern(300_000);
    rig.act(() => c.socket.write(data));
    const sent = rig.sent();
    expect(bytes(sent).equals(data)).toBe(true);
    const mss = v6 ? 1440 : 1460;
    for (const s of sent) {
      expect(s.frameLen).toBeLessThanOrEqual(14 + 65535);
      if (s.payload.length > mss) expect([s.gsoType, s.gsoSize]).toEqual([type, mss]);
      else expect(s.gsoType).toBe(0);
    }
    expect(Math.max(...sent.map((s) => s.payload.length))).toBeGreaterThan(64_000);
  });

  test('offload for the other family is not used', () => {
    const rig = new TcpRig({ port: { gsoTcp6: true } });
    const c = openFromGuest(rig);
    rig.act(() => c.socket.write(Buffer.alloc(5000)));
    expect(Math.max(...rig.sent().map((s) => s.payload.length))).toBe(1460);
  });

  test('frames no longer than the guest’s receive buffers', () => {
    const rig = new TcpRig({ port: { maxFrame: 800, gsoTcp4: true } });
    const c = openFromGuest(rig);
    const data = pattern(2000);
    rig.act(() => c.socket.write(data));
    const sent = rig.sent();
    expect(Math.max(...sent.map((s) => s.frameLen))).toBe(800);
    expect(bytes(sent).equals(data)).toBe(true);
  });

  test('data carries the acknowledgement that is due', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.flags('.', { win: 0 });
    rig.act(() => c.socket.write('reply'));
    expect(rig.sent()).toEqual([]);
    c.send('ask');
    expect(c.received()).toMatchObject([{ flags: 'P.', ack: 3, text: 'reply' }]);
  });
});

describe('the guest’s window', () => {
  test('is never exceeded; acknowledgements let more out; the socket keeps the rest', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { ws: 0, win: 4000 });
    const data = pattern(10_000);
    rig.act(() => c.socket.write(data));
    let got = rig.sent();
    expect(total(got)).toBe(2920); // two segments; the rest of the window is a sliver
    expect(c.socket.receive.length).toBe(10_000);
    c.acknowledge(1460);
    expect(c.socket.receive.length).toBe(8540);
    got = got.concat(rig.sent());
    expect(total(got)).toBeLessThanOrEqual(5460);
    for (let acked = 1460; acked < 10_000;) {
      const more = total(got) - acked;
      c.acknowledge(more);
      acked += more;
      got = got.concat(rig.sent());
      expect(total(got) - acked).toBeLessThanOrEqual(4000);
    }
    expect(bytes(got).equals(data)).toBe(true);
    expect(rig.counter(C_TCP_RETRANSMITS)).toBe(0);
  });

  test('no slivers while an acknowledgement is to come (RFC 9293 §3.8.6.2.1)', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { ws: 0, win: 3000 });
    rig.act(() => c.socket.write(Buffer.alloc(20_000)));
    expect(rig.sent().map((s) => s.payload.length)).toEqual([1460, 1460]);
    c.ack += 100;
    c.flags('.', { win: 3000 });
    expect(rig.sent()).toEqual([]); // 180 bytes of room
  });

  test('a window smaller than a segment is used if nothing is in flight', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { ws: 0 });
    c.flags('.', { win: 300 });
    rig.act(() => c.socket.write(Buffer.alloc(1000)));
    expect(rig.sent().map((s) => s.payload.length)).toEqual([300]);
  });

  test('segments of at most half of the largest window: never one at a time', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { ws: 0, win: 1460 });
    rig.act(() => c.socket.write(Buffer.alloc(5000)));
    expect(rig.sent().map((s) => s.payload.length)).toEqual([730, 730]);
    c.flags('.', { win: 60_000 });
    expect(rig.sent().map((s) => s.payload.length)).toEqual([1460, 1460, 620]);
  });

  test('an older segment does not set the window back', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { ws: 0, win: 1460 });
    rig.act(() => c.socket.write(Buffer.alloc(20_000)));
    c.send('x');
    rig.sent();
    c.flags('.', { win: 5000 });
    expect(total(rig.sent())).toBe(2920);
    c.flags('.', { seq: c.seq - 1, win: 30_000 }); // reordered: already outside
    expect(total(rig.sent())).toBe(0);
  });
});

describe('receive buffers', () => {
  test('none: the flow waits, and goes on when some are posted; nothing spins', () => {
    const rig = new TcpRig({ port: { buffers: 3, bufferSize: 1600 } });
    const c = openFromGuest(rig);
    const data = pattern(8000);
    rig.act(() => c.socket.write(data));
    let got = rig.sent();
    expect(got).toHaveLength(2);
    expect(rig.stack.busy).toBe(false);
    while (total(got) < 8000) {
      rig.post(1);
      const more = rig.sent();
      expect(more).toHaveLength(1);
      got = got.concat(more);
    }
    expect(bytes(got).equals(data)).toBe(true);
  });

  test('waiting flows are served in turn', () => {
    const rig = new TcpRig({ port: { buffers: 4, bufferSize: 1600 } });
    const flows = [1, 2, 3].map((sport) => openFromGuest(rig, { sport }));
    rig.port.freeBuffers = 0;
    rig.act(() => {
      for (const f of flows) f.socket.write(Buffer.alloc(1460 * 10));
    });
    const order: number[] = [];
    for (let i = 0; i < 9; i++) {
      rig.post(1);
      order.push(...rig.sent().map((s) => s.dport));
    }
    expect(order).toEqual([1, 2, 3, 1, 2, 3, 1, 2, 3]);
  });

  test('an acknowledgement waits for a buffer as well', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.port.freeBuffers = 0;
    c.send('abc');
    expect(c.socket.readText()).toBe('abc');
    expect(rig.sent()).toEqual([]);
    rig.post(1);
    expect(c.received()).toMatchObject([{ flags: '.', ack: 3 }]);
  });

  test('of a crowd that waits, all are acknowledged before any gets data', () => {
    const rig = new TcpRig({ port: { bufferSize: 1600 } });
    const flows = Array.from({ length: 40 }, (_, i) => openFromGuest(rig, { sport: 1000 + i }));
    rig.port.freeBuffers = 0;
    rig.act(() => {
      for (const f of flows) f.socket.write(Buffer.alloc(1460 * 10));
    });
    rig.guest(...flows.map((f) => f.segment({ flags: 'P.', payload: 'x' })));
    expect(rig.sent()).toEqual([]);
    // In two goes: who was acknowledged in the first is not in the second.
    rig.post(15);
    rig.post(25);
    const got = rig.sent();
    expect(got.every((s) => s.payload.length === 0 && s.ack === GUEST_ISN + 2)).toBe(true);
    expect(got.map((s) => s.dport).sort((a, b) => a - b)).toEqual(flows.map((f) => f.sport));
    rig.post(40);
    expect(rig.sent().map((s) => s.payload.length)).toEqual(new Array(40).fill(1460));
  });

  test('a guest that never has room for a large frame gets small ones', () => {
    const rig = new TcpRig({ config: { mtu: 65520 }, port: { buffers: 12, bufferSize: 1600 } });
    const c = openFromGuest(rig, { mss: 65480 });
    const data = pattern(100_000);
    rig.act(() => c.socket.write(data));
    const got = rig.sent();
    for (let n = 0; total(got) < data.length && n < 1000; n++) {
      rig.post(10 - rig.port.freeBuffers);
      const more = rig.sent();
      got.push(...more);
      if (more.length > 0) c.acknowledge(total(more));
    }
    expect(bytes(got).equals(data)).toBe(true);
    expect(rig.counter(C_TCP_RETRANSMITS)).toBe(0);
  });

  test('the link goes down and up: nothing is lost', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.port.up = false;
    rig.act(() => c.socket.write('held'));
    rig.wait(300_000);
    expect(rig.sent()).toEqual([]);
    rig.port.up = true;
    rig.post(0);
    expect(
      rig
        .sent()
        .filter((s) => s.payload.length > 0)
        .map(payloadText),
    ).toEqual(['held']);
    expect(c.socket.ending).toBe('open');
  });

  test('announced too late by the port: looked for after a second', () => {
    const rig = new TcpRig({ port: { buffers: 1 } });
    const c = openFromGuest(rig);
    rig.port.freeBuffers = 0;
    rig.act(() => c.socket.write('held'));
    rig.port.freeBuffers = 5; // without a word
    rig.wait(1000);
    expect(payloadText(rig.one())).toBe('held');
  });
});

describe('receive buffers in many pieces', () => {
  test.each([
    [1, true],
    [3, true],
    [3, false],
    [100, false],
  ])('of %i bytes: all arrives (SO_PEEK_OFF %s)', (rowSize, tcpPeekOff) => {
    const rig = new TcpRig({ config: { tcpPeekOff }, port: { rowSize, gsoTcp4: true } });
    const c = openFromGuest(rig, { ws: 10 });
    const data = pattern(200_000);
    rig.act(() => c.socket.write(data));
    let got = Buffer.alloc(0);
    for (let sent = rig.sent(); sent.length > 0; sent = rig.sent()) {
      got = Buffer.concat([got, bytes(sent)]);
      c.acknowledge(total(sent));
    }
    expect(got.equals(data)).toBe(true);
    expect(rig.counter(C_TCP_RETRANSMITS)).toBe(0);
  });
});

describe('bytes in flight', () => {
  test.each([true, false])('are skipped, not sent twice (SO_PEEK_OFF %s)', (tcpPeekOff) => {
    const rig = new TcpRig({ config: { tcpPeekOff } });
    const c = openFromGuest(rig);
    let got: Segment[] = [];
    const data = pattern(9000);
    for (let at = 0; at < 9000; at += 1000) {
      rig.act(() => c.socket.write(data.subarray(at, at + 1000)));
      got = got.concat(rig.sent());
      if (at % 3000 === 0) c.acknowledge(500);
    }
    expect(bytes(got).equals(data)).toBe(true);
    expect(c.socket.options.has('1.42')).toBe(tcpPeekOff);
  });
});
