import { age, bitsPerSecond, bytes, count, perSecond, seconds } from '../../../src/page/format';

test.each([
  [bitsPerSecond(0), '0 bit/s'],
  [bitsPerSecond(999.4), '999 bit/s'],
  [bitsPerSecond(999.6), '1 kbit/s'],
  [bitsPerSecond(1234), '1.23 kbit/s'],
  [bitsPerSecond(9.996e6), '10 Mbit/s'],
  [bitsPerSecond(123.4e9), '123 Gbit/s'],
  [bitsPerSecond(5e15), '5000 Tbit/s'],
  [perSecond(1.5), '1.5 /s'],
  [perSecond(0.004), '4e-3 /s'],
  [bytes(0), '0 B'],
  [bytes(999), '999 B'],
  [bytes(20_500_000), '20.5 MB'],
  [count(1_234_567), '1\u202f234\u202f567'],
  [seconds(0), '0 s'],
  [seconds(12e-6), '12 µs'],
  [seconds(0.9994e-3), '999 µs'],
  [seconds(1e-3), '1 ms'],
  [seconds(2.5), '2.5 s'],
  [age(-5), '0 s'],
  [age(59_999), '59 s'],
  [age(61_000), '1 min 1 s'],
  [age(3_600_000), '1 h 0 min'],
  [age(90_000_000), '1 d 1 h'],
])('%s', (text, expected) => {
  expect(text).toBe(expected);
});
