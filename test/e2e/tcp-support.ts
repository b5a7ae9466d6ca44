/** What the TCP cases count: the guest's own counters, and the service's descriptors, memory and time. */
import { readFileSync, readdirSync } from 'node:fs';
import { parseResults, type CommandOptions, type Guest, type ResultFields } from '../support/world/guest';
import { poll } from '../support/world/processes';
import { sumOfSamples, type Service } from '../support/world/service';
import { openFdsOf } from '../support/open-fds';

export interface PeerOutcome {
  readonly status: number;
  readonly results: Map<string, ResultFields>;
}

/** Runs tcp-peer in the guest to its end, whatever that is. */
export async function guestPeer(
  guest: Guest,
  args: readonly (string | number)[],
  options: CommandOptions = {},
): Promise<PeerOutcome> {
  const { status, output } = await guest.run(`tcp-peer ${args.join(' ')}`, options);
  return { status, results: parseResults(output) };
}

/** Runs tcp-peer in the guest. @throws Error with its output unless every step of every connection succeeded. */
export async function guestPeerOk(
  guest: Guest,
  args: readonly (string | number)[],
  options: CommandOptions = {},
): Promise<Map<string, ResultFields>> {
  return parseResults(await guest.sh(`tcp-peer ${args.join(' ')}`, options));
}

/** Leaves a tcp-peer behind in the guest that listens; its RESULT lines go to `file`. */
export async function guestListens(
  guest: Guest,
  port: number,
  count: number,
  steps: readonly string[],
  file: string,
): Promise<void> {
  const command = `tcp-peer accept ${String(port)} ${String(count)} ${steps.join(' ')}`;
  // Emptied first: one that was there before said "listening" as well.
  await guest.sh(`: >${file}; ${command} >${file} 2>&1 & until grep -q listening ${file}; do usleep 20000; done`);
}

/** Waits until a tcp-peer left behind has printed its last line. */
export async function guestListenerDone(guest: Guest, file: string): Promise<Map<string, ResultFields>> {
  return parseResults(await guest.sh(`until grep -q 'RESULT done' ${file}; do usleep 20000; done; cat ${file}`));
}

/** The guest's /proc/net/snmp and /proc/net/netstat, "Tcp.RetransSegs" and the like (what nstat reads). */
export async function guestCounters(guest: Pick<Guest, 'sh'>): Promise<Map<string, number>> {
  const lines = (await guest.sh('cat /proc/net/snmp /proc/net/netstat')).split('\n');
  const counters = new Map<string, number>();
  for (let i = 0; i + 1 < lines.length; i += 2) {
    const [prefix, ...names] = lines[i].trim().split(/\s+/);
    const values = lines[i + 1].trim().split(/\s+/).slice(1);
    names.forEach((name, at) => counters.set(`${prefix.replace(':', '.')}${name}`, Number(values[at])));
  }
  return counters;
}

/** Each of these tells of a segment that was sent twice, came twice, came out of order, or not at all. */
const LOSS_COUNTERS = [
  'Tcp.RetransSegs',
  'Tcp.InErrs',
  'TcpExt.TCPTimeouts',
  'TcpExt.TCPFastRetrans',
  'TcpExt.TCPLostRetransmit',
  'TcpExt.TCPOFOQueue',
  'TcpExt.TCPDSACKOldSent',
  'TcpExt.TCPBacklogDrop',
  'TcpExt.TCPRcvQDrop',
] as const;

export type Losses = Readonly<Record<string, number>>;

/** Counters that stand still while nothing is lost: the guest's, and Tubetti's retransmissions and TCP drops. */
export async function losses(guest: Pick<Guest, 'sh'>, service: Service): Promise<Losses> {
  const counters = await guestCounters(guest);
  const page = await service.metricsPage();
  const all: Record<string, number> = { retransmits: sumOfSamples(page, 'tubetti_tcp_retransmits_total', {}) };
  for (const name of LOSS_COUNTERS) {
    const value = counters.get(name);
    // A kernel may lack one, but not what everything else here rests on.
    if (value === undefined && name === 'Tcp.RetransSegs') throw new Error('the guest has no Tcp.RetransSegs');
    if (value !== undefined) all[name] = value;
  }
  for (const reason of ['tcp_out_of_order', 'tcp_out_of_window', 'tcp_socket_full', 'tcp_checksum', 'tcp_malformed']) {
    all[reason] = sumOfSamples(page, 'tubetti_drops_total', { reason });
  }
  return all;
}

export function openDescriptors(service: Service): number {
  return openFdsOf(service.process.pid);
}

/** Memory of its own, in KiB: without the guest's, which is shared. */
export function ownMemoryKib(service: Service): number {
  const status = readFileSync(`/proc/${String(service.process.pid)}/status`, 'utf8');
  return Number(/^RssAnon:\s+(\d+) kB$/m.exec(status)?.[1]);
}

/** Processor time of all its threads, in seconds (proc(5): fields 14 and 15, in ticks of 10 ms). */
export function processorSeconds(service: Service): number {
  const stat = readFileSync(`/proc/${String(service.process.pid)}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** How often its threads were given a processor since each began (proc(5), schedstat). */
export function timesRun(service: Service): number {
  const tasks = `/proc/${String(service.process.pid)}/task`;
  return readdirSync(tasks).reduce((sum, thread) => {
    const [, , times] = readFileSync(`${tasks}/${thread}/schedstat`, 'utf8').trim().split(' ');
    return sum + Number(times);
  }, 0);
}

export function openFlows(service: Service): Promise<number> {
  return service.metric('tubetti_flows', { protocol: 'tcp' });
}

/** Waits until the service serves no TCP flow and has this many descriptors open. */
export async function settled(service: Service, descriptors: number): Promise<void> {
  let flows = -1;
  try {
    await poll(
      'no open flows',
      async () => {
        flows = await openFlows(service);
        return flows === 0 && openDescriptors(service) <= descriptors ? true : null;
      },
      10_000,
    );
  } catch (error) {
    const seen = `${String(flows)} flows, ${String(openDescriptors(service))} descriptors`;
    throw new Error(`${seen} remain; expected 0 and ${String(descriptors)}`, { cause: error });
  }
}

/** Waits until no more TCP bytes pass in either direction: both looks, 300 ms apart, see the same count. */
export async function stalled(service: Service): Promise<void> {
  let before = -1;
  await poll(
    'the transfer to stall',
    async () => {
      const now = await service.metric('tubetti_bytes_total', { protocol: 'tcp' });
      const same = now === before;
      before = now;
      return same ? true : null;
    },
    8_000,
    300,
  );
}
