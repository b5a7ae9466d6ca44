/**
 * A split ring in plain memory whose every field a test writes by hand, legal or not, with the regions of guest memory
 * around it. Written from virtio 1.2 §2.7 without the package's own offsets, so that both check each other.
 */
import { GuestMemory, SplitQueueDevice } from 'virtio-ring-ts';
import type { Rows, SplitRingLayout } from 'virtio-ring-ts';

export { makeRows } from '../stack/rows';

export const NEXT = 1;
export const WRITE = 2;
export const INDIRECT = 4;

/** Rows as [region, offset, length] triples. */
export function rowsOf(rows: Rows, first: number, count: number): [number, number, number][] {
  const out: [number, number, number][] = [];
  for (let i = first; i < first + count; i++) out.push([rows.region[i], rows.offset[i], rows.length[i]]);
  return out;
}

export class RawRing {
  readonly size: number;
  readonly buffer: SharedArrayBuffer;
  readonly dv: DataView;
  readonly bytes: Uint8Array;
  readonly layout: SplitRingLayout;
  readonly descAt: number;
  readonly availAt: number;
  readonly usedAt: number;

  constructor(size: number) {
    const align = (n: number): number => Math.ceil((n + 64) / 64) * 64;
    this.size = size;
    this.descAt = 64;
    this.availAt = align(this.descAt + 16 * size);
    this.usedAt = align(this.availAt + 6 + 2 * size);
    this.buffer = new SharedArrayBuffer(align(this.usedAt + 6 + 8 * size));
    this.dv = new DataView(this.buffer);
    this.bytes = new Uint8Array(this.buffer);
    this.bytes.fill(0xa5);
    this.bytes.fill(0, this.descAt, this.descAt + 16 * size);
    this.bytes.fill(0, this.availAt, this.availAt + 6 + 2 * size);
    this.bytes.fill(0, this.usedAt, this.usedAt + 6 + 8 * size);
    this.layout = {
      size,
      desc: { buffer: this.buffer, offset: this.descAt },
      avail: { buffer: this.buffer, offset: this.availAt },
      used: { buffer: this.buffer, offset: this.usedAt },
    };
  }

  desc(i: number, gpa: bigint | number, len: number, flags = 0, next = 0): void {
    writeDesc(this.dv, this.descAt + 16 * i, gpa, len, flags, next);
  }
  /** Writes a head at free-running index `idx`. */
  availHead(idx: number, head: number): void {
    this.dv.setUint16(this.availAt + 4 + 2 * (idx % this.size), head, true);
  }
  /** Makes `head` available as number `idx` and publishes it. */
  offer(idx: number, head: number): void {
    this.availHead(idx, head);
    this.availIdx = idx + 1;
  }
  set availIdx(v: number) {
    this.dv.setUint16(this.availAt + 2, v & 0xffff, true);
  }
  set availFlags(v: number) {
    this.dv.setUint16(this.availAt, v, true);
  }
  set usedEvent(v: number) {
    this.dv.setUint16(this.availAt + 4 + 2 * this.size, v & 0xffff, true);
  }
  get usedFlags(): number {
    return this.dv.getUint16(this.usedAt, true);
  }
  get usedIdx(): number {
    return this.dv.getUint16(this.usedAt + 2, true);
  }
  set usedIdx(v: number) {
    this.dv.setUint16(this.usedAt + 2, v & 0xffff, true);
  }
  usedElem(idx: number): [number, number] {
    const at = this.usedAt + 4 + 8 * (idx % this.size);
    return [this.dv.getUint32(at, true), this.dv.getUint32(at + 4, true)];
  }
  get availEvent(): number {
    return this.dv.getUint16(this.usedAt + 4 + 8 * this.size, true);
  }
  /** True while no byte outside the three structures was written. */
  guardsIntact(): boolean {
    const inside = (i: number, at: number, n: number): boolean => i >= at && i < at + n;
    return this.bytes.every(
      (b, i) =>
        b === 0xa5 ||
        inside(i, this.descAt, 16 * this.size) ||
        inside(i, this.availAt, 6 + 2 * this.size) ||
        inside(i, this.usedAt, 6 + 8 * this.size),
    );
  }
}

export function writeDesc(
  dv: DataView,
  at: number,
  gpa: bigint | number,
  len: number,
  flags: number,
  next: number,
): void {
  dv.setBigUint64(at, BigInt(gpa), true);
  dv.setUint32(at + 8, len, true);
  dv.setUint16(at + 12, flags, true);
  dv.setUint16(at + 14, next, true);
}

/**
 * Guest memory of three regions: number 7 at 0x10000 (64 KiB), number 3 right behind it at 0x20000 (64 KiB), number 5 at
 * 5 GiB (64 KiB).
 */
export const LOW = 0x10000;
export const MID = 0x20000;
export const HIGH = 5 * 2 ** 30;
export const REGION_SIZE = 0x10000;

export interface Fixture {
  readonly memory: GuestMemory;
  readonly low: DataView;
  readonly mid: DataView;
  readonly high: DataView;
}

export function makeMemory(): Fixture {
  const memory = new GuestMemory(8);
  const buffers = [7, 3, 5].map((region, i) => {
    const buffer = new SharedArrayBuffer(REGION_SIZE);
    if (!memory.add(region, buffer, [LOW, MID, HIGH][i], REGION_SIZE)) throw new Error('add');
    return new DataView(buffer);
  });
  return { memory, low: buffers[0], mid: buffers[1], high: buffers[2] };
}

export const ALL = { indirect: true, eventIdx: true };
export const PLAIN = { indirect: true, eventIdx: false };

export function makeDevice(ring: RawRing, memory: GuestMemory, features = PLAIN, base = 0): SplitQueueDevice {
  return new SplitQueueDevice(memory, ring.layout, features, base);
}
