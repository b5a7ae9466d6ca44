/** Loss toward the guest: time-outs, duplicate acknowledgements, closed windows. */
import { C_TCP_RETRANSMITS } from '../../../../src/stack/counters';
import { TcpRig, openFromGuest, openFromHost, pattern, payloadText } from '../../../support/stack/tcp-rig';
import type { Connection, Segment } from '../../../support/stack/tcp-rig';

/** Steps of `step` ms for `ms`; returns [time, segment] of what was sent. */
function watch(rig: TcpRig, ms: number, step = 100): [number, Segment][] {
  const out: [number, Segment][] = [];
  for (let t = step; t <= ms; t += step) {
    rig.wait(step);
    for (const s of rig.sent()) out.push([t, s]);
  }
  return out;
}

function withData(rig: TcpRig, n: number): { c: Connection; sent: Segment[]; data: Uint8Array } {
  const c = openFromGuest(rig);
  const data = pattern(n);
  rig.act(() => c.socket.write(data));
  return { c, sent: rig.sent(), data };
}

describe('retransmission time-out (RFC 6298)', () => {
  test('after 1, 3, 7, 15, 31, 63, 127 s the first segment again, then both sides are reset', () => {
    const rig = new TcpRig();
    const { c, sent } = withData(rig, 3000);
    const seen = watch(rig, 240_000, 1000);
    const data = seen.filter(([, s]) => s.payload.length > 0);
    expect(data.map(([t]) => t / 1000)).toEqual([1, 3, 7, 15, 31, 63, 127]);
    for (const [, s] of data) {
      expect(s.seq).toBe(sent[0].seq);
      expect(Buffer.compare(s.payload, sent[0].payload)).toBe(0);
    }
    expect(c.socket.ending).toBe('open');
    rig.wait(30_000);
    expect(rig.sent().filter((s) => s.flags === 'R.')).toHaveLength(1);
    expect(c.socket.ending).toBe('aborted');
    expect(rig.tcp.engine.table.count).toBe(0);
    expect(rig.counter(C_TCP_RETRANSMITS)).toBe(7);
  });

  test('net.ipv4.tcp_rto_max_ms bounds the back-off', () => {
    const rig = new TcpRig({ config: { tcpRtoMaxMs: 2000 } });
    withData(rig, 10);
    expect(watch(rig, 8000, 1000).map(([t]) => t / 1000)).toEqual([1, 3, 5, 7]);
  });

  test('progress starts the back-off afresh and sends all the rest', () => {
    const rig = new TcpRig();
    const { c, sent } = withData(rig, 5000);
    watch(rig, 7000, 1000);
    c.acknowledge(1460);
    const rest = rig.sent();
    expect(Buffer.concat(rest.map((s) => s.payload)).equals(Buffer.concat(sent.slice(1).map((s) => s.payload)))).toBe(
      true,
    );
    expect(watch(rig, 1000, 1000)).toHaveLength(1);
  });

  test('the timer runs from the last acknowledgement', () => {
    const rig = new TcpRig();
    const { c } = withData(rig, 3000);
    rig.wait(900);
    c.acknowledge(1460);
    rig.wait(900);
    expect(rig.sent()).toEqual([]);
    rig.wait(150);
    expect(rig.sent()).toHaveLength(1);
  });

  test('a slow guest raises the time-out, but not by samples of repeated segments (Karn)', () => {
    const rig = new TcpRig();
    const { c } = withData(rig, 10);
    rig.wait(800);
    c.acknowledge(10);
    expect(rig.tcp.engine.rto[0]).toBe(800 + 4 * 400);
    rig.act(() => c.socket.write('again'));
    watch(rig, 5000, 1000);
    const before = rig.tcp.engine.srtt8[0];
    c.acknowledge(5);
    expect(rig.tcp.engine.srtt8[0]).toBe(before);
  });

  test('3 s if the handshake needed a repetition', () => {
    const rig = new TcpRig({ forward: [{ port: 80 }] });
    const socket = rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    rig.settle();
    const syn = rig.one();
    rig.wait(1000);
    rig.sent();
    rig.guest({ dst: '203.0.113.5', sport: 80, dport: 51000, flags: 'S.', seq: 1, ack: syn.seq + 1 });
    rig.sent();
    rig.act(() => socket.write('data'));
    rig.sent();
    expect(watch(rig, 3000, 1000).map(([t]) => t)).toEqual([3000]);
  });

  test('without receive buffers time is not held against the guest', () => {
    const rig = new TcpRig();
    const { c } = withData(rig, 100);
    rig.port.freeBuffers = 0;
    rig.wait(1000_000);
    expect(c.socket.ending).toBe('open');
    rig.post(10);
    expect(rig.sent().some((s) => s.payload.length === 100)).toBe(true);
  });
});

describe('duplicate acknowledgements (RFC 5681, RFC 6582)', () => {
  test('three, not two, make the first segment go out again, once', () => {
    const rig = new TcpRig();
    const { c, sent } = withData(rig, 10_000);
    c.flags('.');
    c.flags('.');
    expect(rig.sent()).toEqual([]);
    c.flags('.');
    const again = rig.one();
    expect(again.seq).toBe(sent[0].seq);
    expect(Buffer.compare(again.payload, sent[0].payload)).toBe(0);
    for (let i = 0; i < 5; i++) c.flags('.');
    expect(rig.sent()).toEqual([]);
  });

  test('in one batch as well', () => {
    const rig = new TcpRig();
    const { c } = withData(rig, 10_000);
    rig.guest(c.segment({ flags: '.' }), c.segment({ flags: '.' }), c.segment({ flags: '.' }));
    expect(rig.sent()).toHaveLength(1);
  });

  test('a partial acknowledgement brings the next hole', () => {
    const rig = new TcpRig();
    const { c, sent } = withData(rig, 10_000);
    for (let i = 0; i < 3; i++) c.flags('.');
    rig.sent();
    c.acknowledge(1460 * 2);
    expect(rig.one().seq).toBe(sent[2].seq);
    c.acknowledge(10_000 - 2920);
    expect(rig.sent()).toEqual([]);
  });

  test('with data, with another window, or with nothing outstanding they do not count', () => {
    const rig = new TcpRig();
    const { c } = withData(rig, 3000);
    for (const word of ['a', 'b', 'c', 'd']) c.send(word);
    for (const win of [1000, 1001, 1002, 1003]) c.flags('.', { win });
    expect(rig.sent().every((s) => s.payload.length === 0)).toBe(true);
    c.acknowledge(3000);
    rig.sent();
    for (let i = 0; i < 4; i++) c.flags('.');
    expect(rig.sent()).toEqual([]);
  });
});

describe('closed window', () => {
  test('is probed below the window, more and more seldom, for as long as the guest answers', () => {
    const rig = new TcpRig();
    const { c, sent } = withData(rig, 100);
    c.ack += 100;
    c.flags('.', { win: 0 });
    expect(sent).toHaveLength(1);
    rig.act(() => c.socket.write('more'));
    const times: number[] = [];
    for (let t = 1; t <= 600; t++) {
      rig.wait(1000);
      for (const s of rig.sent()) {
        if (s.seq !== (c.ack - 1) >>> 0) throw new Error('not a probe');
        expect(s.payload).toHaveLength(0);
        times.push(t);
        c.flags('.', { win: 0 });
      }
    }
    expect(times.slice(0, 6)).toEqual([1, 3, 7, 15, 31, 63]);
    expect(times.length).toBeGreaterThan(9);
    expect(c.socket.ending).toBe('open');
    c.flags('.', { win: 100 });
    expect(payloadText(rig.one())).toBe('more');
    expect(rig.counter(C_TCP_RETRANSMITS)).toBe(0);
  });

  test('unanswered probes end the flow', () => {
    const rig = new TcpRig();
    const { c } = withData(rig, 100);
    c.ack += 100;
    c.flags('.', { win: 0 });
    rig.act(() => c.socket.write('more'));
    rig.wait(400_000);
    expect(c.socket.ending).toBe('aborted');
  });

  test('closed with data in flight: what was thrown away is sent again when it opens', () => {
    const rig = new TcpRig();
    const { c, data } = withData(rig, 4000);
    c.ack += 1460;
    c.flags('.', { win: 0 });
    rig.wait(1000);
    expect(rig.sent().map((s) => s.payload.length)).toEqual([0]); // a probe, not data
    c.flags('.', { win: 1000 });
    const rest = Buffer.concat(rig.sent().map((s) => s.payload));
    expect(rest.equals(data.subarray(1460))).toBe(true);
  });
});

describe('FIN', () => {
  test('is repeated with its own number until acknowledged', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.act(() => {
      c.socket.write('bye');
      c.socket.close();
    });
    const sent = rig.one();
    expect(sent.flags).toBe('FP.');
    c.acknowledge(3);
    expect(rig.sent()).toEqual([]);
    for (let i = 0; i < 3; i++) {
      rig.wait(1000 * 2 ** i);
      expect(rig.one()).toMatchObject({ flags: 'F.', seq: (sent.seq + 3) >>> 0 });
    }
    c.acknowledge(1);
    rig.wait(20_000);
    expect(rig.sent()).toEqual([]);
  });

  test('data and FIN lost together come again together', () => {
    const rig = new TcpRig({ forward: [{ port: 80 }] });
    const c = openFromHost(rig);
    rig.act(() => {
      c.socket.write('bye');
      c.socket.close();
    });
    rig.sent();
    rig.wait(1000);
    expect(rig.sent().map((s) => [s.flags, payloadText(s)])).toEqual([
      ['P.', 'bye'],
      ['F.', ''],
    ]);
  });
});
