/** System calls counted: what a connection costs, and what a mebibyte costs. The fakes count each call of HostIo. */
import { TcpRig, guestFrame, openFromGuest, openFromHost, pattern } from '../../../support/stack/tcp-rig';
import type { Connection } from '../../../support/stack/tcp-rig';

const MIB = 1 << 20;

/** Calls since `since`, without those that were not made. */
function calls(rig: TcpRig, since = new Map<string, number>()): Record<string, number> {
  const made: Record<string, number> = {};
  for (const [name, n] of rig.host.calls) if (n > (since.get(name) ?? 0)) made[name] = n - (since.get(name) ?? 0);
  return made;
}

/** A request of a byte, an answer of a byte. */
function exchange(rig: TcpRig, c: Connection): void {
  c.send('?');
  rig.act(() => c.socket.write('!'));
  c.ack = (c.ack + 1) >>> 0;
}

const partial = { vnet: { csumPartial: true } };

describe('a connection for one exchange', () => {
  test('closed by the guest: eleven calls, three frames to the guest', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { delayedAcks: true });
    rig.host.calls.delete('checksum');
    const frames = rig.counter(9);
    exchange(rig, c);
    c.flags('F.');
    rig.act(() => c.socket.close());
    c.acknowledge(1);
    expect(c.socket.ending).toBe('closed');
    rig.host.calls.delete('checksum');
    expect(calls(rig)).toEqual({
      ...{ socket: 1, setsockopt: 1, connect: 1, watch: 1, memInfo: 1 },
      ...{ send: 1, recv: 2, discard: 1, shutdown: 1, close: 1 },
    });
    // After the SYN-ACK: the answer, which acknowledges the request, and a FIN which acknowledges the guest's.
    expect(rig.counter(9) - frames).toBe(2);
  });

  test('closed by the peer', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { delayedAcks: true });
    const frames = rig.counter(9);
    c.send('?');
    rig.act(() => {
      c.socket.write('!');
      c.socket.close();
    });
    c.ack = (c.ack + 2) >>> 0;
    c.flags('F.');
    expect(c.socket.ending).toBe('closed');
    rig.host.calls.delete('checksum');
    expect(calls(rig)).toEqual({
      // The end of the stream shows with the answer: it is not looked for, which would take an option as well.
      ...{ socket: 1, setsockopt: 1, connect: 1, watch: 1, memInfo: 1 },
      ...{ send: 1, recv: 1, discard: 1, close: 1 },
    });
    // After the SYN-ACK: the answer with the FIN, and what acknowledges the guest's.
    expect(rig.counter(9) - frames).toBe(2);
  });

  test('accepted on the host: no option is set on it', () => {
    const rig = new TcpRig({ forward: [{ port: 80 }] });
    const before = new Map(rig.host.calls);
    const c = openFromHost(rig, { delayedAcks: true });
    rig.act(() => c.socket.write('?'));
    c.ack = (c.ack + 1) >>> 0;
    c.send('!', 'FP.');
    rig.act(() => c.socket.close());
    c.acknowledge(1);
    expect(c.socket.ending).toBe('closed');
    rig.host.calls.delete('checksum');
    expect(calls(rig, before)).toEqual({
      ...{ accept: 2, watch: 1, memInfo: 1 },
      ...{ send: 1, recv: 2, discard: 1, shutdown: 1, close: 1 },
    });
    // Accepted sockets inherit it.
    expect(rig.listeners[0].options.get('1.10')).toBe(1);
  });
});

test.each([
  [1500, 1460],
  [65520, 65480],
])('exchanges on one connection at MTU %d: three calls and one frame each', (mtu, mss) => {
  const rig = new TcpRig({ config: { mtu } });
  rig.host.sndbuf = 87_040; // Linux's first
  const c = openFromGuest(rig, { mss, delayedAcks: true });
  exchange(rig, c);
  const before = new Map(rig.host.calls);
  rig.sent();
  for (let n = 0; n < 100; n++) exchange(rig, c);
  rig.host.calls.delete('checksum');
  before.delete('checksum');
  expect(calls(rig, before)).toEqual({ send: 100, recv: 100, discard: 100 });
  expect(rig.sent()).toHaveLength(100);
});

test('a mebibyte from the guest: one send a batch, two looks at the send buffer', () => {
  const rig = new TcpRig({ config: { mtu: 65520 } });
  rig.host.sndbuf = 4 * MIB;
  const c = openFromGuest(rig, { mss: 65480 });
  const chunk = pattern(32_768);
  const before = new Map(rig.host.calls);
  for (let n = 0; n < 32; n += 4) {
    for (let k = 0; k < 4; k++) {
      rig.port.inject(guestFrame(c.segment({ flags: '.', payload: chunk })), partial.vnet);
      c.seq = (c.seq + chunk.length) >>> 0;
    }
    rig.settle();
    c.socket.read();
  }
  const made = calls(rig, before);
  expect(made.send).toBe(8);
  expect(made.memInfo ?? 0).toBeLessThanOrEqual(2);
  expect(
    Object.keys(made)
      .sort()
      .filter((name) => !['send', 'memInfo'].includes(name)),
  ).toEqual([]);
});

test('four mebibytes to the guest: no option is set, one read a share, one discard for many acknowledgements', () => {
  const rig = new TcpRig({ config: { mtu: 65520 }, port: { memorySize: 32 << 20 } });
  const c = openFromGuest(rig, { mss: 65480, ws: 8, win: 65535 });
  c.socket.write(pattern(MIB));
  rig.settle();
  let got = rig.sent().reduce((n, s) => n + s.payload.length, 0);
  const before = new Map(rig.host.calls);
  for (let round = 0; round < 4; round++) {
    c.socket.write(pattern(MIB));
    // Every other segment acknowledged, as guests do, all in one batch.
    for (; got > 0; got -= 131_072) {
      c.ack = (c.ack + Math.min(got, 131_072)) >>> 0;
      rig.port.inject(guestFrame(c.segment({ flags: '.' })), partial.vnet);
    }
    rig.settle();
    got = rig.sent().reduce((n, s) => n + s.payload.length, 0);
  }
  const made = calls(rig, before);
  expect(made.setsockopt ?? 0).toBeLessThanOrEqual(1);
  expect(made.discard).toBeLessThanOrEqual(2 * 4);
  // Of each mebibyte: four shares, and what ends short.
  expect(made.recv).toBeLessThanOrEqual(7 * 4);
  expect(made.memInfo ?? 0).toBe(0);
});
