/** QEMU's stream framing over a real socket pair: whole, in pieces, and wrong. */
import { STREAM_BAD_LENGTH, STREAM_EOF, STREAM_OPEN } from '../../../../src/dataplane/stream/input';
import { ROWS_OUT } from '../../../../src/stack/scratch';
import { noise } from '../../../support/guest/noise';
import { StreamRig, framed, unframed } from '../../../support/stream/stream-rig';

const EPIPE = 32;

let rig: StreamRig;
beforeEach(() => {
  rig = new StreamRig();
});
afterEach(() => {
  rig.close();
});

const frames = (...lengths: number[]): Buffer[] => lengths.map((length, i) => Buffer.from(noise(length, i + 1)));

/** As toEqual, for megabytes. */
function expectSame(got: readonly Uint8Array[], sent: readonly Uint8Array[]): void {
  expect(got.length).toBe(sent.length);
  got.forEach((frame, i) => expect([i, Buffer.compare(frame, sent[i])]).toEqual([i, 0]));
}

describe('from the guest', () => {
  test('the shortest and the longest frame, and many in one read', () => {
    const sent = frames(14, 60, 1514, 65535, 15);
    rig.write(Buffer.concat(sent.map(framed)));
    expectSame(rig.turn(), sent);
    expect(rig.turn()).toEqual([]);
    expect(rig.port.input.end).toBe(STREAM_OPEN);
  });

  test('cut at every place', () => {
    const sent = frames(14, 60);
    const bytes = Buffer.concat(sent.map(framed));
    for (let cut = 0; cut <= bytes.length; cut++) {
      if (cut > 0) rig.write(bytes.subarray(0, cut));
      const first = rig.turn();
      if (cut < bytes.length) rig.write(bytes.subarray(cut));
      expect([...first, ...rig.turn()]).toEqual(sent);
    }
  });

  test('a byte at a time', () => {
    const sent = frames(33, 14);
    const got: Buffer[] = [];
    for (const byte of Buffer.concat(sent.map(framed))) {
      rig.write(Uint8Array.of(byte));
      got.push(...rig.turn());
    }
    expect(got).toEqual(sent);
  });

  test('more than the block holds, through its end again and again', () => {
    for (let round = 0; round < 60; round++) {
      const sent = frames(65535, 20 + round, 9000 + round);
      const bytes = Buffer.concat(sent.map(framed));
      const cut = (round * 997) % bytes.length;
      rig.write(bytes.subarray(0, cut));
      const got = rig.turn();
      rig.write(bytes.subarray(cut));
      got.push(...rig.turn());
      expectSame(got, sent);
    }
  });

  test('frames that are held are not written over, however many come', () => {
    const sent = frames(...Array<number>(30).fill(60_000));
    const held: { row: number; at: number }[] = [];
    let next = 0;
    rig.port.input.ready();
    for (let row = 0; ; row++) {
      while (next < sent.length && rig.native.outq(rig.client) < 65_536) rig.write(framed(sent[next++]));
      rig.port.input.ready();
      if (rig.port.receive(row) === 0) break;
      held.push({ row, at: row });
    }
    expect(rig.port.input.more).toBe(true);
    // Less than the block holds, and more than one socket buffer.
    expect(held.length).toBeGreaterThan(10);
    for (const { row, at } of held) expect(rig.gather(row, 1).equals(sent[at])).toBe(true);
    rig.port.releaseReceived();
    const rest: Buffer[] = rig.turn();
    while (next < sent.length) {
      rig.write(framed(sent[next++]));
      rest.push(...rig.turn());
    }
    expectSame(rest, sent.slice(held.length));
  });

  test.each([0, 1, 13, 65536, 0x7fffffff, 0x80000000, 0xffffffff])('a length of %d ends the connection', (length) => {
    const [good] = frames(60);
    const bad = Buffer.alloc(100);
    bad.writeUInt32BE(length);
    rig.write(Buffer.concat([framed(good), bad]));
    expect(rig.turn()).toEqual([good]);
    expect(rig.port.input.end).toBe(STREAM_BAD_LENGTH);
    expect(rig.port.input.badLength).toBe(length);
    rig.write(framed(good));
    expect(rig.turn()).toEqual([]);
  });

  test('what was sent before the end is received, an unfinished frame is not', () => {
    const sent = frames(60, 61);
    rig.write(Buffer.concat([...sent.map(framed), framed(noise(100, 9)).subarray(0, 50)]));
    rig.native.shutdown(rig.client, 1);
    expect(rig.turn()).toEqual(sent);
    expect(rig.turn()).toEqual([]);
    expect(rig.port.input.end).toBe(STREAM_EOF);
  });

  test("a dead client's unfinished frame is not the next one's beginning", () => {
    const sent = frames(60);
    for (let cut = 0; cut < 64; cut++) {
      rig.connect();
      rig.write(framed(sent[0]).subarray(0, cut));
      expect(rig.turn()).toEqual([]);
      rig.connect();
      rig.write(framed(sent[0]));
      expect(rig.turn()).toEqual(sent);
    }
  });

  test('the head grows by what is asked for, up to the frame and MAX_HEAD', () => {
    const sent = frames(3000, 40);
    rig.write(Buffer.concat(sent.map(framed)));
    const { port } = rig;
    expect(port.receive(0)).toBe(3000);
    expect([port.headLen, port.pull(200), port.pull(100), port.pull(5000)]).toEqual([96, 200, 200, 2048]);
    expect(Buffer.from(port.head.buffer as ArrayBuffer).equals(sent[0].subarray(0, 2048))).toBe(true);
    expect(port.receive(1)).toBe(40);
    expect([port.headLen, port.pull(96)]).toEqual([40, 40]);
  });
});

describe('to the guest', () => {
  test('frames of one turn, short ones padded with zeros', () => {
    const [header] = frames(42);
    expect(rig.send(header, noise(1000, 2))).toBe(true);
    expect(rig.send(header, new Uint8Array(0))).toBe(true);
    expect(rig.send(header, noise(65535 - 42, 3))).toBe(true);
    expect(rig.read()).toHaveLength(0);
    rig.port.flush();
    const [first, second, third] = unframed(rig.read());
    expect(first).toEqual(Buffer.concat([header, noise(1000, 2)]));
    expect(second).toEqual(Buffer.concat([header, Buffer.alloc(18)]));
    expectSame([third], [Buffer.concat([header, noise(65535 - 42, 3)])]);
  });

  test('nothing above 65535 bytes is reserved', () => {
    expect(rig.port.maxFrame).toBe(65535);
    expect(rig.port.reserve(42, 65535 - 41, ROWS_OUT)).toBe(-1);
  });

  test('several reserved in a row, the later ones short or given back', () => {
    const { port } = rig;
    const header = noise(20, 1);
    for (let i = 0; i < 4; i++) expect(port.reserve(20, 1000, ROWS_OUT + i)).toBe(1);
    for (let i = 0; i < 4; i++) rig.scatter(ROWS_OUT + i, 1, noise(1000, 10 + i));
    rig.commit(header, 1000);
    rig.commit(header, 300);
    rig.commit(header, 10);
    port.cancel();
    expect(rig.send(header, noise(77, 5))).toBe(true);
    port.flush();
    const padding = Buffer.alloc(30);
    expect(unframed(rig.read())).toEqual([
      Buffer.concat([header, noise(1000, 10)]),
      Buffer.concat([header, noise(1000, 11).subarray(0, 300)]),
      Buffer.concat([header, noise(1000, 12).subarray(0, 10), padding]),
      Buffer.concat([header, noise(77, 5)]),
    ]);
  });

  test.each([0, 1, 2, 57, 1400])('a checksum left to the port is complete: %d bytes of payload', (length) => {
    const header = Buffer.from(noise(42, 4));
    header.writeUInt16BE(0x1234, 40); // the pseudo-header's sum
    rig.send(header, noise(length, 6), { start: 34, offset: 6 });
    rig.port.flush();
    const [frame] = unframed(rig.read());
    // The field now holds the complement of everything: with the pseudo-header's sum again, all ones.
    let sum = 0x1234;
    frame.subarray(34, 42 + length).forEach((byte, i) => (sum += i % 2 === 0 ? byte << 8 : byte));
    while (sum > 0xffff) sum = (sum >>> 16) + (sum & 0xffff);
    expect(sum).toBe(0xffff);
  });

  test('a full socket holds frames back, and none is lost or cut when it empties', () => {
    const header = noise(42, 1);
    const sent: Buffer[] = [];
    const received: Buffer[] = [];
    let blocked = 0;
    for (let round = 0; received.length === 0 || blocked < 5; round++) {
      const payload = noise((round * 7919) % 60_000, round);
      while (!rig.send(header, payload)) {
        expect(rig.port.output.blocked).toBe(true);
        blocked++;
        // The client reads a little at a time: the rest of a frame that the socket took in part follows.
        const part = Buffer.alloc(50_001);
        const n = rig.native.recvFds(rig.client, part, 0, part.length, new Int32Array(1));
        received.push(part.subarray(0, n));
        rig.port.output.resume();
      }
      sent.push(Buffer.concat([header, payload, Buffer.alloc(Math.max(0, 18 - payload.length))]));
      rig.port.flush();
    }
    for (;;) {
      const more = rig.read();
      if (more.length === 0 && !rig.port.output.blocked) break;
      received.push(more);
      rig.port.output.resume();
    }
    expectSame(unframed(Buffer.concat(received)), sent);
  });

  test('a turn that fills the block sends early', () => {
    const header = noise(42, 1);
    let sent = 0;
    while (sent < 5000 && rig.send(header, noise(958, sent))) sent++;
    // 5000 × 1004 bytes are more than the block, and the socket takes less: held back, not thrown away.
    expect(sent).toBeLessThan(5000);
    expect(rig.port.output.blocked).toBe(true);
    const received: Buffer[] = [];
    do received.push(rig.read());
    while (!rig.port.output.resume());
    received.push(rig.read());
    expect(unframed(Buffer.concat(received))).toHaveLength(sent);
  });

  test('a client that is gone ends the connection, and the next one begins with a whole frame', () => {
    const header = noise(42, 1);
    rig.native.shutdown(rig.client, 0);
    rig.send(header, noise(100, 1));
    rig.port.flush();
    expect(rig.port.output.end).toBe(-EPIPE);
    expect(rig.send(header, noise(100, 2))).toBe(false);
    rig.connect();
    rig.send(header, noise(100, 3));
    rig.port.flush();
    expect(unframed(rig.read())).toEqual([Buffer.concat([header, noise(100, 3)])]);
  });

  test('not connected, nothing is reserved and nothing received', () => {
    rig.disconnect();
    expect(rig.port.up).toBe(false);
    expect(rig.send(noise(42, 1), noise(1, 1))).toBe(false);
    expect(rig.port.receive(0)).toBe(0);
  });
});
