/** `--poll-us`: the loop over real rings, with a clock that moves when it is read and sleeps that last as long as told. */
import { BareRig, VNET_HEADER } from '../../../support/dataplane/bare-rig';
import { DEVICE_FEATURES } from '../../../../src/dataplane/virtio/features';
import { loadNative, type Native } from '../../../../src/native';
import { C_FRAMES_FROM_GUEST, C_KICKS_FROM_GUEST } from '../../../../src/stack/counters';

const MAX_US = 200;
/** What one look costs. */
const LOOK_US = 2;
const FRAME = VNET_HEADER + 60;

class World {
  us = 1_000_000;
  /** How long the next sleeps last, and what happens while the loop sleeps. */
  sleepUs = 0;
  onSleep: () => void = () => undefined;
  /** Called whenever the loop looks. */
  onLook: () => void = () => undefined;
  looks = 0;
  readonly sleeps: number[] = [];
  readonly rig: BareRig;

  constructor(pollUs: number) {
    const real = loadNative();
    const native = Object.create(real) as Native;
    native.nowUs = () => this.us;
    native.epollWait = (timeoutUs) => {
      if (timeoutUs !== 0) {
        this.sleeps.push(timeoutUs);
        this.us += this.sleepUs;
        this.onSleep();
      } else {
        this.looks++;
        this.us += LOOK_US;
        this.onLook();
      }
      return real.epollWait(0);
    };
    this.rig = new BareRig(DEVICE_FEATURES, { native, pollUs });
    // Whatever the start left to do.
    for (let i = 0; i < 8; i++) this.rig.turn();
    this.sleeps.length = 0;
    this.looks = 0;
  }

  /** A frame that the stack drops. True if the loop wanted a kick for it. */
  post(): boolean {
    this.rig.post(0, FRAME);
    return this.rig.kick();
  }

  get taken(): number {
    return this.rig.counters[C_FRAMES_FROM_GUEST];
  }

  /** Frames that come `us` after the loop went to sleep, again and again. */
  rhythm(us: number, times: number): void {
    this.sleepUs = us;
    this.onSleep = () => this.post();
    for (let i = 0; i < times; i++) this.rig.step();
    this.onSleep = () => undefined;
  }
}

let world: World;

afterEach(() => world.rig.close());

it('without it the loop sleeps at once, and every frame after a sleep takes a kick', () => {
  world = new World(0);
  const { counters } = world.rig;
  const kicks = counters[C_KICKS_FROM_GUEST];
  world.rhythm(20, 10);
  expect(world.taken).toBe(10);
  expect(world.sleeps).toHaveLength(10);
  expect(counters[C_KICKS_FROM_GUEST] - kicks).toBe(10);
  expect(world.looks).toBe(0);
});

it('frames that come soon are found by looking, without a kick or a sleep', () => {
  world = new World(MAX_US);
  world.rhythm(20, 8);
  const { counters } = world.rig;
  const kicks = counters[C_KICKS_FROM_GUEST];
  const taken = world.taken;
  world.sleeps.length = 0;
  let due = 0;
  let wanted = 0;
  world.onLook = () => {
    if (world.us < due) return;
    if (world.post()) wanted++;
    due = world.us + 50;
  };
  for (let i = 0; i < 20; i++) world.rig.step();
  world.onLook = () => undefined;
  expect(world.taken - taken).toBeGreaterThanOrEqual(19);
  expect({ sleeps: world.sleeps, wanted, kicks: counters[C_KICKS_FROM_GUEST] - kicks }).toEqual({
    sleeps: [],
    wanted: 0,
    kicks: 0,
  });
});

it('when nothing comes it looks no longer than it may, asks for a kick, and sleeps once without an end', () => {
  world = new World(MAX_US);
  world.rhythm(20, 8);
  world.post();
  world.rig.turn();
  world.sleeps.length = 0;
  const began = world.us;
  let looked = 0;
  let wanted = false;
  world.onSleep = () => {
    looked = world.us - world.sleepUs - began;
    wanted = world.post();
  };
  world.sleepUs = 5_000;
  world.rig.step();
  expect(world.sleeps).toHaveLength(1);
  expect(looked).toBeGreaterThanOrEqual(MAX_US);
  expect(looked).toBeLessThanOrEqual(MAX_US + 2 * LOOK_US);
  expect(wanted).toBe(true);
});

it('a service with little to do stops looking', () => {
  world = new World(MAX_US);
  world.rhythm(20, 8);
  world.rhythm(10_000, 8);
  const { looks } = world;
  world.rhythm(10_000, 4);
  expect(world.looks).toBe(looks);
  expect(world.taken).toBe(20);
});

it('a frame that comes after the last look and before the guest is asked for kicks is not slept over', () => {
  world = new World(MAX_US);
  world.rhythm(20, 8);
  const taken = world.taken;
  // Longer than any window: this look was the last.
  world.onLook = () => {
    world.us += 2 * MAX_US;
    world.onLook = () => undefined;
  };
  const { native } = world.rig;
  const { nowUs } = native;
  let calls = 0;
  native.nowUs = () => {
    // The second reading in the turn is the one that ends the window.
    if (++calls === 2) {
      expect(world.post()).toBe(false);
      native.nowUs = nowUs;
    }
    return world.us;
  };
  world.sleeps.length = 0;
  world.rig.step();
  expect(world.sleeps).toEqual([]);
  expect(world.taken).toBe(taken + 1);
});
