/** Shapes shared by the device and driver sides. The package knows nothing of vhost-user, networks or system calls. */

/**
 * A table of buffers: row i names `length[i]` bytes at `offset[i]` (bytes from the start of the region's buffer) of
 * region `region[i]`, the number given to `GuestMemory.add`.
 */
export interface Rows {
  readonly region: Int32Array;
  readonly offset: Float64Array;
  readonly length: Int32Array;
  readonly capacity: number;
}

/** Where a structure lies: byte offset `offset` in `buffer`. */
export interface RingPlace {
  readonly buffer: SharedArrayBuffer | ArrayBuffer;
  readonly offset: number;
}

/** Set-up of a split ring (virtio 1.2 §2.7). Each place must hold the whole structure: 16 N, 6 + 2 N, 6 + 8 N bytes. */
export interface SplitRingLayout {
  /** Ring size N: a power of two, 1 … 32768. */
  readonly size: number;
  readonly desc: RingPlace;
  readonly avail: RingPlace;
  readonly used: RingPlace;
}

/**
 * Faults of a ring: the driver broke the rules and the ring must be stopped. Negative, so that they can be returned
 * where a count is expected. The names are for logs and metrics (`faultName`).
 */
export const FAULT_AVAIL_INDEX = -1; // more heads than the ring has
export const FAULT_HEAD = -2; // head >= N
export const FAULT_NEXT = -3; // next >= table size
export const FAULT_LOOP = -4; // chain longer than N (direct) or the indirect limit
export const FAULT_ADDRESS = -5; // outside guest memory
export const FAULT_ORDER = -6; // readable after writable
export const FAULT_INDIRECT = -7; // nested, NEXT set, bad length, not negotiated
export const FAULT_LENGTH = -8; // total above 2^31 - 1
export const FAULT_ROWS = -9; // more segments than the row table takes

/** Driver side: the device returned an index or a head that is not outstanding. */
export const FAULT_USED = -10;

/** What was negotiated for a ring (virtio 1.2 §6): VIRTIO_F_INDIRECT_DESC and VIRTIO_F_EVENT_IDX. */
export interface RingFeatures {
  readonly indirect: boolean;
  readonly eventIdx: boolean;
}
