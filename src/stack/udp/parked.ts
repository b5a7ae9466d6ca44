/**
 * Messages to the guest that wait in scratch memory, after the call that received them: they did not fit the frames that
 * were reserved for them, or had to be looked at first. All are of one socket. Message `m` of MSG_IN has its bytes at
 * SCRATCH_UDP + (m - MSG_IN) * SCRATCH_UDP_STEP; nothing else is received to there before they have left.
 */
import type { StackContext } from '../context';
import { C_DROPS_TO_GUEST } from '../counters';
import type { Clock } from '../ports';
import { MSG_IN, SCRATCH_UDP, SCRATCH_UDP_STEP } from '../scratch';
import { STALLED, type UdpDeliver } from './deliver';
import type { UdpRoute } from './route';

export class ParkedMessages {
  /** The socket, numbered as in inbound.ts; -1: nothing waits. */
  id: number;
  private readonly ctx: StackContext;
  private readonly deliver: UdpDeliver;
  private readonly route: UdpRoute;
  private first: number;
  private end: number;

  constructor(ctx: StackContext, deliver: UdpDeliver, route: UdpRoute) {
    this.id = -1;
    this.ctx = ctx;
    this.deliver = deliver;
    this.route = route;
    this.first = 0;
    this.end = 0;
  }

  /** Messages `first … end - 1` of socket `id` wait; nothing waited before. */
  put(id: number, first: number, end: number): void {
    this.id = id;
    this.first = first;
    this.end = end;
  }

  /** Moves what waits to the guest. False if there is no room for all of it. */
  move(): boolean {
    const { ctx, deliver, route } = this;
    const { io, counters } = ctx;
    for (; this.first < this.end; this.first++) {
      const m = this.first;
      if (io.msgLen[m] < 0) continue; // it took the bypass
      const code = route.find(this.id, m);
      // Looking for the flow may have cost this one its place.
      if (this.id < 0) return true;
      if (code !== 0) {
        counters[C_DROPS_TO_GUEST + code]++;
        continue;
      }
      const at = SCRATCH_UDP + (m - MSG_IN) * SCRATCH_UDP_STEP;
      if (deliver.move(-1, at, io.msgLen[m], io.msgSegment[m], io.msgTtl[m], io.msgTos[m]) === STALLED) return false;
      route.touch(io.msgLen[m]);
    }
    this.id = -1;
    return true;
  }

  /** Gives up what waits. Returns how many messages that were. */
  drop(): number {
    this.id = -1;
    return this.end - this.first;
  }
}

/** A datagram that the guest's idle ring cannot hold is tried again so much later, and then given up, ms. */
const STUCK_MS = 50;

/** The first socket whose datagram waits for more receive buffers than the guest has posted, and until when it may. */
export class StuckSocket {
  /** Numbered as in inbound.ts; valid while `untilMs` is finite. */
  id: number;
  /** When its datagram is given up; Infinity: none is stuck. */
  untilMs: number;
  private readonly clock: Clock;

  constructor(clock: Clock) {
    this.id = -1;
    this.untilMs = Infinity;
    this.clock = clock;
  }

  /** Socket `id` is stuck, unless another was before it. */
  begin(id: number): void {
    if (this.untilMs !== Infinity) return;
    this.untilMs = this.clock.nowMs + STUCK_MS;
    this.id = id;
  }

  /** What waited in socket `id` has left. */
  end(id: number): void {
    if (this.id === id) this.untilMs = Infinity;
  }
}
