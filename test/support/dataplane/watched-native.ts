/** The addon with a clock that stands still, and no sleeps: for tests of what the loop does when. */
import { DEVICE_FEATURES } from '../../../src/dataplane/virtio/features';
import { loadNative, type Native } from '../../../src/native';
import { BareRig } from './bare-rig';

export class WatchedNative {
  readonly native: Native;
  /** What the clock shows, µs. */
  us = 1_000_000;
  /** How long the loop wanted to wait, µs, each time. */
  readonly sleeps: number[] = [];
  /** Descriptors that were notified. */
  readonly notified: number[] = [];

  constructor() {
    const real = loadNative();
    const native = Object.create(real) as Native;
    native.nowUs = () => this.us;
    native.epollWait = (timeoutUs) => {
      this.sleeps.push(timeoutUs);
      return real.epollWait(0);
    };
    native.notify = (fd, kind) => {
      this.notified.push(fd);
      return real.notify(fd, kind);
    };
    this.native = native;
  }

  /** How often a descriptor was notified. */
  times(fd: number): number {
    return this.notified.filter((each) => each === fd).length;
  }

  forget(): void {
    this.sleeps.length = 0;
    this.notified.length = 0;
  }
}

/** A loop on it that has come to rest: the start is over, and the guest has looked at all it was told of. */
export function restingRig(watched: WatchedNative, features = DEVICE_FEATURES, pollUs = 0): BareRig {
  const rig = new BareRig(features, { native: watched.native, pollUs });
  for (let i = 0; i < 8; i++) rig.turn();
  rig.look();
  return rig;
}
