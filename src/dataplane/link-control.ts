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
import { LOOK_END } from '../stack/kit/flow-rows';
import type { Stack } from '../stack/stack';
import type { Command, CommandMessage, WorkerMessage } from './commands';
import type { Captures } from './capture/captures';
import { confineThread } from './confine';

/** Key of the descriptor by which the control plane says that commands wait. */
export const KEY_WAKE = KEY_DATAPLANE << KEY_KIND_SHIFT;

type CommonKind =
  | 'config'
  | 'policy'
  | 'rates'
  | 'forward'
  | 'bypass'
  | 'adopt'
  | 'moved'
  | 'neighbours'
  | 'confine'
  | 'describeGuest'
  | 'flows'
  | 'closeFlow'
  | 'file'
  | 'captureStart'
  | 'captureStop'
  | 'reset'
  | 'stop';

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
  private captures: Captures | null;
  private readonly messages: MessagePort;

  constructor(native: Native, messages: MessagePort, wakeFd: number, counters: Counters) {
    this.native = native;
    this.messages = messages;
    this.wakeFd = wakeFd;
    this.counters = counters;
    this.running = true;
    this.stack = null;
    this.captures = null;
  }

  /** The stack behind the port; before the loop runs. */
  serve(stack: Stack, captures: Captures | null = null): void {
    this.stack = stack;
    this.captures = captures;
  }

  /** The client of capture `id` can be written to, or has left. */
  captureEvent(id: number, events: number): void {
    this.captures?.onEvent(id, events);
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
      case 'rates':
        this.stack?.setRates(command.rates.in, command.rates.out);
        return 0;
      case 'policy':
        this.stack?.setPolicy(command.setup);
        return 0;
      case 'forward':
        this.stack?.forward(command.change);
        return 0;
      case 'bypass':
        this.stack?.setBypass(command.fd);
        return 0;
      case 'adopt':
        return this.stack?.adopt(command.adoption) === true ? 1 : 0;
      case 'moved':
        this.stack?.moved();
        return 0;
      case 'neighbours':
        this.stack?.setNeighbours(command.entries);
        return 0;
      case 'flows':
        return this.stack?.look(new Float64Array(command.into), command) ?? LOOK_END;
      case 'closeFlow':
        return this.stack?.closeFlow(command.protocol, command.slot, command.generation) === true ? 1 : 0;
      case 'confine':
        return confineThread(this.native, command.program, this.messages);
      case 'describeGuest':
        return this.stack?.describeGuest(command.out) ?? 0;
      case 'file':
        this.stack?.fileRead(command.answer);
        return 0;
      case 'captureStart':
        return this.captures?.start(command) === true ? 1 : 0;
      case 'captureStop':
        return this.captures?.stop(command.id, command.now) === false ? 0 : 1;
      case 'reset':
        this.stack?.reset();
        return 0;
      case 'stop':
        this.stack?.reset();
        this.captures?.end();
        this.end();
        this.running = false;
        return 0;
      default:
        return this.executeOwn(command);
    }
  }
}
