/**
 * What the guest sends, held back until the policy has read it: the ClientHello of a flow that has to name its server, and
 * queries to resolvers. No byte reaches the host's socket before.
 *
 * Theory of operation. A flow with F_HELD has its payload copied, in order, into a slot of scratch memory: what is read is
 * what is sent, whatever becomes of the guest's memory. It is acknowledged, as a sender of small segments would otherwise
 * come to a halt. When the bytes at the front are complete and allowed they are `ready`, and go to the socket; a ClientHello is
 * the last that is held. What is not allowed resets the flow. There are few slots, and a flow has one only while bytes of it
 * are held; where all are taken, the guest's bytes are not taken (it sends them again), and a flow that has kept its slot
 * for long without completing anything is reset.
 *
 * Answers of resolvers (F_ANSWERS) are read in the socket's queue, by a peek into scratch memory, before they are sent to the
 * guest; a part of an answer is not taken out of the queue before the rest was read (`answerLimit`).
 */
import { moveRows, setRow } from '../kit/rows';
import { seqAdd, seqDiff } from '../kit/seq';
import { EAGAIN, ENOBUFS, ENOMEM, SOL_SOCKET, SO_PEEK_OFF } from '../kit/linux';
import { END_DENIED, END_TIMEOUT } from '../kit/flow-rows';
import { KEY_WORDS } from '../kit/flow-table';
import type { FrameInfo, StackContext } from '../context';
import { dropCode } from '../counters';
import { natToHost, PORT_DNS } from '../ip/nat';
import { HELLO_MORE, HELLO_NONE, readHello, type Hello } from '../policy/client-hello';
import { DnsWatch, QUERY_PASS } from '../policy/dns';
import { MSG_PEEK } from '../ports';
import {
  ROWS_MISC,
  SCRATCH_FIRST,
  SCRATCH_FIRST_SLOT,
  SCRATCH_FIRST_SLOTS,
  SCRATCH_QUERY_SIZE,
  SCRATCH_TCP,
  SCRATCH_TCP_SIZE,
} from '../scratch';
import { IP_PROTO_TCP } from '../wire/ipv4';
import { tcpDataOffset } from '../wire/tcp';
import { resetBoth } from './close';
import {
  F_ACK_DUE,
  F_ANSWERS,
  F_HELD,
  F_HOST_ERROR,
  F_OUT_ARMED,
  F_PEEK_OFF,
  F_REFUSED,
  ST_OPEN,
  TIMER_WINDOW,
  countDrop,
  setTimer,
  timerIsSet,
} from './flow';
import type { TcpEngine } from './flow';

const DROP_POLICY_DENIED = dropCode('policy_denied');

/** How long a flow may keep its slot while others want one, ms. */
const HOLD_MS = 5000;
/** Look again at a socket that refused data for want of memory, ms. */
const REFUSED_POLL_MS = 50;
/** Flows to resolvers whose answers are read. */
const RESOLVER_FLOWS = 64;

export class FirstBytes {
  readonly watch: DnsWatch;
  /** Whose bytes a slot holds; -1: nobody's. When it was taken, how much it holds, and how much of that may go. */
  readonly flow: Int32Array;
  readonly since: Float64Array;
  readonly length: Int32Array;
  readonly ready: Int32Array;
  /** Flows whose answers are read, and where the next answer begins. */
  readonly resolver: Int32Array;
  readonly nextAnswer: Int32Array;

  constructor(ctx: StackContext) {
    this.watch = new DnsWatch(ctx);
    this.flow = new Int32Array(SCRATCH_FIRST_SLOTS).fill(-1);
    this.since = new Float64Array(SCRATCH_FIRST_SLOTS);
    this.length = new Int32Array(SCRATCH_FIRST_SLOTS);
    this.ready = new Int32Array(SCRATCH_FIRST_SLOTS);
    this.resolver = new Int32Array(RESOLVER_FLOWS).fill(-1);
    this.nextAnswer = new Int32Array(RESOLVER_FLOWS);
  }
}

const startOf = (slot: number): number => SCRATCH_FIRST + slot * SCRATCH_FIRST_SLOT;

/** A flow that the policy has just admitted: is anything of it to be read? */
export function holdIfRead(t: TcpEngine, flow: number, port: number): void {
  const { policy } = t.ctx.link;
  if (!policy.readsNames) return;
  if (policy.wantsHello(port)) t.flags[flow] |= F_HELD;
  if (port !== PORT_DNS) return;
  t.flags[flow] |= F_HELD;
  if (!policy.trustsResolver(port)) return;
  const place = t.first.resolver.indexOf(-1);
  if (place < 0) return;
  t.first.resolver[place] = flow;
  t.first.nextAnswer[place] = seqAdd(t.iss[flow], 1);
  t.flags[flow] |= F_ANSWERS;
}

/** The flow ends: what is held of it is forgotten. */
export function forgetHeld(t: TcpEngine, flow: number): void {
  const { first } = t;
  const slot = first.flow.indexOf(flow);
  if (slot >= 0) first.flow[slot] = -1;
  const place = first.resolver.indexOf(flow);
  if (place >= 0) first.resolver[place] = -1;
}

/** A slot for the flow, its own or a free one; -1: there is none. */
function slotFor(t: TcpEngine, flow: number): number {
  const { first } = t;
  const own = first.flow.indexOf(flow);
  if (own >= 0) return own;
  const free = first.flow.indexOf(-1);
  if (free < 0) {
    let oldest = 0;
    for (let i = 1; i < SCRATCH_FIRST_SLOTS; i++) if (first.since[i] < first.since[oldest]) oldest = i;
    if (t.clock.nowMs - first.since[oldest] >= HOLD_MS) resetBoth(t, first.flow[oldest], END_TIMEOUT);
    return -1;
  }
  first.flow[free] = flow;
  first.since[free] = t.clock.nowMs;
  first.length[free] = 0;
  first.ready[free] = 0;
  return free;
}

/**
 * Takes up to `take` bytes of payload, in order, from offset `skip` of the segment in hand. False if it took none, or not all:
 * the guest has to send the rest again. The flow may be reset afterwards.
 */
export function holdPayload(t: TcpEngine, flow: number, frame: FrameInfo, skip: number, take: number): boolean {
  const { first, io, gathered } = t;
  const slot = slotFor(t, flow);
  // What may go is waiting for the socket: more would only wait as well.
  if (slot < 0 || first.ready[slot] > 0) return false;
  const at = first.length[slot];
  const want = Math.min(take, SCRATCH_FIRST_SLOT - at);
  const header = t.segment.trimmed ? 0 : frame.l4Off + tcpDataOffset(t.port.head, frame.l4Off);
  const base = gathered.place(frame);
  const rows = moveRows(io.rows, frame.row, frame.rowCount, header + skip, want, base);
  setRow(io.rows, ROWS_MISC, io.scratchRegion, startOf(slot) + at, want);
  const n = io.copyRows(base, rows, ROWS_MISC, 1);
  if (n <= 0) return false;
  first.length[slot] = at + n;
  t.rcvNxt[flow] = seqAdd(t.rcvNxt[flow], n);
  t.activeAt[flow] = t.clock.nowMs;
  t.flags[flow] |= F_ACK_DUE;
  judge(t, flow, slot, false);
  return n === take;
}

/** The guest's stream ends. True if nothing of it is held any more; the flow may be reset afterwards. */
export function endHeld(t: TcpEngine, flow: number): boolean {
  const slot = t.first.flow.indexOf(flow);
  if (slot < 0) return true;
  if (t.first.ready[slot] === 0) judge(t, flow, slot, true);
  return t.state[flow] === ST_OPEN && !t.first.flow.includes(flow);
}

/** `last`: nothing follows. */
function judge(t: TcpEngine, flow: number, slot: number, last: boolean): void {
  const port = t.table.keys[flow * KEY_WORDS + KEY_WORDS - 1] & 0xffff;
  if (port === PORT_DNS) judgeQueries(t, flow, slot, last);
  else judgeHello(t, flow, slot, last);
}

function refuse(t: TcpEngine, flow: number): void {
  countDrop(t, DROP_POLICY_DENIED);
  resetBoth(t, flow, END_DENIED);
}

function judgeHello(t: TcpEngine, flow: number, slot: number, last: boolean): void {
  const { first } = t;
  const hello = helloText(t, slot);
  if (hello === HELLO_MORE && !last && first.length[slot] < SCRATCH_FIRST_SLOT) return;
  const k = flow * KEY_WORDS;
  const { keys } = t.table;
  const port = keys[k + KEY_WORDS - 1] & 0xffff;
  const { policy } = t.ctx.link;
  const code = natToHost(t.nat, IP_PROTO_TCP, keys, k + 4, port, t.natResult);
  const name = hello === HELLO_MORE || hello === HELLO_NONE ? null : hello;
  if (code !== 0 || (policy.on && !policy.admitsName(t.ctx, IP_PROTO_TCP, keys, k + 4, port, t.natResult, name))) {
    refuse(t, flow);
    return;
  }
  first.ready[slot] = first.length[slot];
  drainHeld(t, flow);
}

/** The name in what a slot holds (policy/client-hello.ts). Allocates: once or twice a connection. */
function helloText(t: TcpEngine, slot: number): Hello {
  const { scratch } = t.io;
  return readHello(new Uint8Array(scratch.buffer, scratch.byteOffset + startOf(slot), t.first.length[slot]));
}

/** Queries, each behind its length (RFC 1035 §4.2.2). One that is refused ends the flow. */
function judgeQueries(t: TcpEngine, flow: number, slot: number, last: boolean): void {
  const { first, io } = t;
  const at = startOf(slot);
  let ready = 0;
  while (ready + 2 <= first.length[slot]) {
    const length = io.scratch.getUint16(at + ready);
    if (length > SCRATCH_QUERY_SIZE) {
      refuse(t, flow);
      return;
    }
    if (ready + 2 + length > first.length[slot]) break;
    if (first.watch.query(flowText(t, flow), io.scratch, at + ready + 2, length) !== QUERY_PASS) {
      refuse(t, flow);
      return;
    }
    ready += 2 + length;
  }
  if (ready === 0 && last) {
    refuse(t, flow);
    return;
  }
  first.ready[slot] = ready;
  if (ready > 0) drainHeld(t, flow);
}

/** What no other flow has, before or after. */
function flowText(t: TcpEngine, flow: number): string {
  return `tcp/${flow}/${t.table.generation[flow]}`;
}

/** Sends what may go of what is held. */
export function drainHeld(t: TcpEngine, flow: number): void {
  const { first, io } = t;
  const slot = first.flow.indexOf(flow);
  if (slot < 0 || first.ready[slot] === 0) return;
  setRow(io.rows, ROWS_MISC, io.scratchRegion, startOf(slot), first.ready[slot]);
  const n = io.send(t.fd[flow], ROWS_MISC, 1, 0);
  if (n > 0) sent(t, flow, slot, n);
  if (first.flow[slot] !== flow || first.ready[slot] === 0) return;
  t.flags[flow] |= F_REFUSED;
  if (n >= 0 || n === -EAGAIN) {
    t.flags[flow] |= F_OUT_ARMED;
    return;
  }
  if (n !== -ENOMEM && n !== -ENOBUFS) t.flags[flow] |= F_HOST_ERROR;
  else if (!timerIsSet(t, flow, TIMER_WINDOW)) setTimer(t, flow, TIMER_WINDOW, REFUSED_POLL_MS);
}

/** The socket took `n` bytes of a slot. */
function sent(t: TcpEngine, flow: number, slot: number, n: number): void {
  const { first } = t;
  const left = first.length[slot] - n;
  first.ready[slot] -= n;
  first.length[slot] = left;
  const port = t.table.keys[flow * KEY_WORDS + KEY_WORDS - 1] & 0xffff;
  if (left === 0) {
    first.flow[slot] = -1;
    if (port !== PORT_DNS) t.flags[flow] &= ~F_HELD;
    return;
  }
  moveDown(t, startOf(slot), n, left);
}

function moveDown(t: TcpEngine, at: number, by: number, length: number): void {
  const { scratch } = t.io;
  for (let i = 0; i < length; i++) scratch.setUint8(at + i, scratch.getUint8(at + by + i));
}

/** The flow has something for the guest: answers among it are read first, each when it is complete. */
export function readAnswers(t: TcpEngine, flow: number): void {
  const { first, io } = t;
  const place = first.resolver.indexOf(flow);
  if (place < 0) return;
  const fd = t.fd[flow];
  const off = (t.flags[flow] & F_PEEK_OFF) !== 0;
  if (off && io.setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, 0) < 0) return;
  setRow(io.rows, ROWS_MISC, io.scratchRegion, SCRATCH_TCP, SCRATCH_TCP_SIZE);
  const n = Math.max(0, io.recv(fd, ROWS_MISC, 1, MSG_PEEK));
  if (off) t.peekSeq[flow] = seqAdd(t.sockSeq[flow], n);
  let at = seqDiff(first.nextAnswer[place], t.sockSeq[flow]);
  while (at + 2 <= n) {
    const length = io.scratch.getUint16(SCRATCH_TCP + at);
    if (at + 2 + length > n) break;
    first.watch.answer(flowText(t, flow), io.scratch, SCRATCH_TCP + at + 2, length);
    at += 2 + length;
  }
  first.nextAnswer[place] = seqAdd(t.sockSeq[flow], at);
}

/** Up to where the socket's queue may be discarded, although the guest has acknowledged up to `end`. */
export function answerLimit(t: TcpEngine, flow: number, end: number): number {
  const place = t.first.resolver.indexOf(flow);
  if (place < 0) return end;
  return seqDiff(end, t.first.nextAnswer[place]) > 0 ? t.first.nextAnswer[place] : end;
}
