/** Writes the tables of docs/syscalls.md, from src/sandbox/syscalls.ts. Needs a build. */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const { tableOf, brokerTableOf } = require('./lib/syscall-table.cjs');
const { BROKER, CALLS } = require('../dist/sandbox/syscalls.js');
const page = join(root, 'docs', 'syscalls.md');
const END = '<!-- end -->';

/**
 * @param {string} text
 * @param {string} start
 * @param {string[]} table
 */
function withTable(text, start, table) {
  const at = text.indexOf(start);
  const end = text.indexOf(END, at);
  if (at < 0 || end < 0) throw new Error(`no place for the table: ${start} … ${END}`);
  return `${text.slice(0, at)}${start}\n\n${table.join('\n')}\n\n${text.slice(end)}`;
}

const withBroker = withTable(readFileSync(page, 'utf8'), '<!-- broker -->', brokerTableOf(BROKER));
writeFileSync(page, withTable(withBroker, '<!-- table -->', tableOf(CALLS)));
spawnSync(process.execPath, [require.resolve('prettier/bin/prettier.cjs'), '--write', page], { stdio: 'ignore' });
