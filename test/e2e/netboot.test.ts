/**
 * A machine without a disk boots a kernel from a folder (`--tftp`, `--boot-file`): by the iPXE in the firmware of QEMU's network
 * card, over each family. The package that has it (ipxe-qemu) comes with Debian's QEMU.
 */
import { chmodSync, copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { guestImage } from '../support/world/image';
import { dieWithParent, ManagedProcess } from '../support/world/processes';
import { describeWith, setUpBench, whyNotGuest, type Bench } from './support';

jest.setTimeout(180_000);

const ROMS = ['/usr/lib/ipxe/qemu/pxe-virtio.rom', '/usr/share/qemu/pxe-virtio.rom'];
const missing =
  whyNotGuest('qemu') ?? (ROMS.some((path) => existsSync(path)) ? null : 'iPXE (package ipxe-qemu) is missing');

/** A machine whose only boot device is its network card. */
function machine(socketPath: string): ManagedProcess {
  const argv = [
    'qemu-system-x86_64',
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-M', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'max', '-m', '512M'],
    ...['-object', 'memory-backend-memfd,id=mem,size=512M,share=on', '-numa', 'node,memdev=mem'],
    ...['-chardev', `socket,id=c0,path=${socketPath}`, '-netdev', 'vhost-user,id=n0,chardev=c0'],
    ...['-device', 'virtio-net-pci,netdev=n0,vectors=0,bootindex=0'],
    ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
  ];
  return new ManagedProcess('qemu', dieWithParent(argv));
}

describeWith('a machine without a disk', missing, () => {
  let bench: Bench | undefined;
  let qemu: ManagedProcess | undefined;
  let files = '';

  afterEach(async () => {
    await qemu?.stop('SIGKILL');
    await bench?.destroy();
    rmSync(files, { recursive: true, force: true });
    qemu = undefined;
    bench = undefined;
  });

  test.each([
    ['IPv4', '-4', 'tftp://${next-server}'],
    ['IPv6', '-6', 'tftp://[2001:db8:0:1::69]'],
  ])('boots a kernel from a folder over %s', async (_, family, server) => {
    files = mkdtempSync(join(tmpdir(), 'tubetti-netboot-'));
    copyFileSync(guestImage('qemu').kernel, join(files, 'vmlinuz'));
    const script = ['#!ipxe', `kernel ${server}/vmlinuz console=ttyS0 panic=-1 said-by-tubetti=1`, 'boot', ''];
    writeFileSync(join(files, 'boot.ipxe'), script.join('\n'));
    chmodSync(files, 0o755); // the service becomes nobody
    bench = await setUpBench([family, '--tftp', files, '--boot-file', 'boot.ipxe']);
    qemu = machine(bench.socketPath);
    // There is no file system to be found: the kernel says so, and which words it was started with.
    await qemu.waitForLine(/Kernel panic - not syncing: VFS|said-by-tubetti=1/, 120_000);
    expect(bench.service.process.tail(50)).toMatch(/TFTP: the guest reads \/?vmlinuz \([0-9]+ bytes\)/);
  });
});
