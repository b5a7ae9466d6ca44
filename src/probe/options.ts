/** The command line of `tubetti probe`. */
import { type OptionNames, parseLine } from '../cli/getopt';
import { ConfigError } from '../errors';

export interface ProbeOptions {
  readonly action: 'help' | 'list' | 'run';
  /** '' if --spawn has to make one. */
  readonly socket: string;
  readonly spawn: string | null;
  readonly json: boolean;
  /** Only checks with this in their id or paragraph; '' for all. */
  readonly only: readonly string[];
  readonly timeoutMs: number;
}

interface ProbeOption extends OptionNames {
  readonly help: string;
}

export const PROBE_OPTIONS: readonly ProbeOption[] = [
  { long: ['socket'], short: 's', arg: 'PATH', help: 'Unix socket that the back-end listens on' },
  {
    long: ['spawn'],
    short: '',
    arg: 'COMMAND',
    help: 'start the back-end with this shell command for each check ({}: the socket); tells crashes from closed connections',
  },
  {
    long: ['only'],
    short: 'o',
    arg: 'PATTERN',
    help: 'run only checks with PATTERN in their id or paragraph, * matching anything; repeatable',
  },
  { long: ['list'], short: 'l', arg: '', help: 'list the checks and exit' },
  { long: ['json'], short: 'j', arg: '', help: 'print one JSON object instead of text' },
  { long: ['timeout'], short: '', arg: 'MS', help: 'time limit for each reply, in milliseconds (default 2000)' },
  { long: ['help'], short: 'h', arg: '', help: 'show this help and exit' },
];

const DEFAULT_TIMEOUT_MS = 2000;
const MAX_TIMEOUT_MS = 600_000;
/** sun_path, without the 0 at its end. */
const MAX_PATH = 107;

function timeoutOf(text: string): number {
  const ms = Number(text);
  if (!/^\d+$/.test(text) || ms < 10 || ms > MAX_TIMEOUT_MS) {
    throw new ConfigError(
      'CFG_ERR_VALUE',
      `--timeout ${text}: give a number of milliseconds from 10 to ${MAX_TIMEOUT_MS}`,
    );
  }
  return ms;
}

/** Throws ConfigError. */
export function parseProbeLine(argv: readonly string[]): ProbeOptions {
  let action = 'run' as ProbeOptions['action'];
  let socket = '';
  let spawn = null as string | null;
  let json = false;
  let timeoutMs = DEFAULT_TIMEOUT_MS;
  const only: string[] = [];
  const rest = parseLine(PROBE_OPTIONS, argv, (option, value, shown) => {
    if (option.arg !== '' && value === '') throw new ConfigError('CFG_ERR_VALUE', `${shown}: give a ${option.arg}`);
    switch (option.long[0]) {
      case 'socket':
        socket = value;
        break;
      case 'spawn':
        spawn = value;
        break;
      case 'only':
        only.push(value);
        break;
      case 'list':
        action = 'list';
        break;
      case 'json':
        json = true;
        break;
      case 'timeout':
        timeoutMs = timeoutOf(value);
        break;
      case 'help':
        action = 'help';
        return false;
    }
    return true;
  });
  if (action === 'help') return { action, socket, spawn, json, only, timeoutMs };
  if (rest.length > 0)
    throw new ConfigError('CFG_ERR_USAGE', `extra argument "${rest[0]}": only options are accepted (see probe --help)`);
  if (action === 'run' && socket === '' && spawn === null) {
    throw new ConfigError('CFG_ERR_USAGE', 'give --socket PATH or --spawn COMMAND (see probe --help)');
  }
  if (Buffer.byteLength(socket) > MAX_PATH) {
    throw new ConfigError('CFG_ERR_VALUE', `--socket ${socket}: give a path of at most ${MAX_PATH} bytes`);
  }
  return { action, socket, spawn, json, only, timeoutMs };
}

/** True if a check's name fits one of the patterns; none: all do. */
export function matches(patterns: readonly string[], ...names: readonly string[]): boolean {
  if (patterns.length === 0) return true;
  return patterns.some((pattern) => {
    const source = pattern.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*');
    const expression = new RegExp(source, 'i');
    return names.some((name) => expression.test(name));
  });
}

export function probeUsage(): string {
  const rows = PROBE_OPTIONS.map(({ long, short, arg, help }) => {
    const names = `  ${short === '' ? '   ' : `-${short},`} --${long[0]}${arg === '' ? '' : ` ${arg}`}`;
    return `${names.padEnd(26)}${help}`;
  });
  return `Usage: tubetti probe --socket PATH [OPTION]...
       tubetti probe --spawn 'COMMAND --socket {}' [OPTION]...

Checks a vhost-user network back-end, Tubetti or any other, against the vhost-user and virtio
specifications: as a front-end it says all that is legal, illegal and out of order, and prints what
passed, failed or was skipped by paragraph. It connects to that socket only, again for each check.

${rows.join('\n')}

MUST: a rule of a specification. SHOULD: advice of one; "weak" if not taken. robustness: no
specification says what to answer; the back-end must not hang or die, and must serve the next
front-end. Exit status: 0 if no MUST and no robustness check failed, 1 if one did, 2 if the
command line or the back-end could not be used.

Example: tubetti probe --spawn 'tubetti --foreground --socket {}'
`;
}
