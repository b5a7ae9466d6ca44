/**
 * The fuzzer of the running service: hostile front-ends and guests one after the other, a good guest in between.
 *
 * After each sequence a good guest must be served within a second; at the end the service must be the same process, with
 * the descriptors, mappings and memory it had, and must not have logged an internal error or replaced its data plane.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { loadNative, type Native } from '../../src/native';
import { Guest } from '../support/guest/guest';
import { withTimeout } from '../support/guest/connection';
import { GATEWAY_4 } from '../support/world/host-world';
import { setUpBench, type Bench } from '../e2e/support';
import { GUEST_MAC } from './frames';
import { MemoryWriter } from './memory-writer';
import { Seeded } from './random';
import { SEQUENCES, type Target } from './sequences';
import { Tally, quantile } from './tally';

export interface FuzzOptions {
  readonly minutes: number;
  /** Of the first sequence; the next ones follow from it. */
  readonly seed: number;
  /** Kinds of sequences (SEQUENCES), in turn. */
  readonly kinds: readonly string[];
  /** Ends after this many sequences. Default: no limit. */
  readonly sequences?: number;
  /** Sequences before the first look at what the service holds. Default: none but some good guests. */
  readonly warmUp?: number;
  readonly log: (line: string) => void;
}

/** What the service holds. */
export interface Holding {
  readonly descriptors: number;
  readonly mappings: number;
  readonly residentMiB: number;
}

export interface FuzzReport {
  readonly tally: Tally;
  readonly before: Holding;
  readonly after: Holding;
  readonly seconds: number;
}

const SERVED_LIMIT_MS = 1000;
const CONNECT_MS = 20_000;
const SEQUENCE_MS = 120_000;
/** Complaints of the service about itself. */
const OWN_FAULTS = /internal error|data plane failed|keeps failing|uncaught|unhandled|AddressSanitizer|runtime error/i;
/** Room for what is cached and collected later, over what the service held after its first guests. */
const SPARE_DESCRIPTORS = 8;
// Regions that were taken back wait for a collection, 256 of them at most (addon/memory.cc).
const SPARE_MAPPINGS = 2 * 256;
const SPARE_MIB = 64;
const SETTLE_MS = 10_000;
const SETTLE_STEP_MS = 100;

function holding(pid: number): Holding {
  const status = readFileSync(`/proc/${String(pid)}/status`, 'utf8');
  return {
    descriptors: readdirSync(`/proc/${String(pid)}/fd`).length,
    mappings: readFileSync(`/proc/${String(pid)}/maps`, 'utf8').split('\n').length,
    residentMiB: Math.round(Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]) / 1024),
  };
}

/** Connects as a front-end with `reconnect` does: again, while the service turns it away for the one before it. */
async function startGuest(native: Native, socket: string): Promise<Guest> {
  const end = performance.now() + CONNECT_MS;
  for (;;) {
    try {
      return await Guest.start(native, { socket, mac: GUEST_MAC });
    } catch (error) {
      if (performance.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

/** A guest that breaks no rule: its address, an echo, its end. Returns how long that took, in ms. */
async function serveGoodGuest({ native, socket }: Target): Promise<number> {
  const begun = performance.now();
  const guest = await startGuest(native, socket);
  try {
    await guest.dhcp();
    await guest.ping(GATEWAY_4);
    const took = performance.now() - begun;
    const [violation] = guest.violations;
    if (violation !== undefined) throw new Error(violation);
    return took;
  } finally {
    await guest.stop();
  }
}

async function oneSequence(target: Target, kind: string, seed: number): Promise<void> {
  const { tally } = target;
  const where = `--kinds ${kind} --seed ${String(seed)} --sequences 1`;
  tally.sequences[kind] = (tally.sequences[kind] ?? 0) + 1;
  try {
    await withTimeout(SEQUENCES[kind](target, new Seeded(seed)), SEQUENCE_MS, 'the end of the sequence');
  } catch (error) {
    // A front-end whose session is closed under its hands fails; that is no find.
    if (error instanceof RangeError || error instanceof TypeError) tally.finds.push(`${where}: ${String(error)}`);
  }
  try {
    const ms = await withTimeout(serveGoodGuest(target), 30_000, 'the good guest');
    tally.servedMs.push(ms);
    if (ms > SERVED_LIMIT_MS) tally.finds.push(`${where}: the next guest waited ${ms.toFixed(0)} ms`);
  } catch (error) {
    tally.finds.push(`${where}: the next guest was not served: ${String(error)}`);
  }
}

function compare(before: Holding, after: Holding, finds: string[]): void {
  const over = (name: keyof Holding, spare: number): void => {
    if (after[name] > before[name] + spare) finds.push(`${name}: ${before[name]} before, ${after[name]} after`);
  };
  over('descriptors', SPARE_DESCRIPTORS);
  over('mappings', SPARE_MAPPINGS);
  over('residentMiB', SPARE_MIB);
}

/** What the service holds when it holds no more than before, or after ten seconds. */
async function settled(pid: number, before: Holding): Promise<Holding> {
  let now = holding(pid);
  for (let ms = 0; ms < SETTLE_MS && now.descriptors > before.descriptors; ms += SETTLE_STEP_MS) {
    await new Promise((resolve) => setTimeout(resolve, SETTLE_STEP_MS));
    now = holding(pid);
  }
  return now;
}

async function run(bench: Bench, target: Target, options: FuzzOptions): Promise<FuzzReport> {
  const { tally } = target;
  const { pid } = bench.service.process;
  // Memory and code that the first guests cost are no leak.
  for (let i = 0; i < 5; i++) await serveGoodGuest(target);
  for (let n = 0; n < (options.warmUp ?? 0); n++) {
    await oneSequence(target, options.kinds[n % options.kinds.length], options.seed - 1 - n);
  }
  const before = holding(pid);
  const begun = performance.now();
  const end = begun + options.minutes * 60_000;
  for (let n = 0; n < (options.sequences ?? Infinity) && performance.now() < end; n++) {
    const kind = options.kinds[n % options.kinds.length];
    await oneSequence(target, kind, options.seed + n);
    if (bench.service.process.exitStatus !== null) {
      tally.finds.push(`--kinds ${kind} --seed ${String(options.seed + n)}: the service ended`);
      break;
    }
    if (n % 20 === 19) {
      const { descriptors, mappings, residentMiB } = holding(pid);
      const held = `${descriptors} descriptors, ${mappings} mappings, ${residentMiB} MiB`;
      options.log(`${tally.total.toLocaleString('en')} inputs, ${held}, ${tally.finds.length} finds`);
    }
  }
  const seconds = (performance.now() - begun) / 1000;
  const alive = bench.service.process.exitStatus === null;
  const after = alive ? await settled(pid, before) : before;
  if (alive) compare(before, after, tally.finds);
  for (const line of bench.service.process.lines) if (OWN_FAULTS.test(line)) tally.finds.push(`logged: ${line}`);
  return { tally, before, after, seconds };
}

/** Runs the sequences against a service of its own. */
export async function fuzz(options: FuzzOptions): Promise<FuzzReport> {
  const bench = await setUpBench(['-t', '2222:22', '-u', '2222:22']);
  const writer = new MemoryWriter();
  try {
    const target: Target = {
      native: loadNative(),
      socket: bench.socketPath,
      writer,
      tally: new Tally(),
      world: bench.world,
      signal: (signal) => bench.service.process.kill(signal),
    };
    return await run(bench, target, options);
  } finally {
    await writer.end();
    await bench.destroy();
  }
}

/** The report as Markdown. */
export function reportText({ tally, before, after, seconds }: FuzzReport): string {
  const number = (n: number): string => n.toLocaleString('en');
  const ms = (share: number): string => quantile(tally.servedMs, share).toFixed(0);
  const lines = [
    '| inputs | tried |',
    '| --- | --- |',
    ...Object.entries(tally.inputs).map(([kind, count]) => `| ${kind} | ${number(count)} |`),
    ...Object.entries(tally.events).map(([kind, count]) => `| ${kind} | ${number(count)} |`),
    `| all but memory writes | ${number(tally.total)} |`,
    '',
    '| the service holds | before | after |',
    '| --- | --- | --- |',
    `| descriptors | ${before.descriptors} | ${after.descriptors} |`,
    `| mappings | ${before.mappings} | ${after.mappings} |`,
    `| resident memory, MiB | ${before.residentMiB} | ${after.residentMiB} |`,
    '',
    `${Object.entries(tally.sequences)
      .map(([kind, count]) => `${number(count)} sequences of ${kind}`)
      .join(', ')} in ${seconds.toFixed(0)} s. Time until the next guest had its address and an echo: median ` +
      `${ms(0.5)} ms, 99 % ${ms(0.99)} ms, longest ${ms(1)} ms.`,
    '',
    tally.finds.length === 0 ? 'Nothing found.' : `Found ${tally.finds.length}:`,
    ...tally.finds.slice(0, 50).map((find) => `- ${find}`),
  ];
  return lines.join('\n');
}
