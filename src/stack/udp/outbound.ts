/**
 * Datagrams from guest to host. Consecutive frames of one flow are gathered and leave with one sendmmsg, straight from
 * the guest's memory; nothing is kept beyond `flush`.
 *
 * Those of the same length become one message, which the kernel takes through its layers once and cuts by UDP_SEGMENT
 * (the last may be shorter). It refuses that on a path whose MTU they exceed, or that transforms packets (IPsec): then
 * they leave one by one, and the flow is remembered. An error that belongs to one datagram costs only that one: a
 * message that meets it is cut here as well.
 *
 * Hop limit, traffic class and "don't fragment" are the guest's: the socket's settings are remembered, so that only a
 * change costs a call (a listener, which all its peers share, is set for the datagram being sent). DF means IP_PMTUDISC_PROBE: the datagram leaves with DF whatever the host believes the path's
 * MTU to be, and the guest gets the ICMP errors and finds the MTU itself. A datagram longer than the MTU of the host's
 * own interface cannot leave so; the guest, whose link may take much more, has done nothing wrong: its datagram leaves
 * in fragments. The guest gets no error: Linux sets DF on every datagram by default, and a sender that learns an MTU
 * gets EMSGSIZE for a datagram that has arrived (docs/adr/0009-df-of-datagrams.md). `--df keep` does as a router would.
 *
 * A connected socket keeps the address that it had when it was connected. When the host has that no more, the kernel
 * refuses what is sent, and the flow gets a new socket (flow-sockets.ts); a listener's answer leaves from whatever
 * address the host has now.
 */
import type { RowSpan } from '../kit/rows';
import { addrSlotWrite, familyOf, isMulticast, isUnspecified, isV4 } from '../ip/address';
import {
  ADDR_SLOT_OUT_LOCAL,
  ADDR_SLOT_OUT_PEER,
  MSG_OUT_COUNT,
  MSG_PIECE,
  MSG_PIECE_COUNT,
  ROWS_PER_CALL,
  ROWS_PIECE,
  ROWS_PIECE_END,
} from '../scratch';
import type { FrameInfo, StackContext } from '../context';
import { C_DROPS, dropCode } from '../counters';
import { isMoved } from '../ip/host-moved';
import { FITS_ANYWHERE, setMtuDiscovery, setMulticastTtl, setTos, setTtl } from '../ip/socket-options';
import type { HostIo } from '../ports';
import { EAGAIN, EINVAL, EIO, EMSGSIZE, ENOBUFS, EPERM, PMTUDISC_DONT, PMTUDISC_PROBE } from '../kit/linux';
import type { UdpErrors } from './socket-errors';
import type { UdpFlowSockets } from './flow-sockets';
import { FLOW_GROUP, FLOW_MULTICAST, type UdpFlows } from './flows';
import type { UdpListener } from './listeners';

const DROP_HOST_SOCKET_ERROR = dropCode('host_socket_error');
const DROP_UDP_MALFORMED = dropCode('udp_malformed');

/** Linux's UDP_MAX_SEGMENTS: no honest guest puts more into one frame. */
const MAX_SEGMENTS = 128;

/** Datagrams in one message of ours: UDP_MAX_SEGMENTS of all kernels that know UDP_SEGMENT. */
const JOIN_MAX = 64;
/** Their bytes: what an IPv6 packet without jumbo payload carries, and less than one of IPv4. */
const JOIN_BYTES = 65_535 - 40 - 8;

export class UdpOutbound {
  private readonly ctx: StackContext;
  private readonly flows: UdpFlows;
  private readonly listeners: readonly UdpListener[];
  private readonly errors: UdpErrors;
  private readonly sockets: Pick<UdpFlowSockets, 'renew'>;
  /** A new way out was tried for what is being sent: once for each batch, whatever comes of it. */
  private renewed: boolean;
  private slot: number;
  private count: number;
  // The last message: length of its datagrams, 0 if none may follow; their number; bytes and rows of all.
  private size: number;
  private joined: number;
  private bytes: number;
  private rowCount: number;
  /** The first row behind them. */
  private end: number;

  constructor(
    ctx: StackContext,
    flows: UdpFlows,
    listeners: readonly UdpListener[],
    errors: UdpErrors,
    sockets: Pick<UdpFlowSockets, 'renew'>,
  ) {
    this.ctx = ctx;
    this.sockets = sockets;
    this.renewed = false;
    this.flows = flows;
    this.listeners = listeners;
    this.errors = errors;
    this.slot = -1;
    this.count = 0;
    this.size = 0;
    this.joined = 0;
    this.bytes = 0;
    this.rowCount = 0;
    this.end = -1;
  }

  /** The flow whose datagrams are being gathered; -1: none. */
  get pending(): number {
    return this.slot;
  }

  /**
   * Adds a datagram of `frame`, whose `length` bytes of payload are named by the rows of `payload`. `segment` is the size to
   * cut it by, 0: one datagram. Returns the first row that is free now.
   */
  add(slot: number, frame: FrameInfo, payload: RowSpan, length: number, segment: number): number {
    const { ttl, tos } = frame;
    const row = payload.first;
    const rowCount = payload.count;
    const { io } = this.ctx;
    const { flows } = this;
    if (slot !== this.slot) this.flush();
    const viaListener = flows.listener[slot] >= 0;
    // What a datagram of an own socket carries is set on the socket: what was gathered must go out before a change.
    if (!viaListener) {
      if (ttl !== flows.ttl[slot] || tos !== flows.tos[slot]) {
        this.flush();
        this.setSocket(slot, ttl, tos);
      }
    }
    this.discover(slot, segment > 0 ? segment : length, frame.df);
    // Rows that another protocol's handler has taken since must stay as they are.
    if (
      this.count > 0 &&
      segment === 0 &&
      frame.row === this.end &&
      this.joins(length, rowCount, viaListener, ttl, tos)
    ) {
      return this.join(row, rowCount, length);
    }
    if (this.count === MSG_OUT_COUNT) this.flush();
    this.slot = slot;
    const i = this.count++;
    io.msgRow[i] = row;
    io.msgRows[i] = rowCount;
    io.msgPeer[i] = -1;
    io.msgLocal[i] = -1;
    io.msgTtl[i] = -1;
    io.msgTos[i] = -1;
    io.msgSegment[i] = segment;
    const group = (flows.flags[slot] & FLOW_GROUP) !== 0;
    if (group) io.msgPeer[i] = ADDR_SLOT_OUT_PEER;
    if (viaListener) {
      io.msgPeer[i] = ADDR_SLOT_OUT_PEER;
      if (this.hasLocal(slot)) io.msgLocal[i] = ADDR_SLOT_OUT_LOCAL;
      io.msgTtl[i] = ttl > 0 ? ttl : -1;
      io.msgTos[i] = tos;
      flows.ttl[slot] = ttl;
    }
    this.size = segment > 0 || group || length >= flows.joinLimit[slot] ? 0 : length;
    this.joined = 1;
    this.bytes = length;
    this.rowCount = rowCount;
    this.end = row + rowCount;
    return this.end;
  }

  /** Can a datagram of `length` bytes follow those of the last message in it? */
  private joins(length: number, rowCount: number, viaListener: boolean, ttl: number, tos: number): boolean {
    const { io } = this.ctx;
    if (length === 0 || length > this.size) return false;
    if (this.joined === JOIN_MAX || this.bytes + length > JOIN_BYTES) return false;
    if (this.rowCount + rowCount > ROWS_PER_CALL) return false;
    if (!viaListener) return true;
    const last = this.count - 1;
    return io.msgTtl[last] === (ttl > 0 ? ttl : -1) && io.msgTos[last] === tos;
  }

  private join(row: number, rowCount: number, length: number): number {
    const { io } = this.ctx;
    const { region, offset, length: lengths } = io.rows;
    const last = this.count - 1;
    // Behind the rows before: those of the frame's headers lie between.
    let to = io.msgRow[last] + this.rowCount;
    if (to === row) to += rowCount;
    else {
      for (let from = row; from < row + rowCount; from++, to++) {
        region[to] = region[from];
        offset[to] = offset[from];
        lengths[to] = lengths[from];
      }
    }
    this.rowCount += rowCount;
    this.bytes += length;
    this.joined++;
    io.msgRows[last] = this.rowCount;
    io.msgSegment[last] = this.size;
    if (length < this.size) this.size = 0;
    this.end = to;
    return to;
  }

  /** Sends what was gathered. */
  flush(): void {
    const { slot, count } = this;
    if (count === 0) return;
    this.slot = -1;
    this.count = 0;
    const { flows } = this;
    if (flows.listener[slot] >= 0 || (flows.flags[slot] & FLOW_GROUP) !== 0) this.writeSlots(this.ctx.io, slot);
    this.renewed = false;
    this.send(slot, 0, count);
  }

  private fdOf(slot: number): number {
    const listener = this.flows.listener[slot];
    return listener >= 0 ? this.listeners[listener].fd : this.flows.fd[slot];
  }

  /** After an error of `isMoved` for messages `first … end - 1`: another way out. False: there is none. */
  private renew(slot: number, first: number, end: number): boolean {
    const { flows } = this;
    const { io } = this.ctx;
    if (this.renewed) return false;
    this.renewed = true;
    if (flows.listener[slot] < 0) {
      const ttl = flows.ttl[slot];
      const tos = flows.tos[slot];
      const discover = flows.discover[slot];
      if (!this.sockets.renew(slot)) return false;
      // What was gathered was gathered for a socket that is set like the old one.
      this.setSocket(slot, ttl, tos);
      if (discover >= 0) this.setDiscover(slot, discover);
      return true;
    }
    if (!this.hasLocal(slot)) return false;
    // The kernel chooses an address, here and from now on.
    flows.local.fill(0, 4 * slot, 4 * slot + 4);
    for (let i = first; i < end; i++) io.msgLocal[i] = -1;
    return true;
  }

  /** Sends messages `first … end - 1`. */
  private send(slot: number, first: number, end: number): void {
    const { io } = this.ctx;
    let fd = this.fdOf(slot);
    let i = first;
    let retried = false;
    while (i < end) {
      const n = io.sendMany(fd, i, end - i);
      if (n > 0) {
        i += n;
        retried = false;
        continue;
      }
      const segment = io.msgSegment[i];
      if (n === -EMSGSIZE && this.fragment(slot, segment > 0 ? segment : this.lengthOf(i))) continue;
      const refused = segment > 0 && (n === -EINVAL || n === -EIO || n === -EMSGSIZE);
      const kept = n === -EMSGSIZE && this.ctx.config.keepDf;
      // An error may be an earlier datagram's, reported at the next call: fetch it and send again.
      if (!kept && !refused && !retried && n !== -EAGAIN && n !== -ENOBUFS && n !== -EPERM) {
        retried = true;
        this.drainErrors(slot);
        continue;
      }
      if (!refused && isMoved(n) && this.renew(slot, i, end)) {
        fd = this.fdOf(slot);
        continue;
      }
      if (refused) this.flows.joinLimit[slot] = n === -EMSGSIZE ? Math.min(this.flows.joinLimit[slot], segment) : 0;
      if (segment > 0) {
        this.sendPieces(slot, i, segment);
        fd = this.fdOf(slot);
        // A way out that was found for the pieces is one for the rest.
        if (this.renewed && i + 1 < end && !this.hasLocal(slot)) io.msgLocal.fill(-1, i + 1, end);
      } else this.ctx.counters[C_DROPS + DROP_HOST_SOCKET_ERROR]++;
      retried = false;
      i++;
    }
  }

  /** Forgets what was gathered. */
  reset(): void {
    this.slot = -1;
    this.count = 0;
  }

  /** Sets the socket that a flow sends by as the next datagram wants it, which has `length` bytes. */
  private discover(slot: number, length: number, df: boolean): void {
    const tooLong = this.flows.tooLong[slot];
    const want = df && (tooLong === 0 || length < tooLong) ? PMTUDISC_PROBE : PMTUDISC_DONT;
    const known = this.discovers(slot);
    if (want === known) return;
    // Short datagrams of a listener's peers leave it as the long ones want it.
    if (length <= FITS_ANYWHERE && (known < 0 || this.flows.listener[slot] >= 0)) return;
    this.flush();
    this.setDiscover(slot, want);
  }

  /** What the socket that the flow sends by is set to, for the family of its peer. */
  private discovers(slot: number): number {
    const { flows } = this;
    const listener = flows.listener[slot];
    if (listener < 0) return flows.discover[slot];
    return this.hasPeer4(slot) ? this.listeners[listener].discover4 : this.listeners[listener].discover6;
  }

  private setDiscover(slot: number, want: number): void {
    const { flows } = this;
    const listener = flows.listener[slot];
    const v4 = this.hasPeer4(slot);
    if (listener < 0) flows.discover[slot] = want;
    else if (v4) this.listeners[listener].discover4 = want;
    else this.listeners[listener].discover6 = want;
    const fd = this.fdOf(slot);
    setMtuDiscovery(this.ctx.io, fd, v4, want);
  }

  private hasPeer4(slot: number): boolean {
    const { peer } = this.flows;
    const p = 4 * slot;
    return isV4(peer, p);
  }

  /**
   * The host's interface refused a datagram of `length` bytes. If that is because it must not be fragmented, takes the
   * kernel's error off the queue, lets fragments be made, and returns true: send it again. With `--df keep` the error
   * goes to the guest, and the datagram is lost.
   */
  private fragment(slot: number, length: number): boolean {
    const { flows } = this;
    if (this.discovers(slot) !== PMTUDISC_PROBE) return false;
    this.drainErrors(slot);
    if (this.ctx.config.keepDf) return false;
    flows.tooLong[slot] = length;
    this.setDiscover(slot, PMTUDISC_DONT);
    return true;
  }

  private lengthOf(message: number): number {
    const { io } = this.ctx;
    const end = io.msgRow[message] + io.msgRows[message];
    let length = 0;
    for (let r = io.msgRow[message]; r < end; r++) length += io.rows.length[r];
    return length;
  }

  private drainErrors(slot: number): void {
    const listener = this.flows.listener[slot];
    if (listener >= 0) this.errors.drainListener(listener, slot);
    else this.errors.drainFlow(slot);
  }

  /** May replies be sent from the address that the peer used? Not from a group's. */
  private hasLocal(slot: number): boolean {
    const local = this.flows.local;
    const l = 4 * slot;
    return !isUnspecified(local, l) && !isMulticast(local, l);
  }

  private writeSlots(io: HostIo, slot: number): void {
    const { peer, peerPort, peerScope, local } = this.flows;
    const p = 4 * slot;
    const family = familyOf(peer, p);
    const port = peerPort[slot];
    const scope = peerScope[slot];
    addrSlotWrite(io.addrs, ADDR_SLOT_OUT_PEER, family, port, scope, peer, p);
    addrSlotWrite(io.addrs, ADDR_SLOT_OUT_LOCAL, family, 0, scope, local, p);
  }

  private setSocket(slot: number, ttl: number, tos: number): void {
    const { io } = this.ctx;
    const { flows } = this;
    const fd = flows.fd[slot];
    const v4 = this.hasPeer4(slot);
    if (ttl !== flows.ttl[slot]) {
      flows.ttl[slot] = ttl;
      if ((flows.flags[slot] & FLOW_MULTICAST) !== 0) setMulticastTtl(io, fd, v4, ttl);
      else setTtl(io, fd, v4, ttl);
    }
    if (tos !== flows.tos[slot]) {
      flows.tos[slot] = tos;
      setTos(io, fd, v4, tos);
    }
  }

  /** Sends message `i` as datagrams of `segment` bytes. */
  private sendPieces(slot: number, i: number, segment: number): void {
    const { io } = this.ctx;
    const { rows } = io;
    let left = this.lengthOf(i);
    let row = io.msgRow[i];
    let used = 0; // bytes of `row` already named
    let to = ROWS_PIECE;
    let m = MSG_PIECE;
    if (left > segment * MAX_SEGMENTS) left = this.malformed();
    while (left > 0) {
      const begin = to;
      const beginRow = row;
      const beginUsed = used;
      let want = Math.min(segment, left);
      while (want > 0 && to < ROWS_PIECE_END) {
        const part = Math.min(want, rows.length[row] - used);
        rows.region[to] = rows.region[row];
        rows.offset[to] = rows.offset[row] + used;
        rows.length[to++] = part;
        want -= part;
        used += part;
        if (used === rows.length[row]) {
          row++;
          used = 0;
        }
      }
      if (want > 0) {
        // No rows are left: those before go first. More than there are for one, no driver builds.
        if (m === MSG_PIECE) {
          this.malformed();
          return;
        }
        this.send(slot, MSG_PIECE, m);
        m = MSG_PIECE;
        to = ROWS_PIECE;
        row = beginRow;
        used = beginUsed;
        continue;
      }
      left -= Math.min(segment, left);
      io.msgRow[m] = begin;
      io.msgRows[m] = to - begin;
      io.msgPeer[m] = io.msgPeer[i];
      io.msgLocal[m] = io.msgLocal[i];
      io.msgTtl[m] = io.msgTtl[i];
      io.msgTos[m] = io.msgTos[i];
      io.msgSegment[m++] = 0;
      if (left > 0 && m < MSG_PIECE + MSG_PIECE_COUNT) continue;
      this.send(slot, MSG_PIECE, m);
      m = MSG_PIECE;
      to = ROWS_PIECE;
    }
    if (m > MSG_PIECE) this.send(slot, MSG_PIECE, m);
  }

  /** Counts a frame that no driver builds. */
  private malformed(): number {
    this.ctx.counters[C_DROPS + DROP_UDP_MALFORMED]++;
    return 0;
  }
}
