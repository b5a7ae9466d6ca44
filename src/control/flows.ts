/**
 * The flows of the running data plane: `Flows` of types.ts.
 *
 * Theory of operation. The data plane fills rows of numbers in memory that is shared with it, a bounded number at a time,
 * between two turns of its loop; text is made of them here. Looks of all clients follow each other, and after each
 * the data plane is left alone for REST times as long as it took: however many ask, they have a bounded share of its time. At
 * most MOST_WAITING ask at a time, further ones are refused.
 *
 * A page is no snapshot: flows that begin or end while pages are read may be missing or be there once; one that lives all
 * the time is there exactly once. After a data plane has taken another's place, the next page begins with its first flow.
 */
import { LOOK_GONE } from '../dataplane/commands';
import {
  FLOW_PROTOCOLS,
  FLOW_WORDS,
  LOOK_END,
  LOOK_HEADER,
  LOOK_MOST_ROWS,
  LOOK_ROWS,
  LOOK_TOOK_US,
  type Look,
  lookBytes,
} from '../stack/kit/flow-rows';
import { epochOfClock, flowInfo, type FlowWords, ID_NAMES, PROTOCOL_NAMES } from './flow-text';
import { refuse } from './problem';
import { FLOWS_A_PAGE, type FlowInfo, type FlowPage, type FlowQuery, type Flows } from './types';

/** What the data plane is asked (supervisor/data-plane.ts). */
export interface FlowSource {
  lookAtFlows(into: SharedArrayBuffer, look: Look): Promise<{ worker: number; next: number }>;
  closeFlow(worker: number, protocol: number, slot: number, generation: number): Promise<boolean>;
}

/** Looks have one part in twenty of the data plane's time. */
const REST = 19;
const MOST_REST_MS = 200;
const MOST_WAITING = 64;

const ALL = (1 << FLOW_PROTOCOLS) - 1;

/** `DATA-PLANE.SLOT`: where a page begins. */
interface Cursor {
  readonly worker: number;
  readonly from: number;
}

function cursorOf(text: string | undefined): Cursor | null {
  if (text === undefined) return null;
  const match = /^(\d{1,9})\.(\d{1,9})$/.exec(text);
  if (match === null) throw refuse(400, 'invalid', 'not what a page before gave as "next"', 'query/from');
  return { worker: Number(match[1]), from: Number(match[2]) };
}

function maskOf(protocol: string | undefined): number {
  if (protocol === undefined) return ALL;
  const mask = PROTOCOL_NAMES.reduce((bits, name, i) => (name === protocol ? bits | (1 << i) : bits), 0);
  if (mask === 0) throw refuse(400, 'invalid', `one of ${[...new Set(PROTOCOL_NAMES)].join(', ')}`, 'query/protocol');
  return mask;
}

export class DataPlaneFlows implements Flows {
  private readonly source: FlowSource;
  private readonly words: FlowWords;
  /** Filled by the data plane during a look; null: nobody has looked yet. */
  private into: SharedArrayBuffer | null = null;
  /** The look under way, and all that wait for it. */
  private last: Promise<unknown> = Promise.resolve();
  private waiting = 0;
  /** Not before this time (performance.now) does the next look begin. */
  private restUntil = 0;

  constructor(source: FlowSource, words: FlowWords) {
    this.source = source;
    this.words = words;
  }

  list(query: FlowQuery): Promise<FlowPage> {
    return this.inTurn(() => this.page(query));
  }

  async close(id: string): Promise<boolean> {
    const match = /^(tcps?|udps?|icmp)-(\d{1,9})-(\d{1,9})-(\d{1,10})$/.exec(id);
    if (match === null) return false;
    const protocol = ID_NAMES.indexOf(match[1]);
    const [worker, slot, generation] = match.slice(2).map(Number);
    return this.source.closeFlow(worker, protocol, slot, generation);
  }

  private async inTurn<T>(work: () => Promise<T>): Promise<T> {
    if (this.waiting >= MOST_WAITING) throw refuse(503, 'busy', 'too many requests for flows wait already');
    this.waiting++;
    const mine = this.last.then(work).finally(() => {
      this.waiting--;
    });
    this.last = mine.catch(() => undefined);
    return mine;
  }

  private async page(query: FlowQuery): Promise<FlowPage> {
    const protocols = maskOf(query.protocol);
    const cursor = cursorOf(query.from);
    const most = Math.min(Math.max(1, Math.floor(query.most ?? FLOWS_A_PAGE)), FLOWS_A_PAGE);
    const flows: FlowInfo[] = [];
    let worker = cursor?.worker ?? -1;
    let from = cursor?.from ?? 0;
    for (;;) {
      const look = await this.look({ from, most: most - flows.length, protocols });
      if (look === null) return { flows: [], next: null };
      if (worker >= 0 && look.worker !== worker) {
        // What was read before is not there any more, and the place in it means nothing.
        flows.length = 0;
        worker = look.worker;
        from = 0;
        continue;
      }
      ({ worker } = look);
      const epoch = epochOfClock();
      for (let i = 0; i < look.rows[LOOK_ROWS]; i++) {
        flows.push(flowInfo(this.words, worker, look.rows, LOOK_HEADER + i * FLOW_WORDS, epoch));
      }
      from = look.next;
      if (from === LOOK_END) return { flows, next: null };
      if (flows.length >= most) return { flows, next: `${worker}.${from}` };
    }
  }

  /** One look. Null: there is no data plane to look at. */
  private async look(look: Look): Promise<{ worker: number; next: number; rows: Float64Array } | null> {
    for (let tries = 0; tries < 2; tries++) {
      const rest = Math.min(this.restUntil - performance.now(), MOST_REST_MS);
      if (rest > 0) await new Promise((resolve) => setTimeout(resolve, Math.ceil(rest)));
      this.into ??= new SharedArrayBuffer(lookBytes(LOOK_MOST_ROWS));
      const { worker, next } = await this.source.lookAtFlows(this.into, look);
      if (next === LOOK_GONE) {
        // It may still write there while it ends.
        this.into = null;
        continue;
      }
      const rows = new Float64Array(this.into);
      this.restUntil = performance.now() + (rows[LOOK_TOOK_US] * REST) / 1000;
      return { worker, next, rows };
    }
    return null;
  }
}
