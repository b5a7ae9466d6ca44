/** Rows (region, offset, length), and how to narrow them: from a frame's rows to those of its payload. */
import type { Rows } from '../ports';

/** How many bytes rows `row … row + count - 1` name. */
export function rowBytes(rows: Rows, row: number, count: number): number {
  let bytes = 0;
  for (let i = row; i < row + count; i++) bytes += rows.length[i];
  return bytes;
}

/**
 * Moves rows that name bytes [skip, skip + length) of what rows `row … row + count - 1` name to row `to` (at most `row`) and
 * those behind it. Returns how many there are; fewer bytes if the rows name fewer.
 */
export function moveRows(rows: Rows, row: number, count: number, skip: number, length: number, to: number): number {
  const { region, offset, length: lengths } = rows;
  const last = row + count;
  const first = to;
  for (let from = row; from < last && length > 0; from++) {
    const have = lengths[from];
    if (skip >= have) {
      skip -= have;
      continue;
    }
    const n = Math.min(have - skip, length);
    region[to] = region[from];
    offset[to] = offset[from] + skip;
    lengths[to] = n;
    skip = 0;
    length -= n;
    to++;
  }
  return to - first;
}

/** Result of `narrow`, reused. At least one row, which may be empty. */
export class RowSpan {
  first = 0;
  count = 0;

  /**
   * Narrows rows `row … row + count - 1`, in place, to bytes [skip, skip + length) of what they name. Returns false,
   * with the rows untouched, if they name fewer bytes.
   */
  narrow(rows: Rows, row: number, count: number, skip: number, length: number): boolean {
    const lengths = rows.length;
    const end = row + count;
    let first = row;
    let left = skip;
    while (first < end && left >= lengths[first] && (left > 0 || lengths[first] === 0)) left -= lengths[first++];
    if (first === end) {
      // Nothing is left: an empty part is named by the emptied last row.
      if (count === 0 || left !== 0 || length !== 0) return false;
      rows.offset[end - 1] += lengths[end - 1];
      lengths[end - 1] = 0;
      this.first = end - 1;
      this.count = 1;
      return true;
    }
    let last = first;
    let want = length + left;
    while (last < end && want > lengths[last]) want -= lengths[last++];
    if (last === end) return false;
    lengths[last] = want;
    rows.offset[first] += left;
    lengths[first] -= left;
    this.first = first;
    this.count = last + 1 - first;
    return true;
  }
}
