/** While bulk goes on, the guest's ring is looked at after a moment instead of at each kick. */
import type { BareRig } from '../../../support/dataplane/bare-rig';
import { WatchedNative, restingRig } from '../../../support/dataplane/watched-native';
import { MODERATION_LEVELS } from '../../../../src/dataplane/commands';
import {
  KICK_CHAINS,
  LIGHT_MS,
  MOST_US,
  MOST_WITHOUT_EVENT_US,
} from '../../../../src/dataplane/moderation/kick-moderation';
import { DEVICE_FEATURES, VIRTIO_RING_F_EVENT_IDX } from '../../../../src/dataplane/virtio/features';
import { C_FRAMES_FROM_GUEST } from '../../../../src/stack/counters';

const MUCH = 64 * 1024;

let rig: BareRig;
let watched: WatchedNative;
let slot: number;

beforeEach(() => {
  slot = 0;
  watched = new WatchedNative();
  rig = restingRig(watched);
});

afterEach(() => rig.close());

/** The next slot gets a frame that is neither bulk nor light. */
function post(): void {
  rig.postStray(slot++ % 256);
}

/** The guest sends a frame, with a kick if one was asked for, and a turn follows. Returns whether it was. */
function send(): boolean {
  post();
  const kicked = rig.kick();
  rig.step();
  return kicked;
}

/** As `send`, with much payload in that turn. */
function sendBulk(): boolean {
  rig.traffic.fromGuest += MUCH;
  return send();
}

/** Frames taken from the guest by `act`. */
function taken(act: () => void): number {
  const before = rig.counters[C_FRAMES_FROM_GUEST];
  act();
  return rig.counters[C_FRAMES_FROM_GUEST] - before;
}

/** The loop waits for events, or for a timer of the stack that is far away. */
function expectLongSleep(): void {
  const [us] = watched.sleeps;
  expect(us === -1 || us > 1_000_000).toBe(true);
}

it('without bulk each frame comes with a kick and is taken at once', () => {
  for (let i = 0; i < 5; i++) expect(taken(() => expect(send()).toBe(true))).toBe(1);
});

it('in bulk the ring is looked at when the moment is over', () => {
  expect(taken(() => expect(sendBulk()).toBe(true))).toBe(1);
  watched.forget();
  expect(taken(() => expect(send()).toBe(false))).toBe(0);
  expect(watched.sleeps).toEqual([MOST_US]);
  watched.us += MOST_US - 1;
  expect(taken(() => rig.step())).toBe(0);
  expect(watched.sleeps[1]).toBe(1);
  watched.us += 1;
  expect(taken(() => rig.step())).toBe(1);
});

it('in bulk several frames come with a kick', () => {
  sendBulk();
  for (let i = 1; i < KICK_CHAINS; i++) expect(taken(() => expect(send()).toBe(false))).toBe(0);
  expect(taken(() => expect(send()).toBe(true))).toBe(KICK_CHAINS);
});

it('bulk that has ended costs one look more, then kicks are asked for again', () => {
  sendBulk();
  watched.us += MOST_US;
  expect(taken(() => rig.step())).toBe(0);
  rig.look();
  rig.step();
  watched.forget();
  rig.step();
  expectLongSleep();
  expect(taken(() => expect(send()).toBe(true))).toBe(1);
});

it('what somebody may wait for ends a moment, and lets none begin for a while', () => {
  sendBulk();
  send();
  rig.traffic.light = true;
  expect(taken(() => rig.step())).toBe(0);
  // Kicks are asked for again, and what the guest had sent without one is taken.
  expect(taken(() => rig.step())).toBe(1);
  expect(taken(() => expect(sendBulk()).toBe(true))).toBe(1);
  watched.us += (LIGHT_MS - 1) * 1000;
  expect(taken(() => expect(sendBulk()).toBe(true))).toBe(1);
  expect(taken(() => expect(sendBulk()).toBe(true))).toBe(1);
  watched.us += 1000;
  sendBulk();
  expect(taken(() => expect(send()).toBe(false))).toBe(0);
});

it.each([
  ['when the moment is over', () => (watched.us += MOST_US)],
  ['when somebody may wait for it', () => (rig.traffic.light = true)],
])('a frame that came while the moment began is taken, %s', (_when, pass) => {
  const queue = rig.transmitQueue;
  const enableNotify = queue.enableNotify.bind(queue);
  let late = true;
  // The guest sends it, without a kick, after its ring was found empty and before it is asked for kicks again.
  queue.enableNotify = (chains) => {
    if (chains === KICK_CHAINS && late) {
      late = false;
      post();
      expect(rig.kick()).toBe(false);
    }
    return enableNotify(chains);
  };
  expect(taken(() => sendBulk())).toBe(1);
  expect(late).toBe(false);
  expect(
    taken(() => {
      pass();
      rig.step();
      rig.step();
    }),
  ).toBe(1);
});

it('a guest that sends one large frame after another, each when the last was answered, is mostly left alone', () => {
  let waits = 0;
  for (let i = 0; i < 60; i++) {
    expect(sendBulk()).toBe(true);
    rig.look();
    watched.us += 10_000; // delayed completions
    rig.step();
    watched.forget();
    rig.step();
    // It sleeps with no end, or for a moment in which nothing comes.
    const [us] = watched.sleeps;
    if (us === -1 || us > 1_000_000) continue;
    waits++;
    watched.us += MOST_US;
    expect(taken(() => rig.step())).toBe(0);
  }
  expect(waits).toBeLessThanOrEqual(12);
});

it('a ring that stops ends it: the loop sleeps', () => {
  sendBulk();
  rig.stopTransmit();
  rig.step();
  watched.us += MOST_US;
  rig.step();
  watched.forget();
  rig.step();
  expectLongSleep();
});

/** What becomes of a guest in bulk that adds a frame every `chainUs`. */
interface Outcome {
  /** Of the last hundred frames. */
  readonly kicks: number;
  /** The longest that one of them waited, µs. */
  readonly waitedUs: number;
}

function bulkOf(chainUs: number): Outcome {
  const settled = 300;
  let kicks = 0;
  let waitedUs = 0;
  let nextUs = watched.us + chainUs;
  const waiting: number[] = [];
  const take = (): void => {
    rig.traffic.fromGuest += MUCH;
    let n = taken(() => rig.step());
    for (; n > 0; n--) {
      const since = waiting.shift() ?? watched.us;
      if (slot > settled) waitedUs = Math.max(waitedUs, watched.us - since);
    }
    rig.look();
  };
  watched.native.epollWait = ((real) => (us: number) => {
    // The guest adds its next frame while the loop waits, or a kick of one ends the wait.
    const until = us < 0 || us > 1_000_000 ? Infinity : watched.us + us;
    while (nextUs <= until) {
      watched.us = Math.max(watched.us, nextUs);
      nextUs += chainUs;
      waiting.push(watched.us);
      post();
      const kicked = rig.kick();
      if (kicked && slot > settled) kicks++;
      if (kicked) return real(0);
    }
    watched.us = until;
    return real(0);
  })(watched.native.epollWait);
  while (slot < settled + 100) take();
  return { kicks, waitedUs };
}

describe('adapts to the guest', () => {
  it('a fast one kicks once for several frames, and none waits for longer than those take to come', () => {
    const { kicks, waitedUs } = bulkOf(20);
    expect(kicks).toBeLessThan(40);
    expect(waitedUs).toBeLessThanOrEqual(150);
  });

  it('one of medium speed as well', () => {
    const { kicks, waitedUs } = bulkOf(80);
    expect(kicks).toBeLessThan(40);
    expect(waitedUs).toBeLessThanOrEqual(MOST_US);
  });

  it('one whose frames come singly is kept waiting for none of them', () => {
    expect(bulkOf(400)).toEqual({ kicks: 100, waitedUs: 0 });
  });

  it.each(MODERATION_LEVELS.filter((level) => level !== 'adaptive'))('not at level %s', (moderation) => {
    rig.close();
    rig = restingRig(watched, { moderation });
    expect(bulkOf(80)).toEqual({ kicks: 100, waitedUs: 0 });
  });

  it('without EVENT_IDX the ring never fills up while it waits', () => {
    rig.close();
    rig = restingRig(watched, { features: DEVICE_FEATURES & ~(1n << BigInt(VIRTIO_RING_F_EVENT_IDX)) });
    const { waitedUs } = bulkOf(2);
    expect(waitedUs).toBeLessThanOrEqual(MOST_WITHOUT_EVENT_US);
  });
});
