/**
 * Ends of flows on their way to the flow log: a ring of rows in shared memory, which the data plane fills and the
 * control plane empties (src/control/flow-log.ts).
 *
 * Theory of operation. One writer, one reader. `ENDS_WRITTEN` and `ENDS_READ` count rows and wrap around; the writer
 * publishes a row by its count, the reader gives it back by its own. While the ring is full ends are counted in `ENDS_LOST` and
 * nothing else happens, so a guest that opens and closes flows faster than they can be written costs neither memory nor
 * time. `ENDS_AWAKE` is 1 while the reader knows that there are rows: only the first row after it rests wakes it.
 */
import {
  END_DENIED,
  FLOW_END,
  FLOW_ENDED_AT,
  FLOW_OF_GUEST,
  FLOW_PROTOCOL,
  FLOW_VERDICT,
  FLOW_WORDS,
  viewEnds,
} from './flow-rows';
import type { FlowView } from './flow-rows';
import type { Clock } from '../ports';

/** Int32 control words, at the front. */
export const ENDS_WRITTEN = 0;
export const ENDS_READ = 1;
export const ENDS_LOST = 2;
export const ENDS_AWAKE = 3;
const CONTROL_BYTES = 64;

/** Rows of the ring: a power of two. */
export const ENDS_ROWS = 4096;
export const ENDS_BYTES = CONTROL_BYTES + ENDS_ROWS * FLOW_WORDS * Float64Array.BYTES_PER_ELEMENT;

/** The ring's two views. */
export function endsControl(ring: SharedArrayBuffer): Int32Array {
  return new Int32Array(ring, 0, CONTROL_BYTES / Int32Array.BYTES_PER_ELEMENT);
}
export function endsRows(ring: SharedArrayBuffer): Float64Array {
  return new Float64Array(ring, CONTROL_BYTES);
}

export class FlowEnds {
  /** The row that `begin` returned is filled here. */
  readonly rows: Float64Array;
  private readonly control: Int32Array;
  private readonly clock: Clock;
  private readonly wake: () => void;

  /** `ring`: ENDS_BYTES bytes; `wake` tells its reader that there are rows. */
  constructor(ring: SharedArrayBuffer, clock: Clock, wake: () => void) {
    this.control = endsControl(ring);
    this.rows = endsRows(ring);
    this.clock = clock;
    this.wake = wake;
  }

  /** Where in `rows` the next end is to be described; -1: the ring is full, and the end counted as lost. */
  begin(): number {
    const { control } = this;
    const written = control[ENDS_WRITTEN];
    if (((written - Atomics.load(control, ENDS_READ)) | 0) < ENDS_ROWS) {
      return (written & (ENDS_ROWS - 1)) * FLOW_WORDS;
    }
    Atomics.add(control, ENDS_LOST, 1);
    this.awaken();
    return -1;
  }

  /** The row at `at`, which `begin` returned, is complete but for the end's reason (END_…) and time. */
  commit(at: number, reason: number): void {
    this.rows[at + FLOW_END] = reason;
    this.rows[at + FLOW_ENDED_AT] = this.clock.nowMs;
    Atomics.store(this.control, ENDS_WRITTEN, (this.control[ENDS_WRITTEN] + 1) | 0);
    this.awaken();
  }

  /**
   * For a policy: a flow that did not come to be. Its ends are the key at `key[k…]`; `verdict` is the policy's own number
   * for why, from 1 on, whose text the flow log is given as `verdictText` (src/control/flow-log.ts). For each protocol the
   * FLOW_… of flow-rows.ts.
   */
  refused(protocol: number, ofGuest: boolean, key: Int32Array, k: number, verdict: number): void {
    const at = this.begin();
    if (at < 0) return;
    this.rows.fill(0, at, at + FLOW_WORDS);
    this.rows[at + FLOW_PROTOCOL] = protocol;
    this.rows[at + FLOW_OF_GUEST] = ofGuest ? 1 : 0;
    viewEnds(key, k, this.rows, at);
    this.rows[at + FLOW_VERDICT] = verdict;
    this.commit(at, END_DENIED);
  }

  private awaken(): void {
    if (Atomics.exchange(this.control, ENDS_AWAKE, 1) === 0) this.wake();
  }
}

/** The flow of `view` in `slot` ends for `reason` (END_…): it is still as it was. */
export function endWith(ends: FlowEnds, view: Pick<FlowView, 'view'>, slot: number, reason: number): void {
  const at = ends.begin();
  if (at >= 0 && view.view(slot, ends.rows, at)) ends.commit(at, reason);
}
