/** A VirtioGuestPort over rings in plain memory, with virtio-ring-ts' driver as the guest. */
import { GuestMemory, SplitQueueDevice, SplitQueueDriver } from 'virtio-ring-ts';
import type { RingPlace, SplitRingLayout } from 'virtio-ring-ts';
import { bit, negotiated } from '../../../src/dataplane/virtio/features';
import { VirtioGuestPort } from '../../../src/dataplane/virtio/guest-port';
import type { PortIo } from '../../../src/dataplane/virtio/guest-port';
import type { ModerationLevel } from '../../../src/dataplane/commands';
import { moderationOf } from './moderation';
import { FD_EVENTFD } from '../../../src/native';
import { ROWS_TOTAL } from '../../../src/stack/scratch';
import { COUNTERS } from '../../../src/stack/counters';
import { makeRows, onesComplementSum } from '../stack/rows';

export const GPA = 0x10000000;
export const REGION = 7;
export const HEADER_REGION = 9;
const SIZE = 8 << 20;
const RX_RING = 0;
const TX_RING = 0x10000;
const TABLES = 0x20000;
/** Rings of more than 1024 entries lie behind the buffers. */
const LARGE_RX_RING = 0x600000;
const LARGE_TX_RING = 0x700000;
export const BUFFERS = 0x100000;

function ringLayout(buffer: SharedArrayBuffer, base: number, size: number): SplitRingLayout {
  const place = (offset: number): RingPlace => ({ buffer, offset: base + offset });
  const step = Math.max(0x4000, 16 * size);
  return { size, desc: place(0), avail: place(step), used: place(2 * step) };
}

export interface RigOptions {
  readonly features?: readonly number[];
  readonly ringSize?: number;
  /** Default: adaptive. */
  readonly moderation?: ModerationLevel;
}

export class PortRig {
  readonly buffer = new SharedArrayBuffer(SIZE);
  readonly view = new DataView(this.buffer);
  readonly bytes = new Uint8Array(this.buffer);
  readonly memory = new GuestMemory();
  readonly counters = new Float64Array(COUNTERS);
  readonly signals: number[] = [];
  readonly io: PortIo;
  readonly port: VirtioGuestPort;
  readonly rx: SplitQueueDriver;
  readonly tx: SplitQueueDriver;
  readonly rxQueue: SplitQueueDevice;
  readonly txQueue: SplitQueueDevice;
  private readonly header = new DataView(new ArrayBuffer(8192));

  constructor(options: RigOptions = {}) {
    const size = options.ringSize ?? 256;
    const bits = options.features ?? [15, 28, 29, 32];
    const features = negotiated(bits.reduce((sum, n) => sum | bit(n), 0n));
    this.memory.add(REGION, this.buffer, GPA, SIZE);
    const rows = makeRows(ROWS_TOTAL);
    this.io = {
      rows,
      fdKind: () => FD_EVENTFD,
      notify: (fd, kind) => {
        if (kind !== FD_EVENTFD) throw new Error(`notify with kind ${String(kind)}`);
        this.signals.push(fd);
        return 0;
      },
      checksum: (row, count, initial) => {
        const parts: number[] = [];
        for (let r = row; r < row + count; r++) parts.push(...this.rowBytes(r));
        return onesComplementSum(parts, initial);
      },
    };
    this.port = new VirtioGuestPort(
      this.io,
      this.memory,
      { region: HEADER_REGION, view: this.header },
      this.counters,
      features,
      moderationOf(options.moderation),
    );
    const { indirect, eventIdx } = features;
    const large = size > 1024;
    const rxLayout = ringLayout(this.buffer, large ? LARGE_RX_RING : RX_RING, size);
    const txLayout = ringLayout(this.buffer, large ? LARGE_TX_RING : TX_RING, size);
    this.rx = new SplitQueueDriver(rxLayout, { indirect, eventIdx });
    this.tx = new SplitQueueDriver(
      txLayout,
      { indirect, eventIdx },
      {
        indirectArea: {
          place: { buffer: this.buffer, offset: TABLES },
          gpa: GPA + TABLES,
          entries: Math.min(64, 0xe0000 / (16 * size)),
        },
      },
    );
    this.rxQueue = new SplitQueueDevice(this.memory, rxLayout, { indirect, eventIdx }, 0);
    this.txQueue = new SplitQueueDevice(this.memory, txLayout, { indirect, eventIdx }, 0);
    this.port.startRing(0, this.rxQueue, true, 100);
    this.port.startRing(1, this.txQueue, true, 101);
  }

  rowBytes(row: number): Uint8Array {
    const { region, offset, length } = this.io.rows;
    const from = region[row] === REGION ? this.bytes : new Uint8Array(this.header.buffer);
    if (region[row] !== REGION && region[row] !== HEADER_REGION)
      throw new Error(`row names region ${String(region[row])}`);
    return from.slice(offset[row], offset[row] + length[row]);
  }

  gather(row: number, count: number): Buffer {
    const parts: Uint8Array[] = [];
    for (let r = row; r < row + count; r++) parts.push(this.rowBytes(r));
    return Buffer.concat(parts);
  }

  /** Writes `data` over what the rows name. Returns the bytes written. */
  scatter(row: number, count: number, data: Uint8Array): number {
    const { offset, length } = this.io.rows;
    let done = 0;
    for (let r = row; r < row + count && done < data.length; r++) {
      const n = Math.min(length[r], data.length - done);
      this.bytes.set(data.subarray(done, done + n), offset[r]);
      done += n;
    }
    return done;
  }

  /** Guest transmits: `pieces` are the chain's buffers (virtio_net_hdr included), placed apart from each other. */
  transmit(pieces: readonly Uint8Array[], indirect = false): void {
    this.tx.begin();
    for (const piece of pieces) {
      const at = this.place(piece.length);
      this.bytes.set(piece, at);
      this.tx.addReadable(GPA + at, piece.length);
    }
    if (this.tx.commit(0, indirect) < 0) throw new Error('no free descriptors');
    this.tx.publish();
  }

  /** Guest posts receive chains; each is a list of buffer lengths. Filled with 0xee so that leftovers show. */
  post(chains: readonly (readonly number[])[]): void {
    for (const chain of chains) {
      this.rx.begin();
      const first = this.next;
      for (const length of chain) {
        const at = this.place(length);
        this.bytes.fill(0xee, at, at + length);
        this.rx.addWritable(GPA + at, length);
      }
      this.posted.push({ first, lengths: [...chain] });
      if (this.rx.commit(this.posted.length - 1, false) < 0) throw new Error('no free descriptors');
    }
    this.rx.publish();
  }

  /** Takes one frame as a Linux driver would: num_buffers used chains, header included. Null: nothing there. */
  received(headerLen = 12): Buffer | null {
    const first = this.takeUsed();
    if (first === null) return null;
    const count = headerLen === 12 ? first.readUInt16LE(10) : 1;
    const parts = [first];
    for (let i = 1; i < count; i++) {
      const more = this.takeUsed();
      if (more === null) throw new Error(`num_buffers ${String(count)} but ${String(i)} used`);
      parts.push(more);
    }
    return Buffer.concat(parts);
  }

  /** Bytes of the next used receive chain, as long as the device says. */
  takeUsed(): Buffer | null {
    const n = this.rx.pollUsed();
    if (n < 0) throw new Error('device broke the used ring');
    if (n === 0) return null;
    const { first, lengths } = this.posted[this.rx.usedToken];
    const parts: Uint8Array[] = [];
    let at = first;
    for (const length of lengths) {
      parts.push(this.bytes.slice(at, at + length));
      at += length + GAP;
    }
    return Buffer.concat(parts).subarray(0, this.rx.usedLen);
  }

  private next = BUFFERS;
  private readonly posted: { first: number; lengths: number[] }[] = [];

  private place(length: number): number {
    const at = this.next;
    this.next += length + GAP;
    if (this.next > SIZE) throw new Error('rig memory is full');
    return at;
  }
}

/** Bytes between buffers: odd, so that unaligned addresses are the rule. */
const GAP = 13;
