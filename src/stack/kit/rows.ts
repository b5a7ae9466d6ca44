/** Rows (region, offset, length), and how to narrow them: from a frame's rows to those of its payload. */
import type { Rows } from '../ports';

/** More bytes than rows of one frame can name. */
const ALL = 0x7fffffff;

/** Row `row` names `bytes` bytes at `at` of region `region`. */
export function setRow(rows: Rows, row: number, region: number, at: number, bytes: number): void {
  rows.region[row] = region;
  rows.offset[row] = at;
  rows.length[row] = bytes;
}

/** How many bytes rows `row … row + count - 1` name. */
export function rowBytes(rows: Rows, row: number, count: number): number {
  let bytes = 0;
  for (let i = row; i < row + count; i++) bytes += rows.length[i];
  return bytes;
}

/**
 * Writes rows that name bytes [skip, skip + length) of what rows `row … row + count - 1` of `from` name to rows `at … limit -
 * 1` of `to`, which may be the same rows if `at` is not behind `row`. Returns how many there are; they name fewer bytes if
 * `from` does, or if there are no more rows.
 */
export function nameBytes(
  from: Rows,
  row: number,
  count: number,
  skip: number,
  length: number,
  to: Rows,
  at: number,
  limit: number,
): number {
  const { region, offset, length: lengths } = from;
  const { region: toRegion, offset: toOffset, length: toLengths } = to;
  const last = row + count;
  const first = at;
  for (let r = row; r < last && length > 0 && at < limit; r++) {
    const have = lengths[r];
    if (skip >= have) {
      skip -= have;
      continue;
    }
    const n = Math.min(have - skip, length);
    toRegion[at] = region[r];
    toOffset[at] = offset[r] + skip;
    toLengths[at] = n;
    skip = 0;
    length -= n;
    at++;
  }
  return at - first;
}

/**
 * Moves rows that name bytes [skip, skip + length) of what rows `row … row + count - 1` name to row `to` (at most `row`) and
 * those behind it. Returns how many there are; fewer bytes if the rows name fewer.
 */
export function moveRows(rows: Rows, row: number, count: number, skip: number, length: number, to: number): number {
  return nameBytes(rows, row, count, skip, length, rows, to, to + count);
}

/** Cuts `n` bytes off the front of what the rows name, moving rows down to `row`. Returns how many are left. */
export function cutFront(rows: Rows, row: number, count: number, n: number): number {
  if (count > 0 && n < rows.length[row]) {
    rows.offset[row] += n;
    rows.length[row] -= n;
    return count;
  }
  return moveRows(rows, row, count, n, ALL, row);
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
