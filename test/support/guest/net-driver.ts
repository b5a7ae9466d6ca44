/**
 * A virtio-net driver over a FrontEnd's two rings: posts receive buffers, puts frames together again, sends frames in as
 * many descriptors as a test wants. What a device must not do (virtio 1.2 §5.1.6) is noted in `violations`, never
 * thrown, so that any back-end can be driven and judged.
 *
 * Buffers are allocated once. Allocation per frame is fine here: this is a test's guest.
 */
import { SplitQueueDriver, type RingFeatures } from 'virtio-ring-ts';
import * as vu from './constants';
import type { FrontEnd, FrontEndRing } from './front-end';

/** virtio_net_hdr. Offsets count from the Ethernet header. */
export interface NetHeader {
  readonly flags: number;
  readonly gsoType: number;
  readonly hdrLen: number;
  readonly gsoSize: number;
  readonly csumStart: number;
  readonly csumOffset: number;
  readonly numBuffers: number;
}

export const PLAIN_HEADER: NetHeader = {
  flags: 0,
  gsoType: 0,
  hdrLen: 0,
  gsoSize: 0,
  csumStart: 0,
  csumOffset: 0,
  numBuffers: 0,
};

export interface NetDriverOptions {
  /** Sizes of the descriptors of one receive buffer. Default: one of 2048 if mergeable, else one of 65562 + header. */
  readonly rxSizes?: readonly number[];
  /** Receive buffers to post. Default: as many as the ring takes, at most 16 MiB of them. */
  readonly rxCount?: number;
  /** Receive buffers in indirect tables. Default false. */
  readonly rxIndirect?: boolean;
  /** Sizes of all descriptors of a transmitted frame (header included) but the last, which takes the rest. Default []. */
  readonly txSizes?: readonly number[];
  /** Transmit chains of more than one descriptor in indirect tables, if negotiated. Default true. */
  readonly txIndirect?: boolean;
  /** Frames that may be on the ring at the same time. Default 64, or what the ring takes. */
  readonly txSlots?: number;
}

const MAX_FRAME = 14 + 65535 + 4;
const MAX_DESCS = 64;

export class NetDriver {
  /** Called for each frame received. The bytes are the callee's. */
  onFrame: ((frame: Uint8Array, header: NetHeader) => void) | null = null;
  /** Called after each batch of frames received. */
  onBatchEnd: (() => void) | null = null;
  /** Rules of the specification the device broke, in words. */
  readonly violations: string[] = [];
  readonly headerLen: number;
  readonly mergeable: boolean;
  /** What the device does for frames sent. */
  readonly offloads: { readonly csum: boolean; readonly tso4: boolean; readonly tso6: boolean; readonly uso: boolean };
  readonly rxQueue: SplitQueueDriver;
  readonly txQueue: SplitQueueDriver;
  framesReceived = 0;
  framesSent = 0;
  bytesReceived = 0;
  bytesSent = 0;
  /** Of these, frames with marks of a segmentation offload. */
  gsoReceived = 0;
  gsoSent = 0;
  /** Of the former, frames of datagrams. */
  usoReceived = 0;
  /** False: received buffers are kept and not posted again (`repost` gives them back). */
  reposting = true;

  private readonly fe: FrontEnd;
  private readonly rx: FrontEndRing;
  private readonly tx: FrontEndRing;
  private readonly rxSizes: readonly number[];
  private readonly rxBytes: number;
  private readonly rxIndirect: boolean;
  private readonly rxAt: number[] = [];
  private readonly withheld: number[] = [];
  private readonly txSizes: readonly number[];
  private readonly txIndirect: boolean;
  private readonly txFree: number[] = [];
  private readonly queue: { frame: Uint8Array; header: NetHeader }[] = [];
  private readonly drainWaiters: (() => void)[] = [];
  private flushPlanned = false;
  private closed = false;
  /** Buffers of a frame of which not all have come: legal only within one used.idx step, so never across polls. */
  private partial: Uint8Array[] = [];
  private partialLeft = 0;
  private partialHeader: NetHeader = PLAIN_HEADER;

  /** The front-end must have negotiated. Initialises both rings and posts the receive buffers; `start` it afterwards. */
  constructor(frontEnd: FrontEnd, options: NetDriverOptions = {}) {
    this.fe = frontEnd;
    [this.rx, this.tx] = frontEnd.rings;
    const { ram } = frontEnd;
    this.mergeable = frontEnd.has(vu.VIRTIO_NET_F_MRG_RXBUF);
    this.headerLen = this.mergeable || frontEnd.has(vu.VIRTIO_F_VERSION_1) ? 12 : 10;
    this.offloads = {
      csum: frontEnd.has(vu.VIRTIO_NET_F_CSUM),
      tso4: frontEnd.has(vu.VIRTIO_NET_F_HOST_TSO4),
      tso6: frontEnd.has(vu.VIRTIO_NET_F_HOST_TSO6),
      uso: frontEnd.has(vu.VIRTIO_NET_F_HOST_USO),
    };
    const features: RingFeatures = {
      indirect: frontEnd.has(vu.VIRTIO_RING_F_INDIRECT_DESC),
      eventIdx: frontEnd.has(vu.VIRTIO_RING_F_EVENT_IDX),
    };
    this.rxSizes = options.rxSizes ?? [this.mergeable ? 2048 : 65562 + this.headerLen];
    this.rxBytes = this.rxSizes.reduce((a, b) => a + b, 0);
    this.rxIndirect = options.rxIndirect ?? false;
    this.txSizes = options.txSizes ?? [];
    this.txIndirect = (options.txIndirect ?? true) && features.indirect;

    const { size } = this.rx;
    const entries = MAX_DESCS;
    const area = (): { place: { buffer: SharedArrayBuffer; offset: number }; gpa: number; entries: number } => {
      const offset = ram.alloc(16 * entries * size);
      return { place: { buffer: ram.buffer, offset }, gpa: ram.gpa(offset), entries };
    };
    const ringOptions = (ring: FrontEndRing, indirect: boolean): ConstructorParameters<typeof SplitQueueDriver>[2] =>
      indirect ? { start: ring.base, indirectArea: area() } : { start: ring.base };
    this.rxQueue = new SplitQueueDriver(this.rx.layout, features, ringOptions(this.rx, this.rxIndirect));
    this.txQueue = new SplitQueueDriver(this.tx.layout, features, ringOptions(this.tx, this.txIndirect));

    const perBuffer = this.rxIndirect ? 1 : this.rxSizes.length;
    const fits = Math.min(Math.floor(size / perBuffer), Math.max(1, Math.floor((16 << 20) / this.rxBytes)));
    const count = Math.min(options.rxCount ?? fits, Math.floor(size / perBuffer));
    for (let i = 0; i < count; i++) {
      this.rxAt.push(ram.alloc(this.rxBytes));
      this.post(i);
    }
    const perFrame = this.txIndirect ? 1 : this.txSizes.length + 1;
    const slots = Math.min(options.txSlots ?? 64, Math.floor(size / perFrame));
    for (let i = 0; i < slots; i++) this.txFree.push(ram.alloc(MAX_FRAME + this.headerLen));
    this.rxQueue.publish();
    this.rxQueue.enableCallbacks();
    this.txQueue.disableCallbacks();
    this.rx.onCall = () => this.poll();
    this.tx.onCall = () => this.reclaim();
  }

  has(feature: bigint): boolean {
    return this.fe.has(feature);
  }

  /** Frames that wait for a free slot. */
  get backlog(): number {
    return this.queue.length;
  }

  /** Receive buffers the device now has. */
  get posted(): number {
    return this.rxQueue.inFlight;
  }

  /** Sends a frame, from its Ethernet header on, once there is room. Frames sent in one turn go out with one kick. */
  send(frame: Uint8Array, header: NetHeader = PLAIN_HEADER): void {
    if (this.closed) return;
    if (frame.length > MAX_FRAME) throw new RangeError(`a frame of ${frame.length} bytes`);
    if (this.txFree.length === 0 || this.queue.length > 0) this.reclaimQuietly();
    if (this.queue.length > 0 || !this.put(frame, header)) this.queue.push({ frame, header });
    if (this.flushPlanned) return;
    this.flushPlanned = true;
    queueMicrotask(() => {
      this.flushPlanned = false;
      this.flush();
    });
  }

  /** Resolves when the device has taken and given back every frame sent. */
  drained(): Promise<void> {
    return new Promise((resolve) => {
      this.drainWaiters.push(resolve);
      this.flush();
      this.reclaim();
    });
  }

  /** Looks for received frames now. A notification does so by itself. */
  poll(): void {
    if (this.closed) return;
    let any = false;
    do {
      this.rxQueue.disableCallbacks();
      for (;;) {
        const got = this.rxQueue.pollUsed();
        if (got === 0) break;
        if (got < 0) {
          this.violation('receive queue: a used element that is not outstanding, or longer than its buffer');
          return;
        }
        any = true;
        this.received(this.rxQueue.usedToken, this.rxQueue.usedLen);
      }
      if (this.partialLeft > 0) {
        this.violation(`used.idx was published ${this.partialLeft} buffers short of a whole frame`);
        this.partial = [];
        this.partialLeft = 0;
      }
      if (this.rxQueue.publish()) this.rx.kick();
    } while (this.rxQueue.enableCallbacks());
    if (any) this.onBatchEnd?.();
  }

  /** Posts up to `count` buffers that were withheld while `reposting` was false. */
  repost(count = Infinity): void {
    for (let n = 0; n < count; n++) {
      const token = this.withheld.shift();
      if (token === undefined) break;
      this.post(token);
    }
    if (this.rxQueue.publish()) this.rx.kick();
  }

  /** Kicks both rings whether or not the device wants it (after a reconnect). */
  kickAll(): void {
    this.rx.kick();
    this.tx.kick();
  }

  /** Lets go: nothing is sent or received any more. */
  close(): void {
    this.closed = true;
    this.rx.onCall = null;
    this.tx.onCall = null;
    for (const resolve of this.drainWaiters.splice(0)) resolve();
  }

  private post(token: number): void {
    let at = this.rxAt[token];
    this.rxQueue.begin();
    for (const size of this.rxSizes) {
      this.rxQueue.addWritable(this.fe.ram.gpa(at), size);
      at += size;
    }
    if (this.rxQueue.commit(token, this.rxIndirect) < 0) throw new Error('no descriptor for a receive buffer');
  }

  /** One used receive buffer: the first of a frame, or a further one. */
  private received(token: number, len: number): void {
    const at = this.rxAt[token];
    const { ram } = this.fe;
    if (this.partialLeft > 0) {
      this.partial.push(ram.bytes.slice(at, at + len));
      this.partialLeft--;
      if (this.partialLeft > 0 && len !== this.rxBytes) {
        this.violation(`a merged buffer that is not the last holds ${len} of ${this.rxBytes} bytes`);
      }
    } else {
      if (len < this.headerLen + 14) this.violation(`a frame of ${len} bytes, header included`);
      const header = readHeader(ram.view, at, this.headerLen);
      this.partialHeader = header;
      this.partial = [ram.bytes.slice(at + this.headerLen, at + Math.max(len, this.headerLen))];
      this.partialLeft = header.numBuffers - 1;
      if (this.headerLen === 12 && header.numBuffers === 0) this.violation('num_buffers is 0');
      if (!this.mergeable && header.numBuffers > 1)
        this.violation(`num_buffers ${header.numBuffers} without MRG_RXBUF`);
      if (this.partialLeft > 0 && len !== this.rxBytes) {
        this.violation(`a merged buffer that is not the last holds ${len} of ${this.rxBytes} bytes`);
      }
      if (!this.mergeable) this.partialLeft = 0;
    }
    if (this.reposting) this.post(token);
    else this.withheld.push(token);
    if (this.partialLeft <= 0) this.complete();
  }

  private complete(): void {
    const parts = this.partial;
    this.partial = [];
    this.partialLeft = 0;
    let frame = parts[0];
    if (parts.length > 1) {
      frame = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
      let at = 0;
      for (const p of parts) {
        frame.set(p, at);
        at += p.length;
      }
    }
    this.framesReceived++;
    this.bytesReceived += frame.length;
    if (this.partialHeader.gsoType !== vu.VIRTIO_NET_HDR_GSO_NONE) this.gsoReceived++;
    if (this.partialHeader.gsoType === vu.VIRTIO_NET_HDR_GSO_UDP_L4) this.usoReceived++;
    this.judge(this.partialHeader, frame.length);
    this.onFrame?.(frame, this.partialHeader);
  }

  /** virtio 1.2 §5.1.6.4.1: what the device may say in a header. */
  private judge(h: NetHeader, length: number): void {
    const fe = this.fe;
    const gso = h.gsoType & ~vu.VIRTIO_NET_HDR_GSO_ECN;
    if (!fe.has(vu.VIRTIO_NET_F_GUEST_CSUM) && h.flags !== 0) this.violation(`flags ${h.flags} without GUEST_CSUM`);
    if ((h.flags & vu.VIRTIO_NET_HDR_F_NEEDS_CSUM) !== 0 && h.csumStart + h.csumOffset + 2 > length) {
      this.violation(`csum_start ${h.csumStart} + csum_offset ${h.csumOffset} outside a frame of ${length}`);
    }
    if (length > MAX_FRAME) this.violation(`a frame of ${length} bytes`);
    if (gso === vu.VIRTIO_NET_HDR_GSO_NONE) return;
    const allowed =
      (gso === vu.VIRTIO_NET_HDR_GSO_TCPV4 && fe.has(vu.VIRTIO_NET_F_GUEST_TSO4)) ||
      (gso === vu.VIRTIO_NET_HDR_GSO_TCPV6 && fe.has(vu.VIRTIO_NET_F_GUEST_TSO6)) ||
      (gso === vu.VIRTIO_NET_HDR_GSO_UDP_L4 &&
        (fe.has(vu.VIRTIO_NET_F_GUEST_USO4) || fe.has(vu.VIRTIO_NET_F_GUEST_USO6)));
    if (!allowed) this.violation(`gso_type ${h.gsoType} was not negotiated`);
    if (h.gsoSize === 0) this.violation('gso_size 0 with a gso_type');
    if ((h.flags & vu.VIRTIO_NET_HDR_F_NEEDS_CSUM) === 0) this.violation('GSO without NEEDS_CSUM');
    if (h.hdrLen > length) this.violation(`hdr_len ${h.hdrLen} in a frame of ${length}`);
  }

  /** Writes a frame into a free slot and its chain into the ring. False if there is no slot. */
  private put(frame: Uint8Array, header: NetHeader): boolean {
    const at = this.txFree.pop();
    if (at === undefined) return false;
    const { ram } = this.fe;
    writeHeader(ram.view, at, this.headerLen, header);
    ram.bytes.set(frame, at + this.headerLen);
    const total = this.headerLen + frame.length;
    this.txQueue.begin();
    let off = 0;
    let descs = 1;
    for (const size of this.txSizes) {
      if (off + size >= total) break;
      this.txQueue.addReadable(ram.gpa(at + off), size);
      off += size;
      descs++;
    }
    this.txQueue.addReadable(ram.gpa(at + off), total - off);
    if (this.txQueue.commit(at, this.txIndirect && descs > 1) < 0) throw new Error('no descriptor for a frame');
    this.framesSent++;
    this.bytesSent += frame.length;
    if (header.gsoType !== vu.VIRTIO_NET_HDR_GSO_NONE) this.gsoSent++;
    return true;
  }

  private flush(): void {
    if (this.closed) return;
    if (this.txQueue.publish()) this.tx.kick();
    // A full ring is waited for; otherwise the slots are taken back when frames are sent.
    if (this.queue.length > 0 || this.drainWaiters.length > 0) this.reclaim();
  }

  private reclaimQuietly(): void {
    for (;;) {
      const got = this.txQueue.pollUsed();
      if (got === 0) return;
      if (got < 0) {
        this.violation('transmit queue: a used element that is not outstanding, or with a length');
        return;
      }
      this.txFree.push(this.txQueue.usedToken);
    }
  }

  /** Takes slots back, sends what waits for them, and goes on asking while somebody waits. */
  private reclaim(): void {
    if (this.closed) return;
    for (;;) {
      this.reclaimQuietly();
      while (this.queue.length > 0 && this.put(this.queue[0].frame, this.queue[0].header)) this.queue.shift();
      if (this.txQueue.publish()) this.tx.kick();
      if (this.queue.length === 0 && this.txQueue.inFlight === 0) {
        for (const resolve of this.drainWaiters.splice(0)) resolve();
      }
      if (this.queue.length === 0 && this.drainWaiters.length === 0) {
        this.txQueue.disableCallbacks();
        return;
      }
      if (!this.txQueue.enableCallbacks()) return;
    }
  }

  private violation(text: string): void {
    // A device that errs does so for every frame: the first hundred say it all.
    if (this.violations.length < 100) this.violations.push(text);
  }
}

export function readHeader(dv: DataView, at: number, headerLen: number): NetHeader {
  return {
    flags: dv.getUint8(at),
    gsoType: dv.getUint8(at + 1),
    hdrLen: dv.getUint16(at + 2, true),
    gsoSize: dv.getUint16(at + 4, true),
    csumStart: dv.getUint16(at + 6, true),
    csumOffset: dv.getUint16(at + 8, true),
    numBuffers: headerLen === 12 ? dv.getUint16(at + 10, true) : 1,
  };
}

export function writeHeader(dv: DataView, at: number, headerLen: number, h: NetHeader): void {
  dv.setUint8(at, h.flags);
  dv.setUint8(at + 1, h.gsoType);
  dv.setUint16(at + 2, h.hdrLen, true);
  dv.setUint16(at + 4, h.gsoSize, true);
  dv.setUint16(at + 6, h.csumStart, true);
  dv.setUint16(at + 8, h.csumOffset, true);
  if (headerLen === 12) dv.setUint16(at + 10, h.numBuffers, true);
}
