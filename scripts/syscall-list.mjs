/** Writes the table at the end of docs/syscalls.md, from src/sandbox/syscalls.ts. Needs a build. */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const { tableOf } = require('./lib/syscall-table.cjs');
const { CALLS } = require('../dist/sandbox/syscalls.js');
const page = join(root, 'docs', 'syscalls.md');
const START = '<!-- table -->\n';

const text = readFileSync(page, 'utf8');
const at = text.indexOf(START);
if (at < 0) throw new Error('no place for the table');
writeFileSync(page, `${text.slice(0, at)}${START}\n${tableOf(CALLS).join('\n')}\n`);
spawnSync(process.execPath, [require.resolve('prettier/bin/prettier.cjs'), '--write', page], { stdio: 'ignore' });
