/** ICMP errors about the guest's datagrams. */
import { KEY_KIND_SHIFT, KEY_UDP_LISTENER } from '../../../../src/stack/context';
import { C_DROPS_TO_GUEST, dropCode } from '../../../../src/stack/counters';
import { EPOLLERR } from '../../../../src/stack/ports';
import { ip } from '../../../support/stack/addresses';
import { addressText, ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import { ECONNREFUSED, type FakeError, type FakeDatagramSocket } from '../../../support/stack/fake-host-io-udp';
import { datagram, dissect, internetChecksum } from '../../../support/stack/link-rig';

const GUEST = '192.0.2.10';
const REMOTE = '203.0.113.5';
const REMOTE6 = '2001:db8:5::5';
const EHOSTUNREACH = 113;
const EPROTO = 71;
const EMSGSIZE = 90;

interface Seen {
  readonly from: string;
  readonly to: string;
  readonly type: number;
  readonly code: number;
  readonly rest: number;
  readonly quoted: string;
}

/** An error frame, its checksums and lengths verified, and the packet it quotes. */
function error(frame: Uint8Array): Seen {
  const d = dissect(frame);
  const m = d.payload;
  const view = new DataView(m.buffer, m.byteOffset, m.byteLength);
  if (d.protocol === 1) expect(internetChecksum(m)).toBe(0);
  const v4 = d.protocol === 1;
  const l4 = 8 + (v4 ? 20 : 40);
  if (v4) expect(internetChecksum(m.subarray(8, 28))).toBe(0);
  const total = v4 ? view.getUint16(10) : 40 + view.getUint16(12);
  expect(m.length).toBe(8 + total);
  expect(v4 ? m[8 + 9] : m[8 + 6]).toBe(17);
  const src = addressText(v4 ? m.subarray(20, 24) : m.subarray(16, 32));
  const dst = addressText(v4 ? m.subarray(24, 28) : m.subarray(32, 48));
  const payload = Buffer.from(m.subarray(l4 + 8)).toString('latin1');
  expect(view.getUint16(l4 + 4)).toBe(8 + payload.length);
  return {
    from: addressText(d.src),
    to: addressText(d.dst),
    type: m[0],
    code: m[1],
    rest: view.getUint32(4),
    quoted: `${src}:${String(view.getUint16(l4))} > ${dst}:${String(view.getUint16(l4 + 2))} ${payload}`,
  };
}

function started(srcPort = 5000): { rig: DatagramRig; socket: FakeDatagramSocket } {
  const rig = new DatagramRig();
  rig.guest(datagram(GUEST, srcPort, REMOTE, 7000, ascii('question')));
  return { rig, socket: [...rig.host.sockets.values()][0] };
}

const PORT_UNREACHABLE: FakeError = {
  errno: ECONNREFUSED,
  origin: 2,
  type: 3,
  code: 3,
  offender: REMOTE,
  dest: { address: REMOTE, port: 7000 },
  payload: ascii('question'),
};

test('port unreachable comes from the destination and quotes the guest’s packet', () => {
  const { rig, socket } = started();
  rig.host.fail(socket, PORT_UNREACHABLE);
  rig.pump();
  const [frame] = rig.port.sent();
  expect(error(frame)).toEqual({
    from: REMOTE,
    to: GUEST,
    type: 3,
    code: 3,
    rest: 0,
    quoted: '192.0.2.10:5000 > 203.0.113.5:7000 question',
  });
  // The flow goes on.
  rig.guest(datagram(GUEST, 5000, REMOTE, 7000, ascii('again')));
  expect(rig.left()).toHaveLength(2);
});

test('the gateway’s refusal comes from the gateway, not from loopback', () => {
  const rig = new DatagramRig();
  rig.guest(datagram(GUEST, 5000, '192.0.2.1', 7000, ascii('q')));
  const [socket] = [...rig.host.sockets.values()];
  const dest = { address: '127.0.0.1', port: 7000 };
  rig.host.fail(socket, { ...PORT_UNREACHABLE, offender: '127.0.0.1', dest, payload: ascii('q') });
  rig.pump();
  expect(error(rig.port.sent()[0])).toMatchObject({ from: '192.0.2.1', quoted: '192.0.2.10:5000 > 192.0.2.1:7000 q' });
});

test('a router on the way is shown as it is (traceroute), its TTL quoted', () => {
  const rig = new DatagramRig();
  rig.guest(datagram(GUEST, 5000, REMOTE, 33434, ascii('x'), { ttl: 2 }));
  const [socket] = [...rig.host.sockets.values()];
  rig.host.fail(socket, {
    ...PORT_UNREACHABLE,
    errno: EHOSTUNREACH,
    type: 11,
    code: 0,
    offender: '198.51.100.1',
    payload: ascii('x'),
  });
  rig.pump();
  const [frame] = rig.port.sent();
  expect(error(frame)).toMatchObject({ from: '198.51.100.1', type: 11, code: 0 });
  expect(dissect(frame).payload[8 + 8]).toBe(2);
});

test('an error of the host itself comes from us', () => {
  const { rig, socket } = started();
  rig.host.fail(socket, { ...PORT_UNREACHABLE, errno: EHOSTUNREACH, code: 1, offender: GUEST });
  rig.pump();
  expect(error(rig.port.sent()[0])).toMatchObject({ from: '192.0.2.1', code: 1 });
});

test('fragmentation needed carries the MTU', () => {
  const { rig, socket } = started();
  rig.host.fail(socket, { ...PORT_UNREACHABLE, errno: EMSGSIZE, code: 4, info: 1400 });
  rig.pump();
  expect(error(rig.port.sent()[0])).toMatchObject({ type: 3, code: 4, rest: 1400 });
});

test('ICMPv6: unreachable and packet too big', () => {
  const rig = new DatagramRig();
  rig.guest(datagram('2001:db8::10', 5000, REMOTE6, 7000, ascii('six')));
  const [socket] = [...rig.host.sockets.values()];
  const dest = { address: REMOTE6, port: 7000 };
  const base: FakeError = {
    errno: ECONNREFUSED,
    origin: 3,
    type: 1,
    code: 4,
    offender: REMOTE6,
    dest,
    payload: ascii('six'),
  };
  rig.host.fail(socket, base);
  rig.host.fail(socket, { ...base, errno: EMSGSIZE, type: 2, code: 0, info: 1280, offender: '2001:db8:9::1' });
  rig.pump();
  const quoted = '2001:db8::10:5000 > 2001:db8:5::5:7000 six';
  expect(rig.port.sent().map(error)).toEqual([
    { from: REMOTE6, to: '2001:db8::10', type: 1, code: 4, rest: 0, quoted },
    { from: '2001:db8:9::1', to: '2001:db8::10', type: 2, code: 0, rest: 1280, quoted },
  ]);
});

test.each([
  [GUEST, REMOTE, 2, 12, 20 + 8],
  ['2001:db8::10', REMOTE6, 3, 4, 40 + 8],
])(
  'parameter problem of %s: the pointer is within the packet, or the error is dropped',
  (guest, remote, origin, type, end) => {
    const rig = new DatagramRig();
    rig.guest(datagram(guest, 5000, remote, 7000, ascii('')));
    const [socket] = [...rig.host.sockets.values()];
    const dest = { address: remote, port: 7000 };
    const base: FakeError = { errno: EPROTO, origin, type, code: 0, offender: remote, dest };
    rig.host.fail(socket, { ...base, info: end - 1 });
    rig.host.fail(socket, { ...base, info: end });
    rig.host.fail(socket, { ...base, info: -1 });
    rig.pump();
    const rest = origin === 2 ? (end - 1) * 2 ** 24 : end - 1;
    expect(rig.port.sent().map(error)).toMatchObject([{ type, rest }]);
    expect(rig.counter(C_DROPS_TO_GUEST + dropCode('icmp_malformed'))).toBe(2);
  },
);

test.each([
  [GUEST, '239.1.2.3', 2, 3, 0, 0],
  [GUEST, '239.1.2.3', 2, 12, 0, 0],
  [GUEST, '255.255.255.255', 2, 11, 0, 0],
  ['2001:db8::10', 'ff05::99', 3, 1, 0, 0],
  ['2001:db8::10', 'ff05::99', 3, 4, 0, 0],
  ['2001:db8::10', 'ff05::99', 3, 2, 0, 1],
  ['2001:db8::10', 'ff05::99', 3, 4, 2, 1],
])(
  'about what %s sent to all of %s, from origin %i, type %i, code %i: %i errors',
  (guest, group, origin, type, code, n) => {
    const rig = new DatagramRig();
    rig.guest(datagram(guest, 5000, group, 7000, ascii('all')));
    const [socket] = [...rig.host.sockets.values()];
    const offender = origin === 2 ? REMOTE : REMOTE6;
    rig.host.fail(socket, {
      errno: EPROTO,
      origin,
      type,
      code,
      info: 40,
      offender,
      dest: { address: group, port: 7000 },
    });
    rig.pump();
    expect(rig.port.sent()).toHaveLength(n);
    expect(rig.counter(C_DROPS_TO_GUEST + dropCode('icmp_malformed'))).toBe(1 - n);
  },
);

test('long payloads are quoted in part: 576 and 1280 bytes', () => {
  const rig = new DatagramRig();
  rig.guest(datagram(GUEST, 5000, REMOTE, 7000, ascii('q')), datagram('2001:db8::10', 5000, REMOTE6, 7000, ascii('q')));
  const [v4, v6] = [...rig.host.sockets.values()];
  rig.host.fail(v4, { ...PORT_UNREACHABLE, payload: new Uint8Array(4000) });
  const dest = { address: REMOTE6, port: 7000 };
  rig.host.fail(v6, {
    ...PORT_UNREACHABLE,
    origin: 3,
    type: 1,
    code: 4,
    offender: REMOTE6,
    dest,
    payload: new Uint8Array(4000),
  });
  rig.pump();
  expect(rig.port.sent().map((f) => f.length)).toEqual([14 + 576, 14 + 1280]);
});

test('errors that are none, or of the wrong family, are not passed on', () => {
  const { rig, socket } = started();
  rig.host.fail(socket, { ...PORT_UNREACHABLE, origin: 1, errno: EMSGSIZE });
  rig.host.fail(socket, { ...PORT_UNREACHABLE, type: 5 });
  rig.host.fail(socket, { ...PORT_UNREACHABLE, origin: 3, type: 1 });
  rig.pump();
  expect(rig.port.sent()).toEqual([]);
  expect(socket.errors).toEqual([]);
});

test('an offender that cannot be shown', () => {
  const rig = new DatagramRig({ ip4: { gateway: null, mapHostLoopback: null } });
  rig.guest(datagram(GUEST, 5000, REMOTE, 7000, ascii('q')));
  const [socket] = [...rig.host.sockets.values()];
  rig.host.fail(socket, { ...PORT_UNREACHABLE, offender: '127.0.0.1' });
  rig.pump();
  expect(rig.port.sent()).toEqual([]);
});

test('a listener’s error finds the flow of the peer it is about', () => {
  const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 8000, targetPort: 80 }]);
  for (const port of [1001, 1002]) {
    rig.host.deliver({ address: REMOTE, port }, { address: GUEST, port: 8000 }, ascii('x'));
  }
  rig.pump();
  rig.port.sent();
  const [listener] = rig.listeners;
  rig.host.fail(listener, { ...PORT_UNREACHABLE, dest: { address: REMOTE, port: 1002 }, payload: ascii('reply') });
  rig.host.fail(listener, { ...PORT_UNREACHABLE, dest: { address: REMOTE, port: 9999 } });
  rig.pump();
  expect(rig.port.sent().map((f) => error(f).quoted)).toEqual(['192.0.2.10:80 > 203.0.113.5:1002 reply']);
});

test('a pending error without receive buffers is dropped, and counted', () => {
  const rig = new DatagramRig({ port: { buffers: 0 } });
  rig.guest(datagram(GUEST, 5000, REMOTE, 7000, ascii('q')));
  rig.host.fail([...rig.host.sockets.values()][0], PORT_UNREACHABLE);
  rig.pump();
  expect(rig.allDrops()).toEqual({ no_receive_buffers: 1 });
});

test('errors and data together: both arrive', () => {
  const { rig, socket } = started();
  rig.host.fail(socket, PORT_UNREACHABLE);
  rig.host.queue(socket, { address: REMOTE, port: 7000 }, GUEST, ascii('data'));
  rig.pump();
  expect(rig.seen()).toEqual(['203.0.113.5 > 192.0.2.10 protocol 1 type 3', '203.0.113.5:7000 > 192.0.2.10:5000 data']);
});

test('a socket that only ever fails is given up', () => {
  const { rig, socket } = started();
  rig.host.queue(socket, { address: REMOTE, port: 7000 }, GUEST, ascii('data'));
  const recv = rig.host.recvMany.bind(rig.host);
  rig.host.recvMany = (fd, first, count, flags): number => (fd === socket.fd ? -5 : recv(fd, first, count, flags));
  rig.pump();
  expect(rig.host.sockets.size).toBe(0);
});

test('a listener that fails is not given up, and does not spin', () => {
  const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 8000 }]);
  const recv = rig.host.recvMany.bind(rig.host);
  rig.host.recvMany = (): number => -5;
  rig.host.deliver({ address: REMOTE, port: 1 }, { address: GUEST, port: 8000 }, ascii('x'));
  rig.pump();
  rig.host.recvMany = recv;
  rig.stack.onSocket(KEY_UDP_LISTENER << KEY_KIND_SHIFT, 0, EPOLLERR);
  rig.host.deliver({ address: REMOTE, port: 1 }, { address: GUEST, port: 8000 }, ascii('y'));
  rig.pump();
  expect(rig.seen()).toHaveLength(2);
});

test('the alias of the host is the source of errors from it', () => {
  const rig = new DatagramRig({ ip4: { mapGuestAddr: ip('192.0.2.77') } });
  rig.guest(datagram(GUEST, 5000, REMOTE, 7000, ascii('q')));
  rig.host.fail([...rig.host.sockets.values()][0], { ...PORT_UNREACHABLE, code: 1, offender: GUEST });
  rig.pump();
  expect(error(rig.port.sent()[0]).from).toBe('192.0.2.77');
});
