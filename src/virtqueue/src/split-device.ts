/**
 * The device side of a split virtqueue (virtio 1.2 §2.7): takes chains of buffers the driver made available, gives them
 * back used, and decides who must be notified.
 *
 * Theory of operation
 *
 * The driver is the adversary: it may write any bit of the ring at any time, also while it is being read. So every
 * number is read once, copied into a local and checked there; all views cover exactly the ring, so that nothing outside
 * can be reached; loops are bounded by counts of our own. What a bad ring gets is a negative FAULT_* code, never an
 * exception, and the queue is left as it was before the call. The caller then stops the ring.
 *
 *               popped, not used                    pending: may be popped
 *          |<------------------------>|<------------------------------------------>|
 *     ---- usedIdx ------------------ lastAvail ---------------------------------- availIdx ---->  free-running, mod 2^16
 *     |<-->|                          <- rewind                                    <- refresh
 *     publishedIdx … usedIdx: pushed, not yet visible to the driver
 *
 * Invariant: pending and the number of chains out (popped, not pushed) together never exceed N. `rewind` undoes pops,
 * newest first. Used elements may be pushed in any order of heads; they become visible together, by `publish`.
 *
 * Ordering (virtio 1.2 §2.7.13, §2.7.7): indices go through Atomics, which are sequentially consistent; ring entries
 * and descriptors are plain accesses between them. `publish` stores used.idx, then loads used_event; `enableNotify`
 * stores avail_event, then loads avail.idx: both pairs need the full fence that two sequentially consistent accesses
 * give, or both sides could miss each other and sleep for ever.
 *
 * Nothing here allocates after the constructor.
 */
import type { GuestMemory } from './guest-memory';
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
  MAX_INDIRECT_ENTRIES,
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
import {
  FAULT_ADDRESS,
  FAULT_AVAIL_INDEX,
  FAULT_HEAD,
  FAULT_INDIRECT,
  FAULT_LENGTH,
  FAULT_LOOP,
  FAULT_NEXT,
  FAULT_ORDER,
  FAULT_ROWS,
} from './types';
import type { RingFeatures, Rows, SplitRingLayout } from './types';

/** Bits 21 and up of an address's high half: beyond 2^53, where numbers are not exact and no guest has memory. */
const ADDR_HI_LIMIT = 0x200000;
const MAX_CHAIN_BYTES = 0x7fffffff;

export class SplitQueueDevice {
  readonly size: number;
  /** VIRTIO_RING_F_EVENT_IDX was negotiated. */
  readonly eventIdx: boolean;
  /** Free-running index (uint16) of the next chain to pop. This is what vhost-user calls the vring base. */
  lastAvail: number;
  /** Free-running index (uint16) of the next used element to fill. */
  usedIdx: number;
  /**
   * used.idx as the driver sees it: elements publishedIdx … usedIdx - 1 wait for `publish` (dirty logging needs it).
   */
  publishedIdx: number;

  /** The chain popped last. `head` is -1 if the last `pop` popped nothing; the counts are void then. */
  head: number;
  readableRows: number;
  writableRows: number;
  readableBytes: number;
  writableBytes: number;

  private readonly memory: GuestMemory;
  private readonly desc: DataView;
  private readonly avail: Uint16Array;
  private readonly usedHeader: Uint16Array;
  private readonly usedElems: Uint32Array;
  private readonly availEvent: Uint16Array;
  private readonly indirect: boolean;
  /** One descriptor, for tables that straddle regions. */
  private readonly scratch: DataView;
  /** avail.idx as last read. */
  private availIdx: number;
  /** Chains popped and neither pushed nor rewound. */
  private out: number;
  /** used.idx when the driver was last considered for a notification; unknown while `signalledValid` is false. */
  private signalledIdx: number;
  private signalledValid: boolean;
  /** used_event when the driver was notified last; -1: it was not. */
  private eventWhenTold: number;

  // Walk state: fields rather than locals because `addSegments` shares them with `pop`.
  private row: number;
  private rowEnd: number;
  private sawWritable: boolean;

  /**
   * Starts a ring. Reads used.idx from it (vhost-user does not transfer it); writes nothing. `lastAvail` is the next
   * index to pop: 0 for a fresh ring, else what the ring's last stop returned. Throws RangeError for a layout that
   * `checkLayout` refuses.
   */
  constructor(memory: GuestMemory, layout: SplitRingLayout, features: RingFeatures, lastAvail: number) {
    checkHost();
    checkLayout(layout);
    const { size, desc, avail, used } = layout;
    this.size = size;
    this.memory = memory;
    this.desc = new DataView(desc.buffer, desc.offset, descTableBytes(size));
    this.avail = new Uint16Array(avail.buffer, avail.offset, 3 + size);
    this.usedHeader = new Uint16Array(used.buffer, used.offset, 2);
    this.usedElems = new Uint32Array(used.buffer, used.offset + USED_ELEM_OFFSET, 2 * size);
    this.availEvent = new Uint16Array(used.buffer, used.offset + availEventOffset(size), 1);
    this.indirect = features.indirect;
    this.eventIdx = features.eventIdx;
    this.scratch = new DataView(new ArrayBuffer(DESC_SIZE));
    this.lastAvail = lastAvail & 0xffff;
    this.availIdx = this.lastAvail;
    this.usedIdx = Atomics.load(this.usedHeader, USED_IDX);
    this.publishedIdx = this.usedIdx;
    this.head = -1;
    this.readableRows = 0;
    this.writableRows = 0;
    this.readableBytes = 0;
    this.writableBytes = 0;
    this.out = 0;
    this.signalledIdx = this.usedIdx;
    this.signalledValid = false;
    this.eventWhenTold = -1;
    this.row = 0;
    this.rowEnd = 0;
    this.sawWritable = false;
  }

  /** Chains known to be available (by the last `refresh`) and not popped. */
  get pending(): number {
    return (this.availIdx - this.lastAvail) & 0xffff;
  }

  /** True if the last `pop` popped a chain, which may have had no bytes at all. */
  get popped(): boolean {
    return this.head >= 0;
  }

  /** Chains popped and neither pushed used nor rewound. */
  get outstanding(): number {
    return this.out;
  }

  /**
   * Reads avail.idx, once. Returns how many chains may now be popped (0 … N), or FAULT_AVAIL_INDEX if the driver claims
   * more than the ring holds: a descriptor is the driver's own again only when its chain was given back used, so those
   * out count as well. (A driver that lied here had `pending` exceed N after a `rewind`, and could overflow the tables
   * of a caller who believes in N.)
   */
  refresh(): number {
    const idx = Atomics.load(this.avail, AVAIL_IDX);
    const pending = (idx - this.lastAvail) & 0xffff;
    if (pending + this.out > this.size) return FAULT_AVAIL_INDEX;
    this.availIdx = idx;
    return pending;
  }

  /**
   * Pops the next chain, refreshing first if none is known. Its segments are written to `rows` from index `row` on,
   * device-readable ones first, at most `maxRows` of them; zero-length descriptors are skipped, and one that crosses
   * into an adjacent region becomes several rows. Rows name guest memory and stay valid until the region goes.
   *
   * Returns the number of rows: 0 if nothing is available (`head` is -1) or if the chain has no bytes (`head` >= 0: it
   * must still be pushed used). On a FAULT_* nothing was popped; after FAULT_ROWS the call may be repeated with more
   * room, after any other the ring is broken.
   */
  pop(rows: Rows, row: number, maxRows: number): number {
    this.head = -1;
    if (this.availIdx === this.lastAvail) {
      const n = this.refresh();
      if (n <= 0) return n;
    }
    const head = this.avail[AVAIL_RING + (this.lastAvail & (this.size - 1))];
    if (head >= this.size) return FAULT_HEAD;
    this.row = row;
    this.rowEnd = row + maxRows < rows.capacity ? row + maxRows : rows.capacity;
    this.sawWritable = false;
    this.readableRows = 0;
    this.writableRows = 0;
    this.readableBytes = 0;
    this.writableBytes = 0;
    const fault = this.walk(rows, head);
    if (fault < 0) return fault;
    this.head = head;
    this.lastAvail = (this.lastAvail + 1) & 0xffff;
    this.out++;
    return this.row - row;
  }

  /** Un-pops the `n` chains popped last. None of them may have been pushed used. */
  rewind(n: number): void {
    this.lastAvail = (this.lastAvail - n) & 0xffff;
    this.out -= n;
  }

  /**
   * Fills the next used element: chain `head` is given back with `len` bytes written into its writable part (0 for a
   * chain that was only read). Not visible to the driver until `publish`.
   */
  pushUsed(head: number, len: number): void {
    const at = 2 * (this.usedIdx & (this.size - 1));
    this.usedElems[at] = head;
    this.usedElems[at + 1] = len;
    this.usedIdx = (this.usedIdx + 1) & 0xffff;
    this.out--;
  }

  /**
   * Makes everything pushed visible with one store of used.idx. Returns true if the driver must now be notified. The
   * first notification after construction or `resetSignalled` is unconditional. False if nothing was pushed.
   */
  publish(): boolean {
    return this.publishQuietly() && this.takeSignal();
  }

  /**
   * As `publish`, but leaves it open whether the driver must be notified: `takeSignal` has to follow, later. Returns
   * false if nothing was pushed.
   */
  publishQuietly(): boolean {
    const idx = this.usedIdx;
    if (idx === this.publishedIdx) return false;
    Atomics.store(this.usedHeader, USED_IDX, idx);
    this.publishedIdx = idx;
    return true;
  }

  /**
   * Whether the driver is to be notified of something published since the last `publish` or `takeSignal`. It may have
   * polled in the meantime and no longer want an interrupt.
   */
  wantsSignal(): boolean {
    if (!this.signalledValid) return true;
    if (this.publishedIdx === this.signalledIdx) return false;
    if (this.eventIdx) {
      return needEvent(this.usedEvent(), this.publishedIdx, this.signalledIdx);
    }
    return (Atomics.load(this.avail, AVAIL_FLAGS) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
  }

  /** As `wantsSignal`, and records everything published as signalled: the caller must notify if this is true. */
  takeSignal(): boolean {
    const wanted = this.wantsSignal();
    this.signalledIdx = this.publishedIdx;
    this.signalledValid = true;
    if (wanted && this.eventIdx) this.eventWhenTold = this.usedEvent();
    return wanted;
  }

  /**
   * Whether the driver shows no reaction to the last notification: with EVENT_IDX a driver that has polled moves
   * used_event on. Without EVENT_IDX this cannot be known: false.
   */
  get unheeded(): boolean {
    return this.eventIdx && this.usedEvent() === this.eventWhenTold;
  }

  /** Makes the next notification unconditional: an earlier one may have been lost (the call descriptor changed). */
  resetSignalled(): void {
    this.signalledValid = false;
  }

  /**
   * Requests a kick for the next chain beyond those known, then checks again, because the driver may have added one
   * before it could see the request. Returns true if chains were added since the last `refresh`, or if the index is
   * broken: then do not sleep but continue popping. Chains known before (after `rewind`) do not count: a caller
   * that waits for more of them may sleep.
   *
   * With `chains` the driver kicks after it has added that many (1 to 32767), and true means that at least that many
   * were added. Fewer stay unknown, so that a later call without `chains` reports them. Without EVENT_IDX a kick after
   * several chains cannot be requested: kicks stay suppressed.
   */
  enableNotify(chains = 1): boolean {
    // No kick is requested for known chains: avail_event = lastAvail would, after a rewind, name an index the driver
    // has
    // passed already, and no kick would ever come (virtio 1.2 §2.7.10.1 compares with the index it moves from).
    const known = this.availIdx;
    if (this.eventIdx) Atomics.store(this.availEvent, 0, (known + chains - 1) & 0xffff);
    else if (chains === 1) Atomics.store(this.usedHeader, USED_FLAGS, 0);
    if (this.refresh() < 0 || ((this.availIdx - known) & 0xffff) >= chains) return true;
    this.availIdx = known;
    return false;
  }

  /**
   * Asks for no kicks. Without EVENT_IDX this sets NO_NOTIFY; with it, avail_event is left behind, so that at most one
   * stray kick comes every 65536 chains.
   */
  disableNotify(): void {
    if (!this.eventIdx) Atomics.store(this.usedHeader, USED_FLAGS, VIRTQ_USED_F_NO_NOTIFY);
  }

  /** The used index at which the driver wants its next notification (virtio 1.2 §2.7.10); only with EVENT_IDX. */
  private usedEvent(): number {
    return Atomics.load(this.avail, AVAIL_RING + this.size);
  }

  /** Walks the chain that starts at descriptor `head`. Returns 0 or a fault. */
  private walk(rows: Rows, head: number): number {
    const desc = this.desc;
    const size = this.size;
    let index = head;
    // A chain of more than N descriptors has a loop (virtio 1.2 §2.7.5.3.1).
    for (let count = 0; count < size; count++) {
      const off = DESC_SIZE * index;
      const lo = desc.getUint32(off + DESC_ADDR_LO, LE);
      const hi = desc.getUint32(off + DESC_ADDR_HI, LE);
      const len = desc.getUint32(off + DESC_LEN, LE);
      const flags = desc.getUint16(off + DESC_FLAGS, LE);
      const next = desc.getUint16(off + DESC_NEXT, LE);
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) {
        // Any number of ordinary descriptors may come before it (virtio 1.2 §2.7.5.3.2); NEXT beside it may not be set.
        if (!this.indirect || (flags & VIRTQ_DESC_F_NEXT) !== 0) return FAULT_INDIRECT;
        return this.walkTable(rows, lo, hi, len);
      }
      const fault = this.addSegments(rows, lo, hi, len, (flags & VIRTQ_DESC_F_WRITE) !== 0);
      if (fault < 0) return fault;
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) return 0;
      if (next >= size) return FAULT_NEXT;
      index = next;
    }
    return FAULT_LOOP;
  }

  /** Walks an indirect table of `bytes` bytes at a guest-physical address. Returns 0 or a fault. */
  private walkTable(rows: Rows, tableLo: number, tableHi: number, bytes: number): number {
    if (bytes === 0 || (bytes & (DESC_SIZE - 1)) !== 0) return FAULT_INDIRECT;
    const entries = bytes >>> 4;
    // Longer than N is allowed: Linux keeps to the spec's limit for direct chains only. See README.md, "Limits".
    if (entries > MAX_INDIRECT_ENTRIES) return FAULT_INDIRECT;
    if (tableHi >= ADDR_HI_LIMIT) return FAULT_ADDRESS;
    const table = tableHi * TWO_32 + tableLo;
    const memory = this.memory;
    const whole = memory.translate(table) >= bytes;
    let view = this.scratch;
    let base = 0;
    if (whole) {
      view = memory.view(memory.hitRegion);
      base = memory.hitOffset;
    }
    let index = 0;
    for (let count = 0; count < entries; count++) {
      let off = base + DESC_SIZE * index;
      if (!whole) {
        if (!this.copyDescriptor(table + DESC_SIZE * index)) return FAULT_ADDRESS;
        off = 0;
      }
      const lo = view.getUint32(off + DESC_ADDR_LO, LE);
      const hi = view.getUint32(off + DESC_ADDR_HI, LE);
      const len = view.getUint32(off + DESC_LEN, LE);
      const flags = view.getUint16(off + DESC_FLAGS, LE);
      const next = view.getUint16(off + DESC_NEXT, LE);
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) return FAULT_INDIRECT;
      const fault = this.addSegments(rows, lo, hi, len, (flags & VIRTQ_DESC_F_WRITE) !== 0);
      if (fault < 0) return fault;
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) return 0;
      if (next >= entries) return FAULT_NEXT;
      index = next;
    }
    return FAULT_LOOP;
  }

  /** Copies one descriptor of a table that straddles regions into `scratch`. False if a byte is not mapped. */
  private copyDescriptor(gpa: number): boolean {
    const memory = this.memory;
    let done = 0;
    while (done < DESC_SIZE) {
      const left = memory.translate(gpa + done);
      if (left === 0) return false;
      const view = memory.view(memory.hitRegion);
      const start = memory.hitOffset;
      const n = left < DESC_SIZE - done ? left : DESC_SIZE - done;
      for (let i = 0; i < n; i++) this.scratch.setUint8(done + i, view.getUint8(start + i));
      done += n;
    }
    return true;
  }

  /** Appends the rows of one descriptor. Returns 0 or a fault. */
  private addSegments(rows: Rows, lo: number, hi: number, len: number, writable: boolean): number {
    if (writable) this.sawWritable = true;
    else if (this.sawWritable) return FAULT_ORDER;
    // An empty descriptor may carry any address: it is not translated.
    if (len === 0) return 0;
    if (hi >= ADDR_HI_LIMIT) return FAULT_ADDRESS;
    if (len > MAX_CHAIN_BYTES - this.readableBytes - this.writableBytes) return FAULT_LENGTH;
    const memory = this.memory;
    const first = this.row;
    let gpa = hi * TWO_32 + lo;
    let left = len;
    while (left > 0) {
      const contiguous = memory.translate(gpa);
      if (contiguous === 0) return FAULT_ADDRESS;
      const row = this.row;
      if (row >= this.rowEnd) return FAULT_ROWS;
      const n = contiguous < left ? contiguous : left;
      rows.region[row] = memory.hitRegion;
      rows.offset[row] = memory.hitOffset;
      rows.length[row] = n;
      this.row = row + 1;
      gpa += n;
      left -= n;
    }
    if (writable) {
      this.writableRows += this.row - first;
      this.writableBytes += len;
    } else {
      this.readableRows += this.row - first;
      this.readableBytes += len;
    }
    return 0;
  }
}
