/**
 * `npm run package:oci -- [--out DIR]`: an OCI image, without a daemon and without a registry: Debian 13 with its Node
 * (lib/roots.mjs), the Debian package installed on top (package-deb.mjs), made an image by umoci. Prints the path of the
 * archive, last; `podman run oci-archive:PATH`, `skopeo copy` and `umoci` take it. Needs to be root.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ROOTS_DIRECTORY, PACKAGE_ROOTS, makeRoot } from './lib/roots.mjs';
import { ROOT, capture, run, which } from './lib/run.mjs';

const { values: flags } = parseArgs({
  options: { out: { type: 'string', default: join(ROOT, '.cache', 'packages') } },
});
/** Debian 13's: no other will run in the image. */
const NODE = '20';

/** What an image is started with; what follows the image's name on the command line of podman is added. */
const ENTRYPOINT = ['/usr/bin/tubetti', '--foreground'];

/** Installs the package above the root, which stays as it is, and packs what comes of it. */
const LAYER = `
set -e
lower=$1 work=$2 deb=$3 epoch=$4
mount -t tmpfs tmpfs "$work"
cd "$work"
mkdir upper work merged
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$PWD/upper,workdir=$PWD/work" merged
cp "$deb" merged/tubetti.deb
chroot merged /usr/bin/dpkg --install /tubetti.deb >/dev/null
rm -rf merged/tubetti.deb merged/var/cache/* merged/var/log/* merged/var/lib/apt/lists/* merged/var/lib/dpkg/*-old
tar --create --directory merged --numeric-owner --sort=name --mtime="@$epoch" --file "$5" .
`;

/** @param {string} message @returns {never} */
function fail(message) {
  process.stderr.write(`package-oci: ${message}\n`);
  process.exit(1);
}

/** @param {string} file @param {string[]} args */
async function mustRun(file, args) {
  const { status, output } = await run(file, args, { quiet: true });
  if (status !== 0) fail(`${file} ${args.slice(0, 2).join(' ')} failed:\n${output}`);
  return output;
}

if (process.getuid?.() !== 0) fail('only root can make an image: the files in it belong to root');
if (which('umoci') === null) fail('umoci not found: install it, e.g. apt-get install umoci');
const debian = PACKAGE_ROOTS.find(({ suite }) => suite === 'trixie') ?? fail('no root of Debian 13');
const why = await makeRoot(debian, (line) => console.log(line));
if (why !== null) fail(why);
const deb = (
  await mustRun(process.execPath, [join(ROOT, 'scripts', 'package-deb.mjs'), '--out', flags.out, '--node', NODE])
)
  .trim()
  .split('\n')
  .pop();

const work = join(ROOT, '.cache', 'oci');
const layer = join(work, 'layer.tar');
const layout = join(work, 'layout');
rmSync(work, { recursive: true, force: true });
mkdirSync(join(work, 'mounted'), { recursive: true });
const epoch = (capture('git', ['-C', ROOT, 'log', '-1', '--format=%ct']) ?? '0').trim();
const lower = join(ROOTS_DIRECTORY, debian.name);
await mustRun('unshare', ['--mount', 'sh', '-c', LAYER, 'sh', lower, join(work, 'mounted'), deb, epoch, layer]);

const name = /([^/]*)\.deb$/.exec(deb)?.[1] ?? fail(`${deb}: not the name of a package`);
const version = name.split('_')[1];
const image = `${layout}:${version.replace('~', '-')}`;
await mustRun('umoci', ['init', '--layout', layout]);
await mustRun('umoci', ['new', '--image', image]);
await mustRun('umoci', ['raw', 'add-layer', '--image', image, layer]);
await mustRun('umoci', [
  ...['config', '--image', image, '--created', new Date(Number(epoch) * 1000).toISOString()],
  ...ENTRYPOINT.map((word) => `--config.entrypoint=${word}`),
  '--config.label=org.opencontainers.image.title=tubetti',
  `--config.label=org.opencontainers.image.version=${version}`,
  '--config.label=org.opencontainers.image.licenses=MIT',
]);
await mustRun('umoci', ['gc', '--layout', layout]);
const archive = join(flags.out, `${name}.oci.tar`);
await mustRun('tar', ['--create', '--directory', layout, '--file', archive, '.']);
rmSync(work, { recursive: true, force: true });
console.log(archive);
