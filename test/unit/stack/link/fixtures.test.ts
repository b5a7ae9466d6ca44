/**
 * Every message of the services on the link as a whole frame, to the byte. The frames were looked at with Wireshark's
 * dissectors, which find no fault in them; they are not to be made anew from a failing test without doing that again.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ip } from '../../../support/stack/addresses';
import {
  GUEST_MAC,
  OUR_MAC,
  bytes,
  datagram,
  ethernet,
  hex,
  icmpv6,
  linkRig,
  type LinkRig,
} from '../../../support/stack/link-rig';

const FILE = join(__dirname, '../../../fixtures/link-messages.hex');
const LL = 'fe80::5054:ff:fe12:3456';
const GLOBAL = '2001:db8::10';

const rig = (): LinkRig =>
  linkRig(
    { mtu: 1500, hostname: 'vm1', fqdn: 'vm1.example.com', search: ['example.com', 'lab.example.com'] },
    { dns: [ip('192.0.2.53')] },
    { dns: [ip('2001:db8::53')] },
  );

const dhcp = (options: string, ciaddr = '00000000', from = '0.0.0.0', to = '255.255.255.255'): Uint8Array => {
  const fixed = bytes('01 01 06 00 deadbeef 0000 0000', ciaddr, '00000000 00000000 00000000', GUEST_MAC);
  return datagram(from, 68, to, 67, bytes(fixed, new Uint8Array(202), '63825363', options, 'ff'));
};
const CLIENT = bytes('0001 000a 00030001', GUEST_MAC);
const SERVER = bytes('0002 000a 00030001', OUR_MAC);
const associated = (address: string): Uint8Array =>
  bytes('0003 0028 00000001 00000000 00000000 0005 0018', ip(address), '00000e10 00001c20');
const IA = associated(GLOBAL);
const FOREIGN = associated('2001:db8:9::1');
const dhcpv6 = (type: number, ...options: (string | Uint8Array)[]): Uint8Array =>
  datagram(LL, 546, 'ff02::1:2', 547, bytes([type], 'abcdef', ...options));
const arp = (op: string, target: string): Uint8Array =>
  ethernet(0x0806, bytes('0001 0800 06 04', op, GUEST_MAC, 'c000020a 000000000000', target));

const answer =
  (question: Uint8Array) =>
  (one: LinkRig): Uint8Array[] =>
    one.exchange(question);

/** What is done, by the name of its fixture. */
const MESSAGES: Readonly<Record<string, (one: LinkRig) => Uint8Array[]>> = {
  'arp reply': answer(arp('0001', 'c0000201')),
  'dhcp offer': answer(dhcp('35 01 01 37 04 01 03 06 0f')),
  'dhcp ack': answer(dhcp('35 01 03 32 04 c000020a 36 04 c0000201 3d 07 01525400123456')),
  'dhcp ack to a renewal': answer(dhcp('35 01 03', 'c000020a', '192.0.2.10', '192.0.2.1')),
  'dhcp ack to rapid commit': answer(dhcp('35 01 01 50 00')),
  'dhcp ack to inform': answer(dhcp('35 01 08', 'c0000263', '192.0.2.99')),
  'dhcp nak': answer(dhcp('35 01 03 32 04 0a000001')),
  'bootp reply': answer(dhcp('')),
  'dhcpv6 advertise': answer(dhcpv6(1, CLIENT, IA)),
  'dhcpv6 reply to rapid commit': answer(dhcpv6(1, CLIENT, IA, '000e 0000')),
  'dhcpv6 reply to request': answer(dhcpv6(3, CLIENT, SERVER, IA)),
  'dhcpv6 reply to request, not on link': answer(dhcpv6(3, CLIENT, SERVER, FOREIGN)),
  'dhcpv6 reply to request, temporary and prefix': answer(
    dhcpv6(3, CLIENT, SERVER, '0004 0004 00000002 0019 000c 00000003 00000000 00000000'),
  ),
  'dhcpv6 reply to confirm': answer(dhcpv6(4, CLIENT, IA)),
  'dhcpv6 reply to renew': answer(dhcpv6(5, CLIENT, SERVER, IA)),
  'dhcpv6 reply to rebind': answer(dhcpv6(6, CLIENT, FOREIGN)),
  'dhcpv6 reply to release': answer(dhcpv6(8, CLIENT, SERVER, IA)),
  'dhcpv6 reply to decline': answer(dhcpv6(9, CLIENT, SERVER, IA)),
  'dhcpv6 reply to information-request': answer(dhcpv6(11, CLIENT)),
  'neighbor advertisement': answer(
    icmpv6(LL, 'ff02::1:ff00:99', bytes('87 00 0000 00000000', ip('2001:db8::99'), '01 01', GUEST_MAC)),
  ),
  'router advertisement': answer(icmpv6(LL, 'ff02::2', bytes('85 00 0000 00000000'))),
  'link up: arp probe, neighbor solicitation, router advertisement': (one) => {
    one.stack.onLinkUp();
    return one.port.sent();
  },
};

interface Fixture {
  readonly name: string;
  readonly frames: string[];
}

/** Lines of hexadecimal digits, a frame each, under a line `# name`. */
function fixtures(): Fixture[] {
  const found: Fixture[] = [];
  for (const line of existsSync(FILE) ? readFileSync(FILE, 'utf8').split('\n') : []) {
    if (line.startsWith('# ')) found.push({ name: line.slice(2), frames: [] });
    else if (line !== '') found.at(-1)?.frames.push(line);
  }
  return found;
}

test.each(Object.keys(MESSAGES))('%s', (name) => {
  const wanted = fixtures().find((each) => each.name === name)?.frames ?? [];
  const frames = MESSAGES[name](rig()).map(hex);
  expect(frames).not.toEqual([]);
  expect(frames).toEqual(wanted);
});

test('every fixture is a message', () => {
  expect(fixtures().map(({ name }) => name)).toEqual(Object.keys(MESSAGES));
});
