/** Addresses as four int32 words, and the words of `HostIo.addrs` slots. No allocation. */
import { ADDR_SLOT_SIZE, AF_INET, AF_INET6 } from '../ports';
import { IPV4_BROADCAST } from '../wire/ipv4';

/** Third word of a v4-mapped address. */
export const V4_MAPPED = 0xffff;

/** Writes family, port, scope and address (four words) into slot `slot` of an address table. */
export function addrSlotWrite(
  table: DataView,
  slot: number,
  family: number,
  port: number,
  scope: number,
  w0: number,
  w1: number,
  w2: number,
  w3: number,
): void {
  const o = slot * ADDR_SLOT_SIZE;
  table.setUint16(o, family, true);
  table.setUint16(o + 2, port, true);
  table.setUint32(o + 4, scope, true);
  table.setInt32(o + 8, w0);
  table.setInt32(o + 12, w1);
  table.setInt32(o + 16, w2);
  table.setInt32(o + 20, w3);
}

export function addrSlotFamily(table: DataView, slot: number): number {
  return table.getUint16(slot * ADDR_SLOT_SIZE, true);
}

export function addrSlotPort(table: DataView, slot: number): number {
  return table.getUint16(slot * ADDR_SLOT_SIZE + 2, true);
}

export function addrSlotScope(table: DataView, slot: number): number {
  return table.getUint32(slot * ADDR_SLOT_SIZE + 4, true);
}

/** Word `i` (0 … 3) of the slot's address. */
export function addrSlotWord(table: DataView, slot: number, i: number): number {
  return table.getInt32(slot * ADDR_SLOT_SIZE + 8 + 4 * i);
}

/** True if the four words are v4-mapped. */
export function isV4(w0: number, w1: number, w2: number): boolean {
  return w0 === 0 && w1 === 0 && w2 === V4_MAPPED;
}

/** AF_INET for v4-mapped words, else AF_INET6. */
export function familyOf(w0: number, w1: number, w2: number): number {
  return isV4(w0, w1, w2) ? AF_INET : AF_INET6;
}

/** 127/8 or ::1. */
export function isLoopback(w0: number, w1: number, w2: number, w3: number): boolean {
  if (w0 !== 0 || w1 !== 0) return false;
  return w2 === V4_MAPPED ? w3 >>> 24 === 127 : w2 === 0 && w3 === 1;
}

/** 0.0.0.0 or `::`. */
export function isUnspecified(w0: number, w1: number, w2: number, w3: number): boolean {
  return w0 === 0 && w1 === 0 && w3 === 0 && (w2 === 0 || w2 === V4_MAPPED);
}

/** 224/4 or ff00::/8. */
export function isMulticast(w0: number, w1: number, w2: number, w3: number): boolean {
  return isV4(w0, w1, w2) ? w3 >>> 28 === 14 : w0 >>> 24 === 0xff;
}

/** Multicast, or IPv4's limited broadcast. */
export function isGroup(v4: boolean, w0: number, w1: number, w2: number, w3: number): boolean {
  return isMulticast(w0, w1, w2, w3) || (v4 && w3 === IPV4_BROADCAST);
}

/** fe80::/10. IPv4 has no scoped sockets, so 169.254/16 is not meant. */
export function isLinkLocal6(w0: number): boolean {
  return w0 >>> 22 === 0x3fa;
}

/** Writes an address of 4 or 16 bytes (network order) as four words at `out[at…]`; IPv4 becomes v4-mapped. */
export function addressWords(bytes: Uint8Array, out: Int32Array, at: number): void {
  // eslint-disable-next-line no-restricted-syntax -- configuration, never a frame
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length === 4) {
    out[at] = 0;
    out[at + 1] = 0;
    out[at + 2] = V4_MAPPED;
    out[at + 3] = view.getInt32(0);
    return;
  }
  for (let i = 0; i < 4; i++) out[at + i] = view.getInt32(4 * i);
}

/** Are the four words at `a[i…]` the address given? */
export function wordsEqual(a: Int32Array, i: number, w0: number, w1: number, w2: number, w3: number): boolean {
  return a[i + 3] === w3 && a[i] === w0 && a[i + 1] === w1 && a[i + 2] === w2;
}

/** True if both are there and equal, or neither is there. */
export function sameBytes(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
