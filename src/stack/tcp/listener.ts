/** A forwarded port, as TCP sees it. */
import { addressWords } from '../ip/address';
import type { ForwardListener } from '../config';

export interface Listener {
  readonly config: ForwardListener;
  /** Number of the user's rule; 0: of none. */
  readonly rule: number;
  /** Fixed guest-side target as four words; null: the guest's address. */
  readonly target: Int32Array | null;
  /** Its connections in the flow table, TIME-WAIT left out. */
  flows: number;
  /** False: it was removed. Its place is taken as long as it has connections. */
  open: boolean;
}

export function newListener(config: ForwardListener): Listener {
  let target: Int32Array | null = null;
  if (config.targetAddr !== null) {
    target = new Int32Array(4);
    addressWords(config.targetAddr, target, 0);
  }
  return { config, rule: config.rule ?? 0, target, flows: 0, open: true };
}
