/** What the project wants to reach, cell by cell, and whether a page's runs reach it. No cell is left out. */
import {
  CASES,
  LONG_DELAYS_MS,
  METRICS,
  MIN_FLOWS_FOR_VERDICT,
  cellKey,
  type Case,
  type Cell,
  type Family,
  type GuestName,
  type MetricName,
} from './cases';
import { DIRECT_NAME, OUR_NAME, SLIRP_NAME } from './options';
import { cellsOf, ratiosOf, text, valuesOf, type Report } from './report';
import { lastLine } from './contender';
import { summarize } from './statistics';

const PASST = 'passt';
const FULL_MTU = 65520;
const ETHERNET_MTU = 1500;

export interface Target {
  readonly group: string;
  readonly cell: Cell;
  readonly metric: MetricName;
  /** A ratio of ours to this back-end's; null: the value itself. */
  readonly versus: string | null;
  /** Or less where less is better. */
  readonly bound: number;
  /** Every round has to reach it, not the median: for counts that should be 0. */
  readonly every?: boolean;
}

export type State = 'met' | 'MISSED' | 'not measured';

export interface Verdict {
  /** `CASE GUEST MTU IPvN METRIC[/PEER]`: what remarks are keyed by. */
  readonly id: string;
  readonly target: Target;
  readonly state: State;
  /** What was measured, or why nothing was. */
  readonly detail: string;
}

export const TARGETS: readonly Target[] = [...bulkTargets(), ...otherTargets()];

/** Bulk TCP: "everywhere" in the target beside libslirp means both MTUs, both ways, both families. */
function bulkTargets(): Target[] {
  const targets: Target[] = [];
  const cells = [
    ...['bulk-down', 'bulk-up', 'bulk-down-8', 'bulk-up-8'].map((name) => ['uml', name] as const),
    ...['bulk-down', 'bulk-up'].map((name) => ['qemu', name] as const),
  ].flatMap(([guest, name]) =>
    [FULL_MTU, ETHERNET_MTU].flatMap((mtu) =>
      ([4, 6] as const).map((family): Cell => ({ case: name, guest, mtu, family })),
    ),
  );
  for (const mtu of [FULL_MTU, ETHERNET_MTU]) {
    for (const cell of cells.filter((each) => each.mtu === mtu)) {
      const bound = mtu === ETHERNET_MTU && cell.case.startsWith('bulk-down') ? 2 : 1.2;
      const group = `bulk TCP at MTU ${String(mtu)} beside passt`;
      targets.push({ group, cell, metric: 'gbits', versus: PASST, bound });
    }
  }
  for (const cell of cells.filter(({ guest }) => guest === 'qemu')) {
    targets.push({ group: 'bulk TCP beside libslirp', cell, metric: 'gbits', versus: SLIRP_NAME, bound: 4 });
  }
  for (const cell of cells) {
    targets.push({ group: 'CPU per GB beside passt', cell, metric: 'cpuPerGigabyte', versus: PASST, bound: 1 });
  }
  for (const cell of cells) {
    const group = 'no retransmit by the guest, in any round';
    targets.push({ group, cell, metric: 'guestRetransmits', versus: null, bound: 0, every: true });
  }
  return targets;
}

function otherTargets(): Target[] {
  const at = (name: string, guest: GuestName, family: Family = 4): Cell => ({
    case: name,
    guest,
    mtu: FULL_MTU,
    family,
  });
  const packets = { group: 'datagrams beside passt', metric: 'packetsPerSecond', versus: PASST, bound: 2 } as const;
  const latency = { group: 'transactions beside passt', metric: 'perSecond', versus: PASST, bound: 1 } as const;
  const isLong = (each: Case): boolean => each.kind === 'long-path';
  return [
    ...['down', 'up']
      .flatMap((way) => [200, 1400].map((size) => `udp-${way}-${String(size)}`))
      .map((name): Target => ({ ...packets, cell: at(name, 'uml') })),
    ...['pps-200', 'pps-1400'].map((name): Target => ({ ...packets, cell: at(name, 'testpmd') })),
    ...(['uml', 'qemu'] as const).flatMap((guest) =>
      ['rr', 'crr'].map((name): Target => ({ ...latency, cell: at(name, guest) })),
    ),
    {
      group: 'latency beside two bulk transfers, by that when idle',
      cell: at('rr-loaded', 'uml'),
      metric: 'timesIdle',
      versus: null,
      bound: 3,
    },
    ...CASES.filter(isLong).map(({ name }): Target => ({
      group: `long paths (${LONG_DELAYS_MS.join(', ')} ms, 1 Gbit/s) beside the same transfer without a guest`,
      cell: at(name, 'uml'),
      metric: 'gbits',
      versus: DIRECT_NAME,
      bound: 0.95,
    })),
    ...CASES.filter((each) => each.kind === 'idle' && each.flows > 1).map(({ name }): Target => ({
      group: 'throughput beside idle flows, by that beside one',
      cell: at(name, 'uml'),
      metric: 'besideOne',
      versus: null,
      bound: 0.9,
    })),
    {
      group: 'memory for each flow, bytes',
      cell: at(`idle-${String(MIN_FLOWS_FOR_VERDICT)}`, 'uml'),
      metric: 'bytesPerFlow',
      versus: null,
      bound: 1024,
    },
    { group: 'from start to listening, ms', cell: at('start', 'uml'), metric: 'startMs', versus: null, bound: 150 },
    { group: 'resident when idle, MiB', cell: at('start', 'uml'), metric: 'residentMiB', versus: null, bound: 64 },
  ];
}

/** One verdict for each target, in the order of {@link TARGETS}. */
export function judge(reports: readonly Report[]): Verdict[] {
  return TARGETS.map((target) => {
    const { cell, metric, versus } = target;
    const id = `${cellKey(cell)} ${metric}${versus === null ? '' : `/${versus}`}`;
    return { id, target, ...judgeOne(target, reports) };
  });
}

function judgeOne(target: Target, reports: readonly Report[]): { state: State; detail: string } {
  const { cell, metric, versus, bound, every } = target;
  const key = cellKey(cell);
  const usable = reports.filter(({ options }) => !options.strace && options.guest === cell.guest);
  if (usable.length === 0) return notMeasured(`no run with --guest ${cell.guest} here`);
  const report = usable.find((each) => cellsOf(each).some((other) => cellKey(other) === key));
  if (report === undefined) return notMeasured('not among the cases of the run');
  if (versus !== null && !report.conditions.backends.some(({ name }) => name === versus)) {
    return notMeasured(`no ${versus} in the run`);
  }
  const { samples } = report;
  const values = versus === null ? valuesOf(samples, OUR_NAME, cell, metric) : ratiosOf(samples, versus, cell, metric);
  const summary = summarize(values);
  if (summary === null) {
    const failed = samples.find((sample) => sample.failed !== undefined && cellKey(sample) === key);
    return notMeasured(failed === undefined ? 'no value' : `${failed.backend}: ${lastLine(failed.failed ?? '')}`);
  }
  // A heap that shrank by more than all flows took says nothing, least of all that a target was met.
  if (metric === 'bytesPerFlow' && summary.median <= 0) return notMeasured('the heap shrank meanwhile');
  const { better, digits } = METRICS[metric];
  const worst = better === 'more' ? summary.least : summary.most;
  const counted = every === true ? worst : summary.median;
  const met = better === 'more' ? counted >= bound : counted <= bound;
  return { state: met ? 'met' : 'MISSED', detail: text(summary, versus === null ? digits : 2) };
}

function notMeasured(detail: string): { state: State; detail: string } {
  return { state: 'not measured', detail };
}
