/**
 * From the options and the host's network to the guest's configuration. `resolveHostConfig` is a pure function
 * of both, so that every layout of addresses can be tested from data; reading the host is netlink.ts, resolv-conf.ts
 * and sysctl.ts.
 *
 * The guest gets the host's own address, prefix and gateway: those of one *template interface* per family. A family
 * without a template gets addresses made up for the link alone ("local mode"); it still reaches the host.
 */
import { ConfigError } from '../errors';
import type { AddressBytes, Ip4Config, Ip6Config, LinkExtras, StackConfig } from '../stack/config';
import { classPrefix, isLinkLocal6 } from './address-text';
import {
  AF_INET,
  AF_INET6,
  type HostNetwork,
  IFA_F_DADFAILED,
  IFA_F_DEPRECATED,
  IFA_F_TEMPORARY,
  IFA_F_TENTATIVE,
  type InterfaceAddress,
  type Route,
  RT_SCOPE_LINK,
  RT_SCOPE_UNIVERSE,
  RT_TABLE_MAIN,
  RTN_UNICAST,
} from './netlink';
import { checkPlausible4, checkPlausible6 } from './plausible';
import type { ResolvConf } from './resolv-conf';
import { type NameFacts, resolveNames } from './resolvers';
import type { HostSysctls } from './sysctl';

/** What the command line says of one family; null is "not given". */
export interface FamilyRequest {
  readonly addr: AddressBytes | null;
  /** IPv4 only. 0: derive it. */
  readonly prefixLen: number | null;
  readonly gateway: AddressBytes | null;
  readonly outboundAddr: AddressBytes | null;
  readonly outboundIf: string | null;
  /** Resolvers to advertise, as given; empty: none given. */
  readonly dns: readonly AddressBytes[];
  readonly dnsForward: AddressBytes | null;
  readonly dnsHost: AddressBytes | null;
  readonly mapHostLoopback: AddressBytes | null;
  readonly mapGuestAddr: AddressBytes | null;
}

export interface HostRequest {
  readonly v4: boolean;
  readonly v6: boolean;
  /** `-6`: a host without IPv6 sockets is an error. */
  readonly v6Required: boolean;
  readonly iface: string | null;
  readonly ip4: FamilyRequest;
  readonly ip6: FamilyRequest;
  /** No resolvers but those given. */
  readonly dnsNone: boolean;
  /** null: the host's. */
  readonly search: readonly string[] | null;
  /** The gateway's address stands for the host unless another address does. */
  readonly mapGateway: boolean;
  readonly ourMac: Uint8Array;
  readonly mtu: number;
  readonly hostname: string | null;
  readonly fqdn: string | null;
  readonly tcp: boolean;
  readonly udp: boolean;
  readonly icmp: boolean;
  readonly keepDf: boolean;
  readonly dhcp: boolean;
  readonly ndp: boolean;
  readonly dhcpv6: boolean;
  readonly ra: boolean;
  readonly advertiseDns: boolean;
  readonly advertiseSearch: boolean;
  /** Lifetime of leases and advertised addresses, seconds; null: the default. */
  readonly leaseSec: number | null;
  readonly extras: LinkExtras;
}

export interface HostFacts {
  readonly network: HostNetwork;
  readonly resolvConf: ResolvConf;
  /** False if AF_INET6 sockets cannot be made. */
  readonly v6Sockets: boolean;
}

export interface Note {
  readonly level: 'info' | 'warn';
  readonly text: string;
}

export interface ResolvedHost {
  readonly ip4: Ip4Config | null;
  readonly ip6: Ip6Config | null;
  readonly search: readonly string[];
  /** Names of the template interfaces; null: local mode, or the family is off. */
  readonly template4: string | null;
  readonly template6: string | null;
  readonly notes: readonly Note[];
}

/**
 * Lifetime of leases and advertised addresses, seconds (docs/adr/0008). In local mode a network may come any moment.
 */
export const LEASE_SEC = 3600;
export const LOCAL_LEASE_SEC = 60;

/** Local mode: a link of its own in 169.254/16 (RFC 3927) and fe80::/64. */
const LOCAL4_GUEST = Uint8Array.of(169, 254, 2, 1);
const LOCAL4_GATEWAY = Uint8Array.of(169, 254, 2, 2);
const LOCAL4_PREFIX = 16;
const LOCAL6_GATEWAY = Uint8Array.of(0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);

const INDEX_LOOPBACK = 1;

/** Interface of a route: its own, or that of its first next hop; 0 if it has none. */
function routeIndex(route: Route): number {
  return route.index !== 0 ? route.index : route.nextHops.length > 0 ? route.nextHops[0].index : 0;
}

/** Routes that lead out of the host, in the kernel's order. */
function outwardRoutes(network: HostNetwork, family: number): Route[] {
  return network.routes.filter(
    (route) =>
      route.family === family &&
      route.table === RT_TABLE_MAIN &&
      route.type === RTN_UNICAST &&
      route.scope === RT_SCOPE_UNIVERSE &&
      routeIndex(route) > INDEX_LOOPBACK &&
      !(route.dst !== null && isLinkLocal(route.dst)),
  );
}

function isLinkLocal(addr: AddressBytes): boolean {
  return addr.length === 4 ? addr[0] === 169 && addr[1] === 254 : isLinkLocal6(addr);
}

function indexOfName(network: HostNetwork, name: string, option: string): number {
  const link = network.links.find((candidate) => candidate.name === name);
  if (link === undefined) {
    const known = network.links.map((candidate) => candidate.name).join(', ');
    throw new ConfigError('CFG_ERR_HOST', `${option} ${name}: no such interface (there are: ${known})`);
  }
  return link.index;
}

/** The interface whose addresses and routes a family takes over; 0: there is none. */
function templateIndex(request: HostRequest, family: number, network: HostNetwork): number {
  const wish = family === AF_INET ? request.ip4.outboundIf : request.ip6.outboundIf;
  const outbound =
    wish === null ? 0 : indexOfName(network, wish, family === AF_INET ? '--outbound-if4' : '--outbound-if6');
  if (request.iface !== null) return indexOfName(network, request.iface, '--interface');
  if (outbound !== 0) return outbound;
  const routes = outwardRoutes(network, family);
  const best = routes.find((route) => route.dstLen === 0) ?? routes.at(0);
  return best === undefined ? 0 : routeIndex(best);
}

/**
 * Gateway of the first default route over an interface; of several next hops the one with the highest weight. `routed`:
 * there is such a route, if only onto the link or by way of a router of the other family.
 */
function gatewayOn(
  network: HostNetwork,
  family: number,
  index: number,
): { readonly gateway: AddressBytes | null; readonly routed: boolean } {
  const length = family === AF_INET ? 4 : 16;
  const own = (gateway: AddressBytes | null): AddressBytes | null => (gateway?.length === length ? gateway : null);
  for (const route of outwardRoutes(network, family)) {
    if (route.dstLen !== 0) continue;
    if (route.index === index) return { gateway: own(route.gateway), routed: true };
    const hops = route.nextHops.filter((hop) => hop.index === index);
    if (hops.length === 0) continue;
    const usable = hops.filter((hop) => own(hop.gateway) !== null);
    const best = usable.length === 0 ? null : usable.reduce((a, b) => (b.hops >= a.hops ? b : a));
    return { gateway: best === null ? null : best.gateway, routed: true };
  }
  return { gateway: null, routed: false };
}

/**
 * How gladly an address is taken, the less the better: one that lasts before a deprecated one (RFC 4862 §5.5.4), then
 * before a temporary one (RFC 8981, or IPv4's secondary ones), then before one whose uniqueness is still being looked
 * into (RFC 4862 §5.4): that ends within a second or so, and is followed.
 */
function reluctance({ flags }: InterfaceAddress): number {
  return (
    ((flags & IFA_F_DEPRECATED) === 0 ? 0 : 4) +
    ((flags & IFA_F_TEMPORARY) === 0 ? 0 : 2) +
    ((flags & IFA_F_TENTATIVE) === 0 ? 0 : 1)
  );
}

/**
 * The best address on an interface: of equals the one with the longest prefix, then the first. One that another host
 * has does not count.
 */
function addressOn(
  network: HostNetwork,
  family: number,
  index: number,
  fits: (address: InterfaceAddress) => boolean,
): InterfaceAddress | null {
  let best: InterfaceAddress | null = null;
  for (const address of network.addresses) {
    if (address.family !== family || address.index !== index || !fits(address)) continue;
    if ((address.flags & IFA_F_DADFAILED) !== 0) continue;
    const less = best === null ? -1 : reluctance(address) - reluctance(best);
    if (best === null || less < 0 || (less === 0 && address.prefixLen > best.prefixLen)) best = address;
  }
  return best;
}

function nameOf(network: HostNetwork, index: number): string {
  return network.links.find((link) => link.index === index)?.name ?? `interface ${index}`;
}

interface Resolved<T> {
  readonly config: T;
  readonly template: string | null;
}

function nameFacts(
  request: HostRequest,
  facts: HostFacts,
  family: 4 | 6,
  mapHostLoopback: AddressBytes | null,
): NameFacts {
  const { links } = facts.network;
  const v4 = family === 4;
  return {
    family,
    request: v4 ? request.ip4 : request.ip6,
    other: v4 ? request.ip6 : request.ip4,
    otherGiven: v4 ? request.v6 && facts.v6Sockets : request.v4,
    otherSockets: v4 ? facts.v6Sockets : true,
    dnsNone: request.dnsNone,
    resolvConf: facts.resolvConf,
    mapHostLoopback,
    scopeOf: (zone) =>
      links.find(({ name, index }) => name === zone || String(index) === zone)?.index ??
      templateIndex(request, AF_INET6, facts.network),
  };
}

function resolve4(request: HostRequest, facts: HostFacts, notes: Note[]): Resolved<Ip4Config> {
  const { network } = facts;
  const wish = request.ip4;
  const index = templateIndex(request, AF_INET, network);
  const own = index === 0 ? null : addressOn(network, AF_INET, index, () => true);
  const local = own === null;
  if (local) {
    const why = index === 0 ? 'no external interface to copy from' : `no address on ${nameOf(network, index)}`;
    notes.push({ level: 'info', text: `IPv4: ${why}, using local mode` });
  }
  const guestAddr = wish.addr ?? own?.addr ?? LOCAL4_GUEST;
  // A prefix length of the interface says nothing of another address' network, but it is passt's guess, and a good one.
  const derived = own?.prefixLen ?? LOCAL4_PREFIX;
  const asked = wish.prefixLen ?? 0;
  const prefixLen = asked !== 0 ? asked : derived !== 0 ? derived : classPrefix(guestAddr);
  const found = gatewayOn(network, AF_INET, index);
  // The way out may lead by an IPv6 router (RFC 8950), or straight onto a link: the guest's way out is us all the same,
  // under an address that hides no host's.
  const gateway = wish.gateway ?? (local || (found.routed && found.gateway === null) ? LOCAL4_GATEWAY : found.gateway);
  const mapHostLoopback = wish.mapHostLoopback ?? (request.mapGateway ? gateway : null);
  const config: Ip4Config = {
    guestAddr,
    prefixLen,
    gateway,
    ...resolveNames(nameFacts(request, facts, 4, mapHostLoopback), notes),
    mapHostLoopback,
    mapGuestAddr: wish.mapGuestAddr,
    outboundAddr: wish.outboundAddr,
    outboundIf: wish.outboundIf,
    addrFixed: wish.addr !== null,
    leaseSec: request.leaseSec ?? (local ? LOCAL_LEASE_SEC : LEASE_SEC),
  };
  checkPlausible4(wish, config);
  return { template: local ? null : nameOf(network, index), config };
}

function resolve6(request: HostRequest, facts: HostFacts, notes: Note[]): Resolved<Ip6Config> {
  const { network } = facts;
  const wish = request.ip6;
  const index = templateIndex(request, AF_INET6, network);
  const on = (fits: (address: InterfaceAddress) => boolean): InterfaceAddress | null =>
    index === 0 ? null : addressOn(network, AF_INET6, index, fits);
  const global = on((address) => address.scope < RT_SCOPE_LINK);
  const linkLocal = on((address) => address.scope === RT_SCOPE_LINK && isLinkLocal6(address.addr));
  const local = global === null || linkLocal === null;
  if (local) {
    const missing = global === null ? 'global' : 'link-local';
    const why =
      index === 0 ? 'no external interface to copy from' : `no ${missing} address on ${nameOf(network, index)}`;
    notes.push({ level: 'info', text: `IPv6: ${why}, using local mode` });
  }
  const gateway = wish.gateway ?? (local ? LOCAL6_GATEWAY : gatewayOn(network, AF_INET6, index).gateway);
  const ownLinkLocal = local ? LOCAL6_GATEWAY : linkLocal.addr;
  const mapHostLoopback = wish.mapHostLoopback ?? (request.mapGateway ? gateway : null);
  const config: Ip6Config = {
    guestAddr: wish.addr ?? (local ? null : global.addr),
    gateway,
    ourLinkLocal: gateway !== null && isLinkLocal6(gateway) ? gateway : ownLinkLocal,
    ...resolveNames(nameFacts(request, facts, 6, mapHostLoopback), notes),
    mapHostLoopback,
    mapGuestAddr: wish.mapGuestAddr,
    outboundAddr: wish.outboundAddr,
    outboundIf: wish.outboundIf,
    addrFixed: wish.addr !== null,
    scopeId: local ? 0 : index,
    withdrawn: false,
    leaseSec: request.leaseSec ?? (local ? LOCAL_LEASE_SEC : LEASE_SEC),
  };
  checkPlausible6(wish, config);
  return { template: local ? null : nameOf(network, index), config };
}

/** Throws ConfigError CFG_ERR_HOST: an interface that does not exist, no IPv6 where only IPv6 is wanted. */
export function resolveHostConfig(request: HostRequest, facts: HostFacts): ResolvedHost {
  const notes: Note[] = [];
  let v6 = request.v6;
  if (v6 && !facts.v6Sockets) {
    if (request.v6Required) throw new ConfigError('CFG_ERR_HOST', '--ipv6-only: this host has no IPv6 sockets');
    notes.push({ level: 'info', text: 'IPv6: off, this host has no IPv6 sockets' });
    v6 = false;
  }
  if (request.iface !== null) indexOfName(facts.network, request.iface, '--interface');
  const ip4 = request.v4 ? resolve4(request, facts, notes) : null;
  const ip6 = v6 ? resolve6(request, facts, notes) : null;
  return {
    ip4: ip4?.config ?? null,
    ip6: ip6?.config ?? null,
    search: request.search ?? facts.resolvConf.search,
    template4: ip4?.template ?? null,
    template6: ip6?.template ?? null,
    notes,
  };
}

/** How many flows of each kind fit under a limit of open files. */
export interface FlowLimits {
  readonly maxTcpFlows: number;
  readonly maxUdpFlows: number;
  readonly maxPingFlows: number;
}

/** Descriptors that are not flows: Node itself, rings, memory regions, metrics connections, with room to spare. */
const FILES_RESERVED = 192;
/** Descriptors that Node, the addon and the service need in any case, including a front-end's memory and rings. */
const FILES_NEEDED = 56;
/** Forwarded ports of `all` may take half of the limit, and of a low one no more than this part of what is left. */
const WEAK_SHARE = 0.5;
const WEAK_SHARE_OF_FREE = 0.75;
/** With fewer open files allowed there is no start. */
export const MIN_FILES = 64;
const MAX_TCP_FLOWS = 65536;
const MAX_UDP_FLOWS = 32768;
const MAX_PING_FLOWS = 4096;

function filesReserved(fileLimit: number): number {
  return Math.min(FILES_RESERVED, Math.max(FILES_NEEDED, Math.floor(fileLimit / 2)));
}

/** Descriptors that forwarded ports of `all` may take under a limit of open files: the rest is for connections. */
export function weakListeners(fileLimit: number): number {
  const free = fileLimit - filesReserved(fileLimit);
  return Math.floor(Math.min(fileLimit * WEAK_SHARE, free * WEAK_SHARE_OF_FREE));
}

/**
 * Shares the descriptors out: no kind of flow can take those of another, so that a flood of DNS queries does not keep
 * TCP connections from opening. `listeners` are descriptors already in use.
 */
export function flowLimits(fileLimit: number, listeners: number): FlowLimits {
  const free = Math.max(MIN_FILES - FILES_NEEDED, fileLimit - filesReserved(fileLimit) - listeners);
  return {
    maxTcpFlows: Math.min(MAX_TCP_FLOWS, Math.floor(free * 0.62)),
    maxUdpFlows: Math.min(MAX_UDP_FLOWS, Math.floor(free * 0.31)),
    maxPingFlows: Math.min(MAX_PING_FLOWS, Math.max(4, Math.floor(free * 0.06))),
  };
}

/** The stack's configuration. */
export function stackConfig(
  request: HostRequest,
  host: ResolvedHost,
  sysctls: HostSysctls,
  limits: FlowLimits,
  tcpPeekOff: boolean,
): StackConfig {
  return {
    ourMac: request.ourMac,
    ip4: host.ip4,
    ip6: host.ip6,
    mtu: request.mtu,
    search: host.search,
    hostname: request.hostname,
    fqdn: request.fqdn,
    tcp: request.tcp,
    udp: request.udp,
    icmp: request.icmp,
    keepDf: request.keepDf,
    dhcp: request.dhcp && host.ip4 !== null && host.ip4.gateway !== null,
    dhcpv6: request.dhcpv6 && host.ip6 !== null && host.ip6.guestAddr !== null,
    ndp: request.ndp && host.ip6 !== null,
    ra: request.ra && request.ndp && host.ip6 !== null,
    advertiseDns: request.advertiseDns,
    advertiseSearch: request.advertiseSearch,
    ...limits,
    ...sysctls,
    tcpPeekOff,
    ownListeners: [],
    extras: request.extras,
  };
}
