/** Copies of few bytes, such as headers, between views of private or guest memory. Payload is copied by the addon. */

/** Bytes that are only moved: in the machine's own order nothing is swapped on the way. */
const LE = true;

/** Copies `length` bytes at `off` of `from` to `at` of `to`. The two do not overlap. */
export function copyBytes(from: DataView, off: number, to: DataView, at: number, length: number): void {
  let i = 0;
  for (; i + 4 <= length; i += 4) to.setInt32(at + i, from.getInt32(off + i, LE), LE);
  for (; i < length; i++) to.setUint8(at + i, from.getUint8(off + i));
}
