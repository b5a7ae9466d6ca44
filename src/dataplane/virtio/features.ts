/** Virtio feature bits of the device, in the specification's spelling (virtio 1.2 §5.1.3, §6), and what is offered. */
import { ConfigError } from '../../errors';

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

/** What the device can do, by the specification's names without prefix: what TUBETTI_FEATURES may name. */
const FEATURE_BITS = new Map<string, number>([
  ['csum', VIRTIO_NET_F_CSUM],
  ['guest_csum', VIRTIO_NET_F_GUEST_CSUM],
  ['guest_tso4', VIRTIO_NET_F_GUEST_TSO4],
  ['guest_tso6', VIRTIO_NET_F_GUEST_TSO6],
  ['guest_ecn', VIRTIO_NET_F_GUEST_ECN],
  ['host_tso4', VIRTIO_NET_F_HOST_TSO4],
  ['host_tso6', VIRTIO_NET_F_HOST_TSO6],
  ['host_ecn', VIRTIO_NET_F_HOST_ECN],
  ['guest_uso4', VIRTIO_NET_F_GUEST_USO4],
  ['guest_uso6', VIRTIO_NET_F_GUEST_USO6],
  ['host_uso', VIRTIO_NET_F_HOST_USO],
  ['mrg_rxbuf', VIRTIO_NET_F_MRG_RXBUF],
  ['indirect_desc', VIRTIO_RING_F_INDIRECT_DESC],
  ['event_idx', VIRTIO_RING_F_EVENT_IDX],
]);

/** Offered whatever TUBETTI_FEATURES says: without VERSION_1 no modern driver would start. */
const ALWAYS = bit(VIRTIO_F_ANY_LAYOUT) | bit(VIRTIO_F_VERSION_1);

/**
 * What the device offers; constant for the life of the process, so that a reconnecting front-end finds it again.
 * Checksums and segmentation are offloaded, because the guest's data never crosses a wire between it and us: a frame of
 * 64 KiB with one header is cheapest for both sides at any MTU.
 */
export const DEVICE_FEATURES: bigint = [...FEATURE_BITS.values()].reduce((sum, n) => sum | bit(n), ALWAYS);

/**
 * The features to offer where `words` (the environment variable TUBETTI_FEATURES, for tests and for guests with a
 * broken driver) leaves some out: a list separated by commas of `all`, `none`, `NAME` and `-NAME`, taken from left to
 * right. A list that begins with a NAME begins with none, any other with all.
 * @throws ConfigError for a word that it does not know.
 */
export function offeredFeatures(words: string | undefined): bigint {
  if (words === undefined || words.trim() === '') return DEVICE_FEATURES;
  const list = words.split(',').map((word) => word.trim());
  let features = FEATURE_BITS.has(list[0]) ? ALWAYS : DEVICE_FEATURES;
  for (const word of list) {
    const without = word.startsWith('-');
    const n = FEATURE_BITS.get(without ? word.slice(1) : word);
    if (word === 'all') features = DEVICE_FEATURES;
    else if (word === 'none') features = ALWAYS;
    else if (n === undefined) {
      const names = [...FEATURE_BITS.keys()].join(', ');
      throw new ConfigError('CFG_ERR_VALUE', `TUBETTI_FEATURES: unknown feature '${word}', give all, none, ${names}`);
    } else features = without ? features & ~bit(n) : features | bit(n);
  }
  return features;
}

/** Names of what was acknowledged, in the order of the bits; bits of vhost-user's own have none. */
export function featureNames(features: bigint): string[] {
  const all = [
    ...FEATURE_BITS,
    ['any_layout', VIRTIO_F_ANY_LAYOUT] as const,
    ['version_1', VIRTIO_F_VERSION_1] as const,
  ];
  return all
    .filter(([, n]) => has(features, n))
    .sort(([, a], [, b]) => a - b)
    .map(([name]) => name);
}

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
  readonly guestUso4: boolean;
  readonly guestUso6: boolean;
}

/** Decodes acked feature bits. Dependent bits without what they depend on (virtio 1.2 §5.1.3.1) are ignored. */
export function negotiated(features: bigint): NegotiatedFeatures {
  const mergeable = has(features, VIRTIO_NET_F_MRG_RXBUF);
  const csum = has(features, VIRTIO_NET_F_CSUM);
  const guestCsum = has(features, VIRTIO_NET_F_GUEST_CSUM);
  const hostTso4 = csum && has(features, VIRTIO_NET_F_HOST_TSO4);
  const hostTso6 = csum && has(features, VIRTIO_NET_F_HOST_TSO6);
  const guestTso4 = guestCsum && has(features, VIRTIO_NET_F_GUEST_TSO4);
  const guestTso6 = guestCsum && has(features, VIRTIO_NET_F_GUEST_TSO6);
  return {
    headerLen: mergeable || has(features, VIRTIO_F_VERSION_1) ? 12 : 10,
    mergeable,
    indirect: has(features, VIRTIO_RING_F_INDIRECT_DESC),
    eventIdx: has(features, VIRTIO_RING_F_EVENT_IDX),
    csum,
    guestCsum,
    hostTso4,
    hostTso6,
    hostEcn: (hostTso4 || hostTso6) && has(features, VIRTIO_NET_F_HOST_ECN),
    guestTso4,
    guestTso6,
    hostUso: csum && has(features, VIRTIO_NET_F_HOST_USO),
    guestUso4: guestCsum && has(features, VIRTIO_NET_F_GUEST_USO4),
    guestUso6: guestCsum && has(features, VIRTIO_NET_F_GUEST_USO6),
  };
}
