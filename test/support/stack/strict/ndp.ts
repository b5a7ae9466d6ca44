/** Neighbour discovery and ARP as strict hosts take them: RFC 4861 §6.1.2, §7.1.2, RFC 8106 §5.3.1, RFC 826, RFC 5227. */
import type { Dissected } from '../link-rig';
import { demand, names, same, view, zero, type Option } from './reader';

const SOURCE_LL = 1;
const TARGET_LL = 2;
const PREFIX = 3;
const MTU = 5;
const RDNSS = 25;
const DNSSL = 31;
const ALL_NODES = Uint8Array.from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

function options(bytes: Uint8Array): Option[] {
  const found: Option[] = [];
  let at = 0;
  while (at < bytes.length) {
    demand(at + 8 <= bytes.length, 'an option of less than 8 bytes');
    const length = bytes[at + 1] * 8;
    demand(length > 0 && at + length <= bytes.length, 'the length of an option');
    found.push({ code: bytes[at], data: bytes.subarray(at, at + length) });
    at += length;
  }
  return found;
}

function demandCommon(d: Dissected): void {
  demand(d.ttl === 255, 'hop limit');
  demand(d.payload[1] === 0, 'code');
  demand(isLinkLocal(d.src), 'not from a link-local address');
}

function isLinkLocal(address: Uint8Array): boolean {
  return address[0] === 0xfe && (address[1] & 0xc0) === 0x80;
}

function demandLinkLayer({ data }: Option): void {
  demand(data.length === 8 && (data[2] & 1) === 0 && !zero(data.subarray(2)), 'a link-layer address');
}

/** A neighbour advertisement in answer to a solicitation of `target` from `from`. */
export function strictNeighborAdvertisement(d: Dissected, target: Uint8Array, from: Uint8Array): void {
  demandCommon(d);
  const m = d.payload;
  demand(m[0] === 136 && m.length >= 24, 'no advertisement');
  demand((m[4] & 0x1f) === 0 && zero(m.subarray(5, 8)), 'reserved bits');
  demand((m[4] & 0x40) !== 0, 'not as solicited');
  demand(m[8] !== 0xff && same(m.subarray(8, 24), target), 'the target');
  demand(same(d.dst, from), 'sent to another address');
  const all = options(m.subarray(24));
  demand(all.length === 1 && all[0].code === TARGET_LL, 'the options');
  demandLinkLayer(all[0]);
}

/** A router advertisement in answer to a solicitation from `from`. */
export function strictRouterAdvertisement(d: Dissected, from: Uint8Array): void {
  demandCommon(d);
  const m = d.payload;
  demand(m[0] === 134 && m.length >= 16, 'no advertisement');
  demand((m[5] & 0x3f) === 0, 'flags that nobody knows us to set');
  demand(same(d.dst, zero(from) ? ALL_NODES : from), 'sent to another address');
  const all = options(m.subarray(16));
  const count = (code: number): number => all.filter((o) => o.code === code).length;
  demand(count(SOURCE_LL) === 1 && count(MTU) <= 1, 'how often an option occurs');
  const bodies = new Set<string>();
  for (const option of all) {
    const body = Buffer.from(option.data).toString('hex');
    demand(!bodies.has(body), 'an option twice');
    bodies.add(body);
    demandRouterOption(option);
  }
}

function demandRouterOption(option: Option): void {
  const { code, data } = option;
  const v = view(data);
  switch (code) {
    case SOURCE_LL:
      demandLinkLayer(option);
      return;
    case PREFIX:
      demand(data.length === 32 && data[2] === 64, 'a prefix');
      demand((data[3] & 0x3f) === 0 && v.getUint32(12) === 0, 'reserved bits of a prefix');
      demand(v.getUint32(8) <= v.getUint32(4), 'preferred for longer than valid');
      demand(!isLinkLocal(data.subarray(16)) && data[16] !== 0xff && !zero(data.subarray(16)), 'a prefix of no use');
      demand(zero(data.subarray(24)), 'bits behind the prefix');
      return;
    case MTU:
      demand(data.length === 8 && v.getUint16(2) === 0 && v.getUint32(4) >= 1280, 'the MTU');
      return;
    case RDNSS:
      demand(data.length >= 24 && data.length % 16 === 8 && v.getUint16(2) === 0, 'resolvers');
      return;
    case DNSSL: {
      demand(data.length >= 16 && v.getUint16(2) === 0, 'a search list');
      const found = names(data.subarray(8), { compression: false, padding: true });
      const used = found.reduce((sum, name) => sum + name.length + 2, 0);
      demand(data.length - 8 - used < 8, 'more padding than it needs');
      return;
    }
    default:
      demand(false, `option ${String(code)}, which nobody knows us to send`);
  }
}

/** The reply to an ARP request, given as the 28 bytes of each. */
export function strictArp(d: Dissected, request: Uint8Array): void {
  const a = d.payload;
  const v = view(a);
  demand(v.getUint16(0) === 1 && v.getUint16(2) === 0x0800 && a[4] === 6 && a[5] === 4, 'not IPv4 over Ethernet');
  demand(v.getUint16(6) === 2, 'no reply');
  demand((a[8] & 1) === 0 && !zero(a.subarray(8, 14)), 'an Ethernet address of nobody');
  demand(same(a.subarray(14, 18), request.subarray(24, 28)), 'about another address');
  demand(same(a.subarray(18, 28), request.subarray(8, 18)), 'to somebody else');
}
