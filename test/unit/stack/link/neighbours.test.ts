import * as fc from 'fast-check';
import { MAX_NEIGHBOURS, NEIGHBOUR_WORDS, NeighbourTable } from '../../../../src/stack/link/neighbours';
import { outputHeadersTo } from '../../../../src/stack/ip/to-guest';
import { macText } from '../../../../src/stack/wire/ethernet';
import { ip, ipFields, words } from '../../../support/stack/addresses';
import {
  BROADCAST_MAC,
  GUEST_MAC,
  OUR_MAC,
  bytes,
  datagram,
  dissect,
  ethernet,
  hex,
  icmpv6,
  linkRig,
  type LinkRig,
} from '../../../support/stack/link-rig';
import { stackConfig } from '../../../support/stack/stack-config';

const LAN = '02 00 5e 00 53 07';
const OTHER = '02 00 5e 00 53 08';
const GUEST_LL = 'fe80::5054:ff:fe12:3456';

/** What the control plane hands over. */
function entries(...list: readonly (readonly [address: string, mac: string])[]): Int32Array {
  return Int32Array.from(
    list.flatMap(([address, mac]) => {
      const m = bytes(mac);
      const view = new DataView(m.buffer, m.byteOffset, 6);
      return [...words(address), view.getUint16(0), view.getInt32(2)];
    }),
  );
}

const macOf = (table: NeighbourTable, address: string): string => {
  table.lookup(words(address), 0);
  return macText(table.macHi, table.macLo).replaceAll(':', ' ');
};

const arpFor = (rig: LinkRig, address: string): string => {
  const request = bytes('0001 0800 06 04 0001', GUEST_MAC, ip('192.0.2.10'), '000000000000', ip(address));
  const [reply] = rig.exchange(ethernet(0x0806, request));
  expect(dissect(reply).srcMac).toBe(hex(bytes(OUR_MAC)));
  return hex(dissect(reply).payload.subarray(8, 14));
};

const naFor = (rig: LinkRig, target: string): string => {
  const [reply] = rig.exchange(icmpv6(GUEST_LL, 'ff02::1:ff00:1', bytes('87 00 0000 00000000', ip(target))));
  expect(dissect(reply).srcMac).toBe(hex(bytes(OUR_MAC)));
  return hex(dissect(reply).payload.subarray(26, 32));
};

/** Ethernet source of a frame of a flow from `src`. */
const sourceOf = (rig: LinkRig, src: string): string => {
  const frame = new DataView(new ArrayBuffer(128));
  const v6 = src.includes(':');
  outputHeadersTo(rig.ctx, frame, 0, ipFields(!v6, words(src), [0, 0, v6 ? 0 : 0xffff, 9], { protocol: 6 }), 20);
  return hex(new Uint8Array(frame.buffer, 6, 6));
};

describe("neighbours' Ethernet addresses", () => {
  test('ARP, ND and the frames of flows have the one that the host knows', () => {
    const rig = linkRig();
    const ours = hex(bytes(OUR_MAC));
    for (const address of ['192.0.2.7', '198.51.100.9']) {
      expect([arpFor(rig, address), sourceOf(rig, address)]).toEqual([ours, ours]);
    }
    rig.stack.setNeighbours(entries(['192.0.2.7', LAN], ['2001:db8::7', OTHER]));
    rig.port.sent(); // announcements
    expect([arpFor(rig, '192.0.2.7'), sourceOf(rig, '192.0.2.7')]).toEqual([hex(bytes(LAN)), hex(bytes(LAN))]);
    expect([naFor(rig, '2001:db8::7'), sourceOf(rig, '2001:db8::7')]).toEqual([hex(bytes(OTHER)), hex(bytes(OTHER))]);
    expect([arpFor(rig, '192.0.2.8'), sourceOf(rig, '2001:db8::8')]).toEqual([ours, ours]);
    rig.stack.setNeighbours(new Int32Array(0));
    expect([arpFor(rig, '192.0.2.7'), sourceOf(rig, '192.0.2.7')]).toEqual([ours, ours]);
  });

  test('what is not on the link has that of the gateway', () => {
    const table = new NeighbourTable(stackConfig({}, { mapHostLoopback: null }, { mapHostLoopback: null }));
    table.replace(entries(['192.0.2.1', LAN], ['fe80::1', OTHER]));
    expect(macOf(table, '192.0.2.1')).toBe(LAN);
    expect(macOf(table, '9.9.9.9')).toBe(LAN);
    expect(macOf(table, 'fe80::1')).toBe(OTHER);
    expect(macOf(table, '2001:db8:9::9')).toBe(OTHER);
    table.replace(entries(['192.0.2.1', OTHER]));
    expect(macOf(table, '9.9.9.9')).toBe(OTHER);
    expect(macOf(table, '2001:db8:9::9')).toBe(OUR_MAC);
  });

  test('addresses that stand for the host have ours, whoever has them on its link', () => {
    const table = new NeighbourTable(
      stackConfig({}, { mapGuestAddr: ip('192.0.2.77') }, { mapGuestAddr: ip('2001:db8::77') }),
    );
    const fixed = ['192.0.2.1', '192.0.2.77', 'fe80::1', '2001:db8::77'];
    table.replace(entries(...fixed.map((address): [string, string] => [address, LAN])));
    expect(fixed.map((address) => macOf(table, address))).toEqual([OUR_MAC, OUR_MAC, OUR_MAC, OUR_MAC]);
    // The gateway stands for the host, so what is behind it has our address too.
    expect(macOf(table, '9.9.9.9')).toBe(OUR_MAC);
  });

  test('our own link-local address is ours when the gateway is another', () => {
    const table = new NeighbourTable(
      stackConfig({}, {}, { gateway: ip('2001:db8::1'), ourLinkLocal: ip('fe80::99'), mapHostLoopback: null }),
    );
    table.replace(entries(['2001:db8::1', LAN]));
    expect(macOf(table, 'fe80::99')).toBe(OUR_MAC);
    expect(macOf(table, 'fe80::98')).toBe(LAN);
  });

  test('what we send in our own name has our address', () => {
    const rig = linkRig({}, { mapHostLoopback: null }, { mapHostLoopback: null });
    rig.stack.setNeighbours(entries(['192.0.2.1', LAN], ['fe80::1', LAN]));
    rig.port.sent(); // announcements
    const discover = bytes(
      '01 01 06 00 deadbeef',
      new Uint8Array(20),
      GUEST_MAC,
      new Uint8Array(202),
      '63825363 350101 ff',
    );
    const frames = [
      ...rig.exchange(datagram('0.0.0.0', 68, '255.255.255.255', 67, discover)),
      ...rig.exchange(icmpv6(GUEST_LL, 'ff02::2', bytes('85 00 0000 00000000'))),
      ...rig.exchange(datagram(GUEST_LL, 546, 'ff02::1:2', 547, bytes('0b abcdef'))),
    ];
    expect(frames.map((frame) => dissect(frame).srcMac)).toEqual(Array(3).fill(hex(bytes(OUR_MAC))));
  });

  test('the gateways and the addresses of the host are those of a new configuration, what is known stays', () => {
    const table = new NeighbourTable(stackConfig({}, { mapHostLoopback: null }));
    table.replace(entries(['192.0.2.1', LAN], ['192.0.2.254', OTHER]));
    expect(macOf(table, '9.9.9.9')).toBe(LAN);
    table.configure(stackConfig({}, { gateway: ip('192.0.2.254'), mapHostLoopback: ip('192.0.2.1') }));
    expect([macOf(table, '9.9.9.9'), macOf(table, '192.0.2.1')]).toEqual([OTHER, OUR_MAC]);
  });
});

describe('announcements', () => {
  const announced = (rig: LinkRig, ...list: [string, string][]): Uint8Array[] => {
    rig.stack.setNeighbours(entries(...list));
    return rig.port.sent();
  };

  test('a new neighbour is announced by ARP, byte for byte', () => {
    const rig = linkRig();
    const announcement = bytes(
      BROADCAST_MAC,
      LAN,
      '08 06 00 01 08 00 06 04 00 01',
      LAN,
      ip('192.0.2.7'),
      '00 00 00 00 00 00',
      ip('192.0.2.7'),
      new Uint8Array(18),
    );
    expect(announced(rig, ['192.0.2.7', LAN]).map(hex)).toEqual([hex(announcement)]);
  });

  test('and by ND: unsolicited, to all nodes', () => {
    const rig = linkRig();
    const [frame, ...rest] = announced(rig, ['2001:db8::7', LAN]);
    expect(rest).toEqual([]);
    const d = dissect(frame);
    expect(d).toMatchObject({ srcMac: hex(bytes(LAN)), ttl: 255 });
    expect([hex(d.src), hex(d.dst)]).toEqual([hex(ip('fe80::1')), hex(ip('ff02::1'))]);
    const sum = d.payload.subarray(2, 4);
    // Router and Override, not Solicited: nobody asked.
    expect(hex(d.payload)).toBe(hex(bytes('88 00', sum, 'a0 00 00 00', ip('2001:db8::7'), '02 01', LAN)));
  });

  test('only what is new: neither another Ethernet address nor what stayed, but what came back', () => {
    const rig = linkRig();
    expect(announced(rig, ['192.0.2.7', LAN])).toHaveLength(1);
    expect(announced(rig, ['192.0.2.7', OTHER])).toEqual([]);
    expect(announced(rig, ['192.0.2.7', OTHER], ['192.0.2.8', LAN])).toHaveLength(1);
    expect(announced(rig)).toEqual([]);
    expect(announced(rig, ['192.0.2.7', OTHER])).toHaveLength(1);
  });

  test("never the guest's own addresses, nor those that stand for the host", () => {
    const rig = linkRig();
    rig.ctx.link.guest4 = words('192.0.2.20')[3];
    rig.ctx.link.guest6.set(words('2001:db8::20'));
    const own = ['192.0.2.10', '192.0.2.20', '192.0.2.1', '2001:db8::10', '2001:db8::20', 'fe80::1'];
    expect(announced(rig, ...own.map((address): [string, string] => [address, LAN]))).toEqual([]);
  });

  test.each([
    ['while the link is down', {}, {}, {}, false, 0],
    ['of a family that is off', {}, null, {}, true, 1],
    ['by ND if that is off', { ndp: false }, {}, {}, true, 1],
  ])('not %s', (_, over, ip4, ip6, up, expected) => {
    const rig = linkRig(over, ip4, ip6);
    rig.port.up = up;
    expect(announced(rig, ['192.0.2.7', LAN], ['2001:db8::7', LAN])).toHaveLength(expected);
  });
});

describe('the table', () => {
  test('holds 512 neighbours and no more', () => {
    const table = new NeighbourTable(stackConfig());
    const many = Array.from({ length: 600 }, (_, i): [string, string] => [`10.0.${i >> 8}.${i & 255}`, LAN]);
    expect(table.replace(entries(...many))).toHaveLength(MAX_NEIGHBOURS * NEIGHBOUR_WORDS);
    const known = many.filter(([address]) => macOf(table, address) === LAN);
    expect(known).toEqual(many.slice(0, MAX_NEIGHBOURS));
    // What is cut off in the middle of an entry is left out.
    expect(table.replace(entries(['10.9.9.9', LAN]).subarray(0, 5))).toHaveLength(0);
    expect(macOf(table, '10.9.9.9')).toBe(OUR_MAC);
  });

  test('finds what a map would find, whatever came before', () => {
    const address = fc.nat(40).map((n) => (n % 2 === 0 ? `192.0.2.${n + 100}` : `2001:db8::${n.toString(16)}`));
    const mac = fc.nat(250).map((n) => `02 00 00 00 00 ${n.toString(16).padStart(2, '0')}`);
    const update = fc.array(fc.tuple(address, mac), { maxLength: 40 });
    fc.assert(
      fc.property(fc.array(update, { maxLength: 6 }), (updates) => {
        const table = new NeighbourTable(stackConfig());
        let before = new Map<string, string>();
        for (const list of updates) {
          const fresh = table.replace(entries(...list));
          const now = new Map([...list].reverse());
          const isNew = list.filter(([a]) => !before.has(a)).length;
          expect(fresh).toHaveLength(NEIGHBOUR_WORDS * isNew);
          for (let n = 0; n <= 40; n++) {
            const a = n % 2 === 0 ? `192.0.2.${n + 100}` : `2001:db8::${n.toString(16)}`;
            expect(macOf(table, a)).toBe(now.get(a) ?? OUR_MAC);
          }
          before = now;
        }
      }),
    );
  });

  test('a lookup allocates nothing', () => {
    const table = new NeighbourTable(stackConfig());
    table.replace(entries(...Array.from({ length: 200 }, (_, i): [string, string] => [`192.0.2.${i}`, LAN])));
    let found = 0;
    const asked = Int32Array.of(0, 0, 0xffff, 0);
    const look = (): void => {
      for (let i = 0; i < 200_000; i++) {
        asked[3] = 0xc0000200 | (i & 255);
        table.lookup(asked, 0);
        found |= table.macHi;
      }
    };
    look(); // compiles
    let least = Infinity;
    for (let round = 0; round < 3; round++) {
      const before = process.memoryUsage().heapUsed;
      look();
      least = Math.min(least, Math.abs(process.memoryUsage().heapUsed - before));
    }
    expect(found).toBeGreaterThan(0);
    expect(least).toBeLessThan(800_000);
  });
});
