/** Ping sockets: bound as configured, connected, and looked at again when the host's network changed. */
import { addrSlotsEqual, addrSlotWrite, copyWords, familyOf } from '../ip/address';
import { ADDR_SLOT_PING, ADDR_SLOT_PING_NOW, ADDR_SLOT_PING_WAS } from '../scratch';
import type { StackContext } from '../context';
import { NatResult } from '../ip/nat';
import { OutboundBinding } from '../ip/outbound-binding';
import { receiveErrorsAndMarks } from '../ip/socket-options';
import { AF_INET, SOCK_ICMP } from '../ports';
import { EACCES, SO_BROADCAST, SOL_SOCKET } from '../kit/linux';
import type { PingFlows } from './flows';

export class PingSockets {
  /** Counts changes of the host's network. */
  epoch: number;
  private readonly ctx: StackContext;
  private readonly binding: OutboundBinding;
  private readonly target: NatResult;

  constructor(ctx: StackContext) {
    this.epoch = 0;
    this.ctx = ctx;
    this.binding = new OutboundBinding(ctx, ADDR_SLOT_PING);
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
    receiveErrorsAndMarks(this.ctx.io, fd, family === AF_INET);
    return this.connect(fd, family, target);
  }

  private connect(fd: number, family: number, target: NatResult): number {
    const { binding } = this;
    const { io } = this.ctx;
    const v4 = family === AF_INET;
    let r = binding.bindToInterface(fd, v4, target);
    if (r >= 0 && binding.hasSource(v4, target)) r = binding.bind(fd, v4, target, 0);
    if (r < 0) return r;
    addrSlotWrite(io.addrs, ADDR_SLOT_PING, family, 0, target.scope, target.dst, 0);
    r = io.connect(fd, ADDR_SLOT_PING);
    if (r !== -EACCES || !v4) return r;
    io.setsockopt(fd, SOL_SOCKET, SO_BROADCAST, 1);
    return io.connect(fd, ADDR_SLOT_PING);
  }
}
