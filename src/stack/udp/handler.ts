/**
 * UDP between the guest and host sockets (RFC 768).
 *
 * Theory of operation. Every datagram belongs to a flow: the guest's address and port and the other end's, as the
 * guest sees them. A flow that the guest starts gets a host socket of its own, connected to the translated
 * destination, so that only that peer's datagrams come back and the kernel reports errors to it; it is bound to the
 * guest's source port if the host lets us (NTP, IKE, STUN and games care), else to a port of the kernel's choice. A
 * flow that a peer starts at a forwarded port is served by the listener's own socket: answers leave from the address
 * and port that the peer used, with no descriptor a peer, and no datagram is lost between two sockets. A flow to a
 * multicast group or to all has a socket without a peer: answers from any address are accepted while the flow lives. A
 * flow to TFTP's port becomes one to the port that the server answers from, with the first answer.
 *
 * The host may move to another network. A flow's next datagram then leaves from the address that the kernel would
 * choose now, as that of an unconnected socket would (udp/flow-sockets.ts). A query to a resolver that the host no longer
 * uses gets a flow to the current one.
 *
 * Datagrams that the guest sends from a port forwarded to it leave from the listener's socket, too, to any destination
 * and with or without an earlier flow (udp/forwarded.ts).
 *
 * Flows end by time only (there is no close in UDP), after minutes; when the table or the descriptors are used up, an
 * old one is closed for a new one (udp/flows.ts).
 *
 * Nothing is queued here: from the guest, datagrams are sent within the turn; to the guest, they wait in the socket
 * until there are receive buffers (udp/inbound.ts).
 */
import { copyWords, familyOf, isLoopback, isMulticast, isUnspecified, isV4 } from '../ip/address';
import type { ForwardChange, ForwardListener } from '../config';
import {
  KEY_UDP,
  KEY_UDP_LISTENER,
  type FlowHandler,
  type FrameInfo,
  type QuotedPacket,
  type StackContext,
} from '../context';
import { C_DROPS, C_FLOWS_OPENED_UDP, C_FLOWS_UDP, dropCode, type DropCode } from '../counters';
import { END_DENIED, END_ERROR, END_EVICTED, END_IDLE, END_MOVED, END_RESET, END_UNFORWARDED } from '../kit/flow-rows';
import { KEY_WORDS } from '../kit/flow-table';
import { NatResult, natToHost, type NatTables } from '../ip/nat';
import { EPOLLERR, EPOLLIN, GSO_NONE, GSO_UDP_L4, SOCK_UDP } from '../ports';
import { RowSpan } from '../kit/rows';
import { EMFILE, ENFILE } from '../kit/linux';
import { UdpRefusals } from './refusals';
import { QUERY_BAD, QUERY_PASS, UdpResolving } from './resolving';
import { UdpErrors } from './socket-errors';
import { UdpFlowSockets } from './flow-sockets';
import { UdpFlows } from './flows';
import { UdpFlowView } from './flow-view';
import { UdpInbound } from './inbound';
import { ForwardedPorts } from './forwarded';
import { closeUdpListener, listenNow, openUdpListeners, type UdpListener, unknownOf } from './listeners';
import { UdpOutbound } from './outbound';
import { UdpRoute } from './route';
import { UdpServerNames } from './server-names';
import { UdpSockets } from './sockets';
import { isSumGood } from './checksum';
import { IP_PROTO_UDP, IPV4_BROADCAST } from '../wire/ipv4';
import { UDP_HEADER_LEN, udpCheck, udpChecksum, udpDstPort, udpLength, udpSrcPort } from '../wire/udp';

const DROP_HEAD_TOO_SHORT = dropCode('head_too_short');
const DROP_LOOPBACK_ADDRESS = dropCode('loopback_address');
const DROP_SOURCE_INVALID = dropCode('source_invalid');
const DROP_DESTINATION_INVALID = dropCode('destination_invalid');
const DROP_UDP_MALFORMED = dropCode('udp_malformed');
const DROP_UDP_CHECKSUM = dropCode('udp_checksum');
const DROP_VNET_HEADER = dropCode('vnet_header');
const DROP_FLOW_LIMIT = dropCode('flow_limit');
const DROP_FLOW_TABLE_FULL = dropCode('flow_table_full');
const DROP_NO_DESCRIPTORS = dropCode('no_descriptors');
const DROP_HOST_SOCKET_ERROR = dropCode('host_socket_error');
const DROP_POLICY_DENIED = dropCode('policy_denied');

export class UdpHandler implements FlowHandler {
  readonly view: UdpFlowView;
  private readonly ctx: StackContext;
  private readonly nat: NatTables;
  private readonly flows: UdpFlows;
  private readonly listeners: UdpListener[];
  private readonly forwards: readonly ForwardListener[];
  /** How many may be added to those of the start, and how many there may be then. */
  private readonly more: number;
  private most: number;
  private readonly errors: UdpErrors;
  private readonly inbound: UdpInbound;
  private readonly outbound: UdpOutbound;
  private readonly sockets: UdpSockets;
  private readonly flowSockets: UdpFlowSockets;
  private readonly forwarded: ForwardedPorts;
  private readonly span: RowSpan;
  private readonly target: NatResult;
  private readonly refusals: UdpRefusals;
  private readonly resolving: UdpResolving;
  private readonly names: UdpServerNames;

  /** `listeners` of other protocols are ignored. Descriptors are never closed here. `more`: how many may be added later. */
  constructor(ctx: StackContext, listeners: readonly ForwardListener[], more = 0) {
    const { config } = ctx;
    this.ctx = ctx;
    this.forwards = listeners;
    this.more = more;
    this.most = listeners.length;
    this.nat = ctx.link.nat;
    this.flows = new UdpFlows(
      config.maxUdpFlows,
      config.udpTimeoutMs,
      config.udpStreamTimeoutMs,
      ctx.clock,
      ctx.random,
    );
    this.listeners = [];
    this.view = new UdpFlowView(this.flows, this.listeners, this);
    this.errors = new UdpErrors(ctx, this.nat, this.flows, this.listeners);
    this.resolving = new UdpResolving(ctx, this.flows);
    const route = new UdpRoute(ctx, this.nat, this.flows, this.listeners, this);
    this.inbound = new UdpInbound(ctx, this.flows, this.listeners, this.errors, this, route, this.resolving);
    this.sockets = new UdpSockets(ctx, this.listeners);
    this.target = new NatResult();
    this.flowSockets = new UdpFlowSockets(ctx, this.nat, this.flows, this.sockets, this.inbound, this.target);
    this.outbound = new UdpOutbound(ctx, this.flows, this.listeners, this.errors, this.flowSockets);
    this.forwarded = new ForwardedPorts(ctx, this.listeners);
    this.span = new RowSpan();
    this.refusals = new UdpRefusals(ctx, this.flows, this.errors, this.sockets);
    this.names = new UdpServerNames(ctx, this.flows, this.outbound, this.refusals, this);
  }

  reconfigure(): void {
    this.sockets.reconfigure();
    this.moved();
  }

  moved(): void {
    this.flowSockets.moved();
  }

  start(): void {
    const opened = openUdpListeners(this.ctx, this.forwards, this.listeners, Infinity);
    this.most = this.listeners.length + this.more;
    this.inbound.makeRoom(this.most);
    this.makeHeard(opened);
  }

  makeForwards({ remove, add }: ForwardChange): void {
    const { flows, listeners } = this;
    const { capacity } = flows.table;
    const gone = new Set(remove);
    for (let i = 0; i < listeners.length; i++) {
      if (!gone.has(listeners[i].fd)) continue;
      // Their socket is the listener's: they end with it.
      for (let slot = 0; slot < capacity; slot++) if (flows.listener[slot] === i) this.close(slot, END_UNFORWARDED);
      this.inbound.forget(capacity + i);
      closeUdpListener(this.ctx.io, listeners, i);
    }
    this.makeHeard(openUdpListeners(this.ctx, unknownOf(add, listeners), listeners, this.most));
  }

  private makeHeard(places: readonly number[]): void {
    this.sockets.ports.makeChains();
    this.forwarded.makeChains();
    for (const place of places) {
      if (!listenNow(this.ctx, this.listeners, place)) this.errors.rest(this.flows.table.capacity + place);
    }
  }
  fromGuest(frame: FrameInfo): number {
    const { port } = this.ctx;
    const off = frame.l4Off;
    if (frame.l4Len < UDP_HEADER_LEN) return this.drop(frame, DROP_UDP_MALFORMED);
    if (port.pull(off + UDP_HEADER_LEN) < off + UDP_HEADER_LEN) return this.drop(frame, DROP_HEAD_TOO_SHORT);
    const bad = udpCheck(port.head, off, off + frame.l4Len);
    if (bad !== 0) return this.drop(frame, bad);
    const srcPort = udpSrcPort(port.head, off);
    const dstPort = udpDstPort(port.head, off);
    const length = udpLength(port.head, off);
    const checksum = udpChecksum(port.head, off);
    if (port.gsoType !== GSO_NONE && port.gsoType !== GSO_UDP_L4) return this.drop(frame, DROP_VNET_HEADER);
    if (srcPort === 0 || dstPort === 0) return this.drop(frame, DROP_UDP_MALFORMED);
    const { rows } = this.ctx.io;
    if (!this.span.narrow(rows, frame.row, frame.rowCount, off, length)) return this.drop(frame, DROP_UDP_MALFORMED);
    if (!port.csumPartial && !isSumGood(this.ctx.io, this.span, frame, length, checksum))
      return this.drop(frame, DROP_UDP_CHECKSUM);

    const payload = length - UDP_HEADER_LEN;
    const segment = port.gsoType === GSO_UDP_L4 && payload > port.gsoSize ? port.gsoSize : 0;
    this.fillProbe(frame, srcPort, dstPort);
    let slot = this.flows.table.lookup();
    if (slot >= 0 && !this.flowSockets.isOfNow(slot) && !this.stillFits(slot)) slot = -1;
    if (slot < 0) {
      slot = this.admit(frame, srcPort, dstPort);
      if (slot < 0) return this.drop(frame, -slot);
    }
    this.flows.touchFromGuest(slot, payload);
    this.span.narrow(rows, this.span.first, this.span.count, UDP_HEADER_LEN, payload);
    if (this.resolving.reader(slot)) return this.query(slot, frame, payload, segment);
    if (this.names.reads(slot)) return this.names.fromGuest(slot, frame, this.span, payload, segment);
    return this.outbound.add(slot, frame, this.span, payload, segment);
  }

  /** To a resolver: `span` names the payload. What passes leaves at once, as its copy is the next query's place. */
  private query(slot: number, frame: FrameInfo, length: number, segment: number): number {
    const code = this.resolving.query(slot, this.span, length, segment);
    if (code === QUERY_BAD) return this.drop(frame, DROP_POLICY_DENIED);
    if (code === QUERY_PASS) {
      this.outbound.add(slot, frame, this.span, length, 0);
      this.outbound.flush();
    }
    return frame.row;
  }

  endOfBatch(): void {
    this.outbound.flush();
  }

  onSocket(kind: number, index: number, generation: number, events: number): void {
    if (kind === KEY_UDP_LISTENER) {
      if (index >= this.listeners.length || this.listeners[index].fd < 0) return;
      if ((events & EPOLLERR) !== 0) this.errors.drainListener(index, -1);
      if ((events & EPOLLIN) !== 0) this.inbound.listenerReadable(index);
      return;
    }
    if (kind !== KEY_UDP || !this.flows.isCurrent(index, generation)) return;
    if ((events & EPOLLERR) !== 0) this.errors.drainFlow(index);
    if ((events & EPOLLIN) !== 0) this.inbound.flowReadable(index);
  }

  onGuestReady(): void {
    this.inbound.onGuestReady();
  }

  onTimer(): void {
    const { timers } = this.flows;
    for (let slot = timers.expire(this.ctx.clock.nowMs); slot >= 0; slot = timers.expire(this.ctx.clock.nowMs)) {
      this.close(slot, END_IDLE);
    }
    // A turn ends here: flows that used up their share of it continue in the next, in order.
    this.inbound.onTimer();
  }

  nextDeadline(): number {
    return Math.min(this.flows.timers.nextDeadline(), this.inbound.deadline);
  }

  /** A datagram to the guest was too long for a router behind it: those that follow are cut (../path-mtus.ts). */
  pathMtu(quote: QuotedPacket, mtu: number): boolean {
    return this.errors.pathMtu(quote, mtu);
  }

  get busy(): boolean {
    return this.inbound.busy;
  }

  reset(): void {
    this.outbound.reset();
    for (let slot = this.flows.oldest(); slot >= 0; slot = this.flows.oldest()) this.close(slot, END_RESET);
    this.inbound.reset();
    this.resolving.reset();
  }

  enforce(): void {
    const { flows, ctx } = this;
    for (let slot = 0; ctx.link.policy.on && slot < flows.table.capacity; slot++) {
      // Those of forwarded ports have no socket of their own.
      if (flows.fd[slot] >= 0 && !this.refusals.keeps(slot)) this.close(slot, END_DENIED);
    }
  }

  // ---- flows ----------------------------------------------------------------------------------------------------

  /** For UdpInbound. */
  openAtListener(listener: number): number {
    if (this.flows.table.count === this.flows.table.capacity) this.evict();
    const slot = this.flows.open(-1, listener);
    if (slot >= 0) this.countOpened(slot);
    return slot;
  }

  /** Makes a flow of a guest's service that sends first, from a port forwarded to it. -1: no room. */
  private openForwarded(frame: FrameInfo, srcPort: number, dstPort: number, listener: number): number {
    const { flows, target } = this;
    this.fillProbe(frame, srcPort, dstPort);
    const slot = this.openAtListener(listener);
    if (slot < 0) return slot;
    const p = 4 * slot;
    copyWords(target.dst, 0, flows.peer, p);
    flows.peerPort[slot] = dstPort;
    flows.peerScope[slot] = target.scope;
    // A listener with an address sends from that.
    if (this.listeners[listener].wildcard) this.sockets.sourceOf(target, flows.local, p);
    else flows.local.fill(0, p, p + 4);
    return slot;
  }

  /** Closes a flow and its socket, if it has one, for `reason` (END_…). */
  close(slot: number, reason: number): void {
    if (this.outbound.pending === slot) this.outbound.flush();
    this.names.closed(slot);
    this.view.noteEnd(this.ctx, slot, reason);
    this.inbound.forget(slot);
    const fd = this.flows.fd[slot];
    if (fd >= 0) this.flowSockets.take(slot, fd);
    this.flows.free(slot);
    this.ctx.counters[C_FLOWS_UDP] = this.flows.table.count;
  }

  /**
   * The host's network changed since the flow was looked at. False if the flow is closed, as its datagrams now have another
   * destination; the probe holds its key again then.
   */
  private stillFits(slot: number): boolean {
    // What was gathered goes out as it was meant to.
    if (this.outbound.pending === slot) this.outbound.flush();
    if (this.flowSockets.refit(slot)) return true;
    this.close(slot, END_MOVED);
    const { keys, probe } = this.flows.table;
    const k = KEY_WORDS * slot;
    for (let i = 0; i < KEY_WORDS; i++) probe[i] = keys[k + i];
    return false;
  }

  private countOpened(slot: number): void {
    this.resolving.opened(slot);
    this.names.opened(slot);
    this.inbound.opened(slot);
    this.ctx.counters[C_FLOWS_OPENED_UDP]++;
    this.ctx.counters[C_FLOWS_UDP] = this.flows.table.count;
  }

  /** The policy has admitted a flow of the guest's own. */
  private admitted(slot: number, dstPort: number): void {
    this.resolving.admitted(slot, dstPort);
    this.names.admitted(slot, dstPort);
  }

  /** Closes the flow that is missed least. False if there is none. */
  private evict(): boolean {
    const slot = this.flows.oldest();
    if (slot < 0) return false;
    this.close(slot, END_EVICTED);
    return true;
  }

  private drop(frame: FrameInfo, code: DropCode): number {
    this.ctx.counters[C_DROPS + code]++;
    return frame.row;
  }

  private fillProbe(frame: FrameInfo, srcPort: number, dstPort: number): void {
    const { probe } = this.flows.table;
    for (let i = 0; i < 8; i++) probe[i] = frame.addr[i];
    probe[KEY_WORDS - 1] = (srcPort << 16) | dstPort;
  }

  /** As `openFromGuest`, if there is credit for it: datagrams that nobody answers take a bounded part of the time. */
  private admit(frame: FrameInfo, srcPort: number, dstPort: number): number {
    const { credit } = this.flows;
    return credit.take(frame.addr, 4, dstPort)
      ? credit.opened(this.openFromGuest(frame, srcPort, dstPort))
      : -DROP_FLOW_LIMIT;
  }

  /** Makes a flow for the first datagram of one. Returns its number, or minus a drop code. */
  private openFromGuest(frame: FrameInfo, srcPort: number, dstPort: number): number {
    const { ctx, flows, target } = this;
    const a = frame.addr;
    const v4 = isV4(a, 0);
    // An IPv6 packet with v4-mapped addresses would become IPv4 on the host, past all that holds for IPv4.
    if (v4 !== (frame.version === 4)) return -DROP_SOURCE_INVALID;
    if (isV4(a, 4) !== v4) return -DROP_DESTINATION_INVALID;
    if (isUnspecified(a, 0) || isMulticast(a, 0)) return -DROP_SOURCE_INVALID;
    if (v4 && a[3] === IPV4_BROADCAST) return -DROP_SOURCE_INVALID;
    if (isLoopback(a, 0)) return -DROP_LOOPBACK_ADDRESS;
    const code = natToHost(this.nat, IP_PROTO_UDP, a, 4, dstPort, target);
    if (code !== 0) return -code;
    const { policy } = ctx.link;
    if (policy.on && !policy.admits(ctx, IP_PROTO_UDP, a, 4, dstPort, target)) {
      this.refusals.prohibited(frame, srcPort, dstPort);
      return -DROP_POLICY_DENIED;
    }

    // Two for one: after a burst a crowd gets smaller.
    for (let i = 0; i < 2; i++) {
      const done = flows.crowdedOut();
      if (done >= 0) this.close(done, END_IDLE);
    }
    const { forwarded } = this;
    forwarded.find(a, srcPort, target);
    if (forwarded.listener >= 0) {
      const slot = this.openForwarded(frame, srcPort, dstPort, forwarded.listener);
      if (slot < 0) return -DROP_FLOW_TABLE_FULL;
      this.admitted(slot, dstPort);
      return slot;
    }

    if (flows.table.count === flows.table.capacity && !this.evict()) return -DROP_FLOW_TABLE_FULL;
    const family = familyOf(target.dst, 0);
    let fd = ctx.io.socket(family, SOCK_UDP);
    if ((fd === -EMFILE || fd === -ENFILE) && this.evict()) fd = ctx.io.socket(family, SOCK_UDP);
    if (fd < 0) return fd === -EMFILE || fd === -ENFILE ? -DROP_NO_DESCRIPTORS : -DROP_HOST_SOCKET_ERROR;
    const error = this.sockets.prepare(fd, family, target, srcPort, dstPort, forwarded.port);
    if (error < 0) {
      ctx.io.close(fd);
      this.refusals.unreachable(frame, srcPort, dstPort, error);
      return -DROP_HOST_SOCKET_ERROR;
    }
    // Again: closing another flow may have sent datagrams and looked up flows for their errors.
    this.fillProbe(frame, srcPort, dstPort);
    const slot = flows.open(fd, -1);
    if (slot < 0) {
      ctx.io.close(fd);
      return -DROP_FLOW_TABLE_FULL;
    }
    this.countOpened(slot);
    this.admitted(slot, dstPort);
    const p = 4 * slot;
    copyWords(target.dst, 0, flows.peer, p);
    flows.peerPort[slot] = dstPort;
    flows.peerScope[slot] = target.scope;
    this.flowSockets.give(slot, fd, srcPort);
    if (this.flowSockets.watch(slot, fd) < 0) {
      this.close(slot, END_ERROR);
      return -DROP_NO_DESCRIPTORS;
    }
    return slot;
  }
}
