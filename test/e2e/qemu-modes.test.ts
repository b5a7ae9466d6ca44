/**
 * QEMU with other rings, buffers and roles than it has by default: the same short proof of a working network for each.
 */
import type { Guest } from '../support/rig/guest';
import { bootQemu } from '../support/rig/qemu';
import type { QemuGuest, QemuOptions } from '../support/rig/qemu';
import { FAMILIES, bringUp, expectConnected } from './network-cases';
import { describeWith, itShowing, setUpBench, whyNotGuest, type Bench } from './support';

jest.setTimeout(120_000);

const MODES: readonly { readonly title: string; readonly options: Partial<QemuOptions> }[] = [
  { title: 'no merged receive buffers', options: { deviceProperties: ['mrg_rxbuf=off'] } },
  {
    title: 'neither indirect descriptors nor event indices',
    options: { deviceProperties: ['indirect_desc=off', 'event_idx=off'] },
  },
  {
    title: 'neither of the three',
    options: { deviceProperties: ['mrg_rxbuf=off', 'indirect_desc=off', 'event_idx=off'] },
  },
  { title: 'rings of 1024', options: { deviceProperties: ['rx_queue_size=1024', 'tx_queue_size=1024'] } },
  { title: 'a legacy device', options: { deviceProperties: ['disable-modern=on', 'disable-legacy=off'] } },
  { title: 'QEMU listens and the service connects', options: { listen: true } },
];

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

  for (const { title, options } of MODES) {
    test(title, async () => {
      bench = await setUpBench([], options.listen === true);
      guest = await bootQemu({ socketPath: bench.socketPath, scratch: bench.scratch, ...options });
      await prove(bench, guest);
      expect(await bench.service.metric('tubetti_ring_faults_total')).toBe(0);
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
});
