/** ICMP errors for datagrams we sent: the sockets' error queues, turned into ICMP errors to the guest. */
import { addrSlotIs, addrSlotPort, addrSlotRead, copyWords, isV4 } from '../ip/address';
import { ADDR_SLOT_UDP_ERROR, SCRATCH_MISC } from '../scratch';
import type { QuotedPacket, StackContext } from '../context';
import { KEY_WORDS } from '../kit/flow-table';
import { IcmpErrorSender, MAX_QUOTE6 } from '../ip/icmp-error';
import {
  ERRORS_PER_CALL,
  QUOTED_TTL,
  errorIsForGuest,
  errorIsTooLong,
  errorSource,
  takeError,
} from '../ip/socket-error';
import { NatResult, natOurAddress, natToGuest } from '../ip/nat';
import type { NatTables } from '../ip/nat';
import { SOCKERR_CODE, SOCKERR_INFO, SOCKERR_LENGTH, SOCKERR_TYPE } from '../ports';
import { isShortage, RestingSockets } from '../kit/resting';
import { ICMP_CODE_PORT, ICMP_DEST_UNREACHABLE, ICMPV6_CODE_PORT, ICMPV6_DEST_UNREACHABLE } from '../wire/icmp';
import { IpFields } from '../wire/ip-fields';
import { IP_PROTO_UDP } from '../wire/ipv4';
import { UDP_HEADER_LEN, udpDstPort, udpSrcPort, udpWrite } from '../wire/udp';
import type { UdpFlows } from './flows';
import { comesInOtherFamily, toOtherLoopback } from '../ip/other-loopback';
import type { UdpListener } from './listeners';

/** Of the error that was taken last: where the datagram had been sent to. */
const SLOT_DEST = ADDR_SLOT_UDP_ERROR + 1;

export class UdpErrors {
  /**
   * Sockets to be tried again later (inbound.ts), by their numbers there: the table's capacity and the listener's
   * number for a listener.
   */
  later: RestingSockets;
  private readonly ctx: StackContext;
  private readonly nat: NatTables;
  private readonly flows: UdpFlows;
  private readonly listeners: readonly UdpListener[];
  private readonly sender: IcmpErrorSender;
  private readonly found: NatResult;
  /** Header of the quoted packet. */
  private readonly ip: IpFields;
  /** The peer that an error is about, as it is translated. */
  private readonly seen: Int32Array;
  /** Our address on the link. */
  private readonly ours: NatResult;

  constructor(ctx: StackContext, nat: NatTables, flows: UdpFlows, listeners: readonly UdpListener[]) {
    this.ctx = ctx;
    this.nat = nat;
    this.flows = flows;
    this.listeners = listeners;
    this.later = new RestingSockets(flows.table.capacity);
    this.sender = new IcmpErrorSender(ctx);
    this.found = new NatResult();
    this.ip = new IpFields(IP_PROTO_UDP, QUOTED_TTL);
    this.seen = new Int32Array(4);
    this.ours = new NatResult();
  }

  /** There are now `count` listeners. Cold. */
  makeRoom(count: number): void {
    this.later = new RestingSockets(this.flows.table.capacity + count);
  }

  /** Empties the error queue of socket `id`, numbered as in `later`, now or later. */
  drain(id: number): void {
    const { capacity } = this.flows.table;
    if (id < capacity) this.drainFlow(id);
    else this.drainListener(id - capacity, -1);
  }

  /** Empties the error queue of a flow's own socket, now or later. */
  drainFlow(slot: number): void {
    const fd = this.flows.fd[slot];
    let i = 0;
    while (i < ERRORS_PER_CALL && this.next(fd, slot)) {
      this.report(slot);
      i++;
    }
    if (i === ERRORS_PER_CALL) this.rest(slot);
  }

  /**
   * Empties the error queue of listener `index`, whose errors belong to any of its flows, now or later. Flow `sender`, -1:
   * none, is the one whose datagram the host just refused: Linux does not say which port an unconnected IPv4 socket sent
   * it to.
   */
  drainListener(index: number, sender: number): void {
    const listener = this.listeners[index];
    const id = this.flows.table.capacity + index;
    let i = 0;
    while (i < ERRORS_PER_CALL && this.next(listener.fd, id)) {
      const slot = errorIsTooLong(this.ctx.io) ? this.refused(sender) : this.flowOf(listener);
      if (slot >= 0) this.report(slot);
      i++;
    }
    if (i === ERRORS_PER_CALL) this.rest(id);
  }

  /** `sender`, if the error's destination is its peer; else -1: it is of an earlier datagram. */
  private refused(sender: number): number {
    if (sender < 0) return -1;
    return addrSlotIs(this.ctx.io.addrs, SLOT_DEST, this.flows.peer, 4 * sender) ? sender : -1;
  }

  /** What is left in the socket may have no event to come: it is tried again later. */
  rest(id: number): void {
    this.later.push(id, this.ctx.clock.nowMs);
  }

  /** Tells the guest that what its flow key in `key[k…]` sent cannot be sent from here. No payload is quoted. */
  unreachable(type: number, code: number, from: Int32Array, key: Int32Array, k: number): void {
    this.sender.send(
      type,
      code,
      0,
      from,
      this.quoted(key, k, QUOTED_TTL, 0),
      this.ctx.io.scratch,
      SCRATCH_MISC,
      UDP_HEADER_LEN,
    );
  }

  /** As `FlowHandler.pathMtu`. */
  pathMtu(quote: QuotedPacket, mtu: number): boolean {
    if (quote.l4Len < UDP_HEADER_LEN) return false;
    const { table } = this.flows;
    const { addr, head, l4Off } = quote;
    copyWords(addr, 4, table.probe, 0);
    copyWords(addr, 0, table.probe, 4);
    table.probe[KEY_WORDS - 1] = (udpDstPort(head, l4Off) << 16) | udpSrcPort(head, l4Off);
    if (table.lookup() < 0) return false;
    return this.ctx.link.paths.learn(this.ctx.clock.nowMs, mtu, addr, 4);
  }

  /** Takes an error off the queue of `fd`, socket `id`. False: there is none, or the kernel could not say. */
  private next(fd: number, id: number): boolean {
    const r = takeError(this.ctx.io, fd, ADDR_SLOT_UDP_ERROR, UDP_HEADER_LEN);
    if (isShortage(r)) this.rest(id);
    return r > 0;
  }

  /** Flow of the error's original destination, which is the peer that was sent to; -1: none. */
  private flowOf(listener: UdpListener): number {
    const { ctx, found } = this;
    const a = ctx.io.addrs;
    const { seen } = this;
    addrSlotRead(a, SLOT_DEST, seen, 0);
    if (comesInOtherFamily(ctx.link, listener.target, seen, 0)) toOtherLoopback(seen);
    if (natToGuest(this.nat, ctx.link, seen, 0, null, listener.target, found) !== 0) return -1;
    const { table } = this.flows;
    table.probe.set(found.dst, 0);
    table.probe.set(found.src, 4);
    table.probe[KEY_WORDS - 1] = (listener.targetPort << 16) | addrSlotPort(a, SLOT_DEST);
    return table.lookup();
  }

  private report(slot: number): void {
    const { ctx, flows, found } = this;
    const { sockErrOut } = ctx.io;
    const keys = flows.table.keys;
    const k = slot * KEY_WORDS;
    const v4 = isV4(keys, k);
    // Where the datagram leaves in fragments (outbound.ts) nothing is lost, so there is nothing to tell.
    if (errorIsTooLong(ctx.io)) {
      if (ctx.config.keepDf) this.tooLong(v4, sockErrOut[SOCKERR_INFO], keys, k);
      return;
    }
    const p = 4 * slot;
    if (isV4(flows.peer, p) !== v4) {
      this.reportOther(v4, keys, k);
      return;
    }
    if (!errorIsForGuest(ctx.io, v4)) return;
    if (!errorSource(ctx, this.nat, ADDR_SLOT_UDP_ERROR, flows.peer, 4 * slot, keys, k, found)) return;
    const length = Math.min(Math.max(0, sockErrOut[SOCKERR_LENGTH]), MAX_QUOTE6 - UDP_HEADER_LEN);
    const ttl = flows.ttl[slot] > 0 ? flows.ttl[slot] : QUOTED_TTL;
    this.sender.send(
      sockErrOut[SOCKERR_TYPE],
      sockErrOut[SOCKERR_CODE],
      sockErrOut[SOCKERR_INFO],
      found.src,
      this.quoted(keys, k, ttl, length),
      ctx.io.scratch,
      SCRATCH_MISC,
      UDP_HEADER_LEN + length,
    );
  }

  /** The host's interface takes `mtu` bytes and must not fragment. */
  private tooLong(v4: boolean, mtu: number, keys: Int32Array, k: number): void {
    if (!natOurAddress(this.nat, v4, this.ours)) return;
    const quoted = this.quoted(keys, k, QUOTED_TTL, 0);
    this.sender.sendTooLong(mtu, this.ours.src, quoted, this.ctx.io.scratch, SCRATCH_MISC, UDP_HEADER_LEN);
  }

  /** The peer is of the other family: "port unreachable" is the one thing that means the same there (RFC 7915 §5.2). */
  private reportOther(v4: boolean, keys: Int32Array, k: number): void {
    const { sockErrOut } = this.ctx.io;
    if (!errorIsForGuest(this.ctx.io, !v4)) return;
    const type = v4 ? ICMPV6_DEST_UNREACHABLE : ICMP_DEST_UNREACHABLE;
    const code = v4 ? ICMPV6_CODE_PORT : ICMP_CODE_PORT;
    if (sockErrOut[SOCKERR_TYPE] !== type || sockErrOut[SOCKERR_CODE] !== code) return;
    copyWords(keys, k + 4, this.found.src, 0);
    if (v4) this.unreachable(ICMP_DEST_UNREACHABLE, ICMP_CODE_PORT, this.found.src, keys, k);
    else this.unreachable(ICMPV6_DEST_UNREACHABLE, ICMPV6_CODE_PORT, this.found.src, keys, k);
  }

  /**
   * IP header of the datagram quoted, whose flow key is `key[k…]`. Its UDP header goes in front of the `length` bytes of
   * payload that `next` left in scratch memory.
   */
  private quoted(key: Int32Array, k: number, ttl: number, length: number): IpFields {
    const { ip } = this;
    const ports = key[k + KEY_WORDS - 1];
    udpWrite(this.ctx.io.scratch, SCRATCH_MISC, ports >>> 16, ports & 0xffff, UDP_HEADER_LEN + length, 0);
    ip.between(isV4(key, k), key, k, k + 4);
    ip.ttl = ttl;
    return ip;
  }
}
