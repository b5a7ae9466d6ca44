/**
 * The way getopt_long(3) reads a command line, with its leading "+": short options in clusters (`-fd`), their argument
 * attached or next (`-t22`, `-t 22`), long options by any unambiguous prefix, `--opt=value` or `--opt value`, and the
 * first word that is no option ends the options. Why not a library: docs/adr/0002-own-option-parser.md.
 */
import { ConfigError } from '../errors';

export interface OptionNames {
  /** Long names, the first one is the one shown; without the dashes. */
  readonly long: readonly [string, ...string[]];
  /** One letter, or '' if there is none. */
  readonly short: string;
  /** Name of the argument in the usage text, '' if the option takes none. */
  readonly arg: string;
}

/**
 * Told of each option as it is read: its row of the table, its argument ('' if it takes none) and its full name for
 * messages (`--socket`, `-s`). Returns false to stop reading.
 */
export type OnOption<T> = (option: T, value: string, shown: string) => boolean;

function usageError(message: string): ConfigError {
  return new ConfigError('CFG_ERR_USAGE', `${message} (see --help)`);
}

/** Number of edits (insert, delete, replace) between two short words: for "did you mean". */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length];
}

/** The name that is at most `limit` edits away and nearest, or null. */
export function nearestName(name: string, known: readonly string[], limit: number): string | null {
  let best: string | null = null;
  let bestDistance = limit;
  for (const candidate of known) {
    const distance = editDistance(name, candidate);
    if (distance > bestDistance || (best !== null && distance === bestDistance)) continue;
    best = candidate;
    bestDistance = distance;
  }
  return best;
}

function findLong<T extends OptionNames>(table: readonly T[], name: string): { option: T; long: string } {
  const hits: { option: T; long: string }[] = [];
  for (const option of table) {
    for (const long of option.long) {
      if (long === name) return { option, long };
      if (name !== '' && long.startsWith(name)) hits.push({ option, long });
    }
  }
  // Two names of one option are no ambiguity.
  if (hits.length > 0 && hits.every((hit) => hit.option === hits[0].option)) return hits[0];
  if (hits.length > 1) {
    throw usageError(`option --${name} is ambiguous: ${hits.map((hit) => `--${hit.long}`).join(', ')}`);
  }
  const known = table.flatMap((option) => option.long);
  const near = nearestName(name, known, Math.max(2, name.length / 4));
  const hint = near === null ? '' : `, did you mean --${near}?`;
  throw usageError(`unknown option --${name}${hint}`);
}

/**
 * Reads options and calls `onOption` for each, in order. Returns the words from the first non-option on. Throws
 * ConfigError CFG_ERR_USAGE. The meaning of options is not checked here.
 */
export function parseLine<T extends OptionNames>(
  table: readonly T[],
  argv: readonly string[],
  onOption: OnOption<T>,
): readonly string[] {
  let i = 0;
  /** The argument of an option: the rest of its word if there is one, else the next word. */
  const argument = (option: T, attached: string | null, shown: string): string => {
    if (attached !== null) return attached;
    if (i >= argv.length) throw usageError(`option ${shown} needs an argument: ${option.arg}`);
    return argv[i++];
  };
  while (i < argv.length) {
    const word = argv[i];
    if (!word.startsWith('-') || word === '-') break;
    i++;
    if (word === '--') break;
    if (word.startsWith('--')) {
      const equals = word.indexOf('=');
      const { option, long } = findLong(table, equals < 0 ? word.slice(2) : word.slice(2, equals));
      const shown = `--${long}`;
      const attached = equals < 0 ? null : word.slice(equals + 1);
      if (option.arg === '' && attached !== null) throw usageError(`option ${shown} takes no argument`);
      if (!onOption(option, option.arg === '' ? '' : argument(option, attached, shown), shown)) break;
      continue;
    }
    for (let at = 1; at < word.length; at++) {
      const shown = `-${word[at]}`;
      const option = table.find((candidate) => candidate.short === word[at]);
      if (option === undefined) throw usageError(`unknown option ${shown}`);
      const takesRest = option.arg !== '';
      const attached = at + 1 < word.length ? word.slice(at + 1) : null;
      if (!onOption(option, takesRest ? argument(option, attached, shown) : '', shown)) return argv.slice(i);
      if (takesRest) break;
    }
  }
  return argv.slice(i);
}
