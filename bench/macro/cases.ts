/** What is measured, as data. A case of a kind that exists needs a line here and nothing else. */

export type Direction = 'down' | 'up';
export type Family = 4 | 6;

export const GUESTS = ['uml', 'qemu', 'testpmd', 'bare', 'netns'] as const;
export type GuestName = (typeof GUESTS)[number];

interface CaseBase {
  readonly name: string;
  /** Measured at every MTU and in every family asked for, or only at the first of each. */
  readonly matrix?: boolean;
  /** Guests whose default selection has it; others can be asked for it. */
  readonly guests: readonly GuestName[];
}

/** Bytes as fast as they go, on `streams` connections at once. `down` is host to guest. */
export interface BulkCase extends CaseBase {
  readonly kind: 'bulk';
  readonly direction: Direction;
  readonly streams: number;
}

/** Datagrams, `rate` a second; 0: as fast as the sender can. */
export interface DatagramCase extends CaseBase {
  readonly kind: 'datagrams';
  readonly direction: Direction;
  readonly bytes: number;
  readonly rate: number;
}

/** One connection or one datagram socket, a message each way in turn. */
export interface RequestResponseCase extends CaseBase {
  readonly kind: 'request-response';
  readonly protocol: 'tcp' | 'udp';
  readonly bytes: number;
  /** Beside a bulk transfer each way. */
  readonly loaded?: boolean;
}

/** A connection for each byte asked for. */
export interface ConnectRequestCloseCase extends CaseBase {
  readonly kind: 'connect-request-close';
}

/** A bulk transfer beside connections that do nothing. They are opened on top of those of earlier cases and stay. */
export interface IdleCase extends CaseBase {
  readonly kind: 'idle';
  readonly direction: Direction;
  readonly flows: number;
}

/** No guest: the back-end by itself, from its start to listening, and what it then holds. */
export interface StartCase extends CaseBase {
  readonly kind: 'start';
}

/** No guest: several of the back-end side by side, and what one of them then costs in memory. */
export interface BesideCase extends CaseBase {
  readonly kind: 'beside';
  readonly instances: number;
}

/** `pasta true`: from its start to the command's end. */
export interface CommandCase extends CaseBase {
  readonly kind: 'command';
}

/** A transfer over the delay box, beside the same one without a guest. */
export interface LongPathCase extends CaseBase {
  readonly kind: 'long-path';
  readonly direction: Direction;
  /** Round trip. */
  readonly delayMs: number;
  readonly bitsPerSecond: number;
  /** Of frames, each way. */
  readonly loss: number;
}

/** testpmd sends frames of so many bytes, Ethernet to payload, as fast as descriptors come free. */
export interface PacketCase extends CaseBase {
  readonly kind: 'packets';
  readonly bytes: number;
}

export type Case =
  | BulkCase
  | DatagramCase
  | RequestResponseCase
  | ConnectRequestCloseCase
  | IdleCase
  | StartCase
  | BesideCase
  | CommandCase
  | LongPathCase
  | PacketCase;

const ALL: readonly GuestName[] = ['uml', 'qemu', 'bare', 'netns'];
/** Guests that leave the back-end something to do. */
const FAST: readonly GuestName[] = ['uml', 'bare', 'netns'];
const UML: readonly GuestName[] = ['uml'];
const DIRECTIONS: readonly Direction[] = ['down', 'up'];
export const DATAGRAM_BYTES = [200, 1400, 8000] as const;
const PACED_RATE = 10_000;
export const LONG_DELAYS_MS = [20, 50, 100] as const;
export const LONG_LOSSES = [0, 0.001] as const;
const GIGABIT = 1e9;

/** In this order in every round: idle flows last and ever more of them, because nothing closes them but the end. */
export const CASES: readonly Case[] = [
  { kind: 'start', name: 'start', guests: UML },
  { kind: 'beside', name: 'beside-8', instances: 8, guests: ['uml', 'bare'] },
  { kind: 'command', name: 'true', guests: ['netns'] },
  ...DIRECTIONS.map((direction) => bulk(direction, 1, ALL)),
  ...DIRECTIONS.map((direction) => bulk(direction, 8, FAST)),
  ...DIRECTIONS.flatMap((direction) => DATAGRAM_BYTES.map((bytes) => datagrams(direction, bytes))),
  ...DIRECTIONS.map((direction) => ({ ...datagrams(direction, 1400, PACED_RATE), name: `udp-${direction}-paced` })),
  { kind: 'request-response', name: 'rr', protocol: 'tcp', bytes: 1, guests: ALL },
  { kind: 'request-response', name: 'rr-loaded', protocol: 'tcp', bytes: 1, loaded: true, guests: FAST },
  { kind: 'connect-request-close', name: 'crr', guests: ALL },
  { kind: 'request-response', name: 'udp-rr', protocol: 'udp', bytes: 1, guests: ALL },
  ...LONG_LOSSES.flatMap((loss) =>
    LONG_DELAYS_MS.flatMap((delayMs) => DIRECTIONS.map((direction) => longPath(direction, delayMs, loss))),
  ),
  { kind: 'packets', name: 'pps-200', bytes: 200, guests: ['testpmd'] },
  { kind: 'packets', name: 'pps-1400', bytes: 1400, guests: ['testpmd'] },
  ...[1, 100, 1000, 10_000].map((flows) => idle(flows)),
];

function bulk(direction: Direction, streams: number, guests: readonly GuestName[]): BulkCase {
  const name = `bulk-${direction}${streams === 1 ? '' : `-${String(streams)}`}`;
  return { kind: 'bulk', name, direction, streams, matrix: true, guests };
}

function datagrams(direction: Direction, bytes: number, rate = 0): DatagramCase {
  return { kind: 'datagrams', name: `udp-${direction}-${String(bytes)}`, direction, bytes, rate, guests: FAST };
}

/** In nobody's default selection: asked for with `--cases 'long-*'`. */
function longPath(direction: Direction, delayMs: number, loss: number): LongPathCase {
  const name = `long-${direction}-${String(delayMs)}ms${loss === 0 ? '' : `-${String(loss * 100)}%`}`;
  return { kind: 'long-path', name, direction, delayMs, bitsPerSecond: GIGABIT, loss, guests: [] };
}

function idle(flows: number): IdleCase {
  return { kind: 'idle', name: `idle-${String(flows)}`, direction: 'down', flows, guests: UML };
}

/** How long a case takes unless `--seconds` says otherwise: a long path has first to fill. */
export function defaultSeconds(each: Case): number {
  return each.kind === 'long-path' ? 6 : 2;
}

/** A case where it was measured. */
export interface Cell {
  readonly case: string;
  readonly guest: GuestName;
  readonly mtu: number;
  readonly family: Family;
}

export function cellKey({ case: name, guest, mtu, family }: Cell): string {
  return `${name} ${guest} ${String(mtu)} IPv${String(family)}`;
}

/** What a sample may hold. `shown`: 'unless-zero' leaves a row out of the table that is 0 everywhere. */
export const METRICS = {
  gbits: { title: 'Gbit/s', digits: 2, better: 'more', shown: 'always' },
  cpuPerGigabyte: { title: 'CPU s/GB', digits: 3, better: 'less', shown: 'always' },
  coldCpuPerGigabyte: { title: 'CPU s/GB at first', digits: 3, better: 'less', shown: 'always' },
  framesPerSecond: { title: 'frames/s', digits: 0, better: 'more', shown: 'always' },
  framesPerCpuSecond: { title: 'frames/CPU s', digits: 0, better: 'more', shown: 'always' },
  memcpyPercent: { title: '% of memcpy', digits: 1, better: 'more', shown: 'always' },
  guestCpuPerGigabyte: { title: 'guest CPU s/GB', digits: 2, better: 'less', shown: 'always' },
  packetsPerSecond: { title: 'packets/s', digits: 0, better: 'more', shown: 'always' },
  takenPerSecond: { title: 'frames taken/s', digits: 0, better: 'more', shown: 'always' },
  lossPercent: { title: 'loss %', digits: 2, better: 'less', shown: 'always' },
  cpuPerPackets: { title: 'CPU s/10⁵ packets', digits: 3, better: 'less', shown: 'always' },
  perSecond: { title: 'transactions/s', digits: 0, better: 'more', shown: 'always' },
  p50: { title: 'p50 µs', digits: 0, better: 'less', shown: 'always' },
  p99: { title: 'p99 µs', digits: 0, better: 'less', shown: 'always' },
  cpuPerTransaction: { title: 'CPU µs each', digits: 1, better: 'less', shown: 'always' },
  coldCpuPerTransaction: { title: 'CPU µs each at first', digits: 1, better: 'less', shown: 'always' },
  timesIdle: { title: 'of p50 when idle', digits: 1, better: 'less', shown: 'always' },
  unanswered: { title: 'unanswered', digits: 0, better: 'less', shown: 'unless-zero' },
  besideOne: { title: 'of Gbit/s beside 1', digits: 2, better: 'more', shown: 'always' },
  bytesPerFlow: { title: 'bytes per flow', digits: 0, better: 'less', shown: 'always' },
  startMs: { title: 'ms to listening', digits: 0, better: 'less', shown: 'always' },
  commandMs: { title: 'ms to the end of `true`', digits: 0, better: 'less', shown: 'always' },
  residentMiB: { title: 'resident MiB', digits: 1, better: 'less', shown: 'always' },
  privateMiB: { title: 'private MiB', digits: 1, better: 'less', shown: 'always' },
  besideMiB: { title: 'Pss MiB of one', digits: 1, better: 'less', shown: 'always' },
  interrupts: { title: 'interrupts/s', digits: 0, better: 'less', shown: 'always' },
  guestRetransmits: { title: 'guest retransmits', digits: 0, better: 'less', shown: 'always' },
  duplicates: { title: 'guest got twice', digits: 0, better: 'less', shown: 'unless-zero' },
  hostRetransmits: { title: 'host retransmits', digits: 0, better: 'less', shown: 'unless-zero' },
} as const satisfies Record<string, Metric>;

interface Metric {
  readonly title: string;
  readonly digits: number;
  readonly better: 'more' | 'less';
  readonly shown: 'always' | 'unless-zero';
}

export type MetricName = keyof typeof METRICS;
export type Values = Partial<Record<MetricName, number>>;

/** One cell of one back-end in one round: either values or the reason why there are none. */
export interface Sample extends Cell {
  readonly backend: string;
  readonly round: number;
  readonly values: Readonly<Values>;
  readonly failed?: string;
  /** System calls by name while the case ran (`--strace`); the values are then those of a back-end slowed down. */
  readonly calls?: Readonly<Record<string, number>>;
}

/** With fewer flows a back-end's memory says nothing about flows, and with fewer than the second number not enough for a
 * verdict: a heap breathes by megabytes. */
export const MIN_FLOWS_FOR_MEMORY = 1000;
export const MIN_FLOWS_FOR_VERDICT = 10_000;
