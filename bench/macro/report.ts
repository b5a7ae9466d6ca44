/** From samples to a table and JSON. No absolute number stands alone: every row ends in ratios. */
import { METRICS, cellKey, type Cell, type GuestName, type MetricName, type Sample } from './cases';
import { callUnit } from './measure';
import { OUR_NAME, type RunOptions } from './options';
import { lastLine } from './contender';
import { planFor } from './round';
import { summarize, type Summary } from './statistics';

export interface Conditions {
  readonly date: string;
  readonly machine: string;
  readonly guest: string;
  /** Descriptors a back-end may have open: it decides how many flows are possible. */
  readonly descriptors: string;
  readonly backends: readonly { readonly name: string; readonly version: string }[];
  /** The machine's load average when each round began: what else ran here. */
  readonly loads: readonly number[];
  /** Rounds that were finished. */
  readonly rounds: number;
}

export interface Report {
  readonly conditions: Conditions;
  readonly options: RunOptions;
  readonly samples: readonly Sample[];
}

/** Everything a run was to measure, in the order of its table. */
export function cellsOf({ options }: Report): Cell[] {
  const planned = options.mtus.flatMap((mtu) => planFor(options, mtu));
  // By case first: the MTUs of a case stand together.
  return options.cases.flatMap(({ name }) => planned.map(({ cell }) => cell).filter((cell) => cell.case === name));
}

/** The table, in Markdown with aligned columns. */
export function table(report: Report): string {
  if (report.options.strace) return callTable(report);
  const names = report.conditions.backends.map(({ name }) => name);
  const peers = names.slice(1);
  const head = ['case', 'measure', ...names, ...peers.map((peer) => `${OUR_NAME} / ${peer}`)];
  const rows: string[][] = [];
  for (const cell of cellsOf(report)) {
    let title = `${cell.case}, ${String(cell.mtu)}, IPv${String(cell.family)}`;
    for (const metric of Object.keys(METRICS) as MetricName[]) {
      const row = rowOf(report.samples, cell, metric, names);
      if (row === null) continue;
      rows.push([title, ...row]);
      title = '';
    }
  }
  return markdownTable(head, rows);
}

/** System calls per unit of each case, the most frequent first. */
function callTable({ samples, options, conditions }: Report): string {
  const names = conditions.backends.map(({ name }) => name);
  const rows: string[][] = [];
  for (const { cell, case: each } of options.mtus.flatMap((mtu) => planFor(options, mtu))) {
    const here = samples.filter((sample) => sample.calls !== undefined && cellKey(sample) === cellKey(cell));
    const calls = [...new Set(here.flatMap((sample) => Object.keys(sample.calls ?? {})))];
    const perBackend = (call: string): (number | null)[] =>
      names.map((name) => {
        const own = here.filter(({ backend }) => backend === name);
        return summarize(own.map((sample) => sample.calls?.[call] ?? 0))?.median ?? null;
      });
    const counted = calls.map((call) => ({ call, counts: perBackend(call) }));
    counted.sort((a, b) => Math.max(...b.counts.map(Number)) - Math.max(...a.counts.map(Number)));
    let title = `${cell.case}, ${String(cell.mtu)}, IPv${String(cell.family)}`;
    const totals = names.map((_, at) => counted.reduce((sum, { counts }) => sum + (counts[at] ?? 0), 0));
    for (const { call, counts } of [{ call: `all, per ${callUnit(each)}`, counts: totals }, ...counted]) {
      rows.push([title, call, ...counts.map((count) => (count === null ? '–' : count.toFixed(3)))]);
      title = '';
    }
  }
  return markdownTable(['case', 'call', ...names], rows);
}

/** Samples that could not be taken: one line for each cell and reason. */
export function failures({ samples }: Report): string[] {
  const rounds = new Map<string, number[]>();
  for (const { backend, round, failed, ...cell } of samples) {
    if (failed === undefined) continue;
    const { case: name, mtu, family } = cell;
    const line = `${backend}, ${name}, ${String(mtu)}, IPv${String(family)}: ${lastLine(failed)}`;
    rounds.set(line, [...(rounds.get(line) ?? []), round]);
  }
  return [...rounds].map(([line, numbers]) => `${line} (round ${numbers.join(', ')})`);
}

const BEYOND_GATEWAY = 'the far end is another network namespace beyond the gateway, across a veth pair';
const FAR_END: Readonly<Record<GuestName, string>> = {
  uml: BEYOND_GATEWAY,
  qemu: BEYOND_GATEWAY,
  bare: BEYOND_GATEWAY,
  testpmd: 'datagrams are counted as they come to another network namespace',
  netns: "the far end is on the host's loopback, at the gateway's address",
};

/** What the numbers were taken with, one line each. */
export function conditionLines({ conditions, options }: Report): string[] {
  const { seconds } = options;
  const { rounds, loads, backends } = conditions;
  return [
    `${conditions.date}; ${conditions.machine}; load average at the start of the rounds: ${loads.map((load) => load.toFixed(1)).join(', ')}`,
    `guest: ${conditions.guest}; ${FAR_END[options.guest]}`,
    `back-ends, each with at most ${conditions.descriptors} descriptors: ${backends.map(({ name, version }) => `${name} (${version})`).join(', ')}`,
    `${String(rounds)} ${rounds === 1 ? 'round' : 'rounds'}${rounds < options.rounds ? ` of ${String(options.rounds)}` : ''}, ${seconds === null ? '2' : String(seconds)} s a case${seconds === null ? ' (long paths 6 s)' : ''} with each back-end, one right after the other; medians (least–most); ratios are of the same round`,
    ...(options.strace
      ? ['back-ends traced by strace: slower than they are, and so with batches larger than usual']
      : []),
  ];
}

export function valuesOf(samples: readonly Sample[], backend: string, cell: Cell, metric: MetricName): number[] {
  const key = cellKey(cell);
  const values: number[] = [];
  for (const sample of samples) {
    const value = sample.values[metric];
    if (sample.backend === backend && value !== undefined && cellKey(sample) === key) values.push(value);
  }
  return values;
}

/** Ours by theirs, round by round; a round in which theirs is 0 has none. None at all where a value is negative. */
export function ratiosOf(samples: readonly Sample[], peer: string, cell: Cell, metric: MetricName): number[] {
  const key = cellKey(cell);
  const ratios: number[] = [];
  const here = samples.filter((sample) => cellKey(sample) === key);
  for (const ours of here) {
    if (ours.backend !== OUR_NAME) continue;
    const theirs = here.find(({ backend, round }) => backend === peer && round === ours.round);
    const [value, base] = [ours.values[metric], theirs?.values[metric]];
    if (value === undefined || base === undefined) continue;
    if (value < 0 || base < 0) return [];
    if (base > 0) ratios.push(value / base);
  }
  return ratios;
}

function rowOf(samples: readonly Sample[], cell: Cell, metric: MetricName, names: readonly string[]): string[] | null {
  const { title, digits, shown } = METRICS[metric];
  const all = names.map((name) => summarize(valuesOf(samples, name, cell, metric)));
  if (all.every((summary) => summary === null)) return null;
  if (shown === 'unless-zero' && all.every((summary) => summary === null || summary.most === 0)) return null;
  const ratios = names.slice(1).map((peer) => summarize(ratiosOf(samples, peer, cell, metric)));
  return [title, ...all.map((summary) => text(summary, digits)), ...ratios.map((summary) => text(summary, 2))];
}

export function text(summary: Summary | null, digits: number): string {
  if (summary === null) return '–';
  const [median, least, most] = [summary.median, summary.least, summary.most].map((value) => value.toFixed(digits));
  return least === most ? median : `${median} (${least}–${most})`;
}

/** The first `left` columns are aligned to the left, the others to the right. */
export function markdownTable(head: readonly string[], rows: readonly (readonly string[])[], left = 2): string {
  const widths = head.map((title, column) => Math.max(3, title.length, ...rows.map((row) => row[column].length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => (column < left ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))).join(' | ')} |\n`;
  const rule = widths.map((width, column) => (column < left ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`));
  return line(head) + line(rule) + rows.map(line).join('');
}
