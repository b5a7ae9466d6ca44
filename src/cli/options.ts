/** From a command line to `Options`: what concerns several options at once. The table is in option-table.ts. */
import { ConfigError } from '../errors';
import type { HostRequest } from '../config/host-config';
import { policyOf } from '../config/policy';
import { checkRules, type PortRange, type PortRule } from '../config/port-spec';
import { readEphemeralRange } from '../config/sysctl';
import type { ModerationLevel } from '../dataplane/commands';
import type { LogLevel } from '../log';
import type { LogFormat } from '../log-format';
import type { SandboxMode } from '../sandbox/layer';
import type { LinkRates } from '../stack/config';
import type { Policy } from '../stack/policy/types';
import { type Action, type Draft, emptyDraft, type Family, type FrontEnd, type Program } from './draft';
import { parseLine } from './getopt';
import { OPTIONS, type OptionSpec } from './option-table';
import { linkExtras } from './service-options';
import { envSettings, fileSettings, mergeSettings, readConfigFile, type Setting } from './settings';
import type { MetricsAt } from './option-values';
import type { NamespaceRequest } from '../pasta/request';
import { checkPastaOption, isScan, namespaceRequest } from './pasta-options';

/** How the vhost-user front-end is reached. */
export type Transport =
  /** `opened`: a socket that somebody else has opened, and that listens on `path` (activation.ts). */
  | { readonly kind: 'listen'; readonly path: string | null; readonly opened?: number }
  | { readonly kind: 'connect'; readonly path: string }
  | { readonly kind: 'fd'; readonly fd: number };

/** The parsed options. Everything that depends on the host is left to src/config. */
export interface Options {
  /** The guest is this namespace; null: it is a virtual machine. */
  readonly namespace: NamespaceRequest | null;
  readonly transport: Transport;
  /** Exit when the first front-end leaves. */
  readonly oneOff: boolean;
  readonly frontEnd: FrontEnd;
  /** Leave the caller's terminal and session when the service is ready. */
  readonly background: boolean;
  /** File to write the process id into. */
  readonly pid: string | null;
  /** The user to become, as given: UID[:GID] or LOGIN[:GROUP]; null: nobody if we are root. */
  readonly runAs: string | null;
  /** What is given up when all is open (src/sandbox). */
  readonly sandbox: SandboxMode;
  /** File to write every frame into (pcap). */
  readonly pcap: string | null;
  /** File to write a line into at the end of each flow. */
  readonly flowLog: string | null;
  /** Counters that changed go to stderr this often at most; null: never. */
  readonly statsSeconds: number | null;
  /** Say a line for each frame: the log's level is `trace` then. */
  readonly trace: boolean;
  /** Follow changes of the host's addresses, routes and resolvers. */
  readonly follow: boolean;
  /** How long the data plane looks for more work before it sleeps, at most, in µs. */
  readonly pollUs: number;
  /** What is done about notifications of the guest beyond the protocol itself. */
  readonly moderation: ModerationLevel;
  /** Gets a newline when the service is ready; null: none. */
  readonly readyFd: number | null;
  readonly logLevel: LogLevel;
  readonly logFormat: LogFormat;
  readonly logFile: string | null;
  readonly logSize: number;
  readonly metrics: MetricsAt | null;
  /** UNIX socket that takes orders while the service runs (src/control). */
  readonly control: string | null;
  /** UNIX socket for passt's client pesto. */
  readonly confPath: string | null;
  /** UNIX socket for slirp4netns's clients. */
  readonly slirpApi: string | null;
  /** Constant labels of tubetti_info. */
  readonly labels: Readonly<Record<string, string>>;
  readonly host: HostRequest;
  /** Directory whose files the guest may read by TFTP, as given; null: none. */
  readonly tftp: string | null;
  readonly rules: readonly PortRule[];
  readonly freebind: boolean;
  /** Whom the guest may talk to; null: everybody. */
  readonly policy: Policy | null;
  readonly rates: LinkRates;
  /** Remarks for the log, in the order of the command line. */
  readonly warnings: readonly string[];
}

export type Command = { readonly action: 'run'; readonly options: Options } | { readonly action: Action };

function conflict(message: string): ConfigError {
  return new ConfigError('CFG_ERR_CONFLICT', message);
}

function transportOf(draft: Draft): Transport {
  const given = [
    draft.socket === null ? '' : '--socket',
    draft.connect === null ? '' : '--connect',
    draft.fd === null ? '' : '--fd',
  ].filter((name) => name !== '');
  if (given.length > 1) throw conflict(`${given.join(' and ')}exclude each other, give only one`);
  if (draft.fd !== null) return { kind: 'fd', fd: draft.fd };
  if (draft.connect !== null) return { kind: 'connect', path: draft.connect };
  return { kind: 'listen', path: draft.socket };
}

/**
 * passt goes to the background by default. So does tubetti for a caller that hands over its socket and wants a PID
 * file: it waits until the program that it started ends (QEMU's `-netdev passt,path=tubetti`).
 */
function inBackground(draft: Draft, program: Program, namespace: NamespaceRequest | null): boolean {
  // Who runs a command waits for its end; who has a namespace joined waits until its network works.
  if (namespace !== null) return namespace.target.kind !== 'command' && (draft.background ?? true);
  return draft.background ?? (program === 'passt' || (draft.fd !== null && draft.pid !== null));
}

function policyGiven({ policyRules, policyFile, policyAudit }: Draft): Policy | null {
  if (policyFile !== null && policyRules.length > 0)
    throw conflict('--policy and --allow or --deny exclude each other: write all rules into the file, or none');
  if (policyFile !== null) return { ...policyFile, audit: policyFile.audit || policyAudit };
  if (policyRules.length > 0) return policyOf(policyRules, policyAudit);
  if (policyAudit) throw conflict('--policy-audit: there is no policy, give --allow, --deny or --policy');
  return null;
}

/** What concerns several options at once. */
function finish(draft: Draft, program: Program, namespace: NamespaceRequest | null): Options {
  if (draft.netmask !== null && draft.v4.prefixLen !== null) {
    throw conflict('--netmask and --address ADDR/LEN both give the prefix length, leave one out');
  }
  const v4 = draft.only !== 6;
  const v6 = draft.only !== 4;
  const families: readonly (readonly [Family, boolean, string])[] = [
    [draft.v4, v4, 'IPv4'],
    [draft.v6, v6, 'IPv6'],
  ];
  for (const [family, on, name] of families) {
    const given =
      family.addr ??
      family.gateway ??
      family.outboundAddr ??
      family.dnsForward ??
      family.mapHostLoopback ??
      family.mapGuestAddr;
    if (!on && (given !== null || family.outboundIf !== null))
      draft.warnings.push(`options for ${name} have no effect: ${name} is off`);
  }
  for (const { protocol, spec, origin } of draft.portOptions) {
    if (namespace === null || !isScan(spec)) draft.ports.add(protocol, spec, origin);
  }
  checkRules(draft.ports.rules, { v4, v6, tcp: draft.tcp, udp: draft.udp });
  const background = inBackground(draft, program, namespace);
  if (draft.statsSeconds !== null && background)
    throw conflict('--stats writes to stderr, which a service in the background does not have: add --foreground');
  if (draft.readyFd !== null && draft.readyFd === draft.fd)
    throw conflict(`--ready-fd ${draft.readyFd}: that is the descriptor of --fd, give another one`);
  if (draft.pollUs !== 0 && draft.frontEnd === 'stream')
    throw conflict('--poll-us polls virtqueues, which --stream does not have');
  if (draft.moderation !== 'adaptive' && draft.frontEnd === 'stream')
    throw conflict('--moderation applies to virtqueues, which --stream does not have');
  // A command has the terminal to itself.
  const quiet = namespace?.target.kind === 'command' && draft.level === 'info';
  const configured = namespace?.configNet === true;
  return {
    namespace,
    transport: transportOf(draft),
    oneOff: draft.oneOff,
    frontEnd: draft.frontEnd,
    background,
    pid: draft.pid,
    runAs: draft.runAs,
    sandbox: draft.sandbox,
    pcap: draft.pcap,
    flowLog: draft.flowLog,
    statsSeconds: draft.statsSeconds,
    trace: draft.level === 'trace',
    follow: draft.follow && !configured,
    pollUs: draft.pollUs,
    moderation: draft.moderation,
    readyFd: draft.readyFd,
    logLevel: quiet ? 'warn' : draft.level,
    logFormat: draft.logFormat,
    logFile: draft.logFile,
    logSize: draft.logSize,
    metrics: draft.metrics,
    control: draft.control,
    confPath: draft.confPath,
    slirpApi: draft.slirpApi,
    labels: Object.fromEntries(draft.labels.map(({ name, value }) => [name, value])),
    tftp: draft.services.tftp,
    host: {
      v4,
      v6,
      v6Required: draft.only === 6,
      iface: draft.iface,
      ip4: { ...draft.v4, prefixLen: draft.v4.prefixLen ?? draft.netmask },
      ip6: draft.v6,
      dnsNone: draft.dnsNone,
      search: draft.search,
      mapGateway: draft.mapGateway,
      ourMac: draft.mac,
      mtu: draft.mtu,
      hostname: draft.hostname,
      fqdn: draft.fqdn,
      tcp: draft.tcp,
      udp: draft.udp,
      icmp: draft.icmp,
      keepDf: draft.keepDf,
      dhcp: draft.dhcp,
      ndp: draft.ndp,
      dhcpv6: draft.dhcpv6,
      ra: draft.ra && !configured,
      advertiseDns: draft.advertiseDns,
      advertiseSearch: draft.advertiseSearch,
      leaseSec: draft.services.leaseSec,
      extras: linkExtras(draft.services),
    },
    rules: draft.ports.rules,
    freebind: draft.freebind,
    policy: policyGiven(draft),
    rates: { in: draft.rateIn, out: draft.rateOut },
    warnings: draft.warnings,
  };
}

/** What a command line is read with. All have a value that fits an ordinary start. */
export interface ParseContext {
  /** Whose defaults hold. */
  readonly program?: Program;
  /** Where options may stand too. */
  readonly env?: NodeJS.ProcessEnv;
  /** Arguments in front of `argv`. */
  readonly skipped?: number;
}

type TableSetting = Setting<OptionSpec>;

/** Options of the file that `--config` or TUBETTI_CONFIG names. */
function configSettings(places: readonly (readonly TableSetting[])[]): TableSetting[] {
  const named = places.flat().findLast(({ option }) => option.long[0] === 'config');
  if (named === undefined) return [];
  return fileSettings(OPTIONS, readConfigFile(named.value, named.shown), named.value);
}

/**
 * Reads a command line (without the program's name), the environment and the file that one of them names. Throws
 * ConfigError for everything that is wrong with them. `-h`, `--version` and `--print-capabilities` take effect where
 * they stand, as with getopt: the rest is ignored. `ephemeral`: the range that `-t all` leaves out.
 */
export function parseOptions(
  argv: readonly string[],
  ephemeral: PortRange = readEphemeralRange(),
  { program = 'tubetti', env = {}, skipped = 0 }: ParseContext = {},
): Command {
  const draft = emptyDraft(ephemeral, program);
  const line: TableSetting[] = [];
  const rest = parseLine(OPTIONS, argv, (option, value, shown) => {
    line.push({ option, value, shown, on: true });
    return option.action === undefined;
  });
  const action = line.at(-1)?.option.action;
  if (action !== undefined) return { action };
  if (program !== 'pasta' && rest.length > 0) {
    throw new ConfigError('CFG_ERR_USAGE', `extra argument "${rest[0]}": only options are accepted (see --help)`);
  }
  const environment = envSettings(OPTIONS, env, (text) => draft.warnings.push(text));
  const file = configSettings([environment, line]);
  for (const { option, value, shown } of mergeSettings([file, environment, line])) {
    if (program === 'pasta') checkPastaOption(option, shown);
    option.apply(draft, value, shown);
  }
  const namespace = namespaceRequest(draft, rest, skipped + argv.length - rest.length, ephemeral);
  return { action: 'run', options: finish(draft, program, namespace) };
}
