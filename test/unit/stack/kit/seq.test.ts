import fc from 'fast-check';
import { seqAdd, seqDiff, seqGe, seqGt, seqInWindow, seqLe, seqLt, seqMax } from '../../../../src/stack/kit/seq';

const u32 = fc.nat(0xffffffff);
const near = fc.integer({ min: -(2 ** 31) + 1, max: 2 ** 31 - 1 });

test('against big integers', () => {
  fc.assert(
    fc.property(u32, near, (a, d) => {
      const b = Number(BigInt.asUintN(32, BigInt(a) + BigInt(d)));
      expect(seqAdd(a | 0, d) >>> 0).toBe(b);
      expect(seqDiff(b | 0, a | 0)).toBe(d);
      expect(seqLt(b | 0, a | 0)).toBe(d < 0);
      expect(seqLe(b | 0, a | 0)).toBe(d <= 0);
      expect(seqGt(b | 0, a | 0)).toBe(d > 0);
      expect(seqGe(b | 0, a | 0)).toBe(d >= 0);
      expect(seqMax(a | 0, b | 0)).toBe((d > 0 ? b : a) | 0);
    }),
  );
});

test('windows', () => {
  fc.assert(
    fc.property(u32, fc.nat(2 ** 31 - 1), u32, (base, size, s) => {
      const distance = Number(BigInt.asUintN(32, BigInt(s) - BigInt(base)));
      expect(seqInWindow(s | 0, base | 0, size)).toBe(distance < size);
    }),
  );
});
