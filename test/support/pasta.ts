/** pasta as its callers run it, in a host's world of its own. Needs a build. */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import type { HostWorld } from './world/host-world';
import { REPO_ROOT } from './world/paths';
import { ManagedProcess, poll } from './world/processes';
import { World } from './world/world';

export const PASTA = join(REPO_ROOT, 'bin', 'pasta');
process.env.TUBETTI_NODE ??= process.execPath;

/** Who calls it: root as it is, or somebody without an account. */
export interface Caller {
  readonly name: string;
  readonly prefix: readonly string[];
}

export const ROOT: Caller = { name: 'root', prefix: [] };
export const USER: Caller = {
  name: 'an ordinary user',
  prefix: ['setpriv', '--reuid', '12345', '--regid', '12345', '--clear-groups', '--'],
};

/** In the environment of all that a test starts, so that what is left of it can be found. */
const MARK = 'TUBETTI_TEST_MARK';
let marks = 0;

export interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class PastaRig {
  private readonly world: HostWorld;
  readonly caller: Caller;
  private readonly mark = `${process.pid}-${marks++}`;

  constructor(world: HostWorld, caller: Caller) {
    this.world = world;
    this.caller = caller;
  }

  /** Runs it until it has exited and its streams are closed by all who had them. */
  run(
    argv: readonly string[],
    { input = '', env = {} }: { input?: string; env?: NodeJS.ProcessEnv } = {},
  ): Promise<Ended> {
    return this.start(argv, input, env).ended;
  }

  start(
    argv: readonly string[],
    input: string | null = null,
    env: NodeJS.ProcessEnv = {},
  ): { readonly ended: Promise<Ended>; readonly stdout: () => string; readonly input: Writable } {
    const [file, ...rest] = this.world.inHost([...this.caller.prefix, PASTA, ...argv]);
    const child = spawn(file, rest, {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...env, [MARK]: this.mark },
    });
    if (input !== null) child.stdin.end(input);
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const ended = new Promise<Ended>((resolve) => {
      child.on('close', (status) => {
        resolve({ status, stdout, stderr });
      });
    });
    return { ended, stdout: () => stdout, input: child.stdin };
  }

  /** A process in namespaces of its own, as a container manager leaves one. */
  async container(): Promise<ManagedProcess> {
    const argv = [
      ...this.caller.prefix,
      'unshare',
      '--user',
      '--map-root-user',
      '--net',
      'sh',
      '-c',
      'echo held; exec cat',
    ];
    const holder = new ManagedProcess('container', this.world.inHost(argv));
    await holder.waitForLine(/^held$/, 5000);
    return holder;
  }

  /** Servers and clients in there. */
  worldIn(container: ManagedProcess): Promise<World> {
    return World.start('inside', [
      'nsenter',
      '--target',
      String(container.pid),
      '--user',
      '--net',
      '--preserve-credentials',
    ]);
  }

  /** Processes that are left of what `run` and `start` started: number and command. Those that ended do not count. */
  left(): string[] {
    const found: string[] = [];
    for (const pid of readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name))) {
      try {
        if (!readFileSync(`/proc/${pid}/environ`, 'latin1').includes(`${MARK}=${this.mark}`)) continue;
        const name = readFileSync(`/proc/${pid}/comm`, 'latin1').trim();
        const zombie = readFileSync(`/proc/${pid}/stat`, 'latin1').includes(') Z ');
        if (!zombie) found.push(`${pid} ${name}`);
      } catch {
        // It ended meanwhile.
      }
    }
    return found;
  }

  /** Numbers of processes left that have this name. */
  pidsOf(name: string): number[] {
    return this.left()
      .map((line) => line.split(' '))
      .filter(([, comm]) => comm === name)
      .map(([pid]) => Number(pid));
  }
}

/** As `until`, of what takes its time to be known. */
export async function untilAsync(
  isSo: () => Promise<boolean>,
  timeoutMs: number,
  otherwise: () => string,
): Promise<void> {
  await poll('it to be so', async () => ((await isSo()) ? true : null), timeoutMs).catch(() => {
    throw new Error(otherwise());
  });
}

/** Waits until something is so. @throws Error with what `otherwise` says. */
export async function until(isSo: () => boolean, timeoutMs: number, otherwise: () => string): Promise<void> {
  await poll('it to be so', () => (isSo() ? true : null), timeoutMs).catch(() => {
    throw new Error(otherwise());
  });
}
