/** Forwarded ports: a listener and its peers. */
import { C_FLOWS_UDP } from '../../../../src/stack/counters';
import { ip } from '../../../support/stack/addresses';
import { ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import type { Address } from '../../../support/stack/fake-host-io-udp';
import { datagram, dissect } from '../../../support/stack/link-rig';

const GUEST = '192.0.2.10';
const HOST = '192.0.2.10'; // the guest shares the host's address
const PEER: Address = { address: '203.0.113.5', port: 7000 };

function ask(payload: string, port = 7000, srcPort = 5000): Uint8Array {
  return datagram(GUEST, srcPort, PEER.address, port, ascii(payload));
}

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
