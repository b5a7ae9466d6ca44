/** The protocol of passt's control socket: its bytes. */
import fc from 'fast-check';
import { parsePortSpec, type PortRule, sameRule, specOf } from '../../../src/config/port-spec';
import { greeting, readRule, readTables, type Tables, writeRule } from '../../../src/control/pesto';

const BOTH = { v4: true, v6: true, tcp: true, udp: true };
const EPHEMERAL = { first: 32768, last: 60999 };

function rulesOf(protocol: 'tcp' | 'udp', spec: string): PortRule[] {
  return parsePortSpec(protocol, spec, EPHEMERAL, `${protocol} ${spec}`) ?? [];
}

const SPECS = [
  '22',
  '2222:22',
  '8000-8010:9000-9010',
  '192.0.2.1/80',
  '::1/80:81',
  '%eth0/53',
  '127.0.0.1%lo/53',
  '127.0.0.1/8080:10.0.2.100/80',
  '0.0.0.0/443:192.0.2.9',
  '::/443',
];

test.each(SPECS)('%s: a rule comes back as it went, and as the text that is parsed to it', (spec) => {
  for (const rule of [...rulesOf('tcp', spec), ...rulesOf('udp', spec)]) {
    const bytes = writeRule(rule, BOTH);
    expect(bytes).toHaveLength(56);
    expect(sameRule(readRule(bytes).rule, rule)).toBe(true);
    expect(rulesOf(rule.protocol, specOf(rule)).map((again) => sameRule(again, rule))).toEqual([true]);
  }
});

test('the greeting: magic, version 2, sizes, one table, its end', () => {
  const bytes = greeting(rulesOf('tcp', '2000-2002:3000-3002'), BOTH);
  expect(bytes.toString('hex', 0, 20)).toBe('626173696c3a7300' + '00000002' + '00000080' + '00000010');
  expect([bytes[20], bytes.toString('latin1', 21, 26)]).toEqual([1, 'HOST\0']);
  expect([bytes.readUInt32BE(149), bytes.readUInt32BE(153)]).toEqual([0x2f, 1]);
  expect(bytes.toString('hex', 157 + 48, 157 + 56)).toBe('07d007d20bb80601');
  expect([bytes.length, bytes.at(-1)]).toEqual([157 + 56 + 1, 0]);
});

test('tables are read when they are whole', () => {
  const rules = rulesOf('tcp', '22,80');
  const count = Buffer.alloc(5);
  count[0] = 1;
  count.writeUInt32BE(rules.length, 1);
  const whole = Buffer.concat([count, ...rules.map((rule) => writeRule(rule, BOTH)), Buffer.alloc(1)]);
  for (let n = 0; n < whole.length; n++) expect(readTables(whole.subarray(0, n))).toBeNull();
  expect(readTables(whole)?.host?.map((rule, i) => sameRule(rule, rules[i]))).toEqual([true, true]);
  expect(readTables(Buffer.alloc(1))).toBeUndefined();
  expect(() => readTables(Buffer.concat([whole, Buffer.alloc(1)]))).toThrow('bytes behind the end');
});

test('a namespace has a second table, whose rules may be automatic', () => {
  const auto = rulesOf('tcp', '8000-8010:9000-9010').map((rule) => ({ rule, scan: true }));
  const named = rulesOf('udp', '53').map((rule) => ({ rule, scan: false }));
  const one = greeting(rulesOf('tcp', '22'), BOTH);
  const two = greeting(rulesOf('tcp', '22'), BOTH, [...named, ...auto]);
  expect(two.subarray(0, one.length - 1).equals(one.subarray(0, -1))).toBe(true);
  const at = one.length - 1;
  expect([two[at], two.toString('latin1', at + 1, at + 8)]).toEqual([3, 'SPLICE\0']);
  expect([two.readUInt32BE(at + 129), two.readUInt32BE(at + 133)]).toEqual([0x3f, 2]);
  const answer = Buffer.concat([
    Buffer.from([3, 0, 0, 0, 2]),
    two.subarray(at + 137, at + 137 + 2 * 56),
    Buffer.from([1, 0, 0, 0, 0, 0]),
  ]);
  expect(readTables(answer, true)).toMatchObject({
    host: [],
    splice: [
      { scan: false, rule: { ifname: 'lo' } },
      { scan: true, rule: { first: 8000, last: 8010, targetFirst: 9000 } },
    ],
  });
  expect(() => readTables(answer)).toThrow('table 3, there is 1 only');
  const scanned = Buffer.concat([Buffer.from([1, 0, 0, 0, 1]), writeRule(auto[0].rule, BOTH, true), Buffer.alloc(1)]);
  expect(() => readTables(scanned, true)).toThrow('automatic rules are those of table 3');
});

test('any bytes are rules, no rules yet, or refused', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), fc.boolean(), (noise, framed) => {
      const bytes = framed ? Buffer.concat([Buffer.from([1, 0, 0, 0, 1]), noise]) : Buffer.from(noise);
      let tables: Tables | null | undefined;
      try {
        tables = readTables(bytes, true);
      } catch (error) {
        expect((error as Error).message).toMatch(/\S/);
        return;
      }
      for (const { first, last, targetFirst } of [
        ...(tables?.host ?? []),
        ...(tables?.splice ?? []).map(({ rule }) => rule),
      ]) {
        expect(first).toBeGreaterThan(0);
        expect(last).toBeGreaterThanOrEqual(first);
        expect(targetFirst + last - first).toBeLessThan(65536);
      }
    }),
  );
});
