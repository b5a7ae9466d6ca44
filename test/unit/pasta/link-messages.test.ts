/** Requests of rtnetlink: what the kernel would read in them. */
import {
  parseAddresses,
  parseLinks,
  parseRoutes,
  RT_SCOPE_UNIVERSE,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWROUTE,
  splitMessages,
} from '../../../src/config/netlink';
import { addAddress, addDefaultRoute, changeLink, copyRoutes } from '../../../src/pasta/link-messages';

const REQUEST_ACK = 0x5;
const IFA_F_NODAD = 2;
const V4 = Uint8Array.of(192, 0, 2, 7);
const V6 = Uint8Array.of(0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7);

test('a link: address, MTU and state, and what it leaves alone', () => {
  const message = changeLink(5, { up: true, mtu: 1500, mac: Uint8Array.of(2, 0, 0, 0, 0, 9) });
  expect(splitMessages(message)).toMatchObject([{ type: RTM_NEWLINK, flags: REQUEST_ACK }]);
  expect(parseLinks(message)).toMatchObject([{ index: 5, mtu: 1500, flags: 1 }]);
  const silent = changeLink(5, { mtu: 1500 });
  expect(Buffer.from(silent).readUInt32LE(16 + 12)).toBe(0);
});

test('addresses of both families, not looked for on the link', () => {
  const four = addAddress(3, V4, 24, RT_SCOPE_UNIVERSE);
  expect(splitMessages(four)).toMatchObject([{ type: RTM_NEWADDR }]);
  expect(parseAddresses(four)).toMatchObject([{ index: 3, prefixLen: 24, addr: V4, flags: IFA_F_NODAD }]);
  expect(Buffer.from(four).includes(Buffer.of(192, 0, 2, 255))).toBe(true);
  expect(Buffer.from(addAddress(3, V4, 31, 0)).includes(Buffer.of(192, 0, 2, 255))).toBe(false);
  expect(parseAddresses(addAddress(3, V6, 64, 0))).toMatchObject([{ index: 3, prefixLen: 64, addr: V6 }]);
});

test('a default route, and one whose gateway is in no subnet', () => {
  const route = addDefaultRoute(3, V4, false);
  expect(splitMessages(route)).toMatchObject([{ type: RTM_NEWROUTE }]);
  expect(parseRoutes(route)).toMatchObject([{ index: 3, gateway: V4, dstLen: 0, table: 254 }]);
  expect(Buffer.from(route).readUInt32LE(16 + 8)).toBe(0);
  expect(Buffer.from(addDefaultRoute(3, V6, true)).readUInt32LE(16 + 8)).toBe(4);
});

/** An attribute as the kernel writes it. */
function attribute(type: number, value: Uint8Array): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt16LE(4 + value.length);
  head.writeUInt16LE(type, 2);
  return Buffer.concat([head, value, Buffer.alloc(-value.length & 3)]);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** A route as it stands in a dump. */
function route(family: number, dstLen: number, table: number, attributes: readonly Buffer[]): Buffer {
  const fixed = Buffer.from([family, dstLen, 0, 0, table, 3, 0, 1, 0, 2, 0, 0]);
  const body = Buffer.concat([fixed, ...attributes]);
  const head = Buffer.alloc(16);
  head.writeUInt32LE(16 + body.length);
  head.writeUInt16LE(RTM_NEWROUTE, 4);
  return Buffer.concat([head, body]);
}

function hop(index: number, gateway: Uint8Array): Buffer {
  const inner = attribute(5, gateway);
  const head = Buffer.alloc(8);
  head.writeUInt16LE(8 + inner.length);
  head[2] = 0x10;
  head.writeInt32LE(index, 4);
  return Buffer.concat([head, inner]);
}

describe('routes of the host for the namespace', () => {
  const GATEWAY = Uint8Array.of(192, 0, 2, 1);
  const OIF = 4;
  const PREFSRC = 7;

  test('those over the interface, over the other one now, without what names things of the host', () => {
    const dump = Buffer.concat([
      route(2, 0, 254, [attribute(5, GATEWAY), attribute(OIF, u32(8)), attribute(PREFSRC, V4), attribute(30, u32(4))]),
      route(2, 24, 254, [attribute(1, Uint8Array.of(198, 51, 100, 0)), attribute(OIF, u32(9))]),
      route(2, 24, 100, [attribute(1, Uint8Array.of(203, 0, 113, 0)), attribute(OIF, u32(8))]),
      route(10, 64, 254, [
        attribute(
          1,
          Uint8Array.from({ length: 16 }, (_, i) => [0xfe, 0x80][i] ?? 0),
        ),
        attribute(OIF, u32(8)),
      ]),
    ]);
    const copies = copyRoutes(dump, 8, 2);
    expect(copies).toHaveLength(1);
    expect(parseRoutes(copies[0])).toMatchObject([{ index: 2, gateway: GATEWAY, nextHopId: 0 }]);
    expect(Buffer.from(copies[0]).includes(Buffer.from(V4))).toBe(false);
    // Flags that are the kernel's to set.
    expect(Buffer.from(copies[0]).readUInt32LE(16 + 8)).toBe(0);
  });

  test('of several next hops those over the interface', () => {
    const hops = Buffer.concat([hop(8, GATEWAY), hop(9, Uint8Array.of(10, 0, 0, 1)), hop(8, V4)]);
    const dump = Buffer.concat([
      route(2, 0, 254, [attribute(9, hops)]),
      route(2, 8, 254, [attribute(1, Uint8Array.of(10, 0, 0, 0)), attribute(9, hop(9, GATEWAY))]),
    ]);
    const copies = copyRoutes(dump, 8, 2);
    expect(copies).toHaveLength(1);
    const [copy] = parseRoutes(copies[0]);
    expect(copy.nextHops.map(({ index }) => index)).toEqual([2, 2]);
    expect(copy.nextHops.map(({ gateway }) => gateway)).toEqual([GATEWAY, V4]);
  });

  test('attributes that are cut short end a message, never the program', () => {
    const whole = route(2, 0, 254, [attribute(5, GATEWAY), attribute(OIF, u32(8))]);
    for (let cut = 0; cut < whole.length; cut++) {
      const part = Buffer.from(whole.subarray(0, cut));
      if (cut >= 4) part.writeUInt32LE(cut);
      expect(() => copyRoutes(part, 8, 2)).not.toThrow();
    }
  });
});
