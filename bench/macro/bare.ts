/** A guest that is not the bottleneck: the program of bench/bare, a front-end with a network card's driver and no kernel. */
import { parseResults, type ResultFields } from '../../test/support/world/guest';
import { GATEWAY_4, GATEWAY_6, HOST_ADDRESS_4, HOST_ADDRESS_6 } from '../../test/support/world/host-world';
import { ManagedProcess, dieWithParent } from '../../test/support/world/processes';
import type { Family } from './cases';
import type { BenchGuest, ClientCall, GuestCounts } from './guests';
import type { BareOptions } from './options';

const START_TIMEOUT_MS = 10_000;
const COUNTS_TIMEOUT_MS = 5000;
const END_TIMEOUT_MS = 5000;

/** Features as TUBETTI_FEATURES names them; see bench/bare/main.cc. */
export async function startBare(
  program: string,
  socketPath: string,
  { interrupts, features, ring, mtu, verify }: BareOptions & { readonly mtu: number; readonly verify?: boolean },
): Promise<BareGuest> {
  // The host's own addresses, which both a lease of ours and one of passt's would give.
  const addresses = [
    '--own4',
    HOST_ADDRESS_4,
    '--gateway4',
    GATEWAY_4,
    '--own6',
    HOST_ADDRESS_6,
    '--gateway6',
    GATEWAY_6,
  ];
  const argv = [
    ...[program, socketPath, ...addresses],
    ...['--mtu', String(mtu), '--ring', String(ring), '--features', features],
    ...(interrupts === 'poll' ? ['--poll'] : []),
    ...(verify === true ? ['--verify'] : []),
  ];
  const managed = new ManagedProcess('bare', dieWithParent(argv));
  try {
    const [, taken] = await managed.waitForLine(/^READY ?(.*)$/, START_TIMEOUT_MS);
    return new BareGuest(managed, taken);
  } catch (error) {
    await managed.stop('SIGKILL');
    throw error;
  }
}

export class BareGuest implements BenchGuest {
  readonly process: ManagedProcess;
  /** Those that were wanted and offered, separated by spaces. */
  readonly features: string;
  private commands = 0;

  constructor(managed: ManagedProcess, features: string) {
    this.process = managed;
    this.features = features;
  }

  version(): Promise<string> {
    return Promise.resolve('');
  }

  /** Its addresses are given; the gateway is resolved when a command needs it. */
  bringUp(families: readonly Family[]): Promise<Map<Family, string | null>> {
    return Promise.resolve(new Map(families.map((family) => [family, null])));
  }

  client({ client, result, timeoutMs, load }: ClientCall): Promise<ResultFields> {
    return this.result(load === undefined ? client : `${client} loaded`, result, timeoutMs);
  }

  async counts(): Promise<GuestCounts> {
    const { retransmits, duplicates, interrupts, frames } = await this.result('counts', 'counts', COUNTS_TIMEOUT_MS);
    return {
      retransmits: Number(retransmits),
      duplicates: Number(duplicates),
      interrupts: Number(interrupts),
      frames: Number(frames),
    };
  }

  growBuffers(): Promise<void> {
    return Promise.resolve();
  }

  isAlive(): Promise<boolean> {
    return this.counts().then(
      () => true,
      () => false,
    );
  }

  /** The end of its input ends it, as a VMM that shuts down. */
  async powerOff(): Promise<void> {
    this.process.child.stdin?.end();
    const timer = setTimeout(() => {
      this.process.kill('SIGKILL');
    }, END_TIMEOUT_MS);
    await this.process.exited;
    clearTimeout(timer);
  }

  /** Commands run one after the other. @throws Error with what was printed unless it ends well and in time. */
  private async result(words: string, name: string, timeoutMs: number): Promise<ResultFields> {
    const id = String(++this.commands);
    const mark = this.process.mark();
    const output: string[] = [];
    const off = this.process.onLine((line) => {
      output.push(line);
    });
    try {
      this.process.write(`${id} ${words}\n`);
      const [, status] = await this.process.waitForLine(new RegExp(`^@END ${id} (\\d+)$`), timeoutMs, mark);
      const fields = parseResults(output.join('\n')).get(name);
      if (status !== '0' || fields === undefined) {
        const said = output.filter((line) => !line.startsWith('@END') && !line.startsWith('RESULT')).join('\n');
        throw new Error(`in the guest (bare): ${words}\n${said}`);
      }
      return fields;
    } finally {
      off();
    }
  }
}
