/**
 * The control plane's handle on the data plane: the worker's life. The commands to it are of front-ends (mirrored-device.ts)
 * and of the host's side (host-orders.ts).
 *
 * Theory of operation. Every command has a number; the worker answers in order. State that a new worker would need is
 * mirrored (device-mirror.ts) before a command goes out, so that a worker that dies is replaced by one that gets the
 * same rings: the guest loses its connections, never its link. What a death costs besides is restart-policy.ts's to
 * say.
 *
 * A worker dies by itself (an exception, no heap left) or is given up: the watchdog (addon/watchdog.cc) saw that it
 * does not come round, or a command was not answered in time (pending-commands.ts). One that was given up has
 * OLD_GONE_MS to go before the next one has its rings; a thread in a system call may take longer, and is left behind as
 * a stray. There are MAX_STRAYS of them at most, then the service ends.
 *
 * Every promise of this class settles: by an answer, by a death, by the end. Nothing waits for a worker without a
 * deadline.
 */
import { type Native, loadNative, WATCHDOG_HUNG } from '../native';
import { startedForDebugger } from '../debugged';
import { NO_RATES } from '../stack/config';
import { C_STARVED_SINCE, C_STARVED_US, FLOW_GAUGES } from '../stack/counters';
import type { StreamEnd } from '../stream/device';
import type { Layer } from '../sandbox/layer';
import { dataPlaneProgram, type Filters } from '../sandbox/seccomp';
import { type CaptureEnd, CONFINED, type Command, LOOK_GONE, type WorkerSetup } from '../dataplane/commands';
import { type DataPlaneOptions, type DataPlaneSetup, DEATHS, NO_POLICY, OF_HOST, RESTARTS } from './setup';
import { HostOrders } from './host-orders';
import { PendingCommands } from './pending-commands';
import { RestartPolicy, SESSION_DEATHS } from './restart-policy';
import { Watchdog } from './watchdog';
import { WorkerReports } from './worker-reports';
import { type WorkerEnd, type WorkerEvent, within, WorkerHandle } from './worker-handle';

export type { DataPlaneOptions, DataPlaneSetup };

/** Time for a worker that was told to stop, and again for one that was terminated. */
const STOP_MS = 1000;
/** Time for the thread of a worker that was given up, before another one has its rings. */
const OLD_GONE_MS = 200;
/** Time from an open gate to a running loop. */
const BEGIN_MS = 10_000;
/** Threads that were given up and have not ended. */
const MAX_STRAYS = 3;

/** Of the commands that a worker left unanswered those that its successor needs: they may have missed its set-up. */
function saidAgain(unanswered: readonly Command[]): Command[] {
  const of = (kind: Command['kind']): Command[] => unanswered.filter((command) => command.kind === kind);
  // The last configuration, policy and rates are in force; of the others all, in order: doing one twice does no harm.
  const last = (kind: Command['kind']): Command[] => of(kind).slice(-1);
  return [...of('forward'), ...of('bypass'), ...last('rates'), ...last('policy'), ...last('config'), ...of('confine')];
}

/** Settles the promise of `begin`. */
interface Beginning {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class DataPlane extends HostOrders {
  private readonly options: DataPlaneOptions;
  private readonly native: Native;
  private readonly wakeFd: number;
  private readonly watched = !startedForDebugger();
  private readonly watchdog: Watchdog;
  /**
   * The one that runs, or boots to run; null: there will be none any more, or a front-end's end is being worked out.
   */
  private worker: WorkerHandle | null = null;
  private readonly strays = new Set<WorkerHandle>();
  private beginning: Beginning | null = null;
  private beginTimer: NodeJS.Timeout | null = null;
  private readonly reports: WorkerReports;
  /** What workers do before they serve, once the start is over. */
  private filter: Int32Array | null = null;
  private readonly pending: PendingCommands;
  private readonly policy = new RestartPolicy();
  /** No worker is started any more. */
  private closed = false;
  private closedWhy = '';
  private stopped: Promise<void> | null = null;
  /** A capture of `startCapture` is over, but not let go of. */
  onCaptureEnded: ((id: number, end: CaptureEnd) => void) | null = null;

  private constructor(options: DataPlaneOptions) {
    super();
    this.options = options;
    this.reports = new WorkerReports(options.log);
    this.native = loadNative();
    this.wakeFd = this.native.eventFd(0);
    if (this.wakeFd < 0) throw new Error(`cannot make an eventfd (errno ${String(-this.wakeFd)})`);
    this.watchdog = new Watchdog(
      this.native,
      (message) => {
        options.log('warn', message);
      },
      (id, stage) => {
        this.onNews(id, stage);
      },
    );
    this.pending = new PendingCommands({
      waits: () => {
        this.unblock();
      },
      overdue: ({ kind }) => {
        const { worker } = this;
        if (worker?.running === true && this.watched) this.giveUp(worker, `no answer to "${kind}"`);
      },
    });
  }

  /** Boots the worker, which then waits for `begin`. */
  static launch(options: DataPlaneOptions): DataPlane {
    const plane = new DataPlane(options);
    plane.worker = plane.boot();
    return plane;
  }

  /** `launch` and `begin` in one. */
  static async start(options: DataPlaneOptions & DataPlaneSetup): Promise<DataPlane> {
    const plane = DataPlane.launch(options);
    await plane.begin(options);
    return plane;
  }

  /**
   * Lets the launched worker begin; settles when its loop runs, rejects if it does not come to that. To be called once.
   */
  begin(setup: DataPlaneSetup): Promise<void> {
    this.setup = setup;
    const { worker } = this;
    if (worker === null) return Promise.reject(new Error(this.closedWhy));
    if (this.watched) this.watchdog.start();
    return new Promise((resolve, reject) => {
      this.beginning = { resolve, reject };
      this.open(worker, setup);
    });
  }

  /**
   * Ends the worker: host sockets of all flows are closed. Settles when that is done, or when the worker has had its
   * time for it: then its thread is left to the end of the process (`Native.exitNow`).
   */
  stop(): Promise<void> {
    this.stopped ??= this.end();
    return this.stopped;
  }

  private async end(): Promise<void> {
    const { worker } = this;
    this.close('the data plane was stopped');
    if (worker !== null && !worker.isGone()) {
      if (worker.running) {
        worker.post(0, { kind: 'stop' });
        this.native.signal(this.wakeFd);
        // In a notification that blocks it would not hear of it.
        this.unblock();
        await within(worker.gone, STOP_MS);
      }
      if (!worker.isGone()) {
        worker.condemn();
        // It may sleep in its loop, where only a wake-up lets it see that it is to end.
        this.native.signal(this.wakeFd);
        this.unblock();
        await within(worker.gone, STOP_MS);
      }
      if (!worker.isGone()) {
        this.options.log('error', 'the data plane does not end: its thread is abandoned');
        return;
      }
    }
    if (this.strays.size === 0) this.native.close(this.wakeFd);
  }

  /** No worker is started from now on, and nobody is waited for. */
  private close(why: string): void {
    this.closed = true;
    this.closedWhy = why;
    this.worker = null;
    if (this.beginTimer !== null) clearTimeout(this.beginTimer);
    this.watchdog.stop();
    this.beginning?.reject(new Error(why));
    this.beginning = null;
    this.settlePending();
  }

  /**
   * The start is over, and the process's calls are filtered: those of the data plane's thread are filtered further, before
   * it is given any other command, and those of each worker that takes its place.
   */
  async confine(filters: Filters): Promise<Layer> {
    const name = 'seccomp-data-plane';
    if (filters.mode === 'off') return { name, state: 'off' };
    const made = dataPlaneProgram(filters);
    if ('why' in made) return { name, state: 'missing', why: made.why };
    this.filter = made.program;
    const answer = await this.send({ kind: 'confine', program: made.program });
    return answer === CONFINED ? { name, state: 'on' } : { name, state: 'missing', why: 'the log says why' };
  }

  protected override get workerId(): number {
    return this.worker?.id ?? 0;
  }

  protected override newSession(): void {
    super.newSession();
    this.policy.newSession();
  }

  protected send(command: Command, takesCall = -1): Promise<number> {
    const ofHost = OF_HOST.has(command.kind);
    if (this.closed || (this.failed && !ofHost)) return Promise.resolve(this.valueFor(command));
    return this.pending.add(command, takesCall, (seq) => {
      this.post(seq, command);
    });
  }

  /**
   * A front-end may clear O_NONBLOCK of a call eventfd and fill its counter: then the worker's next notification waits
   * (see Native.notify). Draining it here lets the worker continue, and no interrupt is lost: it then rings the
   * eventfd.
   */
  private unblock(): void {
    for (const { callFd } of this.mirror.rings.values()) this.empty(callFd);
    for (const callFd of this.pending.takenCalls()) this.empty(callFd);
  }

  private empty(fd: number): void {
    if (fd >= 0 && this.native.drain(fd) > 0) this.native.signal(fd);
  }

  private post(seq: number, command: Command): void {
    // Before the first worker runs the command waits in `pending`; between two workers the mirror covers it as well.
    if (this.worker?.running !== true) return;
    this.worker.post(seq, command);
    this.native.signal(this.wakeFd);
  }

  private boot(): WorkerHandle {
    return new WorkerHandle(this.native, this.options.workerFile, {
      message: (worker, message) => {
        if (worker === this.worker) this.onMessage(message);
      },
      ready: (worker) => {
        if (worker === this.worker) this.onReady();
      },
      died: (worker, end, why) => {
        if (worker === this.worker) this.onDeath(end, why);
      },
    });
  }

  /** Tells a worker that boots what it is to do. */
  private open(worker: WorkerHandle, setup: DataPlaneSetup): void {
    const {
      config,
      bypass,
      listeners,
      moreListeners,
      counters,
      captureFd,
      pollUs,
      moderation,
      policy,
      rates,
      flowEnds,
    } = setup;
    const { reports } = this;
    reports.begin(setup);
    worker.begin({
      id: worker.id,
      link: this.options.link ?? 'vhost-user',
      config,
      bypass: bypass ?? null,
      listeners,
      moreListeners: moreListeners ?? 0,
      counters,
      captureFd: captureFd ?? -1,
      traced: reports.traced,
      ends: flowEnds?.open(worker.id) ?? null,
      logged: reports.logged,
      named: setup.onName === undefined ? null : reports.named,
      addressed: setup.onAddress === undefined ? null : reports.addressed,
      pollUs: pollUs ?? 0,
      moderation: moderation ?? 'adaptive',
      policy: policy ?? NO_POLICY,
      rates: rates ?? NO_RATES,
      wakeFd: this.wakeFd,
      filter: this.filter,
    } satisfies WorkerSetup);
    this.beginTimer = setTimeout(() => {
      if (worker === this.worker && this.watched) this.giveUp(worker, 'it does not start');
    }, BEGIN_MS);
  }

  private onReady(): void {
    if (this.beginTimer !== null) clearTimeout(this.beginTimer);
    if (this.beginning === null) {
      this.replay();
      return;
    }
    this.pending.restart((seq, command) => {
      this.post(seq, command);
    });
    this.beginning.resolve();
    this.beginning = null;
  }

  private onMessage(message: WorkerEvent): void {
    switch (message.kind) {
      case 'done':
        this.pending.answer(message.seq, message.value);
        return;
      case 'ended':
        this.setup?.flowEnds?.filled();
        return;
      case 'file':
        void this.options.readFile?.(message.request).then((answer) => this.send({ kind: 'file', answer }));
        return;
      case 'fault':
        this.onRingFault?.(message.index, message.reason);
        return;
      case 'streamEnded':
        this.endStream(message.end);
        return;
      case 'captureEnded':
        this.onCaptureEnded?.(message.id, message.end);
        return;
      default:
        this.reports.take(message);
    }
  }

  private endStream(end: StreamEnd): void {
    this.mirror.streamFd = -1;
    this.onStreamEnded?.(end);
  }

  private onNews(id: number, stage: number): void {
    const { worker } = this;
    if (worker?.id !== id) return;
    if (stage === WATCHDOG_HUNG) this.giveUp(worker, 'its event loop is stuck');
    else this.unblock();
  }

  /** A worker that hangs is left to itself, and replaced. */
  private giveUp(worker: WorkerHandle, why: string): void {
    worker.condemn();
    this.native.signal(this.wakeFd); // should it sleep in its loop
    this.strays.add(worker);
    void worker.gone.then(() => this.strays.delete(worker));
    this.onDeath('hung', why, worker.gone);
  }

  /** @param gone - when the dead worker's thread is gone; undefined: it is. */
  private onDeath(end: WorkerEnd, why: string, gone?: Promise<void>): void {
    this.worker = null;
    if (this.beginTimer !== null) clearTimeout(this.beginTimer);
    const { setup, beginning } = this;
    if (setup === null || beginning !== null) {
      this.close(`${DEATHS[end]} before it was ready: ${why}`);
      return;
    }
    const counters = new Float64Array(setup.counters);
    counters[RESTARTS[end]]++;
    setup.flowEnds?.lost(FLOW_GAUGES.reduce((sum, gauge) => sum + counters[gauge], 0));
    // Its flows went with it.
    for (const gauge of FLOW_GAUGES) counters[gauge] = 0;
    const since = counters[C_STARVED_SINCE];
    counters[C_STARVED_SINCE] = 0;
    if (since !== 0) counters[C_STARVED_US] += this.native.nowUs() - since;
    const hung = end === 'hung';
    const verdict =
      this.strays.size > MAX_STRAYS ? 'give-up' : this.policy.died(this.mirror.ofFrontEnd, performance.now(), hung);
    if (verdict === 'give-up') {
      const error = new Error(`the data plane cannot be kept alive: ${DEATHS[end]}: ${why}`);
      this.close(error.message);
      this.options.onFatal?.(error);
      return;
    }
    // Where in its stream of bytes the dead worker was, nobody knows: the client must begin a new one.
    if (this.mirror.streamFd >= 0) this.endStream({ reason: 'failed', detail: 'the data plane failed' });
    // A front-end that can make one die can do so again and again: in a session of its own each time.
    this.options.log(
      'error',
      `${DEATHS[end]}, starting a new one (the guest's connections are lost): ${why}`,
      'data-plane.death',
    );
    if (verdict === 'end-session') this.endSession();
    this.options.onReplaced?.();
    void this.replace(setup, gone);
  }

  /** The front-end's state is what workers die of, it seems: it goes, and its session with it. */
  private endSession(): void {
    this.settlePending();
    this.mirror.forgetFrontEnd();
    this.failed = true;
    this.onFailed?.(new Error(`the data plane died ${SESSION_DEATHS} times with this front-end's rings`));
  }

  private async replace(setup: DataPlaneSetup, gone: Promise<void> | undefined): Promise<void> {
    let worker: WorkerHandle;
    try {
      worker = this.boot();
    } catch (error) {
      // No thread to be had is as good as one that dies at once.
      setImmediate(() => {
        if (!this.closed) this.onDeath('exit', String(error));
      });
      return;
    }
    this.worker = worker;
    if (gone !== undefined) await within(gone, OLD_GONE_MS);
    if (this.worker === worker) this.open(worker, this.setup ?? setup);
  }

  /** Gives a new worker the state of the old one, then settles what the old one left unanswered. */
  private replay(): void {
    const unanswered = this.pending.takeAll();
    const stopped = new Set<number>();
    for (const { command } of unanswered) if (command.kind === 'stopRing') stopped.add(command.index);
    const again = saidAgain(unanswered.map(({ command }) => command));
    for (const command of [...again, ...this.mirror.commands(stopped)]) {
      void this.pending.add(command, -1, (seq) => {
        this.post(seq, command);
      });
    }
    for (const { command, resolve } of unanswered) resolve(this.valueFor(command));
  }

  private settlePending(): void {
    for (const { command, resolve } of this.pending.takeAll()) resolve(this.valueFor(command));
  }

  /** Answers for a worker that is gone: what its commands changed is in the mirror. */
  private valueFor(command: Command): number {
    if (command.kind === 'flows') return LOOK_GONE;
    return command.kind === 'stopRing' ? this.mirror.usedIndex(command.index) : 0;
  }
}
