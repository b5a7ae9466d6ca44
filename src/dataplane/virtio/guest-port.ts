/**
 * `GuestPort` over one virtio-net queue pair: ring 0 is the guest's receive queue, ring 1 its transmit queue
 * (virtio 1.2 §5.1.2). Joins the two sides, owns the call descriptors and notifies the guest.
 */
import type { GuestMemory, SplitQueueDevice } from 'virtio-ring-ts';
import type { Native } from '../../native';
import { C_CALLS_TO_GUEST } from '../../stack/counters';
import type { Counters } from '../../stack/counters';
import type { GuestPort } from '../../stack/ports';
import type { NegotiatedFeatures } from './features';
import { ReceiveSide } from './receive-side';
import type { HeaderBlock } from './receive-side';
import { TransmitSide } from './transmit-side';

export const RING_RECEIVE = 0;
export const RING_TRANSMIT = 1;

/** What the port needs of the addon. */
export type PortIo = Pick<Native, 'rows' | 'checksum' | 'notify' | 'fdKind'>;

export class VirtioGuestPort implements GuestPort {
  readonly rx: ReceiveSide;
  readonly tx: TransmitSide;
  /** Call descriptors, -1: none, and what kind of file each is. */
  private rxCallFd: number;
  private rxCallKind: number;
  private txCallFd: number;
  private txCallKind: number;
  /** The guest was notified of what is in its rings, since this was last set to false. */
  told: boolean;
  gsoTcp4: boolean;
  gsoTcp6: boolean;
  gsoUdp4: boolean;
  gsoUdp6: boolean;
  private readonly native: PortIo;
  private readonly counters: Counters;

  constructor(
    native: PortIo,
    memory: GuestMemory,
    header: HeaderBlock,
    counters: Counters,
    features: NegotiatedFeatures,
  ) {
    this.native = native;
    this.counters = counters;
    this.rx = new ReceiveSide(memory, native, header, features);
    this.tx = new TransmitSide(memory, native.rows, counters, features);
    this.rxCallFd = -1;
    this.rxCallKind = 0;
    this.txCallFd = -1;
    this.txCallKind = 0;
    this.told = false;
    this.gsoTcp4 = features.guestTso4;
    this.gsoTcp6 = features.guestTso6;
    this.gsoUdp4 = features.guestUso4;
    this.gsoUdp6 = features.guestUso6;
  }

  setFeatures(features: NegotiatedFeatures): void {
    this.rx.setFeatures(features);
    this.tx.setFeatures(features);
    this.gsoTcp4 = features.guestTso4;
    this.gsoTcp6 = features.guestTso6;
    this.gsoUdp4 = features.guestUso4;
    this.gsoUdp6 = features.guestUso6;
  }

  startRing(index: number, queue: SplitQueueDevice, enabled: boolean, callFd: number): void {
    if (index === RING_RECEIVE) this.rx.start(queue, enabled);
    else this.tx.start(queue, enabled);
    this.setCall(index, callFd);
  }

  /** `fd` is non-blocking, or -1: the guest polls. */
  setCall(index: number, fd: number): void {
    const kind = fd < 0 ? 0 : this.native.fdKind(fd);
    if (index === RING_RECEIVE) {
      this.rxCallFd = fd;
      this.rxCallKind = kind;
    } else {
      this.txCallFd = fd;
      this.txCallKind = kind;
    }
  }

  /** Notifies the guest of a ring, whether or not there is something new. */
  call(index: number): void {
    if (index === RING_RECEIVE) this.notify(this.rxCallFd, this.rxCallKind);
    else this.notify(this.txCallFd, this.txCallKind);
  }

  get up(): boolean {
    return this.rx.queue !== null && this.tx.queue !== null && this.rx.enabled;
  }
  get maxFrame(): number {
    return this.rx.maxFrame;
  }

  get head(): DataView {
    return this.tx.head;
  }
  get headLen(): number {
    return this.tx.headLen;
  }
  get rowCount(): number {
    return this.tx.rowCount;
  }
  get gsoType(): number {
    return this.tx.gsoType;
  }
  get gsoSize(): number {
    return this.tx.gsoSize;
  }
  get csumPartial(): boolean {
    return this.tx.csumPartial;
  }
  receive(row: number): number {
    return this.tx.receive(row);
  }
  pull(n: number): number {
    return this.tx.pull(n);
  }
  substitute(from: DataView, off: number, length: number, row: number): void {
    this.tx.substitute(from, off, length, row);
  }
  releaseReceived(): void {
    if (this.tx.releaseReceived()) this.notify(this.txCallFd, this.txCallKind);
  }
  /** Tells the guest of completions that were held back, if it still wants to be told. */
  releaseHeld(): void {
    if (this.tx.releaseHeld()) this.notify(this.txCallFd, this.txCallKind);
  }

  get out(): DataView {
    return this.rx.out;
  }
  get outOff(): number {
    return this.rx.outOff;
  }
  reserve(headerLen: number, payloadLen: number, row: number): number {
    return this.rx.reserve(headerLen, payloadLen, row);
  }
  front(): void {
    this.rx.front();
  }
  commit(
    payloadLen: number,
    flags: number,
    csumStart: number,
    csumOffset: number,
    gsoType: number,
    gsoSize: number,
  ): void {
    this.rx.commit(payloadLen, flags, csumStart, csumOffset, gsoType, gsoSize);
  }
  cancel(): void {
    this.rx.cancel();
  }
  flush(): void {
    if (!this.rx.publish()) return;
    this.notify(this.rxCallFd, this.rxCallKind);
    this.tx.guestComes();
  }

  /** Signals a call descriptor; errors (a full pipe, a closed peer) are the front-end's affair. */
  private notify(fd: number, kind: number): void {
    if (fd < 0) return;
    this.told = true;
    this.counters[C_CALLS_TO_GUEST]++;
    this.native.notify(fd, kind);
  }
}
