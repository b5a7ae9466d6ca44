/** Echo from the guest over ping sockets. */
import { C_FLOWS_ICMP } from '../../../../src/stack/counters';
import { REST_MS } from '../../../../src/stack/kit/resting';
import { ip } from '../../../support/stack/addresses';
import { addressText, ascii, DatagramRig, latin1 } from '../../../support/stack/datagram-rig';
import {
  EACCES,
  ECONNREFUSED,
  EMFILE,
  ENETUNREACH,
  type FakeDatagramSocket,
} from '../../../support/stack/fake-host-io-udp';
import { join, split } from '../../../support/stack/fragments';
import { bytes, dissect, icmpv6, internetChecksum, packet, u16 } from '../../../support/stack/link-rig';
import type { IpOptions } from '../../../support/stack/link-rig';

const GUEST = '192.0.2.10';
const GUEST6 = '2001:db8::10';
const REMOTE = '203.0.113.5';
const REMOTE6 = '2001:db8:5::5';

function message(type: number, id: number, seq: number, payload: Uint8Array, code = 0): Uint8Array {
  const m = bytes([type, code, 0, 0], u16(id), u16(seq), payload);
  m.set(u16(internetChecksum(m)), 2);
  return m;
}

function ping(dst: string, id: number, seq: number, payload: Uint8Array, o: IpOptions = {}): Uint8Array {
  return packet(GUEST, dst, 1, message(8, id, seq, payload), o);
}

function ping6(dst: string, id: number, seq: number, payload: Uint8Array, o: IpOptions = {}): Uint8Array {
  return icmpv6(GUEST6, dst, bytes([128, 0, 0, 0], u16(id), u16(seq), payload), o);
}

/** The remote end answers everything that left, as it is on the wire. */
function answer(rig: DatagramRig): void {
  for (const s of rig.host.sent.splice(0)) {
    const reply = Uint8Array.from(s.data);
    reply[0] = s.to.address.includes(':') ? 129 : 0;
    rig.host.queue(rig.host.get(s.fd), { address: s.to.address, port: 0 }, '', reply);
  }
}

/** Replies to the guest: addresses, id, seq, payload; checksums verified. */
function replies(rig: DatagramRig): string[] {
  const sent = rig.port.sent();
  const isCut = sent.some((frame) => frame[14] >> 4 === 4 && (frame[20] & 0x3f) + frame[21] !== 0);
  return (isCut ? [join(sent)] : sent).map((frame) => {
    const d = dissect(frame);
    const m = d.payload;
    if (d.protocol === 1) expect(internetChecksum(m)).toBe(0);
    expect([m[0], m[1]]).toEqual([d.protocol === 1 ? 0 : 129, 0]);
    const id = m[4] * 256 + m[5];
    const seq = m[6] * 256 + m[7];
    return `${addressText(d.src)} > ${addressText(d.dst)} ${String(id)}/${String(seq)} ${latin1(m.subarray(8))}`;
  });
}

function onlySocket(rig: DatagramRig): FakeDatagramSocket {
  const all = [...rig.host.sockets.values()];
  expect(all).toHaveLength(1);
  return all[0];
}

describe('echo', () => {
  test('goes out with another identifier, comes back with the guest’s', () => {
    const rig = new DatagramRig();
    rig.guest(ping(REMOTE, 0x1234, 1, ascii('payload')));
    const [sent] = rig.host.sent;
    expect(sent.to.address).toBe(REMOTE);
    expect([...sent.data.subarray(4, 6)]).not.toEqual([0x12, 0x34]);
    expect(latin1(sent.data.subarray(8))).toBe('payload');
    answer(rig);
    rig.pump();
    expect(replies(rig)).toEqual(['203.0.113.5 > 192.0.2.10 4660/1 payload']);
    expect(rig.counter(C_FLOWS_ICMP)).toBe(1);
    expect(rig.allDrops()).toEqual({});
  });

  test('IPv6 likewise', () => {
    const rig = new DatagramRig();
    rig.guest(ping6(REMOTE6, 7, 9, ascii('six')));
    answer(rig);
    rig.pump();
    expect(replies(rig)).toEqual(['2001:db8:5::5 > 2001:db8::10 7/9 six']);
  });

  test.each([0, 1, 9, 56, 1472, 65507])('with %i bytes of payload', (size) => {
    const rig = new DatagramRig({ port: { rowSize: 1001 } });
    const payload = Uint8Array.from({ length: size }, (_, i) => (i * 31) & 0xff);
    rig.guest(ping(REMOTE, 1, 1, payload));
    answer(rig);
    rig.pump();
    const frames = rig.port.sent();
    const frame = frames.length > 1 ? join(frames) : frames[0];
    expect(Buffer.from(dissect(frame).payload.subarray(8)).equals(payload)).toBe(true);
    expect(internetChecksum(dissect(frame).payload)).toBe(0);
  });

  test('flows are told apart by identifier and destination; one flow, one socket', () => {
    const rig = new DatagramRig();
    rig.guest(
      ping(REMOTE, 1, 1, ascii('a')),
      ping(REMOTE, 2, 1, ascii('b')),
      ping('203.0.113.6', 1, 1, ascii('c')),
      ping(REMOTE, 1, 2, ascii('d')),
    );
    expect(rig.host.sockets.size).toBe(3);
    answer(rig);
    rig.pump();
    expect(replies(rig).sort()).toEqual([
      '203.0.113.5 > 192.0.2.10 1/1 a',
      '203.0.113.5 > 192.0.2.10 1/2 d',
      '203.0.113.5 > 192.0.2.10 2/1 b',
      '203.0.113.6 > 192.0.2.10 1/1 c',
    ]);
  });

  test('the gateway is the host’s loopback', () => {
    const rig = new DatagramRig({ ip4: { outboundAddr: ip('198.51.100.7'), outboundIf: 'eth7' } });
    rig.guest(ping('192.0.2.1', 1, 1, ascii('x')), ping6('fe80::1', 1, 1, ascii('y')));
    expect(rig.host.sent.map((s) => s.to.address)).toEqual(['127.0.0.1', '::1']);
    expect([...rig.host.sockets.values()].map((s) => s.device)).toEqual([null, null]);
    answer(rig);
    rig.pump();
    expect(replies(rig)).toEqual(['192.0.2.1 > 192.0.2.10 1/1 x', 'fe80::1 > 2001:db8::10 1/1 y']);
  });

  test('outgoing address and interface, scope of a link-local destination', () => {
    const rig = new DatagramRig({ ip4: { outboundAddr: ip('198.51.100.7'), outboundIf: 'eth7' } });
    rig.guest(ping(REMOTE, 1, 1, ascii('x')), ping6('fe80::99', 1, 1, ascii('y')));
    expect(rig.host.sent[0].from.address).toBe('198.51.100.7');
    expect([...rig.host.sockets.values()][0].device).toBe('eth7');
    expect(rig.host.sent[1].scope).toBe(3);
  });

  test('the hop limit follows the guest’s', () => {
    const rig = new DatagramRig();
    rig.guest(ping(REMOTE, 1, 1, ascii('x'), { ttl: 3 }), ping6(REMOTE6, 1, 1, ascii('y'), { ttl: 4 }));
    const [v4, v6] = [...rig.host.sockets.values()];
    expect(v4.option(0, 2)).toBe(3);
    expect(v6.option(41, 16)).toBe(4);
    rig.guest(ping(REMOTE, 1, 2, ascii('x'), { ttl: 5 }));
    expect(v4.option(0, 2)).toBe(5);
  });

  test('ends after a minute without use', () => {
    const rig = new DatagramRig();
    rig.guest(ping(REMOTE, 1, 1, ascii('x')));
    rig.later(59_000);
    answer(rig);
    rig.pump();
    rig.later(59_000);
    expect(rig.counter(C_FLOWS_ICMP)).toBe(1);
    rig.later(1100);
    expect(rig.counter(C_FLOWS_ICMP)).toBe(0);
    expect(rig.host.sockets.size).toBe(0);
    expect(rig.icmp.nextDeadline()).toBe(Infinity);
  });

  test('a full table, or no descriptor: the oldest flow makes room', () => {
    const rig = new DatagramRig({ config: { maxPingFlows: 2 } });
    for (let id = 1; id <= 3; id++) rig.guest(ping(REMOTE, id, 1, ascii('x')));
    expect(rig.host.sockets.size).toBe(2);
    expect(rig.host.sent).toHaveLength(3);
    rig.host.maxSockets = 2;
    rig.guest(ping(REMOTE, 4, 1, ascii('x')));
    expect(rig.host.sent).toHaveLength(4);
    const poor = new DatagramRig();
    poor.host.maxSockets = 0;
    poor.guest(ping(REMOTE, 1, 1, ascii('x')));
    expect(poor.allDrops()).toEqual({ no_descriptors: 1 });
    expect(poor.logged).toEqual([]);
  });

  test('without receive buffers a reply waits', () => {
    const rig = new DatagramRig({ port: { buffers: 0 } });
    rig.guest(ping(REMOTE, 1, 1, ascii('x')));
    answer(rig);
    rig.pump();
    expect(onlySocket(rig).queue).toHaveLength(1);
    rig.port.post(1);
    rig.stack.onGuestReady();
    expect(replies(rig)).toEqual(['203.0.113.5 > 192.0.2.10 1/1 x']);
  });

  test('a reset closes the sockets', () => {
    const rig = new DatagramRig();
    rig.guest(ping(REMOTE, 1, 1, ascii('x')), ping(REMOTE, 2, 1, ascii('x')));
    const stale = [...rig.host.sockets.values()][0].watched;
    rig.stack.reset();
    expect(rig.host.sockets.size).toBe(0);
    rig.stack.onSocket(stale?.key ?? 0, stale?.generation ?? 0, 1);
  });

  test('what the kernel gives besides replies is thrown away', () => {
    const rig = new DatagramRig();
    rig.guest(ping(REMOTE, 1, 1, ascii('x')));
    const from = { address: REMOTE, port: 0 };
    rig.host.queue(onlySocket(rig), from, '', ascii('short'));
    rig.host.queue(onlySocket(rig), from, '', message(43, 1, 1, ascii('extended')));
    answer(rig);
    rig.pump();
    expect(replies(rig)).toEqual(['203.0.113.5 > 192.0.2.10 1/1 x']);
    expect(rig.allDrops()).toEqual({ icmp_malformed: 1, icmp_unsupported: 1 });
  });
});

describe('refused frames', () => {
  const broken = ping(REMOTE, 1, 1, ascii('x'));
  broken[42] ^= 1;
  const broken6 = ping6(REMOTE6, 1, 1, ascii('x'));
  broken6[62] ^= 1;

  test.each<[string, Uint8Array, string]>([
    ['echo reply', packet(GUEST, REMOTE, 1, message(0, 1, 1, ascii('x'))), 'icmp_unsupported'],
    ['redirect', packet(GUEST, REMOTE, 1, message(5, 1, 1, ascii('x'))), 'icmp_unsupported'],
    ['unreachable', packet(GUEST, REMOTE, 1, message(3, 1, 1, ascii('x'))), 'icmp_unsupported'],
    ['MLD report', icmpv6('fe80::10', 'ff02::16', message(143, 0, 0, ascii('x'))), 'icmp_unsupported'],
    ['code of an echo', packet(GUEST, REMOTE, 1, message(8, 1, 1, ascii('x'), 1)), 'icmp_malformed'],
    ['cut', packet(GUEST, REMOTE, 1, message(8, 1, 1, ascii('')).subarray(0, 7)), 'icmp_malformed'],
    ['checksum', broken, 'icmp_malformed'],
    ['ICMPv6 checksum', broken6, 'icmp_malformed'],
  ])('%s', (_name, frame, reason) => {
    const rig = new DatagramRig();
    rig.guest(frame);
    expect(rig.host.sockets.size).toBe(0);
    expect(rig.port.sent()).toEqual([]);
    expect(rig.allDrops()).toEqual({ [reason]: 1 });
  });
});

describe('when the host allows no ping sockets', () => {
  function refused(): DatagramRig {
    const rig = new DatagramRig();
    rig.host.pingRefused = -EACCES;
    return rig;
  }

  test('the gateway answers itself', () => {
    const rig = refused();
    rig.guest(ping('192.0.2.1', 5, 6, ascii('hello')), ping6('fe80::1', 7, 8, ascii('six')));
    expect(replies(rig)).toEqual(['192.0.2.1 > 192.0.2.10 5/6 hello', 'fe80::1 > 2001:db8::10 7/8 six']);
    expect(rig.host.sent).toEqual([]);
    expect(rig.allDrops()).toEqual({});
  });

  test('so does our own address on the link when it is not mapped to loopback', () => {
    const rig = new DatagramRig({ ip4: { mapHostLoopback: null }, ip6: { mapHostLoopback: null } });
    rig.host.pingRefused = -EACCES;
    rig.guest(ping('192.0.2.1', 5, 6, ascii('a')), ping6('fe80::1', 7, 8, ascii('b')));
    expect(replies(rig)).toHaveLength(2);
  });

  test('others are dropped; the way out is said once', () => {
    const rig = refused();
    rig.guest(ping(REMOTE, 1, 1, ascii('x')), ping(REMOTE, 1, 2, ascii('x')), ping6(REMOTE6, 1, 1, ascii('x')));
    expect(rig.port.sent()).toEqual([]);
    expect(rig.allDrops()).toEqual({ host_socket_error: 3 });
    expect(rig.logged.filter((l) => l.includes('net.ipv4.ping_group_range'))).toHaveLength(1);
  });

  test.each([1400, 1990])('a long request of %i bytes is answered as well', (size) => {
    const rig = refused();
    const payload = Uint8Array.from({ length: size }, (_, i) => i & 0xff);
    rig.guest(ping('192.0.2.1', 1, 1, payload));
    const [frame] = rig.port.sent();
    expect(internetChecksum(dissect(frame).payload)).toBe(0);
    expect(Buffer.from(dissect(frame).payload.subarray(8)).equals(payload)).toBe(true);
  });

  test('one that is too long for us is dropped', () => {
    const rig = refused();
    rig.guest(ping('192.0.2.1', 1, 1, new Uint8Array(3000)));
    expect(rig.port.sent()).toEqual([]);
    expect(rig.allDrops()).toEqual({ host_socket_error: 1 });
  });
});

describe('errors', () => {
  function request(rig: DatagramRig): Uint8Array {
    return rig.host.sent[0].data;
  }

  test('time exceeded reaches the guest, about its own request', () => {
    const rig = new DatagramRig();
    rig.guest(ping(REMOTE, 0x1234, 5, ascii('x'), { ttl: 1 }));
    const dest = { address: REMOTE, port: 0 };
    const error = { errno: 113, origin: 2, type: 11, code: 0, offender: '198.51.100.1', dest, payload: request(rig) };
    rig.host.fail(onlySocket(rig), error);
    rig.pump();
    const d = dissect(rig.port.sent()[0]);
    expect(addressText(d.src)).toBe('198.51.100.1');
    expect(internetChecksum(d.payload)).toBe(0);
    expect([...d.payload.subarray(0, 2)]).toEqual([11, 0]);
    expect(addressText(d.payload.subarray(20, 24))).toBe(GUEST);
    expect(addressText(d.payload.subarray(24, 28))).toBe(REMOTE);
    expect(d.payload[17]).toBe(1);
    expect([...d.payload.subarray(28, 30)]).toEqual([8, 0]);
    expect([...d.payload.subarray(32, 37)]).toEqual([0x12, 0x34, 0, 5, 0x78]);
  });

  test('ICMPv6 likewise; an error without the request’s header is of no use', () => {
    const rig = new DatagramRig();
    rig.guest(ping6(REMOTE6, 0x1234, 5, ascii('x')));
    const dest = { address: REMOTE6, port: 0 };
    const error = { errno: 113, origin: 3, type: 3, code: 0, offender: '2001:db8:9::1', dest, payload: request(rig) };
    rig.host.fail(onlySocket(rig), { ...error, payload: ascii('cut') });
    rig.host.fail(onlySocket(rig), error);
    rig.pump();
    const frames = rig.port.sent();
    expect(frames).toHaveLength(1);
    const d = dissect(frames[0]);
    expect(addressText(d.src)).toBe('2001:db8:9::1');
    expect([...d.payload.subarray(0, 2)]).toEqual([3, 0]);
    expect([...d.payload.subarray(52, 56)]).toEqual([0x12, 0x34, 0, 5]);
  });

  test('the error of an earlier request does not cost this one', () => {
    const rig = new DatagramRig();
    rig.guest(ping(REMOTE, 1, 1, ascii('x')));
    onlySocket(rig).pendingError = ECONNREFUSED;
    rig.guest(ping(REMOTE, 1, 2, ascii('y')));
    expect(rig.host.sent).toHaveLength(2);
    expect(rig.allDrops()).toEqual({});
  });

  test('no route: dropped, descriptor closed', () => {
    const rig = new DatagramRig();
    rig.host.unreachable.set(REMOTE, -ENETUNREACH);
    rig.guest(ping(REMOTE, 1, 1, ascii('x')));
    expect(rig.host.sockets.size).toBe(0);
    expect(rig.allDrops()).toEqual({ host_socket_error: 1 });
  });

  test.each([12, 105])(
    'no memory for a socket (errno %d): dropped, and nobody is told that pings are forbidden',
    (errno) => {
      const rig = new DatagramRig();
      rig.host.socket = (): number => -errno;
      rig.guest(ping(REMOTE, 1, 1, ascii('x')));
      expect(rig.allDrops()).toEqual({ no_descriptors: 1 });
    },
  );

  test('a socket that only ever fails is given up', () => {
    const rig = new DatagramRig();
    rig.guest(ping(REMOTE, 1, 1, ascii('x')));
    answer(rig);
    rig.host.recv = (): number => -EMFILE;
    rig.pump();
    expect(rig.host.sockets.size).toBe(0);
  });
});

describe('as on the network', () => {
  const long = ascii('x'.repeat(3000));

  test('traffic class and hop limit of request and reply', () => {
    for (const v4 of [true, false]) {
      const rig = new DatagramRig();
      const request = v4 ? ping(REMOTE, 1, 1, ascii('a'), { ttl: 7 }) : ping6(REMOTE6, 1, 1, ascii('a'), { ttl: 7 });
      if (v4) request[15] = 0xb8;
      else request.set([0x6b, 0x80], 14);
      rig.guest(request);
      const socket = onlySocket(rig);
      expect([socket.option(v4 ? 0 : 41, v4 ? 2 : 16), socket.option(v4 ? 0 : 41, v4 ? 1 : 67)]).toEqual([7, 0xb8]);
      const before = rig.host.calls.get('setsockopt');
      rig.guest(request);
      expect(rig.host.calls.get('setsockopt')).toBe(before);
      const reply = Uint8Array.from(rig.host.sent[0].data);
      reply[0] = v4 ? 0 : 129;
      rig.host.queue(socket, { address: v4 ? REMOTE : REMOTE6, port: 0 }, '', reply, 41, 0x48);
      rig.pump();
      const [frame] = rig.port.sent();
      const tos = v4 ? frame[15] : ((frame[14] & 15) << 4) | (frame[15] >> 4);
      expect([frame[v4 ? 22 : 21], tos]).toEqual([41, 0x48]);
    }
  });

  test.each([
    [true, '192.0.2.1', [3, 4, 0, 0, 1500 >> 8, 1500 & 255]],
    [false, 'fe80::1', [2, 0, 0, 0, 1500 >> 8, 1500 & 255]],
  ])('one that must not be fragmented and is too long is told once (IPv4: %s)', (v4, gateway, want) => {
    const rig = new DatagramRig();
    rig.host.mtu = 1500;
    rig.guest(v4 ? ping(REMOTE, 0x1234, 9, long, { fragment: 0x4000 }) : ping6(REMOTE6, 0x1234, 9, long));
    rig.pump();
    expect(rig.host.sent).toEqual([]);
    const errors = rig.port.sent().map(dissect);
    expect(errors).toHaveLength(1);
    const { src, payload } = errors[0];
    expect(addressText(src)).toBe(gateway);
    expect([payload[0], payload[1], ...payload.subarray(4, 8)]).toEqual(want);
    const quoted = payload.subarray(v4 ? 28 : 48);
    expect([...quoted.subarray(4, 8)]).toEqual([...u16(0x1234), ...u16(9)]);
  });

  test('requests and replies of any length in fragments, at an MTU of 1500', () => {
    for (const v4 of [true, false]) {
      const rig = new DatagramRig({ config: { mtu: 1500 } });
      rig.host.mtu = 1500;
      const data = Uint8Array.from({ length: v4 ? 65_507 : 60_000 }, (_, i) => (i * 5) & 0xff);
      rig.guest(...split(v4 ? ping(REMOTE, 5, 1, data) : ping6(REMOTE6, 5, 1, data), 1448));
      expect(rig.host.sent).toHaveLength(1);
      answer(rig);
      rig.pump();
      const sent = rig.port.sent();
      expect(Math.max(...sent.map((f) => f.length))).toBeLessThanOrEqual(1514);
      const d = dissect(join(sent));
      expect([...d.payload.subarray(4, 8)]).toEqual([0, 5, 0, 1]);
      expect(Buffer.from(d.payload.subarray(8)).equals(data)).toBe(true);
      expect(rig.allDrops()).toEqual({});
    }
  });
});

describe.each([
  [GUEST, REMOTE, ping],
  [GUEST6, REMOTE6, ping6],
])('where the kernel has no memory: %s', (guest, remote, request) => {
  const ENOMEM = 12;

  test.each(['recv', 'recvMany'])('a reply that could not be read (%s) is read later, without an event', (call) => {
    const rig = new DatagramRig();
    rig.guest(request(remote, 0x1234, 1, ascii('abc')));
    answer(rig);
    rig.host.failing.set(call, -ENOMEM);
    rig.pump();
    expect(replies(rig)).toEqual([]);
    rig.host.failing.clear();
    expect(rig.stack.nextDeadline() - rig.clock.nowMs).toBeLessThanOrEqual(REST_MS);
    rig.later(REST_MS);
    rig.pump();
    expect(replies(rig)).toEqual([`${remote} > ${guest} 4660/1 abc`]);
    expect(rig.counter(C_FLOWS_ICMP)).toBe(1);
  });

  test('errors that could not be read are told later', () => {
    const rig = new DatagramRig();
    const v4 = !remote.includes(':');
    rig.guest(request(remote, 0x1234, 1, ascii('abc')));
    const [{ data }] = rig.host.sent;
    rig.host.failing.set('recvError', -ENOMEM);
    rig.host.fail(onlySocket(rig), {
      errno: ECONNREFUSED,
      origin: v4 ? 2 : 3,
      type: v4 ? 3 : 1,
      code: v4 ? 1 : 3,
      offender: remote,
      dest: { address: remote, port: 0 },
      payload: data,
    });
    rig.pump();
    expect(rig.port.sent()).toEqual([]);
    rig.host.failing.clear();
    rig.later(REST_MS);
    expect(rig.port.sent().map((frame) => dissect(frame).payload[0])).toEqual([v4 ? 3 : 1]);
  });
});
