/**
 * rtnetlink(7): dumps of links, addresses and routes, as pure functions from bytes to plain objects. The kernel is
 * trusted not to lie, but no length is: what does not fit is skipped, never read past.
 *
 * Netlink is in the byte order of the host; every machine that runs us is little-endian.
 */
import { ConfigError, describeErrno, EAGAIN } from '../errors';
import type { Native } from '../native';
import type { AddressBytes } from '../stack/config';
import { AF_INET, AF_INET6 } from '../stack/ports';

export { AF_INET, AF_INET6 };

const LE = true;

export const AF_UNSPEC = 0;

// struct nlmsghdr: u32 length, u16 type, u16 flags, u32 sequence, u32 port id.
const NLMSG_HEADER_LEN = 16;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const NLM_F_REQUEST = 0x1;
const NLM_F_DUMP_INTR = 0x10;
const NLM_F_DUMP = 0x300;

export const RTM_NEWLINK = 16;
export const RTM_GETLINK = 18;
export const RTM_NEWADDR = 20;
export const RTM_GETADDR = 22;
export const RTM_NEWROUTE = 24;
export const RTM_DELROUTE = 25;
export const RTM_GETROUTE = 26;
export const RTM_NEWNEXTHOP = 104;
export const RTM_DELNEXTHOP = 105;
export const RTM_GETNEXTHOP = 106;

// Lengths of struct ifinfomsg, ifaddrmsg, rtmsg, rtnexthop, nhmsg, nexthop_grp.
const IFINFO_LEN = 16;
const IFADDR_LEN = 8;
const RTMSG_LEN = 12;
const RTNEXTHOP_LEN = 8;
const NHMSG_LEN = 8;
const NEXTHOP_GRP_LEN = 8;

const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_CACHEINFO = 6;
const IFA_FLAGS = 8;
const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_PRIORITY = 6;
const RTA_MULTIPATH = 9;
const RTA_TABLE = 15;
/** struct rtvia: a gateway of a family of its own (u16, the machine's byte order), in front of its address. */
const RTA_VIA = 18;
const RTA_NH_ID = 30;
const NHA_ID = 1;
const NHA_GROUP = 2;
const NHA_OIF = 5;
const NHA_GATEWAY = 6;
export const NLA_TYPE_MASK = 0x3fff;

/** IPv6: made by RFC 8981, and soon replaced. IPv4: SECONDARY, of a subnet that has another address before it. */
export const IFA_F_TEMPORARY = 0x01;
export const IFA_F_DADFAILED = 0x08;
export const IFA_F_DEPRECATED = 0x20;
export const IFA_F_TENTATIVE = 0x40;
/** Of a next hop: its interface is down. */
const RTNH_F_DEAD = 1;
export const RT_TABLE_MAIN = 254;
export const RTN_UNICAST = 1;
export const RT_SCOPE_UNIVERSE = 0;
export const RT_SCOPE_LINK = 253;

/** One message of a datagram: its payload is `bytes[start, end)`. */
export interface NetlinkMessage {
  readonly type: number;
  readonly flags: number;
  readonly seq: number;
  readonly start: number;
  readonly end: number;
}

export interface Link {
  readonly index: number;
  readonly name: string;
  readonly flags: number;
  readonly mac: Uint8Array | null;
  readonly mtu: number;
}

export interface InterfaceAddress {
  readonly family: number;
  readonly index: number;
  readonly prefixLen: number;
  readonly flags: number;
  readonly scope: number;
  /** The interface's own address (IFA_LOCAL, or IFA_ADDRESS where there is no peer). */
  readonly addr: AddressBytes;
}

export interface NextHop {
  readonly index: number;
  /** One less than the weight, as the kernel counts. */
  readonly hops: number;
  /** Of either family, whatever the route's (RFC 8950: IPv4 by way of an IPv6 router). */
  readonly gateway: AddressBytes | null;
}

/** A next hop object (`ip nexthop`), which routes name by its number. */
export interface NextHopObject {
  readonly id: number;
  readonly index: number;
  readonly gateway: AddressBytes | null;
  /** Of a group: its members' numbers, and one less than their weights. */
  readonly group: readonly { readonly id: number; readonly hops: number }[];
}

export interface Route {
  readonly family: number;
  readonly dstLen: number;
  readonly dst: AddressBytes | null;
  readonly table: number;
  readonly type: number;
  readonly scope: number;
  readonly priority: number;
  /** Output interface, 0 if there is none (multipath: see `nextHops`). */
  readonly index: number;
  /** Of either family, see `NextHop`. */
  readonly gateway: AddressBytes | null;
  readonly nextHops: readonly NextHop[];
  /** Next hop object, 0 if there is none. */
  readonly nextHopId: number;
}

function align4(n: number): number {
  return (n + 3) & ~3;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Splits a datagram into messages. A message whose length is impossible ends the list. */
export function splitMessages(bytes: Uint8Array): NetlinkMessage[] {
  const view = viewOf(bytes);
  const messages: NetlinkMessage[] = [];
  let at = 0;
  while (at + NLMSG_HEADER_LEN <= bytes.length) {
    const length = view.getUint32(at, LE);
    if (length < NLMSG_HEADER_LEN || length > bytes.length - at) break;
    messages.push({
      type: view.getUint16(at + 4, LE),
      flags: view.getUint16(at + 6, LE),
      seq: view.getUint32(at + 8, LE),
      start: at + NLMSG_HEADER_LEN,
      end: at + length,
    });
    at += align4(length);
  }
  return messages;
}

/** Attributes (struct rtattr) of `bytes[start, end)` by type; of several of one type the last one. */
function attributes(bytes: Uint8Array, start: number, end: number): Map<number, Uint8Array> {
  const view = viewOf(bytes);
  const found = new Map<number, Uint8Array>();
  let at = start;
  while (at + 4 <= end) {
    const length = view.getUint16(at, LE);
    if (length < 4 || length > end - at) break;
    found.set(view.getUint16(at + 2, LE) & NLA_TYPE_MASK, bytes.subarray(at + 4, at + length));
    at += align4(length);
  }
  return found;
}

function u32(attribute: Uint8Array | undefined, fallback: number): number {
  return attribute?.length === 4 ? viewOf(attribute).getUint32(0, LE) : fallback;
}

/** A copy of an address attribute if it has the family's length. */
function address(attribute: Uint8Array | undefined, family: number): AddressBytes | null {
  return attribute?.length === (family === AF_INET ? 4 : 16) ? Uint8Array.from(attribute) : null;
}

/** The gateway of a route or next hop: of the route's family, or of the one that RTA_VIA names. */
function gatewayOf(attrs: Map<number, Uint8Array>, family: number): AddressBytes | null {
  const via = attrs.get(RTA_VIA);
  if (via === undefined || via.length < 2) return address(attrs.get(RTA_GATEWAY), family);
  const viaFamily = viewOf(via).getUint16(0, LE);
  return viaFamily === AF_INET || viaFamily === AF_INET6 ? address(via.subarray(2), viaFamily) : null;
}

function messagesOf(bytes: Uint8Array, type: number, fixedLen: number): NetlinkMessage[] {
  return splitMessages(bytes).filter((message) => message.type === type && message.end - message.start >= fixedLen);
}

/** RTM_NEWLINK messages of a dump. */
export function parseLinks(bytes: Uint8Array): Link[] {
  const view = viewOf(bytes);
  return messagesOf(bytes, RTM_NEWLINK, IFINFO_LEN).map(({ start, end }) => {
    const attrs = attributes(bytes, start + IFINFO_LEN, end);
    const name = attrs.get(IFLA_IFNAME) ?? new Uint8Array(0);
    const zero = name.indexOf(0);
    const mac = attrs.get(IFLA_ADDRESS);
    return {
      index: view.getInt32(start + 4, LE),
      flags: view.getUint32(start + 8, LE),
      name: Buffer.from(zero < 0 ? name : name.subarray(0, zero)).toString('utf8'),
      mac: mac?.length === 6 ? Uint8Array.from(mac) : null,
      mtu: u32(attrs.get(IFLA_MTU), 0),
    };
  });
}

/** RTM_NEWADDR messages of a dump; other families are left out. */
export function parseAddresses(bytes: Uint8Array): InterfaceAddress[] {
  const view = viewOf(bytes);
  const list: InterfaceAddress[] = [];
  for (const { start, end } of messagesOf(bytes, RTM_NEWADDR, IFADDR_LEN)) {
    const family = bytes[start];
    if (family !== AF_INET && family !== AF_INET6) continue;
    const attrs = attributes(bytes, start + IFADDR_LEN, end);
    // On a point-to-point link IFA_ADDRESS is the peer's.
    const addr = address(attrs.get(IFA_LOCAL) ?? attrs.get(IFA_ADDRESS), family);
    const prefixLen = bytes[start + 1];
    if (addr === null || prefixLen > 8 * addr.length) continue;
    // struct ifa_cacheinfo: how long it is preferred comes first. The flag may be late, as a timer sets it.
    const cache = attrs.get(IFA_CACHEINFO);
    const deprecated = cache !== undefined && cache.length >= 4 && viewOf(cache).getUint32(0, LE) === 0;
    list.push({
      family,
      prefixLen,
      flags: u32(attrs.get(IFA_FLAGS), bytes[start + 2]) | (deprecated ? IFA_F_DEPRECATED : 0),
      scope: bytes[start + 3],
      index: view.getUint32(start + 4, LE),
      addr,
    });
  }
  return list;
}

function parseNextHops(bytes: Uint8Array, family: number): NextHop[] {
  const view = viewOf(bytes);
  const hops: NextHop[] = [];
  let at = 0;
  while (at + RTNEXTHOP_LEN <= bytes.length) {
    const length = view.getUint16(at, LE);
    if (length < RTNEXTHOP_LEN || length > bytes.length - at) break;
    const attrs = attributes(bytes, at + RTNEXTHOP_LEN, at + length);
    // struct rtnexthop: u16 length, u8 flags, u8 hops, i32 index.
    if ((bytes[at + 2] & RTNH_F_DEAD) === 0) {
      hops.push({ hops: bytes[at + 3], index: view.getInt32(at + 4, LE), gateway: gatewayOf(attrs, family) });
    }
    at += align4(length);
  }
  return hops;
}

/** RTM_NEWNEXTHOP messages of a dump. */
export function parseNextHopObjects(bytes: Uint8Array): NextHopObject[] {
  return messagesOf(bytes, RTM_NEWNEXTHOP, NHMSG_LEN).map(({ start, end }) => {
    const attrs = attributes(bytes, start + NHMSG_LEN, end);
    const members = attrs.get(NHA_GROUP) ?? new Uint8Array(0);
    const view = viewOf(members);
    const group: { id: number; hops: number }[] = [];
    // struct nexthop_grp: u32 id, u8 weight less one, three bytes reserved.
    for (let at = 0; at + NEXTHOP_GRP_LEN <= members.length; at += NEXTHOP_GRP_LEN) {
      group.push({ id: view.getUint32(at, LE), hops: members[at + 4] });
    }
    return {
      id: u32(attrs.get(NHA_ID), 0),
      index: u32(attrs.get(NHA_OIF), 0),
      gateway: address(attrs.get(NHA_GATEWAY), bytes[start]),
      group,
    };
  });
}

/**
 * A route that names a next hop object, with what the object says. The kernel says it in the route as well unless
 * net.ipv4.nexthop_compat_mode is 0. Without the object the route stays as it is, and leads nowhere.
 */
export function withNextHop(route: Route, objects: ReadonlyMap<number, NextHopObject>): Route {
  if (route.nextHopId === 0 || route.index !== 0 || route.nextHops.length > 0) return route;
  const object = objects.get(route.nextHopId);
  if (object === undefined) return route;
  if (object.group.length === 0) return { ...route, index: object.index, gateway: object.gateway };
  const nextHops: NextHop[] = [];
  for (const { id, hops } of object.group) {
    const member = objects.get(id);
    if (member !== undefined && member.index !== 0)
      nextHops.push({ hops, index: member.index, gateway: member.gateway });
  }
  return { ...route, nextHops };
}

/** RTM_NEWROUTE messages of a dump; other families are left out. */
export function parseRoutes(bytes: Uint8Array): Route[] {
  const list: Route[] = [];
  for (const { start, end } of messagesOf(bytes, RTM_NEWROUTE, RTMSG_LEN)) {
    const family = bytes[start];
    if (family !== AF_INET && family !== AF_INET6) continue;
    const attrs = attributes(bytes, start + RTMSG_LEN, end);
    const multipath = attrs.get(RTA_MULTIPATH);
    list.push({
      family,
      dstLen: bytes[start + 1],
      dst: address(attrs.get(RTA_DST), family),
      table: u32(attrs.get(RTA_TABLE), bytes[start + 4]),
      scope: bytes[start + 6],
      type: bytes[start + 7],
      priority: u32(attrs.get(RTA_PRIORITY), 0),
      index: u32(attrs.get(RTA_OIF), 0),
      gateway: gatewayOf(attrs, family),
      nextHopId: u32(attrs.get(RTA_NH_ID), 0),
      nextHops: multipath === undefined ? [] : parseNextHops(multipath, family),
    });
  }
  return list;
}

/** The default route of the main table that leads out of the host. */
export function isDefaultRoute({ dstLen, table, type, scope }: Route): boolean {
  return dstLen === 0 && table === RT_TABLE_MAIN && type === RTN_UNICAST && scope === RT_SCOPE_UNIVERSE;
}

/**
 * True if a datagram of notifications may change what the guest gets: anything about links and addresses; of routes
 * those of the main table, and where the family has a default route (`hasDefault`) only default routes, as the others
 * are not looked at then. A routing daemon may change thousands of others every second.
 */
export function concernsGuest(bytes: Uint8Array, hasDefault: (family: number) => boolean): boolean {
  return splitMessages(bytes).some(({ type, start, end }) => {
    // Link and address messages, new and deleted, are the eight numbers before those of routes.
    if (type >= RTM_NEWLINK && type < RTM_NEWROUTE) return true;
    // A route that leads elsewhere because its next hop object does is not notified of itself.
    if (type === RTM_NEWNEXTHOP || type === RTM_DELNEXTHOP) return true;
    if ((type !== RTM_NEWROUTE && type !== RTM_DELROUTE) || end - start < RTMSG_LEN) return false;
    // struct rtmsg: u8 family, u8 length of the destination, two others, u8 table.
    return bytes[start + 4] === RT_TABLE_MAIN && (bytes[start + 1] === 0 || !hasDefault(bytes[start]));
  });
}

/** A dump request: the fixed part holds the family and zeros, which a strict kernel takes as "no filter". */
export function dumpRequest(type: number, family: number, seq: number): Uint8Array {
  const fixed =
    type === RTM_GETLINK
      ? IFINFO_LEN
      : type === RTM_GETADDR
        ? IFADDR_LEN
        : type === RTM_GETNEXTHOP
          ? NHMSG_LEN
          : RTMSG_LEN;
  const bytes = new Uint8Array(NLMSG_HEADER_LEN + fixed);
  const view = viewOf(bytes);
  view.setUint32(0, bytes.length, LE);
  view.setUint16(4, type, LE);
  view.setUint16(6, NLM_F_REQUEST | NLM_F_DUMP, LE);
  view.setUint32(8, seq, LE);
  bytes[NLMSG_HEADER_LEN] = family;
  return bytes;
}

/** What one datagram of a dump's answer means. */
export interface DumpProgress {
  readonly done: boolean;
  /** Something changed during the dump: it may be inconsistent and must be repeated. */
  readonly interrupted: boolean;
  /** -errno of the kernel, or 0. */
  readonly error: number;
}

export function dumpProgress(bytes: Uint8Array, seq: number): DumpProgress {
  const view = viewOf(bytes);
  let interrupted = false;
  for (const message of splitMessages(bytes)) {
    if (message.seq !== seq) continue;
    if ((message.flags & NLM_F_DUMP_INTR) !== 0) interrupted = true;
    if (message.type === NLMSG_DONE || message.type === NLMSG_ERROR) {
      const error = message.end - message.start >= 4 ? Math.min(0, view.getInt32(message.start, LE)) : 0;
      return { done: true, interrupted, error };
    }
  }
  return { done: false, interrupted, error: 0 };
}

type NetlinkIo = Pick<Native, 'netlinkOpen' | 'read' | 'write' | 'close'>;

/** The kernel makes the datagrams of a dump at most 32 KiB long. */
export const DATAGRAM_MAX = 65536;
/** An upper bound for a loop over what the kernel sends: 4096 datagrams are about 128 MiB of routes. */
const MAX_DATAGRAMS = 4096;
const MAX_TRIES = 5;

function hostError(what: string, result: number): ConfigError {
  return new ConfigError('CFG_ERR_HOST', `cannot read the host's ${what} by netlink: ${describeErrno(result)}`);
}

/** One dump, all datagrams joined. */
function dumpOnce(
  io: NetlinkIo,
  type: number,
  family: number,
  what: string,
): { bytes: Uint8Array; interrupted: boolean } {
  const fd = io.netlinkOpen(0);
  if (fd < 0) throw hostError(what, fd);
  try {
    const seq = 1;
    const request = dumpRequest(type, family, seq);
    const sent = io.write(fd, request, 0, request.length);
    if (sent < 0) throw hostError(what, sent);
    const chunks: Uint8Array[] = [];
    const buffer = new Uint8Array(DATAGRAM_MAX);
    let interrupted = false;
    for (let i = 0; i < MAX_DATAGRAMS; i++) {
      const got = io.read(fd, buffer, 0, buffer.length);
      // A dump is produced while it is read, so even a non-blocking socket has the next part at once.
      if (got <= 0) throw hostError(what, got === 0 ? -EAGAIN : got);
      const chunk = buffer.slice(0, got);
      const progress = dumpProgress(chunk, seq);
      if (progress.error < 0) throw hostError(what, progress.error);
      interrupted ||= progress.interrupted;
      chunks.push(chunk);
      if (progress.done) return { bytes: Buffer.concat(chunks), interrupted };
    }
    throw new ConfigError('CFG_ERR_HOST', `the host has too many ${what} to read`);
  } finally {
    io.close(fd);
  }
}

/** All datagrams of a dump, joined; a consistent one if that can be had. Throws ConfigError. */
export function dumpBytes(io: NetlinkIo, type: number, family: number, what: string): Uint8Array {
  let last = dumpOnce(io, type, family, what);
  for (let i = 1; i < MAX_TRIES && last.interrupted; i++) last = dumpOnce(io, type, family, what);
  return last.bytes;
}

/** What the host's network looks like at this moment. */
export interface HostNetwork {
  readonly links: readonly Link[];
  readonly addresses: readonly InterfaceAddress[];
  readonly routes: readonly Route[];
}

/** Next hop objects by number; none if the kernel knows of none (before 5.3). */
function readNextHopObjects(io: NetlinkIo): ReadonlyMap<number, NextHopObject> {
  try {
    const objects = parseNextHopObjects(dumpBytes(io, RTM_GETNEXTHOP, AF_UNSPEC, 'next hops'));
    return new Map(objects.map((object) => [object.id, object]));
  } catch {
    return new Map();
  }
}

/** Reads links, addresses and routes. Throws ConfigError CFG_ERR_HOST. */
export function readHostNetwork(io: NetlinkIo): HostNetwork {
  const links = parseLinks(dumpBytes(io, RTM_GETLINK, AF_UNSPEC, 'interfaces'));
  const addresses = parseAddresses(dumpBytes(io, RTM_GETADDR, AF_UNSPEC, 'addresses'));
  // A kernel without IPv6 answers the second request with routes of all families.
  const routes = [AF_INET, AF_INET6].flatMap((family) =>
    parseRoutes(dumpBytes(io, RTM_GETROUTE, family, 'routes')).filter((route) => route.family === family),
  );
  const bare = routes.some(({ nextHopId, index, nextHops }) => nextHopId !== 0 && index === 0 && nextHops.length === 0);
  if (!bare) return { links, addresses, routes };
  const objects = readNextHopObjects(io);
  return { links, addresses, routes: routes.map((route) => withNextHop(route, objects)) };
}
