/** TCP flows for who looks at them or closes one. */
import { END_OPERATOR, type FlowView } from '../kit/flow-rows';
import { resetBoth } from './close';
import { ST_FREE, type TcpEngine } from './flow';
import { viewFlow } from './flow-view';

export class TcpFlowView implements FlowView {
  readonly capacity: number;
  private readonly engine: TcpEngine;

  constructor(engine: TcpEngine) {
    this.capacity = engine.table.capacity;
    this.engine = engine;
  }

  view(slot: number, into: Float64Array, at: number): boolean {
    return viewFlow(this.engine, slot, into, at);
  }

  close(slot: number, generation: number): boolean {
    const t = this.engine;
    if (slot >= this.capacity || t.state[slot] === ST_FREE || t.table.generation[slot] !== generation) return false;
    resetBoth(t, slot, END_OPERATOR);
    return true;
  }
}
