/**
 * Echo ("ping") from the guest over the host's unprivileged ICMP sockets, for ICMP (RFC 792) and ICMPv6 (RFC 4443).
 *
 * Theory of operation. A flow is the guest's address, the destination and the identifier of the request; it has one
 * connected datagram socket. The kernel puts an identifier of its own on the wire and gives us replies to it only; the
 * guest's identifier is restored, payload and sequence number are left alone. Errors about a request (time exceeded,
 * unreachable) come from the socket's error queue and are passed on, so that traceroute by echo works.
 *
 * The sockets need net.ipv4.ping_group_range. Without, requests to ourselves (the gateway, our link-local address) are
 * answered here, and others are dropped.
 *
 * Everything else that a guest may send by ICMP is not ours: neighbour discovery is handled before, the rest ignored.
 */
import { familyOf, isLoopback, isMulticast, isUnspecified, isV4, wordsEqual } from '../ip/address';
import { KEY_KIND_SHIFT, KEY_PING, type FlowHandler, type FrameInfo, type StackContext } from '../context';
import { MSG_REPLY, ROWS_MISC, ROWS_OUT, SCRATCH_MISC } from '../scratch';
import { C_DROPS, C_DROPS_TO_GUEST, C_FLOWS_ICMP, C_FLOWS_OPENED_ICMP, dropCode, type DropCode } from '../counters';
import { FLOW_ICMP, END_DENIED, END_ERROR, END_EVICTED, END_IDLE, END_MOVED, END_RESET } from '../kit/flow-rows';
import { KEY_WORDS, SlotQueue } from '../kit/flow-table';
import { FragmentSender, mtuToward } from '../ip/fragment-sender';
import { ERRORS_IN_A_ROW } from '../ip/socket-error';
import { FITS_ANYWHERE, setMtuDiscovery, setTos, setTtl } from '../ip/socket-options';
import { PingFlowView } from './flow-view';
import { PingFlows } from './flows';
import { PingErrors } from './socket-errors';
import { SelfEcho } from './self-echo';
import { refusedText } from './unavailable';
import { PingSockets } from './sockets';
import { isMoved } from '../ip/host-moved';
import { NO_PORT } from '../policy/gate';
import { NatResult, natOurAddress, natToHost, type NatTables } from '../ip/nat';
import {
  CLASS_ICMP,
  countToGuest,
  OUTPUT_HEADER_LEN4,
  OUTPUT_HEADER_LEN6,
  OUTPUT_TTL,
  outputHeaders,
} from '../ip/to-guest';
import { EPOLLERR, EPOLLET, EPOLLIN, GSO_NONE, MAX_FRAME, MSG_PEEK, SOCK_ICMP } from '../ports';
import { SITE_PING_REFUSED } from '../kit/site-log';
import { isShortage, RestingSockets } from '../kit/resting';
import { RowSpan, setRow } from '../kit/rows';
import { EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, PMTUDISC_DONT, PMTUDISC_PROBE } from '../kit/linux';
import { checksumFinish, checksumOk, pseudoHeaderSum6 } from '../wire/checksum';
import {
  ICMP_ECHO_REPLY,
  ICMP_ECHO_REQUEST,
  ICMP_HEADER_LEN,
  icmpCode,
  icmpId,
  icmpSeq,
  icmpType,
  ICMPV6_ECHO_REPLY,
  ICMPV6_ECHO_REQUEST,
  icmpWrite,
} from '../wire/icmp';
import { ETHERNET_HEADER_LEN } from '../wire/ethernet';
import { IpFields } from '../wire/ip-fields';
import { IP_PROTO_ICMP, IP_PROTO_ICMPV6, IPV4_HEADER_LEN } from '../wire/ipv4';

const DROP_HEAD_TOO_SHORT = dropCode('head_too_short');
const DROP_LOOPBACK_ADDRESS = dropCode('loopback_address');
const DROP_SOURCE_INVALID = dropCode('source_invalid');
const DROP_DESTINATION_INVALID = dropCode('destination_invalid');
const DROP_ICMP_MALFORMED = dropCode('icmp_malformed');
const DROP_ICMP_UNSUPPORTED = dropCode('icmp_unsupported');
const DROP_FRAME_TOO_LONG = dropCode('frame_too_long');
const DROP_FLOW_LIMIT = dropCode('flow_limit');
const DROP_FLOW_TABLE_FULL = dropCode('flow_table_full');
const DROP_NO_DESCRIPTORS = dropCode('no_descriptors');
const DROP_HOST_SOCKET_ERROR = dropCode('host_socket_error');
const DROP_POLICY_DENIED = dropCode('policy_denied');

/** What `reply` returns where it is no -errno. */
const NO_ROOM = 0;
const REPLIED = 1;

const REPLIES_PER_SERVICE = 32;

/** `open`: the host does not let us have a ping socket. Below all drop codes. */
const REFUSED = -1000;

export class IcmpHandler implements FlowHandler {
  readonly view: PingFlowView;
  private readonly ctx: StackContext;
  private readonly nat: NatTables;
  private readonly flows: PingFlows;
  /** Flows whose sockets were not emptied. */
  private readonly ready: SlotQueue;
  /** Those whose calls failed for want of memory. */
  private readonly later: RestingSockets;
  private readonly errors: PingErrors;
  private readonly selfEcho: SelfEcho;
  private readonly fragments: FragmentSender;
  /** Header of the reply being sent. */
  private readonly ip: IpFields;
  private readonly span: RowSpan;
  private readonly target: NatResult;
  private readonly sockets: PingSockets;
  private stalled: boolean;
  private hinted: boolean;

  constructor(ctx: StackContext) {
    const capacity = ctx.config.maxPingFlows;
    this.ctx = ctx;
    this.nat = ctx.link.nat;
    this.flows = new PingFlows(capacity, ctx.clock, ctx.random);
    this.view = new PingFlowView(this.flows, this);
    this.ready = new SlotQueue(capacity);
    this.later = new RestingSockets(capacity);
    this.errors = new PingErrors(ctx, this.nat, this.flows, this.later);
    this.selfEcho = new SelfEcho(ctx);
    this.fragments = new FragmentSender(ctx);
    this.ip = new IpFields(IP_PROTO_ICMP, OUTPUT_TTL);
    this.span = new RowSpan();
    this.target = new NatResult();
    this.sockets = new PingSockets(ctx);
    this.stalled = false;
    this.hinted = false;
  }

  // ---- FlowHandler ----------------------------------------------------------------------------------------------

  fromGuest(frame: FrameInfo): number {
    const { port, io } = this.ctx;
    const off = frame.l4Off;
    const v4 = frame.version === 4;
    if (frame.l4Len < ICMP_HEADER_LEN) return this.drop(frame, DROP_ICMP_MALFORMED);
    if (port.pull(off + ICMP_HEADER_LEN) < off + ICMP_HEADER_LEN) return this.drop(frame, DROP_HEAD_TOO_SHORT);
    const echo = v4
      ? frame.protocol === IP_PROTO_ICMP && icmpType(port.head, off) === ICMP_ECHO_REQUEST
      : frame.protocol === IP_PROTO_ICMPV6 && icmpType(port.head, off) === ICMPV6_ECHO_REQUEST;
    if (!echo) return this.drop(frame, DROP_ICMP_UNSUPPORTED);
    if (icmpCode(port.head, off) !== 0) return this.drop(frame, DROP_ICMP_MALFORMED);
    const id = icmpId(port.head, off);
    if (!this.span.narrow(io.rows, frame.row, frame.rowCount, off, frame.l4Len)) {
      return this.drop(frame, DROP_ICMP_MALFORMED);
    }
    if (!port.csumPartial && !this.checksumGood(frame)) return this.drop(frame, DROP_ICMP_MALFORMED);

    this.fillProbe(frame, id);
    let slot = this.flows.table.lookup();
    // Another network of the host's is another address to send from: a request in flight there has no way back.
    const known = slot >= 0;
    if (known && !this.sockets.fits(slot, this.flows)) slot = this.reopen(slot, frame, id);
    if (slot < 0) {
      if (!known) slot = this.admit(frame, id);
      if (slot < 0) {
        if (slot !== REFUSED) return this.drop(frame, -slot);
        const answered = this.isForUs(v4) && this.selfEcho.answer(frame);
        return answered ? frame.row : this.drop(frame, DROP_HOST_SOCKET_ERROR);
      }
    }
    let sent = this.request(slot, v4, frame);
    if (known && isMoved(sent)) {
      slot = this.reopen(slot, frame, id);
      if (slot >= 0) sent = this.request(slot, v4, frame);
    }
    if (sent < 0) this.drop(frame, DROP_HOST_SOCKET_ERROR);
    return frame.row;
  }

  private request(slot: number, v4: boolean, frame: FrameInfo): number {
    this.flows.touch(slot);
    this.flows.bytesFrom[slot] += frame.l4Len - ICMP_HEADER_LEN;
    this.flows.seq[slot] = icmpSeq(this.ctx.port.head, frame.l4Off);
    this.setSocket(slot, v4, frame);
    return this.send(slot);
  }

  private reopen(slot: number, frame: FrameInfo, id: number): number {
    this.close(slot, END_MOVED);
    return this.admit(frame, id);
  }

  moved(): void {
    this.sockets.moved();
  }

  reconfigure(): void {
    this.moved();
  }

  endOfBatch(): void {
    // Requests leave one by one.
  }

  onSocket(kind: number, index: number, generation: number, events: number): void {
    if (kind !== KEY_PING || !this.flows.isCurrent(index, generation)) return;
    if ((events & EPOLLERR) !== 0) this.errors.drain(index);
    if ((events & EPOLLIN) !== 0) this.readable(index);
  }

  onGuestReady(): void {
    this.stalled = false;
    this.resume();
  }

  onTimer(): void {
    const { timers } = this.flows;
    for (let slot = timers.expire(this.ctx.clock.nowMs); slot >= 0; slot = timers.expire(this.ctx.clock.nowMs)) {
      this.close(slot, END_IDLE);
    }
    if (this.later.dueMs <= this.ctx.clock.nowMs) this.tryAgain();
    if (this.busy) this.resume();
  }

  nextDeadline(): number {
    return Math.min(this.flows.timers.nextDeadline(), this.later.dueMs);
  }

  get busy(): boolean {
    return !this.stalled && this.ready.length > 0;
  }

  enforce(): void {
    const { flows, nat, target, ctx } = this;
    const { policy } = ctx.link;
    const { keys } = flows.table;
    for (let slot = 0; policy.on && slot < flows.table.capacity; slot++) {
      if (flows.fd[slot] < 0) continue;
      const k = KEY_WORDS * slot;
      const code = natToHost(nat, IP_PROTO_ICMP, keys, k + 4, 0, target);
      if (code !== 0 || !policy.keeps(ctx, IP_PROTO_ICMP, keys, k + 4, NO_PORT, target)) this.close(slot, END_DENIED);
    }
  }

  reset(): void {
    for (let slot = this.flows.order.first(); slot >= 0; slot = this.flows.order.first()) this.close(slot, END_RESET);
    this.stalled = false;
  }

  // ---- flows ----------------------------------------------------------------------------------------------------

  private drop(frame: FrameInfo, code: DropCode): number {
    this.ctx.counters[C_DROPS + code]++;
    return frame.row;
  }

  private fillProbe(frame: FrameInfo, id: number): void {
    const { probe } = this.flows.table;
    for (let i = 0; i < 8; i++) probe[i] = frame.addr[i];
    probe[KEY_WORDS - 1] = id;
  }

  private checksumGood(frame: FrameInfo): boolean {
    const a = frame.addr;
    const sum = frame.version === 4 ? 0 : pseudoHeaderSum6(a, 0, IP_PROTO_ICMPV6, frame.l4Len);
    return checksumOk(this.ctx.io.checksum(this.span.first, this.span.count, sum));
  }

  /** Is what `target` holds an echo to ourselves: to the host's loopback, or to our own address on the link? */
  private isForUs(v4: boolean): boolean {
    const { dst, src } = this.target;
    if (isLoopback(dst, 0)) return true;
    if (!natOurAddress(this.nat, v4, this.target)) return false;
    return wordsEqual(src, 0, dst, 0);
  }

  private evict(): boolean {
    const slot = this.flows.order.first();
    if (slot < 0) return false;
    this.close(slot, END_EVICTED);
    return true;
  }

  /** `reason`: END_… */
  close(slot: number, reason: number): void {
    this.view.noteEnd(this.ctx, slot, reason);
    const fd = this.flows.fd[slot];
    this.ready.remove(slot);
    this.later.remove(slot);
    this.flows.free(slot);
    this.ctx.io.close(fd);
    this.ctx.counters[C_FLOWS_ICMP] = this.flows.table.count;
  }

  /** As `open`, if there is credit for it: requests that nobody answers take a bounded part of the time. */
  private admit(frame: FrameInfo, id: number): number {
    const { credit } = this.flows;
    return credit.take(frame.addr, 4, 0) ? credit.opened(this.open(frame, id)) : -DROP_FLOW_LIMIT;
  }

  /** Makes a flow for a request. Returns its number, REFUSED (`target` is filled), or minus a drop code. */
  private open(frame: FrameInfo, id: number): number {
    const { ctx, flows, target } = this;
    const a = frame.addr;
    const v4 = frame.version === 4;
    if (isV4(a, 0) !== v4) return -DROP_SOURCE_INVALID;
    if (isV4(a, 4) !== v4) return -DROP_DESTINATION_INVALID;
    if (isUnspecified(a, 0) || isMulticast(a, 0)) return -DROP_SOURCE_INVALID;
    if (isLoopback(a, 0)) return -DROP_LOOPBACK_ADDRESS;
    const code = natToHost(this.nat, frame.protocol, a, 4, 0, target);
    if (code !== 0) return -code;
    const { policy } = ctx.link;
    if (policy.on && !policy.admits(ctx, IP_PROTO_ICMP, a, 4, NO_PORT, target)) {
      ctx.ends?.refused(FLOW_ICMP, true, flows.table.probe, 0, policy.verdict);
      this.errors.prohibited(frame);
      return -DROP_POLICY_DENIED;
    }

    if (flows.full && !this.evict()) return -DROP_FLOW_TABLE_FULL;
    const family = familyOf(target.dst, 0);
    let fd = ctx.io.socket(family, SOCK_ICMP);
    if ((fd === -EMFILE || fd === -ENFILE) && this.evict()) fd = ctx.io.socket(family, SOCK_ICMP);
    // What runs out may come back: no reason to tell the user that pings are forbidden.
    if (fd === -EMFILE || fd === -ENFILE || fd === -ENOMEM || fd === -ENOBUFS) return -DROP_NO_DESCRIPTORS;
    if (fd < 0) {
      this.hint(fd);
      return REFUSED;
    }
    if (this.sockets.prepare(fd, family, target) < 0) {
      ctx.io.close(fd);
      return -DROP_HOST_SOCKET_ERROR;
    }
    this.fillProbe(frame, id);
    const slot = flows.open(fd, target, this.sockets.epoch);
    ctx.counters[C_FLOWS_OPENED_ICMP]++;
    ctx.counters[C_FLOWS_ICMP] = flows.table.count;
    const key = (KEY_PING << KEY_KIND_SHIFT) | slot;
    if (ctx.io.watch(fd, EPOLLIN | EPOLLET, key, flows.table.generation[slot]) < 0) {
      this.close(slot, END_ERROR);
      return -DROP_NO_DESCRIPTORS;
    }
    return slot;
  }

  private hint(error: number): void {
    if (this.hinted) return;
    this.hinted = true;
    this.ctx.log.line(SITE_PING_REFUSED, 'warn', refusedText(error));
  }

  /** Hop limit, traffic class and "don't fragment" as the request has them; what is set already costs nothing. */
  private setSocket(slot: number, v4: boolean, frame: FrameInfo): void {
    const { flows } = this;
    const { io } = this.ctx;
    const fd = flows.fd[slot];
    if (flows.ttl[slot] !== frame.ttl) {
      flows.ttl[slot] = frame.ttl;
      setTtl(io, fd, v4, frame.ttl);
    }
    if (flows.tos[slot] !== frame.tos) {
      flows.tos[slot] = frame.tos;
      setTos(io, fd, v4, frame.tos);
    }
    const discover = frame.df ? PMTUDISC_PROBE : PMTUDISC_DONT;
    if (flows.discover[slot] !== discover && (flows.discover[slot] >= 0 || frame.l4Len > FITS_ANYWHERE)) {
      flows.discover[slot] = discover;
      setMtuDiscovery(io, fd, v4, discover);
    }
  }

  /** The kernel fills in identifier and checksum. Returns bytes sent or -errno. */
  private send(slot: number): number {
    const { io } = this.ctx;
    const { first, count } = this.span;
    const n = io.send(this.flows.fd[slot], first, count, 0);
    if (n >= 0 || n === -EAGAIN) return n;
    // It may be the error of an earlier request, reported now. Or this one must not be fragmented and is too long for
    // the host's interface: then the guest knows by now.
    if (this.errors.drain(slot)) return n;
    return io.send(this.flows.fd[slot], first, count, 0);
  }

  // ---- replies --------------------------------------------------------------------------------------------------

  private readable(slot: number): void {
    this.ready.push(slot);
    if (!this.stalled) this.serve(slot);
  }

  private tryAgain(): void {
    const { later } = this;
    for (let n = later.due(this.ctx.clock.nowMs); n > 0; n--) {
      const slot = later.take();
      if (slot < 0) return; // one that was served cost another its place
      this.errors.drain(slot);
      this.readable(slot);
    }
  }

  private resume(): void {
    for (let n = this.ready.length; n > 0 && !this.stalled && this.ready.length > 0; n--) {
      this.serve(this.ready.first());
    }
  }

  private serve(slot: number): void {
    this.ready.remove(slot);
    const { io } = this.ctx;
    const fd = this.flows.fd[slot];
    let errors = 0;
    for (let n = 0; n < REPLIES_PER_SERVICE; n++) {
      // Ping sockets ignore MSG_TRUNC: only what fits tells its length.
      this.scratchRow(ROWS_MISC, MAX_FRAME);
      let r = io.recv(fd, ROWS_MISC, 1, MSG_PEEK);
      if (r === -EAGAIN) return;
      if (r >= 0) r = this.reply(slot, fd, r);
      if (r < 0) {
        if (++errors >= ERRORS_IN_A_ROW) {
          if (isShortage(r)) this.later.push(slot, this.ctx.clock.nowMs);
          else this.close(slot, END_ERROR);
          return;
        }
        this.errors.drain(slot);
        continue;
      }
      errors = 0;
      if (r === NO_ROOM) {
        this.stalled = true;
        this.ready.push(slot);
        return;
      }
    }
    this.ready.push(slot);
  }

  /** Row `row` names `length` bytes of scratch memory, for the ICMP header of what is received or more. */
  private scratchRow(row: number, length: number): void {
    const { rows, scratchRegion } = this.ctx.io;
    setRow(rows, row, scratchRegion, SCRATCH_MISC, length);
  }

  private discard(fd: number, code: DropCode): number {
    this.scratchRow(ROWS_MISC, ICMP_HEADER_LEN);
    const r = this.ctx.io.recv(fd, ROWS_MISC, 1, 0);
    if (isShortage(r)) return r;
    this.ctx.counters[C_DROPS_TO_GUEST + code]++;
    return REPLIED;
  }

  /** Moves the message of `length` bytes at the head of the socket's queue to the guest: REPLIED, NO_ROOM or -errno. */
  private reply(slot: number, fd: number, length: number): number {
    const { ctx } = this;
    const { port, io } = ctx;
    const key = this.flows.table.keys;
    const k = KEY_WORDS * slot;
    const v4 = isV4(key, k);
    const headerLen = (v4 ? OUTPUT_HEADER_LEN4 : OUTPUT_HEADER_LEN6) + ICMP_HEADER_LEN;
    const payload = length - ICMP_HEADER_LEN;
    if (payload < 0) return this.discard(fd, DROP_ICMP_MALFORMED);
    const mtu = mtuToward(ctx, key, k);
    const cut = headerLen + payload > ETHERNET_HEADER_LEN + mtu;
    const rowCount = cut
      ? this.fragments.reserve(v4, ICMP_HEADER_LEN, payload, mtu, ROWS_OUT + 1)
      : port.reserve(headerLen, payload, ROWS_OUT + 1);
    if (rowCount < 0) {
      // A reply that needs many buffers is not waited for: the ring may never have them all.
      return cut && port.up ? this.discard(fd, DROP_FRAME_TOO_LONG) : NO_ROOM;
    }
    this.scratchRow(ROWS_OUT, ICMP_HEADER_LEN);
    io.msgRow[MSG_REPLY] = ROWS_OUT;
    io.msgRows[MSG_REPLY] = rowCount + 1;
    io.msgPeer[MSG_REPLY] = -1;
    io.msgLocal[MSG_REPLY] = -1;
    const got = io.recvMany(fd, MSG_REPLY, 1, 0);
    if (isShortage(got)) {
      port.cancel();
      return got;
    }
    const type = icmpType(io.scratch, SCRATCH_MISC);
    if (got !== 1 || io.msgLen[MSG_REPLY] !== length || type !== (v4 ? ICMP_ECHO_REPLY : ICMPV6_ECHO_REPLY)) {
      port.cancel();
      if (got !== -EAGAIN) ctx.counters[C_DROPS_TO_GUEST + DROP_ICMP_UNSUPPORTED]++;
      return REPLIED;
    }
    const ttl = io.msgTtl[MSG_REPLY] > 0 ? io.msgTtl[MSG_REPLY] : OUTPUT_TTL;
    const tos = Math.max(0, io.msgTos[MSG_REPLY]);
    const id = key[k + KEY_WORDS - 1];
    const seq = icmpSeq(io.scratch, SCRATCH_MISC);
    let sum = (type << 8) + id + seq;
    if (!v4) {
      sum += pseudoHeaderSum6(key, k, IP_PROTO_ICMPV6, length);
    }
    if (rowCount > 0) sum = io.checksum(ROWS_OUT + 1, rowCount, sum);
    const { ip } = this;
    ip.between(v4, key, k + 4, k);
    ip.protocol = v4 ? IP_PROTO_ICMP : IP_PROTO_ICMPV6;
    ip.ttl = ttl;
    ip.tos = tos;
    if (cut) {
      const l4 = this.fragments.begin(ip);
      icmpWrite(port.out, l4, type, 0, checksumFinish(sum), (id << 16) | seq);
      this.fragments.finish(CLASS_ICMP);
      this.flows.answered(slot, payload);
      return REPLIED;
    }
    port.front();
    const at = outputHeaders(ctx, ip, length);
    if (v4) this.fragments.identify(at, IPV4_HEADER_LEN + length, IPV4_HEADER_LEN + length, ip);
    icmpWrite(port.out, at, type, 0, checksumFinish(sum), (id << 16) | seq);
    port.commit(payload, 0, 0, 0, GSO_NONE, 0);
    countToGuest(ctx, CLASS_ICMP, headerLen + payload);
    this.flows.answered(slot, payload);
    return REPLIED;
  }
}
