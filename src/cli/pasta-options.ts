/** Options of pasta mode: the guest is a network namespace. Under another name they are refused by name. */
import { ConfigError } from '../errors';
import {
  checkLoopbackRules,
  parsePortSpec,
  parseScanSpec,
  type PortRange,
  type PortRule,
  PortTable,
} from '../config/port-spec';
import type { NamespaceRequest, NamespaceTarget, OutwardRequest } from '../pasta/request';
import type { Draft } from './draft';
import { option, type OptionSpec } from './option-spec';
import * as values from './option-values';

/** The options of pasta mode while they are read. */
export interface PastaDraft {
  netns: string | null;
  userns: string | null;
  netnsOnly: boolean;
  pidns: boolean;
  quit: boolean;
  configNet: boolean;
  noCopyRoutes: boolean;
  noCopyAddrs: boolean;
  nsMac: Uint8Array | null;
  ifname: string | null;
  hostLoToNsLo: boolean;
  noSplice: boolean;
  spliceOnly: boolean;
  /** `-T`, `-U`, in their order. */
  outward: { protocol: 'tcp' | 'udp'; spec: string; origin: string }[];
}

export function emptyPasta(): PastaDraft {
  return {
    netns: null,
    userns: null,
    netnsOnly: false,
    pidns: true,
    quit: true,
    configNet: false,
    noCopyRoutes: false,
    noCopyAddrs: false,
    nsMac: null,
    ifname: null,
    hostLoToNsLo: false,
    noSplice: false,
    spliceOnly: false,
    outward: [],
  };
}

/** Network namespaces that ip-netns(8) has named. */
const NETNS_DIRECTORY = '/run/netns';
const MAX_PID = 0x7fffffff;

type Effect = (pasta: PastaDraft, value: string, shown: string, draft: Draft) => void;

function pasta(short: string, long: string, arg: string, help: string, effect: Effect): OptionSpec {
  return option('pasta', short, long, arg, help, (draft, value, shown) => {
    if (draft.pasta === null) {
      throw new ConfigError(
        'CFG_ERR_UNSUPPORTED',
        `${shown} is for pasta mode only: call the program as pasta, or "tubetti netns"`,
      );
    }
    effect(draft.pasta, value, shown, draft);
  });
}

/** Ports inside the namespace that lead to the host. */
function outward(protocol: 'tcp' | 'udp'): Effect {
  return (draft, spec, shown) => {
    draft.outward.push({ protocol, spec, origin: `${shown} ${spec}` });
  };
}

export const PASTA_OPTIONS: readonly OptionSpec[] = [
  pasta('', 'netns', 'PATH|NAME', 'join this network namespace; a name is below /run/netns', (draft, value, shown) => {
    const path = values.fileValue(shown, value);
    draft.netns = path.includes('/') ? path : `${NETNS_DIRECTORY}/${path}`;
  }),
  pasta(
    '',
    'userns',
    'PATH',
    "join this user namespace first (default for PID: the process's; with --netns: none)",
    (draft, value, shown) => {
      draft.userns = values.fileValue(shown, value);
      draft.netnsOnly = false;
    },
  ),
  pasta('', 'netns-only', '', 'neither join nor make a user namespace', (draft) => {
    draft.netnsOnly = true;
    draft.userns = null;
  }),
  pasta('', 'no-netns-quit', '', 'go on when the network namespace is gone', (draft) => {
    draft.quit = false;
  }),
  pasta('', 'no-pidns', '', 'make no PID namespace for the command', (draft) => {
    draft.pidns = false;
  }),
  pasta(
    '',
    'config-net',
    '',
    "configure the namespace's interface: addresses, routes, MTU, up (default: DHCP and router advertisements do)",
    (draft) => {
      draft.configNet = true;
    },
  ),
  pasta('', 'no-copy-routes', '', 'with --config-net: one default route, not all routes of the host', (draft) => {
    draft.noCopyRoutes = true;
  }),
  pasta('', 'no-copy-addrs', '', 'with --config-net: one address a family, not all of the host', (draft) => {
    draft.noCopyAddrs = true;
  }),
  pasta('', 'ns-mac-addr', 'MAC', "MAC address of the namespace's interface", (draft, value, shown) => {
    draft.nsMac = values.macValue(shown, value);
  }),
  pasta(
    'I',
    'ns-ifname',
    'IFNAME',
    "name of the namespace's interface (default: that of the host's interface, or tap0)",
    (draft, value, shown) => {
      draft.ifname = values.interfaceValue(shown, value);
    },
  ),
  pasta(
    'T',
    'tcp-ns',
    'SPEC',
    "TCP ports of the namespace's loopback that lead to the host's (default: auto)",
    outward('tcp'),
  ),
  pasta(
    'U',
    'udp-ns',
    'SPEC',
    "UDP ports of the namespace's loopback that lead to the host's (default: auto)",
    outward('udp'),
  ),
  pasta('', 'host-lo-to-ns-lo', '', 'loopback connections of the host keep a loopback destination', (draft) => {
    draft.hostLoToNsLo = true;
  }),
  pasta('', 'no-splice', '', 'loopback connections of the host go through the interface', (draft) => {
    draft.noSplice = true;
  }),
  pasta('', 'splice-only', '', 'no interface: only loopback connections pass; implies --host-lo-to-ns-lo', (draft) => {
    draft.spliceOnly = true;
    draft.hostLoToNsLo = true;
  }),
  pasta('', 'dhcp-dns', '', 'advertise DNS resolvers (default: no)', (_pasta, _value, _shown, draft) => {
    draft.advertiseDns = true;
  }),
  pasta('', 'dhcp-search', '', 'advertise search domains (default: no)', (_pasta, _value, _shown, draft) => {
    draft.advertiseSearch = true;
  }),
];

/** Options that make no sense where there is no front-end. */
const PASST_ONLY: ReadonlySet<string> = new Set([
  'repair-path',
  'migrate-exit',
  'migrate-no-linger',
  'no-dhcp-dns',
  'no-dhcp-search',
]);

/** Whether an option has a meaning where the guest is a namespace. */
export function isForPasta({ group, long }: OptionSpec): boolean {
  return group !== 'link' && !PASST_ONLY.has(long[0]);
}

/** Throws ConfigError for an option of the other modes. */
export function checkPastaOption(spec: OptionSpec, shown: string): void {
  if (isForPasta(spec)) return;
  throw new ConfigError('CFG_ERR_UNSUPPORTED', `${shown} is for passt mode only: a namespace has no front-end`);
}

/** Which namespace: `rest` is what follows the options, `first` its place among the arguments. */
function targetOf(draft: PastaDraft, rest: readonly string[], first: number): NamespaceTarget {
  if (draft.netns !== null) {
    if (rest.length === 0) return { kind: 'path', path: draft.netns };
    throw new ConfigError('CFG_ERR_CONFLICT', `--netns and "${rest[0]}": give a namespace, a process or a command`);
  }
  if (rest.length === 1 && /^[0-9]+$/.test(rest[0])) {
    const pid = Number(rest[0]);
    if (pid >= 1 && pid <= MAX_PID) return { kind: 'process', pid };
    throw new ConfigError('CFG_ERR_VALUE', `process ${rest[0]}: give a number from 1 to ${MAX_PID}, or a command`);
  }
  if (rest.length > 0) return { kind: 'command', first, name: rest[0] };
  return { kind: 'command', first: null, name: 'a shell' };
}

function conflict(message: string): ConfigError {
  return new ConfigError('CFG_ERR_CONFLICT', message);
}

/** Whether the ports of a spec are those that something listens on. */
export function isScan(spec: string): boolean {
  return spec.split(/[/,]/).includes('auto');
}

const PROTOCOLS = ['tcp', 'udp'] as const;

type PortOption = Draft['portOptions'][number];

/** What was given, and `auto` for a protocol of which nothing was said. */
function withDefaults(
  draft: Draft,
  given: readonly PortOption[],
  names: Readonly<Record<'tcp' | 'udp', string>>,
): PortOption[] {
  const missing = PROTOCOLS.filter((protocol) => draft[protocol] && !given.some((one) => one.protocol === protocol));
  return [...given, ...missing.map((protocol) => ({ protocol, spec: 'auto', origin: `${names[protocol]} auto` }))];
}

/** Ports of the host that follow what listens in the namespace. */
function scannedRules(draft: Draft, ephemeral: PortRange): PortRule[] {
  const options = withDefaults(draft, draft.portOptions, { tcp: '-t', udp: '-u' });
  return options.flatMap(({ protocol, spec, origin }) => parseScanSpec(protocol, spec, ephemeral, origin) ?? []);
}

/** Ports of the namespace that lead to the host. */
function outwardRules(draft: Draft, pasta: PastaDraft, ephemeral: PortRange): OutwardRequest[] {
  const table = new PortTable(ephemeral);
  return withDefaults(draft, pasta.outward, { tcp: '-T', udp: '-U' }).flatMap(({ protocol, spec, origin }) => {
    if (!draft[protocol]) throw conflict(`${origin}: ports cannot be forwarded with --no-${protocol}`);
    const scanned = parseScanSpec(protocol, spec, ephemeral, origin);
    const rules = scanned ?? parsePortSpec(protocol, spec, ephemeral, origin);
    if (rules === null) {
      const earlier = table.rules.find((rule) => rule.protocol === protocol);
      if (earlier !== undefined) throw conflict(`${origin}: conflicts with ${earlier.origin} before it`);
      return [];
    }
    checkLoopbackRules(rules, origin);
    if (scanned === null) table.take(rules);
    return [{ protocol, spec, rules, auto: scanned !== null }];
  });
}

/** What is asked of the namespace. Throws ConfigError. */
export function namespaceRequest(
  draft: Draft,
  rest: readonly string[],
  first: number,
  ephemeral: PortRange,
): NamespaceRequest | null {
  const { pasta } = draft;
  if (pasta === null) return null;
  if (!pasta.configNet && pasta.noCopyRoutes) throw conflict('--no-copy-routes needs --config-net: add it');
  if (!pasta.configNet && pasta.noCopyAddrs) throw conflict('--no-copy-addrs needs --config-net: add it');
  if (pasta.spliceOnly && pasta.noSplice) throw conflict('--splice-only and --no-splice exclude each other');
  if (pasta.hostLoToNsLo && pasta.noSplice) throw conflict('--host-lo-to-ns-lo and --no-splice exclude each other');
  return {
    target: targetOf(pasta, rest, first),
    userns: pasta.userns,
    netnsOnly: pasta.netnsOnly,
    pidns: pasta.pidns,
    quit: pasta.quit,
    configNet: pasta.configNet,
    noCopyRoutes: pasta.noCopyRoutes,
    noCopyAddrs: pasta.noCopyAddrs,
    nsMac: pasta.nsMac,
    ifname: pasta.ifname,
    hostname: draft.hostname,
    auto: scannedRules(draft, ephemeral),
    outward: outwardRules(draft, pasta, ephemeral),
    splice: !pasta.noSplice,
    spliceOnly: pasta.spliceOnly,
    hostLoToNsLo: pasta.hostLoToNsLo,
    gateway4: draft.v4.gateway !== null,
    gateway6: draft.v6.gateway !== null,
  };
}
