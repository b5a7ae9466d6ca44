/**
 * The data plane's loop when the guest is a namespace behind a tap device. The same turn as StreamLoop's, in the same order:
 * wait → sockets → commands → frames from the namespace, up to a budget → flows that waited → timers → write what was
 * committed. A tap is never full, so nothing waits for it to become writable.
 */
import type { Native } from '../../native';
import { KEY_DATAPLANE, KEY_KIND_SHIFT } from '../../stack/context';
import { C_LOOP_TURNS, type Counters } from '../../stack/counters';
import type { GuestPort } from '../../stack/ports';
import type { Stack } from '../../stack/stack';
import { KIND_CAPTURE } from '../capture/captures';
import { KEY_WAKE } from '../link-control';
import { Load } from '../load';
import type { LoopClock } from '../loop-clock';
import { FRAMES_PER_TURN } from '../virtio/event-loop';
import { watchCommands } from '../watch-commands';
import { KIND_TAP, type TapControl } from './control';
import { TAP_OPEN, type TapInput } from './input';
import type { TapOutput } from './output';

export class TapLoop {
  private readonly native: Native;
  private readonly clock: LoopClock;
  private readonly control: TapControl;
  private readonly input: TapInput;
  private readonly output: TapOutput;
  /** Has the port that the stack has: decorated, perhaps. */
  private readonly context: { readonly port: GuestPort };
  private readonly stack: Stack;
  private readonly counters: Counters;
  private commandsPending: boolean;
  private inputPending: boolean;
  private outputReady: boolean;
  private readonly load: Load;

  constructor(
    native: Native,
    clock: LoopClock,
    control: TapControl,
    stack: Stack,
    counters: Counters,
    context: { readonly port: GuestPort } = control,
  ) {
    this.native = native;
    this.clock = clock;
    this.control = control;
    this.input = control.port.input;
    this.output = control.port.output;
    this.context = context;
    this.stack = stack;
    this.counters = counters;
    this.commandsPending = false;
    this.inputPending = false;
    this.outputReady = false;
    this.load = new Load(counters, clock.us);
  }

  /** Runs until the control plane says stop. */
  run(): void {
    watchCommands(this.native, this.control.wakeFd, KEY_WAKE);
    this.stack.start();
    while (this.control.running) this.turn();
  }

  /** One turn; waits if there is nothing to do. */
  turn(): void {
    const { native, stack, control } = this;
    const n = native.epollWait(this.timeoutUs());
    this.clock.update();
    this.load.begins();
    this.counters[C_LOOP_TURNS]++;
    const events = native.epollOut;
    for (let i = 0; i < n; i++) this.event(events[3 * i], events[3 * i + 1], events[3 * i + 2]);
    if (this.commandsPending) {
      this.commandsPending = false;
      control.takeCommands();
      if (control.opened) {
        control.opened = false;
        this.inputPending = true;
        this.outputReady = true;
      }
    }
    if (this.inputPending) this.receive();
    if (this.outputReady) {
      this.outputReady = false;
      stack.onGuestReady();
    }
    stack.onTimer();
    this.context.port.flush();
    this.load.ends();
    this.settle();
  }

  private timeoutUs(): number {
    if ((this.inputPending && !this.stack.fromGuestHeld) || this.outputReady || this.stack.busy) return 0;
    const deadline = this.stack.nextDeadline();
    this.clock.update();
    this.load.rests();
    if (deadline === Infinity) return -1;
    return deadline <= this.clock.nowMs ? 0 : (deadline - this.clock.nowMs) * 1000;
  }

  private event(key: number, generation: number, events: number): void {
    const kind = key >>> KEY_KIND_SHIFT;
    if (kind < KEY_DATAPLANE) {
      this.stack.onSocket(key, generation, events);
    } else if (kind === KIND_TAP) {
      if (generation !== this.control.generation) return;
      this.input.ready();
      this.inputPending = true;
    } else if (kind === KIND_CAPTURE) {
      this.control.captureEvent(generation, events);
    } else {
      this.native.drain(this.control.wakeFd);
      this.commandsPending = true;
    }
  }

  private receive(): void {
    const { input } = this;
    input.more = false;
    const budgetSpent = this.stack.fromGuest(FRAMES_PER_TURN);
    this.inputPending = budgetSpent || input.more;
  }

  /** After the turn's frames: what happened to the device. */
  private settle(): void {
    const { input, output, control } = this;
    if (output.retry) {
      output.retry = false;
      this.outputReady = true;
    }
    if (input.end < TAP_OPEN) control.finish(input.end);
    else if (output.end < TAP_OPEN) control.finish(output.end);
  }
}
