/** A guest whose receive ring has run out of buffers, and which does not look, is notified once more. */
import { type BareRig, RING } from '../../support/dataplane/bare-rig';
import { WatchedNative, restingRig } from '../../support/dataplane/watched-native';
import { REMIND_MS } from '../../../src/dataplane/event-loop';
import { C_FRAMES_TO_GUEST } from '../../../src/stack/counters';

const LATER_US = REMIND_MS * 1000;

let rig: BareRig;
let watched: WatchedNative;
let slot: number;

beforeEach(() => {
  slot = 0;
  watched = new WatchedNative();
  rig = restingRig(watched);
  watched.forget();
});

afterEach(() => rig.close());

/** Notifications of the receive queue so far. */
function ofFrames(): number {
  return watched.times(rig.calls[0]);
}

function ask(times: number): void {
  for (let i = 0; i < times; i++) {
    rig.postArp(slot++ % RING);
    rig.kick();
    rig.step();
  }
}

/** The guest leaves its frames alone until the ring is full and one more waits. */
function starve(): void {
  const before = rig.counters[C_FRAMES_TO_GUEST];
  rig.collects = false;
  ask(RING + 1);
  expect(rig.counters[C_FRAMES_TO_GUEST] - before).toBe(RING);
  // With EVENT_IDX it was told of the first.
  expect(ofFrames()).toBe(1);
  watched.forget();
  watched.us += 10_000; // completions that are held back
  rig.look();
}

it('not before its time, then once', () => {
  rig.collects = false;
  ask(RING);
  watched.us += LATER_US;
  rig.step();
  expect(ofFrames()).toBe(1);
  ask(1);
  watched.us += LATER_US - 1000;
  rig.step();
  expect(ofFrames()).toBe(1);
  watched.us += 1000;
  watched.sleeps.length = 0;
  rig.step();
  expect(watched.sleeps[0]).toBeLessThanOrEqual(1000);
  expect(ofFrames()).toBe(2);
  watched.us += LATER_US;
  rig.step();
  rig.step();
  expect(ofFrames()).toBe(2);
});

it('not where buffers came meanwhile', () => {
  starve();
  rig.collects = true;
  rig.turn();
  rig.step();
  watched.us += LATER_US;
  rig.step();
  expect(ofFrames()).toBe(0);
});

it('not for a ring that was stopped', () => {
  starve();
  rig.stopReceive();
  watched.forget();
  watched.us += LATER_US;
  rig.step();
  rig.step();
  expect(ofFrames()).toBe(0);
});
