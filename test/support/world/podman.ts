/**
 * Podman as a user of Debian 13 has it (scripts/lib/roots.mjs): a machine with systemd (debian-machine.ts), the Debian package
 * of this checkout with the alternative `pasta` of packaging/debian/README.Debian, a user whose own systemd runs, and an image
 * of busybox and guest-net (guest-net.cc).
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DebianMachine } from './debian-machine';
import type { HostWorld } from './host-world';
import { helperProgram } from './image';
import { REPO_ROOT, SYSTEM_PATH } from './paths';
import { command, poll, type CommandResult } from './processes';

/** Node of Debian 13. */
const NODE = '20';
const UID = 1000;
export const IMAGE = 'busybox';
/** The machine's part of the cgroups has no controllers, so nothing can be limited. */
const CONTAINERS_CONF = '[containers]\npids_limit = 0\n';

export class PodmanMachine {
  readonly machine: DebianMachine;

  private constructor(machine: DebianMachine) {
    this.machine = machine;
  }

  /** `shared`: a directory that the machine has, too. @throws Error with what failed. */
  static async start(world: HostWorld, shared: string): Promise<PodmanMachine> {
    chmodSync(shared, 0o755);
    makeImage(shared);
    const args = ['scripts/package-deb.mjs', '--node', NODE, '--out', shared];
    const [machine, deb] = await Promise.all([
      DebianMachine.start(world, { name: 'podman', shared }),
      command([process.execPath, ...args], { cwd: REPO_ROOT }),
    ]);
    try {
      await machine.sh(`mount --make-rshared /
        dpkg --install ${deb.split('\n').pop() ?? ''}
        update-alternatives --quiet --install /usr/local/bin/pasta pasta /usr/bin/tubetti-pasta 50
        useradd --create-home --uid ${UID} user
        mkdir -p ~user/.config/containers
        printf '${CONTAINERS_CONF.replaceAll('\n', '\\n')}' >~user/.config/containers/containers.conf
        chown -R user: ~user
        systemctl start systemd-logind
        loginctl enable-linger user`);
      const podman = new PodmanMachine(machine);
      const isUp = async (): Promise<true | null> => ((await podman.run('true')).code === 0 ? true : null);
      await poll("the user's systemd", isUp, 30_000);
      await podman.sh(`podman import ${shared}/image.tar ${IMAGE}`);
      return podman;
    } catch (error) {
      await machine.stop();
      throw error;
    }
  }

  /** Runs a script as the user, in a unit of theirs; what it leaves running stays. How it ended is for the caller to judge. */
  run(script: string, timeoutS = 60): Promise<CommandResult> {
    const unit = ['--user', '--machine=user@', '--pipe', '--wait', '--collect', '--property=KillMode=process'];
    const argv = ['systemd-run', '--quiet', ...unit, 'env', '-C', '/home/user', 'sh', '-ec', `{\n${script}\n} 2>&1`];
    return this.machine.run(argv.map(quoted).join(' '), timeoutS);
  }

  /** The same. @throws Error with its output unless it exits with 0. */
  async sh(script: string, timeoutS = 60): Promise<string> {
    const { code, output } = await this.run(script, timeoutS);
    if (code !== 0) throw new Error(`${script}\nstatus ${String(code)}\n${output}`);
    return output;
  }

  /** What a container prints that runs `script` until its end. `options` come before the image's name. */
  container(options: string, script: string): Promise<string> {
    return this.sh(`podman run --rm ${options} ${IMAGE} sh -ec ${quoted(script)}`);
  }

  stop(): Promise<void> {
    return this.machine.stop();
  }
}

/** As one word of a shell. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function makeImage(shared: string): void {
  const root = join(shared, 'image');
  for (const name of ['bin', 'dev', 'etc', 'proc', 'root', 'sys', 'tmp']) {
    mkdirSync(join(root, name), { recursive: true });
  }
  const env = { ...process.env, PATH: SYSTEM_PATH };
  const busybox = execFileSync('sh', ['-c', 'command -v busybox'], { encoding: 'utf8', env }).trim();
  const applets = execFileSync(busybox, ['--list'], { encoding: 'utf8' }).trim().split('\n');
  cpSync(busybox, join(root, 'bin/busybox'));
  cpSync(helperProgram('guest-net'), join(root, 'bin/guest-net'));
  for (const applet of applets) if (applet !== 'busybox') symlinkSync('busybox', join(root, 'bin', applet));
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  execFileSync('tar', ['--directory', root, '--create', '--file', join(shared, 'image.tar'), '.']);
}
