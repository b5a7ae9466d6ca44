/**
 * Metrics as prom-client's registry prints them. Its own classes keep a hash table of label sets, and look each of some
 * two hundred up for every page; here names and labels are text that is made once, and a page only reads the values.
 */
import type { Metric, Registry } from 'prom-client';

export type Labels = Readonly<Record<string, string>>;

/** One line of a page. */
interface Sample {
  readonly metricName: string;
  readonly labels: Labels;
  value: number;
}

export interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
}

const NO_LABELS: Labels = {};

/** As the text format has it (prometheus.io, "Exposition formats"). */
function escaped(value: string): string {
  return value.replace(/[\\"\n]/g, (character) => (character === '\n' ? '\\n' : `\\${character}`));
}

/** `name{label="value"}` */
export function seriesName(name: string, labels: Labels): string {
  const parts = Object.entries(labels).map(([label, value]) => `${label}="${escaped(value)}"`);
  return parts.length === 0 ? name : `${name}{${parts.join(',')}}`;
}

/** A series and how its value is found at each page. */
export interface Line {
  readonly name: string;
  readonly read: () => number;
}

/** Adds a family whose lines are `lines`. */
export function addFamily(registry: Registry, family: Family, lines: readonly Line[]): void {
  const values: Sample[] = lines.map(({ name }) => ({ metricName: name, labels: NO_LABELS, value: 0 }));
  const metric = {
    ...family,
    values,
    get: () => {
      for (let i = 0; i < lines.length; i++) values[i].value = lines[i].read();
      return metric;
    },
  };
  // The registry asks for a name, and for `get`.
  registry.registerMetric(metric as unknown as Metric);
}

/** Adds a family whose lines are not the same at each page. */
export function addChanging(
  registry: Registry,
  family: Family,
  read: () => readonly { readonly name: string; readonly value: number }[],
): void {
  const metric = {
    ...family,
    values: [] as Sample[],
    get: () => {
      metric.values = read().map(({ name, value }) => ({ metricName: name, labels: NO_LABELS, value }));
      return metric;
    },
  };
  registry.registerMetric(metric as unknown as Metric);
}
