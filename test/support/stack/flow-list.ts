/** Flows of a stack in a test, as `tubetti flows` shows them. */
import { DataPlaneFlows, type FlowSource } from '../../../src/control/flows';
import type { FlowInfo } from '../../../src/control/types';
import { endedFlow, type FlowWords } from '../../../src/control/flow-text';
import type { EndedFlow } from '../../../src/control/types';
import { ENDS_BYTES, ENDS_READ, ENDS_WRITTEN, endsControl, endsRows, FlowEnds } from '../../../src/stack/kit/flow-ends';
import { FLOW_WORDS } from '../../../src/stack/kit/flow-rows';
import type { Clock } from '../../../src/stack/ports';
import type { Stack } from '../../../src/stack/stack';

export const WORDS: FlowWords = {
  specOf: (rule) => ['2222:22', '8000'].at(rule - 1) ?? null,
};

/** A data plane, number 1, that is a stack in this thread. */
export function stackSource(stack: () => Stack): FlowSource {
  return {
    lookAtFlows: (into, look) => Promise.resolve({ worker: 1, next: stack().look(new Float64Array(into), look) }),
    closeFlow: (worker, protocol, slot, generation) =>
      Promise.resolve(worker === 1 && stack().closeFlow(protocol, slot, generation)),
  };
}

export function flowsOf(stack: Stack): DataPlaneFlows {
  return new DataPlaneFlows(
    stackSource(() => stack),
    WORDS,
  );
}

export async function listed(stack: Stack): Promise<readonly FlowInfo[]> {
  return (await flowsOf(stack).list({})).flows;
}

/** The end of the ring that a flow log reads. */
export class EndsTap {
  woken = 0;
  readonly ring = new SharedArrayBuffer(ENDS_BYTES);

  readonly make = (clock: Clock): FlowEnds =>
    new FlowEnds(this.ring, clock, () => {
      this.woken++;
    });

  take(): EndedFlow[] {
    const control = endsControl(this.ring);
    const rows = endsRows(this.ring);
    const taken: EndedFlow[] = [];
    for (; control[ENDS_READ] !== control[ENDS_WRITTEN]; control[ENDS_READ]++) {
      taken.push(endedFlow(WORDS, 1, rows, control[ENDS_READ] * FLOW_WORDS, 0));
    }
    return taken;
  }
}
