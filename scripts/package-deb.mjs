/**
 * `npm run package:deb -- [--out DIR] [--arch x64|arm64] [--node 20,22,24,26] [--maintainer 'NAME <ADDRESS>']`: a Debian
 * package, built with dpkg-deb alone, from dist/ and the prebuilt addons (which are made first). Prints its path, last.
 *
 * It needs no packages of node-* beside it: the two libraries of npm's that the bundles leave out are inside, a file each.
 * So one package fits every Debian that has a Node of the list, and other archives' Nodes besides.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';
import { copyright } from './lib/deb-copyright.mjs';
import { ROOT, capture, run, which } from './lib/run.mjs';

const require = createRequire(import.meta.url);
const ARCHITECTURES = { x64: 'amd64', arm64: 'arm64' };
/** What the bundles load only when asked to (scripts/build.mjs). */
const LIBRARIES = ['prom-client', 'yaml'];
/** What is inside of those, or of the bundles and the addon. */
const WITHIN = ['@opentelemetry/api', 'tdigest', 'bintrees'];
const BUNDLES = ['tubetti.js', 'data-plane.js', 'probe.js', 'ctl.js', 'control.js'];

const { values: flags } = parseArgs({
  options: {
    out: { type: 'string', default: join(ROOT, '.cache', 'packages') },
    arch: { type: 'string', default: process.arch },
    node: { type: 'string', default: '20,22,24,26' },
    maintainer: { type: 'string' },
  },
});

/** @param {string} message @returns {never} */
function fail(message) {
  process.stderr.write(`package-deb: ${message}\n`);
  process.exit(1);
}

if (!(flags.arch in ARCHITECTURES)) fail(`--arch ${flags.arch}: give x64 or arm64`);
if (which('dpkg-deb') === null) fail('dpkg-deb not found: install it, e.g. apt-get install dpkg');
if (!existsSync(join(ROOT, 'dist', 'tubetti.js'))) fail('dist/ is missing: run `npm run build`');

const architecture = ARCHITECTURES[flags.arch];
const { version, description } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
const debVersion = `${version.replace('-', '~')}-0.1`;
const { DEBFULLNAME, DEBEMAIL } = process.env;
const maintainer =
  flags.maintainer ??
  (DEBFULLNAME && DEBEMAIL ? `${DEBFULLNAME} <${DEBEMAIL}>` : 'Tubetti authors <tubetti@tubetti.invalid>');
if (!/^[^<>]+ <[^<>@ ]+@[^<>@ ]+>$/.test(maintainer)) {
  fail(`--maintainer ${maintainer}: give a name and an address, such as 'Ada Lovelace <ada@example.org>'`);
}
/** Of the files and of the changelog: the same sources make the same package. */
const epoch = Number(capture('git', ['-C', ROOT, 'log', '-1', '--format=%ct']) ?? Date.now() / 1000);

const stage = join(ROOT, '.cache', 'deb', architecture);
const at = (/** @type {string} */ name) => join(stage, name);

/** @param {string} name @param {string | Buffer} content */
function put(name, content, mode = 0o644) {
  mkdirSync(dirname(at(name)), { recursive: true });
  writeFileSync(at(name), content);
  chmodSync(at(name), mode);
}

/** @param {string} from below the repository @param {string} name */
function copy(from, name, mode = 0o644) {
  put(name, readFileSync(join(ROOT, from)), mode);
}

const gzip = (/** @type {string | Buffer} */ content) => gzipSync(content, { level: 9 });

/** The program, as bin/tubetti finds its parts. */
async function putProgram() {
  const base = 'usr/lib/tubetti';
  copy('bin/load.js', `${base}/bin/load.js`);
  for (const name of ['tubetti', 'tubetti.js', 'slirp4netns']) copy(`bin/${name}`, `${base}/bin/${name}`, 0o755);
  const files = [...BUNDLES, ...BUNDLES.map((name) => `${name}.map`), 'worker.js', 'page.html'];
  for (const name of files) copy(`dist/${name}`, `${base}/dist/${name}`);
  const { name, license } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  put(`${base}/package.json`, `${JSON.stringify({ name, version, license, type: 'commonjs' }, null, 2)}\n`);
  const prebuilt = `prebuilds/linux-${flags.arch}`;
  copy(`${prebuilt}/tubetti-launch`, `${base}/${prebuilt}/tubetti-launch`, 0o755);
  // Others may be there, older than their sources.
  for (const major of flags.node.split(',')) {
    const stamp = join(ROOT, '.cache', 'prebuild', `${flags.arch}-${major.trim()}`, 'prebuilt');
    const file = `${prebuilt}/node.abi${readFileSync(stamp, 'utf8').trim()}.glibc.node`;
    copy(file, `${base}/${file}`);
  }
  const { build } = await import('esbuild');
  for (const library of LIBRARIES) {
    const manifest = JSON.parse(readFileSync(join(ROOT, 'node_modules', library, 'package.json'), 'utf8'));
    const place = `${base}/node_modules/${library}`;
    await build({
      absWorkingDir: ROOT,
      entryPoints: [require.resolve(library)],
      outfile: at(`${place}/index.js`),
      bundle: true,
      platform: 'node',
      target: 'node20',
      format: 'cjs',
      legalComments: 'none',
      logLevel: 'warning',
    });
    const { version: of, license: under } = manifest;
    put(
      `${place}/package.json`,
      `${JSON.stringify({ name: library, version: of, license: under, main: 'index.js' }, null, 2)}\n`,
    );
  }
  mkdirSync(at('usr/bin'), { recursive: true });
  // Called by the second name, it is pasta.
  for (const name of ['tubetti', 'tubetti-pasta']) symlinkSync('../lib/tubetti/bin/tubetti', at(`usr/bin/${name}`));
  symlinkSync('../lib/tubetti/bin/slirp4netns', at('usr/bin/tubetti-slirp4netns'));
}

/** What is around it. */
function putSurroundings() {
  put('usr/share/man/man1/tubetti.1.gz', gzip(readFileSync(join(ROOT, 'dist', 'tubetti.1'))));
  for (const name of ['tubetti-pasta', 'tubetti-slirp4netns']) {
    symlinkSync('tubetti.1.gz', at(`usr/share/man/man1/${name}.1.gz`));
  }
  for (const unit of ['tubetti@.service', 'tubetti@.socket', 'tubetti-ports@.socket', 'tubetti.slice']) {
    if (existsSync(join(ROOT, 'examples/systemd', unit)))
      copy(`examples/systemd/${unit}`, `usr/lib/systemd/system/${unit}`);
  }
  const completions = {
    'tubetti.bash': 'bash-completion/completions/tubetti',
    _tubetti: 'zsh/vendor-completions/_tubetti',
    'tubetti.fish': 'fish/vendor_completions.d/tubetti.fish',
  };
  for (const [name, place] of Object.entries(completions)) copy(`dist/completions/${name}`, `usr/share/${place}`);
  // These two look for a file with the name of the command.
  symlinkSync('tubetti', at('usr/share/bash-completion/completions/tubetti-pasta'));
  symlinkSync('tubetti.fish', at('usr/share/fish/vendor_completions.d/tubetti-pasta.fish'));
  // Complain mode until its administrator has seen that it fits (README.Debian).
  const profile = readFileSync(join(ROOT, 'contrib/apparmor/usr.bin.tubetti'), 'utf8');
  const complaining = profile.replace('flags=(attach_disconnected)', 'flags=(attach_disconnected, complain)');
  if (complaining === profile)
    fail('contrib/apparmor/usr.bin.tubetti: the flags of the profile are not where they were');
  put('etc/apparmor.d/usr.bin.tubetti', complaining);
  copy('contrib/apparmor/libvirt-qemu.d-tubetti', 'etc/apparmor.d/abstractions/libvirt-qemu.d/tubetti');
}

function putDocuments() {
  const doc = 'usr/share/doc/tubetti';
  copy('README.md', `${doc}/README.md`);
  copy('packaging/debian/README.Debian', `${doc}/README.Debian`);
  for (const name of readdirSync(join(ROOT, 'docs'), { recursive: true }).map(String)) {
    if (/\.(md|svg|png)$/.test(name)) copy(join('docs', name), `${doc}/docs/${name}`);
  }
  for (const name of readdirSync(join(ROOT, 'examples'), { recursive: true }).map(String)) {
    const from = join('examples', name);
    const { mode } = lstatSync(join(ROOT, from));
    if (lstatSync(join(ROOT, from)).isFile())
      copy(from, `${doc}/examples/${name}`, (mode & 0o100) === 0 ? 0o644 : 0o755);
  }
  const module = (/** @type {string} */ name) => join(ROOT, 'node_modules', name);
  const files = (/** @type {string} */ name) => `usr/lib/tubetti/node_modules/${name}/*`;
  const parts = [
    ...LIBRARIES.map((name) => ({ files: files(name), directory: module(name) })),
    ...WITHIN.map((name) => ({ files: `usr/lib/tubetti/node_modules/prom-client/index.js`, directory: module(name) })),
    { files: 'usr/lib/tubetti/dist/tubetti.js', directory: module('node-gyp-build') },
    { files: 'usr/lib/tubetti/dist/page.html', directory: module('uplot') },
    { files: 'usr/lib/tubetti/dist/control.js', directory: module('@sinclair/typebox') },
  ];
  put(`${doc}/copyright`, copyright(parts));
  put(`${doc}/changelog.gz`, gzip(readFileSync(join(ROOT, 'CHANGELOG.md'))));
  const date = new Date(epoch * 1000).toUTCString().replace('GMT', '+0000');
  const entry = `tubetti (${debVersion}) unstable; urgency=medium\n\n  * Made of the sources by npm run package:deb.\n\n`;
  put(`${doc}/changelog.Debian.gz`, gzip(`${entry} -- ${maintainer}  ${date}\n`));
}

/** The C library that the addons and the launcher ask for. */
function glibcVersion() {
  const directory = at(`usr/lib/tubetti/prebuilds/linux-${flags.arch}`);
  const minors = readdirSync(directory).flatMap((name) => {
    const symbols = capture('objdump', ['-T', join(directory, name)]) ?? '';
    return [...symbols.matchAll(/\bGLIBC_2\.(\d+)/g)].map((match) => Number(match[1]));
  });
  if (minors.length === 0) fail('objdump says nothing of the addons: install binutils');
  return `2.${Math.max(...minors)}`;
}

/** @param {string} directory @returns {string[]} files and links below it */
function filesBelow(directory) {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    return entry.isDirectory() ? filesBelow(path) : [path];
  });
}

function putControl() {
  const files = filesBelow(stage).sort();
  const regular = files.filter((path) => lstatSync(path).isFile());
  const size = regular.reduce((sum, path) => sum + Math.ceil(lstatSync(path).size / 1024), 0);
  const fields = {
    Package: 'tubetti',
    Version: debVersion,
    Section: 'net',
    Priority: 'optional',
    Architecture: architecture,
    Maintainer: maintainer,
    'Installed-Size': size,
    Depends: `nodejs (>= 20), libc6 (>= ${glibcVersion()})`,
    Suggests: 'apparmor, libvirt-daemon-system, qemu-system',
    Description: `network of a virtual machine by ordinary sockets, as a vhost-user back-end
 Tubetti connects a virtual machine to the network without root, bridges or
 NAT rules: it is the vhost-user back-end of the virtio-net device of the guest
 and translates frames into ordinary sockets of the host (TCP, UDP and ping,
 IPv4 and IPv6).
 .
 It takes the command line of passt, and can be used in its place by QEMU and
 libvirt.`,
  };
  if (description === undefined) fail('package.json has no description');
  const control = Object.entries(fields).map(([name, value]) => `${name}: ${value}\n`);
  const sums = regular.map(
    (path) => `${createHash('md5').update(readFileSync(path)).digest('hex')}  ${relative(stage, path)}\n`,
  );
  put('DEBIAN/control', control.join(''));
  put('DEBIAN/md5sums', sums.join(''));
  const conffiles = regular.map((path) => `/${relative(stage, path)}\n`).filter((path) => path.startsWith('/etc/'));
  put('DEBIAN/conffiles', conffiles.join(''));
  for (const name of ['postinst', 'prerm']) copy(`packaging/debian/${name}`, `DEBIAN/${name}`, 0o755);
}

/** Directories are made with whatever umask we have. */
function openDirectories(/** @type {string} */ directory) {
  chmodSync(directory, 0o755);
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    if (entry.isDirectory()) openDirectories(join(directory, entry.name));
  }
}

const prebuilds = [join(ROOT, 'scripts', 'prebuilds.mjs'), '--arch', flags.arch, '--node', flags.node];
if (spawnSync(process.execPath, prebuilds, { stdio: 'inherit' }).status !== 0) process.exit(1);
rmSync(stage, { recursive: true, force: true });
await putProgram();
putSurroundings();
putDocuments();
putControl();
openDirectories(stage);
mkdirSync(flags.out, { recursive: true });
const deb = join(flags.out, `tubetti_${debVersion}_${architecture}.deb`);
const built = await run('dpkg-deb', ['--root-owner-group', '-Zxz', '--build', stage, deb], {
  quiet: true,
  env: { SOURCE_DATE_EPOCH: String(epoch) },
});
if (built.status !== 0) fail(`dpkg-deb: ${built.output}`);
console.log(deb);
