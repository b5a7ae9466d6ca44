/** bench/report.md: every cell of one or more runs, the targets, and the remarks about the missed ones. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type GuestName } from './cases';
import { conditionLines, failures, markdownTable, table, type Report } from './report';
import { boundText, judge, unitOf, type Verdict } from './targets';

const REMARKS = join(__dirname, '../notes.json');

/** Written by hand: why cells are missed. `cells` are {@link Verdict} ids, with `*` for anything. */
interface Remark {
  readonly cells: readonly string[];
  /** The reason in a sentence, for docs/performance.md. */
  readonly short: string;
  /** What a profile of the case says. */
  readonly profile: string;
  /** What would move it. */
  readonly next: string;
}

const GUEST_TITLES: Readonly<Record<GuestName, string>> = {
  uml: 'User Mode Linux: a guest at native speed',
  qemu: 'Linux in QEMU, emulated',
  testpmd: 'DPDK testpmd: packets per second',
  bare: "A guest that is not the bottleneck: the back-end's own limit",
  netns: 'Network namespace',
};

const NOTES = [
  ['bulk-down, bulk-up', 'one connection, host to guest and guest to host; with -8 eight of them'],
  [
    'udp-down-N, udp-up-N',
    'datagrams of N bytes as fast as the sender can: an overload, so loss is expected; 8000 bytes are fragments on the cable',
  ],
  ['udp-down-paced, udp-up-paced', '10 000 datagrams of 1400 bytes a second'],
  ['rr, udp-rr', 'one byte there and one back, on one connection, in datagrams'],
  ['rr-loaded', 'rr beside one bulk transfer each way, on the same two processors'],
  ['crr', 'connect, one byte there and one back, close'],
  ['idle-N', 'bulk-down beside N idle connections'],
  ['start', 'the service by itself, no guest yet'],
  [
    'long-down, long-up',
    'a user-space cable of 1 Gbit/s with that round trip and that loss of frames each way; "direct" is the same program without a guest; the same frames are lost',
  ],
  ['pps-N', 'frames of N bytes from testpmd, counted where they arrive'],
  ['frames taken/s', 'descriptors that the back-end gave back to the guest; packets/s are those that arrived'],
  ['frames/s', 'frames through both rings, whatever their size; frames/CPU s: by the processor time of the back-end'],
  [
    '% of memcpy',
    'throughput by what one thread of this machine copies in blocks of 64 KiB between two areas larger than its caches, measured right before',
  ],
  [
    'beside-8, Pss MiB of one',
    'eight instances of the back-end side by side, no guest: private memory of one, and its part of what they share',
  ],
  ['a, 65520, IPv4', 'case, MTU told to the guest, address family'],
  ['CPU s/GB, CPU µs each', "the back-end's user and system time per 10⁹ bytes of payload, per transaction"],
  [
    '... at first',
    'in the first two seconds of that case after a boot, before anything is measured; with QEMU the back-end is warmed up by as much twice more',
  ],
  [
    'guest CPU s/GB',
    "user and system time of the guest's processes per 10⁹ bytes; with libslirp the back-end is part of them",
  ],
  ['interrupts/s', "of the guest's virtio devices, from its /proc/interrupts"],
  ['of p50 when idle', 'median latency, by that with nothing beside it, measured just before'],
  ['of Gbit/s beside 1', 'throughput beside so many idle connections, by that beside one'],
  [
    'bytes per flow',
    "growth of the back-end's anonymous resident memory from no idle flow to N; kernel sockets not counted; negative where the heap shrank meanwhile by more than the flows took",
  ],
  ['resident MiB', "the back-end's own resident memory when idle, files it maps included, the guest's memory not"],
  ['descriptors', 'a back-end that needs two for a flow cannot have 10 000 flows within 20 000'],
  ['guest retransmits', 'segments the guest sent again'],
  ['guest got twice', 'segments the guest had already (D-SACKs it sent)'],
  ['host retransmits', 'segments sent again on the veth pair, either way; on a long path, on that'],
  ['libslirp', "QEMU's -netdev user, MTU 1500 always; part of the QEMU process, so its CPU time cannot be told apart"],
] as const;

export function document(reports: readonly Report[]): string {
  return [
    '<!-- Written by `npm run bench:page` from bench/results and bench/notes.json. Do not edit. -->',
    '',
    '# Benchmark report',
    '',
    'Printed by the commands below and by nothing else. Look at the ratios: guest, back-ends and traffic share the cores',
    'of one machine, so absolute numbers say as much about it as about the back-ends. `bench/README.md` says how to run it.',
    '',
    ...targetSection(judge(reports), readRemarks()),
    ...reports.flatMap(section),
    '## What the words mean',
    '',
    ...NOTES.map(([word, meaning]) => `- ${word}: ${meaning}`),
    '',
  ].join('\n');
}

/** "12 met, 3 missed, 40 not measured." */
export function score(verdicts: readonly Verdict[]): string {
  const count = (state: Verdict['state']): string =>
    String(verdicts.filter((verdict) => verdict.state === state).length);
  return `${count('met')} met, ${count('MISSED')} missed, ${count('not measured')} not measured`;
}

/** Missed cells about which nobody has written a remark. */
export function unremarked(reports: readonly Report[]): string[] {
  const remarks = readRemarks();
  return judge(reports)
    .filter(({ state, id }) => state === 'MISSED' && !remarks.some((remark) => covers(remark, id)))
    .map(({ id }) => id);
}

/** Missed cells under the short reason of the first remark that covers them, in the order of the remarks. */
export function missedByRemark(verdicts: readonly Verdict[]): { short: string; cells: Verdict[] }[] {
  const missed = verdicts.filter(({ state }) => state === 'MISSED');
  const remarks = readRemarks();
  const reasonOf = ({ id }: Verdict): string => remarks.find((each) => covers(each, id))?.short ?? 'not explained yet';
  return [...remarks.map(({ short }) => short), 'not explained yet']
    .map((short) => ({ short, cells: missed.filter((verdict) => reasonOf(verdict) === short) }))
    .filter(({ cells }) => cells.length > 0);
}

function targetSection(verdicts: readonly Verdict[], remarks: readonly Remark[]): string[] {
  const used: Remark[] = [];
  const rows: string[][] = [];
  let group = '';
  for (const { id, target, state, detail } of verdicts) {
    const notes: string[] = [];
    for (const remark of state === 'MISSED' ? remarks.filter((each) => covers(each, id)) : []) {
      if (!used.includes(remark)) used.push(remark);
      notes.push(String(used.indexOf(remark) + 1));
    }
    const { case: name, guest, mtu, family } = target.cell;
    rows.push([
      target.group === group ? '' : target.group,
      `${name}, ${String(mtu)}, IPv${String(family)}, ${guest}`,
      `${boundText(target)}${unitOf(target)}`,
      detail,
      state,
      notes.join(', '),
    ]);
    group = target.group;
  }
  return [
    '## Targets',
    '',
    `${score(verdicts)}. Every cell is listed. A ratio is the median of the rounds, and so is a value, unless it says`,
    '"in any round". Of runs that have the same cell the first below counts. The last column numbers the remarks below',
    'the table.',
    '',
    markdownTable(['target', 'cell', 'bound', 'measured', 'state', 'remark'], rows, 6).trimEnd(),
    '',
    ...used.flatMap(({ profile, next }, index) => [
      `${String(index + 1)}. Profile: ${profile} What would move it: ${next}`,
      '',
    ]),
  ];
}

function section(report: Report): string[] {
  const failed = failures(report);
  return [
    `## ${title(report)}`,
    '',
    '```sh',
    report.options.commandLine,
    '```',
    '',
    ...conditionLines(report).map((line) => `- ${line}`),
    '',
    table(report).trimEnd(),
    '',
    ...(failed.length === 0 ? [] : ['Not measured:', '', ...failed.map((line) => `- ${line}`), '']),
  ];
}

function title({ options }: Report): string {
  if (options.strace) return `System calls (${options.guest})`;
  const delays = options.cases.map((each) => (each.kind === 'long-path' ? `${String(each.delayMs)} ms` : ''));
  if (!delays.includes('')) return `Long paths: ${[...new Set(delays)].join(', ')}`;
  if (options.cases.every(({ kind }) => kind === 'start' || kind === 'beside')) return 'Start and memory';
  if (options.guest === 'qemu' && options.accel === 'kvm') return 'Linux in QEMU, KVM';
  return GUEST_TITLES[options.guest];
}

function readRemarks(): Remark[] {
  return existsSync(REMARKS) ? (JSON.parse(readFileSync(REMARKS, 'utf8')) as Remark[]) : [];
}

function covers({ cells }: Remark, id: string): boolean {
  return cells.some((pattern) => {
    const escaped = pattern.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*');
    return new RegExp(`^${escaped}$`).test(id);
  });
}
