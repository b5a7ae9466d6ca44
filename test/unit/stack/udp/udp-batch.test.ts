/** Many datagrams a call, from host to guest, and what they carry beside payload: hop limit, traffic class. */
import { addressText, ascii, DatagramRig, latin1 } from '../../../support/stack/datagram-rig';
import type { Address, FakeDatagramSocket } from '../../../support/stack/fake-host-io-udp';
import { datagram, dissect } from '../../../support/stack/link-rig';

const GUEST = '192.0.2.10';
const PEER: Address = { address: '203.0.113.5', port: 7000 };
const HOST = '198.51.100.99';

function flow(rig: DatagramRig): FakeDatagramSocket {
  rig.guest(datagram(GUEST, 5000, PEER.address, PEER.port, ascii('q')));
  const [socket] = [...rig.host.sockets.values()];
  // The first answer is looked at by itself: how long it is is not known yet.
  rig.host.queue(socket, PEER, HOST, new Uint8Array(100));
  rig.pump();
  rig.port.sent();
  return socket;
}

function payloads(rig: DatagramRig): Uint8Array[] {
  return rig.port.sent().map((f) => dissect(f).payload);
}

function numbered(i: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, at) => (at * 3 + i) & 0xff);
}

test('a flood takes few calls, and none looks first', () => {
  const rig = new DatagramRig({ port: { rowSize: 40 } });
  const socket = flow(rig);
  rig.host.calls.clear();
  const sent = Array.from({ length: 500 }, (_, i) => numbered(i, 100));
  for (const data of sent) rig.host.queue(socket, PEER, HOST, data);
  rig.pump();
  expect(payloads(rig).map(latin1)).toEqual(sent.map(latin1));
  expect(rig.host.calls.get('recv')).toBeUndefined();
  expect(rig.host.calls.get('copyRows')).toBeUndefined();
  expect(rig.host.calls.get('recvMany')).toBeLessThan(30);
});

test('a flood that began before the first look, and never lets up', () => {
  const rig = new DatagramRig({ port: { rowSize: 40 } });
  rig.guest(datagram(GUEST, 5000, PEER.address, PEER.port, ascii('q')));
  const [socket] = [...rig.host.sockets.values()];
  const sent: Uint8Array[] = [];
  // The socket is never empty, so that who sent its first datagrams stays to be looked at.
  const fill = (): void => {
    while (socket.queue.length < 300) {
      sent.push(numbered(sent.length, 100));
      rig.host.queue(socket, PEER, HOST, sent[sent.length - 1]);
    }
  };
  fill();
  rig.host.events();
  rig.host.calls.clear();
  rig.stack.onSocket(socket.watched?.key ?? 0, socket.watched?.generation ?? 0, 1);
  const got: string[] = [];
  for (let turn = 0; turn < 20; turn++) {
    fill();
    rig.stack.onTimer();
    got.push(...payloads(rig).map(latin1));
  }
  expect(got.length).toBeGreaterThan(1000);
  expect(got).toEqual(sent.slice(0, got.length).map(latin1));
  expect(rig.host.calls.get('recvMany')).toBeLessThan(got.length / 20);
  expect(rig.host.calls.get('recv')).toBe(1);
});

test('longer than guessed: nothing is cut, nothing out of order, also at the largest size', () => {
  const rig = new DatagramRig({ port: { rowSize: 300 } });
  const socket = flow(rig);
  const sizes = [100, 100, 100, 100, 101, 100, 1400, 0, 99, 65_000, 100, 1500, 1, 65_507, 20];
  for (let round = 0; round < 3; round++) {
    const sent = sizes.map((n, i) => numbered(i, n));
    for (const data of sent) rig.host.queue(socket, PEER, HOST, data);
    rig.pump();
    const got = rig.port.sent().map((f) => dissectAny(f));
    expect(got.filter((d) => d !== null).map((d) => latin1(d))).toEqual(
      sent.filter((d) => d.length !== 65_507).map((d) => latin1(d)),
    );
  }
  expect(rig.allDrops()).toEqual({});
});

/** Payload; null for the fragments that the largest datagram comes in. */
function dissectAny(frame: Uint8Array): Uint8Array | null {
  return (((frame[20] << 8) | frame[21]) & 0x3fff) === 0 ? dissect(frame).payload : null;
}

test('without room for a batch, what there is room for comes, and the rest stays', () => {
  const rig = new DatagramRig({ port: { bufferSize: 300, buffers: 1 } });
  const socket = flow(rig);
  rig.port.post(1);
  rig.stack.onGuestReady();
  for (let i = 0; i < 20; i++) rig.host.queue(socket, PEER, HOST, numbered(i, 100));
  rig.pump();
  const first = payloads(rig).length;
  expect(first).toBe(1);
  expect(socket.queue).toHaveLength(19);
  rig.port.post(7);
  rig.host.calls.clear();
  rig.stack.onGuestReady();
  expect(payloads(rig)).toHaveLength(7);
  // Two, four and one of them; the next one, for which there is no buffer, is not looked at.
  expect(rig.host.calls.get('recvMany')).toBe(3);
  rig.port.post(100);
  rig.stack.onGuestReady();
  rig.pump();
  expect(payloads(rig)).toHaveLength(12);
  expect(rig.allDrops()).toEqual({});
});

test('frames given back unused are the guest’s again', () => {
  const rig = new DatagramRig({ port: { bufferSize: 300, buffers: 64 } });
  const socket = flow(rig);
  for (let round = 0; round < 5; round++) {
    for (let i = 0; i < round * 3; i++) rig.host.queue(socket, PEER, HOST, numbered(i, 100));
    rig.pump();
  }
  expect(rig.port.sent()).toHaveLength(30);
  expect(rig.port.freeBuffers).toBe(64 - 31);
});

test('a listener’s peers, in both families, in one batch', () => {
  const rig = new DatagramRig({}, [{ address: '::', port: 8000, dual: true }]);
  const [listener] = rig.listeners;
  const peers: [Address, string][] = [
    [PEER, '192.0.2.200'],
    [{ address: '203.0.113.6', port: 1 }, '192.0.2.200'],
    [{ address: '2001:db8:5::5', port: 2 }, '2001:db8::10'],
    [{ address: '203.0.113.7', port: 0 }, '192.0.2.200'],
    [{ address: '2001:db8:5::6', port: 3 }, '2001:db8::10'],
    [PEER, '192.0.2.200'],
  ];
  for (let round = 0; round < 4; round++) {
    for (const [peer, to] of peers) rig.host.queue(listener, peer, to, ascii(String(round)));
  }
  rig.pump();
  const want = ['203.0.113.5', '203.0.113.6', '2001:db8:5::5', '2001:db8:5::6', '203.0.113.5'];
  expect(rig.port.sent().map((f) => addressText(dissect(f).src))).toEqual([...want, ...want, ...want, ...want]);
  expect(rig.allDrops()).toEqual({ source_invalid: 4 });
});

test('hop limit and traffic class of answers are the network’s', () => {
  const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 8000 }]);
  flow(rig);
  rig.host.deliver(PEER, { address: HOST, port: 5000 }, ascii('a'), 57, 0xb9);
  rig.pump();
  const [v4] = rig.port.sent();
  expect([v4[15], v4[22]]).toEqual([0xb9, 57]);
  rig.guest(datagram('2001:db8::10', 5000, '2001:db8:5::5', 7000, ascii('q')));
  rig.host.deliver(
    { address: '2001:db8:5::5', port: 7000 },
    { address: '2001:db8:99::99', port: 5000 },
    ascii('b'),
    33,
    0x2e << 2,
  );
  rig.host.deliver(PEER, { address: '192.0.2.200', port: 8000 }, ascii('c'), 3, 0x88);
  rig.pump();
  const [v6, forwarded] = rig.port.sent().sort((a, b) => b[14] - a[14]);
  expect([((v6[14] & 0xf) << 4) | (v6[15] >> 4), v6[21]]).toEqual([0xb8, 33]);
  expect([forwarded[15], forwarded[22]]).toEqual([0x88, 3]);
});
