/**
 * Who may have a flow: bounds on half-open connections and on the share of the table that one party takes.
 * docs/adr/0006-half-open-connections.md has the reasons.
 *
 * **Half-open.** A flow is half-open until the guest's handshake is complete. Those of the guest and those of forwarded
 * ports have a queue and a bound each, half of the table at the most. Beyond it, or when the table is full, the oldest
 * half-open flow makes room. Nothing is said to the guest then: nothing was sent to it, or its next segment finds no
 * flow and is reset. The client repeats its SYN if it still waits. From outside, the oldest makes room only
 * when the guest was sent its SYN a second time, after one second; until then new connections wait in the kernel's
 * backlog.
 *
 * **Shares.** The guest, each forwarded port and each remote address may hold a fixed multiple of what is free (dynamic
 * thresholds: A. K. Choudhury, E. L. Hahne, 1998). One that is alone may take most of the table; the more others take,
 * the less each may, and something is always free for one that comes late. No limit needs to be chosen.
 *
 * **Time.** A connection attempt costs some tens of microseconds in the kernel, a hundred times as much as its frame.
 * Attempts are paid from a credit of time, which grows by one part in CREDIT_PART of the time that passes, and which
 * gets back what an attempt cost when its handshake completes: attempts that come to nothing take a sixteenth of the time
 * at the most, those that succeed have no limit. The guest sends a SYN again that found no credit, except to a remote end
 * that has answered before; connections from outside wait in the backlog.
 */
import { C_TCP_EVICTED_HALF_CLOSED, C_TCP_EVICTED_HALF_OPEN } from '../counters';
import type { SlotQueue } from '../kit/flow-table';
import { halfSipHash } from '../kit/siphash';
import { END_EVICTED } from '../kit/flow-rows';
import { abortHost, release } from './close';
import { PEER_BUCKETS } from './flow';
import type { TcpEngine } from './flow';

/** Of the free slots, times this: what a party may hold. */
const GUEST_SHARE = 8;
const LISTENER_SHARE = 4;
const PEER_SHARE = 4;

/** A half-closed flow that is silent for this long may make room, ms: net.ipv4.tcp_fin_timeout of most kernels. */
const HALF_CLOSED_SILENCE_MS = 60_000;

// ---- half-open ------------------------------------------------------------------------------------------------------

function evict(t: TcpEngine, flow: number, counter: number): void {
  t.ctx.counters[counter]++;
  abortHost(t, flow, END_EVICTED);
}

function evictHalfOpen(t: TcpEngine, queue: SlotQueue): boolean {
  const flow = queue.first();
  if (flow < 0) return false;
  evict(t, flow, C_TCP_EVICTED_HALF_OPEN);
  return true;
}

/** Of the flows that the guest has closed and the peer has not, the first that is silent for long enough. */
function evictHalfClosed(t: TcpEngine): boolean {
  const flow = t.halfClosed.first();
  if (flow < 0) return false;
  if (t.clock.nowMs - Math.max(t.guestAt[flow], t.activeAt[flow]) < HALF_CLOSED_SILENCE_MS) {
    // Others may be silent: that one is checked again in its turn.
    t.halfClosed.remove(flow);
    t.halfClosed.push(flow);
    return false;
  }
  evict(t, flow, C_TCP_EVICTED_HALF_CLOSED);
  return true;
}

/**
 * Takes a slot. The oldest that lingers, is half-open or half-closed makes room if need be. Returns -1 if there is
 * none.
 */
function allocate(t: TcpEngine, own: SlotQueue, other: SlotQueue): number {
  if (own.length >= t.halfOpenMost) evictHalfOpen(t, own);
  const flow = t.table.alloc();
  if (flow >= 0) return flow;
  if (t.lingering.length > 0) release(t, t.lingering.first());
  else if (!evictHalfOpen(t, own) && !evictHalfOpen(t, other) && !evictHalfClosed(t)) return -1;
  return t.table.alloc();
}

// ---- shares
// -----------------------------------------------------------------------------------------------------------

/** Slots that a new flow may take without closing another flow. */
function free(t: TcpEngine): number {
  return t.table.capacity - t.table.count + t.lingering.length;
}

/** A slot for a connection that the guest opens, or -1. */
export function allocateForGuest(t: TcpEngine): number {
  // Beyond its share its own make room; without any room at all, half-open ones of others.
  if (
    t.guestFlows >= GUEST_SHARE * free(t) &&
    !evictHalfOpen(t, t.outward) &&
    !evictHalfClosed(t) &&
    !(free(t) === 0 && evictHalfOpen(t, t.inward))
  ) {
    return -1;
  }
  return allocate(t, t.outward, t.inward);
}

/** May a listener accept another connection? Else those that wait stay in its backlog. */
export function mayAccept(t: TcpEngine, index: number): boolean {
  const listener = t.listeners[index];
  if (listener === null) return false;
  const first = t.inward.first();
  const settled = first >= 0 && t.retries[first] > 0;
  if (t.inward.length >= t.halfOpenMost && !settled) return false;
  const room = free(t);
  if (listener.flows < LISTENER_SHARE * room) return true;
  // Its party's oldest half-open flow makes room for it; if the table is full, any party's.
  if (settled && (t.owner[first] === index || room === 0)) return evictHalfOpen(t, t.inward);
  if (room === 0 && listener.flows === 0 && evictHalfOpen(t, t.outward)) return true;
  return evictHalfClosed(t);
}

/** A slot for a connection accepted from the peer whose bucket (`peerBucket`) this is, or -1. */
export function allocateForPeer(t: TcpEngine, bucket: number): number {
  if (t.peers[bucket] >= PEER_SHARE * (free(t) + 1)) return -1;
  return allocate(t, t.inward, t.outward);
}

/**
 * Where connections of a remote address are counted: words `probe[4 … 7]` of the key in the making. Of IPv6 addresses
 * the first 64 bits: one host has as many of the others as it likes. Two addresses may share a bucket, and then a
 * share.
 */
export function peerBucket(t: TcpEngine): number {
  const { probe } = t.table;
  const { peerKey } = t;
  const v4 = probe[4] === 0 && probe[5] === 0;
  peerKey[0] = v4 ? probe[7] : probe[4];
  peerKey[1] = v4 ? 0 : probe[5];
  return halfSipHash(peerKey, 0, 2, t.isn0, t.isn1) & (PEER_BUCKETS - 1);
}

/** A flow is new: `owner` is a listener's index, or -1 for the guest's own. */
export function countIn(t: TcpEngine, flow: number, owner: number, bucket: number): void {
  t.owner[flow] = owner;
  t.bucket[flow] = bucket;
  if (owner < 0) {
    t.guestFlows++;
    t.outward.push(flow);
    return;
  }
  const listener = t.listeners[owner];
  if (listener !== null) listener.flows++;
  t.peers[bucket]++;
  t.inward.push(flow);
}

/** The handshake with the guest is complete: the flow is half-open no more, and what it cost is given back. */
export function handshakeDone(t: TcpEngine, flow: number): void {
  const own = t.owner[flow] < 0;
  (own ? t.outward : t.inward).remove(flow);
  if (own) t.guestCredit.answered(flow);
  else t.acceptCredit.giveBack(t.cost[flow]);
  t.acceptBlocked = false;
}
