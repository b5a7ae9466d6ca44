/** User Mode Linux as a guest: a distribution's kernel as an ordinary process, its network card a vhost-user one. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { Guest } from './guest';
import { guestImage, type GuestImage } from './image';
import { ManagedProcess, dieWithParent } from './processes';

export interface UmlOptions {
  /** The vhost-user socket the back-end listens on. */
  readonly socketPath: string;
  /** For the kernel's own files; short, it holds a unix socket too. */
  readonly scratch: string;
  readonly memoryMiB?: number;
  /** Another kernel or initramfs than the tests' own. */
  readonly image?: GuestImage;
  readonly kernelArguments?: readonly string[];
  readonly bootTimeoutMs?: number;
}

let instances = 0;

/** Boots and waits for the shell. @throws Error with the console's tail. */
export async function bootUml(options: UmlOptions): Promise<Guest> {
  const { kernel, initrd } = options.image ?? guestImage('uml');
  const directory = join(options.scratch, `uml${String(++instances)}`);
  mkdirSync(directory, { recursive: true });
  // The kernel runs helpers and the guest's programs as processes beside it, which outlive it if it is killed: with a
  // PID namespace of its own they all go together.
  const isRoot = process.getuid?.() === 0;
  const argv = [
    ...(isRoot ? [] : ['unshare', '--user', '--map-root-user']),
    ...dieWithParent(['unshare', '--fork', '--pid', '--kill-child=KILL']),
    kernel,
    `mem=${String(options.memoryMiB ?? 1024)}M`,
    `initrd=${initrd}`,
    `virtio_uml.device=${options.socketPath}:1`,
    'con=null',
    'con0=fd:0,fd:1',
    `uml_dir=${directory}`,
    'umid=guest',
    'quiet',
    'loglevel=3',
    'panic=-1',
    // From 6.16 on: the processes' system calls are caught by seccomp and not by ptrace(2), which does not carry all that a
    // processor with AMX has (uml-kernel.ts). Older kernels pass the word on to /init.
    'seccomp=on',
    ...(options.kernelArguments ?? []),
  ];
  const managed = new ManagedProcess('uml', argv, { env: { HOME: directory } });
  const guest = new Guest('uml', managed);
  try {
    await guest.ready(options.bootTimeoutMs);
  } catch (error) {
    await managed.stop('SIGKILL');
    throw error;
  }
  return guest;
}
