/** While bulk goes on, the guest's ring is looked at after a moment instead of at each kick. */
import type { BareRig } from '../../../support/dataplane/bare-rig';
import { WatchedNative, restingRig } from '../../../support/dataplane/watched-native';
import {
  LIGHT_MS,
  REST_CHAINS,
  REST_US,
  VAIN_RESTS,
  VAIN_SKIPS,
} from '../../../../src/dataplane/moderation/kick-moderation';
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
  rig.traffic.bytes += MUCH;
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
  expect(watched.sleeps).toEqual([REST_US]);
  watched.us += REST_US - 1;
  expect(taken(() => rig.step())).toBe(0);
  expect(watched.sleeps[1]).toBe(1);
  watched.us += 1;
  expect(taken(() => rig.step())).toBe(1);
});

it('in bulk several frames come with a kick', () => {
  sendBulk();
  for (let i = 1; i < REST_CHAINS; i++) expect(taken(() => expect(send()).toBe(false))).toBe(0);
  expect(taken(() => expect(send()).toBe(true))).toBe(REST_CHAINS);
});

it('bulk that has ended costs one look more, then kicks are asked for again', () => {
  sendBulk();
  watched.us += REST_US;
  expect(taken(() => rig.step())).toBe(0);
  rig.look();
  rig.step();
  watched.forget();
  rig.step();
  expectLongSleep();
  expect(taken(() => expect(send()).toBe(true))).toBe(1);
});

it('what somebody may wait for ends a rest, and lets none begin for a while', () => {
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
  ['when the moment is over', () => (watched.us += REST_US)],
  ['when somebody may wait for it', () => (rig.traffic.light = true)],
])('a frame that came while the rest began is taken, %s', (_when, pass) => {
  const queue = rig.transmitQueue;
  const enableNotify = queue.enableNotify.bind(queue);
  let late = true;
  // The guest sends it, without a kick, after its ring was found empty and before it is asked for kicks again.
  queue.enableNotify = (chains) => {
    if (chains === REST_CHAINS && late) {
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

it('a guest that sends one large frame after another, each when the last was answered, is left alone', () => {
  for (let i = 0; i < VAIN_RESTS; i++) {
    expect(sendBulk()).toBe(true);
    watched.us += REST_US;
    expect(taken(() => rig.step())).toBe(0);
  }
  for (let i = 0; i < VAIN_SKIPS; i++) {
    sendBulk();
    rig.look();
    watched.us += 10_000; // completions that are held back
    rig.step();
    watched.forget();
    rig.step();
    expectLongSleep();
  }
  sendBulk();
  expect(taken(() => expect(send()).toBe(false))).toBe(0);
});

it('a ring that stops ends it: the loop sleeps', () => {
  sendBulk();
  rig.stopTransmit();
  rig.step();
  watched.us += REST_US;
  rig.step();
  watched.forget();
  rig.step();
  expectLongSleep();
});
