/** Events of the flows' sockets. */
import { EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP } from '../ports';
import { END_NOT_CONNECTED, END_PEER_RESET } from '../kit/flow-rows';
import {
  F_ACK_DUE,
  F_HELD,
  F_HOST_ERROR,
  F_OUT_ARMED,
  F_RDHUP,
  F_READABLE,
  F_REFUSED,
  F_URGENT,
  ST_CONNECTING,
  ST_FREE,
  ST_OPEN,
  ST_SYN_RCVD,
  ST_SYN_SENT,
  DUP_ACKS,
} from './flow';
import type { TcpEngine } from './flow';
import { resetBoth } from './close';
import { hostConnected } from './connect';
import { countConnected, countFailed } from './connect-results';
import { drainHeld } from './first-bytes';
import { service } from './scheduler';
import { EPOLLPRI, reopenWindow } from './window';

/** Edge-triggered events of a flow's socket. */
export function socketEvent(t: TcpEngine, flow: number, generation: number, events: number): void {
  if (flow >= t.table.capacity || t.table.generation[flow] !== generation) return;
  if (t.state[flow] === ST_FREE || t.fd[flow] < 0) return;
  t.activeAt[flow] = t.clock.nowMs;
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) !== 0) t.flags[flow] |= F_READABLE;
  if ((events & (EPOLLRDHUP | EPOLLHUP)) !== 0) t.flags[flow] |= F_RDHUP;
  if ((events & EPOLLPRI) !== 0) t.flags[flow] |= F_URGENT;
  switch (t.state[flow]) {
    case ST_CONNECTING:
      if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) !== 0) connectResult(t, flow, events);
      return;
    case ST_SYN_SENT:
    case ST_SYN_RCVD:
      if ((events & EPOLLERR) !== 0) resetBoth(t, flow, END_PEER_RESET);
      return;
    case ST_OPEN:
      if ((events & EPOLLERR) !== 0) t.flags[flow] |= F_HOST_ERROR;
      if ((events & EPOLLOUT) !== 0 && (t.flags[flow] & (F_OUT_ARMED | F_REFUSED)) !== 0) bufferRoom(t, flow, false);
      service(t, flow);
      return;
    default:
      return;
  }
}

/** The outcome of the connect begun for the guest's SYN. */
function connectResult(t: TcpEngine, flow: number, events: number): void {
  // A connection that failed has an error pending, which is an event of its own.
  if ((events & (EPOLLERR | EPOLLHUP)) !== 0) {
    countFailed(t, t.fd[flow]);
    // Whatever the host's reason is, the guest sees its connection refused.
    resetBoth(t, flow, END_NOT_CONNECTED);
    return;
  }
  countConnected(t, flow);
  hostConnected(t, flow);
  service(t, flow);
}

/**
 * There may be room in the send buffer again (an event, or the timer): sends a window update and schedules the flow.
 */
export function bufferRoom(t: TcpEngine, flow: number, byTimer: boolean): void {
  if (t.state[flow] !== ST_OPEN) return;
  const refused = (t.flags[flow] & F_REFUSED) !== 0;
  t.flags[flow] &= ~(F_OUT_ARMED | F_REFUSED);
  if ((t.flags[flow] & F_HELD) !== 0) drainHeld(t, flow);
  reopenWindow(t, flow, byTimer);
  if (!refused) return;
  // The guest believes that what was refused is on its way. The first acknowledgement may move the window and is then
  // no duplicate.
  t.flags[flow] |= F_ACK_DUE;
  t.dupOwed[flow] = DUP_ACKS;
}
