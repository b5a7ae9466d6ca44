/**
 * One guest's network: frames, socket events and timers, each handed to the handler it belongs to.
 *
 * Theory of operation. The data plane calls in, in each turn of its loop: `onSocket` for ready descriptors, `fromGuest`
 * while frames wait, `onGuestReady` after the guest posted receive buffers, `onTimer` always; and it publishes what was
 * committed by one `port.flush()` at the end of the turn. Nothing here is re-entrant.
 *
 * What becomes of a frame is from-guest.ts's to say.
 */
import type { StackConfig } from './config';
import type { FlowHandler, StackContext, StackHandlers } from './context';
import { FramesFromGuest } from './from-guest';
import {
  KEY_INDEX_MASK,
  KEY_KIND_SHIFT,
  KEY_PING,
  KEY_TCP,
  KEY_TCP_LISTENER,
  KEY_UDP,
  KEY_UDP_LISTENER,
} from './context';
import { LinkServices } from './link/services';
import type { Traffic } from './ip/guest-hints';

export class Stack {
  private readonly ctx: StackContext;
  private readonly tcp: FlowHandler;
  private readonly udp: FlowHandler;
  private readonly icmp: FlowHandler;
  private readonly services: LinkServices;
  private readonly frames: FramesFromGuest;

  constructor(ctx: StackContext, handlers: StackHandlers) {
    this.ctx = ctx;
    this.tcp = handlers.tcp;
    this.udp = handlers.udp;
    this.icmp = handlers.icmp;
    this.services = new LinkServices(ctx);
    this.frames = new FramesFromGuest(ctx, handlers, this.services);
  }

  /** True if flows wait for another turn without any event to come. */
  get busy(): boolean {
    return this.tcp.busy || this.udp.busy || this.icmp.busy;
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
  }

  /** Handles up to `budget` frames of the guest's. Returns true if there may be more. */
  fromGuest(budget: number): boolean {
    return this.frames.take(budget);
  }

  /** A watched descriptor is ready: `key` and `generation` as given to `HostIo.watch`. */
  onSocket(key: number, generation: number, events: number): void {
    const kind = key >>> KEY_KIND_SHIFT;
    const index = key & KEY_INDEX_MASK;
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
    this.services.ndp.onTimer();
    this.tcp.onTimer();
    this.udp.onTimer();
    this.icmp.onTimer();
    this.frames.onTimer();
    if (this.ctx.link.stations.asking) this.services.ask();
  }

  /** Milliseconds (clock.nowMs scale) of the earliest timer, or Infinity. */
  nextDeadline(): number {
    return Math.min(
      this.services.ndp.nextDeadline(),
      this.tcp.nextDeadline(),
      this.udp.nextDeadline(),
      this.icmp.nextDeadline(),
      this.frames.nextDeadline(),
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

  /** The front-end configured the link's MTU (NET_SET_MTU); 0: it left. */
  setMtu(mtu: number): void {
    this.services.setMtu(mtu);
  }

  /** The host's neighbours are `entries` from now on (NEIGHBOUR_WORDS each). */
  setNeighbours(entries: Int32Array): void {
    this.services.setNeighbours(entries);
  }

  /** The guest was reset or rebooted: flows are closed, what was learnt of it is forgotten. */
  reset(): void {
    this.tcp.reset();
    this.udp.reset();
    this.icmp.reset();
    this.frames.reset();
    this.services.reset();
  }
}
