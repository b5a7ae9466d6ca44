import fc from 'fast-check';
import { RowSpan } from '../../../../src/stack/kit/rows';
import { FakeMemory } from '../../../support/stack/fake-guest-port';

/** Rows over one region whose byte i is i, cut into the given lengths with gaps between them. */
function rowsOf(lengths: readonly number[]): { memory: FakeMemory; all: number[] } {
  const memory = new FakeMemory(64);
  const region = memory.add(4096);
  for (let i = 0; i < 4096; i++) memory.regions[region].setUint8(i, i & 0xff);
  let offset = 3;
  lengths.forEach((length, i) => {
    memory.rows.region[10 + i] = region;
    memory.rows.offset[10 + i] = offset;
    memory.rows.length[10 + i] = length;
    offset += length + 5;
  });
  return { memory, all: [...memory.gather(10, lengths.length)] };
}

test('names exactly the bytes asked for, whatever the rows', () => {
  const lengths = fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(lengths, fc.nat(200), fc.nat(200), (sizes, skip, length) => {
      const { memory, all } = rowsOf(sizes);
      const span = new RowSpan();
      const fits = skip + length <= all.length;
      expect(span.narrow(memory.rows, 10, sizes.length, skip, length)).toBe(fits);
      if (!fits) {
        expect([...memory.gather(10, sizes.length)]).toEqual(all);
        return;
      }
      expect(span.count).toBeGreaterThan(0);
      expect(span.first).toBeGreaterThanOrEqual(10);
      expect(span.first + span.count).toBeLessThanOrEqual(10 + sizes.length);
      expect([...memory.gather(span.first, span.count)]).toEqual(all.slice(skip, skip + length));
    }),
  );
});

test('narrowing twice', () => {
  const { memory, all } = rowsOf([14, 20, 3, 30]);
  const span = new RowSpan();
  expect(span.narrow(memory.rows, 10, 4, 34, 33)).toBe(true);
  expect(span.narrow(memory.rows, span.first, span.count, 8, 25)).toBe(true);
  expect([...memory.gather(span.first, span.count)]).toEqual(all.slice(42, 67));
});
