/** What the bypass keeps of a flow of either protocol: columns by its slot in one table. Memory is taken once. */
import type { StackContext } from '../context';
import { FLOW_OF_GUEST, FLOW_PROTOCOL, FLOW_RTT_US, FLOW_RULE, FLOW_SINCE, viewKey } from '../kit/flow-rows';
import { FlowTable, SlotQueue } from '../kit/flow-table';

/** Of four parts of a table, those that the namespace's flows may take. */
const GUEST_SHARE = 3;

export class BypassFlows {
  readonly capacity: number;
  readonly table: FlowTable;
  /** Flows with more to move than their turn allowed. */
  readonly ready: SlotQueue;
  /** Descriptor of the listener that the flow came by; -1: that listener is gone. */
  readonly listener: Int32Array;
  /** 1: the namespace began it; 0: the host. */
  readonly ofGuest: Uint8Array;
  /** Number of the forwarded port that it came by, as in `C_RULES + rule`. */
  readonly rule: Int32Array;
  /** When it began, ms of the stack's clock. */
  readonly since: Float64Array;
  private readonly ctx: StackContext;
  /** Flows that the namespace began. */
  private guestCount: number;

  constructor(ctx: StackContext, capacity: number) {
    this.ctx = ctx;
    this.capacity = capacity;
    this.table = new FlowTable(capacity, ctx.random.u32(), ctx.random.u32());
    this.ready = new SlotQueue(capacity);
    this.listener = new Int32Array(capacity);
    this.ofGuest = new Uint8Array(capacity);
    this.rule = new Int32Array(capacity);
    this.since = new Float64Array(capacity);
    this.guestCount = 0;
  }

  get full(): boolean {
    return this.table.count === this.capacity;
  }

  /** The namespace has all of the table that it may have. */
  get guestShareUsed(): boolean {
    return this.guestCount * 4 >= this.capacity * GUEST_SHARE;
  }

  /** Whether an event that names `slot` and `generation` is about the slot's flow of now, if it has one. */
  isCurrent(slot: number, generation: number): boolean {
    return slot < this.capacity && this.table.generation[slot] === generation;
  }

  /** The flow in `slot`, just taken from the table, begins: `ofGuest` 1 or 0, `listener` a descriptor. */
  begin(slot: number, ofGuest: number, listener: number, rule: number): void {
    this.listener[slot] = listener;
    this.ofGuest[slot] = ofGuest;
    this.rule[slot] = rule;
    this.since[slot] = this.ctx.clock.nowMs;
    this.guestCount += ofGuest;
  }

  /** Gives the slot back, which is no longer in the table's index. */
  free(slot: number): void {
    this.ready.remove(slot);
    this.guestCount -= this.ofGuest[slot];
    this.table.free(slot);
  }

  /** Fills the row of the flow at `into[at…]`, but for its state and bytes; `protocol`: FLOW_… of flow-rows.ts. */
  view(slot: number, protocol: number, into: Float64Array, at: number): void {
    viewKey(this.table, slot, into, at);
    into[at + FLOW_PROTOCOL] = protocol;
    into[at + FLOW_OF_GUEST] = this.ofGuest[slot];
    into[at + FLOW_SINCE] = this.since[slot];
    into[at + FLOW_RTT_US] = -1;
    into[at + FLOW_RULE] = this.rule[slot];
  }
}
