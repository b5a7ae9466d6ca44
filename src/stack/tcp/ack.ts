/** The guest's acknowledgements: bytes received, window, round-trip time, losses. */
import { seqDiff, seqGe, seqGt, seqLt } from '../kit/seq';
import {
  F_FIN_ACKED,
  F_HOST_EOF,
  F_LOSS,
  F_PERSIST,
  F_RECOVERY,
  F_RTX_DUE,
  F_TIMING,
  RTO_MIN_MS,
  ST_OPEN,
  TIMER_MAIN,
  cancelTimer,
  setTimer,
  DUP_ACKS,
} from './flow';
import type { TcpEngine } from './flow';

/**
 * The ACK field and window of an acceptable segment, RFC 9293 §3.10.7.4 fifth step. `window` is scaled, `segLen` what
 * the segment occupies. Returns false if the acknowledgement is of something never sent, or implausibly old (RFC 5961
 * §5.2): the segment is to be dropped and answered.
 */
export function processAck(
  t: TcpEngine,
  flow: number,
  seq: number,
  ack: number,
  window: number,
  segLen: number,
): boolean {
  if (seqGt(ack, t.sndMax[flow])) return false;
  const progress = seqDiff(ack, t.sndUna[flow]);
  if (progress < 0) {
    if (-progress > Math.max(65535, t.maxWnd[flow])) return false;
    return true;
  }
  if (t.state[flow] !== ST_OPEN) return true;
  if (progress > 0) advance(t, flow, ack);
  else if (segLen === 0 && window === t.sndWnd[flow]) duplicate(t, flow);
  updateWindow(t, flow, seq, ack, window);
  return true;
}

function advance(t: TcpEngine, flow: number, ack: number): void {
  t.sndUna[flow] = ack;
  if (seqGt(ack, t.sndNxt[flow])) t.sndNxt[flow] = ack;
  t.retries[flow] = 0;
  t.backoff[flow] = 0;
  t.dupAcks[flow] = 0;
  t.flags[flow] &= ~(F_LOSS | F_PERSIST);
  const flags = t.flags[flow];
  if ((flags & F_TIMING) !== 0 && seqGe(ack, t.rttSeq[flow])) {
    t.flags[flow] &= ~F_TIMING;
    sampleRtt(t, flow, t.clock.nowMs - t.rttAt[flow]);
  }
  if ((flags & F_RECOVERY) !== 0) {
    // RFC 6582 §3.2: a partial acknowledgement names the next hole.
    if (seqGe(ack, t.recover[flow])) t.flags[flow] &= ~F_RECOVERY;
    else t.flags[flow] |= F_RTX_DUE;
  }
  if ((flags & F_HOST_EOF) !== 0 && seqGt(ack, t.finSeq[flow])) t.flags[flow] |= F_FIN_ACKED;
  if (ack === t.sndMax[flow]) cancelTimer(t, flow, TIMER_MAIN);
  else setTimer(t, flow, TIMER_MAIN, t.rto[flow]);
}

/** RFC 5681 §2: nothing new, no data, same window, while something is outstanding. */
function duplicate(t: TcpEngine, flow: number): void {
  if (t.sndMax[flow] === t.sndUna[flow] || (t.flags[flow] & (F_RECOVERY | F_LOSS | F_PERSIST)) !== 0) return;
  if (++t.dupAcks[flow] < DUP_ACKS) return;
  t.dupAcks[flow] = 0;
  // RFC 6582 §3.2 step 2: not again for losses of a window that was retransmitted already.
  if (seqLt(t.sndUna[flow], t.recover[flow])) return;
  t.recover[flow] = t.sndMax[flow];
  t.flags[flow] |= F_RECOVERY | F_RTX_DUE;
}

/** RFC 9293 §3.10.7.4: only segments that are not older than the last that set the window set it. */
function updateWindow(t: TcpEngine, flow: number, seq: number, ack: number, window: number): void {
  const newer = seqDiff(seq, t.sndWl1[flow]);
  if (newer < 0 || (newer === 0 && seqLt(ack, t.sndWl2[flow]))) return;
  t.sndWl1[flow] = seq;
  t.sndWl2[flow] = ack;
  t.sndWnd[flow] = window;
  if (window > t.maxWnd[flow]) t.maxWnd[flow] = window;
  if ((t.flags[flow] & F_PERSIST) === 0) return;
  // A probe was answered: the guest is there, however long it keeps its window closed.
  t.retries[flow] = 0;
  if (window === 0) return;
  t.flags[flow] &= ~F_PERSIST;
  t.backoff[flow] = 0;
  if (t.sndMax[flow] === t.sndUna[flow]) cancelTimer(t, flow, TIMER_MAIN);
  else setTimer(t, flow, TIMER_MAIN, t.rto[flow]);
  // What was in flight when the window closed has most likely been thrown away.
  t.sndNxt[flow] = t.sndUna[flow];
}

/** RFC 6298 §2.2 and 2.3, in ms with SRTT scaled by 8 and RTTVAR by 4. */
function sampleRtt(t: TcpEngine, flow: number, rtt: number): void {
  const m = Math.min(rtt, 60_000) | 0;
  if (t.srtt8[flow] < 0) {
    t.srtt8[flow] = m * 8;
    t.rttvar4[flow] = m * 2;
  } else {
    const error = m - (t.srtt8[flow] >> 3);
    t.rttvar4[flow] += Math.abs(error) - (t.rttvar4[flow] >> 2);
    t.srtt8[flow] += error;
  }
  const rto = (t.srtt8[flow] >> 3) + Math.max(1, t.rttvar4[flow]);
  t.rto[flow] = Math.min(Math.max(rto, RTO_MIN_MS), t.ctx.config.tcpRtoMaxMs);
}
