/** One back-end through all cells of one MTU in one round: a fresh process, a fresh guest. */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseResults, type Guest } from '../../test/support/rig/guest';
import { command, describeExit, poll, type ManagedProcess } from '../../test/support/rig/processes';
import { startTestpmd } from '../../test/support/rig/testpmd';
import { startBackend } from './backend';
import { defaultSeconds, type Case, type Cell, type Family, type PacketCase, type Sample, type Values } from './cases';
import { bootGuest, bringUp } from './guests';
import { SINK_PORT, type Lab } from './lab';
import { SETTLE_MS, Session, type Measured } from './measure';
import type { BackendSpec, RunOptions, VhostUserSpec } from './options';
import { cpuSeconds, datagramsArrived, residentBytes } from './probes';
import { summarize } from './statistics';

/** A guest that a case has broken is replaced so often, for the cases that are left. */
const MAX_BOOTS = 3;
const STARTS = 3;
const ALIVE_TIMEOUT_MS = 5000;
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

interface Planned {
  readonly case: Case;
  readonly cell: Cell;
}

/** The cells measured at one MTU: cases without a matrix belong to the first MTU and the first family. */
export function planFor({ guest, cases, mtus, families }: RunOptions, mtu: number): Planned[] {
  return cases.flatMap((each) => {
    if (each.matrix !== true && mtu !== mtus[0]) return [];
    const wanted: readonly Family[] = each.matrix === true ? families : families.slice(0, 1);
    return wanted.map((family) => ({ case: each, cell: { case: each.name, guest, mtu, family } }));
  });
}

/** Never throws: what cannot be measured becomes a sample that says why. */
export async function runRound(spec: BackendSpec, context: RoundContext): Promise<void> {
  const plan = planFor(context.run, context.mtu);
  const round = new Round(spec, context);
  switch (spec.kind) {
    case 'direct':
      return round.each(
        plan.filter((each) => each.case.kind === 'long-path'),
        (each) => round.direct(each),
      );
    case 'slirp':
      return round.withGuests(plan.filter((each) => each.case.kind !== 'start'));
    case 'vhost-user': {
      const alone = plan.filter(({ case: { kind } }) => kind === 'start' || kind === 'packets');
      await round.each(alone, (each) => round.withoutGuest(spec, each.case));
      return round.withGuests(plan.filter((each) => !alone.includes(each)));
    }
  }
}

class Round {
  private readonly spec: BackendSpec;
  private readonly context: RoundContext;

  constructor(spec: BackendSpec, context: RoundContext) {
    this.spec = spec;
    this.context = context;
  }

  /** Measures cells that need nothing from each other. */
  async each(plan: readonly Planned[], measure: (each: Planned) => Promise<Measured>): Promise<void> {
    for (const each of plan) {
      await this.attempt(each, () => measure(each));
    }
  }

  /** Boots, measures, and boots again when a case has broken the guest or the back-end. */
  async withGuests(plan: readonly Planned[]): Promise<void> {
    let left = [...plan];
    for (let boots = 0; left.length > 0; boots++) {
      let why = `given up after ${String(MAX_BOOTS)} boots`;
      if (boots < MAX_BOOTS && this.context.inTime()) {
        try {
          left = await this.withGuest(left);
          continue;
        } catch (error) {
          why = message(error);
          this.context.progress(`${this.spec.name}: no guest: ${lastLine(why)}`);
          if (boots + 1 < MAX_BOOTS) continue;
        }
      }
      for (const each of left) this.fail(each, this.context.inTime() ? why : 'the time was over (--minutes)');
      return;
    }
  }

  /** @returns the cells left over because guest or back-end broke. @throws Error when they do not start. */
  private async withGuest(plan: readonly Planned[]): Promise<Planned[]> {
    const { run, lab, mtu } = this.context;
    const started = this.spec.kind === 'vhost-user' ? await startBackend(this.spec, lab, mtu) : null;
    const backend = started?.process ?? null;
    let guest: Guest | null = null;
    try {
      guest = await bootGuest(run, lab, started?.socketPath ?? null);
      this.context.tellKernel((await guest.sh('uname -r')).trim());
      const families = await bringUp(guest, run.families);
      const working = run.families.find((family) => families.get(family) === null);
      if (working === undefined) throw new Error([...families.values()].join('\n'));
      const session = new Session(guest, backend, lab, run);
      const usable = plan.filter(({ cell }) => families.get(cell.family) === null);
      await session.warmUp(
        usable.map(({ case: one, cell }) => ({ case: one, family: cell.family })),
        working,
      );
      for (const [index, each] of plan.entries()) {
        const missing = families.get(each.cell.family) ?? null;
        if (missing !== null) {
          this.fail(each, missing);
          continue;
        }
        const ok = await this.attempt(each, () => session.measure(each.case, each.cell.family), backend);
        if (!ok && !(await isAlive(guest, backend))) return plan.slice(index + 1);
        await sleep(SETTLE_MS);
      }
      return [];
    } catch (error) {
      if (backend !== null && backend.exitStatus !== null) throw new Error(ended(backend), { cause: error });
      throw error;
    } finally {
      await guest?.powerOff();
      await backend?.stop();
    }
  }

  /** The same transfer with the client in the host's namespace. */
  async direct({ case: each }: Planned): Promise<Measured> {
    if (each.kind !== 'long-path') throw new Error(`${each.name} is not measured without a guest`);
    const { lab, run } = this.context;
    const [address, port] = (await lab.longPath(each)).split(' ');
    const seconds = run.seconds ?? defaultSeconds(each);
    const output = await command(lab.world.inHost([lab.tool, each.direction, address, port, String(seconds)]));
    const fields = parseResults(output).get('bulk');
    if (fields === undefined) throw new Error(output);
    await sleep(SETTLE_MS);
    return { values: { gbits: (Number(fields.bytes) * 8) / Number(fields.seconds) / 1e9 } };
  }

  withoutGuest(spec: VhostUserSpec, each: Case): Promise<Measured> {
    return each.kind === 'packets' ? this.packets(spec, each) : this.start(spec);
  }

  /** The median of a few starts; memory after a moment of rest. */
  private async start(spec: VhostUserSpec): Promise<Measured> {
    const times: number[] = [];
    let resident = 0;
    for (let i = 0; i < STARTS; i++) {
      const { process: backend, startMs } = await startBackend(spec, this.context.lab, this.context.mtu);
      times.push(startMs);
      await sleep(SETTLE_MS);
      resident = residentBytes(backend.pid) / MEBI;
      await backend.stop();
    }
    return { values: { startMs: summarize(times)?.median ?? 0, residentMiB: resident } };
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

  /** @returns whether it was measured. */
  private async attempt(
    each: Planned,
    measure: () => Promise<Measured>,
    backend: ManagedProcess | null = null,
  ): Promise<boolean> {
    if (!this.context.inTime()) {
      this.fail(each, 'the time was over (--minutes)');
      return true;
    }
    try {
      const { values, calls } = await measure();
      this.context.progress(`${this.spec.name}, ${title(each.cell)}: ${describe(values)}`);
      this.context.add({ ...this.sampleOf(each), values, ...(calls === undefined ? {} : { calls }) });
      return true;
    } catch (error) {
      this.fail(each, backend !== null && backend.exitStatus !== null ? ended(backend) : message(error));
      return false;
    }
  }

  private fail(each: Planned, failed: string): void {
    this.context.progress(`${this.spec.name}, ${title(each.cell)}: FAILED: ${lastLine(failed)}`);
    this.context.add({ ...this.sampleOf(each), values: {}, failed });
  }

  private sampleOf({ cell }: Planned): Omit<Sample, 'values'> {
    return { backend: this.spec.name, ...cell, round: this.context.round };
  }
}

async function isAlive(guest: Guest, backend: ManagedProcess | null): Promise<boolean> {
  if (guest.process.exitStatus !== null || (backend !== null && backend.exitStatus !== null)) return false;
  return guest.run('true', { timeoutMs: ALIVE_TIMEOUT_MS }).then(
    () => true,
    () => false,
  );
}

function title({ case: name, mtu, family }: Cell): string {
  return `${name} MTU ${String(mtu)} IPv${String(family)}`;
}

function describe(values: Values): string {
  if (values.gbits !== undefined) return `${values.gbits.toFixed(3)} Gbit/s`;
  if (values.packetsPerSecond !== undefined) {
    return `${values.packetsPerSecond.toFixed(0)} packets/s, ${(values.lossPercent ?? 0).toFixed(1)} % lost`;
  }
  if (values.startMs !== undefined) {
    return `${values.startMs.toFixed(0)} ms, ${(values.residentMiB ?? 0).toFixed(1)} MiB`;
  }
  return `${(values.perSecond ?? 0).toFixed(0)} transactions/s`;
}

function ended(backend: ManagedProcess): string {
  return `${backend.tail()}\nthe back-end ended (${describeExit(backend.exitStatus)})`;
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** What the program itself said. */
export function lastLine(text: string): string {
  return text.trim().split('\n').pop() ?? '';
}
