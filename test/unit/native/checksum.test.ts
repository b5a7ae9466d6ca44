import fc from 'fast-check';
import { E, native, region, setRows } from '../../support/native/addon';

/** Folded one's complement sum of big-endian 16-bit words (RFC 1071 §1), odd end zero-padded. */
function model(bytes: readonly number[], initial: number): number {
  let sum = BigInt(initial);
  bytes.forEach((byte, i) => {
    sum += BigInt(i % 2 === 0 ? byte * 256 : byte);
  });
  while (sum > 0xffffn) sum = (sum & 0xffffn) + (sum >> 16n);
  return Number(sum);
}

test('the example of RFC 1071 §3', () => {
  const { id, bytes } = region(8);
  bytes.set([0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
  setRows(0, [id, 0, 8]);
  expect(native.checksum(0, 1, 0)).toBe(0xddf2);
  native.retireRegion(id);
});

test('any bytes cut anywhere into rows, from any start', () => {
  const { id, bytes } = region(8192);
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 12 }),
      fc.nat(15),
      fc.oneof(fc.nat(0xffff), fc.nat(0xffffffff), fc.maxSafeNat()),
      (parts, gap, initial) => {
        let at = gap;
        const rows = parts.map((part): [number, number, number] => {
          bytes.set(part, at);
          const start = at;
          at += part.length + gap; // gaps: rows are not contiguous, nor aligned
          return [id, start, part.length];
        });
        setRows(3, ...rows);
        expect(native.checksum(3, rows.length, initial)).toBe(
          model(
            parts.flatMap((part) => [...part]),
            initial,
          ),
        );
      },
    ),
    { numRuns: 500 },
  );
  native.retireRegion(id);
});

test('carries: 64 KiB of 0xff, and two regions', () => {
  const a = region(65536);
  const b = region(3);
  a.bytes.fill(0xff);
  b.bytes.set([1, 2, 3]);
  setRows(0, [b.id, 0, 3], [a.id, 1, 65535]);
  expect(native.checksum(0, 2, 0xffff)).toBe(model([1, 2, 3, ...a.bytes.subarray(1)], 0xffff));
  expect(native.checksum(0, 0, 0)).toBe(0);
  expect(native.checksum(0, 0, 0x12345)).toBe(0x2346);
  expect(native.checksum(0, 0, -1)).toBe(-E.INVAL);
  native.retireRegion(a.id);
  native.retireRegion(b.id);
});
