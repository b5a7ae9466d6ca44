/**
 * The kernel's neighbour table by rtnetlink(7): the Ethernet address of each IP address on the host's links. Pure
 * functions from messages to a map, and from the map to what the data plane's table takes.
 */
import type { AddressBytes } from '../stack/config';
import { AF_INET, AF_INET6, NLA_TYPE_MASK, splitMessages } from './netlink';

export const RTM_NEWNEIGH = 28;
export const RTM_DELNEIGH = 29;
export const RTM_GETNEIGH = 30;

// struct ndmsg (linux/neighbour.h): u8 family, three of padding, s32 interface, u16 state, u8 flags, u8 type.
const NDMSG_LEN = 12;
const NDA_DST = 1;
const NDA_LLADDR = 2;
const LE = true;

/** States in which the kernel uses the entry: permanent, noarp, reachable, probe, stale, delay. */
const NUD_VALID = 0x80 | 0x40 | 0x02 | 0x10 | 0x04 | 0x08;

export interface Neighbour {
  readonly index: number;
  readonly addr: AddressBytes;
  readonly mac: Uint8Array;
}

/** Address and interface as text → the neighbour, in the order in which they were found. */
export type Neighbours = Map<string, Neighbour>;

/**
 * Applies the neighbour messages of a datagram (of a dump or notifications) to `table`: valid entries with a 6-byte
 * address are set, others and those deleted go. Returns true if anything changed.
 */
export function applyNeighbours(bytes: Uint8Array, table: Neighbours): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let changed = false;
  for (const { type, start, end } of splitMessages(bytes)) {
    if ((type !== RTM_NEWNEIGH && type !== RTM_DELNEIGH) || end - start < NDMSG_LEN) continue;
    const family = bytes[start];
    if (family !== AF_INET && family !== AF_INET6) continue;
    const index = view.getInt32(start + 4, LE);
    const state = view.getUint16(start + 8, LE);
    let addr: AddressBytes | null = null;
    let mac: Uint8Array | null = null;
    for (let at = start + NDMSG_LEN; at + 4 <= end;) {
      const length = view.getUint16(at, LE);
      if (length < 4 || length > end - at) break;
      const kind = view.getUint16(at + 2, LE) & NLA_TYPE_MASK;
      const data = bytes.slice(at + 4, at + length);
      if (kind === NDA_DST && data.length === (family === AF_INET ? 4 : 16)) addr = data;
      // An interface without link-layer addresses (lo) has zeros here.
      if (kind === NDA_LLADDR && data.length === 6 && data.some((byte) => byte !== 0)) mac = data;
      at += (length + 3) & ~3;
    }
    // Group addresses map to group Ethernet addresses (RFC 1112, RFC 2464): nobody's.
    if (addr === null || addr[0] === 0xff || (addr.length === 4 && addr[0] >= 224)) continue;
    const key = `${index} ${String(addr)}`;
    const known = table.get(key);
    if (type === RTM_DELNEIGH || (state & NUD_VALID) === 0 || mac === null || (mac[0] & 1) !== 0) {
      changed = table.delete(key) || changed;
    } else if (known === undefined || String(known.mac) !== String(mac)) {
      table.set(key, { index, addr, mac });
      changed = true;
    }
  }
  return changed;
}

/**
 * What `Stack.setNeighbours` takes: those on the template interfaces (`index4`, `index6`; 0: none), six int32 words
 * each: the address as four words (IPv4 as v4-mapped), the Ethernet address as its high 16 and low 32 bits.
 */
export function neighbourEntries(table: Neighbours, index4: number, index6: number): Int32Array {
  const words: number[] = [];
  for (const { index, addr, mac } of table.values()) {
    const v4 = addr.length === 4;
    if (index !== (v4 ? index4 : index6)) continue;
    const view = new DataView(addr.buffer, addr.byteOffset, addr.byteLength);
    const address = v4 ? [0, 0, 0xffff, view.getInt32(0)] : [0, 4, 8, 12].map((at) => view.getInt32(at));
    const link = new DataView(mac.buffer, mac.byteOffset, 6);
    words.push(...address, link.getUint16(0), link.getInt32(2));
  }
  return Int32Array.from(words);
}
