/**
 * HalfSipHash-2-4 (Aumasson and Bernstein, the 32-bit SipHash) over arrays of 32-bit words: the keyed hash of the
 * flow tables and of initial sequence numbers. SipHash proper works on 64-bit words, which JavaScript does not have
 * without allocation; HalfSipHash needs only shifts, additions and exclusive ors of int32. A guest that cannot learn
 * the key cannot aim flows at one bucket.
 *
 * The input is defined as the words in little-endian byte order, so the result for w words equals the reference
 * implementation's for the 4 w bytes.
 */

/**
 * Hash of `count` words of `words` from index `start` on, under the 64-bit key (k0, k1), as int32.
 */
export function halfSipHash(words: Int32Array, start: number, count: number, k0: number, k1: number): number {
  let v0 = k0 | 0;
  let v1 = k1 | 0;
  let v2 = 0x6c796765 ^ k0;
  let v3 = 0x74656462 ^ k1;
  // Last block: the length in bytes modulo 256 in the top byte, and no left-over bytes, ours being whole words.
  const last = (count << 26) | 0;
  for (let i = 0; i <= count; i++) {
    const m = i < count ? words[start + i] : last;
    v3 ^= m;
    for (let round = 0; round < 2; round++) {
      v0 = (v0 + v1) | 0;
      v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
      v0 = (v0 << 16) | (v0 >>> 16);
      v2 = (v2 + v3) | 0;
      v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
      v0 = (v0 + v3) | 0;
      v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
      v2 = (v2 + v1) | 0;
      v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
      v2 = (v2 << 16) | (v2 >>> 16);
    }
    v0 ^= m;
  }
  v2 ^= 0xff;
  for (let round = 0; round < 4; round++) {
    v0 = (v0 + v1) | 0;
    v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
    v0 = (v0 << 16) | (v0 >>> 16);
    v2 = (v2 + v3) | 0;
    v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
    v0 = (v0 + v3) | 0;
    v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
    v2 = (v2 + v1) | 0;
    v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
    v2 = (v2 << 16) | (v2 >>> 16);
  }
  return (v1 ^ v3) | 0;
}
