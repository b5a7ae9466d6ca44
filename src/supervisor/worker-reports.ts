/**
 * What a worker tells people: lines for the log and of `--trace`, names and addresses of the guest's. It queues no more of each
 * than its count says were taken here (dataplane/line-queue.ts), so that a slow log holds up nothing and costs no memory. Counts
 * are a worker's own: a new one begins with new ones.
 */
import type { WorkerMessage } from '../dataplane/commands';
import { newCount } from '../dataplane/line-queue';
import type { DataPlaneOptions, DataPlaneSetup } from './setup';

/** Those of its messages that are for people. */
export type WorkerReport = Extract<WorkerMessage, { readonly kind: 'trace' | 'log' | 'name' | 'address' }>;

export class WorkerReports {
  /** Lines of `--trace` that are in the log; null: it was not given. */
  traced: Int32Array | null = null;
  /** Lines of the worker's that are in the log. */
  logged = newCount();
  /** Names of the worker's that were heard. */
  named = newCount();
  /** Addresses of the guest's that were heard. */
  addressed = newCount();
  private readonly log: DataPlaneOptions['log'];
  private setup: DataPlaneSetup | null = null;

  constructor(log: DataPlaneOptions['log']) {
    this.log = log;
  }

  /** A worker begins. */
  begin(setup: DataPlaneSetup): void {
    this.setup = setup;
    this.logged = newCount();
    this.named = newCount();
    this.addressed = newCount();
    this.traced = setup.trace === true ? newCount() : null;
  }

  take(report: WorkerReport): void {
    switch (report.kind) {
      case 'name':
        this.setup?.onName?.(report.name, report.address);
        Atomics.add(this.named, 0, 1);
        return;
      case 'address':
        this.setup?.onAddress?.(report.news);
        Atomics.add(this.addressed, 0, 1);
        return;
      case 'trace':
        this.missed('trace', 'trace lines', report.leftOut, 'data-plane.trace');
        for (const line of report.lines) this.log('trace', line);
        if (this.traced !== null) Atomics.add(this.traced, 0, report.lines.length);
        return;
      case 'log':
        this.missed('warn', 'log lines', report.leftOut, 'data-plane.lines');
        this.log(report.level, report.message);
        Atomics.add(this.logged, 0, 1);
    }
  }

  private missed(level: 'trace' | 'warn', what: string, leftOut: number, site: string): void {
    if (leftOut > 0) this.log(level, `${what} lost because the log was too slow: ${leftOut}`, site);
  }
}
