/** Feature negotiation: every subset of what is offered works, what is not offered is not taken. */
import { type Check, Failure, Skip } from '../check';
import * as vu from '../constants';
import { u64, vringState } from '../payloads';
import { BASE_FEATURES, BASE_PROTOCOL } from '../session';
import { arrive, check, messages, need, needFeature, settle } from './rows';

const VIRTIO = 'virtio 1.2 §2.2';
const SET = 'vhost-user "VHOST_USER_SET_FEATURES"';
const SET_PROTOCOL = 'vhost-user "VHOST_USER_SET_PROTOCOL_FEATURES"';
const ALL = (1n << 64n) - 1n;

/** Features of the device that a driver may take alone. */
const NAMES: readonly (readonly [string, bigint])[] = [
  ['CSUM', vu.VIRTIO_NET_F_CSUM],
  ['GUEST_CSUM', vu.VIRTIO_NET_F_GUEST_CSUM],
  ['GUEST_TSO', vu.VIRTIO_NET_F_GUEST_CSUM | vu.VIRTIO_NET_F_GUEST_TSO4 | vu.VIRTIO_NET_F_GUEST_TSO6],
  ['HOST_TSO', vu.VIRTIO_NET_F_CSUM | vu.VIRTIO_NET_F_HOST_TSO4 | vu.VIRTIO_NET_F_HOST_TSO6],
  ['MRG_RXBUF', vu.VIRTIO_NET_F_MRG_RXBUF],
  ['INDIRECT_DESC', vu.VIRTIO_RING_F_INDIRECT_DESC],
  ['EVENT_IDX', vu.VIRTIO_RING_F_EVENT_IDX],
  ['ANY_LAYOUT', vu.VIRTIO_F_ANY_LAYOUT],
];

const subset = (id: string, title: string, bits: bigint, base: bigint): Check =>
  check(`features.${id}`, VIRTIO, 'SHOULD', title, async (probe) => {
    const session = await probe.open({ features: bits | base });
    if (bits !== 0n) needFeature(session, bits, `all of ${id}`);
    await session.run();
    await session.transmit(3);
  });

const protocolBits = Array.from({ length: 23 }, (_, bit) => bit).filter(
  // PAGEFAULT and INBAND_NOTIFICATIONS change what a front-end must do; Xen's mappings need Xen.
  (bit) => ![8, 14, 17].includes(bit),
);

export const FEATURE_CHECKS: readonly Check[] = [
  subset('none', 'no feature at all: a legacy driver, whose header has 10 bytes', 0n, 0n),
  subset('VERSION_1', 'VERSION_1 alone', vu.VIRTIO_F_VERSION_1, 0n),
  ...NAMES.map(([name, bits]) => subset(name, `VERSION_1 and ${name}`, bits, vu.VIRTIO_F_VERSION_1)),
  check('features.all', VIRTIO, 'SHOULD', 'all that the prober knows', async (probe) => {
    const session = await probe.open({ features: BASE_FEATURES | vu.DRIVER_FEATURES | vu.USO_FEATURES });
    await session.run();
    await session.transmit(3);
  }),
  check('features.stable', VIRTIO, 'SHOULD', 'the same features are offered to the next front-end', async (probe) => {
    const first = await probe.open();
    await first.negotiateProtocol(0n);
    first.close();
    const next = await probe.open();
    await next.negotiateProtocol(0n);
    if (next.offered !== first.offered) throw new Failure('other virtio features');
    if (next.protocolOffered !== first.protocolOffered) throw new Failure('other protocol features');
  }),

  check(
    'features.unoffered',
    SET,
    'SHOULD',
    'a virtio feature that was not offered is not acknowledged',
    async (probe) => {
      const session = await arrive(probe, 'negotiated');
      let bit = 0n;
      while (session.offers(1n << bit)) bit++;
      const outcome = await session.ask(vu.VHOST_USER_SET_FEATURES, u64(session.wantedFeatures | (1n << bit)));
      if (outcome === 'done') throw new Failure(`bit ${bit.toString()} was acknowledged`);
      probe.note(outcome);
    },
  ),
  ...messages(SET, [
    {
      id: 'features.all-bits',
      title: 'all 64 bits',
      request: vu.VHOST_USER_SET_FEATURES,
      payload: u64(ALL),
      expect: 'survives',
    },
    {
      id: 'features.changed-running',
      title: 'other features while the rings run',
      state: 'running',
      request: vu.VHOST_USER_SET_FEATURES,
      payload: u64(0),
      expect: 'survives',
    },
  ]),
  check('features.again-running', SET, 'MUST', 'the same features again while the rings run', async (probe) => {
    const session = await arrive(probe, 'running');
    await session.must(vu.VHOST_USER_SET_FEATURES, u64(session.features));
    await session.transmit();
  }),
  check(
    'features.without-30',
    'vhost-user "Ring states"',
    'MUST',
    'SET_FEATURES without bit 30 enables all rings',
    async (probe) => {
      const session = await probe.open({ protocol: 0n, withoutProtocolBit: true });
      await session.run();
      await session.transmit();
      if (await session.until(() => session.tx.takeErrors() > 0, 1)) throw new Failure('an error was signalled');
    },
  ),
  check(
    'features.protocol-first',
    'vhost-user "VHOST_USER_GET_PROTOCOL_FEATURES"',
    'MUST',
    'protocol features before SET_FEATURES and SET_OWNER',
    async (probe) => {
      const session = await probe.open();
      needFeature(session, vu.VHOST_USER_F_PROTOCOL_FEATURES, 'VHOST_USER_F_PROTOCOL_FEATURES');
      await session.negotiateProtocol();
    },
  ),

  ...protocolBits.map((bit) =>
    check(
      `features.protocol-${bit}`,
      SET_PROTOCOL,
      'MUST',
      `protocol feature ${bit} alone, then a guest that runs`,
      async (probe) => {
        const session = await probe.open({ protocol: 1n << BigInt(bit) });
        needFeature(session, vu.VHOST_USER_F_PROTOCOL_FEATURES, 'VHOST_USER_F_PROTOCOL_FEATURES');
        await session.negotiateProtocol(1n << BigInt(bit));
        need(session, 1n << BigInt(bit), 'it');
        await session.run();
        await session.transmit();
      },
    ),
  ),
  check('features.protocol-none', SET_PROTOCOL, 'MUST', 'no protocol feature', async (probe) => {
    const session = await probe.open({ protocol: 0n });
    await session.run();
    await session.transmit();
  }),
  check(
    'features.protocol-ack-at-once',
    SET_PROTOCOL,
    'SHOULD',
    'need_reply on the message that negotiates REPLY_ACK',
    async (probe) => {
      const session = await probe.open();
      await session.negotiateProtocol(0n);
      need(session, vu.VHOST_USER_PROTOCOL_F_REPLY_ACK, 'REPLY_ACK');
      session.protocol = vu.VHOST_USER_PROTOCOL_F_REPLY_ACK;
      await session.must(vu.VHOST_USER_SET_PROTOCOL_FEATURES, u64(session.protocol));
    },
  ),
  check(
    'features.protocol-unoffered',
    SET_PROTOCOL,
    'SHOULD',
    'a protocol feature that was not offered is not acknowledged',
    async (probe) => {
      const session = await arrive(probe, 'negotiated');
      const outcome = await session.ask(vu.VHOST_USER_SET_PROTOCOL_FEATURES, u64(session.protocol | (1n << 63n)));
      if (outcome === 'done') throw new Failure('bit 63 was acknowledged');
      probe.note(outcome);
    },
  ),
  ...messages(SET_PROTOCOL, [
    {
      id: 'features.protocol-all-bits',
      title: 'all 64 bits',
      request: vu.VHOST_USER_SET_PROTOCOL_FEATURES,
      payload: u64(ALL),
      expect: 'survives',
    },
    {
      id: 'features.protocol-running',
      title: 'other protocol features while the rings run',
      state: 'running',
      request: vu.VHOST_USER_SET_PROTOCOL_FEATURES,
      payload: u64(8),
      expect: 'survives',
    },
  ]),
  check(
    'features.inband-alone',
    SET_PROTOCOL,
    'robustness',
    'INBAND_NOTIFICATIONS without what it needs',
    async (probe) => {
      const session = await probe.open();
      await session.negotiateProtocol(0n);
      if ((session.protocolOffered & vu.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS) === 0n)
        throw new Skip('it is not offered');
      session.front.send(vu.VHOST_USER_SET_PROTOCOL_FEATURES, u64(vu.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS));
      probe.note(await settle(session));
    },
  ),
  check(
    'features.enable-first',
    'vhost-user "VHOST_USER_SET_VRING_ENABLE"',
    'MUST',
    'rings are enabled before features and memory (QEMU)',
    async (probe) => {
      const session = await probe.open();
      await session.negotiateProtocol(BASE_PROTOCOL);
      needFeature(session, vu.VHOST_USER_F_PROTOCOL_FEATURES, 'VHOST_USER_F_PROTOCOL_FEATURES');
      for (const index of [0, 1]) await session.must(vu.VHOST_USER_SET_VRING_ENABLE, vringState(index, 1));
      await session.setFeatures();
      await session.setMemory();
      for (const ring of session.rings) await session.startRing(ring);
      await session.transmit();
    },
  ),
];
