/**
 * Makes a fresh clone ready: Debian packages, node_modules, the addon and dist, a kernel for the guests. Every step
 * looks first and does nothing when there is nothing to do. Plain Node, no dependencies; the package registries are the
 * only thing it needs from the network.
 *
 * - Packages are installed only as root or with a sudo that asks no password (and never with TUBETTI_NO_INSTALL=1).
 *   Otherwise the command to type is printed. What the build needs is then an error; what only guests need is a note.
 * - The kernel for QEMU is unpacked into .cache/, not installed: nothing touches /boot.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { arch } from 'node:os';
import { join } from 'node:path';
import { fetchPesto } from './pesto.mjs';
import { fetchQuiche } from './quiche.mjs';
import { TEST_ROOTS, makeRoot } from './roots.mjs';
import { ROOT, capture, run, which } from './run.mjs';
import { provideUml } from './uml.mjs';

/** Where {@link fetchKernel} leaves kernels: `.cache/kernel/NAME/{vmlinuz,modules/}`. */
export const KERNEL_DIRECTORY = join(ROOT, '.cache', 'kernel');

/**
 * What is needed, how its presence is seen, and which package has it (Debian and Ubuntu agree on these names).
 * @type {readonly { command: string, package: string, for: 'build' | 'checks' | 'uml' | 'qemu' | 'guests' | 'testpmd' | 'packages' }[]}
 */
const REQUIREMENTS = [
  { command: 'cmake', package: 'cmake', for: 'build' },
  { command: 'make', package: 'make', for: 'build' },
  { command: 'g++', package: 'g++', for: 'build' },
  { command: 'clang-tidy', package: 'clang-tidy', for: 'checks' },
  { command: 'cppcheck', package: 'cppcheck', for: 'checks' },
  { command: 'clang++', package: 'clang', for: 'checks' },
  { command: 'apparmor_parser', package: 'apparmor', for: 'checks' },
  { command: 'checkmodule', package: 'checkpolicy', for: 'checks' },
  { command: 'systemd-analyze', package: 'systemd', for: 'checks' },
  { command: 'zsh', package: 'zsh', for: 'checks' },
  { command: 'fish', package: 'fish', for: 'checks' },
  { command: 'ip', package: 'iproute2', for: 'guests' },
  { command: 'nsenter', package: 'util-linux', for: 'guests' },
  { command: 'busybox', package: 'busybox-static', for: 'guests' },
  { command: 'tshark', package: 'tshark', for: 'guests' },
  { command: 'dig', package: 'bind9-dnsutils', for: 'guests' },
  { command: 'iperf3', package: 'iperf3', for: 'guests' },
  { command: 'ssh', package: 'openssh-client', for: 'guests' },
  { command: 'tracepath', package: 'iputils-tracepath', for: 'guests' },
  { command: 'linux.uml', package: 'user-mode-linux', for: 'uml' },
  { command: 'qemu-system-x86_64', package: 'qemu-system-x86', for: 'qemu' },
  { command: 'dpdk-testpmd', package: 'dpdk-dev', for: 'testpmd' },
  { command: 'mmdebstrap', package: 'mmdebstrap', for: 'packages' },
  { command: 'lintian', package: 'lintian', for: 'packages' },
  { command: 'umoci', package: 'umoci', for: 'packages' },
  { command: 'runc', package: 'runc', for: 'packages' },
];

/**
 * Kernel packages that boot as a QEMU guest, by preference: Debian's and Ubuntu's meta packages. The versioned package
 * behind them is looked up.
 */
const KERNEL_PACKAGES = ['linux-image-cloud-amd64', 'linux-image-amd64', 'linux-image-virtual', 'linux-image-kvm'];

/** Carries a message for the user; no stack trace wanted. */
export class SetupError extends Error {}

/**
 * @typedef {object} SetupResult
 * @property {boolean} uml      A stock User Mode Linux that this processor can run is there.
 * @property {boolean} qemu     QEMU and a kernel for it are there.
 * @property {boolean} testpmd  DPDK's testpmd is there.
 * @property {string[]} notes   What is missing and why, one sentence each.
 */

/**
 * @param {{ guests: boolean, checks?: boolean, log?: (line: string) => void, afterBuild?: () => Promise<void> }} options `guests`: also what booting
 *   guests needs; `checks`: also what checks the addon's sources and, with guests, the packages; `afterBuild` is
 *   called when everything is built, and runs beside the downloads
 * @returns {Promise<SetupResult>}
 * @throws {SetupError} when the project cannot be built here
 */
export async function setUp({ guests, checks = false, log = (line) => console.log(`set-up: ${line}`), afterBuild }) {
  checkNode();
  /** @type {string[]} */
  const notes = [];
  await installPackages({ guests, checks }, log, notes);
  await installModules(log);
  await build(log);
  const canBoot = guests && which('ip') !== null && which('nsenter') !== null && which('busybox') !== null;
  const kernel = canBoot && which('qemu-system-x86_64') !== null ? await fetchKernel(log, notes) : null;
  if (canBoot) await fetchUnpacked(DHCLIENT, log, notes);
  if (canBoot) await fetchUnpacked(SSHD, log, notes);
  if (kernel !== null) await fetchUnpacked(FIRMWARE, log, notes);
  const uml = canBoot && (await provideUml(log, notes));
  const roots = async () => {
    // Each waits for the mirror more than it works.
    const whyNot = await Promise.all(TEST_ROOTS.map((root) => makeRoot(root, log)));
    notes.push(...whyNot.filter((why) => why !== null));
  };
  const programs = async () => {
    await fetchPrometheus(log, notes);
    await fetchPesto(log, notes);
    await fetchQuiche(log, notes);
    if (guests) await fetchChromium(log, notes);
  };
  await Promise.all([canBoot && checks && roots(), checks && programs(), afterBuild?.()]);
  return {
    uml,
    qemu: kernel !== null,
    testpmd: canBoot && which('dpdk-testpmd') !== null,
    notes,
  };
}

function checkNode() {
  const major = Number(process.versions.node.split('.')[0]);
  if (process.platform !== 'linux') throw new SetupError(`Tubetti runs on Linux, not on ${process.platform}.`);
  if (major < 20) throw new SetupError(`Node.js 20 or newer is needed; this is ${process.version}.`);
}

// ---- Debian packages -------------------------------------------------------------------------------------------------

/**
 * @param {{ guests: boolean, checks: boolean }} needs
 * @param {(line: string) => void} log
 * @param {string[]} notes
 */
async function installPackages({ guests, checks }, log, notes) {
  const isMissing = (/** @type {{ command: string }} */ each) => which(each.command) === null;
  const x86 = arch() === 'x64';
  const wanted = REQUIREMENTS.filter((each) => {
    if (each.for === 'build') return true;
    if (each.for === 'packages') return checks && guests && x86;
    return each.for === 'checks' ? checks : guests && x86;
  });
  if (guests && !x86) notes.push(`the guests' packages are for x86-64; on ${arch()} no real guest is booted`);
  let missing = wanted.filter(isMissing);
  if (guests && x86 && !hasStaticBusybox()) {
    missing = [...missing.filter((each) => each.command !== 'busybox'), requirementFor('busybox')];
  }
  if (missing.length === 0) return;

  const packages = [...new Set(missing.map((each) => each.package))];
  const prefix = aptPrefix();
  if (prefix !== null) {
    log(`installing Debian packages: ${packages.join(' ')}`);
    await aptInstall(prefix, packages, log);
    missing = missing.filter((each) => (each.command === 'busybox' ? !hasStaticBusybox() : isMissing(each)));
  }
  if (missing.length === 0) return;
  const left = [...new Set(missing.map((each) => each.package))].join(' ');
  const advice = `sudo apt-get install -y --no-install-recommends ${left}`;
  if (missing.some((each) => each.for === 'build')) {
    throw new SetupError(`Packages are missing and could not be installed from here. Please run:\n\n    ${advice}\n`);
  }
  notes.push(`missing packages (${advice}): ${missing.map((each) => `${each.command} for ${each.for}`).join(', ')}`);
}

/** @param {string} name */
function requirementFor(name) {
  const found = REQUIREMENTS.find((each) => each.command === name);
  if (found === undefined) throw new Error(`no requirement called ${name}`);
  return found;
}

/** The plain package `busybox` is linked dynamically, and an initramfs has no libraries. */
function hasStaticBusybox() {
  const path = which('busybox');
  // ELF programs with a dynamic loader name it in clear text near their start.
  return path !== null && !readFileSync(path).subarray(0, 4096).includes('ld-linux');
}

/** It waits while another installs something: a new machine does so by itself in its first minutes. */
const APT = ['apt-get', '-o', 'DPkg::Lock::Timeout=300'];

/** How to call apt-get with the rights to install, or null. @returns {string[] | null} */
function aptPrefix() {
  if (process.env.TUBETTI_NO_INSTALL === '1' || which('apt-get') === null) return null;
  if (process.getuid?.() === 0) return [];
  return which('sudo') !== null && capture('sudo', ['-n', 'true']) !== null ? ['sudo', '-n'] : null;
}

/**
 * @param {string[]} prefix
 * @param {string[]} packages
 * @param {(line: string) => void} log
 */
async function aptInstall(prefix, packages, log) {
  const apt = async (/** @type {string[]} */ args) => {
    const [file = '', ...rest] = [...prefix, 'env', 'DEBIAN_FRONTEND=noninteractive', ...APT, ...args];
    return run(file, rest, { quiet: true });
  };
  const update = await apt(['update', '-qq']);
  if (update.status !== 0) log(`apt-get update failed: ${lastLine(update.output)}`);
  // One unknown name would make apt refuse them all.
  const known = packages.filter((name) => capture('apt-cache', ['show', name]) !== null);
  if (known.length === 0) return;
  const install = await apt(['install', '-y', '-qq', '--no-install-recommends', ...known]);
  if (install.status !== 0) log(`apt-get install failed: ${install.output.trim()}`);
}

/** @param {string} text */
function lastLine(text) {
  return text.trim().split('\n').pop() ?? '';
}

// ---- node_modules, addon, dist ---------------------------------------------------------------------------------------

/** @param {(line: string) => void} log */
async function installModules(log) {
  if (modulesAreFresh()) return;
  log('npm ci');
  // The install scripts build the addon and dist; the next step does that, and shows it.
  const { status, output } = await run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], { quiet: true });
  if (status !== 0) throw new SetupError(`npm ci failed:\n${output}`);
}

/** Whether node_modules holds the versions package-lock.json asks for, as npm's own record of it tells. */
function modulesAreFresh() {
  const record = join(ROOT, 'node_modules', '.package-lock.json');
  if (!existsSync(record)) return false;
  const have = JSON.parse(readFileSync(record, 'utf8')).packages;
  const want = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')).packages;
  return Object.entries(want).every(([path, entry]) => {
    const optional = entry.optional === true || entry.devOptional === true || entry.peer === true;
    return !path.startsWith('node_modules/') || optional || have[path]?.version === entry.version;
  });
}

/** @param {(line: string) => void} log */
async function build(log) {
  for (const script of ['build-addon.mjs', 'build.mjs']) {
    const started = Date.now();
    const { status, output } = await run(process.execPath, [join(ROOT, 'scripts', script)], { quiet: true });
    if (status !== 0) throw new SetupError(`scripts/${script} failed:\n${output}`);
    const seconds = (Date.now() - started) / 1000;
    if (seconds > 3) log(`${script === 'build.mjs' ? 'dist' : 'the addon'} built in ${seconds.toFixed(0)} s`);
  }
}

// ---- Things unpacked into .cache -------------------------------------------------------------------------------------

/**
 * The name of the newest kernel in `.cache/kernel`, fetched if there is none; null when that is not possible.
 * @param {(line: string) => void} log
 * @param {string[]} notes
 */
async function fetchKernel(log, notes) {
  const present = existsSync(KERNEL_DIRECTORY) ? readdirSync(KERNEL_DIRECTORY).filter((n) => !n.startsWith('.')) : [];
  if (present.length > 0) return present.sort().pop() ?? null;
  if (which('apt-get') === null) {
    notes.push('no apt-get to fetch a guest kernel with: QEMU guests are skipped');
    return null;
  }
  await refreshLists(log, KERNEL_PACKAGES[0] ?? '');
  for (const meta of KERNEL_PACKAGES) {
    const image = dependencyOf(meta, /^linux-image-\d/);
    if (image === null) continue;
    log(`fetching the guest kernel ${image}`);
    const version = image.replace('linux-image-', '');
    // Ubuntu keeps the modules in a package of their own.
    const names = [image, `linux-modules-${version}`].filter((name) => capture('apt-cache', ['show', name]) !== null);
    const failure = await unpack(names, join(KERNEL_DIRECTORY, `.new-${version}`));
    if (failure === null) {
      renameSync(join(KERNEL_DIRECTORY, `.new-${version}`), join(KERNEL_DIRECTORY, version));
      return version;
    }
    log(failure);
  }
  notes.push('no guest kernel could be fetched with apt-get download: QEMU guests are skipped');
  return null;
}

/**
 * Debian packages that are unpacked into `.cache/NAME` and not installed.
 * @typedef {object} Unpacked
 * @property {string} name
 * @property {[string, ...string[]]} packages
 * @property {string} what  For people, where it could not be had.
 */

/** ISC's DHCPv6 client, for the guest's image. Installed it would bring hooks into the system. @type {Unpacked} */
const DHCLIENT = { name: 'dhclient', packages: ['isc-dhcp-client'], what: 'DHCPv6 client for the guests' };
/** OpenSSH's server, for the test of `tubetti ctl connect`. Its package would start it. @type {Unpacked} */
const SSHD = { name: 'sshd', packages: ['openssh-server', 'libwrap0'], what: 'OpenSSH server for the guests' };
/** UEFI firmware for QEMU, and an EFI program that it can boot by network. @type {Unpacked} */
const FIRMWARE = { name: 'ovmf', packages: ['ovmf', 'ipxe'], what: 'UEFI firmware for QEMU' };

/**
 * @param {Unpacked} wanted
 * @param {(line: string) => void} log
 * @param {string[]} notes
 */
async function fetchUnpacked({ name, packages, what }, log, notes) {
  const directory = join(ROOT, '.cache', name);
  if (existsSync(directory) || which('apt-get') === null) return;
  await refreshLists(log, packages[0]);
  const failure = await unpack(packages, `${directory}.new`);
  if (failure !== null) {
    notes.push(`no ${what}: ${failure}`);
    return;
  }
  renameSync(`${directory}.new`, directory);
}

/**
 * Prometheus and promtool, for the tests of the metrics. Not installed, for the package starts a server.
 * @param {(line: string) => void} log
 * @param {string[]} notes
 */
async function fetchPrometheus(log, notes) {
  const directory = join(ROOT, '.cache', 'prometheus');
  if (existsSync(directory)) return;
  if (which('apt-get') === null) {
    notes.push('no apt-get to fetch Prometheus with: its tests are skipped');
    return;
  }
  await refreshLists(log, 'prometheus');
  const failure = await unpack(['prometheus'], `${directory}.new`);
  if (failure !== null) {
    notes.push(`no Prometheus for the tests: ${failure}`);
    return;
  }
  renameSync(`${directory}.new`, directory);
}

/** Starts the unpacked Chromium; `$here` is its directory, wherever that was moved to. */
const CHROMIUM_RUN = `#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
libraries="$here/usr/lib/$(uname -m)-linux-gnu"
export LD_LIBRARY_PATH="$libraries:$libraries/pulseaudio" FONTCONFIG_FILE="$here/fonts.conf" XDG_CACHE_HOME="$here"
exec "$here/usr/lib/chromium/chromium-headless-shell" "$@"
`;
/** fonts.conf(5): a cache beside this file cannot be said, only one below XDG_CACHE_HOME. */
const CHROMIUM_FONTS =
  '<fontconfig><dir prefix="relative">usr/share/fonts</dir><cachedir prefix="xdg">fonts.cache</cachedir></fontconfig>\n';

/** @param {string} directory */
function writeChromiumFiles(directory) {
  writeFileSync(join(directory, 'run'), CHROMIUM_RUN, { mode: 0o755 });
  writeFileSync(join(directory, 'fonts.conf'), CHROMIUM_FONTS);
}

/**
 * Chromium without a window, for the test of the page: it, a font, and the libraries that this machine has not, some
 * 100 MB. Not installed, for nobody else needs it.
 * @param {(line: string) => void} log
 * @param {string[]} notes
 */
async function fetchChromium(log, notes) {
  const directory = join(ROOT, '.cache', 'chromium');
  const version = (/** @type {string} */ at) => run(join(at, 'run'), ['--version'], { quiet: true });
  if (existsSync(directory)) {
    writeChromiumFiles(directory);
    // A library that was here when it was fetched may be gone.
    if ((await version(directory)).status === 0) return;
  }
  if (which('apt-get') === null) {
    notes.push('no apt-get to fetch Chromium with: the test of the page is skipped');
    return;
  }
  await refreshLists(log, 'chromium-headless-shell');
  const started = Date.now();
  const wanted = ['chromium-headless-shell', 'fonts-dejavu-core'];
  const plan = capture('apt-get', ['-s', 'install', '--no-install-recommends', ...wanted]) ?? '';
  const missing = [...plan.matchAll(/^Inst (\S+) /gm)].map((match) => match[1] ?? '');
  const unpacked = `${directory}.new`;
  let failure = await unpack([...new Set([...wanted, ...missing])], unpacked);
  if (failure === null) {
    writeChromiumFiles(unpacked);
    const { status, output } = await version(unpacked);
    if (status !== 0) failure = lastLine(output);
  }
  if (failure !== null) {
    notes.push(`no Chromium for the test of the page: ${failure}`);
    return;
  }
  rmSync(directory, { recursive: true, force: true });
  renameSync(unpacked, directory);
  log(`Chromium fetched in ${((Date.now() - started) / 1000).toFixed(0)} s`);
}

/**
 * A fresh container has no package lists at all.
 * @param {(line: string) => void} log
 * @param {string} name
 */
async function refreshLists(log, name) {
  if (capture('apt-cache', ['show', name]) !== null) return;
  const prefix = aptPrefix();
  if (prefix === null) return;
  const [file = '', ...rest] = [...prefix, 'apt-get', 'update', '-qq'];
  const { status, output } = await run(file, rest, { quiet: true });
  if (status !== 0) log(`apt-get update failed: ${lastLine(output)}`);
}

/**
 * The first package behind a meta package whose name matches, following meta packages.
 * @param {string} meta
 * @param {RegExp} pattern
 * @returns {string | null}
 */
function dependencyOf(meta, pattern) {
  let name = meta;
  for (let depth = 0; depth < 4; depth++) {
    if (pattern.test(name)) return name;
    const next = /^\s*Depends: (linux-image-\S+)/m.exec(capture('apt-cache', ['depends', name]) ?? '')?.[1];
    if (next === undefined) return null;
    name = next;
  }
  return null;
}

/**
 * Downloads packages and unpacks them into a new directory. Needs no rights.
 * @param {string[]} packages
 * @param {string} target
 * @returns {Promise<string | null>} what went wrong
 */
async function unpack(packages, target) {
  rmSync(target, { recursive: true, force: true });
  const debs = join(target, 'debs');
  mkdirSync(debs, { recursive: true });
  const download = await run('apt-get', ['download', '-qq', ...packages], { quiet: true, cwd: debs });
  if (download.status !== 0) return `apt-get download ${packages.join(' ')}: ${lastLine(download.output)}`;
  for (const deb of readdirSync(debs)) {
    const { status, output } = await run('dpkg', ['-x', join(debs, deb), target], { quiet: true });
    if (status !== 0) return `dpkg -x ${deb}: ${lastLine(output)}`;
  }
  rmSync(debs, { recursive: true });
  writeFileSync(join(target, 'packages'), `${packages.join('\n')}\n`);
  return null;
}
