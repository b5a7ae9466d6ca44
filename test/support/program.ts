/** The program as its callers run it: once to its end, or until it said something. Needs a build (dist/, the addon). */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { symlinkSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';

const ROOT = join(__dirname, '..', '..');

/** What people run. It takes the Node that runs the tests. */
export const BIN = join(ROOT, 'bin', 'tubetti');
process.env.TUBETTI_NODE ??= process.execPath;

/** The script that Node runs in the end. */
export const SCRIPT = join(ROOT, 'bin', 'tubetti.js');
export const LAUNCHER = join(ROOT, 'build', 'Release', 'tubetti-launch');

/** What BIN executes, with `nodeOptions` in front of the script. */
export function launched(...nodeOptions: string[]): [string, ...string[]] {
  return [LAUNCHER, BIN, process.execPath, ...nodeOptions, SCRIPT];
}

/** The service by way of its launcher, without the shell that finds it. */
export const PROGRAM = launched();

/** Keeps a test's service the test's user: root would become nobody, who may not touch the test's folder. */
export const SAME_USER = ['--runas', `${process.getuid?.() ?? 0}:${process.getgid?.() ?? 0}`];

export interface Result {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs it to its end. */
export function runOnce(argv: readonly string[], env: NodeJS.ProcessEnv = {}): Result {
  const [file, ...before] = PROGRAM;
  const { status, stdout, stderr } = spawnSync(file, [...before, ...argv], {
    encoding: 'utf8',
    timeout: 20_000,
    env: { ...process.env, ...env },
  });
  return { status, stdout, stderr };
}

/** A symbolic link to the program in `dir`, as an administrator would make it. */
export function linkAs(dir: string, name: string): string {
  const path = join(dir, name);
  symlinkSync(BIN, path);
  return path;
}

export interface Called extends Result {
  readonly signal: NodeJS.Signals | null;
}

/**
 * Calls `program` and waits until it has exited *and* all ends of the streams it was given are closed: as a caller
 * does that reads a pipe to its end. `extra` are its descriptors from 3 on ('pipe': one that it should not keep).
 */
export function call(
  program: string,
  argv: readonly string[],
  extra: readonly (number | 'pipe')[] = [],
): Promise<Called> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, argv, { stdio: ['pipe', 'pipe', 'pipe', ...extra] });
    let stdout = '';
    let stderr = '';
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk));
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
    for (const stream of child.stdio.slice(3)) stream?.on('error', () => undefined).on('data', () => undefined);
    child.on('error', reject);
    child.on('close', (status, signal) => {
      resolve({ status, signal, stdout, stderr });
    });
  });
}

export interface Running {
  readonly child: ChildProcess;
  readonly stderr: () => string;
  /** Settles when `pattern` was said; rejects if the program ends before. */
  readonly says: (pattern: RegExp) => Promise<RegExpExecArray>;
  readonly exit: Promise<{ status: number | null; signal: string | null }>;
}

/** Starts it and leaves it running. `extra` are its descriptors from 3 on. */
export function launchProgram(
  command: readonly string[],
  env: NodeJS.ProcessEnv = {},
  extra: readonly number[] = [],
): Running {
  const child = spawn(command[0], command.slice(1), {
    stdio: ['ignore', 'inherit', 'pipe', ...extra],
    env: { ...process.env, ...env },
  });
  let text = '';
  const waiting = new Set<() => void>();
  const exit = new Promise<{ status: number | null; signal: string | null }>((resolve) => {
    child.on('close', (status, signal) => {
      resolve({ status, signal });
    });
  });
  child.stderr?.setEncoding('utf8');
  child.stderr?.on('data', (chunk: string) => {
    text += chunk;
    for (const check of waiting) check();
  });
  const says = (pattern: RegExp): Promise<RegExpExecArray> =>
    new Promise((resolve, reject) => {
      const check = (): void => {
        const match = pattern.exec(text);
        if (match === null) return;
        waiting.delete(check);
        resolve(match);
      };
      waiting.add(check);
      check();
      void exit.then(({ status }) => {
        reject(new Error(`ended with ${String(status)} before it said ${String(pattern)}:\n${text}`));
      });
    });
  return { child, stderr: () => text, says, exit };
}

/** Connects to a unix socket. */
export function connected(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path, () => {
      resolve(socket);
    });
    socket.on('error', reject);
  });
}
