/** The tap port over a device in the test's hands: what is read and written, header and all. */
import { TAP_INPUT_BLOCK, TAP_OPEN, type TapIo } from '../../../../src/dataplane/tap/input';
import { TAP_OUTPUT_BLOCK } from '../../../../src/dataplane/tap/output';
import { TAP_PLAIN, TapGuestPort } from '../../../../src/dataplane/tap/port';
import { C_DROPS, COUNTERS, dropCode, type DropName } from '../../../../src/stack/counters';
import { COMMIT_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_UDP_L4 } from '../../../../src/stack/ports';

const EAGAIN = 11;
const EIO = 5;
const EBADFD = 77;
const OFFLOADS = 0x7f;
const FD = 9;
const ROW = 3;

const IN = 1;
const OUT = 2;

/** A tap: frames to be read, frames written, and the error of the next writes. */
class FakeTap {
  readonly waiting: Uint8Array[] = [];
  readonly written: Buffer[] = [];
  readError = -EAGAIN;
  reads = 0;
  readonly writeErrors: number[] = [];
  readonly blocks = new Map([
    [IN, Buffer.alloc(TAP_INPUT_BLOCK)],
    [OUT, Buffer.alloc(TAP_OUTPUT_BLOCK)],
  ]);
  readonly counters = new Float64Array(COUNTERS);
  readonly io: TapIo = {
    rows: {
      region: new Int32Array(8192),
      offset: new Float64Array(8192),
      length: new Int32Array(8192),
      capacity: 8192,
    },
    checksum: (row, count, initial) => {
      expect(count).toBe(1);
      const bytes = this.named(row);
      let sum = initial;
      for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i] << 8) | (i + 1 < bytes.length ? bytes[i + 1] : 0);
      while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
      return sum;
    },
    tapRead: (_fd, region, offset, end, most, lengths) => {
      this.reads++;
      let at = offset;
      let n = 0;
      while (n < lengths.length && at + most <= end) {
        const frame = this.waiting.shift();
        if (frame === undefined) {
          lengths[n] = this.readError;
          return n > 0 ? n : this.readError;
        }
        this.block(region).set(frame, at);
        lengths[n++] = frame.length;
        at = Math.ceil((at + frame.length) / 64) * 64;
      }
      if (n < lengths.length) lengths[n] = 0;
      return n;
    },
    tapWrite: (_fd, region, offsets, lengths, first, end) => {
      for (let i = first; i < end; i++) {
        const error = this.writeErrors.shift() ?? 0;
        if (error < 0) return i > first ? (this.writeErrors.unshift(error), i - first) : error;
        this.written.push(Buffer.from(this.block(region).subarray(offsets[i], offsets[i] + lengths[i])));
      }
      return end - first;
    },
  };
  readonly port: TapGuestPort;

  constructor(offloads = OFFLOADS) {
    this.port = new TapGuestPort(this.io, this.view(IN), this.view(OUT), this.counters);
    this.port.start(FD, offloads);
  }

  block(region: number): Buffer {
    return this.blocks.get(region) ?? Buffer.alloc(0);
  }

  /** The bytes of a row. */
  named(row: number): Buffer {
    const { region, offset, length } = this.io.rows;
    return this.block(region[row]).subarray(offset[row], offset[row] + length[row]);
  }

  drops(name: DropName): number {
    return this.counters[C_DROPS + dropCode(name)];
  }

  private view(region: number): { region: number; view: DataView } {
    const block = this.block(region);
    return { region, view: new DataView(block.buffer, block.byteOffset, block.byteLength) };
  }
}

function frame(length: number, fill = 7): Buffer {
  return Buffer.alloc(length, fill);
}

interface HeaderFields {
  readonly flags?: number;
  readonly gsoType?: number;
  readonly gsoSize?: number;
  readonly csumStart?: number;
  readonly csumOffset?: number;
}

/** A frame behind its virtio_net_hdr. */
function withHeader(bytes: Buffer, fields: HeaderFields = {}): Buffer {
  const header = Buffer.alloc(10);
  header[0] = fields.flags ?? 0;
  header[1] = fields.gsoType ?? 0;
  header.writeUInt16LE(fields.gsoSize ?? 0, 4);
  header.writeUInt16LE(fields.csumStart ?? 0, 6);
  header.writeUInt16LE(fields.csumOffset ?? 0, 8);
  return Buffer.concat([header, bytes]);
}

describe('frames from the namespace', () => {
  test('each is named by a row, its first bytes are in head, many a call', () => {
    const tap = new FakeTap();
    const frames = Array.from({ length: 100 }, (_, i) => frame(60 + i, i));
    tap.waiting.push(...frames.map((one) => withHeader(one)));
    for (const one of frames) {
      expect(tap.port.receive(ROW)).toBe(one.length);
      expect(tap.named(ROW)).toEqual(one);
      expect(tap.port.head.getUint8(tap.port.headLen - 1)).toBe(one[0]);
    }
    expect(tap.port.receive(ROW)).toBe(0);
    expect(tap.port.input.end).toBe(TAP_OPEN);
  });

  test('the device is not read again behind the last frame, but for an error that came there', () => {
    const tap = new FakeTap();
    tap.waiting.push(withHeader(frame(60)), withHeader(frame(61)));
    while (tap.port.receive(ROW) > 0) tap.port.releaseReceived();
    expect(tap.reads).toBe(1);
    tap.port.input.ready();
    tap.waiting.push(withHeader(frame(60)));
    tap.readError = -77; // EBADFD
    while (tap.port.receive(ROW) > 0) tap.port.releaseReceived();
    expect(tap.reads).toBe(3);
    expect(tap.port.input.end).toBe(-77);
  });

  test('a held block that is full ends the batch, and goes on after the release', () => {
    const tap = new FakeTap();
    const large = withHeader(frame(65_000));
    tap.waiting.push(...Array.from({ length: 40 }, () => large));
    let got = 0;
    for (let rounds = 0; rounds < 10 && got < 40; rounds++) {
      while (tap.port.receive(ROW) > 0) got++;
      expect(tap.port.input.more).toBe(got < 40);
      tap.port.input.more = false;
      tap.port.releaseReceived();
    }
    expect(got).toBe(40);
  });

  test('marks of large frames are handed on, wrong ones are dropped', () => {
    const tap = new FakeTap();
    const tcp = { flags: 1, gsoType: GSO_TCPV4, gsoSize: 1448, csumStart: 34, csumOffset: 16 };
    const udp = { flags: 1, gsoType: GSO_UDP_L4, gsoSize: 1000, csumStart: 34, csumOffset: 6 };
    const wrong: HeaderFields[] = [
      { ...tcp, gsoSize: 0 },
      { ...tcp, flags: 0 },
      { ...tcp, csumStart: 5000 },
      { ...tcp, gsoType: 3 },
      { ...udp, csumOffset: 16 },
      { ...udp, gsoType: GSO_UDP_L4 | 0x80 },
    ];
    tap.waiting.push(...wrong.map((fields) => withHeader(frame(4000), fields)));
    tap.waiting.push(withHeader(frame(4000), tcp), withHeader(frame(4000), udp), withHeader(frame(100)));
    expect(tap.port.receive(ROW)).toBe(4000);
    expect(tap.drops('vnet_header')).toBe(wrong.length);
    expect(tap.port).toMatchObject({ gsoType: GSO_TCPV4, gsoSize: 1448, csumPartial: true });
    expect(tap.port.receive(ROW)).toBe(4000);
    expect(tap.port).toMatchObject({ gsoType: GSO_UDP_L4, gsoSize: 1000, csumPartial: true });
    expect(tap.port.receive(ROW)).toBe(100);
    expect(tap.port).toMatchObject({ gsoType: GSO_NONE, gsoSize: 0, csumPartial: false });
  });

  test('frames that are too short or too long are counted', () => {
    const tap = new FakeTap(TAP_PLAIN);
    tap.waiting.push(frame(13), Buffer.alloc(0), frame(14 + 65536), frame(14));
    expect(tap.port.receive(ROW)).toBe(14);
    expect(tap.drops('frame_short')).toBe(2);
    expect(tap.drops('frame_too_long')).toBe(1);
  });

  test('a device that is gone ends the link', () => {
    const tap = new FakeTap();
    tap.readError = -EBADFD;
    expect(tap.port.receive(ROW)).toBe(0);
    expect(tap.port.input.end).toBe(-EBADFD);
  });
});

describe('frames to the namespace', () => {
  function send(tap: FakeTap, header: number, payload: number, room = payload): void {
    expect(tap.port.reserve(header, room, ROW)).toBe(room > 0 ? 1 : 0);
    tap.port.front();
    for (let i = 0; i < header; i++) tap.port.out.setUint8(tap.port.outOff + i, 0xaa);
    if (room > 0) tap.named(ROW).subarray(0, payload).fill(0xbb);
    tap.port.commit(payload, 0, 0, 0, GSO_NONE, 0);
  }

  test('several frames, one of them short: padded, each written whole', () => {
    const tap = new FakeTap();
    send(tap, 54, 1000);
    send(tap, 42, 0);
    send(tap, 54, 100, 60_000);
    expect(tap.written).toHaveLength(0);
    tap.port.flush();
    expect(tap.written.map(({ length }) => length)).toEqual([10 + 1054, 10 + 60, 10 + 154]);
    expect(tap.written[1].subarray(52)).toEqual(Buffer.alloc(18));
    expect(tap.written[0].subarray(0, 10)).toEqual(Buffer.alloc(10));
    expect(tap.written[0].subarray(10 + 54)).toEqual(Buffer.alloc(1000, 0xbb));
  });

  test('a large frame carries its marks and leaves the checksum to the kernel', () => {
    const tap = new FakeTap();
    expect(tap.port).toMatchObject({ gsoTcp4: true, gsoTcp6: true, gsoUdp4: true, gsoUdp6: true });
    tap.port.reserve(54, 60_000, ROW);
    tap.port.front();
    tap.port.commit(60_000, COMMIT_NEEDS_CSUM, 34, 16, GSO_TCPV4, 1460);
    tap.port.flush();
    const [written] = tap.written;
    expect([written[0], written[1]]).toEqual([1, GSO_TCPV4]);
    expect([2, 4, 6, 8].map((at) => written.readUInt16LE(at))).toEqual([54, 1460, 34, 16]);
  });

  test('without a header in front the checksum is completed and nothing is large', () => {
    const tap = new FakeTap(TAP_PLAIN);
    expect(tap.port).toMatchObject({ gsoTcp4: false, gsoUdp6: false });
    tap.port.reserve(54, 100, ROW);
    tap.port.front();
    tap.named(ROW).fill(0);
    for (let i = 0; i < 54; i++) tap.port.out.setUint8(tap.port.outOff + i, 0);
    tap.port.out.setUint16(tap.port.outOff + 50, 0x1234);
    tap.port.commit(100, COMMIT_NEEDS_CSUM, 34, 16, GSO_NONE, 0);
    tap.port.flush();
    expect(tap.written[0]).toHaveLength(154);
    expect(tap.written[0].readUInt16BE(50)).toBe(0xffff ^ 0x1234);
  });

  test('reservations outlive a flush in between, and are given back', () => {
    const tap = new FakeTap();
    tap.port.reserve(54, 500, ROW);
    tap.port.reserve(54, 700, ROW + 1);
    tap.named(ROW + 1).fill(0xcc);
    tap.port.front();
    tap.port.commit(500, 0, 0, 0, GSO_NONE, 0);
    tap.port.flush();
    expect(tap.written).toHaveLength(1);
    tap.port.front();
    tap.port.commit(700, 0, 0, 0, GSO_NONE, 0);
    tap.port.reserve(54, 9, ROW);
    tap.port.cancel();
    tap.port.flush();
    expect(tap.written[1].subarray(10 + 54)).toEqual(Buffer.alloc(700, 0xcc));
    expect(tap.written).toHaveLength(2);
  });

  test('what the kernel does not take is lost and counted, the rest is written; one that is gone ends it', () => {
    const tap = new FakeTap();
    for (let i = 0; i < 4; i++) send(tap, 54, i + 1000);
    tap.writeErrors.push(0, -EIO);
    tap.port.flush();
    expect(tap.written.map(({ length }) => length)).toEqual([1064, 1066, 1067]);
    expect(tap.drops('guest_down')).toBe(1);
    send(tap, 54, 1);
    tap.writeErrors.push(-EBADFD);
    tap.port.flush();
    expect(tap.port.output.end).toBe(-EBADFD);
    expect(tap.port.reserve(54, 1, ROW)).toBe(-1);
  });

  test('a turn that has more than the block holds: what was committed goes first', () => {
    const tap = new FakeTap();
    for (let i = 0; i < 60; i++) send(tap, 54, 64_000);
    tap.port.flush();
    expect(tap.written).toHaveLength(60);
  });
});
