/**
 * A root directory of another Debian (scripts/lib/roots.mjs) as the place where a program runs: the kept one below, an
 * overlay of its own above, so that nothing of what is installed stays. It becomes the root by pivot_root(2) and not by
 * chroot(2), after which the kernel gives a process no user namespace, and the service no sandbox.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { CACHE_DIR } from './paths';
import { whyNoNamespaces } from './host-world';

export interface DebianRootOptions {
  /** As scripts/lib/roots.mjs calls it. */
  readonly name: 'debian-12' | 'debian-13' | 'libvirt' | 'podman';
  /** A directory that the root has under its own name, too: sockets and files to install. */
  readonly shared: string;
  /** Directories of this machine, and where the root has them, read-only. */
  readonly binds?: Readonly<Record<string, string>>;
  /** In front of the root's own. */
  readonly path?: readonly string[];
}

/** The arguments are those of {@link overlayWords}; what comes after them is left. The root is made in the current directory. */
export const OVERLAY = `
set -e
lower=$1 shared=$2 binds=$3 path=$4
shift 4
mkdir -p "$shared/root"
mount -t tmpfs tmpfs "$shared/root"
cd "$shared/root"
mkdir upper work merged
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$PWD/upper,workdir=$PWD/work" merged
cd merged
mkdir -p "./$shared"
mount --bind "$shared" "./$shared"
for pair in $binds; do
  mkdir -p "./\${pair#*=}"
  mount --bind "\${pair%%=*}" "./\${pair#*=}"
  mount -o remount,bind,ro "./\${pair#*=}"
done
cat /etc/resolv.conf >etc/resolv.conf
`;

/** Makes the current directory the root. */
export const PIVOT = `
pivot_root . mnt
cd /
umount -l /mnt
`;

const ENTER = `${OVERLAY}
for name in dev proc sys; do mount --rbind "/$name" "$name"; done
${PIVOT}
exec env -i HOME=/root LC_ALL=C.UTF-8 PATH="$path" "$@"
`;

const DEBIAN_PATH = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];

/** Null if there is such a root here, and a test may enter it. */
export function whyNoDebianRoot(name: DebianRootOptions['name']): string | null {
  if (process.getuid?.() !== 0) return 'only root enters another root directory';
  const there = existsSync(join(CACHE_DIR, 'roots', name));
  return whyNoNamespaces() ?? (there ? null : `no .cache/roots/${name}: see what "node scripts/setup.mjs" says`);
}

/** PATH in such a root. */
export function debianPath(options: DebianRootOptions): string {
  return [...(options.path ?? []), ...DEBIAN_PATH].join(':');
}

/** The arguments that {@link OVERLAY} begins with. */
export function overlayWords(options: DebianRootOptions): string[] {
  const binds = Object.entries(options.binds ?? {}).map(([from, to]) => `${from}=${to}`);
  return [join(CACHE_DIR, 'roots', options.name), options.shared, binds.join(' '), debianPath(options)];
}

/** The command line that runs `argv` there. What it mounts goes with it. */
export function inDebianRoot(options: DebianRootOptions, argv: readonly string[]): string[] {
  return ['unshare', '--mount', '--', 'sh', '-c', ENTER, 'sh', ...overlayWords(options), ...argv];
}
