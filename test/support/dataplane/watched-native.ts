/** The addon with a clock that stands still, and no sleeps: for tests of what the loop does when. */
import { DEVICE_FEATURES } from '../../../src/dataplane/virtio/features';
import { FD_EVENTFD, loadNative, type Native } from '../../../src/native';
import { BareRig, type BareRigOptions } from './bare-rig';

export class WatchedNative {
  readonly native: Native;
  /** What the clock shows, µs. */
  us = 1_000_000;
  /** How long the loop wanted to wait, µs, each time. */
  readonly sleeps: number[] = [];
  /** What kind of descriptors the guest's interrupts come through (FD_…). */
  callKind = FD_EVENTFD;
  /** Descriptors that were notified. */
  readonly notified: number[] = [];

  private readonly regions: number[] = [];

  constructor() {
    const real = loadNative();
    const native = Object.create(real) as Native;
    native.allocRegion = (length) => {
      const region = real.allocRegion(length);
      this.regions.push(region);
      return region;
    };
    native.nowUs = () => this.us;
    native.epollWait = (timeoutUs) => {
      this.sleeps.push(timeoutUs);
      return real.epollWait(0);
    };
    native.fdKind = () => this.callKind;
    native.notify = (fd, kind) => {
      this.notified.push(fd);
      return real.notify(fd, kind === this.callKind ? FD_EVENTFD : kind);
    };
    this.native = native;
  }

  /** How often a descriptor was notified. */
  times(fd: number): number {
    return this.notified.filter((each) => each === fd).length;
  }

  /** Gives back all memory, that of the loop too, which a thread has for its life: a test has thousands of loops in one. */
  giveBack(): void {
    for (const region of this.regions) this.native.retireRegion(region);
  }

  forget(): void {
    this.sleeps.length = 0;
    this.notified.length = 0;
  }
}

/** A loop on it that has come to rest: the start is over, and the guest has looked at all it was notified of. */
export function restingRig(
  watched: WatchedNative,
  { features = DEVICE_FEATURES, ...options }: Omit<BareRigOptions, 'native'> & { readonly features?: bigint } = {},
): BareRig {
  const rig = new BareRig(features, { ...options, native: watched.native });
  for (let i = 0; i < 8; i++) rig.turn();
  rig.look();
  return rig;
}
