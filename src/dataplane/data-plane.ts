/**
 * The control plane's handle on the data plane: the worker's life, and `VhostDevice` as commands to it.
 *
 * Theory of operation. Every command has a number; the worker answers in order. State that a new worker would need
 * (features, memory, running rings, log) is mirrored here before a command goes out, so that a worker that dies is
 * replaced by one that gets the same rings: the guest loses its connections, never its link. A worker that keeps
 * dying is given up with an error, which ends the service.
 *
 * A thread takes as long to boot as the program itself, so it is launched first and told its set-up later; commands that
 * come before it is ready wait in `pending`.
 */
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { loadNative } from '../native';
import type { Native } from '../native';
import { readableStack } from '../stack-trace';
import type { ForwardListener, StackConfig } from '../stack/config';
import type { DeviceMemoryRegion, DeviceRing, DirtyLog, VhostDevice } from '../vhost/device';
import type { StreamDevice, StreamEnd } from '../stream/device';
import { BASE_FROM_USED_INDEX } from './commands';
import type { Command, LinkKind, WorkerGate, WorkerMessage, WorkerSetup } from './commands';
import { offeredFeatures } from './features';

/** What a worker is told before it begins. */
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
}

export interface DataPlaneOptions {
  /** Default: vhost-user. */
  readonly link?: LinkKind;
  readonly log: (level: 'trace' | 'debug' | 'info' | 'warn' | 'error', message: string) => void;
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

/** A worker that boots, or waits at its gate. */
interface Booted {
  readonly worker: Worker;
  readonly gate: Int32Array;
  /** Settles when its loop runs. */
  readonly ready: Promise<void>;
}

interface Pending {
  readonly command: Command;
  readonly resolve: (value: number) => void;
  /** Call descriptor that the command takes from the worker, -1: none. */
  readonly takesCall: number;
  readonly alarm: NodeJS.Timeout;
}

export class DataPlane implements VhostDevice, StreamDevice {
  readonly features = offeredFeatures(process.env.TUBETTI_FEATURES);
  readonly rings = 2;
  onRingFault: ((index: number, reason: string) => void) | null = null;
  onStreamEnded: ((end: StreamEnd) => void) | null = null;

  private readonly options: DataPlaneOptions;
  private readonly native: Native;
  private readonly wakeFd: number;
  /** The one that runs. */
  private worker: Worker | null = null;
  /** The one that does not run yet. */
  private booted: Booted | null = null;
  private traced: Int32Array | null = null;
  private setup: DataPlaneSetup | null = null;
  private seq = 0;
  private readonly pending = new Map<number, Pending>();
  private stopping = false;
  private readonly deaths: number[] = [];
  // Mirror of what the worker was told.
  private acked = 0n;
  private regions: readonly DeviceMemoryRegion[] = [];
  private readonly running = new Map<number, DeviceRing>();
  private dirtyLog: DirtyLog | null = null;
  private streamFd = -1;
  private neighbours: Int32Array | null = null;

  private constructor(options: DataPlaneOptions) {
    this.options = options;
    this.native = loadNative();
    this.wakeFd = this.native.eventFd(0);
    if (this.wakeFd < 0) throw new Error(`cannot make an eventfd (errno ${String(-this.wakeFd)})`);
  }

  /** Boots the worker, which then waits for `begin`. */
  static launch(options: DataPlaneOptions): DataPlane {
    const plane = new DataPlane(options);
    plane.booted = plane.boot();
    return plane;
  }

  /** `launch` and `begin` in one. */
  static async start(options: DataPlaneOptions & DataPlaneSetup): Promise<DataPlane> {
    const plane = DataPlane.launch(options);
    await plane.begin(options);
    return plane;
  }

  /** Lets the launched worker begin; settles when its loop runs. To be called once. */
  async begin(setup: DataPlaneSetup): Promise<void> {
    this.setup = setup;
    await this.spawn();
    for (const [seq, { command }] of this.pending) this.post(seq, command);
  }

  /** Ends the worker: host sockets of all flows are closed. */
  async stop(): Promise<void> {
    this.stopping = true;
    const { worker } = this;
    if (worker === null) {
      this.settle(this.takePending());
      const gone = this.booted?.worker.terminate();
      // It may sleep in its loop already, where only a wake-up lets it see that it is to end.
      this.native.signal(this.wakeFd);
      await gone;
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

  /** The host's network changed. Only after `begin`. */
  async setConfig(config: StackConfig): Promise<void> {
    if (this.setup === null) throw new Error('the data plane was not told to begin');
    this.setup = { ...this.setup, config };
    await this.send({ kind: 'config', config });
  }

  /** The host's neighbours, all of them, in the form of the stack's neighbour table. */
  async setNeighbours(entries: Int32Array): Promise<void> {
    this.neighbours = entries.slice();
    await this.send({ kind: 'neighbours', entries });
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

  async openStream(fd: number): Promise<void> {
    this.streamFd = fd;
    await this.send({ kind: 'streamOpen', fd });
  }

  async closeStream(): Promise<void> {
    this.streamFd = -1;
    await this.send({ kind: 'streamClose' });
  }

  async probeStream(): Promise<boolean> {
    return (await this.send({ kind: 'streamProbe' })) === 1;
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
    // Before the first worker runs the command waits in `pending`; between two workers the mirror covers it as well.
    if (this.worker === null) return;
    this.worker.postMessage({ seq, command });
    this.native.signal(this.wakeFd);
  }

  private async spawn(): Promise<void> {
    if (this.setup === null) throw new Error('the data plane was not told to begin');
    const booted = this.booted ?? this.boot();
    this.booted = booted;
    const { config, listeners, counters, captureFd, trace, pollUs } = this.setup;
    this.traced = trace === true ? new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)) : null;
    const setup: WorkerSetup = {
      link: this.options.link ?? 'vhost-user',
      config,
      listeners,
      counters,
      captureFd: captureFd ?? -1,
      traced: this.traced,
      pollUs: pollUs ?? 0,
      wakeFd: this.wakeFd,
    };
    booted.worker.postMessage(setup);
    Atomics.store(booted.gate, 0, 1);
    Atomics.notify(booted.gate, 0);
    await booted.ready;
  }

  private boot(): Booted {
    const gate = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
    const worker = new Worker(this.options.workerFile ?? join(__dirname, 'worker.js'), {
      workerData: { gate } satisfies WorkerGate,
      name: 'tubetti-dataplane',
    });
    const ready = new Promise<void>((resolve, reject) => {
      let running = false;
      let failure: Error | null = null;
      worker.on('message', (message: WorkerMessage) => {
        if (message.kind === 'ready') {
          running = true;
          this.booted = null;
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
        if (running) {
          this.onExit(failure);
          return;
        }
        this.booted = null;
        reject(failure ?? new Error('the data plane ended before it was ready'));
      });
    });
    // Whoever begins hears of it; a launch that is called off has nobody to tell.
    ready.catch(() => undefined);
    return { worker, gate, ready };
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
      case 'streamEnded':
        this.endStream(message.end);
        return;
      case 'trace':
        for (const line of message.lines) this.options.log('trace', line);
        if (this.traced !== null) Atomics.add(this.traced, 0, message.lines.length);
        return;
      case 'log':
        this.options.log(message.level, message.message);
    }
  }

  private endStream(end: StreamEnd): void {
    this.streamFd = -1;
    this.onStreamEnded?.(end);
  }

  private onExit(failure: Error | null): void {
    if (this.stopping) {
      this.settle(this.takePending());
      return;
    }
    const why = failure === null ? 'it ended by itself' : readableStack(failure);
    const now = Date.now();
    this.deaths.push(now);
    while (this.deaths.length > 0 && now - this.deaths[0] > RESTART_WINDOW_MS) this.deaths.shift();
    if (this.deaths.length > MAX_RESTARTS) {
      this.settle(this.takePending());
      this.options.onFatal?.(new Error(`the data plane keeps failing: ${why}`));
      return;
    }
    // Where in its stream of bytes the dead worker was, nobody knows: the client must begin a new one.
    if (this.streamFd >= 0) this.endStream({ reason: 'failed', detail: 'the data plane failed' });
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
    if (this.neighbours !== null) void this.send({ kind: 'neighbours', entries: this.neighbours });
    void this.send({ kind: 'features', features: this.acked });
    void this.send({ kind: 'memory', regions: this.regions });
    void this.send({ kind: 'log', log: this.dirtyLog });
    if (this.streamFd >= 0) void this.send({ kind: 'streamOpen', fd: this.streamFd });
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
