/**
 * Sends what a flow has pending for the guest: the one place where segments of a flow are sent. The order of service is
 * explained in flow.ts, "Fairness".
 */
import { END_PEER_RESET } from '../kit/flow-rows';
import {
  F_ACK_DUE,
  F_BULK,
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
import type { SlotQueue } from '../kit/flow-table';
import { release, resetBoth } from './close';
import {
  BULK_SHARE,
  LIGHT_SHARE,
  OUT_BUDGET,
  OUT_IDLE,
  OUT_STARVED,
  discardAcked,
  output,
  retransmitFirst,
} from './output';
import { noteAllSent } from './traffic-hints';
import { sendAck, sendProbe, sendReset, sendSyn } from './send';

/** More flows than this waiting are a crowd: the last of them would be served late. */
const CROWD = 32;
/** A flow that sent this much in one go is bulk until it sends less. */
const BULK_BYTES = LIGHT_SHARE / 2;

/**
 * Sends what the flow owes: all of it, or for a bulk flow the acknowledgement, and its data in its turn. If there are
 * no receive buffers, it waits for them. May release the flow.
 */
export function service(t: TcpEngine, flow: number): void {
  if (t.turn.starved) {
    // Others wait already: no overtaking. Freeing room in the host's socket needs no buffer of the guest.
    if (t.state[flow] === ST_OPEN) discardAcked(t, flow);
    if (owes(t, flow)) queue(t, flow);
    return;
  }
  if ((t.flags[flow] & F_BULK) !== 0 && t.state[flow] === ST_OPEN) {
    acknowledge(t, flow);
    t.ready.push(flow);
    return;
  }
  pay(t, flow);
  if (t.turn.sentNow > 0) t.turn.eager = true;
}

/** Sends whatever the flow owes, up to its share. `turn.sentNow` tells how much payload that was. */
function pay(t: TcpEngine, flow: number): void {
  t.turn.sentNow = 0;
  switch (t.state[flow]) {
    case ST_RESET:
      if (!sendReset(t, flow, t.resetFrom[flow])) wait(t, flow);
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
      payOpen(t, flow);
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

function payOpen(t: TcpEngine, flow: number): void {
  discardAcked(t, flow);
  if ((t.flags[flow] & F_RTX_DUE) !== 0 && retransmitFirst(t, flow) === OUT_STARVED) {
    wait(t, flow);
    return;
  }
  const result = output(t, flow, (t.flags[flow] & F_BULK) !== 0 ? BULK_SHARE : LIGHT_SHARE);
  if (t.turn.sentNow >= BULK_BYTES) t.flags[flow] |= F_BULK;
  else if (t.turn.sentNow > 0) t.flags[flow] &= ~F_BULK;
  if (t.turn.sentNow > 0 && result === OUT_IDLE) noteAllSent(t, flow);
  if (result === OUT_STARVED) {
    wait(t, flow);
    return;
  }
  if (result === OUT_BUDGET) {
    t.flags[flow] |= F_BULK;
    t.ready.push(flow);
  } else if ((t.flags[flow] & F_HOST_ERROR) !== 0) {
    resetBoth(t, flow, END_PEER_RESET);
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

/** The guest has no receive buffer: from now on everybody waits in turn. */
function wait(t: TcpEngine, flow: number): void {
  t.turn.starve(t.clock.nowMs);
  queue(t, flow);
}

function queue(t: TcpEngine, flow: number): void {
  if ((t.flags[flow] & F_BULK) !== 0) t.ready.push(flow);
  else t.light.push(flow);
}

/**
 * New receive buffers, and a crowd that waits for them: acknowledgements first, as they take one buffer each. Behind
 * the data of hundreds of flows they would come later than the guest's retransmission time-out (200 ms on Linux), and
 * everything they acknowledge would be sent again.
 */
export function acknowledgeCrowd(t: TcpEngine): void {
  if (t.light.length + t.ready.length <= CROWD) return;
  acknowledgeAll(t, t.light);
  acknowledgeAll(t, t.ready);
}

function acknowledgeAll(t: TcpEngine, waiting: SlotQueue): void {
  for (let n = waiting.length; n > 0 && !t.turn.starved; n--) {
    const flow = waiting.shift();
    if (t.state[flow] === ST_OPEN) {
      waiting.push(flow);
      acknowledge(t, flow);
    } else {
      pay(t, flow);
    }
  }
}

/** The guest may get more: flows that waited for that are served in turn. */
export function unthrottle(t: TcpEngine): void {
  for (let flow = t.throttled.shift(); flow >= 0; flow = t.throttled.shift()) t.ready.push(flow);
}

/** Once a turn, unless there are no receive buffers: the light flows that waited, each once, then one share of bulk. */
export function serveReady(t: TcpEngine): void {
  if (t.turn.bulkFirst) {
    t.turn.bulkFirst = false;
    serveBulk(t);
  }
  for (let n = t.light.length; n > 0 && !t.turn.starved; n--) {
    pay(t, t.light.shift());
    if (t.turn.sentNow > 0) t.turn.eager = true;
  }
  if (t.turn.starved) t.turn.bulkFirst = t.ready.length > 0;
  else serveBulk(t);
  t.turn.eager = false;
}

/** Bulk flows in turn, each once at the most, until together they have sent about a share. */
function serveBulk(t: TcpEngine): void {
  let left = BULK_SHARE;
  for (let n = t.ready.length; n > 0 && left > BULK_SHARE / 2 && !t.turn.starved; n--) {
    publishLight(t);
    pay(t, t.ready.shift());
    left -= t.turn.sentNow;
  }
}

/** Before a copy that takes its time: the guest gets what light flows have sent in this turn. */
export function publishLight(t: TcpEngine): void {
  if (!t.turn.eager) return;
  t.turn.eager = false;
  t.port.flush();
}

/** Serves the flows of this batch. */
export function serveTouched(t: TcpEngine): void {
  for (let flow = t.touched.shift(); flow >= 0; flow = t.touched.shift()) service(t, flow);
}
