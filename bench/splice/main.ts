/**
 * `npm run bench:splice -- [--peer PASTA]`: what passes between the loopbacks of a host and a namespace, by our pasta and by
 * another, as a Markdown table for docs/pasta.md: the median of `--rounds N` (default 5) rounds of `--seconds N` (default 2)
 * each, and the ratio, round by round. Each has a namespace of its own; a cell is measured with one right after the
 * other. `--cases TEXT`: those with the text in their names. Needs namespaces and a compiler.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { PASTA } from '../../test/support/pasta';
import { HostWorld, whyNoNamespaces } from '../../test/support/world/host-world';
import { command, dieWithParent, ManagedProcess } from '../../test/support/world/processes';
import { compileBenchNet } from '../macro/lab';
import { summarize } from '../macro/statistics';

interface Case {
  readonly name: string;
  /** Of bench-net, behind the address and port; {s}: the seconds. */
  readonly client: readonly [verb: string, ...rest: string[]];
  readonly unit: 'Gbit/s' | '1/s';
}

const CASES: readonly Case[] = [
  { name: 'TCP, 1 stream', client: ['up', '{s}', '1'], unit: 'Gbit/s' },
  { name: 'TCP, 8 streams', client: ['up', '{s}', '8'], unit: 'Gbit/s' },
  { name: 'TCP, 1 stream back', client: ['down', '{s}', '1'], unit: 'Gbit/s' },
  { name: 'tcp_rr, 1 byte', client: ['rr', '{s}', '1'], unit: '1/s' },
  { name: 'tcp_crr', client: ['crr', '{s}'], unit: '1/s' },
  { name: 'UDP, 1472 bytes', client: ['udp-up', '{s}', '1472'], unit: 'Gbit/s' },
  { name: 'UDP, 16356 bytes', client: ['udp-up', '{s}', '16356'], unit: 'Gbit/s' },
  { name: 'udp_rr, 1 byte', client: ['udp-rr', '{s}', '1'], unit: '1/s' },
];

const TICKS_PER_SECOND = 100;
/** From a contender's port inward to its port outward. */
const OUTWARD = 5;

/** One pasta and its namespace. */
class Contender {
  readonly name: string;
  private readonly pasta: string;
  private readonly world: HostWorld;
  private readonly port: number;
  private readonly tool: string;
  private readonly processes: ManagedProcess[] = [];
  private enter: string[] = [];

  constructor(name: string, pasta: string, world: HostWorld, port: number, tool: string) {
    this.name = name;
    this.pasta = pasta;
    this.world = world;
    this.port = port;
    this.tool = tool;
  }

  async start(): Promise<void> {
    const { world, port, tool } = this;
    const hold = ['unshare', '--user', '--map-root-user', '--net', 'sh', '-c', 'echo held; exec cat'];
    const container = this.begin('container', world.inHost(hold));
    await container.waitForLine(/^held$/, 5000);
    this.enter = ['nsenter', '--target', String(container.pid), '--user', '--net', '--preserve-credentials'];
    const [inward, outward] = [String(port), String(port + OUTWARD)];
    const ports = ['-t', inward, '-u', inward, '-T', outward, '-U', outward];
    const argv = [
      this.pasta,
      '-f',
      '-q',
      '--config-net',
      '--runas',
      '0',
      '--host-lo-to-ns-lo',
      ...ports,
      String(container.pid),
    ];
    this.begin(this.name, world.inHost(argv));
    for (const [where, listens] of [
      [this.inside([tool, 'serve', inward, inward]), inward],
      [world.inHost([tool, 'serve', outward, outward]), outward],
    ] as const) {
      await this.begin(`server ${listens}`, where).waitForLine(/^LISTENING$/, 5000);
    }
    // It is there when a connection each way comes through.
    for (const outwards of [false, true]) await this.once(outwards, ['rr', '0.1', '1'], 20);
  }

  /** Returns what was measured, and the CPU seconds of pasta's processes. */
  async measure(
    { client }: Case,
    outwards: boolean,
    seconds: number,
  ): Promise<{ value: number; cpu: number; bytes: number }> {
    const before = this.cpu();
    const words = client.map((word) => (word === '{s}' ? String(seconds) : word));
    const result = await this.once(outwards, words, 1);
    const cpu = this.cpu() - before;
    const field = (name: string): number => Number(new RegExp(`\\b${name}=([0-9.]+)`).exec(result)?.[1] ?? NaN);
    const datagrams = field('received');
    const bytes = Number.isNaN(datagrams) ? field('bytes') : datagrams * Number(client[client.length - 1]);
    const transactions = field('count');
    const took = field('seconds');
    return Number.isNaN(bytes)
      ? { value: transactions / took, cpu, bytes: NaN }
      : { value: (bytes * 8) / took / 1e9, cpu, bytes };
  }

  async stop(): Promise<void> {
    await Promise.all(this.processes.map((one) => one.stop('SIGKILL')));
  }

  private async once(outwards: boolean, [verb, ...rest]: readonly string[], tries: number): Promise<string> {
    const argv = [this.tool, verb, '127.0.0.1', String(this.port + (outwards ? OUTWARD : 0)), ...rest];
    for (let left = tries; ; left--) {
      try {
        return await command(outwards ? this.inside(argv) : this.world.inHost(argv));
      } catch (error) {
        if (left <= 1) throw new Error(this.processes.map((one) => one.tail()).join('\n'), { cause: error });
        await new Promise((resolve) => setTimeout(resolve, 250));
      }
    }
  }

  private inside(argv: readonly string[]): string[] {
    return [...this.enter, ...dieWithParent(argv)];
  }

  private begin(name: string, argv: readonly string[]): ManagedProcess {
    const started = new ManagedProcess(name, argv);
    this.processes.push(started);
    return started;
  }

  /** CPU seconds of all processes that the pasta has: they are those with its port among their words. */
  private cpu(): number {
    let ticks = 0;
    for (const pid of readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name))) {
      try {
        const words = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0');
        const at = words.indexOf('-t');
        if (at < 0 || words[at + 1] !== String(this.port) || !words.includes('--host-lo-to-ns-lo')) continue;
        const stat = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1].split(' ');
        ticks += Number(stat[11]) + Number(stat[12]);
      } catch {
        // It has ended.
      }
    }
    return ticks / TICKS_PER_SECOND;
  }
}

interface Sample {
  readonly value: number;
  readonly cpuPerGb: number;
}

function format(samples: readonly number[], digits: number): string {
  const summary = summarize(samples.filter((value) => !Number.isNaN(value)));
  if (summary === null) return '–';
  const { median, least, most } = summary;
  return `${median.toFixed(digits)} (${least.toFixed(digits)}–${most.toFixed(digits)})`;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      peer: { type: 'string' },
      rounds: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '2' },
      cases: { type: 'string', default: '' },
    },
  });
  const missing = whyNoNamespaces();
  if (missing !== null) throw new Error(missing);
  const [rounds, seconds] = [Number(values.rounds), Number(values.seconds)];
  const dir = mkdtempSync(join(tmpdir(), 'tubetti-bench-splice-'));
  const world = await HostWorld.create(dir);
  const tool = compileBenchNet();
  const contenders = [
    new Contender('Tubetti', PASTA, world, 7401, tool),
    ...(values.peer === undefined ? [] : [new Contender('pasta', values.peer, world, 7411, tool)]),
  ];
  try {
    for (const contender of contenders) await contender.start();
    const cells = [false, true]
      .flatMap((outwards) =>
        CASES.map((one) => ({ one, outwards, name: `${one.name}, ${outwards ? '-T/-U, out' : '-t/-u, in'}` })),
      )
      .filter(({ name }) => name.includes(values.cases));
    const samples = cells.map(() => contenders.map((): Sample[] => []));
    for (let round = 0; round < rounds; round++) {
      for (const [c, { one, outwards }] of cells.entries()) {
        for (let i = 0; i < contenders.length; i++) {
          // Who is first changes.
          const at = (i + round) % contenders.length;
          const { value, cpu, bytes } = await contenders[at].measure(one, outwards, seconds);
          samples[c][at].push({ value, cpuPerGb: (cpu * 1e9) / bytes });
        }
      }
    }
    const names = contenders.map(({ name }) => name);
    const heads = [...names, ...(names.length > 1 ? ['ratio'] : []), ...names.map((name) => `${name}, CPU s/GB`)];
    console.log(`| | ${heads.join(' | ')} |\n|---|${heads.map(() => '---:').join('|')}|`);
    for (const [c, { one, name }] of cells.entries()) {
      const digits = one.unit === '1/s' ? 0 : 2;
      const columns = samples[c].map((list) =>
        format(
          list.map(({ value }) => value),
          digits,
        ),
      );
      const ratios = samples[c][0].map(({ value }, i) => value / (samples[c][1]?.[i]?.value ?? NaN));
      const cpu = samples[c].map((list) =>
        format(
          list.map(({ cpuPerGb }) => cpuPerGb),
          2,
        ),
      );
      const ratio = names.length > 1 ? [format(ratios, 2)] : [];
      console.log(`| ${name}, ${one.unit} | ${[...columns, ...ratio, ...cpu].join(' | ')} |`);
    }
  } finally {
    for (const contender of contenders) await contender.stop();
    await world.destroy();
    rmSync(dir, { recursive: true });
  }
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
});
