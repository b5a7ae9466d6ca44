/**
 * The back-end under test: a socket of a running process, or a command that is started for each check. Only that socket
 * is connected to, and only processes started here are ended.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { lstatSync, unlinkSync } from 'node:fs';
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import type { Native } from '../native';
import { Failure } from './check';
import { ConnectionClosed } from './raw-front-end';
import { Session, type SessionOptions } from './session';

const { EAGAIN, ECONNREFUSED, ENOENT } = constants.errno;

/** Kept of what the command writes, and shown where it died: characters. */
const KEPT_OUTPUT = 2000;
const SHOWN_OUTPUT = 120;

/** How the command ended. */
export interface Ended {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** A word for the shell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Removes what the command before has left there, if it is a socket. */
function removeSocket(path: string): void {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() === true) unlinkSync(path);
}

export class Target {
  readonly path: string;
  readonly spawned: boolean;
  private readonly native: Native;
  private readonly timeoutMs: number;
  private readonly command: string;
  private child: ChildProcess | null = null;
  private ended: Ended | null = null;
  private output = '';

  /** `command`: null, or what to run, "{}" being the socket. */
  constructor(native: Native, path: string, timeoutMs: number, command: string | null) {
    this.native = native;
    this.path = path;
    this.timeoutMs = timeoutMs;
    this.spawned = command !== null;
    this.command = command ?? '';
  }

  /** How the command ended without our doing since its last start; null: it runs, or there is none. */
  howEnded(): Ended | null {
    return this.ended;
  }

  /** The last line that the command wrote, or its beginning. */
  get lastWords(): string {
    return (this.output.trim().split('\n').at(-1) ?? '').slice(0, SHOWN_OUTPUT);
  }

  /** Starts the command, if there is one and it does not run. */
  start(): void {
    if (!this.spawned || (this.child !== null && this.ended === null)) return;
    removeSocket(this.path);
    this.ended = null;
    this.output = '';
    const command = this.command.includes('{}')
      ? this.command.replaceAll('{}', quoted(this.path))
      : `${this.command} ${quoted(this.path)}`;
    const child = spawn('/bin/sh', ['-c', `exec ${command}`], { stdio: ['ignore', 'pipe', 'pipe'] });
    const keep = (chunk: Buffer): void => {
      this.output = (this.output + chunk.toString('latin1')).slice(-KEPT_OUTPUT);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.on('exit', (status, signal) => {
      if (this.child === child) this.ended = { status, signal };
    });
    child.on('error', () => {
      if (this.child === child) this.ended = { status: 127, signal: null };
    });
    this.child = child;
  }

  /**
   * Connects and asks GET_FEATURES. A back-end that still ends the former session, or starts, is waited for, up to
   * `waitMs`. Rejects with `Failure` if it does not answer.
   */
  async open(options: SessionOptions = {}, waitMs = this.timeoutMs): Promise<Session> {
    const end = performance.now() + waitMs;
    let reason: string;
    for (;;) {
      if (this.ended !== null) throw new Failure(`the back-end ended${describeEnd(this.ended)}: ${this.lastWords}`);
      const fd = this.native.unixConnect(this.path);
      if (fd >= 0) {
        try {
          return await Session.begin(this.native, fd, this.timeoutMs, options);
        } catch (error) {
          if (!(error instanceof ConnectionClosed)) throw error;
          reason = 'the connection is closed at once';
        }
      } else if (fd === -ENOENT || fd === -ECONNREFUSED || fd === -EAGAIN) reason = getSystemErrorName(fd);
      else throw new Failure(`cannot connect: ${getSystemErrorName(fd)}`);
      if (performance.now() >= end) throw new Failure(`cannot connect within ${waitMs} ms: ${reason}`);
      await pause(5);
    }
  }

  /** Settles soon after a process that is about to end has ended. */
  async settle(graceMs: number): Promise<void> {
    if (!this.spawned) return;
    const end = performance.now() + graceMs;
    while (this.ended === null && performance.now() < end) await pause(5);
  }

  /** Ends the command. */
  async stop(): Promise<void> {
    const child = this.child;
    this.child = null;
    if (child?.exitCode !== null || child.signalCode !== null) return;
    const exit = new Promise<void>((resolve) =>
      child.once('exit', () => {
        resolve();
      }),
    );
    child.kill('SIGTERM');
    const killer = setTimeout(() => child.kill('SIGKILL'), this.timeoutMs);
    await exit;
    clearTimeout(killer);
  }
}

/** " by signal SIGSEGV", " with status 1". */
export function describeEnd({ status, signal }: Ended): string {
  if (signal !== null) return ` by signal ${signal}`;
  return ` with status ${String(status)}`;
}
