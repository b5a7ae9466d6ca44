/** The command line of the bench. */
import { existsSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { MODERATION_LEVELS } from '../../src/dataplane/commands';
import type { Accelerator } from '../../test/support/world/qemu';
import { CASES, GUESTS, type Case, type Family, type GuestName } from './cases';

export const OUR_NAME = 'tubetti';
/** QEMU's own stack, `-netdev user`. */
export const SLIRP_NAME = 'libslirp';
/** A peer of this name, with `--guest netns`, has slirp4netns's command line. */
const SLIRP4NETNS = 'slirp4netns';
/** No guest: the traffic program in the host's namespace. */
export const DIRECT_NAME = 'direct';

/** A vhost-user back-end with passt's options. */
export interface VhostUserSpec {
  readonly kind: 'vhost-user';
  readonly name: string;
  readonly argv: readonly string[];
}

/** The network of a namespace, with `--guest netns`. */
export interface NamespaceSpec {
  readonly kind: 'namespace';
  readonly name: string;
  readonly argv: readonly string[];
  readonly dialect: 'pasta' | 'slirp4netns';
}

export interface BuiltInSpec {
  readonly kind: 'slirp' | 'direct';
  readonly name: string;
}

export type BackendSpec = VhostUserSpec | NamespaceSpec | BuiltInSpec;

/** How the driver of `--guest bare` works. */
export interface BareOptions {
  /** eventfd: it sleeps until the call descriptor is readable, as KVM's irqfd is; poll: it looks all the time. */
  readonly interrupts: 'eventfd' | 'poll';
  /** What it would take of what the back-end offers, as TUBETTI_FEATURES. */
  readonly features: string;
  /** Descriptors of each ring. */
  readonly ring: number;
}

/** Ours with other arguments, under a name of its own. */
export interface Variant {
  readonly name: string;
  readonly args: readonly string[];
}

/** The options that say what was measured; they go into reports. */
export interface RunOptions {
  readonly guest: GuestName;
  readonly rounds: number;
  /** What QEMU runs the guest by. */
  readonly accel: Accelerator;
  readonly bare: BareOptions;
  /** For every case; null: as long as each case wants by itself. */
  readonly seconds: number | null;
  readonly cases: readonly Case[];
  readonly mtus: readonly number[];
  readonly families: readonly Family[];
  /** System calls are counted, and nothing else is worth reading. */
  readonly strace: boolean;
  /** The command line as it may stand in a document: without this machine's paths. */
  readonly commandLine: string;
}

export interface Options {
  readonly run: RunOptions;
  readonly peers: readonly BackendSpec[];
  /** More arguments of ours. */
  readonly oursArgs: readonly string[];
  /** Beside it in every round. */
  readonly oursVariants: readonly Variant[];
  /** The UML kernel, or null for the distribution's. */
  readonly kernel: string | null;
  /** Nothing is begun after so long. */
  readonly minutes: number;
  readonly json: string | null;
  readonly write: string | null;
  /** Nothing is measured: the reports of earlier runs' JSON are printed again, in this order. */
  readonly from: readonly string[];
}

export class UsageError extends Error {}

const FEATURES = [
  ...['csum', 'guest_csum', 'guest_tso4', 'guest_tso6', 'host_tso4', 'host_tso6', 'mrg_rxbuf', 'event_idx'],
] as const;

export const HELP = `Usage: npm run bench -- [OPTION]...

Boots a guest on Tubetti and on each peer, measures each case with one right after the other, round by round, in
namespaces made for it, and prints a table of medians, their ranges, and the ratios of ours to theirs. Without --peer a
second Tubetti is the peer: its ratios are the noise of this machine.

  --peer NAME=COMMAND   another vhost-user back-end with passt's options, repeatable. It is run as
                        COMMAND --vhost-user --foreground --mtu N --socket PATH; words are separated by spaces.
                        With --guest netns a COMMAND with the options of pasta, or of slirp4netns if that is its NAME
  --peer ${SLIRP_NAME}       QEMU's own -netdev user, with --guest qemu. It is part of the QEMU process: no CPU time or
                        memory of its own, and always an MTU of 1500
  --ours-args 'ARG...'  more arguments of this Tubetti
  --variant NAME='ARG...'  this Tubetti once more with other arguments, as a peer, repeatable
  --moderation A,B      short for a variant of each of these levels: off, standard, adaptive (--ours-args aside, this
                        Tubetti itself is adaptive)
  --policies            short for two variants, each with a policy of 1000 rules of which the last matches: addresses and
                        names
  --guest NAME          uml: User Mode Linux; qemu: Linux in QEMU; testpmd: DPDK, packets per second; bare: a native
                        front-end that is never what is waited for, which shows the back-end's own limit; netns: a
                        network namespace, and this Tubetti as pasta (default uml)
  --accel NAME          with --guest qemu: tcg (emulated, the default) or kvm
  --interrupts NAME     with --guest bare: eventfd (it sleeps until there is one, the default) or poll
  --features LIST       with --guest bare: what its driver takes of what is offered, from left to right: all, none, NAME,
                        -NAME; names: ${FEATURES.join(' ')} (default all)
  --ring N              with --guest bare: descriptors of each ring, 4 to 1024, a power of two (default 256)
  --uml PATH            a User Mode Linux kernel. The distributions' own needs the protocol feature BACKEND_REQ of a
                        back-end, which passt does not offer
  --rounds N            rounds; each boots every back-end's guest anew (default 5)
  --seconds N           how long each case runs (default 2, long paths 6)
  --cases A,B           names or patterns (default: all that suit the guest, but for long-*):
${caseList()}
  --mtu N,N             MTUs told to the guest; only bulk cases run at more than the first (default 65520,1500)
  --family 4|6|4,6      IPv4, IPv6; only bulk cases run in more than the first (default 4,6)
  --streams N,N         of the bulk cases only those with so many connections
  --strace              counts the back-end's system calls (strace -f -c) instead; it is slow meanwhile
  --minutes N           begins nothing after so long; what is left is listed as not measured
  --json PATH           where the samples go as they come (default .cache/bench/last.json)
  --write PATH          also writes the full report (bench/report.md)
  --from PATH           measures nothing: prints (and writes) what an earlier run's JSON holds; repeatable: the page
                        then has a section for each
  --help                this text
  --guests N            another bench: what N services on a host cost (--guests N --help)

A quick look: npm run bench -- --rounds 1 --seconds 1 --cases 'bulk-*' --mtu 65520 --family 4
`;

function caseList(): string {
  const lines = [''];
  for (const { name } of CASES) {
    if (lines[lines.length - 1].length + name.length > 90) lines.push('');
    lines[lines.length - 1] += ` ${name}`;
  }
  return lines.map((line) => `                       ${line}`).join('\n');
}

/** @throws UsageError */
export function parseOptions(argv: readonly string[]): Options | 'help' {
  const values = parse(argv);
  if (values.help === true) return 'help';
  const guest = GUESTS.find((name) => name === (values.guest ?? 'uml'));
  if (guest === undefined) throw new UsageError(`--guest wants one of ${GUESTS.join(', ')}, not ${values.guest}`);
  if (values.uml !== undefined && guest !== 'uml') throw new UsageError(`--uml is of no use with --guest ${guest}`);
  const peers = (values.peer ?? []).map((text) => parsePeer(text, guest));
  const spelled = [...(values.variant ?? []).map(parseVariant), ...moderationVariants(values.moderation)];
  const oursVariants = [...spelled, ...(values.policies === true ? policyVariants() : [])];
  const oursArgs = words(values['ours-args'] ?? '');
  const names = [OUR_NAME, ...oursVariants.map(({ name }) => name), ...peers.map(({ name }) => name)];
  if (new Set(names).size !== names.length || names.includes(DIRECT_NAME)) {
    throw new UsageError(
      `--peer, --variant: each back-end needs a name of its own (${[...names, DIRECT_NAME].join(', ')})`,
    );
  }
  const streams = values.streams?.split(',').map((text) => whole('--streams', text, 1, 1000)) ?? null;
  const chosen = values.cases === undefined ? defaultCases(guest) : matchingCases(values.cases);
  const cases = chosen.filter((each) => each.kind !== 'bulk' || (streams?.includes(each.streams) ?? true));
  for (const each of cases) refuseMisfit(each, guest);
  if (cases.length === 0) throw new UsageError('--cases and --streams leave nothing to measure');
  const rounds = whole('--rounds', values.rounds ?? '5', 1, 1000);
  const run: RunOptions = {
    guest,
    accel: accelOf(values.accel, guest),
    bare: bareOf(values, guest),
    rounds,
    seconds: values.seconds === undefined ? null : number('--seconds', values.seconds, 0.1, 3600),
    cases,
    mtus: (values.mtu ?? '65520,1500').split(',').map((text) => whole('--mtu', text, 1280, 65520)),
    families: (values.family ?? '4,6').split(',').map(parseFamily),
    strace: values.strace === true,
    commandLine: [
      'npm run bench --',
      ...(oursArgs.length === 0 ? [] : [`--ours-args '${oursArgs.join(' ')}'`]),
      ...spelled.map(({ name, args }) => `--variant '${name}=${args.join(' ')}'`),
      ...(values.policies === true ? ['--policies'] : []),
      ...peers.map((peer) => quote('--peer ', peerText(peer))),
      ...(guest === 'uml' ? [] : [`--guest ${guest}`]),
      ...(['accel', 'interrupts', 'features', 'ring'] as const).flatMap((name) => {
        const value = values[name];
        return value === undefined ? [] : [`--${name} ${value}`];
      }),
      ...(values.uml === undefined ? [] : [`--uml ${basename(values.uml)}`]),
      `--rounds ${String(rounds)}`,
      ...(['seconds', 'cases', 'mtu', 'family', 'streams'] as const).flatMap((name) => {
        const value = values[name];
        return value === undefined ? [] : [`--${name} ${value.includes('*') ? `'${value}'` : value}`];
      }),
      ...(values.strace === true ? ['--strace'] : []),
    ].join(' '),
  };
  return {
    run,
    peers,
    oursArgs,
    oursVariants,
    kernel: values.uml === undefined ? null : resolve(values.uml),
    minutes: values.minutes === undefined ? Infinity : number('--minutes', values.minutes, 0.1, 100_000),
    json: values.json ?? null,
    write: values.write ?? null,
    from: values.from ?? [],
  };
}

function parse(argv: readonly string[]) {
  const text = { type: 'string' } as const;
  const many = { type: 'string', multiple: true } as const;
  const flag = { type: 'boolean' } as const;
  try {
    return parseArgs({
      args: withJoinedArguments(argv),
      options: {
        ...{ peer: many, guest: text, uml: text, rounds: text, seconds: text, cases: text, mtu: text, family: text },
        ...{
          variant: many,
          moderation: text,
          policies: flag,
          'ours-args': text,
          accel: text,
          interrupts: text,
          features: text,
          ring: text,
        },
        ...{ streams: text, strace: flag, minutes: text, json: text, write: text, from: many, help: flag },
      },
    }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

/** parseArgs takes no value that begins with a dash unless it stands behind a `=`. */
function withJoinedArguments(argv: readonly string[]): string[] {
  const at = argv.indexOf('--ours-args');
  if (at < 0 || at + 1 >= argv.length) return [...argv];
  return [...argv.slice(0, at), `--ours-args=${argv[at + 1]}`, ...argv.slice(at + 2)];
}

function parsePeer(text: string, guest: GuestName): BackendSpec {
  if (text === SLIRP_NAME) {
    if (guest !== 'qemu') throw new UsageError(`--peer ${SLIRP_NAME} wants --guest qemu`);
    return { kind: 'slirp', name: SLIRP_NAME };
  }
  const equals = text.indexOf('=');
  const argv = words(text.slice(equals + 1));
  if (equals < 1 || argv.length === 0) throw new UsageError(`--peer wants NAME=COMMAND or ${SLIRP_NAME}, not ${text}`);
  const name = text.slice(0, equals);
  if (guest !== 'netns') return { kind: 'vhost-user', name, argv };
  return { kind: 'namespace', name, argv, dialect: name === SLIRP4NETNS ? name : 'pasta' };
}

function parseVariant(text: string): Variant {
  const equals = text.indexOf('=');
  const args = words(text.slice(equals + 1));
  if (equals < 1 || args.length === 0) throw new UsageError(`--variant wants NAME='ARG...', not ${text}`);
  return { name: text.slice(0, equals), args };
}

function moderationVariants(list: string | undefined): Variant[] {
  return (list?.split(',') ?? []).map((text) => {
    const level = MODERATION_LEVELS.find((name) => name === text);
    if (level === undefined) {
      throw new UsageError(
        `--moderation wants levels of ${MODERATION_LEVELS.join(', ')}, separated by commas, not ${text}`,
      );
    }
    return { name: level, args: ['--moderation', level] };
  });
}

/** Rules that match no flow of the bench, and one that matches all. */
function policyVariants(): Variant[] {
  const args = (host: (i: number) => string): string[] => [
    ...Array.from({ length: 999 }, (_, i) => ['--deny', `tcp/${host(i)}`]).flat(),
    ...['--allow', 'any'],
  ];
  return [
    { name: 'addresses', args: args((i) => `10.99.${String(i >> 8)}.${String(i & 255)}:443`) },
    { name: 'names', args: args((i) => `n${String(i)}.example.com:443`) },
  ];
}

/** Of a command line in one argument. It starts in another directory, that of the mount namespace's root. */
function words(text: string): string[] {
  return text
    .split(' ')
    .filter((word) => word !== '')
    .map((word) => (word.includes('/') && existsSync(word) ? resolve(word) : word));
}

function accelOf(text: string | undefined, guest: GuestName): Accelerator {
  if (text !== undefined && guest !== 'qemu') throw new UsageError(`--accel is of no use with --guest ${guest}`);
  if (text !== undefined && text !== 'tcg' && text !== 'kvm')
    throw new UsageError(`--accel wants tcg or kvm, not ${text}`);
  return text ?? 'tcg';
}

function bareOf(
  values: { readonly interrupts?: string; readonly features?: string; readonly ring?: string },
  guest: GuestName,
): BareOptions {
  for (const name of ['interrupts', 'features', 'ring'] as const) {
    if (values[name] !== undefined && guest !== 'bare')
      throw new UsageError(`--${name} is of no use with --guest ${guest}`);
  }
  const { interrupts = 'eventfd', features = 'all' } = values;
  if (interrupts !== 'eventfd' && interrupts !== 'poll') {
    throw new UsageError(`--interrupts wants eventfd or poll, not ${interrupts}`);
  }
  const known: readonly string[] = ['all', 'none', ...FEATURES, ...FEATURES.map((name) => `-${name}`)];
  const unknown = features.split(',').find((word) => !known.includes(word));
  if (unknown !== undefined)
    throw new UsageError(`--features: no feature ${unknown}; there are ${FEATURES.join(', ')}`);
  const ring = whole('--ring', values.ring ?? '256', 4, 1024);
  if ((ring & (ring - 1)) !== 0) throw new UsageError(`--ring wants a power of two, not ${String(ring)}`);
  return { interrupts, features, ring };
}

function peerText(peer: BackendSpec): string {
  return 'argv' in peer ? `${peer.name}=${peer.argv.map(withoutDirectory).join(' ')}` : peer.name;
}

function parseFamily(text: string): Family {
  if (text !== '4' && text !== '6') throw new UsageError(`--family wants 4, 6 or 4,6, not ${text}`);
  return text === '4' ? 4 : 6;
}

function defaultCases(guest: GuestName): readonly Case[] {
  return CASES.filter(({ guests }) => guests.includes(guest));
}

/** Cases that a list of names and patterns selects, in the order of the table. */
function matchingCases(list: string): readonly Case[] {
  const selected = new Set<Case>();
  for (const pattern of list.split(',')) {
    const escaped = pattern.replace(/[.+^${}()|[\]\\]/g, '\\$&');
    const expression = new RegExp(`^${escaped.replaceAll('*', '.*').replaceAll('?', '.')}$`);
    const matching = CASES.filter(({ name }) => expression.test(name));
    if (matching.length === 0) throw new UsageError(`--cases: no case ${pattern}`);
    for (const each of matching) selected.add(each);
  }
  return CASES.filter((each) => selected.has(each));
}

function refuseMisfit({ kind, name }: Case, guest: GuestName): void {
  if ((kind === 'packets') !== (guest === 'testpmd') && kind !== 'start' && kind !== 'beside') {
    throw new UsageError(`--cases: ${name} does not go with --guest ${guest}`);
  }
  if ((kind === 'start' || kind === 'beside' || kind === 'long-path') && guest === 'netns') {
    throw new UsageError(`--cases: ${name} does not go with --guest netns`);
  }
  if (kind === 'command' && guest !== 'netns') throw new UsageError(`--cases: ${name} wants --guest netns`);
  // Its connections live in one process without a table for thousands, and its windows and buffers are fixed.
  if (guest === 'bare' && (kind === 'idle' || kind === 'long-path')) {
    throw new UsageError(`--cases: ${name} does not go with --guest bare`);
  }
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
  if (!Number.isInteger(value)) throw new UsageError(`${option} wants a whole number, not ${text}`);
  return value;
}

function withoutDirectory(word: string): string {
  return word.startsWith('/') ? basename(word) : word;
}

function quote(prefix: string, text: string): string {
  return text.includes(' ') ? `${prefix}'${text}'` : prefix + text;
}
