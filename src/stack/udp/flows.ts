/**
 * State of UDP flows: columns indexed by flow number, order of use, time limits (docs/adr/0010-udp-lifetimes.md).
 *
 * A flow that was answered lives for minutes (RFC 4787 §4.3), also after one exchange. When there are many, those go
 * early that have done what they were for, the oldest first: queries of DNS that were all answered as soon as the table
 * is crowded; once it is full they, then flows without an answer or with one exchange, and streams only when there is
 * nothing else.
 *
 * A flow is a pair of ends as the guest sees it (its key), and how to reach the other end on the host: a connected
 * socket of its own (the guest sent first), or a listener's socket and the peer's address (the peer sent first).
 */
import { FlowCredit } from '../kit/credit';
import { FlowTable, KEY_WORDS, SlotQueue } from '../kit/flow-table';
import { PORT_DNS } from '../ip/nat';
import type { Clock, Random } from '../ports';
import { TimerWheel } from '../kit/timer-wheel';

/** A datagram from another peer may wait in the socket: it came between bind and connect. */
export const FLOW_FRESH = 1;
/** One end is port 53: a question and its answer. */
export const FLOW_DNS = 2;
/** The destination is a multicast group: other options set the hop limit. */
export const FLOW_MULTICAST = 4;
/** The destination is a group or a broadcast address: the socket is not connected, and anyone may answer. */
export const FLOW_GROUP = 16;
/** With FLOW_GROUP: the peer answers from a port of its choice, and that is the flow's from then on (TFTP). */
export const FLOW_ANY_PORT = 32;
/** The socket is bound to the guest's own source port. */
export const FLOW_PORT_KEPT = 8;
/** The peer is on the host itself: what is configured for outgoing traffic does not hold. */
export const FLOW_LOCAL = 64;
/** The peer began, at a forwarded port. */
export const FLOW_FORWARDED = 128;

/** In a crowded table: life of a DNS flow after its latest datagram, once each query was answered. */
const DNS_ANSWERED_MS = 5000;
/** Flows that make a crowded table, if half of its slots are not less: their sockets take ports of the host. */
const CROWD = 4096;

// Which of the queues a flow is in.
const DONE = 0;
const BRIEF = 1;
const STREAM = 2;

const NO_LIMIT = 1 << 16;

export class UdpFlows {
  readonly table: FlowTable;
  readonly timers: TimerWheel;
  /** Own connected socket, or -1. */
  readonly fd: Int32Array;
  /** Number of the listener whose socket is used, or -1. */
  readonly listener: Int32Array;
  readonly flags: Uint8Array;
  /** The peer's host-side address (four words a flow), port and scope. */
  readonly peer: Int32Array;
  readonly peerPort: Uint16Array;
  readonly peerScope: Uint32Array;
  /** Own socket: the port of the host that it is bound to; 0: none. */
  readonly hostPort: Uint16Array;
  /** Which state of the host's network the socket was made in, or found to fit (udp.ts). */
  readonly epoch: Int32Array;
  /** Listener flows: the host's address that the peer used, four words a flow. */
  readonly local: Int32Array;
  /** What the socket is set to; ttl -1: not set yet. */
  readonly ttl: Int16Array;
  readonly tos: Uint8Array;
  /** Value of IP_MTU_DISCOVER or IPV6_MTU_DISCOVER; -1: not set yet. */
  readonly discover: Int8Array;
  /** Payload of this length and more did not fit the host's link; 0: not known. */
  readonly tooLong: Uint16Array;
  /** Datagrams of this length and more are not joined: the kernel refused to cut them for this path. */
  readonly joinLimit: Int32Array;
  /** When it began, ms, and payload in each direction, bytes: for who looks at it. */
  readonly since: Float64Array;
  readonly bytesFrom: Float64Array;
  readonly bytesTo: Float64Array;
  /** For the guest's new flows. */
  readonly credit: FlowCredit;
  private readonly used: Uint8Array;
  /** Flows in use by what becomes of them when others need room, each least recently used first. */
  private readonly queues: readonly [SlotQueue, SlotQueue, SlotQueue];
  private readonly queueOf: Uint8Array;
  private readonly crowd: number;
  /** DNS: queries without an answer; counting stops at 255. */
  private readonly asked: Uint8Array;
  /** Datagrams seen from each side; counting stops at 2. */
  private readonly fromGuest: Uint8Array;
  private readonly fromHost: Uint8Array;
  private readonly clock: Clock;
  private readonly timeoutMs: number;
  private readonly streamTimeoutMs: number;

  constructor(capacity: number, timeoutMs: number, streamTimeoutMs: number, clock: Clock, random: Random) {
    this.table = new FlowTable(capacity, random.u32(), random.u32());
    this.timers = new TimerWheel(capacity, clock.nowMs);
    this.fd = new Int32Array(capacity).fill(-1);
    this.listener = new Int32Array(capacity).fill(-1);
    this.flags = new Uint8Array(capacity);
    this.peer = new Int32Array(4 * capacity);
    this.peerPort = new Uint16Array(capacity);
    this.peerScope = new Uint32Array(capacity);
    this.hostPort = new Uint16Array(capacity);
    this.epoch = new Int32Array(capacity);
    this.local = new Int32Array(4 * capacity);
    this.ttl = new Int16Array(capacity);
    this.tos = new Uint8Array(capacity);
    this.discover = new Int8Array(capacity);
    this.tooLong = new Uint16Array(capacity);
    this.joinLimit = new Int32Array(capacity);
    this.since = new Float64Array(capacity);
    this.bytesFrom = new Float64Array(capacity);
    this.bytesTo = new Float64Array(capacity);
    this.credit = new FlowCredit(capacity, clock, random);
    this.used = new Uint8Array(capacity);
    this.queues = [new SlotQueue(capacity), new SlotQueue(capacity), new SlotQueue(capacity)];
    this.queueOf = new Uint8Array(capacity);
    this.crowd = Math.min(CROWD, capacity >> 1);
    this.asked = new Uint8Array(capacity);
    this.fromGuest = new Uint8Array(capacity);
    this.fromHost = new Uint8Array(capacity);
    this.clock = clock;
    this.timeoutMs = timeoutMs;
    this.streamTimeoutMs = streamTimeoutMs;
  }

  /** Is `slot` the flow that `generation` was watched for? */
  isCurrent(slot: number, generation: number): boolean {
    return slot < this.table.capacity && this.used[slot] === 1 && this.table.generation[slot] === generation;
  }

  /**
   * Makes a flow under the key in `table.probe`. Returns its number, or -1 if all are in use. The caller fills in how
   * the host side is reached.
   */
  open(fd: number, listener: number): number {
    const slot = this.table.alloc();
    if (slot < 0) return -1;
    this.table.insert(slot);
    const ports = this.table.probe[KEY_WORDS - 1];
    this.used[slot] = 1;
    this.fd[slot] = fd;
    this.listener[slot] = listener;
    this.flags[slot] = ports >>> 16 === PORT_DNS || (ports & 0xffff) === PORT_DNS ? FLOW_DNS : 0;
    this.hostPort[slot] = 0;
    this.fresh(slot);
    this.fromGuest[slot] = 0;
    this.fromHost[slot] = 0;
    this.asked[slot] = 0;
    this.since[slot] = this.clock.nowMs;
    this.bytesFrom[slot] = 0;
    this.bytesTo[slot] = 0;
    this.enter(slot, BRIEF);
    this.arm(slot);
    return slot;
  }

  /** The flow's socket is a new one, of which nothing is known yet. */
  fresh(slot: number): void {
    this.ttl[slot] = -1;
    this.tos[slot] = 0;
    this.discover[slot] = -1;
    this.tooLong[slot] = 0;
    this.joinLimit[slot] = NO_LIMIT;
  }

  /** Forgets a flow. Its socket is the caller's to close. */
  free(slot: number): void {
    this.used[slot] = 0;
    this.credit.free(slot);
    this.fd[slot] = -1;
    this.listener[slot] = -1;
    this.leave(slot);
    this.timers.cancel(slot);
    this.table.remove(slot);
    this.table.free(slot);
  }

  /** A datagram of `bytes` bytes, or several of that many. */
  touchFromGuest(slot: number, bytes: number): void {
    this.bytesFrom[slot] += bytes;
    if (this.fromGuest[slot] < 2) this.fromGuest[slot]++;
    this.touch(slot, this.listener[slot] < 0);
  }

  touchFromHost(slot: number, bytes: number): void {
    this.bytesTo[slot] += bytes;
    this.credit.answered(slot);
    if (this.fromHost[slot] < 2) this.fromHost[slot]++;
    this.touch(slot, this.listener[slot] >= 0);
  }

  /** The flow that makes room for another one, when there is none; -1: there is no flow. */
  oldest(): number {
    for (let i = DONE; i <= STREAM; i++) if (this.queues[i].length > 0) return this.queues[i].first();
    return -1;
  }

  /** A flow that has done what it was for, in a table that is getting full; -1: none. */
  crowdedOut(): number {
    const done = this.queues[DONE];
    if (done.length === 0 || this.table.count < this.crowd) return -1;
    const slot = done.first();
    const lastMs = this.timers.deadlineOf(slot) - this.idleLimitMs(slot);
    return this.clock.nowMs - lastMs >= DNS_ANSWERED_MS ? slot : -1;
  }

  private enter(slot: number, queue: number): void {
    this.queueOf[slot] = queue;
    this.queues[queue].push(slot);
  }

  private leave(slot: number): void {
    this.queues[this.queueOf[slot]].remove(slot);
  }

  /** A datagram passed; `asks`: it went the way of the first one. */
  private touch(slot: number, asks: boolean): void {
    if (asks) {
      if (this.asked[slot] < 255) this.asked[slot]++;
    } else if (this.asked[slot] > 0) {
      this.asked[slot]--;
    }
    this.leave(slot);
    this.enter(slot, this.kind(slot));
    this.arm(slot);
  }

  private kind(slot: number): number {
    const answered = this.isAnswered(slot);
    if ((this.flags[slot] & FLOW_DNS) !== 0) return answered && this.asked[slot] === 0 ? DONE : BRIEF;
    // As Linux's connection tracking: a stream has an answer and more than one datagram from a side.
    return answered && (this.fromGuest[slot] > 1 || this.fromHost[slot] > 1) ? STREAM : BRIEF;
  }

  /** Did both ends send? */
  isAnswered(slot: number): boolean {
    return this.fromGuest[slot] > 0 && this.fromHost[slot] > 0;
  }

  private arm(slot: number): void {
    this.timers.set(slot, this.clock.nowMs + this.idleLimitMs(slot));
  }

  private idleLimitMs(slot: number): number {
    return this.isAnswered(slot) ? this.streamTimeoutMs : this.timeoutMs;
  }
}
