/**
 * One guest's network: frames, socket events and timers, each handed to the handler it belongs to.
 *
 * Theory of operation. The data plane calls in, in each turn of its loop: `onSocket` for ready descriptors, `fromGuest`
 * while frames wait, `onGuestReady` after the guest posted receive buffers, `onTimer` always; and it publishes what was
 * committed by one `port.flush()` at the end of the turn. Nothing here is re-entrant.
 *
 * What becomes of a frame is from-guest.ts's to say.
 */
import type { Adoption, FileAnswer, ForwardChange, StackConfig } from './config';
import type { FlowHandler, StackContext, StackHandlers } from './context';
import { FramesFromGuest } from './from-guest';
import {
  KEY_BYPASS_TCP,
  KEY_INDEX_MASK,
  KEY_KIND_SHIFT,
  KEY_PING,
  KEY_TCP,
  KEY_TCP_LISTENER,
  KEY_UDP,
  KEY_UDP_LISTENER,
} from './context';
import { type FlowView, type Look, LOOK_TOOK_US, lookAt } from './kit/flow-rows';
import { describeGuest } from './link/seen';
import { LinkServices } from './link/services';
import type { GuestPort } from './ports';
import type { PolicySetup } from './policy/types';
import type { Traffic } from './ip/guest-hints';

export class Stack {
  private readonly ctx: StackContext;
  private readonly tcp: FlowHandler;
  private readonly udp: FlowHandler;
  private readonly icmp: FlowHandler;
  private readonly services: LinkServices;
  private readonly frames: FramesFromGuest;
  /** By FLOW_TCP, FLOW_UDP, FLOW_ICMP, and with a bypass its own. */
  private readonly views: readonly FlowView[];

  constructor(ctx: StackContext, handlers: StackHandlers) {
    this.ctx = ctx;
    this.tcp = handlers.tcp;
    this.udp = handlers.udp;
    this.icmp = handlers.icmp;
    this.views = [handlers.tcp.view, handlers.udp.view, handlers.icmp.view, ...(ctx.bypass?.views ?? [])];
    this.services = new LinkServices(ctx);
    this.frames = new FramesFromGuest(ctx, handlers, this.services);
  }

  /** True if flows wait for another turn without any event to come. */
  get busy(): boolean {
    return this.tcp.busy || this.udp.busy || this.icmp.busy || this.ctx.bypass?.busy === true;
  }

  /** What has passed, for the loop to take note of. */
  get traffic(): Traffic {
    return this.ctx.traffic;
  }

  /** Once, on the thread that runs the stack, when descriptors can be watched. */
  start(): void {
    this.tcp.start?.();
    this.udp.start?.();
    this.icmp.start?.();
    this.ctx.bypass?.start();
  }

  /** Frames of the guest's that wait have to wait until `nextDeadline`, for the rate that it may send at. */
  get fromGuestHeld(): boolean {
    return this.frames.held;
  }

  /** The guest's frames pass by `port` from now on, which leads to the same guest. Between frames: nothing is reserved. */
  usePort(port: GuestPort): void {
    if (this.ctx.port === port) return;
    this.ctx.port = port;
    this.tcp.portChanged?.();
  }

  /** How much may pass, bits in a second; 0: no limit. */
  setRates(toGuest: number, fromGuest: number): void {
    const { clock, link } = this.ctx;
    link.rates.in.set(clock, toGuest);
    link.rates.out.set(clock, fromGuest);
  }

  /** Handles up to `budget` frames of the guest's. Returns true if there may be more. */
  fromGuest(budget: number): boolean {
    return this.frames.take(budget);
  }

  /** A watched descriptor is ready: `key` and `generation` as given to `HostIo.watch`. */
  onSocket(key: number, generation: number, events: number): void {
    const kind = key >>> KEY_KIND_SHIFT;
    const index = key & KEY_INDEX_MASK;
    if (kind >= KEY_BYPASS_TCP) {
      this.ctx.bypass?.onSocket(kind, index, generation, events);
      return;
    }
    if (kind !== KEY_TCP) this.ctx.traffic.light = true;
    switch (kind) {
      case KEY_TCP:
      case KEY_TCP_LISTENER:
        this.tcp.onSocket(kind, index, generation, events);
        break;
      case KEY_UDP:
      case KEY_UDP_LISTENER:
        this.udp.onSocket(kind, index, generation, events);
        break;
      case KEY_PING:
        this.icmp.onSocket(kind, index, generation, events);
        break;
      default:
        break;
    }
  }

  /** The guest posted receive buffers. */
  onGuestReady(): void {
    this.services.onGuestReady();
    this.tcp.onGuestReady();
    this.udp.onGuestReady();
    this.icmp.onGuestReady();
  }

  /** Runs due timers. Called every turn, so that `busy` handlers continue. */
  onTimer(): void {
    this.services.onTimer();
    this.tcp.onTimer();
    this.udp.onTimer();
    this.icmp.onTimer();
    this.ctx.bypass?.onTimer();
    this.frames.onTimer();
    if (this.ctx.link.stations.asking) this.services.ask();
  }

  /** Milliseconds (clock.nowMs scale) of the earliest timer, or Infinity. */
  nextDeadline(): number {
    return Math.min(
      this.services.nextDeadline(),
      this.tcp.nextDeadline(),
      this.udp.nextDeadline(),
      this.icmp.nextDeadline(),
      this.frames.nextDeadline(),
      this.ctx.bypass?.nextDeadline() ?? Infinity,
    );
  }

  /** Both rings run. */
  onLinkUp(): void {
    this.services.onLinkUp();
    this.tcp.onGuestStart?.();
  }

  /** The host's network changed: `config` holds from now on. Flows stay as they are. */
  reconfigure(config: StackConfig): void {
    this.services.reconfigure(config);
    this.tcp.reconfigure?.();
    this.udp.reconfigure?.();
    this.icmp.reconfigure?.();
    this.services.readvertise();
  }

  /** The host's addresses or routes changed, but nothing that concerns the guest's configuration. */
  moved(): void {
    this.tcp.moved?.();
    this.udp.moved?.();
    this.icmp.moved?.();
  }

  /** Whom the guest may talk to from now on; flows that it may not have are closed. */
  setPolicy(setup: PolicySetup): void {
    this.ctx.link.policy.set(setup);
    this.tcp.enforce?.();
    this.udp.enforce?.();
    this.icmp.enforce?.();
    this.ctx.bypass?.enforce();
  }

  /** Ports that are forwarded from now on, or no more. */
  forward(change: ForwardChange): void {
    this.tcp.makeForwards?.(change);
    this.udp.makeForwards?.(change);
    this.ctx.bypass?.makeForwards(change);
  }

  /** Where the bypass gets sockets of the namespace. */
  setBypass(channel: number): void {
    this.ctx.bypass?.setChannel(channel);
  }

  /** A TCP connection of the service's own for the guest. False: it could not be taken. */
  adopt(adoption: Adoption): boolean {
    return this.tcp.adopt?.(adoption) === true;
  }

  /** The front-end configured the link's MTU (NET_SET_MTU); 0: it left. */
  setMtu(mtu: number): void {
    this.services.setMtu(mtu);
  }

  /** The host's neighbours are `entries` from now on (NEIGHBOUR_WORDS each). */
  setNeighbours(entries: Int32Array): void {
    this.services.setNeighbours(entries);
  }

  /** Writes what is known of the guest to `out` (link/seen.ts). Returns how many addresses it has. */
  describeGuest(out: Int32Array): number {
    return describeGuest(this.ctx.link, out);
  }

  /** What flows there are: see `lookAt` (kit/flow-rows.ts). Returns where the next look begins, or LOOK_END. Cold. */
  look(into: Float64Array, what: Look): number {
    const began = this.ctx.clock.nowUs();
    const next = lookAt(this.views, into, what);
    into[LOOK_TOOK_US] = this.ctx.clock.nowUs() - began;
    return next;
  }

  /** Closes the flow of `protocol` (FLOW_…) that has `slot` in `generation`. False: there is none (any more). */
  closeFlow(protocol: number, slot: number, generation: number): boolean {
    return protocol < this.views.length && this.views[protocol].close(slot, generation);
  }

  /** A piece of a file that the TFTP server asked for. */
  fileRead(answer: FileAnswer): void {
    this.services.tftp?.fileRead(answer);
  }

  /** The guest was reset or rebooted: flows are closed, what was learnt of it is forgotten. */
  reset(): void {
    this.tcp.reset();
    this.udp.reset();
    this.icmp.reset();
    this.ctx.bypass?.reset();
    this.frames.reset();
    this.services.reset();
  }
}
