/** What the user adds to DHCP, DHCPv6 and router advertisements, as a client sees it. */
import { NO_EXTRAS, type LinkExtras } from '../../../../src/stack/config';
import { ip } from '../../../support/stack/addresses';
import { GUEST_MAC, bytes, datagram, dissect, icmpv6, linkRig } from '../../../support/stack/link-rig';
import type { LinkRig } from '../../../support/stack/link-rig';

const LL = 'fe80::5054:ff:fe12:3456';
const data = (text: string): Uint8Array => new TextEncoder().encode(text);

interface Answer {
  readonly fixed: Buffer;
  readonly options: ReadonlyMap<number, string>;
}

/** A DHCP message of the type given, answered. */
function dhcp(rig: LinkRig, type: number, more = ''): Answer {
  const fixed = bytes('01 01 06 00 deadbeef 00000000', new Uint8Array(16), GUEST_MAC, new Uint8Array(202));
  const request = bytes(fixed, '63825363 35 01', [type], more, 'ff');
  const answer = Buffer.from(dissect(rig.exchange(datagram('0.0.0.0', 68, '255.255.255.255', 67, request))[0]).payload);
  const options = new Map<number, string>();
  for (let at = 240; answer[at] !== 255; at += 2 + answer[at + 1]) {
    options.set(answer[at], answer.subarray(at + 2, at + 2 + answer[at + 1]).toString('hex'));
  }
  return { fixed: answer.subarray(0, 240), options };
}

/** A DHCPv6 message of the type given, answered. */
function dhcpv6(rig: LinkRig, type: number, ...more: string[]): ReadonlyMap<number, Buffer> {
  const request = bytes([type], 'ab cd ef', '0001 000a 0003 0001 525400123456', ...more);
  const answer = Buffer.from(dissect(rig.exchange(datagram(LL, 546, 'ff02::1:2', 547, request))[0]).payload);
  const options = new Map<number, Buffer>();
  for (let at = 4; at < answer.length; at += 4 + answer.readUInt16BE(at + 2)) {
    options.set(answer.readUInt16BE(at), answer.subarray(at + 4, at + 4 + answer.readUInt16BE(at + 2)));
  }
  return options;
}

const rigWith = (extras: Partial<LinkExtras>, leaseSec = 3600): LinkRig =>
  linkRig(
    { extras: { ...NO_EXTRAS, ...extras } },
    { leaseSec, dns: [ip('192.0.2.53')] },
    { leaseSec, dns: [ip('2001:db8::53')] },
  );

describe('options', () => {
  const rig = rigWith({
    options4: [
      { code: 42, data: ip('192.0.2.1') },
      { code: 15, data: data('x.example') },
      { code: 6, data: null },
      { code: 26, data: bytes('0578') },
    ],
    options6: [
      { code: 56, data: bytes('0001 0010', ip('2001:db8::1')) },
      { code: 23, data: null },
    ],
  });

  test('DHCP: added, in the place of ours, and left out; in offers, ACKs and to INFORM, not in a NAK', () => {
    for (const [type, more] of [
      [1, ''],
      [3, ''],
      [8, ''],
    ] as const) {
      const { options } = dhcp(rig, type, more);
      expect([42, 15, 6, 26].map((code) => options.get(code))).toEqual([
        'c0000201',
        Buffer.from('x.example').toString('hex'),
        undefined,
        '0578',
      ]);
    }
    const nak = dhcp(rig, 3, '32 04 0a000001').options;
    expect([...nak.keys()].sort((a, b) => a - b)).toEqual([53, 54]);
  });

  test('DHCPv6', () => {
    const options = dhcpv6(rig, 11);
    expect([options.has(23), options.get(56)?.toString('hex')]).toEqual([
      false,
      `00010010${Buffer.from(ip('2001:db8::1')).toString('hex')}`,
    ]);
  });

  test('more than fits: what the guest needs is there all the same', () => {
    const full = rigWith({
      options4: Array.from({ length: 64 }, (_, i) => ({ code: 160 + i, data: new Uint8Array(255) })),
      options6: Array.from({ length: 64 }, (_, i) => ({ code: 1000 + i, data: new Uint8Array(1024) })),
    });
    const { options } = dhcp(full, 3);
    expect([1, 3, 51, 53, 54].every((code) => options.has(code))).toBe(true);
    expect(dhcpv6(full, 1, '0003 000c 00000001 00000000 00000000').has(3)).toBe(true);
  });
});

describe('booting', () => {
  const boot = { file: 'ipxe.efi', server4: ip('192.0.2.7'), server6: ip('2001:db8::7') };

  test('DHCP: server and file in the fixed part, the options on request', () => {
    const rig = rigWith({ boot });
    const { fixed, options } = dhcp(rig, 1);
    expect(fixed.subarray(20, 24).toString('hex')).toBe('c0000207');
    expect(fixed.subarray(108, 236).toString('latin1').replace(/\0+$/, '')).toBe('ipxe.efi');
    expect([options.has(66), options.has(67)]).toEqual([false, false]);
    const asked = dhcp(rig, 1, '37 02 42 43').options;
    expect([66, 67].map((code) => Buffer.from(asked.get(code) ?? '', 'hex').toString())).toEqual([
      '192.0.2.7',
      'ipxe.efi',
    ]);
    expect(dhcp(rig, 3, '32 04 0a000001').fixed.subarray(20, 24).toString('hex')).toBe('00000000');
  });

  test('DHCPv6: a URL', () => {
    const url = (extras: Partial<LinkExtras>): string | undefined => dhcpv6(rigWith(extras), 11).get(59)?.toString();
    expect(url({ boot })).toBe('tftp://[2001:db8::7]/ipxe.efi');
    expect(url({ boot: { ...boot, file: '/a/b' } })).toBe('tftp://[2001:db8::7]/a/b');
    expect(url({ boot: { ...boot, file: 'http://h/x' } })).toBe('http://h/x');
    expect(url({ boot: { ...boot, server6: null } })).toBeUndefined();
    expect(url({})).toBeUndefined();
  });

  test('HTTP boot of UEFI hears its class again; nobody else does', () => {
    const http = rigWith({ boot: { file: 'http://h/x.efi', server4: null, server6: null } });
    const class4 = `3c 0a ${Buffer.from('HTTPClient').toString('hex')}`;
    const class6 = `0010 0010 00000157 000a ${Buffer.from('HTTPClient').toString('hex')}`;
    expect(Buffer.from(dhcp(http, 1, class4).options.get(60) ?? '', 'hex').toString()).toBe('HTTPClient');
    expect(dhcpv6(http, 11, class6).get(16)?.toString('latin1')).toContain('HTTPClient');
    expect([dhcp(http, 1).options.has(60), dhcpv6(http, 11).has(16)]).toEqual([false, false]);
    expect(dhcp(rigWith({ boot }), 1, class4).options.has(60)).toBe(false);
    expect(dhcpv6(http, 11, '0010 0002 0000').has(16)).toBe(false);
  });
});

describe('lifetimes', () => {
  const lifetimes = (leaseSec: number): readonly number[] => {
    const rig = rigWith({}, leaseSec);
    const { options } = dhcp(rig, 3);
    const ia = dhcpv6(rig, 3, '0002 000a 0003 0001 9a559a559a55', '0003 000c 00000001 00000000 00000000').get(3)!;
    const ra = Buffer.from(dissect(rig.exchange(icmpv6(LL, 'ff02::2', bytes('85 00 00 00 00000000')))[0]).payload);
    return [
      ...[51, 58, 59].map((code) => parseInt(options.get(code) ?? '', 16)),
      ia.readUInt32BE(4),
      ia.readUInt32BE(8),
      ia.readUInt32BE(32),
      ia.readUInt32BE(36),
      ra.readUInt16BE(6),
      ra.readUInt32BE(16 + 4),
      ra.readUInt32BE(16 + 8),
    ];
  };

  test('two days', () => {
    const s = 172_800;
    expect(lifetimes(s)).toEqual([s, s / 2, (s * 7) / 8, s / 2, (s * 4) / 5, s, 2 * s, 65_535, 2 * s, s]);
  });

  test('for ever', () => {
    const s = 0xffffffff;
    expect(lifetimes(s)).toEqual([s, s, s, s, s, s, s, 65_535, s, s]);
  });
});
