/**
 * Datagrams from guest to host. Consecutive frames of one flow are gathered and leave with one sendmmsg, straight from
 * the guest's memory; nothing is kept beyond `flush`.
 *
 * Hop limit, traffic class and "don't fragment" are the guest's: what the socket is set to is remembered, so that only a
 * change costs a call. DF means IP_PMTUDISC_PROBE: the datagram leaves with DF whatever the host believes the path's MTU
 * to be, and the guest, which is told of the errors, finds out by itself. Only what exceeds the MTU of the host's own
 * interface cannot leave so; the guest, whose link may take much more, has done nothing wrong: its datagram leaves in
 * fragments all the same. It is not told: Linux sets DF on every datagram by default, and a sender that hears of an MTU
 * gets EMSGSIZE for a datagram that has arrived.
 */
import { addrSlotWrite, familyOf, isMulticast, isUnspecified } from '../address';
import { ADDR_SLOT_UDP_MSG, ROWS_MISC, ROWS_MISC_COUNT } from '../context';
import type { StackContext } from '../context';
import { C_DROPS, dropCode } from '../counters';
import { AF_INET } from '../ports';
import type { HostIo } from '../ports';
import {
  EAGAIN,
  EINVAL,
  EMSGSIZE,
  ENOBUFS,
  EPERM,
  IP_MTU_DISCOVER,
  IP_MULTICAST_TTL,
  IP_TOS,
  IP_TTL,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_MTU_DISCOVER,
  IPV6_MULTICAST_HOPS,
  IPV6_TCLASS,
  IPV6_UNICAST_HOPS,
  PMTUDISC_DONT,
  PMTUDISC_PROBE,
} from '../socket-options';
import type { UdpErrors } from './errors';
import { FLOW_GROUP, FLOW_MULTICAST } from './flows';
import type { UdpFlows } from './flows';
import type { UdpListener } from './listeners';

const DROP_HOST_SOCKET_ERROR = dropCode('host_socket_error');
const DROP_UDP_MALFORMED = dropCode('udp_malformed');

/** Messages 0 … GATHER_MAX - 1 are ours, and the one after them for single segments. */
const GATHER_MAX = 64;
const MSG_SEGMENT = GATHER_MAX;

const SLOT_PEER = ADDR_SLOT_UDP_MSG;
const SLOT_LOCAL = ADDR_SLOT_UDP_MSG + 1;

/** Linux's UDP_MAX_SEGMENTS: no honest guest puts more into one frame. */
const MAX_SEGMENTS = 128;
const EIO = 5;

/** Datagrams up to this long fit any path: what the socket does with DF makes no difference to them. */
const FITS_ANYWHERE = 512;

export class UdpOutbound {
  private readonly ctx: StackContext;
  private readonly flows: UdpFlows;
  private readonly listeners: readonly UdpListener[];
  private readonly errors: UdpErrors;
  private slot: number;
  private count: number;

  constructor(ctx: StackContext, flows: UdpFlows, listeners: readonly UdpListener[], errors: UdpErrors) {
    this.ctx = ctx;
    this.flows = flows;
    this.listeners = listeners;
    this.errors = errors;
    this.slot = -1;
    this.count = 0;
  }

  /** The flow whose datagrams are being gathered; -1: none. */
  get pending(): number {
    return this.slot;
  }

  /**
   * Adds a datagram whose payload is named by rows `row … row + rowCount - 1` (at least one row, which may be empty).
   * `segment` is the size to cut it by, 0: one datagram of `length` bytes. `df`: it must not be fragmented on its way.
   */
  add(
    slot: number,
    row: number,
    rowCount: number,
    length: number,
    segment: number,
    ttl: number,
    tos: number,
    df: boolean,
  ): void {
    const { io } = this.ctx;
    const { flows } = this;
    if (slot !== this.slot || this.count === GATHER_MAX) this.flush();
    const viaListener = flows.listener[slot] >= 0;
    // What a datagram of an own socket carries is set on the socket: what was gathered must go out before a change.
    if (!viaListener) {
      if (ttl !== flows.ttl[slot] || tos !== flows.tos[slot]) {
        this.flush();
        this.setSocket(slot, ttl, tos);
      }
      this.discover(slot, segment > 0 ? segment : length, df);
    }
    this.slot = slot;
    const i = this.count++;
    io.msgRow[i] = row;
    io.msgRows[i] = rowCount;
    io.msgPeer[i] = -1;
    io.msgLocal[i] = -1;
    io.msgTtl[i] = -1;
    io.msgTos[i] = -1;
    io.msgSegment[i] = segment;
    if ((flows.flags[slot] & FLOW_GROUP) !== 0) io.msgPeer[i] = SLOT_PEER;
    if (viaListener) {
      io.msgPeer[i] = SLOT_PEER;
      if (this.hasLocal(slot)) io.msgLocal[i] = SLOT_LOCAL;
      io.msgTtl[i] = ttl > 0 ? ttl : -1;
      io.msgTos[i] = tos;
      flows.ttl[slot] = ttl;
    }
  }

  /** Sends what was gathered. */
  flush(): void {
    const { slot, count } = this;
    if (count === 0) return;
    this.slot = -1;
    this.count = 0;
    const { io } = this.ctx;
    const { flows } = this;
    let fd = flows.fd[slot];
    if (flows.listener[slot] >= 0) fd = this.listeners[flows.listener[slot]].fd;
    if (flows.listener[slot] >= 0 || (flows.flags[slot] & FLOW_GROUP) !== 0) this.writeSlots(io, slot);
    let i = 0;
    let retried = false;
    while (i < count) {
      const n = io.sendMany(fd, i, count - i);
      if (n > 0) {
        i += n;
        retried = false;
        continue;
      }
      const segment = io.msgSegment[i];
      if (n === -EMSGSIZE && this.fragment(slot, segment > 0 ? segment : this.lengthOf(i))) continue;
      if (segment > 0 && (n === -EINVAL || n === -EIO || n === -EMSGSIZE)) {
        // The path's MTU is below the guest's, or the interface cannot checksum: cut here.
        this.sendSegments(slot, fd, i, segment);
        i++;
        continue;
      }
      // An error may be an earlier datagram's, reported at the next call: fetch it and send again.
      if (!retried && n !== -EAGAIN && n !== -ENOBUFS && n !== -EPERM) {
        retried = true;
        this.drainErrors(slot);
        continue;
      }
      this.drop(DROP_HOST_SOCKET_ERROR);
      retried = false;
      i++;
    }
  }

  /** Forgets what was gathered. */
  reset(): void {
    this.slot = -1;
    this.count = 0;
  }

  /** Sets the socket of a flow as the next datagram wants it, which has `length` bytes. */
  private discover(slot: number, length: number, df: boolean): void {
    const { flows } = this;
    const known = flows.discover[slot];
    const tooLong = flows.tooLong[slot];
    const want = df && (tooLong === 0 || length < tooLong) ? PMTUDISC_PROBE : PMTUDISC_DONT;
    if (want === known || (known < 0 && length <= FITS_ANYWHERE)) return;
    this.flush();
    this.setDiscover(slot, want);
  }

  private setDiscover(slot: number, want: number): void {
    const { flows } = this;
    const p = 4 * slot;
    flows.discover[slot] = want;
    if (familyOf(flows.peer[p], flows.peer[p + 1], flows.peer[p + 2]) === AF_INET) {
      this.ctx.io.setsockopt(flows.fd[slot], IPPROTO_IP, IP_MTU_DISCOVER, want);
    } else {
      this.ctx.io.setsockopt(flows.fd[slot], IPPROTO_IPV6, IPV6_MTU_DISCOVER, want);
    }
  }

  /**
   * The host's interface refused a datagram of `length` bytes. If that is because it must not be fragmented, takes the
   * kernel's error off the queue, lets fragments be made, and returns true: send it again.
   */
  private fragment(slot: number, length: number): boolean {
    const { flows } = this;
    if (flows.listener[slot] >= 0 || flows.discover[slot] !== PMTUDISC_PROBE) return false;
    this.errors.drainFlow(slot);
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
    if (listener >= 0) this.errors.drainListener(this.listeners[listener]);
    else this.errors.drainFlow(slot);
  }

  private drop(code: number): void {
    this.ctx.counters[C_DROPS + code]++;
  }

  /** May replies be sent from the address that the peer used? Not from a group's. */
  private hasLocal(slot: number): boolean {
    const local = this.flows.local;
    const l = 4 * slot;
    return (
      !isUnspecified(local[l], local[l + 1], local[l + 2], local[l + 3]) &&
      !isMulticast(local[l], local[l + 1], local[l + 2], local[l + 3])
    );
  }

  private writeSlots(io: HostIo, slot: number): void {
    const { peer, peerPort, peerScope, local } = this.flows;
    const p = 4 * slot;
    const family = familyOf(peer[p], peer[p + 1], peer[p + 2]);
    const port = peerPort[slot];
    const scope = peerScope[slot];
    addrSlotWrite(io.addrs, SLOT_PEER, family, port, scope, peer[p], peer[p + 1], peer[p + 2], peer[p + 3]);
    addrSlotWrite(io.addrs, SLOT_LOCAL, family, 0, scope, local[p], local[p + 1], local[p + 2], local[p + 3]);
  }

  private setSocket(slot: number, ttl: number, tos: number): void {
    const { io } = this.ctx;
    const { flows } = this;
    const fd = flows.fd[slot];
    const p = 4 * slot;
    const v4 = familyOf(flows.peer[p], flows.peer[p + 1], flows.peer[p + 2]) === AF_INET;
    const level = v4 ? IPPROTO_IP : IPPROTO_IPV6;
    if (ttl !== flows.ttl[slot]) {
      flows.ttl[slot] = ttl;
      let name = v4 ? IP_TTL : IPV6_UNICAST_HOPS;
      if ((flows.flags[slot] & FLOW_MULTICAST) !== 0) name = v4 ? IP_MULTICAST_TTL : IPV6_MULTICAST_HOPS;
      if (ttl > 0) io.setsockopt(fd, level, name, ttl);
    }
    if (tos !== flows.tos[slot]) {
      flows.tos[slot] = tos;
      io.setsockopt(fd, level, v4 ? IP_TOS : IPV6_TCLASS, tos);
    }
  }

  /** Sends message `i` as datagrams of `segment` bytes. */
  private sendSegments(slot: number, fd: number, i: number, segment: number): void {
    const { io } = this.ctx;
    const rows = io.rows;
    let left = this.lengthOf(i);
    if (left > segment * MAX_SEGMENTS) {
      this.drop(DROP_UDP_MALFORMED);
      return;
    }
    io.msgRow[MSG_SEGMENT] = ROWS_MISC;
    io.msgPeer[MSG_SEGMENT] = io.msgPeer[i];
    io.msgLocal[MSG_SEGMENT] = io.msgLocal[i];
    io.msgTtl[MSG_SEGMENT] = io.msgTtl[i];
    io.msgTos[MSG_SEGMENT] = io.msgTos[i];
    io.msgSegment[MSG_SEGMENT] = 0;
    let row = io.msgRow[i];
    let used = 0; // bytes of `row` already sent
    while (left > 0) {
      let want = Math.min(segment, left);
      let n = 0;
      left -= want;
      while (want > 0 && n < ROWS_MISC_COUNT) {
        const part = Math.min(want, rows.length[row] - used);
        rows.region[ROWS_MISC + n] = rows.region[row];
        rows.offset[ROWS_MISC + n] = rows.offset[row] + used;
        rows.length[ROWS_MISC + n] = part;
        n++;
        want -= part;
        used += part;
        if (used === rows.length[row]) {
          row++;
          used = 0;
        }
      }
      if (want > 0) {
        // More pieces than a system call takes: no driver builds such a frame.
        this.drop(DROP_UDP_MALFORMED);
        return;
      }
      io.msgRows[MSG_SEGMENT] = n;
      let sent = io.sendMany(fd, MSG_SEGMENT, 1);
      if (sent === -EMSGSIZE && this.fragment(slot, segment)) sent = io.sendMany(fd, MSG_SEGMENT, 1);
      if (sent < 1) this.drop(DROP_HOST_SOCKET_ERROR);
    }
  }
}
