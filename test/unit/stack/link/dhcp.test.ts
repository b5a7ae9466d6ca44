import type { Ip4Config, StackConfig } from '../../../../src/stack/config';
import { GSO_UDP_L4 } from '../../../../src/stack/ports';
import { ip } from '../../../support/stack/addresses';
import { GUEST_MAC, bytes, datagram, dissect, hex, linkRig, u16 } from '../../../support/stack/link-rig';
import type { LinkRig } from '../../../support/stack/link-rig';

interface MessageFields {
  readonly flags?: number;
  readonly ciaddr?: string;
  readonly giaddr?: string;
  readonly magic?: string;
  readonly op?: number;
  readonly hlen?: number;
}

/** A client's message; options as hexadecimal text, END appended. */
function message(options: string, f: MessageFields = {}): Uint8Array {
  return bytes(
    [f.op ?? 1, 1, f.hlen ?? 6, 0],
    'de ad be ef 00 03',
    u16(f.flags ?? 0),
    ip(f.ciaddr ?? '0.0.0.0'),
    '00000000 00000000',
    ip(f.giaddr ?? '0.0.0.0'),
    GUEST_MAC,
    new Uint8Array(10 + 192),
    f.magic ?? '63 82 53 63',
    options,
    'ff',
  );
}

function ask(rig: LinkRig, payload: Uint8Array, src = '0.0.0.0', dst = '255.255.255.255'): Uint8Array[] {
  return rig.exchange(datagram(src, 68, dst, 67, payload));
}

interface Reply {
  readonly to: string;
  readonly port: number;
  readonly fixed: Uint8Array;
  /** [code, data in hexadecimal] in order. */
  readonly options: [number, string][];
  readonly option: Map<number, string>;
}

function parse(sent: Uint8Array[]): Reply {
  expect(sent).toHaveLength(1);
  const d = dissect(sent[0]);
  expect(d).toMatchObject({ dstMac: '525400123456', srcMac: '9a559a559a55', srcPort: 67, ttl: 255 });
  expect([...d.src]).toEqual([192, 0, 2, 1]);
  expect(d.payload.length).toBeGreaterThanOrEqual(300);
  expect(d.payload[0]).toBe(2);
  const options: [number, string][] = [];
  let i = 240;
  while (d.payload[i] !== 255) {
    expect(i + 2).toBeLessThan(d.payload.length);
    const end = i + 2 + d.payload[i + 1];
    options.push([d.payload[i], hex(d.payload.subarray(i + 2, end))]);
    i = end;
  }
  // Nothing but zeros after END.
  expect(d.payload.subarray(i + 1).every((b) => b === 0)).toBe(true);
  return { to: [...d.dst].join('.'), port: d.dstPort, fixed: d.payload, options, option: new Map(options) };
}

const yiaddr = (r: Reply): string => [...r.fixed.subarray(16, 20)].join('.');
const ciaddr = (r: Reply): string => [...r.fixed.subarray(12, 16)].join('.');

const ROUTES = '20c00002010000000000c0000201';
const ascii = (text: string): string => hex(Buffer.from(text));

const DISCOVER = '35 01 01';
const REQUEST = '35 01 03';
const OURS = '36 04 c0000201';
const WANT = '32 04 c000020a';

describe('DHCP', () => {
  test('DISCOVER gets an OFFER, byte for byte', () => {
    const rig = linkRig(
      { mtu: 1500, hostname: 'vm1', search: ['example.com'] },
      { dns: [ip('192.0.2.53'), ip('9.9.9.9')] },
    );
    const sent = ask(rig, message(DISCOVER));
    const d = dissect(sent[0]);
    expect([...d.dst]).toEqual([192, 0, 2, 10]);
    expect([d.srcPort, d.dstPort]).toEqual([67, 68]);
    const expected = bytes(
      '02 01 06 00 deadbeef 0000 0000 00000000 c000020a 00000000 00000000',
      GUEST_MAC,
      new Uint8Array(10 + 192),
      '63825363',
      '35 01 02',
      '01 04 ffffff00',
      '03 04 c0000201',
      '06 08 c0000235 09090909',
      '0c 03',
      Buffer.from('vm1'),
      '1a 02 05dc',
      '33 04 00000e10',
      '36 04 c0000201',
      '3a 04 00000708',
      '3b 04 00000c4e',
      '77 0d 07',
      Buffer.from('example'),
      '03',
      Buffer.from('com'),
      '00 ff',
    );
    expect(hex(d.payload)).toBe(hex(bytes(expected, new Uint8Array(Math.max(0, 300 - expected.length)))));
  });

  test('an OFFER has no address of the client, whatever the client says (RFC 2131 §4.3.1)', () => {
    const r = parse(ask(linkRig(), message(DISCOVER, { ciaddr: '192.0.2.77' })));
    expect([r.option.get(53), ciaddr(r), r.to]).toEqual(['02', '0.0.0.0', '192.0.2.10']);
  });

  test('the answer is broadcast if the client asks for it', () => {
    const r = parse(ask(linkRig(), message(DISCOVER, { flags: 0x8000 })));
    expect(r.to).toBe('255.255.255.255');
    expect(hex(r.fixed.subarray(10, 12))).toBe('8000');
  });

  test('options come in the order asked for, then the rest; the mask stays before the router', () => {
    const r = parse(ask(linkRig({ hostname: 'h' }), message(`${DISCOVER} 37 05 0c 33 03 35 f0`)));
    expect(r.options.map(([code]) => code)).toEqual([12, 51, 1, 3, 53, 26, 54, 58, 59]);
    const other = parse(ask(linkRig({ hostname: 'h' }), message(`${DISCOVER} 37 02 1a 0c`)));
    expect(other.options.map(([code]) => code)).toEqual([53, 26, 12, 1, 3, 51, 54, 58, 59]);
  });

  test.each<[string, Partial<StackConfig>, Partial<Ip4Config>, string, [number, string][]]>([
    [
      'the domain is the first of the search list (RFC 2132 §3.17)',
      {},
      {},
      '01 03 06 0f',
      [[15, ascii('example.com')]],
    ],
    ['its dot is cut off', { search: ['lab.example.com.', 'b.test'] }, {}, '0f', [[15, ascii('lab.example.com')]]],
    ['what is no name is passed over', { search: ['', 'a..b', 'b.test'] }, {}, '0f', [[15, ascii('b.test')]]],
    ['no search list, no domain', { search: [] }, {}, '0f', []],
    ['nor if it is switched off', { advertiseSearch: false }, {}, '0f', []],
    ['the broadcast address', {}, { prefixLen: 28 }, '1c', [[28, 'c000020f']]],
    ['which a link of two addresses has not (RFC 3021)', {}, { prefixLen: 31 }, '1c', [[121, ROUTES]]],
    ['no router discovery of RFC 1256', {}, {}, '1f', [[31, '00']]],
    [
      "routes by Microsoft's number",
      {},
      { prefixLen: 32 },
      'f9',
      [
        [249, ROUTES],
        [121, ROUTES],
      ],
    ],
    ['and by the right one alone if both are asked for', {}, { prefixLen: 32 }, 'f9 79', [[121, ROUTES]]],
    ['neither where the gateway is in the subnet', {}, {}, 'f9 79', []],
  ])('asked for, and only then: %s', (_, config, ip4, list, expected) => {
    const rig = linkRig({ search: ['example.com', 'lab.example.com'], ...config }, ip4);
    const options = `37 ${hex(Uint8Array.of(bytes(list).length))} ${list}`;
    const special = (r: Reply): [number, string][] =>
      r.options.filter(([code]) => [15, 28, 31, 121, 249].includes(code));
    expect(special(parse(ask(rig, message(`${DISCOVER} ${options}`))))).toEqual(expected);
    for (const [code] of expected.filter(([c]) => c !== 121)) {
      expect(parse(ask(rig, message(DISCOVER))).option.has(code)).toBe(false);
    }
  });

  test('what Windows, dhclient and systemd-networkd ask for comes in their order', () => {
    const rig = linkRig({ search: ['example.com'], hostname: 'h' }, { dns: [ip('9.9.9.9')], prefixLen: 25 });
    const windows = parse(ask(rig, message(`${DISCOVER} 37 0e 01 03 06 0f 1f 21 2b 2c 2e 2f 77 79 f9 fc`)));
    expect(windows.options.map(([code]) => code)).toEqual([53, 1, 3, 6, 15, 31, 119, 12, 26, 51, 54, 58, 59]);
    const dhclient = parse(ask(rig, message(`${DISCOVER} 37 0b 01 1c 02 03 0f 06 77 0c 2c 2f 1a`)));
    expect(dhclient.options.map(([code]) => code)).toEqual([53, 1, 28, 3, 15, 6, 119, 12, 26, 51, 54, 58, 59]);
  });

  describe('option overload (RFC 2131 §4.1)', () => {
    const fields = (options: string, sname: string, file: string): Uint8Array => {
      const m = message(options);
      m.set(bytes(sname), 44);
      m.set(bytes(file), 108);
      return m;
    };

    test.each([
      ['in file', fields('34 01 01', '', `${DISCOVER} ff`)],
      ['in sname', fields('34 01 02', `${DISCOVER} ff`, '')],
      ['in file, sname holds others', fields('34 01 03', '3d 02 0102 ff', `${DISCOVER} ff`)],
      ['in sname, file holds others', fields('34 01 03', `${DISCOVER} ff`, '3d 02 0102')],
      ['in file behind pads, without END', fields('00 34 01 01 00', '', `00 00 ${DISCOVER}`)],
      ['at the very end of file', fields('34 01 01', '', `${'00'.repeat(125)} ${DISCOVER}`)],
    ])('the message type is %s', (_, payload) => {
      const r = parse(ask(linkRig(), payload));
      expect([r.option.get(53), r.option.get(51), r.option.get(54)]).toEqual(['02', '00000e10', 'c0000201']);
    });

    test('file and sname are not looked at otherwise', () => {
      expect(parse(ask(linkRig(), fields('34 01 01', `${DISCOVER} ff`, ''))).option.has(53)).toBe(false);
      expect(parse(ask(linkRig(), fields('', `${DISCOVER} ff`, `${DISCOVER} ff`))).option.has(53)).toBe(false);
    });

    test('parts of an option are put together in the order options, file, sname (RFC 3396 §5)', () => {
      const payload = fields(`34 01 03 ${DISCOVER} 3d 02 0102 3d 01 03`, '3d 02 0607 ff', '3d 02 0405 37 01 1a ff');
      expect(parse(ask(linkRig(), payload)).option.get(61)).toBe('01020304050607');
    });

    test('of an option of one length the first counts', () => {
      expect(parse(ask(linkRig(), fields(`34 01 01 ${DISCOVER}`, '', '35 01 03 ff'))).option.get(53)).toBe('02');
    });

    test.each([
      ['an option past the end of file', fields(`34 01 01 ${DISCOVER}`, '', `${'00'.repeat(120)} 0c 07`)],
      ['an option past the end of sname', fields(`34 01 02 ${DISCOVER}`, `${'00'.repeat(60)} 0c 03`, '')],
      ['a code at the end of file', fields(`34 01 01 ${DISCOVER}`, '', `${'00'.repeat(127)} 0c`)],
      ['overload of 0', fields(`34 01 00 ${DISCOVER}`, '', '')],
      ['overload of 4', fields(`34 01 04 ${DISCOVER}`, '', '')],
      ['overload of two bytes', fields(`34 02 01 01 ${DISCOVER}`, '', '')],
      ['an identifier that no option holds', message(`${DISCOVER} 3d ff ${'01'.repeat(255)} 3d 01 02`)],
    ])('malformed, dropped and counted: %s', (_, payload) => {
      const rig = linkRig();
      expect(ask(rig, payload)).toEqual([]);
      expect(rig.drops('dhcp_malformed')).toBe(1);
    });
  });

  test('rapid commit gets an ACK', () => {
    const r = parse(ask(linkRig(), message(`${DISCOVER} 50 00`)));
    expect(r.option.get(53)).toBe('05');
    expect(r.option.get(80)).toBe('');
    expect(parse(ask(linkRig(), message(DISCOVER))).option.has(80)).toBe(false);
  });

  test.each([
    ['selecting', `${REQUEST} ${OURS} ${WANT}`, '0.0.0.0', '192.0.2.10'],
    ['after reboot', `${REQUEST} ${WANT}`, '0.0.0.0', '192.0.2.10'],
    ['renewing', REQUEST, '192.0.2.10', '192.0.2.10'],
    ['asking for nothing in particular', REQUEST, '0.0.0.0', '192.0.2.10'],
  ])('REQUEST for the assigned address gets an ACK: %s', (_, options, client, to) => {
    const rig = linkRig();
    rig.ctx.link.guest4 = 0x0a000001;
    const r = parse(ask(rig, message(options, { ciaddr: client }), client));
    expect([r.option.get(53), r.option.get(51), yiaddr(r), ciaddr(r), r.to]).toEqual([
      '05',
      '00000e10',
      '192.0.2.10',
      client,
      to,
    ]);
    expect(rig.ctx.link.guest4 >>> 0).toBe(0xc000020a);
  });

  test.each([
    ['after reboot', `${REQUEST} 32 04 0a000005`, '0.0.0.0'],
    ['renewing', REQUEST, '10.0.0.5'],
  ])('REQUEST for another address gets a NAK: %s', (_, options, client) => {
    const r = parse(ask(linkRig({ hostname: 'h' }), message(`${options} 3d 03 010203`, { ciaddr: client }), client));
    expect(r.options).toEqual([
      [53, '06'],
      [54, 'c0000201'],
      [61, '010203'],
    ]);
    expect([yiaddr(r), ciaddr(r), r.to, r.port]).toEqual(['0.0.0.0', '0.0.0.0', '255.255.255.255', 68]);
  });

  test.each([
    ['none', '', 3600],
    ['a shorter one', '33 04 00000258', 600],
    ['a longer one', '33 04 00015180', 3600],
    ['for ever', '33 04 ffffffff', 3600],
    ['next to none', '33 04 00000001', 10],
    ['none that can be read', '33 02 0258', 3600],
  ])('the lease is finite, and as short as the client wishes: %s (RFC 2131 §4.3.1)', (_, wish, seconds) => {
    for (const kind of [DISCOVER, `${REQUEST} ${WANT}`]) {
      const r = parse(ask(linkRig(), message(`${kind} ${wish}`)));
      const times = [51, 58, 59].map((code) => parseInt(r.option.get(code) ?? '', 16));
      expect(times).toEqual([seconds, seconds >> 1, Math.floor((seconds * 7) / 8)]);
    }
  });

  test('a renewal sent to the server of before is refused by that one: some clients hear no other', () => {
    const rig = linkRig({}, { guestAddr: ip('192.0.2.10'), leaseSec: 60 });
    const renewal = message(REQUEST, { ciaddr: '169.254.2.1' });
    const r = parse(ask(rig, renewal, '169.254.2.1', '169.254.2.2'));
    expect([r.option.get(53), r.option.get(54), r.to]).toEqual(['06', 'a9fe0202', '255.255.255.255']);
  });

  test('REQUEST that chose another server gets nothing', () => {
    expect(ask(linkRig(), message(`${REQUEST} 36 04 c0000209 ${WANT}`))).toEqual([]);
  });

  test('INFORM gets configuration without address or lease', () => {
    const r = parse(ask(linkRig(), message('35 01 08', { ciaddr: '192.0.2.77' }), '192.0.2.77'));
    expect([r.option.get(53), r.option.has(51), yiaddr(r), r.to]).toEqual(['05', false, '0.0.0.0', '192.0.2.77']);
    expect(r.option.get(3)).toBe('c0000201');
  });

  test('the client identifier is echoed (RFC 6842)', () => {
    expect(parse(ask(linkRig(), message(`${DISCOVER} 3d 07 01525400123456`))).option.get(61)).toBe('01525400123456');
  });

  test('a relay gets the answer at its own port', () => {
    const r = parse(ask(linkRig(), message(DISCOVER, { giaddr: '192.0.2.99' }), '192.0.2.99', '192.0.2.1'));
    expect([r.to, r.port]).toEqual(['192.0.2.99', 67]);
    const nak = parse(ask(linkRig(), message(`${REQUEST} 32 04 0a000005`, { giaddr: '192.0.2.99' })));
    expect(hex(nak.fixed.subarray(10, 12))).toBe('8000');
  });

  test('a gateway outside the subnet is made reachable by routes (RFC 3442)', () => {
    const r = parse(ask(linkRig({}, { prefixLen: 32 }), message(DISCOVER)));
    expect(r.option.get(1)).toBe('ffffffff');
    expect(r.option.get(121)).toBe('20c00002010000000000c0000201');
    expect(parse(ask(linkRig(), message(DISCOVER))).option.has(121)).toBe(false);
  });

  test('FQDN is encoded, search domains share endings', () => {
    const rig = linkRig({ fqdn: 'vm.example.com', search: ['example.com', 'lab.example.com'] });
    const r = parse(ask(rig, message(DISCOVER)));
    expect(r.option.get(81)).toBe(
      `04ffff02${hex(Buffer.from('vm'))}07${hex(Buffer.from('example'))}03${hex(Buffer.from('com'))}00`,
    );
    expect(r.option.get(119)).toBe(
      `07${hex(Buffer.from('example'))}03${hex(Buffer.from('com'))}0003${hex(Buffer.from('lab'))}c000`,
    );
  });

  test('nothing that is switched off is advertised', () => {
    const config = { mtu: 0, advertiseDns: false, advertiseSearch: false, search: ['x.test'] };
    const r = parse(ask(linkRig(config, { dns: [ip('9.9.9.9')] }), message(DISCOVER)));
    expect(r.options.map(([code]) => code)).toEqual([53, 1, 3, 51, 54, 58, 59]);
  });

  test('what does not fit is left out; more fits if the client takes more', () => {
    const config = { hostname: 'h'.repeat(250), search: ['s'.repeat(60) + '.' + 't'.repeat(60)] };
    const small = parse(ask(linkRig(config), message(DISCOVER)));
    expect(small.fixed.length).toBeLessThanOrEqual(548);
    expect(small.options.map(([code]) => code)).toEqual([53, 1, 3, 12, 26, 51, 54, 58, 59]);
    const large = parse(ask(linkRig(config), message(`${DISCOVER} 39 02 05dc`)));
    expect(large.options.map(([code]) => code)).toEqual([53, 1, 3, 12, 26, 51, 54, 58, 59, 119]);
  });

  test('essentials are kept whatever the client puts first', () => {
    const r = parse(
      ask(linkRig({ hostname: 'h'.repeat(250) }), message(`${DISCOVER} 3d ff ${'01'.repeat(255)} 37 01 0c`)),
    );
    expect(r.options.map(([code]) => code)).toEqual([53, 1, 3, 26, 51, 54, 58, 59, 61]);
  });

  test('BOOTP clients get no DHCP options', () => {
    const r = parse(ask(linkRig(), message('00 00')));
    expect(r.options.map(([code]) => code)).toEqual([1, 3, 26]);
    expect(yiaddr(r)).toBe('192.0.2.10');
  });

  test('an unknown cookie is echoed, with nothing behind it', () => {
    const sent = ask(linkRig(), message('01 02 03', { magic: '00 00 00 00' }));
    const d = dissect(sent[0]);
    expect(hex(d.payload.subarray(236))).toBe('00'.repeat(64));
  });

  test.each([
    ['DECLINE', '35 01 04'],
    ['RELEASE', '35 01 07'],
    ['OFFER from the guest', '35 01 02'],
    ['unknown type', '35 01 63'],
  ])('%s gets no answer', (_, options) => {
    const rig = linkRig();
    expect(ask(rig, message(options))).toEqual([]);
    expect(rig.udp.frames).toEqual([]);
  });

  test.each<[string, Uint8Array]>([
    ['a reply', message(DISCOVER, { op: 2 })],
    ['hardware address too long', message(DISCOVER, { hlen: 17 })],
    ['cut in the fixed part', message(DISCOVER).subarray(0, 239)],
    ['option past the end', message(`${DISCOVER} 0c 20`)],
    ['option without length', bytes(message(DISCOVER).subarray(0, 243), '0c')],
    ['type of two bytes', message('35 02 01 01')],
    ['requested address of three bytes', message(`${REQUEST} 32 03 c00002`)],
  ])('malformed, dropped and counted: %s', (_, payload) => {
    const rig = linkRig();
    expect(ask(rig, payload)).toEqual([]);
    expect(rig.drops('dhcp_malformed')).toBe(1);
  });

  test('a missing END is no fault', () => {
    const cut = message(DISCOVER);
    expect(parse(ask(linkRig(), cut.subarray(0, cut.length - 1))).option.get(53)).toBe('02');
  });

  test('a wrong checksum is', () => {
    const rig = linkRig();
    const frame = datagram('0.0.0.0', 68, '255.255.255.255', 67, message(DISCOVER));
    frame[40] ^= 1;
    expect(rig.exchange(frame)).toEqual([]);
    expect(rig.drops('udp_checksum')).toBe(1);
    frame[40] = 0;
    frame[41] = 0; // none computed
    expect(rig.exchange(frame)).toHaveLength(1);
  });

  test('so is a train of segments', () => {
    const rig = linkRig();
    rig.port.inject(datagram('0.0.0.0', 68, '255.255.255.255', 67, message(DISCOVER)), {
      gsoType: GSO_UDP_L4,
      gsoSize: 100,
      csumPartial: true,
    });
    rig.stack.fromGuest(1);
    expect(rig.port.sent()).toEqual([]);
    expect(rig.drops('udp_malformed')).toBe(1);
  });

  test('switched off, requests are swallowed', () => {
    const rig = linkRig({ dhcp: false });
    expect(ask(rig, message(DISCOVER))).toEqual([]);
    expect(rig.drops('protocol_disabled')).toBe(1);
    expect(rig.udp.frames).toEqual([]);
  });

  test('no receive buffer: nothing is sent, the drop is counted', () => {
    const rig = linkRig({}, {}, {}, { buffers: 0 });
    expect(ask(rig, message(DISCOVER))).toEqual([]);
    expect(rig.drops('no_receive_buffers')).toBe(1);
  });
});
