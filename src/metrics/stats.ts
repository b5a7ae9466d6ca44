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

/** Compares counters with what they were at the last call. */
export class StatsTable {
  private readonly counters: Counters;
  private readonly last: Float64Array;

  constructor(counters: Counters) {
    this.counters = counters;
    this.last = Float64Array.from(counters);
  }

  /**
   * The lines of a table of what changed since the last one: name, by how much, and the value now. None if nothing
   * happened; turns of the loop alone do not count.
   */
  next(): string[] {
    const now = Float64Array.from(this.counters);
    const changed = ROWS.filter(({ index }) => now[index] !== this.last[index]);
    if (changed.every(({ index }) => index === C_LOOP_TURNS)) return [];
    const line = (name: string, change: string, value: string): string =>
      name.padEnd(NAME_WIDTH) + change.padStart(NUMBER_WIDTH) + value.padStart(NUMBER_WIDTH);
    const lines = changed.map(({ name, index }) => {
      const change = now[index] - this.last[index];
      return line(name, `${change > 0 ? '+' : ''}${change}`, String(now[index]));
    });
    this.last.set(now);
    return [line('counter', 'change', 'now'), ...lines, ''];
  }
}

/** Writes a table every `seconds` seconds in which something happened. Returns the function that stops it. */
export function startStats(counters: Counters, seconds: number, write: (text: string) => void): () => void {
  const table = new StatsTable(counters);
  const timer = setInterval(() => {
    const lines = table.next();
    if (lines.length > 0) write(lines.join('\n') + '\n');
  }, seconds * 1000);
  timer.unref();
  return () => {
    clearInterval(timer);
  };
}
