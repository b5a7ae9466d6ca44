/**
 * The data plane's loop when the guest's link is a stream socket. The same turn as EventLoop's, in the same order: wait
 * → sockets → commands → frames from the guest, up to a budget → flows that waited → timers → send what was committed.
 * The two differ in what wakes them and in what blocks them; with a class each, neither loop pays for the other.
 */
import type { Native } from '../../native';
import { KEY_DATAPLANE, KEY_KIND_SHIFT } from '../../stack/context';
import { C_LOOP_TURNS } from '../../stack/counters';
import type { Counters } from '../../stack/counters';
import { EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP } from '../../stack/ports';
import type { GuestPort } from '../../stack/ports';
import type { Stack } from '../../stack/stack';
import { FRAMES_PER_TURN } from '../virtio/event-loop';
import { KIND_STREAM } from './control';
import type { StreamControl } from './control';
import { STREAM_OPEN } from './input';
import type { StreamInput } from './input';
import type { StreamOutput } from './output';
import { KIND_CAPTURE } from '../capture/captures';
import { KEY_WAKE } from '../link-control';
import { Load } from '../load';
import type { LoopClock } from '../loop-clock';
import { watchCommands } from '../watch-commands';

export class StreamLoop {
  private readonly native: Native;
  private readonly clock: LoopClock;
  private readonly control: StreamControl;
  private readonly input: StreamInput;
  private readonly output: StreamOutput;
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
    control: StreamControl,
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
    if (control.probing) control.answerProbes();
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
    if ((this.inputPending && !this.stack.fromGuestHeld) || this.outputReady || this.stack.busy || this.control.probing)
      return 0;
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
    } else if (kind === KIND_STREAM) {
      if (generation === this.control.generation) this.streamEvent(events);
    } else if (kind === KIND_CAPTURE) {
      this.control.captureEvent(generation, events);
    } else {
      this.native.drain(this.control.wakeFd);
      this.commandsPending = true;
    }
  }

  private streamEvent(events: number): void {
    if ((events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) !== 0) this.control.hangup = true;
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) !== 0) {
      this.input.ready();
      this.inputPending = true;
    }
    if ((events & EPOLLOUT) !== 0 && this.output.blocked && this.output.resume()) this.outputReady = true;
  }

  private receive(): void {
    const { input } = this;
    input.more = false;
    const budgetSpent = this.stack.fromGuest(FRAMES_PER_TURN);
    this.inputPending = budgetSpent || input.more;
    if (!this.inputPending && input.end !== STREAM_OPEN) this.control.finish(input.end);
  }

  /** After the turn's frames: what happened to the socket. */
  private settle(): void {
    const { output, control } = this;
    if (output.retry) {
      output.retry = false;
      this.outputReady = true;
    }
    if (output.end < STREAM_OPEN) control.finish(output.end);
    control.watchWritable(output.blocked);
  }
}
