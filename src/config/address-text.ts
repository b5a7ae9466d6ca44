/** IP and MAC addresses between text and bytes (network byte order), and the classes of address that options refuse. */
import type { AddressBytes } from '../stack/config';

const OCTET = '(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])';
const QUAD = new RegExp(`^${OCTET}(?:\\.${OCTET}){3}$`);
const GROUP = /^[0-9a-f]{1,4}$/i;

/** Dotted quad, exactly four decimal groups; null for anything else ("127.1" and leading zeros included). */
export function parseIp4(text: string): AddressBytes | null {
  // As isIPv4 of node:net, whose module the service would load for nothing else.
  return QUAD.test(text) ? Uint8Array.from(text.split('.'), Number) : null;
}

/** RFC 4291 §2.2 text without a zone; null for anything else. */
export function parseIp6(text: string): AddressBytes | null {
  let plain = text;
  if (plain.includes('.')) {
    // The last 32 bits as a dotted quad (RFC 4291 §2.2, 3).
    const last = plain.lastIndexOf(':') + 1;
    const quad = parseIp4(plain.slice(last));
    if (quad === null) return null;
    const hex = [0, 2].map((i) => ((quad[i] << 8) | quad[i + 1]).toString(16));
    plain = plain.slice(0, last) + hex.join(':');
  }
  const halves = plain.split('::').map((half) => (half === '' ? [] : half.split(':')));
  const groups = halves.flat();
  // "::" stands for one group or more.
  const fits = halves.length === 1 ? groups.length === 8 : halves.length === 2 && groups.length < 8;
  if (!fits || !groups.every((group) => GROUP.test(group))) return null;
  const bytes = new Uint8Array(16);
  groups.forEach((group, i) => {
    const at = i < halves[0].length ? i : 8 - groups.length + i;
    const value = parseInt(group, 16);
    bytes[2 * at] = value >> 8;
    bytes[2 * at + 1] = value & 0xff;
  });
  return bytes;
}

/** Either family. */
export function parseIp(text: string): AddressBytes | null {
  return parseIp4(text) ?? parseIp6(text);
}

/** Six groups of two hexadecimal digits with colons; null for anything else. */
export function parseMac(text: string): Uint8Array | null {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)) return null;
  return Uint8Array.from(text.split(':'), (group) => parseInt(group, 16));
}

export function formatMac(mac: Uint8Array): string {
  return Array.from(mac, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** Dotted quad, or the canonical text of RFC 5952 (v4-mapped addresses as `::ffff:a.b.c.d`). */
export function formatIp(addr: AddressBytes): string {
  if (addr.length === 4) return addr.join('.');
  if (isV4Mapped(addr)) return `::ffff:${addr.subarray(12).join('.')}`;
  const groups: number[] = [];
  for (let i = 0; i < 16; i += 2) groups.push((addr[i] << 8) | addr[i + 1]);
  // RFC 5952 §4.2: the longest run of two or more zero groups, the first of equals.
  let best = -1;
  let bestLen = 1;
  for (let i = 0; i < 8; i++) {
    let len = 0;
    while (i + len < 8 && groups[i + len] === 0) len++;
    if (len > bestLen) {
      best = i;
      bestLen = len;
    }
  }
  const hex = groups.map((group) => group.toString(16));
  if (best < 0) return hex.join(':');
  return `${hex.slice(0, best).join(':')}::${hex.slice(best + bestLen).join(':')}`;
}

/** As in a URL: IPv6 in brackets. */
export function formatHostPort(addr: AddressBytes | null, port: number | string): string {
  if (addr === null) return `*:${port}`;
  return addr.length === 4 ? `${formatIp(addr)}:${port}` : `[${formatIp(addr)}]:${port}`;
}

export function sameAddress(a: AddressBytes | null, b: AddressBytes | null): boolean {
  if (a === null || b === null) return a === b;
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

export function isUnspecified(addr: AddressBytes): boolean {
  return addr.every((byte) => byte === 0);
}

/** 127/8 or ::1. */
export function isLoopback(addr: AddressBytes): boolean {
  if (addr.length === 4) return addr[0] === 127;
  return addr[15] === 1 && addr.subarray(0, 15).every((byte) => byte === 0);
}

/** 224/4 or ff00::/8. */
export function isMulticast(addr: AddressBytes): boolean {
  return addr.length === 4 ? addr[0] >> 4 === 14 : addr[0] === 0xff;
}

/** 255.255.255.255. */
export function isBroadcast(addr: AddressBytes): boolean {
  return addr.length === 4 && addr.every((byte) => byte === 255);
}

export function isLinkLocal6(addr: AddressBytes): boolean {
  return addr.length === 16 && addr[0] === 0xfe && (addr[1] & 0xc0) === 0x80;
}

export function isV4Mapped(addr: AddressBytes): boolean {
  return (
    addr.length === 16 && addr[10] === 0xff && addr[11] === 0xff && addr.subarray(0, 10).every((byte) => byte === 0)
  );
}

/** The dotted mask of a prefix length. */
export function maskOf(prefixLen: number): AddressBytes {
  return Uint8Array.from({ length: 4 }, (_, i) => {
    const bits = Math.min(8, Math.max(0, prefixLen - 8 * i));
    return (0xff << (8 - bits)) & 0xff;
  });
}

/** Prefix length of a contiguous dotted mask, or -1. */
export function prefixOf(mask: AddressBytes): number {
  for (let len = 0; len <= 32; len++) if (sameAddress(maskOf(len), mask)) return len;
  return -1;
}

/** Prefix length by class A, B or C (RFC 791), 32 for the rest: what is left when nothing says better. */
export function classPrefix(addr: AddressBytes): number {
  if (addr[0] < 128) return 8;
  if (addr[0] < 192) return 16;
  if (addr[0] < 224) return 24;
  return 32;
}

export function addressFamily(addr: AddressBytes): 4 | 6 {
  return addr.length === 4 ? 4 : 6;
}
