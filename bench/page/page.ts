/** docs/performance.md and its plots: the few numbers people ask for, made of the same samples as bench/report.md. */
import { METRICS, type Cell, type GuestName, type MetricName } from '../macro/cases';
import { missedByRemark, score } from '../macro/document';
import { OUR_NAME } from '../macro/options';
import { markdownTable, ratiosOf, text, valuesOf, type Report } from '../macro/report';
import { summarize } from '../macro/statistics';
import { boundText, judge, measureText, type Verdict } from '../macro/targets';
import type { Bar, Group, Plot } from './plot';

const PEERS = ['passt', 'libslirp'] as const;

interface Wanted {
  readonly question: string;
  readonly cell: Cell;
  readonly metric: MetricName;
  readonly unit: string;
}

const FULL = 65520;
const NUMBERS: readonly Wanted[] = [
  ask('How fast is one TCP connection to the guest?', 'bulk-down', 'uml', 'gbits', 'Gbit/s'),
  ask('And one from the guest?', 'bulk-up', 'uml', 'gbits', 'Gbit/s'),
  ask('How long does a one-byte request and its answer take?', 'rr', 'uml', 'p50', 'µs (median)'),
  ask('How many 200-byte frames a second from the guest?', 'pps-200', 'testpmd', 'packetsPerSecond', 'packets/s'),
  ask('How much memory does an idle instance take?', 'start', 'uml', 'residentMiB', 'MiB'),
];

function ask(question: string, name: string, guest: GuestName, metric: MetricName, unit: string): Wanted {
  return { question, cell: { case: name, guest, mtu: FULL, family: 4 }, metric, unit };
}

export interface NamedPlot {
  readonly file: string;
  readonly alt: string;
  readonly plot: Plot;
}

interface PlotSpec {
  readonly file: string;
  readonly title: string;
  readonly axis: string;
  readonly metric: MetricName;
  readonly cells: readonly (readonly [name: string, guest: GuestName, mtu: number])[];
}

const BULK = ['bulk-down', 'bulk-up'].flatMap((name) =>
  [FULL, 1500].flatMap((mtu) => (['uml', 'qemu'] as const).map((guest) => [name, guest, mtu] as const)),
);

const PLOTS: readonly PlotSpec[] = [
  {
    file: 'performance-throughput.svg',
    title: 'One TCP connection, IPv4',
    axis: 'Gbit/s, more is better; bars: median, lines: range of the rounds',
    metric: 'gbits',
    cells: BULK,
  },
  {
    file: 'performance-cpu.svg',
    title: 'Processor time of the back-end in the same transfers',
    axis: 'CPU seconds per 10⁹ bytes, less is better',
    metric: 'cpuPerGigabyte',
    cells: BULK,
  },
  {
    file: 'performance-transactions.svg',
    title: 'Requests: TCP (rr), UDP (udp-rr), and with a new connection each (crr)',
    axis: 'transactions per second, more is better',
    metric: 'perSecond',
    cells: (['uml', 'qemu'] as const).flatMap((guest) =>
      ['rr', 'udp-rr', 'crr'].map((name) => [name, guest, FULL] as const),
    ),
  },
];

const GUESTS: Readonly<Record<string, string>> = {
  uml: 'User Mode Linux',
  qemu: 'QEMU (TCG)',
  testpmd: 'testpmd',
  bare: 'bare front-end',
};

/** The first report that has samples of ours for `cell`; null: none. */
function reportWith(reports: readonly Report[], cell: Cell, metric: MetricName): Report | null {
  return (
    reports.find(({ samples, options }) => !options.strace && valuesOf(samples, OUR_NAME, cell, metric).length > 0) ??
    null
  );
}

function barsOf(reports: readonly Report[], cell: Cell, metric: MetricName): Bar[] {
  const report = reportWith(reports, cell, metric);
  if (report === null) return [];
  return [OUR_NAME, ...PEERS].flatMap((backend) => {
    const summary = summarize(valuesOf(report.samples, backend, cell, metric));
    return summary === null ? [] : [{ backend, ...summary }];
  });
}

export function plotsOf(reports: readonly Report[]): NamedPlot[] {
  return PLOTS.flatMap(({ file, title, axis, metric, cells }) => {
    const groups = cells.flatMap(([name, guest, mtu]): Group[] => {
      const bars = barsOf(reports, { case: name, guest, mtu, family: 4 }, metric);
      const label = [name, `MTU ${String(mtu)}`, GUESTS[guest]];
      return bars.length === 0 ? [] : [{ label, bars }];
    });
    const { digits } = METRICS[metric];
    return groups.length === 0 ? [] : [{ file, alt: `${title}. ${axis}`, plot: { title, axis, digits, groups } }];
  });
}

function numbersTable(reports: readonly Report[]): string {
  const rows = NUMBERS.map(({ question, cell, metric, unit }) => {
    const report = reportWith(reports, cell, metric);
    const { digits } = METRICS[metric];
    const shown = (backend: string): string =>
      report === null ? '–' : text(summarize(valuesOf(report.samples, backend, cell, metric)), digits);
    const ratio = report === null ? '–' : text(summarize(ratiosOf(report.samples, 'passt', cell, metric)), 2);
    return [question, `${cell.case}, ${GUESTS[cell.guest]}`, unit, shown(OUR_NAME), shown('passt'), ratio];
  });
  return markdownTable(['question', 'case, guest', 'unit', 'Tubetti', 'passt', 'Tubetti / passt'], rows, 3).trimEnd();
}

function missedTable(reports: readonly Report[]): string {
  const rows = missedByRemark(judge(reports)).map(({ short, cells }) => [cells.map(missedCell).join('<br>'), short]);
  return markdownTable(['missed: measured, bound', 'why'], rows, 2).trimEnd();
}

function missedCell({ target, detail }: Verdict): string {
  const { case: name, mtu, family, guest } = target.cell;
  return `${name}, ${String(mtu)}, IPv${String(family)}, ${guest}, ${measureText(target)}: ${detail}, ${boundText(target)}`;
}

function conditions(reports: readonly Report[]): string[] {
  const [{ conditions: first }] = reports;
  const rounds = (guest: GuestName): string =>
    reports.find(({ options }) => options.guest === guest && !options.strace)?.conditions.rounds.toString() ?? 'no';
  const dates = [...new Set(reports.map(({ conditions: each }) => each.date))].sort().join(', ');
  const guests = [...new Set(reports.map(({ conditions: each }) => each.guest))];
  return [
    `- Machine: ${first.machine}. Guest, back-end and traffic share its processors.`,
    `- Guests: ${guests.join('; ')}. **Not measured with KVM.**`,
    `- Back-ends side by side in each round, one case after the other; ${rounds('uml')} rounds with User Mode Linux, ${rounds('qemu')} with QEMU,`,
    `  ${rounds('testpmd')} with testpmd. Values are medians (least–most), ratios are of the same round. Measured ${dates}.`,
    '- A network namespace is beside pasta, and its far end is the loopback of its host.',
    "- libslirp is QEMU's `-netdev user`: only with QEMU, MTU 1500, and its processor time cannot be told from QEMU's.",
  ];
}

/** The page. `names` are those of the reports' files in bench/results. */
export function page(reports: readonly Report[], names: readonly string[]): string {
  return [
    '<!-- Written by `npm run bench:page` from bench/results and bench/notes.json. Do not edit. -->',
    '',
    '# Performance',
    '',
    'How Tubetti compares with passt and libslirp on one machine. Look at the ratios: the absolute numbers say as much about',
    'the machine and its guests as about the back-ends. Every cell of every run is in [bench/report.md](../bench/report.md).',
    '',
    '## What was measured on what',
    '',
    ...conditions(reports),
    '',
    '## Five numbers',
    '',
    `MTU ${String(FULL)}, IPv4.`,
    '',
    numbersTable(reports),
    '',
    '## Beside passt and libslirp',
    '',
    ...plotsOf(reports).flatMap(({ file, alt }) => [`![${alt}](images/${file})`, '']),
    '## What is missed, and why',
    '',
    `Each target is one cell with a bound, mostly a ratio to passt (\`bench/macro/targets.ts\`): ${score(judge(reports))}.`,
    'The profiles behind the reasons are in [bench/report.md](../bench/report.md).',
    '',
    missedTable(reports),
    '',
    '## How to reproduce',
    '',
    '```sh',
    ...reports.map(({ options }, index) => `${options.commandLine} --json bench/results/${names[index]}.json`),
    'npm run bench:page    # this page, its plots and bench/report.md, from bench/results',
    '```',
    '',
    '[bench/README.md](../bench/README.md) explains the set-up, the cases and how to compare two trees.',
    '',
  ].join('\n');
}
