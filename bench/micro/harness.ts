/**
 * Nanoseconds of small loops: warm up, several samples, the median. For comparing versions of one thing, nothing more. The
 * loops here are of a few nanoseconds: a harness that reads the clock around each call would measure the clock.
 */
import { summarize } from '../macro/statistics';

const WARM_UP_MS = 150;
const SAMPLE_MS = 60;
const SAMPLES = 9;

export interface Loop {
  readonly name: string;
  /** Does the thing `times` times. Gives back something that depends on all of it, so that none is optimised away. */
  readonly run: (times: number) => number;
}

export interface Timing {
  readonly name: string;
  /** Nanoseconds for once. */
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

/** Where results go, so that they are used. */
let sink = 0;

export function time({ name, run }: Loop): Timing {
  let times = 64;
  const started = performance.now();
  let took = 0;
  // Until it is compiled, and so many at a time that a sample takes as long as it shall.
  while (performance.now() - started < WARM_UP_MS || took < SAMPLE_MS / 2) {
    const before = performance.now();
    sink += run(times);
    took = performance.now() - before;
    if (took < SAMPLE_MS) times *= 2;
  }
  const samples: number[] = [];
  for (let i = 0; i < SAMPLES; i++) {
    const before = performance.now();
    sink += run(times);
    samples.push(((performance.now() - before) * 1e6) / times);
  }
  const summary = summarize(samples);
  if (summary === null || !Number.isFinite(sink)) throw new Error(`${name}: nothing measured`);
  return { name, ...summary };
}
