/**
 * The data plane's loop: one thread, one epoll set, nothing awaited, nothing allocated in the steady state.
 *
 * One turn: wait → note which descriptors are ready (sockets go to the stack at once, kicks and the control plane's
 * wake-up are remembered) → commands → frames from the guest, up to a budget → flows that waited for receive buffers
 * → timers → publish to the guest. Whatever is left over makes the next wait a poll. Because publishing comes last,
 * a turn costs the guest one interrupt a queue at the most.
 *
 * While bulk goes on, kicks are asked for only now and then (kick-rest.ts).
 *
 * With `--poll-us` a loop that has run out of work goes on looking for a while before it waits (poll-window.ts says for
 * how long). The guest is asked for kicks only when that was in vain, so that it sends none meanwhile.
 */
import type { Native } from '../../native';
import { C_FRAMES_FROM_GUEST, C_KICKS_FROM_GUEST, C_LOOP_TURNS } from '../../stack/counters';
import type { Counters } from '../../stack/counters';
import { KEY_DATAPLANE, KEY_INDEX_MASK, KEY_KIND_SHIFT } from '../../stack/context';
import { EPOLLERR, EPOLLHUP } from '../../stack/ports';
import type { Clock, GuestPort } from '../../stack/ports';
import type { Stack } from '../../stack/stack';
import { RING_TRANSMIT } from './guest-port';
import type { VirtioGuestPort } from './guest-port';
import { KickRest, REST_CHAINS } from '../moderation/kick-moderation';
import { PollWindow } from '../moderation/busy-poll';
import { Reminder } from '../moderation/lost-interrupts';
import { KEY_WAKE, KIND_KICK, RINGS } from './ring-control';
import type { RingControl } from './ring-control';
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

/** The shorter of two waits, µs, of which the first may be for ever (-1). */
function sooner(us: number, left: number): number {
  return us < 0 ? left : Math.min(us, left);
}

export class LoopClock implements Clock {
  nowMs: number;
  private readonly native: Native;

  constructor(native: Native) {
    this.native = native;
    this.nowMs = 0;
    this.update();
  }

  update(): void {
    this.nowMs = Math.floor(this.native.nowUs() / 1000);
  }

  nowUs(): number {
    return this.native.nowUs();
  }
}

export class EventLoop {
  private readonly native: Native;
  private readonly clock: LoopClock;
  private readonly control: RingControl;
  private readonly port: VirtioGuestPort;
  /** The port as the stack has it: decorated, perhaps. */
  private readonly link: GuestPort;
  private readonly stack: Stack;
  private readonly counters: Counters;
  private commandsPending: boolean;
  private transmitPending: boolean;
  private receiveReady: boolean;
  private readonly window: PollWindow;
  private readonly rest: KickRest;
  /** The guest was told to send no kicks for frames, and has not been asked for them again. */
  private kicksOff: boolean;
  /** When the oldest completion that is held back was seen to be; 0: none. */
  private heldSinceUs: number;
  /** How much longer it may be, µs; void where there is none. */
  private heldForUs: number;
  private readonly reminder: Reminder;

  constructor(
    native: Native,
    clock: LoopClock,
    control: RingControl,
    stack: Stack,
    counters: Counters,
    link: GuestPort = control.port,
    pollUs = 0,
  ) {
    this.native = native;
    this.clock = clock;
    this.control = control;
    this.port = control.port;
    this.link = link;
    this.stack = stack;
    this.counters = counters;
    this.commandsPending = false;
    this.transmitPending = false;
    this.receiveReady = false;
    this.window = new PollWindow(pollUs);
    this.rest = new KickRest(stack.traffic);
    this.kicksOff = false;
    this.heldSinceUs = 0;
    this.heldForUs = 0;
    this.reminder = new Reminder(control.port);
  }

  /** Runs until the control plane says stop. */
  run(): void {
    watchCommands(this.native, this.control.wakeFd, KEY_WAKE);
    this.stack.start();
    while (this.control.running) this.turn();
  }

  /** One turn; waits if there is nothing to do. */
  turn(): void {
    const { native, stack } = this;
    const timeoutUs = this.timeoutUs();
    const n =
      this.window.maxUs === 0
        ? native.epollWait(this.rest.active ? this.noLaterThanRest(timeoutUs) : this.noLaterThanHeld(timeoutUs))
        : this.lookThenWait(timeoutUs);
    this.clock.update();
    this.counters[C_LOOP_TURNS]++;
    const events = native.epollOut;
    for (let i = 0; i < n; i++) this.event(events[3 * i], events[3 * i + 1], events[3 * i + 2]);
    if (this.commandsPending) {
      this.commandsPending = false;
      this.control.takeCommands();
    }
    this.takeKicks();
    if (this.rest.active && this.rest.left(native.nowUs()) === 0) this.transmitPending = true;
    if (this.transmitPending) this.transmit();
    if (this.receiveReady) {
      this.receiveReady = false;
      this.reminder.refilled();
      const { queue } = this.port.rx;
      if (queue !== null) queue.disableNotify();
      stack.onGuestReady();
    }
    stack.onTimer();
    this.link.flush();
    this.hold();
    if (this.rest.active && this.rest.look(this.clock.nowMs)) this.endRest();
    this.rearmReceive();
    this.reminder.look(this.clock);
    if (this.clock.nowMs >= this.control.sharing.dueMs) this.control.lookForSharing(this.clock.nowMs);
    if (this.port.rx.fault !== 0 || this.port.tx.fault !== 0) this.control.reportFaults();
  }

  /**
   * Tells the guest of completed frames that it was not told of yet, if it is time to: after a message at once. The guest
   * wakes up while the answer is on its way, rather than when that is there.
   */
  private hold(): void {
    const { port } = this;
    const { tx } = port;
    const { traffic } = this.stack;
    const wake = traffic.message && !port.told;
    traffic.message = false;
    if (tx.held > 0 && tx.stillHeld()) {
      const now = this.native.nowUs();
      if (this.heldSinceUs === 0) this.heldSinceUs = now;
      this.heldForUs = wake ? 0 : this.heldSinceUs + tx.holdUs - now;
      if (this.heldForUs > 0) return;
      port.releaseHeld();
    }
    this.heldSinceUs = 0;
  }

  /** How long to wait, µs (-1: for ever), where completions may be held back. */
  private noLaterThanHeld(us: number): number {
    return this.heldSinceUs === 0 ? us : sooner(us, this.heldForUs);
  }

  /** How long to wait, µs, while the guest's ring rests. Completions that are held back wait for its end, too. */
  private noLaterThanRest(us: number): number {
    return sooner(us, this.rest.left(this.native.nowUs()));
  }

  /** Something passed that does not agree with a rest: kicks are asked for at once again. */
  private endRest(): void {
    const { tx } = this.port;
    this.rest.end();
    if (tx.queue !== null && tx.fault === 0 && tx.queue.enableNotify()) this.transmitPending = true;
  }

  private timeoutUs(): number {
    if (this.transmitPending || this.receiveReady || this.stack.busy) return 0;
    let deadline = Math.min(this.stack.nextDeadline(), this.reminder.dueMs, this.control.sharing.dueMs);
    if (this.control.polling) deadline = Math.min(deadline, this.clock.nowMs + POLL_INTERVAL_MS);
    if (deadline === Infinity) return this.noLaterThanReminder(-1);
    this.clock.update();
    return deadline <= this.clock.nowMs ? 0 : this.noLaterThanReminder((deadline - this.clock.nowMs) * 1000);
  }

  /** How long to wait, µs (-1: for ever), where the guest may have missed a notification. */
  private noLaterThanReminder(us: number): number {
    return this.reminder.waits ? sooner(us, this.reminder.left(this.native.nowUs())) : us;
  }

  /** As `epollWait`, but looks before it sleeps. */
  private lookThenWait(timeoutUs: number): number {
    const { native, window } = this;
    if (this.framesWait() || timeoutUs === 0) return native.epollWait(0);
    const began = native.nowUs();
    const span = timeoutUs < 0 ? window.us : Math.min(window.us, timeoutUs);
    for (let now = began; now - began < span; now = native.nowUs()) {
      const n = native.epollWait(0);
      if (n !== 0 || this.framesWait()) return n;
      this.hold();
    }
    // A timer comes before the end of the look, which goes on after it.
    if (span < window.us) return native.epollWait(0);
    if (this.kicksBackOn()) return native.epollWait(0);
    const rest = timeoutUs < 0 ? timeoutUs : timeoutUs - span;
    const n = native.epollWait(this.noLaterThanHeld(rest));
    // Woken for a completion held back: that is no work, and says nothing of when work comes.
    if (n !== 0 || this.port.tx.held === 0) window.slept(native.nowUs() - began);
    return n;
  }

  /** Whether the guest has sent frames it gave no kick for; they are taken in this turn then. */
  private framesWait(): boolean {
    const { tx } = this.port;
    const { queue } = tx;
    if (!this.kicksOff || queue === null || tx.fault !== 0) return false;
    // All that was known has been taken. A broken index is found out by who takes the next.
    this.transmitPending = queue.refresh() !== 0;
    return this.transmitPending;
  }

  /** Asks for kicks again. True if frames came before the guest could know: they are taken in this turn. */
  private kicksBackOn(): boolean {
    const { tx } = this.port;
    const { queue } = tx;
    if (!this.kicksOff) return false;
    this.kicksOff = false;
    if (queue === null || tx.fault !== 0) return false;
    this.transmitPending = queue.enableNotify();
    return this.transmitPending;
  }

  private event(key: number, generation: number, events: number): void {
    const kind = key >>> KEY_KIND_SHIFT;
    if (kind < KEY_DATAPLANE) {
      this.stack.onSocket(key, generation, events);
    } else if (kind === KIND_KICK) {
      this.kick(key & KEY_INDEX_MASK, generation, events);
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
    const queue = tx.queue;
    const rested = this.rest.active;
    this.rest.end();
    if (queue === null || tx.fault !== 0) {
      this.transmitPending = false;
      return;
    }
    queue.disableNotify();
    const before = this.counters[C_FRAMES_FROM_GUEST];
    if (this.stack.fromGuest(FRAMES_PER_TURN)) return;
    if (this.window.maxUs > 0) {
      this.transmitPending = false;
      this.kicksOff = true;
      return;
    }
    const came = this.counters[C_FRAMES_FROM_GUEST] !== before;
    if (rested) this.rest.ended(came);
    if (came && this.rest.begin(this.clock.nowMs, this.native.nowUs())) {
      this.transmitPending = queue.enableNotify(REST_CHAINS);
      if (this.transmitPending) this.rest.end();
      return;
    }
    this.transmitPending = queue.enableNotify();
  }

  /** After the turn's frames: if a flow waits for receive buffers, ask for a kick, unless more came meanwhile. */
  private rearmReceive(): void {
    const { rx } = this.port;
    const queue = rx.queue;
    if (queue === null) return;
    if (rx.retry) {
      rx.retry = false;
      this.receiveReady = true;
    }
    if (rx.wanted) {
      rx.wanted = false;
      if (queue.enableNotify()) this.receiveReady = true;
      else this.reminder.starved(this.clock.nowMs);
    }
  }
}
