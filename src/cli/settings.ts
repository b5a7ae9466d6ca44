/**
 * Options from three sources, lowest precedence first: a configuration file (`--config`), the environment
 * (`TUBETTI_…`), the command line. All have the names of the long options. A source of higher precedence replaces the
 * same option of a lower one, also where the option is repeatable; within one source repeated options accumulate, as on
 * passt's command line.
 */
import type * as Yaml from 'yaml';
import { ConfigError, describeSystemError, messageOf } from '../errors';
import { readText } from '../files';
import { nearestName, type OptionNames } from './getopt';

/** An option as it was found: its value, and its name in messages. */
export interface Setting<T> {
  readonly option: T;
  /** '' for an option without argument. */
  readonly value: string;
  /** `--mtu`, `TUBETTI_MTU` or `/etc/net.yaml: mtu`. */
  readonly shown: string;
  /**
   * False: a switch that is off here. It cancels the switch from sources of lower precedence, and has no other effect.
   */
  readonly on: boolean;
}

/** Groups of options that a higher source replaces together. Each switch is a group of its own. */
const REPLACED_TOGETHER: readonly (readonly string[])[] = [
  ['socket', 'connect', 'fd'],
  ['foreground', 'background'],
  ['vhost-user', 'stream'],
  ['quiet', 'debug', 'trace'],
  ['ipv4-only', 'ipv6-only'],
  ['dns'],
  ['search'],
  ['tcp-ports'],
  ['udp-ports'],
  ['label'],
  ['dhcp-option'],
  ['dhcp6-option'],
  ['ntp'],
  ['next-server'],
  ['dns-name'],
  ['allow', 'deny', 'policy'],
];

/** Switches that are each other's opposite: false for one is true for the other. */
const OPPOSITES: readonly (readonly [string, string])[] = [
  ['foreground', 'background'],
  ['vhost-user', 'stream'],
];

/** May be repeated: a list in a file, words in the environment. */
const REPEATABLE: ReadonlySet<string> = new Set([
  'address',
  'gateway',
  'outbound',
  'dns',
  'dns-forward',
  'dns-host',
  'search',
  'map-host-loopback',
  'map-guest-addr',
  'tcp-ports',
  'udp-ports',
  'label',
  'dhcp-option',
  'dhcp6-option',
  'ntp',
  'next-server',
  'dns-name',
  'allow',
  'deny',
]);

/** Make sense on a command line only. `config` itself may come from the environment. */
const LINE_ONLY: ReadonlySet<string> = new Set(['help', 'version', 'print-capabilities']);

/** The key under which settings replace each other, '' if they add up (once per family, or the last one wins). */
function replaceKey(option: OptionNames): string {
  const [name] = option.long;
  const group = REPLACED_TOGETHER.find((names) => names.includes(name));
  if (group !== undefined) return group[0];
  return option.arg === '' ? name : '';
}

/** The settings that take effect, in the order in which to apply them. `layers` begins with the lowest precedence. */
export function mergeSettings<T extends OptionNames>(layers: readonly (readonly Setting<T>[])[]): Setting<T>[] {
  const replaced = new Set<string>();
  const merged: Setting<T>[] = [];
  for (const layer of [...layers].reverse()) {
    const counts = layer.filter(({ option }) => !replaced.has(replaceKey(option)));
    merged.unshift(...counts.filter(({ on }) => on));
    for (const { option } of layer) {
      const key = replaceKey(option);
      if (key !== '') replaced.add(key);
    }
  }
  return merged;
}

function switchSetting<T extends OptionNames>(table: readonly T[], option: T, shown: string, on: boolean): Setting<T> {
  const pair = OPPOSITES.find((names) => names.includes(option.long[0]));
  if (on || pair === undefined) return { option, value: '', shown, on };
  const other = pair[0] === option.long[0] ? pair[1] : pair[0];
  const opposite = table.find(({ long }) => long[0] === other);
  return { option: opposite ?? option, value: '', shown, on: opposite !== undefined };
}

const TRUE_WORDS: ReadonlySet<string> = new Set(['1', 'true', 'yes', 'on']);
const FALSE_WORDS: ReadonlySet<string> = new Set(['0', 'false', 'no', 'off']);

const ENV_PREFIX = 'TUBETTI_';

/** TUBETTI_TCP_PORTS for tcp-ports. */
export function envName(long: string): string {
  return ENV_PREFIX + long.toUpperCase().replaceAll('-', '_');
}

/**
 * Options in the environment. An empty variable is none. Variables that begin like ours and name no option are others'
 * (of our build and tests, of unit files): left alone, with a remark if one is a letter or two away from an option.
 * Throws ConfigError.
 */
export function envSettings<T extends OptionNames>(
  table: readonly T[],
  env: NodeJS.ProcessEnv,
  warn: (text: string) => void,
): Setting<T>[] {
  const settings: Setting<T>[] = [];
  const names = new Map<string, T>();
  for (const option of table) {
    if (LINE_ONLY.has(option.long[0])) continue;
    for (const long of option.long) names.set(envName(long), option);
  }
  for (const [name, value = ''] of Object.entries(env)) {
    if (!name.startsWith(ENV_PREFIX) || value === '') continue;
    const option = names.get(name);
    if (option === undefined) {
      const near = nearestName(name, [...names.keys()], 2);
      if (near !== null) warn(`environment: ${name} is not an option, did you mean ${near}?`);
    } else if (option.arg === '') {
      const word = value.toLowerCase();
      if (!TRUE_WORDS.has(word) && !FALSE_WORDS.has(word))
        throw new ConfigError('CFG_ERR_VALUE', `${name} ${value}: give 1 or 0`);
      settings.push(switchSetting(table, option, name, TRUE_WORDS.has(word)));
    } else {
      const values = REPEATABLE.has(option.long[0]) ? value.split(/\s+/).filter((word) => word !== '') : [value];
      for (const one of values) settings.push({ option, value: one, shown: name, on: true });
    }
  }
  return settings;
}

/** Largest configuration file: far more than all options take. */
const MAX_CONFIG = 1 << 20;

/** Reads and parses a file: JSON if it is named so, else YAML. Throws ConfigError. */
export function readConfigFile(path: string, shown: string): unknown {
  let text: string;
  try {
    text = readText(path, MAX_CONFIG);
  } catch (error) {
    throw new ConfigError('CFG_ERR_VALUE', `${shown} ${path}: cannot read: ${describeSystemError(error)}`);
  }
  try {
    return path.endsWith('.json') ? (JSON.parse(text) as unknown) : parseYaml(text);
  } catch (error) {
    const [first] = messageOf(error).split('\n');
    throw new ConfigError('CFG_ERR_VALUE', `${shown} ${path}: ${first.replace(/:$/, '')}`);
  }
}

/** Loaded when it is needed only: it costs a start without a file nothing. */
function parseYaml(text: string): unknown {
  // eslint-disable-next-line @typescript-eslint/no-require-imports -- see above; import() would make options async
  const yaml = require('yaml') as typeof Yaml;
  return yaml.parse(text, { version: '1.2', prettyErrors: true, logLevel: 'error' }) as unknown;
}

/** The text of a scalar as it would stand on the command line, or null. */
function scalarText(value: unknown): string | null {
  if (typeof value === 'string') return value;
  if (typeof value === 'number' && Number.isFinite(value)) return String(value);
  return null;
}

/** Options of a parsed configuration file, `file` being its name for messages. Throws ConfigError. */
export function fileSettings<T extends OptionNames>(table: readonly T[], content: unknown, file: string): Setting<T>[] {
  const problem = (message: string): ConfigError => new ConfigError('CFG_ERR_VALUE', message);
  if (content === null || content === undefined) return [];
  if (typeof content !== 'object' || Array.isArray(content))
    throw problem(`${file}: give the options as keys and values, like "mtu: 1500"`);
  const settings: Setting<T>[] = [];
  for (const [key, value] of Object.entries(content) as [string, unknown][]) {
    const shown = `${file}: ${key}`;
    const option = table.find(({ long }) => long.includes(key));
    if (option === undefined) {
      const known = table.flatMap(({ long }) => long);
      const near = nearestName(key, known, Math.max(2, key.length / 4));
      throw problem(`${shown}: no such option${near === null ? '' : `, did you mean ${near}?`}`);
    }
    if (LINE_ONLY.has(option.long[0]) || option.long[0] === 'config')
      throw problem(`${shown}: allowed on the command line only`);
    if (option.arg === '') {
      if (typeof value !== 'boolean') throw problem(`${shown}: ${JSON.stringify(value)}: give true or false`);
      settings.push(switchSetting(table, option, shown, value));
      continue;
    }
    if (Array.isArray(value) && !REPEATABLE.has(option.long[0])) throw problem(`${shown}: give one value, not a list`);
    for (const one of Array.isArray(value) ? (value as unknown[]) : [value]) {
      const text = scalarText(one);
      if (text === null) throw problem(`${shown}: ${JSON.stringify(one)}: give text or a number (${option.arg})`);
      settings.push({ option, value: text, shown, on: true });
    }
  }
  return settings;
}
