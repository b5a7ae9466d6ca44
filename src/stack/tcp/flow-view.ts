/**
 * A TCP flow as a row of numbers (../kit/flow-rows.ts). Bytes are not counted while they pass: the flow's sequence
 * numbers say how many they were modulo 2^32, and how often that is full the kernel knows (TCP_INFO), whose own numbers
 * count a SYN, a FIN and what lies in its queues.
 */
import { TCPI_BYTES_ACKED, TCPI_BYTES_RECEIVED, TCPI_RTT } from '../ports';
import {
  FLOW_FROM_GUEST,
  FLOW_OF_GUEST,
  FLOW_RTT_US,
  FLOW_RULE,
  FLOW_SINCE,
  FLOW_STATE,
  FLOW_STATE_CLOSING,
  FLOW_STATE_CONNECTING,
  FLOW_STATE_OPEN,
  FLOW_STATE_RESET,
  FLOW_STATE_SYN_RECEIVED,
  FLOW_STATE_SYN_SENT,
  FLOW_STATE_TIME_WAIT,
  FLOW_TO_GUEST,
  viewKey,
} from '../kit/flow-rows';
import { seqDiff } from '../kit/seq';
import {
  F_ENDED,
  F_FIN_ACKED,
  F_GUEST_FIN,
  F_HOST_EOF,
  ST_CONNECTING,
  ST_FREE,
  ST_OPEN,
  ST_RESET,
  ST_SYN_RCVD,
  ST_SYN_SENT,
  ST_TIME_WAIT,
} from './flow';
import type { TcpEngine } from './flow';

const WRAP = 2 ** 32;
/** No flow moves 2^31 bytes in this time, ms: those of one that was shorter are not asked from the kernel. */
const SHORT_MS = 300;

/** Remembers what the kernel has counted of a flow whose socket is closed next, and which is kept without one. */
export function keepCounts(t: TcpEngine, flow: number): void {
  if (t.state[flow] !== ST_OPEN || t.clock.nowMs - t.openedAt[flow] < SHORT_MS) return;
  askCounts(t, flow);
}

/** Returns the round-trip time, µs, or -1. */
function askCounts(t: TcpEngine, flow: number): number {
  if (t.fd[flow] < 0 || t.io.tcpInfo(t.fd[flow]) < 0) return -1;
  const { tcpInfoOut } = t.io;
  t.kernelFrom[flow] = tcpInfoOut[TCPI_BYTES_ACKED];
  t.kernelTo[flow] = tcpInfoOut[TCPI_BYTES_RECEIVED];
  return tcpInfoOut[TCPI_RTT] > 0 ? tcpInfoOut[TCPI_RTT] : -1;
}

/** The number that is `low` modulo 2^32 and nearest to `about`. */
function nearest(low: number, about: number): number {
  const bytes = low >>> 0;
  return bytes + WRAP * Math.max(0, Math.round((about - bytes) / WRAP));
}

function fromGuest(t: TcpEngine, flow: number): number {
  // Before its SYN came nothing can have come.
  const state = stateBefore(t, flow);
  if (state === ST_SYN_SENT || state === ST_CONNECTING) return 0;
  const fin = (t.flags[flow] & F_GUEST_FIN) !== 0 ? 1 : 0;
  return nearest(seqDiff(t.rcvNxt[flow], t.irs[flow]) - 1 - fin, t.kernelFrom[flow]);
}

function toGuest(t: TcpEngine, flow: number): number {
  const state = stateBefore(t, flow);
  if (state === ST_SYN_SENT || state === ST_SYN_RCVD || state === ST_CONNECTING) return 0;
  const fin = (t.flags[flow] & F_FIN_ACKED) !== 0 ? 1 : 0;
  return nearest(seqDiff(t.sndUna[flow], t.iss[flow]) - 1 - fin, t.kernelTo[flow]);
}

/** The state, or of a flow that was reset the one before: its numbers are those of it. */
function stateBefore(t: TcpEngine, flow: number): number {
  return t.state[flow] === ST_RESET ? t.resetFrom[flow] : t.state[flow];
}

function stateOf(t: TcpEngine, flow: number): number {
  switch (t.state[flow]) {
    case ST_CONNECTING:
      return FLOW_STATE_CONNECTING;
    case ST_SYN_SENT:
      return FLOW_STATE_SYN_SENT;
    case ST_SYN_RCVD:
      return FLOW_STATE_SYN_RECEIVED;
    case ST_OPEN:
      return (t.flags[flow] & (F_HOST_EOF | F_GUEST_FIN)) === 0 ? FLOW_STATE_OPEN : FLOW_STATE_CLOSING;
    case ST_TIME_WAIT:
      return FLOW_STATE_TIME_WAIT;
    default:
      return FLOW_STATE_RESET;
  }
}

/** As `FlowView.view`. */
export function viewFlow(t: TcpEngine, flow: number, into: Float64Array, at: number): boolean {
  if (t.state[flow] === ST_FREE) return false;
  viewKey(t.table, flow, into, at);
  const rtt = askCounts(t, flow);
  const rule = t.rule[flow];
  into[at + FLOW_OF_GUEST] = rule < 0 ? 1 : 0;
  into[at + FLOW_STATE] = stateOf(t, flow);
  into[at + FLOW_SINCE] = t.openedAt[flow];
  into[at + FLOW_FROM_GUEST] = fromGuest(t, flow);
  into[at + FLOW_TO_GUEST] = toGuest(t, flow);
  into[at + FLOW_RTT_US] = rtt;
  into[at + FLOW_RULE] = Math.max(0, rule);
  return true;
}

/** The flow ends, for `reason` (END_…): it is still as it was. Once for each flow, and only with a flow log. */
export function noteEnd(t: TcpEngine, flow: number, reason: number): void {
  const { ends } = t.ctx;
  if (ends === null || (t.flags[flow] & F_ENDED) !== 0) return;
  t.flags[flow] |= F_ENDED;
  const at = ends.begin();
  if (at < 0) return;
  viewFlow(t, flow, ends.rows, at);
  ends.commit(at, reason);
}
