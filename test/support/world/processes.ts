/**
 * Child processes of the rig: each in a process group of its own, its output kept as lines, and none left behind.
 *
 * Three nets catch a process: `stop()` in the test's own clean-up; `killAll()` on the way out of the program; and for a
 * program that dies without saying so, `dieWithParent()` (PR_SET_PDEATHSIG, by util-linux's setpriv).
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { SYSTEM_PATH } from './paths';

const MAX_KEPT_LINES = 4000;
const TAIL_LINES = 60;

export interface ExitStatus {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface ManagedOptions {
  /** Also opens an IPC channel (`child.send`). */
  readonly ipc?: boolean;
  /** Descriptors of ours that it inherits, as 3, 4 … Not together with `ipc`. */
  readonly fds?: readonly number[];
  /** The number of pipes between it and us, as its 3, 4 …: `child.stdio`. Instead of `fds`. */
  readonly pipes?: number;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

const live = new Set<ManagedProcess>();

/** A running program: its lines, its end. */
export class ManagedProcess {
  readonly name: string;
  readonly child: ChildProcess;
  /** Settles when the process has ended and its output was read to the end. Never rejects. */
  readonly exited: Promise<ExitStatus>;
  /** The last lines of stdout and stderr, in the order in which they came. */
  readonly lines: string[] = [];
  private readonly events = new EventEmitter();
  private status: ExitStatus | null = null;
  /** Lines dropped from the front of `lines`. */
  private dropped = 0;

  constructor(name: string, argv: readonly string[], options: ManagedOptions = {}) {
    this.name = name;
    this.events.setMaxListeners(50);
    const [file, ...args] = argv;
    this.child = spawn(file, args, {
      stdio: [
        'pipe',
        'pipe',
        'pipe',
        ...(options.ipc === true ? ['ipc' as const] : (options.fds ?? Array<'pipe'>(options.pipes ?? 0).fill('pipe'))),
      ],
      detached: true,
      cwd: options.cwd,
      env: { ...process.env, PATH: SYSTEM_PATH, ...options.env },
    });
    // Writing to a process that has just ended is no error of ours; `exited` tells the story.
    this.child.stdin?.on('error', () => undefined);
    this.collect(this.child.stdout);
    this.collect(this.child.stderr);
    live.add(this);
    this.exited = new Promise((settle) => {
      const end = (status: ExitStatus): void => {
        if (this.status !== null) return;
        this.status = status;
        live.delete(this);
        this.events.emit('exit');
        settle(status);
      };
      this.child.once('error', (error) => {
        this.take(`${file}: ${error.message}`);
        end({ code: 127, signal: null });
      });
      this.child.once('close', (code, signal) => {
        end({ code, signal });
      });
    });
  }

  /** Null while it runs. */
  get exitStatus(): ExitStatus | null {
    return this.status;
  }

  get pid(): number {
    const { pid } = this.child;
    if (pid === undefined) throw new Error(`${this.name} did not start:\n${this.tail()}`);
    return pid;
  }

  write(text: string): void {
    this.child.stdin?.write(text);
  }

  /** Calls `listener` with every complete line from now on; returns the function that stops it. */
  onLine(listener: (line: string) => void): () => void {
    this.events.on('line', listener);
    return () => {
      this.events.off('line', listener);
    };
  }

  /** How many lines have come so far: a mark for {@link waitForLine}. */
  mark(): number {
    return this.dropped + this.lines.length;
  }

  /**
   * The first line that matches, among those kept since `since` (a {@link mark}; default: all) and those to come.
   * @throws Error with the tail of the output when the time is over or the process ends first.
   */
  waitForLine(pattern: RegExp, timeoutMs: number, since = 0): Promise<RegExpExecArray> {
    for (const line of this.lines.slice(Math.max(0, since - this.dropped))) {
      const match = pattern.exec(line);
      if (match !== null) return Promise.resolve(match);
    }
    return new Promise((settle, fail) => {
      const stop = (): void => {
        clearTimeout(timer);
        off();
        this.events.off('exit', onExit);
      };
      const onExit = (): void => {
        stop();
        fail(new Error(`${this.name} ended (${describeExit(this.status)}) before ${String(pattern)}:\n${this.tail()}`));
      };
      const timer = setTimeout(() => {
        stop();
        fail(new Error(`${this.name}: no ${String(pattern)} within ${String(timeoutMs)} ms:\n${this.tail()}`));
      }, timeoutMs);
      const off = this.onLine((line) => {
        const match = pattern.exec(line);
        if (match === null) return;
        stop();
        settle(match);
      });
      if (this.status !== null) onExit();
      else this.events.on('exit', onExit);
    });
  }

  /** Signals the whole process group. */
  kill(signal: NodeJS.Signals): void {
    if (this.status !== null || this.child.pid === undefined) return;
    try {
      process.kill(-this.child.pid, signal);
    } catch {
      // Gone already.
    }
  }

  /** Sends `signal`, then SIGKILL if that was not enough in time; waits for the end. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', timeoutMs = 5000): Promise<ExitStatus> {
    this.kill(signal);
    const timer = setTimeout(() => {
      this.kill('SIGKILL');
    }, timeoutMs);
    const status = await this.exited;
    clearTimeout(timer);
    return status;
  }

  tail(count = TAIL_LINES): string {
    return this.lines
      .slice(-count)
      .map((line) => `  ${this.name}| ${line}`)
      .join('\n');
  }

  private collect(stream: NodeJS.ReadableStream | null): void {
    if (stream === null) return;
    let partial = '';
    stream.setEncoding('utf8');
    stream.on('data', (text: string) => {
      const parts = (partial + text).split('\n');
      partial = parts.pop() ?? '';
      for (const part of parts) this.take(part);
    });
    stream.on('end', () => {
      if (partial !== '') this.take(partial);
    });
    stream.on('error', () => undefined);
  }

  private take(raw: string): void {
    const line = raw.replace(/\r/g, '');
    this.lines.push(line);
    if (this.lines.length > MAX_KEPT_LINES) {
      this.lines.splice(0, MAX_KEPT_LINES / 2);
      this.dropped += MAX_KEPT_LINES / 2;
    }
    this.events.emit('line', line);
  }
}

/** Kills whatever still runs, at once and without waiting: for `process.on('exit')`. */
export function killAll(): void {
  for (const managed of live) managed.kill('SIGKILL');
}

/** How many processes of the rig still run. */
export function liveProcesses(): readonly ManagedProcess[] {
  return [...live];
}

process.on('exit', killAll);

/** The same command, killed by the kernel when the program that started it dies. */
export function dieWithParent(argv: readonly string[]): string[] {
  return ['setpriv', '--pdeathsig', 'KILL', '--', ...argv];
}

export interface CommandResult extends ExitStatus {
  readonly output: string;
}

/** Runs a command to its end. */
export async function runCommand(argv: readonly string[], options: ManagedOptions = {}): Promise<CommandResult> {
  const managed = new ManagedProcess(argv[0] ?? '', argv, options);
  managed.child.stdin?.end();
  const status = await managed.exited;
  return { ...status, output: managed.lines.join('\n') };
}

/** Runs a command to its end. @throws Error with its output unless it exits with 0. */
export async function command(argv: readonly string[], options: ManagedOptions = {}): Promise<string> {
  const result = await runCommand(argv, options);
  if (result.code !== 0) throw new Error(`${argv.join(' ')} failed (${describeExit(result)}):\n${result.output}`);
  return result.output;
}

export function describeExit(status: ExitStatus | null): string {
  if (status === null) return 'running';
  return status.signal ?? `status ${String(status.code)}`;
}

/**
 * Asks again until the answer is neither null nor undefined. For the few things that cannot be awaited as an event (a
 * file of another process, a counter).
 * @throws Error when the time is over.
 */
export async function poll<T>(
  what: string,
  ask: () => Promise<T | null | undefined> | T | null | undefined,
  timeoutMs: number,
  everyMs = 50,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer !== null && answer !== undefined) return answer;
    if (Date.now() > deadline) throw new Error(`${what}: not within ${String(timeoutMs)} ms`);
    await new Promise((settle) => setTimeout(settle, everyMs));
  }
}
