/** Prometheus' text format, as the service writes it, back into numbers. Runs in the browser, and knows no document. */

export type Labels = Readonly<Record<string, string>>;

export interface Sample {
  readonly labels: Labels;
  readonly value: number;
}

/** The samples of each name. */
export type Samples = ReadonlyMap<string, readonly Sample[]>;

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;

const unescaped = (text: string): string => text.replace(/\\(.)/g, (_, c: string) => (c === 'n' ? '\n' : c));

function valueOf(text: string): number {
  return text === '+Inf' ? Infinity : Number(text);
}

export function parseExposition(text: string): Samples {
  const all = new Map<string, Sample[]>();
  for (const line of text.split('\n')) {
    const match = LINE.exec(line) as [string, string, string | undefined, string] | null;
    if (match === null) continue;
    const [, name, list, value] = match;
    const labels: Record<string, string> = {};
    for (const [, label, quoted] of (list ?? '').matchAll(LABEL)) labels[label] = unescaped(quoted);
    const samples = all.get(name);
    const sample = { labels, value: valueOf(value) };
    if (samples === undefined) all.set(name, [sample]);
    else samples.push(sample);
  }
  return all;
}

/** The sum over the samples of a name that have these labels; 0: there are none. */
export function sumOf(samples: Samples, name: string, labels: Labels = {}): number {
  const wanted = Object.entries(labels);
  let sum = 0;
  for (const sample of samples.get(name) ?? []) {
    if (wanted.every(([label, value]) => sample.labels[label] === value)) sum += sample.value;
  }
  return sum;
}

/**
 * The value that a share `q` of what a histogram has counted between two looks does not exceed, as histogram_quantile()
 * of Prometheus finds it: linear within a bucket. Null: nothing was counted.
 */
export function quantile(before: Samples, now: Samples, name: string, q: number): number | null {
  const bucket = `${name}_bucket`;
  const earlier = new Map((before.get(bucket) ?? []).map(({ labels, value }) => [labels.le, value]));
  const buckets = (now.get(bucket) ?? [])
    .map(({ labels, value }) => ({ le: valueOf(labels.le), count: value - (earlier.get(labels.le) ?? 0) }))
    .sort((a, b) => a.le - b.le);
  const total = buckets.at(-1)?.count ?? 0;
  if (total <= 0) return null;
  const rank = q * total;
  const i = buckets.findIndex(({ count }) => count >= rank);
  const lower = i === 0 ? 0 : buckets[i - 1].le;
  // Beyond all bounds nothing better is known than the last of them.
  if (buckets[i].le === Infinity) return lower;
  const under = i === 0 ? 0 : buckets[i - 1].count;
  return lower + (buckets[i].le - lower) * ((rank - under) / (buckets[i].count - under));
}
