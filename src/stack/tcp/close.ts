/** How a flow ends: finished, reset from either side, timed out, discarded. */
import { C_FLOWS_TCP } from '../counters';
import { END_CLOSED } from '../kit/flow-rows';
import {
  F_ACK_OWED,
  F_ACTIVE_CLOSE,
  F_ANSWERS,
  F_FIN_ACKED,
  F_GUEST_FIN,
  F_HELD,
  F_HOST_EOF,
  F_SYN_DUE,
  ST_FREE,
  ST_OPEN,
  ST_RESET,
  ST_TIME_WAIT,
  TIMERS,
  TIME_WAIT_MS,
  TIMER_IDLE,
  TIMER_MAIN,
  TIMER_WINDOW,
  cancelTimer,
  setTimer,
} from './flow';
import type { TcpEngine } from './flow';
import { forgetHeld } from './first-bytes';
import { keepCounts, noteEnd } from './flow-view';
import { discardAcked } from './output';
import { sendReset } from './send';

/** The flow counts no more toward anybody's share (admission.ts). */
function countOut(t: TcpEngine, flow: number): void {
  const owner = t.owner[flow];
  t.owner[flow] = -1;
  t.outward.remove(flow);
  t.inward.remove(flow);
  t.halfClosed.remove(flow);
  t.acceptBlocked = false;
  if (owner < 0) {
    t.guestFlows--;
    return;
  }
  const listener = t.listeners[owner];
  if (listener !== null) listener.flows--;
  t.peers[t.bucket[flow]]--;
}

/** Gives the slot back. The socket must be closed, or is closed now in an orderly way. */
export function release(t: TcpEngine, flow: number): void {
  if (t.state[flow] === ST_FREE) return;
  t.gathered.drop(flow);
  if ((t.flags[flow] & (F_HELD | F_ANSWERS)) !== 0) forgetHeld(t, flow);
  if (t.fd[flow] >= 0) t.io.close(t.fd[flow]);
  t.fd[flow] = -1;
  for (let kind = 0; kind < TIMERS; kind++) cancelTimer(t, flow, kind);
  t.ready.remove(flow);
  t.throttled.remove(flow);
  t.light.remove(flow);
  t.touched.remove(flow);
  t.lingering.remove(flow);
  t.table.remove(flow);
  t.table.free(flow);
  // A flow in TIME-WAIT is not open any more and was counted out before.
  if (t.state[flow] !== ST_TIME_WAIT) {
    t.ctx.counters[C_FLOWS_TCP]--;
    countOut(t, flow);
  }
  t.acceptBlocked = false;
  t.state[flow] = ST_FREE;
  t.flags[flow] = 0;
}

/** The flow ends at once, for `reason` (END_…): the peer sees a reset, the guest nothing. */
export function abortHost(t: TcpEngine, flow: number, reason: number): void {
  noteEnd(t, flow, reason);
  if (t.fd[flow] >= 0) t.io.abort(t.fd[flow]);
  t.fd[flow] = -1;
  release(t, flow);
}

/**
 * Resets the flow toward both sides, for `reason` (END_…). The RST to the guest is sent now or, if there is no receive buffer, when one
 * comes; until then the slot stays taken.
 */
export function resetBoth(t: TcpEngine, flow: number, reason: number): void {
  const before = t.state[flow];
  if (before === ST_FREE || before === ST_RESET) return;
  noteEnd(t, flow, reason);
  keepCounts(t, flow);
  t.gathered.drop(flow);
  if ((t.flags[flow] & (F_HELD | F_ANSWERS)) !== 0) forgetHeld(t, flow);
  if (t.fd[flow] >= 0) t.io.abort(t.fd[flow]);
  t.fd[flow] = -1;
  // Without a link nothing is owed: the guest's next segment will find no flow.
  if (before === ST_TIME_WAIT || !t.port.up || (!t.turn.starved && sendReset(t, flow, before))) {
    release(t, flow);
    return;
  }
  t.turn.starve(t.clock.nowMs);
  for (let kind = 0; kind < TIMERS; kind++) cancelTimer(t, flow, kind);
  t.state[flow] = ST_RESET;
  t.resetFrom[flow] = before;
  t.flags[flow] &= ~(F_ACK_OWED | F_SYN_DUE);
  t.ready.remove(flow);
  t.throttled.remove(flow);
  t.outward.remove(flow);
  t.inward.remove(flow);
  t.halfClosed.remove(flow);
  t.light.push(flow);
}

/** Ends the flow if both directions are done (RFC 9293 §3.6). Returns true if it is no longer OPEN. */
export function finishIfDone(t: TcpEngine, flow: number): boolean {
  if (t.state[flow] !== ST_OPEN) return true;
  const done = F_HOST_EOF | F_FIN_ACKED | F_GUEST_FIN;
  if ((t.flags[flow] & done) !== done) return false;
  // The guest has all of it, maybe only since this very batch. Linux answers the closing of a socket that has bytes
  // left
  // to read with a reset (RFC 2525 §2.17), and the peer would lose what is still on its way to it.
  discardAcked(t, flow);
  noteEnd(t, flow, END_CLOSED);
  if ((t.flags[flow] & F_ACTIVE_CLOSE) === 0) {
    // LAST-ACK: the guest keeps TIME-WAIT.
    release(t, flow);
    return true;
  }
  keepCounts(t, flow);
  t.io.close(t.fd[flow]);
  t.fd[flow] = -1;
  t.state[flow] = ST_TIME_WAIT;
  cancelTimer(t, flow, TIMER_IDLE);
  cancelTimer(t, flow, TIMER_WINDOW);
  cancelTimer(t, flow, TIMER_MAIN);
  setTimer(t, flow, TIMER_MAIN, TIME_WAIT_MS);
  t.lingering.push(flow);
  t.ctx.counters[C_FLOWS_TCP]--;
  countOut(t, flow);
  return true;
}
