/**
 * Commands that a worker has not answered yet, in order, and their deadline. One timer serves all of them and runs only
 * while there are any. It counts its beats instead of reading a clock: in a process that was stopped for an hour one
 * more beat has passed, and the worker is not an hour late.
 */
import type { Command } from '../dataplane/commands';

/** Time between two beats, and how many of them a worker has for a command. */
const BEAT_MS = 1000;
const BEATS = 5;

export interface PendingCommand {
  readonly command: Command;
  readonly resolve: (value: number) => void;
  /** Call descriptor that the command takes from the worker, -1: none. */
  readonly takesCall: number;
  beats: number;
}

export interface CommandWatch {
  /** A command is waited for: what the worker may hang in can be looked at. */
  readonly waits: () => void;
  /** A command has waited for too long. Called once each beat for as long as that is so. */
  readonly overdue: (command: Command) => void;
}

export class PendingCommands {
  private readonly watch: CommandWatch;
  private readonly entries = new Map<number, PendingCommand>();
  private seq = 0;
  private timer: NodeJS.Timeout | null = null;

  constructor(watch: CommandWatch) {
    this.watch = watch;
  }

  /** Puts a command down. `sent` gets its number, by which it is answered. */
  add(command: Command, takesCall: number, sent: (seq: number) => void): Promise<number> {
    return new Promise((resolve) => {
      const seq = ++this.seq;
      this.entries.set(seq, { command, resolve, takesCall, beats: 0 });
      this.timer ??= setInterval(() => {
        this.beat();
      }, BEAT_MS);
      sent(seq);
    });
  }

  answer(seq: number, value: number): void {
    const entry = this.entries.get(seq);
    if (entry === undefined) return;
    this.entries.delete(seq);
    this.rest();
    entry.resolve(value);
  }

  /** All of them, which are no longer waited for here. */
  takeAll(): PendingCommand[] {
    const all = [...this.entries.values()];
    this.entries.clear();
    this.rest();
    return all;
  }

  /** A worker begins only now: those that were sent before it have all their time. */
  restart(post: (seq: number, command: Command) => void): void {
    for (const [seq, entry] of this.entries) {
      entry.beats = 0;
      post(seq, entry.command);
    }
  }

  /** Call descriptors that commands take from the worker. */
  *takenCalls(): Iterable<number> {
    for (const { takesCall } of this.entries.values()) if (takesCall >= 0) yield takesCall;
  }

  private beat(): void {
    this.watch.waits();
    for (const entry of this.entries.values()) {
      if (++entry.beats < BEATS) continue;
      this.watch.overdue(entry.command);
      return;
    }
  }

  private rest(): void {
    if (this.entries.size > 0 || this.timer === null) return;
    clearInterval(this.timer);
    this.timer = null;
  }
}
