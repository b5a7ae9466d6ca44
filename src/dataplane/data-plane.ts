/**
 * The control plane's handle on the data plane: the worker's life, and `VhostDevice` as commands to it.
 *
 * Theory of operation. Every command has a number; the worker answers in order. State that a new worker would need
 * (features, memory, running rings, log) is mirrored here before a command goes out, so that a worker that dies is
 * replaced by one that gets the same rings: the guest loses its connections, never its link. A worker that keeps
 * dying is given up with an error, which ends the service.
 */
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { loadNative } from '../native';
import type { Native } from '../native';
import type { ForwardListener, StackConfig } from '../stack/config';
import type { DeviceMemoryRegion, DeviceRing, DirtyLog, VhostDevice } from '../vhost/device';
import { BASE_FROM_USED_INDEX } from './commands';
import type { Command, WorkerMessage, WorkerSetup } from './commands';
import { offeredFeatures } from './features';

export interface DataPlaneOptions {
  readonly config: StackConfig;
  readonly listeners: readonly ForwardListener[];
  /** COUNTERS Float64 elements. */
  readonly counters: SharedArrayBuffer;
  readonly log: (level: 'debug' | 'info' | 'warn' | 'error', message: string) => void;
  /** Called once if the data plane cannot be kept alive. */
  readonly onFatal?: (error: Error) => void;
  /** The worker's script; another one in tests. */
  readonly workerFile?: string;
}

/** More restarts than this within RESTART_WINDOW_MS end the service. */
const MAX_RESTARTS = 5;
const RESTART_WINDOW_MS = 10_000;

/** A worker that owes an answer for so long may hang in a notification. */
const UNBLOCK_MS = 1000;

const USED_IDX = 2;

interface Pending {
  readonly command: Command;
  readonly resolve: (value: number) => void;
  /** Call descriptor that the command takes from the worker, -1: none. */
  readonly takesCall: number;
  readonly alarm: NodeJS.Timeout;
}

export class DataPlane implements VhostDevice {
  readonly features = offeredFeatures(process.env.TUBETTI_FEATURES);
  readonly rings = 2;
  onRingFault: ((index: number, reason: string) => void) | null = null;

  private readonly options: DataPlaneOptions;
  private readonly native: Native;
  private readonly wakeFd: number;
  private worker: Worker | null = null;
  private seq = 0;
  private readonly pending = new Map<number, Pending>();
  private stopping = false;
  private readonly deaths: number[] = [];
  // Mirror of what the worker was told.
  private acked = 0n;
  private regions: readonly DeviceMemoryRegion[] = [];
  private readonly running = new Map<number, DeviceRing>();
  private dirtyLog: DirtyLog | null = null;

  private constructor(options: DataPlaneOptions) {
    this.options = options;
    this.native = loadNative();
    this.wakeFd = this.native.eventFd(0);
    if (this.wakeFd < 0) throw new Error(`cannot make an eventfd (errno ${String(-this.wakeFd)})`);
  }

  /** Starts the worker; settles when its loop runs. */
  static async start(options: DataPlaneOptions): Promise<DataPlane> {
    const plane = new DataPlane(options);
    await plane.spawn();
    return plane;
  }

  /** Ends the worker: host sockets of all flows are closed. */
  async stop(): Promise<void> {
    this.stopping = true;
    const { worker } = this;
    if (worker === null) {
      this.settle(this.takePending());
      return;
    }
    const exited = new Promise<void>((resolve) => {
      worker.once('exit', () => {
        resolve();
      });
    });
    void this.send({ kind: 'stop' });
    await exited;
    this.native.close(this.wakeFd);
  }

  attach(): void {
    // Nothing to do: rings and memory say all there is.
  }

  async detach(): Promise<void> {
    await this.setLog(null);
    await this.setMemory([]);
  }

  async setFeatures(features: bigint): Promise<void> {
    this.acked = features;
    await this.send({ kind: 'features', features });
  }

  async setMemory(regions: readonly DeviceMemoryRegion[]): Promise<void> {
    this.regions = regions;
    await this.send({ kind: 'memory', regions });
  }

  async startRing(ring: DeviceRing): Promise<void> {
    this.running.set(ring.index, ring);
    await this.send({ kind: 'startRing', ring });
  }

  async stopRing(index: number): Promise<number> {
    const base = this.send({ kind: 'stopRing', index });
    return base.then((value) => {
      this.running.delete(index);
      return value;
    });
  }

  async setRingEnabled(index: number, enabled: boolean): Promise<void> {
    this.change(index, { enabled });
    await this.send({ kind: 'enable', index, enabled });
  }

  async setRingCall(index: number, callFd: number): Promise<void> {
    const takesCall = this.running.get(index)?.callFd ?? -1;
    this.change(index, { callFd });
    await this.send({ kind: 'call', index, fd: callFd }, takesCall);
  }

  async setRingKick(index: number, kickFd: number): Promise<void> {
    this.change(index, { kickFd });
    await this.send({ kind: 'kick', index, fd: kickFd });
  }

  setRingErr(index: number, errFd: number): Promise<void> {
    this.change(index, { errFd }); // the session signals it
    return Promise.resolve();
  }

  async setRingLog(index: number, logAddr: number): Promise<void> {
    this.change(index, { logAddr });
    await this.send({ kind: 'logRing', index, logAddr });
  }

  async setLog(log: DirtyLog | null): Promise<void> {
    this.dirtyLog = log;
    await this.send({ kind: 'log', log });
  }

  async resetDevice(): Promise<void> {
    await this.send({ kind: 'reset' });
  }

  private change(index: number, fields: Partial<DeviceRing>): void {
    const ring = this.running.get(index);
    if (ring !== undefined) this.running.set(index, { ...ring, ...fields });
  }

  private send(command: Command, takesCall = -1): Promise<number> {
    return new Promise((resolve) => {
      const seq = ++this.seq;
      const alarm = setInterval(() => {
        this.unblock();
      }, UNBLOCK_MS);
      this.pending.set(seq, { command, resolve, takesCall, alarm });
      this.post(seq, command);
    });
  }

  /**
   * A front-end may clear O_NONBLOCK of a call eventfd and fill its counter: then the worker's next notification waits
   * (see Native.notify). Emptied from here, it goes on; and nothing is lost, as the eventfd is rung again.
   */
  private unblock(): void {
    for (const { callFd } of this.running.values()) this.empty(callFd);
    for (const { takesCall } of this.pending.values()) this.empty(takesCall);
  }

  private empty(fd: number): void {
    if (fd >= 0 && this.native.drain(fd) > 0) this.native.signal(fd);
  }

  private post(seq: number, command: Command): void {
    // Between two workers the command waits in `pending`: the mirror covers it when the next one starts.
    if (this.worker === null) return;
    this.worker.postMessage({ seq, command });
    this.native.signal(this.wakeFd);
  }

  private spawn(): Promise<void> {
    const setup: WorkerSetup = {
      config: this.options.config,
      listeners: this.options.listeners,
      counters: this.options.counters,
      wakeFd: this.wakeFd,
    };
    return new Promise((resolve, reject) => {
      const worker = new Worker(this.options.workerFile ?? join(__dirname, 'worker.js'), {
        workerData: setup,
        name: 'tubetti-dataplane',
      });
      let ready = false;
      let failure: Error | null = null;
      worker.on('message', (message: WorkerMessage) => {
        if (message.kind === 'ready') {
          ready = true;
          this.worker = worker;
          resolve();
        } else {
          this.onMessage(message);
        }
      });
      worker.on('error', (error: unknown) => {
        failure = error instanceof Error ? error : new Error(String(error));
      });
      worker.on('exit', () => {
        if (this.worker === worker) this.worker = null;
        if (!ready) reject(failure ?? new Error('the data plane ended before it was ready'));
        else this.onExit(failure);
      });
    });
  }

  private onMessage(message: Exclude<WorkerMessage, { kind: 'ready' }>): void {
    switch (message.kind) {
      case 'done': {
        const entry = this.pending.get(message.seq);
        if (entry === undefined) return;
        this.pending.delete(message.seq);
        clearInterval(entry.alarm);
        entry.resolve(message.value);
        return;
      }
      case 'fault':
        this.onRingFault?.(message.index, message.reason);
        return;
      case 'log':
        this.options.log(message.level, message.message);
    }
  }

  private onExit(failure: Error | null): void {
    if (this.stopping) {
      this.settle(this.takePending());
      return;
    }
    const why = failure === null ? 'it ended by itself' : (failure.stack ?? failure.message);
    const now = Date.now();
    this.deaths.push(now);
    while (this.deaths.length > 0 && now - this.deaths[0] > RESTART_WINDOW_MS) this.deaths.shift();
    if (this.deaths.length > MAX_RESTARTS) {
      this.settle(this.takePending());
      this.options.onFatal?.(new Error(`the data plane keeps failing: ${why}`));
      return;
    }
    this.options.log('error', `data plane failed, starting another (the guest's connections are lost): ${why}`);
    this.spawn().then(
      () => {
        this.replay();
      },
      (error: unknown) => {
        this.options.onFatal?.(error instanceof Error ? error : new Error(String(error)));
      },
    );
  }

  /** Gives a new worker the state of the old one, then settles what the old one left unanswered. */
  private replay(): void {
    const unanswered = this.takePending();
    const stopped = new Set<number>();
    for (const { command } of unanswered) if (command.kind === 'stopRing') stopped.add(command.index);
    void this.send({ kind: 'features', features: this.acked });
    void this.send({ kind: 'memory', regions: this.regions });
    void this.send({ kind: 'log', log: this.dirtyLog });
    for (const ring of this.running.values()) {
      if (!stopped.has(ring.index))
        void this.send({ kind: 'startRing', ring: { ...ring, base: BASE_FROM_USED_INDEX } });
    }
    this.settle(unanswered);
  }

  private takePending(): Pending[] {
    const entries = [...this.pending.values()];
    for (const { alarm } of entries) clearInterval(alarm);
    this.pending.clear();
    return entries;
  }

  /** Answers for a worker that is gone: what its commands changed is in the mirror. */
  private settle(entries: readonly Pending[]): void {
    for (const { command, resolve } of entries) {
      resolve(command.kind === 'stopRing' ? this.usedIndex(command.index) : 0);
    }
  }

  /** used.idx of a ring from guest memory: how far a worker came that cannot tell any more. */
  private usedIndex(index: number): number {
    const ring = this.running.get(index);
    const region = this.regions.find((r) => r.region === ring?.used.region);
    if (ring === undefined || region === undefined) return 0;
    return Atomics.load(new Uint16Array(region.buffer, ring.used.offset + USED_IDX, 1), 0);
  }
}
