/** Small numbers of samples: medians and ranges. */

export interface Summary {
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

/** Null when there is nothing to sum up. */
export function summarize(values: readonly number[]): Summary | null {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { median, least: sorted[0], most: sorted[sorted.length - 1] };
}
