/**
 * The device as the vhost-user session sees it: guest memory and rings, in the terms of the protocol. The
 * session (main thread) validates everything a front-end says; the device (src/dataplane) may assume it. Calls that
 * return a promise are barriers: the reply owed to the front-end is sent when it settles. They never reject for what
 * a guest does; a rejection is our bug and ends the session.
 */

/** One mapped region of guest memory. `region` and `buffer` come from the addon. */
export interface DeviceMemoryRegion {
  readonly region: number;
  readonly buffer: SharedArrayBuffer;
  /** Guest-physical address of the region's first byte and its size in bytes (numbers below 2^53). */
  readonly gpa: number;
  readonly size: number;
}

/** A place inside region number `region` (index in the DeviceMemoryRegion list's `region` field). */
export interface DevicePlace {
  readonly region: number;
  readonly offset: number;
}

/** Everything a ring needs to run. Extents and alignment are checked by the session. */
export interface DeviceRing {
  readonly index: number;
  readonly size: number;
  readonly desc: DevicePlace;
  readonly avail: DevicePlace;
  readonly used: DevicePlace;
  /** Next avail index to process (SET_VRING_BASE). */
  readonly base: number;
  /** Descriptor to wait for; -1: poll. Owned by the session; valid until stopRing settled. */
  readonly kickFd: number;
  /** Descriptor to signal; -1: none. */
  readonly callFd: number;
  readonly errFd: number;
  readonly enabled: boolean;
  /** Guest-physical address of the used ring for dirty logging; -1: used ring is not logged. */
  readonly logAddr: number;
}

export interface DirtyLog {
  readonly region: number;
  readonly buffer: SharedArrayBuffer;
}

export interface VhostDevice {
  /** Virtio feature bits offered (bit n = 2^n), constant for the life of the process. */
  readonly features: bigint;
  /** Ring count the device serves: 2 (receive 0, transmit 1). */
  readonly rings: number;
  /** A front-end is there. Flows of an earlier one are kept. */
  attach(): void;
  /** The front-end left: no ring runs any more (all stopped before), memory is forgotten. */
  detach(): Promise<void>;
  /** Acked feature bits, bits 26 and 30 included. May come again to toggle bit 26 while rings run. */
  setFeatures(features: bigint): Promise<void>;
  /** Replaces the memory map while rings may run: settles when no thread uses the old one. */
  setMemory(regions: readonly DeviceMemoryRegion[]): Promise<void>;
  startRing(ring: DeviceRing): Promise<void>;
  /** Stops the ring; settles with its next avail index when nothing touches the ring any more. */
  stopRing(index: number): Promise<number>;
  setRingEnabled(index: number, enabled: boolean): Promise<void>;
  /** Replaces descriptors of a running ring; signals the new call descriptor once if used work may be unseen. */
  setRingCall(index: number, callFd: number): Promise<void>;
  setRingKick(index: number, kickFd: number): Promise<void>;
  setRingErr(index: number, errFd: number): Promise<void>;
  setRingLog(index: number, logAddr: number): Promise<void>;
  /** Dirty log for migration; null: off. */
  setLog(log: DirtyLog | null): Promise<void>;
  /**
   * NET_SET_MTU: the link's MTU (68 … 65535) as the front-end configured it, until `detach`. Settles when it is in
   * force. Optional: not every device cares.
   */
  setMtu?(mtu: number): Promise<void>;
  /** RESET_DEVICE: the guest was reset; flows may go. All rings were stopped before. */
  resetDevice(): Promise<void>;
  /** Called when a ring breaks (the session signals the ring's err descriptor and logs). Set by the session. */
  onRingFault: ((index: number, reason: string) => void) | null;
  /**
   * Called when the device cannot serve this front-end: it has let go of its memory and rings, answers what is still
   * said to it without doing it, and the session has to end. Set by the session.
   */
  onFailed: ((error: Error) => void) | null;
}
