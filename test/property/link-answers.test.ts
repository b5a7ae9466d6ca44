/**
 * Whatever is asked of the services on the link, their answer is one that a strict client takes: the parsers in
 * support/stack/strict are written from the RFCs and share nothing with our encoders. Questions are made of what clients
 * send, with values at random, and then of that with bytes changed; the configurations have few and many options.
 *
 * A judge that refuses nothing proves nothing: the second half spoils good answers, and wants each refused.
 */
import * as fc from 'fast-check';
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
  u16,
  type Dissected,
  type LinkRig,
} from '../support/stack/link-rig';
import { strictDhcp } from '../support/stack/strict/dhcp';
import { strictDhcpv6 } from '../support/stack/strict/dhcpv6';
import { strictArp, strictNeighborAdvertisement, strictRouterAdvertisement } from '../support/stack/strict/ndp';

const SEARCH = ['example.com', 'lab.example.com', 'a.b.c.d.e.test', 'very-long-label-of-a-domain-name.test'];
const MANY = Array.from({ length: 40 }, (_, i) => `host-${String(i)}.a-rather-long-domain-name.example.org`);
const memory = { memorySize: 1 << 20 };
const dns6 = ['2001:db8::53', 'fe80::1', '2001:db8::54', '2001:db8::55'].map((a) => ip(a));
const dns4 = ['192.0.2.53', '9.9.9.9', '1.1.1.1', '8.8.8.8'].map((a) => ip(a));

const RIGS: readonly LinkRig[] = [
  linkRig({}, {}, {}, memory),
  linkRig(
    { hostname: 'guest', fqdn: 'guest.example.com', search: SEARCH, mtu: 1500 },
    { dns: dns4, gateway: ip('198.51.100.1'), prefixLen: 32 },
    { dns: dns6 },
    memory,
  ),
  linkRig(
    { hostname: 'g'.repeat(253), fqdn: `${'f'.repeat(63)}.${'o'.repeat(63)}.org`, search: MANY },
    { dns: dns4 },
    { dns: dns6 },
    memory,
  ),
  linkRig({ search: SEARCH, mtu: 1280, advertiseDns: false }, {}, { dns: dns6 }, memory),
  linkRig({ mtu: 0, advertiseSearch: false, search: SEARCH }, { dns: dns4, prefixLen: 1 }, { dns: dns6 }, memory),
  linkRig({ dhcpv6: false }, { gateway: null }, { guestAddr: null }, memory),
  ...Array.from({ length: 8 }, (_, i) => linkRig({ search: [`${'a'.repeat(i + 1)}.test`] }, {}, {}, memory)),
];

const LL = ip('fe80::5054:ff:fe12:3456');
const UNSPECIFIED = ip('::');
/** Number of a configuration. */
const rig = fc.nat(RIGS.length - 1);
const RUNS = { numRuns: 1500 };

/** `message` as it is, or with some bytes changed, or cut. */
const perhapsMangled = (message: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Uint8Array> =>
  fc
    .tuple(message, fc.nat(2), fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 5 }), fc.nat())
    .map(([original, how, edits, cut]) => {
      const copy = Uint8Array.from(original);
      if (how === 0 || copy.length === 0) return copy;
      for (const [at, value] of edits) copy[at % copy.length] = value;
      return how === 1 ? copy : copy.subarray(0, cut % (copy.length + 1));
    });

/** The one answer there may be, of a service that remembers no client: a mangled one would keep the address. */
function answerTo(one: number, frame: Uint8Array): Dissected | null {
  RIGS[one].stack.reset();
  const sent = RIGS[one].exchange(frame);
  expect(sent.length).toBeLessThanOrEqual(1);
  return sent.length === 0 ? null : dissect(sent[0]);
}

// ---- questions ------------------------------------------------------------------------------------------------------

const word = fc.constantFrom('00000000', 'c000020a', 'c0000201', '0a000001', 'ffffffff', 'e0000001');
const option = (code: number, data: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Uint8Array> =>
  data.map((d) => bytes([code, d.length], d));
const parameters = fc.uint8Array({ maxLength: 30 }).map((list) => list.map((b) => (b === 249 ? b : b % 130)));
const dhcpOption = fc.oneof(
  option(
    53,
    fc.constantFrom(1, 1, 3, 3, 3, 4, 7, 8, 9, 0).map((t) => bytes([t])),
  ),
  option(55, parameters),
  option(
    50,
    word.map((w) => bytes(w)),
  ),
  option(
    54,
    fc.constantFrom('c0000201', 'c0000201', '0a000001').map((w) => bytes(w)),
  ),
  option(
    57,
    fc.constantFrom(0, 300, 576, 577, 800, 1500, 65_535).map((n) => bytes(u16(n))),
  ),
  option(61, fc.uint8Array({ maxLength: 255 })),
  option(80, fc.constantFrom(bytes(''), bytes('01'))),
  option(12, fc.uint8Array({ maxLength: 20 })),
  option(81, fc.uint8Array({ maxLength: 20 })),
  fc.uint8Array({ maxLength: 10 }),
  fc.constant(bytes('00 00')),
  option(
    52,
    fc.constantFrom(1, 2, 3, 0).map((n) => bytes([n])),
  ),
);
/** `sname` and `file`: zeros as a rule, else what might be options. */
const field = (length: number): fc.Arbitrary<Uint8Array> =>
  fc
    .oneof(
      fc.constant(bytes('')),
      fc.array(dhcpOption, { maxLength: 3 }).map((list) => bytes(...list, 'ff')),
    )
    .map((data) => bytes(data.subarray(0, length), new Uint8Array(Math.max(0, length - data.length))));
const dhcp = fc
  .tuple(
    fc.uint8Array({ minLength: 4, maxLength: 4 }),
    fc.constantFrom('0000', '0000', '8000', 'ffff'),
    fc.tuple(word, word, word, word),
    fc.array(dhcpOption, { maxLength: 8 }),
    fc.constantFrom('ff', '', 'ff 00 00 00'),
    fc.constantFrom('63825363', '63825363', '63825363', '00000000'),
    fc.constantFrom('35 01 01', '35 01 03', '35 01 08', ''),
    fc.tuple(field(64), field(128)),
  )
  .map(([xid, flags, [ciaddr, yiaddr, siaddr, giaddr], options, end, magic, type, [sname, file]]) =>
    bytes(
      ...['01 01 06 03', xid, '0102', flags, ciaddr, yiaddr, siaddr, giaddr],
      ...[GUEST_MAC, new Uint8Array(10), sname, file, magic],
      ...[type, ...options, end],
    ),
  );

const option6 = (code: number, data: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Uint8Array> =>
  data.map((d) => bytes(u16(code), u16(d.length), d));
const address6 = fc.constantFrom(
  ...['2001:db8::10', '2001:db8::10', '2001:db8:9::1', 'ff02::1', '::'].map((a) => ip(a)),
);
const iaAddress = option6(
  5,
  fc.tuple(address6, fc.constantFrom('00000e10 00001c20', '00000000 00000000')).map(([a, t]) => bytes(a, t)),
);
const inner = fc
  .array(
    fc.oneof({ weight: 4, arbitrary: iaAddress }, { weight: 1, arbitrary: option6(13, fc.constant(bytes('0000'))) }),
    { maxLength: 3 },
  )
  .map((list) => bytes(...list));
const iaid = fc.constantFrom('00000001', '00000002', 'ffffffff');
const association = fc.oneof(
  option6(
    3,
    fc.tuple(iaid, inner).map(([id, rest]) => bytes(id, '00000000 00000000', rest)),
  ),
  option6(
    4,
    fc.tuple(iaid, inner).map(([id, rest]) => bytes(id, rest)),
  ),
  option6(
    25,
    iaid.map((id) => bytes(id, '00000000 00000000')),
  ),
);
const CLIENT = bytes('0001 000a 00030001', GUEST_MAC);
const SERVER = bytes('0002 000a 00030001', OUR_MAC);
const dhcpv6Option = fc.oneof(
  { weight: 6, arbitrary: association },
  { weight: 1, arbitrary: fc.constant(CLIENT) },
  { weight: 1, arbitrary: fc.constant(SERVER) },
  { weight: 1, arbitrary: option6(14, fc.constant(bytes(''))) },
  { weight: 1, arbitrary: option6(39, fc.constantFrom(bytes('01 01 61'), bytes('00'), bytes(''))) },
  { weight: 1, arbitrary: option6(6, fc.constant(bytes('0017 0018 0027'))) },
);
const dhcpv6 = fc
  .tuple(
    fc.constantFrom(1, 3, 4, 5, 6, 8, 9, 11, 2, 12),
    fc.uint8Array({ minLength: 3, maxLength: 3 }),
    fc.oneof(fc.constant(CLIENT), option6(1, fc.uint8Array({ minLength: 3, maxLength: 130 })), fc.constant(bytes(''))),
    fc.nat(9).map((n) => n === 0),
    fc.oneof(
      { weight: 8, arbitrary: fc.array(dhcpv6Option, { maxLength: 6 }) },
      { weight: 1, arbitrary: fc.array(association, { minLength: 40, maxLength: 60 }) },
    ),
  )
  .map(([type, xid, client, wrong, options]) => {
    const server = [3, 5, 8, 9].includes(type) !== wrong ? SERVER : bytes('');
    return bytes([type], xid, client, server, ...options);
  });

const target = fc.constantFrom(
  ...['2001:db8::99', 'fe80::1', 'fe80::77', '2001:db8::10', '2001:db8:5::5', 'ff02::1', '::', '::1'].map((a) => ip(a)),
);
const sourceOption = fc.constantFrom('', `01 01 ${GUEST_MAC}`, '0e 01 010203040506', '01 00 000000000000', '01 02');
const from6 = fc.constantFrom(...['fe80::5054:ff:fe12:3456', '2001:db8::10', '::'].map((a) => [a, ip(a)] as const));

describe('every answer is one that a strict client takes', () => {
  let answered = 0;
  afterEach(() => {
    // Many questions are answered: an arbitrary that makes nonsense only would prove nothing.
    expect(answered).toBeGreaterThan(80);
    answered = 0;
  });

  test('DHCP', () => {
    fc.assert(
      fc.property(rig, perhapsMangled(dhcp), fc.boolean(), (one, request, unicast) => {
        const [from, to] = unicast ? ['192.0.2.10', '192.0.2.1'] : ['0.0.0.0', '255.255.255.255'];
        const answer = answerTo(one, datagram(from, 68, to, 67, request));
        if (answer === null) return;
        answered++;
        strictDhcp(answer, request);
      }),
      RUNS,
    );
  });

  test('DHCPv6', () => {
    fc.assert(
      fc.property(rig, perhapsMangled(dhcpv6), (one, request) => {
        const answer = answerTo(one, datagram('fe80::5054:ff:fe12:3456', 546, 'ff02::1:2', 547, request));
        if (answer === null) return;
        answered++;
        strictDhcpv6(answer, request, LL);
      }),
      RUNS,
    );
  });

  test('neighbour solicitations', () => {
    const solicitation = fc.tuple(target, sourceOption).map(([t, o]) => bytes('87 00 0000 00000000', t, o));
    fc.assert(
      fc.property(
        rig,
        perhapsMangled(solicitation),
        from6,
        fc.constantFrom(255, 255, 255, 254),
        (one, m, [text, from], ttl) => {
          if (m.length < 4) return;
          const answer = answerTo(one, icmpv6(text, 'ff02::1:ff00:99', m, { ttl }));
          if (answer === null || m[0] !== 135) return;
          answered++;
          expect(ttl).toBe(255);
          strictNeighborAdvertisement(answer, m.subarray(8, 24), from);
        },
      ),
      RUNS,
    );
  });

  test('router solicitations', () => {
    const solicitation = sourceOption.map((o) => bytes('85 00 0000 00000000', o));
    fc.assert(
      fc.property(
        rig,
        perhapsMangled(solicitation),
        from6,
        fc.constantFrom(255, 255, 255, 254),
        (one, m, [text, from], ttl) => {
          if (m.length < 4) return;
          const answer = answerTo(one, icmpv6(text, 'ff02::2', m, { ttl }));
          if (answer === null || m[0] !== 133) return;
          answered++;
          expect(ttl).toBe(255);
          strictRouterAdvertisement(answer, from);
        },
      ),
      RUNS,
    );
  });

  test('ARP', () => {
    const request = fc
      .tuple(word, word, fc.constantFrom('0001', '0001', '0001', '0002'))
      .map(([s, t, op]) => bytes('0001 0800 06 04', op, GUEST_MAC, s, '000000000000', t));
    fc.assert(
      fc.property(rig, perhapsMangled(request), (one, m) => {
        const answer = answerTo(one, ethernet(0x0806, m));
        if (answer === null) return;
        answered++;
        strictArp(answer, m);
      }),
      RUNS,
    );
  });
});

// ---- the judge ------------------------------------------------------------------------------------------------------

/** The answer with bytes of its payload replaced. */
function spoil(answer: Dissected, at: number, hex: string): Dissected {
  const payload = Uint8Array.from(answer.payload);
  payload.set(bytes(hex), at);
  return { ...answer, payload };
}

function must(answer: Dissected | null): Dissected {
  if (answer === null) throw new Error('no answer');
  return answer;
}

describe('a strict client refuses', () => {
  const full = 1;

  test.each([
    ['another transaction', 4, '00'],
    ['hops', 3, '01'],
    ['a boot server', 20, '01'],
    ['another hardware address', 28, '00'],
    ['a file name', 108, '61'],
    ['another cookie', 236, '00'],
    ['no address', 16, '00000000'],
    ['an unknown option', 240, '02'],
    ['an option too long', 241, 'ff'],
    ['a second END', 298, 'ff'],
  ])('a DHCP answer with %s', (_what, at, hex) => {
    const request = bytes(
      ...['01 01 06 00 deadbeef 0000 0000 00000000 00000000 00000000 00000000', GUEST_MAC, new Uint8Array(202)],
      '63825363 35 01 01 ff',
    );
    const answer = must(answerTo(0, datagram('0.0.0.0', 68, '255.255.255.255', 67, request)));
    strictDhcp(answer, request);
    expect(() => {
      strictDhcp(spoil(answer, at, hex), request);
    }).toThrow(/refused/);
  });

  test('DHCP options in another order than asked, and one twice', () => {
    const base = bytes(
      ...['01 01 06 00 deadbeef 0000 0000 00000000 00000000 00000000 00000000', GUEST_MAC, new Uint8Array(202)],
      '63825363 35 01 01',
    );
    const ask = (list: string): Uint8Array => bytes(base, '37 03', list, 'ff');
    const answer = must(answerTo(full, datagram('0.0.0.0', 68, '255.255.255.255', 67, ask('06 1a 0c'))));
    strictDhcp(answer, ask('06 1a 0c'));
    for (const other of ['1a 06 0c', '0c 1a 06']) {
      expect(() => {
        strictDhcp(answer, ask(other));
      }).toThrow(/order/);
    }
    const at = Buffer.from(answer.payload).indexOf(Buffer.from([26, 2]));
    expect(() => {
      strictDhcp(spoil(answer, at, '06'), ask('06 1a 0c'));
    }).toThrow(/refused/);
  });

  test('a DHCPv6 answer with anything changed that has a meaning', () => {
    const request = bytes(
      '01 abcdef',
      CLIENT,
      '0003 0028 00000001 00000000 00000000 0005 0018',
      ip('2001:db8::10'),
      '00000e10 00000e10',
    );
    const answer = must(answerTo(full, datagram('fe80::5054:ff:fe12:3456', 546, 'ff02::1:2', 547, request)));
    strictDhcpv6(answer, request, LL);
    const ia = Buffer.from(answer.payload).indexOf(Buffer.from('00030028', 'hex'));
    const fqdn = Buffer.from(answer.payload).indexOf(Buffer.from('0027', 'hex'));
    const search = Buffer.from(answer.payload).indexOf(Buffer.from('0018', 'hex'), ia + 60);
    for (const [at, hex] of [
      [0, '07'],
      [1, '00'],
      [5, '09'],
      [7, 'ff'],
      [ia + 3, '27'],
      [ia + 4, '77'],
      [ia + 8, 'ffffffff 00000000'],
      [ia + 19, '17'],
      [ia + 36, 'ffffffff 00000000'],
      [fqdn + 4, '05'],
      [search + 4, 'c0'],
    ] as const) {
      expect(() => {
        strictDhcpv6(spoil(answer, at, hex), request, LL);
      }).toThrow(/refused/);
    }
  });

  test('advertisements with anything changed that has a meaning', () => {
    const ra = must(answerTo(full, icmpv6('fe80::5054:ff:fe12:3456', 'ff02::2', bytes('85 00 0000 00000000'))));
    strictRouterAdvertisement(ra, LL);
    for (const [at, hex] of [
      [1, '01'],
      [5, 'a0'],
      [16, '04'],
      [17, '00'],
      [18, '41'],
      [19, 'c1'],
      [47, '01'],
      [ra.payload.length - 1, '01'],
    ] as const) {
      expect(() => {
        strictRouterAdvertisement(spoil(ra, at, hex), LL);
      }).toThrow(/refused/);
    }
    expect(() => {
      strictRouterAdvertisement({ ...ra, ttl: 64 }, LL);
    }).toThrow(/hop limit/);
    const padded = { ...ra, payload: bytes(ra.payload, new Uint8Array(8)) };
    expect(() => {
      strictRouterAdvertisement(padded, LL);
    }).toThrow(/length of an option/);

    const na = must(
      answerTo(
        full,
        icmpv6('fe80::5054:ff:fe12:3456', 'ff02::1:ff00:99', bytes('87 00 0000 00000000', ip('2001:db8::99'))),
      ),
    );
    strictNeighborAdvertisement(na, ip('2001:db8::99'), LL);
    for (const [at, hex] of [
      [4, '80'],
      [5, '01'],
      [23, '98'],
      [24, '01'],
      [25, '02'],
      [26, '01'],
    ] as const) {
      expect(() => {
        strictNeighborAdvertisement(spoil(na, at, hex), ip('2001:db8::99'), LL);
      }).toThrow(/refused/);
    }
    expect(() => {
      strictNeighborAdvertisement(na, ip('2001:db8::99'), UNSPECIFIED);
    }).toThrow(/address/);
  });
});
