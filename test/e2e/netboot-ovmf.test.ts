/**
 * UEFI firmware (OVMF) boots by network with its own drivers: PXE from a folder (`--tftp`), and HTTP, over each family. What it
 * starts is iPXE as an EFI program, which says on the console who it is.
 */
import { chmodSync, copyFileSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { REMOTE_ADDRESS_4, REMOTE_ADDRESS_6 } from '../support/world/host-world';
import { CACHE_DIR, REPO_ROOT } from '../support/world/paths';
import { dieWithParent, ManagedProcess } from '../support/world/processes';
import { describeWith, itShowing, setUpBench, whyNotGuest, type Bench } from './support';

jest.setTimeout(200_000);

const OVMF = join(CACHE_DIR, 'ovmf');
const FIRMWARE = join(OVMF, 'usr/share/ovmf/OVMF.fd');
const PROGRAM = join(OVMF, 'boot/ipxe.efi');
const HTTP_PORT = 8000;
const missing =
  whyNotGuest('qemu') ?? (existsSync(FIRMWARE) ? null : 'OVMF (.cache/ovmf) is missing: npm test fetches it');

/** Ways to boot that the firmware can be kept from; it tries IPv4 before IPv6, and PXE before HTTP. */
const PXE4 = 'IPv4PXESupport';
const PXE6 = 'IPv6PXESupport';

function machine(socketPath: string, without: readonly string[]): ManagedProcess {
  const argv = [
    'qemu-system-x86_64',
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-M', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'max', '-m', '512M', '-bios', FIRMWARE],
    ...['-object', 'memory-backend-memfd,id=mem,size=512M,share=on', '-numa', 'node,memdev=mem'],
    ...['-chardev', `socket,id=c0,path=${socketPath}`, '-netdev', 'vhost-user,id=n0,chardev=c0'],
    // Without the iPXE in the card's ROM.
    ...['-device', 'virtio-net-pci,netdev=n0,vectors=0,bootindex=0,romfile='],
    ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
    ...without.flatMap((name) => ['-fw_cfg', `name=opt/org.tianocore/${name},string=n`]),
  ];
  return new ManagedProcess('qemu', dieWithParent(argv));
}

describeWith('UEFI firmware', missing, () => {
  let bench: Bench | undefined;
  let qemu: ManagedProcess | undefined;
  let server: ManagedProcess | undefined;
  let files = '';
  const test = itShowing(
    () => bench!,
    () => qemu?.tail(30) ?? '',
  );

  afterEach(async () => {
    await qemu?.stop('SIGKILL');
    await server?.stop('SIGKILL');
    await bench?.destroy();
    rmSync(files, { recursive: true, force: true });
    qemu = server = bench = undefined;
  });

  /** The firmware says this once it has the program; the program that it runs. */
  async function starts(boot: string): Promise<void> {
    await qemu!.waitForLine(new RegExp(`starting Boot[0-9]+ "UEFI ${boot} `), 150_000);
    await qemu!.waitForLine(/Open Source Network Boot Firmware/, 60_000);
  }

  for (const [version, family, other] of [
    [4, '-4', PXE6],
    [6, '-6', PXE4],
  ] as const) {
    test(`PXE over IPv${version}, from a folder`, async () => {
      files = mkdtempSync(join(tmpdir(), 'tubetti-ovmf-'));
      copyFileSync(PROGRAM, join(files, 'boot.efi'));
      chmodSync(files, 0o755); // the service becomes nobody
      bench = await setUpBench([family, '--tftp', files, '--boot-file', 'boot.efi']);
      qemu = machine(bench.socketPath, [other]);
      await starts(`PXEv${version}`);
      expect(bench.service.process.tail(50)).toMatch(/TFTP: the guest reads \/?boot\.efi \([0-9]+ bytes\)/);
    });
  }

  for (const [version, host] of [
    [4, REMOTE_ADDRESS_4],
    [6, `[${REMOTE_ADDRESS_6}]`],
  ] as const) {
    // Both families: it asks for a minute over IPv4 where nothing answers there.
    test(`HTTP over IPv${version}`, async () => {
      bench = await setUpBench(['--boot-file', `http://${host}:${HTTP_PORT}/boot.efi`]);
      const argv = [process.execPath, join(REPO_ROOT, 'test/fixtures/http-file.mjs'), `${HTTP_PORT}`, PROGRAM];
      server = new ManagedProcess('http', bench.world.inRemote(argv));
      await server.waitForLine(/^listening/, 10_000);
      qemu = machine(bench.socketPath, [PXE4, PXE6]);
      await starts(`HTTPv${version}`);
      expect(server.lines).toContain('GET /boot.efi');
    });
  }
});
