/** Host sockets for flows that the guest starts: bound, connected where there is one peer, prepared for what is read. */
import { addressWords, addrSlotPort, addrSlotWrite, anyOf, copyWords, isMulticast, isV4 } from '../ip/address';
import type { Ip4Config } from '../config';
import { ADDR_SLOT_UDP } from '../scratch';
import type { StackContext } from '../context';
import type { NatResult } from '../ip/nat';
import { OutboundBinding } from '../ip/outbound-binding';
import { receiveErrorsAndMarks } from '../ip/socket-options';
import { AF_INET, SOCK_UDP } from '../ports';
import {
  EACCES,
  EADDRINUSE,
  IP_MULTICAST_ALL,
  IP_MULTICAST_IF,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_MULTICAST_ALL,
  IPV6_MULTICAST_IF,
  SO_BROADCAST,
  SO_REUSEADDR,
  SOL_SOCKET,
} from '../kit/linux';
import { IPV4_BROADCAST } from '../wire/ipv4';
import { SourcePorts } from './source-ports';
import type { UdpListener } from './listeners';

/** A server takes requests here, and answers each from another port (RFC 1350 §4). */
const PORT_TFTP = 69;

export class UdpSockets {
  /** Result of `prepare`: the port it is bound to; has no single peer; has one whose port is not known yet. */
  hostPort: number;
  group: boolean;
  anyPort: boolean;
  /** Broadcast address of the guest's IPv4 network; 0: none. */
  broadcast4: number;
  private readonly ctx: StackContext;
  private readonly binding: OutboundBinding;
  /** Which ports flows' sockets have; the caller holds and releases. */
  readonly ports: SourcePorts;

  constructor(ctx: StackContext, listeners: readonly UdpListener[]) {
    const { ip4 } = ctx.config;
    this.ctx = ctx;
    this.hostPort = 0;
    this.group = false;
    this.anyPort = false;
    this.broadcast4 = ip4 === null ? 0 : makeBroadcast(ip4);
    this.binding = new OutboundBinding(ctx, ADDR_SLOT_UDP);
    this.ports = new SourcePorts(listeners);
  }

  /** The configuration was replaced. */
  reconfigure(): void {
    const { ip4 } = this.ctx.config;
    this.broadcast4 = ip4 === null ? 0 : makeBroadcast(ip4);
  }

  /** The address configured for what leaves toward `target`, as `to[at…]`; zero: the kernel's choice. */
  sourceOf(target: NatResult, to: Int32Array, at: number): void {
    const v4 = isV4(target.dst, 0);
    copyWords(target.local ? anyOf(v4) : this.binding.source(v4), 0, to, at);
  }

  /**
   * Makes the new socket `fd` one toward `target`, port `dstPort`, for the guest's port `srcPort`. `wish`: the port of the
   * host that it should have, 0: what suits the guest's. Returns 0 or -errno; the caller closes it then.
   */
  prepare(fd: number, family: number, target: NatResult, srcPort: number, dstPort: number, wish: number): number {
    const { dst } = target;
    const v4 = family === AF_INET;
    this.group =
      isMulticast(dst, 0) ||
      (v4 && (dst[3] === IPV4_BROADCAST || (dst[3] === this.broadcast4 && this.broadcast4 !== 0)));
    this.anyPort = !this.group && dstPort === PORT_TFTP;
    const bound = this.bind(fd, v4, target, srcPort, wish);
    if (bound < 0) return bound;
    const { io } = this.ctx;
    receiveErrorsAndMarks(io, fd, v4);
    if (this.anyPort) return 0;
    if (!this.group) {
      addrSlotWrite(io.addrs, ADDR_SLOT_UDP, family, dstPort, target.scope, dst, 0);
      const r = io.connect(fd, ADDR_SLOT_UDP);
      // Without SO_BROADCAST that is the kernel's word for a broadcast address of a network of its own.
      if (r !== -EACCES || !v4) return r;
      this.group = true;
    }
    this.prepareGroup(fd, v4);
    return 0;
  }

  /**
   * The address that the kernel would now send from to `target`: fills address slot `slot`. Returns 0, or -errno if there
   * is no way there.
   */
  probe(family: number, target: NatResult, dstPort: number, slot: number): number {
    const { io } = this.ctx;
    const { dst } = target;
    const v4 = family === AF_INET;
    const fd = io.socket(family, SOCK_UDP);
    if (fd < 0) return fd;
    let r = this.binding.bindToInterface(fd, v4, target);
    // For a socket with an address, which a port of the kernel's choice comes with.
    if (r >= 0 && this.binding.hasSource(v4, target)) r = this.binding.bind(fd, v4, target, 0);
    if (r >= 0) {
      addrSlotWrite(io.addrs, ADDR_SLOT_UDP, family, dstPort, target.scope, dst, 0);
      r = io.connect(fd, ADDR_SLOT_UDP);
    }
    if (r >= 0) r = io.getsockname(fd, slot);
    io.close(fd);
    return r;
  }

  /**
   * Binds to a port that suits the guest's (source-ports.ts), and to the interface and address configured for outgoing
   * traffic; sets `hostPort`. Returns 0 or -errno.
   */
  private bind(fd: number, v4: boolean, target: NatResult, srcPort: number, wish: number): number {
    const { io, config } = this.ctx;
    const left = this.binding.bindToInterface(fd, v4, target);
    if (left < 0) return left;
    const first = wish !== 0 ? wish : this.ports.keeps(config.hostPorts, srcPort) ? srcPort : 0;
    let r = first === 0 ? -EADDRINUSE : this.bindPort(fd, v4, target, first, wish !== 0);
    this.hostPort = first;
    const given = this.ports.givenTo(v4, srcPort);
    if ((r === -EADDRINUSE || r === -EACCES) && given !== 0 && given !== first) {
      r = this.bindPort(fd, v4, target, given, false);
      this.hostPort = given;
    }
    // Privileged, or a program's of the host: any port is better than no datagram.
    if (r === -EADDRINUSE || r === -EACCES) {
      r = this.binding.bind(fd, v4, target, 0);
      if (r >= 0) r = io.getsockname(fd, ADDR_SLOT_UDP);
      this.hostPort = addrSlotPort(io.addrs, ADDR_SLOT_UDP);
    }
    if (r < 0) return r;
    io.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    return 0;
  }

  /**
   * Binds to one port. With sockets of ours it is shared: one port of the guest talks to many. Not so by one without a
   * peer (unless it replaces one, `again`), which would take what is for the others. Returns 0 or -errno.
   */
  private bindPort(fd: number, v4: boolean, target: NatResult, port: number, again: boolean): number {
    const { binding, ports } = this;
    const { io } = this.ctx;
    const alone = (this.group || this.anyPort) && !again;
    if (alone || !ports.isOurs(v4, port)) return binding.bind(fd, v4, target, port);
    io.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    // Listeners share for this moment only: a program of the host could take a forwarded port over otherwise.
    let listener = ports.listenerAfter(port, 0);
    for (; listener >= 0; listener = ports.listenerAfter(port, ports.cursor)) {
      io.setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, 1);
    }
    const r = binding.bind(fd, v4, target, port);
    listener = ports.listenerAfter(port, 0);
    for (; listener >= 0; listener = ports.listenerAfter(port, ports.cursor)) {
      io.setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, 0);
    }
    if (r < 0) io.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 0);
    return r;
  }

  /** For a socket that sends to a group or to all, and takes answers from anyone; not what other sockets joined for. */
  private prepareGroup(fd: number, v4: boolean): void {
    const { io, config } = this.ctx;
    if (v4) {
      io.setsockopt(fd, SOL_SOCKET, SO_BROADCAST, 1);
      io.setsockopt(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0);
      const from = this.binding.source(true)[3];
      // The option takes an address in network byte order; the call, a number in the machine's.
      if (from !== 0) io.setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, swapBytes(from));
      return;
    }
    io.setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0);
    const scope = config.ip6?.scopeId ?? 0;
    if (scope > 0) io.setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, scope);
  }
}

function swapBytes(word: number): number {
  return (word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24);
}

function makeBroadcast(ip4: Ip4Config): number {
  if (ip4.prefixLen < 1 || ip4.prefixLen > 30) return 0;
  const words = new Int32Array(4);
  addressWords(ip4.guestAddr, words, 0);
  return words[3] | (0xffffffff >>> ip4.prefixLen) | 0;
}
