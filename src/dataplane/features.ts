/** Virtio feature bits of the device, in the specification's spelling (virtio 1.2 §5.1.3, §6), and what is offered. */

export const VIRTIO_NET_F_CSUM = 0;
export const VIRTIO_NET_F_GUEST_CSUM = 1;
export const VIRTIO_NET_F_GUEST_TSO4 = 7;
export const VIRTIO_NET_F_GUEST_TSO6 = 8;
export const VIRTIO_NET_F_GUEST_ECN = 9;
export const VIRTIO_NET_F_HOST_TSO4 = 11;
export const VIRTIO_NET_F_HOST_TSO6 = 12;
export const VIRTIO_NET_F_HOST_ECN = 13;
export const VIRTIO_NET_F_MRG_RXBUF = 15;
export const VIRTIO_NET_F_GUEST_USO4 = 54;
export const VIRTIO_NET_F_GUEST_USO6 = 55;
export const VIRTIO_NET_F_HOST_USO = 56;
export const VIRTIO_F_ANY_LAYOUT = 27;
export const VIRTIO_RING_F_INDIRECT_DESC = 28;
export const VIRTIO_RING_F_EVENT_IDX = 29;
export const VIRTIO_F_VERSION_1 = 32;
/** VHOST_F_LOG_ALL: dirty logging of data writes is on. Seen in SET_FEATURES, never by the guest. */
export const VHOST_F_LOG_ALL = 26;

/** A feature bit as the number that SET_FEATURES and GET_FEATURES carry. */
export function bit(n: number): bigint {
  return 1n << BigInt(n);
}

export function has(features: bigint, n: number): boolean {
  return (features & bit(n)) !== 0n;
}

/**
 * What the device offers; constant for the life of the process, so that a reconnecting front-end finds it again.
 * Checksums are left to whoever has them for nothing: the guest's data never crosses a wire between it and us.
 * Segmentation offloads are implemented on both sides of the port and not offered yet.
 */
export const DEVICE_FEATURES: bigint =
  bit(VIRTIO_NET_F_CSUM) |
  bit(VIRTIO_NET_F_GUEST_CSUM) |
  bit(VIRTIO_NET_F_MRG_RXBUF) |
  bit(VIRTIO_F_ANY_LAYOUT) |
  bit(VIRTIO_RING_F_INDIRECT_DESC) |
  bit(VIRTIO_RING_F_EVENT_IDX) |
  bit(VIRTIO_F_VERSION_1);

/** The acked features as the data path uses them: decided once, at negotiation. */
export interface NegotiatedFeatures {
  /** Bytes of virtio_net_hdr: 12, or 10 for a legacy guest without merged buffers. */
  readonly headerLen: number;
  readonly mergeable: boolean;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  /** Guest leaves transport checksums to us / accepts ours unfinished. */
  readonly csum: boolean;
  readonly guestCsum: boolean;
  readonly hostTso4: boolean;
  readonly hostTso6: boolean;
  readonly hostEcn: boolean;
  readonly guestTso4: boolean;
  readonly guestTso6: boolean;
  readonly hostUso: boolean;
}

/** Decodes acked feature bits. Dependent bits without what they depend on (virtio 1.2 §5.1.3.1) are ignored. */
export function negotiated(features: bigint): NegotiatedFeatures {
  const mergeable = has(features, VIRTIO_NET_F_MRG_RXBUF);
  const csum = has(features, VIRTIO_NET_F_CSUM);
  const guestCsum = has(features, VIRTIO_NET_F_GUEST_CSUM);
  return {
    headerLen: mergeable || has(features, VIRTIO_F_VERSION_1) ? 12 : 10,
    mergeable,
    indirect: has(features, VIRTIO_RING_F_INDIRECT_DESC),
    eventIdx: has(features, VIRTIO_RING_F_EVENT_IDX),
    csum,
    guestCsum,
    hostTso4: csum && has(features, VIRTIO_NET_F_HOST_TSO4),
    hostTso6: csum && has(features, VIRTIO_NET_F_HOST_TSO6),
    hostEcn: csum && has(features, VIRTIO_NET_F_HOST_ECN),
    guestTso4: guestCsum && has(features, VIRTIO_NET_F_GUEST_TSO4),
    guestTso6: guestCsum && has(features, VIRTIO_NET_F_GUEST_TSO6),
    hostUso: csum && has(features, VIRTIO_NET_F_HOST_USO),
  };
}
