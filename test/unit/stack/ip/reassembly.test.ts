/** Fragments from the guest. */
import fc from 'fast-check';
import { ip } from '../../../support/stack/addresses';
import { ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import { piece, split } from '../../../support/stack/fragments';
import { bytes, datagram, dissect, icmpv6, packet, u16 } from '../../../support/stack/link-rig';

const GUEST = '192.0.2.10';
const GUEST6 = '2001:db8::10';
const REMOTE = '203.0.113.5';
const REMOTE6 = '2001:db8:5::5';

const FAMILIES: [string, string, number, string][] = [
  [GUEST, REMOTE, 30_000, '192.0.2.1'],
  [GUEST6, REMOTE6, 60_000, 'fe80::1'],
];

function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8)) & 0xff);
}

/** The payload of an IP packet in a frame. */
function body(frame: Uint8Array): Uint8Array {
  return frame.subarray(frame[14] >> 4 === 4 ? 34 : 54);
}

describe.each(FAMILIES)('a datagram from %s in fragments', (guest, remote, lifetime, gateway) => {
  test.each([
    [100, 8],
    [1473, 1480],
    [65_507, 1480],
    [65_507, 65_480],
  ])('of %i bytes, %i each, leaves as one, in whatever order they come', (size, step) => {
    const data = pattern(size);
    const frames = split(datagram(guest, 5000, remote, 7000, data), step);
    for (const order of [frames, [...frames].reverse(), [...frames, ...frames]]) {
      const rig = new DatagramRig({ port: { rowSize: 999 } });
      rig.guest(...order);
      expect(rig.host.sent).toHaveLength(order.length > frames.length ? 2 : 1);
      expect(Buffer.from(rig.host.sent[0].data).equals(data)).toBe(true);
      expect(rig.host.sent[0].to).toEqual({ address: remote, port: 7000 });
      expect(rig.allDrops()).toEqual({});
    }
  });

  test('any order, repetitions and other datagrams between', () => {
    const frames = [1, 2, 3].map((id) => split(datagram(guest, 5000, remote, 7000, pattern(90 + id)), 16, id));
    fc.assert(
      fc.property(fc.shuffledSubarray(frames.flat(), { minLength: frames.flat().length }), fc.nat(2), (all, twice) => {
        const rig = new DatagramRig({ port: { memorySize: 1 << 20 } });
        rig.guest(...all.flatMap((f, i) => (i % 3 === twice ? [f, f] : [f])));
        expect(rig.host.sent.map((s) => s.data.length).sort()).toEqual([91, 92, 93]);
        expect(rig.allDrops()).toEqual({});
      }),
      { numRuns: 100 },
    );
  });

  test('more in a batch than there are slots', () => {
    const rig = new DatagramRig();
    const all = Array.from({ length: 200 }, (_, i) => split(datagram(guest, 5000, remote, 7000, pattern(40)), 24, i));
    rig.guest(...all.flat());
    expect(rig.host.sent).toHaveLength(200);
    expect(rig.allDrops()).toEqual({});
  });

  test.each([
    ['covering the end of another', 8, 16],
    ['inside another', 8, 8],
    ['beginning with another, and longer', 0, 32],
    ['over two others', 0, 48],
  ])('one %s spoils it, also when all the rest comes', (_name, at, length) => {
    const rig = new DatagramRig();
    const frame = datagram(guest, 5000, remote, 7000, pattern(100));
    const frames = split(frame, 24);
    rig.guest(frames[0], frames[1], piece(frame, at, body(frame).subarray(at, at + length), true), ...frames.slice(2));
    expect(rig.host.sent).toEqual([]);
    expect(rig.drops('fragment_overlap')).toBe(1 + frames.length - 2);
    // The guest's next one is not its victim.
    rig.guest(...split(datagram(guest, 5000, remote, 7000, pattern(100)), 24, 99));
    expect(rig.host.sent).toHaveLength(1);
  });

  test('a second end, or something behind the end, spoils it', () => {
    const frame = datagram(guest, 5000, remote, 7000, pattern(100));
    const all = body(frame);
    for (const odd of [
      [piece(frame, 80, all.subarray(80), false), piece(frame, 80, all.subarray(80, 84), false)],
      [piece(frame, 80, all.subarray(80, 104), false), piece(frame, 104, all.subarray(0, 8), true)],
      [piece(frame, 96, all.subarray(0, 8), true), piece(frame, 80, all.subarray(80, 88), false)],
    ]) {
      const rig = new DatagramRig();
      rig.guest(...odd);
      expect(rig.allDrops()).toEqual({ fragment_overlap: 1 });
    }
  });

  test('malformed ones are refused', () => {
    const frame = datagram(guest, 5000, remote, 7000, pattern(100));
    const rig = new DatagramRig();
    rig.guest(
      piece(frame, 0, pattern(13), true),
      piece(frame, 8, pattern(0), true),
      piece(frame, 65_528, pattern(16), false),
    );
    expect(rig.allDrops()).toEqual({ [guest === GUEST ? 'ipv4_fragment' : 'ipv6_fragment']: 3 });
  });

  test('the oldest of too many makes room', () => {
    const rig = new DatagramRig();
    const all = Array.from({ length: 65 }, (_, i) => split(datagram(guest, 5000, remote, 7000, pattern(40)), 24, i));
    rig.guest(...all.map((f) => f[0]));
    expect(rig.allDrops()).toEqual({ fragment_limit: 1 });
    rig.guest(...all.slice(1).map((f) => f[1]));
    expect(rig.host.sent).toHaveLength(64);
  });

  test('when its time is up, the guest is told, if the first fragment had come', () => {
    const rig = new DatagramRig();
    const frames = split(datagram(guest, 5000, remote, 7000, pattern(100)), 24);
    rig.guest(frames[0], frames[2]);
    rig.guest(...split(datagram(guest, 5000, remote, 7000, pattern(100)), 24, 7).slice(1));
    expect(rig.stack.nextDeadline()).toBeLessThanOrEqual(rig.clock.nowMs + lifetime);
    rig.later(lifetime - 10);
    expect(rig.port.sent()).toEqual([]);
    rig.later(20);
    const told = rig.port.sent().map(dissect);
    expect(told).toHaveLength(1);
    expect(Buffer.from(told[0].src).equals(ip(gateway))).toBe(true);
    expect([...told[0].payload.subarray(0, 2)]).toEqual(guest === GUEST ? [11, 1] : [3, 1]);
    const quoted = told[0].payload.subarray(guest === GUEST ? 28 : 48);
    expect([...quoted.subarray(0, 4)]).toEqual([...u16(5000), ...u16(7000)]);
    expect(rig.allDrops()).toEqual({ fragment_timeout: 2 });
    rig.guest(frames[1], ...frames.slice(3));
    expect(rig.host.sent).toEqual([]);
  });

  test('a reset forgets what was begun', () => {
    const rig = new DatagramRig();
    const frames = split(datagram(guest, 5000, remote, 7000, pattern(100)), 24);
    rig.guest(frames[0]);
    rig.stack.reset();
    expect(rig.stack.nextDeadline()).toBe(Infinity);
    rig.guest(...frames.slice(1));
    expect(rig.host.sent).toEqual([]);
  });

  test('it may be fragmented again on its way', () => {
    const rig = new DatagramRig();
    rig.host.mtu = 1500;
    rig.guest(...split(datagram(guest, 5000, remote, 7000, pattern(3000)), 1480));
    expect(rig.host.sent).toHaveLength(1);
    expect(rig.port.sent()).toEqual([]);
  });

  test('a wrong checksum over the whole is found', () => {
    const rig = new DatagramRig();
    const frame = datagram(guest, 5000, remote, 7000, pattern(100));
    frame[frame.length - 1] ^= 1;
    rig.guest(...split(frame, 48));
    expect(rig.allDrops()).toEqual({ udp_checksum: 1 });
  });
});

test('the first fragment’s hop limit and traffic class count, and congestion of any', () => {
  const rig = new DatagramRig();
  const frames = split(datagram(GUEST6, 5000, REMOTE6, 7000, pattern(100), { ttl: 9 }), 48);
  const ect = frames.map((f, i) => {
    f[14] = 0x60 | 0xb;
    f[15] = (i === 1 ? 0xb : 0xa) << 4;
    return f;
  });
  rig.guest(...ect);
  const [socket] = [...rig.host.sockets.values()];
  expect(socket.option(41, 16)).toBe(9);
  expect(socket.option(41, 67)).toBe(0xbb);
});

test('behind other extension headers', () => {
  const rig = new DatagramRig();
  const udp = body(datagram(GUEST6, 5000, REMOTE6, 7000, ascii('0123456789abcdef')));
  const options = [0, 1, 4, 0, 0, 0, 0];
  const fragment = (at: number, more: number): number[] => [17, 0, at >> 8, at | more, 0, 0, 0, 7];
  const send = (part: Uint8Array, at: number, more: number): void => {
    const ext = bytes([44, 0, ...options.slice(1, 7)], fragment(at, more));
    rig.guest(packet(GUEST6, REMOTE6, 17, part, { extensions: ext, next: 60 }));
  };
  send(udp.subarray(0, 16), 0, 1);
  send(udp.subarray(16), 16, 0);
  expect(rig.left()).toEqual(['2001:db8:99::99:5000 > 2001:db8:5::5:7000 0123456789abcdef']);
});

test('neighbour discovery, and a fragment of a fragment, are refused', () => {
  const rig = new DatagramRig();
  const solicitation = icmpv6(
    GUEST6,
    'fe80::1',
    bytes([135, 0, 0, 0, 0, 0, 0, 0], ip('fe80::1'), [1, 1, 2, 0, 0, 0, 0, 1]),
  );
  rig.guest(...split(solicitation, 16));
  const inner = bytes([17, 0, 0, 1, 0, 0, 0, 9], pattern(16));
  rig.guest(...split(packet(GUEST6, REMOTE6, 44, inner), 8, 5));
  expect(rig.port.sent()).toEqual([]);
  expect(rig.host.sent).toEqual([]);
  expect(rig.allDrops()).toEqual({ ipv6_fragment: 1, ipv6_extension: 1 });
});

test('whatever comes as fragments, nothing throws and no slot is lost', () => {
  const any = fc.record({
    v6: fc.boolean(),
    at: fc.nat(8191).map((n) => n * 8),
    near: fc.nat(8).map((n) => n * 8),
    close: fc.boolean(),
    length: fc.nat(40),
    more: fc.boolean(),
    id: fc.nat(3),
    ms: fc.constantFrom(0, 0, 0, 1000, 31_000),
  });
  fc.assert(
    fc.property(fc.array(any, { maxLength: 60 }), (list) => {
      const rig = new DatagramRig({ port: { memorySize: 4 << 20 } });
      for (const f of list) {
        const frame = f.v6
          ? datagram(GUEST6, 5000, REMOTE6, 7000, pattern(100))
          : datagram(GUEST, 5000, REMOTE, 7000, pattern(100));
        rig.guest(piece(frame, f.close ? f.near : f.at, pattern(f.length), f.more, f.id));
        rig.later(f.ms);
      }
      rig.later(61_000);
      rig.port.sent();
      const before = rig.host.sent.length;
      const all = Array.from({ length: 64 }, (_, i) =>
        split(datagram(GUEST, 5000, REMOTE, 7001, pattern(40)), 24, i + 9),
      );
      rig.guest(...all.map((f) => f[0]), ...all.map((f) => f[1]));
      expect(rig.host.sent.length - before).toBe(64);
    }),
    { numRuns: 150 },
  );
});
