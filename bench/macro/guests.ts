/** Guests of the bench: what measures sees of them, and those that are Linux, booted on a back-end or on QEMU's own stack. */
import type { Guest, ResultFields } from '../../test/support/world/guest';
import type { ManagedProcess } from '../../test/support/world/processes';
import { bootQemu } from '../../test/support/world/qemu';
import { bootUml } from '../../test/support/world/uml';
import { startBare } from './bare';
import type { Family } from './cases';
import { growBuffers, type Lab } from './lab';
import type { RunOptions } from './options';
import { netField, virtioInterrupts } from './probes';

const BOOT_TIMEOUT_MS = 60_000;
const SETUP_TIMEOUT_MS = 60_000;
const ALIVE_TIMEOUT_MS = 5000;

/** What a guest has counted so far. */
export interface GuestCounts {
  readonly retransmits: number;
  /** Segments that came twice. */
  readonly duplicates: number;
  /** Of its network card. */
  readonly interrupts: number;
  /** Both ways, through the rings; null where the guest does not tell. */
  readonly frames: number | null;
}

/** A client of bench-net's, or what does the same, in a guest. */
export interface ClientCall {
  /** As on bench-net's command line, e.g. "down 198.51.100.1 7000 2 1". */
  readonly client: string;
  /** The name of the RESULT line it prints. */
  readonly result: string;
  /** It is killed after so long. */
  readonly seconds: number;
  readonly timeoutMs: number;
  /** Beside a bulk transfer each way to `target`, which go on for a second more than `loadSeconds`. */
  readonly load?: { readonly target: string; readonly seconds: number };
}

export interface BenchGuest {
  readonly process: ManagedProcess;
  /** Where traffic goes, if not to the lab's target: address and port. */
  target?(family: Family): string;
  /** For the head of the report, e.g. the kernel's version. */
  version(): Promise<string>;
  /** @returns the families that work (null), with the reason for each that does not */
  bringUp(families: readonly Family[]): Promise<Map<Family, string | null>>;
  /** @throws Error with what it printed unless there is a RESULT line. */
  client(call: ClientCall): Promise<ResultFields>;
  counts(): Promise<GuestCounts>;
  /** Buffers that no window of a long path outgrows. */
  growBuffers(): Promise<void>;
  isAlive(): Promise<boolean>;
  powerOff(): Promise<void>;
}

/** `socketPath`: the back-end's; null: QEMU's own stack. @throws Error with the console's tail. */
export async function bootGuest(
  run: RunOptions,
  lab: Lab,
  socketPath: string | null,
  mtu: number,
): Promise<BenchGuest> {
  if (run.guest === 'bare') {
    if (socketPath === null || lab.bare === null) throw new Error('--guest bare wants a vhost-user back-end');
    return startBare(lab.bare, socketPath, { ...run.bare, mtu });
  }
  const { scratch, image } = lab;
  if (image === null) throw new Error(`--guest ${run.guest} boots nothing`);
  const common = { scratch, image, bootTimeoutMs: BOOT_TIMEOUT_MS };
  if (run.guest === 'uml' && socketPath !== null) return new LinuxGuest(await bootUml({ ...common, socketPath }));
  const { accel } = run;
  if (socketPath !== null) return new LinuxGuest(await bootQemu({ ...common, accel, socketPath }));
  const userNetwork = { run: (argv: readonly string[]) => lab.world.inHost(argv) };
  return new LinuxGuest(await bootQemu({ ...common, accel, socketPath: '', userNetwork }));
}

/** Shell: the client, with what runs beside it. */
export function clientScript({ client, seconds, load }: ClientCall, tool: string): string {
  const bulk = ['down', 'up'].map((direction) =>
    load === undefined ? '' : `${tool} ${direction} ${load.target} ${String(load.seconds + 1)} 1 >/dev/null &\n`,
  );
  const [first, last] = load === undefined ? ['', ''] : [`${bulk.join('')}sleep 0.5\n`, '\nwait'];
  return `${first}timeout -s KILL ${String(Math.ceil(seconds))} ${tool} ${client}${last}`;
}

class LinuxGuest implements BenchGuest {
  private readonly guest: Guest;

  constructor(guest: Guest) {
    this.guest = guest;
  }

  get process(): ManagedProcess {
    return this.guest.process;
  }

  async version(): Promise<string> {
    return (await this.guest.sh('uname -r')).trim();
  }

  /** Addresses by DHCP and router advertisements. */
  async bringUp(families: readonly Family[]): Promise<Map<Family, string | null>> {
    const states = new Map<Family, string | null>();
    for (const family of families) {
      const { status, output } = await this.guest.run(`net-up ${String(family)}`, { timeoutMs: SETUP_TIMEOUT_MS });
      states.set(family, status === 0 ? null : `no IPv${String(family)} in the guest: ${output}`);
    }
    return states;
  }

  client(call: ClientCall): Promise<ResultFields> {
    return this.guest.result(clientScript(call, 'bench-net'), call.result, { timeoutMs: call.timeoutMs });
  }

  async counts(): Promise<GuestCounts> {
    const text = await this.guest.sh('cat /proc/net/snmp /proc/net/netstat /proc/interrupts');
    return {
      retransmits: netField(text, 'Tcp', 'RetransSegs'),
      // A receiver that gets a segment twice says so in a D-SACK (RFC 2883).
      duplicates: netField(text, 'TcpExt', 'TCPDSACKOldSent'),
      interrupts: virtioInterrupts(text),
      frames: null,
    };
  }

  async growBuffers(): Promise<void> {
    await this.guest.sh(growBuffers());
  }

  async isAlive(): Promise<boolean> {
    if (this.process.exitStatus !== null) return false;
    return this.guest.run('true', { timeoutMs: ALIVE_TIMEOUT_MS }).then(
      () => true,
      () => false,
    );
  }

  powerOff(): Promise<void> {
    return this.guest.powerOff();
  }
}
