/**
 * What one capture writes to, a file or the socket of a client, and what waits for it: classic pcap, version 2.4,
 * microseconds.
 *
 * Theory of operation. Records are put into one private block, which is given to the descriptor with one write a turn. One
 * that takes no more for now (a client that does not read) keeps its bytes in the block; while that is full, frames are left
 * out of the capture and counted. A descriptor that can be watched is not written to again before it is writable, so that a
 * client which stalls costs a comparison a frame. Whole records only are left out, and the part of one that a file took is
 * cut off it again, so what was written stays readable.
 *
 * A capture with a limit that is reached takes no more frames, writes what it has, and is over then. An error (a full disk, a
 * client that left) is its end at once. The descriptor's owner hears of the end, once.
 */
import type { Native } from '../../native';
import { C_CAPTURE_LOST, C_CAPTURED, type Counters } from '../../stack/counters';
import { EAGAIN } from '../../stack/kit/linux';
import { CAPTURE_BYTES, CAPTURE_FRAMES, CAPTURE_LEFT_OUT } from '../commands';
import type { PrivateBlock } from '../private-block';

/** Bytes of a record's header: seconds, microseconds, bytes in the file, bytes of the frame; 4 each, native order. */
export const RECORD_HEADER = 16;
/** Holds at least a turn's frames of the usual kind; when it is full it is written in between. */
export const CAPTURE_BLOCK = 1 << 20;

/** Linux runs us on little-endian machines only (virtio 1.2 §1.4 makes the same assumption of its rings). */
const LE = true;

export type SinkIo = Pick<Native, 'write' | 'realTimeUs' | 'fileSize' | 'ftruncate'>;

/** Ends that are no errno: a limit was reached, or it was told to stop, and all is written. */
export const SINK_DONE = 0;

export interface SinkSetup {
  /** Has the capture's header, or gets it by `head`. */
  readonly fd: number;
  /** Bytes that are kept of a frame, at the most. */
  readonly snap: number;
  /** Frames, and bytes of them with their records, after which it ends; Infinity: never. */
  readonly frames: number;
  readonly bytes: number;
  /** Bytes that go before the first record. */
  readonly head: Uint8Array;
  /** CAPTURE_COUNTS elements. */
  readonly counts: Float64Array;
}

export class CaptureSink {
  /** CAPTURE_BLOCK bytes, in which records are put together. */
  readonly block: PrivateBlock;
  readonly snap: number;
  /** It waits until its descriptor is writable. */
  blocked: boolean;
  /** `blocked` is ended by an event. */
  watched: boolean;
  private readonly io: SinkIo;
  private readonly counters: Counters;
  private readonly counts: Float64Array;
  private readonly view: DataView;
  private readonly bytes: Uint8Array;
  private readonly ended: (end: number) => void;
  /** -1: it is over. */
  private fd: number;
  private stops: boolean;
  private failed: boolean;
  private framesLeft: number;
  private bytesLeft: number;
  /** Bytes at the block's beginning that are no record. */
  private head: number;
  /** Bytes of the block that are not written yet. */
  private begin: number;
  private end: number;
  /** Where the first record begins that is not written as a whole; not behind `begin`. */
  private record: number;

  /** `ended` is called once: SINK_DONE, or a positive errno. */
  constructor(io: SinkIo, counters: Counters, block: PrivateBlock, setup: SinkSetup, ended: (end: number) => void) {
    this.io = io;
    this.counters = counters;
    this.counts = setup.counts;
    this.block = block;
    this.view = block.view;
    this.bytes = new Uint8Array(block.view.buffer, block.view.byteOffset, block.view.byteLength);
    this.ended = ended;
    this.snap = setup.snap;
    this.fd = setup.fd;
    this.framesLeft = setup.frames;
    this.bytesLeft = setup.bytes;
    this.bytes.set(setup.head);
    this.head = setup.head.length;
    this.begin = 0;
    this.end = this.head;
    this.record = 0;
    this.stops = false;
    this.failed = false;
    this.blocked = false;
    this.watched = false;
  }

  get isOver(): boolean {
    return this.fd < 0;
  }

  /** Where in the block `length` bytes of a frame are to be copied, for `add` to make a record of; -1: it is left out. */
  place(length: number): number {
    if (!this.stops) {
      if (length + RECORD_HEADER > this.bytesLeft) {
        this.stop();
        return -1;
      }
      if (this.hasRoom(length) || (this.makeRoom() && this.hasRoom(length))) return this.end + RECORD_HEADER;
    }
    // Behind a limit nobody wants it.
    if (!this.stops || this.failed) this.leaveOut();
    return -1;
  }

  /** The `kept` bytes at `place` are those of a frame of `length` bytes. */
  add(kept: number, length: number): void {
    const now = this.io.realTimeUs();
    const seconds = Math.floor(now / 1e6);
    this.view.setUint32(this.end, seconds, LE);
    this.view.setUint32(this.end + 4, now - seconds * 1e6, LE);
    this.view.setUint32(this.end + 8, kept, LE);
    this.view.setUint32(this.end + 12, length, LE);
    this.end += RECORD_HEADER + kept;
    this.bytesLeft -= RECORD_HEADER + kept;
    if (--this.framesLeft === 0) this.stops = true;
  }

  /** A frame is not in the capture. */
  leaveOut(): void {
    this.counters[C_CAPTURE_LOST]++;
    this.counts[CAPTURE_LEFT_OUT]++;
  }

  /** Takes no more frames; over when what it has is written. */
  stop(): void {
    this.stops = true;
    this.write();
  }

  /** Writes what waits, if the descriptor takes it. */
  write(): void {
    if (this.fd < 0) return;
    if (this.begin < this.end) {
      if (this.blocked) return;
      const n = this.io.write(this.fd, this.bytes, this.begin, this.end - this.begin);
      if (n === -EAGAIN) this.blocked = this.watched;
      if (n < 0) {
        if (n !== -EAGAIN) this.fail(-n);
        return;
      }
      this.begin += n;
      this.passRecords();
    }
    if (this.stops && this.begin === this.end) this.finish(SINK_DONE);
  }

  /** It can be written to again. */
  writable(): void {
    this.blocked = false;
    this.write();
  }

  /** Its end, for a positive errno. What did not get out counts as left out, now and from now on. */
  fail(errno: number): void {
    if (this.fd < 0) return;
    this.cutTornRecord();
    this.dropHead();
    for (; this.record < this.end; this.record += this.recordSize()) this.leaveOut();
    this.begin = 0;
    this.end = 0;
    this.record = 0;
    this.failed = true;
    this.finish(errno);
  }

  private finish(end: number): void {
    this.fd = -1;
    this.stops = true;
    this.ended(end);
  }

  private hasRoom(length: number): boolean {
    return this.end + RECORD_HEADER + length <= CAPTURE_BLOCK;
  }

  /**
   * Writes, and moves what is left to the front, whole records. Not before half of the block is free: who reads in small
   * pieces would have much moved for each.
   */
  private makeRoom(): boolean {
    this.write();
    if (this.fd < 0) return false;
    if (this.record < CAPTURE_BLOCK / 2) return this.record === 0;
    this.bytes.copyWithin(0, this.record, this.end);
    this.end -= this.record;
    this.begin -= this.record;
    this.record = 0;
    return true;
  }

  private recordSize(): number {
    return RECORD_HEADER + this.view.getUint32(this.record + 8, LE);
  }

  private dropHead(): void {
    this.record += this.head;
    this.head = 0;
  }

  /** Counts the records that are written now. */
  private passRecords(): void {
    if (this.begin < this.head) return;
    this.dropHead();
    while (this.record < this.begin) {
      const size = this.recordSize();
      if (this.record + size > this.begin) break;
      this.record += size;
      this.counters[C_CAPTURED]++;
      this.counts[CAPTURE_FRAMES]++;
      this.counts[CAPTURE_BYTES] += size;
    }
    if (this.record < this.end) return;
    this.begin = 0;
    this.end = 0;
    this.record = 0;
  }

  /** The file has a part of a record at its end, where it is one (and no pipe). */
  private cutTornRecord(): void {
    const torn = this.begin - this.record;
    if (torn === 0 || this.head > 0) return;
    const size = this.io.fileSize(this.fd);
    if (size >= torn) this.io.ftruncate(this.fd, size - torn);
  }
}
