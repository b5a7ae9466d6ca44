/** Pays what a flow owes to the guest: the one place where segments of a flow are sent. */
import {
  F_ACK_DUE,
  F_HOST_ERROR,
  F_PROBE_DUE,
  F_RTX_DUE,
  F_SYN_DUE,
  ST_OPEN,
  ST_RESET,
  ST_SYN_RCVD,
  ST_SYN_SENT,
  ST_TIME_WAIT,
} from './flow';
import type { TcpEngine } from './flow';
import { release, resetBoth } from './close';
import { OUT_BUDGET, OUT_STARVED, discardAcked, output, retransmitFirst } from './output';
import { sendAck, sendProbe, sendReset, sendSyn } from './send';

/** More flows than this in the ready queue are a crowd: the last of them would be served late. */
const CROWD = 32;

/**
 * Sends whatever the flow owes. If there are no receive buffers, or the flow's budget is used up, it goes to the end
 * of the ready queue. May release the flow.
 */
export function service(t: TcpEngine, flow: number): void {
  if (t.starved) {
    // Others wait already: no overtaking. Freeing room in the host's socket needs no buffer of the guest.
    if (t.state[flow] === ST_OPEN) discardAcked(t, flow);
    if (owes(t, flow)) t.ready.push(flow);
    return;
  }
  switch (t.state[flow]) {
    case ST_RESET:
      if (!sendReset(t, flow, t.backoff[flow])) wait(t, flow);
      else release(t, flow);
      return;
    case ST_SYN_SENT:
      if ((t.flags[flow] & F_SYN_DUE) !== 0 && !sendSyn(t, flow)) wait(t, flow);
      return;
    case ST_SYN_RCVD:
      if ((t.flags[flow] & F_SYN_DUE) !== 0 && !sendSyn(t, flow)) wait(t, flow);
      else acknowledge(t, flow);
      return;
    case ST_TIME_WAIT:
      acknowledge(t, flow);
      return;
    case ST_OPEN:
      serviceOpen(t, flow);
      return;
    default:
      return;
  }
}

/** True unless the flow certainly has nothing to send. */
function owes(t: TcpEngine, flow: number): boolean {
  if (t.state[flow] === ST_OPEN) return true;
  return (t.flags[flow] & (F_ACK_DUE | F_SYN_DUE)) !== 0 || t.state[flow] === ST_RESET;
}

function serviceOpen(t: TcpEngine, flow: number): void {
  discardAcked(t, flow);
  if ((t.flags[flow] & F_RTX_DUE) !== 0 && retransmitFirst(t, flow) === OUT_STARVED) {
    wait(t, flow);
    return;
  }
  const result = output(t, flow);
  if (result === OUT_STARVED) {
    wait(t, flow);
    return;
  }
  if (result === OUT_BUDGET) {
    t.ready.push(flow);
  } else if ((t.flags[flow] & F_HOST_ERROR) !== 0) {
    resetBoth(t, flow);
    return;
  }
  if ((t.flags[flow] & F_PROBE_DUE) !== 0 && !sendProbe(t, flow)) {
    wait(t, flow);
    return;
  }
  acknowledge(t, flow);
}

function acknowledge(t: TcpEngine, flow: number): void {
  // A segment with data has told everything an acknowledgement would, but for duplicates the guest is to count.
  if ((t.flags[flow] & F_ACK_DUE) === 0 && t.dupOwed[flow] === 0) return;
  if (!sendAck(t, flow)) wait(t, flow);
}

function wait(t: TcpEngine, flow: number): void {
  if (!t.starved) {
    t.starved = true;
    t.starvedAt = t.clock.nowMs;
  }
  t.ready.push(flow);
}

/**
 * New receive buffers, and a crowd that waits for them: acknowledgements first, as they take one buffer each. Behind the
 * data of hundreds of flows they would come later than the guest's retransmission time-out (200 ms on Linux), and
 * everything they acknowledge would be sent again.
 */
export function acknowledgeCrowd(t: TcpEngine): void {
  if (t.ready.length <= CROWD) return;
  for (let n = t.ready.length; n > 0 && !t.starved; n--) {
    const flow = t.ready.shift();
    if (t.state[flow] === ST_OPEN) {
      t.ready.push(flow);
      acknowledge(t, flow);
    } else {
      service(t, flow);
    }
  }
}

/** New receive buffers, or a new turn: serves the flows that waited, each once, in turn. */
export function serveReady(t: TcpEngine): void {
  for (let n = t.ready.length; n > 0 && !t.starved; n--) service(t, t.ready.shift());
}

/** Serves the flows of this batch. */
export function serveTouched(t: TcpEngine): void {
  for (let flow = t.touched.shift(); flow >= 0; flow = t.touched.shift()) service(t, flow);
}
