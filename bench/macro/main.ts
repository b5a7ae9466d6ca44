/** The bench beside peers: rounds of back-ends side by side, a table in the end. Started by scripts/bench.mjs. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, release, type } from 'node:os';
import { join } from 'node:path';
import { cacheDirectory } from '../../test/support/world/paths';
import { runCommand } from '../../test/support/world/processes';
import { OURS } from './backend';
import type { Sample } from './cases';
import { document, score, unremarked } from './document';
import { Lab } from './lab';
import {
  DIRECT_NAME,
  HELP,
  OUR_NAME,
  UsageError,
  parseOptions,
  type BackendSpec,
  type NamespaceSpec,
  type Options,
  type RunOptions,
  type VhostUserSpec,
} from './options';
import { conditionLines, failures, table, type Report } from './report';
import { planFor, runRound } from './round';
import { judge } from './targets';

export { HELP, UsageError, parseOptions };

/** @returns the exit status: 1 when a case failed. */
export async function bench(options: Options): Promise<number> {
  const reports =
    options.from.length > 0
      ? options.from.map((path) => JSON.parse(readFileSync(path, 'utf8')) as Report)
      : [await measure(options)];
  for (const report of reports) print(report);
  process.stdout.write(`\nTargets: ${score(judge(reports))}.\n`);
  if (options.write !== null) {
    writeFileSync(options.write, document(reports));
    const without = unremarked(reports);
    if (without.length > 0) {
      process.stderr.write(`Missed, and no remark about it in bench/notes.json:\n  ${without.join('\n  ')}\n`);
    }
  }
  return reports.some((report) => failures(report).length > 0) ? 1 : 0;
}

async function measure(options: Options): Promise<Report> {
  const { run } = options;
  const started = Date.now();
  const progress = (line: string): void => {
    process.stderr.write(`${((Date.now() - started) / 1000).toFixed(0).padStart(5)} s  ${line}\n`);
  };
  const inTime = (): boolean => Date.now() - started < options.minutes * 60_000;
  const backends = backendsOf(options);
  // First: what a wrapper in a command leaves behind (a profile, a trace) is then that of the measured run.
  const versions = await Promise.all(
    backends.map(async (each) => ({ name: each.name, version: await versionOf(each) })),
  );
  const jsonPath = options.json ?? join(cacheDirectory('bench'), 'last.json');
  const lab = await Lab.open(run.guest, options.kernel);
  const samples: Sample[] = [];
  const loads: number[] = [];
  let guestKernel = '';
  let rounds = 0;
  const report = (): Report => ({
    conditions: {
      date: new Date().toISOString().slice(0, 10),
      machine: machine(),
      guest: guestTitle(run, guestKernel),
      descriptors: /^Max open files\s+\d+\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? 'so many',
      backends: versions,
      loads,
      rounds,
    },
    options: run,
    samples,
  });
  try {
    for (let round = 1; round <= run.rounds && inTime(); round++) {
      loads.push(loadavg()[0]);
      rounds = round;
      for (const mtu of run.mtus) {
        if (planFor(run, mtu).length === 0) continue;
        const load = loadavg()[0].toFixed(1);
        progress(`round ${String(round)} of ${String(run.rounds)}, MTU ${String(mtu)}, load average ${load}`);
        await runRound(backends, {
          ...{ run, lab, round, mtu, progress, inTime },
          add: (sample) => {
            samples.push(sample);
            save(jsonPath, report());
          },
          tellKernel: (version) => {
            guestKernel = version;
          },
        });
      }
    }
  } finally {
    await lab.close();
  }
  progress(`samples in ${jsonPath}`);
  return report();
}

/** Ours with more arguments. */
function withArguments(name: string, args: readonly string[], { guest }: RunOptions): VhostUserSpec | NamespaceSpec {
  if (guest !== 'netns') return { ...OURS, name, argv: [...OURS.argv, ...args] };
  return { kind: 'namespace', name, argv: [...OURS.argv, 'netns', ...args], dialect: 'pasta' };
}

/** Ours, its variants, the peers, and for long paths the transfer without a guest. */
function backendsOf({ run, peers, oursArgs, oursVariants }: Options): BackendSpec[] {
  const ours = withArguments(OUR_NAME, oursArgs, run);
  const variants = oursVariants.map(({ name, args }) => withArguments(name, args, run));
  const named = [...variants, ...peers];
  const others = named.length > 0 ? named : [{ ...ours, name: `${OUR_NAME} again` }];
  const isLong = run.cases.some(({ kind }) => kind === 'long-path');
  return [ours, ...others, ...(isLong && !run.strace ? [{ kind: 'direct', name: DIRECT_NAME } as const] : [])];
}

/** Whole or not at all: a run may be ended at any moment. */
function save(path: string, report: Report): void {
  writeFileSync(`${path}.new`, `${JSON.stringify(report, null, 1)}\n`);
  renameSync(`${path}.new`, path);
}

function print(report: Report): void {
  const parts = [conditionLines(report).join('\n'), table(report).trimEnd()];
  const failed = failures(report);
  if (failed.length > 0) parts.push(`Not measured:\n${failed.join('\n')}`);
  process.stdout.write(`${parts.join('\n\n')}\n`);
}

function guestTitle({ guest, accel, bare }: RunOptions, kernel: string): string {
  switch (guest) {
    case 'uml':
      return `User Mode Linux ${kernel}`;
    case 'qemu':
      return `Linux ${kernel} in QEMU, ${accel === 'kvm' ? 'KVM' : 'emulated (TCG)'}`;
    case 'testpmd':
      return 'DPDK testpmd over virtio-user';
    case 'netns':
      return 'a network namespace of an ordinary user, whose host is the far end';
    case 'bare':
      return `the bare front-end, ${bare.interrupts === 'poll' ? 'polling' : 'interrupts by eventfd'}, rings of ${String(bare.ring)}, features ${bare.features}`;
  }
}

function machine(): string {
  const model = /^model name\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? 'unknown processor';
  // The version without the distribution's own suffix.
  const kernel = /^\d+\.\d+/.exec(release())?.[0] ?? release();
  const congestion = readFileSync('/proc/sys/net/ipv4/tcp_congestion_control', 'utf8').trim();
  return `${String(cpus().length)} × ${model}, ${type()} ${kernel} (TCP ${congestion}), Node.js ${process.versions.node}`;
}

/** What `--version` says, by its first line with a version in it: a wrapper may grumble before. */
async function versionOf(spec: BackendSpec): Promise<string> {
  if (spec.kind === 'direct') return 'no guest and no back-end';
  const argv = 'argv' in spec ? spec.argv : ['qemu-system-x86_64'];
  const { output } = await runCommand([...argv, '--version']);
  return output.split('\n').find((line) => /\d\.\d/.test(line)) ?? 'tells no version';
}
