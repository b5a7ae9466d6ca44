/** Datagrams to the guest: back-pressure, fairness, listeners. */
import { C_FLOWS_UDP } from '../../../../src/stack/counters';
import { KEY_KIND_SHIFT, KEY_UDP } from '../../../../src/stack/context';
import { EPOLLIN } from '../../../../src/stack/ports';
import { ip } from '../../../support/stack/addresses';
import { ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import type { Address, FakeSocket } from '../../../support/stack/fake-host-io-udp';
import { datagram, dissect } from '../../../support/stack/link-rig';

const GUEST = '192.0.2.10';
const HOST = '192.0.2.10'; // the guest shares the host's address
const PEER: Address = { address: '203.0.113.5', port: 7000 };

function ask(payload: string, port = 7000, srcPort = 5000): Uint8Array {
  return datagram(GUEST, srcPort, PEER.address, port, ascii(payload));
}

function onlySocket(rig: DatagramRig): FakeSocket {
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

  test('one question and one answer are no stream yet', () => {
    const rig = new DatagramRig();
    rig.guest(ask('q'));
    rig.host.queue(onlySocket(rig), PEER, HOST, ascii('a'));
    rig.pump();
    expect(expiry(rig)).toBe(30);
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

  test('a DNS flow ends seconds after its answer', () => {
    const rig = new DatagramRig();
    rig.guest(ask('q', 53));
    rig.later(10_000);
    expect(rig.counter(C_FLOWS_UDP)).toBe(1);
    rig.host.queue(onlySocket(rig), { ...PEER, port: 53 }, HOST, ascii('a'));
    rig.pump();
    expect(expiry(rig)).toBe(5);
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
    rig.ctx.link.guest4 = 0xc000020a | 0;
    rig.host.deliver({ ...PEER, port: 0 }, { address: HOST, port: 8000 }, ascii('no port'));
    rig.host.deliver(PEER, { address: HOST, port: 8000 }, ascii('good'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:7000 > 192.0.2.10:8000 good']);
    expect(rig.allDrops()).toEqual({ destination_invalid: 1, source_invalid: 1 });
  });

  test('a peer the guest talked to first uses the flow there is', () => {
    const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 5000 }]);
    rig.guest(ask('q'));
    expect(rig.left()).toEqual(['198.51.100.99:5000 > 203.0.113.5:7000 q']);
    rig.host.queue(rig.listeners[0], PEER, HOST, ascii('by the other door'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:7000 > 192.0.2.10:5000 by the other door']);
    expect(rig.counter(C_FLOWS_UDP)).toBe(1);
    rig.guest(ask('r'));
    expect(rig.left()).toEqual(['198.51.100.99:5000 > 203.0.113.5:7000 r']);
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
    const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 5000 }]);
    rig.host.onConnect = (s) => rig.host.queue(s, STRANGER, HOST, ascii('hello'));
    rig.guest(ask('q'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.66:6666 > 192.0.2.10:5000 hello']);
    expect(rig.left()).toHaveLength(1);
    rig.guest(datagram(GUEST, 5000, STRANGER.address, STRANGER.port, ascii('welcome')));
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
