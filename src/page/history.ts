/**
 * What the plots show: the looks at the metrics of the last minutes, and what they come to. The service keeps no history;
 * this begins when the page is opened.
 */
import { quantile, type Samples, sumOf } from './exposition';

/** Points of a plot: ten minutes of seconds. */
export const POINTS = 600;
/** Over which quantiles are taken: in a second there may be no connection at all. */
export const QUANTILE_MS = 10_000;
/** Over which what was dropped counts as dropped lately. */
export const LATELY_MS = 60_000;

export interface Look {
  /** ms since the epoch. */
  readonly at: number;
  readonly samples: Samples;
}

/** Names of the plotted series, in the order of `History.columns`. */
export const SERIES = [
  'bitsFrom',
  'bitsTo',
  'framesFrom',
  'framesTo',
  'turnMedian',
  'turnTail',
  'connectMedian',
  'connectTail',
] as const;
export type SeriesName = (typeof SERIES)[number];

const FROM = { direction: 'from_guest' };
const TO = { direction: 'to_guest' };

/** A share of all, for "nearly all". */
export const TAIL = 0.99;

/** Is it another process than at the look before? Its counters begin again. */
function isRestarted(before: Samples, now: Samples): boolean {
  const name = 'process_start_time_seconds';
  return sumOf(before, name) !== sumOf(now, name);
}

export class History {
  /** Seconds since the epoch, and for each series its values; null: none at that time. */
  readonly times: number[] = [];
  readonly columns: Record<SeriesName, (number | null)[]> = {
    ...{ bitsFrom: [], bitsTo: [], framesFrom: [], framesTo: [] },
    ...{ turnMedian: [], turnTail: [], connectMedian: [], connectTail: [] },
  };
  /** Looks of the last minute and the one before them, oldest first. */
  private readonly looks: Look[] = [];

  get last(): Look | null {
    return this.looks.at(-1) ?? null;
  }

  /** A look at most `ms` old, or the oldest there is; null: there is none. */
  since(ms: number): Look | null {
    const now = this.last;
    if (now === null) return null;
    return this.looks.find(({ at }) => now.at - at <= ms) ?? now;
  }

  /** Takes a look in. */
  add(look: Look): void {
    const before = this.last;
    if (before !== null && isRestarted(before.samples, look.samples)) this.forget();
    this.looks.push(look);
    while (this.looks.length > 2 && look.at - this.looks[1].at > LATELY_MS) this.looks.shift();
    if (this.looks.length > 1) this.plot(this.looks[this.looks.length - 2], look);
  }

  /** Nothing came at this time: the lines of the plots are interrupted. */
  gap(at: number): void {
    if (this.times.length === 0 || this.columns.bitsTo.at(-1) === null) return;
    this.put(at, () => null);
  }

  private forget(): void {
    this.looks.length = 0;
    this.times.length = 0;
    for (const name of SERIES) this.columns[name].length = 0;
  }

  private plot(before: Look, now: Look): void {
    const seconds = (now.at - before.at) / 1000;
    if (seconds <= 0) return;
    const rate = (name: string, labels: Record<string, string>): number =>
      Math.max(0, sumOf(now.samples, name, labels) - sumOf(before.samples, name, labels)) / seconds;
    const window = this.since(QUANTILE_MS) ?? now;
    const of = (name: string, q: number): number | null => quantile(window.samples, now.samples, name, q);
    const values: Record<SeriesName, number | null> = {
      bitsFrom: 8 * rate('tubetti_bytes_total', FROM),
      bitsTo: 8 * rate('tubetti_bytes_total', TO),
      framesFrom: rate('tubetti_frames_total', FROM),
      framesTo: rate('tubetti_frames_total', TO),
      turnMedian: of('tubetti_loop_turn_seconds', 0.5),
      turnTail: of('tubetti_loop_turn_seconds', TAIL),
      connectMedian: of('tubetti_tcp_connect_seconds', 0.5),
      connectTail: of('tubetti_tcp_connect_seconds', TAIL),
    };
    this.put(now.at, (name) => values[name]);
  }

  private put(at: number, valueOf: (name: SeriesName) => number | null): void {
    this.times.push(at / 1000);
    for (const name of SERIES) this.columns[name].push(valueOf(name));
    if (this.times.length <= POINTS) return;
    this.times.shift();
    for (const name of SERIES) this.columns[name].shift();
  }
}

/** Summary of what is plotted of a series: its last value, mean and maximum; null: there is none. */
export function summaryOf(
  values: readonly (number | null)[],
): { now: number | null; mean: number; max: number } | null {
  let sum = 0;
  let count = 0;
  let max = 0;
  for (const value of values) {
    if (value === null) continue;
    sum += value;
    count++;
    max = Math.max(max, value);
  }
  return count === 0 ? null : { now: values.at(-1) ?? null, mean: sum / count, max };
}
