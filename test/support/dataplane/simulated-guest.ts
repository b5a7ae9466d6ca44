/**
 * A guest with an interrupt latency on the loop's clock, for what moderation makes of it: it takes its frames, and perhaps
 * its completions, some time after an interrupt, as Linux's NAPI or as other drivers do. Nothing sleeps.
 */
import type { ModerationLevel } from '../../../src/dataplane/commands';
import { DEVICE_FEATURES } from '../../../src/dataplane/virtio/features';
import { type BareRig, RING } from './bare-rig';
import { WatchedNative, restingRig } from './watched-native';

/** A wait longer than that is for nothing in particular, µs. */
const LONG_US = 10_000;

export interface SimulatedGuestOptions {
  /** From an interrupt to its handler, µs. */
  readonly lookUs: number;
  /** Whether the receive queue's interrupt also completes the transmit queue. Default: yes. */
  readonly cleans?: boolean;
  readonly level?: ModerationLevel;
  readonly features?: bigint;
  /** Kind of its call descriptors (FD_…). Default: eventfds. */
  readonly callKind?: number;
  /** So many requests follow a first one, each when the answer to the last is seen. */
  readonly follows?: number;
  /** It misses the first interrupt of an exchange. */
  readonly loses?: boolean;
}

/** What an exchange cost, with those that followed it. */
export interface Exchange {
  /** Interrupts of the receive and of the transmit queue. */
  readonly frames: number;
  readonly completions: number;
  /** From the request to the interrupt for its completion, and to the guest's look at the answer, µs; NaN: none. */
  readonly completionUs: number;
  readonly lookUs: number;
}

export class SimulatedGuest {
  readonly rig: BareRig;
  readonly watched = new WatchedNative();
  private readonly options: SimulatedGuestOptions;
  private slot = 0;
  private idle = false;
  private losing = false;
  private following = 0;
  /** When the handler of each queue's interrupt runs, µs; Infinity: none is on its way. */
  private readonly handlers = [Infinity, Infinity];
  private sentUs = 0;
  private frames = 0;
  private completions = 0;
  private completionUs = NaN;
  private lookUs = NaN;

  constructor(options: SimulatedGuestOptions) {
    this.options = options;
    const { level = 'adaptive', features = DEVICE_FEATURES, callKind } = options;
    if (callKind !== undefined) this.watched.callKind = callKind;
    this.rig = restingRig(this.watched, { features, moderation: level });
    this.rig.dozing = true;
    const { native } = this.watched;
    const { epollWait, notify } = native;
    native.epollWait = (us) => this.wait(us, epollWait);
    native.notify = (fd, kind) => {
      this.interrupt(this.rig.calls[0] === fd ? 0 : 1);
      return notify(fd, kind);
    };
    // The first interrupt of completions is unconditional.
    this.exchange();
    this.watched.forget();
  }

  /** A request that is answered in the same turn, and all that follows until nothing is left to do. */
  exchange(): Exchange {
    return this.send((slot) => {
      this.rig.postArp(slot);
    });
  }

  /** A small frame that nobody answers. */
  stray(): Exchange {
    return this.send((slot) => {
      this.rig.postStray(slot);
    });
  }

  exchanges(count: number): Exchange[] {
    return Array.from({ length: count }, () => this.exchange());
  }

  close(): void {
    this.rig.close();
  }

  private send(post: (slot: number) => void): Exchange {
    this.watched.us += 20_000;
    this.sentUs = this.watched.us;
    this.frames = 0;
    this.completions = 0;
    this.completionUs = NaN;
    this.lookUs = NaN;
    this.losing = this.options.loses === true;
    this.following = this.options.follows ?? 0;
    post(this.slot++ % RING);
    this.rig.kick();
    this.idle = false;
    for (let turns = 0; !this.idle; turns++) {
      if (turns > 10_000) throw new Error('the loop does not come to rest');
      this.rig.step();
    }
    // Long after, a timer of its own makes a guest look that has missed an interrupt.
    this.rig.look();
    const { frames, completions, completionUs, lookUs } = this;
    return { frames, completions, completionUs, lookUs };
  }

  private interrupt(queue: 0 | 1): void {
    const now = this.watched.us;
    if (queue === 0) this.frames++;
    else {
      this.completions++;
      this.completionUs = now - this.sentUs;
    }
    if (this.losing) this.losing = false;
    else this.handlers[queue] = Math.min(this.handlers[queue], now + this.options.lookUs);
  }

  private wait(us: number, look: (us: number) => number): number {
    const { watched, handlers } = this;
    // What was passed to the loop by then is no wait.
    const ready = look(us);
    if (ready > 0) return ready;
    const long = us < 0 || us > LONG_US;
    const until = long ? Infinity : watched.us + us;
    for (let next = Math.min(...handlers); next <= until && next !== Infinity; next = Math.min(...handlers)) {
      watched.us = next;
      const queue = handlers[0] === next ? 0 : 1;
      handlers[queue] = Infinity;
      this.handle(queue);
      const kicked = look(us);
      if (kicked > 0) return kicked;
    }
    if (long) this.idle = true;
    else watched.us = until;
    return 0;
  }

  private handle(queue: 0 | 1): void {
    const { rig } = this;
    if (queue === 0) {
      this.lookUs = this.watched.us - this.sentUs;
      rig.collect();
      rig.lookAtFrames();
    }
    if (queue === 1 || this.options.cleans !== false) rig.lookAtCompletions();
    if (queue === 0 && this.following > 0) {
      this.following--;
      rig.postArp(this.slot++ % RING);
      rig.kick();
    }
  }
}
