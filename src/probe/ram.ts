/**
 * Guest memory as a front-end has it: one memfd, shown to the back-end as one or more regions, and mapped here once.
 * Code in the guest works on `bytes`/`view` by offset in the file; `gpa` and `userAddr` say what descriptors and ring
 * addresses call that place.
 */
import { getSystemErrorName } from 'node:util';
import type { Native } from '../native';

/** A region as in SET_MEM_TABLE. */
export interface RamRegion {
  readonly gpa: number;
  readonly size: number;
  readonly userAddr: number;
  readonly mmapOffset: number;
}

export interface RamOptions {
  /** Bytes of memory. Default 64 MiB. */
  readonly size?: number;
  /**
   * Sizes and guest-physical addresses of the regions, in file order; sizes add up to `size`. Default: as a small PC,
   * everything at 0. A region's user address is its file offset above `userBase`.
   */
  readonly regions?: readonly { readonly gpa: number; readonly size: number }[];
  /** Default 0x7f0000000000. */
  readonly userBase?: number;
  /** Where memory begins in its file. Default 0; the file is that much longer. */
  readonly fileOffset?: number;
  /** F_SEAL_* bits; default SEAL | SHRINK | GROW, as QEMU's memory-backend-memfd. */
  readonly seals?: number;
}

const USER_BASE = 0x7f00_0000_0000;
const PAGE = 4096;

export class GuestRam {
  readonly fd: number;
  readonly regions: readonly RamRegion[];
  readonly buffer: SharedArrayBuffer;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  private readonly native: Native;
  private readonly region: number;
  private next: number;
  private index = 0;

  constructor(native: Native, options: RamOptions = {}) {
    const size = options.size ?? 64 << 20;
    const parts = options.regions ?? [{ gpa: 0, size }];
    const userBase = options.userBase ?? USER_BASE;
    const start = options.fileOffset ?? 0;
    let offset = start;
    this.regions = parts.map((p) => {
      const region = { gpa: p.gpa, size: p.size, userAddr: userBase + offset, mmapOffset: offset };
      offset += p.size;
      return region;
    });
    if (offset !== start + size) throw new Error(`regions of ${offset - start} bytes in ${size} bytes of memory`);
    this.native = native;
    this.fd = native.memfdCreate('guest-ram', offset, options.seals ?? 7);
    if (this.fd < 0) throw new Error(`memfd: ${getSystemErrorName(this.fd)}`);
    this.region = native.mapRegion(this.fd, 0, offset);
    if (this.region < 0) throw new Error(`map: ${getSystemErrorName(this.region)}`);
    this.buffer = native.regionBuffer(this.region);
    this.next = start + PAGE; // its first page stays unused: address 0 in a descriptor is then always a mistake
    this.bytes = new Uint8Array(this.buffer);
    this.view = new DataView(this.buffer);
  }

  /** Guest-physical address of a file offset. */
  gpa(offset: number): number {
    const r = this.regionOf(offset);
    return r.gpa + (offset - r.mmapOffset);
  }

  /** Front-end user address of a file offset. */
  userAddr(offset: number): number {
    const r = this.regionOf(offset);
    return r.userAddr + (offset - r.mmapOffset);
  }

  /** File offset of a guest-physical address, or -1. */
  offsetOf(gpa: number): number {
    const r = this.regions.find((x) => gpa >= x.gpa && gpa < x.gpa + x.size);
    return r === undefined ? -1 : r.mmapOffset + (gpa - r.gpa);
  }

  /** Takes `size` bytes that lie in one region. Given back only by `release`. */
  alloc(size: number, align = 64): number {
    for (;;) {
      const r = this.regions[this.index];
      const at = Math.ceil(this.next / align) * align;
      if (at + size <= r.mmapOffset + r.size) {
        this.next = at + size;
        return at;
      }
      if (this.index + 1 === this.regions.length) throw new Error(`guest memory is full: no ${size} bytes left`);
      this.index++;
      this.next = this.regions[this.index].mmapOffset;
    }
  }

  /** Goes on allocating in the next region. */
  nextRegion(): void {
    if (this.index + 1 === this.regions.length) throw new Error('no further region');
    this.index++;
    this.next = this.regions[this.index].mmapOffset;
  }

  /** Where allocation stands, and back there: a guest that reboots allocates its drivers' buffers afresh. */
  mark(): readonly [number, number] {
    return [this.index, this.next];
  }
  release(mark: readonly [number, number]): void {
    [this.index, this.next] = mark;
  }

  close(): void {
    this.native.retireRegion(this.region);
    this.native.close(this.fd);
  }

  private regionOf(offset: number): RamRegion {
    const r = this.regions.find((x) => offset >= x.mmapOffset && offset < x.mmapOffset + x.size);
    if (r === undefined) throw new RangeError(`offset ${offset} is outside guest memory`);
    return r;
  }
}
