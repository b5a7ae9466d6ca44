import { bootQemu } from '../support/world/qemu';
import { describeGuest } from './guest-suite';
import { FAMILIES, bringUp, expectConnected } from './network-cases';

jest.setTimeout(300_000);

describeGuest(
  'qemu',
  (bench) => bootQemu({ socketPath: bench.socketPath, scratch: bench.scratch, reconnectSeconds: 1 }),
  (it, stage) => {
    it('the driver is unbound and bound again, and the network works', async () => {
      const { guest } = stage();
      await guest.sh('cd /sys/bus/virtio/drivers/virtio_net && echo virtio0 >unbind && echo virtio0 >bind');
      for (const family of FAMILIES) await bringUp(guest, family);
      for (const family of FAMILIES) await expectConnected({ ...stage(), ...family });
    });

    it('the service is killed and started again, and the guest goes on', async () => {
      const { bench, guest } = stage();
      await bench.service.stop('SIGKILL');
      await bench.restart();
      // Nobody tells the guest: the same addresses must work as soon as QEMU has connected again.
      const { udp } = bench.world.remote.ports;
      for (const { remote } of FAMILIES) await guest.sh(`until guest-net udp-echo ${remote} ${udp} 100 1; do :; done`);
      for (const family of FAMILIES) await expectConnected({ ...stage(), ...family });
    });
  },
);
