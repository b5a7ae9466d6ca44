/** The options of a command line while they are read, before they are checked as a whole. */
import { PortTable, type PortRange } from '../config/port-spec';
import type { ModerationLevel } from '../dataplane/commands';
import type { LogLevel } from '../log';
import type { LogFormat } from '../log-format';
import type { SandboxMode } from '../sandbox/layer';
import { type AddressBytes, DEFAULT_MTU, type ExtraOption, type StaticName } from '../stack/config';
import type { Policy, PolicyRule } from '../stack/policy/types';
import type { Label, MetricsAt } from './option-values';
import { emptyPasta, type PastaDraft } from './pasta-options';

/** Our end's address on the link unless `-M` says otherwise: passt's, so that a guest's neighbour tables stay right. */
export const DEFAULT_MAC = Uint8Array.of(0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55);
export const DEFAULT_LOG_SIZE = 1 << 20;

/** Actions of options that print something instead of starting the service. */
export type Action = 'help' | 'version' | 'capabilities';

/** What is spoken on the front-end's socket: vhost-user, or QEMU's stream of frames with their length in front. */
export type FrontEnd = 'vhost-user' | 'stream';

/** The name we were called by: callers of passt and of pasta get what these do. */
export type Program = 'tubetti' | 'passt' | 'pasta';

/** A mutable twin of HostRequest for each family, filled while parsing. */
export interface Family {
  addr: AddressBytes | null;
  prefixLen: number | null;
  gateway: AddressBytes | null;
  outboundAddr: AddressBytes | null;
  outboundIf: string | null;
  dns: AddressBytes[];
  dnsForward: AddressBytes | null;
  dnsHost: AddressBytes | null;
  mapHostLoopback: AddressBytes | null;
  mapGuestAddr: AddressBytes | null;
}

/** What is given for the services on the link. */
export interface DraftServices {
  leaseSec: number | null;
  options4: ExtraOption[];
  options6: ExtraOption[];
  ntp4: AddressBytes[];
  ntp6: AddressBytes[];
  bootFile: string | null;
  nextServer4: AddressBytes | null;
  nextServer6: AddressBytes | null;
  names: StaticName[];
  tftp: string | null;
}

export interface Draft {
  socket: string | null;
  connect: string | null;
  fd: number | null;
  oneOff: boolean;
  frontEnd: FrontEnd;
  /** Null: neither -f nor -b was given. */
  background: boolean | null;
  pid: string | null;
  runAs: string | null;
  sandbox: SandboxMode;
  pcap: string | null;
  flowLog: string | null;
  statsSeconds: number | null;
  follow: boolean;
  pollUs: number;
  moderation: ModerationLevel;
  readyFd: number | null;
  level: LogLevel;
  logFormat: LogFormat;
  logFile: string | null;
  logSize: number;
  metrics: MetricsAt | null;
  /** Paths of the sockets that take orders. */
  control: string | null;
  confPath: string | null;
  slirpApi: string | null;
  labels: Label[];
  mtu: number;
  mac: Uint8Array;
  netmask: number | null;
  iface: string | null;
  v4: Family;
  v6: Family;
  /** `-D none`: families without an address of their own get no resolver at all. */
  dnsNone: boolean;
  search: string[] | null;
  hostname: string | null;
  fqdn: string | null;
  services: DraftServices;
  mapGateway: boolean;
  only: 0 | 4 | 6;
  tcp: boolean;
  udp: boolean;
  icmp: boolean;
  keepDf: boolean;
  dhcp: boolean;
  ndp: boolean;
  dhcpv6: boolean;
  ra: boolean;
  advertiseDns: boolean;
  advertiseSearch: boolean;
  freebind: boolean;
  /** `--allow` and `--deny`, in order; the policy of `--policy`. */
  policyRules: PolicyRule[];
  policyFile: Policy | null;
  policyAudit: boolean;
  /** Bits in a second; 0: no limit. */
  rateIn: number;
  rateOut: number;
  ports: PortTable;
  /** `-t`/`-u` are parsed last, when protocols and families are known. */
  portOptions: { protocol: 'tcp' | 'udp'; spec: string; origin: string }[];
  /** Null: the guest is no namespace. */
  pasta: PastaDraft | null;
  warnings: string[];
}

function emptyFamily(): Family {
  return {
    addr: null,
    prefixLen: null,
    gateway: null,
    outboundAddr: null,
    outboundIf: null,
    dns: [],
    dnsForward: null,
    dnsHost: null,
    mapHostLoopback: null,
    mapGuestAddr: null,
  };
}

export function emptyDraft(ephemeral: PortRange, program: Program): Draft {
  return {
    socket: null,
    connect: null,
    fd: null,
    oneOff: false,
    frontEnd: program === 'passt' ? 'stream' : 'vhost-user',
    background: null,
    pid: null,
    runAs: null,
    sandbox: 'on',
    pcap: null,
    flowLog: null,
    statsSeconds: null,
    follow: true,
    pollUs: 0,
    moderation: 'adaptive',
    readyFd: null,
    level: 'info',
    logFormat: 'text',
    logFile: null,
    logSize: DEFAULT_LOG_SIZE,
    metrics: null,
    control: null,
    confPath: null,
    slirpApi: null,
    labels: [],
    mtu: DEFAULT_MTU,
    mac: DEFAULT_MAC,
    netmask: null,
    iface: null,
    v4: emptyFamily(),
    v6: emptyFamily(),
    dnsNone: false,
    search: null,
    hostname: null,
    fqdn: null,
    services: {
      leaseSec: null,
      options4: [],
      options6: [],
      ntp4: [],
      ntp6: [],
      bootFile: null,
      nextServer4: null,
      nextServer6: null,
      names: [],
      tftp: null,
    },
    mapGateway: true,
    only: 0,
    tcp: true,
    udp: true,
    icmp: true,
    keepDf: false,
    dhcp: true,
    ndp: true,
    dhcpv6: true,
    ra: true,
    advertiseDns: program !== 'pasta',
    advertiseSearch: program !== 'pasta',
    freebind: false,
    policyRules: [],
    policyFile: null,
    policyAudit: false,
    rateIn: 0,
    rateOut: 0,
    ports: new PortTable(ephemeral),
    portOptions: [],
    pasta: program === 'pasta' ? emptyPasta() : null,
    warnings: [],
  };
}
