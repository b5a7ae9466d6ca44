/**
 * UDP between the host's loopback and the namespace's, without the tap device in between.
 *
 * Theory of operation. A flow is a peer at a listener: its datagrams leave by a socket of the flow's own on the other side,
 * connected to where they go, and what comes back there is sent to the peer by the listener's socket. So a flow takes one
 * descriptor. Datagrams are received and sent many at a time, by way of memory of our own. The source port is kept where it
 * is free. Flows end by time as those of the tap do: soon without an answer, later with one; `young` and `old` have
 * them in the order of their last datagram, of which the first makes room where the table is full.
 *
 * Datagrams of the host come from the stack (udp/inbound.ts), which reads its listeners; those of the namespace from
 * listeners in there.
 */
import {
  addrSlotFamily,
  addrSlotPort,
  addrSlotRead,
  addrSlotScope,
  addrSlotWrite,
  anyOf,
  copyWords,
  familyOf,
  isLoopback,
  isUnspecified,
  isV4,
} from '../ip/address';
import { KEY_BYPASS_UDP, KEY_KIND_SHIFT, type StackContext } from '../context';
import type { ForwardListener } from '../config';
import {
  C_BYTES_FROM_GUEST_UDP_SPLICE,
  C_BYTES_TO_GUEST_UDP_SPLICE,
  C_DROPS,
  C_DROPS_TO_GUEST,
  C_FLOWS_OPENED_UDP_SPLICE,
  C_FLOWS_UDP_SPLICE,
  C_RULES,
  dropCode,
} from '../counters';
import { endWith } from '../kit/flow-ends';
import {
  END_DENIED,
  END_EVICTED,
  END_IDLE,
  END_OPERATOR,
  END_RESET,
  END_UNFORWARDED,
  FLOW_FROM_GUEST,
  FLOW_STATE,
  FLOW_STATE_ANSWERED,
  FLOW_STATE_UNANSWERED,
  FLOW_TO_GUEST,
  FLOW_UDP_SPLICE,
  type FlowView,
  viewEnds,
} from '../kit/flow-rows';
import { KEY_WORDS, SlotQueue } from '../kit/flow-table';
import { IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPV6_RECVPKTINFO } from '../kit/linux';
import { EPOLLET, EPOLLIN, SOCK_UDP } from '../ports';
import {
  ADDR_SLOT_IN,
  ADDR_SLOT_SPLICE,
  ADDR_SLOT_SPLICE_LOCAL,
  ADDR_SLOT_SPLICE_PEER,
  ADDR_SLOT_SPLICE_TO,
  MSG_IN,
  MSG_SPLICE,
  MSG_SPLICE_COUNT,
  ROWS_SPLICE,
} from '../scratch';
import { IP_PROTO_UDP } from '../wire/ipv4';
import { DatagramBatch } from './batch';
import type { BypassEnds } from './ends';
import { BypassFlows } from './flows';
import type { SpliceIo } from './io';
import type { NamespaceSockets } from './sockets';

/** Calls on one socket before others have their turn. */
const BATCHES = 4;
/** How often flows are looked at whose time may be over. */
const LOOK_MS = 1000;
/** Bit that differs in the first word of a key where the namespace began the flow. */
const OF_GUEST = 0x40000000;

const DROP_FLOW_TABLE_FULL = dropCode('flow_table_full');
const DROP_NO_DESCRIPTORS = dropCode('no_descriptors');
const DROP_SOURCE_INVALID = dropCode('source_invalid');
const DROP_HOST_SOCKET_ERROR = dropCode('host_socket_error');

export class SpliceUdp implements FlowView {
  readonly capacity: number;
  private readonly ctx: StackContext;
  private readonly io: SpliceIo;
  private readonly sockets: NamespaceSockets;
  private readonly ends: BypassEnds;
  private readonly batch: DatagramBatch;
  private readonly flows: BypassFlows;
  /** Flows without an answer and with one, in the order of their last datagram. */
  private readonly young: SlotQueue;
  private readonly old: SlotQueue;
  /** When `onTimer` looks for flows whose time is over, ms. */
  private lookAt: number;
  /** The flow's own socket; -1: the slot is free. */
  private readonly fd: Int32Array;
  private readonly answered: Uint8Array;
  /** Of the last datagram, ms. */
  private readonly lastAt: Float64Array;
  /** Sent by the flow's own socket; sent to its peer. */
  private readonly bytesOut: Float64Array;
  private readonly bytesBack: Float64Array;
  /** Scope of the peer's address (interface number); 0: it has none. */
  private readonly scope: Int32Array;
  /** As people are shown it: a key of the flow table's form, the guest's end first. */
  private readonly shown: Int32Array;
  /** Addresses of the datagram at hand, four words each. */
  private readonly peer: Int32Array;
  private readonly local: Int32Array;
  /** What `pass` is about: the listener, and the port that its datagrams go to. */
  private readonly at: { fd: number; port: number; targetPort: number; rule: number; guest: boolean };

  /** `region`: memory for datagrams, SPLICE_BLOCK bytes. */
  constructor(
    ctx: StackContext,
    io: SpliceIo,
    capacity: number,
    sockets: NamespaceSockets,
    ends: BypassEnds,
    region: number,
  ) {
    this.ctx = ctx;
    this.io = io;
    this.capacity = capacity;
    this.sockets = sockets;
    this.ends = ends;
    this.batch = new DatagramBatch(ctx, io, region);
    this.flows = new BypassFlows(ctx, capacity);
    this.young = new SlotQueue(capacity);
    this.old = new SlotQueue(capacity);
    this.lookAt = 0;
    this.fd = new Int32Array(capacity).fill(-1);
    this.answered = new Uint8Array(capacity);
    this.lastAt = new Float64Array(capacity);
    this.bytesOut = new Float64Array(capacity);
    this.bytesBack = new Float64Array(capacity);
    this.scope = new Int32Array(capacity);
    this.shown = new Int32Array(capacity * KEY_WORDS);
    this.peer = new Int32Array(4);
    this.local = new Int32Array(4);
    this.at = { fd: -1, port: 0, targetPort: 0, rule: 0, guest: false };
  }

  /** Sockets may have more than was read in their turn. */
  get busy(): boolean {
    return this.flows.ready.length > 0;
  }

  /** When `onTimer` has something to do that is not `busy`, ms; Infinity: never. */
  get dueMs(): number {
    return this.flows.table.count > 0 ? this.lookAt : Infinity;
  }

  /** A listener inside: it is to say where its datagrams went. Cold. */
  prepare({ fd, family }: ForwardListener): void {
    if (family !== 'v6') this.io.setsockopt(fd, IPPROTO_IP, IP_PKTINFO, 1);
    if (family !== 'v4') this.io.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
  }

  /**
   * Messages `first … end - 1` of MSG_IN came to the host's listener `fd`. Those of the host's loopback are passed on, and have
   * the length -1 then; others as well if `all`: they are dropped.
   */
  fromHost(fd: number, port: number, targetPort: number, rule: number, first: number, end: number, all: boolean): void {
    const { at } = this;
    at.fd = fd;
    at.port = port;
    at.targetPort = targetPort;
    at.rule = rule;
    at.guest = false;
    this.pass(first, end, ADDR_SLOT_IN - 2 * MSG_IN, all);
  }

  /** The listener `listener` inside has datagrams. */
  fromGuest(listener: ForwardListener): void {
    const { at } = this;
    at.fd = listener.fd;
    at.port = listener.port;
    at.targetPort = listener.targetPort;
    at.rule = listener.rule ?? 0;
    at.guest = true;
    // A listener is emptied: what comes faster than it can be passed on is lost in its queue.
    let n = MSG_SPLICE_COUNT;
    while (n === MSG_SPLICE_COUNT) {
      n = this.batch.receive(at.fd, ADDR_SLOT_SPLICE);
      this.pass(MSG_SPLICE, MSG_SPLICE + n, ADDR_SLOT_SPLICE - 2 * MSG_SPLICE, true);
    }
  }

  /** Sends what came to the listener `at` on, a run of one flow's at a time. Message `m` has its addresses at `slots + 2 m`. */
  private pass(first: number, end: number, slots: number, all: boolean): void {
    const { io } = this;
    let run = first;
    let flow = -1;
    for (let m = first; m < end; m++) {
      addrSlotRead(io.addrs, slots + 2 * m, this.peer, 0);
      let slot = -1;
      const ours = isLoopback(this.peer, 0);
      if (ours) slot = this.flowOf(slots + 2 * m);
      else if (all) this.drop(DROP_SOURCE_INVALID);
      if (slot !== flow || slot < 0) {
        if (flow >= 0) this.send(flow, run, m);
        run = m;
        flow = slot;
      }
      io.rows.length[io.msgRow[m]] = io.msgLen[m];
      if (slot < 0 && (ours || all)) io.msgLen[m] = -1;
    }
    if (flow >= 0) this.send(flow, run, end);
  }

  private drop(code: number): void {
    this.ctx.counters[(this.at.guest ? C_DROPS : C_DROPS_TO_GUEST) + code]++;
  }

  /** Sends messages `first … end - 1` by the flow's own socket. */
  private send(slot: number, first: number, end: number): void {
    const { io } = this;
    let bytes = 0;
    for (let m = first; m < end; m++) {
      bytes += io.msgLen[m];
      io.msgPeer[m] = -1;
      io.msgLocal[m] = -1;
    }
    this.batch.send(this.fd[slot], first, end);
    for (let m = first; m < end; m++) io.msgLen[m] = -1;
    this.bytesOut[slot] += bytes;
    this.count(this.flows.ofGuest[slot] === 1, bytes);
    this.touch(slot);
  }

  private count(fromGuest: boolean, bytes: number): void {
    this.ctx.counters[fromGuest ? C_BYTES_FROM_GUEST_UDP_SPLICE : C_BYTES_TO_GUEST_UDP_SPLICE] += bytes;
  }

  private touch(slot: number): void {
    const queue = this.answered[slot] === 1 ? this.old : this.young;
    this.lastAt[slot] = this.ctx.clock.nowMs;
    queue.remove(slot);
    queue.push(slot);
  }

  /** The flow of the datagram whose peer is in `slot` of the addresses (and in `peer`), local address behind it; -1: none. */
  private flowOf(slot: number): number {
    const { io, local, peer, at } = this;
    const { table } = this.flows;
    const { probe } = table;
    if (addrSlotFamily(io.addrs, slot + 1) === 0) copyWords(anyOf(isV4(peer, 0)), 0, local, 0);
    else addrSlotRead(io.addrs, slot + 1, local, 0);
    const port = addrSlotPort(io.addrs, slot);
    copyWords(local, 0, probe, 0);
    copyWords(peer, 0, probe, 4);
    if (at.guest) probe[0] ^= OF_GUEST;
    probe[KEY_WORDS - 1] = (at.port << 16) | port;
    const flow = table.lookup();
    if (flow >= 0) return flow;
    const code = port === 0 ? DROP_SOURCE_INVALID : this.refusal(port);
    if (code !== 0) {
      this.drop(code);
      return -1;
    }
    return this.open(slot, port);
  }

  /** Of a new flow of the namespace's. Returns 0 or a drop code. */
  private refusal(peerPort: number): number {
    const { at, local } = this;
    if (!at.guest) return 0;
    return this.ends.refusal('udp', this.peer, peerPort, local, at.targetPort, this.flows.table.probe);
  }

  /** Opens the flow that `probe` is the key of. */
  private open(addressSlot: number, peerPort: number): number {
    const { io, flows, peer, local, at, ctx, shown } = this;
    const { table } = flows;
    const guest = at.guest;
    if (guest && flows.guestShareUsed) this.evict(true);
    else if (flows.full) this.evict(false);
    const family = familyOf(peer, 0);
    const fd = guest ? io.socket(family, SOCK_UDP) : this.sockets.take(family, SOCK_UDP, ctx.clock.nowMs);
    if (fd < 0) {
      this.drop(DROP_NO_DESCRIPTORS);
      return -1;
    }
    if (!guest) this.ends.inside(peer, local);
    const to = guest ? local : this.ends.to;
    // From the same address and port where that can be; the kernel's choice is as good where it cannot.
    const same = guest || isLoopback(to, 0);
    addrSlotWrite(io.addrs, ADDR_SLOT_SPLICE_TO, family, peerPort, 0, same ? peer : anyOf(isV4(peer, 0)), 0);
    io.bind(fd, ADDR_SLOT_SPLICE_TO);
    addrSlotWrite(io.addrs, ADDR_SLOT_SPLICE_TO, family, at.targetPort, 0, to, 0);
    const connected = io.connect(fd, ADDR_SLOT_SPLICE_TO);
    const slot = connected < 0 ? -1 : table.alloc();
    if (slot < 0) {
      io.close(fd);
      this.drop(connected < 0 ? DROP_HOST_SOCKET_ERROR : DROP_FLOW_TABLE_FULL);
      return -1;
    }
    table.insert(slot);
    flows.begin(slot, guest ? 1 : 0, at.fd, at.rule);
    this.fd[slot] = fd;
    this.answered[slot] = 0;
    this.bytesOut[slot] = 0;
    this.bytesBack[slot] = 0;
    this.scope[slot] = addrSlotScope(io.addrs, addressSlot);
    const k = KEY_WORDS * slot;
    copyWords(guest ? peer : to, 0, shown, k);
    copyWords(guest ? to : peer, 0, shown, k + 4);
    shown[k + KEY_WORDS - 1] = guest ? (peerPort << 16) | at.targetPort : (at.targetPort << 16) | peerPort;
    if (table.count === 1) this.lookAt = ctx.clock.nowMs + LOOK_MS;
    ctx.counters[C_FLOWS_UDP_SPLICE] = table.count;
    ctx.counters[C_FLOWS_OPENED_UDP_SPLICE]++;
    ctx.counters[C_RULES + at.rule]++;
    this.touch(slot);
    io.watch(fd, EPOLLIN | EPOLLET, (KEY_BYPASS_UDP << KEY_KIND_SHIFT) | slot, table.generation[slot]);
    return slot;
  }

  /** The oldest flow makes room; with `guest` one of the namespace's. */
  private evict(guest: boolean): void {
    for (const queue of [this.young, this.old]) {
      for (let n = queue.length; n > 0; n--) {
        const slot = queue.first();
        if (!guest || this.flows.ofGuest[slot] === 1) {
          this.end(slot, END_EVICTED);
          return;
        }
        queue.remove(slot);
        queue.push(slot);
      }
    }
  }

  flowReadable(slot: number, generation: number): void {
    if (!this.isOpen(slot, generation)) return;
    this.read(slot);
  }

  private isOpen(slot: number, generation: number): boolean {
    return this.flows.isCurrent(slot, generation) && this.fd[slot] >= 0;
  }

  /** What came back: from the flow's own socket to its peer, by the listener. */
  private read(slot: number): void {
    const { io, flows } = this;
    const { keys } = flows.table;
    const fd = this.fd[slot];
    const guest = flows.ofGuest[slot] === 1;
    const k = KEY_WORDS * slot;
    for (let batch = 0; batch < BATCHES; batch++) {
      const n = this.batch.receive(fd, -1);
      if (n === 0) return;
      copyWords(keys, k, this.local, 0);
      if (guest) this.local[0] ^= OF_GUEST;
      const named = !isUnspecified(this.local, 0);
      const family = familyOf(keys, k + 4);
      const peerPort = keys[k + KEY_WORDS - 1] & 0xffff;
      addrSlotWrite(io.addrs, ADDR_SLOT_SPLICE_PEER, family, peerPort, this.scope[slot], keys, k + 4);
      if (named) addrSlotWrite(io.addrs, ADDR_SLOT_SPLICE_LOCAL, family, 0, 0, this.local, 0);
      let bytes = 0;
      for (let i = 0; i < n; i++) {
        const m = MSG_SPLICE + i;
        io.rows.length[ROWS_SPLICE + i] = io.msgLen[m];
        bytes += io.msgLen[m];
        io.msgPeer[m] = ADDR_SLOT_SPLICE_PEER;
        io.msgLocal[m] = named ? ADDR_SLOT_SPLICE_LOCAL : -1;
      }
      this.batch.send(flows.listener[slot], MSG_SPLICE, MSG_SPLICE + n);
      this.bytesBack[slot] += bytes;
      this.count(!guest, bytes);
      if (this.answered[slot] === 0) {
        this.young.remove(slot);
        this.answered[slot] = 1;
      }
      this.touch(slot);
      if (n < MSG_SPLICE_COUNT) return;
    }
    flows.ready.push(slot);
  }

  onTimer(): void {
    const { ready, table } = this.flows;
    for (let n = ready.length; n > 0; n--) {
      const slot = ready.shift();
      if (slot >= 0) this.read(slot);
    }
    const { nowMs } = this.ctx.clock;
    if (table.count === 0 || this.lookAt > nowMs) return;
    this.lookAt = nowMs + LOOK_MS;
    const { udpTimeoutMs, udpStreamTimeoutMs } = this.ctx.config;
    this.expire(this.young, nowMs - udpTimeoutMs);
    this.expire(this.old, nowMs - udpStreamTimeoutMs);
  }

  private expire(queue: SlotQueue, before: number): void {
    for (let slot = queue.first(); slot >= 0 && this.lastAt[slot] <= before; slot = queue.first()) {
      this.end(slot, END_IDLE);
    }
  }

  private end(slot: number, reason: number): void {
    const { ctx, flows } = this;
    if (ctx.ends !== null) endWith(ctx.ends, this, slot, reason);
    this.io.close(this.fd[slot]);
    this.fd[slot] = -1;
    this.young.remove(slot);
    this.old.remove(slot);
    flows.table.remove(slot);
    flows.free(slot);
    ctx.counters[C_FLOWS_UDP_SPLICE] = flows.table.count;
  }

  /** A listener is gone, and its flows with it. */
  forget(listener: number): void {
    for (let slot = 0; slot < this.capacity; slot++) {
      if (this.fd[slot] >= 0 && this.flows.listener[slot] === listener) this.end(slot, END_UNFORWARDED);
    }
  }

  /** The policy changed. */
  enforce(): void {
    if (!this.ctx.link.policy.on) return;
    for (let slot = 0; slot < this.capacity; slot++) {
      if (this.fd[slot] < 0 || this.flows.ofGuest[slot] === 0) continue;
      if (!this.ends.keeps(IP_PROTO_UDP, this.shown, KEY_WORDS * slot)) this.end(slot, END_DENIED);
    }
  }

  reset(): void {
    for (let slot = 0; slot < this.capacity; slot++) if (this.fd[slot] >= 0) this.end(slot, END_RESET);
  }

  view(slot: number, into: Float64Array, at: number): boolean {
    if (this.fd[slot] < 0) return false;
    const of = this.flows.ofGuest[slot] === 1;
    this.flows.view(slot, FLOW_UDP_SPLICE, into, at);
    viewEnds(this.shown, KEY_WORDS * slot, into, at);
    into[at + FLOW_STATE] = this.answered[slot] === 1 ? FLOW_STATE_ANSWERED : FLOW_STATE_UNANSWERED;
    into[at + FLOW_FROM_GUEST] = of ? this.bytesOut[slot] : this.bytesBack[slot];
    into[at + FLOW_TO_GUEST] = of ? this.bytesBack[slot] : this.bytesOut[slot];
    return true;
  }

  close(slot: number, generation: number): boolean {
    if (!this.isOpen(slot, generation)) return false;
    this.end(slot, END_OPERATOR);
    return true;
  }
}
