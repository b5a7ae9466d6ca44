/**
 * One worker thread of the data plane, from its boot to its end.
 *
 * A thread takes as long to boot as the program itself, so it is launched first and gets its set-up later, at its gate.
 * One that hangs is condemned: `terminate` ends a loop in JavaScript at once, but a thread that sits in a system call
 * ends only when the call does. It is then a stray: its end is not awaited, its messages are ignored, and the addon
 * prevents its JavaScript from continuing after that call (glue.h).
 */
import { writeSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { Native } from '../native';
import { readableStack } from '../stack-trace';
import type { Command, CommandMessage, WorkerGate, WorkerMessage, WorkerSetup } from '../dataplane/commands';
import { holdYoungGeneration, letYoungGenerationGrow } from './young-generation';

/** The worker's entry: beside the bundle, or where the compiler puts modules (an installation without esbuild). */
const WORKER_FILE = join(__dirname, basename(__dirname) === 'supervisor' ? '../dataplane/worker.js' : 'worker.js');

/** Why a worker is no more: it threw or ended, did not come round or did not answer, had no memory left. */
export type WorkerEnd = 'exit' | 'hung' | 'heap';

export type WorkerEvent = Exclude<WorkerMessage, { kind: 'ready' }>;

export interface WorkerEvents {
  readonly message: (worker: WorkerHandle, message: WorkerEvent) => void;
  /** Its loop runs. */
  readonly ready: (worker: WorkerHandle) => void;
  /** Its thread ended; `why` is for people. Not called for one that was condemned or terminated. */
  readonly died: (worker: WorkerHandle, end: WorkerEnd, why: string) => void;
}

/**
 * Limit of the old generation, MiB. A data plane with all its flows has a tenth of it: tables are outside of V8's heap.
 * One that leaks dies here, and is replaced, before the host's memory is the limit.
 */
const MAX_HEAP_MIB = 128;

/** Numbers of workers are the process's: the watchdog is, too. */
let lastId = 0;

function writeToStderr(bytes: Buffer): void {
  try {
    writeSync(2, bytes);
  } catch {
    // Nobody reads it, or not now.
  }
}

export class WorkerHandle {
  readonly id = ++lastId;
  /** Settles when the thread is gone. */
  readonly gone: Promise<void>;
  /** Its loop runs. */
  running = false;

  private readonly worker: Worker;
  private readonly gate: Int32Array;
  private readonly native: Native;
  private readonly events: WorkerEvents;
  private ended = false;
  /** Nobody wants to hear of it any more. */
  private dismissed = false;

  constructor(native: Native, file: string | undefined, events: WorkerEvents) {
    this.native = native;
    this.events = events;
    this.gate = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
    letYoungGenerationGrow();
    this.worker = new Worker(file ?? WORKER_FILE, {
      workerData: { gate: this.gate } satisfies WorkerGate,
      name: 'tubetti-dataplane',
      resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MIB },
      // Else Node joins them with ours, which makes a pipe non-blocking: for the caller too, and for a namespace's command.
      stdout: true,
      stderr: true,
    });
    // The data plane writes to neither; what Node itself has to say there is not lost.
    for (const stream of [this.worker.stdout, this.worker.stderr]) stream.on('data', writeToStderr);
    let failure: unknown = null;
    this.worker.on('message', (message: WorkerMessage) => {
      this.heard(message);
    });
    this.worker.on('error', (error: unknown) => {
      failure = error;
    });
    this.gone = new Promise((resolve) => {
      this.worker.on('exit', () => {
        this.ended = true;
        this.running = false;
        resolve();
        if (!this.dismissed) this.events.died(this, endOf(failure), reasonOf(failure));
      });
    });
  }

  /** Its thread is gone. */
  isGone(): boolean {
    return this.ended;
  }

  /** Says what it is to do and opens its gate. Once. */
  begin(setup: WorkerSetup): void {
    this.worker.postMessage(setup);
    Atomics.store(this.gate, 0, 1);
    Atomics.notify(this.gate, 0);
  }

  post(seq: number, command: Command): void {
    this.worker.postMessage({ seq, command } satisfies CommandMessage);
  }

  /** Has it end at once, without a word. Its thread may take its time: see `gone`. */
  terminate(): void {
    this.dismissed = true;
    this.running = false;
    void this.worker.terminate();
  }

  /** It hangs and another takes its place. */
  condemn(): void {
    this.native.condemn(this.id); // it may be gone, or not in its loop yet
    this.terminate();
    this.worker.unref();
  }

  private heard(message: WorkerMessage): void {
    if (this.dismissed) return;
    if (message.kind !== 'ready') {
      this.events.message(this, message);
      return;
    }
    this.running = true;
    holdYoungGeneration();
    this.events.ready(this);
  }
}

/** What a thread threw comes through a message: an Error in the best case, made in whichever realm. */
function isErrorLike(failure: unknown): failure is Error {
  return typeof failure === 'object' && failure !== null && 'message' in failure && typeof failure.message === 'string';
}

function endOf(failure: unknown): WorkerEnd {
  const code = isErrorLike(failure) && 'code' in failure ? failure.code : null;
  return code === 'ERR_WORKER_OUT_OF_MEMORY' ? 'heap' : 'exit';
}

function reasonOf(failure: unknown): string {
  if (failure === null) return 'its thread exited';
  return isErrorLike(failure) ? readableStack(failure) : `it threw ${typeof failure}`;
}

/** Settles with `what`, or `ms` later. */
export async function within(what: Promise<void>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([what, late]);
  clearTimeout(timer);
}
