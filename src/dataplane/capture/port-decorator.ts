/**
 * A `GuestPort` that forwards every call to another one: classes that observe frames extend it. A port without
 * observers is used directly, so that a feature that is off costs nothing.
 */
import type { GuestPort } from '../../stack/ports';

export class PortDecorator implements GuestPort {
  protected readonly inner: GuestPort;

  constructor(inner: GuestPort) {
    this.inner = inner;
  }

  get up(): boolean {
    return this.inner.up;
  }
  get gsoTcp4(): boolean {
    return this.inner.gsoTcp4;
  }
  get gsoTcp6(): boolean {
    return this.inner.gsoTcp6;
  }
  get gsoUdp4(): boolean {
    return this.inner.gsoUdp4;
  }
  get gsoUdp6(): boolean {
    return this.inner.gsoUdp6;
  }
  get maxFrame(): number {
    return this.inner.maxFrame;
  }
  get head(): DataView {
    return this.inner.head;
  }
  get headLen(): number {
    return this.inner.headLen;
  }
  get rowCount(): number {
    return this.inner.rowCount;
  }
  get gsoType(): number {
    return this.inner.gsoType;
  }
  get gsoSize(): number {
    return this.inner.gsoSize;
  }
  get csumPartial(): boolean {
    return this.inner.csumPartial;
  }
  receive(row: number): number {
    return this.inner.receive(row);
  }
  substitute(from: DataView, off: number, length: number, row: number): void {
    this.inner.substitute(from, off, length, row);
  }
  pull(n: number): number {
    return this.inner.pull(n);
  }
  releaseReceived(): void {
    this.inner.releaseReceived();
  }
  get out(): DataView {
    return this.inner.out;
  }
  get outOff(): number {
    return this.inner.outOff;
  }
  reserve(headerLen: number, payloadLen: number, row: number): number {
    return this.inner.reserve(headerLen, payloadLen, row);
  }
  front(): void {
    this.inner.front();
  }
  commit(
    payloadLen: number,
    flags: number,
    csumStart: number,
    csumOffset: number,
    gsoType: number,
    gsoSize: number,
  ): void {
    this.inner.commit(payloadLen, flags, csumStart, csumOffset, gsoType, gsoSize);
  }
  cancel(): void {
    this.inner.cancel();
  }
  flush(): void {
    this.inner.flush();
  }
}
