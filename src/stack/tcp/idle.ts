/**
 * Idle flows: whether the guest is still there and still knows them. A keep-alive finds out; its
 * acknowledgement keeps the flow, its RST ends it, and so does silence. docs/adr/0007-keep-alives.md has the reasons.
 *
 * | flow | first asked after | then |
 * |---|---|---|
 * | open | net.ipv4.tcp_keepalive_time of the host (2 h) | every 75 s, reset after the ninth without answer |
 * | closed by the guest, open at the peer | 62 s | as long again, twice, four times …; else as above |
 * | any, silent since the guest may have restarted | about a second | as above |
 */
import { END_TIMEOUT } from '../kit/flow-rows';
import { F_GUEST_FIN, F_HOST_EOF, F_PROBE_DUE, F_VERIFY, ST_OPEN, TIMERS, TIMER_IDLE, setTimer } from './flow';
import type { TcpEngine } from './flow';
import { resetBoth } from './close';
import { service } from './scheduler';

/** net.ipv4.tcp_keepalive_intvl and _probes; with two hours before them more than the 124 min of RFC 5382 REQ-5. */
const PROBE_INTERVAL_MS = 75_000;
const PROBES = 9;
/** A guest whose process has gone forgets after net.ipv4.tcp_fin_timeout, 60 s, what its peer does not close. */
const HALF_CLOSED_MS = 62_000;
const MOST_DOUBLINGS = 10;

/**
 * A guest that starts asks for its addresses more than once (DHCP, duplicate address detection of each): it is one start. A
 * small virtual machine has started again ten seconds later.
 */
const RESTART_PAUSE_MS = 5000;
/** When flows are asked after a start of the guest: the first after so long, then one after the other, ms. */
const VERIFY_MS = 1000;
const VERIFY_STEP_MS = 2;

/** The flow is open from now on. */
export function startIdle(t: TcpEngine, flow: number): void {
  setTimer(t, flow, TIMER_IDLE, t.ctx.config.tcpKeepaliveMs);
}

/** The guest's FIN was passed on; the peer may keep its side open for as long as it likes. */
export function noteHalfClosed(t: TcpEngine, flow: number): void {
  if ((t.flags[flow] & F_HOST_EOF) !== 0) return;
  t.halfClosed.push(flow);
  setTimer(t, flow, TIMER_IDLE, HALF_CLOSED_MS);
}

/** How long the guest may be silent before a keep-alive. */
function patience(t: TcpEngine, flow: number): number {
  const { tcpKeepaliveMs } = t.ctx.config;
  if ((t.flags[flow] & (F_GUEST_FIN | F_HOST_EOF)) !== F_GUEST_FIN) return tcpKeepaliveMs;
  return Math.min(HALF_CLOSED_MS * 2 ** t.idleDoublings[flow], tcpKeepaliveMs);
}

export function idleTimer(t: TcpEngine, flow: number): void {
  if (t.state[flow] !== ST_OPEN) return;
  const heard = t.guestAt[flow];
  if ((t.flags[flow] & F_VERIFY) !== 0) {
    t.flags[flow] &= ~F_VERIFY;
    if (heard < t.restartAt) {
      probe(t, flow);
      return;
    }
  }
  const silent = t.clock.nowMs - heard;
  // The timer was set when it was asked.
  const askedAt = t.timers.deadlineOf(flow * TIMERS + TIMER_IDLE) - PROBE_INTERVAL_MS;
  if (t.idleProbes[flow] > 0 && heard >= askedAt) {
    t.idleProbes[flow] = 0;
    if (t.idleDoublings[flow] < MOST_DOUBLINGS) t.idleDoublings[flow]++;
  }
  const wait = patience(t, flow);
  if (t.idleProbes[flow] === 0 && silent < wait) {
    setTimer(t, flow, TIMER_IDLE, wait - silent);
    return;
  }
  if (t.idleProbes[flow] >= PROBES) {
    resetBoth(t, flow, END_TIMEOUT);
    return;
  }
  probe(t, flow);
}

function probe(t: TcpEngine, flow: number): void {
  setTimer(t, flow, TIMER_IDLE, PROBE_INTERVAL_MS);
  // A guest that is paused, or not there yet, has time; but not for ever.
  const gone = t.clock.nowMs - t.guestAt[flow] >= t.ctx.config.tcpKeepaliveMs + PROBES * PROBE_INTERVAL_MS;
  if (!t.port.up && !gone) return;
  t.idleProbes[flow]++;
  t.flags[flow] |= F_PROBE_DUE;
  service(t, flow);
}

/**
 * The guest may have restarted: the link came up, or the guest asks for an address. It is asked for each open flow
 * that is silent from now on whether it knows it. Costs nothing while it does not restart.
 */
export function noteRestart(t: TcpEngine): void {
  const now = t.clock.nowMs;
  if (t.table.count === 0 || now - t.restartAt < RESTART_PAUSE_MS) return;
  t.restartAt = now;
  let at = VERIFY_MS;
  for (let flow = 0; flow < t.table.capacity; flow++) {
    if (t.state[flow] !== ST_OPEN) continue;
    t.flags[flow] |= F_VERIFY;
    setTimer(t, flow, TIMER_IDLE, at);
    at += VERIFY_STEP_MS;
  }
}
