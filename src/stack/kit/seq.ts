/**
 * Arithmetic on TCP sequence numbers (RFC 9293 §3.4): a uint32 circle, kept as int32 (`| 0`) so that V8 keeps it a
 * small integer. Comparisons are by signed difference and therefore hold for numbers less than 2^31 apart.
 */

/** a + n on the circle. */
export function seqAdd(a: number, n: number): number {
  return (a + n) | 0;
}

/** Signed distance from b to a: positive if a is later. */
export function seqDiff(a: number, b: number): number {
  return (a - b) | 0;
}

/** a is earlier than b. */
export function seqLt(a: number, b: number): boolean {
  return ((a - b) | 0) < 0;
}

/** a is b or earlier. */
export function seqLe(a: number, b: number): boolean {
  return ((a - b) | 0) <= 0;
}

/** a is later than b. */
export function seqGt(a: number, b: number): boolean {
  return ((a - b) | 0) > 0;
}

/** a is b or later. */
export function seqGe(a: number, b: number): boolean {
  return ((a - b) | 0) >= 0;
}

/** The later of two. */
export function seqMax(a: number, b: number): number {
  return ((a - b) | 0) >= 0 ? a : b;
}

/** base <= s < base + size, for 0 <= size < 2^31. */
export function seqInWindow(s: number, base: number, size: number): boolean {
  return (s - base) >>> 0 < size;
}
