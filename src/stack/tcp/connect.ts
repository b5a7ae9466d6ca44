/** New flows from the guest's SYN, and what all new flows have in common. Those from the host are in accept.ts. */
import { IP_PROTO_TCP } from '../wire/ipv4';
import { seqAdd, seqDiff } from '../kit/seq';
import { addrSlotWrite, familyOf, isGroup } from '../ip/address';
import { ADDR_SLOT_TCP } from '../scratch';
import type { FrameInfo } from '../context';
import { C_FLOWS_OPENED_TCP, C_FLOWS_TCP, dropCode } from '../counters';
import { FLOW_TCP } from '../kit/flow-rows';
import { KEY_WORDS } from '../kit/flow-table';
import { natToHost } from '../ip/nat';
import { endsOnThisHost } from '../ip/socket-options';
import { AF_INET, SOCK_TCP } from '../ports';
import {
  EACCES,
  EADDRINUSE,
  EADDRNOTAVAIL,
  EINPROGRESS,
  EINVAL,
  SOL_SOCKET,
  SO_OOBINLINE,
  SO_REUSEADDR,
} from '../kit/linux';
import { SITE_TCP_OUTBOUND_ADDR, SITE_TCP_OUTBOUND_IF } from '../kit/site-log';
import { halfSipHash } from '../kit/siphash';
import { tcpOptionMss, tcpOptionWindowScale } from '../wire/tcp';
import { END_ERROR } from '../kit/flow-rows';
import {
  DEFAULT_MSS4,
  DEFAULT_MSS6,
  F_SCALING,
  F_SYN_DUE,
  F_SYN_RETRIED,
  F_V6,
  HINT_INITIAL,
  MIN_MSS,
  OUR_WINDOW_SCALE,
  RTO_AFTER_SYN_RETRY_MS,
  RTO_INITIAL_MS,
  ST_CONNECTING,
  ST_OPEN,
  ST_SYN_RCVD,
  TIMER_MAIN,
  cancelTimer,
  countDrop,
} from './flow';
import type { TcpEngine } from './flow';
import { allocateForGuest, countIn, handshakeDone } from './admission';
import { mayReset } from './challenge';
import { abortHost } from './close';
import { holdIfRead } from './first-bytes';
import { startIdle } from './idle';
import { countNotConnected } from './connect-results';
import { DEFAULT_TTL, DSCP_MASK, markSocket } from './ttl-dscp';
import { answerReset, pseudoSum } from './send';
import { SOCKET_EVENTS, socketKey } from './window';

const DROP_FLOW_TABLE_FULL = dropCode('flow_table_full');
const DROP_NO_DESCRIPTORS = dropCode('no_descriptors');
const DROP_SYN_LIMIT = dropCode('tcp_syn_limit');
const DROP_DESTINATION_INVALID = dropCode('destination_invalid');
const DROP_OWN_LISTENER = dropCode('own_listener');
const DROP_POLICY_DENIED = dropCode('policy_denied');

/** Ports below are given to privileged programs only, by default (net.ipv4.ip_unprivileged_port_start). */
const PRIVILEGED_PORTS = 1024;
/** `connectedSocket`: there is no descriptor; the host cannot connect. */
const NO_SOCKET = -1;
const NO_CONNECT = -2;

/** Initial sequence number (RFC 6528): a clock of 4 µs ticks plus a keyed hash of the 4-tuple. */
function initialSequence(t: TcpEngine, flow: number): number {
  const hash = halfSipHash(t.table.keys, flow * KEY_WORDS, KEY_WORDS, t.isn0, t.isn1);
  return (Math.floor(t.clock.nowUs() / 4) + hash) | 0;
}

/**
 * Initialises the columns of a flow whose key stands in `table.probe`, and indexes it. `owner` and `bucket` as of
 * `countIn`.
 */
export function open(
  t: TcpEngine,
  flow: number,
  state: number,
  fd: number,
  v6: boolean,
  owner: number,
  bucket: number,
): void {
  const now = t.clock.nowMs;
  t.table.insert(flow);
  t.state[flow] = state;
  t.flags[flow] = v6 ? F_V6 : 0;
  t.fd[flow] = fd;
  const iss = initialSequence(t, flow);
  t.iss[flow] = iss;
  t.sndUna[flow] = iss;
  t.sndNxt[flow] = seqAdd(iss, 1);
  t.sndMax[flow] = seqAdd(iss, 1);
  t.sockSeq[flow] = seqAdd(iss, 1);
  t.peekSeq[flow] = seqAdd(iss, 1);
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
  t.challengedAt[flow] = -Infinity;
  t.idleProbes[flow] = 0;
  t.idleDoublings[flow] = 0;
  t.cost[flow] = 0;
  t.openedAt[flow] = now;
  t.rule[flow] = owner < 0 ? -1 : (t.listeners[owner]?.rule ?? 0);
  t.kernelFrom[flow] = 0;
  t.kernelTo[flow] = 0;
  countIn(t, flow, owner, bucket);
  t.ctx.counters[C_FLOWS_TCP]++;
  t.ctx.counters[C_FLOWS_OPENED_TCP]++;
}

/**
 * What every socket gets, and listeners for those they accept: urgent data is passed on in line, as the guest's is (RFC
 * 6093 §3.1). TCP_NODELAY is set by the addon, SO_PEEK_OFF when it is first needed (output.ts).
 */
export function prepareSocket(t: TcpEngine, fd: number): void {
  t.io.setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, 1);
}

/** Learns initial sequence number, segment size and window scale from the guest's SYN or SYN-ACK at `off` of `head`. */
export function learnSyn(t: TcpEngine, flow: number, head: DataView, off: number, seq: number, window: number): void {
  const v6 = (t.flags[flow] & F_V6) !== 0;
  t.irs[flow] = seq;
  // A SYN of ours has told a window already, only not from where.
  const told = seqDiff(t.rcvAdv[flow], t.rcvNxt[flow]);
  t.rcvNxt[flow] = seqAdd(seq, 1);
  t.rcvAdv[flow] = seqAdd(seq, 1 + told);
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
  if (isGroup(frame.version === 4, a, 4)) {
    countDrop(t, DROP_DESTINATION_INVALID);
    return;
  }
  const code = natToHost(t.nat, IP_PROTO_TCP, a, 4, ports & 0xffff, nat);
  if (code !== 0) {
    countDrop(t, code);
    return;
  }
  const { policy } = t.ctx.link;
  if (policy.on && !policy.admits(t.ctx, IP_PROTO_TCP, a, 4, ports & 0xffff, nat)) {
    countDrop(t, DROP_POLICY_DENIED);
    t.ctx.ends?.refused(FLOW_TCP, true, t.table.probe, 0, policy.verdict);
    if (mayReset(t)) answerReset(t, frame, ports, seq, 0, 0, 1);
    return;
  }
  const { clock, guestCredit } = t;
  if (!guestCredit.take(a, 4, ports & 0xffff)) {
    countDrop(t, DROP_SYN_LIMIT);
    return;
  }
  const from = clock.nowUs();
  const flow = guestCredit.opened(connectHost(t, frame, ports, seq, window));
  if (flow < 0) return;
  t.connectUs[flow] = from;
  if (policy.on) holdIfRead(t, flow, ports & 0xffff);
}

/** `natResult` holds where to. Returns the flow, or -1: then the guest was answered, or its SYN counted as dropped. */
function connectHost(t: TcpEngine, frame: FrameInfo, ports: number, seq: number, window: number): number {
  const nat = t.natResult;
  if (t.own.reached(t.io, nat.dst, nat.scope, ports & 0xffff)) {
    countDrop(t, DROP_OWN_LISTENER);
    if (mayReset(t)) answerReset(t, frame, ports, seq, 0, 0, 1);
    return -1;
  }
  const flow = allocateForGuest(t);
  if (flow < 0) {
    countDrop(t, DROP_FLOW_TABLE_FULL);
    return -1;
  }
  const family = familyOf(nat.dst, 0);
  const fd = connectedSocket(t, family, frame, ports);
  if (fd < 0) {
    t.table.free(flow);
    if (fd === NO_SOCKET) countDrop(t, DROP_NO_DESCRIPTORS);
    // Everything else that fails is a reason the host knows: no route, no such address, forbidden.
    else if (mayReset(t)) answerReset(t, frame, ports, seq, 0, 0, 1);
    return -1;
  }
  // The guest's family: the socket's may be another, where a resolver of one stands for one of the other.
  open(t, flow, ST_CONNECTING, fd, frame.version === 6, -1, 0);
  t.ttl[flow] = frame.ttl;
  t.dscp[flow] = frame.tos & DSCP_MASK;
  learnSyn(t, flow, t.port.head, frame.l4Off, seq, window);
  if (t.io.watch(fd, SOCKET_EVENTS, socketKey(flow), t.table.generation[flow]) < 0) {
    // Nobody would learn that the connection is there: as if there had been no descriptor. The guest sends its SYN again.
    abortHost(t, flow, END_ERROR);
    countDrop(t, DROP_NO_DESCRIPTORS);
    return -1;
  }
  return flow;
}

/** A socket that connects to `natResult.dst`, NO_SOCKET or NO_CONNECT. */
function connectedSocket(t: TcpEngine, family: number, frame: FrameInfo, ports: number): number {
  // A port below 1024 says that root speaks (NFS, rsh): kept where the host lets us have it. Others are the kernel's
  // choice: two guests, or the guest and the host, may use the same (docs/compatibility.md).
  let from = ports >>> 16;
  // A socket of one port that connects to itself would get through, with nobody there.
  if (from >= PRIVILEGED_PORTS || (t.natResult.local && from === (ports & 0xffff))) from = 0;
  for (;;) {
    const fd = t.io.socket(family, SOCK_TCP);
    if (fd < 0) {
      countNotConnected(t, fd);
      return NO_SOCKET;
    }
    markSocket(t, fd, family !== AF_INET, frame.ttl, frame.tos);
    const r = startConnect(t, fd, family, from, ports & 0xffff);
    if (r >= 0) return fd;
    t.io.close(fd);
    // Bound already, or taken with this very destination: then from another port.
    if (from === 0 || (r !== -EADDRNOTAVAIL && r !== -EADDRINUSE && r !== -EACCES)) {
      countNotConnected(t, r);
      return NO_CONNECT;
    }
    from = 0;
  }
}

/** `from`: source port, 0 for the kernel's choice. Returns >= 0 or -errno. */
function startConnect(t: TcpEngine, fd: number, family: number, from: number, port: number): number {
  const { binding, io } = t;
  const to = t.natResult;
  const v4 = family === AF_INET;
  prepareSocket(t, fd);
  if (binding.bindToInterface(fd, v4, to) < 0) {
    t.ctx.log.line(SITE_TCP_OUTBOUND_IF, 'warn', 'TCP: cannot bind to the outbound interface');
    return -EINVAL;
  }
  if (from !== 0 || binding.hasSource(v4, to)) {
    // Lets the host's own services listen on the port, and other connections of the guest leave from it.
    if (from !== 0) io.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    const r = binding.bind(fd, v4, to, from);
    if (r < 0) {
      if (from !== 0) return r;
      t.ctx.log.line(SITE_TCP_OUTBOUND_ADDR, 'warn', 'TCP: cannot bind to the outbound address');
      return -EINVAL;
    }
  }
  if (to.local) endsOnThisHost(io, fd);
  const d = to.dst;
  addrSlotWrite(io.addrs, ADDR_SLOT_TCP, family, port, to.scope, d, 0);
  const r = io.connect(fd, ADDR_SLOT_TCP);
  return r === -EINPROGRESS ? 0 : r;
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
  handshakeDone(t, flow);
  startIdle(t, flow);
}
