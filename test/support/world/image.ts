/**
 * Guest images: a kernel, and an initramfs of busybox, a few network tools and the kernel's modules. Built once per set
 * of inputs and kept in `.cache/images`.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { CpioArchive } from './cpio';
import { CACHE_DIR, cacheDirectory, which } from './paths';
import { umlKernel, whyNoUml, type Kernel } from './uml-kernel';

export type GuestKind = 'uml' | 'qemu';
/** Those, and one that runs outside of guests only. */
export type HelperName = (typeof HELPERS)[number] | 'hostile-fds';

export interface GuestImage {
  /** The kernel: a program for UML, a bzImage for QEMU. */
  readonly kernel: string;
  readonly initrd: string;
}

const GUEST_FILES = join(__dirname, 'guest');
/** Loaded at boot, with what they depend on; a name the kernel has built in is passed over. */
const MODULES = ['virtio_pci', 'virtio_net', 'ipv6', 'af_packet'];
/** There for tests that load them, in the order of /etc/modules.more. */
const MORE_MODULES = ['veth', 'bridge'];
/** Small static programs of our own, NAME.cc beside this file. */
const HELPERS = ['guest-net', 'guest-link', 'tcp-peer'] as const;
/** Copied from the system, with their libraries, if they are there. */
const DHCLIENT = join(CACHE_DIR, 'dhclient/sbin/dhclient');
const OPTIONAL_PROGRAMS = [DHCLIENT];

/** Null if guests of this kind can be made here, else what is missing, in one sentence. */
export function whyNoGuest(kind: GuestKind): string | null {
  if (which('busybox') === null) return 'busybox-static is not installed';
  if (which('g++') === null) return 'g++ is not installed';
  if (kind === 'uml') return whyNoUml();
  if (which('qemu-system-x86_64') === null) return 'qemu-system-x86 is not installed';
  return newestKernel() === null ? 'no guest kernel in .cache (node scripts/setup.mjs fetches one)' : null;
}

/** Whether guests have a DHCPv6 client. */
export function hasDhclient(): boolean {
  return existsSync(DHCLIENT);
}

/** @throws Error when something is missing ({@link whyNoGuest}). */
export function guestImage(kind: GuestKind): GuestImage {
  const missing = whyNoGuest(kind);
  if (missing !== null) throw new Error(missing);
  const { kernel, modules } = kind === 'uml' ? umlKernel() : qemuKernel();
  const busybox = which('busybox') ?? '';
  const helpers = HELPERS.map((name) => [name, helperProgram(name)] as const);
  const programs = OPTIONAL_PROGRAMS.filter((path) => existsSync(path));
  const scripts = readdirSync(GUEST_FILES).map((name) => join(GUEST_FILES, name));
  const compiled = helpers.map(([, path]) => path);
  const inputs = [
    kernel,
    modules,
    busybox,
    ...compiled,
    __filename,
    join(__dirname, 'cpio.ts'),
    ...programs,
    ...scripts,
  ];
  const key = fingerprint(inputs);
  const initrd = join(cacheDirectory('images'), `${kind}-${key}.cpio.gz`);
  if (!existsSync(initrd)) {
    const archive = new CpioArchive().characterDevice('/dev/console', 5, 1);
    for (const directory of ['/proc', '/sys', '/etc', '/sbin', '/root', '/var/lib']) archive.directory(directory);
    archive.file('/bin/busybox', readFileSync(busybox));
    for (const [name, path] of helpers) archive.file(`/bin/${name}`, readFileSync(path));
    for (const applet of execFileSync(busybox, ['--list'], { encoding: 'utf8' }).trim().split('\n')) {
      if (applet !== 'busybox') archive.symlink(`/bin/${applet}`, 'busybox');
    }
    for (const script of scripts) {
      archive.file(basename(script) === 'init' ? '/init' : `/bin/${basename(script)}`, readFileSync(script));
    }
    addPrograms(archive, programs);
    addModules(archive, modules);
    writeAtomically(initrd, archive.compress());
  }
  return { kernel, initrd };
}

/** The same image with more files in it: they travel in a second archive behind the first. */
export function imageWithFiles(
  image: GuestImage,
  target: string,
  files: Readonly<Record<string, Buffer | string>>,
): GuestImage {
  const archive = new CpioArchive();
  for (const [path, content] of Object.entries(files)) archive.file(path, content);
  writeFileSync(target, Buffer.concat([readFileSync(image.initrd), archive.compress()]));
  return { kernel: image.kernel, initrd: target };
}

function qemuKernel(): Kernel {
  const root = newestKernel() ?? '';
  const image = readdirSync(join(root, 'boot')).find((name) => name.startsWith('vmlinuz')) ?? '';
  // /lib is /usr/lib in packages of newer distributions.
  const parent = [join(root, 'lib/modules'), join(root, 'usr/lib/modules')].find((path) => existsSync(path)) ?? '';
  return { kernel: join(root, 'boot', image), modules: join(parent, readdirSync(parent)[0] ?? '') };
}

/** The directory of an unpacked kernel package, or null. */
function newestKernel(): string | null {
  const directory = join(CACHE_DIR, 'kernel');
  if (!existsSync(directory)) return null;
  const names = readdirSync(directory).filter((name) => !name.startsWith('.'));
  const newest = names.sort().pop();
  return newest === undefined ? null : join(directory, newest);
}

// ---- What goes in --------------------------------------------------------------------------------------------------

function addPrograms(archive: CpioArchive, programs: readonly string[]): void {
  const libraries = new Set<string>();
  for (const program of programs) {
    archive.file(`/bin/${basename(program)}`, readFileSync(program));
    const listing = execFileSync('ldd', [program], { encoding: 'utf8' });
    // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)" and "/lib64/ld-linux-x86-64.so.2 (0x…)".
    for (const match of listing.matchAll(/(?:=> )?(\/\S+) \(0x/g)) libraries.add(match[1]);
  }
  for (const library of libraries) archive.file(library, readFileSync(library));
}

/** Modules go in flat, and /etc/modules.order and .more name them in the order of their dependencies. */
function addModules(archive: CpioArchive, directory: string): void {
  const paths = new Map<string, string>();
  for (const path of walk(join(directory, 'kernel'))) {
    const match = /([^/]+)\.ko(\.(xz|zst|gz))?$/.exec(path);
    if (match?.[1] !== undefined) paths.set(match[1].replaceAll('-', '_'), path);
  }
  const done = new Set<string>();
  const add = (name: string, order: string[]): void => {
    const path = paths.get(name);
    if (path === undefined || done.has(name)) return;
    const module = readModule(path);
    for (const dependency of dependenciesOf(module)) add(dependency, order);
    archive.file(`/modules/${name}.ko`, module);
    order.push(`/modules/${name}.ko\n`);
    done.add(name);
  };
  for (const [file, names] of [
    ['order', MODULES],
    ['more', MORE_MODULES],
  ] as const) {
    const order: string[] = [];
    for (const name of names) add(name, order);
    archive.file(`/etc/modules.${file}`, order.join(''));
  }
}

function* walk(directory: string): Generator<string> {
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) yield* walk(path);
    else yield path;
  }
}

/** Distributions compress modules differently; busybox's insmod wants them plain. */
function readModule(path: string): Buffer {
  const tools: Readonly<Partial<Record<string, string>>> = { xz: 'xz', zst: 'zstd', gz: 'gzip' };
  const tool = tools[path.slice(path.lastIndexOf('.') + 1)];
  if (tool === undefined) return readFileSync(path);
  return execFileSync(tool, ['-dc', path], { maxBuffer: 1 << 26 });
}

/** The `depends=` field of a module's .modinfo section: unpacked packages have had no depmod. */
function dependenciesOf(module: Buffer): string[] {
  const at = module.indexOf('\0depends=');
  if (at < 0) return [];
  const list = module.toString('latin1', at + 9, module.indexOf(0, at + 9));
  return list === '' ? [] : list.split(',').map((name) => name.replaceAll('-', '_'));
}

/** A static helper program of the guests, compiled from NAME.cc beside this file; it runs outside of guests as well. */
export function helperProgram(name: HelperName): string {
  const source = join(__dirname, `${name}.cc`);
  const target = join(cacheDirectory('images'), `${name}-${fingerprint([source])}`);
  if (!existsSync(target)) {
    execFileSync('g++', ['-std=c++20', '-O2', '-Wall', '-Wextra', '-static', '-o', `${target}.new`, source]);
    renameSync(`${target}.new`, target);
  }
  return target;
}

// ---- Files ---------------------------------------------------------------------------------------------------------

/** Changes when one of the files does: small files by content, big ones and directories by size and time. */
function fingerprint(paths: readonly string[]): string {
  const hash = createHash('sha256');
  for (const path of paths) {
    const stat = statSync(path);
    const { size, mtimeMs } = stat;
    hash.update(`${path} ${String(size)}\n`);
    hash.update(stat.isFile() && size < 65536 ? readFileSync(path) : String(mtimeMs));
  }
  return hash.digest('hex').slice(0, 16);
}

function writeAtomically(path: string, content: Buffer): void {
  writeFileSync(`${path}.new`, content);
  renameSync(`${path}.new`, path);
}
