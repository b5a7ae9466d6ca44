/**
 * `tubetti top`: who talks to whom, and how fast, every second. On a terminal it takes the whole screen and reads keys;
 * otherwise, or with --batch, it writes one table after the other.
 */
import type { FlowInfo } from '../control/types';
import type { ControlClient } from './client';
import { clientFor, COMMON_OPTIONS, type CtlOption, DONE, guarded, optionLines, readLine, usageError } from './command';
import { type Column, COLUMNS, flowLines, shortNumber } from './flow-table';
import { allFlows, PROTOCOL_OPTION, protocolOf } from './flows';

const PROGRAM = 'tubetti top';
const EVERY_MS = 1000;

export const TOP_OPTIONS: readonly CtlOption[] = [
  ...COMMON_OPTIONS,
  PROTOCOL_OPTION,
  {
    long: ['batch'],
    short: 'b',
    arg: '',
    help: 'write tables one after the other, read no keys (default without a terminal)',
  },
  { long: ['once'], short: '1', arg: '', help: 'write one table, with rates over a second, and exit' },
  {
    long: ['most'],
    short: 'n',
    arg: 'NUMBER',
    help: 'flows shown at the most (default: what the terminal holds, else all)',
  },
];

const KEYS = 'q quit, p pause, r sort by rate, f from guest, t to guest, a age';

export function topUsage(): string {
  return `Usage: tubetti top [OPTION]...

Shows the flows of a service that was started with --control PATH, the fastest first, every second.
Rates are payload bytes per second from and to the guest.

${optionLines(TOP_OPTIONS)}

Keys: ${KEYS}.

With --json: an array a line, every second, with the members "fromRate" and "toRate".

Exit status: 0 if it was done; 1 if the service refused it; 2 if the command line cannot be used, or
no service answers.
`;
}

export interface RatedFlow extends FlowInfo {
  /** Bytes per second. */
  readonly fromRate: number;
  readonly toRate: number;
}

export type Order = 'rate' | 'from' | 'to' | 'age';

const KEY_ORDERS: Readonly<Record<string, Order>> = { r: 'rate', f: 'from', t: 'to', a: 'age' };

/** What is remembered of a flow between two looks. */
interface Seen {
  readonly fromGuest: number;
  readonly toGuest: number;
  readonly at: number;
}

/** Rates from one look to the next. */
export class Rates {
  private seen = new Map<string, Seen>();

  /** Flows as they were at `now`, ms. One that is seen for the first time has the rate since it began, or since a second. */
  next(flows: readonly FlowInfo[], now: number): RatedFlow[] {
    const seen = new Map<string, Seen>();
    const first = this.seen.size === 0;
    const rated = flows.map((flow): RatedFlow => {
      const { id, fromGuest, toGuest, startedAt } = flow;
      seen.set(id, { fromGuest, toGuest, at: now });
      const before = this.seen.get(id);
      const youth = now - startedAt;
      // Of an old one that nobody saw before nothing can be said.
      if (before === undefined && (first || youth > 2 * EVERY_MS)) return { ...flow, fromRate: 0, toRate: 0 };
      const seconds = Math.max(1, before === undefined ? Math.max(youth, EVERY_MS) : now - before.at) / 1000;
      return {
        ...flow,
        fromRate: Math.max(0, (fromGuest - (before?.fromGuest ?? 0)) / seconds),
        toRate: Math.max(0, (toGuest - (before?.toGuest ?? 0)) / seconds),
      };
    });
    this.seen = seen;
    return rated;
  }
}

function keyOf(flow: RatedFlow, order: Order): number {
  switch (order) {
    case 'from':
      return flow.fromRate;
    case 'to':
      return flow.toRate;
    case 'age':
      return flow.startedAt;
    case 'rate':
      return flow.fromRate + flow.toRate;
  }
}

/** The first ones first; equals stay as they were. */
export function sorted(flows: readonly RatedFlow[], order: Order): RatedFlow[] {
  return [...flows].sort((a, b) => keyOf(b, order) - keyOf(a, order));
}

const RATE_COLUMNS: readonly Column[] = [
  { heading: 'FROM/s', right: true, spare: 0, text: (flow) => shortNumber((flow as RatedFlow).fromRate) },
  { heading: 'TO/s', right: true, spare: 0, text: (flow) => shortNumber((flow as RatedFlow).toRate) },
];

const TOP_COLUMNS: readonly Column[] = COLUMNS.flatMap((column) =>
  // Rates matter more than sums here, which go first where there is no room.
  column.heading === 'FROM'
    ? [...RATE_COLUMNS, { ...column, spare: 2 }]
    : [column.heading === 'TO' ? { ...column, spare: 2 } : column],
);

/** A line about all flows, and the table of the `most` first ones. */
export function screenOf(flows: readonly RatedFlow[], most: number, width: number, now: number): string[] {
  const sum = (pick: (flow: RatedFlow) => number): number => flows.reduce((total, flow) => total + pick(flow), 0);
  const of = (protocol: string): number => flows.filter((flow) => flow.protocol === protocol).length;
  const from = shortNumber(sum(({ fromRate }) => fromRate));
  const to = shortNumber(sum(({ toRate }) => toRate));
  const head = `${flows.length} flows: ${of('tcp')} TCP, ${of('udp')} UDP, ${of('icmp')} ICMP; from guest ${from}B/s, to guest ${to}B/s`;
  return [head.slice(0, width), ...flowLines(TOP_COLUMNS, flows.slice(0, most), width, now)];
}

/** Waits `ms`, or until `signal`. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    if (signal.aborted) done();
    else signal.addEventListener('abort', done);
  });
}

interface TopOptions {
  readonly client: ControlClient;
  readonly protocol: ReturnType<typeof protocolOf>;
  readonly json: boolean;
  readonly once: boolean;
  readonly screen: boolean;
  readonly most: number;
}

// ECMA-48: the alternate screen, the cursor, and what they are brought back with.
const ENTER = '\x1b[?1049h\x1b[?25l';
const LEAVE = '\x1b[?25h\x1b[?1049l';
const HOME = '\x1b[H';
const END_OF_LINE = '\x1b[K';
const BELOW = '\x1b[J';

class Top {
  private readonly options: TopOptions;
  private readonly end = new AbortController();
  private readonly rates = new Rates();
  private order: Order = 'rate';
  private paused = false;
  private latest: readonly RatedFlow[] = [];

  constructor(options: TopOptions) {
    this.options = options;
  }

  async run(): Promise<void> {
    const { screen } = this.options;
    const stop = (): void => {
      this.end.abort();
    };
    process.once('SIGINT', stop);
    process.once('SIGTERM', stop);
    process.stdout.on('error', stop); // who read is gone
    if (screen) this.enter();
    try {
      await this.loop();
    } finally {
      process.off('SIGINT', stop);
      process.off('SIGTERM', stop);
      if (screen) this.leave();
    }
  }

  private async loop(): Promise<void> {
    const { once } = this.options;
    await this.look();
    if (!once) this.show();
    const { signal } = this.end;
    for (;;) {
      await pause(EVERY_MS, signal);
      if (signal.aborted) return;
      if (this.paused) continue;
      await this.look();
      this.show();
      if (once) return;
    }
  }

  private async look(): Promise<void> {
    const { client, protocol } = this.options;
    const flows: FlowInfo[] = [];
    for await (const page of allFlows(client, protocol)) flows.push(...page);
    this.latest = this.rates.next(flows, Date.now());
  }

  private show(): void {
    const { json, screen, most } = this.options;
    const flows = sorted(this.latest, this.order);
    if (json) {
      process.stdout.write(`${JSON.stringify(flows.slice(0, most))}\n`);
      return;
    }
    const { isTTY, columns: wide, rows: high } = process.stdout;
    // A serial line may not know its size.
    const columns = isTTY ? wide || 80 : Infinity;
    const rows = isTTY ? high || 24 : Infinity;
    if (!screen) {
      process.stdout.write(`${screenOf(flows, most, columns, Date.now()).join('\n')}\n\n`);
      return;
    }
    // The summary, the heading, and the line of keys.
    const lines = screenOf(flows, Math.min(most, Math.max(0, rows - 3)), columns, Date.now());
    const keys = this.paused ? `paused; ${KEYS}` : `by ${this.order}; ${KEYS}`;
    const body = lines.map((line) => `${line}${END_OF_LINE}\r\n`).join('');
    process.stdout.write(`${HOME}${body}${keys.slice(0, columns)}${END_OF_LINE}${BELOW}`);
  }

  private enter(): void {
    process.stdout.write(ENTER);
    const { stdin } = process;
    if (!stdin.isTTY) return;
    stdin.setRawMode(true);
    stdin.setEncoding('utf8');
    stdin.on('data', this.onKey);
    stdin.resume();
    process.stdout.on('resize', this.onResize);
  }

  private leave(): void {
    const { stdin } = process;
    process.stdout.off('resize', this.onResize);
    if (stdin.isTTY) {
      stdin.off('data', this.onKey);
      stdin.setRawMode(false);
      stdin.pause();
    }
    process.stdout.write(LEAVE);
  }

  private readonly onResize = (): void => {
    this.show();
  };

  private readonly onKey = (keys: string): void => {
    for (const key of keys) {
      // In raw mode the terminal makes no signal of ^C.
      if (key === 'q' || key === '\x03') this.end.abort();
      else if (key === 'p' || key === ' ') this.paused = !this.paused;
      else if (key in KEY_ORDERS) this.order = KEY_ORDERS[key];
    }
    if (!this.end.signal.aborted) this.show();
  };
}

/** Runs it with the arguments behind "top". Returns its exit status. */
export function run(argv: readonly string[]): Promise<number> {
  return guarded(PROGRAM, async () => {
    const line = readLine(TOP_OPTIONS, argv);
    const { values, words } = line;
    if (values.has('help')) {
      process.stdout.write(topUsage());
      return DONE;
    }
    if (words.length > 0) throw usageError(`extra argument "${words[0]}"`, PROGRAM);
    const most = values.get('most');
    if (most !== undefined && !/^[1-9][0-9]{0,8}$/.test(most))
      throw usageError(`--most ${most}: give a number from 1 on`, PROGRAM);
    const json = values.has('json');
    const once = values.has('once');
    await new Top({
      client: clientFor(line),
      protocol: protocolOf(line, PROGRAM),
      json,
      once,
      screen: process.stdout.isTTY && !json && !once && !values.has('batch'),
      most: most === undefined ? Infinity : Number(most),
    }).run();
    return DONE;
  });
}
