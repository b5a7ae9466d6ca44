/** ESP, GRE, SCTP and the like: the guest is told that they are not carried, and the log says so once. */
import { BROADCAST_MAC, bytes, dissect, hex, internetChecksum, linkRig, packet } from '../../../support/stack/link-rig';
import { addressText } from '../../../support/stack/datagram-rig';
import { strictIcmpError } from '../../../support/stack/strict/icmp-error';

const G4 = '192.0.2.10';
const G6 = '2001:db8::10';
const ESP = bytes('00000001 00000001', new Uint8Array(40).fill(0x5a));

test('IPv4: protocol unreachable, with what the guest sent', () => {
  const rig = linkRig();
  const frame = packet(G4, '9.9.9.9', 50, ESP, { padding: 4 });
  const d = dissect(rig.exchange(frame)[0]);
  expect([addressText(d.src), addressText(d.dst), d.protocol]).toEqual(['192.0.2.1', G4, 1]);
  expect(internetChecksum(d.payload)).toBe(0);
  expect(hex(d.payload.subarray(0, 2))).toBe('0302');
  expect(hex(d.payload.subarray(8))).toBe(hex(frame.subarray(14, -4)));
  expect(strictIcmpError(d)).toBe(true);
  expect(rig.drops('ip_protocol_unsupported')).toBe(1);
});

test.each<[string, Uint8Array, number, number]>([
  ['in the fixed header', new Uint8Array(0), 132, 6],
  ['in the last extension header', bytes('3c 00 0104 00000000', '84 00 0104 00000000'), 0, 48],
  ['in a fragment header', bytes('84 00 0000 00000007'), 44, 40],
])('IPv6: a parameter problem that points at the next header %s', (_, extensions, next, pointer) => {
  const rig = linkRig();
  const frame = packet(G6, '2001:db8:9::9', 132, ESP, { extensions, next });
  const d = dissect(rig.exchange(frame)[0]);
  expect([addressText(d.src), addressText(d.dst)]).toEqual(['fe80::1', G6]);
  expect(hex(d.payload.subarray(0, 2))).toBe('0401');
  expect(Buffer.from(d.payload).readUInt32BE(4)).toBe(pointer);
  expect(frame[14 + pointer]).toBe(132);
  expect(hex(d.payload.subarray(8))).toBe(hex(frame.subarray(14)));
  expect(strictIcmpError(d)).toBe(true);
});

test('without an address of our own it comes from where the packet was to go', () => {
  const rig = linkRig({}, { gateway: null });
  expect(addressText(dissect(rig.exchange(packet(G4, '9.9.9.9', 47, ESP))[0]).src)).toBe('9.9.9.9');
});

test.each<[string, Uint8Array]>([
  ['to a group', packet(G4, '224.0.0.18', 112, ESP)],
  ['to all', packet(G4, '255.255.255.255', 47, ESP)],
  ['to all of the subnet', packet(G4, '192.0.2.255', 47, ESP)],
  ['to a group of IPv6', packet(G6, 'ff02::5', 89, ESP)],
  ['to a group by its Ethernet address', bytes(BROADCAST_MAC, packet(G4, '9.9.9.9', 47, ESP).subarray(6))],
])('nothing is said about what went %s, but it is counted', (_, frame) => {
  const rig = linkRig();
  expect(rig.exchange(frame)).toEqual([]);
  expect(rig.drops('ip_protocol_unsupported')).toBe(1);
  expect(rig.logged.filter((line) => line.includes('not supported'))).toEqual([]);
});

test('a header whose checksum is wrong is no word of a protocol: nothing is said of it', () => {
  const rig = linkRig();
  const frame = packet(G4, G4, 1, new Uint8Array(0));
  frame[23] ^= 0x41;
  expect(rig.exchange(frame)).toEqual([]);
  expect(rig.drops('ip_protocol_unsupported')).toBe(1);
  expect(rig.logged.filter((line) => line.includes('not supported'))).toEqual([]);
});

test('fragments: once, about the whole; no source, no answer', () => {
  const rig = linkRig();
  expect(rig.exchange(packet(G4, '9.9.9.9', 50, ESP.subarray(0, 40), { fragment: 0x2000 }))).toEqual([]);
  const [answer] = rig.exchange(packet(G4, '9.9.9.9', 50, ESP.subarray(40), { fragment: 5 }));
  expect(strictIcmpError(dissect(answer))).toBe(true);
  expect(rig.exchange(packet('0.0.0.0', '9.9.9.9', 50, ESP))).toEqual([]);
  expect(rig.drops('source_invalid')).toBe(1);
});

test('a flood: ten errors, then ten a second, and one line for each protocol', () => {
  const rig = linkRig();
  let errors = 0;
  for (let i = 0; i < 5000; i++) errors += rig.exchange(packet(G4, '9.9.9.9', 50, ESP)).length;
  expect(errors).toBe(10);
  rig.clock.advance(1000);
  for (let i = 0; i < 500; i++) errors += rig.exchange(packet(G6, '2001:db8:9::9', 132, ESP)).length;
  expect(errors).toBe(20);
  const lines = (): string[] => rig.logged.filter((line) => line.includes('which is not supported'));
  expect(lines()).toHaveLength(2);
  expect(lines()[0]).toContain('ESP (IP protocol 50)');
  expect(lines()[0]).toContain('NAT traversal');
  expect(lines()[1]).toMatch(/SCTP .*RFC 6951/);
  for (let i = 0; i < 100; i++) {
    rig.clock.advance(1000);
    for (let protocol = 0; protocol < 256; protocol++) rig.exchange(packet(G4, '9.9.9.9', protocol, ESP));
  }
  expect(lines().length).toBeLessThanOrEqual(256);
});
