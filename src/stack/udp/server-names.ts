/**
 * UDP flows to port 443, where the policy wants to know the server's name: the Initial packets of QUIC have it
 * (../policy/quic-flows.ts).
 *
 * Theory of operation. Each datagram is copied out of the guest's memory: what is read is what leaves. Those of a new flow are
 * held until its hello is complete and allowed; then they leave in order, before the next. From then on packets with a short
 * header pass by a look at one byte, and those with a long one are read as before, so that a flow cannot name
 * another server later. Flows to other ports, and all flows without such a policy, cost a look at one byte here.
 */
import { setRow, type RowSpan } from '../kit/rows';
import type { FrameInfo, StackContext } from '../context';
import { C_DROPS, dropCode } from '../counters';
import { END_DENIED } from '../kit/flow-rows';
import { KEY_WORDS } from '../kit/flow-table';
import {
  FLOW_WAITING,
  FLOW_UNNAMED,
  NAME_BUSY,
  NAME_DENIED,
  NAME_HELD,
  NAME_LOST,
  NAME_PASS,
  QuicFlows,
} from '../policy/quic-flows';
import { LONG_HEADER } from '../policy/quic-packets';
import { ROWS_MISC, SCRATCH_QUIC, SCRATCH_QUIC_SIZE } from '../scratch';
import type { UdpFlows } from './flows';
import type { UdpOutbound } from './outbound';
import type { UdpRefusals } from './refusals';
import type { FlowOwner } from './route';

const DROP_FLOW_LIMIT = dropCode('flow_limit');
const DROP_POLICY_DENIED = dropCode('policy_denied');
const FLOW_UNREAD = 0;

export class UdpServerNames {
  private readonly ctx: StackContext;
  private readonly flows: UdpFlows;
  private readonly outbound: UdpOutbound;
  private readonly refusals: UdpRefusals;
  private readonly owner: Pick<FlowOwner, 'close'>;
  /** By flow: FLOW_UNREAD, FLOW_WAITING … */
  private readonly states: Uint8Array;
  private readonly quic: QuicFlows;
  /** Bytes of SCRATCH_QUIC in use, and where the datagram in hand lies. */
  private used: number;
  private at: number;
  /** Length of the datagram that is to leave next, and what it is to be cut by. */
  private length: number;
  private segment: number;

  constructor(
    ctx: StackContext,
    flows: UdpFlows,
    outbound: UdpOutbound,
    refusals: UdpRefusals,
    owner: Pick<FlowOwner, 'close'>,
  ) {
    this.ctx = ctx;
    this.flows = flows;
    this.outbound = outbound;
    this.refusals = refusals;
    this.owner = owner;
    this.states = new Uint8Array(flows.table.capacity);
    this.quic = new QuicFlows(ctx, flows.table.keys, this.states);
    this.length = 0;
    this.segment = 0;
    this.used = 0;
    this.at = 0;
  }

  /** A new flow, of nobody's in particular. */
  opened(slot: number): void {
    this.states[slot] = FLOW_UNREAD;
  }

  /** A new flow of the guest's own that the policy has just admitted. */
  admitted(slot: number, port: number): void {
    if (this.ctx.link.policy.wantsHello(port)) this.states[slot] = FLOW_WAITING;
  }

  closed(slot: number): void {
    if (this.states[slot] !== FLOW_UNREAD) this.quic.forget(slot);
  }

  /** The flow's datagrams are read. */
  reads(slot: number): boolean {
    return this.states[slot] !== FLOW_UNREAD;
  }

  /**
   * A datagram of `length` bytes that `payload` names, or several, cut by `segment` if that is not 0. Returns the first row
   * that is free now.
   */
  fromGuest(slot: number, frame: FrameInfo, payload: RowSpan, length: number, segment: number): number {
    const { ctx, outbound } = this;
    if (outbound.pending < 0 || !this.hasRoom(length)) {
      outbound.flush();
      this.used = 0;
    }
    const code = this.take(slot, payload, length, segment);
    if (code === NAME_HELD) return frame.row;
    if (code === NAME_PASS) {
      while (this.nextHeld(slot, payload)) {
        outbound.flush();
        outbound.add(slot, frame, payload, this.length, this.segment);
        outbound.flush();
      }
      this.place(payload, length);
      return outbound.add(slot, frame, payload, length, segment);
    }
    if (code === NAME_DENIED) {
      const ports = this.flows.table.keys[KEY_WORDS * slot + KEY_WORDS - 1];
      this.refusals.denied(frame, ports >>> 16, ports & 0xffff);
      this.owner.close(slot, END_DENIED);
    }
    ctx.counters[C_DROPS + (code === NAME_BUSY ? DROP_FLOW_LIMIT : DROP_POLICY_DENIED)]++;
    return frame.row;
  }

  private hasRoom(length: number): boolean {
    return this.used + length <= SCRATCH_QUIC_SIZE;
  }

  /** Copies a datagram, which `payload` names then, and says what becomes of it. */
  private take(slot: number, payload: RowSpan, length: number, segment: number): number {
    const { io, link } = this.ctx;
    this.at = SCRATCH_QUIC + this.used;
    setRow(io.rows, ROWS_MISC, io.scratchRegion, this.at, length);
    if (length > 0 && io.copyRows(payload.first, payload.count, ROWS_MISC, 1) !== length) return NAME_LOST;
    this.used += length;
    this.place(payload, length);
    if (!link.policy.checksHello) this.states[slot] = FLOW_UNNAMED;
    else if (this.states[slot] === FLOW_WAITING || this.hasLong(length, segment)) {
      return this.quic.judge(slot, this.at, length, segment);
    }
    return NAME_PASS;
  }

  /** Has `payload` name the datagram of the flow that is held longest, beside that of `take`. False: there is none. */
  private nextHeld(slot: number, payload: RowSpan): boolean {
    const held = this.quic.nextHeld(slot);
    if (held === undefined) return false;
    const { io } = this.ctx;
    this.length = held.bytes.length;
    this.segment = held.segment;
    // At the end of the memory that of `take` is far from its beginning: what is held is short.
    const room = SCRATCH_QUIC + (this.hasRoom(this.length) ? this.used : 0);
    for (let i = 0; i < this.length; i++) io.scratch.setUint8(room + i, held.bytes[i]);
    setRow(io.rows, payload.first, io.scratchRegion, room, this.length);
    return true;
  }

  /** `payload` names the copy of the datagram in hand. */
  private place(payload: RowSpan, length: number): void {
    const { io } = this.ctx;
    setRow(io.rows, payload.first, io.scratchRegion, this.at, length);
    payload.count = 1;
  }

  /** Is there a packet with a long header at the front of a datagram? */
  private hasLong(length: number, segment: number): boolean {
    const { scratch } = this.ctx.io;
    const step = segment === 0 ? Math.max(1, length) : segment;
    for (let i = 0; i < length; i += step) if ((scratch.getUint8(this.at + i) & LONG_HEADER) !== 0) return true;
    return false;
  }
}
