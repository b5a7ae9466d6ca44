/** Addresses as four int32 words, and the words of `HostIo.addrs` slots. No allocation. */
import { ADDR_SLOT_SIZE, AF_INET, AF_INET6 } from '../ports';
import { IPV4_BROADCAST } from '../wire/ipv4';

/** Third word of a v4-mapped address. */
export const V4_MAPPED = 0xffff;

/** Writes family, port, scope and the address `words[at…]` into slot `slot` of an address table. */
export function addrSlotWrite(
  table: DataView,
  slot: number,
  family: number,
  port: number,
  scope: number,
  words: Int32Array,
  at: number,
): void {
  const o = slot * ADDR_SLOT_SIZE;
  table.setUint16(o, family, true);
  table.setUint16(o + 2, port, true);
  table.setUint32(o + 4, scope, true);
  for (let i = 0; i < 4; i++) table.setInt32(o + 8 + 4 * i, words[at + i]);
}

/** Copies the slot's address to `words[at…]`. */
export function addrSlotRead(table: DataView, slot: number, words: Int32Array, at: number): void {
  for (let i = 0; i < 4; i++) words[at + i] = addrSlotWord(table, slot, i);
}

/** Is the slot's address `words[at…]`? */
export function addrSlotIs(table: DataView, slot: number, words: Int32Array, at: number): boolean {
  for (let i = 0; i < 4; i++) if (addrSlotWord(table, slot, i) !== words[at + i]) return false;
  return true;
}

/** Have two slots the same address, whatever their ports? */
export function addrSlotsEqual(table: DataView, slot: number, other: number): boolean {
  for (let i = 0; i < 4; i++) if (addrSlotWord(table, slot, i) !== addrSlotWord(table, other, i)) return false;
  return true;
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

const ANY4 = Int32Array.of(0, 0, V4_MAPPED, 0);
const ANY6 = new Int32Array(4);

/** The unspecified address of a family. Not to be written to. */
export function anyOf(v4: boolean): Int32Array {
  return v4 ? ANY4 : ANY6;
}

/** True if the four words are v4-mapped. */
export function isV4(words: Int32Array, at: number): boolean {
  return words[at] === 0 && words[at + 1] === 0 && words[at + 2] === V4_MAPPED;
}

/** AF_INET for v4-mapped words, else AF_INET6. */
export function familyOf(words: Int32Array, at: number): number {
  return isV4(words, at) ? AF_INET : AF_INET6;
}

/** 127/8 or ::1. */
export function isLoopback(words: Int32Array, at: number): boolean {
  if (words[at] !== 0 || words[at + 1] !== 0) return false;
  const w2 = words[at + 2];
  return w2 === V4_MAPPED ? words[at + 3] >>> 24 === 127 : w2 === 0 && words[at + 3] === 1;
}

/** 0.0.0.0 or `::`. */
export function isUnspecified(words: Int32Array, at: number): boolean {
  const w2 = words[at + 2];
  return words[at] === 0 && words[at + 1] === 0 && words[at + 3] === 0 && (w2 === 0 || w2 === V4_MAPPED);
}

/** 224/4 or ff00::/8. */
export function isMulticast(words: Int32Array, at: number): boolean {
  return isV4(words, at) ? words[at + 3] >>> 28 === 14 : words[at] >>> 24 === 0xff;
}

/** Multicast, or IPv4's limited broadcast. */
export function isGroup(v4: boolean, words: Int32Array, at: number): boolean {
  return isMulticast(words, at) || (v4 && words[at + 3] === IPV4_BROADCAST);
}

/** fe80::/10. IPv4 has no scoped sockets, so 169.254/16 is not meant. */
export function isLinkLocal6(words: Int32Array, at: number): boolean {
  return words[at] >>> 22 === 0x3fa;
}

/** Copies the address `from[f…]` to `to[t…]`. */
export function copyWords(from: Int32Array, f: number, to: Int32Array, t: number): void {
  to[t] = from[f];
  to[t + 1] = from[f + 1];
  to[t + 2] = from[f + 2];
  to[t + 3] = from[f + 3];
}

/** Writes the IPv4 address `addr` (int32) to `to[t…]`. */
export function mapWords4(addr: number, to: Int32Array, t: number): void {
  to[t] = 0;
  to[t + 1] = 0;
  to[t + 2] = V4_MAPPED;
  to[t + 3] = addr;
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

/** An address of 4 or 16 bytes as four words of its own; null: none. Allocates. */
export function makeWords(bytes: Uint8Array): Int32Array;
export function makeWords(bytes: Uint8Array | null): Int32Array | null;
export function makeWords(bytes: Uint8Array | null): Int32Array | null {
  if (bytes === null) return null;
  const words = new Int32Array(4);
  addressWords(bytes, words, 0);
  return words;
}

/** Is the address `a[i…]` the same as `b[j…]`? */
export function wordsEqual(a: Int32Array, i: number, b: Int32Array, j: number): boolean {
  return a[i + 3] === b[j + 3] && a[i] === b[j] && a[i + 1] === b[j + 1] && a[i + 2] === b[j + 2];
}

/** True if both are there and equal, or neither is there. */
export function sameBytes(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
