import {
  DEVICE_FEATURES,
  bit,
  featureNames,
  has,
  negotiated,
  offeredFeatures,
} from '../../../../src/dataplane/virtio/features';
import * as f from '../../../../src/dataplane/virtio/features';

const bits = (...numbers: number[]): bigint => numbers.reduce((sum, n) => sum | bit(n), 0n);

describe('what is offered', () => {
  it('everything the specification asks for before a bit that depends on it', () => {
    for (const n of [
      f.VIRTIO_NET_F_CSUM,
      f.VIRTIO_NET_F_GUEST_CSUM,
      f.VIRTIO_NET_F_HOST_TSO4,
      f.VIRTIO_NET_F_HOST_TSO6,
      f.VIRTIO_NET_F_HOST_ECN,
      f.VIRTIO_NET_F_GUEST_TSO4,
      f.VIRTIO_NET_F_GUEST_TSO6,
      f.VIRTIO_NET_F_GUEST_ECN,
      f.VIRTIO_NET_F_HOST_USO,
      f.VIRTIO_NET_F_GUEST_USO4,
      f.VIRTIO_NET_F_GUEST_USO6,
      f.VIRTIO_NET_F_MRG_RXBUF,
      f.VIRTIO_RING_F_INDIRECT_DESC,
      f.VIRTIO_RING_F_EVENT_IDX,
      f.VIRTIO_F_VERSION_1,
    ]) {
      expect([n, has(DEVICE_FEATURES, n)]).toEqual([n, true]);
    }
  });

  const always = bits(f.VIRTIO_F_VERSION_1, f.VIRTIO_F_ANY_LAYOUT);
  it.each([
    [undefined, DEVICE_FEATURES],
    ['', DEVICE_FEATURES],
    ['all', DEVICE_FEATURES],
    ['none', always],
    ['csum,host_tso4', always | bits(f.VIRTIO_NET_F_CSUM, f.VIRTIO_NET_F_HOST_TSO4)],
    ['none, mrg_rxbuf', always | bits(f.VIRTIO_NET_F_MRG_RXBUF)],
    ['-event_idx,-guest_tso6', DEVICE_FEATURES & ~bits(f.VIRTIO_RING_F_EVENT_IDX, f.VIRTIO_NET_F_GUEST_TSO6)],
    ['csum,all,-csum', DEVICE_FEATURES & ~bits(f.VIRTIO_NET_F_CSUM)],
  ])('TUBETTI_FEATURES=%s', (words, expected) => {
    expect(offeredFeatures(words)).toBe(expected);
  });

  it.each(['tso', '-', 'csum,,mrg_rxbuf', '-all', 'version_1'])('does not know "%s"', (words) => {
    expect(() => offeredFeatures(words)).toThrow(/^TUBETTI_FEATURES: unknown feature '.*', give all, none, csum/);
  });
});

describe('what is negotiated', () => {
  it('bits count only together with what they depend on (virtio 1.2 §5.1.3.1)', () => {
    const dependent = bits(7, 8, 9, 11, 12, 13, 54, 55, 56);
    const without = negotiated(dependent);
    expect(Object.entries(without).filter(([, value]) => value === true)).toEqual([]);
    const csum = negotiated(dependent | bits(f.VIRTIO_NET_F_CSUM));
    expect([csum.hostTso4, csum.hostTso6, csum.hostEcn, csum.hostUso]).toEqual([true, true, true, true]);
    expect([csum.guestTso4, csum.guestTso6, csum.guestUso4, csum.guestUso6]).toEqual([false, false, false, false]);
    const guestCsum = negotiated(dependent | bits(f.VIRTIO_NET_F_GUEST_CSUM));
    expect([guestCsum.guestTso4, guestCsum.guestTso6]).toEqual([true, true]);
    expect([guestCsum.guestUso4, guestCsum.guestUso6]).toEqual([true, true]);
    expect([guestCsum.hostTso4, guestCsum.hostEcn, guestCsum.hostUso]).toEqual([false, false, false]);
    const ecn = negotiated(bits(f.VIRTIO_NET_F_CSUM, f.VIRTIO_NET_F_HOST_ECN));
    expect(ecn.hostEcn).toBe(false);
  });

  it.each([
    [[], 10],
    [[f.VIRTIO_NET_F_MRG_RXBUF], 12],
    [[f.VIRTIO_F_VERSION_1], 12],
  ])('with %j the header has %i bytes', (numbers, expected) => {
    expect(negotiated(bits(...numbers)).headerLen).toBe(expected);
  });

  it('is named as TUBETTI_FEATURES names it, in the order of the bits', () => {
    expect(featureNames(0n)).toEqual([]);
    const some = bits(f.VIRTIO_NET_F_HOST_USO, f.VIRTIO_NET_F_CSUM, f.VIRTIO_F_VERSION_1, f.VIRTIO_RING_F_EVENT_IDX);
    expect(featureNames(some)).toEqual(['csum', 'event_idx', 'version_1', 'host_uso']);
    // PROTOCOL_FEATURES is vhost-user's own.
    expect(featureNames(bits(30, f.VHOST_F_LOG_ALL))).toEqual([]);
    expect(featureNames(DEVICE_FEATURES)).toHaveLength(16);
  });
});
