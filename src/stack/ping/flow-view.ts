/** Echo flows as others see them: the command `flows`, the flow log. */
import { endWith } from '../kit/flow-ends';
import {
  END_OPERATOR,
  FLOW_FROM_GUEST,
  FLOW_GUEST_PORT,
  FLOW_ICMP,
  FLOW_OF_GUEST,
  FLOW_PEER_PORT,
  FLOW_PROTOCOL,
  FLOW_RTT_US,
  FLOW_SINCE,
  FLOW_STATE,
  FLOW_STATE_ANSWERED,
  FLOW_STATE_UNANSWERED,
  FLOW_TO_GUEST,
  type FlowView,
  viewKey,
} from '../kit/flow-rows';
import type { StackContext } from '../context';
import type { PingFlows } from './flows';

/** Who closes flows. */
export interface PingOwner {
  /** `reason`: END_… */
  close(slot: number, reason: number): void;
}

export class PingFlowView implements FlowView {
  readonly capacity: number;
  private readonly flows: PingFlows;
  private readonly owner: PingOwner;

  constructor(flows: PingFlows, owner: PingOwner) {
    this.capacity = flows.table.capacity;
    this.flows = flows;
    this.owner = owner;
  }

  view(slot: number, into: Float64Array, at: number): boolean {
    const { flows } = this;
    if (!flows.isCurrent(slot, flows.table.generation[slot])) return false;
    viewKey(flows.table, slot, into, at);
    into[at + FLOW_PROTOCOL] = FLOW_ICMP;
    into[at + FLOW_GUEST_PORT] = flows.id(slot);
    into[at + FLOW_PEER_PORT] = flows.id(slot);
    into[at + FLOW_OF_GUEST] = 1;
    into[at + FLOW_STATE] = flows.replied[slot] === 1 ? FLOW_STATE_ANSWERED : FLOW_STATE_UNANSWERED;
    into[at + FLOW_SINCE] = flows.since[slot];
    into[at + FLOW_FROM_GUEST] = flows.bytesFrom[slot];
    into[at + FLOW_TO_GUEST] = flows.bytesTo[slot];
    into[at + FLOW_RTT_US] = -1;
    return true;
  }

  close(slot: number, generation: number): boolean {
    if (!this.flows.isCurrent(slot, generation)) return false;
    this.owner.close(slot, END_OPERATOR);
    return true;
  }

  /** The flow ends for `reason` (END_…), and is still as it was. */
  noteEnd(ctx: StackContext, slot: number, reason: number): void {
    if (ctx.ends !== null) endWith(ctx.ends, this, slot, reason);
  }
}
