/** What the guest is told of IPv6 fragments that are none (RFC 8200 §4.5, RFC 7112 §5). */
import { DatagramRig } from '../../../support/stack/datagram-rig';
import { piece } from '../../../support/stack/fragments';
import { GUEST_MAC, OUR_MAC, bytes, datagram, dissect, ethernet, packet } from '../../../support/stack/link-rig';

const GUEST = '2001:db8::10';
const REMOTE = '2001:db8:5::5';

const GUEST_WIRE = '20010db8 00000000 00000000 00000010';
const REMOTE_WIRE = '20010db8 00050000 00000000 00000005';
const OURS_WIRE = 'fe800000 00000000 00000000 00000001';
const PING = '80 00 0000 0001 0001';

/** A packet of the guest: payload length, next header, then what follows the addresses. */
const from = (payloadLen: string, next: string, rest: string): string =>
  `60000000 ${payloadLen} ${next} 40 ${GUEST_WIRE} ${REMOTE_WIRE} ${rest}`;

const zeros = (n: number): string => '00'.repeat(n);

/** Packets, and the parameter problem about each: payload length of the answer, code, checksum, pointer. */
const REFUSED: [string, string, string, string, string, string][] = [
  // Fragment header: next 17, offset 0, more; 13 bytes of UDP.
  [
    'a length of 13',
    from('0015', '2c', `11 00 0001 00000007 1388 1b58 0064 0000 ${zeros(5)}`),
    '0045',
    '00',
    'a703',
    '00000004',
  ],
  [
    'a length of 12, in the middle',
    from('0014', '2c', `11 00 0041 00000007 ${zeros(12)}`),
    '0044',
    '00',
    'd609',
    '00000004',
  ],
  ['a length of 9, of a ping', from('0011', '2c', `3a 00 0001 00000007 ${PING} 00`), '0041', '00', '2d4d', '00000004'],
  // Offset 65528, the last one, of 8 bytes: 65536 in all. The offset is at 40 + 2.
  ['65536 bytes in all', from('0010', '2c', `11 00 fff8 00000007 ${zeros(8)}`), '0040', '00', 'd633', '0000002a'],
  // Destination options in front: 8 + 65520 + 8.
  [
    '65536 with other headers',
    from('0018', '3c', `2c 00 0104 00000000 11 00 fff0 00000007 ${zeros(8)}`),
    '0048',
    '00',
    '991f',
    '00000032',
  ],
  // Destination options of 16 bytes, of which 8 are there.
  [
    'headers that go on',
    from('0010', '2c', '3c 00 0001 00000007 11 01 0104 00000000'),
    '0040',
    '03',
    '994d',
    '00000000',
  ],
  [
    'no header after the options',
    from('0010', '2c', '3c 00 0001 00000007 11 00 0104 00000000'),
    '0040',
    '03',
    '994e',
    '00000000',
  ],
  [
    'TCP cut',
    from('0018', '2c', `06 00 0001 00000007 1388 0050 ${zeros(8)} 50 02 0000`),
    '0048',
    '03',
    '7d68',
    '00000000',
  ],
  [
    'TCP options cut',
    from('0020', '2c', `06 00 0001 00000007 1388 0050 ${zeros(8)} 80 02 ffff ${zeros(8)}`),
    '0050',
    '03',
    '4d58',
    '00000000',
  ],
];

function frame(packetHex: string, dstMac = OUR_MAC): Uint8Array {
  return ethernet(0x86dd, bytes(packetHex), GUEST_MAC, dstMac);
}

test.each(REFUSED)('%s: a parameter problem, to the byte', (_title, refused, length, code, checksum, pointer) => {
  const rig = new DatagramRig();
  rig.guest(frame(refused));
  const [answer, ...more] = rig.port.sent();
  expect(more).toEqual([]);
  expect(dissect(answer).protocol).toBe(58);
  const want = bytes(
    `${GUEST_MAC} ${OUR_MAC} 86dd`,
    `60000000 ${length} 3a ff ${OURS_WIRE} ${GUEST_WIRE}`,
    `04 ${code} ${checksum} ${pointer}`,
    refused,
  );
  expect(Buffer.from(answer).toString('hex')).toBe(Buffer.from(want).toString('hex'));
  expect(rig.allDrops()).toEqual({ ipv6_fragment: 1 });
  expect(rig.stack.nextDeadline()).toBe(Infinity);
});

test('a long fragment is quoted up to 1280 bytes of answer', () => {
  const rig = new DatagramRig();
  const whole = datagram(GUEST, 5000, REMOTE, 7000, new Uint8Array(4000));
  rig.guest(piece(whole, 0, whole.subarray(54, 54 + 2997), true));
  const [answer] = rig.port.sent();
  expect(answer).toHaveLength(14 + 1280);
  expect(dissect(answer).payload[1]).toBe(0);
});

test.each([
  ['an ICMPv6 error', from('0011', '2c', '3a 00 0001 00000007 01 04 0000 00000000 00'), OUR_MAC],
  ['what may be part of one', from('0011', '2c', `3a 00 0009 00000007 ${zeros(9)}`), OUR_MAC],
  [
    'a packet to a group',
    from('0011', '2c', `11 00 0001 00000007 ${zeros(9)}`).replace(REMOTE_WIRE, `ff02${zeros(13)}fb`),
    OUR_MAC,
  ],
  ['one by a group’s Ethernet address', from('0011', '2c', `11 00 0001 00000007 ${zeros(9)}`), '33 33 00 00 00 fb'],
  [
    'one without a source',
    from('0011', '2c', `11 00 0001 00000007 ${zeros(9)}`).replace(GUEST_WIRE, zeros(16)),
    OUR_MAC,
  ],
  ['no bytes at all', from('0008', '2c', '11 00 0009 00000007'), OUR_MAC],
])('nothing is said about %s, but it is counted', (_title, refused, dstMac) => {
  const rig = new DatagramRig();
  rig.guest(frame(refused, dstMac));
  expect(rig.port.sent()).toEqual([]);
  expect(rig.allDrops()).toEqual({ ipv6_fragment: 1 });
});

test('ten at once, then one each tenth of a second', () => {
  const rig = new DatagramRig();
  const refused = frame(REFUSED[0][1]);
  const send = (n: number): number => {
    rig.guest(...Array.from({ length: n }, () => refused));
    return rig.port.sent().length;
  };
  expect(send(50)).toBe(10);
  rig.later(99);
  expect(send(5)).toBe(0);
  rig.later(1);
  expect(send(5)).toBe(1);
  rig.later(60_000);
  expect(send(50)).toBe(10);
  expect(rig.allDrops()).toEqual({ ipv6_fragment: 110 });
});

test('all headers in the first fragment, however many: it is taken', () => {
  const rig = new DatagramRig();
  const options = bytes('11 00 0104 00000000');
  const udp = datagram(GUEST, 5000, REMOTE, 7000, bytes('0102030405060708')).subarray(54);
  const send = (at: number, more: number, data: Uint8Array): void => {
    rig.guest(packet(GUEST, REMOTE, 17, data, { extensions: bytes([60, 0, 0, at | more], '00000007'), next: 44 }));
  };
  send(0, 1, bytes(options, udp.subarray(0, 8)));
  send(16, 0, udp.subarray(8));
  expect(rig.left()).toEqual(['2001:db8:99::99:5000 > 2001:db8:5::5:7000 \x01\x02\x03\x04\x05\x06\x07\x08']);
  expect(rig.port.sent()).toEqual([]);
});

test('IPv4 says nothing', () => {
  const rig = new DatagramRig();
  const whole = datagram('192.0.2.10', 5000, '203.0.113.5', 7000, new Uint8Array(100));
  rig.guest(piece(whole, 0, whole.subarray(34, 47), true), piece(whole, 65_528, whole.subarray(34, 50), false));
  expect(rig.port.sent()).toEqual([]);
  expect(rig.allDrops()).toEqual({ ipv4_fragment: 2 });
});
