/** The bench beside peers: rounds, back-ends in turn, a table in the end. Started by scripts/bench.mjs. */
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, release, type } from 'node:os';
import { runCommand } from '../../test/support/rig/processes';
import { OURS } from './backend';
import type { Sample } from './cases';
import { Lab } from './lab';
import { HELP, OUR_NAME, UsageError, parseOptions, type BackendSpec, type Options } from './options';
import { conditionLines, document, failures, table, verdicts, type Report } from './report';
import { runRound } from './round';

export { HELP, UsageError, parseOptions };

/** @returns the exit status: 1 when a case failed. */
export async function bench(options: Options): Promise<number> {
  const report =
    options.from === null ? await measure(options) : (JSON.parse(readFileSync(options.from, 'utf8')) as Report);
  print(report);
  if (options.json !== null) writeFileSync(options.json, `${JSON.stringify(report, null, 2)}\n`);
  if (options.write !== null) writeFileSync(options.write, document(report));
  return failures(report).length > 0 ? 1 : 0;
}

async function measure(options: Options): Promise<Report> {
  const started = Date.now();
  const progress = (line: string): void => {
    process.stderr.write(`${((Date.now() - started) / 1000).toFixed(0).padStart(5)} s  ${line}\n`);
  };
  const peers = options.peers.length > 0 ? options.peers : [{ ...OURS, name: `${OUR_NAME} again` }];
  const backends = [OURS, ...peers];
  // First: what a wrapper in a command leaves behind (a profile, a trace) is then that of the measured run.
  const versions = await Promise.all(
    backends.map(async (each) => ({ name: each.name, version: await versionOf(each) })),
  );
  const { run } = options;
  const lab = await Lab.open(options.kernel, run.family);
  const samples: Sample[] = [];
  const loads: number[] = [];
  let guestKernel = '';
  try {
    for (let round = 1; round <= run.rounds; round++) {
      loads.push(loadavg()[0]);
      progress(`round ${String(round)} of ${String(run.rounds)}, load average ${loads[loads.length - 1].toFixed(1)}`);
      for (const backend of inTurn(backends, round)) {
        const result = await runRound(backend, round, lab, run, progress);
        samples.push(...result.samples);
        guestKernel = result.guestKernel;
      }
    }
  } finally {
    await lab.close();
  }
  return {
    conditions: {
      date: new Date().toISOString().slice(0, 10),
      machine: machine(),
      guest: `User Mode Linux ${guestKernel}`,
      descriptors: /^Max open files\s+\d+\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? 'so many',
      backends: versions,
      loads,
    },
    options: run,
    samples,
  };
}

/** Every round begins with another back-end, so that none always has the machine as another left it. */
function inTurn(backends: readonly BackendSpec[], round: number): BackendSpec[] {
  const first = (round - 1) % backends.length;
  return [...backends.slice(first), ...backends.slice(0, first)];
}

function print(report: Report): void {
  const parts = [conditionLines(report).join('\n'), table(report).trimEnd()];
  for (const lines of [verdicts(report), failures(report)]) if (lines.length > 0) parts.push(lines.join('\n'));
  process.stdout.write(`${parts.join('\n\n')}\n`);
}

function machine(): string {
  const model = /^model name\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? 'unknown processor';
  // The version without the distribution's own suffix.
  const kernel = /^\d+\.\d+/.exec(release())?.[0] ?? release();
  return `${String(cpus().length)} × ${model}, ${type()} ${kernel}, Node.js ${process.versions.node}`;
}

/** What `--version` says, by its first line with a version in it: a wrapper may grumble before. */
async function versionOf({ argv }: BackendSpec): Promise<string> {
  const { output } = await runCommand([...argv, '--version']);
  return output.split('\n').find((line) => /\d\.\d/.test(line)) ?? 'tells no version';
}
