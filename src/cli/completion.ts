/**
 * Completions for bash, zsh and fish, made from the option tables like the manual page; the build writes them to
 * dist/completions/. They offer what is supported, and of arguments: files, users, interfaces, and words of the table.
 */
import { FLOWS_OPTIONS } from '../ctl/flows';
import { CTL_OPTIONS, SUBCOMMANDS } from '../ctl/main';
import { TOP_OPTIONS } from '../ctl/top';
import { PROBE_OPTIONS } from '../probe/options';
import type { OptionNames } from './getopt';
import { OPTIONS } from './option-table';
import { isForPasta } from './pasta-options';

const NOTE = 'Made from the option table by the build. Do not edit.';

interface Completed extends OptionNames {
  readonly help: string;
  readonly words?: readonly string[];
}

const SERVICE: readonly Completed[] = OPTIONS.filter(({ group }) => group !== 'later' && group !== 'pasta');
const NAMESPACE: readonly Completed[] = OPTIONS.filter((option) => option.group !== 'later' && isForPasta(option));

/** What the first word may be instead of an option: programs with options, and some with words, of their own. */
const PROGRAMS: readonly {
  readonly name: string;
  readonly help: string;
  readonly options: readonly Completed[];
  readonly words: readonly string[];
}[] = [
  { name: 'netns', help: 'the network of a namespace, as pasta', options: NAMESPACE, words: [] },
  { name: 'probe', help: 'check a vhost-user back-end', options: PROBE_OPTIONS, words: [] },
  { name: 'ctl', help: 'give orders to a service', options: CTL_OPTIONS, words: SUBCOMMANDS.map(({ name }) => name) },
  { name: 'flows', help: 'show the flows of a service', options: FLOWS_OPTIONS, words: [] },
  { name: 'top', help: 'show what a service does', options: TOP_OPTIONS, words: [] },
];
const PROGRAM_NAMES = PROGRAMS.map(({ name }) => name).join(' ');

/** What an argument is, by its name in the usage text. */
const KINDS = { FILE: 'file', PATH: 'file', DIR: 'file', USER: 'user', IFNAME: 'interface' } as const;
type Kind = (typeof KINDS)[keyof typeof KINDS] | 'words' | 'free';

function kindOf(option: Completed): Kind {
  if (option.words !== undefined) return 'words';
  return option.arg in KINDS ? KINDS[option.arg as keyof typeof KINDS] : 'free';
}

/** As they are typed: `-s`, `--socket`. */
function names(option: Completed): string[] {
  return [...(option.short === '' ? [] : [`-${option.short}`]), ...option.long.map((name) => `--${name}`)];
}

/** For the shells' single quotes: no text of ours may end them. */
function quoted(text: string): string {
  return `'${text.replace(/'/g, `'\\''`)}'`;
}

// ---- bash --------------------------------------------------------------------------------------------------------------

/** Reads COMPREPLY line by line: a file name may have spaces. */
const BASH_REPLIES: Readonly<Record<Exclude<Kind, 'words' | 'free'>, string>> = {
  file: 'compopt -o filenames 2>/dev/null\n      mapfile -t COMPREPLY < <(compgen -f -- "$word")',
  user: 'mapfile -t COMPREPLY < <(compgen -u -- "$word")',
  interface: 'mapfile -t COMPREPLY < <(cd /sys/class/net 2>/dev/null && compgen -G "$word*")',
};

function bashReply(option: Completed): string {
  const kind = kindOf(option);
  if (kind === 'words') return `mapfile -t COMPREPLY < <(compgen -W '${(option.words ?? []).join(' ')}' -- "$word")`;
  return kind === 'free' ? ':' : BASH_REPLIES[kind];
}

/** The arms of a `case` over the word before the one that is completed. */
function bashArms(options: readonly Completed[]): string {
  const arms = new Map<string, string[]>();
  for (const option of options.filter(({ arg }) => arg !== '')) {
    const reply = bashReply(option);
    arms.set(reply, [...(arms.get(reply) ?? []), ...names(option)]);
  }
  return [...arms].map(([reply, all]) => `    ${all.join(' | ')})\n      ${reply}\n      return\n      ;;`).join('\n');
}

function bashFunction(name: string, options: readonly Completed[], words: readonly string[] = []): string {
  return `${name}() {
  case $1 in
${bashArms(options)}
  esac
  mapfile -t -O "\${#COMPREPLY[@]}" COMPREPLY < <(compgen -W '${[...words, ...options.flatMap(names)].join(' ')}' -- "$word")
}`;
}

export function bashCompletion(): string {
  return `# ${NOTE}
${bashFunction('_tubetti_service', SERVICE)}

${PROGRAMS.map(({ name, options, words }) => bashFunction(`_tubetti_${name}`, options, words)).join('\n\n')}

_tubetti() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=
  ((COMP_CWORD > 0)) && before=\${COMP_WORDS[COMP_CWORD - 1]}
  # "--option=value" comes as three words.
  if [[ $word == '=' ]]; then
    word=
  elif [[ $before == '=' ]]; then
    before=\${COMP_WORDS[COMP_CWORD - 2]}
  fi
  COMPREPLY=()
  if ((COMP_CWORD > 1)); then
    case \${COMP_WORDS[1]} in
      ${PROGRAM_NAMES.replace(/ /g, ' | ')})
        "_tubetti_\${COMP_WORDS[1]}" "$before"
        return
        ;;
    esac
  fi
  ((COMP_CWORD == 1)) && mapfile -t COMPREPLY < <(compgen -W '${PROGRAM_NAMES}' -- "$word")
  _tubetti_service "$before"
}
complete -F _tubetti tubetti

_tubetti_pasta() {
  local COMP_WORDS=(tubetti netns "\${COMP_WORDS[@]:1}") COMP_CWORD=$((COMP_CWORD + 1))
  _tubetti
}
complete -F _tubetti_pasta -o bashdefault -o default tubetti-pasta
`;
}

// ---- zsh ---------------------------------------------------------------------------------------------------------------

const ZSH_ACTIONS: Readonly<Record<Exclude<Kind, 'words'>, string>> = {
  file: '_files',
  user: '_users',
  interface: '_net_interfaces',
  free: ' ',
};

/** What _arguments(zshcompsys) reads: brackets and colons belong to it. */
function zshText(text: string): string {
  return text.replace(/[[\]:\\]/g, '\\$&');
}

function zshSpecs(options: readonly Completed[]): string {
  return options
    .map((option) => {
      const action = option.words === undefined ? ZSH_ACTIONS[kindOf(option) as 'free'] : `(${option.words.join(' ')})`;
      const argument = option.arg === '' ? '' : `:${zshText(option.arg)}:${action}`;
      // Any of them may be given again: the last one counts, or they add up.
      const forms = names(option).map((name) => {
        if (option.arg === '') return `*${name}`;
        return name.startsWith('--') ? `*${name}=` : `*${name}+`;
      });
      return forms.map((form) => `    ${quoted(`${form}[${zshText(option.help)}]${argument}`)}`).join(' \\\n');
    })
    .join(' \\\n');
}

function zshProgram({ name, options, words }: (typeof PROGRAMS)[number]): string {
  const first = words.length === 0 ? '' : ` '1:command:(${words.join(' ')})'`;
  return `  ${name})
    _arguments -s${first} \\
${zshSpecs(options)}
    ;;`;
}

export function zshCompletion(): string {
  return `#compdef tubetti tubetti-pasta
# ${NOTE}
if [[ $service == tubetti-pasta ]]; then
  words=(netns \${words[2,-1]})
elif ((CURRENT > 2)) && [[ $words[2] == (${PROGRAM_NAMES.replace(/ /g, '|')}) ]]; then
  shift words
  ((CURRENT--))
fi
case $words[1] in
${PROGRAMS.map(zshProgram).join('\n')}
  *)
    _arguments -s '1:command:(${PROGRAM_NAMES})' \\
${zshSpecs(SERVICE)}
    ;;
esac
`;
}

// ---- fish --------------------------------------------------------------------------------------------------------------

function fishArgument(option: Completed): string {
  const kind = kindOf(option);
  switch (kind) {
    case 'file':
      return ' -r -F';
    case 'user':
      return " -x -a '(__fish_complete_users)'";
    case 'interface':
      return " -x -a '(__fish_print_interfaces)'";
    case 'words':
      return ` -x -a ${quoted((option.words ?? []).join(' '))}`;
    case 'free':
      return option.arg === '' ? '' : ' -x';
  }
}

/** Of single quotes fish knows two escapes, which the other shells do not: a backslash before one, and before itself. */
function fishQuoted(text: string): string {
  return `'${text.replace(/[\\']/g, '\\$&')}'`;
}

function fishLines(options: readonly Completed[], condition: string, command = 'tubetti'): string {
  const only = condition === '' ? '' : ` -n '${condition}'`;
  return options
    .map((option) => {
      const short = option.short === '' ? '' : ` -s ${option.short}`;
      const long = option.long.map((name) => ` -l ${name}`).join('');
      return `complete -c ${command}${only}${short}${long}${fishArgument(option)} -d ${fishQuoted(option.help)}`;
    })
    .join('\n');
}

function fishProgram({ name, options, words }: (typeof PROGRAMS)[number]): string {
  const seen = `__fish_seen_subcommand_from ${name}`;
  const own = words.length === 0 ? '' : `complete -c tubetti -n '${seen}' -a '${words.join(' ')}'\n`;
  return own + fishLines(options, seen);
}

export function fishCompletion(): string {
  return `# ${NOTE}
complete -c tubetti -f
${PROGRAMS.map(({ name, help }) => `complete -c tubetti -n __fish_is_first_token -a ${name} -d ${fishQuoted(help)}`).join('\n')}
${fishLines(SERVICE, `not __fish_seen_subcommand_from ${PROGRAM_NAMES}`)}
${PROGRAMS.map(fishProgram).join('\n')}
${fishLines(NAMESPACE, '', 'tubetti-pasta')}
`;
}

/** The files by the names under which each shell looks for them. */
export const COMPLETIONS: Readonly<Record<string, () => string>> = {
  'tubetti.bash': bashCompletion,
  _tubetti: zshCompletion,
  'tubetti.fish': fishCompletion,
};
