/** Reads the data plane's counters at a scrape: the data plane itself knows nothing of Prometheus. */
import { Registry } from 'prom-client';
import type { NumberedRule } from '../stack/config';
import { C_RULES, C_STARVED_SINCE, C_STARVED_US, type Counters, countersFor, type Histogram } from '../stack/counters';
import { addChanging, addFamily, type Labels, type Line, seriesName } from './families';
import { HISTOGRAMS, type HistogramSpec, METRICS, OTHERS, type OtherSpec } from './names';
import type { Layer } from '../sandbox/layer';
import { LAYER_NAMES } from '../sandbox/layer';
import { addProcessMetrics } from './process';

/** A forwarding rule, and what it has done. */
interface CountedRule {
  readonly protocol: string;
  /** As it was given. */
  readonly spec: string;
  readonly listeners: number;
  readonly connections: number;
}

export interface ExporterOptions {
  /** COUNTERS Float64 elements and those of the rules, shared with the data plane. */
  readonly counters: SharedArrayBuffer;
  /** Is a front-end connected at this moment? */
  readonly guestConnected: () => boolean;
  readonly version: string;
  /** What the sandbox consists of at this moment. */
  readonly layers?: () => readonly Layer[];
  /** The user's forwarding rules of this moment. Default: there never are any. */
  readonly rules?: () => readonly NumberedRule[];
  /** Those that lead from a namespace to the host, at this moment. Default: there is no namespace. */
  readonly outward?: () => readonly CountedRule[];
  /** Of `--label`. Default: none. */
  readonly labels?: Labels;
  /** What the rules of the policy have decided, at this moment; none: there is no policy. */
  readonly verdicts?: () => readonly { readonly rule: string; readonly verdict: string; readonly count: number }[];
  /** CLOCK_MONOTONIC in µs; the tests' own. */
  readonly nowUs?: () => number;
}

function labelsOf(names: readonly string[], values: readonly string[]): Labels {
  return Object.fromEntries(names.map((label, i) => [label, values[i]]));
}

/** Buckets are counted one by one, and shown cumulatively. */
function histogramLines(
  counters: Counters,
  spec: HistogramSpec,
  { at, shift, buckets }: Histogram,
  labels: Labels,
): Line[] {
  const { name, unit } = spec;
  const count = (upTo: number): number => {
    let sum = 0;
    for (let i = 0; i <= upTo; i++) sum += counters[at + 1 + i];
    return sum;
  };
  const lines: Line[] = [];
  for (let i = 0; i <= buckets; i++) {
    // Powers of two of microseconds have few digits, which floating point does not spoil.
    const le = i === buckets ? '+Inf' : String(Number((2 ** (shift + i) * unit).toPrecision(12)));
    lines.push({ name: seriesName(`${name}_bucket`, { ...labels, le }), read: () => count(i) });
  }
  lines.push({ name: seriesName(`${name}_sum`, labels), read: () => counters[at] * unit });
  lines.push({ name: seriesName(`${name}_count`, labels), read: () => count(buckets) });
  return lines;
}

/** With the time since something began to wait, if something does. Never less than it was, whatever was read in between. */
function starvedSeconds(counters: Counters, nowUs: () => number): () => number {
  let most = 0;
  return () => {
    const since = counters[C_STARVED_SINCE];
    const us = counters[C_STARVED_US] + (since === 0 ? 0 : Math.max(0, nowUs() - since));
    most = Math.max(most, us / 1e6);
    return most;
  };
}

const monotonicUs = (): number => Number(process.hrtime.bigint() / 1000n);

/** A registry with the data plane's metrics, those of the process, and who we are. */
export function createExporter(options: ExporterOptions): Registry {
  const registry = new Registry();
  const { rules, outward, labels = {}, layers, verdicts, nowUs = monotonicUs } = options;
  if (options.counters.byteLength < countersFor(0) * Float64Array.BYTES_PER_ELEMENT) {
    throw new RangeError('the counters do not fit into their buffer');
  }
  const counters: Counters = new Float64Array(options.counters);
  const add = ({ name, kind, help }: OtherSpec, lines: readonly { labels?: Labels; read: () => number }[]): void => {
    addFamily(
      registry,
      { name, help, type: kind },
      lines.map((line) => ({ name: seriesName(name, line.labels ?? {}), read: line.read })),
    );
  };
  for (const spec of METRICS) {
    const lines = spec.series.map(({ index, values }) => ({
      labels: labelsOf(spec.labels, values),
      read: () => counters[index],
    }));
    add(spec, lines);
  }
  add(OTHERS.starved, [{ read: starvedSeconds(counters, nowUs) }]);
  for (const spec of HISTOGRAMS) {
    const lines = spec.series.flatMap(({ histogram, values }) =>
      histogramLines(counters, spec, histogram, labelsOf(spec.labels, values)),
    );
    addFamily(registry, { name: spec.name, help: spec.help, type: 'histogram' }, lines);
  }
  const addRules = (list: () => readonly CountedRule[], listeners: OtherSpec, connections: OtherSpec): void => {
    const ofRules = ({ name, help, kind }: OtherSpec, read: (rule: CountedRule) => number): void => {
      addChanging(registry, { name, help, type: kind }, () =>
        list().map((rule) => ({
          name: seriesName(name, { protocol: rule.protocol, rule: rule.spec }),
          value: read(rule),
        })),
      );
    };
    ofRules(listeners, (rule) => rule.listeners);
    ofRules(connections, (rule) => rule.connections);
  };
  if (rules !== undefined) {
    const counted = ({ rule, number }: NumberedRule): CountedRule => ({
      ...rule,
      connections: counters[C_RULES + number],
    });
    addRules(() => rules().map(counted), OTHERS.listeners, OTHERS.forwarded);
  }
  if (outward !== undefined) addRules(outward, OTHERS.outwardListeners, OTHERS.outward);
  if (verdicts !== undefined) {
    const { name, kind, help } = OTHERS.verdicts;
    addChanging(registry, { name, help, type: kind }, () =>
      verdicts().map(({ rule, verdict, count }) => ({ name: seriesName(name, { rule, verdict }), value: count })),
    );
  }
  add(OTHERS.connected, [{ read: () => (options.guestConnected() ? 1 : 0) }]);
  if (layers !== undefined) {
    const isOn = (name: string): boolean => layers().some((layer) => layer.name === name && layer.state === 'on');
    add(
      OTHERS.layers,
      LAYER_NAMES.map((layer) => ({ labels: { layer }, read: () => (isOn(layer) ? 1 : 0) })),
    );
  }
  const { version } = options;
  add(OTHERS.build, [{ labels: { version, node: process.version }, read: () => 1 }]);
  add(OTHERS.info, [{ labels, read: () => 1 }]);
  addProcessMetrics(registry);
  return registry;
}
