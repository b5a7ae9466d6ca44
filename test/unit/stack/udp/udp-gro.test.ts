/** Datagrams that come joined (UDP_GRO) and go to the guest as one frame, or one by one where it does not take that. */
import { END_IDLE } from '../../../../src/stack/kit/flow-rows';
import { createHash } from 'node:crypto';
import { GSO_UDP_L4 } from '../../../../src/stack/ports';
import type { FakeGuestPortOptions, SentFrame } from '../../../support/stack/fake-guest-port';
import { DatagramRig } from '../../../support/stack/datagram-rig';
import type { Address, FakeDatagramSocket } from '../../../support/stack/fake-host-io-udp';
import { datagram, dissect } from '../../../support/stack/link-rig';
import { join as joinFragments } from '../../../support/stack/fragments';

const UDP_GRO: [number, number] = [17, 104];
const SO_RCVBUF: [number, number] = [1, 8];
const USO = { gsoUdp4: true, gsoUdp6: true };

interface Ends {
  readonly guest: string;
  readonly peer: Address;
  readonly host: string;
}
const ENDS4: Ends = { guest: '192.0.2.10', peer: { address: '203.0.113.5', port: 7000 }, host: '198.51.100.99' };
const ENDS6: Ends = { guest: '2001:db8::10', peer: { address: '2001:db8:5::5', port: 7000 }, host: '2001:db8:99::99' };

let next = 0;
function fresh(length: number): Uint8Array {
  const seed = next++;
  return Uint8Array.from({ length }, (_, i) => (i * 7 + seed * 29) & 0xff);
}

/** A flow whose socket has given a burst, so that it is set up for more. */
function busy(
  ends: Ends,
  port: FakeGuestPortOptions,
  config: ConstructorParameters<typeof DatagramRig>[0] = {},
): { rig: DatagramRig; socket: FakeDatagramSocket } {
  const rig = new DatagramRig({ ...config, port: { rowSize: 1000, ...port } });
  rig.host.joins = true;
  rig.guest(datagram(ends.guest, 5000, ends.peer.address, ends.peer.port, fresh(10)));
  const [socket] = [...rig.host.sockets.values()];
  send(rig, socket, ends, [10]);
  send(rig, socket, ends, Array<number>(12).fill(100));
  send(rig, socket, ends, Array<number>(12).fill(100));
  rig.port.sent();
  return { rig, socket };
}

/** Datagrams of these lengths arrive. Returns them. */
function send(rig: DatagramRig, socket: FakeDatagramSocket, ends: Ends, lengths: readonly number[]): Uint8Array[] {
  const data = lengths.map(fresh);
  for (const d of data) rig.host.queue(socket, ends.peer, ends.host, d, 57, 0xb8);
  rig.pump();
  return data;
}

/** The datagrams of frames: those of one frame are cut as a guest would. */
function cut(frames: readonly SentFrame[]): Uint8Array[] {
  return frames.flatMap((f) => {
    const { payload } = dissect(f.bytes);
    if (f.gsoType !== GSO_UDP_L4) return [payload];
    const parts: Uint8Array[] = [];
    for (let at = 0; at < payload.length; at += f.gsoSize) parts.push(payload.slice(at, at + f.gsoSize));
    return parts;
  });
}

/** Short text that differs where the datagrams do. */
const text = (data: readonly Uint8Array[]): string[] =>
  data.map((d) => `${d.length} ${createHash('sha256').update(d).digest('hex').slice(0, 12)}`);
const repeat = (n: number, length: number): number[] => Array<number>(n).fill(length);

describe.each([
  ['IPv4', ENDS4, 42],
  ['IPv6', ENDS6, 62],
])('%s', (_name, ends, front) => {
  test('one frame with the length of each, and a checksum of the whole left to the guest', () => {
    const { rig, socket } = busy(ends, USO);
    const data = send(rig, socket, ends, [...repeat(9, 1400), 3]);
    const frames = rig.port.sentFrames();
    expect(frames).toHaveLength(1);
    const [f] = frames;
    expect({ ...f, bytes: null }).toEqual({
      bytes: null,
      length: front + 9 * 1400 + 3,
      flags: 1,
      csumStart: front - 8,
      csumOffset: 6,
      gsoType: GSO_UDP_L4,
      gsoSize: 1400,
    });
    const d = dissect(f.bytes);
    expect([d.srcPort, d.dstPort, d.ttl]).toEqual([7000, 5000, 57]);
    expect(text(cut(frames))).toEqual(text(data));
    expect(rig.host.cut).toBe(0);
    expect(rig.allDrops()).toEqual({});
  });

  test('any lengths: the same datagrams in the same order', () => {
    const { rig, socket } = busy(ends, USO);
    for (const lengths of [
      repeat(64, 1),
      repeat(130, 1400),
      [5, 5, 0, 5, 4, 5, 5, 5, 9, 9, 0, 0, 1],
      [65_400, 3, 3, 3],
      [...repeat(3, 20_000), 65_000, 30_000, 30_000],
      repeat(70, 900),
    ]) {
      const data = send(rig, socket, ends, lengths);
      expect(text(cut(rig.port.sentFrames()))).toEqual(text(data));
    }
    expect(rig.host.cut).toBe(0);
    expect(rig.allDrops()).toEqual({});
  });

  test('a flood of joined datagrams is received in place, many at a time', () => {
    const { rig, socket } = busy(ends, { ...USO, bufferSize: 1536, buffers: 256 });
    send(rig, socket, ends, repeat(40, 200));
    rig.port.sent();
    rig.port.post(100);
    rig.host.calls.clear();
    const data = send(rig, socket, ends, repeat(400, 200));
    for (let i = 0; i < 20 && socket.queue.length > 0; i++) {
      rig.port.post(50);
      rig.stack.onGuestReady();
      rig.pump();
    }
    const frames = rig.port.sentFrames();
    expect(text(cut(frames))).toEqual(text(data));
    expect(frames.length).toBeLessThan(12);
    // The first one was longer than its flow's before.
    expect(rig.host.calls.get('copyRows') ?? 0).toBeLessThanOrEqual(4);
  });

  test('an MTU below their length: each in fragments, and they are not joined any more', () => {
    const { rig, socket } = busy(ends, USO, { config: { mtu: 1500 } });
    expect(socket.option(...UDP_GRO)).toBe(1);
    const data = send(rig, socket, ends, repeat(4, 2000));
    const frames = rig.port.sent();
    expect(frames).toHaveLength(8);
    const whole = [0, 2, 4, 6].map((i) => dissect(joinFragments(frames.slice(i, i + 2))).payload);
    expect(text(whole)).toEqual(text(data));
    expect(socket.option(...UDP_GRO)).toBe(0);
    const small = send(rig, socket, ends, repeat(4, 200));
    expect(text(cut(rig.port.sentFrames()))).toEqual(text(small));
    expect(socket.option(...UDP_GRO)).toBe(0);
    expect(rig.allDrops()).toEqual({});
  });

  test('buffers that hold one datagram only: each comes in one', () => {
    const { rig, socket } = busy(ends, { ...USO, maxFrame: 1526 });
    const data = send(rig, socket, ends, repeat(10, 1000));
    expect(text(cut(rig.port.sentFrames()))).toEqual(text(data));
    expect(rig.host.cut).toBe(0);
    expect(rig.allDrops()).toEqual({});
  });

  test('no room for them: they wait', () => {
    const { rig, socket } = busy(ends, { ...USO, bufferSize: 2000, buffers: 64 });
    rig.port.freeBuffers = 2;
    const data = send(rig, socket, ends, repeat(10, 1000));
    expect(rig.port.sentFrames()).toEqual([]);
    rig.port.post(64);
    rig.stack.onGuestReady();
    rig.pump();
    expect(text(cut(rig.port.sentFrames()))).toEqual(text(data));
    expect(rig.allDrops()).toEqual({});
  });

  test('longer than expected, and no room for that: they wait, and nothing overtakes them', () => {
    const { rig, socket } = busy(ends, { ...USO, bufferSize: 2000, buffers: 64 });
    rig.port.freeBuffers = 1;
    const data = send(rig, socket, ends, repeat(10, 1000));
    data.push(...send(rig, socket, ends, [5, 6]));
    rig.port.post(1);
    rig.stack.onGuestReady();
    rig.pump();
    expect(rig.port.sentFrames()).toEqual([]);
    rig.port.post(64);
    rig.stack.onGuestReady();
    rig.pump();
    expect(text(cut(rig.port.sentFrames()))).toEqual(text(data));
    expect(rig.allDrops()).toEqual({});
    expect(rig.udp.nextDeadline()).toBeGreaterThan(rig.clock.nowMs + 1000);
  });

  test.each(['time passes', 'the flow ends', 'the guest is reset'])('what waits is forgotten when %s', (how) => {
    const { rig, socket } = busy(ends, { ...USO, bufferSize: 2000, buffers: 64 });
    rig.port.freeBuffers = 1;
    send(rig, socket, ends, repeat(10, 1000));
    if (how === 'time passes') rig.later(60);
    else if (how === 'the flow ends') rig.udp.close(0, END_IDLE);
    else rig.stack.reset();
    expect(rig.drops('no_receive_buffers')).toBe(1);
    rig.port.post(64);
    rig.stack.onGuestReady();
    rig.pump();
    expect(rig.port.sentFrames()).toEqual([]);
    expect(rig.udp.busy).toBe(false);
    rig.guest(datagram(ends.guest, 5000, ends.peer.address, ends.peer.port, fresh(10)));
    const [again] = [...rig.host.sockets.values()];
    const data = send(rig, again, ends, repeat(20, 1000));
    expect(text(cut(rig.port.sentFrames()))).toEqual(text(data));
  });

  test('a guest that does not take them so: never joined, received in place', () => {
    const { rig, socket } = busy(ends, {});
    expect(socket.option(...UDP_GRO)).toBeUndefined();
    expect(socket.option(...SO_RCVBUF)).toBe(4 << 20);
    rig.host.calls.clear();
    const data = send(rig, socket, ends, repeat(30, 100));
    const frames = rig.port.sentFrames();
    expect(frames).toHaveLength(30);
    expect(text(cut(frames))).toEqual(text(data));
    expect(rig.host.calls.get('copyRows')).toBeUndefined();
    expect(rig.host.calls.get('setsockopt')).toBeUndefined();
  });

  test('joined although the guest no longer takes them: one by one, then not joined', () => {
    const { rig, socket } = busy(ends, USO);
    rig.port.gsoUdp4 = false;
    rig.port.gsoUdp6 = false;
    const data = send(rig, socket, ends, repeat(10, 100));
    expect(text(cut(rig.port.sentFrames()))).toEqual(text(data));
    expect(socket.option(...UDP_GRO)).toBe(0);
  });
});

test('a question and its answer cost no call more', () => {
  const rig = new DatagramRig({ port: USO });
  rig.guest(datagram(ENDS4.guest, 5000, ENDS4.peer.address, 53, fresh(30)));
  const [socket] = [...rig.host.sockets.values()];
  const before = rig.host.calls.get('setsockopt');
  for (let i = 0; i < 5; i++) {
    rig.host.queue(socket, { address: ENDS4.peer.address, port: 53 }, ENDS4.host, fresh(100));
    rig.pump();
  }
  expect(rig.host.calls.get('setsockopt')).toBe(before);
});

describe('a forwarded port', () => {
  function burst(port: FakeGuestPortOptions): { rig: DatagramRig; listener: FakeDatagramSocket } {
    const rig = new DatagramRig({ port }, [{ address: '::', port: 8000, dual: true }]);
    rig.host.joins = true;
    const [listener] = rig.listeners;
    for (let i = 0; i < 3; i++) {
      for (let n = 0; n < 12; n++) rig.host.queue(listener, ENDS4.peer, '198.51.100.99', fresh(100));
      rig.pump();
    }
    rig.port.sent();
    return { rig, listener };
  }

  test('peers in turn, of both families: joined by peer', () => {
    const { rig, listener } = burst(USO);
    expect(listener.option(...UDP_GRO)).toBe(1);
    const sent: Uint8Array[] = [];
    for (let i = 0; i < 24; i++) {
      const ends = i % 8 < 4 ? ENDS4 : ENDS6;
      const data = fresh(500);
      sent.push(data);
      rig.host.queue(listener, ends.peer, ends.host, data);
    }
    rig.pump();
    const frames = rig.port.sentFrames();
    expect(frames).toHaveLength(6);
    expect(text(cut(frames))).toEqual(text(sent));
    expect(rig.allDrops()).toEqual({});
  });

  test('only if the guest takes both families', () => {
    const { listener } = burst({ gsoUdp4: true });
    expect(listener.option(...UDP_GRO)).toBeUndefined();
  });

  test('what came joined and was taken apart is joined again for the next guest', () => {
    const { rig, listener } = burst(USO);
    rig.port.gsoUdp4 = false;
    for (let n = 0; n < 12; n++) rig.host.queue(listener, ENDS4.peer, '198.51.100.99', fresh(100));
    rig.pump();
    expect(listener.option(...UDP_GRO)).toBe(0);
    rig.stack.reset();
    rig.port.gsoUdp4 = true;
    for (let n = 0; n < 12; n++) rig.host.queue(listener, ENDS4.peer, '198.51.100.99', fresh(100));
    rig.pump();
    expect(listener.option(...UDP_GRO)).toBe(1);
  });
});
