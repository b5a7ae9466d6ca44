/** tcp-peer.cc outside of the guest: the other end of a guest's connections, in the host's world or beyond the gateway. */
import { parseResults, type ResultFields } from './guest';
import type { HostWorld } from './host-world';
import { helperProgram } from './image';
import { ManagedProcess, type ExitStatus } from './processes';

const DEFAULT_TIMEOUT_MS = 60_000;

export type Place = 'host' | 'remote';

export class TcpPeer {
  readonly process: ManagedProcess;

  private constructor(process: ManagedProcess) {
    this.process = process;
  }

  /** Starts `tcp-peer` with these arguments in a world. */
  static start(world: HostWorld, place: Place, args: readonly (string | number)[]): TcpPeer {
    const argv = [helperProgram('tcp-peer'), ...args.map(String)];
    const inside = place === 'host' ? world.inHost(argv) : world.inRemote(argv);
    return new TcpPeer(new ManagedProcess(`tcp-peer in ${place}`, inside));
  }

  /** A listener on any port of a world for `count` connections (0: for ever). */
  static async listen(
    world: HostWorld,
    place: Place,
    count: number,
    steps: readonly string[],
  ): Promise<{ peer: TcpPeer; port: number }> {
    const peer = TcpPeer.start(world, place, ['accept', 0, count, ...steps]);
    const { port } = await peer.next('listening');
    return { peer, port: Number(port) };
  }

  /** The fields of the line "RESULT name …", come already or awaited; with `since` (a mark) only those that come later. */
  async next(name: string, timeoutMs = DEFAULT_TIMEOUT_MS, since = 0): Promise<ResultFields> {
    const [line] = await this.process.waitForLine(new RegExp(`^RESULT ${name}\\b.*$`), timeoutMs, since);
    return parseResults(line).get(name) ?? {};
  }

  /** Passes a step `wait`. */
  release(): void {
    this.process.write('\n');
  }

  /** Waits for the end. @throws Error with the output unless every step of every connection succeeded. */
  async done(timeoutMs = DEFAULT_TIMEOUT_MS): Promise<void> {
    await this.next('done', timeoutMs);
    const { code } = await this.process.exited;
    if (code !== 0) throw new Error(`a step failed:\n${this.process.tail()}`);
  }

  stop(signal: NodeJS.Signals = 'SIGKILL'): Promise<ExitStatus> {
    return this.process.stop(signal);
  }
}
