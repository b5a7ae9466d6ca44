/** The completions as the shells take them: each shell is asked what it would offer. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { COMPLETIONS } from '../../../src/cli/completion';
import { OPTIONS } from '../../../src/cli/option-table';

jest.setTimeout(30_000);

let dir: string;

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-completion-'));
  for (const [name, text] of Object.entries(COMPLETIONS)) writeFileSync(join(dir, name), text());
  mkdirSync(join(dir, 'a place'));
  for (const name of ['one.conf', 'two words.conf']) writeFileSync(join(dir, name), '');
});

afterAll(() => {
  rmSync(dir, { recursive: true });
});

function output(shell: string, ...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(shell, args, { encoding: 'utf8', cwd: dir, timeout: 10_000 });
  if (error !== undefined || stderr !== '') throw error ?? new Error(stderr);
  expect(status).toBe(0);
  return stdout;
}

const lines = (text: string): string[] => text.split('\n').filter((line) => line !== '');

/** Has bash call the function that `complete` names, as it does when the user presses the tabulator. */
const bash = (...words: string[]): string[] => bashOf('tubetti', ...words);

function bashOf(program: string, ...words: string[]): string[] {
  const script = `source ./tubetti.bash
    spec=$(complete -p ${program})
    [[ $spec =~ -F\\ ([_a-z]+)\\ ${program} ]] || exit 2
    COMP_WORDS=(${program} "$@") COMP_CWORD=$#
    \${BASH_REMATCH[1]} ${program} "\${COMP_WORDS[COMP_CWORD]}" "\${COMP_WORDS[COMP_CWORD - 1]}"
    printf '%s\\n' "\${COMPREPLY[@]}"`;
  return lines(output('bash', '--norc', '-c', script, 'bash', ...words));
}

/** What fish offers behind a command line, without the descriptions. */
function fish(line: string): string[] {
  const script = `source ./tubetti.fish; complete -C ${JSON.stringify(line)}`;
  return lines(output('fish', '--no-config', '-c', script)).map((each) => each.split('\t')[0]);
}

const SUPPORTED = OPTIONS.filter(({ group }) => group !== 'later' && group !== 'pasta');
const LONG = SUPPORTED.flatMap((option) => option.long.map((name) => `--${name}`)).sort();
const isThere = (shell: string): boolean => spawnSync(shell, ['-c', 'true']).status === 0;

/** Of the words that a namespace knows. */
const OF_NAMESPACES = ['--netns', '--netns-only'];

describe('bash', () => {
  test('the network of a namespace, under both of its names', () => {
    expect(bash('netn')).toEqual(['netns']);
    expect(bash('netns', '--netns').sort()).toEqual(OF_NAMESPACES);
    expect(bashOf('tubetti-pasta', '--netns').sort()).toEqual(OF_NAMESPACES);
    expect(bashOf('tubetti-pasta', '-q', '--vhost')).toEqual([]);
  });

  test('options: all that are supported, by their beginning', () => {
    expect(bash('--').sort()).toEqual(LONG);
    expect(bash('--no-dhcp').sort()).toEqual(['--no-dhcp', '--no-dhcp-dns', '--no-dhcp-search', '--no-dhcpv6']);
    expect(bash('--netns')).toEqual([]);
    expect(bash('-q', '--moder')).toEqual(['--moderation']);
  });

  test('words of an option, also behind "="', () => {
    expect(bash('--moderation', '')).toEqual(['off', 'standard', 'adaptive']);
    expect(bash('--moderation', 'a')).toEqual(['adaptive']);
    expect(bash('--sandbox', '=')).toEqual(['on', 'strict', 'log', 'off']);
    expect(bash('--sandbox', '=', 's')).toEqual(['strict']);
    expect(bash('-t', 'n')).toEqual(['none']);
  });

  test('files, with spaces too; users; interfaces', () => {
    expect(bash('--config', 't').sort()).toEqual(['tubetti.bash', 'tubetti.fish', 'two words.conf']);
    expect(bash('-l', 'a')).toEqual(['a place']);
    expect(bash('--runas', 'roo')).toEqual(['root']);
    const [name] = Object.keys(networkInterfaces());
    expect(bash('--interface', name)).toContain(name);
  });

  test('nothing where anything may stand', () => {
    expect(bash('--mtu', '')).toEqual([]);
    expect(bash('--hostname', 'o')).toEqual([]);
  });

  test('the prober: a first word, and options of its own', () => {
    expect(bash('pr')).toEqual(['probe']);
    expect(bash('-q', 'pr')).toEqual([]);
    expect(bash('probe', '--s').sort()).toEqual(['--socket', '--spawn']);
    expect(bash('probe', '--moder')).toEqual([]);
    expect(bash('probe', '--socket', 'o')).toEqual(['one.conf']);
  });
});

const withFish = isThere('fish') ? test : test.skip;
withFish('fish offers the same', () => {
  expect(fish('tubetti --').sort()).toEqual(LONG);
  expect(fish('tubetti --moderation ').sort()).toEqual(['adaptive', 'off', 'standard']);
  expect(fish('tubetti --sandbox=s')).toEqual(['--sandbox=strict']);
  expect(fish('tubetti --config on')).toEqual(['one.conf']);
  expect(fish('tubetti pr')).toEqual(['probe']);
  expect(fish('tubetti netns --netns').sort()).toEqual(OF_NAMESPACES);
  expect(fish('tubetti-pasta --netns').sort()).toEqual(OF_NAMESPACES);
  expect(fish('tubetti probe --s').sort()).toEqual(['--socket', '--spawn']);
});

/** What zsh's function hands to _arguments(zshcompsys) for a command line: zsh completes in a terminal only. */
function zsh(...words: string[]): string[] {
  const script = `_arguments() { print -rl -- "$@" }; words=(tubetti "$@"); CURRENT=$#words; source ./_tubetti`;
  return lines(output('zsh', '-f', '-c', script, 'zsh', ...words));
}

const withZsh = isThere('zsh') ? test : test.skip;
withZsh('zsh reads its function, with a specification for each name of an option', () => {
  expect(output('zsh', '-n', './_tubetti')).toBe('');
  const specs = zsh('--');
  expect(specs.flatMap((spec) => /^\*(--[a-z0-9-]+)/.exec(spec)?.[1] ?? []).sort()).toEqual(LONG);
  expect(specs).toContain('1:command:(netns probe ctl flows top)');
  expect(specs.find((spec) => spec.startsWith('*--moderation='))).toMatch(/\]:LEVEL:\(off standard adaptive\)$/);
  expect(specs.find((spec) => spec.startsWith('*-l+'))).toMatch(/\]:PATH:_files$/);
  // Brackets and colons of a text would end it.
  for (const spec of specs.slice(2))
    expect(spec.replace(/\\./g, '')).toMatch(/^\*[^[\]:]+\[[^[\]:]*\](:[^:]*:[^:]+)?$/);
  expect(zsh('netns', '--').some((spec) => spec.startsWith('*--netns='))).toBe(true);
  const probe = zsh('probe', '--s');
  expect(probe.some((spec) => spec.startsWith('*--spawn='))).toBe(true);
  expect(probe.some((spec) => spec.startsWith('*--moderation='))).toBe(false);
});
