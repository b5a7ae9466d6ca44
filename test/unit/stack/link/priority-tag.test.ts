/** Frames with a tag of 802.1Q that has a priority only (VLAN 0) are as frames without (802.1Q §6.9.1). */
import { GSO_TCPV4 } from '../../../../src/stack/ports';
import { text } from '../../../support/stack/addresses';
import { GUEST_MAC, bytes, datagram, ethernet, hex, icmpv6, linkRig, packet } from '../../../support/stack/link-rig';

const TCP = bytes('04 00 00 50 00000001 00000000 50 02 ff ff 0000 0000');

/** Priority 7, drop eligible, VLAN 0. */
const tagged = (frame: Uint8Array): Uint8Array => bytes(frame.subarray(0, 12), '81 00 f0 00', frame.subarray(12));

const discover = datagram(
  '0.0.0.0',
  68,
  '255.255.255.255',
  67,
  bytes('01 01 06 00 deadbeef 00000000', new Uint8Array(16), GUEST_MAC, new Uint8Array(202), '63825363 350101 ff'),
);

test.each<[string, Uint8Array]>([
  ['ARP', ethernet(0x0806, bytes('0001 0800 06 04 0001', GUEST_MAC, 'c000020a 000000000000 c0000201'))],
  ['DHCP', discover],
  ['a router solicitation', icmpv6('fe80::7', 'ff02::2', bytes('85 00 0000 00000000'))],
  ['an unknown protocol', packet('192.0.2.10', '9.9.9.9', 47, new Uint8Array(40))],
])('%s: the same answer, without a tag', (_, frame) => {
  const [answer] = linkRig().exchange(frame);
  expect(answer).toBeDefined();
  expect(linkRig().exchange(tagged(frame)).map(hex)).toEqual([hex(answer)]);
});

test.each<[string, string, string]>([
  ['IPv4', '192.0.2.10', '9.9.9.9'],
  ['IPv6', '2001:db8::10', '2001:db8:9::9'],
])('%s: offsets count the tag, as the guest does', (_, from, to) => {
  const plain = linkRig();
  plain.exchange(packet(from, to, 6, TCP));
  const rig = linkRig({}, {}, {}, { rowSize: 16 });
  rig.port.inject(tagged(packet(from, to, 6, TCP)), { gsoType: GSO_TCPV4, gsoSize: 1000, csumPartial: true });
  rig.stack.fromGuest(1);
  const [without] = plain.tcp.frames;
  const [frame] = rig.tcp.frames;
  expect([frame.l3Off, frame.l4Off, frame.l4Len]).toEqual([18, without.l4Off + 4, without.l4Len]);
  expect([text(frame.addr, 0), text(frame.addr, 4)]).toEqual([from, to]);
  expect([rig.ctx.link.guestMacHi, rig.ctx.link.guestMacLo]).toEqual([0x5254, 0x00123456]);
});

test('fragments are put together', () => {
  const udp = datagram('192.0.2.10', 1024, '9.9.9.9', 53, new Uint8Array(3000).fill(7)).subarray(34);
  const rig = linkRig();
  for (const at of [0, 1400, 2800]) {
    const fragment = (at < 2800 ? 0x2000 : 0) | (at >> 3);
    rig.port.inject(tagged(packet('192.0.2.10', '9.9.9.9', 17, udp.subarray(at, at + 1400), { fragment })));
  }
  rig.stack.fromGuest(16);
  expect(rig.udp.frames.map((f) => [f.l3Off, f.l4Off, f.l4Len])).toEqual([[14, 34, 3008]]);
});

test('the Ethernet address of a frame in another VLAN is not learnt', () => {
  const rig = linkRig();
  const frame = packet('192.0.2.10', '9.9.9.9', 6, TCP, { srcMac: '52 54 00 00 00 99' });
  rig.exchange(bytes(frame.subarray(0, 12), '81 00 00 05', frame.subarray(12)));
  expect([rig.drops('vlan_tagged'), rig.ctx.link.guestMacHi]).toEqual([1, 0xffff]);
});
