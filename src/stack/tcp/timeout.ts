/** Timers of the flows. */
import { END_TIMEOUT } from '../kit/flow-rows';
import {
  ACK_QUICK,
  F_ACK_DUE,
  F_ACK_LATER,
  F_LOSS,
  F_PERSIST,
  F_PROBE_DUE,
  F_RECOVERY,
  F_SYN_DUE,
  F_SYN_RETRIED,
  F_TIMING,
  MAX_RETRIES,
  ST_FREE,
  ST_OPEN,
  ST_SYN_RCVD,
  ST_SYN_SENT,
  ST_TIME_WAIT,
  TIMERS,
  TIMER_ACK,
  TIMER_IDLE,
  TIMER_MAIN,
  backedOffRto,
  setTimer,
} from './flow';
import type { TcpEngine } from './flow';
import { isHopeless } from './accept';
import { release, resetBoth } from './close';
import { C_TCP_RETRANSMITS } from '../counters';
import { idleTimer } from './idle';
import { synTimeout } from './send';
import { service } from './scheduler';
import { bufferRoom } from './socket-events';

const MAX_SYN_RETRIES = 7;
const MAX_BACKOFF = 12;

/** Runs all timers due now. */
export function runTimers(t: TcpEngine): void {
  const now = t.clock.nowMs;
  for (let id = t.timers.expire(now); id >= 0; id = t.timers.expire(now)) {
    const flow = Math.floor(id / TIMERS);
    if (t.state[flow] === ST_FREE) continue;
    switch (id % TIMERS) {
      case TIMER_MAIN:
        mainTimer(t, flow);
        break;
      case TIMER_IDLE:
        idleTimer(t, flow);
        break;
      case TIMER_ACK:
        ackTimer(t, flow);
        break;
      default:
        bufferRoom(t, flow, true);
        service(t, flow);
        break;
    }
  }
}

/** An acknowledgement waited in vain for data to carry it. */
function ackTimer(t: TcpEngine, flow: number): void {
  if ((t.flags[flow] & F_ACK_LATER) === 0) return;
  t.flags[flow] |= F_ACK_DUE;
  t.ackScore[flow] = -ACK_QUICK;
  service(t, flow);
}

function mainTimer(t: TcpEngine, flow: number): void {
  switch (t.state[flow]) {
    case ST_SYN_SENT:
    case ST_SYN_RCVD:
      handshakeTimer(t, flow);
      return;
    case ST_TIME_WAIT:
      release(t, flow);
      return;
    case ST_OPEN:
      if (t.sndMax[flow] !== t.sndUna[flow] || (t.flags[flow] & F_PERSIST) !== 0) openTimer(t, flow);
      return;
    default:
      return;
  }
}

/** Repeats the SYN or SYN-ACK: net.ipv4.tcp_syn_retries and tcp_syn_linear_timeouts, at most seven times. */
function handshakeTimer(t: TcpEngine, flow: number): void {
  const { tcpSynRetries, tcpSynLinearTimeouts } = t.ctx.config;
  const retries = t.retries[flow];
  // What waits in a backlog for this flow to grow old may come.
  t.acceptBlocked = false;
  if (retries >= Math.min(MAX_SYN_RETRIES, tcpSynRetries + tcpSynLinearTimeouts) || isHopeless(t, flow)) {
    resetBoth(t, flow, END_TIMEOUT);
    return;
  }
  if ((t.flags[flow] & F_SYN_DUE) === 0) t.ctx.counters[C_TCP_RETRANSMITS]++;
  t.retries[flow] = retries + 1;
  t.flags[flow] |= F_SYN_DUE | F_SYN_RETRIED;
  setTimer(t, flow, TIMER_MAIN, synTimeout(t, retries + 1));
  service(t, flow);
}

/** RFC 6298 §5.4 to 5.6, or a window probe (RFC 9293 §3.8.6.1). */
function openTimer(t: TcpEngine, flow: number): void {
  if (t.turn.starved || !t.port.up) {
    // Nothing was sent, or can be: not the guest's silence.
    setTimer(t, flow, TIMER_MAIN, backedOffRto(t, flow));
    return;
  }
  if (t.retries[flow] >= MAX_RETRIES) {
    resetBoth(t, flow, END_TIMEOUT);
    return;
  }
  t.retries[flow]++;
  if (t.backoff[flow] < MAX_BACKOFF) t.backoff[flow]++;
  t.flags[flow] &= ~(F_TIMING | F_RECOVERY);
  if (t.sndWnd[flow] === 0) {
    t.flags[flow] |= F_PERSIST | F_PROBE_DUE;
  } else {
    // Go back to what is missing, one segment until something is acknowledged; no dup-ACK recovery for what was sent.
    t.flags[flow] = (t.flags[flow] & ~F_PERSIST) | F_LOSS;
    t.sndNxt[flow] = t.sndUna[flow];
    t.recover[flow] = t.sndMax[flow];
    t.dupAcks[flow] = 0;
  }
  setTimer(t, flow, TIMER_MAIN, backedOffRto(t, flow));
  service(t, flow);
}
