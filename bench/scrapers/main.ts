/**
 * `npm run bench:scrapers`: what a guest's download keeps under 100 scrapes a second and 1000 clients that connect to the
 * metrics and say nothing, as a Markdown table. On a machine with few processors the scrapers themselves take time from
 * guest, service and peer, which says nothing about the service. So each round has three phases, twice, in an order and
 * then in the opposite one:
 *
 *   without   no scraper
 *   stand-in  the same scrapers, but they scrape another process, which answers with the same bytes and makes nothing
 *   service   the scrapers scrape the service
 *
 * The share of the service is what the download has in phase `service` of what it has in phase `stand-in`, the median of all
 * rounds; docs/security.md promises 0.97. The share of all is that of `service` and `without`. Beside them: the time on a
 * processor that the service's control thread takes for a page, everything that the scrapers cause counted.
 *
 * `--seconds N` for each phase (default 1.5), `--rounds N` (default 15), `--scrapes N` a second (100), `--idle N` (1000), `--unix` for
 * a UNIX socket. Needs network namespaces; the guest and the scrapers are processes of their own.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { spawn, type ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { setUpBench, type Bench } from '../../test/e2e/support';
import { BLOB, GoodFlow } from '../../test/support/guest/good-flow';
import { Guest } from '../../test/support/guest/guest';
import { whyNoNamespaces } from '../../test/support/world/host-world';
import { answerText } from '../../src/metrics/http';
import { loadNative } from '../../src/native';
import { median } from './figures';

const PROMISED = 0.97;
const HOOK = join(__dirname, '..', '..', 'scripts', 'lib', 'ts-hook.cjs');
const PHASES = ['without', 'stand-in', 'service', 'service', 'stand-in', 'without'] as const;
type Phase = (typeof PHASES)[number];

function numberOf(name: string, text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new Error(`--${name} ${text}: give a number above 0`);
  return value;
}

/** A program of this directory that is spoken to by lines. */
class Program {
  private readonly child: ChildProcess;
  private readonly waiting: ((line: string) => void)[] = [];

  constructor(argv: readonly string[]) {
    this.child = spawn(argv[0], argv.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] });
    if (this.child.stdout === null) throw new Error('no standard output');
    createInterface({ input: this.child.stdout }).on('line', (line) => this.waiting.shift()?.(line));
  }

  /** Writes, and settles with the next line of the answer. */
  ask(text: string, isAll = false): Promise<string> {
    const answer = new Promise<string>((resolve) => this.waiting.push(resolve));
    this.child.stdin?.write(text);
    if (isAll) this.child.stdin?.end();
    return answer;
  }

  end(): void {
    this.child.kill('SIGKILL');
  }
}

const program = (bench: Bench, file: string, ...args: string[]): Program =>
  new Program(bench.world.inHost([process.execPath, '--require', HOOK, join(__dirname, file), ...args]));

/** Time on a processor so far, ms, of the first thread of each process of a group: of a service's, its control thread. */
function controlMs(group: number): number {
  let ns = 0;
  for (const name of readdirSync('/proc').filter((each) => /^\d+$/.test(each))) {
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      const [, , groupOf] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      if (Number(groupOf) === group) ns += Number(readFileSync(`/proc/${name}/schedstat`, 'utf8').split(' ')[0]);
    } catch {
      // It has ended.
    }
  }
  return ns / 1e6;
}

/** The answer to a scrape as it goes over the wire. */
async function answerOf(bench: Bench): Promise<string> {
  const type = 'text/plain; version=0.0.4; charset=utf-8';
  return answerText({ status: '200 OK', type, body: await bench.service.metricsPage() }, false);
}

interface Sample {
  readonly rate: number;
  readonly controlMs: number;
  readonly seconds: number;
  readonly pages: number;
  /** Of scrapes, ms. */
  readonly median: number;
  readonly longest: number;
}

interface Parts {
  readonly bench: Bench;
  readonly good: GoodFlow;
  readonly scrapers: Program;
  readonly places: Readonly<Record<Exclude<Phase, 'without'>, string>>;
  readonly seconds: number;
}

async function measure({ bench, good, scrapers, places, seconds }: Parts, phase: Phase): Promise<Sample> {
  if (phase !== 'without') await scrapers.ask(`go ${places[phase]}\n`);
  const { pid } = bench.service.process;
  const [began, before] = [performance.now(), controlMs(pid)];
  const rate = await good.rate(seconds);
  const took = { rate, controlMs: controlMs(pid) - before, seconds: (performance.now() - began) / 1000 };
  const text = phase === 'without' ? '0 0 0' : await scrapers.ask('halt\n');
  const [pages, middle, longest] = text.split(' ').map(Number);
  return { ...took, pages, median: middle, longest };
}

/** The two samples of a phase as one. */
function joined(samples: readonly Sample[]): Sample {
  const mean = (of: (sample: Sample) => number): number => samples.reduce((sum, one) => sum + of(one), 0) / 2;
  return {
    rate: mean((one) => one.rate),
    controlMs: mean((one) => one.controlMs),
    seconds: mean((one) => one.seconds),
    pages: mean((one) => one.pages),
    median: mean((one) => one.median),
    longest: Math.max(...samples.map((one) => one.longest)),
  };
}

async function run(parts: Parts, rounds: number): Promise<number> {
  console.log(
    '| round | without, MB/s | stand-in, MB/s | service, MB/s | pages/s | of stand-in | of without | ms a page |',
  );
  console.log('| --: | --: | --: | --: | --: | --: | --: | --: |');
  const all = { ofStandIn: [] as number[], ofWithout: [] as number[], cost: [] as number[], times: [] as number[] };
  let longest = 0;
  for (let round = 1; round <= rounds; round++) {
    const samples: Record<Phase, Sample[]> = { without: [], 'stand-in': [], service: [] };
    for (const phase of PHASES) samples[phase].push(await measure(parts, phase));
    const [without, standIn, service] = [samples.without, samples['stand-in'], samples.service].map(joined);
    const idle = (without.controlMs / without.seconds) * service.seconds;
    const cost = (service.controlMs - idle) / service.pages;
    all.ofStandIn.push(service.rate / standIn.rate);
    all.ofWithout.push(service.rate / without.rate);
    all.cost.push(cost);
    all.times.push(service.median);
    longest = Math.max(longest, service.longest);
    const rates = [without, standIn, service].map(({ rate }) => rate.toFixed(0));
    const shares = [service.rate / standIn.rate, service.rate / without.rate, cost].map((value) => value.toFixed(3));
    console.log(`| ${[round, ...rates, (service.pages / service.seconds).toFixed(0), ...shares].join(' | ')} |`);
  }
  console.log(`\na scrape took ${median(all.times).toFixed(1)} ms (median), ${longest.toFixed(0)} ms at the most`);
  console.log(`time of the control thread a page: ${median(all.cost).toFixed(2)} ms (median)`);
  console.log(`share of all that goes on: ${median(all.ofWithout).toFixed(3)} (median)`);
  return median(all.ofStandIn);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '1.5' },
      rounds: { type: 'string', default: '15' },
      scrapes: { type: 'string', default: '100' },
      idle: { type: 'string', default: '1000' },
      unix: { type: 'boolean', default: false },
    },
  });
  const seconds = numberOf('seconds', values.seconds);
  const rounds = numberOf('rounds', values.rounds);
  const missing = whyNoNamespaces();
  if (missing !== null) throw new Error(missing);
  const bench = await setUpBench();
  const programs: Program[] = [];
  try {
    const answer = await answerOf(bench);
    const socket = join(bench.scratch, 'metrics.sock');
    if (values.unix) {
      // The last --metrics counts.
      await bench.service.stop();
      await bench.restartWith(['--metrics', `unix:${socket}`]);
    }
    const standIn = program(bench, 'stand-in.ts', values.unix ? join(bench.scratch, 'stand-in.sock') : '0');
    const scrapers = program(bench, 'client.ts', values.scrapes, values.idle);
    programs.push(standIn, scrapers);
    const [, there] = (await standIn.ask(answer, true)).split(' ');
    const places = { service: values.unix ? socket : String(bench.service.metricsPort), 'stand-in': there };
    await bench.world.remote.call('setBlob', { bytes: BLOB, seed: 1 });
    const guest = await Guest.start(loadNative(), { socket: bench.socketPath, tcp: { timeWaitMs: 20 } });
    await guest.dhcp();
    const good = new GoodFlow(guest, bench.world.remote.ports.blob);
    const running = good.run();
    const parts = { bench, good, scrapers, places, seconds };
    for (const phase of PHASES.slice(0, 3)) await measure(parts, phase); // to warm up
    const share = await run(parts, rounds);
    good.stop();
    await running;
    await guest.stop();
    const verdict = share >= PROMISED ? 'met' : 'MISSED';
    console.log(`share of the service: ${share.toFixed(3)} (median; promised: ${PROMISED}) ${verdict}`);
    if (share < PROMISED) process.exitCode = 1;
  } finally {
    for (const one of programs) one.end();
    await bench.destroy();
  }
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
