/** A table of rows, and the sum over what some of them name, for ports and hosts in memory. */
import type { Rows } from '../../../src/stack/ports';

export function makeRows(capacity: number): Rows {
  return {
    region: new Int32Array(capacity),
    offset: new Float64Array(capacity),
    length: new Int32Array(capacity),
    capacity,
  };
}

/** As `HostIo.checksum`: the folded one's complement sum of `bytes`, byte by byte, from `initial` on. */
export function onesComplementSum(bytes: Uint8Array | readonly number[], initial: number): number {
  let sum = initial;
  const pairs = bytes.length & ~1;
  for (let i = 0; i < pairs; i += 2) sum += bytes[i] * 256 + bytes[i + 1];
  if (pairs < bytes.length) sum += bytes[pairs] * 256;
  while (sum > 0xffff) sum = (sum % 0x10000) + Math.floor(sum / 0x10000);
  return sum;
}
