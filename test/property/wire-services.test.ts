/**
 * The services on the link against hostile guests: no frame makes the stack throw, every answer is well-formed to the
 * last byte (`dissect` verifies lengths, checksums and padding), and no frame is answered by more than one.
 */
import * as fc from 'fast-check';
import { C_DROPS, C_FRAMES_FROM_GUEST, COUNTERS } from '../../src/stack/counters';
import { ip } from '../support/stack/addresses';
import {
  GUEST_MAC,
  OUR_MAC,
  bytes,
  datagram,
  dissect,
  ethernet,
  icmpv6,
  linkRig,
  packet,
} from '../support/stack/link-rig';

const config = { hostname: 'guest', fqdn: 'guest.example.com', search: ['example.com', 'lab.example.com'] };
const rig = linkRig(config, { dns: [ip('192.0.2.53')] }, { dns: [ip('2001:db8::53')] }, { memorySize: 1 << 20 });

/** Runs the frame through the stack and verifies what comes back. */
function feed(frame: Uint8Array): void {
  if (frame.length < 14) return;
  const before = rig.ctx.counters[C_FRAMES_FROM_GUEST];
  const sent = rig.exchange(frame);
  expect(sent.length).toBeLessThanOrEqual(1);
  for (const f of sent) {
    const d = dissect(f);
    if (d.type === 0x0800) expect([d.srcPort, [...d.src].join('.')]).toEqual([67, '192.0.2.1']);
    if (d.type === 0x86dd) expect(Buffer.from(d.src)).toEqual(Buffer.from(ip('fe80::1')));
  }
  expect(rig.ctx.counters[C_FRAMES_FROM_GUEST]).toBe(before + 1);
  // Every drop has a name: nothing is counted under "not dropped".
  expect(rig.ctx.counters[C_DROPS]).toBe(0);
  expect(rig.ctx.counters.length).toBe(COUNTERS);
  expect(rig.port.reservedCount).toBe(0);
}

/** Overwrites, cuts and extends a valid message at random. */
const mangled = (original: Uint8Array): fc.Arbitrary<Uint8Array> =>
  fc
    .tuple(
      fc.array(fc.tuple(fc.nat(original.length - 1), fc.integer({ min: 0, max: 255 })), { maxLength: 6 }),
      fc.integer({ min: 0, max: original.length }),
      fc.uint8Array({ maxLength: 40 }),
      fc.boolean(),
    )
    .map(([edits, cut, tail, whole]) => {
      const copy = Uint8Array.from(original);
      for (const [at, value] of edits) copy[at] = value;
      return whole ? copy : bytes(copy.subarray(0, cut), tail);
    });

const check = (arbitrary: fc.Arbitrary<Uint8Array>, toFrame: (body: Uint8Array) => Uint8Array): void => {
  fc.assert(
    fc.property(arbitrary, (body) => {
      feed(toFrame(body));
    }),
    { numRuns: 500 },
  );
};

const LL = 'fe80::5054:ff:fe12:3456';
const DHCP = bytes(
  '01 01 06 00 deadbeef 0000 0000 00000000 00000000 00000000 00000000',
  GUEST_MAC,
  new Uint8Array(202),
  '63825363 35 01 03 32 04 c000020a 36 04 c0000201 37 06 01 03 06 77 79 51 39 02 05dc 3d 03 010203 ff',
);
const IA_NA = '0003 0028 00000001 00000000 00000000 0005 0018 20010db8000000000000000000000010 00000e10 00000e10';
const DHCPV6 = bytes(
  '03 abcdef 0001 000a 00030001',
  GUEST_MAC,
  '0002 000a 00030001',
  OUR_MAC,
  IA_NA,
  '0027 0003 01 01 61',
  '0019 000c 00000002 00000000 00000000',
);
const NS = bytes('87 00 0000 00000000', ip('2001:db8::99'), '01 01', GUEST_MAC);

describe('hostile messages', () => {
  test('random frames', () => {
    check(fc.uint8Array({ maxLength: 200 }), (b) => b);
  });
  test('random Ethernet payload of every kind', () => {
    fc.assert(
      fc.property(fc.constantFrom(0x0800, 0x86dd, 0x0806), fc.uint8Array({ maxLength: 200 }), (type, body) => {
        feed(ethernet(type, body));
      }),
      { numRuns: 500 },
    );
  });
  test('mangled frames of every kind', () => {
    const valid = [
      ethernet(0x0806, bytes('0001 0800 06 04 0001', GUEST_MAC, 'c000020a 000000000000 c0000201')),
      datagram('0.0.0.0', 68, '255.255.255.255', 67, DHCP),
      datagram(LL, 546, 'ff02::1:2', 547, DHCPV6),
      icmpv6(LL, 'ff02::1:ff00:99', NS),
      packet('2001:db8::10', '2001:db8:9::9', 6, new Uint8Array(20), {
        extensions: bytes('3c 00 0104 00000000 2c 00 0104 00000000 06 00 0000 00000001'),
        next: 0,
      }),
    ];
    for (const frame of valid) check(mangled(frame), (b) => b);
  });
  test('DHCP, with checksums made right again', () => {
    check(mangled(DHCP), (b) => datagram('0.0.0.0', 68, '255.255.255.255', 67, b));
    check(fc.uint8Array({ maxLength: 300 }), (b) =>
      datagram('0.0.0.0', 68, '192.0.2.1', 67, bytes(DHCP.subarray(0, 240), b)),
    );
  });
  test('DHCPv6, with checksums made right again', () => {
    for (const type of [1, 3, 4, 5, 6, 8, 9, 11]) {
      const message = Uint8Array.from(DHCPV6);
      message[0] = type;
      check(mangled(message), (b) => datagram(LL, 546, 'ff02::1:2', 547, b));
    }
  });
  test('ND, with checksums made right again', () => {
    const message = mangled(NS).filter((b) => b.length >= 4);
    check(message, (b) => icmpv6(LL, 'fe80::1', b));
    check(message, (b) => icmpv6('::', 'ff02::1', b));
    const rs = bytes('85 00 0000 00000000 01 01', GUEST_MAC);
    check(
      mangled(rs).filter((b) => b.length >= 4),
      (b) => icmpv6(LL, 'ff02::2', b),
    );
  });
});
