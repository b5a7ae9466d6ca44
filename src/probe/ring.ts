/** A split ring as raw words in guest memory: whatever a driver might write there, right or wrong (virtio 1.2 §2.7). */
import type { Native } from '../native';
import { vringAddr } from './payloads';
import type { GuestRam } from './ram';

export const NEXT = 1;
export const WRITE = 2;
export const INDIRECT = 4;

/** One descriptor. */
export interface Descriptor {
  readonly gpa: number | bigint;
  readonly length: number;
  readonly flags?: number;
  readonly next?: number;
}

export class ProbeRing {
  readonly index: number;
  readonly size: number;
  readonly ram: GuestRam;
  readonly descAt: number;
  readonly availAt: number;
  readonly usedAt: number;
  kickFd = -1;
  callFd = -1;
  errFd = -1;
  private readonly native: Native;

  constructor(native: Native, ram: GuestRam, index: number, size: number) {
    this.native = native;
    this.ram = ram;
    this.index = index;
    this.size = size;
    this.descAt = ram.alloc(16 * size, 4096);
    this.availAt = ram.alloc(6 + 2 * size, 4096);
    this.usedAt = ram.alloc(6 + 8 * size, 4096);
  }

  /** Payload of SET_VRING_ADDR, with changes. */
  addr(change: Partial<Parameters<typeof vringAddr>[0]> = {}): Uint8Array {
    const { ram } = this;
    return vringAddr({
      index: this.index,
      desc: BigInt(ram.userAddr(this.descAt)),
      avail: BigInt(ram.userAddr(this.availAt)),
      used: BigInt(ram.userAddr(this.usedAt)),
      log: BigInt(ram.gpa(this.usedAt)),
      ...change,
    });
  }

  /** Both indices at `start`, as a driver that takes the ring into use. */
  reset(start = 0): void {
    const { view, bytes } = this.ram;
    bytes.fill(0, this.descAt, this.descAt + 16 * this.size);
    bytes.fill(0, this.availAt, this.availAt + 6 + 2 * this.size);
    bytes.fill(0, this.usedAt, this.usedAt + 6 + 8 * this.size);
    view.setUint16(this.availAt + 2, start, true);
    view.setUint16(this.usedAt + 2, start, true);
  }

  put(n: number, d: Descriptor): void {
    this.putAt(this.descAt + 16 * n, d);
  }

  /** Writes a descriptor anywhere in memory (indirect tables). */
  putAt(at: number, { gpa, length, flags = 0, next = 0 }: Descriptor): void {
    const { view } = this.ram;
    view.setBigUint64(at, BigInt(gpa), true);
    view.setUint32(at + 8, length, true);
    view.setUint16(at + 12, flags, true);
    view.setUint16(at + 14, next, true);
  }

  /** Writes a chain from descriptor `first` on, and links it. */
  chain(first: number, parts: readonly Descriptor[]): void {
    parts.forEach((part, i) => {
      const last = i + 1 === parts.length;
      const flags = (part.flags ?? 0) | (last ? 0 : NEXT);
      this.put(first + i, { ...part, flags, next: last ? 0 : first + i + 1 });
    });
  }

  /** Makes `heads` available with one step of avail.idx, and `more` slots that nobody wrote. */
  offer(heads: readonly number[], more = 0): void {
    const { view } = this.ram;
    const idx = this.availIdx;
    heads.forEach((head, i) => {
      view.setUint16(this.availAt + 4 + 2 * ((idx + i) % this.size), head, true);
    });
    const next = (idx + heads.length + more) & 0xffff;
    // avail.idx last, as a store that others see after all before: flags (16 bits lower) stay as they are.
    const words = new Uint16Array(this.ram.buffer, this.availAt, 2);
    Atomics.store(words, 1, next);
  }

  /** avail.flags: bit 0, no interrupts. */
  set availFlags(flags: number) {
    this.ram.view.setUint16(this.availAt, flags, true);
  }

  /** used_event, behind the available ring. */
  set usedEvent(index: number) {
    this.ram.view.setUint16(this.availAt + 4 + 2 * this.size, index, true);
  }

  get availIdx(): number {
    return this.ram.view.getUint16(this.availAt + 2, true);
  }

  get usedIdx(): number {
    return Atomics.load(new Uint16Array(this.ram.buffer, this.usedAt, 2), 1);
  }

  /** Used element of free-running index `i`. */
  used(i: number): { readonly id: number; readonly length: number } {
    const at = this.usedAt + 4 + 8 * ((i & 0xffff) % this.size);
    return { id: this.ram.view.getUint32(at, true), length: this.ram.view.getUint32(at + 4, true) };
  }

  kick(): void {
    if (this.kickFd >= 0) this.native.signal(this.kickFd);
  }

  /** Notifications since the last look. */
  takeCalls(): number {
    return this.callFd < 0 ? 0 : Math.max(0, this.native.drain(this.callFd));
  }

  /** Errors reported since the last look. */
  takeErrors(): number {
    return this.errFd < 0 ? 0 : Math.max(0, this.native.drain(this.errFd));
  }
}
