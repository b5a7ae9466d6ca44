/** A User Mode Linux guest that does not look at its rings, or has run out of receive buffers, is notified once more. */
import { type BareRig, RING, VNET_HEADER } from '../../../support/dataplane/bare-rig';
import { WatchedNative, restingRig } from '../../../support/dataplane/watched-native';
import { STARVED_MS, UNHEEDED_US } from '../../../../src/dataplane/moderation/lost-interrupts';
import { FD_SOCKET } from '../../../../src/native';
import { C_FRAMES_TO_GUEST } from '../../../../src/stack/counters';

let rig: BareRig;
let watched: WatchedNative;
let slot: number;

beforeEach(() => {
  slot = 0;
  watched = new WatchedNative();
  watched.callKind = FD_SOCKET; // as User Mode Linux has
  rig = restingRig(watched);
  // The first notification of completions is unconditional.
  ask(1);
  later(10);
  rig.look();
  rig.step();
  watched.forget();
});

afterEach(() => rig.close());

/** Notifications of the receive queue so far. */
function ofFrames(): number {
  return watched.times(rig.calls[0]);
}

/** And of the transmit queue. */
function ofCompletions(): number {
  return watched.times(rig.calls[1]);
}

function ask(times: number): void {
  for (let i = 0; i < times; i++) {
    rig.postArp(slot++ % RING);
    rig.kick();
    rig.step();
  }
}

function later(ms: number): void {
  laterUs(ms * 1000);
}

function laterUs(us: number): void {
  watched.us += us;
  rig.step();
}

describe('a guest that gives no sign', () => {
  it('of frames: not before its time, then once', () => {
    ask(1);
    rig.lookAtCompletions();
    expect(ofFrames()).toBe(1);
    laterUs(UNHEEDED_US - 1);
    expect(ofFrames()).toBe(1);
    watched.sleeps.length = 0;
    laterUs(1);
    expect(watched.sleeps[0]).toBe(0);
    expect(ofFrames()).toBe(2);
    for (let i = 0; i < 3; i++) laterUs(UNHEEDED_US);
    expect(ofFrames()).toBe(2);
  });

  it('of completions', () => {
    rig.dozing = true;
    rig.post(slot, VNET_HEADER + 1514);
    rig.kick();
    rig.step();
    expect(ofCompletions()).toBe(1);
    laterUs(UNHEEDED_US - 1);
    expect(ofCompletions()).toBe(1);
    laterUs(1);
    expect(ofCompletions()).toBe(2);
    expect(ofFrames()).toBe(0);
  });

  it('with each notification the time begins anew', () => {
    ask(1);
    rig.lookAtFrames();
    watched.us += UNHEEDED_US - 1;
    ask(1);
    rig.lookAtCompletions();
    expect(ofFrames()).toBe(2);
    laterUs(UNHEEDED_US - 1);
    expect(ofFrames()).toBe(2);
    laterUs(1);
    expect(ofFrames()).toBe(3);
  });
});

it('a guest that has looked is left alone, and the loop sleeps', () => {
  ask(1);
  rig.look();
  rig.step();
  watched.sleeps.length = 0;
  laterUs(UNHEEDED_US);
  expect(watched.sleeps[0]).toBeGreaterThan(1_000_000);
  expect(ofFrames()).toBe(1);
});

describe('a guest without receive buffers', () => {
  /** It leaves its frames alone until the ring is full and one more waits: half of the time is over then. */
  function starve(): void {
    const before = rig.counters[C_FRAMES_TO_GUEST];
    rig.collects = false;
    ask(RING + 1);
    expect(rig.counters[C_FRAMES_TO_GUEST] - before).toBe(RING);
    // With EVENT_IDX it was told of the first.
    expect(ofFrames()).toBe(1);
    later(STARVED_MS / 2);
    expect(ofFrames()).toBe(2); // as it gave no sign
    rig.look();
    watched.forget();
  }

  it('not before its time, then once', () => {
    starve();
    later(STARVED_MS / 2 - 1);
    expect(ofFrames()).toBe(0);
    watched.sleeps.length = 0;
    later(1);
    expect(watched.sleeps[0]).toBeLessThanOrEqual(1000);
    expect(ofFrames()).toBe(1);
    for (let i = 0; i < 3; i++) later(STARVED_MS);
    expect(ofFrames()).toBe(1);
  });

  it('not where buffers came meanwhile', () => {
    starve();
    rig.collects = true;
    rig.turn();
    rig.lookAtFrames();
    rig.step();
    watched.forget();
    later(STARVED_MS);
    expect(ofFrames()).toBe(0);
  });

  it('not for a ring that was stopped', () => {
    starve();
    rig.stopReceive();
    watched.forget();
    later(STARVED_MS);
    rig.step();
    expect(ofFrames()).toBe(0);
  });
});
