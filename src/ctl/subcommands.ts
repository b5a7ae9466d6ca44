/** The commands of `tubetti ctl`. */
import type { ForwardInfo, ForwardList, PolicyState, Rates, ServiceStatus } from '../control/types';
import { policySummary, rateText } from '../policy-text';
import { CAPTURE_OPTIONS, runCapture } from './capture';
import { Denied } from './client';
import { policy, rates } from './policy';
import {
  clientFor,
  COMMON_OPTIONS,
  type CtlOption,
  DONE,
  type Line,
  REFUSED,
  tableText,
  usageError,
  versionOf,
} from './command';

const PROGRAM = 'tubetti ctl';

/** `tubetti ctl NAME …`. */
export interface Subcommand {
  readonly name: string;
  /** Its words, for the usage text: `add SPEC...`. */
  readonly words: string;
  readonly help: string;
  readonly run: (line: Line) => Promise<number>;
}

export const CTL_OPTIONS: readonly CtlOption[] = [
  ...COMMON_OPTIONS,
  ...CAPTURE_OPTIONS,
  { long: ['udp'], short: 'u', arg: '', help: 'forward: UDP ports; default: TCP ports' },
  { long: ['outward'], short: '', arg: '', help: "forward: from a namespace's loopback to the host's, as -T and -U" },
  { long: ['close'], short: '', arg: '', help: 'forward remove, set: reset the connections of the forwards that go' },
  {
    long: ['version'],
    short: '',
    arg: 'N',
    help: 'forward, policy: refuse if what the service has is not of this version',
  },
];

function print(line: Line, value: unknown, text: () => string): void {
  process.stdout.write(line.values.has('json') ? `${JSON.stringify(value)}\n` : `${text()}\n`);
}

function noMore(words: readonly string[]): void {
  if (words.length > 0) throw usageError(`"${words[0]}" is one word too many`, PROGRAM);
}

// ---- status ------------------------------------------------------------------------------------------------------------

function since(at: number): string {
  const seconds = Math.max(0, Math.round((Date.now() - at) / 1000));
  const parts = [
    Math.floor(seconds / 86400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
    seconds % 60,
  ];
  const first = parts.findIndex((part) => part > 0);
  return first < 0 ? '0 s' : `${parts[first]} ${['d', 'h', 'min', 's'][first]}`;
}

/** Null: a service that has none of it. */
interface Limits {
  readonly policy: PolicyState | null;
  readonly rates: Rates | null;
}

function limitRows({ policy, rates }: Limits): [string, string][] {
  const rows: [string, string][] = [];
  const set = policy?.policy ?? null;
  if (set !== null)
    rows.push(['policy', policySummary(set.rules?.length ?? 0, set.default ?? 'deny', set.audit === true)]);
  if (rates !== null && (rates.in !== 0 || rates.out !== 0))
    rows.push(['rates', `to the guest ${rateText(rates.in)}, from it ${rateText(rates.out)}`]);
  return rows;
}

function statusText(status: ServiceStatus, limits: Limits): string {
  const { guest } = status;
  const off = status.sandbox.filter(({ state }) => state !== 'on').map(({ layer, state }) => `${layer} ${state}`);
  const rows: [string, string][] = [
    ['service', `Tubetti ${status.version}, Node ${status.node}, up ${since(status.startedAt)}`],
    ['front-end', `${status.frontEnd}, ${status.endpoint}: ${guest.connected ? 'connected' : 'waiting'}`],
    ['guest', [guest.mac ?? 'not seen yet', ...guest.addresses].join(', ')],
    ['link', `${guest.mtu === 0 ? '' : `MTU ${guest.mtu}; `}${guest.features.join(' ') || 'no features negotiated'}`],
    ...status.forwards.map((one): [string, string] => [
      'forward',
      `${one.protocol} ${one.spec}: ${one.listeners} listening, ${one.connections} connections`,
    ]),
    ...limitRows(limits),
    ['sandbox', off.length === 0 ? 'all of it is on' : `on, but ${off.join(', ')}`],
    ...Object.entries(status.labels).map(([name, value]): [string, string] => [`label`, `${name}=${value}`]),
  ];
  return rows.map(([name, text]) => `${name.padEnd(10)}${text}`).join('\n');
}

const status: Subcommand = {
  name: 'status',
  words: '',
  help: 'what the service is, and what it knows of its guest',
  run: async (line) => {
    noMore(line.words);
    const client = clientFor(line);
    const now = await client.status();
    const isMissing = (error: unknown): null => {
      if (error instanceof Denied && error.status === 501) return null;
      throw error;
    };
    const [policy, rates] = line.values.has('json')
      ? [null, null]
      : await Promise.all([client.policy().catch(isMissing), client.rates().catch(isMissing)]);
    print(line, now, () => statusText(now, { policy, rates }));
    return DONE;
  },
};

const addresses: Subcommand = {
  name: 'addresses',
  words: '',
  help: 'addresses of the host, those that the guest is given, and those that it was seen to use',
  run: async (line) => {
    noMore(line.words);
    const all = await clientFor(line).addresses();
    print(line, all, () => {
      const rows = [
        ...all.host.map((one) => ['host', `${one.address}/${one.prefix}`, one.interface]),
        ...all.assigned.map((address) => ['assigned', address, '-']),
        ...all.guest.map((address) => ['guest', address, '-']),
      ];
      return tableText(['WHOSE', 'ADDRESS', 'INTERFACE'], rows);
    });
    return DONE;
  },
};

// ---- forward -----------------------------------------------------------------------------------------------------------

function forwardsText(forwards: readonly ForwardInfo[]): string {
  if (forwards.length === 0) return 'no ports are forwarded';
  const isAuto = forwards.some(({ ports }) => ports !== undefined);
  return tableText(
    ['PROTOCOL', 'SPEC', 'LISTENERS', 'CONNECTIONS', ...(isAuto ? ['PORTS'] : [])],
    forwards.map(({ protocol, spec, listeners, connections, ports }) => [
      ...[protocol, spec, listeners, connections],
      ...(isAuto ? [ports?.join(' ') ?? ''] : []),
    ]),
  );
}

const ORDERS = ['add', 'remove', 'set'] as const;

/** `8080:80`, `tcp/8080:80` and `udp/53` (which may stand among those of the other protocol). */
function itemOf(word: string, udp: boolean): { readonly protocol: 'tcp' | 'udp'; readonly spec: string } {
  const named = /^(tcp|udp)\/(.*)$/s.exec(word);
  if (named !== null) return { protocol: named[1] as 'tcp' | 'udp', spec: named[2] };
  return { protocol: udp ? 'udp' : 'tcp', spec: word };
}

const forward: Subcommand = {
  name: 'forward',
  words: 'list | add|remove|set SPEC...',
  help: 'forwarded ports, as -t has them: 8080:80; UDP with --udp, or as udp/53',
  run: async (line) => {
    const order = line.words.at(0);
    const specs = line.words.slice(1);
    const client = clientFor(line);
    let list: ForwardList;
    if (order === undefined || order === 'list') {
      noMore(specs);
      list = (await client.forwards()).body;
    } else {
      const known = ORDERS.find((one) => one === order);
      if (known === undefined) throw usageError(`forward ${order}: give list, add, remove or set`, PROGRAM);
      if (specs.length === 0 && known !== 'set')
        throw usageError(`forward ${order}: give ports, such as 8080:80`, PROGRAM);
      list = await client.changeForwards(
        known,
        specs.map((word) => itemOf(word, line.values.has('udp'))),
        { closeFlows: line.values.has('close'), outward: line.values.has('outward'), ...versionOf(line, PROGRAM) },
      );
    }
    print(line, list, () => {
      const text = forwardsText(list.forwards);
      return list.outward.length === 0
        ? text
        : `${text}\nfrom the namespace to the host:\n${forwardsText(list.outward)}`;
    });
    return DONE;
  },
};

// ---- the rest ----------------------------------------------------------------------------------------------------------

const events: Subcommand = {
  name: 'events',
  words: '',
  help: 'a line for each thing that happens, until the service ends',
  run: async (line) => {
    noMore(line.words);
    const stop = new AbortController();
    const leave = (): void => {
      stop.abort();
    };
    process.stdout.once('error', leave); // who read is gone
    for await (const { event, data } of clientFor(line).events('/v1/events', stop.signal)) {
      if (line.values.has('json')) {
        process.stdout.write(`${data}\n`);
        continue;
      }
      const { at, data: more } = JSON.parse(data) as { at: number; data: Record<string, string | number> };
      const words = Object.entries(more).map(([name, value]) => ` ${name}=${value}`);
      process.stdout.write(`${new Date(at).toISOString()} ${event}${words.join('')}\n`);
    }
    process.stdout.off('error', leave);
    return DONE;
  },
};

const connect: Subcommand = {
  name: 'connect',
  words: 'PORT',
  help: 'connects standard input and output to this TCP port of the guest',
  run: async (line) => {
    const port = line.words.at(0);
    noMore(line.words.slice(1));
    if (port === undefined || !/^[0-9]{1,5}$/.test(port))
      throw usageError('connect: give a port of the guest', PROGRAM);
    const { socket, head } = await clientFor(line).upgrade(`/v1/connect/${port}`, 'tcp');
    if (head.length > 0) process.stdout.write(head);
    socket.pipe(process.stdout);
    process.stdin.pipe(socket);
    // What has passed: a guest that ends it without a byte while there was more to come for it has refused.
    const passed = { answer: head.length > 0, end: false };
    socket.once('data', () => {
      passed.answer = true;
    });
    process.stdin.once('end', () => {
      passed.end = true;
    });
    process.stdout.on('error', () => socket.destroy());
    await new Promise<void>((resolve) => {
      socket.on('error', () => undefined); // 'close' follows
      socket.once('close', () => {
        resolve();
      });
    });
    // It may still wait for a terminal's next line.
    process.stdin.destroy();
    if (passed.answer || passed.end) return DONE;
    process.stderr.write(`${PROGRAM}: connect ${port}: the guest refused the connection, or ended it without a byte\n`);
    return REFUSED;
  },
};

const capture: Subcommand = {
  name: 'capture',
  words: '[list | stop ID]',
  help: "the guest's packets from now on, as a file of pcap: --write FILE, or a pipe to tshark -r -",
  run: runCapture,
};

const end: Subcommand = {
  name: 'end',
  words: '',
  help: 'ends the service',
  run: async (line) => {
    noMore(line.words);
    await clientFor(line).ask('POST', '/v1/end');
    return DONE;
  },
};

const flows: Subcommand = {
  name: 'flows',
  words: '',
  help: 'the same as tubetti flows',
  run: async (line) => {
    const { run } = await import('./flows.js');
    const options = [...line.values].flatMap(([name, value]) =>
      value === '' ? [`--${name}`] : [`--${name}=${value}`],
    );
    return run([...options, ...line.words]);
  },
};

export const SUBCOMMANDS: readonly Subcommand[] = [
  status,
  addresses,
  forward,
  capture,
  policy,
  rates,
  flows,
  connect,
  events,
  end,
];
