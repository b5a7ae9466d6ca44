/**
 * Kick moderation: while bulk passes, the guest kicks not at each frame but after several, and the loop looks at its
 * ring after a moment in any case: as network cards moderate interrupts. One system call then sends what had taken
 * one for each frame, one acknowledgement answers it, and the guest is spared kicks and interrupts.
 *
 * The moment is as long as this guest takes for those frames, by the rate at which they came lately, and there is none
 * where that is too slow for two of them to come together, or so fast that it would be over at once. Without EVENT_IDX no
 * kick ends it, so it is shorter.
 *
 * Bulk to the guest is moderated only if kicks are dear: the guest is slow to look at an interrupt, or it is User Mode
 * Linux; and then a single frame is worth the moment. The frames are acknowledgements. Until they are taken the payload
 * stays in the socket, where the kernel walks over it for each further frame, and the sender's window is used up: with
 * a guest that is fast the throughput is a third higher without moderation.
 *
 * A frame whose answer a user may be waiting for must not wait for the moment to end, and the ring does not tell which
 * those are. So there is no moderation for a while after interactive traffic has passed (see Traffic), and one that has begun ends
 * with it. Nor is there after several moments in which nothing came: a sender that waits for an answer to each of its
 * frames.
 */
import type { Clock } from '../../stack/ports';
import type { Traffic } from '../../stack/ip/guest-hints';

/** The longest moment, µs. Short of the millisecond for which Linux lets a flow's frames wait in a device (tcp_small_queue_check). */
export const MOST_US = 500;
/** The same without EVENT_IDX: a ring of 256 frames of 1500 bytes carries 30 Gbit/s so. */
export const MOST_WITHOUT_EVENT_US = 100;
/** The shortest, µs: asking for a kick and sleeping takes as long. */
const LEAST_US = 20;
/** Frames after which the guest gives a kick (with EVENT_IDX): a fast one need not wait for the moment to end. */
export const KICK_CHAINS = 4;
/** The moment ends a little after they should have come. */
const SLACK = 1.25;
/** Frames that have to come within the longest moment for it to be worth while, unless kicks are dear. */
const WORTH_CHAINS = 2;
/** Time between two frames of a guest that was not observed yet, µs. */
const FIRST_CHAIN_US = MOST_US / KICK_CHAINS;
/** Weight of one look at how long a frame took, and the longest that counts, µs. */
const GAIN = 1 / 8;
const MOST_CHAIN_US = 1000;
/** What has to pass in one turn to be bulk, bytes. */
const BULK_BYTES = 32 * 1024;
/** How long traffic counts as bulk after that, ms: a turn that only took acknowledgements does not end it. */
const BULK_MS = 2;
/** How long there is no moderation after interactive traffic, ms. */
export const LIGHT_MS = 10;
/** After this many moments in a row in which no frame came, the next VAIN_SKIPS are left out. */
const VAIN_MOMENTS = 3;
const VAIN_SKIPS = 16;

export class KickModeration {
  private readonly traffic: Traffic;
  /** µs; 0: no moment. */
  private untilUs: number;
  /** ms of the loop's clock. */
  private bulkUntil: number;
  private lightUntil: number;
  private skips: number;
  private vain: number;
  /** How long the guest takes for a frame, and when its ring was found empty last, µs. */
  private chainUs: number;
  private emptyUs: number;
  /** Frames that had come by then. */
  private frames: number;

  constructor(traffic: Traffic) {
    this.traffic = traffic;
    this.untilUs = 0;
    this.bulkUntil = -Infinity;
    this.lightUntil = -Infinity;
    this.skips = 0;
    this.vain = 0;
    this.chainUs = FIRST_CHAIN_US;
    this.emptyUs = 0;
    this.frames = 0;
  }

  /** The transmit queue starts, perhaps another guest's. */
  reset(): void {
    this.untilUs = 0;
    this.skips = 0;
    this.vain = 0;
    this.chainUs = FIRST_CHAIN_US;
  }

  get active(): boolean {
    return this.untilUs !== 0;
  }

  /** Takes note of what has passed; `dear`: kicks are. Returns true if there can be no moderation now. */
  look(nowMs: number, dear: boolean): boolean {
    const { traffic } = this;
    if (traffic.fromGuest >= BULK_BYTES || (dear && traffic.toGuest >= BULK_BYTES)) this.bulkUntil = nowMs + BULK_MS;
    if (traffic.light) this.lightUntil = nowMs + LIGHT_MS;
    traffic.fromGuest = 0;
    traffic.toGuest = 0;
    traffic.light = false;
    return nowMs >= this.bulkUntil || nowMs < this.lightUntil;
  }

  /**
   * The ring is empty, `frames` having come so far, ever; `waited`: a moment ended before the last. Begins a moment if there
   * may be one; `dear`: kicks are.
   */
  begin(frames: number, eventIdx: boolean, waited: boolean, clock: Clock, dear: boolean): boolean {
    const chains = frames - this.frames;
    this.frames = frames;
    if (waited) this.ended(chains > 0);
    if (chains <= 0) return false;
    const { nowMs } = clock;
    const wasBulk = nowMs < this.bulkUntil;
    if (this.look(nowMs, dear)) return false;
    const nowUs = clock.nowUs();
    // The first frame of bulk has taken as long as there was none before.
    if (wasBulk) this.learn((nowUs - this.emptyUs) / chains);
    this.emptyUs = nowUs;
    if (this.skips > 0) {
      this.skips--;
      return false;
    }
    if ((dear ? 1 : WORTH_CHAINS) * this.chainUs > MOST_US) return false;
    const us = Math.min(Math.ceil(SLACK * KICK_CHAINS * this.chainUs), eventIdx ? MOST_US : MOST_WITHOUT_EVENT_US);
    if (us < LEAST_US) return false;
    this.untilUs = nowUs + us;
    return true;
  }

  /** What is left of it, µs; not without one. */
  left(nowUs: number): number {
    return Math.max(0, this.untilUs - nowUs);
  }

  end(): void {
    this.untilUs = 0;
  }

  private learn(tookUs: number): void {
    this.chainUs += GAIN * (Math.min(tookUs, MOST_CHAIN_US) - this.chainUs);
  }

  /** It has ended; `came`: with frames to take. */
  private ended(came: boolean): void {
    if (came) {
      this.vain = 0;
    } else if (++this.vain === VAIN_MOMENTS) {
      this.vain = 0;
      this.skips = VAIN_SKIPS;
    }
  }
}
