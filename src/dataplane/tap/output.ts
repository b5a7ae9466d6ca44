/**
 * Frames to a namespace over its tap device.
 *
 * Theory of operation. Frames are put one behind the other into a private block, each behind room for a virtio_net_hdr.
 * `reserve` hands out the block's next bytes, `commit` writes the header, and `flush` gives all that was committed to the
 * device with one call of the addon, which writes frame after frame. A write delivers the frame to the namespace's network
 * at once, so the device is never full, and the block is empty after each flush. What the kernel does not take (the
 * interface is down, it has no memory) is lost, as on a wire without a carrier, and counted.
 */
import { C_DROPS, type Counters, dropCode } from '../../stack/counters';
import { setRow } from '../../stack/kit/rows';
import { COMMIT_NEEDS_CSUM, GSO_NONE, MAX_FRAME, MAX_HEADER, MAX_RESERVED } from '../../stack/ports';
import { ROWS_PORT } from '../../stack/scratch';
import { ETHERNET_MIN_FRAME } from '../../stack/wire/ethernet';
import { completeChecksum } from '../complete-checksum';
import type { PrivateBlock } from '../private-block';
import { netHdrWrite, VIRTIO_NET_HDR_F_NEEDS_CSUM } from '../virtio/net-header';
import { TAP_HEADER_LEN, TAP_OPEN, TAP_STOPPED, type TapIo } from './input';

/** Bytes of the block for frames to the namespace. */
export const TAP_OUTPUT_BLOCK = 2 << 20;

const LINE = 64;
/** EBADFD: the device was taken away, with its namespace as a rule. */
const EBADFD = 77;

const DROP_GUEST_DOWN = dropCode('guest_down');

export class TapOutput {
  readonly out: DataView;
  outOff: number;
  /** TAP_OPEN, TAP_STOPPED, or -errno of the write that found the device gone. */
  end: number;
  /** A `reserve` failed: flows resume in the next turn. */
  retry: boolean;

  private readonly io: TapIo;
  private readonly counters: Counters;
  private readonly region: number;
  private fd: number;
  private headerLen: number;
  /** Where the next frame goes. */
  private tail: number;
  // Reserved and committed frames: place of the virtio_net_hdr, bytes from there on; of reserved ones header and room.
  private readonly frameAt: Int32Array;
  private readonly frameLen: Int32Array;
  private readonly frameHeader: Int32Array;
  /** Frames 0 … `begin` - 1 are committed, `begin … count - 1` reserved. */
  private begin: number;
  private count: number;

  constructor(io: TapIo, block: PrivateBlock, counters: Counters) {
    this.io = io;
    this.counters = counters;
    this.region = block.region;
    this.out = block.view;
    this.outOff = TAP_HEADER_LEN;
    this.end = TAP_STOPPED;
    this.retry = false;
    this.fd = -1;
    this.headerLen = 0;
    this.tail = 0;
    this.frameAt = new Int32Array(MAX_RESERVED);
    this.frameLen = new Int32Array(MAX_RESERVED);
    this.frameHeader = new Int32Array(MAX_RESERVED);
    this.begin = 0;
    this.count = 0;
  }

  start(fd: number, header: boolean): void {
    this.fd = fd;
    this.headerLen = header ? TAP_HEADER_LEN : 0;
    this.end = TAP_OPEN;
    this.forget();
  }

  stop(): void {
    this.fd = -1;
    this.end = TAP_STOPPED;
    this.forget();
  }

  /** See GuestPort.reserve. */
  reserve(headerLen: number, payloadLen: number, row: number): number {
    const frame = headerLen + payloadLen;
    if (this.end !== TAP_OPEN || headerLen > MAX_HEADER || frame > MAX_FRAME) return -1;
    const need = this.headerLen + (frame < ETHERNET_MIN_FRAME ? ETHERNET_MIN_FRAME : frame);
    if (!this.hasRoom(need)) {
      // With reservations outstanding the block cannot be emptied: the caller fills and commits those first.
      if (this.begin < this.count) {
        this.retry = true;
        return -1;
      }
      this.flush();
      if (!this.hasRoom(need)) return -1;
    }
    const f = this.count++;
    this.frameAt[f] = this.tail;
    this.frameLen[f] = need;
    this.frameHeader[f] = headerLen;
    if (payloadLen > 0) {
      setRow(this.io.rows, row, this.region, this.tail + this.headerLen + headerLen, payloadLen);
    }
    this.tail = (this.tail + need + LINE - 1) & -LINE;
    return payloadLen > 0 ? 1 : 0;
  }

  /** See GuestPort.front. */
  front(): void {
    this.outOff = this.frameAt[this.begin] + this.headerLen;
  }

  /** See GuestPort.commit. */
  commit(
    payloadLen: number,
    flags: number,
    csumStart: number,
    csumOffset: number,
    gsoType: number,
    gsoSize: number,
  ): void {
    const f = this.begin;
    if (f === this.count) return;
    const start = this.frameAt[f];
    const at = start + this.headerLen;
    const headerLen = this.frameHeader[f];
    let frame = headerLen + payloadLen;
    const partial = (flags & COMMIT_NEEDS_CSUM) !== 0;
    if (this.headerLen > 0) {
      const large = gsoType !== GSO_NONE;
      netHdrWrite(
        this.out,
        start,
        partial ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0,
        gsoType,
        large ? headerLen : 0,
        large ? gsoSize : 0,
        partial ? csumStart : 0,
        partial ? csumOffset : 0,
      );
    } else if (partial) {
      setRow(this.io.rows, ROWS_PORT, this.region, at + csumStart, frame - csumStart);
      completeChecksum(this.io, ROWS_PORT, 1, this.out, at + csumStart + csumOffset);
    }
    for (; frame < ETHERNET_MIN_FRAME; frame++) this.out.setUint8(at + frame, 0);
    this.frameLen[f] = this.headerLen + frame;
    this.begin = f + 1;
  }

  /** See GuestPort.cancel. */
  cancel(): void {
    if (this.begin < this.count) this.tail = this.frameAt[this.begin];
    this.count = this.begin;
  }

  /** Writes what was committed. */
  flush(): void {
    let next = 0;
    while (next < this.begin && this.end === TAP_OPEN) {
      const n = this.io.tapWrite(this.fd, this.region, this.frameAt, this.frameLen, next, this.begin);
      if (n > 0) {
        next += n;
        continue;
      }
      if (n === -EBADFD) this.end = n;
      this.counters[C_DROPS + DROP_GUEST_DOWN]++;
      next++;
    }
    if (this.begin === this.count) {
      this.begin = 0;
      this.count = 0;
      this.tail = 0;
      return;
    }
    // Reservations stay where they are: their rows were handed out.
    const left = this.count - this.begin;
    this.frameAt.copyWithin(0, this.begin, this.count);
    this.frameLen.copyWithin(0, this.begin, this.count);
    this.frameHeader.copyWithin(0, this.begin, this.count);
    this.begin = 0;
    this.count = left;
  }

  private hasRoom(need: number): boolean {
    return this.tail + need <= TAP_OUTPUT_BLOCK && this.count < MAX_RESERVED;
  }

  private forget(): void {
    this.retry = false;
    this.tail = 0;
    this.begin = 0;
    this.count = 0;
  }
}
