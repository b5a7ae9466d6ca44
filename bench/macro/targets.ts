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
const PASTA = 'pasta';
const FULL_MTU = 65520;
const ETHERNET_MTU = 1500;

export interface Target {
  readonly group: string;
  readonly cell: Cell;
  readonly metric: MetricName;
  /** A ratio of ours to this back-end's; null: the value itself. */
  readonly versus: string | null;
  /** By how much ours is more than that back-end's, in place of the ratio. */
  readonly difference?: true;
  /** A ratio of ours to our own at this MTU, in place of one to another back-end's. */
  readonly ownMtu?: number;
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

export const TARGETS: readonly Target[] = [...bulkTargets(), ...otherTargets(), ...namespaceTargets()];

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

/**
 * A network namespace beside pasta. From the namespace at MTU 1500 pasta's rate collapses, so that no ratio to it says
 * anything: ours is compared with our own at the full MTU. What goes past the interface has a program of its own (bench/splice).
 */
function namespaceTargets(): Target[] {
  const at = (name: string, mtu = FULL_MTU): Cell => ({ case: name, guest: 'netns', mtu, family: 4 });
  const bulk = { group: 'bulk TCP of a namespace beside pasta', metric: 'gbits', versus: PASTA } as const;
  const cpu = { group: 'CPU of a namespace beside pasta', versus: PASTA, bound: 1 } as const;
  const latency = { group: 'transactions of a namespace beside pasta', versus: PASTA, bound: 1 } as const;
  return [
    { ...bulk, cell: at('bulk-down'), bound: 1 },
    { ...bulk, cell: at('bulk-down', ETHERNET_MTU), bound: 4 },
    { ...bulk, cell: at('bulk-up'), bound: 1 },
    {
      group: 'bulk TCP from a namespace, by our own at MTU 65520',
      cell: at('bulk-up', ETHERNET_MTU),
      metric: 'gbits',
      versus: null,
      ownMtu: FULL_MTU,
      bound: 0.8,
    },
    ...['rr', 'crr'].map((name): Target => ({ ...latency, metric: 'perSecond', cell: at(name) })),
    ...[at('bulk-down'), at('bulk-down', ETHERNET_MTU), at('bulk-up')].map((cell): Target => ({
      ...cpu,
      metric: 'cpuPerGigabyte',
      cell,
    })),
    ...['rr', 'crr'].map((name): Target => ({ ...cpu, metric: 'cpuPerTransaction', cell: at(name) })),
    {
      group: 'from start to the end of `true`, ms more than pasta',
      cell: at('true'),
      metric: 'commandMs',
      versus: PASTA,
      difference: true,
      bound: 200,
    },
  ];
}

/** What was wanted, for people: `≥ 1.2`. */
export function boundText({ metric, bound }: Target): string {
  return `${METRICS[metric].better === 'more' ? '≥' : '≤'} ${String(bound)}`;
}

/** What the bound is, where that is not said: a ratio, a difference, or the value itself. */
export function unitOf({ versus, difference, ownMtu }: Target): string {
  if (difference === true) return ' more';
  return versus === null && ownMtu === undefined ? '' : ' ×';
}

/** What is compared, for people: `Gbit/s / passt`. */
export function measureText({ metric, versus, difference, ownMtu }: Target): string {
  const { title } = METRICS[metric];
  if (ownMtu !== undefined) return `${title} / ours at MTU ${String(ownMtu)}`;
  return versus === null ? title : `${title} ${difference === true ? '−' : '/'} ${versus}`;
}

/** Of each round what the bound is about. */
function measured({ cell, metric, versus, difference, ownMtu }: Target, samples: Report['samples']): number[] {
  if (ownMtu !== undefined) return combined(samples, cell, metric, OUR_NAME, { ...cell, mtu: ownMtu }, (a, b) => a / b);
  if (versus === null) return valuesOf(samples, OUR_NAME, cell, metric);
  if (difference !== true) return ratiosOf(samples, versus, cell, metric);
  return combined(samples, cell, metric, versus, cell, (a, b) => a - b);
}

/** `of` our value and `backend`'s in `other`, round by round. */
function combined(
  samples: Report['samples'],
  cell: Cell,
  metric: MetricName,
  backend: string,
  other: Cell,
  of: (ours: number, theirs: number) => number,
): number[] {
  const valueOf = (name: string, where: Cell, round: number): number | undefined =>
    samples.find((each) => each.backend === name && each.round === round && cellKey(each) === cellKey(where))?.values[
      metric
    ];
  const rounds = [...new Set(samples.map(({ round }) => round))];
  return rounds.flatMap((round) => {
    const ours = valueOf(OUR_NAME, cell, round);
    const theirs = valueOf(backend, other, round);
    return ours === undefined || theirs === undefined ? [] : [of(ours, theirs)];
  });
}

/** One verdict for each target, in the order of {@link TARGETS}. */
export function judge(reports: readonly Report[]): Verdict[] {
  return TARGETS.map((target) => {
    const { cell, metric, versus, ownMtu } = target;
    const to = ownMtu === undefined ? versus : `own-${String(ownMtu)}`;
    const id = `${cellKey(cell)} ${metric}${to === null ? '' : `/${to}`}`;
    return { id, target, ...judgeOne(target, reports) };
  });
}

function judgeOne(target: Target, reports: readonly Report[]): { state: State; detail: string } {
  const { cell, metric, versus, bound, every, difference, ownMtu } = target;
  const key = cellKey(cell);
  const usable = reports.filter(({ options }) => !options.strace && options.guest === cell.guest);
  if (usable.length === 0) return notMeasured(`no run with --guest ${cell.guest} here`);
  const report = usable.find((each) => cellsOf(each).some((other) => cellKey(other) === key));
  if (report === undefined) return notMeasured('not among the cases of the run');
  if (versus !== null && !report.conditions.backends.some(({ name }) => name === versus)) {
    return notMeasured(`no ${versus} in the run`);
  }
  const { samples } = report;
  const summary = summarize(measured(target, samples));
  if (summary === null) {
    const failed = samples.find((sample) => sample.failed !== undefined && cellKey(sample) === key);
    return notMeasured(failed === undefined ? 'no value' : `${failed.backend}: ${lastLine(failed.failed ?? '')}`);
  }
  // A heap that shrank by more than all flows took says nothing, least of all that a target was met.
  if (metric === 'bytesPerFlow' && summary.median <= 0) return notMeasured('the heap shrank meanwhile');
  const { better, digits } = METRICS[metric];
  const worst = better === 'more' ? summary.least : summary.most;
  const counted = every === true ? worst : summary.median;
  const isRatio = ownMtu !== undefined || (versus !== null && difference !== true);
  const met = better === 'more' ? counted >= bound : counted <= bound;
  return { state: met ? 'met' : 'MISSED', detail: text(summary, isRatio ? 2 : digits) };
}

function notMeasured(detail: string): { state: State; detail: string } {
  return { state: 'not measured', detail };
}
