/** UDP flows as others see them: the command `flows`, the flow log. */
import { endWith } from '../kit/flow-ends';
import {
  END_OPERATOR,
  FLOW_FROM_GUEST,
  FLOW_OF_GUEST,
  FLOW_PROTOCOL,
  FLOW_RTT_US,
  FLOW_RULE,
  FLOW_SINCE,
  FLOW_STATE,
  FLOW_STATE_ANSWERED,
  FLOW_STATE_UNANSWERED,
  FLOW_TO_GUEST,
  FLOW_UDP,
  type FlowView,
  viewKey,
} from '../kit/flow-rows';
import type { StackContext } from '../context';
import { FLOW_FORWARDED, type UdpFlows } from './flows';
import type { UdpListener } from './listeners';
import type { FlowOwner } from './route';

export class UdpFlowView implements FlowView {
  readonly capacity: number;
  private readonly flows: UdpFlows;
  private readonly listeners: readonly UdpListener[];
  private readonly owner: Pick<FlowOwner, 'close'>;

  constructor(flows: UdpFlows, listeners: readonly UdpListener[], owner: Pick<FlowOwner, 'close'>) {
    this.capacity = flows.table.capacity;
    this.flows = flows;
    this.listeners = listeners;
    this.owner = owner;
  }

  view(slot: number, into: Float64Array, at: number): boolean {
    const { flows } = this;
    const { table } = flows;
    if (!flows.isCurrent(slot, table.generation[slot])) return false;
    viewKey(table, slot, into, at);
    const forwarded = (flows.flags[slot] & FLOW_FORWARDED) !== 0;
    const listener = flows.listener[slot];
    into[at + FLOW_PROTOCOL] = FLOW_UDP;
    into[at + FLOW_OF_GUEST] = forwarded ? 0 : 1;
    into[at + FLOW_STATE] = flows.isAnswered(slot) ? FLOW_STATE_ANSWERED : FLOW_STATE_UNANSWERED;
    into[at + FLOW_SINCE] = flows.since[slot];
    into[at + FLOW_FROM_GUEST] = flows.bytesFrom[slot];
    into[at + FLOW_TO_GUEST] = flows.bytesTo[slot];
    into[at + FLOW_RTT_US] = -1;
    into[at + FLOW_RULE] = forwarded && listener >= 0 ? this.listeners[listener].rule : 0;
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
