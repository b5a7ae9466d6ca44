/**
 * The data plane's side of the control plane's commands, as far as they are the same for each kind of link: what concerns
 * the stack, the sandbox, and the end. The rest is the link's own (virtio/ring-control.ts, stream/control.ts). Runs on the
 * data plane's thread, between frames. Cold: allocates.
 */
import { receiveMessageOnPort } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import type { Native } from '../native';
import { KEY_DATAPLANE, KEY_KIND_SHIFT } from '../stack/context';
import type { Counters } from '../stack/counters';
import type { Stack } from '../stack/stack';
import type { Command, CommandMessage, WorkerMessage } from './commands';
import { confineThread } from './confine';

/** Key of the descriptor by which the control plane says that commands wait. */
export const KEY_WAKE = KEY_DATAPLANE << KEY_KIND_SHIFT;

type CommonKind = 'config' | 'moved' | 'neighbours' | 'confine' | 'reset' | 'stop';

/** Commands about the link. */
export type LinkCommand = Exclude<Command, { readonly kind: CommonKind }>;

export abstract class LinkControl {
  readonly wakeFd: number;
  /** False once the control plane said stop. */
  running: boolean;

  protected readonly native: Native;
  protected readonly counters: Counters;
  /** The stack behind the link; null before `serve`. */
  protected stack: Stack | null;
  private readonly messages: MessagePort;

  constructor(native: Native, messages: MessagePort, wakeFd: number, counters: Counters) {
    this.native = native;
    this.messages = messages;
    this.wakeFd = wakeFd;
    this.counters = counters;
    this.running = true;
    this.stack = null;
  }

  /** The stack behind the port; before the loop runs. */
  serve(stack: Stack): void {
    this.stack = stack;
  }

  /** Takes every command that was posted. */
  takeCommands(): void {
    for (;;) {
      const received = receiveMessageOnPort(this.messages) as { message: CommandMessage } | undefined;
      if (received === undefined) return;
      this.take(received.message);
    }
  }

  /** Executes and answers a command. */
  protected take({ seq, command }: CommandMessage): void {
    this.post({ kind: 'done', seq, value: this.execute(command) });
  }

  protected post(message: WorkerMessage): void {
    this.messages.postMessage(message);
  }

  /** Executes what the link alone understands; 0 for what is about the other kind of link. Returns the answer. */
  protected abstract executeOwn(command: LinkCommand): number;

  /** The data plane ends with this turn of its loop: lets go of the link. */
  protected abstract end(): void;

  private execute(command: Command): number {
    switch (command.kind) {
      case 'config':
        this.stack?.reconfigure(command.config);
        return 0;
      case 'moved':
        this.stack?.moved();
        return 0;
      case 'neighbours':
        this.stack?.setNeighbours(command.entries);
        return 0;
      case 'confine':
        return confineThread(this.native, command.mode, this.messages);
      case 'reset':
        this.stack?.reset();
        return 0;
      case 'stop':
        this.stack?.reset();
        this.end();
        this.running = false;
        return 0;
      default:
        return this.executeOwn(command);
    }
  }
}
