import { ip, text } from '../../../support/stack/addresses';
import type { LinkRig } from '../../../support/stack/link-rig';
import { OUR_MAC, bytes, datagram, dissect, hex, linkRig, u16 } from '../../../support/stack/link-rig';

const GUEST_LL = 'fe80::5054:ff:fe12:3456';
const SERVERS = 'ff02::1:2';

const option = (code: number, ...data: Parameters<typeof bytes>): Uint8Array => {
  const body = bytes(...data);
  return bytes(u16(code), u16(body.length), body);
};
const CLIENT_ID = option(1, '00 03 00 01 52 54 00 12 34 56');
const SERVER_DUID = bytes('00 03 00 01', OUR_MAC);
const SERVER_ID = option(2, SERVER_DUID);
const iaaddr = (address: string, preferred = '00000e10', valid = preferred): Uint8Array =>
  option(5, ip(address), preferred, valid);
const iaNa = (id: string, ...inner: Uint8Array[]): Uint8Array => option(3, id, '00000000 00000000', ...inner);
/** Preferred for an hour, valid for two; renewed after a half and four fifths of the hour. */
const TIMES = '00000708 00000b40';
const ASSIGNED = iaaddr('2001:db8::10', '00000e10', '00001c20');
const ANSWER = (id: string): string => hex(option(3, id, TIMES, ASSIGNED));

const message = (type: number, ...options: Uint8Array[]): Uint8Array => bytes([type], 'ab cd ef', ...options);

function ask(rig: LinkRig, payload: Uint8Array, dst = SERVERS): Uint8Array[] {
  return rig.exchange(datagram(GUEST_LL, 546, dst, 547, payload));
}

/** Type and options (whole, in hexadecimal) of the only reply. */
function parse(sent: Uint8Array[]): { type: number; options: string[] } {
  expect(sent).toHaveLength(1);
  const d = dissect(sent[0]);
  expect(d).toMatchObject({ srcPort: 547, dstPort: 546, ttl: 255, dstMac: '525400123456', flowLabel: 0xbcdef });
  expect(hex(d.src)).toBe(hex(ip('fe80::1')));
  expect(hex(d.dst)).toBe(hex(ip(GUEST_LL)));
  expect(hex(d.payload.subarray(1, 4))).toBe('abcdef');
  return { type: d.payload[0], options: split(d.payload.subarray(4)) };
}

function split(data: Uint8Array): string[] {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const options: string[] = [];
  let at = 0;
  while (at < data.length) {
    const end = at + 4 + view.getUint16(at + 2);
    expect(end).toBeLessThanOrEqual(data.length);
    options.push(hex(data.subarray(at, end)));
    at = end;
  }
  return options;
}

const codes = (options: readonly string[]): number[] => options.map((o) => parseInt(o.slice(0, 4), 16));
/** Status code in an option or in the options of an IA whose fixed part has `fixed` bytes. */
const statusIn = (iaHex: string, fixed = 12): number => {
  const inner = split(Buffer.from(iaHex, 'hex').subarray(4 + fixed));
  expect(codes(inner)).toEqual([13]);
  return parseInt(inner[0].slice(8, 12), 16);
};

describe('DHCPv6', () => {
  test('SOLICIT gets an ADVERTISE, byte for byte', () => {
    const rig = linkRig({ search: ['example.com'] }, {}, { dns: [ip('2001:db8::53')] });
    const { type, options } = parse(ask(rig, message(1, CLIENT_ID, iaNa('00000007'))));
    expect(type).toBe(2);
    expect(options).toEqual([
      hex(SERVER_ID),
      ANSWER('00000007'),
      hex(CLIENT_ID),
      hex(option(23, ip('2001:db8::53'))),
      hex(option(24, '07', Buffer.from('example'), '03', Buffer.from('com'), '00')),
    ]);
  });

  test('an ADVERTISE assigns nothing yet, a REPLY does', () => {
    const rig = linkRig();
    rig.ctx.link.guest6.fill(0);
    ask(rig, message(1, CLIENT_ID, iaNa('00000007')));
    expect(text(rig.ctx.link.guest6)).toBe('::');
    ask(rig, message(3, CLIENT_ID, SERVER_ID, iaNa('00000007', iaaddr('2001:db8::10'))));
    expect(text(rig.ctx.link.guest6)).toBe('2001:db8::10');
  });

  test('SOLICIT with rapid commit gets a REPLY that says so', () => {
    const rig = linkRig();
    rig.ctx.link.guest6.fill(0);
    const { type, options } = parse(ask(rig, message(1, CLIENT_ID, option(14), iaNa('00000007'))));
    expect(type).toBe(7);
    expect(options).toContain(hex(option(14)));
    expect(options).toContain(ANSWER('00000007'));
    expect(text(rig.ctx.link.guest6)).toBe('2001:db8::10');
  });

  test.each([
    ['REQUEST', 3, [SERVER_ID]],
    ['RENEW', 5, [SERVER_ID]],
    ['REBIND', 6, []],
  ])('%s for the assigned address gets a REPLY', (_, type, ids) => {
    const r = parse(ask(linkRig(), message(type, CLIENT_ID, ...ids, iaNa('00000001', iaaddr('2001:db8::10')))));
    expect(r.type).toBe(7);
    expect(r.options).toEqual([hex(SERVER_ID), ANSWER('00000001'), hex(CLIENT_ID)]);
  });

  test('no IA_NA unless the client has one', () => {
    expect(codes(parse(ask(linkRig(), message(1, CLIENT_ID))).options)).toEqual([2, 1]);
  });

  test('one IA_NA gets the address, other associations hear that there is none', () => {
    const solicit = message(
      1,
      CLIENT_ID,
      iaNa('00000001'),
      iaNa('00000002'),
      option(4, '00000003'),
      option(25, '00000004', '00000000 00000000'),
    );
    const { options } = parse(ask(linkRig(), solicit));
    expect(codes(options)).toEqual([2, 3, 3, 4, 25, 1]);
    expect(options[1]).toBe(ANSWER('00000001'));
    expect([statusIn(options[2]), statusIn(options[3], 4), statusIn(options[4])]).toEqual([2, 2, 6]);
    expect(options[2].slice(8, 16)).toBe('00000002');
    expect(options[4].slice(8, 16)).toBe('00000004');
  });

  test('REQUEST for another address: not on link', () => {
    const { type, options } = parse(
      ask(linkRig(), message(3, CLIENT_ID, SERVER_ID, iaNa('00000001', iaaddr('2001:db8:9::1')))),
    );
    expect(type).toBe(7);
    expect(statusIn(options[1])).toBe(4);
  });

  test.each([
    ['RENEW', 5, [SERVER_ID]],
    ['REBIND', 6, []],
  ])('%s of another address: that one ends, ours begins', (_, type, ids) => {
    const { options } = parse(
      ask(linkRig(), message(type, CLIENT_ID, ...ids, iaNa('00000001', iaaddr('2001:db8:9::1')))),
    );
    expect(options[1]).toBe(hex(option(3, `00000001 ${TIMES}`, ASSIGNED, iaaddr('2001:db8:9::1', '00000000'))));
  });

  test.each([
    ['ours', '2001:db8::10', 0],
    ['another', '2001:db8:9::1', 4],
  ])('CONFIRM of %s', (_, address, status) => {
    const { type, options } = parse(ask(linkRig(), message(4, CLIENT_ID, iaNa('00000001', iaaddr(address)))));
    expect(type).toBe(7);
    expect(codes(options)).toEqual([2, 1, 13]);
    expect(parseInt(options[2].slice(8, 12), 16)).toBe(status);
  });

  test('CONFIRM of nothing gets nothing', () => {
    expect(ask(linkRig(), message(4, CLIENT_ID, iaNa('00000001')))).toEqual([]);
  });

  test.each([
    ['RELEASE', 8],
    ['DECLINE', 9],
  ])('%s is answered with success', (_, type) => {
    const { options } = parse(
      ask(linkRig(), message(type, CLIENT_ID, SERVER_ID, iaNa('00000001', iaaddr('2001:db8::10')))),
    );
    expect(codes(options)).toEqual([2, 1, 13]);
    expect(options[2].slice(8, 12)).toBe('0000');
  });

  test('INFORMATION-REQUEST gets configuration, with or without a client identifier', () => {
    const dns = { dns: [ip('2001:db8::53')] };
    expect(codes(parse(ask(linkRig({}, {}, dns), message(11, CLIENT_ID))).options)).toEqual([2, 1, 23]);
    expect(codes(parse(ask(linkRig({}, {}, dns), message(11))).options)).toEqual([2, 23]);
  });

  test('FQDN says who updates the DNS (RFC 4704)', () => {
    const name = `02${hex(Buffer.from('vm'))}04${hex(Buffer.from('test'))}00`;
    const rig = linkRig({ fqdn: 'vm.test' });
    const plain = parse(ask(rig, message(1, CLIENT_ID))).options;
    expect(plain[2]).toBe(`0027000a04${name}`);
    const wantsS = parse(ask(rig, message(1, CLIENT_ID, option(39, '01', name)))).options;
    expect(wantsS[2]).toBe(`0027000a06${name}`);
  });

  test.each<[string, Uint8Array]>([
    ['SOLICIT with a server id', message(1, CLIENT_ID, SERVER_ID)],
    ['SOLICIT without client id', message(1)],
    ['REQUEST without server id', message(3, CLIENT_ID)],
    ['REQUEST to another server', message(3, CLIENT_ID, option(2, '00 03 00 01 02 02 02 02 02 02'))],
    ['RENEW without server id', message(5, CLIENT_ID)],
    ['REBIND with a server id', message(6, CLIENT_ID, SERVER_ID)],
    ['INFORMATION-REQUEST with an IA', message(11, CLIENT_ID, iaNa('00000001'))],
    ['client id too long', message(1, option(1, new Uint8Array(131)))],
    ['option past the end', message(1, CLIENT_ID, bytes('00 06 00 05 00'))],
    ['IA_NA too short', message(1, CLIENT_ID, option(3, '00000001 00000000'))],
    ['option in an IA past its end', message(1, CLIENT_ID, iaNa('00000001', bytes('00 05 00 18 20')))],
    ['address too short', message(1, CLIENT_ID, iaNa('00000001', option(5, ip('2001:db8::1'))))],
    ['ADVERTISE from the guest', message(2, CLIENT_ID, SERVER_ID)],
    ['unknown type', message(77, CLIENT_ID)],
    ['no header', bytes('01 00')],
  ])('dropped and counted: %s', (_, payload) => {
    const rig = linkRig();
    expect(ask(rig, payload)).toEqual([]);
    expect(rig.drops('dhcpv6_malformed')).toBe(1);
  });

  test('more associations than a reply holds: the reply stays whole', () => {
    const many = Array.from({ length: 100 }, (_, i) => iaNa(i.toString(16).padStart(8, '0')));
    const longId = option(1, '00 02', new Uint8Array(128).fill(7));
    const { options } = parse(ask(linkRig(), message(1, longId, ...many)));
    expect(options[0]).toBe(hex(SERVER_ID));
    expect(options[1]).toBe(ANSWER('00000000'));
    expect(options.at(-1)).toBe(hex(longId));
    expect(options.length).toBeGreaterThan(10);
  });

  test('a datagram to one host is not ours', () => {
    const rig = linkRig();
    expect(ask(rig, message(1, CLIENT_ID), '2001:db8::547')).toEqual([]);
    expect(rig.udp.frames).toHaveLength(1);
  });

  test.each([
    ['switched off', { dhcpv6: false }, {}],
    ['without an address to give', {}, { guestAddr: null }],
  ])('%s, messages are swallowed', (_, config, ip6) => {
    const rig = linkRig(config, {}, ip6);
    expect(ask(rig, message(1, CLIENT_ID))).toEqual([]);
    expect(rig.drops('protocol_disabled')).toBe(1);
    expect(rig.udp.frames).toEqual([]);
  });

  test('UDP over IPv6 without a checksum is dropped', () => {
    const rig = linkRig();
    const frame = datagram(GUEST_LL, 546, SERVERS, 547, message(1, CLIENT_ID));
    frame[60] = frame[61] = 0;
    expect(rig.exchange(frame)).toEqual([]);
    expect(rig.drops('udp_checksum')).toBe(1);
  });
});
