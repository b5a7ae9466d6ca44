/** Names that the user gave: what is answered here, and which queries reach the resolver. */
import { NO_EXTRAS } from '../../../../src/stack/config';
import { dnsQuestion } from '../../../../src/stack/wire/dns';
import { ip } from '../../../support/stack/addresses';
import { bytes, datagram, dissect, linkRig, u16 } from '../../../support/stack/link-rig';
import type { LinkRig } from '../../../support/stack/link-rig';

const G4 = '192.0.2.10';
const G6 = '2001:db8::10';
const R4 = '192.0.2.53';
const R6 = '2001:db8::53';
const A = 1;
const PTR = 12;
const AAAA = 28;

const names = [
  { name: 'printer', addr: ip('192.0.2.9') },
  { name: 'both.example', addr: ip('192.0.2.8') },
  { name: 'both.example', addr: ip('192.0.2.7') },
  { name: 'both.example', addr: ip('2001:db8::8') },
];

const rigWith = (): LinkRig =>
  linkRig({ extras: { ...NO_EXTRAS, names } }, { dns: [ip(R4)] }, { dns: [ip(R6)], dnsMatch: ip('fe80::1') });

const wireName = (name: string): Uint8Array =>
  bytes(...name.split('.').flatMap((label) => [[label.length], [...Buffer.from(label)]]), [0]);
const query = (name: string, type: number, head = '1234 0100 0001 0000 0000 0000', tail = ''): Uint8Array =>
  bytes(head, wireName(name), u16(type), u16(1), tail);

/** The answer as counts and records; null: it went on. */
function ask(
  rig: LinkRig,
  message: Uint8Array,
  to = R4,
): { head: string; records: [number, string][]; tail: string } | null {
  const before = rig.udp.frames.length;
  const frames = rig.exchange(datagram(to.includes(':') ? G6 : G4, 5353, to, 53, message));
  if (rig.udp.frames.length > before) {
    expect(frames).toEqual([]);
    return null;
  }
  const d = dissect(frames[0]);
  expect([d.srcPort, d.dstPort]).toEqual([53, 5353]);
  const answer = Buffer.from(d.payload);
  let at = 12;
  while (answer[at] !== 0) at += 1 + answer[at];
  at += 5;
  const records: [number, string][] = [];
  for (let i = answer.readUInt16BE(6); i > 0; i--) {
    expect(answer.subarray(at, at + 2).toString('hex')).toBe('c00c');
    expect(answer.readUInt32BE(at + 6)).toBe(60);
    const length = answer.readUInt16BE(at + 10);
    records.push([answer.readUInt16BE(at + 2), answer.subarray(at + 12, at + 12 + length).toString('hex')]);
    at += 12 + length;
  }
  return { head: answer.subarray(0, 12).toString('hex'), records, tail: answer.subarray(at).toString('hex') };
}

test.each([R4, R6, 'fe80::1'])('addresses, by a resolver at %s', (to) => {
  const rig = rigWith();
  expect(ask(rig, query('printer', A), to)).toEqual({
    head: '123485800001000100000000',
    records: [[A, 'c0000209']],
    tail: '',
  });
  expect(ask(rig, query('BOTH.Example', A), to)?.records).toEqual([
    [A, 'c0000208'],
    [A, 'c0000207'],
  ]);
  expect(ask(rig, query('both.example', AAAA), to)?.records).toEqual([
    [AAAA, Buffer.from(ip('2001:db8::8')).toString('hex')],
  ]);
  expect(ask(rig, query('both.example', 255), to)?.records).toHaveLength(3);
});

test('what the name has not: nothing, and nobody else is asked', () => {
  const rig = rigWith();
  for (const type of [AAAA, 65, 15]) expect(ask(rig, query('printer', type))?.head).toBe('123485800001000000000000');
});

test('the way back', () => {
  const rig = rigWith();
  expect(ask(rig, query('9.2.0.192.in-addr.arpa', PTR))?.records).toEqual([
    [PTR, Buffer.from(wireName('printer')).toString('hex')],
  ]);
  const nibbles = `8.${'0.'.repeat(23)}8.b.d.0.1.0.0.2`;
  expect(ask(rig, query(`${nibbles}.ip6.arpa`, PTR), R6)?.records).toEqual([
    [PTR, Buffer.from(wireName('both.example')).toString('hex')],
  ]);
});

test('EDNS is answered with EDNS', () => {
  const message = query('printer', A, '1234 0100 0001 0000 0000 0001', '00 0029 04d0 00000000 0000');
  expect(ask(rigWith(), message)?.tail).toBe('0000290200000000000000');
});

test.each<[string, Uint8Array, string?]>([
  ['other names', query('printer.example', A)],
  ['a part of the name', query('example', A)],
  ['the root', bytes('1234 0100 0001 0000 0000 0000 00 0002 0001')],
  ['another server', query('printer', A), '9.9.9.9'],
  ['an answer', query('printer', A, '1234 8180 0001 0000 0000 0000')],
  ['an update', query('printer', A, '1234 2800 0001 0000 0000 0000')],
  ['two questions', query('printer', A, '1234 0100 0002 0000 0000 0000')],
  ['another class', bytes('1234 0100 0001 0000 0000 0000', wireName('printer'), u16(A), u16(3))],
  ['a pointer', bytes('1234 0100 0001 0000 0000 0000 c00c 0001 0001')],
  ['a name that is cut short', query('printer', A).subarray(0, 18)],
  ['a name without its end', bytes('1234 0100 0001 0000 0000 0000 07', [...Buffer.from('printer')])],
  ['nothing', new Uint8Array(0)],
  ['a dot inside a label', bytes('1234 0100 0001 0000 0000 0000 0c', [...Buffer.from('both.example')], '00 0001 0001')],
])('%s: reaches the resolver', (_, message, to = R4) => {
  expect(ask(rigWith(), message, to)).toBeNull();
});

test('random bytes never throw, and never read beyond their end', () => {
  for (let i = 0; i < 20_000; i++) {
    const length = Math.floor(Math.random() * 80);
    const all = new Uint8Array(length + 16).fill(0xff);
    for (let k = 0; k < length; k++) all[k] = Math.random() * 256;
    all.set(bytes('1234 0100 0001 0000 0000 0000'), 0);
    const question = dnsQuestion(new DataView(all.buffer), 0, length);
    if (question !== null) expect(question.end).toBeLessThanOrEqual(length);
  }
});

test('without names a query costs nothing, and reaches the resolver', () => {
  expect(ask(linkRig({}, { dns: [ip(R4)] }), query('printer', A))).toBeNull();
});

test('a flood of queries: one answer each, nothing kept', () => {
  const rig = rigWith();
  for (let i = 0; i < 2000; i++) expect(rig.exchange(datagram(G4, i, R4, 53, query('printer', A)))).toHaveLength(1);
});
