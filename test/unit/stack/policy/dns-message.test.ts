/** Queries and answers of DNS. */
import fc from 'fast-check';
import { makeRefusal, readAnswer, readQuery } from '../../../../src/stack/policy/dns-message';
import { addressText } from '../../../support/stack/datagram-rig';
import { dnsAnswer, dnsName, dnsQuery, type DnsRecord } from '../../../support/stack/dns';

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const query = (bytes: Uint8Array) => readQuery(view(bytes), 0, bytes.length);

function found(bytes: Uint8Array): string[] | null {
  const answer = readAnswer(view(bytes), 0, bytes.length);
  if (answer === null) return null;
  return answer.addresses.map(
    ({ name, asked, at, length, ttlSec }) =>
      `${name}${asked ? '' : ' (alias)'} ${addressText(bytes.slice(at, at + length))} ${ttlSec}`,
  );
}

test('a query', () => {
  expect(query(dnsQuery(7, 'Www.Example.COM', 28))).toMatchObject({ id: 7, name: 'www.example.com', type: 28 });
  expect(query(dnsQuery(7, ''))).toMatchObject({ name: '' });
  // A dot within a label is no border of labels.
  const dotted = dnsQuery(7, 'axb.example');
  dotted[14] = 0x2e;
  expect(query(dotted)?.name).toBe('a\\046b.example');
});

test.each<[string, Uint8Array]>([
  ['an answer', dnsAnswer(1, 'a.example', [])],
  ['without a question', Uint8Array.of(0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)],
  ['cut', dnsQuery(1, 'a.example').slice(0, -1)],
  [
    'with an answer in it',
    (() => {
      const q = dnsQuery(1, 'a.example');
      q[7] = 1;
      return q;
    })(),
  ],
  [
    'of another opcode',
    (() => {
      const q = dnsQuery(1, 'a.example');
      q[2] = 0x28;
      return q;
    })(),
  ],
  ['of a name that points at itself', Uint8Array.of(0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1)],
  ['of a name that is too long', dnsQuery(1, Array<string>(5).fill('x'.repeat(63)).join('.'))],
])('no query: %s', (_what, bytes) => {
  expect(query(bytes)).toBeNull();
});

test.each<[string, readonly DnsRecord[], string[]]>([
  [
    'addresses of the name',
    [
      { name: 'a.example', a: '192.0.2.1' },
      { name: 'a.example', a: '2001:db8::1', ttl: 5 },
    ],
    ['a.example 192.0.2.1 300', 'a.example 2001:db8::1 5'],
  ],
  [
    'along aliases, in any order, the shortest time',
    [
      { name: 'c.example', a: '192.0.2.3' },
      { name: 'b.example', cname: 'c.example', ttl: 10 },
      { name: 'a.example', cname: 'b.example', ttl: 20 },
    ],
    ['a.example 192.0.2.3 10', 'b.example (alias) 192.0.2.3 10', 'c.example (alias) 192.0.2.3 10'],
  ],
  ['what nobody asked for', [{ name: 'bank.example', a: '192.0.2.66' }], []],
  [
    'aliases in a circle',
    [
      { name: 'a.example', cname: 'b.example' },
      { name: 'b.example', cname: 'a.example' },
    ],
    [],
  ],
])('%s', (_what, records, expected) => {
  expect(found(dnsAnswer(1, 'a.example', records))).toEqual(expected);
});

test('an answer with an error says nothing', () => {
  expect(found(dnsAnswer(1, 'a.example', [{ name: 'a.example', a: '192.0.2.1' }], 1, 3))).toEqual([]);
});

test('a refusal', () => {
  const bytes = dnsQuery(0x1234, 'A.example');
  const question = query(bytes)!;
  const length = makeRefusal(view(bytes), 0, question, 5);
  expect([...bytes.subarray(0, length)]).toEqual([
    0x12,
    0x34,
    0x81,
    0x85,
    0,
    1,
    0,
    0,
    0,
    0,
    0,
    0,
    ...dnsName('A.example'),
    0,
    1,
    0,
    1,
  ]);
});

test('any bytes, and messages with bytes changed: no exception', () => {
  const good = dnsAnswer(1, 'a.example', [
    { name: 'a.example', cname: 'b.example' },
    { name: 'b.example', a: '192.0.2.1' },
  ]);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      query(bytes);
      found(bytes);
    }),
  );
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 6 }),
      fc.nat(good.length),
      (changes, end) => {
        const bytes = good.slice();
        for (const [at, value] of changes) bytes[at] = value;
        query(bytes.subarray(0, end));
        found(bytes.subarray(0, end));
      },
    ),
    { numRuns: 2000 },
  );
});
