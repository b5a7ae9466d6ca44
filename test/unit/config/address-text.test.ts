import { isIPv4, isIPv6 } from 'node:net';
import fc from 'fast-check';
import * as a from '../../../src/config/address-text';

test('IPv6 text is canonical and reads back (RFC 5952)', () => {
  const group = fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff }));
  fc.assert(
    fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), (groups) => {
      const bytes = Uint8Array.from(groups.flatMap((g) => [g >> 8, g & 255]));
      const text = a.formatIp(bytes);
      expect(a.parseIp6(text)).toEqual(bytes);
      // The WHATWG URL serialiser is an implementation of RFC 5952 by other hands; it writes no dotted quads.
      if (!a.isV4Mapped(bytes))
        expect(`[${text}]`).toBe(new URL(`http://[${groups.map((g) => g.toString(16)).join(':')}]/`).hostname);
    }),
  );
});

test.each([
  ['::', true],
  ['::ffff:192.0.2.1', true],
  ['1::2:3:4:5:6:7:8', false],
  ['fe80::1%eth0', false],
  ['1:2:3:4:5:6:7:8', true],
  ['::192.0.2.1', true],
  ['[::1]', false],
  ['', false],
])('IPv6 %s: %s', (text, good) => {
  expect(a.parseIp6(text) !== null).toBe(good);
});

test('dotted quads', () => {
  expect(a.parseIp4('192.0.2.1')).toEqual(Uint8Array.of(192, 0, 2, 1));
  for (const text of ['192.0.2', '192.0.2.256', '0192.0.2.1', '127.1', ' 1.2.3.4']) expect(a.parseIp4(text)).toBeNull();
  expect(a.parseIp6('::ffff:192.0.2.1')).toEqual(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 1));
});

test('what is an address is what Node takes for one, but for zones', () => {
  const part = fc.oneof(
    fc.stringMatching(/^[0-9a-f]{0,5}$/),
    fc.nat(300).map(String),
    fc.constantFrom('::', '%', '01'),
  );
  const text = fc
    .array(fc.tuple(part, fc.constantFrom(':', '.', '::', '')), { maxLength: 10 })
    .map((parts) => parts.flat().join(''));
  const near = fc.tuple(fc.ipV6(), fc.constantFrom('', ':', '::', ':1', '.1')).map(([address, end]) => address + end);
  fc.assert(
    fc.property(fc.oneof(text, near, fc.ipV4(), fc.ipV6()), (candidate) => {
      expect([candidate, a.parseIp4(candidate) !== null]).toEqual([candidate, isIPv4(candidate)]);
      const isAddress = isIPv6(candidate) && !candidate.includes('%');
      expect([candidate, a.parseIp6(candidate) !== null]).toEqual([candidate, isAddress]);
    }),
    { numRuns: 3000 },
  );
});

test("masks and prefixes are each other's inverse", () => {
  for (let len = 0; len <= 32; len++) expect(a.prefixOf(a.maskOf(len))).toBe(len);
  expect(a.prefixOf(Uint8Array.of(255, 0, 255, 0))).toBe(-1);
  expect(a.formatIp(a.maskOf(20))).toBe('255.255.240.0');
});

test('MAC addresses', () => {
  expect(a.formatMac(a.parseMac('9A:55:9a:55:9a:05')!)).toBe('9a:55:9a:55:9a:05');
  for (const text of ['9a-55-9a-55-9a-55', '9a:55:9a:55:9a', '9:5:9:5:9:5', '']) expect(a.parseMac(text)).toBeNull();
});

test('classes of address', () => {
  const is = (text: string) => {
    const addr = a.parseIp(text)!;
    return [a.isLoopback(addr), a.isMulticast(addr), a.isUnspecified(addr), a.isBroadcast(addr), a.isLinkLocal6(addr)];
  };
  expect(is('127.9.9.9')).toEqual([true, false, false, false, false]);
  expect(is('::1')).toEqual([true, false, false, false, false]);
  expect(is('239.1.1.1')).toEqual([false, true, false, false, false]);
  expect(is('ff02::1')).toEqual([false, true, false, false, false]);
  expect(is('::')).toEqual([false, false, true, false, false]);
  expect(is('255.255.255.255')).toEqual([false, false, false, true, false]);
  expect(is('febf::1')).toEqual([false, false, false, false, true]);
  expect(is('fec0::1')).toEqual([false, false, false, false, false]);
});
