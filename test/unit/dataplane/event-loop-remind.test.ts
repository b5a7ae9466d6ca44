/** A guest whose receive ring has run out of buffers, and which does not look, is notified once more. */
import { BareRig, RING } from '../../support/dataplane/bare-rig';
import { DEVICE_FEATURES } from '../../../src/dataplane/features';
import { REMIND_MS } from '../../../src/dataplane/event-loop';
import { loadNative, type Native } from '../../../src/native';
import { C_FRAMES_TO_GUEST } from '../../../src/stack/counters';

const LATER_US = REMIND_MS * 1000;

let rig: BareRig;
let us: number;
/** Descriptors that were notified. */
let told: number[];
let sleeps: number[];
let slot: number;

beforeEach(() => {
  us = 1_000_000;
  slot = 0;
  const real = loadNative();
  const native = Object.create(real) as Native;
  native.nowUs = () => us;
  native.epollWait = (timeoutUs) => {
    sleeps.push(timeoutUs);
    return real.epollWait(0);
  };
  native.notify = (fd, kind) => {
    told.push(fd);
    return real.notify(fd, kind);
  };
  told = [];
  sleeps = [];
  rig = new BareRig(DEVICE_FEATURES, { native });
  for (let i = 0; i < 8; i++) rig.turn();
  rig.look();
});

afterEach(() => rig.close());

/** Notifications of the receive queue so far. */
function ofFrames(): number {
  return told.filter((fd) => fd === rig.calls[0]).length;
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
  told.length = 0;
  us += 10_000; // completions that are held back
  rig.look();
}

it('not before its time, then once', () => {
  rig.collects = false;
  told.length = 0;
  ask(RING);
  us += LATER_US;
  rig.step();
  expect(ofFrames()).toBe(1);
  ask(1);
  us += LATER_US - 1000;
  rig.step();
  expect(ofFrames()).toBe(1);
  us += 1000;
  sleeps.length = 0;
  rig.step();
  expect(sleeps[0]).toBeLessThanOrEqual(1000);
  expect(ofFrames()).toBe(2);
  us += LATER_US;
  rig.step();
  rig.step();
  expect(ofFrames()).toBe(2);
});

it('not where buffers came meanwhile', () => {
  told.length = 0;
  starve();
  rig.collects = true;
  rig.turn();
  rig.step();
  us += LATER_US;
  rig.step();
  expect(ofFrames()).toBe(0);
});

it('not for a ring that was stopped', () => {
  told.length = 0;
  starve();
  rig.stopReceive();
  told.length = 0;
  us += LATER_US;
  rig.step();
  rig.step();
  expect(ofFrames()).toBe(0);
});
