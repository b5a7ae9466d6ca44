/** Counting into histograms (../counters.ts): two additions to a typed array, no allocation. */
import type { Counters, Histogram } from '../counters';

/** Above this a value counts as this much: it fits an int32, and is beyond the last bucket of every histogram. */
export const MOST = 0x3fff_ffff;

/** `value`: an int32, 0 … MOST. */
export function observe(counters: Counters, { at, shift, buckets }: Histogram, value: number): void {
  // 2^(n - 1) < value <= 2^n; n is 0 for 0 and 1.
  const n = 32 - Math.clz32(value > 1 ? value - 1 : 0);
  const bucket = n <= shift ? 0 : n - shift;
  counters[at] += value;
  counters[at + 1 + (bucket < buckets ? bucket : buckets)]++;
}
