/**
 * User Mode Linux loses interrupts: it misses one that comes while it goes to sleep. With EVENT_IDX the next would come
 * when it has looked, which it does when a timer of its own expires, some milliseconds later. So a guest that does not
 * look, or that leaves its receive ring empty, is notified once more; a needless notification does no harm
 * (virtio 1.2 §2.7.7.1).
 *
 * Only for User Mode Linux, which is known by its call descriptors: sockets, where every other front-end on Linux gives
 * eventfds, which cannot lose a signal. The descriptors come with the rings, so a data plane that takes over knows it too.
 */
import { FD_SOCKET } from '../../native';
import type { Clock } from '../../stack/ports';
import { RING_RECEIVE, RING_TRANSMIT } from './moderated-port';
import type { ModeratedPort } from './moderated-port';

/** How long a guest may show no sign of an interrupt before it gets another, µs. */
export const UNHEEDED_US = 1000;
/** How long a guest may leave its receive ring without buffers before it is notified of the ring once more, ms. */
export const STARVED_MS = 10;

export class LostInterrupts {
  /** Interrupts come through a socket, by ring. */
  private readonly lossy: Uint8Array;
  /** µs; Infinity: not. */
  private unheededUs: number;
  /** ms of the loop's clock; Infinity: not. */
  private starvedMs: number;

  constructor() {
    this.lossy = new Uint8Array(2);
    this.unheededUs = Infinity;
    this.starvedMs = Infinity;
  }

  /** A ring has another call descriptor, of this kind (FD_…). */
  setCall(index: number, kind: number): void {
    this.lossy[index] = kind === FD_SOCKET ? 1 : 0;
  }

  /** The guest is User Mode Linux. */
  get isUml(): boolean {
    return (this.lossy[RING_RECEIVE] | this.lossy[RING_TRANSMIT]) !== 0;
  }

  /** When to look next for a receive ring that is left empty, ms. */
  get dueMs(): number {
    return this.starvedMs;
  }

  /** Whether the guest has yet to give a sign of an interrupt. */
  get waits(): boolean {
    return this.unheededUs !== Infinity;
  }

  /** For how long it may still, µs; not unless it has to. */
  left(nowUs: number): number {
    return Math.max(0, this.unheededUs - nowUs);
  }

  /** A flow waits for receive buffers, of which there are none. */
  starved(nowMs: number): void {
    if (this.starvedMs === Infinity && this.lossy[RING_RECEIVE] !== 0) this.starvedMs = nowMs + STARVED_MS;
  }

  /** The guest gave receive buffers. */
  refilled(): void {
    this.starvedMs = Infinity;
  }

  /** After a turn, in which the guest was `notified` or not: notifies it once more, if it is time to. */
  look(port: ModeratedPort, clock: Clock, notified: boolean): void {
    if (notified && this.isUml) {
      this.unheededUs = clock.nowUs() + UNHEEDED_US;
    } else if (this.waits) {
      this.lookForSigns(port, clock.nowUs());
    }
    if (port.rx.queue === null) this.starvedMs = Infinity;
    if (clock.nowMs >= this.starvedMs) {
      this.starvedMs = Infinity;
      port.call(RING_RECEIVE);
    }
  }

  private lookForSigns(port: ModeratedPort, nowUs: number): void {
    const ofFrames = port.rx.queue?.unheeded === true;
    const ofCompletions = port.tx.queue?.unheeded === true;
    const due = nowUs >= this.unheededUs;
    if (due || (!ofFrames && !ofCompletions)) this.unheededUs = Infinity;
    if (due && ofFrames) port.call(RING_RECEIVE);
    if (due && ofCompletions) port.call(RING_TRANSMIT);
  }
}
