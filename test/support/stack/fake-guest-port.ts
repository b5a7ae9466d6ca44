/**
 * A guest's link over plain memory, for tests of the stack without rings.
 *
 * `FakeMemory` is the table of memory regions and the row table that port and host calls share; a fake HostIo takes
 * the same object, reads and writes payload through `rows` and `regions`, and adds a region for its scratch block.
 * `FakeGuestPort` keeps its frames in region 0 of it (the first region it adds, to be exact: `port.region`).
 *
 * The port is stricter than a real one. It throws where the stack breaks the contract of `GuestPort` (commit without
 * front, more payload than reserved, rows past the table, a GSO frame to a guest without GSO). It poisons what the
 * stack must not use any more: rows after `releaseReceived`, `head` past `headLen`, header room never written.
 */
import { ROWS_PER_FRAME } from '../../../src/stack/scratch';
import type { GuestPort, Rows } from '../../../src/stack/ports';
import { makeRows, onesComplementSum } from './rows';
import {
  COMMIT_NEEDS_CSUM,
  GSO_ECN,
  GSO_NONE,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_UDP_L4,
  MAX_FRAME,
  MAX_HEAD,
  MAX_HEADER,
} from '../../../src/stack/ports';

/** Bytes copied to `head` by `receive`, as the contract with the handlers says. */
const HEAD_BYTES = 96;
/** Length of virtio_net_hdr: takes room in the guest's first receive buffer. */
const VNET_LEN = 12;
const POISON_RELEASED = 0xdd;
const POISON_HEADER = 0xa5;

export class FakeMemory {
  /** Region number → its bytes. */
  readonly regions: DataView[] = [];
  readonly rows: Rows;

  constructor(rowCapacity = 8192) {
    this.rows = makeRows(rowCapacity);
  }

  /** Adds a zeroed region; returns its number. */
  add(length: number): number {
    this.regions.push(new DataView(new ArrayBuffer(length)));
    return this.regions.length - 1;
  }

  /** The bytes a row names, as a view (throws if the row is out of bounds: a bug of the stack). */
  row(i: number): Uint8Array {
    const region = this.regions[this.rows.region[i]];
    if (region === undefined) throw new Error(`row ${String(i)} names unknown region`);
    return new Uint8Array(region.buffer, region.byteOffset + this.rows.offset[i], this.rows.length[i]);
  }

  /** Copies out the bytes that rows `first … first + count - 1` name. */
  gather(first: number, count: number): Uint8Array {
    const parts: Uint8Array[] = [];
    for (let i = first; i < first + count; i++) parts.push(this.row(i));
    return Uint8Array.from(Buffer.concat(parts));
  }

  /** Copies `bytes` into the memory that the rows name; returns how many fitted. */
  scatter(first: number, count: number, bytes: Uint8Array): number {
    let done = 0;
    for (let i = first; i < first + count && done < bytes.length; i++) {
      const row = this.row(i);
      const n = Math.min(row.length, bytes.length - done);
      row.set(bytes.subarray(done, done + n));
      done += n;
    }
    return done;
  }
}

/** virtio_net_hdr of an injected frame. */
export interface FakeVnet {
  readonly gsoType?: number;
  readonly gsoSize?: number;
  readonly csumPartial?: boolean;
}

/** A frame the stack committed. `bytes` is padded and its checksum completed, as the guest would see it. */
export interface SentFrame {
  readonly bytes: Uint8Array;
  /** Bytes before padding. */
  readonly length: number;
  readonly flags: number;
  readonly csumStart: number;
  readonly csumOffset: number;
  readonly gsoType: number;
  readonly gsoSize: number;
}

export interface FakeGuestPortOptions {
  readonly memory?: FakeMemory;
  readonly gsoTcp4?: boolean;
  readonly gsoTcp6?: boolean;
  readonly gsoUdp4?: boolean;
  readonly gsoUdp6?: boolean;
  /** Size of each of the guest's receive buffers; frames take as many as they need (merged). Default: any frame. */
  readonly bufferSize?: number;
  /** Receive buffers posted at first. Default: more than any test uses. */
  readonly buffers?: number;
  /** Payload rows toward the guest and rows of received frames are cut to this many bytes. Default: never cut. */
  readonly rowSize?: number;
  /** Largest frame toward the guest (a guest without merged buffers); `reserve` fails above it. */
  readonly maxFrame?: number;
  /** Bytes of port memory, halved between the directions. */
  readonly memorySize?: number;
}

interface Reservation {
  readonly offset: number;
  readonly headerLen: number;
  readonly payloadLen: number;
  readonly buffers: number;
}

interface Injected {
  readonly bytes: Uint8Array;
  readonly vnet: FakeVnet;
}

export class FakeGuestPort implements GuestPort {
  up = true;
  gsoTcp4: boolean;
  gsoTcp6: boolean;
  gsoUdp4: boolean;
  gsoUdp6: boolean;
  maxFrame: number;

  readonly head: DataView = new DataView(new ArrayBuffer(MAX_HEAD));
  headLen = 0;
  rowCount = 0;
  gsoType = GSO_NONE;
  gsoSize = 0;
  csumPartial = false;

  readonly out: DataView;
  outOff = 0;

  readonly memory: FakeMemory;
  readonly region: number;
  /** Receive buffers the guest has posted and the stack has not used. */
  freeBuffers: number;
  readonly bufferSize: number;
  rowSize: number;
  /** True after a `reserve` failed for lack of buffers, until `post`. */
  starved = false;
  /** `maxFrame` shrank: `Stack.onGuestReady` is due. */
  retry = false;
  /** Frames committed but not yet published by `flush`. */
  unflushed = 0;
  flushes = 0;
  /** Times `releaseReceived` was called. */
  releases = 0;
  /** Frames received and not released. */
  held = 0;

  private readonly bytes: Uint8Array;
  private readonly inEnd: number;
  private inNext = 0;
  private outNext: number;
  private current: Uint8Array = new Uint8Array(0);
  private readonly queue: Injected[] = [];
  private readonly reserved: Reservation[] = [];
  private fronted = false;
  private committed: SentFrame[] = [];

  constructor(options: FakeGuestPortOptions = {}) {
    this.memory = options.memory ?? new FakeMemory();
    const size = options.memorySize ?? 64 << 20;
    this.region = this.memory.add(size);
    this.out = this.memory.regions[this.region];
    this.bytes = new Uint8Array(this.out.buffer);
    this.inEnd = size / 2;
    this.outNext = this.inEnd;
    this.gsoTcp4 = options.gsoTcp4 ?? false;
    this.gsoTcp6 = options.gsoTcp6 ?? false;
    this.gsoUdp4 = options.gsoUdp4 ?? false;
    this.gsoUdp6 = options.gsoUdp6 ?? false;
    this.maxFrame = options.maxFrame ?? MAX_FRAME;
    this.bufferSize = options.bufferSize ?? VNET_LEN + MAX_FRAME;
    this.freeBuffers = options.buffers ?? 1_000_000;
    this.rowSize = options.rowSize ?? MAX_FRAME;
  }

  // ---- the test's side ------------------------------------------------------------------------------------------

  /** The guest sends a frame (copied now). */
  inject(frame: Uint8Array, vnet: FakeVnet = {}): void {
    if (frame.length < 14 || frame.length > MAX_FRAME) throw new Error('a real port would not pass this frame on');
    this.queue.push({ bytes: Uint8Array.from(frame), vnet });
  }

  /** Frames injected and not yet received. */
  get pending(): number {
    return this.queue.length;
  }

  /** The guest posts `n` more receive buffers. */
  post(n: number): void {
    this.freeBuffers += n;
    this.starved = false;
  }

  /** Frames reserved and neither committed nor cancelled. */
  get reservedCount(): number {
    return this.reserved.length;
  }

  /** Takes the bytes of all frames committed since the last call of `sent` or `sentFrames`. */
  sent(): Uint8Array[] {
    return this.sentFrames().map((f) => f.bytes);
  }

  sentFrames(): SentFrame[] {
    const frames = this.committed;
    this.committed = [];
    return frames;
  }

  // ---- GuestPort ------------------------------------------------------------------------------------------------

  receive(row: number): number {
    if (!this.up) return 0;
    const next = this.queue.shift();
    if (next === undefined) return 0;
    const { bytes, vnet } = next;
    if (this.inNext + bytes.length > this.inEnd) throw new Error('fake port: received frames fill the memory');
    this.bytes.set(bytes, this.inNext);
    this.rowCount = this.writeRows(row, this.inNext, bytes.length);
    this.inNext += bytes.length;
    this.current = bytes;
    new Uint8Array(this.head.buffer).fill(POISON_RELEASED);
    this.headLen = 0;
    this.pull(HEAD_BYTES);
    this.gsoType = vnet.gsoType ?? GSO_NONE;
    this.gsoSize = vnet.gsoSize ?? 0;
    this.csumPartial = vnet.csumPartial ?? false;
    this.held++;
    return bytes.length;
  }

  pull(n: number): number {
    const want = Math.min(n, this.current.length, MAX_HEAD);
    for (let i = this.headLen; i < want; i++) this.head.setUint8(i, this.current[i]);
    if (want > this.headLen) this.headLen = want;
    return this.headLen;
  }

  substitute(from: DataView, off: number, length: number, _row: number): void {
    this.current = new Uint8Array(from.buffer.slice(from.byteOffset + off, from.byteOffset + off + length));
    this.rowCount = 1;
    new Uint8Array(this.head.buffer).fill(POISON_RELEASED);
    this.headLen = 0;
    this.pull(HEAD_BYTES);
    this.gsoType = GSO_NONE;
    this.gsoSize = 0;
    this.csumPartial = false;
  }

  releaseReceived(): void {
    this.bytes.fill(POISON_RELEASED, 0, this.inNext);
    this.inNext = 0;
    this.held = 0;
    this.releases++;
  }

  reserve(headerLen: number, payloadLen: number, row: number): number {
    if (headerLen < 14 || headerLen > MAX_HEADER) throw new Error(`reserve: header of ${String(headerLen)} bytes`);
    if (payloadLen < 0 || headerLen + payloadLen > MAX_FRAME) throw new Error('reserve: frame too long');
    if (!this.up || headerLen + payloadLen > this.maxFrame) return -1;
    const buffers = this.buffersFor(headerLen + payloadLen);
    if (buffers > this.freeBuffers) {
      this.starved = true;
      return -1;
    }
    if (payloadLen > ROWS_PER_FRAME * this.rowSize) {
      this.maxFrame = headerLen + ROWS_PER_FRAME * this.rowSize;
      this.retry = true;
      return -1;
    }
    if (this.reserved.length === 0) this.outNext = this.inEnd;
    const offset = this.outNext;
    const length = headerLen + payloadLen;
    if (offset + length > this.bytes.length) throw new Error('fake port: reserved frames fill the memory');
    this.bytes.fill(POISON_HEADER, offset, offset + length);
    this.outNext += length;
    this.freeBuffers -= buffers;
    this.reserved.push({ offset, headerLen, payloadLen, buffers });
    return payloadLen === 0 ? 0 : this.writeRows(row, offset + headerLen, payloadLen);
  }

  front(): void {
    if (this.reserved.length === 0) throw new Error('front: nothing reserved');
    this.outOff = this.reserved[0].offset;
    this.fronted = true;
  }

  commit(
    payloadLen: number,
    flags: number,
    csumStart: number,
    csumOffset: number,
    gsoType: number,
    gsoSize: number,
  ): void {
    const r = this.reserved.shift();
    if (r === undefined || !this.fronted) throw new Error('commit: no frame was pointed at by front');
    this.fronted = false;
    if (payloadLen < 0 || payloadLen > r.payloadLen) throw new Error('commit: more payload than reserved');
    const kind = gsoType & ~GSO_ECN;
    if (kind !== GSO_NONE && gsoSize <= 0) throw new Error('commit: GSO without a size');
    if ((kind === GSO_TCPV4 && !this.gsoTcp4) || (kind === GSO_TCPV6 && !this.gsoTcp6)) {
      throw new Error('commit: GSO frame to a guest that did not negotiate it');
    }
    const length = r.headerLen + payloadLen;
    const v6 = this.bytes[r.offset + 12] === 0x86;
    if (kind === GSO_UDP_L4 && !(v6 ? this.gsoUdp6 : this.gsoUdp4)) {
      throw new Error('commit: datagrams in one frame to a guest that did not negotiate it');
    }
    if (kind !== GSO_NONE && (flags & COMMIT_NEEDS_CSUM) === 0) throw new Error('commit: GSO needs NEEDS_CSUM');
    const bytes = new Uint8Array(Math.max(60, length));
    bytes.set(this.bytes.subarray(r.offset, r.offset + length));
    if ((flags & COMMIT_NEEDS_CSUM) !== 0) completeChecksum(bytes, length, csumStart, csumOffset);
    this.freeBuffers += r.buffers - this.buffersFor(length);
    this.committed.push({ bytes, length, flags, csumStart, csumOffset, gsoType, gsoSize });
    this.unflushed++;
  }

  cancel(): void {
    for (const r of this.reserved) this.freeBuffers += r.buffers;
    this.reserved.length = 0;
    this.fronted = false;
  }

  flush(): void {
    this.unflushed = 0;
    this.flushes++;
  }

  private buffersFor(frameLen: number): number {
    return Math.ceil((VNET_LEN + Math.max(60, frameLen)) / this.bufferSize);
  }

  private writeRows(row: number, offset: number, length: number): number {
    const rows = this.memory.rows;
    let n = 0;
    for (let done = 0; done < length; done += this.rowSize) {
      const i = row + n++;
      if (i >= rows.capacity) throw new Error('fake port: rows past the table');
      rows.region[i] = this.region;
      rows.offset[i] = offset + done;
      rows.length[i] = Math.min(this.rowSize, length - done);
    }
    return n;
  }
}

/** What a device does with VIRTIO_NET_HDR_F_NEEDS_CSUM, bytewise so that it shares no code with the stack. */
function completeChecksum(bytes: Uint8Array, length: number, start: number, offset: number): void {
  if (start < 14 || start + offset + 2 > length) throw new Error('commit: checksum outside the frame');
  const sum = onesComplementSum(bytes.subarray(start, length), 0);
  // As Linux's skb_checksum_help: 0 would mean "none" to UDP, and 0xffff verifies just as well.
  const value = ~sum & 0xffff || 0xffff;
  bytes[start + offset] = value >> 8;
  bytes[start + offset + 1] = value & 0xff;
}
