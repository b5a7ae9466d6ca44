/** What the moderation of notifications sees of the guest port. */
import type { SplitQueueDevice } from 'virtio-ring-ts';

/** Ring 0 is the guest's receive queue, ring 1 its transmit queue (virtio 1.2 §5.1.2). */
export const RING_RECEIVE = 0;
export const RING_TRANSMIT = 1;

export interface ModeratedPort {
  /** `queue` is null while the ring is stopped. */
  readonly rx: { readonly queue: SplitQueueDevice | null };
  /** `fault` is not 0 once the ring broke. */
  readonly tx: { readonly queue: SplitQueueDevice | null; readonly fault: number };
  /** Notifies the guest of a ring, whether or not there is something new. */
  call(index: number): void;
}
