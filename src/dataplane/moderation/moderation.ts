/**
 * When the guest is interrupted and when it has to kick: the one owner of both. The event loop asks it how long to
 * sleep, when to take frames and what to signal; the guest port asks whether an interrupt is due. Both keep nothing of
 * it to themselves. What holds at every level: the notifications of a turn are joined to one a queue at most, as
 * publishing comes last in the turn, kicks are suppressed while the ring is being emptied, and the guest's used_event and
 * flags decide whether it wants an interrupt at all (virtio 1.2 §2.7.7, §2.7.10).
 *
 * Measured on: UML = User Mode Linux 6.1, TCG = Linux in QEMU, emulated, testpmd = DPDK (polls), bare = the bench's native
 * front-end: all on two processors that they share with the back-end. Nothing was measured under KVM: `npm run bench` has
 * the levels as columns for those who have it. Where a wait is observed, the column says what the fixed wait before it was measured on.
 *
 * | rule                        | constants                       | for                                    | measured on       | level    |
 * | --------------------------- | ------------------------------- | -------------------------------------- | ----------------- | -------- |
 * | delayed completions         | 50 µs, ≤ 256 bytes, ≤ 16 frames | no interrupt for an acknowledgement    | UML, TCG, testpmd | standard |
 * | … until a frame comes       | 50 … 200 µs, observed           | the answer's interrupt does for both   | UML, TCG          | adaptive |
 * | … until the guest looks     | 50 … 1800 µs, observed          | the same, for a guest slow to look     | UML, TCG          | adaptive |
 * | early wake-up               | guest looks after > 100 µs      | it wakes while the answer is coming    | UML, TCG          | adaptive |
 * | kick moderation             | 4 chains, 20 … 500 µs, observed | fewer kicks and wake-ups in bulk       | UML, TCG          | adaptive |
 * | … of acknowledgements       | guest looks after > 100 µs, UML | the same, where kicks are dear         | UML, TCG, bare    | adaptive |
 * | … without EVENT_IDX         | ≤ 100 µs                        | the same, with no kick to end it       | -                 | adaptive |
 * | … not while somebody waits  | 10 ms after something light     | latency beside bulk                    | UML               | adaptive |
 * | lost interrupts             | 1 ms                            | UML misses an interrupt as it falls    | UML               | adaptive, |
 * |                             |                                 | asleep                                 |                   | UML only |
 * | … an empty receive ring     | 10 ms                           | the same                               | UML               | as above |
 * | busy polling                | ≥ 16 µs, at most --poll-us      | no kick and no wake-up                 | UML               | option   |
 *
 * The constants are in delayed-completions.ts, kick-moderation.ts, lost-interrupts.ts and busy-poll.ts;
 * observed-delay.ts is how waits adapt. docs/notifications.md explains the rules.
 */
import type { SplitQueueDevice } from 'virtio-ring-ts';
import type { Clock } from '../../stack/ports';
import type { Traffic } from '../../stack/ip/guest-hints';
import type { ModerationLevel } from '../commands';
import { PollWindow } from './busy-poll';
import { DelayedCompletions } from './delayed-completions';
import { KICK_CHAINS, KickModeration } from './kick-moderation';
import { LostInterrupts } from './lost-interrupts';
import { RING_RECEIVE, RING_TRANSMIT } from './moderated-port';
import type { ModeratedPort } from './moderated-port';

/** The shorter of two waits, µs, of which the first may be for ever (-1). */
function sooner(us: number, left: number): number {
  return us < 0 ? left : Math.min(us, left);
}

/** Before there is one. */
const NO_PORT: ModeratedPort = { rx: { queue: null }, tx: { queue: null, fault: 0 }, call: () => undefined };

export interface ModerationOptions {
  readonly level: ModerationLevel;
  /** `--poll-us`: the longest time to look for work before sleeping, µs; 0: none. */
  readonly pollUs: number;
}

export class Moderation {
  private readonly clock: Clock;
  private port: ModeratedPort;
  private readonly traffic: Traffic;
  private readonly delays: boolean;
  private readonly adaptive: boolean;
  private readonly completions: DelayedCompletions;
  private readonly kicks: KickModeration;
  private readonly lost: LostInterrupts;
  private readonly window: PollWindow;
  /** The guest was told to send no kicks for frames, and has not been asked for them again: with busy polling only. */
  private kicksOff: boolean;
  /** The guest was notified of a ring in this turn. */
  private notified: boolean;
  /** Kicks were moderated until the loop began to take frames. */
  private kicksWaited: boolean;

  constructor(clock: Clock, traffic: Traffic, { level, pollUs }: ModerationOptions) {
    this.clock = clock;
    this.port = NO_PORT;
    this.traffic = traffic;
    this.delays = level !== 'off';
    this.adaptive = level === 'adaptive';
    this.completions = new DelayedCompletions(this.adaptive);
    this.kicks = new KickModeration(traffic);
    this.lost = new LostInterrupts();
    this.window = new PollWindow(pollUs);
    this.kicksOff = false;
    this.notified = false;
    this.kicksWaited = false;
  }

  /** The port whose notifications these are; before the loop runs. */
  serve(port: ModeratedPort): void {
    this.port = port;
  }

  // ---- what the guest port asks and tells

  /** A ring starts: perhaps another guest's, of which nothing is known. */
  ringStarted(index: number): void {
    if (index !== RING_TRANSMIT) return;
    this.completions.reset();
    this.kicks.reset();
  }

  /** A ring has another call descriptor of this kind (FD_… of native.ts). */
  callChanged(index: number, kind: number): void {
    if (this.adaptive) this.lost.setCall(index, kind);
  }

  /**
   * Frames are about to be completed. What the guest has made of earlier ones is seen only now. Returns whether an
   * interrupt is due for these.
   */
  beforeCompletions(queue: SplitQueueDevice): boolean {
    const { completions } = this;
    if (!completions.pending || !completions.found(queue, this.clock.nowUs())) return false;
    completions.forget();
    return queue.takeSignal();
  }

  /** `count` frames of `bytes` bytes were completed, visibly. Returns whether their interrupt is due now. */
  completed(queue: SplitQueueDevice, count: number, bytes: number): boolean {
    if (this.delays && this.completions.takes(queue, count, bytes)) return false;
    this.completions.forget();
    return queue.takeSignal();
  }

  /** All completions so far are to be known to the guest. Returns whether an interrupt is due. */
  completionsEnd(queue: SplitQueueDevice): boolean {
    if (!this.completions.pending) return false;
    this.completions.forget();
    return queue.takeSignal();
  }

  /** The guest was notified of a ring. */
  notifiedOf(index: number): void {
    this.notified = true;
    if (index === RING_RECEIVE && this.completions.pending) this.completions.notifiedOfFrames(this.clock.nowUs());
  }

  // ---- what the loop asks and tells

  /** The loop looks for work before it sleeps. */
  get polls(): boolean {
    return this.window.maxUs > 0;
  }

  /** When the loop has to wake up at the latest, ms of its clock. */
  get dueMs(): number {
    return this.lost.dueMs;
  }

  /** No more than `us` (-1: for ever), where the guest may have missed an interrupt. */
  untilReminder(us: number): number {
    return this.lost.waits ? sooner(us, this.lost.left(this.clock.nowUs())) : us;
  }

  /** No more than `us` (-1: for ever) until the guest's ring is to be looked at or an interrupt is due. */
  untilDue(us: number): number {
    // Delayed completions wait for the end of kick moderation, too.
    if (this.kicks.active) return sooner(us, this.kicks.left(this.clock.nowUs()));
    return this.completions.pending ? sooner(us, this.completions.left) : us;
  }

  /** After the loop has slept: whether the guest's ring is to be looked at without a kick. */
  framesDue(): boolean {
    return this.kicks.active && this.kicks.left(this.clock.nowUs()) === 0;
  }

  /** The loop begins or continues to take frames: it needs no kicks. */
  takesFrames(queue: SplitQueueDevice): void {
    this.kicksWaited = this.kicks.active;
    this.kicks.end();
    queue.disableNotify();
  }

  /**
   * The ring is empty; `frames` were taken from it so far, ever. Asks for kicks as it should be. Returns whether more came
   * before the guest could know: they are to be taken.
   */
  ringEmpty(queue: SplitQueueDevice, frames: number): boolean {
    const { kicks, clock } = this;
    if (this.polls) {
      this.kicksOff = true;
      return false;
    }
    if (!this.adaptive || !kicks.begin(frames, queue.eventIdx, this.kicksWaited, clock, this.kicksAreDear)) {
      return queue.enableNotify();
    }
    if (!queue.enableNotify(KICK_CHAINS)) return false;
    kicks.end();
    return true;
  }

  /** The ring was stopped, or broke, before the loop could take frames. */
  ringGone(): void {
    this.kicks.end();
  }

  /** A flow waits for receive buffers, of which there are none, and the guest was asked for a kick. */
  receiveStarved(): void {
    this.lost.starved(this.clock.nowMs);
  }

  receiveRefilled(): void {
    this.lost.refilled();
  }

  /** Notifies the guest of completions that have waited long enough. Part of `endTurn`, and between looks of the loop. */
  signalCompletions(): void {
    const { completions, port, traffic } = this;
    const early = traffic.message && !this.notified && completions.pending && completions.wakesEarly();
    traffic.message = false;
    if (!completions.pending) return;
    const { queue } = port.tx;
    if (queue !== null && !completions.due(queue, this.clock.nowUs(), early)) return;
    completions.forget();
    if (queue?.takeSignal() === true) port.call(RING_TRANSMIT);
  }

  /** The last of a turn, when everything is published. Returns whether frames of the guest are to be taken. */
  endTurn(): boolean {
    this.signalCompletions();
    const more = this.kicks.active && this.kicks.look(this.clock.nowMs, this.kicksAreDear) && this.kicksAtOnce();
    this.lost.look(this.port, this.clock, this.notified);
    this.notified = false; // a reminder is not followed by another
    return more;
  }

  // ---- busy polling

  /** For how long to look for work, µs, before sleeping. */
  get lookUs(): number {
    return this.window.us;
  }

  /** Work came `us` after there was none, and found the loop asleep. */
  slept(us: number): void {
    this.window.slept(us);
  }

  /** There are delayed completions: for these the loop may have been woken up, which is no work. */
  get completionsPending(): boolean {
    return this.completions.pending;
  }

  /** Whether the guest has sent frames it gave no kick for. */
  framesWait(): boolean {
    const { queue, fault } = this.port.tx;
    // All that was known has been taken. A broken index is found out by who takes the next.
    return this.kicksOff && queue !== null && fault === 0 && queue.refresh() !== 0;
  }

  /** Asks for kicks again. Returns whether frames came before the guest could know: they are to be taken. */
  kicksBackOn(): boolean {
    const { queue, fault } = this.port.tx;
    if (!this.kicksOff) return false;
    this.kicksOff = false;
    return queue !== null && fault === 0 && queue.enableNotify();
  }

  /** A kick and an interrupt take the guest long: it looks late, or is User Mode Linux, whose system calls they are. */
  private get kicksAreDear(): boolean {
    return this.lost.isUml || this.completions.guestIsSlow;
  }

  /** Interactive traffic ends moderation: the guest kicks at each frame again. */
  private kicksAtOnce(): boolean {
    const { queue, fault } = this.port.tx;
    this.kicks.end();
    return queue !== null && fault === 0 && queue.enableNotify();
  }
}
