/** A capture whose file takes little, or nothing more: the port behind it goes on, whole records remain. */
import {
  CAPTURE_BLOCK,
  CaptureSink,
  SINK_DONE,
  type SinkIo,
  type SinkSetup,
} from '../../../../src/dataplane/capture/capture-sink';
import { CapturingPort, type CaptureIo } from '../../../../src/dataplane/capture/capturing-port';
import { CAPTURE_BYTES, CAPTURE_COUNTS, CAPTURE_FRAMES, CAPTURE_LEFT_OUT } from '../../../../src/dataplane/commands';
import { allocateBlock } from '../../../../src/dataplane/private-block';
import { frameText } from '../../../../src/dataplane/capture/tracing-port';
import { COUNTERS, C_CAPTURED, C_CAPTURE_LOST } from '../../../../src/stack/counters';
import { noise } from '../../../support/guest/noise';
import { datagram, internetChecksum } from '../../../support/stack/link-rig';
import { StreamRig, framed, unframed } from '../../../support/stream/stream-rig';

const ENOSPC = 28;
const EAGAIN = 11;
const EPIPE = 32;

let rig: StreamRig;
let written: Buffer[];
let answer: (length: number) => number;
let failures: number[];
/** Bytes that were cut off the file again. */
let cut: number;
let counters: Float64Array;
let port: CapturingPort;
let sink: CaptureSink;
let counts: Float64Array;
let makeSink: (more?: Partial<SinkSetup>) => CaptureSink;

beforeEach(() => {
  rig = new StreamRig();
  written = [];
  failures = [];
  cut = 0;
  answer = (length) => length;
  counters = new Float64Array(COUNTERS);
  const { rows } = rig.native;
  const io: CaptureIo & SinkIo = {
    rows,
    checksum: rig.native.checksum.bind(rig.native),
    copyRows: rig.native.copyRows.bind(rig.native),
    realTimeUs: () => 1_700_000_000_123_456,
    write: (_fd, buffer, offset, length) => {
      const n = answer(length);
      if (n > 0) written.push(Buffer.from(buffer.slice(offset, offset + n)));
      return n;
    },
    fileSize: () => Buffer.concat(written).length,
    ftruncate: (_fd, size) => {
      const all = Buffer.concat(written);
      cut += all.length - size;
      written = [all.subarray(0, size)];
      return 0;
    },
  };
  makeSink = (more = {}) => {
    const all = { fd: 7, snap: 262144, frames: Infinity, bytes: Infinity, head: new Uint8Array(0) };
    const block = allocateBlock(rig.native, CAPTURE_BLOCK);
    return new CaptureSink(io, counters, block, { ...all, counts, ...more }, (end) => failures.push(end));
  };
  counts = new Float64Array(CAPTURE_COUNTS);
  sink = makeSink();
  port = new CapturingPort(rig.port, io, [sink]);
});
afterEach(() => {
  rig.close();
});

/** Frames of the records written so far. @throws RangeError if one is cut. */
function records(): Buffer[] {
  const all = Buffer.concat(written);
  const frames: Buffer[] = [];
  for (let at = 0; at < all.length;) {
    expect([all.readUInt32LE(at), all.readUInt32LE(at + 4)]).toEqual([1_700_000_000, 123_456]);
    const length = all.readUInt32LE(at + 8);
    expect(all.readUInt32LE(at + 12)).toBe(length);
    at += 16;
    if (at + length > all.length) throw new RangeError('a record is cut');
    frames.push(all.subarray(at, at + length));
    at += length;
  }
  return frames;
}

function fromGuest(frame: Uint8Array): void {
  rig.write(framed(frame));
  rig.port.input.ready();
  expect(port.receive(0)).toBe(frame.length);
  port.releaseReceived();
}

test('both ways, in order, one write a turn; frames given back leave no record', () => {
  const sent = Buffer.from(noise(300, 1));
  fromGuest(sent);
  const header = noise(42, 2);
  const payload = noise(500, 3);
  for (let i = 0; i < 3; i++) expect(port.reserve(42, 500, 2048 + i)).toBe(1);
  for (let i = 0; i < 2; i++) rig.scatter(2048 + i, 1, payload);
  for (const used of [500, 400]) {
    port.front();
    header.forEach((byte, i) => port.out.setUint8(port.outOff + i, byte));
    port.commit(used, 0, 0, 0, 0, 0);
  }
  port.cancel();
  port.flush();
  const replies = [500, 400].map((used) => Buffer.concat([header, payload.subarray(0, used)]));
  expect(written).toHaveLength(1);
  expect(records()).toEqual([sent, ...replies]);
  expect(unframed(rig.read())).toEqual(replies);
});

test('a pipe that takes a part at a time gets whole records; while it takes nothing, frames are lost and counted', () => {
  answer = (length) => Math.min(length, 1000);
  for (let i = 0; i < 20; i++) {
    fromGuest(noise(2000, i));
    port.flush();
  }
  answer = () => -EAGAIN;
  for (let i = 0; i < 40; i++) {
    fromGuest(noise(60_000, i));
    port.flush();
  }
  expect(counters[C_CAPTURE_LOST]).toBeGreaterThan(10);
  expect(failures).toEqual([]);
  answer = (length) => length;
  port.flush();
  fromGuest(noise(99, 1));
  port.flush();
  expect(records()).toHaveLength(60 + 1 - counters[C_CAPTURE_LOST]);
  expect(counters[C_CAPTURED]).toBe(records().length);
});

test('an error ends the capture, is told once, and frames pass as before, each counted as lost', () => {
  answer = () => -ENOSPC;
  for (let i = 0; i < 3; i++) {
    fromGuest(noise(100, i));
    port.flush();
  }
  expect(failures).toEqual([ENOSPC]);
  expect([counters[C_CAPTURED], counters[C_CAPTURE_LOST]]).toEqual([0, 3]);
});

test('a disk that is full in the middle of a record keeps whole records, and what it has not is counted as lost', () => {
  answer = () => 2 * 116 + 50;
  for (let i = 0; i < 5; i++) fromGuest(noise(100, i));
  port.flush();
  answer = () => -ENOSPC;
  fromGuest(noise(100, 6));
  port.flush();
  fromGuest(noise(100, 7));
  port.flush();
  expect([failures, cut]).toEqual([[ENOSPC], 50]);
  expect(records()).toEqual([0, 1].map((i) => Buffer.from(noise(100, i))));
  expect([counters[C_CAPTURED], counters[C_CAPTURE_LOST]]).toEqual([2, 5]);
});

test('limits: bytes kept of a frame, frames, bytes; what comes behind them is not counted as left out', () => {
  const few = makeSink({ snap: 60, frames: 2, head: Buffer.from('head') });
  port.sinks = [few];
  fromGuest(noise(100, 1));
  const header = noise(42, 2);
  const payload = noise(500, 3);
  for (const used of [500, 10]) {
    expect(port.reserve(42, 500, 2048)).toBe(1);
    rig.scatter(2048, 1, payload);
    port.front();
    header.forEach((byte, i) => port.out.setUint8(port.outOff + i, byte));
    port.commit(used, 0, 0, 0, 0, 0);
  }
  expect(failures).toEqual([]);
  port.flush();
  expect(failures).toEqual([SINK_DONE]);
  const all = Buffer.concat(written);
  expect(all.subarray(0, 4).toString()).toBe('head');
  const lengths = [4, 4 + 76].map((at) => [all.readUInt32LE(at + 8), all.readUInt32LE(at + 12)]);
  expect([all.length, lengths]).toEqual([
    4 + 2 * 76,
    [
      [60, 100],
      [60, 542],
    ],
  ]);
  expect(all.subarray(20, 80)).toEqual(Buffer.from(noise(100, 1)).subarray(0, 60));
  expect(all.subarray(96, 156)).toEqual(Buffer.concat([header, payload]).subarray(0, 60));
  expect([...counts]).toEqual([2, 152, 0]);
  expect(few.isOver).toBe(true);

  port.sinks = [makeSink({ bytes: 2 * 116 + 115 })];
  for (let i = 0; i < 4; i++) fromGuest(noise(100, i));
  port.flush();
  expect(failures).toEqual([SINK_DONE, SINK_DONE]);
  expect([counts[CAPTURE_FRAMES], counts[CAPTURE_BYTES], counts[CAPTURE_LEFT_OUT]]).toEqual([4, 384, 0]);
});

test('a client that does not read: written to again when it can be, and what its frames cost is a comparison', () => {
  let calls = 0;
  answer = () => {
    calls++;
    return -EAGAIN;
  };
  sink.watched = true;
  for (let i = 0; i < 100; i++) {
    fromGuest(noise(60_000, i));
    port.flush();
  }
  expect(calls).toBe(1);
  const kept = 100 - counts[CAPTURE_LEFT_OUT];
  expect(kept).toBe(Math.floor(CAPTURE_BLOCK / 60_016));
  // It reads a little: nothing is moved for that, or each of its reads would cost a megabyte.
  answer = (length) => Math.min(length, 61_000);
  sink.writable();
  fromGuest(noise(60_000, 100));
  expect(counts[CAPTURE_LEFT_OUT]).toBe(100 - kept + 1);
  answer = (length) => length;
  sink.writable();
  fromGuest(noise(60_000, 101));
  sink.stop();
  expect(failures).toEqual([SINK_DONE]);
  expect(records()).toHaveLength(kept + 1);
  expect(counts[CAPTURE_FRAMES]).toBe(kept + 1);
});

test('a client that leaves: what it did not get is left out', () => {
  answer = () => -EAGAIN;
  sink.watched = true;
  for (let i = 0; i < 3; i++) fromGuest(noise(100, i));
  port.flush();
  sink.fail(EPIPE);
  sink.fail(EPIPE);
  expect(failures).toEqual([EPIPE]);
  expect([...counts]).toEqual([0, 0, 3]);
});

test('several at once: each gets its own', () => {
  const one = makeSink({ frames: 1 });
  port.sinks = [sink, one];
  fromGuest(noise(100, 1));
  fromGuest(noise(100, 2));
  port.flush();
  expect(records().map((record) => record.equals(Buffer.from(noise(100, 1))))).toEqual([true, false, true]);
  expect(failures).toEqual([SINK_DONE]);
});

test('a frame with a priority tag is traced and captured as one without, its checksum completed', () => {
  const plain = Buffer.from(datagram('192.0.2.10', 1024, '9.9.9.9', 53, noise(50, 1)));
  const frame = Buffer.concat([plain.subarray(0, 12), Buffer.from('8100e000', 'hex'), plain.subarray(12)]);
  const text = (b: Buffer): string => frameText(new DataView(Uint8Array.from(b).buffer), 0, b.length);
  expect(text(frame)).toBe(text(plain));
  // As a guest sends it: the checksum is that of the pseudo-header, not inverted.
  const left = Buffer.from(frame);
  const pseudo = Buffer.concat([plain.subarray(26, 34), Buffer.of(0, 17), plain.subarray(38, 40)]);
  left.writeUInt16BE(0xffff - internetChecksum(pseudo), 44);
  (rig.port as { csumPartial: boolean }).csumPartial = true;
  fromGuest(left);
  port.flush();
  expect(records()).toEqual([frame]);
  frame[15] = 7;
  expect(text(frame)).toBe('vlan 7, ethertype 0x0800');
});

test('a trace never reads past the bytes that are there', () => {
  for (let length = 0; length <= 96; length++) {
    for (const type of [0x0800, 0x0806, 0x86dd, 0x8100]) {
      const bytes = Buffer.from(noise(length, length + type));
      if (length >= 14) bytes.writeUInt16BE(type, 12);
      const view = new DataView(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + length));
      expect(frameText(view, 0, length)).toMatch(/./);
    }
  }
});
