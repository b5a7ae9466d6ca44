/** One back-end through all cases of one round: a fresh process, a fresh guest. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Guest, ResultFields } from '../../test/support/rig/guest';
import { describeExit, type ManagedProcess } from '../../test/support/rig/processes';
import { bootUml } from '../../test/support/rig/uml';
import { startBackend } from './backend';
import { MIN_FLOWS_FOR_MEMORY, type Case, type IdleCase, type MetricName, type Sample } from './cases';
import type { Lab } from './lab';
import type { BackendSpec, RunOptions } from './options';
import { anonymousBytes, cpuSeconds, netField, retransmitsOf } from './probes';

/** Between cases, so that what the last one left on its way does not count for the next. */
const SETTLE_MS = 300;
const WARM_UP_SECONDS = 0.5;
const SETUP_TIMEOUT_MS = 60_000;
const OPEN_TIMEOUT_MS = 180_000;
const GIGA = 1e9;

type Values = Partial<Record<MetricName, number>>;

export interface RoundResult {
  readonly samples: readonly Sample[];
  readonly guestKernel: string;
}

let sockets = 0;

/** Failures of single cases become samples. @throws Error when the back-end or the guest does not start. */
export async function runRound(
  spec: BackendSpec,
  round: number,
  lab: Lab,
  options: RunOptions,
  progress: (line: string) => void,
): Promise<RoundResult> {
  const socketPath = `${lab.scratch}/b${String(++sockets)}`;
  const backend = await startBackend(spec, lab, socketPath, options.mtu);
  let guest: Guest | null = null;
  try {
    guest = await bootUml({ socketPath, scratch: lab.scratch, image: lab.image });
    const guestKernel = (await guest.sh('uname -r')).trim();
    await guest.sh(`net-up ${String(options.family)}`, { timeoutMs: SETUP_TIMEOUT_MS });
    const run = new Run(guest, backend, lab, options.seconds);
    await run.warmUp();
    const samples: Sample[] = [];
    for (const each of options.cases) {
      const sample = { backend: spec.name, case: each.name, round };
      try {
        const values = await run.measure(each);
        progress(`${spec.name}, ${each.name}: ${describe(values)}`);
        samples.push({ ...sample, values });
      } catch (error) {
        const failed = reason(error, backend);
        progress(`${spec.name}, ${each.name}: FAILED: ${failed}`);
        samples.push({ ...sample, values: {}, failed });
      }
      await sleep(SETTLE_MS);
    }
    return { samples, guestKernel };
  } finally {
    await guest?.powerOff();
    await backend.stop();
  }
}

/** Measures cases with one guest and one back-end. */
class Run {
  private readonly guest: Guest;
  private readonly backend: ManagedProcess;
  private readonly lab: Lab;
  private readonly seconds: number;
  private idleFlows = 0;
  /** The back-end's memory before the first idle flow; -1: not looked at yet. */
  private bytesBeforeIdle = -1;
  /** Throughput beside one idle flow, the base of comparison; 0: not measured. */
  private besideOne = 0;

  constructor(guest: Guest, backend: ManagedProcess, lab: Lab, seconds: number) {
    this.guest = guest;
    this.backend = backend;
    this.lab = lab;
    this.seconds = seconds;
  }

  /** Compilers that learn, caches, congestion windows: nothing is measured cold. */
  async warmUp(): Promise<void> {
    for (const direction of ['down', 'up']) {
      await this.guest.sh(`bench-net ${direction} ${this.lab.target} ${String(WARM_UP_SECONDS)}`);
    }
    await sleep(SETTLE_MS);
  }

  measure(each: Case): Promise<Values> {
    switch (each.kind) {
      case 'bulk':
        return this.bulk(each.direction);
      case 'request-response':
        return this.transactions(`rr ${this.lab.target} ${String(this.seconds)} ${String(each.bytes)}`);
      case 'connect-request-close':
        return this.transactions(`crr ${this.lab.target} ${String(this.seconds)}`);
      case 'idle':
        return this.besideIdle(each);
    }
  }

  private async bulk(direction: 'down' | 'up'): Promise<Values> {
    const { fields, cpu, counts } = await this.watched(
      `${direction} ${this.lab.target} ${String(this.seconds)}`,
      'bulk',
    );
    const bytes = Number(fields.bytes);
    return {
      gbits: (bytes * 8) / Number(fields.seconds) / GIGA,
      cpuPerGigabyte: cpu / (bytes / GIGA),
      ...counts,
    };
  }

  private async transactions(script: string): Promise<Values> {
    const { fields, cpu, counts } = await this.watched(script, 'transactions');
    const count = Number(fields.count);
    return {
      perSecond: count / Number(fields.seconds),
      p50: Number(fields.p50),
      p99: Number(fields.p99),
      cpuPerTransaction: (cpu / count) * 1e6,
      ...counts,
    };
  }

  private async besideIdle({ flows, direction }: IdleCase): Promise<Values> {
    const more = flows - this.idleFlows;
    if (this.bytesBeforeIdle < 0) this.bytesBeforeIdle = anonymousBytes(this.backend.pid);
    const opening = `bench-net idle ${this.lab.target} ${String(more)}`;
    await this.guest.result(opening, 'idle', { timeoutMs: OPEN_TIMEOUT_MS });
    this.idleFlows = flows;
    const grown = anonymousBytes(this.backend.pid) - this.bytesBeforeIdle;
    await sleep(SETTLE_MS);
    const values = await this.bulk(direction);
    if (flows === 1) this.besideOne = values.gbits ?? 0;
    if (flows > 1 && this.besideOne > 0) values.besideOne = (values.gbits ?? 0) / this.besideOne;
    if (flows >= MIN_FLOWS_FOR_MEMORY) values.bytesPerFlow = grown / flows;
    return values;
  }

  /** Runs one of bench-net's clients in the guest, with the back-end's CPU time and the retransmits it cost. */
  private async watched(
    client: string,
    result: string,
  ): Promise<{ fields: ResultFields; cpu: number; counts: Values }> {
    const countsBefore = await this.counts();
    const cpuBefore = cpuSeconds(this.backend.pid);
    const fields = await this.guest.result(`bench-net ${client}`, result, {
      timeoutMs: this.seconds * 1000 + SETUP_TIMEOUT_MS,
    });
    const cpu = cpuSeconds(this.backend.pid) - cpuBefore;
    const counts = await this.counts();
    return {
      fields,
      cpu,
      counts: {
        guestRetransmits: counts.guest - countsBefore.guest,
        duplicates: counts.duplicates - countsBefore.duplicates,
        hostRetransmits: counts.host - countsBefore.host,
      },
    };
  }

  private async counts(): Promise<{ guest: number; duplicates: number; host: number }> {
    const text = await this.guest.sh('cat /proc/net/snmp /proc/net/netstat');
    return {
      guest: netField(text, 'Tcp', 'RetransSegs'),
      // A receiver that gets a segment twice says so in a D-SACK (RFC 2883).
      duplicates: netField(text, 'TcpExt', 'TCPDSACKOldSent'),
      host: retransmitsOf(this.lab.hostPid) + retransmitsOf(this.lab.remotePid),
    };
  }
}

function describe(values: Values): string {
  if (values.gbits !== undefined) return `${values.gbits.toFixed(2)} Gbit/s`;
  return `${(values.perSecond ?? 0).toFixed(0)} transactions/s`;
}

function reason(error: unknown, backend: ManagedProcess): string {
  const message = error instanceof Error ? error.message : String(error);
  if (backend.exitStatus === null) return message;
  return `the back-end ended (${describeExit(backend.exitStatus)})\n${backend.tail()}`;
}
