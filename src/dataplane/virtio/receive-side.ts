/**
 * The guest's receive queue (frames to the guest).
 *
 * Theory of operation. `reserve` pops as many chains as one frame needs at the most (several only with MRG_RXBUF) and
 * names their payload room by rows, so that one system call can fill many frames in place. Reserved frames are a
 * first-in-first-out list; `commit` completes the oldest with the length it really got, and chains that it did not
 * need go back. Nothing is visible to the guest before `publish`: all of a frame's buffers appear with one store of
 * used.idx (virtio 1.2 §5.1.6.4).
 *
 * Giving back. Chains can be un-popped only from the end of the available ring. Frames are filled in order, so the
 * unused chains are the last ones: those a partly filled frame left (`spare`) and those of the frames after it, which
 * `cancel` rewinds together. A younger frame that is committed after all puts spare chains out of reach; they are
 * completed with length 0, which guests discard (counted by Linux as rx_length_errors). No caller does so today.
 *
 * The header room is written in place when the first buffer holds all of it in one piece (every Linux driver's does),
 * else in a private block that `commit` spreads over the pieces.
 */
import type { GuestMemory, SplitQueueDevice } from 'virtio-ring-ts';
import { COMMIT_NEEDS_CSUM, GSO_NONE, MAX_FRAME, MAX_HEADER, MAX_RESERVED } from '../../stack/ports';
import type { HostIo, Rows } from '../../stack/ports';
import { ROWS_MISC, ROWS_MISC_COUNT, ROWS_PER_FRAME } from '../../stack/scratch';
import { copyBytes } from '../../stack/kit/bytes';
import { nameBytes, rowBytes, setRow } from '../../stack/kit/rows';
import { ETHERNET_MIN_FRAME } from '../../stack/wire/ethernet';
import { completeChecksum } from '../complete-checksum';
import type { PrivateBlock } from '../private-block';
import type { NegotiatedFeatures } from './features';
import type { DirtyMarker } from './dirty-log';
import { VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_LEN, netHdrSetNumBuffers, netHdrWrite } from './net-header';

/** Fault of the receive ring that virtio-ring-ts cannot know of; outside its range of codes. */
export const BAD_RECEIVE_BUFFER = -64;

const MAX_CHAINS = 4096;
const MAX_SEGMENTS = 16384;
/** Rows one chain may need: an indirect table has at most 1024 entries, each of which may cross a region. */
const SEGMENTS_PER_CHAIN = 2048;

/** The row table to fill, and the checksum over what rows name. */
export type ChecksumIo = Pick<HostIo, 'rows' | 'checksum'>;

export class ReceiveSide {
  /** View and offset of the frame pointed at by `front`. */
  out: DataView;
  outOff: number;
  fault: number;
  enabled: boolean;
  queue: SplitQueueDevice | null;
  /** Largest frame that can be reserved: below MAX_FRAME without MRG_RXBUF, or if the whole ring is too small. */
  maxFrame: number;
  /** A reserve failed for want of buffers: the guest's next kick (or this turn's end) resumes the flows. */
  wanted: boolean;
  /** A reserve failed although buffers may be there: resume without waiting for a kick. */
  retry: boolean;
  dirty: DirtyMarker | null;
  /** Chains completed with length 0 because they could not be given back. */
  spoiled: number;

  private readonly memory: GuestMemory;
  private readonly io: ChecksumIo;
  /** Where the first buffer is too small or split, the header is written here. */
  private readonly header: PrivateBlock;
  private features: NegotiatedFeatures;

  // Segments (buffers) of the chains popped and not yet completed, oldest first.
  private readonly segs: Rows;
  private segEnd: number;
  // Chains: head, writable bytes, first segment, number of segments.
  private readonly chainHead: Uint16Array;
  private readonly chainBytes: Int32Array;
  private readonly chainSeg: Int32Array;
  private readonly chainSegs: Int32Array;
  private chainEnd: number;
  // Reserved frames: first chain, number of chains, header bytes, payload room.
  private readonly frameChain: Int32Array;
  private readonly frameChains: Int32Array;
  private readonly frameHeader: Int32Array;
  private readonly frameRoom: Int32Array;
  private frameBegin: number;
  private frameEnd: number;
  /** Chains just before those of the oldest reserved frame that a committed one did not need. */
  private spare: number;
  // The frame pointed at by `front`.
  private inPlace: boolean;
  private pushed: boolean;

  constructor(memory: GuestMemory, io: ChecksumIo, header: PrivateBlock, features: NegotiatedFeatures) {
    this.memory = memory;
    this.io = io;
    this.header = header;
    this.features = features;
    this.out = header.view;
    this.outOff = VIRTIO_NET_HDR_LEN;
    this.fault = 0;
    this.enabled = false;
    this.queue = null;
    this.maxFrame = MAX_FRAME;
    this.wanted = false;
    this.retry = false;
    this.dirty = null;
    this.spoiled = 0;
    this.segs = {
      region: new Int32Array(MAX_SEGMENTS),
      offset: new Float64Array(MAX_SEGMENTS),
      length: new Int32Array(MAX_SEGMENTS),
      capacity: MAX_SEGMENTS,
    };
    this.segEnd = 0;
    this.chainHead = new Uint16Array(MAX_CHAINS);
    this.chainBytes = new Int32Array(MAX_CHAINS);
    this.chainSeg = new Int32Array(MAX_CHAINS);
    this.chainSegs = new Int32Array(MAX_CHAINS);
    this.chainEnd = 0;
    this.frameChain = new Int32Array(MAX_RESERVED);
    this.frameChains = new Int32Array(MAX_RESERVED);
    this.frameHeader = new Int32Array(MAX_RESERVED);
    this.frameRoom = new Int32Array(MAX_RESERVED);
    this.frameBegin = 0;
    this.frameEnd = 0;
    this.spare = 0;
    this.inPlace = true;
    this.pushed = false;
  }

  setFeatures(features: NegotiatedFeatures): void {
    this.features = features;
    this.maxFrame = MAX_FRAME;
  }

  start(queue: SplitQueueDevice, enabled: boolean): void {
    this.queue = queue;
    this.enabled = enabled;
    this.fault = 0;
    this.maxFrame = MAX_FRAME;
    this.forget();
    queue.disableNotify();
  }

  /** Gives reservations back and forgets the ring. Committed frames must have been published. */
  stop(): void {
    this.cancel();
    this.queue = null;
    this.out = this.header.view; // no view of memory that goes
    this.wanted = false;
    this.retry = false;
  }

  /** See GuestPort.reserve. */
  reserve(headerLen: number, payloadLen: number, row: number): number {
    const queue = this.queue;
    if (queue === null || !this.enabled || this.fault !== 0) return -1;
    const need = this.features.headerLen + headerLen + payloadLen;
    if (headerLen > MAX_HEADER || headerLen + payloadLen > this.maxFrame) {
      // Only after maxFrame shrank: the caller looks at it again.
      this.retry = true;
      return -1;
    }
    if (this.frameEnd === MAX_RESERVED) {
      this.retry = true;
      return -1;
    }
    const firstChain = this.chainEnd;
    let have = 0;
    while (have < need) {
      if (this.chainEnd === MAX_CHAINS || this.segEnd + SEGMENTS_PER_CHAIN > MAX_SEGMENTS) {
        // Asked for again when nothing else is reserved, unless that is so now.
        if (firstChain === 0) this.shrink(have);
        else this.retry = true;
        return this.unreserve(firstChain);
      }
      const n = queue.pop(this.segs, this.segEnd, SEGMENTS_PER_CHAIN);
      if (n < 0) {
        this.fault = n;
        return this.unreserve(firstChain);
      }
      if (queue.head < 0) {
        if (this.chainEnd - firstChain === queue.size) this.shrink(have);
        else this.wanted = true;
        return this.unreserve(firstChain);
      }
      const bytes = queue.writableBytes;
      const c = this.chainEnd++;
      this.chainHead[c] = queue.head;
      this.chainBytes[c] = bytes;
      this.chainSeg[c] = this.segEnd;
      this.chainSegs[c] = n;
      this.segEnd += n;
      if (queue.readableRows !== 0 || bytes < this.features.headerLen + 1) {
        // A receive buffer the device may not write, or without room for the header: the driver is broken.
        this.fault = BAD_RECEIVE_BUFFER;
        return this.unreserve(firstChain);
      }
      have += bytes;
      if (!this.features.mergeable && have < need) {
        this.shrink(have);
        return this.unreserve(firstChain);
      }
    }
    const f = this.frameEnd++;
    this.frameChain[f] = firstChain;
    this.frameChains[f] = this.chainEnd - firstChain;
    this.frameHeader[f] = headerLen;
    this.frameRoom[f] = payloadLen;
    if (payloadLen === 0) return 0;
    const start = this.features.headerLen + headerLen;
    const rows = this.nameFrame(f, start, payloadLen, row, row + ROWS_PER_FRAME);
    if (rows === ROWS_PER_FRAME) {
      const named = rowBytes(this.io.rows, row, rows);
      if (named < payloadLen) {
        this.frameEnd--;
        this.shrink(start + named);
        return this.unreserve(firstChain);
      }
    }
    return rows;
  }

  /** See GuestPort.front. */
  front(): void {
    const seg = this.chainSeg[this.frameChain[this.frameBegin]];
    const headerLen = this.features.headerLen;
    this.inPlace = this.segs.length[seg] >= headerLen + this.frameHeader[this.frameBegin];
    if (this.inPlace) {
      this.out = this.memory.view(this.segs.region[seg]);
      this.outOff = this.segs.offset[seg] + headerLen;
    } else {
      this.out = this.header.view;
      this.outOff = headerLen;
    }
  }

  /** See GuestPort.commit. Returns the frame's length, padding included. */
  commit(
    payloadLen: number,
    flags: number,
    csumStart: number,
    csumOffset: number,
    gsoType: number,
    gsoSize: number,
  ): number {
    const queue = this.queue;
    const f = this.frameBegin;
    if (queue === null || f === this.frameEnd) return 0;
    if (this.spare > 0) this.spoil(queue, this.frameChain[f]);
    const netLen = this.features.headerLen;
    const headerLen = this.frameHeader[f];
    const hdr = this.outOff - netLen;
    let vnetFlags = 0;
    if ((flags & COMMIT_NEEDS_CSUM) !== 0) {
      if (this.features.guestCsum) vnetFlags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
      else this.finishChecksum(f, payloadLen, csumStart, csumOffset);
    }
    const marked = vnetFlags !== 0;
    netHdrWrite(
      this.out,
      hdr,
      vnetFlags,
      gsoType,
      gsoType === GSO_NONE ? 0 : headerLen,
      gsoType === GSO_NONE ? 0 : gsoSize,
      marked ? csumStart : 0,
      marked ? csumOffset : 0,
    );
    const frameLen = Math.max(headerLen + payloadLen, ETHERNET_MIN_FRAME);
    const total = netLen + frameLen;
    // How many of the chains are needed, and what each holds.
    const first = this.frameChain[f];
    const chains = this.frameChains[f];
    let left = total;
    let used = 0;
    while (used < chains && left > 0) left -= Math.min(left, this.chainBytes[first + used++]);
    if (netLen === VIRTIO_NET_HDR_LEN) netHdrSetNumBuffers(this.out, hdr, used);
    if (!this.inPlace) this.spreadHeader(f, netLen + headerLen);
    const written = total - left; // less than total only where a lone tiny buffer has no room for padding
    this.pad(f, netLen + headerLen + payloadLen, written);
    this.pushUsed(queue, first, used, written);
    this.giveBack(queue, f, used);
    return frameLen;
  }

  /** See GuestPort.cancel. */
  cancel(): void {
    if (this.queue !== null && this.frameBegin < this.frameEnd) {
      this.queue.rewind(this.chainEnd - this.frameChain[this.frameBegin] + this.spare);
    }
    this.forget();
  }

  /** Publishes what was committed. Returns true if the guest wants a notification. */
  publish(): boolean {
    if (!this.pushed || this.queue === null) return false;
    this.pushed = false;
    if (this.dirty !== null) this.dirty.usedIndex();
    return this.queue.publish();
  }

  private forget(): void {
    this.frameBegin = 0;
    this.frameEnd = 0;
    this.spare = 0;
    this.chainEnd = 0;
    this.segEnd = 0;
  }

  /** Takes back the chains popped for a frame that could not be reserved. Returns -1. */
  private unreserve(firstChain: number): number {
    if (this.queue !== null && this.chainEnd > firstChain) {
      this.queue.rewind(this.chainEnd - firstChain);
      this.segEnd = this.chainSeg[firstChain];
      this.chainEnd = firstChain;
    }
    return -1;
  }

  /** Not even all that a frame may have (one buffer, the ring, MAX_CHAINS, ROWS_PER_FRAME) holds more than `have` bytes. */
  private shrink(have: number): void {
    this.maxFrame = have - this.features.headerLen;
    this.retry = true;
  }

  private pushUsed(queue: SplitQueueDevice, first: number, used: number, written: number): void {
    let left = written;
    for (let i = 0; i < used; i++) {
      const n = Math.min(left, this.chainBytes[first + i]);
      if (this.dirty !== null) {
        this.dirty.segments(this.segs, this.chainSeg[first + i], this.chainSegs[first + i], n);
        this.dirty.usedElement(queue.usedIdx & (queue.size - 1));
      }
      queue.pushUsed(this.chainHead[first + i], n);
      left -= n;
    }
    this.pushed = true;
  }

  /** The oldest frame is done with `used` of its chains: the others go back, now or with what follows them. */
  private giveBack(queue: SplitQueueDevice, f: number, used: number): void {
    this.spare = this.frameChains[f] - used;
    this.frameBegin = f + 1;
    if (this.frameBegin < this.frameEnd) return;
    if (this.spare > 0) queue.rewind(this.spare);
    this.forget();
  }

  /** Completes the spare chains before chain `end` empty: something younger is about to be committed. */
  private spoil(queue: SplitQueueDevice, end: number): void {
    for (let c = end - this.spare; c < end; c++) queue.pushUsed(this.chainHead[c], 0);
    this.spoiled += this.spare;
    this.spare = 0;
  }

  /**
   * Writes rows that name `length` bytes of frame `f` from position `start` (counted from the virtio_net_hdr) to the
   * shared table from `row` on; `limit` is the first row not to be written. Returns their number.
   */
  private nameFrame(f: number, start: number, length: number, row: number, limit: number): number {
    const first = this.chainSeg[this.frameChain[f]];
    const last = this.frameChain[f] + this.frameChains[f] - 1;
    const count = this.chainSeg[last] + this.chainSegs[last] - first;
    return nameBytes(this.segs, first, count, start, length, this.io.rows, row, limit);
  }

  /** Completes the checksum of the frame at the front, over header and payload. */
  private finishChecksum(f: number, payloadLen: number, csumStart: number, csumOffset: number): void {
    const seg = this.chainSeg[this.frameChain[f]];
    const region = this.inPlace ? this.segs.region[seg] : this.header.region;
    const at = this.outOff + csumStart;
    setRow(this.io.rows, ROWS_MISC, region, at, this.frameHeader[f] - csumStart);
    let n = 1;
    if (payloadLen > 0) {
      n += this.nameFrame(
        f,
        this.features.headerLen + this.frameHeader[f],
        payloadLen,
        ROWS_MISC + 1,
        ROWS_MISC + ROWS_MISC_COUNT,
      );
    }
    completeChecksum(this.io, ROWS_MISC, n, this.out, at + csumOffset);
  }

  /** Spreads a header written in the private block over the frame's buffers. */
  private spreadHeader(f: number, length: number): void {
    const segs = this.segs;
    const from = this.header.view;
    let pos = 0;
    for (let s = this.chainSeg[this.frameChain[f]]; pos < length; s++) {
      const to = this.memory.view(segs.region[s]);
      const n = Math.min(segs.length[s], length - pos);
      copyBytes(from, pos, to, segs.offset[s], n);
      pos += n;
    }
  }

  /** Zeroes bytes [start, end) of the frame's buffers: never bytes of an earlier use. */
  private pad(f: number, start: number, end: number): void {
    if (start >= end) return;
    const segs = this.segs;
    let base = 0;
    let pos = start;
    for (let s = this.chainSeg[this.frameChain[f]]; pos < end; s++) {
      const len = segs.length[s];
      if (pos < base + len) {
        const to = this.memory.view(segs.region[s]);
        const stop = Math.min(end, base + len);
        for (; pos < stop; pos++) to.setUint8(segs.offset[s] + (pos - base), 0);
      }
      base += len;
    }
  }
}
