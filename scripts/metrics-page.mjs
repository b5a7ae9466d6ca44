/** Writes the list of metrics at the end of docs/metrics.md, from src/metrics/names.ts. Needs a build. */
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const { MARK, metricsPage } = require('./lib/metrics-page.cjs');
const names = require('../dist/metrics/names.js');
const { LAYER_NAMES } = require('../dist/sandbox/layer.js');
const page = join(root, 'docs', 'metrics.md');

const text = readFileSync(page, 'utf8');
const at = text.indexOf(MARK);
if (at < 0) throw new Error('no place for the list');
writeFileSync(page, `${text.slice(0, at)}${MARK}\n${metricsPage(names, LAYER_NAMES)}\n`);
