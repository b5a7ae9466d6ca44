/**
 * UDP flows whose servers the policy wants to know: what reading the Initial packets of QUIC takes (quic-client.ts), and the
 * datagrams that are held until it is done. Which flows those are, and what passes unread, is ../udp/server-names.ts's to say.
 *
 * Bounds: some flows at a time have what reading takes, the oldest making room (its reading begins again); a few datagrams are held
 * for each, for some seconds; and reading takes a part of the thread's time (Credit). A datagram beyond that is lost, and a
 * client sends it again. Allocates: a handshake is no bulk traffic.
 */
import { Credit } from '../kit/credit';
import { KEY_WORDS } from '../kit/flow-table';
import type { StackContext } from '../context';
import { NatResult, natToHost } from '../ip/nat';
import { IP_PROTO_UDP } from '../wire/ipv4';
import { QUIC_DONE, QUIC_NONE, QuicClient } from './quic-client';
import { LONG_HEADER } from './quic-packets';

/** What becomes of a datagram. */
export const NAME_PASS = 0;
export const NAME_HELD = 1;
/** It is lost: there is no room for it, or it belongs to nothing. */
export const NAME_LOST = 2;
/** It is lost: there is no time to read it. */
export const NAME_BUSY = 4;
/** The flow names a server that is not allowed, or none. */
export const NAME_DENIED = 3;

// What is known of a flow.
/** No name so far, and nothing of it has left. */
export const FLOW_WAITING = 1;
/** It has named a server that is allowed. */
export const FLOW_NAMED = 2;
/** It may go on whatever it names, or without a name. */
export const FLOW_UNNAMED = 3;

/** Flows that have what reading takes. */
const MAX_CLIENTS = 64;
/** Held of a flow: datagrams, their bytes, and for how long, ms. A hello that takes 16 KiB takes a dozen datagrams. */
const MAX_HELD = 16;
const MAX_HELD_BYTES = 24_576;
const HOLD_MS = 5000;

/**
 * The most that one reading counts for, µs: 64 KiB of packets take milliseconds by themselves. The first readings of all, and
 * those that a busy host interrupts, take tens, and would keep others from being read (../kit/credit.ts).
 */
const READ_MOST_US = 10_000;

/** A datagram, or several, cut by `segment` if that is not 0. */
export interface Held {
  readonly bytes: Uint8Array;
  readonly segment: number;
}

class Client {
  readonly quic: QuicClient;
  held: Held[] = [];
  heldBytes = 0;
  /** When the first of them came, ms. */
  sinceMs = 0;

  constructor(quic: QuicClient) {
    this.quic = quic;
  }

  forget(): void {
    this.held = [];
    this.heldBytes = 0;
  }
}

export class QuicFlows {
  private readonly ctx: StackContext;
  /** Keys of the flows, KEY_WORDS each, and what is known of them: FLOW_WAITING … */
  private readonly keys: Int32Array;
  private readonly states: Uint8Array;
  /** The oldest first. */
  private readonly clients = new Map<number, Client>();
  private readonly credit: Credit;
  private readonly ours = new NatResult();

  constructor(ctx: StackContext, keys: Int32Array, states: Uint8Array) {
    this.ctx = ctx;
    this.keys = keys;
    this.states = states;
    this.credit = new Credit(ctx.clock.nowMs, READ_MOST_US);
  }

  forget(slot: number): void {
    this.clients.delete(slot);
  }

  /** The datagram of the flow that is held longest, which is held no more; undefined: there is none. */
  nextHeld(slot: number): Held | undefined {
    return this.clients.get(slot)?.held.shift();
  }

  /** What `length` bytes at `at` of scratch memory say, datagrams of the flow. They leave together. */
  judge(slot: number, at: number, length: number, segment: number): number {
    const { clock, io, quicKeys } = this.ctx;
    if (quicKeys === undefined || length === 0) return this.unreadable(slot);
    if (!this.credit.left(clock.nowMs)) return NAME_BUSY;
    const began = clock.nowUs();
    const client = this.clientOf(slot, () => new QuicClient(quicKeys));
    const step = segment === 0 ? length : segment;
    const bytes = new Uint8Array(io.scratch.buffer, io.scratch.byteOffset + at, length).slice();
    // What the last of them leaves open or completes counts for all.
    let code = NAME_PASS;
    for (let i = 0; i < length && code <= NAME_HELD; i += step) {
      const datagram = bytes.subarray(i, Math.min(length, i + step));
      const long = (datagram[0] & LONG_HEADER) !== 0;
      if (long) code = this.readOne(slot, client.quic, datagram);
      else if (this.states[slot] === FLOW_WAITING) code = this.unreadable(slot);
    }
    this.credit.spend(clock.nowUs() - began);
    if (code === NAME_HELD) return this.hold(slot, client, { bytes, segment });
    if (code === NAME_PASS && this.states[slot] === FLOW_WAITING) this.states[slot] = FLOW_NAMED;
    return code;
  }

  private readOne(slot: number, quic: QuicClient, datagram: Uint8Array): number {
    const code = quic.read(datagram);
    if (code === QUIC_NONE) return this.unreadable(slot);
    for (const name of quic.found) if (!this.admits(slot, name)) return NAME_DENIED;
    return code === QUIC_DONE ? NAME_PASS : NAME_HELD;
  }

  /** What is QUIC to nobody passes where a rule with an address allows it. */
  private unreadable(slot: number): number {
    const state = this.states[slot];
    if (state === FLOW_UNNAMED) return NAME_PASS;
    if (state === FLOW_NAMED) return NAME_LOST;
    if (!this.admits(slot, null)) return NAME_DENIED;
    this.states[slot] = FLOW_UNNAMED;
    return NAME_PASS;
  }

  private hold(slot: number, client: Client, datagram: Held): number {
    const { nowMs } = this.ctx.clock;
    if (client.held.length === 0) client.sinceMs = nowMs;
    const bytes = client.heldBytes + datagram.bytes.length;
    if (client.held.length === MAX_HELD || bytes > MAX_HELD_BYTES || nowMs - client.sinceMs > HOLD_MS) {
      const code = this.unreadable(slot);
      if (code !== NAME_PASS) client.forget();
      return code;
    }
    client.held.push(datagram);
    client.heldBytes = bytes;
    return NAME_HELD;
  }

  private clientOf(slot: number, make: () => QuicClient): Client {
    const known = this.clients.get(slot);
    if (known !== undefined) return known;
    if (this.clients.size === MAX_CLIENTS) {
      for (const oldest of this.clients.keys()) {
        this.clients.delete(oldest);
        break;
      }
    }
    const client = new Client(make());
    this.clients.set(slot, client);
    return client;
  }

  private admits(slot: number, name: string | null): boolean {
    const { ctx, keys, ours } = this;
    const { policy, nat } = ctx.link;
    const k = KEY_WORDS * slot;
    const port = keys[k + KEY_WORDS - 1] & 0xffff;
    if (natToHost(nat, IP_PROTO_UDP, keys, k + 4, port, ours) !== 0) return false;
    return policy.admitsName(ctx, IP_PROTO_UDP, keys, k + 4, port, ours, name);
  }
}
