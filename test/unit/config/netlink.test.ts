import fc from 'fast-check';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { formatIp, formatMac } from '../../../src/config/address-text';
import * as nl from '../../../src/config/netlink';
import { fixtureNetwork, rtnetlinkFixture } from '../../support/config/fixtures';

const dumps = rtnetlinkFixture();

test('links', () => {
  const links = nl
    .parseLinks(dumps.links)
    .map(({ index, name, mac, mtu }) => [index, name, mac && formatMac(mac), mtu]);
  expect(links).toEqual([
    [1, 'lo', '00:00:00:00:00:00', 65536],
    [2, 'veth0', '02:00:00:00:00:10', 1500],
    [3, 'veth1', '02:00:00:00:00:11', 1500],
  ]);
});

test('addresses: local ones on point-to-point links, wide flags', () => {
  const list = nl.parseAddresses(dumps.addresses).map((a) => [a.index, `${formatIp(a.addr)}/${a.prefixLen}`, a.scope]);
  expect(list).toEqual(
    expect.arrayContaining([
      [1, '127.0.0.1/8', 254],
      [2, '192.0.2.2/24', 0],
      [2, '192.0.2.77/32', 0],
      [3, '198.51.100.5/25', 0],
      [3, '10.9.9.1/32', 0],
      [2, '2001:db8::2/64', 0],
      [2, '2001:db8::dead/64', 0],
      [2, 'fe80::ff:fe00:10/64', 253],
    ]),
  );
  const deprecated = nl.parseAddresses(dumps.addresses).filter((a) => (a.flags & nl.IFA_F_DEPRECATED) !== 0);
  expect(deprecated.map((a) => formatIp(a.addr))).toEqual(['2001:db8::dead']);
});

test('routes: gateways, next hops with weights, tables', () => {
  const routes = fixtureNetwork().routes.filter((route) => route.table === nl.RT_TABLE_MAIN && route.dstLen === 0);
  const shown = routes.map((r) => ({
    family: r.family,
    index: r.index,
    gateway: r.gateway && formatIp(r.gateway),
    hops: r.nextHops.map((hop) => [hop.index, hop.hops + 1, hop.gateway && formatIp(hop.gateway)]),
  }));
  expect(shown).toEqual([
    {
      family: nl.AF_INET,
      index: 0,
      gateway: null,
      hops: [
        [2, 1, '192.0.2.1'],
        [2, 5, '192.0.2.254'],
      ],
    },
    { family: nl.AF_INET, index: 3, gateway: '198.51.100.1', hops: [] },
    { family: nl.AF_INET6, index: 2, gateway: 'fe80::99', hops: [] },
  ]);
  const other = fixtureNetwork().routes.filter((route) => route.table === 100);
  expect(other.map((route) => route.dst && formatIp(route.dst))).toEqual(['203.0.113.0']);
});

test('the gateway of an IPv4 route may be of IPv6 (RTA_VIA), alone or in a next hop', () => {
  const u16 = (n: number): number[] => [n & 255, n >> 8];
  const u32 = (n: number): number[] => [...u16(n & 0xffff), ...u16(n >>> 16)];
  const attr = (type: number, ...body: readonly number[]): number[] => {
    const padding = Array<number>(-body.length & 3).fill(0);
    return [...u16(4 + body.length), ...u16(type), ...body, ...padding];
  };
  const [RTA_OIF, RTA_MULTIPATH, RTA_VIA] = [4, 9, 18];
  const via = attr(RTA_VIA, ...u16(nl.AF_INET6), ...[0xfe, 0x80], ...Array<number>(13).fill(0), 9);
  const route = (...attrs: readonly number[]): number[] => {
    const rtm = [nl.AF_INET, 0, 0, 0, nl.RT_TABLE_MAIN, 0, 0, 1, ...u32(0)];
    return [...u32(16 + rtm.length + attrs.length), ...u16(24), ...u16(0), ...u32(1), ...u32(0), ...rtm, ...attrs];
  };
  const hop = [...u16(8 + via.length), 0, 0, ...u32(2), ...via];
  const bytes = Uint8Array.from([
    ...route(...attr(RTA_OIF, ...u32(2)), ...via),
    ...route(...attr(RTA_MULTIPATH, ...hop)),
  ]);
  const [alone, inHop] = nl.parseRoutes(bytes);
  expect([alone.gateway, inHop.nextHops[0].gateway].map((g) => g && formatIp(g))).toEqual(['fe80::9', 'fe80::9']);
});

test('a dump is read to its end', () => {
  for (const bytes of Object.values(dumps)) expect(nl.dumpProgress(bytes, 1)).toMatchObject({ done: true, error: 0 });
  expect(nl.dumpProgress(dumps.links, 2).done).toBe(false);
  expect(nl.dumpProgress(dumps.links.subarray(0, 200), 1).done).toBe(false);
});

describe('hostile bytes', () => {
  const parsers = [nl.parseLinks, nl.parseAddresses, nl.parseRoutes] as const;
  const parseAll = (bytes: Uint8Array): number => parsers.reduce((sum, parser) => sum + parser(bytes).length, 0);

  test('every truncation gives a prefix of the list', () => {
    for (const bytes of Object.values(dumps)) {
      const whole = parseAll(bytes);
      for (let length = 0; length <= bytes.length; length += 3) {
        expect(parseAll(bytes.subarray(0, length))).toBeLessThanOrEqual(whole);
      }
    }
  });

  test('changed and random bytes never throw and never reach outside', () => {
    const flips = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(fc.constantFrom(...Object.values(dumps)), flips, (bytes, changes) => {
        // Guard bytes around: a reader that leaves its slice would find an attribute there.
        const padded = new Uint8Array(bytes.length + 64).fill(0x5a);
        padded.set(bytes, 32);
        for (const [at, value] of changes) padded[32 + (at % bytes.length)] = value;
        const slice = padded.subarray(32, 32 + bytes.length);
        parseAll(slice);
        nl.dumpProgress(slice, 1);
        for (const message of nl.splitMessages(slice)) expect(message.end).toBeLessThanOrEqual(slice.length);
      }),
      { numRuns: 500 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        parseAll(bytes);
        nl.dumpProgress(bytes, 1);
      }),
    );
  });

  test('a prefix longer than the address is no address', () => {
    const bytes = Uint8Array.from(dumps.addresses);
    const [first] = nl.splitMessages(bytes);
    const before = nl.parseAddresses(bytes).length;
    bytes[first.start + 1] = 129;
    expect(nl.parseAddresses(bytes)).toHaveLength(before - 1);
  });
});

describe('readHostNetwork', () => {
  /** The kernel, answering each request with a dump of the fixture in datagrams of its own choice. */
  function kernel(change: { interruptOnce?: boolean; error?: number } = {}) {
    const queue: Uint8Array[] = [];
    let interrupt = change.interruptOnce === true;
    let open = 0;
    const io = {
      netlinkOpen: () => {
        open++;
        return 7;
      },
      close: () => {
        open--;
        queue.length = 0;
        return 0;
      },
      write: (_fd: number, buf: Uint8Array, offset: number, length: number) => {
        const view = new DataView(buf.buffer, buf.byteOffset + offset, length);
        expect(view.getUint32(0, true)).toBe(length);
        const type = view.getUint16(4, true);
        const family = view.getUint8(16);
        const answer =
          type === nl.RTM_GETLINK
            ? dumps.links
            : type === nl.RTM_GETADDR
              ? dumps.addresses
              : family === nl.AF_INET
                ? dumps.routes4
                : dumps.routes6;
        const bytes = Uint8Array.from(answer);
        const messages = nl.splitMessages(bytes);
        if (interrupt) {
          interrupt = false;
          bytes[messages[0].start - 10] |= 0x10;
        }
        if (change.error !== undefined) {
          const reply = new DataView(new ArrayBuffer(20));
          reply.setUint32(0, 20, true);
          reply.setUint16(4, 2, true);
          reply.setUint32(8, 1, true);
          reply.setInt32(16, change.error, true);
          queue.push(new Uint8Array(reply.buffer));
          return length;
        }
        for (const message of messages) queue.push(bytes.slice(message.start - 16, (message.end + 3) & ~3));
        return length;
      },
      read: (_fd: number, buf: Uint8Array, offset: number) => {
        const next = queue.shift();
        if (next === undefined) return -11;
        buf.set(next, offset);
        return next.length;
      },
      get open() {
        return open;
      },
    };
    return io;
  }

  test('joins datagrams, asks again after an interruption, closes its sockets', () => {
    const io = kernel({ interruptOnce: true });
    const network = nl.readHostNetwork(io);
    expect(network).toEqual(fixtureNetwork());
    expect(io.open).toBe(0);
  });

  test('says what the kernel refused', () => {
    const io = kernel({ error: -1 });
    expect(() => nl.readHostNetwork(io)).toThrow(
      "cannot read the host's interfaces by netlink: operation not permitted",
    );
    expect(io.open).toBe(0);
  });
});

test('the fixture is what it says', () => {
  expect(readFileSync(join(__dirname, '../../fixtures/rtnetlink.hex'), 'utf8')).toContain('# links');
});
