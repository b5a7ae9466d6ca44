/** The link's MTU: what is offered, what the guest makes of it, and what datagrams to it are cut to. */
import { guestMtu } from '../../../../src/stack/ip/fragment-sender';
import { GSO_TCPV4 } from '../../../../src/stack/ports';
import { DatagramRig } from '../../../support/stack/datagram-rig';
import { join } from '../../../support/stack/fragments';
import { GUEST_MAC, bytes, datagram, dissect, icmpv6, linkRig, packet, u16 } from '../../../support/stack/link-rig';
import type { LinkRig } from '../../../support/stack/link-rig';

const G4 = '192.0.2.10';
const G6 = '2001:db8::10';

/** A SYN, or with flags 0x12 the answer to one, with a segment size. */
function syn(from: string, mss: number, flags = 2): Uint8Array {
  const to = from === G4 ? '9.9.9.9' : '2001:db8:9::9';
  return packet(from, to, 6, bytes('04 00 00 50 00000001 00000000 60', [flags], 'ffff 0000 0000 02 04', u16(mss)));
}

function dhcp(rig: LinkRig, type: number, options: string): Uint8Array {
  const fixed = bytes('01 01 06 00 deadbeef 00000000', new Uint8Array(16), GUEST_MAC, new Uint8Array(202));
  const request = bytes(fixed, '63825363 35 01', [type], options, 'ff');
  return dissect(rig.exchange(datagram('0.0.0.0', 68, '255.255.255.255', 67, request))[0]).payload;
}

/** The MTU of option 26 and of the router advertisement; 0: none. */
function told(rig: LinkRig): [number, number] {
  const offer = Buffer.from(dhcp(rig, 1, '37 01 1a'));
  const at = offer.indexOf(Buffer.from([26, 2]), 240);
  const ra = Buffer.from(dissect(rig.exchange(icmpv6('fe80::7', 'ff02::2', bytes('85 00 0000 00000000')))[0]).payload);
  const option = ra.indexOf(Buffer.from([5, 1, 0, 0]), 16);
  return [at < 0 ? 0 : offer.readUInt16BE(at + 2), option < 0 ? 0 : ra.readUInt32BE(option + 4)];
}

const bound = (rig: { readonly ctx: LinkRig['ctx'] }): [number, number] => [
  guestMtu(rig.ctx, true),
  guestMtu(rig.ctx, false),
];
const warnings = (rig: LinkRig): string[] => rig.logged.filter((line) => line.includes('MTU'));

describe('NET_SET_MTU of the front-end', () => {
  test('is offered in DHCP and router advertisements, and datagrams are cut to it', () => {
    const rig = linkRig();
    expect([told(rig), bound(rig)]).toEqual([
      [65520, 65520],
      [65520, 65520],
    ]);
    rig.stack.setMtu(1500);
    expect(dissect(rig.port.sent()[0]).payload[0]).toBe(134); // told unasked
    expect([told(rig), bound(rig)]).toEqual([
      [1500, 1500],
      [1500, 1500],
    ]);
    rig.stack.setMtu(1500);
    expect(rig.port.sent()).toEqual([]);
    rig.stack.setMtu(0);
    rig.port.sent();
    expect(told(rig)).toEqual([65520, 65520]);
  });

  test('is no more than --mtu, and survives a new configuration and a reset', () => {
    const rig = linkRig({ mtu: 1400 });
    rig.stack.setMtu(9000);
    expect(told(rig)).toEqual([1400, 1400]);
    rig.stack.reconfigure({ ...rig.ctx.config, mtu: 65520 });
    rig.stack.reset();
    rig.port.sent();
    expect(told(rig)).toEqual([9000, 9000]);
  });

  test('with --mtu 0 nothing is offered, but it is kept to', () => {
    const rig = linkRig({ mtu: 0 });
    expect(bound(rig)).toEqual([65535, 65535]);
    rig.stack.setMtu(1500);
    expect([told(rig), bound(rig)]).toEqual([
      [0, 0],
      [1500, 1500],
    ]);
  });

  test('below what IPv6 needs it is not offered there, nor are packets cut to less', () => {
    const rig = linkRig();
    rig.stack.setMtu(600);
    rig.port.sent();
    expect([told(rig), bound(rig)]).toEqual([
      [600, 0],
      [600, 1280],
    ]);
  });

  test('before the link is up nothing is sent', () => {
    const rig = linkRig();
    rig.port.up = false;
    rig.stack.setMtu(1500);
    expect(rig.port.sent()).toEqual([]);
  });
});

describe("the guest's own MTU", () => {
  test.each([
    ['a SYN of IPv4', syn(G4, 1460)],
    ['a SYN of IPv6', syn(G6, 1440)],
    ['the answer to a SYN', syn(G4, 1460, 0x12)],
  ])('shows in %s', (_, frame) => {
    const rig = linkRig();
    rig.exchange(frame);
    expect(bound(rig)).toEqual([1500, 1500]);
    expect(told(rig)).toEqual([65520, 65520]); // one that has not taken it yet still can
  });

  test('is the largest of those seen lately: a route with less does not stick', () => {
    const rig = linkRig();
    rig.exchange(syn(G4, 8960));
    rig.exchange(syn(G4, 1220));
    expect(bound(rig)[0]).toBe(9000);
    for (let i = 0; i < 3; i++) {
      rig.clock.advance(61_000);
      rig.exchange(syn(G4, 1460));
    }
    expect(bound(rig)[0]).toBe(1500);
    rig.exchange(syn(G4, 65_480));
    expect(bound(rig)[0]).toBe(65_520);
  });

  test.each([0, 1, 500])('a segment size of %d is not believed', (mss) => {
    const rig = linkRig();
    rig.exchange(syn(G4, mss));
    expect(bound(rig)).toEqual(mss === 0 ? [65520, 65520] : [576, 1280]);
  });

  test('is what its longest packet is, unless that is a train of segments or was cut', () => {
    const rig = linkRig();
    rig.exchange(syn(G4, 1460));
    rig.port.inject(packet(G4, '9.9.9.9', 6, new Uint8Array(5000)), {
      gsoType: GSO_TCPV4,
      gsoSize: 1460,
      csumPartial: true,
    });
    rig.stack.fromGuest(1);
    expect(bound(rig)[0]).toBe(1500);
    const udp = datagram(G4, 1, '9.9.9.9', 53, new Uint8Array(2000)).subarray(34);
    rig.exchange(packet(G4, '9.9.9.9', 17, udp.subarray(0, 1400), { fragment: 0x2000 }));
    rig.exchange(packet(G4, '9.9.9.9', 17, udp.subarray(1400), { fragment: 175 }));
    expect([rig.udp.frames.length, bound(rig)[0]]).toEqual([1, 1500]);
    rig.exchange(datagram(G4, 1, '9.9.9.9', 53, new Uint8Array(4000)));
    expect(bound(rig)[0]).toBe(4028);
  });

  test('is 1500 with a DHCP client that does not ask for it, until it shows more', () => {
    const rig = linkRig();
    dhcp(rig, 3, '37 03 01 03 06');
    expect(bound(rig)).toEqual([1500, 1500]);
    rig.exchange(syn(G4, 8960));
    expect(bound(rig)).toEqual([9000, 9000]);
    const asks = linkRig();
    dhcp(asks, 3, '37 02 1a 03');
    expect(bound(asks)).toEqual([65520, 65520]);
    const likely = linkRig();
    likely.stack.setMtu(9000); // the front-end told the guest's driver
    dhcp(likely, 3, '37 03 01 03 06');
    expect(bound(likely)).toEqual([9000, 9000]);
  });

  test('is forgotten with a reset', () => {
    const rig = linkRig();
    rig.exchange(syn(G4, 1460));
    rig.stack.reset();
    expect(bound(rig)).toEqual([65520, 65520]);
  });

  test('less than offered: one warning, when the guest has had time to take what it was offered', () => {
    const rig = linkRig();
    rig.exchange(syn(G4, 1460));
    dhcp(rig, 3, '37 01 1a');
    rig.exchange(syn(G4, 1460));
    expect(warnings(rig)).toEqual([]);
    for (let i = 0; i < 100; i++) {
      rig.clock.advance(10_000);
      rig.exchange(syn(G4, 1460));
    }
    expect(warnings(rig)).toEqual([
      'warn: the guest uses an MTU of 1500, but 65520 was advertised: datagrams to it are fragmented to fit',
    ]);
    const right = linkRig({ mtu: 1500 });
    dhcp(right, 3, '37 01 1a');
    right.clock.advance(10_000);
    right.exchange(syn(G4, 1460));
    expect(warnings(right)).toEqual([]);
  });

  test.each([
    ['a SYN', syn(G4, 8960)],
    ['a SYN of IPv6', syn(G6, 8940)],
    ['a packet', datagram(G4, 1, '9.9.9.9', 53, new Uint8Array(9000 - 28))],
  ])('more than offered, in %s: one warning, if it stays so', (_, frame) => {
    const rig = linkRig({ mtu: 1500 });
    rig.exchange(frame);
    rig.clock.advance(9_999);
    rig.exchange(frame);
    expect(warnings(rig)).toEqual([]);
    for (let i = 0; i < 100; i++) {
      rig.clock.advance(1000);
      rig.exchange(frame);
    }
    expect(warnings(rig)).toEqual([
      'warn: the guest uses an MTU of 9000, but 1500 was offered: set 1500 in the guest (ip link set dev IFACE mtu 1500), or offer more (--mtu 9000)',
    ]);
    expect(bound(rig)[0]).toBe(1500);
  });

  test("more than the front-end lets us offer: the remedy is the front-end's", () => {
    const rig = linkRig();
    rig.stack.setMtu(1500);
    for (let i = 0; i < 2; i++) {
      rig.exchange(syn(G4, 8960));
      rig.clock.advance(10_000);
    }
    expect(warnings(rig)[0]).toContain("or offer more (host_mtu=9000 at QEMU's -device)");
    const none = linkRig({ mtu: 0 });
    for (let i = 0; i < 2; i++) {
      none.exchange(syn(G4, 8960));
      none.clock.advance(10_000);
    }
    expect(warnings(none)).toEqual([]);
  });
});

test('a datagram of 3000 bytes comes in packets that the guest takes', () => {
  const rig = new DatagramRig();
  const peer = { address: '203.0.113.5', port: 7000 };
  rig.guest(syn(G4, 1460), datagram(G4, 5000, peer.address, peer.port, bytes('00')));
  const [socket] = rig.host.sockets.values();
  rig.host.queue(socket, peer, G4, new Uint8Array(3000).fill(9));
  rig.pump();
  const frames = rig.port.sent();
  expect(frames).toHaveLength(3);
  expect(frames.every((f) => f.length - 14 <= 1500)).toBe(true);
  expect(join(frames)).toHaveLength(14 + 20 + 8 + 3000);
});
