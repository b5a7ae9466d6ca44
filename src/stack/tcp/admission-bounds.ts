/** The bounds of admission.ts as numbers. */

/** Half-open flows of one side, for a table of `capacity`. */
export function halfOpenLimit(capacity: number): number {
  return Math.max(4, Math.min(4096, capacity >> 1));
}
