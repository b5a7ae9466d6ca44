/** Reads the data plane's counters at a scrape: the data plane itself knows nothing of Prometheus. */
import { Counter, Gauge, Registry } from 'prom-client';
import { type Counters, COUNTERS } from '../stack/counters';
import { METRICS, type MetricSpec } from './names';
import type { Layer } from '../sandbox/layer';
import { addProcessMetrics } from './process';

export interface ExporterOptions {
  /** COUNTERS Float64 elements, shared with the data plane. */
  readonly counters: SharedArrayBuffer;
  /** Is a front-end connected at this moment? */
  readonly guestConnected: () => boolean;
  readonly version: string;
  /** What the sandbox consists of at this moment. */
  readonly layers?: () => readonly Layer[];
}

function labelsOf(spec: MetricSpec, values: readonly string[]): Record<string, string> {
  return Object.fromEntries(spec.labels.map((label, i) => [label, values[i]]));
}

function addMetric(registry: Registry, counters: Counters, spec: MetricSpec): void {
  const base = { name: spec.name, help: spec.help, labelNames: [...spec.labels], registers: [registry] };
  const series = spec.series.map(({ index, values }) => ({ index, labels: labelsOf(spec, values) }));
  if (spec.kind === 'gauge') {
    new Gauge({
      ...base,
      collect() {
        for (const { index, labels } of series) this.set(labels, counters[index]);
      },
    });
    return;
  }
  new Counter({
    ...base,
    collect() {
      // A prom-client counter can only be added to; the values are kept elsewhere, so it is reset for each scrape.
      this.reset();
      for (const { index, labels } of series) this.inc(labels, counters[index]);
    },
  });
}

/** A registry with the data plane's metrics, those of the process, and who we are. */
export function createExporter(options: ExporterOptions): Registry {
  const registry = new Registry();
  if (options.counters.byteLength < COUNTERS * Float64Array.BYTES_PER_ELEMENT) {
    throw new RangeError('the counters do not fit into their buffer');
  }
  const counters: Counters = new Float64Array(options.counters);
  for (const spec of METRICS) addMetric(registry, counters, spec);
  new Gauge({
    name: 'tubetti_guest_connected',
    help: 'Whether a front-end is connected (1) or not (0).',
    registers: [registry],
    collect() {
      this.set(options.guestConnected() ? 1 : 0);
    },
  });
  const { layers } = options;
  if (layers !== undefined) {
    new Gauge({
      name: 'tubetti_sandbox_layer',
      help: 'Whether a layer of the sandbox is in force (1) or not (0).',
      labelNames: ['layer'],
      registers: [registry],
      collect() {
        for (const { name, state } of layers()) this.set({ layer: name }, state === 'on' ? 1 : 0);
      },
    });
  }
  new Gauge({
    name: 'tubetti_build_info',
    help: 'Always 1; the labels name the running version.',
    labelNames: ['version', 'node'],
    registers: [registry],
  }).set({ version: options.version, node: process.version }, 1);
  addProcessMetrics(registry);
  return registry;
}
