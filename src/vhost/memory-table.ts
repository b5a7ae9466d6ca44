/**
 * The guest's memory table, as the front-end sent it.
 *
 * A change is made in two steps, because the device may be using the old map: `plan…` checks everything and maps what
 * is new, without touching the table; once the device has confirmed the plan's map, `commit` puts it in force and
 * retires what it no longer holds. `abandon` undoes a plan.
 *
 * A region that was mapped and is named again (same addresses, same bytes of the same file) keeps its mapping, so that
 * rings in it need not stop when the front-end plugs memory in.
 *
 * Three kinds of address: guest-physical (`gpa`: descriptors, dirty log), front-end user address (`uva`: only in
 * SET_VRING_ADDR), and ours: an offset in a numbered region.
 */
import { getSystemErrorName } from 'node:util';
import type { Native } from '../native';
import { FD_MEMORY } from '../native';
import type { ReceivedFds } from './connection';
import type { DeviceMemoryRegion, DevicePlace } from './device';
import { isShortage, ProtocolError, shortage } from './protocol-errors';
import type { MemoryRegion } from './messages';
import { regionsOverlap, validateMemoryRegion } from './messages';
import { MAX_GUEST_MEMORY, MAX_MEM_SLOTS } from './protocol';
import { SHARE_MEMORY } from './shared-memory';

/** A region that is mapped here. Its file, by device and inode, says whether it is the same memory. */
export interface MappedRegion extends DeviceMemoryRegion {
  readonly entry: MemoryRegion;
  readonly file: string;
}

/** A checked and mapped change of the table that is not in force yet. */
export class MemoryPlan {
  /** The map as it will be. */
  readonly regions: readonly MappedRegion[];
  /** Mapped for this plan. */
  readonly added: readonly MappedRegion[];
  /** False if nothing changes. */
  readonly changed: boolean;

  constructor(current: readonly MappedRegion[], regions: readonly MappedRegion[]) {
    this.regions = regions;
    this.added = regions.filter((r) => !current.includes(r));
    this.changed = this.added.length > 0 || regions.length !== current.length;
  }
}

/**
 * Regions that were given back: the front-end's memory goes at once, but addresses and the region's number only with
 * the garbage of both threads. The data plane looks after its own (ring-control.ts); this is the control plane's.
 */
export class UsedRegions {
  private readonly native: Native;
  private count = 0;
  private bytes = 0;

  constructor(native: Native) {
    this.native = native;
  }

  retire(region: number): void {
    this.count++;
    this.bytes += this.native.regionLength(region);
    this.native.retireRegion(region);
  }

  /** Before more is mapped, and in the end; when nothing refers to the regions that were retired. */
  relieve(): void {
    this.native.relieve(this.count, this.bytes);
    this.count = 0;
    this.bytes = 0;
  }
}

export class MemoryTable {
  private readonly native: Native;
  private readonly used: UsedRegions;
  private readonly fileId = new Int32Array(4);
  private mapped: readonly MappedRegion[] = [];

  constructor(native: Native, used: UsedRegions) {
    this.native = native;
    this.used = used;
  }

  get regions(): readonly MappedRegion[] {
    return this.mapped;
  }

  /** SET_MEM_TABLE: `entries` replace everything. Descriptor i belongs to entry i; they stay the caller's. */
  planReplace(entries: readonly MemoryRegion[], fds: ReceivedFds): MemoryPlan {
    entries.forEach((entry, i) => {
      validateMemoryRegion(entry);
      for (const earlier of entries.slice(0, i)) this.checkOverlap(entry, earlier);
    });
    this.checkTotal(entries);
    const regions: MappedRegion[] = [];
    try {
      entries.forEach((entry, i) => {
        regions.push(this.keepOrMap(entry, fds.peek(i)));
      });
    } catch (error) {
      this.retire(regions.filter((r) => !this.mapped.includes(r)));
      throw error;
    }
    return new MemoryPlan(this.mapped, regions);
  }

  /** ADD_MEM_REG. The same region again is no change: some front-ends say it once per queue pair. */
  planAdd(entry: MemoryRegion, fds: ReceivedFds): MemoryPlan {
    validateMemoryRegion(entry);
    const region = this.keep(entry, fds.peek(0));
    if (region !== null) return new MemoryPlan(this.mapped, this.mapped);
    for (const other of this.mapped) this.checkOverlap(entry, other.entry);
    if (this.mapped.length >= MAX_MEM_SLOTS) {
      throw new ProtocolError('VU_ERR_MEMORY_MAP', `more than ${MAX_MEM_SLOTS} memory regions`);
    }
    this.checkTotal([entry, ...this.mapped.map((r) => r.entry)]);
    return new MemoryPlan(this.mapped, [...this.mapped, this.map(entry, fds.peek(0))]);
  }

  /** REM_MEM_REG. The offset in the file is not compared: front-ends may leave it out. */
  planRemove(entry: MemoryRegion): MemoryPlan {
    validateMemoryRegion({ ...entry, mmapOffset: 0n });
    const rest = this.mapped.filter(
      ({ entry: e }) => e.gpa !== entry.gpa || e.uva !== entry.uva || e.size !== entry.size,
    );
    if (rest.length === this.mapped.length) {
      throw new ProtocolError('VU_ERR_MEMORY', `removal of an unknown memory region at 0x${entry.gpa.toString(16)}`);
    }
    return new MemoryPlan(this.mapped, rest);
  }

  /** The device uses the plan's map now: it becomes the table, and what is not in it is given back. */
  commit(plan: MemoryPlan): void {
    const next = plan.regions;
    const gone = this.mapped.filter((r) => !next.includes(r));
    this.mapped = next;
    this.retire(gone);
  }

  /** Undoes a plan that the device does not use. */
  abandon(plan: MemoryPlan): void {
    this.retire(plan.added);
  }

  /** Gives all memory back. Nobody may use it any more. */
  clear(): void {
    const gone = this.mapped;
    this.mapped = [];
    this.retire(gone);
  }

  /** True if the front-end cut a file short under us (the access was answered with zeros). */
  get lost(): boolean {
    return this.mapped.some((r) => this.native.regionFaults(r.region) > 0);
  }

  /** Translates `length` bytes at a front-end user address: all in one region, or null. */
  static translate(regions: readonly MappedRegion[], uva: bigint, length: number): DevicePlace | null {
    for (const { entry, region } of regions) {
      const offset = uva - entry.uva;
      if (offset >= 0n && offset + BigInt(length) <= entry.size) return { region, offset: Number(offset) };
    }
    return null;
  }

  private checkTotal(entries: readonly MemoryRegion[]): void {
    const total = entries.reduce((sum, { size }) => sum + size, 0n);
    if (total <= MAX_GUEST_MEMORY) return;
    throw new ProtocolError(
      'VU_ERR_MEMORY_MAP',
      `${total.toString()} bytes of guest memory, limit ${MAX_GUEST_MEMORY.toString()}`,
    );
  }

  private checkOverlap(a: MemoryRegion, b: MemoryRegion): void {
    if (!regionsOverlap(a, b)) return;
    throw new ProtocolError(
      'VU_ERR_MEMORY',
      `memory regions at 0x${a.gpa.toString(16)} and 0x${b.gpa.toString(16)} overlap`,
    );
  }

  private keepOrMap(entry: MemoryRegion, fd: number): MappedRegion {
    return this.keep(entry, fd) ?? this.map(entry, fd);
  }

  /** The mapping that already is what `entry` and `fd` say. */
  private keep(entry: MemoryRegion, fd: number): MappedRegion | null {
    const file = this.identify(fd);
    return (
      this.mapped.find(
        (r) =>
          r.entry.gpa === entry.gpa &&
          r.entry.uva === entry.uva &&
          r.entry.size === entry.size &&
          r.entry.mmapOffset === entry.mmapOffset &&
          r.file === file,
      ) ?? null
    );
  }

  private identify(fd: number): string {
    const kind = this.native.fdKind(fd);
    if (isShortage(kind)) throw shortage('the file of a memory region cannot be inspected', kind);
    const known = kind === FD_MEMORY ? this.native.fileId(fd, this.fileId) : -1;
    if (isShortage(known)) throw shortage('the file of a memory region cannot be inspected', known);
    if (known < 0) {
      throw new ProtocolError('VU_ERR_FD_KIND', `memory region without a file that can be mapped: ${SHARE_MEMORY}`);
    }
    return this.fileId.join(':');
  }

  private map(entry: MemoryRegion, fd: number): MappedRegion {
    const file = this.identify(fd);
    const size = Number(entry.size);
    const region = this.native.mapRegion(fd, Number(entry.mmapOffset), size);
    if (isShortage(region)) throw shortage(`${size} bytes of guest memory cannot be mapped`, region);
    if (region < 0) {
      throw new ProtocolError(
        'VU_ERR_MEMORY_MAP',
        `${size} bytes of guest memory cannot be mapped (${getSystemErrorName(region)})`,
      );
    }
    return { region, buffer: this.native.regionBuffer(region), gpa: Number(entry.gpa), size, entry, file };
  }

  private retire(regions: readonly MappedRegion[]): void {
    for (const { region } of regions) this.used.retire(region);
  }
}
