import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { markdownRoff } from '../../../src/cli/markdown-roff';
import { manPage } from '../../../src/cli/man-page';
import { OPTIONS } from '../../../src/cli/option-table';
import { FLOWS_OPTIONS } from '../../../src/ctl/flows';
import { CTL_OPTIONS, SUBCOMMANDS } from '../../../src/ctl/main';
import { TOP_OPTIONS } from '../../../src/ctl/top';
import { PROBE_OPTIONS } from '../../../src/probe/options';

const manual = readFileSync(join(__dirname, '../../../docs/manual.md'), 'utf8');
const page = manPage('1.2.3-rc.4', manual);
const lines = page.split('\n');

/** A roff line as a reader sees it. */
function shown(line: string): string {
  return line
    .replace(/\\f[BIR]/g, '')
    .replace(/\\&/g, '')
    .replace(/\\-/g, '-')
    .replace(/\\e/g, '\\');
}

test('has every option by all its names, with its argument and its line of help', () => {
  for (const option of OPTIONS) {
    const names = [...(option.short === '' ? [] : [`-${option.short}`]), ...option.long.map((name) => `--${name}`)];
    const at = lines.findIndex(
      (line) => shown(line) === `${names.join(', ')}${option.arg === '' ? '' : ` ${option.arg}`}`,
    );
    expect([option.long[0], lines[at - 1], shown(lines[at + 1] ?? '')]).toEqual([
      option.long[0],
      '.TP',
      option.help.replace(/…/g, '...'),
    ]);
  }
});

test('only macros start with a control character, and a minus is one that can be copied', () => {
  const macros = /^\.(TH|SH|SS|TP|IP|PP|B|BR|br|nf|fi|\\")( |$)/;
  for (const line of lines) {
    if (/^[.']/.test(line)) expect(line).toMatch(macros);
    // "-" alone is a hyphen to roff.
    if (!line.startsWith('.\\"')) expect(line).not.toMatch(/(^|[^\\])-/);
  }
});

test('is ASCII, which roff reads whatever the locale', () => {
  expect(page).toMatch(/^[\x20-\x7e\n]*$/);
});

test('has the prober with each of its options', () => {
  const text = shown(lines.slice(lines.indexOf('.SH CHECKING A BACK\\-END')).join('\n'));
  for (const { long } of PROBE_OPTIONS.filter(({ long: [name] }) => name !== 'help')) {
    expect(text).toContain(`--${long[0]}`);
  }
});

const ORDER_OPTIONS = [...CTL_OPTIONS, ...FLOWS_OPTIONS, ...TOP_OPTIONS];

test('has the orders to a running service with each of their options', () => {
  const text = shown(lines.slice(lines.indexOf('.SH ORDERS TO A RUNNING SERVICE')).join('\n'));
  for (const { name, words } of SUBCOMMANDS) expect(text).toContain(`\n${`${name} ${words}`.trimEnd()}\n`);
  for (const { long } of ORDER_OPTIONS) expect(text).toContain(`--${long[0]}`);
});

test('every option that the text names is one, and what it names as an environment variable of ours is one too', () => {
  const known = new Set(
    [...OPTIONS, ...PROBE_OPTIONS, ...ORDER_OPTIONS].flatMap(({ long }) => long.map((name) => `--${name}`)),
  );
  const named = [...shown(page).matchAll(/(?<![\w-])--[a-z][a-z0-9-]*/g)].map(([name]) => name);
  expect(named.length).toBeGreaterThan(100);
  expect(named.filter((name) => !known.has(name))).toEqual([]);
  const variables = new Set(named.map((name) => `TUBETTI_${name.slice(2).replace(/-/g, '_').toUpperCase()}`));
  const others = ['TUBETTI_OPTIONS', 'TUBETTI_OPTION', 'TUBETTI_CONTROL', 'TUBETTI_NODE', 'TUBETTI_FEATURES'];
  const set = [...shown(page).matchAll(/TUBETTI_[A-Z_]+/g)].map(([name]) => name);
  expect(set.filter((name) => !variables.has(name) && !others.includes(name))).toEqual([]);
});

test('has what an operator looks for, at length', () => {
  const sections = lines.filter((line) => line.startsWith('.SH ')).map((line) => shown(line.slice(4)));
  for (const name of [
    'ADDRESSES AND TRANSLATION',
    'LIMITS',
    'SECURITY',
    'SIGNALS',
    'FILES',
    'EXIT STATUS',
    'EXAMPLES',
  ]) {
    expect(sections).toContain(name);
  }
  expect(new Set(sections).size).toBe(sections.length);
  expect(shown(page).split(/\s+/).length).toBeGreaterThan(3500);
});

describe('the text from Markdown', () => {
  const roff = (text: string): string => markdownRoff(`# Title\n\nleft out\n\n## A part\n\n${text}\n`);

  test.each<[string, string, string]>([
    ['a paragraph', 'one\ntwo', '.SH A PART\none two'],
    ['another', 'one\n\n.two', '.SH A PART\none\n.PP\n\\&.two'],
    ['words', '**b** `-c` and [a link](there.md)', '.SH A PART\n\\fBb\\fR \\fB\\-c\\fR and a link'],
    ['a list', '- one\n  more\n- **t**: two', '.SH A PART\n.IP \\(bu 2\none more\n.TP\n\\fBt\\fR\ntwo'],
    ['code', '```\n.a -b\n\nc\n```', '.SH A PART\n.nf\n\\&.a \\-b\n\nc\n.fi'],
    ['a subsection', '### Sub-part\n\ntext', '.SH A PART\n.SS Sub\\-part\ntext'],
    ['a backslash', 'a\\b', '.SH A PART\na\\eb'],
  ])('%s', (_, text, expected) => {
    expect(roff(text)).toBe(expected);
  });
});

test('names the version', () => {
  expect(shown(lines[1])).toBe('.TH TUBETTI 1 "" "tubetti 1.2.3-rc.4" "User Commands"');
});
