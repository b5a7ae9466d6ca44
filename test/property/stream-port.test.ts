/** The stream port against what any client may do: any bytes, in any pieces. */
import fc from 'fast-check';
import { STREAM_BAD_LENGTH, STREAM_OPEN } from '../../src/dataplane/stream/input';
import { noise } from '../support/guest/noise';
import { StreamRig, framed, unframed } from '../support/stream/stream-rig';

let rig: StreamRig;
beforeAll(() => {
  rig = new StreamRig();
});
afterAll(() => {
  rig.close();
});

/** What a straightforward reader makes of all the bytes: the frames, and whether a length was out of range. */
function parse(bytes: Buffer): { frames: Buffer[]; bad: boolean } {
  const frames: Buffer[] = [];
  for (let at = 0; ;) {
    if (bytes.length - at < 4) return { frames, bad: false };
    const length = bytes.readUInt32BE(at);
    if (length < 14 || length > 65535) return { frames, bad: true };
    if (bytes.length - at - 4 < length) return { frames, bad: false };
    frames.push(bytes.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
}

function feed(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  rig.connect();
  const got: Buffer[] = [];
  const places = [...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
  let at = 0;
  for (const place of places) {
    // No more at a time than a socket buffer takes.
    for (; at < place; at = Math.min(place, at + 60_000)) {
      rig.write(bytes.subarray(at, Math.min(place, at + 60_000)));
      if (place - at > 60_000) got.push(...rig.turn());
    }
    got.push(...rig.turn());
  }
  return got;
}

const cutsArbitrary = fc.array(fc.nat(), { maxLength: 12 });

test('frames of any length in any pieces arrive as they were', () => {
  const lengths = fc.array(fc.oneof(fc.integer({ min: 14, max: 300 }), fc.integer({ min: 14, max: 65535 })), {
    maxLength: 20,
  });
  fc.assert(
    fc.property(lengths, cutsArbitrary, (all, cuts) => {
      const frames = all.map((length, i) => Buffer.from(noise(length, i)));
      const got = feed(Buffer.concat(frames.map(framed)), cuts);
      expect(got.length).toBe(frames.length);
      got.forEach((frame, i) => expect(frame.equals(frames[i])).toBe(true));
      expect(rig.port.input.end).toBe(STREAM_OPEN);
    }),
    { numRuns: 150 },
  );
});

test('any bytes: the frames before the first bad length, and no more', () => {
  // Lengths mostly plausible, so that the reader gets past the first one.
  const piece = fc.oneof(
    fc.uint8Array({ maxLength: 40 }),
    fc.integer({ min: 0, max: 100 }).map((length) => Uint8Array.of(0, 0, 0, length)),
    fc.integer({ min: 14, max: 80 }).map((length) => framed(noise(length, length))),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 30 }), cutsArbitrary, (pieces, cuts) => {
      const bytes = Buffer.concat(pieces);
      const expected = parse(bytes);
      const got = feed(bytes, cuts);
      expect(got).toEqual(expected.frames);
      expect(rig.port.input.end).toBe(expected.bad ? STREAM_BAD_LENGTH : STREAM_OPEN);
    }),
    { numRuns: 500 },
  );
});

test('any order of frames, short frames, given back frames, and reads: the client sees whole frames in order', () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('send' as const), room: fc.nat(65_000), used: fc.nat(65_000) }),
    fc.record({ kind: fc.constant('flush' as const) }),
    fc.record({ kind: fc.constant('read' as const), bytes: fc.integer({ min: 1, max: 200_000 }) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      rig.connect();
      const header = noise(30, 1);
      const sent: Buffer[] = [];
      const received: Buffer[] = [];
      steps.forEach((s, i) => {
        if (s.kind === 'flush') rig.port.flush();
        else if (s.kind === 'read') {
          const part = Buffer.alloc(s.bytes);
          const n = rig.native.recvFds(rig.client, part, 0, part.length, new Int32Array(1));
          if (n > 0) received.push(part.subarray(0, n));
          if (rig.port.output.blocked) rig.port.output.resume();
        } else {
          const rows = rig.port.reserve(30, s.room, 2048);
          if (rows < 0) return;
          const payload = Buffer.from(noise(s.room, i));
          rig.scatter(2048, rows, payload);
          if (s.used > s.room) {
            rig.port.cancel();
            return;
          }
          rig.commit(header, s.used);
          const frame = Buffer.concat([header, payload.subarray(0, s.used)]);
          sent.push(Buffer.concat([frame, Buffer.alloc(Math.max(0, 60 - frame.length))]));
        }
      });
      do received.push(rig.read());
      while (!rig.port.output.resume());
      received.push(rig.read());
      const frames = unframed(Buffer.concat(received));
      expect(frames.length).toBe(sent.length);
      frames.forEach((frame, i) => expect(frame.equals(sent[i])).toBe(true));
    }),
    { numRuns: 200 },
  );
});
