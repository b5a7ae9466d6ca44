/** The servers that clients of QUIC name in their Initial packets. */
import fc from 'fast-check';
import { deriveQuicKeys } from '../../../../src/dataplane/quic-keys';
import { QUIC_DONE, QUIC_MORE, QUIC_NONE, QuicClient } from '../../../../src/stack/policy/quic-client';
import { GREASE } from '../../../support/stack/client-hello';
import {
  ACK,
  cryptoFrame,
  helloMessage,
  initialPacket,
  PING,
  QUIC_V1,
  QUIC_V2,
  quicHello,
} from '../../../support/stack/quic';

const hex = (text: string): Buffer => Buffer.from(text.replace(/\s/g, ''), 'hex');
const ID = hex('8394c8f03e515708');
const OTHER = hex('0011223344556677');
const NAME = 'www.example.com';

/** What each datagram gives, and the names found. */
function readAll(...datagrams: readonly Uint8Array[]): { codes: number[]; names: string[] } {
  const client = new QuicClient(deriveQuicKeys);
  const names: string[] = [];
  const codes = datagrams.map((datagram) => {
    const code = client.read(datagram);
    if (code !== QUIC_NONE) names.push(...client.found);
    return code;
  });
  return { codes, names };
}

const initial = (frames: readonly Uint8Array[], more: object = {}): Buffer =>
  initialPacket({ destination: ID, frames, ...more });

// RFC 9001 §A.2 and RFC 9369 §A.2: the same frame, filled up with PADDING; header, and the beginning and the end of the packet.
const FRAME = hex(`060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868
  04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578
  616d706c652e636f6dff01000100000a00080006001d00170018001000070005
  04616c706e000500050100000000003300260024001d00209370b2c9caa47fba
  baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400
  0d0010000e0403050306030203080408050806002d00020101001c0002400100
  3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000
  75300901100f088394c8f03e51570806048000ffff`);

test.each([
  [
    'RFC 9001 §A.2',
    QUIC_V1,
    'c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11',
    '7e78bfe706ca4cf5e9c5453e9f7cfd2b8b4c8d169a44e55c88d4a9a7f9474241e221af44860018ab0856972e194cd934',
  ],
  [
    'RFC 9369 §A.2',
    QUIC_V2,
    'd76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485',
    'a18b2faa745b6fe189cf772a9f84cbfc',
  ],
])('the packet of %s', (_where, version, begin, end) => {
  const packet = initial([FRAME], { version, number: 2, numberSize: 4 });
  expect(packet).toHaveLength(1200);
  expect(packet.toString('hex').slice(0, begin.length)).toBe(begin);
  expect(packet.toString('hex').slice(-end.length)).toBe(end);
  expect(readAll(packet)).toEqual({ codes: [QUIC_DONE], names: ['example.com'] });
});

describe('a hello', () => {
  const message = helloMessage(NAME, GREASE);
  const at = (from: number, to: number): Buffer => cryptoFrame(message.slice(from, to), from);

  test('in frames out of order, that overlap, among PADDING, PING and ACK', () => {
    const frames = [PING, at(40, 60), Buffer.alloc(3), at(0, 10), ACK, at(5, 45), at(60, message.length)];
    expect(readAll(initial(frames))).toEqual({ codes: [QUIC_DONE], names: [NAME] });
  });

  test('in several datagrams, and in several packets of one', () => {
    const parts = [at(30, message.length), at(0, 20), at(20, 30)];
    const whole = parts.map((part, number) => initial([part], { number }));
    expect(readAll(...whole)).toEqual({ codes: [QUIC_MORE, QUIC_MORE, QUIC_DONE], names: [NAME] });
    const short = parts.map((part, number) => initial([part], { number, size: 0 }));
    expect(readAll(Buffer.concat(short))).toEqual({ codes: [QUIC_DONE], names: [NAME] });
  });

  test('with a packet number of each size, a token, and a source', () => {
    for (const numberSize of [1, 2, 3, 4]) {
      const packet = initial([at(0, message.length)], { numberSize, token: Buffer.alloc(100, 1), source: OTHER });
      expect(readAll(packet)).toEqual({ codes: [QUIC_DONE], names: [NAME] });
    }
    // The number's upper bytes are those of the largest before.
    const later = [250, 257, 300].map((number) => initial([PING], { number }));
    expect(readAll(initial([at(0, message.length)], { number: 200 }), ...later).codes).toEqual(
      Array(4).fill(QUIC_DONE),
    );
  });

  test('again, the same: nothing new; another one: a contradiction', () => {
    const first = quicHello(NAME, ID);
    expect(readAll(first, first)).toEqual({ codes: [QUIC_DONE, QUIC_DONE], names: [NAME] });
    // The server may not have had the first one: too short a datagram for it.
    const short = initial([at(0, message.length)], { size: 0 });
    const bad = initial([cryptoFrame(helloMessage('bad.example.com'))], { number: 1 });
    expect(readAll(short, bad).codes).toEqual([QUIC_DONE, QUIC_NONE]);
  });

  test('after a HelloRetryRequest a second one follows, which is read', () => {
    const second = cryptoFrame(helloMessage('second.example.com'), message.length);
    expect(readAll(initial([at(0, message.length)]), initial([second], { number: 1 }))).toEqual({
      codes: [QUIC_DONE, QUIC_DONE],
      names: [NAME, 'second.example.com'],
    });
  });

  test('after a Retry it comes with keys of another connection ID; later packets have those of the first', () => {
    const retried = initial([at(0, message.length)], { destination: OTHER, token: Buffer.from('t') });
    const acknowledged = initial([ACK], { destination: Buffer.from('server'), keysOf: OTHER, number: 1 });
    const before = quicHello(NAME, ID);
    expect(readAll(before, retried, acknowledged)).toEqual({ codes: Array(3).fill(QUIC_DONE), names: [NAME, NAME] });
  });

  test('in another version from then on: keys of the same connection ID', () => {
    const later = initial([ACK], { version: QUIC_V2, destination: Buffer.from('server'), keysOf: ID, number: 1 });
    expect(readAll(quicHello(NAME, ID), later).codes).toEqual([QUIC_DONE, QUIC_DONE]);
  });

  test('a second connection in the flow has to name its server, too', () => {
    const hidden = Buffer.concat([
      initial([PING], { number: 1, size: 0 }),
      initialPacket({ destination: OTHER, frames: [cryptoFrame(helloMessage('bad.example.com'))] }),
    ]);
    expect(readAll(quicHello(NAME, ID), hidden).names).toEqual([NAME, 'bad.example.com']);
    const unfinished = initialPacket({ destination: OTHER, frames: [at(0, 20)] });
    expect(readAll(quicHello(NAME, ID), unfinished).codes).toEqual([QUIC_DONE, QUIC_MORE]);
  });

  test('packets of other types beside it', () => {
    // 0-RTT and Handshake of version 1, with four bytes each.
    const others = [0xd0, 0xe0].map((first) =>
      Buffer.concat([Buffer.from([first, 0, 0, 0, 1, 0, 0, 4]), PING, PING, ACK.subarray(0, 2)]),
    );
    const packet = initial([at(0, message.length)], { size: 0 });
    expect(readAll(Buffer.concat([others[0], packet, others[1]]))).toEqual({ codes: [QUIC_DONE], names: [NAME] });
    expect(readAll(others[0]).codes).toEqual([QUIC_MORE]);
  });
});

test.each<[string, Uint8Array]>([
  ['a version that nobody knows', initialPacket({ version: 0x0a0a0a0a, destination: ID, frames: [PING] })],
  ['a packet whose tag is wrong', Buffer.concat([quicHello(NAME, ID).subarray(0, 1199), Buffer.from([0x55])])],
  ['a packet that ends early', quicHello(NAME, ID).subarray(0, 1000)],
  ['a hello without a name', initial([cryptoFrame(helloMessage(null))])],
  ['another handshake message', initial([cryptoFrame(Uint8Array.of(2, 0, 0, 0))])],
  ['more than hellos have', initial([cryptoFrame(Uint8Array.of(1), 40_000)])],
  ['a frame of application data', initial([Uint8Array.of(8, 0, 1)])],
  ['a frame CRYPTO that ends early', initial([Uint8Array.of(6, 0, 0x44, 0xff)])],
  ['a frame ACK of too many ranges', initial([Uint8Array.of(2, 0, 0, 0xbf, 0xff, 0xff, 0xff, 0)])],
  ["a Retry, which is the server's", Buffer.concat([Buffer.from([0xf0, 0, 0, 0, 1, 0, 0]), Buffer.alloc(32)])],
  ['an ID of 21 bytes', Buffer.concat([Buffer.from([0xc0, 0, 0, 0, 1, 21]), Buffer.alloc(60)])],
  ['a header that ends early', Uint8Array.of(0xc0, 0, 0, 0)],
])('%s: nothing', (_what, datagram) => {
  expect(readAll(datagram).codes).toEqual([QUIC_NONE]);
});

test('any bytes, and packets with any byte changed: never an exception, never a name that is none', () => {
  const check = (bytes: Uint8Array): void => {
    for (const name of readAll(bytes, quicHello('good.example', OTHER)).names) {
      expect([NAME, 'good.example']).toContain(name);
    }
  };
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), check));
  const good = quicHello(NAME, ID);
  fc.assert(
    fc.property(fc.nat(60), fc.nat(255), (at, value) => {
      const bytes = Buffer.from(good);
      bytes[at] = value;
      check(bytes);
    }),
    { numRuns: 500 },
  );
  const frames = fc.array(
    fc.oneof(fc.uint8Array({ maxLength: 20 }), fc.constantFrom(PING, ACK, cryptoFrame(helloMessage(NAME)))),
  );
  fc.assert(
    fc.property(frames, (list) => {
      check(initial(list, { size: 0 }));
    }),
    { numRuns: 500 },
  );
});
