/** Flows that the guest starts. */
import { C_BYTES_TO_GUEST_UDP, C_FLOWS_OPENED_UDP, C_FLOWS_UDP } from '../../../../src/stack/counters';
import { GSO_UDP_L4 } from '../../../../src/stack/ports';
import { ip } from '../../../support/stack/addresses';
import { ascii, DatagramRig, latin1 } from '../../../support/stack/datagram-rig';
import { EACCES, EAGAIN, ECONNREFUSED, ENETUNREACH, EPERM } from '../../../support/stack/fake-host-io-udp';
import { join } from '../../../support/stack/fragments';
import { bytes, datagram, dissect, packet, u16 } from '../../../support/stack/link-rig';

const GUEST = '192.0.2.10';
const GUEST6 = '2001:db8::10';
const REMOTE = '203.0.113.5';
const REMOTE6 = '2001:db8:5::5';

function ask(payload: string, port = 7000, srcPort = 5000): Uint8Array {
  return datagram(GUEST, srcPort, REMOTE, port, ascii(payload));
}

describe('a datagram from the guest', () => {
  test('goes out from the guest’s port, and the answer comes back', () => {
    const rig = new DatagramRig();
    rig.guest(ask('question'));
    expect(rig.left()).toEqual(['198.51.100.99:5000 > 203.0.113.5:7000 question']);
    rig.host.deliver({ address: REMOTE, port: 7000 }, { address: '198.51.100.99', port: 5000 }, ascii('answer'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:7000 > 192.0.2.10:5000 answer']);
    expect(rig.counter(C_FLOWS_UDP)).toBe(1);
    expect(rig.counter(C_FLOWS_OPENED_UDP)).toBe(1);
    expect(rig.counter(C_BYTES_TO_GUEST_UDP)).toBe(14 + 20 + 8 + 6);
    expect(rig.allDrops()).toEqual({});
  });

  test('IPv6 likewise', () => {
    const rig = new DatagramRig();
    rig.guest(datagram(GUEST6, 5000, REMOTE6, 7000, ascii('question')));
    expect(rig.left()).toEqual(['2001:db8:99::99:5000 > 2001:db8:5::5:7000 question']);
    rig.host.deliver({ address: REMOTE6, port: 7000 }, { address: '2001:db8:99::99', port: 5000 }, ascii('answer'));
    rig.pump();
    expect(rig.seen()).toEqual(['2001:db8:5::5:7000 > 2001:db8::10:5000 answer']);
  });

  test('frames of one flow leave with one call, in order', () => {
    const rig = new DatagramRig({ port: { rowSize: 16 } });
    rig.guest(ask('one'), ask('two'), ask('three'), ask('four', 7000, 5001), ask('five'));
    expect(rig.left().map((s) => s.split(' ')[3])).toEqual(['one', 'two', 'three', 'four', 'five']);
    expect(rig.host.calls.get('sendMany')).toBe(3);
    expect(rig.counter(C_FLOWS_UDP)).toBe(2);
    expect(rig.port.held).toBe(0);
  });

  test('more frames than one call takes', () => {
    const rig = new DatagramRig();
    const names = Array.from({ length: 200 }, (_, i) => `n${String(i)}`);
    rig.guest(...names.map((n) => ask(n)));
    expect(rig.left().map((s) => s.split(' ')[3])).toEqual(names);
  });

  test.each([0, 1, 18, 1472, 9000, 65507])('of %i bytes passes both ways', (size) => {
    const rig = new DatagramRig({ port: { rowSize: 1500 } });
    const data = Uint8Array.from({ length: size }, (_, i) => (i * 7) & 0xff);
    rig.guest(datagram(GUEST, 5000, REMOTE, 7000, data));
    expect(rig.host.sent).toHaveLength(1);
    expect(Buffer.from(rig.host.sent[0].data).equals(data)).toBe(true);
    rig.host.deliver({ address: REMOTE, port: 7000 }, rig.host.sent[0].from, data);
    rig.pump();
    const frames = rig.port.sent();
    expect(frames).toHaveLength(size > 65_520 - 28 ? 2 : 1);
    const whole = frames.length === 1 ? frames[0] : join(frames);
    expect(Buffer.from(dissect(whole).payload).equals(data)).toBe(true);
    expect(rig.allDrops()).toEqual({});
  });

  test('with an MTU of 1500, what is longer comes in fragments, and what follows does not', () => {
    for (const [guest, remote, host] of [
      [GUEST, REMOTE, '198.51.100.99'],
      [GUEST6, REMOTE6, '2001:db8:99::99'],
    ]) {
      const rig = new DatagramRig({ config: { mtu: 1500 }, port: { rowSize: 700 } });
      rig.guest(datagram(guest, 5000, remote, 7000, ascii('q')));
      for (const size of [65_507, 1453, 1473, 4000, 1452]) {
        const data = Uint8Array.from({ length: size }, (_, i) => (i * 11) & 0xff);
        rig.host.deliver({ address: remote, port: 7000 }, { address: host, port: 5000 }, data, 33, 0xb8);
        rig.pump();
        const frames = rig.port.sent();
        for (const frame of frames) expect(frame.length).toBeLessThanOrEqual(14 + 1500);
        const d = dissect(frames.length === 1 ? frames[0] : join(frames));
        expect(Buffer.from(d.payload).equals(data)).toBe(true);
        expect([d.srcPort, d.dstPort, d.ttl]).toEqual([7000, 5000, 33]);
      }
      expect(rig.allDrops()).toEqual({});
    }
  });

  test('a ring too small for all fragments costs that datagram only', () => {
    const rig = new DatagramRig({ config: { mtu: 1500 }, port: { bufferSize: 1600, buffers: 10 } });
    rig.guest(ask('q'));
    const from = { address: REMOTE, port: 7000 };
    rig.host.deliver(from, { address: '198.51.100.99', port: 5000 }, new Uint8Array(65_507));
    rig.host.deliver(from, { address: '198.51.100.99', port: 5000 }, ascii('next'));
    rig.pump();
    expect(rig.port.sent()).toHaveLength(0);
    rig.later(60);
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:7000 > 192.0.2.10:5000 next']);
    expect(rig.allDrops()).toEqual({ no_receive_buffers: 1 });
  });

  test('a privileged or taken source port is replaced, not lost', () => {
    const rig = new DatagramRig();
    rig.host.takenPorts.add(5353);
    rig.guest(ask('ntp', 123, 123), ask('mdns', 5353, 5353));
    expect(rig.left()).toEqual([
      '198.51.100.99:40000 > 203.0.113.5:123 ntp',
      '198.51.100.99:40001 > 203.0.113.5:5353 mdns',
    ]);
    rig.host.deliver({ address: REMOTE, port: 123 }, { address: '198.51.100.99', port: 40000 }, ascii('time'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:123 > 192.0.2.10:123 time']);
  });

  test('a privileged source port is kept where the kernel allows it', () => {
    const rig = new DatagramRig();
    rig.host.privileged = true;
    rig.guest(ask('ike', 500, 500), datagram(GUEST6, 500, REMOTE6, 500, ascii('ike')));
    expect(rig.left()).toEqual([
      '198.51.100.99:500 > 203.0.113.5:500 ike',
      '2001:db8:99::99:500 > 2001:db8:5::5:500 ike',
    ]);
  });

  test('one source port talks to many', () => {
    const rig = new DatagramRig();
    rig.guest(ask('a', 7001), ask('b', 7002));
    expect(rig.left().map((s) => s.split(' ')[0])).toEqual(['198.51.100.99:5000', '198.51.100.99:5000']);
    rig.host.deliver({ address: REMOTE, port: 7002 }, { address: '198.51.100.99', port: 5000 }, ascii('B'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:7002 > 192.0.2.10:5000 B']);
  });

  test('the gateway is the host’s loopback, and the resolver at ports 53 and 853', () => {
    const rig = new DatagramRig({ ip4: { dnsMatch: ip('192.0.2.1'), dnsHost: ip('127.0.0.53') } });
    rig.guest(
      datagram(GUEST, 5000, '192.0.2.1', 53, ascii('q')),
      datagram(GUEST, 5001, '192.0.2.1', 9999, ascii('x')),
      datagram(GUEST6, 5002, 'fe80::1', 9999, ascii('y')),
    );
    expect(rig.left()).toEqual([
      '127.0.0.53:5000 > 127.0.0.53:53 q',
      '127.0.0.1:5001 > 127.0.0.1:9999 x',
      '::1:5002 > ::1:9999 y',
    ]);
    rig.host.deliver({ address: '127.0.0.53', port: 53 }, { address: '127.0.0.53', port: 5000 }, ascii('r'));
    rig.pump();
    expect(rig.seen()).toEqual(['192.0.2.1:53 > 192.0.2.10:5000 r']);
  });

  test('outgoing address and interface are used, but not toward the host itself', () => {
    const rig = new DatagramRig({ ip4: { outboundAddr: ip('198.51.100.7'), outboundIf: 'eth7' } });
    rig.guest(ask('out'), ask('low', 7000, 80), datagram(GUEST, 5001, '192.0.2.1', 9999, ascii('in')));
    expect(rig.left()).toEqual([
      '198.51.100.7:5000 > 203.0.113.5:7000 out',
      '198.51.100.7:40000 > 203.0.113.5:7000 low',
      '127.0.0.1:5001 > 127.0.0.1:9999 in',
    ]);
    expect([...rig.host.sockets.values()].map((s) => s.device)).toEqual(['eth7', 'eth7', null]);
  });

  test('a link-local destination is scoped', () => {
    const rig = new DatagramRig();
    rig.guest(datagram('fe80::10', 5000, 'fe80::99', 7000, ascii('x')));
    expect(rig.host.sent[0].scope).toBe(3);
  });

  test('broadcast and multicast leave', () => {
    const rig = new DatagramRig();
    rig.guest(
      datagram(GUEST, 5000, '255.255.255.255', 9, ascii('all')),
      datagram(GUEST, 5000, '239.1.2.3', 1900, ascii('some'), { ttl: 4 }),
    );
    expect(rig.left().map((s) => s.split('> ')[1])).toEqual(['255.255.255.255:9 all', '239.1.2.3:1900 some']);
    const [, group] = [...rig.host.sockets.values()];
    expect(group.option(0, 33)).toBe(4);
    expect(group.option(0, 2)).toBeUndefined();
  });

  test('hop limit and traffic class follow the guest’s', () => {
    const rig = new DatagramRig();
    const frame = ask('tos');
    frame[15] = 0xb8;
    frame[24] = 0;
    frame[25] = 0;
    rig.guest(datagram(GUEST, 5000, REMOTE, 7000, ascii('a'), { ttl: 3 }));
    const [socket] = [...rig.host.sockets.values()];
    expect(socket.option(0, 2)).toBe(3);
    expect(socket.option(0, 1)).toBeUndefined();
    const before = rig.host.calls.get('setsockopt');
    rig.guest(datagram(GUEST, 5000, REMOTE, 7000, ascii('b'), { ttl: 3 }));
    expect(rig.host.calls.get('setsockopt')).toBe(before);
    rig.guest(frame);
    expect(socket.option(0, 2)).toBe(64);
    expect(socket.option(0, 1)).toBe(0xb8);
    rig.guest(datagram(GUEST6, 5000, REMOTE6, 7000, ascii('c'), { ttl: 9 }));
    expect([...rig.host.sockets.values()][1].option(41, 16)).toBe(9);
  });

  test('datagrams gathered before a change of hop limit leave with the old one', () => {
    const rig = new DatagramRig();
    const seen: (number | undefined)[] = [];
    const send = rig.host.sendMany.bind(rig.host);
    rig.host.sendMany = (fd, first, count): number => {
      for (let i = 0; i < count; i++) seen.push(rig.host.get(fd).option(0, 2));
      return send(fd, first, count);
    };
    rig.guest(
      datagram(GUEST, 5000, REMOTE, 7000, ascii('a'), { ttl: 1 }),
      datagram(GUEST, 5000, REMOTE, 7000, ascii('b'), { ttl: 2 }),
      datagram(GUEST, 5000, REMOTE, 7000, ascii('longer'), { ttl: 2 }),
    );
    expect(seen).toEqual([1, 2, 2]);
  });
});

describe('checksums from the guest', () => {
  function broken(frame: Uint8Array, at: number): Uint8Array {
    frame[at] ^= 0x55;
    return frame;
  }

  test('a wrong one is dropped', () => {
    const rig = new DatagramRig({ port: { rowSize: 7 } });
    rig.guest(broken(ask('hello'), 44), ask('fine'));
    expect(rig.left()).toEqual(['198.51.100.99:5000 > 203.0.113.5:7000 fine']);
    expect(rig.allDrops()).toEqual({ udp_checksum: 1 });
  });

  test('none is accepted in IPv4, not in IPv6', () => {
    const rig = new DatagramRig();
    const v4 = ask('hello');
    v4.set([0, 0], 34 + 6);
    const v6 = datagram(GUEST6, 5000, REMOTE6, 7000, ascii('hello'));
    v6.set([0, 0], 54 + 6);
    rig.guest(v4, v6);
    expect(rig.left()).toEqual(['198.51.100.99:5000 > 203.0.113.5:7000 hello']);
    expect(rig.allDrops()).toEqual({ udp_checksum: 1 });
  });

  test('one left to us is not looked at', () => {
    const rig = new DatagramRig();
    rig.guestVnet(broken(ask('hello'), 41), { csumPartial: true });
    expect(rig.left()).toEqual(['198.51.100.99:5000 > 203.0.113.5:7000 hello']);
  });
});

describe('refused frames', () => {
  const udp = (src: string, dst: string, body: Uint8Array): Uint8Array => packet(src, dst, 17, body);

  test.each<[string, Uint8Array, string]>([
    ['header cut', udp(GUEST, REMOTE, bytes(u16(5000), u16(7000), u16(8))), 'udp_malformed'],
    ['length below the header', udp(GUEST, REMOTE, bytes(u16(5000), u16(7000), u16(7), u16(0))), 'udp_malformed'],
    ['length beyond the packet', udp(GUEST, REMOTE, bytes(u16(5000), u16(7000), u16(9), u16(0))), 'udp_malformed'],
    ['source port 0', datagram(GUEST, 0, REMOTE, 7000, ascii('x')), 'udp_malformed'],
    ['destination port 0', datagram(GUEST, 5000, REMOTE, 0, ascii('x')), 'udp_malformed'],
  ])('%s', (_name, frame, reason) => {
    const rig = new DatagramRig();
    rig.guest(frame);
    expect(rig.host.sent).toEqual([]);
    expect(rig.host.sockets.size).toBe(0);
    expect(rig.allDrops()).toEqual({ [reason]: 1 });
  });

  test('bytes behind the UDP length are not sent', () => {
    const rig = new DatagramRig();
    rig.guest(udp(GUEST, REMOTE, bytes(u16(5000), u16(7000), u16(10), u16(0), ascii('abcd'))));
    expect(rig.left()).toEqual(['198.51.100.99:5000 > 203.0.113.5:7000 ab']);
  });
});

describe('what the host refuses', () => {
  test('no route: the guest is told', () => {
    const rig = new DatagramRig();
    rig.host.unreachable.set(REMOTE, -ENETUNREACH).set(REMOTE6, -ENETUNREACH);
    rig.guest(ask('x'), datagram(GUEST6, 5000, REMOTE6, 7000, ascii('y')));
    const [v4, v6] = rig.port.sent().map(dissect);
    expect(Buffer.from(v4.src).equals(ip('192.0.2.1'))).toBe(true);
    expect([...v4.payload.subarray(0, 8)]).toEqual([3, 0, expect.any(Number), expect.any(Number), 0, 0, 0, 0]);
    expect([...v4.payload.subarray(28, 36)]).toEqual([...u16(5000), ...u16(7000), 0, 8, 0, 0]);
    expect(Buffer.from(v6.src).equals(ip('fe80::1'))).toBe(true);
    expect([...v6.payload.subarray(0, 2)]).toEqual([1, 0]);
    expect(rig.host.sockets.size).toBe(0);
    expect(rig.allDrops()).toEqual({ host_socket_error: 2 });
  });

  test('the error of an earlier datagram does not cost this one', () => {
    const rig = new DatagramRig();
    rig.guest(ask('a'));
    const [socket] = [...rig.host.sockets.values()];
    socket.pendingError = ECONNREFUSED;
    rig.guest(ask('b'));
    expect(rig.left().map((s) => s.split(' ')[3])).toEqual(['a', 'b']);
  });

  test('a full send buffer and a firewall cost one datagram each', () => {
    const rig = new DatagramRig();
    rig.host.sendErrors.push(-EAGAIN);
    rig.guest(ask('a'), ask('longer'));
    rig.host.sendErrors.push(-EPERM);
    rig.guest(ask('c'), ask('longer'));
    expect(rig.left().map((s) => s.split(' ')[3])).toEqual(['longer', 'longer']);
    // Also where they were one message: it is cut, and each has its own fate.
    rig.host.sendErrors.push(-EPERM, -EPERM);
    rig.guest(ask('e'), ask('f'), ask('g'));
    expect(rig.left().map((s) => s.split(' ')[3])).toEqual(['f', 'g']);
    expect(rig.allDrops()).toEqual({ host_socket_error: 3 });
  });

  test('a destination that no socket may have: dropped', () => {
    const rig = new DatagramRig();
    rig.host.unreachable.set(REMOTE, -EACCES);
    rig.guest(ask('x'));
    rig.later(31_000);
    expect(rig.host.sockets.size).toBe(0);
    expect(rig.allDrops()).toEqual({ host_socket_error: 1 });
    expect(rig.port.sent()).toEqual([]);
  });

  test('out of descriptors: the oldest flow makes room; with none, the datagram is dropped', () => {
    const rig = new DatagramRig();
    rig.host.maxSockets = 2;
    rig.guest(ask('a', 7001), ask('b', 7002), ask('c', 7003));
    expect(rig.left().map((s) => s.split(' ')[3])).toEqual(['a', 'b', 'c']);
    expect(rig.counter(C_FLOWS_UDP)).toBe(2);
    const poor = new DatagramRig();
    poor.host.maxSockets = 0;
    poor.guest(ask('a'));
    expect(poor.allDrops()).toEqual({ no_descriptors: 1 });
  });

  test('a full table: the flow least recently used makes room', () => {
    const rig = new DatagramRig({ config: { maxUdpFlows: 3 } });
    rig.guest(ask('a', 7001), ask('b', 7002), ask('c', 7003), ask('a', 7001), ask('d', 7004));
    expect([...rig.host.sockets.values()].map((s) => s.peer?.port)).toEqual([7001, 7003, 7004]);
    expect(rig.left().map((s) => s.split(' ')[3])).toEqual(['a', 'b', 'c', 'a', 'd']);
    expect(rig.counter(C_FLOWS_UDP)).toBe(3);
  });
});

describe('segmentation offload from the guest', () => {
  const long = 'abcdefghij'.repeat(3) + 'xyz';

  test('is passed on to the kernel', () => {
    const rig = new DatagramRig({ port: { rowSize: 9 } });
    rig.guestVnet(ask(long), { csumPartial: true, gsoType: GSO_UDP_L4, gsoSize: 10 });
    expect(rig.host.sent.map((s) => latin1(s.data))).toEqual(['abcdefghij', 'abcdefghij', 'abcdefghij', 'xyz']);
    expect(rig.host.calls.get('sendMany')).toBe(1);
  });

  test('is done here if the kernel refuses', () => {
    const rig = new DatagramRig({ port: { rowSize: 9 } });
    rig.host.segmentRefused = true;
    rig.guestVnet(ask(long), { csumPartial: true, gsoType: GSO_UDP_L4, gsoSize: 10 });
    expect(rig.host.sent.map((s) => latin1(s.data))).toEqual(['abcdefghij', 'abcdefghij', 'abcdefghij', 'xyz']);
  });

  test('more segments than a driver makes are refused', () => {
    const rig = new DatagramRig();
    rig.host.segmentRefused = true;
    rig.guestVnet(ask('x'.repeat(129)), { csumPartial: true, gsoType: GSO_UDP_L4, gsoSize: 1 });
    expect(rig.host.sent).toEqual([]);
    expect(rig.allDrops()).toEqual({ udp_malformed: 1 });
  });
});
