/** Ping sockets: bound as configured, connected, and looked at again when the host's network changed. */
import { addrSlotsEqual, addrSlotWrite, copyWords, familyOf, makeWords } from '../ip/address';
import { ADDR_SLOT_PING, ADDR_SLOT_PING_NOW, ADDR_SLOT_PING_WAS } from '../scratch';
import type { StackContext } from '../context';
import { NatResult } from '../ip/nat';
import { AF_INET, SOCK_ICMP } from '../ports';
import {
  EACCES,
  IP_RECVERR,
  IP_RECVTOS,
  IP_RECVTTL,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_RECVERR,
  IPV6_RECVHOPLIMIT,
  IPV6_RECVTCLASS,
  SO_BROADCAST,
  SOL_SOCKET,
} from '../kit/linux';
import type { PingFlows } from './flows';

export class PingSockets {
  /** Counts changes of the host's network. */
  epoch: number;
  private readonly ctx: StackContext;
  private readonly outbound4: Int32Array | null;
  private readonly outbound6: Int32Array | null;
  private readonly target: NatResult;

  constructor(ctx: StackContext) {
    const { ip4, ip6 } = ctx.config;
    this.epoch = 0;
    this.ctx = ctx;
    this.outbound4 = ip4 === null ? null : makeWords(ip4.outboundAddr);
    this.outbound6 = ip6 === null ? null : makeWords(ip6.outboundAddr);
    this.target = new NatResult();
  }

  /** The host's network changed. */
  moved(): void {
    this.epoch = (this.epoch + 1) | 0;
  }

  /**
   * Does the flow's socket have the address that the kernel would choose now? Looked at once after each change. A
   * socket that has no way there fits as well as a new one would.
   */
  fits(slot: number, flows: PingFlows): boolean {
    if (flows.epoch[slot] === this.epoch) return true;
    flows.epoch[slot] = this.epoch;
    const { target } = this;
    const { io } = this.ctx;
    copyWords(flows.peer, 4 * slot, target.dst, 0);
    target.scope = flows.scope[slot];
    target.local = flows.local[slot] === 1;
    const family = familyOf(target.dst, 0);
    const fd = io.socket(family, SOCK_ICMP);
    if (fd < 0) return true;
    const found = this.connect(fd, family, target) === 0 && io.getsockname(fd, ADDR_SLOT_PING_NOW) === 0;
    io.close(fd);
    if (!found || io.getsockname(flows.fd[slot], ADDR_SLOT_PING_WAS) < 0) return true;
    return addrSlotsEqual(io.addrs, ADDR_SLOT_PING_NOW, ADDR_SLOT_PING_WAS);
  }

  /** Binds as configured, connects to `target`, prepares for what is read. Returns 0 or -errno. */
  prepare(fd: number, family: number, target: NatResult): number {
    const { io } = this.ctx;
    if (family === AF_INET) {
      io.setsockopt(fd, IPPROTO_IP, IP_RECVERR, 1);
      io.setsockopt(fd, IPPROTO_IP, IP_RECVTTL, 1);
      io.setsockopt(fd, IPPROTO_IP, IP_RECVTOS, 1);
    } else {
      io.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
      io.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
      io.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
    }
    return this.connect(fd, family, target);
  }

  private connect(fd: number, family: number, target: NatResult): number {
    const { io, config } = this.ctx;
    const { dst, scope, local } = target;
    const v4 = family === AF_INET;
    if (!local) {
      const ifname = v4 ? config.ip4?.outboundIf : config.ip6?.outboundIf;
      if (typeof ifname === 'string') {
        const r = io.bindToDevice(fd, ifname);
        if (r < 0) return r;
      }
      const from = v4 ? this.outbound4 : this.outbound6;
      if (from !== null) {
        addrSlotWrite(io.addrs, ADDR_SLOT_PING, family, 0, 0, from, 0);
        const r = io.bind(fd, ADDR_SLOT_PING);
        if (r < 0) return r;
      }
    }
    addrSlotWrite(io.addrs, ADDR_SLOT_PING, family, 0, scope, dst, 0);
    const r = io.connect(fd, ADDR_SLOT_PING);
    if (r !== -EACCES || !v4) return r;
    io.setsockopt(fd, SOL_SOCKET, SO_BROADCAST, 1);
    return io.connect(fd, ADDR_SLOT_PING);
  }
}
