/** Guests of libvirt in a {@link DebianMachine}: the examples' XML, with what a machine without KVM and a disk needs. */
import { chmodSync, copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DebianMachine } from './debian-machine';
import { Guest } from './guest';
import { guestImage } from './image';
import { REPO_ROOT } from './paths';
import { ManagedProcess } from './processes';

export const EXAMPLES = join(REPO_ROOT, 'examples', 'libvirt');

/** The guest's console: QEMU connects, so that nothing of its boot is lost. */
const CONSOLE = `
const [path] = process.argv.slice(1);
const server = require('node:net').createServer((socket) => {
  server.close();
  process.stdin.pipe(socket).pipe(process.stdout);
  socket.on('error', () => undefined).on('close', () => process.exit());
});
server.listen(path, () => {
  require('node:fs').chmodSync(path, 0o777);
  process.stdout.write('listening\\n');
});`;

/** A console that listens at `path`, for the end of a machine's serial port. */
export async function listenForConsole(name: string, path: string): Promise<ManagedProcess> {
  rmSync(path, { force: true });
  const managed = new ManagedProcess(name, [process.execPath, '-e', CONSOLE, path]);
  await managed.waitForLine(/^listening$/, 10_000);
  return managed;
}

/** The kernel and the initramfs of the tests in `directory`, where a guest's user may read them. */
export function putGuestImage(directory: string): { kernel: string; initrd: string } {
  const image = guestImage('qemu');
  const put = { kernel: join(directory, 'vmlinuz'), initrd: join(directory, 'initrd') };
  for (const part of ['kernel', 'initrd'] as const) {
    if (existsSync(put[part])) continue;
    copyFileSync(image[part], put[part]);
    chmodSync(put[part], 0o644);
  }
  return put;
}

/** An example with some of its text replaced. @throws Error when it does not have that text. */
export function example(name: string, changes: readonly (readonly [from: string | RegExp, to: string])[] = []): string {
  let text = readFileSync(join(EXAMPLES, name), 'utf8');
  for (const [from, to] of changes) {
    const changed = text.replace(from, () => to);
    if (changed === text) throw new Error(`examples/libvirt/${name} has no ${String(from)}`);
    text = changed;
  }
  return text;
}

/** The blocks of shell commands in the examples' README. */
export function exampleCommands(): string[] {
  const text = readFileSync(join(EXAMPLES, 'README.md'), 'utf8');
  return [...text.matchAll(/^```sh\n(.*?)^```$/gms)].map((match) => match[1]);
}

export interface DomainOptions {
  readonly name: string;
  /** Another `<interface>` than the example has. */
  readonly nic?: string;
  /** Where the console's socket and the kernel are: a directory that the machine has, too. */
  readonly shared: string;
}

/** examples/libvirt/domain.xml for a guest that is emulated and boots the tests' own kernel. */
export function domainXml({ name, nic, shared }: DomainOptions): string {
  const { kernel, initrd } = putGuestImage(shared);
  const boot = `<kernel>${kernel}</kernel><initrd>${initrd}</initrd>
    <cmdline>console=ttyS0 quiet loglevel=3 panic=-1</cmdline>`;
  return example('domain.xml', [
    ["<domain type='kvm'>", "<domain type='qemu'>"],
    ["<cpu mode='host-passthrough'/>", "<cpu mode='maximum'/>"],
    ["<boot dev='hd'/>", boot],
    [
      "<console type='pty'/>",
      `<serial type='unix'><source mode='connect' path='${consolePath(shared, name)}'/></serial>`,
    ],
    ...(name === 'tubetti-example'
      ? []
      : [
          ['<name>tubetti-example<', `<name>${name}<`] as const,
          // Which is one guest's at a time.
          [/<disk .*?<\/disk>/s, ''] as const,
        ]),
    ...(nic === undefined ? [] : [[/<interface[ >].*?<\/interface>/s, nic] as const]),
  ]);
}

function consolePath(shared: string, name: string): string {
  return join(shared, `console-${name}`);
}

/**
 * Runs `start`, by default `virsh start`, and waits for the guest's shell.
 * @throws Error with what libvirt and the guest said
 */
export async function bootDomain(
  machine: DebianMachine,
  { name, shared, ...rest }: DomainOptions,
  start?: () => Promise<unknown>,
): Promise<Guest> {
  const managed = await listenForConsole(name, consolePath(shared, name));
  try {
    if (start === undefined) {
      const path = join(shared, `${name}.xml`);
      writeFileSync(path, domainXml({ name, shared, ...rest }));
      await machine.sh(`virsh -q define ${path}; virsh -q start ${name}`);
    } else {
      await start();
    }
    const guest = new Guest(`libvirt: ${name}`, managed);
    await guest.ready();
    return guest;
  } catch (error) {
    await managed.stop('SIGKILL');
    if (error instanceof Error) error.message += `\n${managed.tail()}`;
    throw error;
  }
}

/** The last of what the machine and QEMU logged, for the message of a failed test. */
export async function said(machine: DebianMachine): Promise<string> {
  const script = `journalctl --no-pager --quiet -n 40 || true; tail -n 12 /var/log/libvirt/qemu/*.log || true
    tail -n 20 /var/log/tubetti/* || true`;
  return (await machine.run(script)).output;
}
