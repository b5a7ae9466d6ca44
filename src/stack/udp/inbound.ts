/**
 * Datagrams from host to guest.
 *
 * Theory of operation. A datagram stays in its socket until the guest has room for it: its length (and at a listener
 * its peer) is looked at with MSG_PEEK, receive buffers for exactly that length are reserved, and the payload is
 * received straight into them. Reserving more than needed, to save the peek, would cost more than the call on guests
 * with small buffers. Sockets are watched edge-triggered, so one that was not emptied, for want of buffers or because
 * its share of the turn was used up, stays in a ready-list until it is.
 */
import {
  addrSlotFamily,
  addrSlotPort,
  addrSlotScope,
  addrSlotWord,
  addrSlotWrite,
  isMulticast,
  isV4,
} from '../address';
import { ADDR_SLOT_UDP_MSG, ROWS_MISC, ROWS_OUT, SCRATCH_UDP } from '../context';
import type { StackContext } from '../context';
import { C_DROPS, dropCode } from '../counters';
import { KEY_WORDS, SlotQueue } from '../flow-table';
import { NatResult, natToGuest } from '../nat';
import type { NatTables } from '../nat';
import { CLASS_UDP, countToGuest, OUTPUT_HEADER_LEN4, OUTPUT_HEADER_LEN6, OUTPUT_TTL, outputHeaders } from '../output';
import { COMMIT_NEEDS_CSUM, GSO_NONE, MAX_FRAME, MSG_PEEK, MSG_TRUNC } from '../ports';
import { EAGAIN } from '../socket-options';
import { checksumFold, pseudoHeaderSum4, pseudoHeaderSum6 } from '../wire/checksum';
import { IP_PROTO_UDP } from '../wire/ipv4';
import { UDP_CHECKSUM_OFFSET, UDP_HEADER_LEN, udpWrite } from '../wire/udp';
import type { UdpErrors } from './errors';
import { FLOW_FRESH, FLOW_PORT_KEPT } from './flows';
import type { UdpFlows } from './flows';
import type { UdpListener } from './listeners';

const DROP_FRAME_TOO_LONG = dropCode('frame_too_long');
const DROP_HOST_SOCKET_ERROR = dropCode('host_socket_error');
const DROP_SOURCE_INVALID = dropCode('source_invalid');
const DROP_UDP_TRUNCATED = dropCode('udp_truncated');
const DROP_FLOW_TABLE_FULL = dropCode('flow_table_full');

/** Datagrams taken from one socket before others have their turn. */
const DATAGRAMS_PER_SERVICE = 64;
/** Errors in a row, error queue emptied after each, before a socket counts as broken. */
const ERRORS_IN_A_ROW = 8;

/** Message and address slots of the peek. */
const MSG_IN = 128;
const SLOT_PEER = ADDR_SLOT_UDP_MSG + 2;
const SLOT_LOCAL = ADDR_SLOT_UDP_MSG + 3;

// What became of a datagram, or of a socket's service.
const DONE = 0;
/** No receive buffers: the datagram is still in the socket. */
const STALLED = 1;

/** What the owner of the flow table does for us: both may close sockets. */
export interface FlowOwner {
  /** Makes a flow, keyed by `table.probe`, that is served by listener `listener`. -1: no room. */
  openAtListener(listener: number): number;
  close(slot: number): void;
}

export class UdpInbound {
  /** No receive buffers: nothing is tried until the guest posts some. */
  stalled: boolean;
  private readonly ctx: StackContext;
  private readonly nat: NatTables;
  private readonly flows: UdpFlows;
  private readonly listeners: readonly UdpListener[];
  private readonly errors: UdpErrors;
  private readonly owner: FlowOwner;
  private readonly ready: SlotQueue;
  private readyListeners: SlotQueue;
  private readonly found: NatResult;

  constructor(
    ctx: StackContext,
    nat: NatTables,
    flows: UdpFlows,
    listeners: readonly UdpListener[],
    errors: UdpErrors,
    owner: FlowOwner,
  ) {
    this.stalled = false;
    this.ctx = ctx;
    this.nat = nat;
    this.flows = flows;
    this.listeners = listeners;
    this.errors = errors;
    this.owner = owner;
    this.ready = new SlotQueue(flows.table.capacity);
    this.readyListeners = new SlotQueue(0);
    this.found = new NatResult();
  }

  /** There are now `count` listeners. Cold. */
  resizeListeners(count: number): void {
    const queue = new SlotQueue(count);
    for (let i = this.readyListeners.shift(); i >= 0; i = this.readyListeners.shift()) queue.push(i);
    this.readyListeners = queue;
  }

  get busy(): boolean {
    return !this.stalled && this.ready.length + this.readyListeners.length > 0;
  }

  flowReadable(slot: number): void {
    this.ready.push(slot);
    if (!this.stalled) this.serveFlow(slot);
  }

  listenerReadable(index: number): void {
    this.readyListeners.push(index);
    if (!this.stalled) this.serveListener(index);
  }

  /** Serves every socket that has something waiting once, in turn. */
  resume(): void {
    for (let n = this.readyListeners.length; n > 0 && !this.stalled; n--) {
      this.serveListener(this.readyListeners.first());
    }
    for (let n = this.ready.length; n > 0 && !this.stalled && this.ready.length > 0; n--) {
      this.serveFlow(this.ready.first());
    }
  }

  /** The flow is about to be closed. */
  forget(slot: number): void {
    this.ready.remove(slot);
  }

  // ---- sockets --------------------------------------------------------------------------------------------------

  private serveFlow(slot: number): void {
    this.ready.remove(slot);
    const { io } = this.ctx;
    const { flows } = this;
    let errors = 0;
    for (let n = 0; n < DATAGRAMS_PER_SERVICE; n++) {
      const fd = flows.fd[slot];
      const fresh = (flows.flags[slot] & FLOW_FRESH) !== 0;
      this.peekRow();
      const length = fresh ? this.peekPeer(fd, false) : io.recv(fd, ROWS_MISC, 1, MSG_PEEK | MSG_TRUNC);
      if (length === -EAGAIN) {
        flows.flags[slot] &= ~FLOW_FRESH;
        return;
      }
      if (length < 0) {
        if (++errors >= ERRORS_IN_A_ROW) {
          this.owner.close(slot);
          return;
        }
        this.errors.drainFlow(slot);
        continue;
      }
      errors = 0;
      let result;
      if (fresh && !this.isPeer(slot)) {
        result = this.foreign(slot, fd, length);
      } else {
        result = this.deliver(fd, flows.table.keys, KEY_WORDS * slot, length);
        if (result === DONE) flows.touchFromHost(slot);
      }
      if (result === STALLED) {
        this.stalled = true;
        this.ready.push(slot);
        return;
      }
      // A foreign datagram may have cost this very flow its place.
      if (flows.fd[slot] !== fd) return;
    }
    this.ready.push(slot);
  }

  private serveListener(index: number): void {
    this.readyListeners.remove(index);
    const listener = this.listeners[index];
    let errors = 0;
    for (let n = 0; n < DATAGRAMS_PER_SERVICE; n++) {
      this.peekRow();
      const length = this.peekPeer(listener.fd, true);
      if (length === -EAGAIN) return;
      if (length < 0) {
        // A listener is never given up: its next event tries again.
        if (++errors >= ERRORS_IN_A_ROW) return;
        this.errors.drainListener(listener);
        continue;
      }
      errors = 0;
      if (this.fromPeer(index, listener.fd, length) === STALLED) {
        this.stalled = true;
        this.readyListeners.push(index);
        return;
      }
    }
    this.readyListeners.push(index);
  }

  /** One byte of scratch memory for calls that only want to know, or to throw away. */
  private peekRow(): void {
    const { rows, scratchRegion } = this.ctx.io;
    rows.region[ROWS_MISC] = scratchRegion;
    rows.offset[ROWS_MISC] = SCRATCH_UDP;
    rows.length[ROWS_MISC] = 1;
  }

  /** Length of the datagram at the head of the queue, or -errno; its peer (and local address) to the slots. */
  private peekPeer(fd: number, wantLocal: boolean): number {
    const { io } = this.ctx;
    addrSlotWrite(io.addrs, SLOT_LOCAL, 0, 0, 0, 0, 0, 0, 0);
    io.msgRow[MSG_IN] = ROWS_MISC;
    io.msgRows[MSG_IN] = 1;
    io.msgPeer[MSG_IN] = SLOT_PEER;
    io.msgLocal[MSG_IN] = wantLocal ? SLOT_LOCAL : -1;
    const n = io.recvMany(fd, MSG_IN, 1, MSG_PEEK | MSG_TRUNC);
    if (n < 1) return n === 0 ? -EAGAIN : n;
    return io.msgLen[MSG_IN];
  }

  /** Is the address in SLOT_PEER the one that the flow is connected to? */
  private isPeer(slot: number): boolean {
    const a = this.ctx.io.addrs;
    const { peer, peerPort } = this.flows;
    if (addrSlotPort(a, SLOT_PEER) !== peerPort[slot]) return false;
    for (let i = 0; i < 4; i++) if (addrSlotWord(a, SLOT_PEER, i) !== peer[4 * slot + i]) return false;
    return true;
  }

  /**
   * A datagram that came to a flow's socket before it was connected: it was meant for whoever listens on that port.
   * If that is one of our listeners, it is treated as its own.
   */
  private foreign(slot: number, fd: number, length: number): number {
    if ((this.flows.flags[slot] & FLOW_PORT_KEPT) !== 0) {
      const a = this.ctx.io.addrs;
      const v4 = isV4(addrSlotWord(a, SLOT_PEER, 0), addrSlotWord(a, SLOT_PEER, 1), addrSlotWord(a, SLOT_PEER, 2));
      const port = this.flows.table.keys[KEY_WORDS * slot + KEY_WORDS - 1] >>> 16;
      for (let i = 0; i < this.listeners.length; i++) {
        const l = this.listeners[i];
        if (l.port === port && l.wildcard && (v4 ? l.takes4 : l.takes6)) return this.fromPeer(i, fd, length);
      }
    }
    return this.discard(fd, DROP_SOURCE_INVALID);
  }

  // ---- datagrams ------------------------------------------------------------------------------------------------

  /** Takes the datagram off the socket and counts it as dropped. */
  private discard(fd: number, code: number): number {
    this.peekRow();
    this.ctx.io.recv(fd, ROWS_MISC, 1, 0);
    this.ctx.counters[C_DROPS + code]++;
    return DONE;
  }

  /** A datagram in `fd` from the peer in SLOT_PEER to the address in SLOT_LOCAL, for listener `index`. */
  private fromPeer(index: number, fd: number, length: number): number {
    const { ctx, flows, found } = this;
    const { table } = flows;
    const listener = this.listeners[index];
    const a = ctx.io.addrs;
    const p0 = addrSlotWord(a, SLOT_PEER, 0);
    const p1 = addrSlotWord(a, SLOT_PEER, 1);
    const p2 = addrSlotWord(a, SLOT_PEER, 2);
    const p3 = addrSlotWord(a, SLOT_PEER, 3);
    const port = addrSlotPort(a, SLOT_PEER);
    // Port 0 cannot be answered (RFC 768: "no port").
    if (port === 0 || isMulticast(p0, p1, p2, p3)) return this.discard(fd, DROP_SOURCE_INVALID);
    const known = addrSlotFamily(a, SLOT_LOCAL) !== 0;
    const { bound } = listener;
    const l0 = known ? addrSlotWord(a, SLOT_LOCAL, 0) : bound[0];
    const l1 = known ? addrSlotWord(a, SLOT_LOCAL, 1) : bound[1];
    const l2 = known ? addrSlotWord(a, SLOT_LOCAL, 2) : bound[2];
    const l3 = known ? addrSlotWord(a, SLOT_LOCAL, 3) : bound[3];
    const code = natToGuest(this.nat, ctx.link, p0, p1, p2, p3, l0, l1, l2, l3, listener.target, found);
    if (code !== 0) return this.discard(fd, code);
    const { probe } = table;
    for (let i = 0; i < 4; i++) {
      probe[i] = found.dst[i];
      probe[4 + i] = found.src[i];
    }
    probe[KEY_WORDS - 1] = (listener.targetPort << 16) | port;
    // A group has no flow: whoever answers in the guest does so from an address of its own.
    if (isMulticast(probe[0], probe[1], probe[2], probe[3])) return this.deliver(fd, probe, 0, length);

    let slot = table.lookup();
    if (slot < 0) {
      slot = this.owner.openAtListener(index);
      if (slot < 0) return this.discard(fd, DROP_FLOW_TABLE_FULL);
    }
    // Two peers can look the same to the guest (both 127.0.0.1 and 127.0.0.2 do): answers go to the latest.
    if (flows.listener[slot] >= 0) {
      flows.listener[slot] = index;
      const w = 4 * slot;
      flows.peer[w] = p0;
      flows.peer[w + 1] = p1;
      flows.peer[w + 2] = p2;
      flows.peer[w + 3] = p3;
      flows.peerPort[slot] = port;
      flows.peerScope[slot] = addrSlotScope(a, SLOT_PEER);
      flows.local[w] = l0;
      flows.local[w + 1] = l1;
      flows.local[w + 2] = l2;
      flows.local[w + 3] = l3;
    }
    const result = this.deliver(fd, table.keys, KEY_WORDS * slot, length);
    if (result === DONE) flows.touchFromHost(slot);
    return result;
  }

  /**
   * Moves the datagram of `length` bytes at the head of `fd`'s queue to the guest end of the flow key in `key[k…]`,
   * from its other end.
   */
  private deliver(fd: number, key: Int32Array, k: number, length: number): number {
    const { ctx } = this;
    const { port, io } = ctx;
    const v4 = isV4(key[k], key[k + 1], key[k + 2]);
    const headerLen = (v4 ? OUTPUT_HEADER_LEN4 : OUTPUT_HEADER_LEN6) + UDP_HEADER_LEN;
    if (headerLen + length > Math.min(port.maxFrame, MAX_FRAME)) return this.discard(fd, DROP_FRAME_TOO_LONG);
    let rowCount = port.reserve(headerLen, length, ROWS_OUT);
    if (rowCount < 0) return STALLED;
    let row = ROWS_OUT;
    if (rowCount === 0) {
      this.peekRow();
      row = ROWS_MISC;
      rowCount = 1;
    }
    const received = io.recv(fd, row, rowCount, MSG_TRUNC);
    if (received < 0 || received > length) {
      port.cancel();
      const code = received < 0 ? DROP_HOST_SOCKET_ERROR : DROP_UDP_TRUNCATED;
      if (received !== -EAGAIN) ctx.counters[C_DROPS + code]++;
      return DONE;
    }
    port.front();
    const l4Len = UDP_HEADER_LEN + received;
    const at = outputHeaders(
      ctx,
      v4 ? 4 : 6,
      key[k + 4],
      key[k + 5],
      key[k + 6],
      key[k + 7],
      key[k],
      key[k + 1],
      key[k + 2],
      key[k + 3],
      IP_PROTO_UDP,
      l4Len,
      OUTPUT_TTL,
      0,
      0,
    );
    const ports = key[k + KEY_WORDS - 1];
    const sum = v4
      ? pseudoHeaderSum4(key[k + 7], key[k + 3], IP_PROTO_UDP, l4Len)
      : pseudoHeaderSum6(
          key[k + 4],
          key[k + 5],
          key[k + 6],
          key[k + 7],
          key[k],
          key[k + 1],
          key[k + 2],
          key[k + 3],
          IP_PROTO_UDP,
          l4Len,
        );
    udpWrite(port.out, at, ports & 0xffff, ports >>> 16, l4Len, checksumFold(sum));
    port.commit(received, COMMIT_NEEDS_CSUM, headerLen - UDP_HEADER_LEN, UDP_CHECKSUM_OFFSET, GSO_NONE, 0);
    countToGuest(ctx, CLASS_UDP, headerLen + received);
    return DONE;
  }
}
