/**
 * A guest with every offload, with some, and with none: the tables of what a network and TCP must do, at the MTU of
 * 65520, then bulk data at 1500, in frames as large as what was negotiated allows. One boot a set. The tables of the set
 * with everything are those of guest-uml.test.ts and tcp-uml.test.ts.
 */
import type { Guest } from '../support/world/guest';
import { bootUml } from '../support/world/uml';
import { FAMILIES, SERVICE_ARGS, testNetwork, type Family } from './network-cases';
import { describeWith, setUpBench, whyNotGuest, withGuest } from './support';
import * as cases from './tcp-cases';
import * as failures from './tcp-failure-cases';
import { CLOSED_PORT, stageFor, testTcp, type Scale, type Stage } from './tcp-suite';

jest.setTimeout(120_000);

const MIB = 1 << 20;
const BULK = 8 * MIB;
/** In bursts of 24. */
const DATAGRAMS = 240;
/** Small: what differs from set to set differs in the first megabytes. */
const SCALE: Scale = { bulkBytes: 24 * MIB, parallel: 40, shortConnections: 80, watchedMs: 0 };
/** The table without the cases that take seconds and are about time, not about what a frame looks like. */
const TCP_CASES = [
  ...cases.bulk,
  ...cases.parallel,
  ...cases.fromHost,
  ...cases.halfClose,
  ...failures.refused,
  ...failures.peerKilled,
  ...failures.closedInGuest,
];

interface FeatureSet {
  readonly title: string;
  /** TUBETTI_FEATURES. */
  readonly words: string;
  /** Families whose segments are left uncut, on their way to the guest and from it. */
  readonly toGuest: readonly Family['name'][];
  readonly fromGuest: readonly Family['name'][];
  /** Bits by number that must have been negotiated, and bits that must not. */
  readonly on: readonly number[];
  readonly off: readonly number[];
  /** Absent: both tables. */
  readonly tables?: false;
}

const BOTH: readonly Family['name'][] = ['IPv4', 'IPv6'];
const [CSUM, GUEST_CSUM, MRG_RXBUF, INDIRECT_DESC, EVENT_IDX] = [0, 1, 15, 28, 29];
const [GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6] = [7, 8, 11, 12];
const HOST_USO = 56;
const EVERYTHING = [
  ...[CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6],
  ...[MRG_RXBUF, INDIRECT_DESC, EVENT_IDX],
];

const SETS: readonly FeatureSet[] = [
  { title: 'everything', words: 'all', toGuest: BOTH, fromGuest: BOTH, on: EVERYTHING, off: [], tables: false },
  {
    title: 'checksums, merged buffers and event indices, but no segments',
    words: 'csum,guest_csum,mrg_rxbuf,event_idx',
    toGuest: [],
    fromGuest: [],
    on: [CSUM, GUEST_CSUM, MRG_RXBUF, EVENT_IDX],
    off: [GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, INDIRECT_DESC],
  },
  {
    title: 'segments to the guest for IPv4, from it for IPv6, no merged buffers',
    words: '-mrg_rxbuf,-guest_tso6,-guest_ecn,-host_tso4',
    toGuest: ['IPv4'],
    fromGuest: ['IPv6'],
    on: [GUEST_TSO4, HOST_TSO6, INDIRECT_DESC, EVENT_IDX],
    off: [MRG_RXBUF, GUEST_TSO6, HOST_TSO4],
  },
  {
    title: 'segments from the guest only, no event indices',
    words: 'csum,host_tso4,host_tso6,mrg_rxbuf,indirect_desc',
    toGuest: [],
    fromGuest: BOTH,
    on: [CSUM, HOST_TSO4, HOST_TSO6, MRG_RXBUF, INDIRECT_DESC],
    off: [GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, EVENT_IDX],
  },
  { title: 'nothing', words: 'none', toGuest: [], fromGuest: [], on: [], off: EVERYTHING },
];

/** Frames that an interface counted. */
async function frames(guest: Guest, direction: 'rx' | 'tx'): Promise<number> {
  return Number(await guest.sh(`cat /sys/class/net/eth0/statistics/${direction}_packets`));
}

/** Bulk data each way with its sha256. Returns the mean size of the data frames of each way. */
async function transfer({ bench, guest }: Stage, { remote }: Family): Promise<{ to: number; from: number }> {
  const { ports } = bench.world.remote;
  const { sha256 } = await bench.world.remote.call('setBlob', { bytes: BULK, seed: 4 });
  const received = await frames(guest, 'rx');
  const receive = `guest-net tcp-receive ${remote} ${String(ports.blob)} >/tmp/bulk && sha256sum </tmp/bulk`;
  expect((await guest.sh(receive)).slice(0, 64)).toBe(sha256);
  const between = await frames(guest, 'rx');
  const sent = await frames(guest, 'tx');
  const send = `guest-net tcp-send ${remote} ${String(ports.sink)} </tmp/bulk`;
  expect((await guest.sh(send)).trim()).toBe(`${sha256} ${String(BULK)}`);
  return { to: BULK / (between - received), from: BULK / ((await frames(guest, 'tx')) - sent) };
}

for (const { title: set, words, toGuest, fromGuest, on, off, tables } of SETS) {
  describeWith(`a guest with ${set}`, whyNotGuest('uml'), () => {
    const args = [...SERVICE_ARGS, '-t', `${String(CLOSED_PORT)}:23`];
    const { stage, test } = withGuest(
      () => setUpBench(args, false, { TUBETTI_FEATURES: words }),
      bootUml,
      (bench, guest) => stageFor(bench, guest, SCALE),
    );

    test('has agreed to that, and to nothing else', async () => {
      const bits = (await stage().guest.sh('cat /sys/class/net/eth0/device/features')).trim();
      expect(on.map((n) => [n, bits[n]])).toEqual(on.map((n) => [n, '1']));
      expect(off.map((n) => [n, bits[n]])).toEqual(off.map((n) => [n, '0']));
    });

    if (tables !== false) {
      testTcp(test, stage, TCP_CASES);
      testNetwork(test, () => ({ ...stage(), bulkBytes: 2 * BULK }));
    }

    for (const family of FAMILIES) {
      test(`frames of ${family.name} at an MTU of 1500 are as large as agreed, and none is sent twice`, async () => {
        const { service } = stage().bench;
        const retransmits = await service.metric('tubetti_tcp_retransmits_total');
        await stage().guest.sh('ip link set eth0 mtu 1500');
        const mean = await transfer(stage(), family);
        expect({ to: mean.to > 3000, from: mean.from > 3000 }).toEqual({
          to: toGuest.includes(family.name),
          from: fromGuest.includes(family.name),
        });
        expect(await service.metric('tubetti_tcp_retransmits_total')).toBe(retransmits);
      });
    }

    for (const family of FAMILIES) {
      test(`${family.name}: bursts that the card is to cut leave uncut if that is agreed, and arrive cut`, async () => {
        const { bench, guest } = stage();
        const uso = (await guest.sh('cat /sys/class/net/eth0/device/features'))[HOST_USO] === '1';
        const [major, minor] = (await guest.sh('uname -r')).split('.').map(Number);
        // Linux has it from 6.2 on.
        if (words === 'all') expect(uso).toBe(major > 6 || (major === 6 && minor >= 2));
        if (words === 'none') expect(uso).toBe(false);
        const before = await frames(guest, 'tx');
        const burst = `guest-net udp-burst ${family.remote} ${String(bench.world.remote.ports.udp)} 1200 ${String(DATAGRAMS)} segment`;
        expect(await guest.result(burst, 'udp-burst')).toEqual({ count: String(DATAGRAMS), exact: String(DATAGRAMS) });
        expect((await frames(guest, 'tx')) - before < DATAGRAMS / 2).toBe(uso);
      });
    }

    test('has had no fault', async () => {
      const { service } = stage().bench;
      expect(await service.metric('tubetti_ring_faults_total')).toBe(0);
      expect(await service.metric('tubetti_drops_total', { reason: 'vnet_header' })).toBe(0);
    });
  });
}
