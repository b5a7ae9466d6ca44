/**
 * Root directories of other Debian releases, in which tests install what users of those releases install: made once by
 * mmdebstrap and kept in .cache/roots/NAME. Tests see one by way of an overlay (test/support/world/debian-root.ts), so that
 * it stays as it was made.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT, run, which } from './run.mjs';

export const ROOTS_DIRECTORY = join(ROOT, '.cache', 'roots');

/**
 * @typedef {object} RootOptions
 * @property {string} name                   Of its directory.
 * @property {string} suite                  Debian's name of the release, as `trixie`.
 * @property {readonly string[]} packages    More than `Essential: yes` and apt.
 * @property {readonly string[]} [keep]      Words for mmdebstrap's --skip, what it would clean up.
 * @property {readonly string[]} [backports] Packages of its backports, unpacked into /opt/backports and not installed.
 */

/**
 * What the tests of the package install into: no compiler, no Python, nothing that an addon is built with; `mount` is for the
 * tests. Debian 13 with its own Node; Debian 12 without, because its own is too old.
 * @type {readonly RootOptions[]}
 */
export const PACKAGE_ROOTS = [
  { name: 'debian-12', suite: 'bookworm', packages: ['mount'] },
  { name: 'debian-13', suite: 'trixie', packages: ['mount', 'nodejs'] },
];

/**
 * libvirt and QEMU as Debian 13 has them, with systemd, which starts them there (test/support/world/debian-machine.ts); and
 * the QEMU of its backports, which has `-netdev passt`.
 * @type {RootOptions}
 */
export const LIBVIRT_ROOT = {
  name: 'libvirt',
  suite: 'trixie',
  packages: [
    ...['dbus', 'iproute2', 'mount', 'nodejs', 'procps', 'sudo', 'systemd', 'systemd-container'],
    ...['libvirt-clients', 'libvirt-daemon-system', 'ipxe-qemu', 'qemu-system-x86', 'qemu-utils'],
  ],
  backports: ['qemu-system-x86', 'qemu-system-common', 'qemu-system-data'],
};

/**
 * Podman as Debian 13 has it, with systemd and what a user's containers need, and without passt; RootlessKit and slirp4netns,
 * which call us, too. The image of the containers is made of busybox.
 * @type {RootOptions}
 */
export const PODMAN_ROOT = {
  name: 'podman',
  suite: 'trixie',
  packages: [
    ...['dbus', 'iproute2', 'mount', 'nodejs', 'procps', 'systemd', 'systemd-container', 'util-linux-extra'],
    ...['podman', 'crun', 'netavark', 'aardvark-dns', 'nftables', 'uidmap', 'fuse-overlayfs', 'catatonit'],
    ...['busybox-static', 'dbus-user-session', 'rootlesskit', 'slirp4netns'],
  ],
};

/** Those that tests enter. */
export const TEST_ROOTS = [...PACKAGE_ROOTS, LIBVIRT_ROOT, PODMAN_ROOT];

const MIRROR = 'http://deb.debian.org/debian';

/** mmdebstrap's hook, with the new root as its $1: packages of backports that lie beside what is installed. */
const BACKPORTS = `set -e; chroot "$1" sh -ec '
  echo "deb ${MIRROR} SUITE-backports main" >/etc/apt/sources.list.d/backports.list
  mkdir -p /opt/backports/debs; cd /opt/backports/debs; chown _apt .
  apt-get update -qq; apt-get download -qq PACKAGES
  for deb in *.deb; do dpkg -x "$deb" ..; done
  rm -r /opt/backports/debs'`;

/**
 * Makes a root unless it is there with these packages. Needs to be root: the files belong to root.
 * @param {RootOptions} options
 * @param {(line: string) => void} log
 * @returns {Promise<string | null>} why there is none, in one sentence; null if there is
 */
export async function makeRoot({ name, suite, packages, keep = [], backports = [] }, log) {
  const directory = join(ROOTS_DIRECTORY, name);
  const record = join(ROOTS_DIRECTORY, `${name}.json`);
  const made = JSON.stringify({ suite, packages, keep, ...(backports.length > 0 && { backports }) });
  if (existsSync(directory) && existsSync(record) && readFileSync(record, 'utf8') === made) return null;
  if (process.getuid?.() !== 0) return `no root directory of Debian's ${suite}: only root can make one`;
  if (which('mmdebstrap') === null) return `no root directory of Debian's ${suite}: mmdebstrap is not installed`;
  log(`making the root directory ${name} of Debian's ${suite}`);
  const started = Date.now();
  const unfinished = `${directory}.new`;
  for (const path of [unfinished, directory]) rmSync(path, { recursive: true, force: true });
  mkdirSync(ROOTS_DIRECTORY, { recursive: true });
  const args = ['--mode=root', '--variant=minbase', '--quiet', ...keep.map((word) => `--skip=${word}`)];
  // Pages and translations that no test reads are half of the time that it takes.
  const leaveOut = ['/usr/share/man/*', '/usr/share/locale/*', '/usr/share/doc/*'];
  for (const path of leaveOut) args.push(`--dpkgopt=path-exclude=${path}`);
  if (backports.length > 0) {
    const names = backports.map((each) => `${each}/${suite}-backports`).join(' ');
    args.push(`--customize-hook=${BACKPORTS.replace('SUITE', suite).replace('PACKAGES', names)}`);
  }
  args.push(`--include=${packages.join(',')}`, suite, unfinished, MIRROR);
  const { status, output } = await run('mmdebstrap', args, { quiet: true });
  if (status !== 0) {
    rmSync(unfinished, { recursive: true, force: true });
    return `no root directory of Debian's ${suite}: mmdebstrap failed: ${output.trim().split('\n').slice(-3).join(' ')}`;
  }
  renameSync(unfinished, directory);
  writeFileSync(record, made);
  log(`${name}: made in ${((Date.now() - started) / 1000).toFixed(0)} s`);
  return null;
}
