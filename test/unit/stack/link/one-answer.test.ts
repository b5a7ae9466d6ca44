/**
 * What the guest asks is answered once, and what we say is answered by nothing of ours: neither requests in a row nor
 * frames that a bridge in the guest sends back make the link busier than the guest is.
 */
import { ip } from '../../../support/stack/addresses';
import { BROADCAST_MAC, GUEST_MAC, bytes, datagram, ethernet, icmpv6, linkRig } from '../../../support/stack/link-rig';

const GUEST_LL = 'fe80::5054:ff:fe12:3456';
const SERVERS = 'ff02::1:2';
const REQUESTS = 200;
/** What one answer may take: the longest is a DHCP reply to a client that takes 1500 bytes. */
const MOST_BYTES = 1514;

const arp = ethernet(
  0x0806,
  bytes('0001 0800 06 04 0001', GUEST_MAC, 'c000020a', '00 00 00 00 00 00', 'c0000201', new Uint8Array(18)),
  GUEST_MAC,
  BROADCAST_MAC,
);
const dhcp = (options: string, src = '0.0.0.0', dst = '255.255.255.255', cookie = '63825363'): Uint8Array =>
  datagram(
    src,
    68,
    dst,
    67,
    bytes('01 01 06 00 12345678 0000 8000', new Uint8Array(16), GUEST_MAC, new Uint8Array(202), cookie, options, 'ff'),
  );
const dhcpv6 = (type: number, ...options: string[]): Uint8Array =>
  datagram(GUEST_LL, 546, SERVERS, 547, bytes([type], 'ab cd ef', ...options));
const CLIENT_ID = '0001 000a 0003 0001 525400123456';
const IA_NA = '0003 000c 00000001 00000000 00000000';
const SOLICITATION = bytes('87 00 00 00 00000000', ip('2001:db8:1::99'), '01 01', GUEST_MAC);

const QUESTIONS: readonly (readonly [string, Uint8Array])[] = [
  ['ARP', arp],
  ['a neighbour solicitation', icmpv6(GUEST_LL, 'ff02::1:ff00:99', SOLICITATION)],
  ['a router solicitation', icmpv6(GUEST_LL, 'ff02::2', bytes('85 00 00 00 00000000'))],
  ['a router solicitation without an address', icmpv6('::', 'ff02::2', bytes('85 00 00 00 00000000'))],
  ['DHCPDISCOVER', dhcp('35 01 01')],
  ['DHCPREQUEST', dhcp('35 01 03 32 04 c000020a')],
  ['DHCPREQUEST for another address', dhcp('35 01 03 32 04 c0000263')],
  ['DHCPINFORM', dhcp('35 01 08', '192.0.2.10')],
  ['BOOTP', dhcp('')],
  ['SOLICIT', dhcpv6(1, CLIENT_ID, IA_NA)],
  ['INFORMATION-REQUEST', dhcpv6(11, CLIENT_ID)],
];

test.each(QUESTIONS)('%s, many times: an answer each', (_name, question) => {
  const rig = linkRig({ search: Array.from({ length: 50 }, (_, i) => `domain-number-${i}.example`) });
  for (let n = 0; n < REQUESTS; n++) {
    const sent = rig.exchange(question);
    expect(sent).toHaveLength(1);
    expect(sent[0].length).toBeLessThanOrEqual(MOST_BYTES);
  }
});

test('what we say, sent back to us, provokes nothing', () => {
  const rig = linkRig();
  rig.stack.onLinkUp();
  const said = [...rig.port.sent(), ...QUESTIONS.flatMap(([, question]) => rig.exchange(question))];
  expect(said.length).toBeGreaterThan(QUESTIONS.length);
  for (const frame of said) expect(rig.exchange(frame)).toEqual([]);
});

test('a turn takes 512 KiB from the guest and a frame more at the most, whatever the budget of frames', () => {
  const rig = linkRig();
  const length = 60_000;
  for (let i = 0; i < 20; i++) rig.port.inject(ethernet(0x88cc, new Uint8Array(length - 14)));
  expect(rig.stack.fromGuest(1000)).toBe(true);
  expect((20 - rig.port.pending) * length).toBeGreaterThanOrEqual(512 << 10);
  expect((20 - rig.port.pending - 1) * length).toBeLessThan(512 << 10);
});
