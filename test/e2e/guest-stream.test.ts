/**
 * QEMU with its stream sockets: no vhost-user, no shared memory, every frame copied through a socket. QEMU 7.2 connects
 * once only (`reconnect` came later); where it listens, it takes a service that was started again.
 */
import { loadNative } from '../../src/native';
import { bootQemu } from '../support/world/qemu';
import type { QemuGuest } from '../support/world/qemu';
import { HostWorld } from '../support/world/host-world';
import { scratchDirectory } from '../support/world/paths';
import { Service } from '../support/world/service';
import { describeGuest } from './guest-suite';
import { FAMILIES, bringUp, expectConnected } from './network-cases';
import { describeWith, itShowing, setUpBench, whyNotGuest, type Bench } from './support';

jest.setTimeout(300_000);

describeGuest(
  'qemu',
  (bench) => bootQemu({ socketPath: bench.socketPath, scratch: bench.scratch, stream: true }),
  () => undefined,
  { title: 'a qemu guest on a stream socket', serviceArgs: ['--stream'] },
);

describeWith('a qemu guest that listens', whyNotGuest('qemu'), () => {
  let bench: Bench;
  let guest: QemuGuest | undefined;
  const test = itShowing(
    () => bench,
    () => guest?.process.tail(40) ?? '',
  );

  afterAll(async () => {
    await guest?.powerOff();
    await bench.destroy();
  });

  test('has a network, and has it again when the service was killed and started again', async () => {
    bench = await setUpBench(['--stream'], true);
    guest = await bootQemu({ socketPath: bench.socketPath, scratch: bench.scratch, stream: true, listen: true });
    for (const family of FAMILIES) {
      await bringUp(guest, family);
      await expectConnected({ bench, guest, ...family });
    }
    await bench.service.stop('SIGKILL');
    await bench.restart();
    const { udp } = bench.world.remote.ports;
    for (const { remote } of FAMILIES) await guest.sh(`until guest-net udp-echo ${remote} ${udp} 100 1; do :; done`);
    for (const family of FAMILIES) await expectConnected({ bench, guest, ...family });
  });
});

describeWith('a given socket', whyNotGuest('qemu'), () => {
  it('connects guest and service, and the end of one is the end of the other', async () => {
    const scratch = scratchDirectory();
    const world = await HostWorld.create(scratch.path);
    const pair = new Int32Array(2);
    const native = loadNative();
    expect(native.unixPair(pair)).toBe(0);
    const socketPath = `${scratch.path}/unused`;
    let guest: QemuGuest | null = null;
    let service: Service | null = null;
    try {
      service = await Service.start({ world, socketPath, args: ['--stream'], fd: pair[0] });
      guest = await bootQemu({ socketPath, scratch: scratch.path, fd: pair[1] });
      for (const fd of pair) native.close(fd);
      const bench: Bench = {
        world,
        service,
        socketPath,
        scratch: scratch.path,
        restart: never,
        restartWith: never,
        destroy: never,
      };
      for (const family of FAMILIES) {
        await bringUp(guest, family);
        await expectConnected({ bench, guest, ...family });
      }
      await guest.powerOff();
      expect(await service.process.exited).toEqual({ code: 0, signal: null });
    } finally {
      await guest?.powerOff();
      await service?.stop('SIGKILL');
      await world.destroy();
      scratch.remove();
    }
  });
});

async function never(): Promise<void> {}
