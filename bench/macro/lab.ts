/** Everything that is the same for all back-ends: the namespaces, the far end of the traffic, the guest's image. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync, renameSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseResults } from '../../test/support/world/guest';
import { HostWorld, REMOTE_ADDRESS_4, REMOTE_ADDRESS_6 } from '../../test/support/world/host-world';
import { guestImage, imageWithFiles, type GuestImage } from '../../test/support/world/image';
import { cacheDirectory, scratchDirectory } from '../../test/support/world/paths';
import { ManagedProcess, command } from '../../test/support/world/processes';
import type { Family, GuestName, LongPathCase } from './cases';

export const SERVER_PORT = 7000;
/** Takes datagrams and lets the kernel drop them. */
export const SINK_PORT = SERVER_PORT + 1;
/** No back-end may run out of ports for its sockets, whatever an earlier round left in TIME_WAIT. */
const PORT_RANGE = '10000 65000';
/** The ends of the delay box's cable. */
const LONG_NEAR = '203.0.113.1/30';
const LONG_FAR = '203.0.113.2';
const LONG_DEVICE = 'long0';
const LONG_SEED = 7;
/** Frames: more than a window of 100 ms at 1 Gbit/s, so that the device before the box never drops. */
const LONG_DEVICE_QUEUE = 20_000;
/** Bytes a socket's buffers may grow to: five times the largest product of rate and delay here. */
const LONG_BUFFERS = '4096 131072 67108864';
const MEMCPY_SECONDS = 0.2;
const BARE = join(__dirname, '../bare');
const BARE_SOURCES = filesOf(BARE, '.cc');
const BARE_HEADERS = [...filesOf(BARE, '.h'), 'pattern.h'];
const COMPILER_FLAGS = ['-std=c++20', '-O2', '-Wall', '-Wextra', '-static', '-pthread'];

export class Lab {
  readonly world: HostWorld;
  /** Null for a guest that boots nothing. */
  readonly image: GuestImage | null;
  readonly scratch: string;
  /** The traffic program, to run outside of guests. */
  readonly tool: string;
  /** The program of `--guest bare`; null for other guests. */
  readonly bare: string | null;
  /** A process in each namespace, through which /proc/PID/net shows its counters. */
  readonly hostPid: number;
  readonly remotePid: number;
  private readonly processes: ManagedProcess[];
  private readonly removeScratch: () => void;
  private box: ManagedProcess | null = null;

  private constructor(
    world: HostWorld,
    image: GuestImage | null,
    scratch: { path: string; remove: () => void },
    programs: { readonly tool: string; readonly bare: string | null },
    processes: readonly [ManagedProcess, ManagedProcess],
  ) {
    this.world = world;
    this.image = image;
    this.scratch = scratch.path;
    this.tool = programs.tool;
    this.bare = programs.bare;
    this.hostPid = processes[0].pid;
    this.remotePid = processes[1].pid;
    this.processes = [...processes];
    this.removeScratch = scratch.remove;
  }

  /** @throws Error when something the lab needs cannot be had here. */
  static async open(guest: GuestName, kernel: string | null): Promise<Lab> {
    const scratch = scratchDirectory();
    process.on('exit', scratch.remove);
    const undo: (() => unknown)[] = [scratch.remove];
    try {
      const tool = compileBenchNet();
      const bare = guest === 'bare' ? compile('bench-bare', BARE_SOURCES, BARE_HEADERS) : null;
      const boots = guest === 'uml' || guest === 'qemu';
      const image = boots ? benchImage(guest, kernel, tool, scratch.path) : null;
      const world = await HostWorld.create(scratch.path);
      undo.push(() => world.destroy());
      await command(world.inHost(['sh', '-c', `echo "${PORT_RANGE}" >/proc/sys/net/ipv4/ip_local_port_range`]));
      const holder = new ManagedProcess('host-holder', world.inHost(['cat']));
      undo.push(() => holder.stop('SIGKILL'));
      const server = new ManagedProcess('bench-net', world.inRemote([tool, 'serve', String(SERVER_PORT)]));
      undo.push(() => server.stop('SIGKILL'));
      await server.waitForLine(/^LISTENING$/, 5000);
      const lab = new Lab(world, image, scratch, { tool, bare }, [holder, server]);
      if (guest === 'netns') await lab.serveInHost();
      return lab;
    } catch (error) {
      for (const step of undo.reverse()) await step();
      throw error;
    }
  }

  /** Where traffic goes, e.g. "198.51.100.1 7000": beyond the gateway, across the cable. */
  target(family: Family): string {
    return `${family === 4 ? REMOTE_ADDRESS_4 : REMOTE_ADDRESS_6} ${String(SERVER_PORT)}`;
  }

  /**
   * Sets the delay box to what a case wants, and says where its far end is. The same seed each time: all transfers of a
   * case lose the same frames, counted from the first.
   */
  async longPath({ delayMs, bitsPerSecond, loss }: LongPathCase): Promise<string> {
    const box = (this.box ??= await this.openBox());
    // The bottleneck's queue holds one product of rate and round trip, as a router's should.
    const queueBytes = Math.round((bitsPerSecond / 8) * (delayMs / 1000));
    const mark = box.mark();
    const settings = [(delayMs * 1000) / 2, bitsPerSecond, loss, LONG_SEED, queueBytes];
    box.write(`set ${settings.join(' ')}\n`);
    await box.waitForLine(/^SET$/, 2000, mark);
    return `${LONG_FAR} ${String(SERVER_PORT)}`;
  }

  /** Bytes a second that one thread copies in blocks of 64 KiB between areas larger than the caches, measured now. */
  async memcpyRate(): Promise<number> {
    const output = await command([this.tool, 'memcpy', String(MEMCPY_SECONDS)]);
    const fields = parseResults(output).get('memcpy');
    if (fields === undefined) throw new Error(output);
    return Number(fields.bytes) / Number(fields.seconds);
  }

  async close(): Promise<void> {
    await this.box?.stop('SIGKILL');
    for (const each of this.processes) await each.stop('SIGKILL');
    await this.world.destroy();
    this.removeScratch();
    process.off('exit', this.removeScratch);
  }

  /** The far end of a namespace's traffic: the host itself. */
  private async serveInHost(): Promise<void> {
    const server = new ManagedProcess('bench-net', this.world.inHost([this.tool, 'serve', String(SERVER_PORT)]));
    this.processes.push(server);
    await server.waitForLine(/^LISTENING$/, 5000);
  }

  private async openBox(): Promise<ManagedProcess> {
    const program = compile('delay-box', ['delay-box.cc'], []);
    const far = `/proc/${String(this.remotePid)}/ns/net`;
    const box = new ManagedProcess('delay-box', this.world.inHost([program, LONG_DEVICE, far]));
    try {
      await box.waitForLine(/^READY$/, 5000);
      const setUp = (address: string): string[] => [
        'sh',
        '-ec',
        `ip link set ${LONG_DEVICE} txqueuelen ${String(LONG_DEVICE_QUEUE)} up
         ip addr add ${address} dev ${LONG_DEVICE}
         ${growBuffers()}
         # What one transfer met must not slow down the next.
         echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save`,
      ];
      await command(this.world.inHost(setUp(LONG_NEAR)));
      await command(this.world.inRemote(setUp(`${LONG_FAR}/30`)));
      return box;
    } catch (error) {
      await box.stop('SIGKILL');
      throw error;
    }
  }
}

/** Shell: buffers of TCP sockets that no window of a long path outgrows. For namespaces and guests alike. */
export function growBuffers(): string {
  return `for each in tcp_rmem tcp_wmem; do echo "${LONG_BUFFERS}" >/proc/sys/net/ipv4/$each; done`;
}

function benchImage(guest: 'uml' | 'qemu', kernel: string | null, tool: string, scratch: string): GuestImage {
  const stock = guestImage(guest);
  const base = kernel === null ? stock : { kernel, initrd: stock.initrd };
  return imageWithFiles(base, join(scratch, 'bench.cpio.gz'), { '/bin/bench-net': readFileSync(tool) });
}

function filesOf(folder: string, suffix: string): string[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith(suffix))
    .sort()
    .map((name) => join(folder, name));
}

/** The bench's traffic, both ends of it. */
export function compileBenchNet(): string {
  return compile('bench-net', ['bench-net.cc', 'bench-udp.cc'], ['bench-net.h', 'pattern.h']);
}

/** A static program of this folder or of one beside it, compiled once for each state of its sources. */
function compile(name: string, sources: readonly string[], headers: readonly string[]): string {
  const hash = createHash('sha256').update(COMPILER_FLAGS.join(' '));
  for (const file of [...sources, ...headers]) hash.update(readFileSync(resolve(__dirname, file)));
  const target = join(cacheDirectory('bench'), `${name}-${hash.digest('hex').slice(0, 16)}`);
  if (!existsSync(target)) {
    const paths = sources.map((file) => resolve(__dirname, file));
    execFileSync('g++', [...COMPILER_FLAGS, '-o', `${target}.new`, ...paths]);
    renameSync(`${target}.new`, target);
  }
  return target;
}
