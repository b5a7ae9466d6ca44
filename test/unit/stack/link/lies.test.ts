/** Headers that lie or are cut, beside those of stack.test.ts, ndp.test.ts and dhcpv6.test.ts: dropped and counted. */
import type { DropName } from '../../../../src/stack/counters';
import { GSO_TCPV4, GSO_TCPV6 } from '../../../../src/stack/ports';
import { ip, text } from '../../../support/stack/addresses';
import { ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import { GUEST_MAC, bytes, datagram, ethernet, icmpv6, linkRig, packet } from '../../../support/stack/link-rig';

const GUEST = '192.0.2.10';
const GUEST6 = '2001:db8::10';
const REMOTE = '203.0.113.5';
const REMOTE6 = '2001:db8:5::5';
const GUEST_LL = 'fe80::5054:ff:fe12:3456';
const TCP = bytes('9c40 0050 00000001 00000000 50 02 ffff 0000 0000');

const v6 = (next: number, extensions: string): Uint8Array =>
  packet(GUEST6, REMOTE6, 6, TCP, { next, extensions: bytes(extensions) });
/** The frame with `data` from byte `at` on. */
const changed = (frame: Uint8Array, at: number, data: string): Uint8Array => {
  frame.set(bytes(data), at);
  return frame;
};
const arp = (at: number, data: string): Uint8Array => {
  const request = bytes('0001 0800 06 04 0001', GUEST_MAC, 'c000020a', '00 00 00 00 00 00', 'c0000201');
  return ethernet(0x0806, changed(bytes(request, new Uint8Array(18)), at, data));
};
const solicited = (dst: string, options: string, target = '2001:db8::77'): Uint8Array =>
  icmpv6('::', dst, bytes('87 00 00 00 00000000', ip(target), options));
const dhcpv6 = (...parts: string[]): Uint8Array => datagram(GUEST_LL, 546, 'ff02::1:2', 547, bytes(...parts));

test.each<[DropName, string, Uint8Array]>([
  ['ipv4_header', 'IPv4 header past the frame', changed(packet(GUEST, REMOTE, 6, TCP), 14, '4f')],
  ['ipv4_length', 'IPv4 total length below the header’s', changed(packet(GUEST, REMOTE, 6, TCP), 16, '0013')],
  ['ipv6_header', 'IPv6 version', changed(packet(GUEST6, REMOTE6, 6, TCP), 14, '40')],
  [
    'ipv6_extension',
    'a jumbogram (RFC 2675: payload length 0, hop-by-hop)',
    changed(v6(0, '06 00 c2 04 00010000'), 18, '0000'),
  ],
  ['ipv6_extension', 'a routing header with segments left', v6(43, `06 02 00 01 00000000 ${'00'.repeat(16)}`)],
  [
    'ipv6_extension',
    'the same behind destination options',
    v6(60, `2b 00 01 04 00000000 06 02 04 ff 00000000 ${'00'.repeat(16)}`),
  ],
  ['ipv6_extension', 'an extension header cut in its first 8 bytes', changed(v6(60, '06 00 01 04'), 18, '0004')],
  ['arp_malformed', 'ARP hardware type', arp(0, '0006')],
  ['arp_malformed', 'ARP protocol type', arp(2, '86dd')],
  ['arp_malformed', 'ARP hardware address length', arp(4, '08')],
  ['arp_malformed', 'ARP protocol address length', arp(5, '10')],
  ['ndp_malformed', 'duplicate address detection to one host', solicited('fe80::1', '')],
  ['ndp_malformed', 'duplicate address detection to all nodes', solicited('ff02::1', '')],
  ['ndp_malformed', '… that says where nobody is found', solicited('ff02::1:ff00:77', `01 01 ${GUEST_MAC}`)],
  ['ndp_malformed', 'a solicitation for ::1', solicited('ff02::1:ff00:1', '', '::1')],
  ['ndp_malformed', 'an advertisement that is cut', icmpv6(GUEST_LL, 'fe80::1', bytes('88 00 00 00 60000000 fe80'))],
  ['dhcpv6_malformed', 'DHCPv6 Relay-forward', dhcpv6('0c 00', '00'.repeat(32), '0009 0004 01abcdef')],
  ['dhcpv6_malformed', 'DHCPv6 Relay-reply', dhcpv6('0d 00', '00'.repeat(32), '0009 0004 01abcdef')],
  ['dhcpv6_malformed', 'a DUID of one byte', dhcpv6('01 abcdef', '0001 0001 00')],
  [
    'dhcpv6_malformed',
    'an option header that is cut',
    dhcpv6('01 abcdef', '0001 000a 0003 0001 525400123456', '0003 00'),
  ],
])('%s: %s', (reason, _name, frame) => {
  const rig = linkRig();
  expect(rig.exchange(frame)).toEqual([]);
  expect(rig.drops(reason)).toBe(1);
  expect([rig.tcp.frames, rig.udp.frames, rig.icmp.frames]).toEqual([[], [], []]);
  expect(text(rig.ctx.link.guest6)).toBe(GUEST6);
});

test.each([
  ['a routing header with no segments left', 43, `06 02 00 00 00000000 ${'00'.repeat(16)}`],
  ['an atomic fragment (RFC 6946)', 44, '06 00 0000 12345678'],
])('%s is passed over', (_name, next, extensions) => {
  const rig = linkRig();
  rig.exchange(v6(next, extensions));
  expect(rig.tcp.frames).toHaveLength(1);
});

test.each([
  [GUEST, REMOTE],
  [GUEST6, REMOTE6],
])('a hop limit of 0 from %s is none: the host’s own', (src, dst) => {
  const rig = new DatagramRig();
  rig.guest(datagram(src, 5000, dst, 7000, ascii('x'), { ttl: 0 }));
  const [socket] = [...rig.host.sockets.values()];
  expect([socket.option(0, 2), socket.option(41, 16)]).toEqual([undefined, undefined]);
  expect(rig.allDrops()).toEqual({});
});

test.each([
  ['IPv4', datagram(GUEST, 5000, REMOTE, 7000, ascii('x')), GSO_TCPV4],
  ['IPv6', datagram(GUEST6, 5000, REMOTE6, 7000, ascii('x')), GSO_TCPV6],
])('a datagram of %s marked as TCP segments', (_name, frame, gsoType) => {
  const rig = new DatagramRig();
  rig.guestVnet(frame, { csumPartial: true, gsoType, gsoSize: 1000 });
  expect(rig.host.sent).toEqual([]);
  expect(rig.allDrops()).toEqual({ vnet_header: 1 });
});
