/** What the programs that speak to a running service have in common: `tubetti ctl`, `flows`, `top`. */
import { type OptionNames, parseLine } from '../cli/getopt';
import { described } from '../usage-text';
import { ConfigError } from '../errors';
import type { ItemError } from '../control/types';
import { ControlClient, Denied } from './client';
import { controlPath } from './socket-path';

export const DONE = 0;
/** The service has refused, or what was asked for is not there. */
export const REFUSED = 1;
/** The command line cannot be used, or there is no service. */
export const UNUSABLE = 2;

export interface CtlOption extends OptionNames {
  readonly help: string;
  /** Words that the argument is one of; for completions. */
  readonly words?: readonly string[];
}

/** Options that every one of them takes. */
export const COMMON_OPTIONS: readonly CtlOption[] = [
  {
    long: ['control'],
    short: 'c',
    arg: 'PATH',
    help: 'control socket of the service (default: TUBETTI_CONTROL, or the only one)',
  },
  { long: ['json'], short: 'j', arg: '', help: 'print JSON instead of text' },
  { long: ['help'], short: 'h', arg: '', help: 'show this help and exit' },
];

/** A command line that was read. */
export interface Line {
  /** Words that are no options, in order. */
  readonly words: readonly string[];
  /** The last value of each option by its first long name; '' of one without an argument. */
  readonly values: ReadonlyMap<string, string>;
}

/** Options may stand before, between and behind words; `--` ends them. Throws ConfigError. */
export function readLine(table: readonly CtlOption[], argv: readonly string[]): Line {
  const words: string[] = [];
  const values = new Map<string, string>();
  for (let rest = argv; rest.length > 0;) {
    const before = rest;
    rest = parseLine(table, rest, ({ long }, value) => {
      values.set(long[0], value);
      return true;
    });
    // Behind "--" all are words.
    if (before[before.length - rest.length - 1] === '--') {
      words.push(...rest);
      break;
    }
    words.push(...rest.slice(0, 1));
    rest = rest.slice(1);
  }
  return { words, values };
}

/** The service that the command line, or the environment, names. Throws ConfigError. */
export function clientFor({ values }: Line, env: NodeJS.ProcessEnv = process.env): ControlClient {
  return new ControlClient(controlPath(values.get('control') ?? null, env));
}

export function usageError(message: string, program: string): ConfigError {
  return new ConfigError('CFG_ERR_USAGE', `${message} (see ${program} --help)`);
}

/** The version that `--version` names. Throws ConfigError. */
export function versionOf({ values }: Line, program: string): { readonly ifVersion?: number } {
  const text = values.get('version');
  if (text === undefined) return {};
  if (!/^[0-9]{1,15}$/.test(text))
    throw usageError(`--version ${text}: give a number, as "forward list --json" and "policy get" have it`, program);
  return { ifVersion: Number(text) };
}

const OPTION_COLUMN = 26;

/** Two columns: names and what they mean. */
export function optionLines(options: readonly CtlOption[]): string {
  return options
    .map(({ long, short, arg, help }) => {
      const names = `  ${short === '' ? '   ' : `-${short},`} --${long[0]}${arg === '' ? '' : ` ${arg}`}`;
      return described(names, help, OPTION_COLUMN);
    })
    .join('\n');
}

/** Rows under headings, columns as wide as they need to be; numbers to the right. */
export function tableText(headings: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const all = [headings, ...rows.map((row) => row.map(String))];
  const widths = headings.map((_, i) => Math.max(...all.map((row) => row[i].length)));
  const right = headings.map((_, i) => rows.length > 0 && rows.every((row) => typeof row[i] === 'number'));
  return all
    .map((row) =>
      row
        .map((cell, i) => (right[i] ? cell.padStart(widths[i]) : cell.padEnd(widths[i])))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/**
 * What a refusal says, with the words of the command line in place of HTTP's: a list of forwards names each by its own text, a
 * header and a parameter of the query are options.
 */
function refusalText({ at, message }: ItemError, line: Line | null): string {
  if (at === '' || /^forwards\/[0-9]+(\/spec)?$/.test(at)) return message;
  const option = at === 'If-Match' ? 'version' : /^query\/([a-z]+)$/.exec(at)?.[1];
  const value = option === undefined ? undefined : line?.values.get(option);
  if (value !== undefined) return `--${option} ${value}: ${message}`;
  // Of a file, the place in it; else what stands in the path is the command's last word.
  return `${line === null ? '' : `${line.words.join(' ')}: `}${at === 'id' || at === 'port' ? '' : `${at}: `}${message}`;
}

/** Runs a program: what it throws becomes lines on standard error, and an exit status. `line`: its command line, once it is read. */
export async function guarded(
  program: string,
  body: () => Promise<number>,
  line: () => Line | null = () => null,
): Promise<number> {
  try {
    return await body();
  } catch (error) {
    let lines: string[];
    if (error instanceof Denied) lines = error.errors.map((one) => refusalText(one, line()));
    else if (error instanceof ConfigError)
      lines = error.message.replace(/\(see --help\)$/, `(see ${program} --help)`).split('\n');
    else throw error;
    for (const text of lines) process.stderr.write(`${program}: ${text}\n`);
    return error instanceof Denied ? REFUSED : UNUSABLE;
  }
}
