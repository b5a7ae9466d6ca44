/** The command line of the bench. */
import { existsSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { CASES, type Case } from './cases';

export const OUR_NAME = 'tubetti';

/** A vhost-user back-end with passt's options. */
export interface BackendSpec {
  readonly name: string;
  readonly argv: readonly string[];
}

/** The options that say what was measured; they go into reports. */
export interface RunOptions {
  readonly rounds: number;
  readonly seconds: number;
  readonly cases: readonly Case[];
  readonly mtu: number;
  readonly family: 4 | 6;
  /** The command line as it may stand in a document: without this machine's paths. */
  readonly commandLine: string;
}

export interface Options {
  readonly run: RunOptions;
  readonly peers: readonly BackendSpec[];
  /** The UML kernel, or null for the distribution's. */
  readonly kernel: string | null;
  readonly json: string | null;
  readonly write: string | null;
  /** Nothing is measured: the report of an earlier run's JSON is printed again. */
  readonly from: string | null;
}

export class UsageError extends Error {}

export const HELP = `Usage: npm run bench -- [OPTION]...

Boots a User Mode Linux guest on Tubetti and on each peer in turn, round by round, in namespaces made for it, and prints
a table of medians, their ranges, and the ratios of ours to theirs. Without --peer a second Tubetti is the peer: its
ratios are the noise of this machine.

  --peer NAME=COMMAND   another vhost-user back-end with passt's options, repeatable. It is run as
                        COMMAND --vhost-user --foreground --mtu N --socket PATH; words are separated by spaces
  --uml PATH            a User Mode Linux kernel. The distributions' own needs the protocol feature BACKEND_REQ of a
                        back-end, which passt does not offer
  --rounds N            rounds; each runs every back-end once, in turning order (default 5)
  --seconds N           how long each case runs (default 4)
  --cases A,B           some of: ${CASES.map(({ name }) => name).join(', ')} (default: all)
  --mtu N               MTU told to the guest (default 65520)
  --family 4|6          IPv4 or IPv6 (default 4)
  --json PATH           also writes every sample
  --write PATH          also writes the table as a document (docs/performance.md)
  --from PATH           measures nothing: prints (and writes) what an earlier run's --json holds
  --help                this text

A quick look: npm run bench -- --rounds 1 --seconds 2 --cases bulk-down,bulk-up
`;

/** @throws UsageError */
export function parseOptions(argv: readonly string[]): Options | 'help' {
  const values = parse(argv);
  if (values.help === true) return 'help';
  const peers = (values.peer ?? []).map(parsePeer);
  const names = [OUR_NAME, ...peers.map(({ name }) => name)];
  if (new Set(names).size !== names.length)
    throw new UsageError(`--peer: two back-ends of one name (${names.join(', ')})`);
  const family = number('--family', values.family ?? '4', 4, 6);
  if (family !== 4 && family !== 6) throw new UsageError('--family wants 4 or 6');
  const rounds = whole('--rounds', values.rounds ?? '5', 1, 1000);
  const seconds = number('--seconds', values.seconds ?? '4', 0.1, 3600);
  const mtu = whole('--mtu', values.mtu ?? '65520', 1280, 65520);
  const run: RunOptions = {
    rounds,
    seconds,
    cases: values.cases === undefined ? CASES : values.cases.split(',').map(caseNamed),
    mtu,
    family,
    commandLine: [
      'npm run bench --',
      ...peers.map(({ name, argv }) => quote(`--peer ${name}=`, argv.map(withoutDirectory))),
      ...(values.uml === undefined ? [] : [`--uml ${basename(values.uml)}`]),
      ...[`--rounds ${String(rounds)}`, `--seconds ${String(seconds)}`],
      ...(values.cases === undefined ? [] : [`--cases ${values.cases}`]),
      ...[`--mtu ${String(mtu)}`, `--family ${String(family)}`],
      ...(values.write === undefined ? [] : [`--write ${values.write}`]),
    ].join(' '),
  };
  return {
    run,
    peers,
    kernel: values.uml === undefined ? null : resolve(values.uml),
    json: values.json ?? null,
    write: values.write ?? null,
    from: values.from ?? null,
  };
}

function parse(argv: readonly string[]) {
  const text = { type: 'string' } as const;
  try {
    return parseArgs({
      args: [...argv],
      options: {
        peer: { type: 'string', multiple: true },
        ...{
          uml: text,
          rounds: text,
          seconds: text,
          cases: text,
          mtu: text,
          family: text,
          json: text,
          write: text,
          from: text,
        },
        help: { type: 'boolean' },
      },
    }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function parsePeer(text: string): BackendSpec {
  const equals = text.indexOf('=');
  const argv = text
    .slice(equals + 1)
    .split(' ')
    .filter((word) => word !== '')
    // It starts in another directory: that of the mount namespace's root.
    .map((word) => (word.includes('/') && existsSync(word) ? resolve(word) : word));
  if (equals < 1 || argv.length === 0) throw new UsageError(`--peer wants NAME=COMMAND, not ${text}`);
  return { name: text.slice(0, equals), argv };
}

function caseNamed(name: string): Case {
  const found = CASES.find((each) => each.name === name);
  if (found === undefined) throw new UsageError(`--cases: no case ${name}`);
  return found;
}

function number(option: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (text === '' || !(value >= least && value <= most)) {
    throw new UsageError(`${option} wants a number from ${String(least)} to ${String(most)}, not ${text}`);
  }
  return value;
}

function whole(option: string, text: string, least: number, most: number): number {
  const value = number(option, text, least, most);
  if (!Number.isInteger(value)) throw new UsageError(`${option} wants a whole number`);
  return value;
}

function withoutDirectory(word: string): string {
  return word.startsWith('/') ? basename(word) : word;
}

function quote(prefix: string, words: readonly string[]): string {
  const text = words.join(' ');
  return words.length === 1 ? prefix + text : `${prefix}'${text}'`;
}
