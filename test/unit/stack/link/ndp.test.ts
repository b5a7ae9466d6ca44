import { PATIENCE_MS } from '../../../../src/stack/link/first-use';
import { ip, text } from '../../../support/stack/addresses';
import type { LinkRig } from '../../../support/stack/link-rig';
import { GUEST_MAC, OUR_MAC, bytes, dissect, hex, icmpv6, linkRig } from '../../../support/stack/link-rig';

const GUEST_LL = 'fe80::5054:ff:fe12:3456';
const ROUTER = 'fe80::1';

const ns = (target: string, options = bytes('01 01', GUEST_MAC)): Uint8Array =>
  bytes('87 00 00 00 00 00 00 00', ip(target), options);
const RS = bytes('85 00 00 00 00 00 00 00');

/** Options of the (only) router advertisement sent. */
function ra(sent: Uint8Array[]): { fixed: string; options: string[]; dst: Uint8Array } {
  expect(sent).toHaveLength(1);
  const d = dissect(sent[0]);
  const options: string[] = [];
  let at = 16;
  while (at < d.payload.length) {
    const length = d.payload[at + 1] * 8;
    expect(length).toBeGreaterThan(0);
    expect(at + length).toBeLessThanOrEqual(d.payload.length);
    options.push(hex(d.payload.subarray(at, at + length)));
    at += length;
  }
  return { fixed: hex(bytes(d.payload.subarray(0, 2), d.payload.subarray(4, 16))), options, dst: d.dst };
}

/** The one look at a guest that has no address is over: what is due then is the advertisement. */
function afterFirstUse(rig: LinkRig): void {
  rig.clock.advance(PATIENCE_MS);
  rig.stack.onTimer();
}

describe('neighbour solicitation', () => {
  test('is answered for any address, byte for byte', () => {
    const rig = linkRig();
    const [frame, ...rest] = rig.exchange(icmpv6(GUEST_LL, 'ff02::1:ff00:99', ns('2001:db8:1::99')));
    expect(rest).toEqual([]);
    const d = dissect(frame);
    expect(d).toMatchObject({ dstMac: '525400123456', srcMac: '9a559a559a55', type: 0x86dd, ttl: 255, protocol: 58 });
    expect(hex(d.src)).toBe(hex(ip(ROUTER)));
    expect(hex(d.dst)).toBe(hex(ip(GUEST_LL)));
    const expected = bytes('88 00', d.payload.subarray(2, 4), 'e0 00 00 00', ip('2001:db8:1::99'), '02 01', OUR_MAC);
    expect(hex(d.payload)).toBe(hex(expected));
  });

  test.each([
    ['duplicate address detection', '::', '2001:db8::77'],
    ['the assigned address', GUEST_LL, '2001:db8::10'],
    ['its own link-local address', GUEST_LL, GUEST_LL],
  ])('no answer: %s', (_, src, target) => {
    const rig = linkRig();
    expect(rig.exchange(icmpv6(src, 'ff02::1:ff00:1', ns(target, bytes(''))))).toEqual([]);
    expect(rig.drops('ndp_malformed')).toBe(0);
  });

  test('for duplicate address detection tells which address the guest has', () => {
    const rig = linkRig();
    const { link } = rig.ctx;
    rig.exchange(icmpv6('::', 'ff02::1:ff12:3456', ns(GUEST_LL, bytes(''))));
    expect([text(link.guest6), text(link.guest6LinkLocal)]).toEqual(['2001:db8::10', GUEST_LL]);
    rig.exchange(icmpv6('::', 'ff02::1:ff00:77', ns('2001:db8::77', bytes(''))));
    expect([text(link.guest6), text(link.guest6LinkLocal)]).toEqual(['2001:db8::77', GUEST_LL]);
    // Who asks with a source asks for another's.
    rig.exchange(icmpv6(GUEST_LL, 'ff02::1:ff00:99', ns('2001:db8::99')));
    expect(text(link.guest6)).toBe('2001:db8::77');
  });

  test.each<[string, Uint8Array]>([
    ['hop limit not 255', icmpv6(GUEST_LL, ROUTER, ns(ROUTER), { ttl: 254 })],
    ['code not 0', icmpv6(GUEST_LL, ROUTER, bytes('87 01', ns(ROUTER).subarray(2)))],
    ['short', icmpv6(GUEST_LL, ROUTER, ns(ROUTER).subarray(0, 20))],
    ['option of length 0', icmpv6(GUEST_LL, ROUTER, ns(ROUTER, bytes('01 00', GUEST_MAC)))],
    ['option past the end', icmpv6(GUEST_LL, ROUTER, ns(ROUTER, bytes('01 02', GUEST_MAC)))],
    ['multicast target', icmpv6(GUEST_LL, ROUTER, ns('ff02::1'))],
  ])('dropped and counted: %s', (_, frame) => {
    const rig = linkRig();
    expect(rig.exchange(frame)).toEqual([]);
    expect(rig.drops('ndp_malformed')).toBe(1);
  });

  test('dropped with a wrong checksum, unless the guest left it to us', () => {
    const frame = icmpv6(GUEST_LL, ROUTER, ns(ROUTER));
    frame[56] ^= 0x40;
    const rig = linkRig();
    expect(rig.exchange(frame)).toEqual([]);
    expect(rig.drops('ndp_malformed')).toBe(1);
    rig.port.inject(frame, { csumPartial: true });
    rig.stack.fromGuest(1);
    expect(rig.port.sent()).toHaveLength(1);
  });

  test('with ND off, solicitations are swallowed and go to no handler', () => {
    const rig = linkRig({ ndp: false });
    expect(rig.exchange(icmpv6(GUEST_LL, ROUTER, ns(ROUTER)))).toEqual([]);
    expect(rig.drops('protocol_disabled')).toBe(1);
    expect(rig.icmp.frames).toEqual([]);
  });
});

describe('router advertisement', () => {
  const PREFIX = '030440c000001c2000000e100000000020010db8000000000000000000000000';
  const SOURCE = `0101${hex(bytes(OUR_MAC))}`;
  const MTU = '050100000000fff0';

  test('answers a solicitation, to its sender', () => {
    const rig = linkRig();
    const { fixed, options, dst } = ra(rig.exchange(icmpv6(GUEST_LL, 'ff02::2', RS)));
    expect(hex(dst)).toBe(hex(ip(GUEST_LL)));
    // type, code; hop limit 255, managed, lifetime 3600; reachable and retransmission timer unspecified
    expect(fixed).toBe('8600ff800e100000000000000000');
    expect(options).toEqual([PREFIX, SOURCE, MTU]);
  });

  test('goes to all nodes if the solicitation has no source', () => {
    const { dst } = ra(linkRig().exchange(icmpv6('::', 'ff02::2', RS)));
    expect(hex(dst)).toBe(hex(ip('ff02::1')));
  });

  test('a solicitation from :: with a source link-layer option is dropped', () => {
    const rig = linkRig();
    expect(rig.exchange(icmpv6('::', 'ff02::2', bytes(RS, '01 01', GUEST_MAC)))).toEqual([]);
    expect(rig.drops('ndp_malformed')).toBe(1);
  });

  test('carries resolvers and search list', () => {
    const rig = linkRig({ search: ['example.com', 'a.test'] }, {}, { dns: [ip('2001:db8::53'), ip('fe80::1')] });
    const { options } = ra(rig.exchange(icmpv6(GUEST_LL, 'ff02::2', RS)));
    expect(options.slice(3)).toEqual([
      hex(bytes('19 05 00 00 00 00 0e 10', ip('2001:db8::53'), ip('fe80::1'))),
      // 8 + 13 + 8 = 29 bytes, padded to 32
      hex(
        bytes(
          '1f 04 00 00 00 00 0e 10 07',
          Buffer.from('example'),
          '03',
          Buffer.from('com'),
          '00 01 61 04',
          Buffer.from('test'),
          '00 00 00 00',
        ),
      ),
    ]);
  });

  test('a search list that ends on 8 bytes is not padded, and needs no resolvers', () => {
    // 1 + 5 + 1 + 8 + 1 = 16 bytes of name
    const rig = linkRig({ search: ['abcde.exampleq'] });
    const { options } = ra(rig.exchange(icmpv6(GUEST_LL, 'ff02::2', RS)));
    expect(options.slice(3)).toEqual([
      hex(bytes('1f 03 00 00 00 00 0e 10 05', Buffer.from('abcde'), '08', Buffer.from('exampleq'), '00')),
    ]);
  });

  test('leaves out what is not to be advertised', () => {
    const rig = linkRig(
      { mtu: 0, dhcpv6: false, advertiseDns: false, advertiseSearch: false, search: ['example.com'] },
      {},
      { dns: [ip('2001:db8::53')] },
    );
    const { fixed, options } = ra(rig.exchange(icmpv6(GUEST_LL, 'ff02::2', RS)));
    expect(fixed).toBe('8600ff000e100000000000000000');
    expect(options).toEqual([PREFIX, SOURCE]);
  });

  test('has no prefix without an assigned address', () => {
    const { fixed, options } = ra(linkRig({}, {}, { guestAddr: null }).exchange(icmpv6(GUEST_LL, 'ff02::2', RS)));
    expect(fixed.slice(6, 8)).toBe('00');
    expect(options).toEqual([SOURCE, MTU]);
  });

  test('stays within the MTU however long the search list', () => {
    const search = Array.from({ length: 6 }, (_, i) => `${'x'.repeat(60)}.`.repeat(4) + `n${String(i)}`);
    const sent = linkRig({ search, mtu: 1280 }).exchange(icmpv6(GUEST_LL, 'ff02::2', RS));
    expect(sent[0].length).toBeLessThanOrEqual(1294);
    const { options } = ra(sent);
    expect(options[3].slice(0, 2)).toBe('1f');
    expect(options[3].length / 2).toBeGreaterThan(700);
  });

  test('is not sent with RA off', () => {
    const rig = linkRig({ ra: false });
    expect(rig.exchange(icmpv6(GUEST_LL, 'ff02::2', RS))).toEqual([]);
    rig.stack.onLinkUp();
    afterFirstUse(rig);
    expect(rig.stack.nextDeadline()).toBe(Infinity);
  });
});

describe('link up and after', () => {
  const messages = (rig: LinkRig): string[] =>
    rig.port.sent().map((f) => {
      const d = dissect(f);
      const w = new Int32Array(4);
      const view = new DataView(d.dst.buffer, d.dst.byteOffset, d.dst.byteLength);
      if (d.type === 0x0806) return 'arp';
      for (let i = 0; i < 4; i++) w[i] = view.getInt32(4 * i);
      return `${String(d.payload[0])} to ${text(w)}`;
    });

  test('asks for the guest and advertises', () => {
    const rig = linkRig();
    rig.stack.onLinkUp();
    expect(messages(rig)).toEqual(['arp', '135 to ff02::1:ff00:10', '134 to ff02::1']);
  });

  test('the solicitation is complete', () => {
    const rig = linkRig();
    rig.stack.onLinkUp();
    const d = dissect(rig.port.sent()[1]);
    expect(d).toMatchObject({ dstMac: 'ffffffffffff', srcMac: '9a559a559a55', ttl: 255 });
    expect(hex(d.payload)).toBe(
      hex(bytes('87 00', d.payload.subarray(2, 4), '00 00 00 00', ip('2001:db8::10'), '01 01', OUR_MAC)),
    );
  });

  test('what finds no receive buffer is sent when there are some, once', () => {
    const rig = linkRig({}, {}, {}, { buffers: 1 });
    rig.stack.onLinkUp();
    expect(messages(rig)).toEqual(['arp']);
    // What is kept for later was not dropped.
    expect([rig.drops('no_receive_buffers'), rig.drops('guest_down')]).toEqual([0, 0]);
    rig.port.post(8);
    rig.stack.onGuestReady();
    expect(messages(rig)).toEqual(['135 to ff02::1:ff00:10', '134 to ff02::1']);
    rig.stack.onGuestReady();
    expect(messages(rig)).toEqual([]);
  });

  test('what is not tried again is a drop', () => {
    const rig = linkRig({}, {}, {}, { buffers: 3 });
    rig.stack.onLinkUp();
    expect(messages(rig)).toHaveLength(3);
    rig.exchange(icmpv6(GUEST_LL, 'ff02::2', RS));
    rig.exchange(icmpv6('::', 'ff02::2', RS));
    rig.clock.advance(600_000);
    rig.stack.onTimer();
    expect(rig.drops('no_receive_buffers')).toBe(3);
  });

  test('advertisements are repeated at random intervals of 200 to 599 s', () => {
    const rig = linkRig();
    rig.random.push(7, -1);
    rig.stack.onLinkUp();
    rig.port.sent();
    const t0 = rig.clock.nowMs;
    afterFirstUse(rig);
    expect(rig.stack.nextDeadline()).toBe(t0 + 207_000);
    rig.clock.advance(206_999 - PATIENCE_MS);
    rig.stack.onTimer();
    expect(messages(rig)).toEqual([]);
    rig.clock.advance(1);
    rig.stack.onTimer();
    expect(messages(rig)).toEqual(['134 to ff02::1']);
    expect(rig.stack.nextDeadline()).toBe(t0 + 207_000 + 200_000 + (0xffffffff % 400) * 1000);
  });

  test('nothing is sent, and no timer kept, while the guest is away', () => {
    const rig = linkRig();
    rig.stack.onLinkUp();
    rig.port.sent();
    rig.port.up = false;
    rig.clock.advance(600_000);
    rig.stack.onTimer();
    expect(messages(rig)).toEqual([]);
    expect(rig.stack.nextDeadline()).toBe(Infinity);
  });
});
