/** What is measured, as data. A case of a kind that exists needs a line here and nothing else. */

/** One connection, bytes as fast as they go. `down` is host to guest. */
export interface BulkCase {
  readonly kind: 'bulk';
  readonly name: string;
  readonly direction: 'down' | 'up';
}

/** One connection, a message each way in turn. */
export interface RequestResponseCase {
  readonly kind: 'request-response';
  readonly name: string;
  readonly bytes: number;
}

/** A connection for each byte asked for. */
export interface ConnectRequestCloseCase {
  readonly kind: 'connect-request-close';
  readonly name: string;
}

/** A bulk transfer beside connections that do nothing. They are opened on top of those of earlier cases and stay. */
export interface IdleCase {
  readonly kind: 'idle';
  readonly name: string;
  readonly direction: 'down' | 'up';
  readonly flows: number;
}

export type Case = BulkCase | RequestResponseCase | ConnectRequestCloseCase | IdleCase;

/** In this order in every round: idle flows last and ever more of them, because nothing closes them but the end. */
export const CASES: readonly Case[] = [
  { kind: 'bulk', name: 'bulk-down', direction: 'down' },
  { kind: 'bulk', name: 'bulk-up', direction: 'up' },
  { kind: 'request-response', name: 'rr', bytes: 1 },
  { kind: 'connect-request-close', name: 'crr' },
  { kind: 'idle', name: 'idle-1', direction: 'down', flows: 1 },
  { kind: 'idle', name: 'idle-100', direction: 'down', flows: 100 },
  { kind: 'idle', name: 'idle-1000', direction: 'down', flows: 1000 },
  { kind: 'idle', name: 'idle-10000', direction: 'down', flows: 10_000 },
];

/** What a sample may hold. `shown`: 'unless-zero' leaves a row out of the table that is 0 everywhere. */
export const METRICS = {
  gbits: { title: 'Gbit/s', digits: 2, better: 'more', shown: 'always' },
  cpuPerGigabyte: { title: 'CPU s/GB', digits: 3, better: 'less', shown: 'always' },
  perSecond: { title: 'transactions/s', digits: 0, better: 'more', shown: 'always' },
  p50: { title: 'p50 µs', digits: 0, better: 'less', shown: 'always' },
  p99: { title: 'p99 µs', digits: 0, better: 'less', shown: 'always' },
  cpuPerTransaction: { title: 'CPU µs each', digits: 1, better: 'less', shown: 'always' },
  besideOne: { title: 'of Gbit/s beside 1', digits: 2, better: 'more', shown: 'always' },
  bytesPerFlow: { title: 'bytes per flow', digits: 0, better: 'less', shown: 'always' },
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

/** One case of one back-end in one round: either values or the reason why there are none. */
export interface Sample {
  readonly backend: string;
  readonly case: string;
  readonly round: number;
  readonly values: Readonly<Partial<Record<MetricName, number>>>;
  readonly failed?: string;
}

/** Beside idle flows a bulk transfer keeps at least this part of what it has beside one. */
export const IDLE_FLOOR = 0.9;
/** Of ours, for each idle flow. */
export const BYTES_PER_FLOW_TARGET = 1024;
/** With fewer flows a back-end's memory says nothing about flows, and with fewer than the second number not enough for a
 * verdict: a heap breathes by megabytes. */
export const MIN_FLOWS_FOR_MEMORY = 1000;
export const MIN_FLOWS_FOR_VERDICT = 10_000;
