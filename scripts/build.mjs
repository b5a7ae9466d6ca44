/**
 * Compiles the TypeScript of this package and of its workspace into dist/, module by module, then bundles the program
 * into dist/tubetti.js and its thread into dist/data-plane.js, each with V8's code of it beside it: they start in a
 * fraction of the time that 150 modules take. Programs that are no part of the service go into dist/probe.js and
 * dist/ctl.js, what `--control` needs into dist/control.js, the page of --metrics into dist/page.html (lib/page.mjs). The
 * manual page and the shells' completions are made of the compiled option tables.
 * Also npm's `prepare`: in a packed package, where dist/ came with it and TypeScript is not installed, it does nothing.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { writePage } from './lib/page.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const dist = join(root, 'dist');
const require = createRequire(import.meta.url);

/** The compiler's program, or null if TypeScript is not installed. */
function findCompiler() {
  try {
    return require.resolve('typescript/bin/tsc');
  } catch {
    return null;
  }
}

/** What only some users need is no part of the service's bundle, but one of its own, which that requires. */
const apart = {
  name: 'apart',
  setup: ({ onResolve }) => {
    onResolve({ filter: /^\.\.\/control$/ }, () => ({ path: './control.js', external: true }));
  },
};

/** Makes the bundles; without esbuild there are none, and bin/tubetti.js takes the modules instead. */
async function bundle() {
  for (const file of ['tubetti.js', 'data-plane.js', 'probe.js', 'ctl.js', 'control.js', 'worker.js', 'page.html']) {
    for (const suffix of ['', '.map', '.cache']) rmSync(join(dist, file + suffix), { force: true });
  }
  let esbuild;
  try {
    esbuild = await import('esbuild');
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
    process.stderr.write('tubetti: esbuild is not installed, so starts will be slow: run `npm ci`\n');
    return;
  }
  await esbuild.build({
    absWorkingDir: root,
    entryPoints: {
      tubetti: 'src/cli/main.ts',
      'data-plane': 'src/dataplane/worker.ts',
      probe: 'src/probe/main.ts',
      ctl: 'src/ctl/main.ts',
      control: 'src/control/index.ts',
    },
    outdir: 'dist',
    alias: { 'virtio-ring-ts': './src/virtqueue/src/index.ts' },
    // Loaded with --metrics or --config only, from their own packages.
    external: ['prom-client', 'yaml'],
    // node-gyp-build: of its places only prebuilds/, the others are ours to look at (src/addon-file.ts).
    define: { 'process.env.PREBUILDS_ONLY': '"1"' },
    plugins: [apart],
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'cjs',
    // Names stay as they are written: a stack trace can be read without the map. bin/load.js wants ASCII.
    minifySyntax: true,
    minifyWhitespace: true,
    lineLimit: 160,
    charset: 'ascii',
    sourcemap: 'linked',
    sourcesContent: false,
    logLevel: 'warning',
  });
  // What the program starts as a thread.
  writeFileSync(join(dist, 'worker.js'), `require('../bin/load.js').load(__dirname + '/data-plane.js');\n`);
  await writePage(esbuild, root);
  await import('./code-cache.mjs');
}

/** The manual page that package.json names. */
function writeManPage() {
  const { manPage } = require('../dist/cli/man-page.js');
  const { version } = require('../dist/cli/version.js');
  const manual = readFileSync(join(root, 'docs', 'manual.md'), 'utf8');
  writeFileSync(join(dist, 'tubetti.1'), manPage(version(), manual));
}

/** For the shells: docs/packaging.md says where each looks for its own. */
function writeCompletions() {
  const { COMPLETIONS } = require('../dist/cli/completion.js');
  mkdirSync(join(dist, 'completions'), { recursive: true });
  for (const [name, text] of Object.entries(COMPLETIONS)) writeFileSync(join(dist, 'completions', name), text());
}

const compiler = findCompiler();
if (compiler !== null && existsSync(join(root, 'tsconfig.json'))) {
  const result = spawnSync(process.execPath, [compiler, '-b', ...process.argv.slice(2)], {
    cwd: root,
    stdio: 'inherit',
  });
  process.exitCode = result.status ?? 1;
  if (process.exitCode === 0) {
    await bundle();
    writeManPage();
    writeCompletions();
  }
} else if (!existsSync(dist)) {
  process.stderr.write('tubetti: dist/ is missing and TypeScript is not installed: run `npm install`\n');
  process.exitCode = 1;
}
