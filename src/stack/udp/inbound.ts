/**
 * Datagrams from host to guest.
 *
 * Theory of operation. A datagram stays in its socket until the guest has room for it. Sockets are watched
 * edge-triggered, so one that was not emptied, for want of buffers or because its share of the turn was used up, stays
 * in a ready-list until it is. One that could not be read because the kernel has no memory now is read again later.
 *
 * Many at a time: receive buffers are reserved for as many frames as the socket filled lately, each as long as its
 * datagrams were lately, and one recvmmsg fills them in place. Behind each frame's room lies a row of scratch memory,
 * so that a datagram which is longer than guessed is not cut: it, and what came behind it, is put together in scratch
 * memory and moved again; if there are no buffers for it, it waits there, and nothing else is received until then. That
 * copies, and does not happen to flows whose datagrams keep their size. A call that returned fewer datagrams than
 * it could have emptied the socket, so a request and its answer cost one call.
 *
 * Several in one: where the guest takes frames that hold many datagrams (USO), a socket that receives bursts is set to
 * join them (UDP_GRO), and each message may be up to 64 KiB of datagrams of one length. To other guests each datagram
 * is a frame of its own, whose place must be known before the call: they get recvmmsg only, because a message of joined
 * datagrams would have to be received elsewhere first and copied.
 *
 * One at a time, where there is no guess yet, no room for a guess, or where a datagram needs fragments: its length is
 * read with MSG_PEEK, buffers for exactly that are reserved, and the payload is received straight into them.
 */
import {
  MSG_IN,
  MSG_IN_COUNT,
  ROWS_MISC,
  ROWS_OUT,
  ROWS_OUT_COUNT,
  ROWS_PER_CALL,
  ROWS_SPLICE,
  SCRATCH_UDP,
  SCRATCH_UDP_STEP,
} from '../scratch';
import type { Bypass, StackContext } from '../context';
import { C_DROPS_TO_GUEST, dropCode } from '../counters';
import { END_ERROR } from '../kit/flow-rows';
import { KEY_WORDS, SlotQueue } from '../kit/flow-table';
import { MSG_PEEK, MSG_TRUNC } from '../ports';
import { EAGAIN } from '../kit/linux';
import type { Rate } from '../kit/rate';
import { isShortage } from '../kit/resting';
import { setRow } from '../kit/rows';
import { ERRORS_IN_A_ROW } from '../ip/socket-error';
import { BatchGuess } from './batch-guess';
import { UdpBursts } from './bursts';
import { STALLED, UdpDeliver, UDP_FRONT4, UDP_FRONT6 } from './deliver';
import { ParkedMessages, StuckSocket } from './parked';
import type { UdpErrors } from './socket-errors';
import { FLOW_FRESH } from './flows';
import type { UdpFlows } from './flows';
import { listenNow, type UdpListener } from './listeners';
import type { UdpResolving } from './resolving';
import type { FlowOwner, UdpRoute } from './route';

const DROP_NO_RECEIVE_BUFFERS = dropCode('no_receive_buffers');

/** Datagrams taken from one socket before others have their turn. */
const DATAGRAMS_PER_SERVICE = 64;
/** Bytes, a call's more at the most. */
const BYTES_PER_SERVICE = 1 << 19;

/** Datagrams at once that make a socket a busy one. */
const BURST = 4;

/** Frames up to this long are taken many at a time whatever the sizes before: they use one buffer of the guest each. */
const SMALL = 1536;

/**
 * The last row at which one more frame may begin: it and a row for what is too long need no more than one call takes.
 */
const ROWS_LIMIT = ROWS_OUT + ROWS_OUT_COUNT - ROWS_PER_CALL - 2;

// What `take…` return where it is no count of datagrams and no -errno.
const EMPTY = 0;
const NO_ROOM = -100_000;
const NO_BUFFER = -100_001;

export class UdpInbound {
  /** No receive buffers: nothing is tried until the guest posts some. */
  stalled: boolean;
  private readonly ctx: StackContext;
  private readonly flows: UdpFlows;
  private readonly listeners: readonly UdpListener[];
  private readonly errors: UdpErrors;
  private readonly owner: FlowOwner;
  private readonly route: UdpRoute;
  private readonly resolving: UdpResolving;
  private readonly rate: Rate;
  private readonly deliver: UdpDeliver;
  private readonly bursts: UdpBursts;
  private readonly parked: ParkedMessages;
  private readonly stuck: StuckSocket;

  // By socket: flow number, or the table's capacity and the listener's number.
  private ready: SlotQueue;
  private guess: BatchGuess;
  /** Bytes the last `take…` took. */
  private taken: number;
  /** The last `take…` left nothing in the socket. */
  private drained: boolean;

  constructor(
    ctx: StackContext,
    flows: UdpFlows,
    listeners: readonly UdpListener[],
    errors: UdpErrors,
    owner: FlowOwner,
    route: UdpRoute,
    resolving: UdpResolving,
  ) {
    this.stalled = false;
    this.ctx = ctx;
    this.flows = flows;
    this.listeners = listeners;
    this.errors = errors;
    this.owner = owner;
    this.route = route;
    this.resolving = resolving;
    this.rate = ctx.link.rates.in;
    this.deliver = new UdpDeliver(ctx, route);
    this.bursts = new UdpBursts(ctx, flows.table.capacity);
    this.parked = new ParkedMessages(ctx, this.deliver, route);
    this.stuck = new StuckSocket(ctx.clock);
    const sockets = flows.table.capacity;
    this.ready = new SlotQueue(sockets);
    this.guess = new BatchGuess(sockets);
    this.taken = 0;
    this.drained = false;
  }

  makeRoom(count: number): void {
    const sockets = this.flows.table.capacity + count;
    this.ready = new SlotQueue(sockets);
    this.guess = new BatchGuess(sockets);
    this.bursts.makeRoom(sockets);
    this.errors.makeRoom(count);
  }

  get busy(): boolean {
    return !this.stalled && this.ready.length > 0 && this.rate.allows(this.ctx.clock);
  }

  /** When `onTimer` has something to do; Infinity: never. */
  get deadline(): number {
    const due = Math.min(this.stuck.untilMs, this.errors.later.dueMs);
    return this.stalled || this.ready.length === 0 ? due : Math.min(due, this.rate.dueMs(this.ctx.clock));
  }

  flowReadable(slot: number): void {
    this.readable(slot);
  }

  listenerReadable(index: number): void {
    this.readable(this.flows.table.capacity + index);
  }

  /** Serves every socket that has something waiting once, in turn. */
  resume(): void {
    for (let n = this.ready.length; n > 0 && !this.stalled && this.ready.length > 0; n--) {
      this.serve(this.ready.first());
    }
  }

  onGuestReady(): void {
    this.stalled = this.parked.id >= 0 && !this.unpark();
    this.resume();
  }

  onTimer(): void {
    const { nowMs } = this.ctx.clock;
    if (this.stuck.untilMs <= nowMs) this.giveUp();
    if (this.errors.later.dueMs <= nowMs) this.tryAgain();
    if (this.busy) this.resume();
  }

  opened(slot: number): void {
    this.guess.opened(slot);
    this.bursts.opened(slot);
  }

  /** The flow has another socket. What waits in scratch memory came from the old one, and is still delivered. */
  renewed(slot: number): void {
    this.bursts.opened(slot);
  }

  forget(slot: number): void {
    this.ready.remove(slot);
    this.errors.later.remove(slot);
    if (this.parked.id === slot) this.dropParked();
  }

  reset(): void {
    this.stalled = false;
    this.parked.id = -1;
    this.stuck.untilMs = Infinity;
    this.bursts.reset();
  }

  // ---- sockets --------------------------------------------------------------------------------------------------

  private readable(id: number): void {
    this.ready.push(id);
    if (!this.stalled) this.serve(id);
  }

  private isFlow(id: number): boolean {
    return id < this.flows.table.capacity;
  }

  private fdOf(id: number): number {
    return this.isFlow(id) ? this.flows.fd[id] : this.listeners[id - this.flows.table.capacity].fd;
  }

  /** Sockets whose calls failed for want of memory. */
  private tryAgain(): void {
    const { later } = this.errors;
    for (let n = later.due(this.ctx.clock.nowMs); n > 0; n--) {
      const id = later.take();
      if (id < 0) return; // one that was served cost another its place
      const index = id - this.flows.table.capacity;
      if (index >= 0 && !this.listeners[index].watched) {
        // What waits there is an event as soon as it is watched.
        if (!listenNow(this.ctx, this.listeners, index)) this.errors.rest(id);
        continue;
      }
      this.errors.drain(id);
      this.readable(id);
    }
  }

  private serve(id: number): void {
    this.ready.remove(id);
    const fd = this.fdOf(id);
    let errors = 0;
    let left = DATAGRAMS_PER_SERVICE;
    let bytes = BYTES_PER_SERVICE;
    // What the guest may not get yet stays in the socket.
    while (left > 0 && bytes > 0 && this.rate.allows(this.ctx.clock)) {
      const n = this.take(id, fd, left);
      if (n === NO_ROOM) {
        this.stalled = true;
        this.ready.push(id);
        return;
      }
      if (n < 0) {
        if (++errors >= ERRORS_IN_A_ROW) {
          // A listener is never given up, and a flow's socket is not broken where the kernel has no memory.
          if (this.isFlow(id) && !isShortage(n)) this.owner.close(id, END_ERROR);
          else this.errors.rest(id);
          return;
        }
        this.errors.drain(id);
        continue;
      }
      // What takes the bypass is not on the link.
      if (this.taken > 0) this.rate.take(this.taken + n * UDP_FRONT4);
      if (this.drained && this.parked.id < 0) {
        if (this.isFlow(id)) this.flows.flags[id] &= ~FLOW_FRESH;
        return;
      }
      errors = 0;
      left -= n;
      bytes -= this.taken;
      // Another's datagram may have cost this very flow its place.
      if (this.fdOf(id) !== fd) return;
      if (this.parked.id >= 0) break;
    }
    this.ready.push(id);
  }

  /** Takes up to `most` messages: their number, NO_ROOM with all of them left, or -errno. Sets `drained`, `taken`. */
  private take(id: number, fd: number, most: number): number {
    this.drained = false;
    this.taken = 0;
    if (this.isFlow(id)) {
      if (this.resolving.believes(id)) return this.takeAnswer(id, fd);
    } else if (this.ctx.bypass?.inward === true) {
      const listener = this.listeners[id - this.flows.table.capacity];
      if (listener.target === null) return this.takeBypassed(id, listener, this.ctx.bypass);
    }
    if (this.guess.bytes[id] > 0) {
      const n = this.takeMany(id, fd, most);
      if (n === NO_BUFFER) return NO_ROOM;
      if (n !== NO_ROOM) return n;
    }
    return this.takeOne(id, fd);
  }

  /** A resolver's answer, by way of memory of our own: in the guest's it could change before it is read. */
  private takeAnswer(id: number, fd: number): number {
    const { io } = this.ctx;
    setRow(io.rows, ROWS_MISC, io.scratchRegion, SCRATCH_UDP, SCRATCH_UDP_STEP);
    this.route.prepare(id, MSG_IN, ROWS_MISC, 1);
    const n = io.recvMany(fd, MSG_IN, 1, 0);
    if (n < 0 && n !== -EAGAIN) return n;
    this.drained = n <= 0;
    if (n <= 0) return EMPTY;
    this.taken = io.msgLen[MSG_IN];
    this.resolving.answer(id, SCRATCH_UDP, Math.min(this.taken, SCRATCH_UDP_STEP));
    this.park(id, MSG_IN, MSG_IN + 1);
    return 1;
  }

  /** By way of memory of our own, as what comes from the host's loopback does not go to the guest's link. */
  private takeBypassed(id: number, { fd, port, targetPort, rule }: UdpListener, bypass: Bypass): number {
    const { io } = this.ctx;
    for (let i = 0; i < MSG_IN_COUNT; i++) {
      const at = SCRATCH_UDP + i * SCRATCH_UDP_STEP;
      setRow(io.rows, ROWS_SPLICE + i, io.scratchRegion, at, SCRATCH_UDP_STEP);
      this.route.prepare(id, MSG_IN + i, ROWS_SPLICE + i, 1);
    }
    const n = io.recvMany(fd, MSG_IN, MSG_IN_COUNT, 0);
    if (n < 0 && n !== -EAGAIN) return n;
    this.drained = n < MSG_IN_COUNT;
    if (n <= 0) return EMPTY;
    bypass.takeUdp(fd, port, targetPort, rule, MSG_IN, MSG_IN + n);
    let first = -1;
    for (let m = MSG_IN; m < MSG_IN + n; m++) {
      if (io.msgLen[m] < 0) continue;
      if (first < 0) first = m;
      this.taken += io.msgLen[m];
    }
    if (first >= 0) this.park(id, first, MSG_IN + n);
    return n;
  }

  private takeMany(id: number, fd: number, most: number): number {
    const { ctx, deliver, route } = this;
    const { port, io } = ctx;
    const { rows } = io;
    const guess = this.guess.bytes[id];
    const v4 = this.guess.last4[id] === 1;
    const front = v4 ? UDP_FRONT4 : UDP_FRONT6;
    if (front + guess > (this.bursts.joins(id) ? port.maxFrame : this.frameLimit(id))) return NO_ROOM;
    const many = front + guess <= SMALL || this.guess.steady[id] === 1;
    const want = many ? Math.min(this.guess.count[id], most, MSG_IN_COUNT, Math.ceil(BYTES_PER_SERVICE / guess)) : 1;
    let row = ROWS_OUT;
    let asked = 0;
    for (; asked < want && row <= ROWS_LIMIT; asked++) {
      const n = port.reserve(front, guess, row);
      if (n < 0) break;
      const m = MSG_IN + asked;
      const behind = SCRATCH_UDP + asked * SCRATCH_UDP_STEP + guess;
      setRow(rows, row + n, io.scratchRegion, behind, SCRATCH_UDP_STEP - guess);
      this.route.prepare(id, m, row, n + 1);
      row += n + 1;
    }
    // Not one buffer is left: then there is no need to look at what waits.
    if (asked === 0) return front + guess <= SMALL ? NO_BUFFER : NO_ROOM;
    const got = io.recvMany(fd, MSG_IN, asked, 0);
    if (got <= 0) {
      port.cancel();
      if (got < 0 && got !== -EAGAIN) return got;
      this.drained = true;
      return EMPTY;
    }
    this.drained = got < asked;
    let m = MSG_IN;
    const end = MSG_IN + got;
    for (; m < end; m++) {
      const length = io.msgLen[m];
      const segment = io.msgSegment[m];
      if (length > guess || route.find(id, m) !== 0 || route.v4 !== v4) break;
      if (!deliver.isFrame(v4, length, segment)) break;
      deliver.commit(length, segment, io.msgTtl[m], io.msgTos[m]);
      route.touch(length);
    }
    if (m < end) this.again(id, fd, m, end, guess);
    else if (got < asked) port.cancel();
    this.taken = got * this.guess.many(io, id, got, asked, route.v4);
    // Unless another's datagram has cost this very flow its place.
    if ((got >= BURST || this.bursts.joins(id)) && this.fdOf(id) === fd) this.bursts.tune(id, fd, v4);
    return got;
  }

  /** Most bytes of a frame of socket `id`, as far as that is known before its datagrams are. */
  private frameLimit(id: number): number {
    const { deliver, flows } = this;
    return this.isFlow(id)
      ? deliver.frameLimitTo(flows.table.keys, KEY_WORDS * id)
      : deliver.frameLimit(this.guess.last4[id] === 1);
  }

  /** If joined datagrams among messages `m … end - 1` had to be taken apart, which copies, they come one by one now. */
  private separate(id: number, fd: number, m: number, end: number): void {
    const { io } = this.ctx;
    const { v4 } = this.route;
    if (this.fdOf(id) !== fd) return;
    for (let i = m; i < end; i++) {
      if (io.msgSegment[i] === 0 || this.deliver.isFrame(v4, io.msgLen[i], io.msgSegment[i])) continue;
      this.bursts.separate(id, fd);
      return;
    }
  }

  /** Messages `m … end - 1` do not fit the frames they were received to: moves them to others. */
  private again(id: number, fd: number, m: number, end: number, guess: number): void {
    const { port, io } = this.ctx;
    const { rows } = io;
    for (let i = m; i < end; i++) {
      const at = SCRATCH_UDP + (i - MSG_IN) * SCRATCH_UDP_STEP;
      const length = Math.min(io.msgLen[i], guess);
      setRow(rows, ROWS_MISC, io.scratchRegion, at, length);
      if (length > 0) io.copyRows(io.msgRow[i], io.msgRows[i] - 1, ROWS_MISC, 1);
    }
    port.cancel();
    if (this.park(id, m, end) && this.bursts.joins(id)) this.separate(id, fd, m, end);
  }

  /** Messages `m … end - 1` wait in scratch memory: moves them. False if there is no room for all of them yet. */
  private park(id: number, m: number, end: number): boolean {
    this.parked.put(id, m, end);
    if (this.unpark()) return true;
    this.stalled = true;
    this.stuck.begin(id);
    return false;
  }

  /** Moves what waits in scratch memory. False if there is no room for all of it. */
  private unpark(): boolean {
    const { id } = this.parked;
    if (!this.parked.move()) return false;
    this.stuck.end(id);
    return true;
  }

  private dropParked(): void {
    this.ctx.counters[C_DROPS_TO_GUEST + DROP_NO_RECEIVE_BUFFERS] += this.parked.drop();
    this.stalled = false;
  }

  private takeOne(id: number, fd: number): number {
    const { ctx, deliver, route } = this;
    const { io } = ctx;
    setRow(io.rows, ROWS_MISC, io.scratchRegion, SCRATCH_UDP, 1);
    this.route.prepare(id, MSG_IN, ROWS_MISC, 1);
    const n = io.recvMany(fd, MSG_IN, 1, MSG_PEEK | MSG_TRUNC);
    if (n === 0 || n === -EAGAIN) {
      this.drained = true;
      return EMPTY;
    }
    if (n < 0) return n;
    const length = io.msgLen[MSG_IN];
    const segment = io.msgSegment[MSG_IN];
    this.taken = length;
    deliver.error = 0;
    const code = this.route.find(id, MSG_IN);
    if (code !== 0) {
      deliver.discard(fd);
      if (deliver.error !== 0) return deliver.error;
      ctx.counters[C_DROPS_TO_GUEST + code]++;
      return 1;
    }
    if (deliver.move(fd, 0, length, segment, io.msgTtl[MSG_IN], io.msgTos[MSG_IN]) === STALLED) {
      if (segment > 0 || !deliver.isFrame(route.v4, length, 0)) this.stuck.begin(id);
      return NO_ROOM;
    }
    if (deliver.error !== 0) return deliver.error;
    this.stuck.end(id);
    if (segment > 0) this.separate(id, fd, MSG_IN, MSG_IN + 1);
    this.guess.one(id, length, this.route.v4);
    route.touch(length);
    return 1;
  }

  /**
   * A datagram waits for more buffers than one frame's although time went by. If the guest's ring is smaller than all
   * of them together, no event will ever end that: it is tried once more, and then dropped.
   */
  private giveUp(): void {
    const { ctx } = this;
    const { id } = this.stuck;
    this.stuck.untilMs = Infinity;
    if (this.parked.id >= 0) {
      this.onGuestReady();
      if (this.parked.id >= 0) this.dropParked();
      return;
    }
    if (!ctx.port.up || !this.ready.has(id)) return;
    this.onGuestReady();
    if (this.stuck.id !== id || this.stuck.untilMs === Infinity) return;
    this.deliver.discard(this.fdOf(id));
    ctx.counters[C_DROPS_TO_GUEST + DROP_NO_RECEIVE_BUFFERS]++;
    this.stalled = false;
    this.stuck.untilMs = Infinity;
  }
}
