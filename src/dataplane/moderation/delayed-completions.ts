/**
 * The interrupt for completed frames of the guest is delayed where they are small, as network cards do: their
 * completions are visible at once, and an acknowledgement or a request is mostly followed by a frame to the guest, with
 * an interrupt of its own. Linux then completes its transmit queue as well (NAPI) and asks for the next interrupt
 * further on, so that none is needed for the completions. Large frames' completions are never delayed: their senders
 * wait for room.
 *
 * `standard` delays by a fixed time. `adaptive` waits as long as a frame to the guest usually takes to come, and, once the
 * guest was notified of one, as long as this guest usually takes to look (observed-delay.ts). A guest that does not
 * clean its transmit queue in the interrupt of the receive queue (Windows, FreeBSD), or that without EVENT_IDX cannot
 * show that it did, ends up with the standard delay.
 */
import type { SplitQueueDevice } from 'virtio-ring-ts';
import { ObservedDelay } from './observed-delay';

/** Frames of at most this many bytes on average are small: headers and little else. */
const SMALL_FRAME = 256;
/** Completions without an interrupt, at most. */
const MOST_FRAMES = 16;
/** The delay, µs, where nothing is known. */
export const STANDARD_DELAY_US = 50;
/** How long to wait for a frame to the guest at most, µs: interrupt moderation of network cards by default. */
export const FRAME_DELAY_US = 200;
/** How long to wait for a guest that was notified of a frame at most, µs. Both together: 2 ms. */
export const LOOK_DELAY_US = 1800;
/** A guest that takes longer than that to look is slow: it is woken early, and its kicks are dear. µs. */
const SLOW_GUEST_US = 100;
/** One early wake-up in this many is left out, to see whether the guest is still slow. */
const EARLY_SKIPS = 16;

export class DelayedCompletions {
  private readonly adaptive: boolean;
  /** From a completion to the next frame to the guest, and from its interrupt to the guest's look. */
  private readonly frame: ObservedDelay;
  private readonly look: ObservedDelay;
  /** Frames completed without an interrupt. */
  private frames: number;
  /** When the oldest of them was seen, and when the guest was notified of a frame since; 0: not yet. µs. */
  private sinceUs: number;
  private notifiedUs: number;
  /** How much longer the interrupt is delayed, µs; void where there is none. */
  private leftUs: number;
  private early: number;

  constructor(adaptive: boolean) {
    this.adaptive = adaptive;
    this.frame = new ObservedDelay(STANDARD_DELAY_US, FRAME_DELAY_US, FRAME_DELAY_US);
    this.look = new ObservedDelay(STANDARD_DELAY_US, LOOK_DELAY_US, STANDARD_DELAY_US);
    this.frames = 0;
    this.sinceUs = 0;
    this.notifiedUs = 0;
    this.leftUs = 0;
    this.early = 0;
  }

  /** The transmit queue starts, perhaps another guest's. */
  reset(): void {
    this.frame.reset();
    this.look.reset();
    this.early = 0;
    this.forget();
  }

  /** There are completions without an interrupt. */
  get pending(): boolean {
    return this.frames > 0;
  }

  /** How long the loop may sleep at most, µs; only if `pending`. */
  get left(): number {
    return this.leftUs;
  }

  /** The guest usually takes long from an interrupt for frames until it looks. */
  get guestIsSlow(): boolean {
    return this.look.usual >= SLOW_GUEST_US;
  }

  /** `count` frames of `bytes` bytes were completed, visibly. Returns whether their interrupt is delayed. */
  takes(queue: SplitQueueDevice, count: number, bytes: number): boolean {
    if (bytes > count * SMALL_FRAME || this.frames + count > MOST_FRAMES || !queue.wantsSignal()) return false;
    this.frames += count;
    return true;
  }

  /** The guest is notified of frames to it: it will find the completions as well. */
  notifiedOfFrames(nowUs: number): void {
    if (!this.adaptive || this.notifiedUs !== 0) return;
    this.notifiedUs = nowUs;
    this.frame.happened(this.sinceUs === 0 ? 0 : nowUs - this.sinceUs);
  }

  /**
   * Whether a guest that has sent a request is to be woken at once, rather than by the answer: one that takes long to
   * wake up does so while the answer is on its way.
   */
  wakesEarly(): boolean {
    if (!this.adaptive || !this.guestIsSlow) return false;
    this.early = this.early === 0 ? EARLY_SKIPS - 1 : this.early - 1;
    return this.early !== 0;
  }

  /** If `pending`: whether the guest has found all completions by itself; then `takeSignal` and `forget` follow. */
  found(queue: SplitQueueDevice, nowUs: number): boolean {
    if (queue.wantsSignal()) return false;
    if (this.notifiedUs !== 0) this.look.happened(nowUs - this.notifiedUs);
    return true;
  }

  /** After a turn, if `pending`. Returns whether the delay is over: then `takeSignal` and `forget` follow. */
  due(queue: SplitQueueDevice, nowUs: number, early: boolean): boolean {
    if (this.found(queue, nowUs)) return true;
    if (this.sinceUs === 0) this.sinceUs = nowUs;
    this.leftUs = early ? 0 : this.endUs() - nowUs;
    if (this.leftUs > 0) return false;
    if (!early) this.learnMiss();
    return true;
  }

  /** The guest gets its interrupt, or needs none. */
  forget(): void {
    this.frames = 0;
    this.sinceUs = 0;
    this.notifiedUs = 0;
  }

  private endUs(): number {
    if (!this.adaptive) return this.sinceUs + STANDARD_DELAY_US;
    return this.notifiedUs === 0 ? this.sinceUs + this.frame.us : this.notifiedUs + this.look.us;
  }

  private learnMiss(): void {
    if (this.notifiedUs === 0) this.frame.missed();
    else this.look.missed();
  }
}
