/** State of echo flows: columns indexed by flow number, order of use, time limit. */
import { FlowCredit } from '../kit/credit';
import { FlowTable, KEY_WORDS, SlotQueue } from '../kit/flow-table';
import type { NatResult } from '../ip/nat';
import type { Clock, Random } from '../ports';
import { TimerWheel } from '../kit/timer-wheel';

const IDLE_MS = 60_000;

export class PingFlows {
  /** Keyed by guest's address, destination as the guest sees it, and the guest's identifier in place of the ports. */
  readonly table: FlowTable;
  /** Flows in use, least recently used first. */
  readonly order: SlotQueue;
  readonly timers: TimerWheel;
  /** Connected socket; -1: the number is not in use. */
  readonly fd: Int32Array;
  /** Hop limit the socket is set to; -1: not set yet. */
  readonly ttl: Int16Array;
  /** Traffic class the socket is set to, and IP_MTU_DISCOVER or IPV6_MTU_DISCOVER; -1: not set yet. */
  readonly tos: Uint8Array;
  readonly discover: Int8Array;
  /** Sequence number of the latest request. */
  readonly seq: Uint16Array;
  /** Host-side destination, four words a flow; its scope; is it on the host itself (1)? */
  readonly peer: Int32Array;
  readonly scope: Uint32Array;
  readonly local: Uint8Array;
  /** Which state of the host's network the socket was made in, or found to fit. */
  readonly epoch: Int32Array;
  /** When it began, ms, and data in each direction, bytes: for who looks at it. */
  readonly since: Float64Array;
  readonly bytesFrom: Float64Array;
  readonly bytesTo: Float64Array;
  /** 1: a reply came. */
  readonly replied: Uint8Array;
  /** For new flows. */
  readonly credit: FlowCredit;
  private readonly clock: Clock;

  constructor(capacity: number, clock: Clock, random: Random) {
    this.table = new FlowTable(capacity, random.u32(), random.u32());
    this.order = new SlotQueue(capacity);
    this.timers = new TimerWheel(capacity, clock.nowMs);
    this.fd = new Int32Array(capacity).fill(-1);
    this.ttl = new Int16Array(capacity);
    this.tos = new Uint8Array(capacity);
    this.discover = new Int8Array(capacity);
    this.seq = new Uint16Array(capacity);
    this.peer = new Int32Array(4 * capacity);
    this.scope = new Uint32Array(capacity);
    this.local = new Uint8Array(capacity);
    this.epoch = new Int32Array(capacity);
    this.since = new Float64Array(capacity);
    this.bytesFrom = new Float64Array(capacity);
    this.bytesTo = new Float64Array(capacity);
    this.replied = new Uint8Array(capacity);
    this.credit = new FlowCredit(capacity, clock, random);
    this.clock = clock;
  }

  /** Is `slot` the flow that `generation` was watched for? */
  isCurrent(slot: number, generation: number): boolean {
    return slot < this.table.capacity && this.fd[slot] >= 0 && this.table.generation[slot] === generation;
  }

  get full(): boolean {
    return this.table.count === this.table.capacity;
  }

  /** Makes a flow under the key in `table.probe`; the table must not be full. */
  open(fd: number, target: NatResult, epoch: number): number {
    const slot = this.table.alloc();
    this.table.insert(slot);
    this.fd[slot] = fd;
    this.ttl[slot] = -1;
    this.tos[slot] = 0;
    this.discover[slot] = -1;
    for (let i = 0; i < 4; i++) this.peer[4 * slot + i] = target.dst[i];
    this.scope[slot] = target.scope;
    this.local[slot] = target.local ? 1 : 0;
    this.epoch[slot] = epoch;
    this.since[slot] = this.clock.nowMs;
    this.bytesFrom[slot] = 0;
    this.bytesTo[slot] = 0;
    this.replied[slot] = 0;
    this.touch(slot);
    return slot;
  }

  /** Forgets a flow. Its socket is the caller's to close. */
  free(slot: number): void {
    this.fd[slot] = -1;
    this.credit.free(slot);
    this.order.remove(slot);
    this.timers.cancel(slot);
    this.table.remove(slot);
    this.table.free(slot);
  }

  /** A reply with `bytes` bytes of data came. */
  answered(slot: number, bytes: number): void {
    this.replied[slot] = 1;
    this.bytesTo[slot] += bytes;
    this.credit.answered(slot);
    this.touch(slot);
  }

  touch(slot: number): void {
    this.order.remove(slot);
    this.order.push(slot);
    this.timers.set(slot, this.clock.nowMs + IDLE_MS);
  }

  /** The guest's identifier. */
  id(slot: number): number {
    return this.table.keys[KEY_WORDS * slot + KEY_WORDS - 1];
  }
}
