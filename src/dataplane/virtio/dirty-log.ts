/**
 * Marks guest pages that the device wrote, for live migration (vhost-user "Migration": one bit a 4 KiB page of
 * guest-physical memory, set by atomic OR, because other back-ends share the log).
 */
import type { Rows } from 'virtio-ring-ts';
import type { DeviceMemoryRegion, DirtyLog } from '../../vhost/device';

const PAGE_SHIFT = 12;
const USED_IDX = 2;
const USED_RING = 4;
const USED_ELEM_LEN = 8;
/** Bytes of the log in one view: V8 has no typed array of 2^32 elements, and a log may be longer. */
const CHUNK = 2 ** 30;

export interface DirtyMarker {
  /** The first `bytes` bytes of what `count` rows from `row` name were written. */
  segments(rows: Rows, row: number, count: number, bytes: number): void;
  /** Used ring slot `slot` was written. */
  usedElement(slot: number): void;
  usedIndex(): void;
}

export class DirtyLogMarker implements DirtyMarker {
  /** Guest-physical address of the used ring, -1: it is not logged. */
  usedGpa: number;
  /** Data writes are logged (VHOST_F_LOG_ALL). */
  logData: boolean;
  /** The log in order, CHUNK bytes each. */
  private readonly chunks: readonly Uint8Array[];
  private readonly bytes: number;
  private readonly gpaOf: Map<number, number>;

  constructor(log: DirtyLog, memory: readonly DeviceMemoryRegion[], usedGpa: number, logData: boolean) {
    this.bytes = log.buffer.byteLength;
    this.chunks = Array.from({ length: Math.ceil(this.bytes / CHUNK) }, (_, i) => {
      return new Uint8Array(log.buffer, i * CHUNK, Math.min(CHUNK, this.bytes - i * CHUNK));
    });
    this.gpaOf = new Map(memory.map((m) => [m.region, m.gpa]));
    this.usedGpa = usedGpa;
    this.logData = logData;
  }

  segments(rows: Rows, row: number, count: number, bytes: number): void {
    if (!this.logData) return;
    let left = bytes;
    for (let r = row; r < row + count && left > 0; r++) {
      const gpa = this.gpaOf.get(rows.region[r]);
      const n = Math.min(rows.length[r], left);
      if (gpa !== undefined && n > 0) this.mark(gpa + rows.offset[r], n);
      left -= n;
    }
  }

  usedElement(slot: number): void {
    if (this.usedGpa >= 0) this.mark(this.usedGpa + USED_RING + slot * USED_ELEM_LEN, USED_ELEM_LEN);
  }

  usedIndex(): void {
    if (this.usedGpa >= 0) this.mark(this.usedGpa + USED_IDX, 2);
  }

  private mark(gpa: number, length: number): void {
    const last = Math.floor((gpa + length - 1) / 2 ** PAGE_SHIFT);
    for (let page = Math.floor(gpa / 2 ** PAGE_SHIFT); page <= last; page++) {
      const byte = Math.floor(page / 8);
      // Beyond the log: the front-end gave too short a log; nothing sensible to set (vhost-user.rst asks for no more).
      if (byte < this.bytes) Atomics.or(this.chunks[Math.floor(byte / CHUNK)], byte % CHUNK, 1 << (page % 8));
    }
  }
}
