/** New flows: from the guest's SYN, and from connections accepted on the host. */
import { addrSlotPort, addrSlotWord, addrSlotWrite, addressWords, familyOf, isGroup } from '../address';
import { ADDR_SLOT_TCP, KEY_KIND_SHIFT, KEY_TCP_LISTENER } from '../context';
import type { FrameInfo } from '../context';
import { C_FLOWS_OPENED_TCP, C_FLOWS_TCP, dropCode } from '../counters';
import { KEY_WORDS } from '../flow-table';
import { natToGuest, natToHost } from '../nat';
import { AF_INET6, EPOLLET, EPOLLIN, SOCK_TCP } from '../ports';
import { EAGAIN, ECONNABORTED, EINPROGRESS, EINTR, SOL_SOCKET, SO_OOBINLINE } from '../socket-options';
import { SITE_TCP_OUTBOUND_ADDR, SITE_TCP_OUTBOUND_IF } from '../site-log';
import { halfSipHash } from '../siphash';
import { tcpOptionMss, tcpOptionWindowScale } from '../wire/tcp';
import {
  DEFAULT_MSS4,
  DEFAULT_MSS6,
  F_SCALING,
  F_SYN_DUE,
  F_SYN_RETRIED,
  F_V6,
  HINT_INITIAL,
  KEEPALIVE_MS,
  MIN_MSS,
  OUR_WINDOW_SCALE,
  RTO_AFTER_SYN_RETRY_MS,
  RTO_INITIAL_MS,
  ST_CONNECTING,
  ST_OPEN,
  ST_SYN_RCVD,
  ST_SYN_SENT,
  TIMER_IDLE,
  TIMER_MAIN,
  cancelTimer,
  countDrop,
  setTimer,
} from './flow';
import type { Listener, TcpEngine } from './flow';
import { release } from './close';
import { DEFAULT_TTL, DSCP_MASK, markSocket } from './marks';
import { answerReset, pseudoSum, synTimeout } from './send';
import { service } from './service';
import { SOCKET_EVENTS, socketKey } from './window';

const DROP_FLOW_TABLE_FULL = dropCode('flow_table_full');
const DROP_NO_DESCRIPTORS = dropCode('no_descriptors');
const DROP_DESTINATION_INVALID = dropCode('destination_invalid');

const PROTO_TCP = 6;

/** Connections accepted in one go. */
const ACCEPT_BUDGET = 64;
/** Pause after descriptors ran out, ms. */
const ACCEPT_PAUSE_MS = 200;
/** Other source ports tried if two peers look the same to the guest. */
const PORT_TRIES = 16;

const outbound = new Int32Array(4);

/** Initial sequence number (RFC 6528): a clock of 4 µs ticks plus a keyed hash of the 4-tuple. */
function initialSequence(t: TcpEngine, flow: number): number {
  const hash = halfSipHash(t.table.keys, flow * KEY_WORDS, KEY_WORDS, t.isn0, t.isn1);
  return (Math.floor(t.clock.nowUs() / 4) + hash) | 0;
}

/** Takes a slot, evicting the flow that lingers longest if need be. Returns -1 if there is none. */
function allocate(t: TcpEngine): number {
  const flow = t.table.alloc();
  if (flow >= 0 || t.lingering.length === 0) return flow;
  release(t, t.lingering.first());
  return t.table.alloc();
}

/** Initialises the columns of a flow whose key stands in `table.probe`, and indexes it. */
function open(t: TcpEngine, flow: number, state: number, fd: number, v6: boolean): void {
  const now = t.clock.nowMs;
  t.table.insert(flow);
  t.state[flow] = state;
  t.flags[flow] = v6 ? F_V6 : 0;
  t.fd[flow] = fd;
  const iss = initialSequence(t, flow);
  t.iss[flow] = iss;
  t.sndUna[flow] = iss;
  t.sndNxt[flow] = (iss + 1) | 0;
  t.sndMax[flow] = (iss + 1) | 0;
  t.sockSeq[flow] = (iss + 1) | 0;
  t.peekSeq[flow] = (iss + 1) | 0;
  t.recover[flow] = iss;
  t.sndWnd[flow] = 0;
  t.sndWl1[flow] = 0;
  t.sndWl2[flow] = iss;
  t.maxWnd[flow] = 0;
  t.irs[flow] = 0;
  t.rcvNxt[flow] = 0;
  t.rcvAdv[flow] = 0;
  t.finSeq[flow] = 0;
  t.mss[flow] = v6 ? DEFAULT_MSS6 : DEFAULT_MSS4;
  t.sndScale[flow] = 0;
  t.rcvScale[flow] = 0;
  t.hint[flow] = HINT_INITIAL;
  t.dupAcks[flow] = 0;
  t.dupOwed[flow] = 0;
  t.retries[flow] = 0;
  t.backoff[flow] = 0;
  t.windowPolls[flow] = 0;
  t.room[flow] = 0;
  t.ackScore[flow] = 0;
  t.ttl[flow] = DEFAULT_TTL;
  t.dscp[flow] = 0;
  t.srtt8[flow] = -1;
  t.rttvar4[flow] = 0;
  t.rto[flow] = RTO_INITIAL_MS;
  t.pseudo[flow] = pseudoSum(t.table.keys, flow * KEY_WORDS, v6);
  t.guestAt[flow] = now;
  t.payloadAt[flow] = -Infinity;
  t.bulkAt[flow] = -Infinity;
  t.activeAt[flow] = now;
  setTimer(t, flow, TIMER_IDLE, KEEPALIVE_MS);
  t.ctx.counters[C_FLOWS_TCP]++;
  t.ctx.counters[C_FLOWS_OPENED_TCP]++;
}

/**
 * What every socket gets, and listeners for those they accept: urgent data is passed on in line, as the guest's is (RFC
 * 6093 §3.1). TCP_NODELAY is set by the addon, SO_PEEK_OFF when it is first needed (output.ts).
 */
function prepareSocket(t: TcpEngine, fd: number): void {
  t.io.setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, 1);
}

/** Learns initial sequence number, segment size and window scale from the guest's SYN or SYN-ACK at `off` of `head`. */
export function learnSyn(t: TcpEngine, flow: number, head: DataView, off: number, seq: number, window: number): void {
  const v6 = (t.flags[flow] & F_V6) !== 0;
  t.irs[flow] = seq;
  // A SYN of ours has told a window already, only not from where.
  const told = (t.rcvAdv[flow] - t.rcvNxt[flow]) | 0;
  t.rcvNxt[flow] = (seq + 1) | 0;
  t.rcvAdv[flow] = (seq + 1 + told) | 0;
  let mss = tcpOptionMss(head, off);
  if (mss < 0) mss = v6 ? DEFAULT_MSS6 : DEFAULT_MSS4;
  t.mss[flow] = Math.min(Math.max(mss, MIN_MSS), v6 ? t.mss6 : t.mss4);
  const scale = tcpOptionWindowScale(head, off);
  if (scale >= 0) {
    t.flags[flow] |= F_SCALING;
    t.sndScale[flow] = scale;
    t.rcvScale[flow] = OUR_WINDOW_SCALE;
  } else {
    t.flags[flow] &= ~F_SCALING;
    t.sndScale[flow] = 0;
    t.rcvScale[flow] = 0;
  }
  t.sndWnd[flow] = window;
  t.maxWnd[flow] = window;
  t.sndWl1[flow] = seq;
}

/**
 * The guest opens a connection: starts the host's. `table.probe` holds the key; head and ports were checked. Data in
 * the SYN is left to be retransmitted, which RFC 9293 allows and every sender expects without TCP Fast Open.
 */
export function connectFromGuest(t: TcpEngine, frame: FrameInfo, ports: number, seq: number, window: number): void {
  const a = frame.addr;
  const nat = t.natResult;
  if (isGroup(frame.version === 4, a[4], a[5], a[6], a[7])) {
    countDrop(t, DROP_DESTINATION_INVALID);
    return;
  }
  const code = natToHost(t.nat, PROTO_TCP, a[4], a[5], a[6], a[7], ports & 0xffff, nat);
  if (code !== 0) {
    countDrop(t, code);
    return;
  }
  const flow = allocate(t);
  if (flow < 0) {
    countDrop(t, DROP_FLOW_TABLE_FULL);
    return;
  }
  const family = familyOf(nat.dst[0], nat.dst[1], nat.dst[2]);
  const fd = t.io.socket(family, SOCK_TCP);
  if (fd < 0) {
    t.table.free(flow);
    countDrop(t, DROP_NO_DESCRIPTORS);
    return;
  }
  // Everything that fails from here on is a reason the host knows: no route, no such address, forbidden.
  markSocket(t, fd, family === AF_INET6, frame.ttl, frame.tos);
  if (!startConnect(t, fd, family, ports & 0xffff)) {
    t.io.close(fd);
    t.table.free(flow);
    answerReset(t, frame, ports, seq, 0, 0, 1);
    return;
  }
  open(t, flow, ST_CONNECTING, fd, family === AF_INET6);
  t.ttl[flow] = frame.ttl;
  t.dscp[flow] = frame.tos & DSCP_MASK;
  learnSyn(t, flow, t.port.head, frame.l4Off, seq, window);
  t.io.watch(fd, SOCKET_EVENTS, socketKey(flow), t.table.generation[flow]);
}

function startConnect(t: TcpEngine, fd: number, family: number, port: number): boolean {
  const io = t.io;
  const to = t.natResult;
  prepareSocket(t, fd);
  const ip = family === AF_INET6 ? t.ctx.config.ip6 : t.ctx.config.ip4;
  if (!to.local && ip !== null) {
    if (ip.outboundIf !== null && io.bindToDevice(fd, ip.outboundIf) < 0) {
      t.ctx.log.line(SITE_TCP_OUTBOUND_IF, 'warn', 'TCP: cannot bind to the outbound interface');
      return false;
    }
    if (ip.outboundAddr !== null) {
      addressWords(ip.outboundAddr, outbound, 0);
      addrSlotWrite(io.addrs, ADDR_SLOT_TCP, family, 0, 0, outbound[0], outbound[1], outbound[2], outbound[3]);
      if (io.bind(fd, ADDR_SLOT_TCP) < 0) {
        t.ctx.log.line(SITE_TCP_OUTBOUND_ADDR, 'warn', 'TCP: cannot bind to the outbound address');
        return false;
      }
    }
  }
  const d = to.dst;
  addrSlotWrite(io.addrs, ADDR_SLOT_TCP, family, port, to.scope, d[0], d[1], d[2], d[3]);
  const r = io.connect(fd, ADDR_SLOT_TCP);
  return r >= 0 || r === -EINPROGRESS;
}

/** The host's connection is there: answer the guest's SYN. */
export function hostConnected(t: TcpEngine, flow: number): void {
  t.state[flow] = ST_SYN_RCVD;
  t.flags[flow] |= F_SYN_DUE;
  t.activeAt[flow] = t.clock.nowMs;
}

/** The handshake with the guest is complete; `window` is scaled already. */
export function established(t: TcpEngine, flow: number, seq: number, ack: number, window: number): void {
  t.state[flow] = ST_OPEN;
  t.sndUna[flow] = ack;
  t.sndWnd[flow] = window;
  t.maxWnd[flow] = window;
  t.sndWl1[flow] = seq;
  t.sndWl2[flow] = ack;
  t.recover[flow] = ack;
  t.retries[flow] = 0;
  t.backoff[flow] = 0;
  t.flags[flow] &= ~F_SYN_DUE;
  t.rto[flow] = (t.flags[flow] & F_SYN_RETRIED) !== 0 ? RTO_AFTER_SYN_RETRY_MS : RTO_INITIAL_MS;
  cancelTimer(t, flow, TIMER_MAIN);
}

// ---- from the host ------------------------------------------------------------------------------------------------

/** Watches the listeners, edge-triggered: `pending` remembers that a backlog may hold more. */
export function watchListeners(t: TcpEngine): void {
  for (let i = 0; i < t.listeners.length; i++) {
    const listener = t.listeners[i];
    if (listener !== null) {
      prepareSocket(t, listener.config.fd);
      t.io.watch(listener.config.fd, EPOLLIN | EPOLLET, (KEY_TCP_LISTENER << KEY_KIND_SHIFT) | i, 0);
    }
  }
}

/**
 * Accepts what waits on the listeners that have something pending. With the table full, connections stay in the
 * kernel's backlog until a flow ends; with no descriptors left, until `acceptAt`.
 */
export function acceptAll(t: TcpEngine): void {
  if (t.acceptAt > t.clock.nowMs) return;
  t.acceptAt = 0;
  t.acceptPending = false;
  for (let i = 0; i < t.listeners.length; i++) {
    if (acceptSome(t, i)) t.acceptPending = true;
  }
}

/** Accepts from one listener that says it has something: `-t all` has thousands, which are not all to be looked at. */
export function acceptFrom(t: TcpEngine, index: number): void {
  if (t.acceptAt !== 0 || acceptSome(t, index)) t.acceptPending = true;
}

/** Accepts from one listener. Returns true if more may wait there. */
function acceptSome(t: TcpEngine, index: number): boolean {
  const listener = t.listeners[index];
  if (listener?.pending !== true) return false;
  for (let n = 0; n < ACCEPT_BUDGET; n++) {
    if (t.table.count === t.table.capacity && t.lingering.length === 0) return true;
    const fd = t.io.accept(listener.config.fd, ADDR_SLOT_TCP);
    if (fd >= 0) {
      accepted(t, listener, fd);
      continue;
    }
    switch (fd) {
      case -ECONNABORTED:
      case -EINTR:
        continue;
      case -EAGAIN:
        listener.pending = false;
        return false;
      default:
        // No descriptors or memory left (EMFILE, ENFILE, ENOBUFS, ENOMEM), or an error of the network (accept(2)): the
        // edge will not come again, so try later.
        t.acceptAt = t.clock.nowMs + ACCEPT_PAUSE_MS;
        countDrop(t, DROP_NO_DESCRIPTORS);
        return true;
    }
  }
  return true;
}

/** True if connections wait that could be accepted now. */
export function canAccept(t: TcpEngine): boolean {
  return t.acceptPending && t.acceptAt === 0 && (t.table.count < t.table.capacity || t.lingering.length > 0);
}

function accepted(t: TcpEngine, listener: Listener, fd: number): void {
  const io = t.io;
  const nat = t.natResult;
  const p0 = addrSlotWord(io.addrs, ADDR_SLOT_TCP, 0);
  const p1 = addrSlotWord(io.addrs, ADDR_SLOT_TCP, 1);
  const p2 = addrSlotWord(io.addrs, ADDR_SLOT_TCP, 2);
  const p3 = addrSlotWord(io.addrs, ADDR_SLOT_TCP, 3);
  const port = addrSlotPort(io.addrs, ADDR_SLOT_TCP);
  // The local address matters for multicast only, which TCP has not.
  const code = natToGuest(t.nat, t.ctx.link, p0, p1, p2, p3, 0, 0, 0, 0, listener.target, nat);
  if (code !== 0 || port === 0) {
    if (code !== 0) countDrop(t, code);
    io.abort(fd);
    return;
  }
  const { probe } = t.table;
  for (let i = 0; i < 4; i++) {
    probe[i] = nat.dst[i];
    probe[4 + i] = nat.src[i];
  }
  if (!choosePort(t, listener.config.targetPort, port)) {
    io.abort(fd);
    countDrop(t, DROP_FLOW_TABLE_FULL);
    return;
  }
  const flow = allocate(t);
  if (flow < 0) {
    io.abort(fd);
    return;
  }
  open(t, flow, ST_SYN_SENT, fd, familyOf(nat.dst[0], nat.dst[1], nat.dst[2]) === AF_INET6);
  t.flags[flow] |= F_SYN_DUE;
  // Runs from now on, whether or not the guest has room for the SYN: the peer must not wait for ever.
  setTimer(t, flow, TIMER_MAIN, synTimeout(t, 0));
  io.watch(fd, SOCKET_EVENTS, socketKey(flow), t.table.generation[flow]);
  service(t, flow);
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
