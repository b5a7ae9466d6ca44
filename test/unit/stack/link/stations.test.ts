/** More than one Ethernet and IP address behind the link: bridges, containers, VRRP in the guest. */
import { FragmentSender } from '../../../../src/stack/ip/fragment-sender';
import { outputHeadersTo } from '../../../../src/stack/ip/to-guest';
import {
  ASKS_BEFORE_GONE,
  ASK_MS,
  HOW_ARP,
  HOW_DHCP,
  HOW_FRAME,
  STALE_MS,
  STATIONS,
  StationTable,
} from '../../../../src/stack/link/stations';
import { ip, ipFields, text } from '../../../support/stack/addresses';
import {
  BROADCAST_MAC,
  OUR_MAC,
  bytes,
  datagram,
  dissect,
  ethernet,
  hex,
  icmpv6,
  linkRig,
  packet,
  type LinkRig,
} from '../../../support/stack/link-rig';

const MAC_A = '52 54 00 00 00 0a';
const MAC_B = '52 54 00 00 00 0b';
const A4 = '192.0.2.10';
const B4 = '192.0.2.20';
const A6 = '2001:db8::10';
const B6 = '2001:db8::20';
const TCP = bytes('04 00 00 50 00000001 00000000 50 02 ff ff 0000 0000');

const plain = (mac: string): string => mac.replace(/ /g, '');
const words = (address: string): number[] => {
  const view = new DataView(ip(address).buffer);
  return address.includes(':') ? [0, 4, 8, 12].map((at) => view.getInt32(at)) : [0, 0, 0xffff, view.getInt32(0)];
};

/** Ethernet destination of a frame to `to`, from a handler's hands. */
function goesTo(rig: LinkRig, to: string): string {
  const dv = new DataView(new ArrayBuffer(100));
  const v6 = to.includes(':');
  const from = words(v6 ? '2001:db8:9::9' : '9.9.9.9');
  outputHeadersTo(rig.ctx, dv, 0, ipFields(!v6, from, words(to), { protocol: 17 }), 8);
  return hex(new Uint8Array(dv.buffer, 0, 6));
}

const speaks = (rig: LinkRig, from: string, mac: string): void => {
  rig.exchange(packet(from, from.includes(':') ? '2001:db8:9::9' : '9.9.9.9', 6, TCP, { srcMac: mac }));
};

const arp = (op: number, mac: string, sender: string, target: string, srcMac = mac): Uint8Array =>
  ethernet(
    0x0806,
    bytes('0001 0800 06 04', [0, op], mac, ip(sender), '000000000000', ip(target)),
    srcMac,
    BROADCAST_MAC,
  );

const advertisement = (target: string, mac: string): Uint8Array =>
  bytes('88 00 0000 20000000', ip(target), '02 01', mac);

describe('each address of the guest is reached at its own Ethernet address', () => {
  test.each([
    ['IPv4', A4, B4],
    ['IPv6', A6, B6],
  ])('learnt from traffic: %s', (_, a, b) => {
    const rig = linkRig();
    speaks(rig, a, MAC_A);
    for (let i = 0; i < 3; i++) {
      speaks(rig, b, MAC_B);
      expect([goesTo(rig, a), goesTo(rig, b)]).toEqual([plain(MAC_A), plain(MAC_B)]);
    }
  });

  test('ARP: an announcement moves an address (VRRP), whatever Ethernet address the frame has', () => {
    const rig = linkRig();
    speaks(rig, A4, MAC_A);
    speaks(rig, B4, MAC_B);
    rig.exchange(arp(1, '00 00 5e 00 01 07', A4, A4, MAC_B));
    expect(goesTo(rig, A4)).toBe('00005e000107');
    rig.exchange(arp(2, MAC_A, A4, '192.0.2.1'));
    expect(goesTo(rig, A4)).toBe(plain(MAC_A));
  });

  test('neighbour advertisements, unsolicited ones too, and solicitations', () => {
    const rig = linkRig();
    speaks(rig, A6, MAC_A);
    speaks(rig, B6, MAC_B);
    rig.exchange(icmpv6('fe80::b', 'ff02::1', advertisement(A6, '00 00 5e 00 02 07'), { srcMac: MAC_B }));
    expect([goesTo(rig, A6), goesTo(rig, 'fe80::b')]).toEqual(['00005e000207', plain(MAC_B)]);
    rig.exchange(icmpv6(A6, 'ff02::1:ff00:99', bytes('87 00 0000 00000000', ip('2001:db8::99')), { srcMac: MAC_A }));
    expect(goesTo(rig, A6)).toBe(plain(MAC_A));
  });

  test('nobody learns groups, zeros or our own Ethernet address, nor that our address is theirs', () => {
    const rig = linkRig();
    speaks(rig, A4, MAC_A);
    speaks(rig, B4, MAC_B);
    for (const bad of ['01 00 5e 00 00 01', '00 00 00 00 00 00', OUR_MAC, BROADCAST_MAC]) {
      rig.exchange(arp(1, bad, A4, A4, MAC_B));
      speaks(rig, A4, bad);
      rig.exchange(icmpv6('fe80::b', 'ff02::1', advertisement(A6, bad), { srcMac: MAC_B }));
      expect(goesTo(rig, A4)).toBe(plain(MAC_A));
    }
    rig.exchange(arp(1, MAC_A, '192.0.2.1', A4, MAC_A));
    speaks(rig, B4, MAC_B);
    expect(goesTo(rig, '192.0.2.1')).toBe(plain(MAC_B));
  });

  test('fragments have the Ethernet addresses that whole datagrams have, both of them', () => {
    const rig = linkRig({ mtu: 1500 });
    speaks(rig, A4, MAC_A);
    speaks(rig, B4, MAC_B);
    const neighbour = words('192.0.2.77');
    rig.stack.setNeighbours(Int32Array.from([...neighbour, 0x0200, 0x77]));
    rig.port.sent();
    const sender = new FragmentSender(rig.ctx);
    expect(sender.reserve(true, 8, 3000, 1500, 4096)).toBeGreaterThan(0);
    sender.begin(ipFields(true, neighbour, words(A4), { protocol: 17 }));
    sender.finish(1);
    const frames = rig.port.sent();
    expect(frames).toHaveLength(3);
    for (const f of frames) {
      expect([hex(f.subarray(0, 6)), hex(f.subarray(6, 12))]).toEqual([plain(MAC_A), '020000000077']);
    }
  });

  test('groups: to the one that is there, or to all of several', () => {
    const rig = linkRig();
    speaks(rig, A4, MAC_A);
    const groups = ['ff02::1', '224.1.2.3', '239.129.2.3', '255.255.255.255'];
    expect(groups.map((g) => goesTo(rig, g))).toEqual(groups.map(() => plain(MAC_A)));
    speaks(rig, B4, MAC_B);
    expect(groups.map((g) => goesTo(rig, g))).toEqual(['333300000001', '01005e010203', '01005e010203', 'ffffffffffff']);
  });

  test('a reset forgets them', () => {
    const rig = linkRig();
    speaks(rig, A4, MAC_A);
    speaks(rig, B4, MAC_B);
    rig.stack.reset();
    speaks(rig, B4, MAC_B);
    expect(goesTo(rig, A4)).toBe(plain(MAC_B));
  });
});

describe('an address that is not heard of', () => {
  /** Frames sent in the turn's timers: who-has and neighbour solicitations. */
  function asked(rig: LinkRig): string[] {
    rig.stack.onTimer();
    return rig.port.sent().map((f) => {
      const d = dissect(f);
      return d.type === 0x0806 ? [...d.payload.subarray(24, 28)].join('.') : text(Int32Array.from(words6(d.payload)));
    });
  }
  const words6 = (ns: Uint8Array): number[] => {
    const view = new DataView(ns.buffer, ns.byteOffset);
    return [8, 12, 16, 20].map((at) => view.getInt32(at));
  };

  test.each([
    ['IPv4', '192.0.2.30', B4],
    ['IPv6', '2001:db8::30', B6],
  ])('is asked for once a second, and forgotten when that was in vain: %s', (_, a, b) => {
    const rig = linkRig();
    speaks(rig, a, MAC_A);
    speaks(rig, b, MAC_B);
    rig.clock.advance(STALE_MS);
    speaks(rig, b, MAC_B);
    expect([goesTo(rig, a), asked(rig)]).toEqual([plain(MAC_A), []]);
    for (let i = 0; i < ASKS_BEFORE_GONE; i++) {
      rig.clock.advance(ASK_MS);
      expect([goesTo(rig, a), goesTo(rig, a)]).toEqual([plain(MAC_A), plain(MAC_A)]);
      expect(asked(rig)).toEqual([a]);
      expect(asked(rig)).toEqual([]);
    }
    rig.clock.advance(ASK_MS);
    expect(goesTo(rig, a)).toBe(plain(MAC_B));
  });

  test('stays where it is if it answers', () => {
    const rig = linkRig();
    speaks(rig, A4, MAC_A);
    speaks(rig, B4, MAC_B);
    for (let i = 0; i < 3 * ASKS_BEFORE_GONE; i++) {
      rig.clock.advance(STALE_MS + 1);
      speaks(rig, B4, MAC_B);
      expect(goesTo(rig, A4)).toBe(plain(MAC_A));
      expect(asked(rig)).toEqual([A4]);
      rig.exchange(arp(2, MAC_A, A4, '192.0.2.1'));
      rig.port.sent();
    }
    expect(goesTo(rig, A4)).toBe(plain(MAC_A));
  });

  test('unknown: asked for, and reached where the guest spoke last; with one Ethernet address there is nothing to ask', () => {
    const rig = linkRig();
    speaks(rig, A4, MAC_A);
    expect([goesTo(rig, '192.0.2.30'), asked(rig)]).toEqual([plain(MAC_A), []]);
    speaks(rig, B4, MAC_B);
    expect([goesTo(rig, '192.0.2.30'), asked(rig)]).toEqual([plain(MAC_B), ['192.0.2.30']]);
    expect([goesTo(rig, '192.0.2.30'), asked(rig)]).toEqual([plain(MAC_B), []]);
    rig.exchange(arp(2, MAC_A, '192.0.2.30', '192.0.2.1'));
    expect(goesTo(rig, '192.0.2.30')).toBe(plain(MAC_A));
  });

  test('is not answered for while it is at another Ethernet address of the guest', () => {
    const rig = linkRig();
    speaks(rig, B4, MAC_B);
    expect(rig.exchange(arp(1, MAC_A, '192.0.2.30', B4))).toEqual([]);
    speaks(rig, B6, MAC_B);
    const solicit = icmpv6(A6, 'ff02::1:ff00:20', bytes('87 00 0000 00000000', ip('2001:db8::20')), { srcMac: MAC_A });
    expect(rig.exchange(solicit)).toEqual([]);
    // Gone from there, it may be the host's neighbour.
    rig.clock.advance(STALE_MS + 1);
    speaks(rig, '192.0.2.40', MAC_B); // forwards go there now
    for (let i = 0; i < ASKS_BEFORE_GONE; i++) {
      expect(rig.exchange(arp(1, MAC_A, '192.0.2.30', B4))).toEqual([]);
      expect(asked(rig)).toEqual([B4]);
      rig.clock.advance(ASK_MS);
    }
    expect(rig.exchange(arp(1, MAC_A, '192.0.2.30', B4))).toHaveLength(1);
  });
});

describe('the address that forwards go to', () => {
  const forwards4 = (rig: LinkRig): string => text(Int32Array.of(0, 0, 0xffff, rig.ctx.link.guest4));

  test('a static one, known from ARP alone', () => {
    const rig = linkRig();
    rig.exchange(arp(1, MAC_A, '192.0.2.50', '192.0.2.1'));
    expect(forwards4(rig)).toBe('192.0.2.50');
  });

  test('a static one, known from neighbour discovery alone', () => {
    const rig = linkRig();
    rig.exchange(icmpv6('fe80::a', 'ff02::1', advertisement('2001:db8::50', MAC_A), { srcMac: MAC_A }));
    expect([text(rig.ctx.link.guest6), text(rig.ctx.link.guest6LinkLocal)]).toEqual(['2001:db8::50', 'fe80::a']);
  });

  test.each(['0.0.0.0', '127.0.0.1', '224.0.0.1', '255.255.255.255', '192.0.2.1', '172.17.0.1'])(
    'not an ARP sender that is no address of the link: %s',
    (sender) => {
      const rig = linkRig();
      rig.exchange(arp(1, MAC_A, sender, '192.0.2.99'));
      expect(forwards4(rig)).toBe(A4);
    },
  );

  test('not what the guest uses with -a', () => {
    const rig = linkRig({}, { addrFixed: true });
    rig.exchange(arp(1, MAC_A, '192.0.2.50', '192.0.2.1'));
    expect(forwards4(rig)).toBe(A4);
  });

  test('of one host with several addresses of a prefix, the one that it used last: its services answer from there', () => {
    const rig = linkRig();
    speaks(rig, A6, MAC_A);
    speaks(rig, B6, MAC_A);
    expect(text(rig.ctx.link.guest6)).toBe(B6);
    speaks(rig, A6, MAC_A);
    speaks(rig, '2001:db8:7::7', MAC_A); // of a network behind it
    expect(text(rig.ctx.link.guest6)).toBe(A6);
  });

  test.each([
    ['IPv4', A4, B4],
    ['IPv6', A6, B6],
  ])('the one that was given to the guest, while it answers for it: %s', (_, a, b) => {
    const rig = linkRig();
    const forwards = (): string => (a === A4 ? forwards4(rig) : text(rig.ctx.link.guest6));
    speaks(rig, a, MAC_A);
    for (let i = 0; i < 60; i++) {
      rig.clock.advance(1000);
      speaks(rig, b, MAC_B);
      rig.stack.onTimer();
      const questions = rig.port.sent();
      expect(forwards()).toBe(a);
      if (questions.length > 0) speaks(rig, a, MAC_A);
    }
    for (let i = 0; i < 20; i++) {
      rig.clock.advance(1000);
      speaks(rig, b, MAC_B);
      rig.stack.onTimer();
    }
    expect(forwards()).toBe(b);
    speaks(rig, a, MAC_A);
    expect(forwards()).toBe(a);
  });
});

describe('the table', () => {
  test('has a bound: the one not heard of for longest makes room', () => {
    const table = new StationTable();
    table.several = true;
    const at = (n: number): Int32Array => Int32Array.of(0, 0, 0xffff, n);
    for (let n = 1; n <= STATIONS; n++) table.learn(at(n), 0, 1, n, n, HOW_FRAME);
    table.learn(at(1), 0, 1, 1, STATIONS + 1, HOW_FRAME);
    table.learn(at(9999), 0, 1, 9999, STATIONS + 2, HOW_FRAME);
    const found = (n: number): number => {
      table.lookup(at(n), 0, 0, 0, STATIONS + 2);
      return table.macLo;
    };
    expect([found(1), found(2), found(3), found(STATIONS), found(9999)]).toEqual([1, 0, 3, STATIONS, 9999]);
  });

  test('tells of an address when it is new, and when there is a lease of it; not of a renewal', () => {
    const table = new StationTable();
    const told: unknown[] = [];
    const address = Int32Array.of(0, 0, 0xffff, 1);
    const learn = (how: number, nowMs: number): void => {
      table.learn(address, 0, 0x5254, 7, nowMs, how);
    };
    learn(HOW_FRAME, 0); // nobody listens
    table.reset();
    table.onStation = (how, words, at, hi, lo) => told.push([how, words[at + 3], hi, lo]);
    learn(HOW_ARP, 1);
    learn(HOW_FRAME, 2);
    learn(HOW_DHCP, 3);
    learn(HOW_DHCP, 4);
    learn(HOW_ARP, 5);
    expect(told).toEqual([
      [HOW_ARP, 1, 0x5254, 7],
      [HOW_DHCP, 1, 0x5254, 7],
    ]);
    table.reset();
    learn(HOW_FRAME, 6);
    expect(told).toHaveLength(3);
  });

  test('holds what a plain map holds, whatever comes and goes', () => {
    const table = new StationTable();
    table.several = true;
    const model = new Map<number, number>();
    let seed = 1;
    for (let i = 0; i < 20_000; i++) {
      seed = (Math.imul(seed, 1103515245) + 12345) | 0;
      const n = (seed >>> 8) % 600;
      // As often as not all are forgotten that were learnt before the last 256.
      table.learn(Int32Array.of(n, 0, 0, n), 0, n, i, i, HOW_FRAME);
      model.delete(n);
      model.set(n, i);
      if (model.size > STATIONS) model.delete(model.keys().next().value!);
    }
    for (let n = 0; n < 600; n++) {
      table.lookup(Int32Array.of(n, 0, 0, n), 0, -1, -1, 20_000);
      expect(table.macLo).toBe(model.get(n) ?? -1);
    }
  });

  test('a flood of addresses and Ethernet addresses makes a few lines, and no memory', () => {
    const rig = linkRig();
    for (let i = 0; i < 3000; i++) {
      rig.clock.advance(100);
      const mac = `52 54 00 01 ${(i >> 8).toString(16).padStart(2, '0')} ${(i & 255).toString(16).padStart(2, '0')}`;
      rig.exchange(datagram(`198.51.${i >> 8}.${i & 255}`, 1, '9.9.9.9', 53, bytes('00'), { srcMac: mac }));
      rig.stack.onTimer();
    }
    expect(rig.logged).toHaveLength(8);
    expect(rig.logged[7]).toContain('further ones are not logged');
    expect(rig.port.sent().length).toBeLessThanOrEqual(3000 / 10 + 10);
  });
});
