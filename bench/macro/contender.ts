/** One back-end in one round at one MTU: its process, its guest, and what is measured with them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseResults } from '../../test/support/world/guest';
import { REPO_ROOT } from '../../test/support/world/paths';
import { command, describeExit, poll, type ManagedProcess } from '../../test/support/world/processes';
import { startTestpmd } from '../../test/support/world/testpmd';
import { startBackend, type StartedBackend } from './backend';
import {
  defaultSeconds,
  type BesideCase,
  type Case,
  type Cell,
  type Family,
  type PacketCase,
  type Sample,
  type Values,
} from './cases';
import { bootGuest, type BenchGuest } from './guests';
import { SINK_PORT, type Lab } from './lab';
import { SETTLE_MS, Session, type Measured } from './measure';
import { runOnce, startNamespace } from './netns';
import type { BackendSpec, NamespaceSpec, RunOptions, VhostUserSpec } from './options';
import { cpuSeconds, datagramsArrived, privateBytes, proportionalBytes, residentBytes } from './probes';
import { summarize } from './statistics';

/** A guest that a case has broken is replaced so often, for the cases that are left. */
const MAX_BOOTS = 3;
const STARTS = 3;
/** What a start leaves to be collected is gone by then. */
const REST_MS = 2000;
const HUNDRED_THOUSAND = 1e5;
const MEBI = 1024 * 1024;
/** testpmd sends for a while before anything counts. */
const PACKETS_WARM_UP_MS = 1500;
const REPORTS_TIMEOUT_MS = 5000;

/** What a round is told, and where its samples go as they come. */
export interface RoundContext {
  readonly run: RunOptions;
  readonly lab: Lab;
  readonly round: number;
  readonly mtu: number;
  readonly add: (sample: Sample) => void;
  readonly progress: (line: string) => void;
  /** Whether anything may still be begun. */
  readonly inTime: () => boolean;
  readonly tellKernel: (version: string) => void;
}

export interface Planned {
  readonly case: Case;
  readonly cell: Cell;
}

/** A guest with its network up, warm. */
interface Booted {
  readonly guest: BenchGuest;
  /** Null when the back-end is part of the guest's own process. */
  readonly backend: ManagedProcess | null;
  readonly session: Session;
  /** Why a family does not work. */
  readonly missing: ReadonlyMap<Family, string | null>;
}

/** Whether a case can be measured with a back-end, and with its guest or without. */
export function suits(spec: BackendSpec, each: Case): boolean {
  const { kind } = spec;
  if (kind === 'direct') return each.kind === 'long-path';
  if (each.kind === 'command') return spec.kind === 'namespace' && spec.dialect === 'pasta';
  return kind === 'vhost-user' || needsGuest(each);
}

export function needsGuest(each: Case): boolean {
  return each.kind !== 'start' && each.kind !== 'beside' && each.kind !== 'packets' && each.kind !== 'command';
}

export class Contender {
  private readonly spec: BackendSpec;
  private readonly context: RoundContext;
  /** What it will be asked for: that is what it is warmed up with. */
  private readonly plan: readonly Planned[];
  private boots = 0;
  private booted: Booted | null = null;

  constructor(spec: BackendSpec, context: RoundContext, plan: readonly Planned[]) {
    this.spec = spec;
    this.context = context;
    this.plan = plan.filter((each) => suits(spec, each.case));
  }

  /** Boots and warms up, so that this does not come between two measurements. What goes wrong is told with the first. */
  async prepare(): Promise<void> {
    const wanted = this.spec.kind !== 'direct' && this.plan.some((each) => needsGuest(each.case));
    if (!wanted || !this.context.inTime()) return;
    await this.withGuest().catch((error: unknown) => {
      this.context.progress(`${this.spec.name}: no guest: ${lastLine(message(error))}`);
    });
  }

  /** Never throws: what cannot be measured becomes a sample that says why. */
  async measure(each: Planned): Promise<void> {
    if (!suits(this.spec, each.case)) return;
    if (!this.context.inTime()) {
      this.fail(each, 'the time was over (--minutes)');
      return;
    }
    try {
      const { values, calls } = await this.take(each);
      this.context.progress(`${this.spec.name}, ${title(each.cell)}: ${describe(values)}`);
      this.context.add({ ...this.sampleOf(each), values, ...(calls === undefined ? {} : { calls }) });
    } catch (error) {
      this.fail(each, reasonOf(error, this.booted?.backend ?? null));
      if (this.booted !== null && !(await isAlive(this.booted))) await this.close();
    }
    await sleep(SETTLE_MS);
  }

  /** Ends guest and back-end. A measurement that comes after it boots anew. */
  async close(): Promise<void> {
    const { booted } = this;
    this.booted = null;
    await booted?.guest.powerOff();
    await booted?.backend?.stop();
  }

  private async take({ case: each, cell }: Planned): Promise<Measured> {
    const { spec } = this;
    if (spec.kind === 'direct') return this.direct(each);
    if (spec.kind === 'vhost-user' && each.kind === 'packets') return this.packets(spec, each);
    if (spec.kind === 'vhost-user' && each.kind === 'start') return this.start(spec);
    if (spec.kind === 'vhost-user' && each.kind === 'beside') return this.beside(spec, each);
    if (spec.kind === 'namespace' && each.kind === 'command') return this.command(spec);
    const { session, missing } = await this.withGuest();
    const reason = missing.get(cell.family) ?? null;
    if (reason !== null) throw new Error(reason);
    return session.measure(each, cell.family);
  }

  /** @throws Error when neither guest nor back-end come up after a few times, or broke too often. */
  private async withGuest(): Promise<Booted> {
    let why = `given up after ${String(MAX_BOOTS)} boots`;
    while (this.booted === null) {
      if (this.boots >= MAX_BOOTS) throw new Error(why);
      this.boots++;
      try {
        this.booted = await this.boot();
      } catch (error) {
        why = message(error);
      }
    }
    return this.booted;
  }

  /** @throws Error when guest or back-end do not start. */
  private async boot(): Promise<Booted> {
    const { run, lab, mtu } = this.context;
    const started = this.spec.kind === 'vhost-user' ? await startBackend(this.spec, lab, mtu) : null;
    const space = this.spec.kind === 'namespace' ? await startNamespace(this.spec, lab, mtu) : null;
    const backend = started?.process ?? space?.backend ?? null;
    let guest: BenchGuest | null = space?.guest ?? null;
    try {
      guest ??= await bootGuest(run, lab, started?.socketPath ?? null, mtu);
      this.context.tellKernel(await guest.version());
      const missing = await guest.bringUp(run.families);
      const working = run.families.find((family) => missing.get(family) === null);
      if (working === undefined) throw new Error([...missing.values()].join('\n'));
      const session = new Session(guest, backend, lab, run);
      const usable = this.plan.filter(({ cell }) => missing.get(cell.family) === null);
      await session.warmUp(
        usable.map(({ case: one, cell }) => ({ case: one, family: cell.family })),
        working,
      );
      return { guest, backend, session, missing };
    } catch (error) {
      const why = reasonOf(error, backend);
      await guest?.powerOff();
      await backend?.stop();
      throw new Error(why, { cause: error });
    }
  }

  /** The same transfer with the client in the host's namespace. */
  private async direct(each: Case): Promise<Measured> {
    if (each.kind !== 'long-path') throw new Error(`${each.name} is not measured without a guest`);
    const { lab, run } = this.context;
    const [address, port] = (await lab.longPath(each)).split(' ');
    const seconds = run.seconds ?? defaultSeconds(each);
    const output = await command(lab.world.inHost([lab.tool, each.direction, address, port, String(seconds)]));
    const fields = parseResults(output).get('bulk');
    if (fields === undefined) throw new Error(output);
    return { values: { gbits: (Number(fields.bytes) * 8) / Number(fields.seconds) / 1e9 } };
  }

  /** The median of a few starts; memory after a moment of rest. */
  private async start(spec: VhostUserSpec): Promise<Measured> {
    const times: number[] = [];
    let resident = 0;
    let own = 0;
    for (let i = 0; i < STARTS; i++) {
      const { process: backend, mark, startMs } = await startBackend(spec, this.context.lab, this.context.mtu);
      times.push(startMs);
      await sleep(SETTLE_MS);
      resident = residentBytes(backend.pid) / MEBI;
      own = privateBytes(backend.pid, mark) / MEBI;
      await backend.stop();
    }
    return { values: { startMs: summarize(times)?.median ?? 0, residentMiB: resident, privateMiB: own } };
  }

  /** The median of a few. */
  private async command(spec: NamespaceSpec): Promise<Measured> {
    const times: number[] = [];
    for (let i = 0; i < STARTS; i++) times.push(await runOnce(spec, this.context.lab));
    return { values: { commandMs: summarize(times)?.median ?? 0 } };
  }

  /** Several at once, after a moment of rest: Pss says what each has by itself, and its part of what they share. */
  private async beside(spec: VhostUserSpec, { instances }: BesideCase): Promise<Measured> {
    const backends: StartedBackend[] = [];
    try {
      for (let i = 0; i < instances; i++) {
        backends.push(await startBackend(spec, this.context.lab, this.context.mtu));
      }
      await sleep(REST_MS);
      const sum = backends.reduce((bytes, one) => bytes + proportionalBytes(one.process.pid, one.mark), 0);
      return { values: { besideMiB: sum / instances / MEBI } };
    } finally {
      await Promise.all(backends.map((backend) => backend.process.stop()));
    }
  }

  /** Counted at each of testpmd's own reports, so that both ends' counts are of the same moments. */
  private async packets(spec: VhostUserSpec, each: PacketCase): Promise<Measured> {
    const { lab, run } = this.context;
    const { process: backend, socketPath } = await startBackend(spec, lab, this.context.mtu);
    let testpmd: ManagedProcess | null = null;
    try {
      testpmd = await startTestpmd({ socketPath, destinationPort: SINK_PORT, frameBytes: each.bytes });
      const looks: { sent: number; arrived: number; cpu: number; at: number }[] = [];
      await sleep(PACKETS_WARM_UP_MS);
      const off = testpmd.onLine((line) => {
        const sent = /TX-packets:\s*(\d+)/.exec(line)?.[1];
        if (sent === undefined) return;
        const arrived = datagramsArrived(lab.remotePid);
        looks.push({ sent: Number(sent), arrived, cpu: cpuSeconds(backend.pid), at: performance.now() });
      });
      await sleep(((run.seconds ?? defaultSeconds(each)) + 1) * 1000);
      // Reports are seconds apart, so that only one may have come yet.
      await poll('two reports of testpmd', () => (looks.length >= 2 ? true : null), REPORTS_TIMEOUT_MS);
      off();
      const [first, last] = [looks[0], looks[looks.length - 1]];
      if (looks.length < 2 || last.sent === first.sent) throw new Error(`${testpmd.tail(20)}\nno frame was taken`);
      const arrived = last.arrived - first.arrived;
      const seconds = (last.at - first.at) / 1000;
      return {
        values: {
          packetsPerSecond: arrived / seconds,
          takenPerSecond: (last.sent - first.sent) / seconds,
          lossPercent: Math.max(0, 1 - arrived / (last.sent - first.sent)) * 100,
          // A back-end that takes frames and sends none has no price for a packet.
          ...(arrived === 0 ? {} : { cpuPerPackets: (last.cpu - first.cpu) / (arrived / HUNDRED_THOUSAND) }),
        },
      };
    } finally {
      await testpmd?.stop();
      await backend.stop();
    }
  }

  private fail(each: Planned, failed: string): void {
    this.context.progress(`${this.spec.name}, ${title(each.cell)}: FAILED: ${lastLine(failed)}`);
    // Samples are kept in the repository: commands in them have no path of this machine's.
    this.context.add({ ...this.sampleOf(each), values: {}, failed: failed.replaceAll(`${REPO_ROOT}/`, '') });
  }

  private sampleOf({ cell }: Planned): Omit<Sample, 'values'> {
    return { backend: this.spec.name, ...cell, round: this.context.round };
  }
}

function isAlive({ guest, backend }: Booted): Promise<boolean> {
  if (backend !== null && backend.exitStatus !== null) return Promise.resolve(false);
  return guest.isAlive();
}

function title({ case: name, mtu, family }: Cell): string {
  return `${name} MTU ${String(mtu)} IPv${String(family)}`;
}

function describe(values: Values): string {
  if (values.gbits !== undefined) return `${values.gbits.toFixed(3)} Gbit/s`;
  if (values.packetsPerSecond !== undefined) {
    return `${values.packetsPerSecond.toFixed(0)} packets/s, ${(values.lossPercent ?? 0).toFixed(1)} % lost`;
  }
  if (values.besideMiB !== undefined) return `${values.besideMiB.toFixed(1)} MiB each`;
  if (values.commandMs !== undefined) return `${values.commandMs.toFixed(0)} ms`;
  if (values.startMs !== undefined) {
    return `${values.startMs.toFixed(0)} ms, ${(values.residentMiB ?? 0).toFixed(1)} MiB`;
  }
  return `${(values.perSecond ?? 0).toFixed(0)} transactions/s`;
}

/** That the back-end has ended says more than what failed for it. */
function reasonOf(error: unknown, backend: ManagedProcess | null): string {
  const status = backend?.exitStatus ?? null;
  if (backend === null || status === null) return message(error);
  return `${backend.tail()}\nthe back-end ended (${describeExit(status)})`;
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** What the program itself said. */
export function lastLine(text: string): string {
  return text.trim().split('\n').pop() ?? '';
}
