/** What happens to the service, told to who listens at that moment. Nothing is kept. */

/**
 * `host-addresses`: they changed; `guest-address`: the guest uses one that it did not before; `front-end`: it connected or left;
 * `forwards`: they changed; `policy`: it changed; `capture-started` and `capture-stopped`: what a client takes of the guest's frames;
 * `data-plane`: it was replaced; `end`:
 * the service ends, with this exit status, and no event follows.
 */
export const EVENT_NAMES = [
  'front-end-connected',
  'front-end-disconnected',
  'forwards-changed',
  'policy-changed',
  'capture-started',
  'capture-stopped',
  'data-plane-restarted',
  'host-addresses',
  'guest-address',
  'end',
] as const;
export type EventName = (typeof EVENT_NAMES)[number];

export interface ControlEvent {
  readonly event: EventName;
  /** ms since the epoch. */
  readonly at: number;
  /** More about it; of `…-changed` the new version. */
  readonly data: Readonly<Record<string, string | number>>;
}

export class Events {
  private readonly listeners = new Set<(event: ControlEvent) => void>();

  emit(event: EventName, data: ControlEvent['data'] = {}): void {
    if (this.listeners.size === 0) return;
    const told = { event, at: Date.now(), data };
    for (const listener of this.listeners) listener(told);
  }

  /** Returns what ends it. */
  listen(listener: (event: ControlEvent) => void): () => void {
    this.listeners.add(listener);
    return () => {
      this.listeners.delete(listener);
    };
  }
}
