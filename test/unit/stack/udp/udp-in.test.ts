/** Datagrams to the guest: back-pressure, fairness, listeners. */
import { C_FLOWS_UDP } from '../../../../src/stack/counters';
import { KEY_KIND_SHIFT, KEY_UDP } from '../../../../src/stack/context';
import { EPOLLIN } from '../../../../src/stack/ports';
import { ip } from '../../../support/stack/addresses';
import { ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import type { Address, FakeDatagramSocket } from '../../../support/stack/fake-host-io-udp';
import { datagram, dissect } from '../../../support/stack/link-rig';

const GUEST = '192.0.2.10';
const HOST = '192.0.2.10'; // the guest shares the host's address
const PEER: Address = { address: '203.0.113.5', port: 7000 };

function ask(payload: string, port = 7000, srcPort = 5000): Uint8Array {
  return datagram(GUEST, srcPort, PEER.address, port, ascii(payload));
}

function onlySocket(rig: DatagramRig): FakeDatagramSocket {
  const all = [...rig.host.sockets.values()];
  expect(all).toHaveLength(1);
  return all[0];
}

describe('back-pressure', () => {
  test('without receive buffers a datagram stays in its socket until the guest posts some', () => {
    const rig = new DatagramRig({ port: { buffers: 1 } });
    rig.guest(ask('q'));
    const socket = onlySocket(rig);
    for (const s of ['one', 'two', 'three']) rig.host.queue(socket, PEER, HOST, ascii(s));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:7000 > 192.0.2.10:5000 one']);
    expect(socket.queue).toHaveLength(2);
    expect(rig.stack.busy).toBe(false);
    expect(rig.port.starved).toBe(true);
    rig.port.post(2);
    rig.stack.onGuestReady();
    expect(rig.seen().map((s) => s.slice(-5).trim())).toEqual(['0 two', 'three']);
    expect(rig.allDrops()).toEqual({});
  });

  test('flows that wait are resumed in turn', () => {
    const rig = new DatagramRig({ port: { buffers: 0 } });
    rig.guest(ask('q', 7001), ask('q', 7002));
    for (const [i, socket] of [...rig.host.sockets.values()].entries()) {
      for (let n = 0; n < 3; n++) rig.host.queue(socket, { ...PEER, port: 7001 + i }, HOST, ascii(String(n)));
    }
    rig.pump();
    const order: string[] = [];
    for (let n = 0; n < 6; n++) {
      rig.port.post(1);
      rig.stack.onGuestReady();
      order.push(...rig.seen().map((s) => s.split(' ')[0].slice(-4)));
    }
    expect(order).toHaveLength(6);
    expect(new Set(order.slice(0, 2)).size).toBe(2);
  });

  test('a disconnected guest keeps its datagrams waiting', () => {
    const rig = new DatagramRig();
    rig.guest(ask('q'));
    rig.port.up = false;
    rig.host.queue(onlySocket(rig), PEER, HOST, ascii('later'));
    rig.pump();
    expect(rig.seen()).toEqual([]);
    rig.port.up = true;
    rig.stack.onGuestReady();
    expect(rig.seen()).toEqual(['203.0.113.5:7000 > 192.0.2.10:5000 later']);
  });

  test('a flood of one socket leaves the turn to others and goes on by itself', () => {
    const rig = new DatagramRig();
    rig.guest(ask('q', 7001), ask('q', 7002));
    const [loud, quiet] = [...rig.host.sockets.values()];
    for (let n = 0; n < 500; n++) rig.host.queue(loud, { ...PEER, port: 7001 }, HOST, ascii('x'));
    rig.host.queue(quiet, { ...PEER, port: 7002 }, HOST, ascii('me'));
    for (const [key, generation, bits] of rig.host.events()) rig.stack.onSocket(key, generation, bits);
    const first = rig.seen();
    expect(first.length).toBeLessThan(200);
    expect(first).toContain('203.0.113.5:7002 > 192.0.2.10:5000 me');
    expect(rig.stack.busy).toBe(true);
    rig.pump();
    expect(first.length + rig.seen().length).toBe(501);
  });

  test('the room reserved is exactly what the datagram needs', () => {
    const rig = new DatagramRig({ port: { bufferSize: 100, buffers: 40 } });
    rig.guest(ask('q'));
    rig.host.queue(onlySocket(rig), PEER, HOST, new Uint8Array(1000));
    rig.host.queue(onlySocket(rig), PEER, HOST, new Uint8Array(2000));
    rig.pump();
    expect(rig.port.sent().map((f) => f.length)).toEqual([1042, 2042]);
  });
});

describe('time', () => {
  function expiry(rig: DatagramRig): number {
    for (let s = 1; s < 400; s++) {
      rig.later(1000);
      if (rig.counter(C_FLOWS_UDP) === 0) return s;
    }
    return Infinity;
  }

  test('a flow without answer lives for the short limit, its socket is closed', () => {
    const rig = new DatagramRig();
    rig.guest(ask('q'));
    expect(rig.stack.nextDeadline()).toBeLessThanOrEqual(rig.clock.nowMs + 30_000);
    expect(expiry(rig)).toBe(30);
    expect(rig.host.sockets.size).toBe(0);
    expect(rig.udp.nextDeadline()).toBe(Infinity);
  });

  test('after one question and one answer the peer may go on for the long limit', () => {
    const rig = new DatagramRig();
    rig.guest(ask('q'));
    rig.host.queue(onlySocket(rig), PEER, HOST, ascii('a'));
    rig.pump();
    rig.later(119_000);
    rig.host.queue(onlySocket(rig), PEER, HOST, ascii('late'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:7000 > 192.0.2.10:5000 a', '203.0.113.5:7000 > 192.0.2.10:5000 late']);
    expect(expiry(rig)).toBe(120);
  });

  test('a stream lives for the long limit', () => {
    const rig = new DatagramRig();
    rig.guest(ask('q'));
    rig.host.queue(onlySocket(rig), PEER, HOST, ascii('a'));
    rig.pump();
    rig.guest(ask('q'));
    expect(expiry(rig)).toBe(120);
  });

  test('many questions without an answer are no stream', () => {
    const rig = new DatagramRig();
    for (let i = 0; i < 5; i++) rig.guest(ask('q'));
    expect(expiry(rig)).toBe(30);
  });

  test('use puts the end off', () => {
    const rig = new DatagramRig();
    rig.guest(ask('q'));
    rig.later(29_000);
    rig.guest(ask('q'));
    rig.later(29_000);
    expect(rig.counter(C_FLOWS_UDP)).toBe(1);
    rig.later(1100);
    expect(rig.counter(C_FLOWS_UDP)).toBe(0);
  });

  test('two queries from one port, the first answered at once, the second late: both answers arrive', () => {
    const rig = new DatagramRig({ config: { maxUdpFlows: 2 } });
    rig.guest(ask('one', 53), ask('two', 53));
    rig.host.queue(onlySocket(rig), { ...PEER, port: 53 }, HOST, ascii('1'));
    rig.pump();
    // A crowded table: what was asked and not answered stays all the same.
    rig.later(8000);
    rig.guest(ask('q', 53, 5001));
    for (const s of rig.host.sockets.values())
      if (s.local?.port === 5000) rig.host.queue(s, { ...PEER, port: 53 }, HOST, ascii('2'));
    rig.pump();
    expect(rig.seen().map((s) => s.slice(-1))).toEqual(['1', '2']);
  });

  test('a DNS flow lives on after its answer, but not in a crowded table', () => {
    const rig = new DatagramRig({ config: { maxUdpFlows: 8 } });
    const answered = (port: number): void => {
      rig.guest(ask('q', 53, port));
      const socket = [...rig.host.sockets.values()].find((s) => s.local?.port === port);
      if (socket === undefined) throw new Error('no socket');
      rig.host.queue(socket, { ...PEER, port: 53 }, HOST, ascii('a'));
      rig.pump();
    };
    for (let port = 5000; port < 5003; port++) answered(port);
    rig.later(100_000);
    expect(rig.counter(C_FLOWS_UDP)).toBe(3);
    answered(5003);
    expect(rig.counter(C_FLOWS_UDP)).toBe(4);
    // Half of the table: those that are done make room, but not within seconds of their answer.
    answered(5004);
    answered(5005);
    expect([...rig.host.sockets.values()].map((s) => s.local?.port)).toEqual([5002, 5003, 5004, 5005]);
    answered(5006);
    answered(5007);
    expect(rig.counter(C_FLOWS_UDP)).toBe(5);
  });

  test('a full table: a finished query goes first, then the oldest without an answer, and a stream last', () => {
    const rig = new DatagramRig({ config: { maxUdpFlows: 3 } });
    const ports = (): (number | undefined)[] => [...rig.host.sockets.values()].map((s) => s.local?.port);
    const answer = (port: number, from: number): void => {
      const socket = [...rig.host.sockets.values()].find((s) => s.local?.port === port);
      if (socket !== undefined) rig.host.queue(socket, { ...PEER, port: from }, HOST, ascii('a'));
      rig.pump();
    };
    rig.guest(ask('s', 7000, 6000), ask('s', 7000, 6000));
    answer(6000, 7000);
    rig.guest(ask('u', 7000, 6001));
    rig.guest(ask('d', 53, 6002));
    answer(6002, 53);
    rig.guest(ask('n', 7000, 6003));
    expect(ports()).toEqual([6000, 6001, 6003]);
    rig.guest(ask('n', 7000, 6004));
    rig.guest(ask('n', 7000, 6005));
    expect(ports()).toEqual([6000, 6004, 6005]);
  });

  test('an event for a flow that is gone is ignored', () => {
    const rig = new DatagramRig();
    rig.guest(ask('q'));
    const old = onlySocket(rig).watched;
    rig.later(31_000);
    rig.stack.onSocket(old?.key ?? 0, old?.generation ?? 0, EPOLLIN);
    rig.guest(ask('q'));
    rig.host.queue(onlySocket(rig), PEER, HOST, ascii('a'));
    expect(onlySocket(rig).watched?.key).toBe(old?.key);
    rig.stack.onSocket(old?.key ?? 0, old?.generation ?? 0, EPOLLIN);
    expect(rig.seen()).toEqual([]);
    rig.stack.onSocket((KEY_UDP << KEY_KIND_SHIFT) | 0xffffff, 1, EPOLLIN);
    rig.pump();
    expect(rig.seen()).toHaveLength(1);
  });

  test('a reset closes every flow and no listener', () => {
    const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 8000 }]);
    rig.guest(ask('q', 7001), ask('q', 7002));
    rig.stack.reset();
    expect([...rig.host.sockets.values()]).toEqual(rig.listeners);
    expect(rig.counter(C_FLOWS_UDP)).toBe(0);
    rig.host.deliver(PEER, { address: HOST, port: 8000 }, ascii('hello'));
    rig.pump();
    expect(rig.seen()).toHaveLength(1);
  });
});

describe('a forwarded port', () => {
  test('passes datagrams on and answers from the address the peer used', () => {
    const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 8000, targetPort: 80 }]);
    rig.host.deliver(PEER, { address: '192.0.2.200', port: 8000 }, ascii('hello'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:7000 > 192.0.2.10:80 hello']);
    rig.guest(
      datagram(GUEST, 80, PEER.address, 7000, ascii('hi'), { ttl: 7 }),
      datagram(GUEST, 80, PEER.address, 7000, ascii('ho')),
    );
    expect(rig.host.sent[0]).toMatchObject({ fd: rig.listeners[0].fd, ttl: 7 });
    expect(rig.left()).toEqual(['192.0.2.200:8000 > 203.0.113.5:7000 hi', '192.0.2.200:8000 > 203.0.113.5:7000 ho']);
    expect(rig.host.sockets.size).toBe(1);
    expect(rig.counter(C_FLOWS_UDP)).toBe(1);
  });

  test('serves many peers with one socket', () => {
    const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 8000 }]);
    for (let i = 1; i <= 20; i++) {
      rig.host.deliver(
        { address: `203.0.113.${String(i)}`, port: 1000 + i },
        { address: HOST, port: 8000 },
        ascii('x'),
      );
    }
    rig.pump();
    expect(rig.seen()).toHaveLength(20);
    for (let i = 1; i <= 20; i++) rig.guest(datagram(GUEST, 8000, `203.0.113.${String(i)}`, 1000 + i, ascii('y')));
    expect(rig.left()).toEqual(
      Array.from({ length: 20 }, (_, i) => `${HOST}:8000 > 203.0.113.${String(i + 1)}:${String(1001 + i)} y`),
    );
    expect(rig.host.sockets.size).toBe(1);
  });

  test('a loopback peer is the gateway to the guest', () => {
    const rig = new DatagramRig({}, [{ address: '127.0.0.1', port: 8000 }]);
    rig.host.deliver({ address: '127.0.0.1', port: 6000 }, { address: '127.0.0.1', port: 8000 }, ascii('hello'));
    rig.pump();
    expect(rig.seen()).toEqual(['192.0.2.1:6000 > 192.0.2.10:8000 hello']);
    rig.guest(datagram(GUEST, 8000, '192.0.2.1', 6000, ascii('hi')));
    expect(rig.left()).toEqual(['127.0.0.1:8000 > 127.0.0.1:6000 hi']);
  });

  test('of two peers that look the same to the guest, the latest gets the answer', () => {
    const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 8000 }]);
    rig.host.deliver({ address: '127.0.0.1', port: 6000 }, { address: '127.0.0.1', port: 8000 }, ascii('a'));
    rig.host.deliver({ address: '127.0.0.2', port: 6000 }, { address: '127.0.0.3', port: 8000 }, ascii('b'));
    rig.pump();
    expect(rig.seen()).toEqual(['192.0.2.1:6000 > 192.0.2.10:8000 a', '192.0.2.1:6000 > 192.0.2.10:8000 b']);
    rig.guest(datagram(GUEST, 8000, '192.0.2.1', 6000, ascii('hi')));
    expect(rig.left()).toEqual(['127.0.0.3:8000 > 127.0.0.2:6000 hi']);
  });

  test('a dual-stack wildcard takes both families', () => {
    const rig = new DatagramRig({}, [{ address: '::', port: 8000, dual: true }]);
    rig.ctx.link.guest6.set([0x20010db8, 0, 0, 0x44]);
    rig.host.deliver(PEER, { address: HOST, port: 8000 }, ascii('four'));
    rig.host.deliver({ address: '2001:db8:5::5', port: 7000 }, { address: '2001:db8::10', port: 8000 }, ascii('six'));
    rig.pump();
    expect(rig.seen()).toEqual([
      '203.0.113.5:7000 > 192.0.2.10:8000 four',
      '2001:db8:5::5:7000 > 2001:db8::44:8000 six',
    ]);
    rig.guest(datagram('2001:db8::44', 8000, '2001:db8:5::5', 7000, ascii('6')), ask('4', 7000, 8000));
    expect(rig.left()).toEqual(['2001:db8::10:8000 > 2001:db8:5::5:7000 6', '192.0.2.10:8000 > 203.0.113.5:7000 4']);
  });

  test('a link-local peer is answered with its scope', () => {
    const rig = new DatagramRig({}, [{ address: '::', port: 8000 }]);
    rig.ctx.link.guest6LinkLocal.set([0xfe800000 | 0, 0, 0, 0x44]);
    rig.host.deliver({ address: 'fe80::99', port: 7000 }, { address: 'fe80::5', port: 8000 }, ascii('x'));
    rig.pump();
    expect(rig.seen()).toEqual(['fe80::99:7000 > fe80::44:8000 x']);
    rig.guest(datagram('fe80::44', 8000, 'fe80::99', 7000, ascii('y')));
    expect(rig.host.sent[0]).toMatchObject({ scope: 3, from: { address: 'fe80::5' } });
  });

  test('with a target address, the guest sees that', () => {
    const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 8000, targetAddr: ip('192.0.2.99') }]);
    rig.host.deliver(PEER, { address: HOST, port: 8000 }, ascii('x'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:7000 > 192.0.2.99:8000 x']);
  });

  test('a multicast datagram keeps its destination and makes no flow', () => {
    const rig = new DatagramRig({}, [{ address: '::', port: 5353 }]);
    rig.host.deliver({ address: '2001:db8:5::5', port: 5353 }, { address: 'ff02::fb', port: 5353 }, ascii('mdns'));
    rig.pump();
    expect(rig.seen()).toEqual(['2001:db8:5::5:5353 > ff02::fb:5353 mdns']);
    expect(rig.counter(C_FLOWS_UDP)).toBe(0);
  });

  test('no address of the guest, source port 0: dropped, and the next one is served', () => {
    const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 8000 }]);
    rig.ctx.link.guest4 = 0;
    rig.host.deliver(PEER, { address: HOST, port: 8000 }, ascii('early'));
    rig.pump();
    rig.pump();
    rig.ctx.link.guest4 = 0xc000020a | 0;
    rig.host.deliver({ ...PEER, port: 0 }, { address: HOST, port: 8000 }, ascii('no port'));
    rig.host.deliver(PEER, { address: HOST, port: 8000 }, ascii('good'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:7000 > 192.0.2.10:8000 good']);
    expect(rig.allDrops()).toEqual({ destination_invalid: 1, source_invalid: 1 });
  });

  test('what the service sends leaves from there before a peer came, and long after its flow ended', () => {
    const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 8000, targetPort: 80 }]);
    const say = (text: string): void => rig.guest(datagram(GUEST, 80, PEER.address, 7000, ascii(text)));
    say('first');
    expect(rig.left()).toEqual(['0.0.0.0:8000 > 203.0.113.5:7000 first']);
    rig.host.deliver(PEER, { address: '192.0.2.200', port: 8000 }, ascii('hello'));
    rig.pump();
    say('answer');
    expect(rig.left()).toEqual(['192.0.2.200:8000 > 203.0.113.5:7000 answer']);
    expect(rig.counter(C_FLOWS_UDP)).toBe(1);
    rig.later(3_600_000);
    expect(rig.counter(C_FLOWS_UDP)).toBe(0);
    say('an hour later');
    rig.guest(datagram(GUEST, 80, '203.0.113.77', 1, ascii('to another')));
    expect(rig.left()).toEqual([
      '0.0.0.0:8000 > 203.0.113.5:7000 an hour later',
      '0.0.0.0:8000 > 203.0.113.77:1 to another',
    ]);
    expect([...rig.host.sockets.values()]).toEqual(rig.listeners);
    expect(rig.allDrops()).toEqual({});
  });

  test('so does what it sends to a group and to all, and the answers get there', () => {
    const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 5353 }]);
    rig.guest(datagram(GUEST, 5353, '224.0.0.251', 5353, ascii('who?'), { ttl: 255 }));
    rig.guest(datagram(GUEST, 5353, '255.255.255.255', 9, ascii('all')));
    expect(rig.host.sent[0]).toMatchObject({ fd: rig.listeners[0].fd, ttl: 255 });
    expect(rig.left()).toEqual(['0.0.0.0:5353 > 224.0.0.251:5353 who?', '0.0.0.0:5353 > 255.255.255.255:9 all']);
    rig.host.deliver({ address: '203.0.113.9', port: 5353 }, { address: HOST, port: 5353 }, ascii('me'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.9:5353 > 192.0.2.10:5353 me']);
  });

  test('of several listeners the one sends that can reach the peer; else a socket with its port does', () => {
    const rig = new DatagramRig({}, [
      { address: '127.0.0.1', port: 8001, targetPort: 80 },
      { address: '192.0.2.200', port: 8002, targetPort: 80 },
      { address: '127.0.0.1', port: 8003, targetPort: 81 },
      { address: '0.0.0.0', port: 8004, targetPort: 82, targetAddr: ip('192.0.2.99') },
    ]);
    rig.guest(
      datagram(GUEST, 80, PEER.address, 7000, ascii('out')),
      datagram(GUEST, 80, '192.0.2.1', 7000, ascii('in')),
    );
    rig.guest(datagram(GUEST, 81, PEER.address, 7000, ascii('own socket')));
    rig.guest(datagram(GUEST, 5082, PEER.address, 7000, ascii('not forwarded')));
    rig.guest(datagram('192.0.2.99', 82, PEER.address, 7000, ascii('the target')));
    expect(rig.left()).toEqual([
      '192.0.2.200:8002 > 203.0.113.5:7000 out',
      '127.0.0.1:8001 > 127.0.0.1:7000 in',
      '198.51.100.99:8003 > 203.0.113.5:7000 own socket',
      '198.51.100.99:5082 > 203.0.113.5:7000 not forwarded',
      '0.0.0.0:8004 > 203.0.113.5:7000 the target',
    ]);
  });

  test('an interface or address for outgoing traffic is kept to', () => {
    const forwards = [{ address: '0.0.0.0', port: 8000, targetPort: 80 }];
    const rig = new DatagramRig({ ip4: { outboundAddr: ip('198.51.100.7') } }, forwards);
    rig.guest(datagram(GUEST, 80, PEER.address, 7000, ascii('x')));
    expect(rig.left()).toEqual(['198.51.100.7:8000 > 203.0.113.5:7000 x']);
    const other = new DatagramRig({ ip4: { outboundIf: 'eth7' } }, forwards);
    other.guest(datagram(GUEST, 80, PEER.address, 7000, ascii('x')));
    expect(other.left()).toEqual(['198.51.100.99:8000 > 203.0.113.5:7000 x']);
    expect([...other.host.sockets.values()].map((s) => s.device)).toEqual([null, 'eth7']);
  });

  describe('on the loopback of a family that the guest does not speak', () => {
    const LOOP6: Address = { address: '::1', port: 6000 };

    test('its peers come in the other one, and are answered', () => {
      const rig = new DatagramRig({}, [{ address: '::1', port: 8000, targetPort: 80 }]);
      rig.guest(datagram(GUEST, 999, PEER.address, 7000, ascii('v4 is spoken')));
      rig.left();
      rig.host.deliver(LOOP6, { address: '::1', port: 8000 }, ascii('hello'));
      rig.pump();
      expect(rig.seen()).toEqual(['192.0.2.1:6000 > 192.0.2.10:80 hello']);
      const answer = datagram(GUEST, 80, '192.0.2.1', 6000, ascii('hi'));
      rig.guest(answer);
      rig.later(3_600_000);
      rig.guest(answer);
      expect(rig.left()).toEqual(['::1:8000 > ::1:6000 hi', '::1:8000 > ::1:6000 hi']);
      expect(rig.allDrops()).toEqual({});
    });

    test('a closed port of such a peer is "port unreachable" to the guest, and nothing else is anything', () => {
      const rig = new DatagramRig({}, [{ address: '::1', port: 8000, targetPort: 80 }]);
      rig.guest(datagram(GUEST, 999, PEER.address, 7000, ascii('v4 is spoken')));
      rig.host.deliver(LOOP6, { address: '::1', port: 8000 }, ascii('hello'));
      rig.pump();
      rig.seen();
      for (const code of [4, 3]) {
        rig.host.fail(rig.listeners[0], { errno: 111, origin: 3, type: 1, code, offender: '::1', dest: LOOP6 });
        rig.pump();
      }
      const frames = rig.port.sent().map((frame) => dissect(frame));
      expect(frames.map((d) => [d.protocol, d.payload[0], d.payload[1]])).toEqual([[1, 3, 3]]);
    });

    test('a remote peer keeps its family, as does one of a guest that speaks both, or has said nothing', () => {
      const rig = new DatagramRig({}, [{ address: '::', port: 8000, dual: true }]);
      rig.host.deliver(LOOP6, { address: '::1', port: 8000 }, ascii('early'));
      rig.pump();
      rig.guest(datagram(GUEST, 999, PEER.address, 7000, ascii('x')));
      rig.host.deliver({ address: '2001:db8:5::5', port: 1 }, { address: '2001:db8::10', port: 8000 }, ascii('far'));
      rig.pump();
      rig.guest(datagram('2001:db8::10', 999, '2001:db8:5::5', 7000, ascii('x')));
      rig.host.deliver(LOOP6, { address: '::1', port: 8000 }, ascii('both'));
      rig.pump();
      expect(rig.seen().map((s) => s.split(' > ')[1])).toEqual([
        '2001:db8::10:8000 early',
        '2001:db8::10:8000 far',
        '2001:db8::10:8000 both',
      ]);
    });
  });

  test('without receive buffers its datagrams wait', () => {
    const rig = new DatagramRig({ port: { buffers: 0 } }, [{ address: '0.0.0.0', port: 8000 }]);
    rig.host.deliver(PEER, { address: HOST, port: 8000 }, ascii('x'));
    rig.pump();
    expect(rig.listeners[0].queue).toHaveLength(1);
    rig.port.post(1);
    rig.stack.onGuestReady();
    expect(rig.seen()).toEqual(['203.0.113.5:7000 > 192.0.2.10:8000 x']);
  });

  test('a full table: the oldest flow makes room for a new peer', () => {
    const rig = new DatagramRig({ config: { maxUdpFlows: 2 } }, [{ address: '0.0.0.0', port: 8000 }]);
    rig.guest(ask('q'));
    for (let i = 1; i <= 3; i++) rig.host.deliver({ ...PEER, port: i }, { address: HOST, port: 8000 }, ascii('x'));
    rig.pump();
    expect(rig.seen()).toHaveLength(3);
    expect(rig.counter(C_FLOWS_UDP)).toBe(2);
    expect([...rig.host.sockets.values()]).toEqual(rig.listeners);
  });
});

describe('between bind and connect', () => {
  const STRANGER: Address = { address: '203.0.113.66', port: 6666 };

  test('a stranger’s datagram is not taken for the peer’s', () => {
    const rig = new DatagramRig();
    rig.host.onConnect = (s) => rig.host.queue(s, STRANGER, HOST, ascii('evil'));
    rig.guest(ask('q'));
    rig.host.queue(onlySocket(rig), PEER, HOST, ascii('good'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:7000 > 192.0.2.10:5000 good']);
    expect(rig.allDrops()).toEqual({ source_invalid: 1 });
  });

  test('one that was meant for a listener gets there', () => {
    const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 5000, targetPort: 50 }]);
    rig.host.onConnect = (s) => rig.host.queue(s, STRANGER, HOST, ascii('hello'));
    rig.guest(ask('q'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.66:6666 > 192.0.2.10:50 hello']);
    expect(rig.left()).toHaveLength(1);
    rig.guest(datagram(GUEST, 50, STRANGER.address, STRANGER.port, ascii('welcome')));
    expect(rig.host.sent[0].fd).toBe(rig.listeners[0].fd);
    expect(rig.allDrops()).toEqual({});
  });

  test('once emptied, the socket is its peer’s alone: the quick way is taken', () => {
    const rig = new DatagramRig();
    rig.guest(ask('q'));
    rig.host.queue(onlySocket(rig), PEER, HOST, ascii('a'));
    rig.pump();
    const before = { many: rig.host.calls.get('recvMany'), one: rig.host.calls.get('recv') };
    rig.host.queue(onlySocket(rig), PEER, HOST, ascii('b'));
    rig.pump();
    expect(rig.host.calls.get('recv')).toBe(before.one);
    expect(rig.host.calls.get('recvMany')).toBe((before.many ?? 0) + 2);
    rig.host.queue(onlySocket(rig), PEER, HOST, ascii('c'));
    rig.pump();
    // Two asked for, one got: nothing can be left, and nothing more is called.
    expect(rig.host.calls.get('recvMany')).toBe((before.many ?? 0) + 3);
    expect(rig.port.sent().map((f) => dissect(f).payload)).toHaveLength(3);
  });
});
