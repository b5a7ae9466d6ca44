import {
  C_BYTES_FROM_GUEST_ICMP,
  C_BYTES_FROM_GUEST_OTHER,
  C_BYTES_FROM_GUEST_TCP,
  C_BYTES_FROM_GUEST_UDP,
  C_BYTES_TO_GUEST_OTHER,
  C_FRAMES_FROM_GUEST,
  C_FRAMES_TO_GUEST,
} from '../../../../src/stack/counters';
import type { DropName } from '../../../../src/stack/counters';
import {
  KEY_KIND_SHIFT,
  KEY_PING,
  KEY_TCP,
  KEY_TCP_LISTENER,
  KEY_UDP,
  KEY_UDP_LISTENER,
} from '../../../../src/stack/context';
import { ROWS_IN_COUNT } from '../../../../src/stack/scratch';
import { text } from '../../../support/stack/addresses';
import { GUEST_MAC, bytes, datagram, ethernet, icmpv6, linkRig, packet } from '../../../support/stack/link-rig';

const G4 = '192.0.2.10';
const G6 = '2001:db8::10';
const TCP = bytes('04 00 00 50 00000001 00000000 50 02 ff ff 0000 0000');
const ECHO = bytes('08 00 00 00 00 01 00 01');

describe('dispatch', () => {
  test('IPv4 and its transports', () => {
    const rig = linkRig();
    rig.exchange(packet(G4, '9.9.9.9', 6, TCP, { padding: 6, ttl: 61 }));
    rig.exchange(datagram(G4, 1024, '9.9.9.9', 53, bytes('01 02 03')));
    rig.exchange(packet(G4, '9.9.9.9', 1, ECHO));
    expect(rig.tcp.frames).toHaveLength(1);
    const [frame] = rig.tcp.frames;
    expect(frame).toMatchObject({
      frameLen: 60,
      row: 0,
      rowCount: 1,
      version: 4,
      l3Off: 14,
      protocol: 6,
      l4Off: 34,
      l4Len: 20, // padding trimmed
      ttl: 61,
      tos: 0,
    });
    expect([text(frame.addr, 0), text(frame.addr, 4)]).toEqual([G4, '9.9.9.9']);
    expect(rig.udp.frames.map((f) => [f.protocol, f.l4Len])).toEqual([[17, 11]]);
    expect(rig.icmp.frames.map((f) => [f.protocol, f.l4Len])).toEqual([[1, 8]]);
  });

  test('IPv6 and its transports, padding trimmed', () => {
    const rig = linkRig();
    rig.exchange(packet(G6, '2001:db8:9::9', 6, TCP, { padding: 5 }));
    rig.exchange(datagram(G6, 1024, '2001:db8:9::9', 53, bytes('01 02 03'), { padding: 2 }));
    rig.exchange(icmpv6(G6, '2001:db8:9::9', bytes('80 00 0000 0001 0001')));
    const [frame] = rig.tcp.frames;
    expect(frame).toMatchObject({ version: 6, l3Off: 14, l4Off: 54, l4Len: 20, protocol: 6, ttl: 64 });
    expect([text(frame.addr, 0), text(frame.addr, 4)]).toEqual([G6, '2001:db8:9::9']);
    expect(rig.udp.frames.map((f) => f.l4Len)).toEqual([11]);
    expect(rig.icmp.frames.map((f) => f.protocol)).toEqual([58]);
  });

  test('traffic class and TOS are handed on', () => {
    const rig = linkRig();
    const v6 = packet(G6, '2001:db8:9::9', 6, TCP);
    v6[14] = 0x6b;
    v6[15] = 0x80;
    rig.exchange(v6);
    const v4 = packet(G4, '9.9.9.9', 6, TCP);
    v4[15] = 0x2e;
    rig.exchange(v4);
    expect(rig.tcp.frames.map((f) => f.tos)).toEqual([0xb8, 0x2e]);
  });

  test('IPv4 options are skipped', () => {
    const rig = linkRig();
    const plain = packet(G4, '9.9.9.9', 6, TCP);
    const frame = bytes(plain.subarray(0, 34), '01 01 01 00', plain.subarray(34));
    frame[14] = 0x46;
    frame[17] += 4;
    rig.exchange(frame);
    expect(rig.tcp.frames.map((f) => [f.l4Off, f.l4Len])).toEqual([[38, 20]]);
  });

  test.each<[string, Uint8Array, number]>([
    ['hop-by-hop', bytes('06 00', '01 04 00000000'), 0],
    ['destination options of 16 bytes', bytes('06 01', '01 0c', new Uint8Array(12)), 60],
    ['routing', bytes('06 00 04 00 00000000'), 43],
    ['an atomic fragment', bytes('06 00 0000 12345678'), 44],
    ['three headers', bytes('3c 00 01 04 00000000', '2c 00 01 04 00000000', '06 00 0000 00000001'), 0],
  ])('IPv6 extension headers are skipped: %s', (_, extensions, next) => {
    const rig = linkRig();
    rig.exchange(packet(G6, '2001:db8:9::9', 6, TCP, { extensions, next }));
    expect(rig.tcp.frames.map((f) => [f.protocol, f.l4Off, f.l4Len])).toEqual([[6, 54 + extensions.length, 20]]);
  });

  test('headers beyond the first bytes copied are pulled', () => {
    const rig = linkRig();
    const extensions = bytes('06 0f', '01 7c', new Uint8Array(124));
    rig.exchange(packet(G6, '2001:db8:9::9', 6, TCP, { extensions, next: 60 }));
    expect(rig.tcp.frames.map((f) => f.l4Off)).toEqual([182]);
    expect(rig.port.headLen).toBe(182 + 20);
    const two = bytes('3c 07', '01 3c', new Uint8Array(60), '06 00 01 04 00000000');
    rig.exchange(packet(G6, '2001:db8:9::9', 6, TCP, { extensions: two, next: 60 }));
    expect(rig.tcp.frames.map((f) => f.l4Off)).toEqual([182, 126]);
  });

  test.each<[DropName, string, Uint8Array]>([
    ['vlan_tagged', '802.1Q', ethernet(0x8100, bytes('00 01 08 00', new Uint8Array(42)))],
    ['vlan_tagged', '802.1Q with a priority', ethernet(0x8100, bytes('e0 01 08 00', new Uint8Array(42)))],
    [
      'vlan_tagged',
      'a priority tag in front of a tag',
      ethernet(0x8100, bytes('e0 00 81 00 0000 0800', new Uint8Array(42))),
    ],
    ['vlan_tagged', '802.1ad in a priority tag', ethernet(0x8100, bytes('e0 00 88 a8 0000 0800', new Uint8Array(42)))],
    ['vlan_tagged', 'a tag that is cut', ethernet(0x8100, bytes('00 00'))],
    ['ethertype_unsupported', 'LLDP with a priority', ethernet(0x8100, bytes('e0 00 88 cc', new Uint8Array(42)))],
    ['vlan_tagged', '802.1ad', ethernet(0x88a8, new Uint8Array(46))],
    ['ethertype_unsupported', 'LLDP', ethernet(0x88cc, new Uint8Array(46))],
    ['ipv4_header', 'IPv4 version', packet(G4, '9.9.9.9', 6, TCP).fill(0x55, 14, 15)],
    ['ipv4_header', 'IHL below 5', packet(G4, '9.9.9.9', 6, TCP).fill(0x44, 14, 15)],
    ['ipv4_header', 'cut', packet(G4, '9.9.9.9', 6, TCP).subarray(0, 33)],
    ['ipv4_length', 'total length past the frame', packet(G4, '9.9.9.9', 6, TCP).subarray(0, 53)],
    [
      'ipv4_fragment',
      'fragment that is no multiple of 8 bytes, and not the last',
      packet(G4, '9.9.9.9', 6, TCP, { fragment: 0x2000 }),
    ],
    ['ipv4_fragment', 'fragment beyond the largest packet', packet(G4, '9.9.9.9', 6, TCP, { fragment: 0x1fff })],
    ['ipv6_header', 'cut', packet(G6, '2001:db8:9::9', 6, TCP).subarray(0, 53)],
    ['ipv6_length', 'payload length past the frame', packet(G6, '2001:db8:9::9', 6, TCP).subarray(0, 73)],
    [
      'ipv6_fragment',
      'fragment',
      packet(G6, '2001:db8:9::9', 17, new Uint8Array(0), { extensions: bytes('11 00 0009 12345678'), next: 44 }),
    ],
    [
      'ipv6_extension',
      'extension past the packet',
      packet(G6, '2001:db8:9::9', 6, TCP, { extensions: bytes('06 09 00 00 00000000'), next: 60 }),
    ],
    [
      'ipv6_extension',
      'hop-by-hop in second place',
      packet(G6, '2001:db8:9::9', 6, TCP, {
        extensions: bytes('00 00 01 04 00000000', '06 00 01 04 00000000'),
        next: 60,
      }),
    ],
    [
      'ipv6_extension',
      'too many',
      packet(G6, '2001:db8:9::9', 6, TCP, {
        extensions: new Uint8Array(80).fill(60, 0, 80).map((_, i) => (i % 8 === 0 ? 60 : 0)),
        next: 60,
      }),
    ],
    ['ipv6_extension', 'no next header', packet(G6, '2001:db8:9::9', 59, new Uint8Array(0))],
    [
      'head_too_short',
      'headers longer than we read',
      packet(G6, '2001:db8:9::9', 6, TCP, { extensions: bytes('06 ff', new Uint8Array(2046)), next: 60 }),
    ],
    ['ip_protocol_unsupported', 'IGMP', packet(G4, '224.0.0.22', 2, new Uint8Array(8))],
    ['ip_protocol_unsupported', 'ICMP over IPv6', packet(G6, '2001:db8:9::9', 1, ECHO)],
    ['ip_protocol_unsupported', 'ICMPv6 over IPv4', packet(G4, '9.9.9.9', 58, ECHO)],
    ['loopback_address', 'to 127/8', packet(G4, '127.9.9.9', 6, TCP)],
    ['loopback_address', 'from 127/8', packet('127.0.0.1', '9.9.9.9', 6, TCP)],
    ['loopback_address', 'to ::1', packet(G6, '::1', 6, TCP)],
    ['loopback_address', 'from ::1', packet('::1', '2001:db8:9::9', 6, TCP)],
    ['source_invalid', 'from multicast', packet('224.0.0.1', '9.9.9.9', 6, TCP)],
    ['source_invalid', 'from broadcast', packet('255.255.255.255', '9.9.9.9', 17, new Uint8Array(8))],
    ['source_invalid', 'from 0.0.0.0', packet('0.0.0.0', '9.9.9.9', 6, TCP)],
    ['source_invalid', 'datagram from 0.0.0.0', datagram('0.0.0.0', 1, '9.9.9.9', 53, bytes('00'))],
    ['source_invalid', 'from IPv6 multicast', packet('ff02::1', '2001:db8:9::9', 6, TCP)],
    ['source_invalid', 'from ::', packet('::', '2001:db8:9::9', 6, TCP)],
    ['source_invalid', 'from a v4-mapped address', packet('::ffff:0909:0909', '2001:db8:9::9', 6, TCP)],
    ['destination_invalid', 'to a v4-mapped loopback address', packet(G6, '::ffff:7f00:0001', 6, TCP)],
    ['destination_invalid', 'to 0.0.0.0', packet(G4, '0.0.0.0', 6, TCP)],
    ['destination_invalid', 'to ::', packet(G6, '::', 6, TCP)],
  ])('%s: %s', (name, _, frame) => {
    const rig = linkRig();
    expect(rig.exchange(frame)).toEqual([]);
    expect(rig.drops(name)).toBe(1);
    expect([rig.tcp.frames, rig.udp.frames, rig.icmp.frames]).toEqual([[], [], []]);
    expect(rig.ctx.counters[C_FRAMES_FROM_GUEST]).toBe(1);
  });

  test('a disabled family or protocol', () => {
    const no4 = linkRig({}, null);
    no4.exchange(packet(G4, '9.9.9.9', 6, TCP));
    expect(no4.drops('family_disabled')).toBe(1);
    const no6 = linkRig({}, {}, null);
    no6.exchange(packet(G6, '2001:db8:9::9', 6, TCP));
    expect(no6.drops('family_disabled')).toBe(1);
    const none = linkRig({ tcp: false, udp: false, icmp: false });
    none.exchange(packet(G4, '9.9.9.9', 6, TCP));
    none.exchange(datagram(G6, 1, '2001:db8:9::9', 53, bytes('00')));
    none.exchange(packet(G4, '9.9.9.9', 1, ECHO));
    expect(none.drops('protocol_disabled')).toBe(3);
    expect([none.tcp.frames, none.udp.frames, none.icmp.frames]).toEqual([[], [], []]);
  });

  test('frames and bytes are counted once, by protocol, dropped or not', () => {
    const rig = linkRig();
    const { counters } = rig.ctx;
    rig.exchange(packet(G4, '9.9.9.9', 6, TCP));
    rig.exchange(packet(G4, '127.0.0.1', 6, TCP));
    rig.exchange(datagram(G6, 1, '2001:db8:9::9', 53, bytes('00 00')));
    rig.exchange(packet(G4, '9.9.9.9', 1, ECHO));
    rig.exchange(ethernet(0x88cc, new Uint8Array(46)));
    expect(counters[C_BYTES_FROM_GUEST_TCP]).toBe(54 + 54);
    expect(counters[C_BYTES_FROM_GUEST_UDP]).toBe(64);
    expect(counters[C_BYTES_FROM_GUEST_ICMP]).toBe(42);
    expect(counters[C_BYTES_FROM_GUEST_OTHER]).toBe(60);
    expect(counters[C_FRAMES_FROM_GUEST]).toBe(5);
    rig.exchange(ethernet(0x0806, bytes('00 01 08 00 06 04 00 01', GUEST_MAC, 'c000020a 000000000000 c0000201')));
    expect(counters[C_BYTES_TO_GUEST_OTHER]).toBe(42);
    expect(counters[C_FRAMES_TO_GUEST]).toBe(1);
  });
});

describe('what is learnt', () => {
  test("the guest's Ethernet address, from the latest frame", () => {
    const rig = linkRig();
    const mac = (): string =>
      [rig.ctx.link.guestMacHi, rig.ctx.link.guestMacLo >>> 0].map((n) => n.toString(16)).join(' ');
    expect(mac()).toBe('ffff ffffffff');
    rig.exchange(packet(G4, '9.9.9.9', 6, TCP));
    expect(mac()).toBe('5254 123456');
    rig.exchange(packet(G4, '9.9.9.9', 6, TCP, { srcMac: '52 54 00 ff 00 01' }));
    expect(mac()).toBe('5254 ff0001');
    expect(rig.logged).toEqual([
      "info: guest's Ethernet address is 52:54:00:12:34:56",
      "info: guest's Ethernet address is 52:54:00:ff:00:01",
    ]);
    for (const bad of ['ff ff ff ff ff ff', '01 00 5e 00 00 01', '00 00 00 00 00 00', '9a 55 9a 55 9a 55']) {
      rig.exchange(packet(G4, '9.9.9.9', 6, TCP, { srcMac: bad }));
      expect(mac()).toBe('5254 ff0001');
    }
  });

  test('its addresses', () => {
    const rig = linkRig();
    const { link } = rig.ctx;
    const seen = (): string[] => [
      text(Int32Array.of(0, 0, 0xffff, link.guest4)),
      text(link.guest6),
      text(link.guest6LinkLocal),
    ];
    expect(seen()).toEqual(['192.0.2.10', '2001:db8::10', '::']);
    rig.exchange(packet('10.0.0.5', '9.9.9.9', 6, TCP));
    rig.exchange(packet('fe80::7', 'fe80::1', 6, TCP));
    expect(seen()).toEqual(['10.0.0.5', '2001:db8::10', 'fe80::7']);
    rig.exchange(packet('2001:db8::7', '2001:db8:9::9', 6, TCP));
    expect(seen()).toEqual(['10.0.0.5', '2001:db8::7', 'fe80::7']);
    // Sources that are nobody's address change nothing.
    for (const src of ['127.0.0.1', '0.0.0.0', '224.0.0.1']) rig.exchange(packet(src, '9.9.9.9', 6, TCP));
    for (const src of ['::1', '::', 'ff02::1', '::ffff:0102:0304']) rig.exchange(packet(src, '2001:db8:9::9', 6, TCP));
    expect(seen()).toEqual(['10.0.0.5', '2001:db8::7', 'fe80::7']);
    rig.stack.reset();
    expect(seen()).toEqual(['192.0.2.10', '2001:db8::10', '::']);
    expect(link.guestMacHi).toBe(0xffff);
    expect([rig.tcp.calls.at(-1), rig.udp.calls.at(-1), rig.icmp.calls.at(-1)]).toEqual(['reset', 'reset', 'reset']);
  });

  test('not its addresses, if they are fixed', () => {
    const rig = linkRig({}, { addrFixed: true }, { addrFixed: true });
    rig.exchange(packet('10.0.0.5', '9.9.9.9', 6, TCP));
    rig.exchange(packet('2001:db8::7', '2001:db8:9::9', 6, TCP));
    rig.exchange(packet('fe80::7', '2001:db8:9::9', 6, TCP));
    const { link } = rig.ctx;
    expect([link.guest4 >>> 0, text(link.guest6), text(link.guest6LinkLocal)]).toEqual([
      0xc000020a,
      '2001:db8::10',
      'fe80::7',
    ]);
  });
});

describe('turns', () => {
  test('the budget bounds a turn, and buffers go back after the handlers sent', () => {
    const rig = linkRig();
    rig.tcp.keep = 1;
    for (let i = 0; i < 5; i++) rig.port.inject(packet(G4, '9.9.9.9', 6, TCP));
    expect(rig.stack.fromGuest(3)).toBe(true);
    expect(rig.tcp.frames.map((f) => f.row)).toEqual([0, 1, 2]);
    expect([rig.port.pending, rig.port.held, rig.port.releases]).toEqual([2, 0, 1]);
    expect(rig.stack.fromGuest(3)).toBe(false);
    expect(rig.tcp.frames.map((f) => f.row)).toEqual([0, 1, 2, 0, 1]);
    expect(rig.tcp.calls).toEqual(['endOfBatch', 'endOfBatch']);
    expect([rig.udp.calls, rig.icmp.calls]).toEqual([rig.tcp.calls, rig.tcp.calls]);
  });

  test('rows of frames nobody keeps are used again', () => {
    const rig = linkRig();
    rig.tcp.keep = 3;
    rig.port.inject(packet(G4, '9.9.9.9', 6, TCP));
    rig.port.inject(ethernet(0x88cc, new Uint8Array(46)));
    rig.port.inject(datagram(G4, 1, '9.9.9.9', 53, bytes('00')));
    rig.port.inject(packet(G4, '9.9.9.9', 6, TCP));
    rig.stack.fromGuest(16);
    expect(rig.tcp.frames.map((f) => f.row)).toEqual([0, 3]);
    expect(rig.udp.frames.map((f) => f.row)).toEqual([3]);
  });

  test('a batch ends before the row table may overflow, and the turn goes on', () => {
    const rig = linkRig({}, {}, {}, { memorySize: 64 << 20 });
    rig.tcp.keep = 100;
    for (let i = 0; i < 30; i++) rig.port.inject(packet(G4, '9.9.9.9', 6, TCP));
    expect(rig.stack.fromGuest(64)).toBe(false);
    expect(rig.tcp.frames).toHaveLength(30);
    for (const f of rig.tcp.frames) expect(ROWS_IN_COUNT - f.row).toBeGreaterThanOrEqual(1024);
    expect(rig.tcp.frames.map((f) => f.row).filter((row) => row === 0)).toHaveLength(3);
    expect(rig.tcp.calls).toEqual(['endOfBatch', 'endOfBatch', 'endOfBatch']);
    expect(rig.port.releases).toBe(3);
  });

  test('socket events reach the handler of their kind', () => {
    const rig = linkRig();
    for (const kind of [KEY_TCP, KEY_TCP_LISTENER, KEY_UDP, KEY_UDP_LISTENER, KEY_PING, 63]) {
      rig.stack.onSocket((kind << KEY_KIND_SHIFT) | (kind * 1000), 7, 5);
    }
    expect(rig.tcp.calls).toEqual(['onSocket 1 1000 7 5', 'onSocket 2 2000 7 5']);
    expect(rig.udp.calls).toEqual(['onSocket 3 3000 7 5', 'onSocket 4 4000 7 5']);
    expect(rig.icmp.calls).toEqual(['onSocket 5 5000 7 5']);
  });

  test('timers, readiness and fairness are those of the handlers', () => {
    const rig = linkRig();
    expect([rig.stack.busy, rig.stack.nextDeadline()]).toEqual([false, Infinity]);
    rig.udp.busy = true;
    rig.icmp.deadline = 70;
    rig.tcp.deadline = 90;
    expect([rig.stack.busy, rig.stack.nextDeadline()]).toEqual([true, 70]);
    rig.stack.onTimer();
    rig.stack.onGuestReady();
    for (const h of [rig.tcp, rig.udp, rig.icmp]) expect(h.calls).toEqual(['onTimer', 'onGuestReady']);
  });

  test('handlers that have something to start are started', () => {
    const rig = linkRig();
    const started: string[] = [];
    Object.assign(rig.tcp, { start: () => started.push('tcp') });
    Object.assign(rig.icmp, { start: () => started.push('icmp') });
    rig.stack.start();
    expect(started).toEqual(['tcp', 'icmp']);
  });
});
