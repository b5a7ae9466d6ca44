/** Host sockets for flows that the guest starts: bound, connected where there is one peer, prepared for what is read. */
import { addressWords, addrSlotWrite, isMulticast, isUnspecified } from '../address';
import type { Ip4Config, Ip6Config } from '../config';
import { ADDR_SLOT_UDP } from '../context';
import type { StackContext } from '../context';
import type { NatResult } from '../nat';
import { AF_INET } from '../ports';
import {
  EACCES,
  EADDRINUSE,
  IP_MULTICAST_ALL,
  IP_MULTICAST_IF,
  IP_RECVERR,
  IP_RECVTOS,
  IP_RECVTTL,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_MULTICAST_ALL,
  IPV6_MULTICAST_IF,
  IPV6_RECVERR,
  IPV6_RECVHOPLIMIT,
  IPV6_RECVTCLASS,
  SO_BROADCAST,
  SO_REUSEADDR,
  SOL_SOCKET,
} from '../socket-options';
import { IPV4_BROADCAST } from '../wire/ipv4';

/** Slot of addresses to bind and connect to. */
const SLOT_ADDR = ADDR_SLOT_UDP;

/** A server takes requests here, and answers each from another port (RFC 1350 §4). */
const PORT_TFTP = 69;

export class UdpSockets {
  /** Result of `prepare`: bound to the guest's own port; has no single peer; has one whose port is not known yet. */
  portKept: boolean;
  group: boolean;
  anyPort: boolean;
  /** Broadcast address of the guest's IPv4 network; 0: none. */
  broadcast4: number;
  private readonly ctx: StackContext;
  /** Addresses to bind outgoing sockets to, four words each; unspecified: the kernel's choice. */
  private readonly outbound4: Int32Array;
  private readonly outbound6: Int32Array;

  constructor(ctx: StackContext) {
    const { ip4, ip6 } = ctx.config;
    this.ctx = ctx;
    this.portKept = false;
    this.group = false;
    this.anyPort = false;
    this.broadcast4 = ip4 === null ? 0 : makeBroadcast(ip4);
    this.outbound4 = makeOutboundWords(ip4);
    this.outbound6 = makeOutboundWords(ip6);
  }

  /** The configuration was replaced. */
  reconfigure(): void {
    const { ip4 } = this.ctx.config;
    this.broadcast4 = ip4 === null ? 0 : makeBroadcast(ip4);
  }

  /** Makes the new socket `fd` one toward `target`, port `dstPort`. Returns 0 or -errno; the caller closes it then. */
  prepare(fd: number, family: number, target: NatResult, srcPort: number, dstPort: number): number {
    const { dst } = target;
    const v4 = family === AF_INET;
    this.group =
      isMulticast(dst[0], dst[1], dst[2], dst[3]) ||
      (v4 && (dst[3] === IPV4_BROADCAST || (dst[3] === this.broadcast4 && this.broadcast4 !== 0)));
    this.anyPort = !this.group && dstPort === PORT_TFTP;
    const bound = this.bind(fd, family, target, srcPort);
    if (bound < 0) return bound;
    this.portKept = bound > 0;
    const { io } = this.ctx;
    if (v4) {
      io.setsockopt(fd, IPPROTO_IP, IP_RECVERR, 1);
      io.setsockopt(fd, IPPROTO_IP, IP_RECVTTL, 1);
      io.setsockopt(fd, IPPROTO_IP, IP_RECVTOS, 1);
    } else {
      io.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
      io.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
      io.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
    }
    if (this.anyPort) return 0;
    if (!this.group) {
      addrSlotWrite(io.addrs, SLOT_ADDR, family, dstPort, target.scope, dst[0], dst[1], dst[2], dst[3]);
      const r = io.connect(fd, SLOT_ADDR);
      // Without SO_BROADCAST that is the kernel's word for a broadcast address of a network of its own.
      if (r !== -EACCES || !v4) return r;
      this.group = true;
    }
    this.prepareGroup(fd, v4);
    return 0;
  }

  /**
   * Binds to the guest's source port and the interface and address configured for outgoing traffic. Returns 1, 0 if the
   * port is the kernel's choice, or -errno.
   */
  private bind(fd: number, family: number, target: NatResult, srcPort: number): number {
    const { io, config } = this.ctx;
    const v4 = family === AF_INET;
    const from = v4 ? this.outbound4 : this.outbound6;
    let w0 = 0;
    let w1 = 0;
    let w2 = 0;
    let w3 = 0;
    if (!target.local) {
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
    // One port of the guest talks to many: each flow's socket is bound to the same port. Not so one without a peer, which
    // would take datagrams from a service of the host that shares its port with us; it lets others in once it has it.
    const unconnected = this.group || this.anyPort;
    if (!unconnected) io.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    addrSlotWrite(io.addrs, SLOT_ADDR, family, srcPort, 0, w0, w1, w2, w3);
    const r = io.bind(fd, SLOT_ADDR);
    if (unconnected) io.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (r >= 0) return 1;
    // Privileged, or taken by a service of the host: any port is better than no datagram.
    if (r !== -EACCES && r !== -EADDRINUSE) return r;
    if (isUnspecified(w0, w1, w2, w3)) return 0;
    addrSlotWrite(io.addrs, SLOT_ADDR, family, 0, 0, w0, w1, w2, w3);
    const again = io.bind(fd, SLOT_ADDR);
    return again < 0 ? again : 0;
  }

  /** For a socket that sends to a group or to all, and takes answers from anyone; not what other sockets joined for. */
  private prepareGroup(fd: number, v4: boolean): void {
    const { io, config } = this.ctx;
    if (v4) {
      io.setsockopt(fd, SOL_SOCKET, SO_BROADCAST, 1);
      io.setsockopt(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0);
      const from = this.outbound4[3];
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
