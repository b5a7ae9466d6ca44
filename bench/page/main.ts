/** `npm run bench:page`: docs/performance.md, its plots and bench/report.md, from the runs in bench/results. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { document } from '../macro/document';
import type { Report } from '../macro/report';
import { page, plotsOf } from './page';
import { svg } from './plot';

const ROOT = join(__dirname, '../..');

/** Runs in the order in which they count: of runs that have the same cell the first does. Those that are there. */
const NAMES = ['uml', 'qemu', 'bare', 'testpmd', 'long-100ms', 'long', 'netns', 'calls'] as const;

const pathOf = (name: string): string => join(ROOT, `bench/results/${name}.json`);

export const RESULTS = NAMES.filter((name) => existsSync(pathOf(name)));

export function readResults(): Report[] {
  return RESULTS.map((name) => JSON.parse(readFileSync(pathOf(name), 'utf8')) as Report);
}

/** Path from the repository's root, and text, of each file. */
export function files(reports: readonly Report[]): (readonly [string, string])[] {
  return [
    ['bench/report.md', document(reports)],
    ['docs/performance.md', page(reports, RESULTS)],
    ...plotsOf(reports).map(({ file, plot }) => [`docs/images/${file}`, svg(plot)] as const),
  ];
}

if (require.main === module) {
  for (const [path, content] of files(readResults())) {
    writeFileSync(join(ROOT, path), content);
    process.stdout.write(`${path}\n`);
  }
}
