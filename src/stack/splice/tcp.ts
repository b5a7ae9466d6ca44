/**
 * TCP between the host's loopback and the namespace's, without the tap device in between.
 *
 * Theory of operation. A connection is two sockets, one on each side: the one that was accepted, and one that connects. The
 * kernel moves their bytes (addon/splice.cc); here a connection begins and ends. Both sockets are watched edge-triggered, and
 * an event costs one call, which moves a bounded number of bytes; a connection with more is in `ready`. So are
 * those that moved much with the last call, streams: they are served after all others, one after the other.
 *
 * States: WAITING (accepted, there is no socket of the namespace to be had yet), CONNECTING, OPEN. What ends one socket ends
 * the other in the same way: an end of stream is passed on when all before it is, a reset at once. There are no timers.
 *
 * The host's connections come from listeners of the stack (tcp/accept.ts); the namespace's from listeners in there, which
 * are this one's. The namespace has a part of the table at the most (flows.ts): further connections wait in the backlog.
 */
import { addrSlotPort, addrSlotRead, addrSlotWrite, copyWords, familyOf } from '../ip/address';
import { endsOnThisHost } from '../ip/socket-options';
import { KEY_BYPASS_TCP, KEY_KIND_SHIFT, type StackContext } from '../context';
import {
  C_BYTES_FROM_GUEST_TCP_SPLICE,
  C_BYTES_TO_GUEST_TCP_SPLICE,
  C_DROPS,
  C_DROPS_TO_GUEST,
  C_FLOWS_OPENED_TCP_SPLICE,
  C_FLOWS_TCP_SPLICE,
  C_RULES,
  dropCode,
} from '../counters';
import { endWith } from '../kit/flow-ends';
import {
  END_CLOSED,
  END_DENIED,
  END_ERROR,
  END_GUEST_RESET,
  END_NOT_CONNECTED,
  END_OPERATOR,
  END_PEER_RESET,
  END_RESET,
  END_UNFORWARDED,
  FLOW_FROM_GUEST,
  FLOW_STATE,
  FLOW_STATE_CONNECTING,
  FLOW_STATE_OPEN,
  FLOW_TCP_SPLICE,
  FLOW_TO_GUEST,
  type FlowView,
} from '../kit/flow-rows';
import { KEY_WORDS, SlotQueue } from '../kit/flow-table';
import { ECONNRESET, EPIPE, EINPROGRESS, SO_OOBINLINE, SOL_SOCKET } from '../kit/linux';
import { EPOLLERR, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, SOCK_TCP } from '../ports';
import { ADDR_SLOT_SPLICE_TO, ADDR_SLOT_TCP } from '../scratch';
import { IP_PROTO_TCP } from '../wire/ipv4';
import type { BypassEnds } from './ends';
import { BypassFlows } from './flows';
import { SPLICE_DONE, SPLICE_FAILED, SPLICE_FROM_A, SPLICE_FROM_B, SPLICE_MORE, type SpliceIo } from './io';
import type { NamespaceSockets } from './sockets';

const FREE = 0;
const WAITING = 1;
const CONNECTING = 2;
const OPEN = 3;

const EPOLLPRI = 2;
const EVENTS = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET;

/** Bytes that one connection moves each way before the loop looks whether others have something to do. */
const BUDGET = 2 << 20;
/**
 * Bytes that a stream moves before other streams have their turn: more than the send buffer of a socket grows to (4 MiB,
 * net.ipv4.tcp_wmem), so that its turn usually ends because there is nothing to take or to give. Sender and receiver are
 * woken less often for a byte than if streams took turns with each piece.
 */
const TURN_BYTES = 8 << 20;
/** One that moves as much at a time is a stream, which waits for all others. */
const STREAM_BYTES = 128 << 10;

const DROP_FLOW_TABLE_FULL = dropCode('flow_table_full');
const DROP_NO_DESCRIPTORS = dropCode('no_descriptors');

export class SpliceTcp implements FlowView {
  readonly capacity: number;
  private readonly ctx: StackContext;
  private readonly io: SpliceIo;
  private readonly sockets: NamespaceSockets;
  private readonly ends: BypassEnds;
  private readonly flows: BypassFlows;
  /** Those that wait for a socket of the namespace. */
  private readonly waiting: SlotQueue;
  private readonly state: Uint8Array;
  /** Descriptor of the socket that was accepted. */
  private readonly accepted: Int32Array;
  /** The last call for it moved STREAM_BYTES. */
  private readonly streams: Uint8Array;
  /** Bytes that it moved of its TURN_BYTES. */
  private readonly used: Int32Array;
  /** What was seen at the sockets of one that is in `ready`: EPOLL* bits of side 0 and of side 1. */
  private readonly seen: Int32Array;
  /** Addresses of the connection that begins, four words each. */
  private readonly peer: Int32Array;
  private readonly local: Int32Array;

  constructor(ctx: StackContext, io: SpliceIo, capacity: number, sockets: NamespaceSockets, ends: BypassEnds) {
    this.ctx = ctx;
    this.io = io;
    this.capacity = capacity;
    this.sockets = sockets;
    this.ends = ends;
    this.flows = new BypassFlows(ctx, capacity);
    this.waiting = new SlotQueue(capacity);
    this.state = new Uint8Array(capacity);
    this.accepted = new Int32Array(capacity);
    this.streams = new Uint8Array(capacity);
    this.used = new Int32Array(capacity);
    this.seen = new Int32Array(2 * capacity);
    this.peer = new Int32Array(4);
    this.local = new Int32Array(4);
  }

  /** Connections have more to move than their turn allowed. */
  get busy(): boolean {
    return this.flows.ready.length > 0;
  }

  /** Connections wait for a socket of the namespace. */
  get waits(): boolean {
    return this.waiting.length > 0;
  }

  /** May another connection of the namespace's be accepted? */
  get takesGuest(): boolean {
    return !this.flows.guestShareUsed && !this.flows.full;
  }

  /**
   * Takes the connection `fd` of the host's loopback, which came by listener `listener` for port `port` of the guest; its
   * peer is in ADDR_SLOT_TCP.
   */
  fromHost(fd: number, listener: number, port: number, rule: number): void {
    const { io, local, peer } = this;
    addrSlotRead(io.addrs, ADDR_SLOT_TCP, peer, 0);
    const peerPort = addrSlotPort(io.addrs, ADDR_SLOT_TCP);
    if (this.ends.keepsLoopback) {
      io.getsockname(fd, ADDR_SLOT_TCP);
      addrSlotRead(io.addrs, ADDR_SLOT_TCP, local, 0);
    }
    this.ends.inside(peer, local);
    const slot = this.begin(fd, listener, rule, 0);
    if (slot < 0) {
      io.abort(fd);
      this.ctx.counters[C_DROPS_TO_GUEST + DROP_FLOW_TABLE_FULL]++;
      return;
    }
    this.keep(slot, this.ends.to, port, peer, peerPort);
    this.ctx.counters[C_RULES + rule]++;
    const b = this.sockets.take(familyOf(peer, 0), SOCK_TCP, this.ctx.clock.nowMs);
    if (b >= 0) this.connect(slot, b);
    else this.waiting.push(slot);
  }

  /** The same from the namespace's loopback, for port `port` of the host. */
  fromGuest(fd: number, listener: number, port: number, rule: number): void {
    const { io, local, peer, ctx } = this;
    addrSlotRead(io.addrs, ADDR_SLOT_TCP, peer, 0);
    const peerPort = addrSlotPort(io.addrs, ADDR_SLOT_TCP);
    io.getsockname(fd, ADDR_SLOT_TCP);
    addrSlotRead(io.addrs, ADDR_SLOT_TCP, local, 0);
    const code = this.ends.refusal('tcp', peer, peerPort, local, port, this.flows.table.probe);
    if (code !== 0) {
      io.abort(fd);
      ctx.counters[C_DROPS + code]++;
      return;
    }
    const b = io.socket(familyOf(local, 0), SOCK_TCP);
    const slot = b < 0 ? -1 : this.begin(fd, listener, rule, 1);
    if (slot < 0) {
      io.abort(fd);
      if (b >= 0) io.close(b);
      ctx.counters[C_DROPS + (b < 0 ? DROP_NO_DESCRIPTORS : DROP_FLOW_TABLE_FULL)]++;
      return;
    }
    ctx.counters[C_RULES + rule]++;
    this.keep(slot, peer, peerPort, local, port);
    io.setsockopt(b, SOL_SOCKET, SO_OOBINLINE, 1);
    this.connect(slot, b);
  }

  /** A slot for the accepted connection, or -1. */
  private begin(fd: number, listener: number, rule: number, ofGuest: number): number {
    const { flows, ctx } = this;
    const slot = flows.table.alloc();
    if (slot < 0) return -1;
    flows.begin(slot, ofGuest, listener, rule);
    this.state[slot] = WAITING;
    this.streams[slot] = this.used[slot] = this.seen[2 * slot] = this.seen[2 * slot + 1] = 0;
    this.accepted[slot] = fd;
    ctx.counters[C_FLOWS_TCP_SPLICE] = flows.table.count;
    ctx.counters[C_FLOWS_OPENED_TCP_SPLICE]++;
    this.io.setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, 1);
    return slot;
  }

  /** Who talks to whom: the guest's end first. Never looked up. */
  private keep(slot: number, guest: Int32Array, guestPort: number, other: Int32Array, otherPort: number): void {
    const { keys } = this.flows.table;
    const k = KEY_WORDS * slot;
    copyWords(guest, 0, keys, k);
    copyWords(other, 0, keys, k + 4);
    keys[k + KEY_WORDS - 1] = (guestPort << 16) | otherPort;
  }

  /** Connects the socket `b` of the other side. */
  private connect(slot: number, b: number): void {
    const { io, flows } = this;
    const { keys, generation } = flows.table;
    const of = flows.ofGuest[slot] === 1;
    const at = KEY_WORDS * slot + (of ? 4 : 0);
    const ports = keys[KEY_WORDS * slot + KEY_WORDS - 1];
    addrSlotWrite(io.addrs, ADDR_SLOT_SPLICE_TO, familyOf(keys, at), of ? ports & 0xffff : ports >>> 16, 0, keys, at);
    const a = this.accepted[slot];
    // One of a listener in the namespace has it from there, since before it was connected.
    if (!of) endsOnThisHost(io, a);
    endsOnThisHost(io, b);
    const result = io.connect(b, ADDR_SLOT_SPLICE_TO);
    io.spliceOpen(slot, a, b);
    this.state[slot] = CONNECTING;
    if (result < 0 && result !== -EINPROGRESS) {
      this.end(slot, END_NOT_CONNECTED);
      return;
    }
    const key = (KEY_BYPASS_TCP << KEY_KIND_SHIFT) | (slot << 1);
    const watched = Math.min(
      io.watch(b, EVENTS, key | 1, generation[slot]),
      io.watch(a, EVENTS, key, generation[slot]),
    );
    if (watched < 0) this.end(slot, END_ERROR);
  }

  /** Sockets of the namespace have come. */
  serveWaiting(): void {
    const { waiting, flows } = this;
    while (waiting.length > 0) {
      const slot = waiting.first();
      const family = familyOf(flows.table.keys, KEY_WORDS * slot);
      const b = this.sockets.take(family, SOCK_TCP, this.ctx.clock.nowMs);
      if (b < 0) {
        // Another family's may be there: those are tried with the next answer.
        waiting.remove(slot);
        waiting.push(slot);
        return;
      }
      waiting.remove(slot);
      this.connect(slot, b);
    }
  }

  onSocket(index: number, generation: number, events: number): void {
    const slot = index >>> 1;
    const side = index & 1;
    if (!this.flows.isCurrent(slot, generation) || this.state[slot] < CONNECTING) return;
    if (side === 1 && this.state[slot] === CONNECTING) {
      if ((events & EPOLLERR) !== 0) {
        this.end(slot, END_NOT_CONNECTED);
        return;
      }
      if ((events & EPOLLOUT) !== 0) this.state[slot] = OPEN;
    }
    this.seen[index] |= events;
    if (this.streams[slot] === 1) this.flows.ready.push(slot);
    else this.move(slot);
  }

  /** Those that had more to do, each in its turn, until BUDGET is used up. */
  resume(): void {
    const { ready } = this.flows;
    for (let n = ready.length, left = BUDGET; n > 0 && left > 0; n--) left -= this.move(ready.first());
  }

  /** Returns the bytes moved. */
  private move(slot: number): number {
    const { io, seen, flows } = this;
    const { counters } = this.ctx;
    const out = io.spliceOut;
    const result = io.spliceMove(slot, seen[2 * slot], seen[2 * slot + 1], BUDGET);
    seen[2 * slot] = seen[2 * slot + 1] = 0;
    const moved = out[SPLICE_FROM_A] + out[SPLICE_FROM_B];
    this.streams[slot] = moved >= STREAM_BYTES ? 1 : 0;
    const of = flows.ofGuest[slot];
    counters[C_BYTES_FROM_GUEST_TCP_SPLICE] += out[of === 1 ? SPLICE_FROM_A : SPLICE_FROM_B];
    counters[C_BYTES_TO_GUEST_TCP_SPLICE] += out[of === 1 ? SPLICE_FROM_B : SPLICE_FROM_A];
    if (result === SPLICE_MORE) {
      this.used[slot] += moved;
      // Another turn of its own comes after those of all others.
      if (this.used[slot] >= TURN_BYTES) this.pause(slot);
      flows.ready.push(slot);
      return moved;
    }
    this.pause(slot);
    if (result === SPLICE_DONE) this.end(slot, END_CLOSED);
    else if (result < 0) this.end(slot, this.reasonOf(slot, result));
    return moved;
  }

  /** The turn of its own is over. */
  private pause(slot: number): void {
    this.flows.ready.remove(slot);
    this.used[slot] = 0;
  }

  private reasonOf(slot: number, error: number): number {
    if (error !== -ECONNRESET && error !== -EPIPE) return END_ERROR;
    const ofGuest = (this.io.spliceOut[SPLICE_FAILED] === 0) === (this.flows.ofGuest[slot] === 1);
    return ofGuest ? END_GUEST_RESET : END_PEER_RESET;
  }

  private end(slot: number, reason: number): void {
    const { io, flows, ctx } = this;
    if (ctx.ends !== null) endWith(ctx.ends, this, slot, reason);
    if (this.state[slot] === WAITING) io.abort(this.accepted[slot]);
    else io.spliceClose(slot, reason === END_CLOSED ? 0 : 1);
    this.state[slot] = FREE;
    this.waiting.remove(slot);
    flows.free(slot);
    ctx.counters[C_FLOWS_TCP_SPLICE] = flows.table.count;
  }

  /** A listener is gone. */
  forget(listener: number, closeFlows: boolean): void {
    const { flows } = this;
    for (let slot = 0; slot < this.capacity; slot++) {
      if (this.state[slot] === FREE || flows.listener[slot] !== listener) continue;
      if (closeFlows) this.end(slot, END_UNFORWARDED);
      else flows.listener[slot] = -1;
    }
  }

  /** The policy changed. */
  enforce(): void {
    if (!this.ctx.link.policy.on) return;
    const { keys } = this.flows.table;
    for (let slot = 0; slot < this.capacity; slot++) {
      if (this.state[slot] === FREE || this.flows.ofGuest[slot] === 0) continue;
      if (!this.ends.keeps(IP_PROTO_TCP, keys, KEY_WORDS * slot)) this.end(slot, END_DENIED);
    }
  }

  reset(): void {
    for (let slot = 0; slot < this.capacity; slot++) if (this.state[slot] !== FREE) this.end(slot, END_RESET);
  }

  view(slot: number, into: Float64Array, at: number): boolean {
    if (this.state[slot] === FREE) return false;
    const of = this.flows.ofGuest[slot] === 1;
    this.flows.view(slot, FLOW_TCP_SPLICE, into, at);
    into[at + FLOW_STATE] = this.state[slot] === OPEN ? FLOW_STATE_OPEN : FLOW_STATE_CONNECTING;
    into[at + FLOW_FROM_GUEST] = this.io.spliceMoved(slot, of ? 0 : 1);
    into[at + FLOW_TO_GUEST] = this.io.spliceMoved(slot, of ? 1 : 0);
    return true;
  }

  close(slot: number, generation: number): boolean {
    if (!this.flows.isCurrent(slot, generation) || this.state[slot] === FREE) return false;
    this.end(slot, END_OPERATOR);
    return true;
  }
}
