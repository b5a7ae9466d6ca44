/**
 * Offsets, sizes and flags of the split ring (virtio 1.2 §2.7). Everything in a ring is little-endian; indices are
 * accessed through typed arrays, so only little-endian hosts are supported (`checkHost`).
 *
 *     descriptor table (16 N bytes, aligned to 16)      available ring (6 + 2 N, to 2)    used ring (6 + 8 N, to 4)
 *     +--------- 8 ---------+-- 4 --+- 2 -+- 2 -+       +-------+-----+------------+      +-------+-----+----------------+
 *     | addr                | len   |flags| next|  x N  | flags | idx | ring[N]    |      | flags | idx | {id, len}[N]   |
 *     +---------------------+-------+-----+-----+       +-------+-----+------------+      +-------+-----+----------------+
 *                                                       | used_event |                    | avail_event |
 *                                                       +------------+                    +-------------+
 */
import type { SplitRingLayout } from './types';

/** Third argument of DataView accessors: ring contents are little-endian. */
export const LE = true;

/** Place value of the high half of an address. */
export const TWO_32 = 4294967296;

/** Bytes of one descriptor, and the offsets of its fields. */
export const DESC_SIZE = 16;
export const DESC_ADDR_LO = 0;
export const DESC_ADDR_HI = 4;
export const DESC_LEN = 8;
export const DESC_FLAGS = 12;
export const DESC_NEXT = 14;

export const VIRTQ_DESC_F_NEXT = 1;
export const VIRTQ_DESC_F_WRITE = 2;
export const VIRTQ_DESC_F_INDIRECT = 4;

export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;
export const VIRTQ_USED_F_NO_NOTIFY = 1;

/** Elements of the available ring seen as uint16s. */
export const AVAIL_FLAGS = 0;
export const AVAIL_IDX = 1;
export const AVAIL_RING = 2;
/** Elements of the used ring's header seen as uint16s. */
export const USED_FLAGS = 0;
export const USED_IDX = 1;

/** Offset of `idx` in the available and in the used ring. */
export const AVAIL_IDX_OFFSET = 2;
export const USED_IDX_OFFSET = 2;
/** Offset of the first used element, and its size. */
export const USED_ELEM_OFFSET = 4;
export const USED_ELEM_SIZE = 8;
/** Bytes of the `avail_event` field, and of `idx`. */
export const INDEX_SIZE = 2;

/** Largest ring, and the longest indirect table the device side accepts. */
export const MAX_RING_SIZE = 32768;
export const MAX_INDIRECT_ENTRIES = 1024;

/** Sizes in bytes of the three parts of a ring of `size` descriptors. */
export function descTableBytes(size: number): number {
  return DESC_SIZE * size;
}
export function availRingBytes(size: number): number {
  return 6 + 2 * size;
}
export function usedRingBytes(size: number): number {
  return 6 + 8 * size;
}

/** Offset within the used ring of the element for free-running index `idx` (dirty logging). */
export function usedElemOffset(size: number, idx: number): number {
  return USED_ELEM_OFFSET + USED_ELEM_SIZE * (idx & (size - 1));
}
/** Offset within the used ring of `avail_event` (dirty logging). */
export function availEventOffset(size: number): number {
  return USED_ELEM_OFFSET + USED_ELEM_SIZE * size;
}

/**
 * virtio 1.2 §2.7.7.2: whether moving an index from `old` to `now` passes `event`, all modulo 2^16: the other side
 * asked to be told when element number `event` is there.
 */
export function needEvent(event: number, now: number, old: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - old) & 0xffff);
}

/** Throws unless the host is little-endian: typed arrays would show the indices swapped. */
export function checkHost(): void {
  if (new Uint8Array(new Uint16Array([1]).buffer)[0] !== 1) {
    throw new Error('virtio-ring-ts needs a little-endian host');
  }
}

/**
 * Checks a layout once, at set-up. Throws RangeError for a size that is not a power of two in 1 … 32768, for indices
 * that could not be accessed in one piece (available ring at an odd offset, used ring not at a multiple of 4) and for a
 * part that does not fit its buffer. The descriptor table is copied field by field, so any offset does: its alignment
 * to 16 is a rule for guest addresses, and has been checked where they were translated.
 */
export function checkLayout(layout: SplitRingLayout): void {
  const n = layout.size;
  if (!Number.isInteger(n) || n < 1 || n > MAX_RING_SIZE || (n & (n - 1)) !== 0) {
    throw new RangeError(`ring size ${String(n)} is not a power of two up to ${String(MAX_RING_SIZE)}`);
  }
  checkPart('descriptor table', layout.desc, descTableBytes(n), 1);
  checkPart('available ring', layout.avail, availRingBytes(n), 2);
  checkPart('used ring', layout.used, usedRingBytes(n), 4);
}

function checkPart(what: string, place: SplitRingLayout['desc'], bytes: number, align: number): void {
  const { buffer, offset } = place;
  if (!Number.isSafeInteger(offset) || offset < 0 || offset % align !== 0) {
    throw new RangeError(`${what}: offset ${String(offset)} is not a multiple of ${String(align)}`);
  }
  if (offset + bytes > buffer.byteLength) {
    throw new RangeError(`${what}: ${String(bytes)} bytes at ${String(offset)} exceed the buffer`);
  }
}
