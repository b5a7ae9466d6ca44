/**
 * Segments as a guest sends and sees them: builder and parser for tests, sharing no code with src/stack/wire. Every
 * frame parsed is verified: lengths, both checksums.
 */
import { ip } from './addresses';
import type { FakeVnet } from './fake-guest-port';
import { internetChecksum } from './link-rig';

const FIN = 1;
const SYN = 2;
const RST = 4;
const PSH = 8;
const ACK = 16;
const URG = 32;

/** A segment the guest sends. Numbers are as on the wire (uint32). */
export interface GuestSegment {
  readonly src?: string;
  readonly dst?: string;
  readonly sport?: number;
  readonly dport?: number;
  readonly seq?: number;
  readonly ack?: number;
  /** As tcpdump writes them: S F R P U and . for ACK. */
  readonly flags: string;
  readonly win?: number;
  readonly urgent?: number;
  readonly mss?: number;
  readonly ws?: number;
  /** Raw option bytes, in place of mss and ws. */
  readonly options?: Uint8Array;
  readonly payload?: Uint8Array | string;
  readonly vnet?: FakeVnet;
  readonly badChecksum?: boolean;
  /** Default 64, and 0. */
  readonly ttl?: number;
  readonly tos?: number;
  /** Header length field, if not the true one. */
  readonly dataOffset?: number;
}

/** A segment the guest received. */
export interface Segment {
  readonly src: string;
  readonly dst: string;
  readonly sport: number;
  readonly dport: number;
  readonly seq: number;
  readonly ack: number;
  readonly flags: string;
  /** Window field, not scaled. */
  readonly win: number;
  readonly mss: number | null;
  readonly ws: number | null;
  readonly payload: Uint8Array;
  readonly gsoType: number;
  readonly gsoSize: number;
  readonly frameLen: number;
}

export function flagText(bits: number): string {
  let s = '';
  if ((bits & FIN) !== 0) s += 'F';
  if ((bits & SYN) !== 0) s += 'S';
  if ((bits & RST) !== 0) s += 'R';
  if ((bits & PSH) !== 0) s += 'P';
  if ((bits & URG) !== 0) s += 'U';
  return (bits & ACK) !== 0 ? `${s}.` : s;
}

function flagBits(flags: string): number {
  const bits: Record<string, number> = { F: FIN, S: SYN, R: RST, P: PSH, U: URG, '.': ACK };
  let sum = 0;
  for (const c of flags) sum |= bits[c];
  return sum;
}

function be16(v: number): number[] {
  return [(v >>> 8) & 255, v & 255];
}

function be32(v: number): number[] {
  return [(v >>> 24) & 255, (v >>> 16) & 255, (v >>> 8) & 255, v & 255];
}

/** Address text to bytes, remembered: property tests build many frames. */
const addressCache = new Map<string, Uint8Array>();
function addressOf(address: string): Uint8Array {
  let b = addressCache.get(address);
  if (b === undefined) {
    b = ip(address);
    addressCache.set(address, b);
  }
  return b;
}

function addressText(b: Uint8Array): string {
  if (b.length === 4) return b.join('.');
  for (const [name, value] of addressCache) if (value.length === 16 && Buffer.compare(value, b) === 0) return name;
  return Buffer.from(b).toString('hex');
}

const OUR_MAC = [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];
const GUEST_MAC = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/** The Ethernet frame of a segment. */
export function guestFrame(s: GuestSegment): Uint8Array {
  const src = addressOf(s.src ?? '192.0.2.10');
  const dst = addressOf(s.dst ?? '198.51.100.7');
  const payload = typeof s.payload === 'string' ? Buffer.from(s.payload) : (s.payload ?? new Uint8Array(0));
  const options: number[] = [];
  if (s.options !== undefined) options.push(...s.options);
  if (s.mss !== undefined) options.push(2, 4, ...be16(s.mss));
  if (s.ws !== undefined) options.push(1, 3, 3, s.ws);
  while (options.length % 4 !== 0) options.push(0);
  const header = [
    ...be16(s.sport ?? 40000),
    ...be16(s.dport ?? 80),
    ...be32(s.seq ?? 0),
    ...be32(s.ack ?? 0),
    ((s.dataOffset ?? (20 + options.length) / 4) & 15) << 4,
    flagBits(s.flags),
    ...be16(s.win ?? 65535),
    0,
    0,
    ...be16(s.urgent ?? 0),
    ...options,
  ];
  const l4 = new Uint8Array(header.length + payload.length);
  l4.set(header);
  l4.set(payload, header.length);
  const v4 = src.length === 4;
  const pseudo = v4 ? [...src, ...dst, 0, 6, ...be16(l4.length)] : [...src, ...dst, ...be32(l4.length), 0, 0, 0, 6];
  const sum = fold(sumOf(Uint8Array.from(pseudo)) + sumOf(l4));
  l4.set(be16((~sum & 0xffff) ^ (s.badChecksum === true ? 1 : 0)), 16);
  let l3: number[];
  if (v4) {
    l3 = [0x45, s.tos ?? 0, ...be16(20 + l4.length), 0, 0, 0x40, 0, s.ttl ?? 64, 6, 0, 0, ...src, ...dst];
    l3.splice(10, 2, ...be16(internetChecksum(Uint8Array.from(l3))));
  } else {
    const tos = s.tos ?? 0;
    l3 = [0x60 | (tos >> 4), (tos & 15) << 4, 0, 0, ...be16(l4.length), 6, s.ttl ?? 64, ...src, ...dst];
  }
  const frame = new Uint8Array(14 + l3.length + l4.length);
  frame.set([...OUR_MAC, ...GUEST_MAC, ...(v4 ? [8, 0] : [0x86, 0xdd]), ...l3]);
  frame.set(l4, 14 + l3.length);
  return frame;
}

function sumOf(b: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i + 1 < b.length; i += 2) sum += b[i] * 256 + b[i + 1];
  return b.length % 2 === 1 ? sum + b[b.length - 1] * 256 : sum;
}

function fold(sum: number): number {
  while (sum > 0xffff) sum = (sum % 0x10000) + Math.floor(sum / 0x10000);
  return sum;
}

/** Parses and verifies a frame to the guest; throws on anything wrong. */
export function parseFrame(bytes: Uint8Array, gsoType = 0, gsoSize = 0): Segment {
  const v = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const v4 = v.getUint16(12) === 0x0800;
  if (!v4 && v.getUint16(12) !== 0x86dd) throw new Error('not IP');
  const l4 = v4 ? 34 : 54;
  const end = v4 ? 14 + v.getUint16(16) : 54 + v.getUint16(18);
  if (end > bytes.length) throw new Error('IP length beyond the frame');
  if (bytes.length > end && bytes.length !== 60) throw new Error('bytes after the packet');
  if (v4 && internetChecksum(bytes.subarray(14, 34)) !== 0) throw new Error('IPv4 header checksum');
  const protocol = v4 ? bytes[23] : bytes[20];
  if (protocol !== 6) throw new Error(`protocol ${String(protocol)}`);
  const src = v4 ? bytes.subarray(26, 30) : bytes.subarray(22, 38);
  const dst = v4 ? bytes.subarray(30, 34) : bytes.subarray(38, 54);
  const tcp = bytes.subarray(l4, end);
  const pseudo = v4 ? [...src, ...dst, 0, 6, ...be16(tcp.length)] : [...src, ...dst, ...be32(tcp.length), 0, 0, 0, 6];
  if (fold(sumOf(Uint8Array.from(pseudo)) + sumOf(tcp)) !== 0xffff) throw new Error('TCP checksum');
  const headerLen = (tcp[12] >> 4) * 4;
  if (headerLen < 20 || headerLen > tcp.length) throw new Error('TCP data offset');
  let mss: number | null = null;
  let ws: number | null = null;
  for (let i = 20; i < headerLen;) {
    const kind = tcp[i];
    if (kind === 0) break;
    if (kind === 1) {
      i++;
      continue;
    }
    if (kind === 2) mss = tcp[i + 2] * 256 + tcp[i + 3];
    else if (kind === 3) ws = tcp[i + 2];
    else throw new Error(`unexpected option ${String(kind)}`);
    i += tcp[i + 1];
  }
  return {
    src: addressText(src),
    dst: addressText(dst),
    sport: v.getUint16(l4),
    dport: v.getUint16(l4 + 2),
    seq: v.getUint32(l4 + 4),
    ack: v.getUint32(l4 + 8),
    flags: flagText(tcp[13]),
    win: v.getUint16(l4 + 14),
    mss,
    ws,
    payload: tcp.slice(headerLen),
    gsoType,
    gsoSize,
    frameLen: end,
  };
}
