/**
 * Whatever a guest does between any two looks of the loop at shared memory, no frame stays in its queue and no
 * notification is left out: a guest that does what the specification says, and nothing more, never waits for ever.
 *
 * What it has to find, and was seen to find with each of these put into src/dataplane/moderation: the ring is not looked at
 * again after kicks were asked for (1) when it is empty, (2) when kick moderation ends, (3) when busy polling ends; (4) the
 * loop sleeps beyond the end of kick moderation, or (5) beyond the end of a delayed interrupt; (6) a delayed interrupt is
 * never sent, or (7) the guest counts as notified when the delay begins.
 */
import fc from 'fast-check';
import type { SplitQueueDevice } from 'virtio-ring-ts';
import { type BareRig, RING } from '../support/dataplane/bare-rig';
import { WatchedNative, restingRig } from '../support/dataplane/watched-native';
import { DEVICE_FEATURES, VIRTIO_RING_F_EVENT_IDX } from '../../src/dataplane/virtio/features';
import { MODERATION_LEVELS, type ModerationLevel } from '../../src/dataplane/commands';
import { LIGHT_MS } from '../../src/dataplane/moderation/kick-moderation';
import { C_FRAMES_FROM_GUEST } from '../../src/stack/counters';

/** What happens at one of the points where the other side may do something, and how often. */
const WEIGHTS = {
  nothing: 30,
  event: 4,
  stray: 6,
  arp: 1,
  pair: 1,
  bulk: 6,
  light: 1,
  message: 1,
  interrupt: 3,
  moment: 1,
  while: 1,
};
type Action = keyof typeof WEIGHTS;

/** Between any two of these the guest may act. */
const LOOKS = ['enableNotify', 'disableNotify', 'refresh', 'publishQuietly', 'takeSignal', 'wantsSignal'] as const;

/** A wait longer than that is for a timer of the stack, which would hide that something was forgotten, µs. */
const LONG_US = 10_000;

class Race {
  readonly rig: BareRig;
  private readonly watched = new WatchedNative();
  private readonly plan: readonly Action[];
  private at = 0;
  private posted = 0;
  /** The loop sleeps, and there is nothing that could wake it. */
  private asleep = false;
  /** A point within an action is none, nor one before the start. */
  private acting = true;

  constructor(plan: readonly Action[], features: bigint, pollUs: number, moderation: ModerationLevel) {
    this.plan = plan;
    const { native } = this.watched;
    const { nowUs, epollWait, notify } = native;
    // Time passes, so that a loop that polls comes to an end.
    native.nowUs = () => (this.watched.us += 3) && nowUs();
    this.rig = restingRig(this.watched, { features, pollUs, moderation });
    this.rig.dozing = true;
    this.rig.collects = false;
    this.watched.forget();
    native.epollWait = (us) => this.wait(us, epollWait);
    native.notify = (fd, kind) => {
      this.rig.mask(); // as an interrupt's handler does
      return notify(fd, kind);
    };
    for (const queue of [this.rig.transmitQueue, this.rig.receiveQueue]) this.watch(queue);
    this.acting = false;
  }

  /** All that was planned, then as long as the loop has something to do. */
  run(): void {
    for (let turns = 0; !this.asleep; turns++) {
      if (turns > 2000) throw new Error('the loop does not come to rest');
      this.rig.step();
    }
  }

  close(): void {
    this.rig.close();
    this.watched.giveBack();
  }

  /** Frames that the guest sent and nobody took. */
  get left(): number {
    return this.posted - this.rig.counters[C_FRAMES_FROM_GUEST];
  }

  /** Takes what is in the guest's rings without it having been told; returns how much that was. */
  takeUntold(): number {
    return this.rig.lookAtCompletions() + this.rig.collect();
  }

  /** The loop waits: the guest goes on, until what it does wakes the loop, or the time is over. */
  private wait(us: number, look: (us: number) => number): number {
    const { watched } = this;
    const until = us < 0 ? Infinity : watched.us + us;
    for (;;) {
      this.act();
      const n = look(0);
      if (n > 0 || watched.us >= until) return n;
      if (this.at < this.plan.length) {
        watched.us += 10;
      } else if (us < 0 || us > LONG_US) {
        this.interrupt();
        this.asleep = true;
        return 0;
      } else {
        watched.us = until;
      }
    }
  }

  private watch(queue: SplitQueueDevice): void {
    for (const name of LOOKS) {
      const look = (queue[name] as (...args: number[]) => number | boolean).bind(queue);
      Object.assign(queue, {
        [name]: (...args: number[]) => {
          this.act();
          const result = look(...args);
          this.act();
          return result;
        },
      });
    }
  }

  private act(): void {
    if (this.acting || this.at >= this.plan.length) return;
    this.acting = true;
    this.perform(this.plan[this.at++]);
    this.acting = false;
  }

  private perform(action: Action): void {
    const { rig, watched } = this;
    switch (action) {
      case 'nothing':
        break;
      case 'event':
        rig.wake();
        break;
      case 'stray':
        this.send((slot) => {
          rig.postStray(slot);
        });
        break;
      case 'arp':
        this.send((slot) => {
          rig.postArp(slot);
        });
        break;
      case 'pair':
        this.perform('stray');
        this.perform('arp');
        break;
      case 'bulk':
        rig.traffic.fromGuest += 64 * 1024;
        rig.traffic.toGuest += 64 * 1024;
        break;
      case 'light':
        rig.traffic.light = true;
        break;
      case 'message':
        rig.traffic.message = true;
        break;
      case 'interrupt':
        this.interrupt();
        break;
      case 'moment':
        watched.us += 100;
        break;
      case 'while':
        // Until something light is forgotten.
        watched.us += (LIGHT_MS + 1) * 1000;
        break;
    }
  }

  private send(post: (slot: number) => void): void {
    // No slot is used twice, and the receive ring never runs dry.
    if (this.posted === RING) return;
    post(this.posted++);
    this.rig.kick();
  }

  /** If the guest was notified, what Linux's NAPI does: takes all there is, asks for more, and looks again. */
  private interrupt(): void {
    const { rig, watched } = this;
    if (rig.calls.every((fd) => watched.times(fd) === 0)) return;
    watched.forget();
    while (rig.lookAtCompletions() + rig.collect() > 0) rig.lookAtFrames();
    rig.lookAtFrames();
  }
}

const action = fc.oneof(
  ...Object.entries(WEIGHTS).map(([name, weight]) => ({ weight, arbitrary: fc.constant(name as Action) })),
);
const plan = fc.array(action, { minLength: 100, maxLength: 1000 });

const PLAIN = DEVICE_FEATURES & ~(1n << BigInt(VIRTIO_RING_F_EVENT_IDX));

// The guest's call descriptors are eventfds: lost-interrupts.ts, which would make good for a notification left out, is off.
const CASES = [
  ['EVENT_IDX', DEVICE_FEATURES, 0],
  ['EVENT_IDX and --poll-us', DEVICE_FEATURES, 50],
  ['flags', PLAIN, 0],
  ['flags and --poll-us', PLAIN, 50],
] as const;

it.each(MODERATION_LEVELS.flatMap((level) => CASES.map((each) => [level, ...each] as const)))(
  'no frame is left behind and no notification left out: %s, with %s',
  (level, _with, features, pollUs) => {
    fc.assert(
      fc.property(plan, (actions) => {
        const race = new Race(actions, features, pollUs, level);
        try {
          race.run();
          expect([race.left, race.takeUntold()]).toEqual([0, 0]);
        } finally {
          race.close();
        }
      }),
      { numRuns: level === 'adaptive' ? 300 : 100 },
    );
  },
);
