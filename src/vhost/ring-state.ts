/**
 * What the front-end set for one ring, and whether it runs.
 *
 * A ring has two independent states (vhost-user, "Ring states"): *started* and *enabled*. `SET_VRING_ENABLE` sets the
 * second at any time, also before features and memory are known. The first comes with SET_VRING_KICK, once size,
 * addresses and memory are there too (front-ends differ in the order), and goes with GET_VRING_BASE, or when a disabled
 * ring is set up again. Addresses are kept as received, in the front-end's address space: they are translated when the
 * ring starts and when memory changes.
 *
 * The state owns the ring's three descriptors. `replace*` hands the old one back to be closed, when nobody uses it.
 */
import type { DevicePlace, DeviceRing } from './device';
import type { VringAddr } from './messages';
import { VHOST_VRING_F_LOG } from './protocol';

/** The three parts of a split ring in our memory. */
export interface RingPlaces {
  readonly desc: DevicePlace;
  readonly avail: DevicePlace;
  readonly used: DevicePlace;
}

export class RingState {
  readonly index: number;
  started = false;
  enabled = false;
  /** The device gave the ring up since it was started. */
  faulted = false;
  /** 0: not said. */
  size = 0;
  base = 0;
  addr: VringAddr | null = null;
  /** Places of the started ring. */
  places: RingPlaces | null = null;
  /** SET_VRING_KICK came, with a descriptor or without. */
  kicked = false;
  kickFd = -1;
  callFd = -1;
  errFd = -1;

  constructor(index: number) {
    this.index = index;
  }

  /** All that a ring needs was said, memory aside. */
  get complete(): boolean {
    return this.size > 0 && this.addr !== null && this.kicked;
  }

  /** Guest-physical address for logging of the used ring, -1: not logged. */
  get logAddr(): number {
    return this.addr !== null && (this.addr.flags & VHOST_VRING_F_LOG) !== 0 ? Number(this.addr.log) : -1;
  }

  replaceKick(fd: number): number {
    const old = this.kickFd;
    this.kickFd = fd;
    this.kicked = true;
    return old;
  }

  replaceCall(fd: number): number {
    const old = this.callFd;
    this.callFd = fd;
    return old;
  }

  replaceErr(fd: number): number {
    const old = this.errFd;
    this.errFd = fd;
    return old;
  }

  /** Set-up for the device. The ring is complete and `places` is set. */
  describe(places: RingPlaces): DeviceRing {
    return {
      index: this.index,
      size: this.size,
      desc: places.desc,
      avail: places.avail,
      used: places.used,
      base: this.base,
      kickFd: this.kickFd,
      callFd: this.callFd,
      errFd: this.errFd,
      enabled: this.enabled,
      logAddr: this.logAddr,
    };
  }

  /**
   * Forgets the set-up of a stopped ring: every front-end says it all again, and addresses left from an earlier
   * driver would name recycled guest memory. The err descriptor stays: it is said once, at connect. Hands the two
   * descriptors over to be closed.
   */
  forget(): readonly [kickFd: number, callFd: number] {
    const fds = [this.kickFd, this.callFd] as const;
    this.started = false;
    this.faulted = false;
    this.size = 0;
    this.base = 0;
    this.addr = null;
    this.places = null;
    this.kicked = false;
    this.kickFd = -1;
    this.callFd = -1;
    return fds;
  }

  /** Forgets where a stopped ring was, and that it was kicked. Hands the kick descriptor over to be closed. */
  forgetPlace(): number {
    const fd = this.kickFd;
    this.addr = null;
    this.kicked = false;
    this.kickFd = -1;
    return fd;
  }
}

export function samePlaces(a: RingPlaces, b: RingPlaces): boolean {
  return samePlace(a.desc, b.desc) && samePlace(a.avail, b.avail) && samePlace(a.used, b.used);
}

function samePlace(a: DevicePlace, b: DevicePlace): boolean {
  return a.region === b.region && a.offset === b.offset;
}
