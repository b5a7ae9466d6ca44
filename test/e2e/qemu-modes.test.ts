/**
 * QEMU with other rings, buffers and roles than it has by default: the same short proof of a working network for each.
 */
import type { Guest } from '../support/world/guest';
import { bootQemu } from '../support/world/qemu';
import type { QemuGuest, QemuOptions } from '../support/world/qemu';
import { poll } from '../support/world/processes';
import { FAMILIES, bringUp, expectConnected } from './network-cases';
import { describeWith, itShowing, setUpBench, whyNotGuest, type Bench } from './support';

jest.setTimeout(120_000);

interface Mode {
  readonly title: string;
  readonly options: Partial<QemuOptions>;
  /** Feature bits by number that must have been agreed on, and bits that must not. */
  readonly on?: readonly number[];
  readonly off?: readonly number[];
  /** What the guest's driver sees. */
  readonly ringSize?: number;
}

const [CSUM, GUEST_CSUM, MRG_RXBUF, INDIRECT_DESC, EVENT_IDX] = [0, 1, 15, 28, 29];
const [GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6] = [7, 8, 11, 12];
const [VERSION_1, RING_PACKED] = [32, 34];

const MODES: readonly Mode[] = [
  {
    title: 'no merged receive buffers',
    options: { deviceProperties: ['mrg_rxbuf=off'] },
    on: [CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, INDIRECT_DESC, EVENT_IDX, VERSION_1],
    off: [MRG_RXBUF],
  },
  {
    title: 'neither indirect descriptors nor event indices',
    options: { deviceProperties: ['indirect_desc=off', 'event_idx=off'] },
    on: [CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MRG_RXBUF, VERSION_1],
    off: [INDIRECT_DESC, EVENT_IDX],
  },
  {
    title: 'neither of the three',
    options: { deviceProperties: ['mrg_rxbuf=off', 'indirect_desc=off', 'event_idx=off'] },
    off: [MRG_RXBUF, INDIRECT_DESC, EVENT_IDX],
  },
  {
    title: 'rings of 1024, and packed ones asked for in vain',
    options: { deviceProperties: ['rx_queue_size=1024', 'tx_queue_size=1024', 'packed=on'] },
    on: [MRG_RXBUF, INDIRECT_DESC, EVENT_IDX, VERSION_1],
    off: [RING_PACKED],
    ringSize: 1024,
  },
  {
    title: 'a legacy device',
    options: { deviceProperties: ['disable-modern=on', 'disable-legacy=off'] },
    on: [CSUM, GUEST_CSUM, MRG_RXBUF],
    off: [VERSION_1],
    ringSize: 256,
  },
  {
    title: 'finished checksums from the guest, and large segments to it over IPv4 only',
    options: { deviceProperties: ['csum=off', 'guest_tso6=off'] },
    // QEMU and Linux agree on the other direction's bits all the same, which mean nothing without CSUM.
    on: [GUEST_CSUM, GUEST_TSO4],
    off: [CSUM, GUEST_TSO6],
  },
  {
    title: 'finished checksums to the guest, and large segments from it over IPv6 only',
    options: { deviceProperties: ['guest_csum=off', 'host_tso4=off'] },
    // As above, of GUEST_CSUM.
    on: [CSUM, HOST_TSO6],
    off: [GUEST_CSUM, HOST_TSO4],
  },
  {
    title: 'no offload at all, and plain rings',
    options: {
      deviceProperties: [
        ...['csum=off', 'guest_csum=off', 'host_tso4=off', 'host_tso6=off', 'guest_tso4=off', 'guest_tso6=off'],
        ...['mrg_rxbuf=off', 'indirect_desc=off', 'event_idx=off'],
      ],
    },
    on: [VERSION_1],
    off: [
      ...[CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6],
      ...[MRG_RXBUF, INDIRECT_DESC, EVENT_IDX],
    ],
  },
  { title: 'QEMU listens and the service connects', options: { listen: true } },
];

/** What the guest's driver and the device have agreed on is what the mode is about. */
async function expectAgreed(guest: Guest, { on = [], off = [], ringSize }: Mode): Promise<void> {
  const bits = (await guest.sh('cat /sys/class/net/eth0/device/features')).trim();
  expect(on.map((n) => [n, bits[n]])).toEqual(on.map((n) => [n, '1']));
  expect(off.map((n) => [n, bits[n]])).toEqual(off.map((n) => [n, '0']));
  if (ringSize === undefined) return;
  const size = String(ringSize);
  expect(await guest.result('guest-link rings eth0', 'rings')).toEqual({ rx: size, tx: size });
}

async function prove(bench: Bench, guest: Guest): Promise<void> {
  for (const family of FAMILIES) {
    await bringUp(guest, family);
    await expectConnected({ bench, guest, ...family });
    const { blob } = bench.world.remote.ports;
    await bench.world.remote.call('setBlob', { bytes: 4 << 20, seed: 5 });
    const received = await guest.sh(`guest-net tcp-receive ${family.remote} ${String(blob)} | wc -c`);
    expect(received.trim()).toBe(String(4 << 20));
  }
}

describeWith('QEMU in other modes', whyNotGuest('qemu'), () => {
  let bench: Bench;
  let guest: QemuGuest | undefined;
  const test = itShowing(
    () => bench,
    () => guest?.process.tail(40) ?? '',
  );

  afterEach(async () => {
    await guest?.powerOff();
    guest = undefined;
    await bench.destroy();
  });

  for (const mode of MODES) {
    test(mode.title, async () => {
      const { options } = mode;
      bench = await setUpBench([], options.listen === true);
      guest = await bootQemu({ socketPath: bench.socketPath, scratch: bench.scratch, ...options });
      await expectAgreed(guest, mode);
      await prove(bench, guest);
      expect(await bench.service.metric('tubetti_ring_faults_total')).toBe(0);
      expect(await bench.service.metric('tubetti_tcp_retransmits_total')).toBe(0);
      expect(await bench.service.metric('tubetti_drops_total', { reason: 'vnet_header' })).toBe(0);
    });
  }

  test('the link goes down and up, the machine stops and goes on: a connection lives through both', async () => {
    bench = await setUpBench();
    guest = await bootQemu({ socketPath: bench.socketPath, scratch: bench.scratch });
    await prove(bench, guest);
    const { remote } = FAMILIES[0];
    const { qmp } = guest;
    await bench.world.remote.call('setBlob', { bytes: 64 << 20, seed: 6 });
    const download = `guest-net tcp-receive ${remote} ${String(bench.world.remote.ports.blob)}`;
    await guest.sh(`(${download} 2>/tmp/err | wc -c >/tmp/count; touch /tmp/done) &`);
    await qmp.execute('set_link', { name: 'n0', up: false });
    await guest.sh('until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do :; done');
    await qmp.execute('set_link', { name: 'n0', up: true });
    await guest.sh('until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do :; done');
    await qmp.execute('stop');
    await qmp.execute('cont');
    await guest.sh('until [ -e /tmp/done ]; do :; done', { timeoutMs: 60_000 });
    expect((await guest.sh('cat /tmp/count /tmp/err')).trim()).toBe(String(64 << 20));
    await prove(bench, guest);
  });

  test('a memfd that is not shared: said once, with what to change', async () => {
    bench = await setUpBench();
    guest = await bootQemu({ socketPath: bench.socketPath, scratch: bench.scratch, sharedMemory: false });
    const said = (): string[] => bench.service.process.lines.filter((line) => line.includes('probably not shared'));
    // The driver fills its receive queue, and then sends: router solicitations by itself, and what DHCP asks.
    const ask = 'ip link set dev eth0 up; udhcpc -i eth0 -n -q -t 1 -T 1 2>&1 || true';
    await guest.sh(ask, { timeoutMs: 30_000 });
    const line = await poll('the line', () => Promise.resolve(said().at(0) ?? null), 15_000);
    expect(line).toMatch(/memory-backend-memfd,share=on.*<access mode='shared'\/>/);
    await guest.sh(ask, { timeoutMs: 30_000 });
    expect(said()).toHaveLength(1);
  });
});
