/**
 * A notification can get lost in the guest: User Mode Linux misses one that comes while it goes to sleep. With EVENT_IDX
 * the next would come when it has looked, which it does when a timer of its own expires, some milliseconds later. So a
 * guest that does not look, or that leaves its receive ring empty, is notified once more; a needless notification does
 * no harm (virtio 1.2 §2.7.7.1).
 */
import type { Clock } from '../../stack/ports';
import { RING_RECEIVE, RING_TRANSMIT } from '../virtio/guest-port';
import type { VirtioGuestPort } from '../virtio/guest-port';

/** A guest that has given no sign of a notification for so long gets another, µs. */
export const UNHEEDED_US = 1000;
/** A guest that has left its receive ring without buffers for so long is notified of what is in it once more, ms. */
export const STARVED_MS = 10;

export class Reminder {
  private readonly port: VirtioGuestPort;
  /** µs; Infinity: not. */
  private unheededUs: number;
  /** ms of the loop's clock; Infinity: not. */
  private starvedMs: number;

  constructor(port: VirtioGuestPort) {
    this.port = port;
    this.unheededUs = Infinity;
    this.starvedMs = Infinity;
  }

  /** When to look next for a receive ring that is left empty, ms. */
  get dueMs(): number {
    return this.starvedMs;
  }

  /** Whether the guest has yet to give a sign of a notification. */
  get waits(): boolean {
    return this.unheededUs !== Infinity;
  }

  /** For how long it may still, µs; not unless it has to. */
  left(nowUs: number): number {
    return Math.max(0, this.unheededUs - nowUs);
  }

  /** A flow waits for receive buffers, of which there are none. */
  starved(nowMs: number): void {
    if (this.starvedMs === Infinity) this.starvedMs = nowMs + STARVED_MS;
  }

  /** The guest gave receive buffers. */
  refilled(): void {
    this.starvedMs = Infinity;
  }

  /** After a turn: notifies the guest once more, if it is time to. */
  look(clock: Clock): void {
    const { port } = this;
    if (port.told) this.unheededUs = clock.nowUs() + UNHEEDED_US;
    else if (this.waits) this.lookForSigns(clock.nowUs());
    if (port.rx.queue === null) this.starvedMs = Infinity;
    if (clock.nowMs >= this.starvedMs) {
      this.starvedMs = Infinity;
      port.call(RING_RECEIVE);
    }
    port.told = false; // one reminder is not followed by another
  }

  private lookForSigns(nowUs: number): void {
    const { port } = this;
    const ofFrames = port.rx.queue?.unheeded === true;
    const ofCompletions = port.tx.queue?.unheeded === true;
    const due = nowUs >= this.unheededUs;
    if (due || (!ofFrames && !ofCompletions)) this.unheededUs = Infinity;
    if (due && ofFrames) port.call(RING_RECEIVE);
    if (due && ofCompletions) port.call(RING_TRANSMIT);
  }
}
