/**
 * The Internet checksum, RFC 1071.
 *
 * Sums are plain numbers: any number of 16-bit words added up, not folded until `checksumFold`. A sum of up to 2^32 /
 * 0xffff = 65 537 words stays below 2^32, and every function here accepts and returns sums below 2^53, so parts may be
 * added freely and folded once at the end. On the wire goes `checksumFinish(sum)`.
 */

/**
 * Adds the 16-bit big-endian words of [off, off + length) to `sum`. An odd last byte is padded with zero on the right,
 * so only the last part of a message may have odd length. The bytes must be inside `dv`.
 */
export function checksumAdd(dv: DataView, off: number, length: number, sum: number): number {
  let i = off;
  const end = off + length;
  // Two words at a time: the high halves are added in place value 2^16 and folded back later.
  for (; i + 4 <= end; i += 4) {
    const word = dv.getUint32(i);
    sum += (word >>> 16) + (word & 0xffff);
  }
  if (i + 2 <= end) {
    sum += dv.getUint16(i);
    i += 2;
  }
  if (i < end) sum += dv.getUint8(i) << 8;
  return sum;
}

/** Folds carries back in: 0 … 0xffff, not inverted. */
export function checksumFold(sum: number): number {
  while (sum > 0xffffffff) sum = (sum % 0x100000000) + Math.floor(sum / 0x100000000);
  sum = (sum >>> 16) + (sum & 0xffff);
  sum = (sum >>> 16) + (sum & 0xffff);
  return sum;
}

/** Folds and inverts: what goes into the checksum field. */
export function checksumFinish(sum: number): number {
  return ~checksumFold(sum) & 0xffff;
}

/** As `checksumFinish`, with 0 replaced by 0xffff: a UDP checksum of 0 means "none" (RFC 768, RFC 8200 §8.1). */
export function checksumFinishUdp(sum: number): number {
  return checksumFinish(sum) || 0xffff;
}

/** True if a message that includes its checksum field, pseudo-header and all, sums up to `sum`. */
export function checksumOk(sum: number): boolean {
  return checksumFold(sum) === 0xffff;
}

/** Sum of the IPv4 pseudo-header (RFC 9293 §3.1): addresses as int32, `length` of transport header and payload. */
export function pseudoHeaderSum4(src: number, dst: number, protocol: number, length: number): number {
  return (src >>> 16) + (src & 0xffff) + (dst >>> 16) + (dst & 0xffff) + protocol + length;
}

/** Sum of the IPv6 pseudo-header (RFC 8200 §8.1). `words[at…]` holds both addresses, in either order: eight words. */
export function pseudoHeaderSum6(words: Int32Array, at: number, protocol: number, length: number): number {
  let sum = protocol + (length >>> 16) + (length & 0xffff);
  for (let i = at; i < at + 8; i++) sum += (words[i] >>> 16) + (words[i] & 0xffff);
  return sum;
}

/** Sum of the pseudo-header of either family: `words[at…]` as for `pseudoHeaderSum6`, IPv4 addresses v4-mapped. */
export function pseudoHeaderSum(v4: boolean, words: Int32Array, at: number, protocol: number, length: number): number {
  if (v4) return pseudoHeaderSum4(words[at + 3], words[at + 7], protocol, length);
  return pseudoHeaderSum6(words, at, protocol, length);
}
