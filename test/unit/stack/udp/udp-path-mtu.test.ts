/** Paths behind the guest: fragmentation of what is sent to it, and what routers there say of it. */
import type { StackConfig } from '../../../../src/stack/config';
import { ip } from '../../../support/stack/addresses';
import { ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import type { Address, FakeDatagramSocket } from '../../../support/stack/fake-host-io-udp';
import { join } from '../../../support/stack/fragments';
import { bytes, datagram, dissect, icmpv6, internetChecksum, packet, u16 } from '../../../support/stack/link-rig';

const MINUTES_10 = 600_000;

interface Ends {
  readonly guest: string;
  readonly peer: Address;
  readonly router: string;
  readonly v6: boolean;
}

const V4: Ends = { guest: '192.0.2.10', peer: { address: '203.0.113.5', port: 7000 }, router: '192.0.2.77', v6: false };
const V6: Ends = {
  guest: '2001:db8::10',
  peer: { address: '2001:db8:5::5', port: 7000 },
  router: '2001:db8::77',
  v6: true,
};

/** A guest that has asked, and the socket of its flow. */
function asked(e: Ends, options: ConstructorParameters<typeof DatagramRig>[0] = {}): [DatagramRig, FakeDatagramSocket] {
  const rig = new DatagramRig({ config: { mtu: 65520, udpStreamTimeoutMs: 10 * MINUTES_10 }, ...options });
  rig.guest(datagram(e.guest, 5000, e.peer.address, e.peer.port, ascii('q')));
  const [socket] = rig.host.sockets.values();
  return [rig, socket];
}

function arrive(rig: DatagramRig, socket: FakeDatagramSocket, e: Ends, ...lengths: readonly number[]): Uint8Array[] {
  for (const length of lengths) {
    const data = Uint8Array.from({ length }, (_, i) => (i * 7) & 0xff);
    rig.host.queue(socket, e.peer, e.guest, data);
  }
  rig.pump();
  return rig.port.sent();
}

/** An error of a router about `frame`, which it got. */
function tooBig(e: Ends, frame: Uint8Array, mtu: number, quoted = e.v6 ? 1200 : 28): Uint8Array {
  const quote = frame.slice(14, 14 + quoted);
  if (e.v6) return icmpv6(e.router, '2001:db8:1::7', bytes([2, 0, 0, 0], u16(mtu >>> 16), u16(mtu & 0xffff), quote));
  const message = bytes([3, 4, 0, 0], u16(0), u16(mtu), quote);
  message.set(u16(internetChecksum(message)), 2);
  return packet(e.router, '198.51.100.7', 1, message);
}

const ipLength = (frame: Uint8Array): number =>
  frame[14] >> 4 === 4 ? frame[16] * 256 + frame[17] : 40 + frame[18] * 256 + frame[19];
const identification = (frame: Uint8Array): number => frame[18] * 256 + frame[19];
const hasDf = (frame: Uint8Array): boolean => (frame[20] & 0x40) !== 0;

test('IPv4 to the guest: an identification and no DF, but for what passes anywhere', () => {
  const [rig, socket] = asked(V4);
  const frames = arrive(rig, socket, V4, 3000, 3000, 549, 548, 100, 1472);
  expect(frames.map(hasDf)).toEqual([false, false, false, true, true, false]);
  const ids = frames.filter((f) => !hasDf(f)).map(identification);
  expect(new Set(ids).size).toBe(4);
  for (const frame of frames) dissect(frame);
});

test('datagrams that the guest cuts have an identification each', () => {
  const [rig, socket] = asked(V4, { port: { gsoUdp4: true, gsoUdp6: true } });
  rig.host.joins = true;
  const twelve = Array<number>(12).fill(1000);
  arrive(rig, socket, V4, 10);
  arrive(rig, socket, V4, ...twelve);
  arrive(rig, socket, V4, ...twelve);
  const vnets = arrive(rig, socket, V4, ...twelve);
  expect(vnets.map(hasDf)).not.toContain(true);
  const [next] = arrive(rig, socket, V4, 1001);
  const last = vnets[vnets.length - 1];
  const cut = Math.ceil((ipLength(last) - 28) / 1000);
  expect(cut).toBeGreaterThan(1);
  expect((identification(next) - identification(last)) & 0xffff).toBe(cut);
});

describe.each([
  ['IPv4', V4, 1400],
  ['IPv6', V6, 1300],
])('%s', (_family, e, mtu) => {
  test('a router behind the guest with a smaller MTU is obeyed, for ten minutes', () => {
    const [rig, socket] = asked(e);
    const [whole] = arrive(rig, socket, e, 3000);
    expect(ipLength(whole)).toBeGreaterThan(3000);
    rig.guest(tooBig(e, whole, mtu));
    expect(rig.allDrops()).toEqual({});
    for (const lengths of [[3000], [3000], [1400]]) {
      const pieces = arrive(rig, socket, e, ...lengths);
      expect(pieces.length).toBeGreaterThan(1);
      expect(Math.max(...pieces.map(ipLength))).toBeLessThanOrEqual(mtu);
      expect(join(pieces)).toHaveLength((e.v6 ? 62 : 42) + lengths[0]);
    }
    // Short ones still are one packet, which routers may cut.
    const [short] = arrive(rig, socket, e, 300);
    expect(e.v6 || !hasDf(short)).toBe(true);
    rig.later(MINUTES_10 - 1000);
    expect(arrive(rig, socket, e, 3000).length).toBeGreaterThan(1);
    rig.later(2000);
    expect(arrive(rig, socket, e, 3000)).toHaveLength(1);
  });

  test('other addresses of the guest are left alone; listeners and echo follow suit', () => {
    const rig = new DatagramRig({ config: { mtu: 65520 } }, [{ address: e.v6 ? '::' : '0.0.0.0', port: 8000 }]);
    rig.ctx.link.guest6.set([0x20010db8, 0, 0, 0x10]);
    rig.host.deliver(e.peer, { address: e.guest, port: 8000 }, new Uint8Array(3000));
    rig.pump();
    const [whole] = rig.port.sent();
    rig.guest(tooBig({ ...e, router: e.guest }, whole, mtu));
    expect(arrive(rig, rig.listeners[0], e, 3000, 3000).length).toBe(6);
    const other = e.v6 ? '2001:db8::99' : '192.0.2.99';
    rig.guest(datagram(other, 5000, e.peer.address, e.peer.port, ascii('q')));
    const socket = [...rig.host.sockets.values()][1];
    expect(arrive(rig, socket, e, 3000)).toHaveLength(1);
  });

  test('joined datagrams are cut for the path', () => {
    const [rig, socket] = asked(e, { port: { gsoUdp4: true, gsoUdp6: true } });
    const [first] = arrive(rig, socket, e, 1450);
    rig.guest(tooBig(e, first, mtu));
    rig.host.joins = true;
    for (let i = 0; i < 3; i++) {
      const pieces = arrive(rig, socket, e, 1450, 1450, 1450, 1450, 1450);
      expect(pieces).toHaveLength(10);
      expect(Math.max(...pieces.map(ipLength))).toBeLessThanOrEqual(mtu);
    }
    expect(rig.allDrops()).toEqual({});
  });

  test('what cannot be true changes nothing: no such flow, too little quoted, a larger MTU', () => {
    const [rig, socket] = asked(e);
    const [whole] = arrive(rig, socket, e, 3000);
    const l4 = 14 + (e.v6 ? 40 : 20);
    for (const at of [l4 + 1, l4 + 3, l4 - 1]) {
      const wrong = whole.slice();
      wrong[at] ^= 1;
      rig.guest(tooBig(e, wrong, mtu));
    }
    rig.guest(tooBig(e, whole, mtu, l4 - 14 + 7));
    expect(rig.drops('icmp_unsupported')).toBe(4);
    rig.guest(tooBig(e, whole, 9000));
    expect(arrive(rig, socket, e, 3000)).toHaveLength(1);
    // A larger one than is known does not widen the path.
    rig.guest(tooBig(e, whole, mtu), tooBig(e, whole, mtu + 100));
    expect(Math.max(...arrive(rig, socket, e, 3000).map(ipLength))).toBeLessThanOrEqual(mtu);
  });

  test('a guest that was reset is told nothing of old paths, and the table is bounded', () => {
    const [rig, socket] = asked(e);
    const [whole] = arrive(rig, socket, e, 3000);
    const { paths } = rig.ctx.link;
    for (let i = 0; i < 100_000; i++)
      paths.learn(rig.clock.nowMs, 1300, Int32Array.of(e.v6 ? 0x20010db8 : 0, 0, e.v6 ? 0 : 0xffff, i), 0);
    rig.guest(tooBig(e, whole, mtu));
    expect(arrive(rig, socket, e, 3000).length).toBeGreaterThan(1);
    rig.stack.reset();
    rig.guest(datagram(e.guest, 5000, e.peer.address, e.peer.port, ascii('q')));
    const [next] = rig.host.sockets.values();
    expect(arrive(rig, next, e, 3000)).toHaveLength(1);
  });
});

test('an IPv4 MTU below 552 bytes: pieces of 552 that may be cut; an IPv6 one below 1280 is not believed', () => {
  const [rig, socket] = asked(V4);
  const [whole] = arrive(rig, socket, V4, 3000);
  rig.guest(tooBig(V4, whole, 68));
  const pieces = arrive(rig, socket, V4, 3000);
  expect(Math.max(...pieces.map(ipLength))).toBeLessThanOrEqual(552);
  expect(pieces).toHaveLength(6);
  const [rig6, socket6] = asked(V6);
  const [whole6] = arrive(rig6, socket6, V6, 3000);
  rig6.guest(tooBig(V6, whole6, 1279));
  expect(arrive(rig6, socket6, V6, 3000)).toHaveLength(1);
});

test('echo replies to the address are cut, too', () => {
  const [rig, socket] = asked(V4);
  const [whole] = arrive(rig, socket, V4, 3000);
  rig.guest(tooBig(V4, whole, 1400));
  const request = bytes([8, 0, 0, 0], u16(1), u16(1), new Uint8Array(2000));
  request.set(u16(internetChecksum(request)), 2);
  rig.guest(packet(V4.guest, V4.peer.address, 1, request));
  const ping = [...rig.host.sockets.values()][1];
  const [sent] = rig.host.sent.splice(1);
  const reply = Uint8Array.from(sent.data);
  reply[0] = 0;
  rig.host.queue(ping, { ...V4.peer, port: 0 }, V4.guest, reply);
  rig.pump();
  const pieces = rig.port.sent();
  expect(pieces).toHaveLength(2);
  expect(Math.max(...pieces.map(ipLength))).toBeLessThanOrEqual(1400);
  expect(ip(V4.guest)).toEqual(pieces[0].slice(30, 34));
});

/** A peer has asked a service of the guest; makes its answers, with DF unless said otherwise. */
function forwarded(
  e: Ends,
  config: Partial<StackConfig>,
  dual = false,
): [DatagramRig, (length: number, fragment?: number) => Uint8Array] {
  const rig = new DatagramRig({ config: { mtu: 65520, ...config } }, [
    { address: e.v6 || dual ? '::' : '0.0.0.0', port: 8000, dual },
  ]);
  rig.ctx.link.guest6.set([0x20010db8, 0, 0, 0x10]);
  rig.host.mtu = 1500;
  rig.host.deliver(e.peer, { address: e.guest, port: 8000 }, ascii('q'));
  rig.pump();
  expect(rig.port.sent()).toHaveLength(1);
  const answer = (length: number, fragment = 0x4000): Uint8Array =>
    datagram(e.guest, 8000, e.peer.address, e.peer.port, new Uint8Array(length), { fragment });
  return [rig, answer];
}

describe('a datagram with DF that the host is too small for', () => {
  const big = (e: Ends, length = 3000): Uint8Array =>
    datagram(e.guest, 5000, e.peer.address, e.peer.port, new Uint8Array(length), { fragment: 0x4000 });

  test.each([
    ['IPv4', V4, 3, 4],
    ['IPv6', V6, 2, 0],
  ])('%s, --df keep: the guest is told the MTU, and the datagram is lost', (_family, e, type, code) => {
    const rig = new DatagramRig({ config: { keepDf: true } });
    rig.host.mtu = 1500;
    rig.guest(big(e));
    expect(rig.left()).toEqual([]);
    const told = rig.port.sent().map((f) => dissect(f));
    expect(told).toHaveLength(1);
    const rest = Buffer.from(told[0].payload).readUInt32BE(4);
    expect([told[0].payload[0], told[0].payload[1], rest]).toEqual([type, code, 1500]);
    expect(rig.drops('host_socket_error')).toBe(1);
    rig.guest(big(e, 1400));
    expect(rig.left()).toHaveLength(1);
  });

  test.each([
    ['IPv4', 'of its family', V4, 3, 4],
    ['IPv6', 'of its family', V6, 2, 0],
    ['IPv4', 'of both', V4, 3, 4],
    ['IPv6', 'of both', V6, 2, 0],
  ])('%s, --df keep, an answer of a forwarded port %s', (_family, kind, e, type, code) => {
    const dual = kind === 'of both';
    const [rig, answer] = forwarded(e, { keepDf: true }, dual);
    rig.guest(answer(3000));
    expect(rig.left()).toEqual([]);
    const told = rig.port.sent().map((f) => dissect(f));
    expect(told).toHaveLength(1);
    const rest = Buffer.from(told[0].payload).readUInt32BE(4);
    expect([told[0].payload[0], told[0].payload[1], rest]).toEqual([type, code, 1500]);
    // What is quoted names the flow: the service's port and the peer's.
    const ports = Buffer.from(told[0].payload.subarray(8 + (e.v6 ? 40 : 20)));
    expect([ports.readUInt16BE(0), ports.readUInt16BE(2)]).toEqual([8000, e.peer.port]);
    rig.guest(answer(1400));
    expect(rig.left()).toHaveLength(1);
    // Without DF it leaves in fragments, and that changes nothing for what has it.
    if (e.v6) return;
    rig.guest(answer(3000, 0), answer(3000));
    expect(rig.left()).toHaveLength(1);
    expect(rig.port.sent()).toHaveLength(1);
  });

  test.each([
    ['IPv4', V4],
    ['IPv6', V6],
  ])('%s, an answer of a forwarded port by default: in fragments, and none that fits is cut', (_family, e) => {
    const [rig, answer] = forwarded(e, {});
    rig.guest(answer(3000), answer(1400), answer(3000));
    expect(rig.left()).toHaveLength(3);
    expect(rig.port.sent()).toEqual([]);
    const [socket] = rig.listeners;
    const discover = (): number | undefined => socket.option(e.v6 ? 41 : 0, e.v6 ? 23 : 10);
    expect(discover()).toBe(0);
    rig.guest(answer(1400));
    expect(discover()).toBe(3);
    // A short one changes nothing, so peers that are told little cost no calls.
    rig.guest(answer(100, 0));
    expect(discover()).toBe(3);
  });

  test('by default it leaves in fragments', () => {
    const rig = new DatagramRig();
    rig.host.mtu = 1500;
    rig.guest(big(V4));
    expect(rig.left()).toHaveLength(1);
    expect(rig.port.sent()).toEqual([]);
  });
});
