/**
 * TCP between the guest and host sockets: the handler that the stack dispatches to. The theory of operation is in
 * flow.ts.
 *
 * | file | what |
 * |---|---|
 * | flow.ts | states, flags, columns, timers of a flow; theory of operation |
 * | input.ts, ack.ts | segments from the guest (RFC 9293 §3.10.7) and their acknowledgements |
 * | output.ts | data from sockets to the guest |
 * | send.ts | headers; segments without data |
 * | window.ts | the window advertised to the guest |
 * | scheduler.ts | sends what flows have pending; the ready queue |
 * | connect.ts, accept.ts | new flows from the guest and from the host |
 * | admission.ts, ../kit/credit.ts | which new flows are admitted: half-open flows, shares of the table, time |
 * | close.ts | ends of flows |
 * | flow-view.ts | flows as others see them: the command `flows`, the flow log |
 * | challenge.ts | bounds on answers to segments outside of any window |
 * | path-mtu.ts | ICMP errors about segments to the guest |
 * | idle.ts | keep-alives |
 * | listener.ts, listener-changes.ts | a forwarded port; those that come and go |
 * | ttl-dscp.ts, traffic-hints.ts | TTL and DSCP of the guest's segments; classification of a flow's traffic |
 * | socket-events.ts, timeout.ts | events and timers |
 */
import type { Adoption, ForwardChange, ForwardListener } from '../config';
import type { FlowHandler, FrameInfo, QuotedPacket, StackContext } from '../context';
import { KEY_TCP, KEY_TCP_LISTENER } from '../context';
import { END_RESET } from '../kit/flow-rows';
import { acceptAll, acceptFrom, canAccept, watchAgain, watchListeners } from './accept';
import { abortHost } from './close';
import { enforcePolicy } from './enforce';
import { ST_FREE, TcpEngine } from './flow';
import { makeAdopted, makeListeners } from './listener-changes';
import { noteRestart } from './idle';
import { TcpFlowView } from './flows-seen';
import { flushGathered, segmentFromGuest } from './input';
import { pathMtu, unreachable } from './path-mtu';
import { acknowledgeCrowd, serveReady, serveTouched, unthrottle } from './scheduler';
import { socketEvent } from './socket-events';
import { runTimers } from './timeout';

/** The port announces new buffers; without an announcement we look again after this time, ms. */
const STARVED_RETRY_MS = 1000;

export class TcpHandler implements FlowHandler {
  /** Everything; for tests and dumps. */
  readonly engine: TcpEngine;
  readonly view: TcpFlowView;

  /**
   * `listeners`: all of the configuration's; the TCP ones are used, keyed by their index here. `more`: how many may be
   * added later.
   */
  constructor(ctx: StackContext, listeners: readonly ForwardListener[], more = 0) {
    this.engine = new TcpEngine(ctx, listeners, more);
    this.view = new TcpFlowView(this.engine);
  }

  /** Begins to accept. The epoll set must exist. */
  start(): void {
    watchListeners(this.engine);
  }

  portChanged(): void {
    this.engine.port = this.engine.ctx.port;
  }

  fromGuest(frame: FrameInfo): number {
    return segmentFromGuest(this.engine, frame);
  }

  endOfBatch(): void {
    const t = this.engine;
    flushGathered(t);
    t.gathered.release();
    serveTouched(t);
  }

  onSocket(kind: number, index: number, generation: number, events: number): void {
    const t = this.engine;
    switch (kind) {
      case KEY_TCP:
        socketEvent(t, index, generation, events);
        return;
      case KEY_TCP_LISTENER: {
        if (index >= t.listeners.length || t.listeners[index]?.open !== true) return;
        acceptFrom(t, index);
        return;
      }
      default:
        return;
    }
  }

  onGuestReady(): void {
    // The rest of what waits is served by `onTimer`, which follows in the same turn.
    this.engine.turn.starved = false;
    acknowledgeCrowd(this.engine);
  }

  /** Called once a turn, also when no timer is due: flows that wait are served from here. */
  onTimer(): void {
    const t = this.engine;
    runTimers(t);
    if (t.turn.starved && t.port.up && t.clock.nowMs - t.turn.starvedAt >= STARVED_RETRY_MS) t.turn.starved = false;
    if (t.throttled.length > 0 && t.ctx.link.rates.in.allows(t.clock)) unthrottle(t);
    if (waiting(t) && !t.turn.starved) serveReady(t);
    t.turn.eager = false;
    if (t.acceptAt !== 0 || canAccept(t)) acceptAll(t);
    if (t.unwatched.dueMs <= t.clock.nowMs) watchAgain(t);
  }

  nextDeadline(): number {
    const t = this.engine;
    let at = Math.min(t.timers.nextDeadline(), t.unwatched.dueMs);
    if (t.acceptAt !== 0 && t.acceptAt < at) at = t.acceptAt;
    if (t.throttled.length > 0) at = Math.min(at, t.ctx.link.rates.in.dueMs(t.clock));
    if (t.turn.starved && t.port.up && waiting(t)) at = Math.min(at, t.turn.starvedAt + STARVED_RETRY_MS);
    return at;
  }

  get busy(): boolean {
    const t = this.engine;
    return (waiting(t) && !t.turn.starved) || canAccept(t);
  }

  makeForwards(change: ForwardChange): void {
    makeListeners(this.engine, change);
  }

  adopt(adoption: Adoption): boolean {
    return makeAdopted(this.engine, adoption);
  }

  onGuestStart(): void {
    noteRestart(this.engine);
  }

  pathMtu(quote: QuotedPacket, mtu: number): boolean {
    return pathMtu(this.engine, quote, mtu);
  }

  unreachable(quote: QuotedPacket): boolean {
    return unreachable(this.engine, quote);
  }

  enforce(): void {
    enforcePolicy(this.engine);
  }

  reset(): void {
    const t = this.engine;
    for (let flow = 0; flow < t.table.capacity; flow++) {
      if (t.state[flow] !== ST_FREE) abortHost(t, flow, END_RESET);
    }
    t.gathered.release();
    t.acceptBlocked = false;
    t.restartAt = -Infinity;
    t.turn.reset();
  }
}

/** True if some flow waits for receive buffers or for its turn. */
function waiting(t: TcpEngine): boolean {
  return t.ready.length > 0 || t.light.length > 0;
}
