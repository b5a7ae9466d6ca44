/**
 * Makes dist/page.html, the page of `--metrics`: one file with all in it, uPlot and its licence too, and a content security
 * policy that names its script and its style by their hashes, so that nothing else runs in it. The server sends the same
 * policy in a header (src/metrics/routes.ts).
 */
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const require = createRequire(import.meta.url);

/** @param {string} text */
const hashOf = (text) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

/**
 * @param {typeof import('esbuild')} esbuild
 * @param {string} root of the checkout
 */
export async function writePage(esbuild, root) {
  const source = join(root, 'src', 'page');
  const uplot = dirname(require.resolve('uplot/package.json'));
  const shared = {
    absWorkingDir: root,
    bundle: true,
    minify: true,
    write: false,
    target: 'es2022',
    charset: 'utf8',
    logLevel: 'warning',
  };
  const script = await esbuild.build({ ...shared, entryPoints: [join(source, 'dom', 'main.ts')], format: 'iife' });
  const style = await esbuild.build({
    ...shared,
    stdin: { contents: `@import 'uplot/dist/uPlot.min.css'; @import './page.css';`, resolveDir: source, loader: 'css' },
  });
  const [js, css] = [script, style].map(({ outputFiles }) => outputFiles[0].text.trim());
  const policy = [
    "default-src 'none'",
    `script-src ${hashOf(js)}`,
    `style-src ${hashOf(css)}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
  ].join('; ');
  const { version } = JSON.parse(readFileSync(join(uplot, 'package.json'), 'utf8'));
  const licence = readFileSync(join(uplot, 'LICENSE'), 'utf8').trim();
  const parts = new Map([
    ['POLICY', policy],
    ['<style></style>', `<style>${css}</style>`],
    ['<script></script>', `<!--\nuPlot ${version}\n\n${licence}\n-->\n    <script>${js}</script>`],
  ]);
  let page = readFileSync(join(source, 'index.html'), 'utf8');
  for (const [place, text] of parts) {
    if (page.split(place).length !== 2) throw new Error(`src/page/index.html: ${place} is to be there once`);
    page = page.replace(place, () => text);
  }
  writeFileSync(join(root, 'dist', 'page.html'), page);
}
