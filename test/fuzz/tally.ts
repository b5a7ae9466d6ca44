/** What was tried, by kind, and what was found. */

export type InputKind = 'messages' | 'ring entries' | 'frames' | 'memory writes';

/** What happened in sequences that break no rule. */
export type EventKind = 'connections' | 'datagrams' | 'leases' | 'lives' | 'memory tables' | 'sleeps';

export class Tally {
  readonly inputs: Record<InputKind, number> = { messages: 0, 'ring entries': 0, frames: 0, 'memory writes': 0 };
  readonly events: Partial<Record<EventKind, number>> = {};
  readonly sequences: Record<string, number> = {};
  /** Time until a good guest was served after a sequence, in ms. */
  readonly servedMs: number[] = [];
  /** What must not happen, each with the sequence that made it happen. */
  readonly finds: string[] = [];

  add(kind: InputKind, count: number): void {
    this.inputs[kind] += count;
  }

  happened(kind: EventKind, count: number): void {
    this.events[kind] = (this.events[kind] ?? 0) + count;
  }

  /** Messages, ring entries and frames; words that the second process wrote are counted apart. */
  get total(): number {
    return this.inputs.messages + this.inputs['ring entries'] + this.inputs.frames;
  }
}

/** The value below which `share` of the sorted numbers lie. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
}
