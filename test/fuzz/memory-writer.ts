/** The other end of flipper.ts: one process for the whole run, told where to write for each sequence. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { GuestRam } from '../support/guest/ram';
import { REPO_ROOT } from '../support/world/paths';

/** Bytes of a guest's memory, by offset in its file. */
export type Place = readonly [from: number, length: number];

export class MemoryWriter {
  private readonly child: ChildProcess;
  private readonly lines: Interface;

  constructor() {
    const hook = join(REPO_ROOT, 'scripts/lib/ts-hook.cjs');
    this.child = spawn(process.execPath, ['--require', hook, join(__dirname, 'flipper.ts')], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.child.stdin?.on('error', () => undefined);
    this.lines = createInterface({ input: this.child.stdout! });
  }

  /** Settles when the writing has begun. */
  async start(ram: GuestRam, seed: number, places: readonly Place[]): Promise<void> {
    const path = `/proc/${String(process.pid)}/fd/${String(ram.fd)}`;
    const answer = once(this.lines, 'line');
    this.say(`map ${path} ${String(ram.bytes.length)} ${String(seed)} ${places.flat().join(' ')}`);
    await answer;
  }

  /** Ends the writing; settles with the number of writes. */
  async stop(): Promise<number> {
    const answer = once(this.lines, 'line') as Promise<[string]>;
    this.say('stop');
    return Number((await answer)[0]);
  }

  async end(): Promise<void> {
    const exited = once(this.child, 'exit');
    this.child.stdin?.end();
    await exited;
  }

  private say(line: string): void {
    this.child.stdin?.write(`${line}\n`);
  }
}
