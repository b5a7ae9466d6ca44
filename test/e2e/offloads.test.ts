/**
 * A guest with every offload and with some: the same bytes at the MTU of 65520 and at 1500, in frames as
 * large as what was negotiated allows.
 */
import type { Guest } from '../support/rig/guest';
import { bootUml } from '../support/rig/uml';
import { FAMILIES, bringUp, type Family } from './network-cases';
import { describeWith, itShowing, setUpBench, whyNotGuest, type Bench } from './support';

jest.setTimeout(120_000);

const MIB = 1 << 20;
const BULK = 8 * MIB;

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
}

const BOTH: readonly Family['name'][] = ['IPv4', 'IPv6'];
const [CSUM, GUEST_CSUM, MRG_RXBUF, INDIRECT_DESC, EVENT_IDX] = [0, 1, 15, 28, 29];
const [GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6] = [7, 8, 11, 12];
const EVERYTHING = [
  ...[CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6],
  ...[MRG_RXBUF, INDIRECT_DESC, EVENT_IDX],
];

const SETS: readonly FeatureSet[] = [
  { title: 'everything', words: 'all', toGuest: BOTH, fromGuest: BOTH, on: EVERYTHING, off: [] },
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
];

/** Frames that an interface counted. */
async function frames(guest: Guest, direction: 'rx' | 'tx'): Promise<number> {
  return Number(await guest.sh(`cat /sys/class/net/eth0/statistics/${direction}_packets`));
}

/** Ping, datagrams, and bulk data each way with its sha256. Returns the mean size of the data frames of each way. */
async function transfer(
  bench: Bench,
  guest: Guest,
  { remote }: Family,
  largest: number,
): Promise<{ to: number; from: number }> {
  const { ports } = bench.world.remote;
  expect(await guest.sh(`ping -c 2 -W 5 -s 1400 ${remote}`)).toMatch(/ 0% packet loss/);
  for (const size of [1, 1400, 8000]) {
    if (size > largest) continue; // it would come in fragments, and they are not the subject here
    const script = `guest-net udp-echo ${remote} ${String(ports.udp)} ${String(size)} 20`;
    expect(await guest.result(script, 'udp-echo')).toMatchObject({ count: '20', resent: '0' });
  }
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

describeWith('a guest with', whyNotGuest('uml'), () => {
  let bench: Bench;
  let guest: Guest | undefined;
  const test = itShowing(
    () => bench,
    () => guest?.process.tail(40) ?? '',
  );

  afterEach(async () => {
    await guest?.powerOff();
    guest = undefined;
    await bench.destroy();
  });

  for (const { title, words, toGuest, fromGuest, on, off } of SETS) {
    test(title, async () => {
      bench = await setUpBench([], false, { TUBETTI_FEATURES: words });
      guest = await bootUml(bench);
      const bits = (await guest.sh('cat /sys/class/net/eth0/device/features')).trim();
      expect(on.map((n) => [n, bits[n]])).toEqual(on.map((n) => [n, '1']));
      expect(off.map((n) => [n, bits[n]])).toEqual(off.map((n) => [n, '0']));
      for (const family of FAMILIES) await bringUp(guest, family);
      for (const mtu of [65520, 1500]) {
        await guest.sh(`ip link set eth0 mtu ${String(mtu)}`);
        for (const family of FAMILIES) {
          const mean = await transfer(bench, guest, family, mtu);
          if (mtu > 1500) continue;
          const uncut = { to: mean.to > 2 * mtu, from: mean.from > 2 * mtu };
          expect({ mtu, family: family.name, ...uncut }).toEqual({
            mtu,
            family: family.name,
            to: toGuest.includes(family.name),
            from: fromGuest.includes(family.name),
          });
        }
      }
      const { service } = bench;
      expect(await service.metric('tubetti_tcp_retransmits_total')).toBe(0);
      expect(await service.metric('tubetti_ring_faults_total')).toBe(0);
      expect(await service.metric('tubetti_drops_total', { reason: 'vnet_header' })).toBe(0);
    });
  }
});
