/** Addresses as text and bytes, checksums, sequence numbers: the guest's own, independent of src/. */

export type Bytes = Uint8Array;

/** Concatenates. */
export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

/** Big-endian u16/u32 as bytes. */
export function be16(v: number): Uint8Array {
  return Uint8Array.of((v >>> 8) & 0xff, v & 0xff);
}
export function be32(v: number): Uint8Array {
  return Uint8Array.of((v >>> 24) & 0xff, (v >>> 16) & 0xff, (v >>> 8) & 0xff, v & 0xff);
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** "52:54:00:12:34:56" to bytes. */
export function parseMac(text: string): Uint8Array {
  const parts = text.split(':').map((p) => parseInt(p, 16));
  if (parts.length !== 6 || parts.some((p) => !(p >= 0 && p <= 255))) throw new Error(`bad MAC: ${text}`);
  return Uint8Array.from(parts);
}
export function formatMac(mac: Uint8Array): string {
  return Array.from(mac, (b) => b.toString(16).padStart(2, '0')).join(':');
}

export const BROADCAST_MAC = Uint8Array.of(255, 255, 255, 255, 255, 255);

/** "10.0.2.15" or "fe80::1" to 4 or 16 bytes. */
export function parseAddr(text: string): Uint8Array {
  return text.includes(':') ? parse6(text) : parse4(text);
}

function parse4(text: string): Uint8Array {
  const parts = text.split('.').map(Number);
  if (parts.length !== 4 || parts.some((p) => !(p >= 0 && p <= 255))) throw new Error(`bad IPv4 address: ${text}`);
  return Uint8Array.from(parts);
}

function parse6(text: string): Uint8Array {
  const out = new Uint8Array(16);
  const [left, right] = text.split('::');
  const groups = (s: string | undefined): number[] =>
    s === undefined || s === ''
      ? []
      : s.split(':').flatMap((g) => {
          if (!g.includes('.')) return [parseInt(g, 16)];
          const v4 = parse4(g);
          return [(v4[0] << 8) | v4[1], (v4[2] << 8) | v4[3]];
        });
  const a = groups(left);
  const b = groups(right);
  if (a.length + b.length > 8 || (right === undefined && a.length !== 8) || [...a, ...b].some((g) => !(g <= 0xffff))) {
    throw new Error(`bad IPv6 address: ${text}`);
  }
  const dv = viewOf(out);
  a.forEach((g, i) => dv.setUint16(2 * i, g));
  b.forEach((g, i) => dv.setUint16(16 - 2 * b.length + 2 * i, g));
  return out;
}

/** 4 or 16 bytes to text; IPv6 in the form of RFC 5952. */
export function formatAddr(addr: Uint8Array): string {
  if (addr.length === 4) return addr.join('.');
  const groups = Array.from({ length: 8 }, (_, i) => viewOf(addr).getUint16(2 * i));
  let best = -1;
  let bestLen = 1;
  for (let i = 0; i < 8; i++) {
    let n = 0;
    while (i + n < 8 && groups[i + n] === 0) n++;
    if (n > bestLen) [best, bestLen] = [i, n];
  }
  const hex = groups.map((g) => g.toString(16));
  if (best < 0) return hex.join(':');
  return `${hex.slice(0, best).join(':')}::${hex.slice(best + bestLen).join(':')}`;
}

export function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((v, i) => v === b[i]);
}

/** True if `a` and `b` share their first `prefixLen` bits. */
export function samePrefix(a: Uint8Array, b: Uint8Array, prefixLen: number): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < prefixLen; i++) {
    const mask = 0x80 >> (i & 7);
    if ((a[i >> 3] & mask) !== (b[i >> 3] & mask)) return false;
  }
  return true;
}

/** fe80::/64 plus the modified EUI-64 of a MAC (RFC 4291 Appendix A), or another 64-bit prefix. */
export function eui64(prefix: Uint8Array, mac: Uint8Array): Uint8Array {
  const id = [mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]];
  return concat(prefix.subarray(0, 8), Uint8Array.from(id));
}

/** Solicited-node multicast address of `addr` (RFC 4291 §2.7.1). */
export function solicitedNode(addr: Uint8Array): Uint8Array {
  return concat(parse6('ff02::1:ff00:0').subarray(0, 13), addr.subarray(13));
}

/** Ethernet address of an IPv6 multicast address (RFC 2464 §7). */
export function multicastMac(addr: Uint8Array): Uint8Array {
  return Uint8Array.of(0x33, 0x33, ...addr.subarray(12));
}

const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/**
 * One's complement sum (RFC 1071) of bytes from..to, folded to 16 bits and not inverted, on top of `initial`. Odd lengths
 * are padded with a zero byte.
 */
export function sum(bytes: Uint8Array, from = 0, to = bytes.length, initial = 0): number {
  let total = initial;
  let i = from;
  // Sixteen-bit words where the memory is aligned for them: sums of words commute with swapping their bytes.
  if (LITTLE_ENDIAN && ((bytes.byteOffset + i) & 1) === 0 && to - i >= 64) {
    const words = new Uint16Array(bytes.buffer, bytes.byteOffset + i, (to - i) >> 1);
    let swapped = 0;
    for (const w of words) swapped += w;
    while (swapped > 0xffff) swapped = Math.floor(swapped / 65536) + (swapped & 0xffff);
    total += ((swapped & 0xff) << 8) | (swapped >> 8);
    i += 2 * words.length;
  }
  for (; i + 1 < to; i += 2) total += (bytes[i] << 8) | bytes[i + 1];
  if (i < to) total += bytes[i] << 8;
  while (total > 0xffff) total = Math.floor(total / 65536) + (total & 0xffff);
  return total;
}

/** The checksum field's value for a sum. */
export function finish(total: number): number {
  return ~total & 0xffff;
}

/** Sum of the pseudo-header of TCP, UDP or ICMPv6 (RFC 9293 §3.1, RFC 8200 §8.1). */
export function pseudoSum(src: Uint8Array, dst: Uint8Array, protocol: number, length: number): number {
  let total = sum(src);
  total = sum(dst, 0, dst.length, total);
  total += (length >>> 16) + (length & 0xffff) + protocol;
  while (total > 0xffff) total = (total >> 16) + (total & 0xffff);
  return total;
}

/** Signed distance of two 32-bit sequence numbers. */
export function seqDiff(a: number, b: number): number {
  return (a - b) | 0;
}
