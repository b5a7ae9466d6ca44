/**
 * The driver side of a split virtqueue (virtio 1.2 §2.7): what a guest's kernel does. It owns the descriptor table and
 * the available ring; buffers and indirect tables are guest-physical addresses of memory that the caller manages.
 *
 * Theory of operation
 *
 * Free descriptors are a linked list in private memory (`nextOf`), never read back from the shared table. A chain is
 * staged (`begin`, `addReadable`…, `addWritable`…), then `commit` writes its descriptors and its head into the
 * available ring, and `publish` makes all committed chains visible with one store of avail.idx. `pollUsed` takes used
 * elements one by one; what the device wrote there is checked against the chains that are really out, and a device that
 * breaks the rules gets FAULT_USED. Index and ordering rules are those of split-device.ts with the roles exchanged.
 *
 * Nothing allocates after the constructor, `addChain` excepted (its caller made the arrays).
 */
import {
  DESC_ADDR_HI,
  DESC_ADDR_LO,
  DESC_FLAGS,
  DESC_LEN,
  DESC_NEXT,
  DESC_SIZE,
  AVAIL_FLAGS,
  AVAIL_IDX,
  AVAIL_RING,
  LE,
  TWO_32,
  USED_ELEM_OFFSET,
  USED_FLAGS,
  USED_IDX,
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED_F_NO_NOTIFY,
  availEventOffset,
  checkHost,
  checkLayout,
  descTableBytes,
  needEvent,
} from './layout';
import { FAULT_USED } from './types';
import type { RingFeatures, RingPlace, SplitRingLayout } from './types';

/** A buffer: `length` bytes at a guest-physical address. */
export interface Segment {
  readonly gpa: number;
  readonly length: number;
}

/** Memory for indirect tables, one for each head: `entries` × 16 × N bytes at `place`, whose address is `gpa`. */
export interface IndirectArea {
  readonly place: RingPlace;
  readonly gpa: number;
  readonly entries: number;
}

export interface SplitQueueDriverOptions {
  /** Index both rings start at, mod 2^16; 0 unless a device is to be tested near the wrap-around. */
  readonly start?: number;
  /** Needed for indirect chains. */
  readonly indirectArea?: IndirectArea;
}

const NO_DESC = 0xffff;

export class SplitQueueDriver {
  readonly size: number;
  /** Free-running index (uint16) after the last committed chain. */
  availIdx: number;
  /** Free-running index (uint16) of the next used element to take. */
  lastUsed: number;
  /** Descriptors not in use, and chains that are out (committed, not yet taken back by `pollUsed`). */
  freeCount: number;
  inFlight: number;

  /** The used element taken by the last `pollUsed` that returned 1. */
  usedHead: number;
  usedLen: number;
  /** The caller's token of that chain, as given to `commit`. */
  usedToken: number;

  private readonly eventIdx: boolean;
  private readonly indirectOk: boolean;
  private readonly desc: DataView;
  private readonly avail: Uint16Array;
  private readonly usedHeader: Uint16Array;
  private readonly usedElems: Uint32Array;
  private readonly availEvent: Uint16Array;
  private readonly table: DataView | null;
  private readonly tableGpa: number;
  private readonly tableEntries: number;

  private freeHead: number;
  private readonly nextOf: Uint16Array;
  /** By head: descriptors of the ring in use (0: not out), writable bytes, token. */
  private readonly chainDescs: Uint16Array;
  private readonly chainWritable: Float64Array;
  private readonly chainToken: Float64Array;

  private staged: number;
  private readonly stageGpa: Float64Array;
  private readonly stageLen: Uint32Array;
  private readonly stageWrite: Uint8Array;

  private publishedIdx: number;
  private usedSeen: number;

  /**
   * Initialises the ring's memory (flags 0, both indices at `start`). Throws RangeError for a layout that `checkLayout`
   * refuses or an indirect area that does not fit.
   */
  constructor(layout: SplitRingLayout, features: RingFeatures, options: SplitQueueDriverOptions = {}) {
    checkHost();
    checkLayout(layout);
    const { size, desc, avail, used } = layout;
    const start = (options.start ?? 0) & 0xffff;
    const area = options.indirectArea;
    this.size = size;
    this.eventIdx = features.eventIdx;
    this.indirectOk = features.indirect && area !== undefined;
    this.desc = new DataView(desc.buffer, desc.offset, descTableBytes(size));
    this.avail = new Uint16Array(avail.buffer, avail.offset, 3 + size);
    this.usedHeader = new Uint16Array(used.buffer, used.offset, 2);
    this.usedElems = new Uint32Array(used.buffer, used.offset + USED_ELEM_OFFSET, 2 * size);
    this.availEvent = new Uint16Array(used.buffer, used.offset + availEventOffset(size), 1);
    if (area === undefined) {
      this.table = null;
      this.tableGpa = 0;
      this.tableEntries = 0;
    } else {
      this.table = new DataView(area.place.buffer, area.place.offset, size * area.entries * DESC_SIZE);
      this.tableGpa = area.gpa;
      this.tableEntries = area.entries;
    }
    this.availIdx = start;
    this.publishedIdx = start;
    this.lastUsed = start;
    this.usedSeen = start;
    this.inFlight = 0;
    this.usedHead = -1;
    this.usedLen = 0;
    this.usedToken = 0;
    this.freeCount = size;
    this.freeHead = 0;
    this.nextOf = new Uint16Array(size);
    for (let i = 0; i < size; i++) this.nextOf[i] = i + 1 < size ? i + 1 : NO_DESC;
    this.chainDescs = new Uint16Array(size);
    this.chainWritable = new Float64Array(size);
    this.chainToken = new Float64Array(size);
    const stage = Math.max(size, this.tableEntries);
    this.staged = 0;
    this.stageGpa = new Float64Array(stage);
    this.stageLen = new Uint32Array(stage);
    this.stageWrite = new Uint8Array(stage);

    Atomics.store(this.avail, AVAIL_FLAGS, 0);
    Atomics.store(this.avail, AVAIL_RING + size, start);
    Atomics.store(this.usedHeader, USED_FLAGS, 0);
    Atomics.store(this.usedHeader, USED_IDX, start);
    Atomics.store(this.availEvent, 0, start);
    Atomics.store(this.avail, AVAIL_IDX, start);
  }

  /** Starts staging a chain; forgets what was staged before. */
  begin(): void {
    this.staged = 0;
  }

  /** Stages a device-readable buffer. All readable ones come before the writable ones. `length` < 2^32. */
  addReadable(gpa: number, length: number): void {
    this.stage(gpa, length, 0);
  }

  /** Stages a device-writable buffer. */
  addWritable(gpa: number, length: number): void {
    this.stage(gpa, length, 1);
  }

  /**
   * Puts the staged chain into the available ring; the device sees it after `publish`. With `indirect` its descriptors
   * go into the head's indirect table and it takes one descriptor of the ring. Returns the head, or -1 if there are not
   * enough free descriptors (it stays staged). Throws RangeError for an empty chain and for an indirect one that was not
   * negotiated or is too long.
   */
  commit(token: number, indirect: boolean): number {
    const count = this.staged;
    if (count === 0) throw new RangeError('empty chain');
    if (indirect && (!this.indirectOk || count > this.tableEntries)) {
      throw new RangeError(`no indirect table for ${String(count)} descriptors`);
    }
    const descs = indirect ? 1 : count;
    if (descs > this.freeCount) return -1;
    const head = this.freeHead;
    if (indirect) this.writeIndirect(head, count);
    else this.writeDirect(count);
    this.freeCount -= descs;
    this.chainDescs[head] = descs;
    this.chainToken[head] = token;
    let writable = 0;
    for (let i = 0; i < count; i++) if (this.stageWrite[i] === 1) writable += this.stageLen[i];
    this.chainWritable[head] = writable;
    this.avail[AVAIL_RING + (this.availIdx & (this.size - 1))] = head;
    this.availIdx = (this.availIdx + 1) & 0xffff;
    this.inFlight++;
    this.staged = 0;
    return head;
  }

  /** `begin`, `addReadable`/`addWritable` for each segment, `commit`. */
  addChain(readable: readonly Segment[], writable: readonly Segment[], token = 0, indirect = false): number {
    this.begin();
    for (const s of readable) this.addReadable(s.gpa, s.length);
    for (const s of writable) this.addWritable(s.gpa, s.length);
    return this.commit(token, indirect);
  }

  /**
   * Makes committed chains visible with one store of avail.idx. Returns true if the device wants a kick. False if
   * nothing was committed.
   */
  publish(): boolean {
    const old = this.publishedIdx;
    const idx = this.availIdx;
    if (idx === old) return false;
    Atomics.store(this.avail, AVAIL_IDX, idx);
    this.publishedIdx = idx;
    if (this.eventIdx) return needEvent(Atomics.load(this.availEvent, 0), idx, old);
    return (Atomics.load(this.usedHeader, USED_FLAGS) & VIRTQ_USED_F_NO_NOTIFY) === 0;
  }

  /**
   * Takes the next used element into the `used…` fields and frees its descriptors. Returns 1, 0 if there is none, or
   * FAULT_USED if the device gave back what it did not have or claims to have written more than the chain holds.
   */
  pollUsed(): number {
    if (this.usedSeen === this.lastUsed) {
      const idx = Atomics.load(this.usedHeader, USED_IDX);
      if (idx === this.lastUsed) return 0;
      if (((idx - this.lastUsed) & 0xffff) > this.inFlight) return FAULT_USED;
      this.usedSeen = idx;
    }
    const at = 2 * (this.lastUsed & (this.size - 1));
    const head = this.usedElems[at];
    const len = this.usedElems[at + 1];
    if (head >= this.size || this.chainDescs[head] === 0 || len > this.chainWritable[head]) return FAULT_USED;
    this.usedHead = head;
    this.usedLen = len;
    this.usedToken = this.chainToken[head];
    this.lastUsed = (this.lastUsed + 1) & 0xffff;
    this.inFlight--;
    this.free(head);
    return 1;
  }

  /**
   * Asks for a notification at the next used element, then looks again. Returns true if there are used elements already:
   * then do not sleep.
   */
  enableCallbacks(): boolean {
    return this.enableCallbacksAfter(0);
  }

  /** As `enableCallbacks`, but only when `skip` more elements were used (EVENT_IDX; without it `skip` is ignored). */
  enableCallbacksAfter(skip: number): boolean {
    if (this.eventIdx) Atomics.store(this.avail, AVAIL_RING + this.size, (this.lastUsed + skip) & 0xffff);
    else Atomics.store(this.avail, AVAIL_FLAGS, 0);
    const used = (Atomics.load(this.usedHeader, USED_IDX) - this.lastUsed) & 0xffff;
    return used > (this.eventIdx ? skip : 0);
  }

  /** Asks for no notifications. A hint: the device may still send some. */
  disableCallbacks(): void {
    // With EVENT_IDX: the event index farthest away.
    if (this.eventIdx) Atomics.store(this.avail, AVAIL_RING + this.size, (this.lastUsed - 1) & 0xffff);
    else Atomics.store(this.avail, AVAIL_FLAGS, VIRTQ_AVAIL_F_NO_INTERRUPT);
  }

  private stage(gpa: number, length: number, write: number): void {
    const i = this.staged;
    if (i >= this.stageGpa.length) throw new RangeError('chain too long');
    this.stageGpa[i] = gpa;
    this.stageLen[i] = length;
    this.stageWrite[i] = write;
    this.staged = i + 1;
  }

  private writeDirect(count: number): void {
    let index = this.freeHead;
    for (let i = 0; i < count; i++) {
      const next = this.nextOf[index];
      const last = i + 1 === count;
      const flags = (this.stageWrite[i] === 1 ? VIRTQ_DESC_F_WRITE : 0) | (last ? 0 : VIRTQ_DESC_F_NEXT);
      writeDescriptor(this.desc, DESC_SIZE * index, this.stageGpa[i], this.stageLen[i], flags, last ? 0 : next);
      index = next;
    }
    this.freeHead = index;
  }

  private writeIndirect(head: number, count: number): void {
    const table = this.table;
    if (table === null) return; // commit() has checked
    const start = head * this.tableEntries * DESC_SIZE;
    for (let i = 0; i < count; i++) {
      const last = i + 1 === count;
      const flags = (this.stageWrite[i] === 1 ? VIRTQ_DESC_F_WRITE : 0) | (last ? 0 : VIRTQ_DESC_F_NEXT);
      writeDescriptor(table, start + DESC_SIZE * i, this.stageGpa[i], this.stageLen[i], flags, last ? 0 : i + 1);
    }
    this.freeHead = this.nextOf[head];
    writeDescriptor(this.desc, DESC_SIZE * head, this.tableGpa + start, DESC_SIZE * count, VIRTQ_DESC_F_INDIRECT, 0);
  }

  /** Puts a chain's descriptors back in front of the free list. */
  private free(head: number): void {
    const count = this.chainDescs[head];
    let last = head;
    for (let i = 1; i < count; i++) last = this.nextOf[last];
    this.nextOf[last] = this.freeHead;
    this.freeHead = head;
    this.freeCount += count;
    this.chainDescs[head] = 0;
  }
}

function writeDescriptor(dv: DataView, off: number, gpa: number, len: number, flags: number, next: number): void {
  dv.setUint32(off + DESC_ADDR_LO, gpa >>> 0, LE);
  dv.setUint32(off + DESC_ADDR_HI, Math.floor(gpa / TWO_32), LE);
  dv.setUint32(off + DESC_LEN, len, LE);
  dv.setUint16(off + DESC_FLAGS, flags, LE);
  dv.setUint16(off + DESC_NEXT, next, LE);
}
