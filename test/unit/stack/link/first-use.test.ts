/** What the log says to a user whose guest gets no network: one line a guest, whatever it does later. */
import { PATIENCE_MS } from '../../../../src/stack/link/first-use';
import { ip } from '../../../support/stack/addresses';
import { GUEST_MAC, bytes, datagram, ethernet, icmpv6, linkRig, packet } from '../../../support/stack/link-rig';
import type { LinkRig } from '../../../support/stack/link-rig';

const DISCOVER = datagram(
  '0.0.0.0',
  68,
  '255.255.255.255',
  67,
  bytes(
    bytes('01 01 06 00 12345678 0000 8000', new Uint8Array(16), GUEST_MAC, new Uint8Array(202)),
    '63825363 350101 ff',
  ),
);
const SOLICIT = icmpv6('fe80::5054:ff:fe12:3456', 'ff02::2', bytes('85 00 00 00 00000000'));
const UDP4 = (from: string): Uint8Array => datagram(from, 5000, '9.9.9.9', 53, bytes('00'));
const UDP6 = (from: string): Uint8Array => datagram(from, 5000, '2001:db8:9::9', 53, bytes('00'));

/** The link comes up, the guest sends `frames`, and time passes. */
function begin(rig: LinkRig, frames: readonly Uint8Array[], ms = PATIENCE_MS): string[] {
  rig.stack.onLinkUp();
  for (const frame of frames) rig.exchange(frame);
  rig.clock.advance(ms);
  rig.stack.onTimer();
  return rig.logged.filter((line) => line.startsWith('warn'));
}

test('frames, but no address: how it gets one', () => {
  expect(begin(linkRig(), [DISCOVER, SOLICIT])).toEqual([
    'warn: the guest has sent frames for 45 s, but none from an address that can be used: start a DHCP client in it, or configure 192.0.2.10/24, gateway 192.0.2.1',
  ]);
  expect(begin(linkRig(), [UDP4('169.254.7.7')])).toHaveLength(1);
});

test('nothing at all', () => {
  expect(begin(linkRig(), [])).toEqual([
    'warn: the guest has sent nothing for 45 s: start a DHCP client in it, or configure 192.0.2.10/24, gateway 192.0.2.1',
  ]);
});

test('not even buffers: an interface that is down, or memory of its own', () => {
  const [line, ...more] = begin(linkRig({}, {}, {}, { buffers: 0 }), []);
  expect(line).toContain("the guest's driver has started, but its queues were empty for 45 s: bring its interface up");
  expect(line).toMatch(/share=on.*<access mode='shared'\/>/);
  expect(more).toEqual([]);
});

test.each<[string, LinkRig, string]>([
  ['without a DHCP server', linkRig({ dhcp: false }), 'configure 192.0.2.10/24, gateway 192.0.2.1 in it'],
  ['without a gateway', linkRig({}, { gateway: null }), 'configure 192.0.2.10/24 in it'],
  [
    'IPv6 only',
    linkRig({}, null),
    'let it accept router advertisements or start a DHCPv6 client in it, or configure 2001:db8::10/64, gateway fe80::1',
  ],
  [
    'IPv6 only, told by nobody',
    linkRig({ ra: false, dhcpv6: false }, null),
    'configure 2001:db8::10/64, gateway fe80::1 in it',
  ],
])('the remedy is one that there is: %s', (_, rig, remedy) => {
  const [line] = begin(rig, []);
  expect(line.endsWith(`: ${remedy}`)).toBe(true);
});

test('nothing is wrong with an address of either family, or where there is none to give', () => {
  expect(begin(linkRig(), [UDP4('192.0.2.10')])).toEqual([]);
  expect(begin(linkRig(), [UDP4('10.0.0.5')])).toEqual([]);
  expect(begin(linkRig(), [UDP6('2001:db8::77')])).toEqual([]);
  expect(begin(linkRig({}, null, { guestAddr: null }), [SOLICIT])).toEqual([]);
});

test('it has its time, and none of it counts while the link is down', () => {
  const rig = linkRig();
  expect(begin(rig, [DISCOVER], PATIENCE_MS - 1)).toEqual([]);
  expect(rig.stack.nextDeadline()).toBeLessThanOrEqual(rig.clock.nowMs + 1);
  rig.port.up = false;
  expect(begin(rig, [])).toEqual([]);
  const configured = begin(linkRig(), []);
  expect(configured).toHaveLength(1);
});

test('one line a guest, however often its link comes up; the next guest gets its own', () => {
  const rig = linkRig({}, {}, null);
  for (let i = 0; i < 100; i++) begin(rig, [DISCOVER]);
  expect(begin(rig, [])).toHaveLength(1);
  expect(rig.stack.nextDeadline()).toBe(Infinity);
  rig.stack.reset();
  expect(begin(rig, [])).toHaveLength(2);
});

test('tagged frames: one line, with the tag', () => {
  const rig = linkRig();
  const tagged = bytes(UDP4('192.0.2.10').subarray(0, 12), '8100 2005', UDP4('192.0.2.10').subarray(12));
  for (let i = 0; i < 1000; i++) {
    rig.clock.advance(100);
    rig.exchange(tagged);
  }
  expect(rig.logged.filter((line) => line.includes('VLAN'))).toEqual([
    'warn: the guest sends frames of VLAN 5, which are dropped: use its untagged interface, there are no VLANs here',
  ]);
  expect(rig.drops('vlan_tagged')).toBe(1000);
});

test('ARP alone gives no address away that is not one', () => {
  const probe = bytes('0001 0800 06 04 0001', GUEST_MAC, ip('0.0.0.0'), '000000000000', ip('192.0.2.10'));
  expect(begin(linkRig(), [ethernet(0x0806, probe)])).toHaveLength(1);
  const claim = bytes('0001 0800 06 04 0001', GUEST_MAC, ip('192.0.2.10'), '000000000000', ip('192.0.2.1'));
  expect(begin(linkRig(), [ethernet(0x0806, claim)])).toEqual([]);
});

test('packets of other protocols say what carries them', () => {
  const rig = linkRig();
  for (const protocol of [50, 47]) rig.exchange(packet('192.0.2.10', '9.9.9.9', protocol, new Uint8Array(64)));
  expect(rig.logged.filter((line) => line.includes('not supported')).map((line) => line.split('; ')[1])).toEqual([
    'let IPsec use UDP encapsulation (NAT traversal, port 4500)',
    'use a tunnel over UDP or TCP instead (WireGuard, VXLAN, OpenVPN)',
  ]);
});
