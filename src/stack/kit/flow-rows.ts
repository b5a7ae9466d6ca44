/**
 * Flows as rows of numbers, for who looks at them from outside of the data plane: the control plane makes text of them
 * (src/control/flow-text.ts). Nothing here runs while nobody looks and no flow log is kept.
 *
 * A row has FLOW_WORDS doubles. Addresses are four int32 words each, as everywhere in the stack; times are milliseconds
 * of the loop's clock (CLOCK_MONOTONIC).
 */
import type { FlowTable } from './flow-table';
import { KEY_WORDS } from './flow-table';

/** FLOW_TCP, FLOW_UDP, FLOW_ICMP, FLOW_TCP_SPLICE or FLOW_UDP_SPLICE. */
export const FLOW_PROTOCOL = 0;
export const FLOW_SLOT = 1;
/** Of the slot: with it a row's flow is told from those that had the slot before. */
export const FLOW_GENERATION = 2;
/** 1: the guest began it; 0: a host did. */
export const FLOW_OF_GUEST = 3;
/** FLOW_STATE_… */
export const FLOW_STATE = 4;
/** Four words each: the guest's address, and the other end's as the guest sees it. */
export const FLOW_GUEST = 5;
export const FLOW_PEER = 9;
/** Of echo: both are the guest's identifier. */
export const FLOW_GUEST_PORT = 13;
export const FLOW_PEER_PORT = 14;
/** When it began, ms. */
export const FLOW_SINCE = 15;
/** Payload bytes in each direction. */
export const FLOW_FROM_GUEST = 16;
export const FLOW_TO_GUEST = 17;
/** Smoothed round-trip time between host and peer, µs; -1: not known. */
export const FLOW_RTT_US = 18;
/** Number of the forwarding rule that it came by, from 1 on; 0: none. */
export const FLOW_RULE = 19;
/** Of a flow that has ended: why (END_…), and when, ms. */
export const FLOW_END = 20;
export const FLOW_ENDED_AT = 21;
/** What a policy made of the flow, as the policy numbers it; 0: no policy was asked. */
export const FLOW_VERDICT = 22;
export const FLOW_WORDS = 24;

export const FLOW_TCP = 0;
export const FLOW_UDP = 1;
export const FLOW_ICMP = 2;
/** Past the link (splice/bypass.ts). */
export const FLOW_TCP_SPLICE = 3;
export const FLOW_UDP_SPLICE = 4;
export const FLOW_PROTOCOLS = 5;

// States: of TCP, then of the others. The names are in FLOW_STATES, in this order.
export const FLOW_STATE_CONNECTING = 0;
export const FLOW_STATE_SYN_SENT = 1;
export const FLOW_STATE_SYN_RECEIVED = 2;
export const FLOW_STATE_OPEN = 3;
/** One side has closed, or both have and not all of it is acknowledged. */
export const FLOW_STATE_CLOSING = 4;
export const FLOW_STATE_TIME_WAIT = 5;
/** The socket is gone, and the guest has yet to be told. */
export const FLOW_STATE_RESET = 6;
export const FLOW_STATE_UNANSWERED = 7;
export const FLOW_STATE_ANSWERED = 8;

export const FLOW_STATES = [
  'connecting',
  'syn-sent',
  'syn-received',
  'open',
  'closing',
  'time-wait',
  'reset',
  'unanswered',
  'answered',
] as const;

// Why a flow ended. The names are in FLOW_ENDS, in this order: append only.
/** Both sides closed the connection. */
export const END_CLOSED = 0;
export const END_GUEST_RESET = 1;
export const END_PEER_RESET = 2;
/** The host did not connect to the peer. */
export const END_NOT_CONNECTED = 3;
/** A side did not answer any more. */
export const END_TIMEOUT = 4;
/** Nothing passed for as long as a flow of datagrams lives. */
export const END_IDLE = 5;
/** It made room for another. */
export const END_EVICTED = 6;
/** The guest's side cannot be reached. */
export const END_UNREACHABLE = 7;
/** `tubetti ctl`, or another who was allowed to. */
export const END_OPERATOR = 8;
/** The guest was reset, or the service ended. */
export const END_RESET = 9;
/** The host's network changed, and the flow's socket leads nowhere. */
export const END_MOVED = 10;
/** The host had no descriptor, memory or watch for it, or its socket failed. */
export const END_ERROR = 11;
/** A policy did not let it come to be, or be any longer: see FLOW_VERDICT. */
export const END_DENIED = 12;
/** The forwarded port that it came by is not forwarded any more. */
export const END_UNFORWARDED = 13;

export const FLOW_ENDS = [
  'closed',
  'guest-reset',
  'peer-reset',
  'not-connected',
  'timeout',
  'idle',
  'evicted',
  'unreachable',
  'operator',
  'reset',
  'moved',
  'error',
  'denied',
  'unforwarded',
] as const;

/** The flows of one protocol, for who looks at them or closes one. Cold. */
export interface FlowView {
  /** Slots are 0 … capacity - 1. */
  readonly capacity: number;
  /** Describes the flow in `slot` in FLOW_WORDS doubles of `into` from `at` on. False: the slot is free. */
  view(slot: number, into: Float64Array, at: number): boolean;
  /** Closes the flow that has `slot` in `generation`. False: it is not there (any more). */
  close(slot: number, generation: number): boolean;
}

/** What a flow's key says, for `FlowView.view`; all that is not said by it becomes zero. */
export function viewKey(table: FlowTable, slot: number, into: Float64Array, at: number): void {
  into.fill(0, at, at + FLOW_WORDS);
  into[at + FLOW_SLOT] = slot;
  into[at + FLOW_GENERATION] = table.generation[slot];
  viewEnds(table.keys, KEY_WORDS * slot, into, at);
}

/** The ends of the flow whose key is at `key[k…]`. */
export function viewEnds(key: Int32Array, k: number, into: Float64Array, at: number): void {
  for (let i = 0; i < 8; i++) into[at + FLOW_GUEST + i] = key[k + i];
  const ports = key[k + KEY_WORDS - 1];
  into[at + FLOW_GUEST_PORT] = ports >>> 16;
  into[at + FLOW_PEER_PORT] = ports & 0xffff;
}

// ---- a look: what the control plane gets by the command `flows`

/** Doubles before the rows. */
export const LOOK_HEADER = 2;
/** How many rows there are; what the look took, µs. */
export const LOOK_ROWS = 0;
export const LOOK_TOOK_US = 1;
/** Rows of a look at the most, and slots that it passes: a bounded part of a turn of the loop. */
export const LOOK_MOST_ROWS = 256;
export const LOOK_MOST_SLOTS = 32768;
/** Bytes for a look at `rows` flows. */
export function lookBytes(rows: number): number {
  return (LOOK_HEADER + rows * FLOW_WORDS) * Float64Array.BYTES_PER_ELEMENT;
}
/** The answer: no flows are behind these. */
export const LOOK_END = -1;

/** What a look is to show. */
export interface Look {
  /** Where it begins: slots of all protocols count on from 0, those of TCP first. Beyond the last one there are no flows. */
  readonly from: number;
  /** Flows at the most. */
  readonly most: number;
  /** A bit for each protocol that is wanted. */
  readonly protocols: number;
}

/** Describes flows in `into`. Returns where the next look begins, or LOOK_END. */
export function lookAt(views: readonly FlowView[], into: Float64Array, { from, most: asked, protocols }: Look): number {
  const most = Math.min(asked, LOOK_MOST_ROWS, Math.floor((into.length - LOOK_HEADER) / FLOW_WORDS));
  into[LOOK_ROWS] = 0;
  let passed = 0;
  let base = 0;
  for (let protocol = 0; protocol < views.length; protocol++) {
    const view = views[protocol];
    const end = base + view.capacity;
    if ((protocols & (1 << protocol)) !== 0) {
      for (let at = Math.max(from, base); at < end; at++, passed++) {
        const rows = into[LOOK_ROWS];
        if (rows >= most || passed >= LOOK_MOST_SLOTS) return at;
        if (view.view(at - base, into, LOOK_HEADER + rows * FLOW_WORDS)) into[LOOK_ROWS] = rows + 1;
      }
    }
    base = end;
  }
  return LOOK_END;
}
