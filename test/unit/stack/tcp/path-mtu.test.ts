/** ICMP errors from the guest's side about segments sent to it: path MTU, and what cannot be delivered. */
import fc from 'fast-check';
import { packet, icmpv6, bytes, internetChecksum, u16 } from '../../../support/stack/link-rig';
import { TcpRig, openFromGuest, openFromHost, pattern } from '../../../support/stack/tcp-rig';
import type { Connection, TcpRigOptions } from '../../../support/stack/tcp-rig';

const ROUTER4 = '10.9.8.7';
const ROUTER6 = '2001:db8:9::7';

/** The packet that a frame to the guest holds, cut to `length` bytes. */
const quoteOf = (frame: Uint8Array, length: number): Uint8Array => frame.slice(14, 14 + length);

/** An ICMP error from a router behind the guest, about `quote`. */
function error(v6: boolean, type: number, code: number, rest: number, quote: Uint8Array): Uint8Array {
  const message = bytes([type, code, 0, 0], u16(rest >>> 16), u16(rest & 0xffff), quote);
  if (v6) return icmpv6(ROUTER6, '2001:db8:1::7', message);
  message.set(u16(internetChecksum(message)), 2);
  return packet(ROUTER4, '198.51.100.7', 1, message);
}

const tooBig = (v6: boolean, mtu: number, quote: Uint8Array): Uint8Array =>
  v6 ? error(true, 2, 0, mtu, quote) : error(false, 3, 4, mtu, quote);

/** A router that passes packets of `mtu` bytes: what does not pass is answered; returns what reached the guest. */
function throughRouter(c: Connection, v6: boolean, mtu: number, total: number): { bytes: number; errors: number } {
  const { rig } = c;
  let errors = 0;
  let received = (c.ack - c.base) | 0;
  const headers = v6 ? 60 : 40;
  for (let turn = 0; received < total && turn < 5000; turn++) {
    const frames = rig.port.sentFrames();
    if (frames.length === 0) {
      rig.wait(100);
      continue;
    }
    for (const f of frames) {
      const ip = v6 ? 40 + (f.bytes[18] << 8) + f.bytes[19] : (f.bytes[16] << 8) + f.bytes[17];
      const size = f.gsoSize > 0 ? f.gsoSize + headers : ip;
      if (size > mtu) {
        errors++;
        rig.port.inject(tooBig(v6, mtu, quoteOf(f.bytes, v6 ? 1200 : 28)));
        continue;
      }
      const at = 14 + (v6 ? 40 : 20);
      const seq = new DataView(f.bytes.buffer, f.bytes.byteOffset).getUint32(at + 4);
      const offset = (seq - c.base) | 0;
      const payload = ip - headers;
      if (offset <= received && offset + payload > received) received = offset + payload;
    }
    rig.settle();
    c.ack = (c.base + received) >>> 0;
    c.flags('.');
  }
  return { bytes: received, errors };
}

const GSO: TcpRigOptions = { port: { gsoTcp4: true, gsoTcp6: true } };

describe.each([false, true])('IPv6 %p', (v6) => {
  test.each([
    ['segments', {}],
    ['large frames', GSO],
  ] as const)('a router behind the guest with a smaller MTU: all bytes pass, in %s', (_what, o) => {
    const rig = new TcpRig(o);
    const c = openFromGuest(rig, { v6 });
    rig.act(() => c.socket.write(pattern(200_000)));
    const started = rig.clock.nowMs;
    const { bytes: passed, errors } = throughRouter(c, v6, 1400, 200_000);
    expect(passed).toBe(200_000);
    // One for each segment of the first window.
    expect(errors).toBeLessThanOrEqual(Math.ceil(200_000 / (1500 - (v6 ? 60 : 40))));
    // No time-out was waited for.
    expect(rig.clock.nowMs - started).toBeLessThan(900);
    expect(rig.tcp.engine.mss[0]).toBe(1400 - (v6 ? 60 : 40));
  });

  test('two routers, one after the other', () => {
    const rig = new TcpRig(GSO);
    const c = openFromGuest(rig, { v6 });
    rig.act(() => c.socket.write(pattern(100_000)));
    expect(throughRouter(c, v6, 1420, 50_000).bytes).toBeGreaterThanOrEqual(50_000);
    expect(throughRouter(c, v6, 1300, 100_000).bytes).toBe(100_000);
  });

  test('a quote that cannot be true changes nothing', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { v6 });
    rig.act(() => c.socket.write(pattern(1000)));
    const quote = quoteOf(rig.port.sentFrames()[0].bytes, 100);
    const l4 = v6 ? 40 : 20;
    const change = (at: number): Uint8Array => {
      const q = quote.slice();
      q[at] ^= 0x40;
      return q;
    };
    const mss = rig.tcp.engine.mss[0];
    const other = [change(l4), change(l4 + 3), change(l4 + 4), change(v6 ? 30 : 17), change(v6 ? 10 : 13)];
    for (const q of [...other, quote.slice(0, l4 + 7), quote.slice(0, 10), quote.slice(0, 0)]) {
      rig.port.inject(tooBig(v6, 1300, q));
      rig.settle();
      expect(rig.tcp.engine.mss[0]).toBe(mss);
    }
    // What was acknowledged is not on its way any more.
    c.acknowledge(1000);
    rig.port.inject(tooBig(v6, 1300, quote));
    rig.settle();
    expect(rig.tcp.engine.mss[0]).toBe(mss);
    expect(rig.sent()).toEqual([]);
  });

  test('a larger one does not make segments larger', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { v6 });
    rig.act(() => c.socket.write(pattern(1000)));
    const quote = quoteOf(rig.port.sentFrames()[0].bytes, 100);
    rig.port.inject(tooBig(v6, 9000, quote));
    rig.settle();
    expect(rig.tcp.engine.mss[0]).toBe(1500 - (v6 ? 60 : 40));
    expect(rig.sent()).toEqual([]);
  });

  test('what went out with the FIN goes out again, the FIN too', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { v6 });
    rig.act(() => {
      c.socket.write(pattern(3000));
      c.socket.close();
    });
    const quote = quoteOf(rig.port.sentFrames()[0].bytes, 100);
    rig.port.inject(tooBig(v6, 1300, quote));
    rig.settle();
    const again = c.received();
    expect(again.at(-1)).toMatchObject({ flags: 'F.', seq: 3000 });
    expect(again.reduce((n, s) => n + s.len, 0)).toBe(3000);
    expect(Math.max(...again.map((s) => s.len))).toBe(1300 - (v6 ? 60 : 40));
  });

  test('a forwarded connection that cannot be delivered ends at once; an open one goes on', () => {
    const rig = new TcpRig({ forward: [{ port: 80 }] });
    const peer = rig.host.incoming(rig.listeners[0], v6 ? '2001:db8:7::5' : '203.0.113.5', 51000);
    rig.settle();
    const syn = quoteOf(rig.port.sentFrames()[0].bytes, 68);
    const wrong = syn.slice();
    wrong[(v6 ? 40 : 20) + 4] ^= 1;
    for (const [q, ending] of [
      [wrong, 'open'],
      [syn, 'aborted'],
    ] as const) {
      rig.port.inject(v6 ? error(true, 1, 3, 0, q) : error(false, 3, 1, 0, q));
      rig.settle();
      expect(peer.ending).toBe(ending);
    }
    if (v6) return;
    const c = openFromHost(rig);
    rig.act(() => c.socket.write('data'));
    rig.port.inject(error(false, 3, 1, 0, quoteOf(rig.port.sentFrames()[0].bytes, 40)));
    rig.settle();
    expect(c.socket.ending).toBe('open');
  });

  test('random messages, cut and changed anywhere, do no harm', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { v6 });
    rig.act(() => c.socket.write(pattern(1000)));
    const whole = quoteOf(rig.port.sentFrames()[0].bytes, 200);
    fc.assert(
      fc.property(
        fc.nat(200),
        fc.array(fc.tuple(fc.nat(199), fc.nat(255)), { maxLength: 6 }),
        fc.nat(0xffff),
        (length, changes, mtu) => {
          const q = whole.slice();
          for (const [at, value] of changes) q[at] = value;
          rig.port.inject(tooBig(v6, mtu, q.slice(0, length)));
          rig.settle();
          rig.sent();
          expect(rig.tcp.engine.mss[0]).toBeGreaterThanOrEqual(v6 ? 1220 : 512);
        },
      ),
      { numRuns: 300 },
    );
    c.acknowledge(1000);
    c.send('fine');
    expect(c.socket.readText()).toBe('fine');
  });
});

test('IPv4: a router that does not say its MTU: the next of the usual ones (RFC 1191 §7)', () => {
  const rig = new TcpRig();
  const c = openFromGuest(rig);
  rig.act(() => c.socket.write(pattern(2000)));
  const quote = quoteOf(rig.port.sentFrames()[0].bytes, 28);
  rig.port.inject(tooBig(false, 0, quote));
  rig.settle();
  expect(rig.tcp.engine.mss[0]).toBe(1492 - 40);
  expect(rig.sent().length).toBeGreaterThan(0);
});

test('IPv4: below 552 bytes packets may be fragmented instead', () => {
  const rig = new TcpRig();
  const c = openFromGuest(rig);
  rig.act(() => c.socket.write(pattern(2000)));
  const before = rig.port.sentFrames();
  expect(before[0].bytes[20] & 0x40).toBe(0x40);
  rig.port.inject(tooBig(false, 68, quoteOf(before[0].bytes, 28)));
  rig.settle();
  const after = rig.port.sentFrames();
  expect(after.map((f) => f.bytes.length - 54)).toEqual([512, 512, 512, 464]);
  const ids = after.map((f) => (f.bytes[18] << 8) | f.bytes[19]);
  expect(new Set(ids).size).toBe(4);
  for (const f of after) {
    expect(f.bytes[20]).toBe(0);
    expect(internetChecksum(f.bytes.subarray(14, 34))).toBe(0);
  }
});

test('IPv6: less than 1280 bytes is not believed (RFC 8201 §4)', () => {
  const rig = new TcpRig();
  const c = openFromGuest(rig, { v6: true });
  rig.act(() => c.socket.write(pattern(2000)));
  rig.port.inject(tooBig(true, 1279, quoteOf(rig.port.sentFrames()[0].bytes, 100)));
  rig.settle();
  expect(rig.tcp.engine.mss[0]).toBe(1440);
  expect(rig.drops('icmp_unsupported')).toBe(1);
});

test('a wrong checksum is not believed, and --no-icmp changes nothing', () => {
  const rig = new TcpRig({ config: { icmp: false } });
  const c = openFromGuest(rig);
  rig.act(() => c.socket.write(pattern(2000)));
  const message = tooBig(false, 1300, quoteOf(rig.port.sentFrames()[0].bytes, 28));
  const bad = message.slice();
  bad[38] ^= 1;
  rig.port.inject(bad);
  rig.settle();
  expect(rig.drops('icmp_malformed')).toBe(1);
  rig.port.inject(message);
  rig.settle();
  expect(rig.tcp.engine.mss[0]).toBe(1260);
});
