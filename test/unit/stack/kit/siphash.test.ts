import { halfSipHash } from '../../../../src/stack/kit/siphash';

/** Input 00 01 02 …, key 00 … 07, little-endian words. */
const WORDS = Int32Array.from({ length: 16 }, (_, i) => 0x03020100 + i * 0x04040404);
const K0 = 0x03020100;
const K1 = 0x07060504;

test.each([
  [0, 0x5b9f35a9],
  [1, 0x89466e2a],
  [2, 0x8f84b8d0],
  [3, 0x2f87f057],
  [4, 0x84acb5d9],
  [5, 0x45104de3],
])('reference vector of %i words', (count, hash) => {
  expect(halfSipHash(WORDS, 0, count, K0, K1) >>> 0).toBe(hash);
});

test('starts where it is told, and depends on the key', () => {
  const shifted = new Int32Array(20);
  shifted.set(WORDS, 4);
  expect(halfSipHash(shifted, 4, 5, K0, K1) >>> 0).toBe(0x45104de3);
  expect(halfSipHash(WORDS, 0, 5, K0 + 1, K1)).not.toBe(halfSipHash(WORDS, 0, 5, K0, K1));
});
