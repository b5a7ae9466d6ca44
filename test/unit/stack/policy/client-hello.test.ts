/** The server's name in the first bytes of a stream. */
import fc from 'fast-check';
import { HELLO_MORE, HELLO_NONE, readHello } from '../../../../src/stack/policy/client-hello';
import { GREASE, hello, realHello, serverName } from '../../../support/stack/client-hello';

const NAME = 'www.example.com';

test('of a real library, whole or in part', async () => {
  const bytes = await realHello(NAME);
  expect(readHello(bytes)).toBe(NAME);
  for (let n = 0; n < bytes.length; n++) expect(readHello(bytes.subarray(0, n))).toBe(HELLO_MORE);
  // What follows it (early data) is no part of it.
  expect(readHello(Buffer.concat([bytes, Buffer.from([23, 3, 3, 0, 1, 0])]))).toBe(NAME);
});

test.each<[string, Uint8Array, string | number]>([
  ['cut into records of a byte', hello(serverName(NAME), 1), NAME],
  ['among extensions that nobody knows', hello([...GREASE, ...serverName(NAME), ...GREASE]), NAME],
  ['in capitals, with a final dot', hello(serverName('WWW.Example.COM.')), NAME],
  [
    'Encrypted ClientHello: the outer name',
    hello([0xfe, 0x0d, 0, 2, 0, 1, ...serverName('outer.example')]),
    'outer.example',
  ],
  ['none', hello(GREASE), HELLO_NONE],
  ['two extensions of it', hello([...serverName(NAME), ...serverName('b.example')]), HELLO_NONE],
  ['two names in it', hello([0, 0, 0, 10, 0, 8, 0, 0, 1, 0x61, 0, 0, 1, 0x62]), HELLO_NONE],
  ['a name with a zero byte', hello(serverName('a\0.example')), HELLO_NONE],
  ['an extension longer than the hello', hello([0, 0, 0xff, 0xff, 0]), HELLO_NONE],
  ['HTTP', Buffer.from('GET / HTTP/1.1\r\n'), HELLO_NONE],
  ['SSL 2', Uint8Array.of(0x80, 0x2e, 1, 3, 1), HELLO_NONE],
  ['another message', Uint8Array.of(22, 3, 1, 0, 4, 2, 0, 0, 0), HELLO_NONE],
  ['an empty record', Uint8Array.of(22, 3, 1, 0, 0), HELLO_NONE],
  ['a record that is too long', Uint8Array.of(22, 3, 1, 0x40, 1), HELLO_NONE],
])('%s', (_what, bytes, found) => {
  expect(readHello(bytes)).toBe(found);
});

test('any bytes, and hellos with any byte changed: never an exception, never a name that is none', () => {
  const check = (bytes: Uint8Array): void => {
    const found = readHello(bytes);
    if (typeof found === 'string') expect(found).toMatch(/^[a-z0-9_.-]{1,253}$/);
  };
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), check));
  const good = hello([...GREASE, ...serverName(NAME)], 40);
  fc.assert(
    fc.property(fc.nat(good.length - 1), fc.nat(255), fc.nat(good.length), (at, value, end) => {
      const bytes = good.slice(0, end);
      if (at < end) bytes[at] = value;
      check(bytes);
    }),
    { numRuns: 2000 },
  );
});
