/**
 * Completions for bash, zsh and fish, made from the option tables like the manual page; the build writes them to
 * dist/completions/. They offer what is supported, and of arguments: files, users, interfaces, and words of the table.
 */
import { PROBE_OPTIONS } from '../probe/options';
import type { OptionNames } from './getopt';
import { OPTIONS } from './option-table';

const NOTE = 'Made from the option table by the build. Do not edit.';

interface Completed extends OptionNames {
  readonly help: string;
  readonly words?: readonly string[];
}

const SERVICE: readonly Completed[] = OPTIONS.filter(({ group }) => group !== 'later' && group !== 'pasta');
const PROBE: readonly Completed[] = PROBE_OPTIONS;

/** What an argument is, by its name in the usage text. */
const KINDS = { FILE: 'file', PATH: 'file', USER: 'user', IFNAME: 'interface' } as const;
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

function bashFunction(name: string, options: readonly Completed[]): string {
  return `${name}() {
  case $1 in
${bashArms(options)}
  esac
  mapfile -t -O "\${#COMPREPLY[@]}" COMPREPLY < <(compgen -W '${options.flatMap(names).join(' ')}' -- "$word")
}`;
}

export function bashCompletion(): string {
  return `# ${NOTE}
${bashFunction('_tubetti_service', SERVICE)}

${bashFunction('_tubetti_probe', PROBE)}

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
  if ((COMP_CWORD > 1)) && [[ \${COMP_WORDS[1]} == probe ]]; then
    _tubetti_probe "$before"
    return
  fi
  ((COMP_CWORD == 1)) && mapfile -t COMPREPLY < <(compgen -W probe -- "$word")
  _tubetti_service "$before"
}
complete -F _tubetti tubetti
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

export function zshCompletion(): string {
  return `#compdef tubetti
# ${NOTE}
if ((CURRENT > 2)) && [[ $words[2] == probe ]]; then
  shift words
  ((CURRENT--))
  _arguments -s \\
${zshSpecs(PROBE)}
else
  _arguments -s '1:command:(probe)' \\
${zshSpecs(SERVICE)}
fi
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

function fishLines(options: readonly Completed[], condition: string): string {
  return options
    .map((option) => {
      const short = option.short === '' ? '' : ` -s ${option.short}`;
      const long = option.long.map((name) => ` -l ${name}`).join('');
      return `complete -c tubetti -n '${condition}'${short}${long}${fishArgument(option)} -d ${fishQuoted(option.help)}`;
    })
    .join('\n');
}

export function fishCompletion(): string {
  return `# ${NOTE}
complete -c tubetti -f
complete -c tubetti -n __fish_is_first_token -a probe -d 'check a vhost-user back-end'
${fishLines(SERVICE, 'not __fish_seen_subcommand_from probe')}
${fishLines(PROBE, '__fish_seen_subcommand_from probe')}
`;
}

/** The files by the names under which each shell looks for them. */
export const COMPLETIONS: Readonly<Record<string, () => string>> = {
  'tubetti.bash': bashCompletion,
  _tubetti: zshCompletion,
  'tubetti.fish': fishCompletion,
};
