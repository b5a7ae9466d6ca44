/** From samples to a table, a document and JSON. No absolute number stands alone: every row ends in ratios. */
import {
  BYTES_PER_FLOW_TARGET,
  IDLE_FLOOR,
  METRICS,
  MIN_FLOWS_FOR_VERDICT,
  type Case,
  type IdleCase,
  type MetricName,
  type Sample,
} from './cases';
import { OUR_NAME, type RunOptions } from './options';
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
}

export interface Report {
  readonly conditions: Conditions;
  readonly options: RunOptions;
  readonly samples: readonly Sample[];
}

/** The table, in Markdown with aligned columns. */
export function table(report: Report): string {
  const names = report.conditions.backends.map(({ name }) => name);
  const peers = names.slice(1);
  const head = ['case', 'measure', ...names, ...peers.map((peer) => `${OUR_NAME} / ${peer}`)];
  const rows: string[][] = [];
  for (const each of report.options.cases) {
    for (const metric of Object.keys(METRICS) as MetricName[]) {
      const row = rowOf(report.samples, each, metric, names);
      if (row !== null) rows.push([rows.some(([name]) => name === each.name) ? '' : each.name, ...row]);
    }
  }
  return markdownTable(head, rows);
}

/** What the targets of this project say, one line each. */
export function verdicts({ samples, options }: Report): string[] {
  const lines: string[] = [];
  const idle = options.cases.filter((each): each is IdleCase => each.kind === 'idle');
  for (const each of idle) {
    const beside = summarize(valuesOf(samples, OUR_NAME, each.name, 'besideOne'));
    if (beside !== null) {
      const ok = beside.median >= IDLE_FLOOR ? 'met' : 'MISSED';
      lines.push(
        `${each.name}: ${beside.median.toFixed(2)} of the throughput beside one idle flow, target ${IDLE_FLOOR}: ${ok}`,
      );
    }
    const memory = summarize(valuesOf(samples, OUR_NAME, each.name, 'bytesPerFlow'));
    if (memory !== null && each.flows >= MIN_FLOWS_FOR_VERDICT) {
      lines.push(`${each.name}: ${memoryVerdict(memory.median)}, target ${String(BYTES_PER_FLOW_TARGET)} bytes a flow`);
    }
  }
  return lines;
}

function memoryVerdict(bytes: number): string {
  // A heap that shrank by more than all flows took says nothing, least of all that a target was met.
  if (bytes <= 0) return 'memory not resolved, the heap shrank meanwhile';
  return `${bytes.toFixed(0)} bytes a flow: ${bytes <= BYTES_PER_FLOW_TARGET ? 'met' : 'MISSED'}`;
}

/** Samples that could not be taken, one line each. */
export function failures({ samples }: Report): string[] {
  return samples
    .filter((sample) => sample.failed !== undefined)
    .map(({ backend, round, case: name, failed }) => {
      // The last line is what the program said.
      const said = (failed ?? '').trim().split('\n').pop() ?? '';
      return `${backend}, round ${String(round)}, ${name} failed: ${said}`;
    });
}

/** What the numbers were taken with, one line each. */
export function conditionLines({ conditions, options }: Report): string[] {
  const { rounds, seconds, mtu, family } = options;
  return [
    `${conditions.date}; ${conditions.machine}; load average at the start of the rounds: ${conditions.loads.map((load) => load.toFixed(1)).join(', ')}`,
    `guest: ${conditions.guest}, MTU ${String(mtu)}, IPv${String(family)}; the far end is another network namespace beyond the gateway, across a veth pair`,
    `back-ends, each with at most ${conditions.descriptors} descriptors: ${conditions.backends.map(({ name, version }) => `${name} (${version})`).join(', ')}`,
    `${String(rounds)} ${rounds === 1 ? 'round' : 'rounds'} of ${String(seconds)} s a case, back-ends in turn; medians (least–most); ratios are of the same round`,
  ];
}

const NOTES = [
  ['bulk-down, bulk-up', 'one connection, host to guest and guest to host'],
  ['rr', 'one byte there and one back on one connection'],
  ['crr', 'connect, one byte there and one back, close'],
  ['idle-N', 'bulk-down beside N idle connections'],
  ['CPU s/GB, CPU µs each', "the back-end's user and system time per 10⁹ bytes of payload, per transaction"],
  ['of Gbit/s beside 1', 'throughput beside so many idle connections, by that beside one'],
  [
    'bytes per flow',
    "growth of the back-end's anonymous resident memory from no idle flow to N; kernel sockets not counted",
  ],
  ['negative bytes', "the back-end's heap shrank meanwhile by more than the flows took"],
  ['descriptors', 'a back-end that needs two for a flow cannot have 10 000 flows within 20 000'],
  ['guest retransmits', 'segments the guest sent again'],
  ['guest got twice', 'segments the guest had already (D-SACKs it sent)'],
  ['host retransmits', 'segments sent again on the veth pair, either way'],
] as const;

/** docs/performance.md. */
export function document(report: Report): string {
  return [
    `<!-- Written by \`${report.options.commandLine}\` (or from its --json with --from). Do not edit. -->`,
    '',
    '# Performance',
    '',
    'Printed by the command below and by nothing else. Look at the ratios: guest, back-ends and traffic share the cores of',
    'one machine, so absolute numbers say as much about it as about the back-ends. `bench/README.md` says how to run it.',
    '',
    '```sh',
    report.options.commandLine,
    '```',
    '',
    ...conditionLines(report).map((line) => `- ${line}`),
    '',
    table(report).trimEnd(),
    '',
    ...list('Targets', verdicts(report)),
    ...list('Failed', failures(report)),
    '## What the words mean',
    '',
    ...NOTES.map(([word, meaning]) => `- ${word}: ${meaning}`),
    '',
  ].join('\n');
}

function list(title: string, lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : [`## ${title}`, '', ...lines.map((line) => `- ${line}`), ''];
}

function rowOf(samples: readonly Sample[], each: Case, metric: MetricName, names: readonly string[]): string[] | null {
  const { title, digits, shown } = METRICS[metric];
  const all = names.map((name) => summarize(valuesOf(samples, name, each.name, metric)));
  if (all.every((summary) => summary === null)) return null;
  if (shown === 'unless-zero' && all.every((summary) => summary === null || summary.most === 0)) return null;
  const ratios = names.slice(1).map((peer) => summarize(ratiosOf(samples, peer, each.name, metric)));
  return [title, ...all.map((summary) => text(summary, digits)), ...ratios.map((summary) => text(summary, 2))];
}

function valuesOf(samples: readonly Sample[], backend: string, name: string, metric: MetricName): number[] {
  const values: number[] = [];
  for (const sample of samples) {
    const value = sample.values[metric];
    if (sample.backend === backend && sample.case === name && value !== undefined) values.push(value);
  }
  return values;
}

/** Ours by theirs, round by round; a round in which theirs is 0 has none. None at all where a value is negative. */
function ratiosOf(samples: readonly Sample[], peer: string, name: string, metric: MetricName): number[] {
  const ratios: number[] = [];
  for (const ours of samples) {
    if (ours.backend !== OUR_NAME || ours.case !== name) continue;
    const theirs = samples.find((each) => each.backend === peer && each.case === name && each.round === ours.round);
    const [value, base] = [ours.values[metric], theirs?.values[metric]];
    if (value === undefined || base === undefined) continue;
    if (value < 0 || base < 0) return [];
    if (base > 0) ratios.push(value / base);
  }
  return ratios;
}

function text(summary: Summary | null, digits: number): string {
  if (summary === null) return '–';
  const [median, least, most] = [summary.median, summary.least, summary.most].map((value) => value.toFixed(digits));
  return least === most ? median : `${median} (${least}–${most})`;
}

function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) => Math.max(3, title.length, ...rows.map((row) => row[column].length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => (column < 2 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))).join(' | ')} |\n`;
  const rule = widths.map((width, column) => (column < 2 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`));
  return line(head) + line(rule) + rows.map(line).join('');
}
