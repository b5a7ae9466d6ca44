/**
 * `GuestPort` over one virtio-net queue pair: ring 0 is the guest's receive queue, ring 1 its transmit queue
 * (virtio 1.2 §5.1.2). Joins the two sides, owns the call descriptors and notifies the guest.
 */
import type { GuestMemory, SplitQueueDevice } from 'virtio-ring-ts';
import type { Native } from '../../native';
import { C_CALLS_TO_GUEST } from '../../stack/counters';
import type { Counters } from '../../stack/counters';
import type { GuestPort } from '../../stack/ports';
import { RING_RECEIVE, RING_TRANSMIT } from '../moderation/moderated-port';
import type { Moderation } from '../moderation/moderation';
import type { NegotiatedFeatures } from './features';
import { ReceiveSide } from './receive-side';
import type { PrivateBlock } from '../private-block';
import { TransmitSide } from './transmit-side';

export { RING_RECEIVE, RING_TRANSMIT };

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
  /** Decides when the guest is notified. */
  readonly moderation: Moderation;
  gsoTcp4: boolean;
  gsoTcp6: boolean;
  gsoUdp4: boolean;
  gsoUdp6: boolean;
  private readonly native: PortIo;
  private readonly counters: Counters;

  constructor(
    native: PortIo,
    memory: GuestMemory,
    header: PrivateBlock,
    counters: Counters,
    features: NegotiatedFeatures,
    moderation: Moderation,
  ) {
    this.native = native;
    this.counters = counters;
    this.rx = new ReceiveSide(memory, native, header, features);
    this.tx = new TransmitSide(memory, native.rows, counters, features);
    this.rxCallFd = -1;
    this.rxCallKind = 0;
    this.txCallFd = -1;
    this.txCallKind = 0;
    this.moderation = moderation;
    moderation.serve(this);
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
    this.moderation.ringStarted(index);
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
    this.moderation.callChanged(index, kind);
  }

  /** Notifies the guest of a ring, whether or not there is something new. */
  call(index: number): void {
    const ofFrames = index === RING_RECEIVE;
    const fd = ofFrames ? this.rxCallFd : this.txCallFd;
    if (fd < 0) return;
    this.moderation.notifiedOf(index);
    this.counters[C_CALLS_TO_GUEST]++;
    // Errors (a full pipe, a closed peer) are the front-end's affair.
    this.native.notify(fd, ofFrames ? this.rxCallKind : this.txCallKind);
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
    const { tx, moderation } = this;
    const { queue, takenBytes } = tx;
    if (queue === null || tx.taken === 0) return;
    if (moderation.beforeCompletions(queue)) this.call(RING_TRANSMIT);
    if (moderation.completed(queue, tx.complete(), takenBytes)) this.call(RING_TRANSMIT);
  }
  /** Notifies the guest of completions whose interrupt is delayed, if it still wants one. */
  endDelays(): void {
    const { queue } = this.tx;
    if (queue !== null && this.moderation.completionsEnd(queue)) this.call(RING_TRANSMIT);
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
    if (this.rx.publish()) this.call(RING_RECEIVE);
  }
}
