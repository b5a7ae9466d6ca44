/**
 * rtnetlink(7) requests that configure an interface, as pure functions to bytes. Netlink is in the byte order of the host,
 * which is little-endian on every machine that runs us.
 */
import {
  AF_INET,
  AF_UNSPEC,
  NLA_TYPE_MASK,
  RT_SCOPE_UNIVERSE,
  RT_TABLE_MAIN,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWROUTE,
  RTN_UNICAST,
  splitMessages,
} from '../config/netlink';
import type { AddressBytes } from '../stack/config';

const LE = true;
const HEADER_LEN = 16;
const NLM_F_REQUEST = 0x1;
const NLM_F_ACK = 0x4;
const NLM_F_EXCL = 0x200;
const NLM_F_CREATE = 0x400;

const IFF_UP = 1;
const IFLA_ADDRESS = 1;
const IFLA_MTU = 4;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_BROADCAST = 4;
const IFA_FLAGS = 8;
const IFA_F_NODAD = 0x02;
const RTMSG_LEN = 12;
const RTNEXTHOP_LEN = 8;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_PREFSRC = 7;
const RTA_MULTIPATH = 9;
const RTA_CACHEINFO = 12;
const RTA_DST = 1;
const RTA_NH_ID = 30;
const RTPROT_BOOT = 3;
const RTNH_F_ONLINK = 4;
/** struct rtmsg: flags that the kernel alone sets (RTM_F_CLONED, dead and link-down next hops …). */
const RTM_FLAGS_KEPT = RTNH_F_ONLINK;

type Attribute = readonly [type: number, value: Uint8Array];

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, LE);
  return bytes;
}

function align4(n: number): number {
  return (n + 3) & ~3;
}

function attributeBytes(attributes: readonly Attribute[]): Uint8Array {
  const total = attributes.reduce((sum, [, value]) => sum + align4(4 + value.length), 0);
  const bytes = new Uint8Array(total);
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [type, value] of attributes) {
    view.setUint16(at, 4 + value.length, LE);
    view.setUint16(at + 2, type, LE);
    bytes.set(value, at + 4);
    at += align4(4 + value.length);
  }
  return bytes;
}

function request(type: number, flags: number, fixed: Uint8Array, attributes: readonly Attribute[]): Uint8Array {
  const tail = attributeBytes(attributes);
  const bytes = new Uint8Array(HEADER_LEN + fixed.length + tail.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, LE);
  view.setUint16(4, type, LE);
  view.setUint16(6, NLM_F_REQUEST | NLM_F_ACK | flags, LE);
  view.setUint32(8, 1, LE);
  bytes.set(fixed, HEADER_LEN);
  bytes.set(tail, HEADER_LEN + fixed.length);
  return bytes;
}

/** What of an interface changes. */
export interface LinkChange {
  readonly up?: boolean;
  readonly mac?: Uint8Array;
  readonly mtu?: number;
}

export function changeLink(index: number, { up, mac, mtu }: LinkChange): Uint8Array {
  // struct ifinfomsg: u8 family, u8, u16 type, i32 index, u32 flags, u32 change.
  const fixed = new Uint8Array(16);
  const view = new DataView(fixed.buffer);
  fixed[0] = AF_UNSPEC;
  view.setInt32(4, index, LE);
  if (up !== undefined) {
    view.setUint32(8, up ? IFF_UP : 0, LE);
    view.setUint32(12, IFF_UP, LE);
  }
  const attributes: Attribute[] = [];
  if (mac !== undefined) attributes.push([IFLA_ADDRESS, mac]);
  if (mtu !== undefined) attributes.push([IFLA_MTU, u32(mtu)]);
  return request(RTM_NEWLINK, 0, fixed, attributes);
}

/** The last address of an IPv4 network, or null where it has none of its own (RFC 3021: /31, /32). */
function broadcastOf(addr: AddressBytes, prefixLen: number): Uint8Array | null {
  if (addr.length !== 4 || prefixLen > 30) return null;
  return addr.map((byte, i) => byte | (0xff >> Math.min(8, Math.max(0, prefixLen - 8 * i))));
}

/** Gives an interface an address, without looking for others that have it (RFC 4862 §5.4): nobody else is on the link. */
export function addAddress(index: number, addr: AddressBytes, prefixLen: number, scope: number): Uint8Array {
  // struct ifaddrmsg: u8 family, prefix length, flags, scope, u32 index.
  const fixed = new Uint8Array(8);
  fixed[0] = addr.length === 4 ? AF_INET : 10;
  fixed[1] = prefixLen;
  fixed[3] = scope;
  new DataView(fixed.buffer).setUint32(4, index, LE);
  const bytes = Uint8Array.from(addr);
  const attributes: Attribute[] = [
    [IFA_LOCAL, bytes],
    [IFA_ADDRESS, bytes],
    [IFA_FLAGS, u32(IFA_F_NODAD)],
  ];
  const broadcast = broadcastOf(addr, prefixLen);
  if (broadcast !== null) attributes.push([IFA_BROADCAST, broadcast]);
  return request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, fixed, attributes);
}

/** A default route over an interface. `onLink`: the gateway is in no network of the interface's. */
export function addDefaultRoute(index: number, gateway: AddressBytes, onLink: boolean): Uint8Array {
  const fixed = new Uint8Array(RTMSG_LEN);
  fixed[0] = gateway.length === 4 ? AF_INET : 10;
  fixed[4] = RT_TABLE_MAIN;
  fixed[5] = RTPROT_BOOT;
  fixed[6] = RT_SCOPE_UNIVERSE;
  fixed[7] = RTN_UNICAST;
  new DataView(fixed.buffer).setUint32(8, onLink ? RTNH_F_ONLINK : 0, LE);
  return request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, fixed, [
    [RTA_OIF, u32(index)],
    [RTA_GATEWAY, Uint8Array.from(gateway)],
  ]);
}

function* attributesOf(bytes: Uint8Array, start: number, end: number): Generator<Attribute> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = start; at + 4 <= end;) {
    const length = view.getUint16(at, LE);
    if (length < 4 || length > end - at) return;
    yield [view.getUint16(at + 2, LE) & NLA_TYPE_MASK, bytes.subarray(at + 4, at + length)];
    at += align4(length);
  }
}

/** Of a multipath route the next hops over `from`, with `to` in its place. Empty: it has none. */
function nextHopsOver(value: Uint8Array, from: number, to: number): Uint8Array {
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  const kept: Uint8Array[] = [];
  for (let at = 0; at + RTNEXTHOP_LEN <= value.length;) {
    // struct rtnexthop: u16 length, u8 flags, u8 hops, i32 index.
    const length = view.getUint16(at, LE);
    if (length < RTNEXTHOP_LEN || length > value.length - at) break;
    if (view.getInt32(at + 4, LE) === from) {
      const hop = new Uint8Array(align4(length));
      hop.set(value.subarray(at, at + length));
      hop[2] &= RTNH_F_ONLINK;
      new DataView(hop.buffer).setInt32(4, to, LE);
      kept.push(hop);
    }
    at += align4(length);
  }
  return kept.length === 0 ? new Uint8Array(0) : Uint8Array.from(kept.flatMap((hop) => [...hop]));
}

/**
 * Requests that give interface `to` the routes of the main table that lead over interface `from`, made of a dump of routes.
 * What names other things of the host (preferred sources, next hop objects) is left out.
 */
export function copyRoutes(dump: Uint8Array, from: number, to: number): Uint8Array[] {
  const requests: Uint8Array[] = [];
  const view = new DataView(dump.buffer, dump.byteOffset, dump.byteLength);
  for (const { type, start, end } of splitMessages(dump)) {
    if (type !== RTM_NEWROUTE || end - start < RTMSG_LEN) continue;
    if (dump[start + 4] !== RT_TABLE_MAIN || dump[start + 7] !== RTN_UNICAST) continue;
    const fixed = Uint8Array.from(dump.subarray(start, start + RTMSG_LEN));
    new DataView(fixed.buffer).setUint32(8, view.getUint32(start + 8, LE) & RTM_FLAGS_KEPT, LE);
    let leads = false;
    const attributes: Attribute[] = [];
    for (const [kind, value] of attributesOf(dump, start + RTMSG_LEN, end)) {
      if (kind === RTA_PREFSRC || kind === RTA_NH_ID || kind === RTA_CACHEINFO) continue;
      if (kind === RTA_OIF) {
        leads = value.length === 4 && new DataView(value.buffer, value.byteOffset).getUint32(0, LE) === from;
        attributes.push([kind, u32(to)]);
      } else if (kind === RTA_MULTIPATH) {
        const hops = nextHopsOver(value, from, to);
        leads = hops.length > 0;
        attributes.push([kind, hops]);
      } else attributes.push([kind, value]);
    }
    // Those to link-local networks come with the interface.
    const linkLocal = attributes.some(([kind, value]) => kind === RTA_DST && isLinkLocalNet(value));
    if (leads && !linkLocal) requests.push(request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, fixed, attributes));
  }
  return requests;
}

function isLinkLocalNet(value: Uint8Array): boolean {
  return value.length === 16 ? value[0] === 0xfe && (value[1] & 0xc0) === 0x80 : value[0] === 169 && value[1] === 254;
}
