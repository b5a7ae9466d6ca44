/** The tables and lists of the page, from the metrics and from the service's status. */
import type { ServiceStatus } from '../../control/types';
import { type Sample, sumOf } from '../exposition';
import { age, bytes, count, NONE, seconds } from '../format';
import { type History, LATELY_MS } from '../history';
import { byId, type Cell, List, say, Table } from './elements';

const number = (title: string): { title: string; kind: 'number' } => ({ title, kind: 'number' });

const DIRECTIONS: Readonly<Record<string, string | undefined>> = { from_guest: 'from guest', to_guest: 'to guest' };
const PROTOCOLS = [
  ['tcp', 'TCP'],
  ['udp', 'UDP'],
  ['icmp', 'ICMP echo'],
] as const;

/** What the metrics say beside the plots. */
export class Counts {
  private readonly protocols = new Table(
    byId('protocols', 'div'),
    'By protocol, since the service began',
    [
      { title: 'Protocol' },
      number('Open'),
      number('Opened'),
      number('Frame bytes from guest'),
      number('Frame bytes to guest'),
    ],
    '',
  );
  private readonly drops = new Table(
    byId('drop-table', 'div'),
    'Frames, datagrams and connections dropped',
    [{ title: 'Reason' }, { title: 'Direction' }, number('Last minute'), number('In all')],
    'Nothing was dropped since the service began.',
  );
  private readonly connects = new Table(
    byId('connect-table', 'div'),
    'By what became of them, since the service began',
    [{ title: 'Result' }, number('Connections')],
    'None yet.',
  );
  private readonly process = new List(byId('process-list', 'dl'));

  show(history: History): void {
    const now = history.last?.samples;
    const before = history.since(LATELY_MS)?.samples;
    if (now === undefined || before === undefined) return;
    const rows = PROTOCOLS.map(([protocol, title]) => [
      title,
      count(sumOf(now, 'tubetti_flows', { protocol })),
      count(sumOf(now, 'tubetti_flows_opened_total', { protocol })),
      ...['from_guest', 'to_guest'].map((direction) =>
        bytes(sumOf(now, 'tubetti_bytes_total', { protocol, direction })),
      ),
    ]);
    this.protocols.show(rows);
    const isSome = ({ value }: Sample): boolean => value > 0;
    const drops = (now.get('tubetti_drops_total') ?? []).filter(isSome).sort((a, b) => b.value - a.value);
    this.drops.show(
      drops.map(({ labels, value }) => [
        labels.reason,
        DIRECTIONS[labels.direction] ?? labels.direction,
        count(value - sumOf(before, 'tubetti_drops_total', labels)),
        count(value),
      ]),
    );
    const connects = (now.get('tubetti_tcp_connects_total') ?? []).filter(isSome).sort((a, b) => b.value - a.value);
    this.connects.show(connects.map(({ labels, value }) => [labels.result, count(value)]));
    const cpu = (samples: typeof now): number => sumOf(samples, 'process_cpu_seconds_total');
    const span = ((history.last?.at ?? 0) - (history.since(LATELY_MS)?.at ?? 0)) / 1000;
    this.process.show({
      Processor: span > 0 ? `${((100 * (cpu(now) - cpu(before))) / span).toFixed(1)} % of one, lately` : NONE,
      'Resident memory': bytes(sumOf(now, 'process_resident_memory_bytes')),
      'Open descriptors': count(sumOf(now, 'process_open_fds')),
      'Starved of receive buffers': seconds(sumOf(now, 'tubetti_receive_starved_seconds_total')),
      'TCP retransmits to guest': count(sumOf(now, 'tubetti_tcp_retransmits_total')),
      'Data planes replaced': count(sumOf(now, 'tubetti_data_plane_restarts_total')),
    });
  }
}

const LAYER_STATES: Readonly<Record<ServiceStatus['sandbox'][number]['state'], Cell>> = {
  on: { text: '✓ in force', mark: 'good' },
  off: '– not wanted',
  missing: { text: '✗ missing', mark: 'bad' },
};

const LINKS: Readonly<Record<ServiceStatus['frontEnd'], string>> = {
  'vhost-user': 'vhost-user',
  stream: "QEMU's stream protocol",
  tap: 'tap device',
};

/** Who the service and its guest are. */
export class Identity {
  private readonly guest = new List(byId('guest-list', 'dl'));
  private readonly service = new List(byId('service-list', 'dl'));
  private readonly forwards = new Table(
    byId('forward-table', 'div'),
    'By rule, as it was given',
    [{ title: 'Rule', kind: 'text' }, { title: 'Protocol' }, number('Listeners'), number('Connections')],
    'No port is forwarded.',
  );
  private readonly sandbox = new Table(
    byId('sandbox-table', 'div'),
    'Layers',
    [{ title: 'Layer' }, { title: 'State' }],
    'Nothing is known.',
  );

  show(status: ServiceStatus): void {
    const { guest, labels, endpoint, frontEnd } = status;
    const named = Object.entries(labels).map(([name, value]) => `${name}=${value}`);
    say(byId('labels', 'span'), named.join(' '));
    document.title = ['vm' in labels ? labels.vm : (named.at(0) ?? endpoint), 'Tubetti'].join(' – ');
    this.guest.show({
      'Front-end': guest.connected ? 'connected' : 'not connected',
      'Ethernet address': guest.mac ?? 'no frame was seen',
      Addresses: guest.addresses.length === 0 ? 'none was seen' : guest.addresses.join(', '),
      'MTU told': guest.mtu === 0 ? 'none' : String(guest.mtu),
      Features: guest.features.length === 0 ? 'none' : guest.features.join(', '),
    });
    this.service.show({
      Version: status.version,
      Node: status.node,
      Running: `for ${age(Date.now() - status.startedAt)}`,
      Link: `${LINKS[frontEnd]}, ${endpoint}`,
    });
    this.forwards.show(
      status.forwards.map(({ spec, protocol, listeners, connections }) => [
        spec,
        protocol.toUpperCase(),
        count(listeners),
        count(connections),
      ]),
    );
    this.sandbox.show(status.sandbox.map(({ layer, state }) => [layer, LAYER_STATES[state]]));
  }
}
