/** docs/troubleshooting.md: the program has the lines that it explains, and what it names as their tests is there. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const root = join(__dirname, '../../..');
const page = readFileSync(join(root, 'docs/troubleshooting.md'), 'utf8');

/** Every text of the program, with what templates and concatenations put in left out. */
function sources(dir: string): string {
  return readdirSync(dir, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts') && !name.includes('dist'))
    .map((name) => readFileSync(join(dir, name), 'utf8'))
    .join('\n');
}

const program = sources(join(root, 'src'))
  .replace(/\$\{(?:[^{}]|\{[^{}]*\})*\}/g, '\u0000')
  .replace(/['`"]\s*\+\s*['`"]/g, '')
  .replace(/\\'/g, "'");

const lines = [...page.matchAll(/^> (.*)$/gm)].map(([, line]) => line);
const tests = [...page.matchAll(/^Test: `([^`]+)` "(.+)"$/gm)].map(([, file, title]) => [file, title] as const);
const entries = page.split('\n### ').slice(1);

/** Each three words in a row of a line, but those next to what an example has in the place of a value. */
function triples(line: string): string[] {
  const words = line.split(' ').filter((word) => word !== '');
  return words
    .map((_, i) => words.slice(i, i + 3))
    .filter((three) => three.length === 3 && three.every((word) => /^[^0-9…<>]+$/.test(word) && !word.startsWith('-')))
    .map((three) => three.join(' '));
}

test.each(lines)('the program says: %s', (line) => {
  const all = triples(line);
  const missing = all.filter((three) => !program.includes(three));
  expect(all.length).toBeGreaterThan(1);
  // Where the program puts a line together of two texts, some go over the seam, and the names of errors are the system's.
  expect([missing.length <= all.length / 2, missing]).toEqual([true, missing]);
});

test.each(tests)('%s has "%s"', (file, title) => {
  expect(readFileSync(join(root, 'test', file), 'utf8').replace(/\\'/g, "'")).toContain(title);
});

test('each entry says what reproduces it', () => {
  expect(entries.length).toBeGreaterThan(20);
  const without = entries.filter((entry) => !/^(Test|Command): `/m.test(entry)).map((entry) => entry.split('\n')[0]);
  expect(without).toEqual([]);
  expect([...page.matchAll(/^Test: /gm)]).toHaveLength(tests.length);
});
