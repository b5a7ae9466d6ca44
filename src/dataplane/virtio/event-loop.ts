/**
 * The data plane's loop: one thread, one epoll set, nothing awaited, nothing allocated in the steady state.
 *
 * One turn: wait → note which descriptors are ready (sockets go to the stack at once, kicks and the control plane's
 * wake-up are remembered) → commands → frames from the guest, up to a budget → flows that waited for receive buffers
 * → timers → publish to the guest. Whatever is left over makes the next wait a poll. Because publishing comes last,
 * a turn costs the guest one interrupt a queue at the most.
 *
 * What is notified when, and how long the loop sleeps for that, is ../moderation's to say: the loop asks at the points
 * where it knows something new.
 *
 * With `--poll-us` a loop that has run out of work keeps looking for a while before it waits (../moderation/busy-poll.ts
 * says for how long). Only when that found nothing does the guest have to kick again.
 */
import type { Native } from '../../native';
import {
  C_FRAMES_FROM_GUEST,
  C_KICKS_FROM_GUEST,
  C_LOOP_TURNS,
  C_STARVED_SINCE,
  C_STARVED_US,
} from '../../stack/counters';
import type { Counters } from '../../stack/counters';
import { KEY_DATAPLANE, KEY_INDEX_MASK, KEY_KIND_SHIFT } from '../../stack/context';
import { EPOLLERR, EPOLLHUP } from '../../stack/ports';
import type { GuestPort } from '../../stack/ports';
import type { Stack } from '../../stack/stack';
import { Load } from '../load';
import { RING_TRANSMIT } from './guest-port';
import type { VirtioGuestPort } from './guest-port';
import type { Moderation } from '../moderation/moderation';
import { KIND_KICK, RINGS } from './ring-control';
import type { RingControl } from './ring-control';
import { KIND_CAPTURE } from '../capture/captures';
import { KEY_WAKE } from '../link-control';
import type { LoopClock } from '../loop-clock';
import { watchCommands } from '../watch-commands';

/** Frames taken from the guest in one turn: keeps sockets and timers served under a flood (CVE-2019-3900). */
export const FRAMES_PER_TURN = 256;

/**
 * Kicks left unread: they are watched edge-triggered, which saves a read a kick. An eventfd only counts them, but a pipe
 * in its place must not fill up. As many as `Native.drain` takes.
 */
const UNREAD_KICKS = 64;

/** How often a ring without kick descriptor is looked at, ms. */
const POLL_INTERVAL_MS = 1;

export class EventLoop {
  private readonly native: Native;
  private readonly clock: LoopClock;
  private readonly control: RingControl;
  private readonly port: VirtioGuestPort;
  /** Has the port that the stack has: decorated, perhaps. */
  private readonly context: { readonly port: GuestPort };
  private readonly stack: Stack;
  private readonly counters: Counters;
  private commandsPending: boolean;
  private transmitPending: boolean;
  private receiveReady: boolean;
  private readonly moderation: Moderation;
  private readonly load: Load;

  constructor(
    native: Native,
    clock: LoopClock,
    control: RingControl,
    stack: Stack,
    counters: Counters,
    context: { readonly port: GuestPort } = control,
  ) {
    this.native = native;
    this.clock = clock;
    this.control = control;
    this.port = control.port;
    this.context = context;
    this.stack = stack;
    this.counters = counters;
    this.commandsPending = false;
    this.transmitPending = false;
    this.receiveReady = false;
    this.moderation = control.port.moderation;
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
    const { native, stack, moderation } = this;
    const timeoutUs = this.timeoutUs();
    const n =
      moderation.polls && !this.stack.fromGuestHeld
        ? this.lookThenWait(timeoutUs)
        : native.epollWait(moderation.untilDue(timeoutUs));
    this.clock.update();
    this.load.begins();
    this.counters[C_LOOP_TURNS]++;
    const events = native.epollOut;
    for (let i = 0; i < n; i++) this.event(events[3 * i], events[3 * i + 1], events[3 * i + 2]);
    if (this.commandsPending) {
      this.commandsPending = false;
      this.control.takeCommands();
    }
    this.takeKicks();
    if (moderation.framesDue()) this.transmitPending = true;
    if (this.transmitPending) this.transmit();
    if (this.receiveReady) {
      this.receiveReady = false;
      moderation.receiveRefilled();
      this.refilled();
      const { queue } = this.port.rx;
      if (queue !== null) queue.disableNotify();
      stack.onGuestReady();
    }
    stack.onTimer();
    this.context.port.flush();
    this.load.ends();
    this.rearmReceive();
    if (moderation.endTurn()) this.transmitPending = true;
    if (this.clock.nowMs >= this.control.sharing.dueMs) this.control.lookForSharing(this.clock.nowMs);
    if (this.port.rx.fault !== 0 || this.port.tx.fault !== 0) this.control.reportFaults();
  }

  private timeoutUs(): number {
    if ((this.transmitPending && !this.stack.fromGuestHeld) || this.receiveReady || this.stack.busy) return 0;
    let deadline = Math.min(this.stack.nextDeadline(), this.moderation.dueMs, this.control.sharing.dueMs);
    if (this.control.polling) deadline = Math.min(deadline, this.clock.nowMs + POLL_INTERVAL_MS);
    this.clock.update();
    this.load.rests();
    if (deadline === Infinity) return this.moderation.untilReminder(-1);
    return deadline <= this.clock.nowMs ? 0 : this.moderation.untilReminder((deadline - this.clock.nowMs) * 1000);
  }

  /** As `epollWait`, but looks before it sleeps. */
  private lookThenWait(timeoutUs: number): number {
    const { native, moderation } = this;
    if (this.framesWait() || timeoutUs === 0) return native.epollWait(0);
    const began = native.nowUs();
    const span = timeoutUs < 0 ? moderation.lookUs : Math.min(moderation.lookUs, timeoutUs);
    for (let now = began; now - began < span; now = native.nowUs()) {
      const n = native.epollWait(0);
      if (n !== 0 || this.framesWait()) return n;
      moderation.signalCompletions();
    }
    // A timer is due first; the look resumes after it.
    if (span < moderation.lookUs) return native.epollWait(0);
    this.transmitPending = moderation.kicksBackOn();
    if (this.transmitPending) return native.epollWait(0);
    const n = native.epollWait(moderation.untilDue(timeoutUs < 0 ? timeoutUs : timeoutUs - span));
    // Woken for delayed completions: that is no work, and says nothing of when work comes.
    if (n !== 0 || !moderation.completionsPending) moderation.slept(native.nowUs() - began);
    return n;
  }

  /** Whether the guest has sent frames it gave no kick for; they are taken in this turn then. */
  private framesWait(): boolean {
    if (this.moderation.framesWait()) this.transmitPending = true;
    return this.transmitPending;
  }

  private event(key: number, generation: number, events: number): void {
    const kind = key >>> KEY_KIND_SHIFT;
    if (kind < KEY_DATAPLANE) {
      this.stack.onSocket(key, generation, events);
    } else if (kind === KIND_KICK) {
      this.kick(key & KEY_INDEX_MASK, generation, events);
    } else if (kind === KIND_CAPTURE) {
      this.control.captureEvent(generation, events);
    } else {
      this.native.drain(this.control.wakeFd);
      this.commandsPending = true;
    }
  }

  private kick(index: number, generation: number, events: number): void {
    const { control, native } = this;
    const fd = control.kickFd[index];
    if (control.kickGeneration[index] !== generation || fd < 0) return;
    this.counters[C_KICKS_FROM_GUEST]++;
    // The other end gone, it would be "ready" for ever. The session learns of it on its own socket.
    if ((events & (EPOLLHUP | EPOLLERR)) !== 0) native.unwatch(fd);
    else if (++control.unread[index] === UNREAD_KICKS) {
      control.unread[index] = 0;
      native.drain(fd);
    }
    control.kicked[index] = 1;
    if (control.sharing.open) control.sharing.kicked(index, this.clock.nowMs);
  }

  private takeKicks(): void {
    const { control } = this;
    for (let i = 0; i < RINGS; i++) {
      if (control.kicked[i] === 0 && !control.isPolled(i)) continue;
      control.kicked[i] = 0;
      if (i === RING_TRANSMIT) this.transmitPending = true;
      else this.receiveReady = true;
    }
  }

  private transmit(): void {
    const { tx } = this.port;
    const { queue } = tx;
    if (queue === null || tx.fault !== 0) {
      this.moderation.ringGone();
      this.transmitPending = false;
      return;
    }
    this.moderation.takesFrames(queue);
    if (this.stack.fromGuest(FRAMES_PER_TURN)) return;
    this.transmitPending = this.moderation.ringEmpty(queue, this.counters[C_FRAMES_FROM_GUEST]);
  }

  /** After the turn's frames: if a flow waits for receive buffers, ask for a kick, unless more came meanwhile. */
  private rearmReceive(): void {
    const { rx } = this.port;
    const queue = rx.queue;
    if (queue === null) {
      this.refilled();
      return;
    }
    if (rx.retry) {
      rx.retry = false;
      this.receiveReady = true;
    }
    if (rx.wanted) {
      rx.wanted = false;
      if (queue.enableNotify()) this.receiveReady = true;
      else this.starved();
    }
  }

  private starved(): void {
    this.moderation.receiveStarved();
    if (this.counters[C_STARVED_SINCE] === 0) this.counters[C_STARVED_SINCE] = this.clock.us[0];
  }

  /** The guest gave receive buffers, or has no ring any more. */
  private refilled(): void {
    const { counters } = this;
    const since = counters[C_STARVED_SINCE];
    if (since === 0) return;
    // In this order: who reads in between sees too little, which he can tell, and not the same time twice.
    counters[C_STARVED_SINCE] = 0;
    counters[C_STARVED_US] += this.clock.us[0] - since;
  }
}
