/**
 * The control plane's handle on the data plane: the worker's life, and the commands to it, those of front-ends among them
 * (mirrored-device.ts).
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
import type { ForwardListener, StackConfig } from '../stack/config';
import {
  C_DATA_PLANE_EXITS,
  C_DATA_PLANE_HANGS,
  C_DATA_PLANE_HEAPS,
  C_FLOWS_ICMP,
  C_FLOWS_TCP,
  C_FLOWS_UDP,
  C_STARVED_SINCE,
  C_STARVED_US,
} from '../stack/counters';
import type { StreamEnd } from '../stream/device';
import type { Layer, SandboxMode } from '../sandbox/layer';
import { CONFINED, type Command, type LinkKind, type ModerationLevel, type WorkerSetup } from '../dataplane/commands';
import { MirroredDevice } from './mirrored-device';
import { PendingCommands } from './pending-commands';
import { RestartPolicy, SESSION_DEATHS } from './restart-policy';
import { Watchdog } from './watchdog';
import { type WorkerEnd, type WorkerEvent, within, WorkerHandle } from './worker-handle';

/** Parameters of a worker, sent before it begins. */
export interface DataPlaneSetup {
  readonly config: StackConfig;
  readonly listeners: readonly ForwardListener[];
  /** COUNTERS Float64 elements. */
  readonly counters: SharedArrayBuffer;
  /** File with a capture's header, which takes a record for every frame; it stays the caller's. Default: none. */
  readonly captureFd?: number;
  /** A line in the log, at its level `trace`, for every frame. Default: no. */
  readonly trace?: boolean;
  /** How long to look for work before sleeping, at most, in µs. Default: not at all. With virtqueues only. */
  readonly pollUs?: number;
  /** Default: adaptive. With virtqueues only. */
  readonly moderation?: ModerationLevel;
}

export interface DataPlaneOptions {
  /** Default: vhost-user. */
  readonly link?: LinkKind;
  /** With a `site` where a front-end or guest may provoke the line: it is limited then (src/log.ts). */
  readonly log: (level: 'trace' | 'debug' | 'info' | 'warn' | 'error', message: string, site?: string) => void;
  /** Called once if the data plane cannot be kept alive. */
  readonly onFatal?: (error: Error) => void;
  /** The worker's script; another one in tests. */
  readonly workerFile?: string;
}

/** Time for a worker that was told to stop, and again for one that was terminated. */
const STOP_MS = 1000;
/** Time for the thread of a worker that was given up, before another one has its rings. */
const OLD_GONE_MS = 200;
/** Time from an open gate to a running loop. */
const BEGIN_MS = 10_000;
/** Threads that were given up and have not ended. */
const MAX_STRAYS = 3;

const RESTARTS: Readonly<Record<WorkerEnd, number>> = {
  exit: C_DATA_PLANE_EXITS,
  hung: C_DATA_PLANE_HANGS,
  heap: C_DATA_PLANE_HEAPS,
};

/** Commands that have nothing to do with the front-end. */
const OF_HOST: ReadonlySet<Command['kind']> = new Set(['config', 'neighbours', 'confine'] as const);

const DEATHS: Readonly<Record<WorkerEnd, string>> = {
  exit: 'data plane failed',
  hung: 'data plane hangs',
  heap: 'data plane is out of memory',
};

/** Settles the promise of `begin`. */
interface Beginning {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class DataPlane extends MirroredDevice {
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
  private traced: Int32Array | null = null;
  /** Lines of the worker's that are in the log. */
  private logged = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  private setup: DataPlaneSetup | null = null;
  /** What workers do before they serve, once the start is over. */
  private sandbox: SandboxMode | null = null;
  private readonly pending: PendingCommands;
  private readonly policy = new RestartPolicy();
  /** No worker is started any more. */
  private closed = false;
  private closedWhy = '';
  private stopped: Promise<void> | null = null;

  private constructor(options: DataPlaneOptions) {
    super();
    this.options = options;
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
  async confine(mode: SandboxMode): Promise<Layer> {
    const name = 'seccomp-data-plane';
    if (mode === 'off') return { name, state: 'off' };
    this.sandbox = mode;
    const answer = await this.send({ kind: 'confine', mode });
    return answer === CONFINED ? { name, state: 'on' } : { name, state: 'missing', why: 'the log says why' };
  }

  /** The host's network changed. Only after `begin`. */
  async setConfig(config: StackConfig): Promise<void> {
    if (this.setup === null) throw new Error('the data plane was not started');
    this.setup = { ...this.setup, config };
    await this.send({ kind: 'config', config });
  }

  /** The host's addresses or routes changed: connected sockets of datagrams are looked at when they are used next. */
  async hostMoved(): Promise<void> {
    await this.send({ kind: 'moved' });
  }

  /** The host's neighbours, all of them, in the form of the stack's neighbour table. */
  async setNeighbours(entries: Int32Array): Promise<void> {
    this.mirror.neighbours = entries.slice();
    await this.send({ kind: 'neighbours', entries });
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
    const { config, listeners, counters, captureFd, trace, pollUs, moderation } = setup;
    this.logged = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
    this.traced = trace === true ? new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)) : null;
    worker.begin({
      id: worker.id,
      link: this.options.link ?? 'vhost-user',
      config,
      listeners,
      counters,
      captureFd: captureFd ?? -1,
      traced: this.traced,
      logged: this.logged,
      pollUs: pollUs ?? 0,
      moderation: moderation ?? 'adaptive',
      wakeFd: this.wakeFd,
      sandbox: this.sandbox,
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
      case 'fault':
        this.onRingFault?.(message.index, message.reason);
        return;
      case 'streamEnded':
        this.endStream(message.end);
        return;
      case 'trace':
        if (message.leftOut > 0)
          this.options.log(
            'trace',
            `trace lines lost because the log was too slow: ${message.leftOut}`,
            'data-plane.trace',
          );
        for (const line of message.lines) this.options.log('trace', line);
        if (this.traced !== null) Atomics.add(this.traced, 0, message.lines.length);
        return;
      case 'log':
        if (message.leftOut > 0)
          this.options.log(
            'warn',
            `log lines lost because the log was too slow: ${message.leftOut}`,
            'data-plane.lines',
          );
        this.options.log(message.level, message.message);
        Atomics.add(this.logged, 0, 1);
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
    // Its flows went with it.
    for (const gauge of [C_FLOWS_TCP, C_FLOWS_UDP, C_FLOWS_ICMP]) counters[gauge] = 0;
    const since = counters[C_STARVED_SINCE];
    counters[C_STARVED_SINCE] = 0;
    if (since !== 0) counters[C_STARVED_US] += this.native.nowUs() - since;
    const verdict =
      this.strays.size > MAX_STRAYS ? 'give-up' : this.policy.died(this.mirror.ofFrontEnd, performance.now());
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
    if (this.worker === worker) this.open(worker, { ...setup, config: this.setup?.config ?? setup.config });
  }

  /** Gives a new worker the state of the old one, then settles what the old one left unanswered. */
  private replay(): void {
    const unanswered = this.pending.takeAll();
    const stopped = new Set<number>();
    for (const { command } of unanswered) if (command.kind === 'stopRing') stopped.add(command.index);
    const commands = this.mirror.commands(stopped);
    // Those that came after the worker's set-up was sent; the last configuration is in force.
    const confines = unanswered.filter(({ command }) => command.kind === 'confine');
    for (const { command } of confines) commands.unshift(command);
    const configs = unanswered.filter(({ command }) => command.kind === 'config');
    if (configs.length > 0) commands.unshift(configs[configs.length - 1].command);
    for (const command of commands) {
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
    return command.kind === 'stopRing' ? this.mirror.usedIndex(command.index) : 0;
  }
}
