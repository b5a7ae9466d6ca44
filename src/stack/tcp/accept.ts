/** Connections accepted on the host: forwarded ports. */
import { addrSlotPort, addrSlotRead, copyWords, familyOf } from '../ip/address';
import { KEY_KIND_SHIFT, KEY_TCP_LISTENER } from '../context';
import { ADDR_SLOT_TCP } from '../scratch';
import { comesInOtherFamily, speaksOnlyOther, toOtherLoopback } from '../ip/other-loopback';
import { C_RULES, dropCode } from '../counters';
import { isHosts, natToGuest } from '../ip/nat';
import { endsOnThisHost } from '../ip/socket-options';
import { AF_INET6, EPOLLET, EPOLLIN } from '../ports';
import { EAGAIN, ECONNABORTED } from '../kit/linux';
import { isShortage, unwatchedText } from '../kit/resting';
import { SITE_TCP_LISTENER } from '../kit/site-log';
import { END_ERROR } from '../kit/flow-rows';
import { allocateForPeer, mayAccept, peerBucket } from './admission';
import { abortHost, release } from './close';
import { open, prepareSocket } from './connect';
import { F_SYN_DUE, F_V6, ST_SYN_SENT, TIMER_MAIN, countDropToGuest, setTimer } from './flow';
import type { TcpEngine } from './flow';
import type { Listener } from './listener';
import { synTimeout } from './send';
import { service } from './scheduler';
import { SOCKET_EVENTS, socketKey } from './window';

const DROP_FLOW_TABLE_FULL = dropCode('flow_table_full');
const DROP_NO_DESCRIPTORS = dropCode('no_descriptors');

/** Connections accepted of one listener in one go. */
const ACCEPT_BUDGET = 64;
/** Pause after descriptors ran out, ms; and after the time for connections that come to nothing was used up. */
const ACCEPT_PAUSE_MS = 200;
const CREDIT_PAUSE_MS = 8;
/** Other source ports tried if two peers look the same to the guest. */
const PORT_TRIES = 16;

/** Watches the listeners, edge-triggered: `acceptable` remembers that a backlog may hold more. */
export function watchListeners(t: TcpEngine): void {
  for (let i = 0; i < t.listeners.length; i++) {
    const listener = t.listeners[i];
    if (listener !== null) beginListening(t, i, listener);
  }
}

/** Prepares and watches one. What waits in its backlog already is an event. */
export function beginListening(t: TcpEngine, index: number, listener: Listener): void {
  prepareSocket(t, listener.config.fd);
  watchListener(t, index, listener);
}

/** Watches those that could not be watched before. What waits in their backlogs is an event then. */
export function watchAgain(t: TcpEngine): void {
  for (let n = t.unwatched.due(t.clock.nowMs); n > 0; n--) {
    const index = t.unwatched.take();
    const listener = t.listeners[index];
    if (listener?.open === true) watchListener(t, index, listener);
  }
}

/** A port that is not watched is deaf, so where the kernel has no memory or watch left it is tried until it has. */
function watchListener(t: TcpEngine, index: number, listener: Listener): void {
  const key = (KEY_TCP_LISTENER << KEY_KIND_SHIFT) | index;
  const watched = t.io.watch(listener.config.fd, EPOLLIN | EPOLLET, key, 0);
  if (watched >= 0) return;
  const later = isShortage(watched);
  if (later) t.unwatched.push(index, t.clock.nowMs);
  if (t.ctx.log.take(SITE_TCP_LISTENER)) {
    t.ctx.log.say(SITE_TCP_LISTENER, 'warn', unwatchedText('TCP', listener.config.port, watched, later));
  }
}

/**
 * Accepts what waits on the listeners that have something pending, each in its turn. What may not have a flow now stays
 * in the kernel's backlog until one ends or grows old enough; with no descriptors left, until `acceptAt`.
 */
export function acceptAll(t: TcpEngine): void {
  if (t.acceptAt > t.clock.nowMs) return;
  t.acceptAt = 0;
  t.acceptBlocked = true;
  for (let n = t.acceptable.length; n > 0 && t.acceptAt === 0; n--) {
    const index = t.acceptable.shift();
    if (acceptSome(t, index)) t.acceptable.push(index);
  }
}

/** Accepts from one listener that had an event: `-t all` has thousands, too many to try each. */
export function acceptFrom(t: TcpEngine, index: number): void {
  t.acceptable.push(index);
  if (t.acceptAt === 0 && !acceptSome(t, index)) t.acceptable.remove(index);
}

/** True if connections wait that could be accepted now. */
export function canAccept(t: TcpEngine): boolean {
  return t.acceptable.length > 0 && t.acceptAt === 0 && !t.acceptBlocked;
}

/** Accepts from one listener. Returns true if more may wait there; unblocks `acceptAll` if it may have another. */
function acceptSome(t: TcpEngine, index: number): boolean {
  const listener = t.listeners[index];
  if (listener?.open !== true) return false;
  for (let n = 0; n < ACCEPT_BUDGET; n++) {
    if (!mayAccept(t, index)) return true;
    if (!t.acceptCredit.left(t.clock.nowMs)) {
      t.acceptAt = t.clock.nowMs + CREDIT_PAUSE_MS;
      return true;
    }
    const fd = t.io.accept(listener.config.fd, ADDR_SLOT_TCP);
    if (fd >= 0) {
      const { bypass } = t.ctx;
      if (bypass?.inward === true && bypass.takeTcp(fd, listener.config, listener.rule)) continue;
      const from = t.clock.nowUs();
      const flow = accepted(t, index, listener, fd);
      const cost = t.acceptCredit.spend(t.clock.nowUs() - from);
      if (flow >= 0) t.cost[flow] = cost;
      continue;
    }
    switch (fd) {
      case -ECONNABORTED:
        continue;
      case -EAGAIN:
        return false;
      default:
        // No descriptors or memory left (EMFILE, ENFILE, ENOBUFS, ENOMEM), or an error of the network (accept(2)): the
        // edge will not come again, so try later.
        t.acceptAt = t.clock.nowMs + ACCEPT_PAUSE_MS;
        countDropToGuest(t, DROP_NO_DESCRIPTORS);
        return true;
    }
  }
  t.acceptBlocked = false;
  return true;
}

/** The connection `fd`, whose peer is in ADDR_SLOT_TCP. Returns the flow, or -1 if it was refused: then it is closed. */
export function accepted(t: TcpEngine, index: number, listener: Listener, fd: number): number {
  const { io } = t;
  const nat = t.natResult;
  const port = addrSlotPort(io.addrs, ADDR_SLOT_TCP);
  const code = peerToGuest(t, listener);
  if (code !== 0 || port === 0) {
    if (code !== 0) countDropToGuest(t, code);
    io.abort(fd);
    return -1;
  }
  const { probe } = t.table;
  copyWords(nat.dst, 0, probe, 0);
  copyWords(nat.src, 0, probe, 4);
  const bucket = peerBucket(t);
  const flow = choosePort(t, listener.config.targetPort, port) ? allocateForPeer(t, bucket) : -1;
  if (flow < 0) {
    io.abort(fd);
    countDropToGuest(t, DROP_FLOW_TABLE_FULL);
    return -1;
  }
  const v6 = familyOf(nat.dst, 0) === AF_INET6;
  open(t, flow, ST_SYN_SENT, fd, v6, index, bucket);
  if (isHosts(t.nat, t.peerWords, 0)) endsOnThisHost(io, fd);
  t.ctx.counters[C_RULES + listener.rule]++;
  t.flags[flow] |= F_SYN_DUE;
  // Runs from now on, whether or not the guest has room for the SYN: the peer must not wait for ever.
  setTimer(t, flow, TIMER_MAIN, synTimeout(t, 0));
  if (io.watch(fd, SOCKET_EVENTS, socketKey(flow), t.table.generation[flow]) < 0) {
    abortHost(t, flow, END_ERROR);
    countDropToGuest(t, DROP_NO_DESCRIPTORS);
    return -1;
  }
  service(t, flow);
  return flow;
}

/**
 * What the guest sees of the peer in ADDR_SLOT_TCP, in `natResult`. Returns 0 or a drop code.
 */
function peerToGuest(t: TcpEngine, listener: Listener): number {
  const { addrs } = t.io;
  const { target } = listener;
  const peer = t.peerWords;
  addrSlotRead(addrs, ADDR_SLOT_TCP, peer, 0);
  if (comesInOtherFamily(t.ctx.link, target, peer, 0)) toOtherLoopback(peer);
  // The local address matters for multicast only, which TCP has not.
  return natToGuest(t.nat, t.ctx.link, peer, 0, null, target, t.natResult);
}

/** The guest did not answer the SYN of a forwarded connection: is it certain enough that it never will? */
export function isHopeless(t: TcpEngine, flow: number): boolean {
  if (t.state[flow] !== ST_SYN_SENT) return false;
  const listener = t.listeners[t.owner[flow]];
  return listener?.target === null && speaksOnlyOther(t.ctx.link, (t.flags[flow] & F_V6) === 0);
}

/**
 * Completes `probe` with the ports. The peer's port is kept, unless two peers whose addresses look the same to the
 * guest (127.0.0.2 and 127.0.0.3 are both the gateway) use the same one; then another is made up.
 */
function choosePort(t: TcpEngine, guestPort: number, peerPort: number): boolean {
  let port = peerPort;
  for (let n = 0; n < PORT_TRIES; n++) {
    t.table.probe[8] = (guestPort << 16) | port;
    const other = t.table.lookup();
    if (other < 0) return true;
    if (t.lingering.has(other)) {
      release(t, other);
      return true;
    }
    port = 49152 + (t.ctx.random.u32() & 0x3fff);
  }
  return false;
}
