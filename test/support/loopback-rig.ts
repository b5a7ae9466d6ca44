/** A namespace with pasta, and programs on both sides of it that talk over the loopbacks. Needs a build. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { ControlClient } from '../../src/ctl/client';
import { type Caller, PastaRig, ROOT, until, untilAsync } from './pasta';
import type { HostWorld } from './world/host-world';
import { command, ManagedProcess } from './world/processes';

const PEER = join(__dirname, 'loopback-peer.cjs');

/** `remote`: beyond the host's gateway. */
export type Where = 'host' | 'inside' | 'remote';

let rigs = 0;

export class LoopbackRig {
  readonly pasta: PastaRig;
  container!: ManagedProcess;
  pid = 0;
  private readonly peers: ManagedProcess[] = [];
  /** The socket of --control. */
  readonly control: string;
  private readonly world: HostWorld;

  constructor(world: HostWorld, dir: string, caller: Caller = ROOT) {
    this.world = world;
    this.pasta = new PastaRig(world, caller);
    this.control = join(dir, `control-${rigs++}`);
  }

  async start(...options: string[]): Promise<void> {
    this.container = await this.pasta.container();
    const pidFile = `${this.control}.pid`;
    const common = ['--config-net', '-q', '--runas', '12345', '-P', pidFile, '--control', this.control];
    const { status, stderr } = await this.pasta.run([...common, ...options, String(this.container.pid)]);
    if (status !== 0 || stderr !== '') throw new Error(`pasta ended with ${String(status)}: ${stderr}`);
    this.pid = Number(readFileSync(pidFile, 'utf8'));
  }

  /** The command line of a peer. */
  private argv(where: Where, words: readonly (string | number)[]): string[] {
    return this.at(where, [process.execPath, PEER, ...words.map(String)]);
  }

  /** The command line of a program there. */
  private at(where: Where, argv: readonly string[]): string[] {
    if (where === 'host') return this.world.inHost(argv);
    if (where === 'remote') return this.world.inRemote(argv);
    const target = String(this.container.pid);
    return ['nsenter', '--target', target, '--user', '--net', '--preserve-credentials', ...argv];
  }

  async serve(where: Where, what: string, address: string, port: number): Promise<ManagedProcess> {
    const server = this.begin(where, what, address, port);
    await server.waitForLine(/^listens$/, 10_000);
    return server;
  }

  begin(where: Where, ...words: (string | number)[]): ManagedProcess {
    const peer = new ManagedProcess(`${words[0]} ${where}`, this.argv(where, words));
    this.peers.push(peer);
    return peer;
  }

  async run(where: Where, ...words: (string | number)[]): Promise<Record<string, unknown>> {
    return JSON.parse(await command(this.argv(where, words))) as Record<string, unknown>;
  }

  /** What the kernel says of the established TCP sockets there that match a filter of ss(8). */
  async sockets(where: Where, ...filter: string[]): Promise<string> {
    return (await command(this.at(where, ['ss', '-tinH', 'state', 'established', ...filter]))).trim();
  }

  async stopPeersInside(): Promise<void> {
    await Promise.all(this.peers.filter(({ name }) => name.endsWith(' inside')).map((peer) => peer.stop('SIGKILL')));
  }

  async stopPeers(): Promise<void> {
    await Promise.all(this.peers.splice(0).map((peer) => peer.stop('SIGKILL')));
  }

  /** Flows past the link. */
  async flows(): Promise<number> {
    const { flows } = await new ControlClient(this.control).flows();
    return flows.filter(({ kind }) => kind === 'splice').length;
  }

  /** Awaited where a line cannot be: the last thing that a peer sees of the other is seen by pasta first. */
  async noFlowsLeft(): Promise<void> {
    await untilAsync(
      async () => (await this.flows()) === 0,
      5000,
      () => 'flows are left',
    );
  }

  /** Descriptors of the service that are pipes. */
  pipes(): number {
    return readPipes(this.pid);
  }

  async stop(): Promise<void> {
    await this.stopPeers();
    await this.container.stop('SIGKILL');
    await until(
      () => this.pasta.left().length === 0,
      5000,
      () => `left: ${this.pasta.left().join(', ')}`,
    );
  }
}

function readPipes(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith('pipe:');
    } catch {
      return false;
    }
  }).length;
}
