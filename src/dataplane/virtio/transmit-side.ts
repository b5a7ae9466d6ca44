/**
 * The guest's transmit queue (frames from the guest).
 *
 * Theory of operation. `receive` pops one chain, checks its virtio_net_hdr on a private copy, cuts the header off the
 * rows and copies the first bytes of the frame into private memory (`head`): whatever is decided about a frame is
 * decided there, so that a guest that rewrites its buffers meanwhile changes payload at the most. The chain's head
 * number is remembered; `complete` returns all of them with one store of used.idx, after the batch's payload went to the
 * host sockets straight from the guest's buffers. Whether the guest is notified of that is decided in ../moderation.
 *
 * A frame that the guest got wrong is counted and completed; a chain that breaks the ring's own rules is a fault:
 * the ring stops (the session is told), the process goes on.
 */
import type { GuestMemory, SplitQueueDevice } from 'virtio-ring-ts';
import { dropCode, C_DROPS } from '../../stack/counters';
import type { Counters } from '../../stack/counters';
import { copyBytes } from '../../stack/kit/bytes';
import { cutFront } from '../../stack/kit/rows';
import { GSO_NONE, HEAD_FIRST, MAX_FRAME, MAX_HEAD } from '../../stack/ports';
import type { Rows } from '../../stack/ports';
import { ROWS_IN, ROWS_IN_COUNT } from '../../stack/scratch';
import {
  ETHERNET_HEADER_LEN,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  ethernetHeaderLen,
  ethernetInnerType,
} from '../../stack/wire/ethernet';
import { IPV4_HEADER_LEN, IP_PROTO_UDP, ipv4HeaderLen, ipv4Protocol } from '../../stack/wire/ipv4';
import { IPV6_HEADER_LEN, ipv6NextHeader } from '../../stack/wire/ipv6';
import { UDP_CHECKSUM_OFFSET, UDP_HEADER_LEN } from '../../stack/wire/udp';
import type { DirtyMarker } from './dirty-log';
import type { NegotiatedFeatures } from './features';
import {
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_NONE,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  VIRTIO_NET_HDR_GSO_UDP_L4,
  netHdrCsumOffset,
  netHdrCsumStart,
  netHdrFlags,
  netHdrGsoSize,
  netHdrGsoType,
} from './net-header';

const DROP_FRAME_SHORT = dropCode('frame_short');
const DROP_FRAME_TOO_LONG = dropCode('frame_too_long');
const DROP_VNET_HEADER = dropCode('vnet_header');
const DROP_GUEST_DOWN = dropCode('guest_down');

export class TransmitSide {
  readonly head: DataView;
  headLen: number;
  rowCount: number;
  gsoType: number;
  gsoSize: number;
  csumPartial: boolean;
  /** Ring fault code (negative) once the ring broke, else 0. */
  fault: number;
  enabled: boolean;
  queue: SplitQueueDevice | null;
  dirty: DirtyMarker | null;
  /** Frames taken and not completed, and their bytes. */
  taken: number;
  takenBytes: number;

  private readonly memory: GuestMemory;
  private readonly rows: Rows;
  private readonly counters: Counters;
  private features: NegotiatedFeatures;
  private readonly vnet: DataView;
  private readonly heads: Uint16Array;
  private row: number;
  private frameLen: number;

  constructor(memory: GuestMemory, rows: Rows, counters: Counters, features: NegotiatedFeatures) {
    this.memory = memory;
    this.rows = rows;
    this.counters = counters;
    this.features = features;
    this.head = new DataView(new ArrayBuffer(MAX_HEAD));
    this.headLen = 0;
    this.rowCount = 0;
    this.gsoType = GSO_NONE;
    this.gsoSize = 0;
    this.csumPartial = false;
    this.fault = 0;
    this.enabled = false;
    this.queue = null;
    this.dirty = null;
    this.vnet = new DataView(new ArrayBuffer(16));
    this.heads = new Uint16Array(32768);
    this.taken = 0;
    this.takenBytes = 0;
    this.row = 0;
    this.frameLen = 0;
  }

  setFeatures(features: NegotiatedFeatures): void {
    this.features = features;
  }

  start(queue: SplitQueueDevice, enabled: boolean): void {
    this.queue = queue;
    this.enabled = enabled;
    this.fault = 0;
    this.forget();
  }

  /** Forgets the ring. What was taken must have been released. */
  stop(): void {
    this.queue = null;
    this.forget();
  }

  private forget(): void {
    this.taken = 0;
    this.takenBytes = 0;
  }

  /** See GuestPort.receive. */
  receive(row: number): number {
    const queue = this.queue;
    if (queue === null || this.fault !== 0) return 0;
    const limit = ROWS_IN + ROWS_IN_COUNT - row;
    for (;;) {
      if (this.taken === this.heads.length) return 0;
      const n = queue.pop(this.rows, row, limit);
      if (n < 0) {
        this.fault = n;
        return 0;
      }
      if (queue.head < 0) return 0;
      this.heads[this.taken++] = queue.head;
      if (!this.enabled) {
        // vhost-user "Ring states": a started but disabled ring is drained without effect.
        this.counters[C_DROPS + DROP_GUEST_DOWN]++;
        continue;
      }
      const drop = this.accept(row, queue.readableRows, queue.readableBytes);
      if (drop === 0) {
        this.takenBytes += this.frameLen;
        return this.frameLen;
      }
      this.counters[C_DROPS + drop]++;
    }
  }

  /** Extends the private copy. */
  pull(n: number): number {
    const want = Math.min(n, this.frameLen, MAX_HEAD);
    if (want > this.headLen) {
      // Only what was not there yet is read: bytes already decided on are never fetched again.
      this.copy(this.row, this.rowCount, this.head, this.headLen, want);
      this.headLen = want;
    }
    return this.headLen;
  }

  /** See GuestPort.substitute. */
  substitute(from: DataView, off: number, length: number, row: number): void {
    this.row = row;
    this.rowCount = 1;
    this.frameLen = length;
    // All that `pull` could ask for, so that it never goes back to the rows, which name no guest memory.
    this.headLen = Math.min(length, MAX_HEAD);
    copyBytes(from, off, this.head, 0, this.headLen);
    this.gsoType = GSO_NONE;
    this.gsoSize = 0;
    this.csumPartial = false;
  }

  /** Completes everything taken, visibly, and returns how many frames that was. The guest is not notified of it. */
  complete(): number {
    const queue = this.queue;
    const taken = this.taken;
    if (queue === null || taken === 0) return 0;
    for (let i = 0; i < taken; i++) {
      if (this.dirty !== null) this.dirty.usedElement(queue.usedIdx & (queue.size - 1));
      queue.pushUsed(this.heads[i], 0);
    }
    this.taken = 0;
    this.takenBytes = 0;
    if (this.dirty !== null) this.dirty.usedIndex();
    queue.publishQuietly();
    return taken;
  }

  /** Checks the chain just popped and sets up the frame. Returns 0 or a drop code. */
  private accept(row: number, rowCount: number, bytes: number): number {
    const headerLen = this.features.headerLen;
    const frameLen = bytes - headerLen;
    if (frameLen < ETHERNET_HEADER_LEN) return DROP_FRAME_SHORT;
    if (frameLen > MAX_FRAME) return DROP_FRAME_TOO_LONG;
    this.copy(row, rowCount, this.vnet, 0, headerLen);
    const drop = this.checkNetHeader(frameLen);
    if (drop !== 0) return drop;
    this.rowCount = cutFront(this.rows, row, rowCount, headerLen);
    this.row = row;
    this.frameLen = frameLen;
    this.headLen = Math.min(frameLen, HEAD_FIRST);
    this.copy(row, this.rowCount, this.head, 0, this.headLen);
    if (this.gsoType === VIRTIO_NET_HDR_GSO_UDP_L4 && !this.isUdpChecksum(frameLen)) return DROP_VNET_HEADER;
    return 0;
  }

  /** Do the marks of a frame of datagrams name the checksum of a UDP header? As Linux's virtio_net_hdr_to_skb asks. */
  private isUdpChecksum(frameLen: number): boolean {
    const { head, vnet } = this;
    const start = netHdrCsumStart(vnet, 0);
    if (netHdrCsumOffset(vnet, 0) !== UDP_CHECKSUM_OFFSET || start + UDP_HEADER_LEN > frameLen) return false;
    // A tag (VLAN 0, if the frame is not dropped for it) counts in what the marks say.
    const l3 = ethernetHeaderLen(head, 0, frameLen);
    switch (ethernetInnerType(head, 0, l3)) {
      case ETHERTYPE_IPV4:
        if (frameLen < l3 + IPV4_HEADER_LEN || ipv4Protocol(head, l3) !== IP_PROTO_UDP) return false;
        return start === l3 + ipv4HeaderLen(head, l3);
      case ETHERTYPE_IPV6:
        if (frameLen < l3 + IPV6_HEADER_LEN) return false;
        // Behind extension headers it is where they end: the stack finds out where that is, or drops the frame.
        if (ipv6NextHeader(head, l3) === IP_PROTO_UDP) return start === l3 + IPV6_HEADER_LEN;
        return start > l3 + IPV6_HEADER_LEN;
      default:
        return false;
    }
  }

  private checkNetHeader(frameLen: number): number {
    const vnet = this.vnet;
    const f = this.features;
    const flags = netHdrFlags(vnet, 0);
    const type = netHdrGsoType(vnet, 0);
    const partial = (flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) !== 0;
    if (partial) {
      const end = netHdrCsumStart(vnet, 0) + netHdrCsumOffset(vnet, 0) + 2;
      if (!f.csum || end > frameLen) return DROP_VNET_HEADER;
    }
    this.csumPartial = partial;
    this.gsoType = GSO_NONE;
    this.gsoSize = 0;
    if (type === VIRTIO_NET_HDR_GSO_NONE) return 0;
    const size = netHdrGsoSize(vnet, 0);
    if (size === 0 || !partial) return DROP_VNET_HEADER;
    // hdr_len is a hint that drivers get wrong (virtio 1.2 §5.1.6.2.2): the headers themselves say where they end.
    switch (type) {
      case VIRTIO_NET_HDR_GSO_TCPV4:
        if (!f.hostTso4) return DROP_VNET_HEADER;
        break;
      case VIRTIO_NET_HDR_GSO_TCPV6:
        if (!f.hostTso6) return DROP_VNET_HEADER;
        break;
      case VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN:
        if (!f.hostTso4 || !f.hostEcn) return DROP_VNET_HEADER;
        break;
      case VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN:
        if (!f.hostTso6 || !f.hostEcn) return DROP_VNET_HEADER;
        break;
      case VIRTIO_NET_HDR_GSO_UDP_L4:
        if (!f.hostUso) return DROP_VNET_HEADER;
        break;
      default:
        return DROP_VNET_HEADER;
    }
    this.gsoType = type;
    this.gsoSize = size;
    return 0;
  }

  /** Copies bytes [start, end) of what the rows name to `to` at the same positions. The rows hold at least `end`. */
  private copy(row: number, rowCount: number, to: DataView, start: number, end: number): void {
    const { region, offset, length } = this.rows;
    let base = 0; // position of the current row's first byte
    let pos = start;
    for (let r = row; r < row + rowCount && pos < end; r++) {
      const len = length[r];
      if (pos < base + len) {
        const from = this.memory.view(region[r]);
        const stop = Math.min(end, base + len);
        copyBytes(from, offset[r] + (pos - base), to, pos, stop - pos);
        pos = stop;
      }
      base += len;
    }
  }
}
