/** Measures cases with one guest and one back-end. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ResultFields } from '../../test/support/world/guest';
import type { ManagedProcess } from '../../test/support/world/processes';
import {
  CASES,
  MIN_FLOWS_FOR_MEMORY,
  defaultSeconds,
  type BulkCase,
  type Case,
  type DatagramCase,
  type Family,
  type GuestName,
  type IdleCase,
  type LongPathCase,
  type Values,
} from './cases';
import type { BenchGuest, ClientCall, GuestCounts } from './guests';
import type { Lab } from './lab';
import type { RunOptions } from './options';
import { anonymousBytes, cpuSeconds, cpuSecondsUnder, retransmitsOf } from './probes';
import { traceCalls } from './strace';

/** Between cases, so that what the last one left on its way does not count for the next. */
export const SETTLE_MS = 300;
/** Of each kind that is warmed up, unless cases take less themselves. */
const WARM_UP_SECONDS = 2;
/** How often: a compiler learns by calls, not by seconds, and an emulated guest makes few of them in one. */
const WARM_UP_PASSES: Readonly<Record<GuestName, number>> = { uml: 1, qemu: 3, testpmd: 1, bare: 1, netns: 1 };
/** On top of what a case takes by itself. */
const GRACE_MS = 20_000;
const OPEN_TIMEOUT_MS = 120_000;
const GIGA = 1e9;
const MEGA = 1e6;
const HUNDRED_THOUSAND = 1e5;
const THOUSAND = 1e3;

export interface Measured {
  readonly values: Values;
  /** Under --strace: system calls per unit of the case ({@link callUnit}). */
  readonly calls?: Record<string, number> | undefined;
}

interface Watched {
  readonly fields: ResultFields;
  /** The back-end's; null where it is part of the guest's process. */
  readonly cpu: number | null;
  readonly guestCpu: number;
  readonly counts: Values;
  readonly calls?: Record<string, number>;
}

/** What system calls are divided by. */
export function callUnit({ kind }: Case): string {
  switch (kind) {
    case 'datagrams':
    case 'packets':
      return '1000 packets';
    case 'request-response':
    case 'connect-request-close':
      return 'transaction';
    case 'bulk':
    case 'idle':
    case 'long-path':
    case 'start':
    case 'beside':
    case 'command':
      return 'MB';
  }
}

/** Cases that warm up what the others use as well. Floods are left out: some back-ends do not survive them. */
function isWarmedUp(each: Case): boolean {
  switch (each.kind) {
    case 'bulk':
      return each.streams === 1;
    case 'request-response':
      return each.loaded !== true;
    case 'connect-request-close':
      return true;
    default:
      return false;
  }
}

function coldKey({ name }: Case, family: Family): string {
  return `${name} IPv${String(family)}`;
}

function coldCosts({ cpuPerGigabyte, cpuPerTransaction }: Values): Values {
  return {
    ...(cpuPerGigabyte === undefined ? {} : { coldCpuPerGigabyte: cpuPerGigabyte }),
    ...(cpuPerTransaction === undefined ? {} : { coldCpuPerTransaction: cpuPerTransaction }),
  };
}

export class Session {
  private readonly guest: BenchGuest;
  /** Null when the back-end is part of the guest's own process. */
  private readonly backend: ManagedProcess | null;
  private readonly lab: Lab;
  private readonly run: RunOptions;
  private idleFlows = 0;
  /** The back-end's memory before the first idle flow; -1: not looked at yet. */
  private bytesBeforeIdle = -1;
  /** Throughput beside one idle flow, the base of comparison; 0: not measured. */
  private besideOne = 0;
  private buffersGrown = false;
  /** By {@link coldKey}. */
  private readonly cold = new Map<string, Values>();

  constructor(guest: BenchGuest, backend: ManagedProcess | null, lab: Lab, run: RunOptions) {
    this.guest = guest;
    this.backend = backend;
    this.lab = lab;
    this.run = run;
  }

  /**
   * Compilers that learn, caches, congestion windows: nothing is measured cold. Bulk goes both ways in any case, the rest
   * where it is planned; what the back-end took the first time, cold, stands beside what it took warm.
   */
  async warmUp(plan: readonly { readonly case: Case; readonly family: Family }[], working: Family): Promise<void> {
    const always = CASES.filter((each) => each.kind === 'bulk' && isWarmedUp(each));
    const wanted = [
      ...always.map((each) => ({ case: each, family: working })),
      ...plan.filter((each) => isWarmedUp(each.case)),
    ];
    const distinct = new Map(wanted.map((one) => [coldKey(one.case, one.family), one]));
    const seconds = Math.min(WARM_UP_SECONDS, this.run.seconds ?? WARM_UP_SECONDS);
    for (let pass = 0; pass < WARM_UP_PASSES[this.run.guest]; pass++) {
      for (const [key, { case: each, family }] of distinct) {
        try {
          const { values } = await this.measureOne(each, family, seconds);
          if (pass === 0) this.cold.set(key, coldCosts(values));
        } catch {
          // It fails once more in its place, and says why there.
        }
        await sleep(SETTLE_MS);
      }
    }
  }

  /** @throws Error when the case fails. */
  async measure(each: Case, family: Family, seconds = this.run.seconds ?? defaultSeconds(each)): Promise<Measured> {
    const { values, calls } = await this.measureOne(each, family, seconds);
    return { values: { ...values, ...this.cold.get(coldKey(each, family)) }, calls };
  }

  private measureOne(each: Case, family: Family, seconds: number): Promise<Measured> {
    const target = this.guest.target?.(family) ?? this.lab.target(family);
    switch (each.kind) {
      case 'bulk':
        return this.bulk(each, `${target} ${String(seconds)} ${String(each.streams)}`, seconds);
      case 'datagrams':
        return this.datagrams(each, target, seconds);
      case 'request-response': {
        const verb = each.protocol === 'tcp' ? 'rr' : 'udp-rr';
        const client = `${verb} ${target} ${String(seconds)} ${String(each.bytes)}`;
        return each.loaded === true ? this.besideBulk(client, target, seconds) : this.transactions(client, seconds);
      }
      case 'connect-request-close':
        return this.transactions(`crr ${target} ${String(seconds)}`, seconds);
      case 'idle':
        return this.besideIdle(each, target, seconds);
      case 'long-path':
        return this.longPath(each, seconds);
      case 'start':
      case 'beside':
      case 'command':
      case 'packets':
        throw new Error(`${each.name} needs no guest`);
    }
  }

  private async bulk(each: Pick<BulkCase, 'direction'>, client: string, seconds: number): Promise<Measured> {
    // In the same second as what is divided by it: the machine's speed changes.
    const limit = await this.lab.memcpyRate();
    const { fields, cpu, guestCpu, counts, calls } = await this.watched(`${each.direction} ${client}`, 'bulk', seconds);
    const bytes = Number(fields.bytes);
    return {
      values: {
        gbits: (bytes * 8) / Number(fields.seconds) / GIGA,
        memcpyPercent: (bytes / Number(fields.seconds) / limit) * 100,
        ...(cpu === null ? {} : { cpuPerGigabyte: cpu / (bytes / GIGA) }),
        guestCpuPerGigabyte: guestCpu / (bytes / GIGA),
        ...counts,
      },
      calls: perUnit(calls, bytes / MEGA),
    };
  }

  private async datagrams(each: DatagramCase, target: string, seconds: number): Promise<Measured> {
    const size = `${String(each.bytes)} ${String(each.rate)}`;
    const client = `udp-${each.direction} ${target} ${String(seconds)} ${size}`;
    const { fields, cpu, counts, calls } = await this.watched(client, 'datagrams', seconds);
    const received = Number(fields.received);
    return {
      values: {
        packetsPerSecond: received / Number(fields.seconds),
        lossPercent: (1 - received / Number(fields.sent)) * 100,
        // Only a guest without a queue of its own in front of the ring knows what the back-end took.
        ...(this.run.guest === 'bare' && each.direction === 'up'
          ? { takenPerSecond: Number(fields.sent) / seconds }
          : {}),
        ...(cpu === null ? {} : { cpuPerPackets: cpu / (received / HUNDRED_THOUSAND) }),
        ...(counts.interrupts === undefined ? {} : { interrupts: counts.interrupts }),
      },
      calls: perUnit(calls, received / THOUSAND),
    };
  }

  /** With the same by itself before it, which is what it is compared with. */
  private async besideBulk(client: string, target: string, seconds: number): Promise<Measured> {
    const idle = await this.transactions(client, seconds);
    const { values, calls } = await this.transactions(client, seconds, { target, seconds });
    return { values: { ...values, timesIdle: (values.p50 ?? NaN) / (idle.values.p50 ?? NaN) }, calls };
  }

  private async transactions(client: string, seconds: number, load?: ClientCall['load']): Promise<Measured> {
    const { fields, cpu, counts, calls } = await this.watched(client, 'transactions', seconds, load);
    const count = Number(fields.count);
    return {
      values: {
        perSecond: count / Number(fields.seconds),
        p50: Number(fields.p50),
        p99: Number(fields.p99),
        ...(cpu === null ? {} : { cpuPerTransaction: (cpu / count) * MEGA }),
        unanswered: Number(fields.lost ?? 0),
        ...counts,
      },
      calls: perUnit(calls, count),
    };
  }

  private async besideIdle(each: IdleCase, target: string, seconds: number): Promise<Measured> {
    const { flows } = each;
    if (this.bytesBeforeIdle < 0) this.bytesBeforeIdle = this.anonymous();
    const opening = `idle ${target} ${String(flows - this.idleFlows)}`;
    await this.guest.client({
      client: opening,
      result: 'idle',
      seconds: OPEN_TIMEOUT_MS / 1000,
      timeoutMs: OPEN_TIMEOUT_MS,
    });
    this.idleFlows = flows;
    const grown = this.anonymous() - this.bytesBeforeIdle;
    await sleep(SETTLE_MS);
    const { values, calls } = await this.bulk(each, `${target} ${String(seconds)}`, seconds);
    if (flows === 1) this.besideOne = values.gbits ?? 0;
    if (flows > 1 && this.besideOne > 0) values.besideOne = (values.gbits ?? 0) / this.besideOne;
    if (flows >= MIN_FLOWS_FOR_MEMORY && this.backend !== null) values.bytesPerFlow = grown / flows;
    return { values, calls };
  }

  private async longPath(each: LongPathCase, seconds: number): Promise<Measured> {
    if (!this.buffersGrown) await this.guest.growBuffers();
    this.buffersGrown = true;
    const target = await this.lab.longPath(each);
    return this.bulk(each, `${target} ${String(seconds)}`, seconds);
  }

  private anonymous(): number {
    return this.backend === null ? 0 : anonymousBytes(this.backend.pid);
  }

  /**
   * Runs one of bench-net's clients in the guest, with the back-end's CPU time and what else it cost.
   */
  private async watched(client: string, result: string, seconds: number, load?: ClientCall['load']): Promise<Watched> {
    const pid = this.backend?.pid ?? null;
    const tracer = this.run.strace && pid !== null ? await traceCalls(pid, this.lab.scratch) : null;
    const before = await this.counts();
    const cpuBefore = pid === null ? 0 : cpuSeconds(pid);
    const guestBefore = cpuSecondsUnder(this.guest.process.pid);
    let fields: ResultFields;
    let calls: Record<string, number> | undefined;
    try {
      fields = await this.guest.client({
        ...{ client, result, seconds: seconds + GRACE_MS / 1000, timeoutMs: seconds * 1000 + GRACE_MS * 2 },
        ...(load === undefined ? {} : { load }),
      });
    } finally {
      calls = await tracer?.stop();
    }
    const cpu = pid === null ? null : cpuSeconds(pid) - cpuBefore;
    const guestCpu = cpuSecondsUnder(this.guest.process.pid) - guestBefore;
    const after = await this.counts();
    const frames = after.frames === null || before.frames === null ? null : after.frames - before.frames;
    return {
      fields,
      cpu,
      guestCpu,
      counts: {
        guestRetransmits: after.retransmits - before.retransmits,
        duplicates: after.duplicates - before.duplicates,
        hostRetransmits: after.host - before.host,
        interrupts: (after.interrupts - before.interrupts) / Number(fields.seconds),
        ...(frames === null ? {} : { framesPerSecond: frames / Number(fields.seconds) }),
        ...(frames === null || cpu === null ? {} : { framesPerCpuSecond: frames / cpu }),
      },
      ...(calls === undefined ? {} : { calls }),
    };
  }

  private async counts(): Promise<GuestCounts & { readonly host: number }> {
    const host = retransmitsOf(this.lab.hostPid) + retransmitsOf(this.lab.remotePid);
    return { ...(await this.guest.counts()), host };
  }
}

function perUnit(calls: Record<string, number> | undefined, units: number): Record<string, number> | undefined {
  if (calls === undefined) return undefined;
  return Object.fromEntries(Object.entries(calls).map(([name, count]) => [name, count / units]));
}
