/** DHCP client messages (RFC 2131, RFC 2132) and DHCPv6 ones (RFC 8415): writing requests, reading answers. */
import { be16, be32, concat, formatAddr, viewOf } from './bytes';

export const DHCPDISCOVER = 1;
export const DHCPOFFER = 2;
export const DHCPREQUEST = 3;
export const DHCPACK = 5;

const MAGIC = 0x63825363;

export interface DhcpReply {
  readonly type: number;
  readonly xid: number;
  readonly yiaddr: Uint8Array;
  readonly siaddr: Uint8Array;
  /** All options by number, raw. */
  readonly options: ReadonlyMap<number, Uint8Array>;
  /** The message as it came. */
  readonly raw: Uint8Array;
}

/** What a lease means for the guest. */
export interface DhcpLease {
  readonly address: string;
  readonly prefixLen: number;
  readonly router: string | null;
  readonly dns: readonly string[];
  readonly mtu: number | null;
  readonly serverId: string;
  readonly leaseSeconds: number;
  readonly hostname: string | null;
  readonly search: readonly string[];
  readonly options: ReadonlyMap<number, Uint8Array>;
}

/** A DISCOVER or REQUEST with the options given (number and content). */
export function dhcpRequest(
  type: number,
  xid: number,
  mac: Uint8Array,
  options: readonly (readonly [number, Uint8Array])[],
  broadcast = false,
): Uint8Array {
  const fixed = new Uint8Array(240);
  const dv = viewOf(fixed);
  fixed.set([1, 1, 6, 0]);
  dv.setUint32(4, xid);
  if (broadcast) dv.setUint16(10, 0x8000);
  fixed.set(mac, 28);
  dv.setUint32(236, MAGIC);
  const all: (readonly [number, Uint8Array])[] = type > 0 ? [[53, Uint8Array.of(type)], ...options] : [...options];
  const body = all.flatMap(([n, content]) => [Uint8Array.of(n, content.length), content]);
  return concat(fixed, ...body, Uint8Array.of(255));
}

/** Null if it is not a reply of a server. */
export function parseDhcp(b: Uint8Array): DhcpReply | null {
  if (b.length < 241 || b[0] !== 2 || viewOf(b).getUint32(236) !== MAGIC) return null;
  const options = new Map<number, Uint8Array>();
  let i = 240;
  while (i < b.length && b[i] !== 255) {
    if (b[i] === 0) {
      i++;
      continue;
    }
    const len = b[i + 1];
    if (!(i + 2 + len <= b.length)) return null;
    options.set(b[i], b.slice(i + 2, i + 2 + len));
    i += 2 + len;
  }
  if (b[i] !== 255) return null;
  return {
    type: options.get(53)?.[0] ?? 0,
    xid: viewOf(b).getUint32(4),
    yiaddr: b.slice(16, 20),
    siaddr: b.slice(20, 24),
    options,
    raw: b,
  };
}

export function leaseOf(r: DhcpReply): DhcpLease {
  const addrs = (n: number): string[] => {
    const o = r.options.get(n) ?? new Uint8Array(0);
    return Array.from({ length: o.length >> 2 }, (_, i) => formatAddr(o.subarray(4 * i, 4 * i + 4)));
  };
  const mask = r.options.get(1);
  const mtu = r.options.get(26);
  const name = r.options.get(12);
  return {
    address: formatAddr(r.yiaddr),
    prefixLen: mask === undefined ? 0 : Math.clz32(~viewOf(mask).getUint32(0)),
    router: addrs(3)[0] ?? null,
    dns: addrs(6),
    mtu: mtu === undefined ? null : viewOf(mtu).getUint16(0),
    serverId: addrs(54)[0] ?? '',
    leaseSeconds: r.options.has(51) ? viewOf(r.options.get(51)!).getUint32(0) : 0,
    hostname: name === undefined ? null : Buffer.from(name).toString('latin1'),
    search: parseNames(r.options.get(119) ?? new Uint8Array(0)),
    options: r.options,
  };
}

/** DNS-encoded names, compression pointers allowed (RFC 1035 §4.1.4, RFC 3397). */
export function parseNames(b: Uint8Array): string[] {
  const names: string[] = [];
  let at = 0;
  while (at < b.length && b[at] !== 0) {
    const labels: string[] = [];
    let i = at;
    let end = -1;
    for (let hops = 0; hops < 128 && i < b.length && b[i] !== 0; hops++) {
      if ((b[i] & 0xc0) === 0xc0) {
        end = end < 0 ? i + 2 : end;
        i = ((b[i] & 0x3f) << 8) | b[i + 1];
        continue;
      }
      labels.push(Buffer.from(b.subarray(i + 1, i + 1 + b[i])).toString('latin1'));
      i += 1 + b[i];
    }
    names.push(labels.join('.'));
    at = end < 0 ? i + 1 : end;
  }
  return names;
}

// ---- DHCPv6

export const DHCP6_SOLICIT = 1;
export const DHCP6_ADVERTISE = 2;
export const DHCP6_REQUEST = 3;
export const DHCP6_REPLY = 7;

export interface Dhcp6Reply {
  readonly type: number;
  readonly xid: number;
  readonly serverId: Uint8Array;
  readonly addresses: readonly string[];
  readonly dns: readonly string[];
  readonly search: readonly string[];
  /** Options of the message itself, raw, by number. */
  readonly options: ReadonlyMap<number, Uint8Array>;
}

const option6 = (n: number, content: Uint8Array): Uint8Array => concat(be16(n), be16(content.length), content);

/** A SOLICIT, or with `serverId` a REQUEST for `address`. */
export function dhcp6Request(
  type: number,
  xid: number,
  mac: Uint8Array,
  serverId?: Uint8Array,
  addr?: Uint8Array,
): Uint8Array {
  const clientId = concat(be16(3), be16(1), mac); // DUID-LL
  const iaAddr = addr === undefined ? new Uint8Array(0) : option6(5, concat(addr, be32(0), be32(0)));
  return concat(
    Uint8Array.of(type, (xid >> 16) & 255, (xid >> 8) & 255, xid & 255),
    option6(1, clientId),
    ...(serverId === undefined ? [] : [option6(2, serverId)]),
    option6(3, concat(be32(1), be32(0), be32(0), iaAddr)),
    option6(6, concat(be16(23), be16(24))),
    option6(8, be16(0)),
  );
}

function parseOptions6(b: Uint8Array): Map<number, Uint8Array> | null {
  const options = new Map<number, Uint8Array>();
  for (let i = 0; i < b.length;) {
    if (i + 4 > b.length) return null;
    const len = viewOf(b).getUint16(i + 2);
    if (i + 4 + len > b.length) return null;
    options.set(viewOf(b).getUint16(i), b.slice(i + 4, i + 4 + len));
    i += 4 + len;
  }
  return options;
}

export function parseDhcp6(b: Uint8Array): Dhcp6Reply | null {
  const options = b.length < 4 ? null : parseOptions6(b.subarray(4));
  if (options === null) return null;
  const ia = options.get(3);
  const iaOptions = ia === undefined || ia.length < 12 ? null : parseOptions6(ia.subarray(12));
  const address = iaOptions?.get(5);
  const dns = options.get(23) ?? new Uint8Array(0);
  return {
    type: b[0],
    xid: (b[1] << 16) | (b[2] << 8) | b[3],
    serverId: options.get(2) ?? new Uint8Array(0),
    addresses: address === undefined ? [] : [formatAddr(address.subarray(0, 16))],
    dns: Array.from({ length: dns.length >> 4 }, (_, i) => formatAddr(dns.subarray(16 * i, 16 * i + 16))),
    search: parseNames(options.get(24) ?? new Uint8Array(0)),
    options,
  };
}
