/** Test data. */

// Taken once: inside jest's sandbox each look at a global costs more than the rest of the loop.
const { imul } = Math;

/** `n` bytes that are not all alike. */
export function noise(n: number, seed = 1): Uint8Array {
  const out = new Uint8Array(n);
  let x = seed | 1;
  for (let i = 0; i < n; i++) {
    x = (imul(x, 1664525) + 1013904223) | 0;
    out[i] = x >>> 24;
  }
  return out;
}
