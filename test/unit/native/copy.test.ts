/** Bytes from rows to rows. */
import { E, native, region, setRows } from '../../support/native/addon';

describe('copyRows', () => {
  const from = region(4096);
  const to = region(4096);
  beforeEach(() => {
    from.bytes.forEach((_, i) => (from.bytes[i] = (i * 7 + 1) & 0xff));
    to.bytes.fill(0);
  });

  test('pieces of any size to pieces of any other, as far as both go', () => {
    const source = [3, 0, 1, 64, 5].map((n, i) => [from.id, 100 * i, n] as const);
    const want = source.flatMap(([, at, n]) => [...from.bytes.subarray(at, at + n)]);
    for (const sizes of [[73], [80], [10], [1, 1, 1, 70], [0, 72, 1, 9]]) {
      to.bytes.fill(0);
      setRows(0, ...source);
      setRows(50, ...sizes.map((n, i) => [to.id, 200 * i, n] as const));
      const room = sizes.reduce((a, b) => a + b, 0);
      expect(native.copyRows(0, source.length, 50, sizes.length)).toBe(Math.min(73, room));
      const got = sizes.flatMap((n, i) => [...to.bytes.subarray(200 * i, 200 * i + n)]);
      expect(got.slice(0, 73)).toEqual(want.slice(0, room));
    }
  });

  test('nothing outside a region, nor outside the table', () => {
    setRows(0, [from.id, 0, 10]);
    setRows(1, [to.id, 4090, 10]);
    expect(native.copyRows(0, 1, 1, 1)).toBe(-E.FAULT);
    expect(native.copyRows(1, 1, 0, 1)).toBe(-E.FAULT);
    expect(native.copyRows(-1, 1, 0, 1)).toBe(-E.INVAL);
    expect(native.copyRows(0, 1, native.rows.capacity, 1)).toBe(-E.INVAL);
    expect(native.copyRows(0, 0, 0, 1)).toBe(0);
    expect(to.bytes.every((b) => b === 0)).toBe(true);
  });
});
