/**
 * `npm run bench -- --guests 50`: many guests on one host, each with a service of its own and bench/bare as its guest. What
 * one costs when it is idle, how long it takes until all listen that are started at once, and what a quiet guest notices of
 * a noisy one. Prints Markdown; `--write FILE` puts it between the marks of a document (docs/sizing.md).
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { ResultFields } from '../../test/support/world/guest';
import { ManagedProcess } from '../../test/support/world/processes';
import { OURS } from '../macro/backend';
import { startBare, type BareGuest } from '../macro/bare';
import { Lab } from '../macro/lab';
import { summarize } from '../macro/statistics';
import { activityOf, descriptorsOf, listeningAmong, memoryOf, processesBy, threadsOf } from './probes';

export class GuestsUsageError extends Error {}

const MTU = 65520;
const START_MS = 180_000;
const LOOK_MS = 20;
const WARM_SECONDS = 0.3;
const MIB = 1 << 20;
export const BEGIN = '<!-- measured: npm run bench -- --guests N --write docs/sizing.md -->';
export const END = '<!-- end of what was measured -->';

export const GUESTS_HELP = `Usage: npm run bench -- --guests N [OPTION]...

  --guests N     N services, each with a guest of bench/bare
  --seconds N    how long idle services are looked at (default 20), and a fifth of that how long a transaction case runs
  --rounds N     rounds of a quiet guest without and with a noisy one (default 3)
  --write FILE   also writes the result between the marks of this document
`;

export interface GuestsOptions {
  readonly guests: number;
  readonly seconds: number;
  readonly rounds: number;
  readonly write: string | null;
}

/** @throws GuestsUsageError */
export function parseGuestsOptions(argv: readonly string[]): GuestsOptions {
  const whole = (name: string, text: string, least: number, most: number): number => {
    const value = Number(text);
    if (!/^[0-9]+$/.test(text) || value < least || value > most)
      throw new GuestsUsageError(`--${name} ${text}: give a whole number from ${least} to ${most}`);
    return value;
  };
  const text = { type: 'string' } as const;
  try {
    const { values } = parseArgs({
      args: [...argv],
      options: { guests: text, seconds: text, rounds: text, write: text },
    });
    return {
      guests: whole('guests', values.guests ?? '50', 2, 500),
      seconds: whole('seconds', values.seconds ?? '20', 1, 600),
      rounds: whole('rounds', values.rounds ?? '3', 1, 100),
      write: values.write ?? null,
    };
  } catch (error) {
    throw new GuestsUsageError(error instanceof Error ? error.message : String(error));
  }
}

interface Started {
  readonly process: ManagedProcess;
  readonly path: string;
  readonly mark: string;
}

/** Without what the caller's shell says to Node: a service has a clean environment. */
const CLEAN = ['env', '-u', 'NODE_EXTRA_CA_CERTS', '-u', 'NODE_OPTIONS'];

function launch(lab: Lab, name: string): Started {
  const path = `${lab.scratch}/${name}`;
  const mark = `BENCH_SOCKET=${path}`;
  const argv = [
    ...CLEAN,
    mark,
    ...OURS.argv,
    '--vhost-user',
    '--foreground',
    '-q',
    '--mtu',
    String(MTU),
    '--socket',
    path,
  ];
  return { process: new ManagedProcess(name, lab.world.inHost(argv)), path, mark };
}

/** Starts them at once. Settles with the ms after which each listened, in the order in which they did. */
async function startAll(lab: Lab, names: readonly string[]): Promise<{ started: Started[]; listened: number[] }> {
  const began = performance.now();
  const started = names.map((name) => launch(lab, name));
  const paths = new Set(started.map(({ path }) => path));
  const listened: number[] = [];
  while (listened.length < names.length) {
    const ended = started.find((one) => one.process.exitStatus !== null);
    if (ended !== undefined) throw new Error(`${ended.process.name} ended:\n${ended.process.tail()}`);
    const ms = performance.now() - began;
    if (ms > START_MS) throw new Error(`${names.length - listened.length} services do not listen after ${START_MS} ms`);
    const now = listeningAmong(lab.hostPid, paths).size;
    while (listened.length < now) listened.push(ms);
    await sleep(LOOK_MS);
  }
  return { started, listened };
}

const client = (guest: BareGuest, command: string, result: string, seconds: number): Promise<ResultFields> =>
  guest.client({ client: command, result, seconds, timeoutMs: 1000 * seconds + 60_000 });

/** Keeps a guest at a bulk transfer until told to stop. Settles with its Gbit/s. */
function noiseOf(guest: BareGuest, verb: 'down' | 'up', target: string): () => Promise<number> {
  let stopped = false;
  const run = async (): Promise<number> => {
    let bytes = 0;
    let seconds = 0;
    while (!stopped) {
      const fields = await client(guest, `${verb} ${target} 1 4`, 'bulk', 1);
      bytes += Number(fields.bytes);
      seconds += Number(fields.seconds);
    }
    return (8 * bytes) / seconds / 1e9;
  };
  const running = run();
  running.catch(() => undefined); // awaited when it is stopped
  return () => {
    stopped = true;
    return running;
  };
}

interface Latency {
  readonly p50: number;
  readonly p99: number;
}

const text = (values: readonly number[], digits = 1): string => {
  const found = summarize(values);
  return found === null
    ? '–'
    : `${found.median.toFixed(digits)} (${found.least.toFixed(digits)} to ${found.most.toFixed(digits)})`;
};

const row = (...cells: (string | number)[]): string => `| ${cells.join(' | ')} |`;

class Bench {
  private readonly lines: string[] = [];
  private readonly lab: Lab;
  private readonly options: GuestsOptions;

  constructor(lab: Lab, options: GuestsOptions) {
    this.lab = lab;
    this.options = options;
  }

  async run(): Promise<string> {
    const { lab, options } = this;
    const load = loadavg()[0].toFixed(1);
    const alone = await this.startOne();
    const names = Array.from({ length: options.guests }, (_, i) => `g${i}`);
    const { started, listened } = await startAll(lab, names);
    const guests: BareGuest[] = [];
    try {
      this.say(
        `${cpus()[0].model}, ${cpus().length} processors, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, Linux ${release()}, Node`,
        `${process.version}; the load average before was ${load} (what other programs took). \`npm run bench -- --guests ${options.guests}\`.`,
        '',
        row('start', 'ms'),
        row('---', '--:'),
        row('one service, until it listens (median of 3)', summarize(alone)?.median.toFixed(0) ?? ''),
        row(`${options.guests} started at once, until all listen`, listened[listened.length - 1].toFixed(0)),
        '',
      );
      const idle = await this.costs(started, 'no guest');
      for (const { path } of started) {
        const driver = { interrupts: 'eventfd', features: 'all', ring: 256, mtu: MTU } as const;
        guests.push(await startBare(lab.bare ?? '', path, driver));
      }
      // Each has done something: compiled code and buffers are there.
      for (const guest of guests) await client(guest, `rr ${lab.target(4)} ${WARM_SECONDS} 1`, 'transactions', 1);
      const warm = await this.costs(started, 'a guest that is idle again');
      const head = [
        'each service',
        'memory of its own, MiB',
        'its part of shared files, MiB',
        'descriptors',
        'threads',
      ];
      this.say(
        row(...head, 'processor, ms a second', 'wake-ups a second'),
        row('---', ...Array<string>(6).fill('--:')),
        idle,
        warm,
        '',
      );
      await this.noise(guests);
    } finally {
      for (const guest of guests) await guest.powerOff();
      for (const one of started) await one.process.stop();
    }
    return this.lines.join('\n');
  }

  private say(...lines: string[]): void {
    this.lines.push(...lines);
    process.stderr.write(`${lines.join('\n')}\n`);
  }

  private async startOne(): Promise<number[]> {
    const times: number[] = [];
    for (let i = 0; i < 3; i++) {
      const { started, listened } = await startAll(this.lab, [`alone${i}`]);
      times.push(listened[0]);
      await started[0].process.stop();
    }
    return times;
  }

  /** A line of the table: medians of all services, looked at while they do nothing. */
  private async costs(started: readonly Started[], title: string): Promise<string> {
    const { seconds } = this.options;
    const by = processesBy(started.map(({ mark }) => mark));
    const all = started.map(({ mark }) => by.get(mark) ?? []);
    // What came before is over, and heaps have been tidied up.
    await sleep(10_000);
    const before = all.map(activityOf);
    const began = performance.now();
    await sleep(1000 * seconds);
    const took = (performance.now() - began) / 1000;
    const after = all.map(activityOf);
    const memory = all.map(memoryOf);
    const cpu = after.map((now, i) => (now.cpuNs - before[i].cpuNs) / 1e6 / took);
    const sleeps = after.map((now, i) => (now.sleeps - before[i].sleeps) / took);
    return row(
      title,
      text(memory.map(({ anonymous }) => anonymous / MIB)),
      text(memory.map(({ files }) => files / MIB)),
      text(all.map(descriptorsOf), 0),
      text(all.map(threadsOf), 0),
      text(cpu, 2),
      text(sleeps, 2),
    );
  }

  /** A quiet guest's transactions without and with a noisy one, in turn. */
  private async noise(guests: readonly BareGuest[]): Promise<void> {
    const { rounds, seconds } = this.options;
    const [quiet, noisy] = guests;
    const target = this.lab.target(4);
    const each = Math.max(1, seconds / 5);
    const latency = async (): Promise<Latency> => {
      const fields = await client(quiet, `rr ${target} ${each} 1`, 'transactions', each);
      return { p50: Number(fields.p50), p99: Number(fields.p99) };
    };
    const without: Latency[] = [];
    const beside = { down: [] as Latency[], up: [] as Latency[] };
    const rates = { down: [] as number[], up: [] as number[] };
    for (let round = 0; round < rounds; round++) {
      without.push(await latency());
      for (const verb of ['down', 'up'] as const) {
        const stop = noiseOf(noisy, verb, target);
        await sleep(500);
        beside[verb].push(await latency());
        rates[verb].push(await stop());
      }
    }
    const line = (title: string, values: readonly Latency[], noise: readonly number[]): string =>
      row(
        title,
        text(values.map(({ p50 }) => p50)),
        text(values.map(({ p99 }) => p99)),
        noise.length === 0 ? '–' : text(noise),
      );
    this.say(
      row(
        'transactions of 1 byte, a quiet guest',
        'half of them within µs',
        '99 % within µs',
        'the noisy guest, Gbit/s',
      ),
      row('---', '--:', '--:', '--:'),
      line('all others idle', without, []),
      line('one downloads, 4 connections', beside.down, rates.down),
      line('one uploads, 4 connections', beside.up, rates.up),
    );
  }
}

/** The document with `result` between its marks. @throws Error if they are not there. */
export function withResult(document: string, result: string): string {
  const [begin, end] = [document.indexOf(BEGIN), document.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`the document has no place for it: ${BEGIN} … ${END}`);
  return `${document.slice(0, begin)}${BEGIN}\n\n${result}\n\n${document.slice(end)}`;
}

export async function benchGuests(options: GuestsOptions): Promise<number> {
  const lab = await Lab.open('bare', null);
  try {
    const result = await new Bench(lab, options).run();
    process.stdout.write(`${result}\n`);
    if (options.write === null) return 0;
    writeFileSync(options.write, withResult(readFileSync(options.write, 'utf8'), result));
    execFileSync('npx', ['prettier', '--write', options.write]);
    return 0;
  } finally {
    await lab.close();
  }
}
