/** `--stats`: a table of the counters that changed. */
import { type Counters, C_LOOP_TURNS } from '../stack/counters';
import { METRICS } from './names';

interface Row {
  readonly name: string;
  readonly index: number;
  readonly gauge: boolean;
}

const ROWS: readonly Row[] = METRICS.flatMap(({ name, kind, series }) =>
  series.map(({ index, values }) => ({
    name: [name.replace(/^tubetti_/, '').replace(/_total$/, ''), ...values].join(' '),
    index,
    gauge: kind === 'gauge',
  })),
);

const NAME_WIDTH = 44;
const NUMBER_WIDTH = 18;

/** What became of a counter since the last table. */
export interface Change {
  readonly name: string;
  readonly change: number;
  readonly now: number;
}

/** The lines of a table: name, by how much it changed, and the value now. */
export function tableOf(changes: readonly Change[]): string[] {
  const line = (name: string, change: string, value: string): string =>
    name.padEnd(NAME_WIDTH) + change.padStart(NUMBER_WIDTH) + value.padStart(NUMBER_WIDTH);
  const rows = changes.map(({ name, change, now }) => line(name, `${change > 0 ? '+' : ''}${change}`, String(now)));
  return [line('counter', 'change', 'now'), ...rows, ''];
}

/** Compares counters with what they were at the last call. */
export class StatsTable {
  private readonly counters: Counters;
  private readonly last: Float64Array;

  constructor(counters: Counters) {
    this.counters = counters;
    this.last = Float64Array.from(counters);
  }

  /** What changed since the last call. None if nothing happened; turns of the loop alone do not count. */
  changes(): Change[] {
    const now = Float64Array.from(this.counters);
    const changed = ROWS.filter(({ index }) => now[index] !== this.last[index]);
    if (changed.every(({ index }) => index === C_LOOP_TURNS)) return [];
    const changes = changed.map(({ name, index }) => ({
      name,
      change: now[index] - this.last[index],
      now: now[index],
    }));
    this.last.set(now);
    return changes;
  }
}

/** Tells `write` every `seconds` seconds in which something happened. Returns the function that stops it. */
export function startStats(
  counters: Counters,
  seconds: number,
  write: (changes: readonly Change[]) => void,
): () => void {
  const table = new StatsTable(counters);
  const timer = setInterval(() => {
    const changes = table.changes();
    if (changes.length > 0) write(changes);
  }, seconds * 1000);
  timer.unref();
  return () => {
    clearInterval(timer);
  };
}
