/** Writes the list of checks at the end of docs/probe.md, as `tubetti probe --list` prints it. Needs a build. */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const page = join(root, 'docs', 'probe.md');
const START = '```text list\n';

const { status, stdout } = spawnSync(process.execPath, [join(root, 'bin', 'tubetti.js'), 'probe', '--list'], {
  encoding: 'utf8',
});
const text = readFileSync(page, 'utf8');
const at = text.indexOf(START);
if (status !== 0 || at < 0) throw new Error('no list to write, or no place for it');
writeFileSync(page, `${text.slice(0, at)}${START}${stdout}\`\`\`\n`);
