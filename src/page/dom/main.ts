/**
 * The page at `/` of `--metrics`: looks at the metrics once a second, at the service's status and at the flows less often,
 * and not at all while nobody can see it.
 */
import type { Samples } from '../exposition';
import { bitsPerSecond, perSecond, seconds } from '../format';
import { History } from '../history';
import { byId, say } from './elements';
import { FlowList } from './flows';
import { Plot, type PlotSpec } from './plot';
import { Refused, Service } from './service';
import { Counts, Identity } from './tables';

const METRICS_MS = 1000;
const STATUS_MS = 5000;
const FLOWS_MS = 2000;

/** Order and names as people read them. */
const PLOTS: readonly PlotSpec[] = [
  {
    name: 'throughput',
    series: [
      { name: 'bitsTo', title: 'To guest' },
      { name: 'bitsFrom', title: 'From guest' },
    ],
    format: bitsPerSecond,
    least: 1000,
  },
  {
    name: 'packets',
    series: [
      { name: 'framesTo', title: 'To guest' },
      { name: 'framesFrom', title: 'From guest' },
    ],
    format: perSecond,
    least: 10,
  },
  {
    name: 'turns',
    series: [
      { name: 'turnMedian', title: 'Median' },
      { name: 'turnTail', title: '99th percentile' },
    ],
    format: seconds,
    least: 1e-3,
  },
  {
    name: 'connects',
    series: [
      { name: 'connectMedian', title: 'Median' },
      { name: 'connectTail', title: '99th percentile' },
    ],
    format: seconds,
    least: 1e-3,
  },
];

const service = new Service();
const history = new History();
const plots = PLOTS.map((spec) => new Plot(spec, history));
const identity = new Identity();
const counts = new Counts();
const flows = new FlowList(service);
const state = byId('state', 'p');
const pause = byId('pause', 'button');

let paused = false;
/** When the service began to be silent, ms since the epoch; 0: it is not. */
let silentSince = 0;
let connected: boolean | null = null;

/** Said aloud by a screen reader, so it changes only with what it tells. */
function sayState(): void {
  const guest = connected === null ? 'Asking the service…' : connected ? 'Guest connected' : 'Waiting for a guest';
  if (silentSince > 0)
    say(state, `No answer from the service since ${new Date(silentSince).toLocaleTimeString('en-GB')}`);
  else say(state, paused ? 'Paused' : guest);
  state.className = silentSince > 0 ? 'bad' : '';
}

async function lookAtMetrics(): Promise<void> {
  let samples: Samples;
  try {
    samples = await service.metrics();
  } catch (error) {
    history.gap(Date.now());
    throw error;
  }
  history.add({ at: Date.now(), samples });
  for (const plot of plots) plot.show();
  counts.show(history);
}

async function lookAtStatus(): Promise<void> {
  const status = await service.status();
  ({ connected } = status.guest);
  identity.show(status);
}

/** Has something done every so often, one after the other, while somebody looks. */
function every(ms: number, look: () => Promise<void>): void {
  const turn = async (): Promise<void> => {
    if (!paused && !document.hidden) {
      try {
        await look();
        silentSince = 0;
      } catch (error) {
        // It answers, if not with what was asked for.
        if (!(error instanceof Refused) && silentSince === 0) silentSince = Date.now();
      }
      sayState();
    }
  };
  const loop = async (): Promise<void> => {
    for (;;) {
      const began = performance.now();
      await turn();
      await new Promise((resolve) => setTimeout(resolve, Math.max(50, ms - (performance.now() - began))));
    }
  };
  void loop();
}

pause.addEventListener('click', () => {
  paused = !paused;
  pause.setAttribute('aria-pressed', String(paused));
  if (paused) history.gap(Date.now());
  sayState();
});

document.addEventListener('visibilitychange', () => {
  if (document.hidden) history.gap(Date.now());
});

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  for (const plot of plots) plot.redraw();
});

every(STATUS_MS, lookAtStatus);
every(METRICS_MS, lookAtMetrics);
every(FLOWS_MS, () => flows.look());
