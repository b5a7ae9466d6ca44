/**
 * Frames from a namespace over its tap device.
 *
 * Theory of operation. The kernel gives one frame a read(2), so one call of the addon reads many into a private block, one
 * behind the other, where rows name them for the host's sockets; their first bytes are copied to `head`. The block is used
 * from its start again once all of it was given out and released, so that a light load stays in the processor's cache.
 *
 * Each frame has a virtio_net_hdr in front (IFF_VNET_HDR): with it a frame may hold up to 64 KiB of a TCP connection or of
 * datagrams of one length at any MTU, and its transport checksum is ours to finish, which the host's socket does anyway. A
 * process in the namespace that has its rights can write headers of its own making, so they are checked as a guest's are.
 */
import type { Native } from '../../native';
import { C_DROPS, type Counters, dropCode } from '../../stack/counters';
import { copyBytes } from '../../stack/kit/bytes';
import { EAGAIN } from '../../stack/kit/linux';
import { setRow } from '../../stack/kit/rows';
import {
  GSO_ECN,
  GSO_NONE,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_UDP_L4,
  HEAD_FIRST,
  MAX_FRAME,
  MAX_HEAD,
} from '../../stack/ports';
import { ETHERNET_HEADER_LEN } from '../../stack/wire/ethernet';
import { UDP_CHECKSUM_OFFSET, UDP_HEADER_LEN } from '../../stack/wire/udp';
import type { PrivateBlock } from '../private-block';
import {
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  netHdrCsumOffset,
  netHdrCsumStart,
  netHdrFlags,
  netHdrGsoSize,
  netHdrGsoType,
} from '../virtio/net-header';

/** Bytes of a tap's virtio_net_hdr: the kernel's default, without num_buffers. */
export const TAP_HEADER_LEN = 10;
/** VIRTIO_NET_HDR_F_DATA_VALID: the kernel has looked at the checksum, or there is none to look at. */
const DATA_VALID = 2;

/** What the port's two sides need of the addon. */
export type TapIo = Pick<Native, 'rows' | 'checksum' | 'tapRead' | 'tapWrite'>;

/** Bytes of the block for frames from the namespace. */
export const TAP_INPUT_BLOCK = 1 << 20;
/** Frames that one call reads at the most. */
const BATCH = 64;
const LINE = 64;

/** How the link is, in `TapInput.end` and `TapOutput.end`: open, stopped, or -errno. */
export const TAP_OPEN = 0;
export const TAP_STOPPED = 1;

const DROP_FRAME_SHORT = dropCode('frame_short');
const DROP_FRAME_TOO_LONG = dropCode('frame_too_long');
const DROP_VNET_HEADER = dropCode('vnet_header');

export class TapInput {
  readonly head: DataView;
  headLen: number;
  gsoType: number;
  gsoSize: number;
  csumPartial: boolean;
  /** TAP_OPEN, TAP_STOPPED, or why nothing more can be read. */
  end: number;
  /** Frames may wait though `receive` returned 0: call again after `releaseReceived`. */
  more: boolean;

  private readonly io: TapIo;
  private readonly counters: Counters;
  private readonly region: number;
  private readonly view: DataView;
  private readonly lengths: Int32Array;
  private fd: number;
  /** Bytes in front of each frame. */
  private headerLen: number;
  /** The device had no more when it was last read. */
  private drained: boolean;
  /** Frames were given out and not released. */
  private held: boolean;
  /** Of the last call: frames `next … count - 1` are not yet given out, the first of them lies at `at`. */
  private next: number;
  private count: number;
  private at: number;
  private frameAt: number;
  private frameLen: number;

  constructor(io: TapIo, block: PrivateBlock, counters: Counters) {
    this.io = io;
    this.counters = counters;
    this.region = block.region;
    this.view = block.view;
    this.head = new DataView(new ArrayBuffer(MAX_HEAD));
    this.headLen = 0;
    this.gsoType = GSO_NONE;
    this.gsoSize = 0;
    this.csumPartial = false;
    this.end = TAP_STOPPED;
    this.more = false;
    this.lengths = new Int32Array(BATCH);
    this.fd = -1;
    this.headerLen = 0;
    this.drained = true;
    this.held = false;
    this.next = 0;
    this.count = 0;
    this.at = 0;
    this.frameAt = 0;
    this.frameLen = 0;
  }

  /** Takes a tap device (non-blocking); `header`: frames have a virtio_net_hdr in front. */
  start(fd: number, header: boolean): void {
    this.fd = fd;
    this.headerLen = header ? TAP_HEADER_LEN : 0;
    this.end = TAP_OPEN;
    this.more = false;
    this.drained = false;
    this.held = false;
    this.next = 0;
    this.count = 0;
    this.at = 0;
  }

  stop(): void {
    this.fd = -1;
    this.end = TAP_STOPPED;
    this.more = false;
    this.next = 0;
    this.count = 0;
  }

  /** The device is readable, or gone. */
  ready(): void {
    this.drained = false;
  }

  /** See GuestPort.receive. */
  receive(row: number): number {
    for (;;) {
      if (this.next === this.count && !this.fill()) return 0;
      const start = this.at;
      const length = this.lengths[this.next++];
      this.at = (start + length + LINE - 1) & -LINE;
      const drop = this.accept(start, length);
      if (drop === 0) {
        setRow(this.io.rows, row, this.region, this.frameAt, this.frameLen);
        this.held = true;
        return this.frameLen;
      }
      this.counters[C_DROPS + drop]++;
    }
  }

  /** See GuestPort.pull. */
  pull(n: number): number {
    const want = Math.min(n, this.frameLen, MAX_HEAD);
    if (want > this.headLen) {
      copyBytes(this.view, this.frameAt + this.headLen, this.head, this.headLen, want - this.headLen);
      this.headLen = want;
    }
    return this.headLen;
  }

  /** See GuestPort.substitute. The frame that was received stays held, as it is. */
  substitute(from: DataView, off: number, length: number): void {
    this.frameLen = length;
    // All that `pull` could ask for, so that it never looks at the block.
    this.headLen = Math.min(length, MAX_HEAD);
    copyBytes(from, off, this.head, 0, this.headLen);
    this.gsoType = GSO_NONE;
    this.gsoSize = 0;
    this.csumPartial = false;
  }

  /** See GuestPort.releaseReceived. */
  releaseReceived(): void {
    this.held = false;
  }

  /** Sets up the frame whose header is at `start`. Returns 0 or a drop code. */
  private accept(start: number, length: number): number {
    const frameLen = length - this.headerLen;
    if (frameLen < ETHERNET_HEADER_LEN) return DROP_FRAME_SHORT;
    if (frameLen > MAX_FRAME) return DROP_FRAME_TOO_LONG;
    this.frameAt = start + this.headerLen;
    this.frameLen = frameLen;
    this.headLen = Math.min(frameLen, HEAD_FIRST);
    copyBytes(this.view, this.frameAt, this.head, 0, this.headLen);
    this.gsoType = GSO_NONE;
    this.gsoSize = 0;
    this.csumPartial = false;
    return this.headerLen === 0 ? 0 : this.checkHeader(start, frameLen);
  }

  private checkHeader(start: number, frameLen: number): number {
    const { view } = this;
    const flags = netHdrFlags(view, start);
    const type = netHdrGsoType(view, start);
    const csumStart = netHdrCsumStart(view, start);
    const csumOffset = netHdrCsumOffset(view, start);
    if ((flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) !== 0) {
      if (csumStart + csumOffset + 2 > frameLen) return DROP_VNET_HEADER;
      this.csumPartial = true;
    } else if ((flags & DATA_VALID) !== 0) this.csumPartial = true;
    if (type === GSO_NONE) return 0;
    const size = netHdrGsoSize(view, start);
    if (size === 0 || !this.csumPartial) return DROP_VNET_HEADER;
    switch (type & ~GSO_ECN) {
      case GSO_TCPV4:
      case GSO_TCPV6:
        break;
      case GSO_UDP_L4:
        if (type !== GSO_UDP_L4 || csumOffset !== UDP_CHECKSUM_OFFSET || csumStart + UDP_HEADER_LEN > frameLen)
          return DROP_VNET_HEADER;
        break;
      default:
        return DROP_VNET_HEADER;
    }
    this.gsoType = type;
    this.gsoSize = size;
    return 0;
  }

  /** Reads what the device has. False: nothing came. */
  private fill(): boolean {
    if (this.fd < 0 || this.drained || this.end !== TAP_OPEN) return false;
    const most = MAX_FRAME + this.headerLen;
    if (!this.held) this.at = 0;
    else if (this.at + most > TAP_INPUT_BLOCK) {
      this.more = true;
      return false;
    }
    const n = this.io.tapRead(this.fd, this.region, this.at, TAP_INPUT_BLOCK, most, this.lengths);
    this.next = 0;
    this.count = n > 0 ? n : 0;
    if (n > 0) {
      if (n < BATCH && this.lengths[n] === -EAGAIN) this.drained = true;
      return true;
    }
    this.drained = true;
    if (n < 0 && n !== -EAGAIN) this.end = n;
    return false;
  }
}
