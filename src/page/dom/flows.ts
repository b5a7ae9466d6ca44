/** The list of open flows, a page at a time. The page requests it only while it is in view: it costs the data plane time. */
import type { FlowEnd, FlowInfo, FlowPage } from '../../control/types';
import { age, bytes, NONE, seconds } from '../format';
import { Refused, type Service } from './service';
import { byId, say, Table } from './elements';

const A_PAGE = 100;

const COLUMNS = [
  { title: 'Protocol' },
  { title: 'Guest' },
  { title: 'Begun by' },
  { title: 'Peer', kind: 'text' },
  { title: 'State' },
  { title: 'Age', kind: 'number' },
  { title: 'From guest', kind: 'number' },
  { title: 'To guest', kind: 'number' },
  { title: 'Round trip', kind: 'number' },
  { title: 'Forwarded by', kind: 'text' },
] as const;

function endText({ address, port }: FlowEnd): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

function protocolText({ protocol, kind }: FlowInfo): string {
  const name = protocol === 'icmp' ? 'ICMP echo' : protocol.toUpperCase();
  return kind === 'splice' ? `${name} (splice)` : name;
}

function rowOf(flow: FlowInfo, nowMs: number): string[] {
  const peer = endText(flow.peer);
  return [
    protocolText(flow),
    endText(flow.guest),
    flow.origin,
    flow.name === null ? peer : `${flow.name} (${peer})`,
    flow.state,
    age(nowMs - flow.startedAt),
    bytes(flow.fromGuest),
    bytes(flow.toGuest),
    flow.rttUs === null ? NONE : seconds(flow.rttUs / 1e6),
    flow.rule ?? NONE,
  ];
}

export class FlowList {
  private readonly service: Service;
  private readonly table: Table;
  private readonly protocol = byId('flow-protocol', 'select');
  private readonly first = byId('flow-first', 'button');
  private readonly next = byId('flow-next', 'button');
  private readonly note = byId('flow-note', 'p');
  private readonly tools = byId('flow-tools', 'p');
  private readonly place = byId('flow-table', 'div');
  private isSeen = false;
  /** Where this page begins, and the next one; null: at the first flow, there is none. */
  private from: string | null = null;
  private after: string | null = null;
  /** There will never be any: the service said so. */
  private refused = false;
  /** Number of the answer that is waited for: one to an older question is of no interest. */
  private asked = 0;

  constructor(service: Service) {
    this.service = service;
    this.table = new Table(this.place, 'Open flows', COLUMNS, 'No flow is open.');
    const goTo = (from: string | null): void => {
      this.from = from;
      void this.update();
    };
    this.protocol.addEventListener('change', () => goTo(null));
    this.first.addEventListener('click', () => goTo(null));
    this.next.addEventListener('click', () => goTo(this.after));
    new IntersectionObserver((entries) => {
      this.isSeen = entries.at(-1)?.isIntersecting === true;
    }).observe(byId('flow-list', 'div'));
  }

  /** Asks for the page that is shown, if somebody can see it. */
  async look(): Promise<void> {
    if (this.isSeen) await this.update();
  }

  private async update(): Promise<void> {
    if (this.refused) return;
    const number = ++this.asked;
    try {
      const page = await this.service.flows({ most: A_PAGE, from: this.from, protocol: this.protocol.value });
      if (number === this.asked) this.show(page);
    } catch (error) {
      if (!(error instanceof Refused) || number !== this.asked) return; // the state at the top says it
      this.refused = error.forGood;
      if (error.forGood) for (const each of [this.tools, this.place]) each.hidden = true;
      say(this.note, error.message);
    }
  }

  private show({ flows, next }: FlowPage): void {
    const now = Date.now();
    this.table.show(flows.map((flow) => rowOf(flow, now)));
    this.after = next;
    this.first.disabled = this.from === null;
    this.next.disabled = next === null;
    say(this.note, flows.length === 0 ? '' : `${flows.length} shown${next === null ? '' : ', there are more'}`);
  }
}
