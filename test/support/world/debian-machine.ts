/**
 * A Debian that runs: systemd is process 1 of a root directory (debian-root.ts), in PID, mount, IPC, UTS and cgroup
 * namespaces of its own and in the network of the host's world. So units, sockets and users are what an administrator has;
 * devices of this machine are not there. All of it ends with the process that started it.
 */
import { readFileSync } from 'node:fs';
import { OVERLAY, PIVOT, debianPath, overlayWords, type DebianRootOptions } from './debian-root';
import type { HostWorld } from './host-world';
import { ManagedProcess, command, poll, runCommand, type CommandResult } from './processes';

/** Comes before the namespaces: a cgroup to be the root of the machine's own. Below version 2 alone is systemd at home. */
const OUTER = `
set -e
cgroups=$1 inner=$2
shift 2
mkdir -p "$cgroups"
mount -t cgroup2 cgroup2 "$cgroups"
mkdir -p "$cgroups/tubetti-$$"
echo $$ >"$cgroups/tubetti-$$/cgroup.procs"
umount "$cgroups"
exec unshare --cgroup --ipc --mount --pid --uts --fork --kill-child -- sh -c "$inner" sh "$@"
`;

/** Units that belong to real machines, or would hide what the tests have in /tmp. */
const MASKED = ['tmp.mount', 'systemd-tmpfiles-clean.timer', 'getty.target'];

const INNER = `${OVERLAY}
echo machine >etc/hostname
echo '127.0.0.1 localhost machine' >etc/hosts
hostname machine
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
for name in full fuse net/tun null random tty urandom zero; do
  if [ ! -e "/dev/$name" ]; then continue; fi
  : >"dev/$name"
  mount --bind "/dev/$name" "dev/$name"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for name in stdin:0 stdout:1 stderr:2; do ln -s "/proc/self/fd/\${name#*:}" "dev/\${name%:*}"; done
${PIVOT}
exec env -i container=test PATH="$path" /lib/systemd/systemd systemd.unit=sockets.target systemd.show_status=no \
  ${MASKED.map((unit) => `systemd.mask=${unit}`).join(' ')}
`;

/** Processes end a moment after their process 1. */
const CLEAN_UP = `
mount -t cgroup2 cgroup2 "$1"
for try in $(seq 200); do
  if grep -q 'populated 0' "$1/tubetti-$2/cgroup.events"; then break; fi
  sleep 0.05
done
find "$1/tubetti-$2" -depth -type d -exec rmdir {} + 2>/dev/null
umount "$1"
`;

export class DebianMachine {
  private readonly process: ManagedProcess;
  /** Process 1, as this program sees it. */
  private readonly pid: number;
  private readonly options: DebianRootOptions;

  private constructor(process: ManagedProcess, pid: number, options: DebianRootOptions) {
    this.process = process;
    this.pid = pid;
    this.options = options;
  }

  /** Starts it and waits until its sockets are there. @throws Error with what systemd said. */
  static async start(world: HostWorld, options: DebianRootOptions): Promise<DebianMachine> {
    const outer = ['sh', '-c', OUTER, 'sh', `${options.shared}/cgroups`, INNER, ...overlayWords(options)];
    const managed = new ManagedProcess('machine', world.inHost(['unshare', '--mount', '--', ...outer]));
    try {
      const pid = await poll('process 1 of the machine', () => onlyChild(managed), 10_000);
      const machine = new DebianMachine(managed, pid, options);
      const ask = ['systemctl', 'is-active', '--quiet', 'sockets.target'];
      const isUp = async (): Promise<true | null> =>
        (await runCommand(machine.inside(ask))).code === 0 ? true : machine.check();
      await poll("the machine's sockets", isUp, 30_000);
      return machine;
    } catch (error) {
      await managed.stop('SIGKILL');
      if (error instanceof Error) error.message += `\n${managed.tail()}`;
      throw error;
    }
  }

  /** The command line that runs `argv` in the machine. */
  inside(argv: readonly string[]): string[] {
    const namespaces = ['--mount', '--pid', '--ipc', '--uts', '--cgroup', '--net'];
    const environment = ['HOME=/root', 'LC_ALL=C.UTF-8', `PATH=${debianPath(this.options)}`];
    return ['nsenter', '--target', String(this.pid), ...namespaces, '--', 'env', '-i', ...environment, ...argv];
  }

  /** Runs a script as root, in `directory`. What takes longer is killed. @throws Error with its output unless it exits with 0. */
  sh(script: string, { timeoutS = 60, directory = '/root' } = {}): Promise<string> {
    const argv = ['env', '-C', directory, 'timeout', String(timeoutS), 'sh', '-ec', script];
    return command(this.inside(argv));
  }

  /** The same; how it ended is for the caller to judge. */
  run(script: string, timeoutS = 60): Promise<CommandResult> {
    return runCommand(this.inside(['timeout', String(timeoutS), 'sh', '-ec', script]));
  }

  async stop(): Promise<void> {
    const { pid } = this.process;
    await this.process.stop('SIGKILL');
    const clean = ['sh', '-c', CLEAN_UP, 'sh', `${this.options.shared}/cgroups`, String(pid)];
    await runCommand(['unshare', '--mount', '--', ...clean]);
  }

  private check(): null {
    if (this.process.exitStatus !== null) throw new Error('the machine has ended');
    return null;
  }
}

/** What `unshare --fork` has forked, once that is systemd; null before: shells, and what they run. */
function onlyChild(managed: ManagedProcess): number | null {
  if (managed.exitStatus !== null) throw new Error('it has ended');
  const pid = String(managed.pid);
  try {
    const child = Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ')[0]);
    return child > 0 && readFileSync(`/proc/${String(child)}/comm`, 'utf8').startsWith('systemd') ? child : null;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return null;
  }
}
