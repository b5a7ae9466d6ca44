/** Everything that is the same for all back-ends: the namespaces, the far end of the traffic, the guest's image. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { HostWorld, REMOTE_ADDRESS_4, REMOTE_ADDRESS_6 } from '../../test/support/rig/host-world';
import { guestImage, imageWithFiles, type GuestImage } from '../../test/support/rig/image';
import { cacheDirectory, scratchDirectory } from '../../test/support/rig/paths';
import { ManagedProcess, command } from '../../test/support/rig/processes';

const SERVER_PORT = 7000;
/** No back-end may run out of ports for its sockets, whatever an earlier round left in TIME_WAIT. */
const PORT_RANGE = '10000 65000';

export class Lab {
  readonly world: HostWorld;
  readonly image: GuestImage;
  readonly scratch: string;
  /** Where the guest's programs connect to, e.g. "198.51.100.1 7000": beyond the gateway, across the cable. */
  readonly target: string;
  /** A process in each namespace, through which /proc/PID/net shows its counters. */
  readonly hostPid: number;
  readonly remotePid: number;
  private readonly processes: readonly ManagedProcess[];
  private readonly removeScratch: () => void;

  private constructor(
    world: HostWorld,
    image: GuestImage,
    scratch: { path: string; remove: () => void },
    target: string,
    processes: readonly [ManagedProcess, ManagedProcess],
  ) {
    this.world = world;
    this.image = image;
    this.scratch = scratch.path;
    this.target = target;
    this.hostPid = processes[0].pid;
    this.remotePid = processes[1].pid;
    this.processes = processes;
    this.removeScratch = scratch.remove;
  }

  /** @throws Error when something the lab needs cannot be had here. */
  static async open(kernel: string | null, family: 4 | 6): Promise<Lab> {
    const scratch = scratchDirectory();
    process.on('exit', scratch.remove);
    const undo: (() => unknown)[] = [scratch.remove];
    try {
      const tool = compileBenchNet();
      const stock = guestImage('uml');
      const base = kernel === null ? stock : { kernel, initrd: stock.initrd };
      const image = imageWithFiles(base, join(scratch.path, 'bench.cpio.gz'), { '/bin/bench-net': readFileSync(tool) });
      const world = await HostWorld.create(scratch.path);
      undo.push(() => world.destroy());
      await command(world.inHost(['sh', '-c', `echo "${PORT_RANGE}" >/proc/sys/net/ipv4/ip_local_port_range`]));
      const holder = new ManagedProcess('host-holder', world.inHost(['cat']));
      undo.push(() => holder.stop('SIGKILL'));
      const server = new ManagedProcess('bench-net', world.inRemote([tool, 'serve', String(SERVER_PORT)]));
      undo.push(() => server.stop('SIGKILL'));
      await server.waitForLine(/^LISTENING$/, 5000);
      const address = family === 4 ? REMOTE_ADDRESS_4 : REMOTE_ADDRESS_6;
      return new Lab(world, image, scratch, `${address} ${String(SERVER_PORT)}`, [holder, server]);
    } catch (error) {
      for (const step of undo.reverse()) await step();
      throw error;
    }
  }

  async close(): Promise<void> {
    for (const each of this.processes) await each.stop('SIGKILL');
    await this.world.destroy();
    this.removeScratch();
    process.off('exit', this.removeScratch);
  }
}

function compileBenchNet(): string {
  const source = join(__dirname, 'bench-net.cc');
  const key = createHash('sha256').update(readFileSync(source)).digest('hex').slice(0, 16);
  const target = join(cacheDirectory('bench'), `bench-net-${key}`);
  if (!existsSync(target)) {
    const flags = ['-std=c++20', '-O2', '-Wall', '-Wextra', '-static', '-pthread'];
    execFileSync('g++', [...flags, '-o', `${target}.new`, source]);
    renameSync(`${target}.new`, target);
  }
  return target;
}
