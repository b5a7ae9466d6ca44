/**
 * The bypass: what passes between the host's loopback and the loopback of a namespace goes from socket to socket, and never
 * over the tap device. Its parts are tcp.ts and udp.ts; here are the listeners inside the namespace (`-T`, `-U`), and what
 * the stack tells all of them.
 */
import { addrSlotRead, isLoopback } from '../ip/address';
import type { BypassSetup, ForwardChange, ForwardListener } from '../config';
import {
  type Bypass,
  KEY_BYPASS_LISTENER,
  KEY_BYPASS_STOCK,
  KEY_BYPASS_TCP,
  KEY_BYPASS_UDP,
  KEY_KIND_SHIFT,
  type StackContext,
} from '../context';
import { C_DROPS, C_DROPS_TO_GUEST, dropCode } from '../counters';
import type { FlowView } from '../kit/flow-rows';
import { SlotQueue } from '../kit/flow-table';
import { EAGAIN, ECONNABORTED } from '../kit/linux';
import { REST_MS } from '../kit/resting';
import { AF_INET, AF_INET6, EPOLLET, EPOLLIN } from '../ports';
import { ADDR_SLOT_TCP } from '../scratch';
import { BypassEnds } from './ends';
import type { SpliceIo } from './io';
import { NamespaceSockets } from './sockets';
import { SpliceTcp } from './tcp';
import { SpliceUdp } from './udp';

export { SPLICE_BLOCK } from './batch';

/** Listeners inside at the most. */
export const MOST_INSIDE = 1024;
const ACCEPTED_AT_ONCE = 64;
const RETRY_MS = 1100;

const DROP_NO_DESCRIPTORS = dropCode('no_descriptors');
const DROP_DESTINATION_INVALID = dropCode('destination_invalid');

export class LoopbackBypass implements Bypass {
  readonly views: readonly FlowView[];
  readonly inward: boolean;
  private readonly ctx: StackContext;
  private readonly io: SpliceIo;
  private readonly setup: BypassSetup;
  private readonly tcp: SpliceTcp;
  private readonly udp: SpliceUdp;
  private readonly ends: BypassEnds;
  private readonly sockets: NamespaceSockets;
  private readonly inside: (ForwardListener | null)[];
  /** Listeners inside with connections in their backlog, and when they are tried; 0: as soon as there is room. */
  private readonly acceptable: SlotQueue;
  private acceptAt: number;
  /** When those that wait for a socket of the namespace look again. */
  private retryAt: number;
  private readonly initial: readonly ForwardListener[];
  private readonly peer: Int32Array;

  /** `block`: memory for datagrams. */
  constructor(
    ctx: StackContext,
    io: SpliceIo,
    setup: BypassSetup,
    listeners: readonly ForwardListener[],
    block: { readonly region: number },
  ) {
    const { config } = ctx;
    this.ctx = ctx;
    this.io = io;
    this.setup = setup;
    this.inward = setup.inward;
    this.initial = listeners;
    this.ends = new BypassEnds(ctx, setup.keepsLoopback);
    const families = [...(setup.v4 ? [AF_INET] : []), ...(setup.v6 ? [AF_INET6] : [])];
    this.sockets = new NamespaceSockets(io, families);
    this.tcp = new SpliceTcp(ctx, io, Math.max(16, config.maxTcpFlows >> 3), this.sockets, this.ends);
    this.udp = new SpliceUdp(ctx, io, Math.max(16, config.maxUdpFlows >> 3), this.sockets, this.ends, block.region);
    this.views = [this.tcp, this.udp];
    this.inside = new Array<ForwardListener | null>(MOST_INSIDE).fill(null);
    this.acceptable = new SlotQueue(MOST_INSIDE);
    this.acceptAt = 0;
    this.retryAt = 0;
    this.peer = new Int32Array(4);
  }

  get busy(): boolean {
    return this.tcp.busy || this.udp.busy || this.canAccept;
  }

  start(): void {
    this.makeForwards({ remove: [], add: this.initial, closeFlows: false });
    if (this.setup.channel >= 0) this.setChannel(this.setup.channel);
  }

  setChannel(fd: number): void {
    this.sockets.setChannel(fd, this.ctx.clock.nowMs);
  }

  takeTcp(fd: number, config: ForwardListener, rule: number): boolean {
    addrSlotRead(this.io.addrs, ADDR_SLOT_TCP, this.peer, 0);
    if (config.targetAddr === null && isLoopback(this.peer, 0)) {
      this.tcp.fromHost(fd, config.fd, config.targetPort, rule);
      return true;
    }
    if (!this.setup.only) return false;
    this.io.abort(fd);
    this.ctx.counters[C_DROPS_TO_GUEST + DROP_DESTINATION_INVALID]++;
    return true;
  }

  takeUdp(fd: number, port: number, targetPort: number, rule: number, first: number, end: number): void {
    this.udp.fromHost(fd, port, targetPort, rule, first, end, this.setup.only);
  }

  onSocket(kind: number, index: number, generation: number, events: number): void {
    switch (kind) {
      case KEY_BYPASS_TCP:
        this.tcp.onSocket(index, generation, events);
        break;
      case KEY_BYPASS_UDP:
        this.udp.flowReadable(index, generation);
        break;
      case KEY_BYPASS_LISTENER:
        this.listenerReadable(index);
        break;
      case KEY_BYPASS_STOCK:
        this.sockets.receive(this.ctx.clock.nowMs);
        this.tcp.serveWaiting();
        break;
      default:
        break;
    }
  }

  onTimer(): void {
    this.tcp.resume();
    this.udp.onTimer();
    if (this.tcp.waits && this.retryAt <= this.ctx.clock.nowMs) {
      this.retryAt = this.ctx.clock.nowMs + RETRY_MS;
      this.tcp.serveWaiting();
    }
    if (this.acceptAt !== 0 && this.acceptAt <= this.ctx.clock.nowMs) this.acceptAt = 0;
    // One that has more in its backlog goes to the end of the queue.
    for (let n = this.acceptable.length; n > 0 && this.canAccept; n--) this.accept(this.acceptable.shift());
  }

  nextDeadline(): number {
    const retryAt = this.tcp.waits ? this.retryAt : Infinity;
    return Math.min(this.udp.dueMs, retryAt, this.acceptAt === 0 ? Infinity : this.acceptAt);
  }

  makeForwards({ remove, add, closeFlows }: ForwardChange): void {
    this.ends.change(remove, add);
    for (const fd of remove) {
      this.tcp.forget(fd, closeFlows);
      this.udp.forget(fd);
      const index = this.inside.findIndex((listener) => listener?.fd === fd);
      if (index < 0) continue;
      this.inside[index] = null;
      this.acceptable.remove(index);
      this.io.unwatch(fd);
    }
    for (const listener of add) {
      if (listener.inside !== true || this.inside.some((other) => other?.fd === listener.fd)) continue;
      const index = this.inside.indexOf(null);
      if (index < 0) return; // the control plane opens no more than there is room for
      this.inside[index] = listener;
      if (listener.protocol === 'udp') this.udp.prepare(listener);
      this.io.watch(listener.fd, EPOLLIN | EPOLLET, (KEY_BYPASS_LISTENER << KEY_KIND_SHIFT) | index, 0);
    }
  }

  enforce(): void {
    this.tcp.enforce();
    this.udp.enforce();
  }

  reset(): void {
    this.tcp.reset();
    this.udp.reset();
  }

  private get canAccept(): boolean {
    return this.acceptable.length > 0 && this.acceptAt === 0 && this.tcp.takesGuest;
  }

  private listenerReadable(index: number): void {
    const listener = this.inside[index];
    if (listener === null) return;
    if (listener.protocol === 'udp') this.udp.fromGuest(listener);
    else if (this.acceptAt === 0 && this.tcp.takesGuest) this.accept(index);
    else this.acceptable.push(index);
  }

  private accept(index: number): void {
    const listener = this.inside[index];
    if (listener?.protocol !== 'tcp') return;
    const { io } = this;
    for (let n = 0; n < ACCEPTED_AT_ONCE && this.tcp.takesGuest; n++) {
      const fd = io.accept(listener.fd, ADDR_SLOT_TCP);
      if (fd >= 0) {
        this.tcp.fromGuest(fd, listener.fd, listener.targetPort, listener.rule ?? 0);
        continue;
      }
      if (fd === -ECONNABORTED) continue;
      if (fd === -EAGAIN) return;
      // No descriptors or memory left: the edge will not come again.
      this.acceptAt = this.ctx.clock.nowMs + REST_MS;
      this.ctx.counters[C_DROPS + DROP_NO_DESCRIPTORS]++;
      break;
    }
    this.acceptable.push(index);
  }
}
