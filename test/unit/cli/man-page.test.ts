import { manPage } from '../../../src/cli/man-page';
import { OPTIONS } from '../../../src/cli/option-table';
import { PROBE_OPTIONS } from '../../../src/probe/options';

const page = manPage('1.2.3-rc.4');
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
  const macros = /^\.(TH|SH|SS|TP|PP|B|BR|br|nf|fi|\\")( |$)/;
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

test('names the version', () => {
  expect(shown(lines[1])).toBe('.TH TUBETTI 1 "" "tubetti 1.2.3-rc.4" "User Commands"');
});
