/**
 * UDP between the guest and host sockets (RFC 768).
 *
 * Theory of operation. Every datagram belongs to a flow: the guest's address and port and the other end's, as the
 * guest sees them. A flow that the guest starts gets a host socket of its own, connected to the translated
 * destination, so that only that peer's datagrams come back and the kernel reports errors to it; it is bound to the
 * guest's source port if the host lets us (NTP, IKE, STUN and games care), else to a port of the kernel's choice. A
 * flow that a peer starts at a forwarded port is served by the listener's own socket: answers leave from the address
 * and port that the peer used, with no descriptor a peer, and no datagram is lost between two sockets.
 *
 * Flows end by time only (there is no close in UDP), with the limits of Linux's connection tracking; when the table or
 * the descriptors are used up, the flow least recently used makes room.
 *
 * Nothing is queued here: from the guest, datagrams are sent within the turn; to the guest, they wait in the socket
 * until there are receive buffers (udp/inbound.ts).
 */
import { addrSlotWrite, addressWords, familyOf, isLoopback, isMulticast, isUnspecified, isV4 } from './address';
import type { ForwardListener, Ip4Config, Ip6Config } from './config';
import {
  ADDR_SLOT_UDP,
  KEY_KIND_SHIFT,
  KEY_UDP,
  KEY_UDP_LISTENER,
  type FlowHandler,
  type FrameInfo,
  type StackContext,
} from './context';
import { C_DROPS, C_FLOWS_OPENED_UDP, C_FLOWS_UDP, dropCode, type DropCode } from './counters';
import { KEY_WORDS } from './flow-table';
import { NatResult, natOurAddress, natToHost, type NatTables } from './nat';
import { AF_INET, EPOLLERR, EPOLLET, EPOLLIN, GSO_UDP_L4, SOCK_UDP } from './ports';
import { RowSpan } from './row-span';
import {
  EACCES,
  EADDRINUSE,
  EHOSTUNREACH,
  EMFILE,
  ENETUNREACH,
  ENFILE,
  IP_RECVERR,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_RECVERR,
  SO_BROADCAST,
  SO_REUSEADDR,
  SOL_SOCKET,
} from './socket-options';
import { UdpErrors } from './udp/errors';
import { FLOW_FRESH, FLOW_MULTICAST, FLOW_PORT_KEPT, UdpFlows } from './udp/flows';
import { UdpInbound } from './udp/inbound';
import { openUdpListeners, type UdpListener } from './udp/listeners';
import { UdpOutbound } from './udp/outbound';
import { checksumOk, pseudoHeaderSum4, pseudoHeaderSum6 } from './wire/checksum';
import {
  ICMP_CODE_HOST,
  ICMP_CODE_NET,
  ICMP_DEST_UNREACHABLE,
  ICMPV6_CODE_ADDRESS,
  ICMPV6_CODE_NO_ROUTE,
  ICMPV6_DEST_UNREACHABLE,
} from './wire/icmp';
import { IP_PROTO_UDP, IPV4_BROADCAST } from './wire/ipv4';
import { UDP_HEADER_LEN, udpCheck, udpChecksum, udpDstPort, udpLength, udpSrcPort } from './wire/udp';

const DROP_HEAD_TOO_SHORT = dropCode('head_too_short');
const DROP_LOOPBACK_ADDRESS = dropCode('loopback_address');
const DROP_SOURCE_INVALID = dropCode('source_invalid');
const DROP_DESTINATION_INVALID = dropCode('destination_invalid');
const DROP_UDP_MALFORMED = dropCode('udp_malformed');
const DROP_UDP_CHECKSUM = dropCode('udp_checksum');
const DROP_FLOW_TABLE_FULL = dropCode('flow_table_full');
const DROP_NO_DESCRIPTORS = dropCode('no_descriptors');
const DROP_HOST_SOCKET_ERROR = dropCode('host_socket_error');

/** Slot of addresses to bind and connect to. */
const SLOT_ADDR = ADDR_SLOT_UDP;

export class UdpHandler implements FlowHandler {
  private readonly ctx: StackContext;
  private readonly nat: NatTables;
  private readonly flows: UdpFlows;
  private readonly listeners: UdpListener[];
  private readonly forwards: readonly ForwardListener[];
  private readonly errors: UdpErrors;
  private readonly inbound: UdpInbound;
  private readonly outbound: UdpOutbound;
  private readonly span: RowSpan;
  private readonly target: NatResult;
  /** Addresses to bind outgoing sockets to, four words each; unspecified: the kernel's choice. */
  private readonly outbound4: Int32Array;
  private readonly outbound6: Int32Array;
  /** Broadcast address of the guest's IPv4 network; 0: none. */
  private broadcast4: number;

  /** `listeners` of other protocols are ignored. Their descriptors are never closed here. */
  constructor(ctx: StackContext, listeners: readonly ForwardListener[]) {
    const { config } = ctx;
    this.ctx = ctx;
    this.forwards = listeners;
    this.nat = ctx.link.nat;
    this.flows = new UdpFlows(
      config.maxUdpFlows,
      config.udpTimeoutMs,
      config.udpStreamTimeoutMs,
      ctx.clock,
      ctx.random,
    );
    this.listeners = [];
    this.errors = new UdpErrors(ctx, this.nat, this.flows);
    this.inbound = new UdpInbound(ctx, this.nat, this.flows, this.listeners, this.errors, this);
    this.outbound = new UdpOutbound(ctx, this.flows, this.listeners, this.errors);
    this.span = new RowSpan();
    this.target = new NatResult();
    this.outbound4 = makeOutboundWords(config.ip4);
    this.outbound6 = makeOutboundWords(config.ip6);
    this.broadcast4 = config.ip4 === null ? 0 : makeBroadcast(config.ip4);
  }

  // ---- FlowHandler ----------------------------------------------------------------------------------------------

  reconfigure(): void {
    const { ip4 } = this.ctx.config;
    this.broadcast4 = ip4 === null ? 0 : makeBroadcast(ip4);
  }

  start(): void {
    openUdpListeners(this.ctx, this.forwards, this.listeners);
    this.inbound.resizeListeners(this.listeners.length);
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
    if (srcPort === 0 || dstPort === 0) return this.drop(frame, DROP_UDP_MALFORMED);
    const { rows } = this.ctx.io;
    if (!this.span.narrow(rows, frame.row, frame.rowCount, off, length)) return this.drop(frame, DROP_UDP_MALFORMED);
    if (!port.csumPartial && !this.checksumGood(frame, length, checksum)) return this.drop(frame, DROP_UDP_CHECKSUM);

    const payload = length - UDP_HEADER_LEN;
    const segment = port.gsoType === GSO_UDP_L4 && payload > port.gsoSize ? port.gsoSize : 0;
    this.fillProbe(frame, srcPort, dstPort);
    let slot = this.flows.table.lookup();
    if (slot < 0) {
      slot = this.openFromGuest(frame, srcPort, dstPort);
      if (slot < 0) return this.drop(frame, -slot);
    }
    this.flows.touchFromGuest(slot);
    this.span.narrow(rows, this.span.first, this.span.count, UDP_HEADER_LEN, payload);
    this.outbound.add(slot, this.span.first, this.span.count, segment, frame.ttl, frame.tos);
    return frame.row + frame.rowCount;
  }

  endOfBatch(): void {
    this.outbound.flush();
  }

  onSocket(kind: number, index: number, generation: number, events: number): void {
    if (kind === KEY_UDP_LISTENER) {
      if (index >= this.listeners.length) return;
      if ((events & EPOLLERR) !== 0) this.errors.drainListener(this.listeners[index]);
      if ((events & EPOLLIN) !== 0) this.inbound.listenerReadable(index);
      return;
    }
    if (kind !== KEY_UDP || !this.flows.isCurrent(index, generation)) return;
    if ((events & EPOLLERR) !== 0) this.errors.drainFlow(index);
    if ((events & EPOLLIN) !== 0) this.inbound.flowReadable(index);
  }

  onGuestReady(): void {
    this.inbound.stalled = false;
    this.inbound.resume();
  }

  onTimer(): void {
    const { timers } = this.flows;
    for (let slot = timers.expire(this.ctx.clock.nowMs); slot >= 0; slot = timers.expire(this.ctx.clock.nowMs)) {
      this.close(slot);
    }
    // A turn ends here: what used up its share of the turn goes on, in turn with the others.
    if (this.inbound.busy) this.inbound.resume();
  }

  nextDeadline(): number {
    return this.flows.timers.nextDeadline();
  }

  get busy(): boolean {
    return this.inbound.busy;
  }

  reset(): void {
    this.outbound.reset();
    for (let slot = this.flows.order.first(); slot >= 0; slot = this.flows.order.first()) this.close(slot);
    this.inbound.stalled = false;
  }

  // ---- flows ----------------------------------------------------------------------------------------------------

  /** For UdpInbound. */
  openAtListener(listener: number): number {
    if (this.flows.table.count === this.flows.table.capacity) this.evict();
    const slot = this.flows.open(-1, listener);
    if (slot >= 0) this.countOpened();
    return slot;
  }

  /** Closes a flow and its socket, if it has one. */
  close(slot: number): void {
    if (this.outbound.pending === slot) this.outbound.flush();
    this.inbound.forget(slot);
    const fd = this.flows.fd[slot];
    this.flows.free(slot);
    if (fd >= 0) this.ctx.io.close(fd);
    this.ctx.counters[C_FLOWS_UDP] = this.flows.table.count;
  }

  private countOpened(): void {
    this.ctx.counters[C_FLOWS_OPENED_UDP]++;
    this.ctx.counters[C_FLOWS_UDP] = this.flows.table.count;
  }

  /** Closes the flow least recently used. False if there is none. */
  private evict(): boolean {
    const slot = this.flows.order.first();
    if (slot < 0) return false;
    this.close(slot);
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

  /** `span` names the UDP header and payload. A checksum of 0 means none in IPv4 and is invalid in IPv6. */
  private checksumGood(frame: FrameInfo, length: number, checksum: number): boolean {
    const a = frame.addr;
    if (checksum === 0) return frame.version === 4;
    const sum =
      frame.version === 4
        ? pseudoHeaderSum4(a[3], a[7], IP_PROTO_UDP, length)
        : pseudoHeaderSum6(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], IP_PROTO_UDP, length);
    return checksumOk(this.ctx.io.checksum(this.span.first, this.span.count, sum));
  }

  /** Makes a flow for the first datagram of one. Returns its number, or minus a drop code. */
  private openFromGuest(frame: FrameInfo, srcPort: number, dstPort: number): number {
    const { ctx, flows, target } = this;
    const a = frame.addr;
    const v4 = isV4(a[0], a[1], a[2]);
    // An IPv6 packet with v4-mapped addresses would become IPv4 on the host, past all that holds for IPv4.
    if (v4 !== (frame.version === 4)) return -DROP_SOURCE_INVALID;
    if (isV4(a[4], a[5], a[6]) !== v4) return -DROP_DESTINATION_INVALID;
    if (isUnspecified(a[0], a[1], a[2], a[3]) || isMulticast(a[0], a[1], a[2], a[3])) return -DROP_SOURCE_INVALID;
    if (v4 && a[3] === IPV4_BROADCAST) return -DROP_SOURCE_INVALID;
    if (isLoopback(a[0], a[1], a[2], a[3])) return -DROP_LOOPBACK_ADDRESS;
    const code = natToHost(this.nat, IP_PROTO_UDP, a[4], a[5], a[6], a[7], dstPort, target);
    if (code !== 0) return -code;

    if (flows.table.count === flows.table.capacity && !this.evict()) return -DROP_FLOW_TABLE_FULL;
    const family = familyOf(target.dst[0], target.dst[1], target.dst[2]);
    let fd = ctx.io.socket(family, SOCK_UDP);
    if ((fd === -EMFILE || fd === -ENFILE) && this.evict()) fd = ctx.io.socket(family, SOCK_UDP);
    if (fd < 0) return fd === -EMFILE || fd === -ENFILE ? -DROP_NO_DESCRIPTORS : -DROP_HOST_SOCKET_ERROR;
    const bound = this.bindSource(fd, family, srcPort);
    const error = bound < 0 ? bound : this.connect(fd, family, dstPort);
    if (error < 0) {
      ctx.io.close(fd);
      this.reportUnreachable(frame, srcPort, dstPort, error);
      return -DROP_HOST_SOCKET_ERROR;
    }
    // Again: closing another flow may have sent datagrams and looked up flows for their errors.
    this.fillProbe(frame, srcPort, dstPort);
    const slot = flows.open(fd, -1);
    if (slot < 0) {
      ctx.io.close(fd);
      return -DROP_FLOW_TABLE_FULL;
    }
    this.countOpened();
    const p = 4 * slot;
    for (let i = 0; i < 4; i++) flows.peer[p + i] = target.dst[i];
    flows.peerPort[slot] = dstPort;
    flows.peerScope[slot] = target.scope;
    flows.flags[slot] |= FLOW_FRESH | (bound > 0 ? FLOW_PORT_KEPT : 0);
    if (isMulticast(target.dst[0], target.dst[1], target.dst[2], target.dst[3])) flows.flags[slot] |= FLOW_MULTICAST;
    const key = (KEY_UDP << KEY_KIND_SHIFT) | slot;
    if (ctx.io.watch(fd, EPOLLIN | EPOLLET, key, flows.table.generation[slot]) < 0) {
      this.close(slot);
      return -DROP_NO_DESCRIPTORS;
    }
    return slot;
  }

  /**
   * Binds a new socket toward `target` to the guest's source port and the interface and address configured for
   * outgoing traffic. Returns 1, 0 if the port is the kernel's choice, or -errno.
   */
  private bindSource(fd: number, family: number, srcPort: number): number {
    const { io, config } = this.ctx;
    const v4 = family === AF_INET;
    const from = v4 ? this.outbound4 : this.outbound6;
    const { local } = this.target;
    let w0 = 0;
    let w1 = 0;
    let w2 = 0;
    let w3 = 0;
    if (!local) {
      w0 = from[0];
      w1 = from[1];
      w2 = from[2];
      w3 = from[3];
      const ifname = v4 ? config.ip4?.outboundIf : config.ip6?.outboundIf;
      if (typeof ifname === 'string') {
        const r = io.bindToDevice(fd, ifname);
        if (r < 0) return r;
      }
    } else if (v4) {
      w2 = 0xffff;
    }
    // One port of the guest talks to many: each flow's socket is bound to the same port.
    io.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    addrSlotWrite(io.addrs, SLOT_ADDR, family, srcPort, 0, w0, w1, w2, w3);
    const r = io.bind(fd, SLOT_ADDR);
    if (r >= 0) return 1;
    // Privileged, or taken by a service of the host: any port is better than no datagram.
    if (r !== -EACCES && r !== -EADDRINUSE) return r;
    if (isUnspecified(w0, w1, w2, w3)) return 0;
    addrSlotWrite(io.addrs, SLOT_ADDR, family, 0, 0, w0, w1, w2, w3);
    const again = io.bind(fd, SLOT_ADDR);
    return again < 0 ? again : 0;
  }

  /** Connects to `target`. Returns 0 or -errno. */
  private connect(fd: number, family: number, port: number): number {
    const { io } = this.ctx;
    const { dst, scope } = this.target;
    if (family === AF_INET) io.setsockopt(fd, IPPROTO_IP, IP_RECVERR, 1);
    else io.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
    addrSlotWrite(io.addrs, SLOT_ADDR, family, port, scope, dst[0], dst[1], dst[2], dst[3]);
    const r = io.connect(fd, SLOT_ADDR);
    if (r !== -EACCES || family !== AF_INET) return r;
    // A broadcast address; the kernel knows those of its own networks.
    io.setsockopt(fd, SOL_SOCKET, SO_BROADCAST, 1);
    return io.connect(fd, SLOT_ADDR);
  }

  /** The guest's own error, where the host has no route (RFC 1812 §5.2.7.1; RFC 4443 §3.1). */
  private reportUnreachable(frame: FrameInfo, srcPort: number, dstPort: number, error: number): void {
    if (error !== -ENETUNREACH && error !== -EHOSTUNREACH) return;
    const a = frame.addr;
    const v4 = frame.version === 4;
    if (isMulticast(a[4], a[5], a[6], a[7])) return;
    if (v4 && (a[7] === IPV4_BROADCAST || a[7] === this.broadcast4)) return;
    if (!natOurAddress(this.nat, v4, this.target)) return;
    this.fillProbe(frame, srcPort, dstPort);
    const net = error === -ENETUNREACH;
    const { src } = this.target;
    const { probe } = this.flows.table;
    if (v4) this.errors.unreachable(ICMP_DEST_UNREACHABLE, net ? ICMP_CODE_NET : ICMP_CODE_HOST, src, probe, 0);
    else
      this.errors.unreachable(ICMPV6_DEST_UNREACHABLE, net ? ICMPV6_CODE_NO_ROUTE : ICMPV6_CODE_ADDRESS, src, probe, 0);
  }
}

function makeOutboundWords(family: Ip4Config | Ip6Config | null): Int32Array {
  const words = new Int32Array(4);
  if (family !== null && family.outboundAddr !== null) addressWords(family.outboundAddr, words, 0);
  else if (family !== null && 'prefixLen' in family) words[2] = 0xffff;
  return words;
}

function makeBroadcast(ip4: Ip4Config): number {
  if (ip4.prefixLen < 1 || ip4.prefixLen > 30) return 0;
  const words = new Int32Array(4);
  addressWords(ip4.guestAddr, words, 0);
  return words[3] | (0xffffffff >>> ip4.prefixLen) | 0;
}
