/**
 * The world a guest's back-end lives in, made of two network namespaces and a cable:
 *
 * ```
 *   host                                        remote
 *   eth0 192.0.2.2/24, 2001:db8:0:1::2/64  ──── eth0 192.0.2.1/24, 2001:db8:0:1::1/64   (default gateway of host)
 *   lo   127.0.0.1, ::1                         lo   198.51.100.1, 2001:db8:0:2::1      (beyond the gateway)
 * ```
 *
 * The namespaces have no names: each lives as long as a process that waits for the end of its standard input, so they
 * go, with all their sockets, however the test program ends. Made as root, or without privileges inside a user
 * namespace where the system allows that. The host's world also has its own /etc/resolv.conf (a mount namespace).
 */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { SYSTEM_PATH } from './paths';
import { ManagedProcess, command, dieWithParent } from './processes';
import { World } from './world';

export const HOST_ADDRESS_4 = '192.0.2.2';
export const HOST_PREFIX_4 = 24;
export const GATEWAY_4 = '192.0.2.1';
export const REMOTE_ADDRESS_4 = '198.51.100.1';
export const HOST_ADDRESS_6 = '2001:db8:0:1::2';
export const HOST_NETWORK_6 = '2001:db8:0:1:';
export const GATEWAY_6 = '2001:db8:0:1::1';
export const REMOTE_ADDRESS_6 = '2001:db8:0:2::1';
export const RESOLVER = REMOTE_ADDRESS_4;

const HOST_SCRIPT = `
set -e
ip link set lo up
ip link add eth0 type veth peer name eth0 netns "$1"
ip addr add ${HOST_ADDRESS_4}/${String(HOST_PREFIX_4)} dev eth0
ip addr add ${HOST_ADDRESS_6}/64 dev eth0 nodad
ip link set eth0 up
ip route add default via ${GATEWAY_4}
ip -6 route add default via ${GATEWAY_6}
echo "$2" >/proc/sys/net/ipv4/ping_group_range
if [ -e /etc/resolv.conf ]; then mount --bind "$3" /etc/resolv.conf; fi
`;

const REMOTE_SCRIPT = `
set -e
ip link set lo up
ip addr add ${REMOTE_ADDRESS_4}/32 dev lo
ip addr add ${REMOTE_ADDRESS_6}/128 dev lo nodad
ip addr add ${GATEWAY_4}/24 dev eth0
ip addr add ${GATEWAY_6}/64 dev eth0 nodad
ip link set eth0 up
# Duplicate address detection of the link-local address delays the first answers.
while ip -6 addr show dev eth0 | grep -q tentative; do sleep 0.1; done
`;

export class HostWorld {
  /** Servers and clients inside the host's namespace (its loopback, forwarded ports, the metrics). */
  readonly host: World;
  /** Servers and clients beyond the gateway. */
  readonly remote: World;
  private readonly holders: readonly [ManagedProcess, ManagedProcess];

  private constructor(holders: readonly [ManagedProcess, ManagedProcess], host: World, remote: World) {
    this.holders = holders;
    this.host = host;
    this.remote = remote;
  }

  /** @throws Error when this user may not make network namespaces here. */
  static async create(scratch: string): Promise<HostWorld> {
    const isRoot = process.getuid?.() === 0;
    const hostHolder = await holdNamespaces('host-ns', [
      'unshare',
      ...(isRoot ? [] : ['--user', '--map-root-user']),
      ...['--net', '--mount'],
    ]);
    let remoteHolder: ManagedProcess | null = null;
    try {
      remoteHolder = await holdNamespaces('remote-ns', [...enter(hostHolder.pid), 'unshare', '--net', '--mount']);
      const resolvConf = join(scratch, 'resolv.conf');
      writeFileSync(resolvConf, `nameserver ${RESOLVER}\nsearch example.test\n`);
      // In a user namespace only the one mapped group may be named.
      const groups = isRoot ? '0 2147483647' : '0 0';
      const remotePid = String(remoteHolder.pid);
      await command([...enter(hostHolder.pid), 'sh', '-c', HOST_SCRIPT, 'sh', remotePid, groups, resolvConf]);
      await command([...enter(remoteHolder.pid), 'sh', '-c', REMOTE_SCRIPT]);
      const host = await World.start('host-world', enter(hostHolder.pid));
      const remote = await World.start('remote-world', enter(remoteHolder.pid));
      return new HostWorld([hostHolder, remoteHolder], host, remote);
    } catch (error) {
      await remoteHolder?.stop('SIGKILL');
      await hostHolder.stop('SIGKILL');
      throw error;
    }
  }

  /** The command line that runs `argv` in the host's namespaces; it dies with this program. */
  inHost(argv: readonly string[]): string[] {
    return [...enter(this.holders[0].pid), ...dieWithParent(argv)];
  }

  inRemote(argv: readonly string[]): string[] {
    return [...enter(this.holders[1].pid), ...dieWithParent(argv)];
  }

  /** Moves a link of the host's to the remote side. */
  moveToRemote(link: string): Promise<string> {
    return command(this.inHost(['ip', 'link', 'set', link, 'netns', String(this.holders[1].pid)]));
  }

  async destroy(): Promise<void> {
    await Promise.all([this.host.stop(), this.remote.stop()]);
    await Promise.all(this.holders.map((holder) => holder.stop('SIGKILL')));
  }
}

/** Null if the namespaces can be made by this user, else why not. */
export function whyNoNamespaces(): string | null {
  const user = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user'];
  const args = [...user, '--net', '--mount', 'ip', 'link', 'set', 'lo', 'up'];
  const { status, stderr } = spawnSync('unshare', args, { encoding: 'utf8', env: { PATH: SYSTEM_PATH } });
  return status === 0 ? null : `network namespaces cannot be made by this user (${stderr.trim()})`;
}

async function holdNamespaces(name: string, unshare: readonly string[]): Promise<ManagedProcess> {
  const holder = new ManagedProcess(name, [...unshare, 'sh', '-c', 'echo held; exec cat']);
  try {
    await holder.waitForLine(/^held$/, 5000);
  } catch (error) {
    await holder.stop('SIGKILL');
    throw error;
  }
  return holder;
}

function enter(pid: number): string[] {
  // Without privileges the others belong to a user namespace, which comes with them.
  const user = process.getuid?.() === 0 ? [] : ['--user', '--preserve-credentials'];
  return ['nsenter', '--target', String(pid), ...user, '--net', '--mount', '--'];
}
