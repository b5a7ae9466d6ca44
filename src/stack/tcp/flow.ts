/**
 * TCP flows: the columns of the flow table and what all parts of src/stack/tcp share.
 *
 * ## Theory of operation
 *
 * A flow glues two half-connections together byte by byte: our own TCP toward the guest, over frames, and the host
 * kernel's TCP behind a socket. Sequence numbers, options, windows and retransmissions are independent on both sides.
 * No payload is held here:
 *
 * - **Host → guest.** Bytes stay in the socket's receive queue until the guest has acknowledged them: they are peeked
 *   straight into the guest's buffers (`output.ts`), and acknowledged ones are discarded from the queue. The socket is
 *   the retransmission buffer. The guest's window and free receive buffers decide how much is read; when either is
 *   missing, the bytes wait in the kernel, whose own window then slows the peer.
 * - **Guest → host.** Payload is sent to the socket from the guest's buffers, one call per flow and batch (`input.ts`).
 *   What the socket took is acknowledged at once, what it did not take is not. The window we tell is what the socket's
 *   send buffer has room for (`window.ts`), so a guest that respects it never sends in vain.
 *
 * ### Acknowledgement policy
 * Everything the socket accepted is acknowledged, once per flow and batch. The guest thereby learns that the host's
 * kernel, not the peer, has its bytes: the same promise a local socket makes.
 *
 * One small segment alone, or a FIN alone, is as a rule a request that is answered at once: its acknowledgement waits
 * up to ACK_DELAY_MS for the answer to carry it (F_ACK_LATER), which saves a frame and an interrupt of the guest. A
 * second segment is acknowledged at once (RFC 9293 §3.8.6.3), so that nothing is ever outstanding that makes a guest
 * send a tail loss probe (RFC 8985 §7.2, with one segment outstanding not before the time-out). If nobody answers in
 * time, the flow's acknowledgements come at once again, until as many answers as ACK_QUICK were prompt (`ackScore`).
 *
 * ### States
 * | state | meaning | leaves by |
 * |---|---|---|
 * | CONNECTING | guest's SYN seen, host connect under way; nothing sent | connect result, guest's RST |
 * | SYN_SENT | connection accepted on the host, SYN owed or sent to the guest | SYN-ACK, RST, time-out |
 * | SYN_RCVD | SYN-ACK owed or sent | ACK, RST, time-out |
 * | OPEN | both sides connected; F_HOST_EOF, F_GUEST_FIN, F_FIN_ACKED tell how far closing has come | both FINs done,
 * resets |
 * | TIME_WAIT | both directions finished, we closed first: only answers, no socket any more | timer, new SYN |
 * | RESET | socket gone, an RST is owed to the guest and waits for a receive buffer | RST sent |
 *
 * The RFC 9293 states FIN-WAIT, CLOSE-WAIT, CLOSING and LAST-ACK are combinations of the three flags in OPEN.
 *
 * ### Work owed
 * Nothing is sent while a segment is parsed. Parsing, socket events and timers only set flags for what is owed
 * (F_ACK_DUE, F_SYN_DUE, F_RTX_DUE, F_PROBE_DUE, F_READABLE) and `service` (service.ts) pays, in one place: for every
 * flow touched in a batch at its end, for a socket's flow at its event, for a timer's flow when it fires. If the guest
 * has no receive buffer, the flow goes to the end of the `ready` queue, and so does every later one (`turn.starved`), until
 * new buffers are announced; then they are served in turn. A flow that used up its budget waits there too.
 *
 * ### Fairness
 * A flow that sent much when it was served last is marked F_BULK. Its acknowledgements are still sent at once, but its
 * data waits in `ready`, of which a turn of the loop serves one share (BULK_SHARE) and then looks at sockets and rings
 * again. Other flows are served where their event is handled, so before all bulk of that turn, with a budget
 * (LIGHT_SHARE) that makes them bulk if they use it up; if the guest has no receive buffer, they wait in `light`, which
 * is served before `ready`. So a message of an interactive flow waits for one share at the most, whatever the number of
 * bulk flows; and bulk flows cannot starve behind a crowd of light ones (`bulkFirst`). What light flows sent is
 * published to the guest before the next large copy. From the guest, a turn takes a bounded number of bytes (from-guest.ts).
 *
 * ### Edge-triggered events
 * A socket is watched once, for everything, edge-triggered. F_READABLE remembers "there may be something to read" and
 * is cleared only by EAGAIN, or by a read that returned less than asked while neither end of stream, an error nor
 * urgent data was seen (a read stops short at the urgent mark). Room in the send buffer is re-announced by the kernel
 * only after it was seen missing: see window.ts.
 *
 * ### Sequence numbers (int32, RFC 9293 names)
 * sndUna ≤ sndNxt ≤ sndMax: acknowledged by the guest, next to send (moved back to sndUna by a time-out), highest sent.
 * sockSeq ≤ sndUna is the first byte still in the socket's receive queue, peekSeq where the kernel will peek next.
 * rcvNxt is the first byte from the guest that the socket has not taken, rcvAdv the right edge of the window told:
 * it never moves left.
 */
import type { ForwardListener } from '../config';
import { DEFAULT_MTU } from '../config';
import type { StackContext } from '../context';
import { C_DROPS, C_DROPS_TO_GUEST } from '../counters';
import type { DropCode } from '../counters';
import { FlowTable, SlotQueue } from '../kit/flow-table';
import type { NatTables } from '../ip/nat';
import { NatResult } from '../ip/nat';
import { OutboundBinding } from '../ip/outbound-binding';
import { OwnListeners } from './own-listeners';
import type { Clock, GuestPort, HostIo } from '../ports';
import { ADDR_SLOT_TCP } from '../scratch';
import { halfOpenLimit } from './admission-bounds';
import { Credit, FlowCredit } from '../kit/credit';
import { RestingSockets } from '../kit/resting';
import { newListener } from './listener';
import type { Listener } from './listener';
import { FirstBytes } from './first-bytes';
import { GatheredRows } from './gathered-rows';
import { ReservedFrames } from './reserved-frames';
import { Segment } from './segment';
import { SEND_BUFFER_GOAL } from './send-buffer';
import { Turn } from './turn';
import { TimerWheel } from '../kit/timer-wheel';
import { OUTPUT_TTL } from '../ip/to-guest';
import { IpFields } from '../wire/ip-fields';
import { IP_PROTO_TCP } from '../wire/ipv4';
import { TCP_HEADERS4, TCP_HEADERS6 } from '../wire/tcp';

// ---- states (column `state`)
export const ST_FREE = 0;
export const ST_CONNECTING = 1;
export const ST_SYN_SENT = 2;
export const ST_SYN_RCVD = 3;
export const ST_OPEN = 4;
export const ST_TIME_WAIT = 5;
export const ST_RESET = 6;

// ---- flags (column `flags`): progress of closing
/** The host peer's end of stream was read; finSeq is the sequence number of our FIN. */
export const F_HOST_EOF = 1 << 0;
/** Our FIN was acknowledged. */
export const F_FIN_ACKED = 1 << 1;
/** The guest's FIN was received in order and passed on. */
export const F_GUEST_FIN = 1 << 2;
/** Our FIN went out before the guest's came: TIME-WAIT is ours. */
export const F_ACTIVE_CLOSE = 1 << 3;

// ---- flags: what the socket told
export const F_READABLE = 1 << 4;
/** EPOLLRDHUP was seen: the end of the stream is in the receive queue. */
export const F_RDHUP = 1 << 5;
/** Urgent data was seen: short reads prove nothing. */
export const F_URGENT = 1 << 6;
/** The socket failed; what can still be read goes to the guest, then an RST. */
export const F_HOST_ERROR = 1 << 7;
/** The kernel knows that we wait for room in the send buffer. */
export const F_OUT_ARMED = 1 << 8;
/** The socket took less than was sent to it: the guest has to send the rest again. */
export const F_REFUSED = 1 << 9;
/** SO_KEEPALIVE is on. */
export const F_KEEPALIVE = 1 << 10;

// ---- flags: owed to the guest
export const F_ACK_DUE = 1 << 11;
export const F_SYN_DUE = 1 << 12;
/** Retransmit the segment at sndUna. */
export const F_RTX_DUE = 1 << 13;
/** A zero-window probe or keep-alive: an ACK just below what the guest expects. */
export const F_PROBE_DUE = 1 << 14;

// ---- flags: retransmission
/** The main timer is the zero-window probe timer. */
export const F_PERSIST = 1 << 15;
/** In fast recovery up to `recover` (RFC 6582). */
export const F_RECOVERY = 1 << 16;
/** After a time-out: one segment at a time until something is acknowledged. */
export const F_LOSS = 1 << 17;
/** A segment's round trip is being timed. */
export const F_TIMING = 1 << 18;
/** The last attempt found no receive buffer for a frame of the preferred size. */
export const F_SQUEEZED = 1 << 19;

export const F_V6 = 1 << 20;
/** The guest offered window scaling. */
export const F_SCALING = 1 << 21;
/** A handshake segment was retransmitted (RFC 6298 §5.7). */
export const F_SYN_RETRIED = 1 << 22;
/** The last time the flow was served, it sent much to the guest: from now on its data waits for its turn. */
export const F_BULK = 1 << 23;
/** An acknowledgement is owed, but may wait for data to carry it, or for TIMER_ACK. */
export const F_ACK_LATER = 1 << 24;
export const F_ACK_OWED = F_ACK_DUE | F_ACK_LATER;
/** SO_PEEK_OFF is set on the socket. */
export const F_PEEK_OFF = 1 << 25;
/** A router on the way to the guest has a smaller MTU than may be told: packets may be fragmented (path-mtu.ts). */
export const F_NO_DF = 1 << 26;
/** The guest may have restarted since its last segment: a keep-alive checks whether it knows the flow (idle.ts). */
export const F_VERIFY = 1 << 27;
/** The flow log has its end. */
export const F_ENDED = 1 << 28;

/** What the guest sends is read before it goes to the socket (first-bytes.ts); answers, before they go to the guest. */
export const F_HELD = 1 << 28;
export const F_ANSWERS = 1 << 29;

// ---- timers of a flow: id = flow * TIMERS + kind
export const TIMERS = 4;
/** Handshake, retransmission, zero-window probe or TIME-WAIT, by state and F_PERSIST. */
export const TIMER_MAIN = 0;
export const TIMER_IDLE = 1;
/** Looks again at a send buffer that is too full for a useful window. */
export const TIMER_WINDOW = 2;
/** An acknowledgement waits for data. */
export const TIMER_ACK = 3;

/** RFC 6298 §2: first RTO and lower bound. */
export const RTO_INITIAL_MS = 1000;
export const RTO_MIN_MS = 1000;
/** RFC 6298 §5.7: first RTO for data if the handshake needed a retransmission. */
export const RTO_AFTER_SYN_RETRY_MS = 3000;
/** Unanswered retransmissions or probes before the flow is given up. */
export const MAX_RETRIES = 7;
/** As Linux; shorter if the table is full: then the oldest lingering flow makes room. It costs no descriptor. */
export const TIME_WAIT_MS = 60_000;
/** Counters of connections by remote address (admission.ts). */
export const PEER_BUCKETS = 4096;

/** Longest time that an acknowledgement waits for data, ms (and a tick of the timers). Linux as a receiver: 40. */
export const ACK_DELAY_MS = 10;
/** Largest payload whose acknowledgement may wait: no more than one segment on an Ethernet. */
export const ACK_DELAY_BYTES = 1460;
/** Duplicate acknowledgements that make a sender retransmit at once (RFC 5681 §3.2). */
export const DUP_ACKS = 3;
/** Prompt answers until acknowledgements may wait again, after one waited in vain. */
export const ACK_QUICK = 16;

/** Our window scale: 65535 << 8 is 16 MiB, four times Linux's largest default send buffer. */
export const OUR_WINDOW_SCALE = 8;
/** Smallest segment size we let the guest impose (Linux: TCP_MIN_MSS). */
export const MIN_MSS = 88;
/** RFC 9293 §3.7.1: segment size if the peer sent no option. */
export const DEFAULT_MSS4 = 536;
export const DEFAULT_MSS6 = 1220;

/** First guess of how much there is to read; adapts between the bounds. */
export const HINT_MIN = 4096;
export const HINT_INITIAL = 16384;

export class TcpEngine {
  readonly ctx: StackContext;
  readonly io: HostIo;
  /** `StackContext.port`, one step nearer. */
  port: GuestPort;
  readonly clock: Clock;
  readonly nat: NatTables;
  readonly own: OwnListeners;
  readonly binding: OutboundBinding;
  readonly natResult: NatResult;
  /** The peer of the connection being accepted. */
  readonly peerWords: Int32Array;
  readonly table: FlowTable;
  readonly timers: TimerWheel;
  readonly listeners: (Listener | null)[];
  /** Places of those that are open, by their descriptors; empty until the first change (listener-changes.ts). */
  readonly places: Map<number, number>;
  /** Listeners in whose backlogs connections may wait (edge seen, not yet accepted until EAGAIN). */
  readonly acceptable: SlotQueue;
  /** Listeners that could not be watched yet, for want of memory or of watches. */
  readonly unwatched: RestingSockets;
  /** All of those were tried, and none may have another flow until one ends or gets older. */
  acceptBlocked: boolean;
  /** Not before this time (clock.nowMs) is accepting tried again, descriptors having run out; 0: no wait. */
  acceptAt: number;

  /** Bulk flows (F_BULK) that wait for receive buffers or for their next turn. */
  readonly ready: SlotQueue;
  /** Flows that wait for the rate of what goes to the guest. */
  readonly throttled: SlotQueue;
  /** Other flows that wait for receive buffers: served before `ready`. */
  readonly light: SlotQueue;
  readonly turn: Turn;
  readonly segment: Segment;
  /** Payload of one flow gathered in this batch. */
  readonly gathered: GatheredRows;
  readonly first: FirstBytes;
  readonly reserved: ReservedFrames;
  readonly touched: SlotQueue;
  /** Flows in TIME_WAIT, oldest first. */
  readonly lingering: SlotQueue;
  /** Half-open flows, oldest first: the guest's, and those accepted on the host (admission.ts). */
  readonly outward: SlotQueue;
  readonly inward: SlotQueue;
  readonly halfOpenMost: number;
  /** Flows that the guest has closed and the peer has not, oldest first. */
  readonly halfClosed: SlotQueue;
  /** Flows that the guest opened, TIME-WAIT left out; accepted ones by their peer's address. */
  guestFlows: number;
  readonly peers: Int32Array;
  readonly peerKey: Int32Array;
  /** Time for connection attempts, by side. */
  readonly guestCredit: FlowCredit;
  readonly acceptCredit: Credit;
  /** When the guest may have restarted; flows heard since are known to it (idle.ts). */
  restartAt: number;
  /** Challenges and resets sent in second `answersAt` (challenge.ts). */
  answersAt: number;
  challenges: number;
  resets: number;
  /** Send buffers smaller than this may be made larger (send-buffer.ts), bytes. */
  sendBufferGoal: number;

  readonly mss4: number;
  readonly mss6: number;
  readonly isn0: number;
  readonly isn1: number;
  /** Header of the segment being sent. */
  readonly ip: IpFields;
  /** Identification of the last IPv4 packet that may be fragmented. */
  ipId: number;

  // ---- columns
  readonly state: Uint8Array;
  readonly flags: Int32Array;
  readonly fd: Int32Array;
  readonly sndUna: Int32Array;
  readonly sndNxt: Int32Array;
  readonly sndMax: Int32Array;
  readonly sndWnd: Int32Array;
  readonly sndWl1: Int32Array;
  readonly sndWl2: Int32Array;
  readonly maxWnd: Int32Array;
  readonly iss: Int32Array;
  readonly irs: Int32Array;
  readonly rcvNxt: Int32Array;
  readonly rcvAdv: Int32Array;
  readonly finSeq: Int32Array;
  readonly sockSeq: Int32Array;
  readonly peekSeq: Int32Array;
  readonly recover: Int32Array;
  /** Segment size toward the guest, without options. */
  readonly mss: Int32Array;
  readonly sndScale: Uint8Array;
  readonly rcvScale: Uint8Array;
  readonly hint: Int32Array;
  readonly dupAcks: Uint8Array;
  /** Duplicate acknowledgements owed. */
  readonly dupOwed: Uint8Array;
  /** Retransmissions or probes without any answer; doublings of the timer. */
  readonly retries: Uint8Array;
  readonly backoff: Uint8Array;
  /** ST_RESET: the state before, which decides the form of the RST. */
  readonly resetFrom: Uint8Array;
  readonly windowPolls: Uint8Array;
  /** Room in the send buffer when it was looked at last, bytes. */
  readonly room: Int32Array;
  /** Below zero: acknowledgements do not wait; see ACK_QUICK. */
  readonly ackScore: Int8Array;
  /** TTL or hop limit and DSCP of the guest's last segment (ttl-dscp.ts). */
  readonly ttl: Uint8Array;
  readonly dscp: Uint8Array;
  /** RFC 6298, ms: SRTT × 8 (-1: none yet), RTTVAR × 4, RTO. */
  readonly srtt8: Int32Array;
  readonly rttvar4: Int32Array;
  readonly rto: Int32Array;
  readonly rttSeq: Int32Array;
  readonly rttAt: Float64Array;
  /** Unfolded sum of the pseudo-header's addresses and protocol. */
  readonly pseudo: Int32Array;
  readonly guestAt: Float64Array;
  /** When payload came from the guest, and when much of it at once (traffic-hints.ts). */
  readonly payloadAt: Float64Array;
  readonly bulkAt: Float64Array;
  readonly activeAt: Float64Array;
  /** Listener that accepted the connection, or -1; its peer's bucket; what its set-up cost, µs (admission.ts). */
  readonly owner: Int32Array;
  readonly bucket: Uint16Array;
  readonly cost: Uint16Array;
  /** Keep-alives without an answer; doublings of the pause before the next (idle.ts). */
  readonly idleProbes: Uint8Array;
  readonly idleDoublings: Uint8Array;
  /** When a segment without payload was answered last (challenge.ts). */
  readonly challengedAt: Float64Array;
  /** The guest's own: when its SYN came, CLOCK_MONOTONIC in µs. */
  readonly connectUs: Float64Array;
  /** When it began; the rule that it came by (0: of none; -1: the guest's own); what the kernel counted (flow-view.ts). */
  readonly openedAt: Float64Array;
  readonly rule: Int32Array;
  readonly kernelFrom: Float64Array;
  readonly kernelTo: Float64Array;

  /** `more`: how many listeners may be added later. */
  constructor(ctx: StackContext, listeners: readonly ForwardListener[], more = 0) {
    const { config, random } = ctx;
    const n = config.maxTcpFlows;
    this.ctx = ctx;
    this.io = ctx.io;
    this.port = ctx.port;
    this.clock = ctx.clock;
    this.nat = ctx.link.nat;
    this.own = new OwnListeners(ctx.config.ownListeners);
    this.binding = new OutboundBinding(ctx, ADDR_SLOT_TCP);
    this.natResult = new NatResult();
    this.peerWords = new Int32Array(4);
    this.table = new FlowTable(n, random.u32(), random.u32());
    this.timers = new TimerWheel(n * TIMERS, ctx.clock.nowMs);
    this.listeners = listeners.map((l) => (l.protocol === 'tcp' && l.inside !== true ? newListener(l) : null));
    this.places = new Map();
    for (let i = 0; i < more; i++) this.listeners.push(null);
    this.acceptable = new SlotQueue(this.listeners.length);
    this.unwatched = new RestingSockets(this.listeners.length);
    this.acceptBlocked = false;
    this.acceptAt = 0;
    this.ready = new SlotQueue(n);
    this.throttled = new SlotQueue(n);
    this.light = new SlotQueue(n);
    this.turn = new Turn();
    this.segment = new Segment();
    this.gathered = new GatheredRows();
    this.first = new FirstBytes(ctx);
    this.reserved = new ReservedFrames();
    this.touched = new SlotQueue(n);
    this.lingering = new SlotQueue(n);
    this.outward = new SlotQueue(n);
    this.inward = new SlotQueue(n);
    this.halfOpenMost = halfOpenLimit(n);
    this.halfClosed = new SlotQueue(n);
    this.guestFlows = 0;
    this.peers = new Int32Array(PEER_BUCKETS);
    this.peerKey = new Int32Array(2);
    this.guestCredit = new FlowCredit(n, ctx.clock, ctx.random);
    this.acceptCredit = new Credit(ctx.clock.nowMs);
    this.restartAt = -Infinity;
    this.answersAt = 0;
    this.challenges = 0;
    this.resets = 0;
    this.sendBufferGoal = SEND_BUFFER_GOAL;
    const mtu = config.mtu === 0 ? DEFAULT_MTU : config.mtu;
    this.mss4 = Math.max(MIN_MSS, mtu - TCP_HEADERS4);
    this.mss6 = Math.max(MIN_MSS, mtu - TCP_HEADERS6);
    this.isn0 = random.u32();
    this.isn1 = random.u32();
    this.ip = new IpFields(IP_PROTO_TCP, OUTPUT_TTL);
    this.ipId = random.u32() & 0xffff;
    this.state = new Uint8Array(n);
    this.flags = new Int32Array(n);
    this.fd = new Int32Array(n).fill(-1);
    this.sndUna = new Int32Array(n);
    this.sndNxt = new Int32Array(n);
    this.sndMax = new Int32Array(n);
    this.sndWnd = new Int32Array(n);
    this.sndWl1 = new Int32Array(n);
    this.sndWl2 = new Int32Array(n);
    this.maxWnd = new Int32Array(n);
    this.iss = new Int32Array(n);
    this.irs = new Int32Array(n);
    this.rcvNxt = new Int32Array(n);
    this.rcvAdv = new Int32Array(n);
    this.finSeq = new Int32Array(n);
    this.sockSeq = new Int32Array(n);
    this.peekSeq = new Int32Array(n);
    this.recover = new Int32Array(n);
    this.mss = new Int32Array(n);
    this.sndScale = new Uint8Array(n);
    this.rcvScale = new Uint8Array(n);
    this.hint = new Int32Array(n);
    this.dupAcks = new Uint8Array(n);
    this.dupOwed = new Uint8Array(n);
    this.retries = new Uint8Array(n);
    this.backoff = new Uint8Array(n);
    this.resetFrom = new Uint8Array(n);
    this.windowPolls = new Uint8Array(n);
    this.room = new Int32Array(n);
    this.ackScore = new Int8Array(n);
    this.ttl = new Uint8Array(n);
    this.dscp = new Uint8Array(n);
    this.srtt8 = new Int32Array(n);
    this.rttvar4 = new Int32Array(n);
    this.rto = new Int32Array(n);
    this.rttSeq = new Int32Array(n);
    this.rttAt = new Float64Array(n);
    this.pseudo = new Int32Array(n);
    this.guestAt = new Float64Array(n);
    this.payloadAt = new Float64Array(n);
    this.bulkAt = new Float64Array(n);
    this.activeAt = new Float64Array(n);
    this.owner = new Int32Array(n).fill(-1);
    this.bucket = new Uint16Array(n);
    this.cost = new Uint16Array(n);
    this.idleProbes = new Uint8Array(n);
    this.idleDoublings = new Uint8Array(n);
    this.challengedAt = new Float64Array(n);
    this.connectUs = new Float64Array(n);
    this.openedAt = new Float64Array(n);
    this.rule = new Int32Array(n);
    this.kernelFrom = new Float64Array(n);
    this.kernelTo = new Float64Array(n);
  }
}

/** Counts a dropped segment of the guest. */
export function countDrop(t: TcpEngine, code: DropCode): void {
  t.ctx.counters[C_DROPS + code]++;
}

/** Counts a connection from the host that does not come to the guest. */
export function countDropToGuest(t: TcpEngine, code: DropCode): void {
  t.ctx.counters[C_DROPS_TO_GUEST + code]++;
}

/** Remembers that `flow` is to be served at the end of the batch. */
export function touch(t: TcpEngine, flow: number): void {
  t.touched.push(flow);
}

/** Sets timer `kind` of the flow to `ms` from now. */
export function setTimer(t: TcpEngine, flow: number, kind: number, ms: number): void {
  t.timers.set(flow * TIMERS + kind, t.clock.nowMs + ms);
}

export function cancelTimer(t: TcpEngine, flow: number, kind: number): void {
  t.timers.cancel(flow * TIMERS + kind);
}

export function timerIsSet(t: TcpEngine, flow: number, kind: number): boolean {
  return t.timers.isSet(flow * TIMERS + kind);
}

/** Retransmission or probe time-out with its exponential back-off, ms (RFC 6298 §5.5; net.ipv4.tcp_rto_max_ms). */
export function backedOffRto(t: TcpEngine, flow: number): number {
  return Math.min(t.rto[flow] * 2 ** t.backoff[flow], t.ctx.config.tcpRtoMaxMs);
}
