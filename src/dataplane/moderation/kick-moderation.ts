/**
 * While bulk goes on, the guest is asked for no kick at each frame, but after several, and its ring is looked at after a
 * moment in any case: as network cards moderate interrupts. One system call then sends what had taken one for each frame,
 * one acknowledgement answers it, and the guest is spared kicks and interrupts.
 *
 * A frame that somebody may wait for must not wait for the moment to end, and there is no telling what is in the ring.
 * So there is no rest for a while after anything of the kind has passed (see Traffic), and one that has begun ends with
 * it. Nor is there after rests in which nothing came: a sender that waits for an answer to each of its frames.
 */
import type { Traffic } from '../../stack/ip/guest-hints';

/** A rest, µs. Short of the millisecond for which Linux lets a flow's frames wait in a device (tcp_small_queue_check). */
export const REST_US = 500;
/** Chains after which the guest gives a kick (with EVENT_IDX): a fast one need not wait for the moment to end. */
export const REST_CHAINS = 4;
/** What has to pass in one turn to be bulk, bytes. */
const BULK_BYTES = 32 * 1024;
/** For so long it is bulk then, ms: a turn that only took acknowledgements does not end it. */
const BULK_MS = 2;
/** No rest for so long after something light, ms. */
export const LIGHT_MS = 10;
/** After so many rests in a row in which nothing came ... */
export const VAIN_RESTS = 3;
/** ... so many are left out. */
export const VAIN_SKIPS = 16;

export class KickRest {
  private readonly traffic: Traffic;
  /** µs; 0: no rest. */
  private untilUs: number;
  /** ms of the loop's clock. */
  private bulkUntil: number;
  private lightUntil: number;
  private skips: number;
  private vain: number;

  constructor(traffic: Traffic) {
    this.traffic = traffic;
    this.untilUs = 0;
    this.bulkUntil = -Infinity;
    this.lightUntil = -Infinity;
    this.skips = 0;
    this.vain = 0;
  }

  get active(): boolean {
    return this.untilUs !== 0;
  }

  /** Takes note of what has passed. Returns true if there can be no rest now. */
  look(nowMs: number): boolean {
    const { traffic } = this;
    if (traffic.bytes >= BULK_BYTES) this.bulkUntil = nowMs + BULK_MS;
    if (traffic.light) this.lightUntil = nowMs + LIGHT_MS;
    traffic.bytes = 0;
    traffic.light = false;
    return nowMs >= this.bulkUntil || nowMs < this.lightUntil;
  }

  /** All frames were taken: begins a rest if there may be one. */
  begin(nowMs: number, nowUs: number): boolean {
    if (this.look(nowMs)) return false;
    if (this.skips > 0) {
      this.skips--;
      return false;
    }
    this.untilUs = nowUs + REST_US;
    return true;
  }

  /** What is left of it, µs; not without one. */
  left(nowUs: number): number {
    return Math.max(0, this.untilUs - nowUs);
  }

  end(): void {
    this.untilUs = 0;
  }

  /** It has ended; `came`: with frames to take. */
  ended(came: boolean): void {
    if (came) {
      this.vain = 0;
    } else if (++this.vain === VAIN_RESTS) {
      this.vain = 0;
      this.skips = VAIN_SKIPS;
    }
  }
}
