/** The notification of small frames' completion: held back for a moment, by the port and by the loop's clock. */
import { BareRig, VNET_HEADER } from '../../../support/dataplane/bare-rig';
import { WatchedNative } from '../../../support/dataplane/watched-native';
import { DEVICE_FEATURES } from '../../../../src/dataplane/virtio/features';
import { HOLD_NOTIFIED_US, HOLD_US } from '../../../../src/dataplane/virtio/transmit-side';
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
    rig.port.releaseHeld(); // the first one ever is unconditional
    guestLooks(rig);
    rig.signals.length = 0;
    return rig;
  };

  it('completes small frames at once and tells of them when the moment is over', () => {
    const rig = rigOf();
    exchange(rig, 2, 66);
    expect(rig.signals).toEqual([]);
    expect(rig.port.tx.held).toBe(2);
    expect(rig.port.tx.stillHeld()).toBe(true);
    rig.port.releaseHeld();
    expect(rig.signals).toEqual([TX_CALL]);
    expect(rig.port.tx.held).toBe(0);
    expect(guestLooks(rig)).toBe(2);
  });

  it('does not tell a guest that has found them by itself', () => {
    const rig = rigOf();
    exchange(rig, 2, 66);
    expect(guestLooks(rig)).toBe(2);
    expect(rig.port.tx.stillHeld()).toBe(false);
    expect(rig.port.tx.held).toBe(0);
    exchange(rig, 1, 66);
    rig.port.releaseHeld();
    expect(rig.signals).toEqual([TX_CALL]);
  });

  it('tells of large frames at once, and of small ones with them', () => {
    const rig = rigOf();
    exchange(rig, 1, 1514);
    expect(rig.signals).toEqual([TX_CALL]);
    guestLooks(rig);
    exchange(rig, 1, 66);
    exchange(rig, 1, 1514);
    expect(rig.signals).toEqual([TX_CALL, TX_CALL]);
    expect(rig.port.tx.held).toBe(0);
  });

  it('holds back few', () => {
    const rig = rigOf();
    exchange(rig, 16, 66);
    expect(rig.signals).toEqual([]);
    exchange(rig, 1, 66);
    expect(rig.signals).toEqual([TX_CALL]);
    expect(rig.port.tx.held).toBe(0);
  });

  it('has nothing to hold back where the guest wants no notification', () => {
    const rig = rigOf();
    rig.tx.disableCallbacks();
    exchange(rig, 3, 66);
    expect(rig.port.tx.held).toBe(0);
    expect(rig.signals).toEqual([]);
  });
});

describe('the loop', () => {
  let watched: WatchedNative;
  let slot: number;
  let rig: BareRig;

  const send = (): void => {
    rig.post(slot++, VNET_HEADER + 60);
    rig.kick();
  };

  /** Notifications of completions. */
  const told = (): number => watched.times(rig.calls[1]);

  const ask = (): void => {
    rig.postArp(slot++);
    rig.kick();
  };

  beforeEach(() => {
    slot = 0;
    watched = new WatchedNative();
    rig = new BareRig(DEVICE_FEATURES, { native: watched.native });
    // The first notification ever is unconditional.
    rig.dozing = true;
    send();
    for (let i = 0; i < 8; i++) rig.turn();
    watched.us += HOLD_US;
    rig.step();
    rig.look();
    watched.forget();
  });

  afterEach(() => rig.close());

  it('waits no longer than the moment lasts, then tells once, then sleeps as ever', () => {
    send();
    rig.step();
    expect(told()).toBe(0);
    watched.us += HOLD_US - 1;
    rig.step();
    expect(told()).toBe(0);
    watched.us += 1;
    rig.step();
    expect(told()).toBe(1);
    rig.look();
    rig.step();
    rig.step();
    expect(told()).toBe(1);
    expect(watched.sleeps.slice(1, 3)).toEqual([HOLD_US, 1]);
    expect(watched.sleeps[4]).toBeGreaterThan(1_000_000);
  });

  it('waits longer for a guest that was notified of a frame meanwhile, also with other turns in between', () => {
    ask();
    rig.step();
    rig.lookAtFrames();
    rig.step();
    watched.forget();
    watched.us += HOLD_NOTIFIED_US - 1;
    rig.step();
    expect(told()).toBe(0);
    watched.us += 1;
    rig.step();
    expect(told()).toBe(1);
    expect(watched.sleeps).toEqual([HOLD_NOTIFIED_US, 1]);
  });

  it('a guest that looked where it was notified is not told', () => {
    ask();
    rig.step();
    rig.look();
    watched.us += HOLD_NOTIFIED_US;
    rig.step();
    rig.step();
    expect(told()).toBe(0);
    expect(watched.sleeps[2]).toBeGreaterThan(1_000_000);
  });

  it('a notification of a frame makes only the moment longer that it falls into', () => {
    ask();
    rig.step();
    rig.look();
    rig.step();
    send();
    rig.step();
    watched.us += HOLD_US;
    rig.step();
    expect(told()).toBe(1);
  });

  it('a moment begins with the frame that is held, not with an earlier one', () => {
    send();
    rig.step();
    watched.us += HOLD_US - 1;
    rig.look();
    rig.step();
    send();
    rig.step();
    watched.us += HOLD_US - 1;
    rig.step();
    expect(told()).toBe(0);
    watched.us += 1;
    rig.step();
    expect(told()).toBe(1);
  });

  it('after a message the guest is told at once, once', () => {
    rig.traffic.message = true;
    send();
    rig.step();
    expect(told()).toBe(1);
    rig.look();
    send();
    rig.step();
    expect(told()).toBe(1);
  });

  it('not where it was notified of a frame in the same turn', () => {
    rig.traffic.message = true;
    ask();
    rig.step();
    expect(watched.times(rig.calls[0])).toBe(1);
    expect(told()).toBe(0);
  });

  it('a ring that is stopped has told all', () => {
    send();
    rig.step();
    rig.stopTransmit();
    expect(told()).toBe(1);
  });
});
