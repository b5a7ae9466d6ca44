/** A guest that is a network namespace of an ordinary user's, and a back-end with the command line of pasta or slirp4netns. */
import { readFileSync } from 'node:fs';
import { ManagedProcess, command, describeExit, poll } from '../../test/support/world/processes';
import { parseResults, type ResultFields } from '../../test/support/world/guest';
import { GATEWAY_4, GATEWAY_6 } from '../../test/support/world/host-world';
import type { Family } from './cases';
import { clientScript, type BenchGuest, type ClientCall, type GuestCounts } from './guests';
import { SERVER_PORT, type Lab } from './lab';
import type { NamespaceSpec } from './options';
import { netField } from './probes';

const START_TIMEOUT_MS = 10_000;
/** Somebody without an account: root's pasta becomes nobody, who may not enter what root has made. */
const AS_USER = ['setpriv', '--reuid', '12345', '--regid', '12345', '--clear-groups', '--'];
/** Without what the caller's shell says to Node: a service has a clean environment. */
const CLEAN = ['env', '-u', 'NODE_EXTRA_CA_CERTS', '-u', 'NODE_OPTIONS'];
/** slirp4netns's own addresses of the host's loopback. */
const SLIRP_HOST = { 4: '10.0.2.2', 6: 'fd00::2' } as const;
const NO_PORTS = ['-t', 'none', '-u', 'none', '-T', 'none', '-U', 'none'];

function argvOf({ argv, dialect }: NamespaceSpec, mtu: number, pid: number): string[] {
  if (dialect === 'slirp4netns') {
    return [...argv, '--configure', '--enable-ipv6', `--mtu=${String(mtu)}`, String(pid), 'tap0'];
  }
  return [...argv, '--foreground', '--quiet', '--config-net', '--mtu', String(mtu), ...NO_PORTS, String(pid)];
}

/** Both are running, and the namespace has its routes. @throws Error with what was said. */
export async function startNamespace(
  spec: NamespaceSpec,
  lab: Lab,
  mtu: number,
): Promise<{ readonly guest: NamespaceGuest; readonly backend: ManagedProcess }> {
  const unshare = ['unshare', '--user', '--map-root-user', '--net', 'sh', '-c', 'echo held; exec cat'];
  const holder = new ManagedProcess('namespace', lab.world.inHost([...AS_USER, ...unshare]));
  let backend: ManagedProcess | null = null;
  try {
    await holder.waitForLine(/^held$/, START_TIMEOUT_MS);
    const started = new ManagedProcess(
      spec.name,
      lab.world.inHost([...AS_USER, ...CLEAN, ...argvOf(spec, mtu, holder.pid)]),
    );
    backend = started;
    await poll(`the namespace's routes by ${spec.name}`, () => isRouted(holder.pid, started), START_TIMEOUT_MS);
    return { guest: new NamespaceGuest(holder, lab.tool, spec), backend };
  } catch (error) {
    const said = backend?.tail() ?? '';
    await backend?.stop('SIGKILL');
    await holder.stop('SIGKILL');
    throw new Error(`${(error as Error).message}\n${said}`, { cause: error });
  }
}

/** From the start of a command with a network to its end, in ms. @throws Error with what was said unless it exits with 0. */
export async function runOnce({ argv }: NamespaceSpec, lab: Lab): Promise<number> {
  const words = [...AS_USER, ...CLEAN, ...argv, '--quiet', '--config-net', '--', 'true'];
  const started = performance.now();
  await command(lab.world.inHost(words));
  return performance.now() - started;
}

function isRouted(pid: number, backend: ManagedProcess): true | null {
  if (backend.exitStatus !== null) throw new Error(`it ended (${describeExit(backend.exitStatus)})`);
  // Destination 00000000 (proc(5)).
  return /\t00000000\t[0-9A-F]{8}\t/.test(readFileSync(`/proc/${String(pid)}/net/route`, 'latin1')) ? true : null;
}

export class NamespaceGuest implements BenchGuest {
  /** Holds the namespace. */
  readonly process: ManagedProcess;
  private readonly tool: string;
  private readonly spec: NamespaceSpec;

  constructor(holder: ManagedProcess, tool: string, spec: NamespaceSpec) {
    this.process = holder;
    this.tool = tool;
    this.spec = spec;
  }

  /** The host's loopback, so that nothing but the back-end is between the two ends. */
  target(family: Family): string {
    const gateway = family === 4 ? GATEWAY_4 : GATEWAY_6;
    return `${this.spec.dialect === 'slirp4netns' ? SLIRP_HOST[family] : gateway} ${String(SERVER_PORT)}`;
  }

  version(): Promise<string> {
    return Promise.resolve('');
  }

  bringUp(families: readonly Family[]): Promise<Map<Family, string | null>> {
    return Promise.resolve(new Map(families.map((family) => [family, null])));
  }

  async client(call: ClientCall): Promise<ResultFields> {
    const output = await this.run(clientScript(call, this.tool));
    const fields = parseResults(output).get(call.result);
    if (fields === undefined) throw new Error(output);
    return fields;
  }

  counts(): Promise<GuestCounts> {
    const read = (name: string): string => readFileSync(`/proc/${String(this.process.pid)}/net/${name}`, 'latin1');
    const text = read('snmp') + read('netstat');
    let frames = 0;
    // Bytes, then frames, of what came; eight fields further those of what went.
    for (const [, device, fields] of read('dev').matchAll(/^\s*([^:\s]+):\s*(.*)$/gm)) {
      const numbers = fields.split(/\s+/).map(Number);
      if (device !== 'lo') frames += numbers[1] + numbers[9];
    }
    return Promise.resolve({
      retransmits: netField(text, 'Tcp', 'RetransSegs'),
      duplicates: netField(text, 'TcpExt', 'TCPDSACKOldSent'),
      interrupts: 0,
      frames,
    });
  }

  growBuffers(): Promise<void> {
    return Promise.reject(new Error('a namespace of a user has the buffers of its host'));
  }

  isAlive(): Promise<boolean> {
    return Promise.resolve(this.process.exitStatus === null);
  }

  async powerOff(): Promise<void> {
    await this.process.stop('SIGKILL');
  }

  private run(script: string): Promise<string> {
    const enter = ['nsenter', '--target', String(this.process.pid), '--user', '--net', '--preserve-credentials', '--'];
    return command([...enter, 'sh', '-ec', script]);
  }
}
