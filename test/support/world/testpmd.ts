/** DPDK's testpmd as a guest: a vhost-user front-end that sends datagrams as fast as descriptors come free. */
import { REMOTE_ADDRESS_4, HOST_ADDRESS_4 } from './host-world';
import { which } from './paths';
import { ManagedProcess, dieWithParent } from './processes';

export interface TestpmdOptions {
  readonly socketPath: string;
  readonly destinationPort: number;
  /** Bytes of each frame's Ethernet to UDP payload. */
  readonly frameBytes?: number;
  /** More arguments of the virtio-user device: `packed_vq=1`, `mrg_rxbuf=0`, `in_order=0`, `queue_size=N`. */
  readonly deviceArguments?: readonly string[];
}

export function whyNoTestpmd(): string | null {
  return which('dpdk-testpmd') === null ? 'dpdk-dev is not installed' : null;
}

/** Starts it; resolves when it sends. It polls, and so takes a core for itself until stopped. */
export async function startTestpmd(options: TestpmdOptions): Promise<ManagedProcess> {
  const device = [
    'net_virtio_user0',
    `path=${options.socketPath}`,
    'queues=1',
    'mac=52:54:00:00:00:09',
    ...(options.deviceArguments ?? []),
  ];
  const port = String(options.destinationPort);
  const managed = new ManagedProcess(
    'testpmd',
    dieWithParent([
      'dpdk-testpmd',
      ...[
        '-l',
        '0,1',
        '--no-huge',
        '-m',
        '256',
        '--no-pci',
        '--no-telemetry',
        '--file-prefix',
        `t${String(process.pid)}`,
      ],
      `--vdev=${device.join(',')}`,
      '--',
      ...['--forward-mode=txonly', `--tx-ip=${HOST_ADDRESS_4},${REMOTE_ADDRESS_4}`, `--tx-udp=9000,${port}`],
      ...[`--txpkts=${String(options.frameBytes ?? 200)}`, '--total-num-mbufs=4096', '--stats-period', '1'],
    ]),
  );
  try {
    await managed.waitForLine(/Press enter to exit|Port statistics/, 30_000);
  } catch (error) {
    await managed.stop('SIGKILL');
    throw error;
  }
  return managed;
}
