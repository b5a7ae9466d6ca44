/** Datagrams to the guest: back-pressure, fairness, lifetimes. */
import { C_FLOWS_UDP } from '../../../../src/stack/counters';
import { KEY_KIND_SHIFT, KEY_UDP } from '../../../../src/stack/context';
import { EPOLLIN } from '../../../../src/stack/ports';
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
