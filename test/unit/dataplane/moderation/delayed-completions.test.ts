/** The interrupt for completed small frames: delayed, by the port and by the loop's clock. */
import { BareRig, VNET_HEADER } from '../../../support/dataplane/bare-rig';
import { WatchedNative } from '../../../support/dataplane/watched-native';
import { DEVICE_FEATURES } from '../../../../src/dataplane/virtio/features';
import { FRAME_DELAY_US, STANDARD_DELAY_US } from '../../../../src/dataplane/moderation/delayed-completions';
import { PortRig } from '../../../support/dataplane/port-rig';

const VNET = Buffer.alloc(12);
const TX_CALL = 101;

/** The guest sends `count` frames of `length` bytes, the port takes and completes them. */
function exchange(rig: PortRig, count: number, length: number): void {
  for (let i = 0; i < count; i++) rig.transmit([VNET, Buffer.alloc(length, i)]);
  while (rig.port.receive(0) > 0);
  rig.port.releaseReceived();
}

/** Linux's NAPI: takes all completions, then asks for the next. */
function guestLooks(rig: PortRig): number {
  let n = 0;
  while (rig.tx.pollUsed() === 1) n++;
  rig.tx.enableCallbacks();
  return n;
}

describe('the port', () => {
  const rigOf = (): PortRig => {
    const rig = new PortRig();
    exchange(rig, 1, 60);
    rig.port.endDelays(); // the first one ever is unconditional
    guestLooks(rig);
    rig.signals.length = 0;
    return rig;
  };

  it('completes small frames at once and notifies of them when the delay ends', () => {
    const rig = rigOf();
    exchange(rig, 2, 66);
    expect(rig.signals).toEqual([]);
    expect(rig.port.moderation.completionsPending).toBe(true);
    rig.port.endDelays();
    expect(rig.signals).toEqual([TX_CALL]);
    expect(rig.port.moderation.completionsPending).toBe(false);
    expect(guestLooks(rig)).toBe(2);
  });

  it('does not notify a guest that has found them by itself', () => {
    const rig = rigOf();
    exchange(rig, 2, 66);
    expect(guestLooks(rig)).toBe(2);
    rig.port.endDelays();
    expect(rig.signals).toEqual([]);
    exchange(rig, 1, 66);
    rig.port.endDelays();
    expect(rig.signals).toEqual([TX_CALL]);
  });

  it('notifies of large frames at once, and of small ones with them', () => {
    const rig = rigOf();
    exchange(rig, 1, 1514);
    expect(rig.signals).toEqual([TX_CALL]);
    guestLooks(rig);
    exchange(rig, 1, 66);
    exchange(rig, 1, 1514);
    expect(rig.signals).toEqual([TX_CALL, TX_CALL]);
    expect(rig.port.moderation.completionsPending).toBe(false);
  });

  it('delays few', () => {
    const rig = rigOf();
    exchange(rig, 16, 66);
    expect(rig.signals).toEqual([]);
    exchange(rig, 1, 66);
    expect(rig.signals).toEqual([TX_CALL]);
    expect(rig.port.moderation.completionsPending).toBe(false);
  });

  it('has nothing to delay where the guest wants no notification', () => {
    const rig = rigOf();
    rig.tx.disableCallbacks();
    exchange(rig, 3, 66);
    expect(rig.port.moderation.completionsPending).toBe(false);
    expect(rig.signals).toEqual([]);
  });
});

it.each(['off', 'standard', 'adaptive'] as const)('level %s: only off has an interrupt for each', (moderation) => {
  const rig = new PortRig({ moderation });
  exchange(rig, 1, 60);
  rig.port.endDelays();
  guestLooks(rig);
  rig.signals.length = 0;
  exchange(rig, 1, 66);
  expect(rig.signals).toEqual(moderation === 'off' ? [TX_CALL] : []);
});

describe.each([
  ['standard', STANDARD_DELAY_US],
  ['adaptive', FRAME_DELAY_US],
] as const)('the loop, %s, a frame that nobody answers', (moderation, delayUs) => {
  let watched: WatchedNative;
  let slot: number;
  let rig: BareRig;

  const send = (): void => {
    rig.post(slot++, VNET_HEADER + 60);
    rig.kick();
  };

  /** Interrupts for completions. */
  const interrupts = (): number => watched.times(rig.calls[1]);

  beforeEach(() => {
    slot = 0;
    watched = new WatchedNative();
    rig = new BareRig(DEVICE_FEATURES, { native: watched.native, moderation });
    // The first notification ever is unconditional.
    rig.dozing = true;
    send();
    for (let i = 0; i < 8; i++) rig.turn();
    watched.us += delayUs;
    rig.step();
    rig.look();
    watched.forget();
  });

  afterEach(() => rig.close());

  it('waits no longer than the delay, notifies once, then sleeps as ever', () => {
    send();
    rig.step();
    expect(interrupts()).toBe(0);
    watched.us += delayUs - 1;
    rig.step();
    expect(interrupts()).toBe(0);
    watched.us += 1;
    rig.step();
    expect(interrupts()).toBe(1);
    rig.look();
    rig.step();
    rig.step();
    expect(interrupts()).toBe(1);
    expect(watched.sleeps.slice(1, 3)).toEqual([delayUs, 1]);
    expect(watched.sleeps[4]).toBeGreaterThan(1_000_000);
  });

  it('a delay begins with the frame that it is for, not with an earlier one', () => {
    send();
    rig.step();
    watched.us += delayUs - 1;
    rig.look();
    rig.step();
    send();
    rig.step();
    watched.us += delayUs - 1;
    rig.step();
    expect(interrupts()).toBe(0);
    watched.us += 1;
    rig.step();
    expect(interrupts()).toBe(1);
  });

  it('a ring that is stopped has notified of all', () => {
    send();
    rig.step();
    rig.stopTransmit();
    expect(interrupts()).toBe(1);
  });
});
