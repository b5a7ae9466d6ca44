/**
 * The guest's resolvers: those of the host, as far as the guest can reach them under their own addresses, and for the
 * others a substitute address, from which queries are forwarded to the resolver that the host itself uses.
 */
import { type AddressBytes, MAX_DNS } from '../stack/config';
import { formatIp, isLinkLocal6, isLoopback, isUnspecified, sameAddress } from './address-text';
import type { FamilyRequest, Note } from './host-config';
import type { ResolvConf } from './resolv-conf';

/** What is known of one family and, for resolvers that only the other one reaches, of the other. */
export interface NameFacts {
  readonly family: 4 | 6;
  readonly request: FamilyRequest;
  readonly other: FamilyRequest;
  /** The guest has the other family too, and learns its resolvers there. */
  readonly otherGiven: boolean;
  /** Sockets of the other family can be made on this host. */
  readonly otherSockets: boolean;
  readonly dnsNone: boolean;
  readonly resolvConf: ResolvConf;
  readonly mapHostLoopback: AddressBytes | null;
  /** Index of the interface with that name, or of the one that link-local addresses are taken to be on (null). */
  readonly scopeOf: (zone: string | null) => number;
}

/** The members of `Ip4Config` and `Ip6Config` about resolvers. */
export interface Names {
  readonly dns: readonly AddressBytes[];
  readonly dnsMatch: AddressBytes | null;
  readonly dnsHost: AddressBytes | null;
  readonly dnsHostScope: number;
}

function isOf(family: 4 | 6): (addr: AddressBytes) => boolean {
  return (addr) => addr.length === (family === 4 ? 4 : 16);
}

/**
 * Resolvers of one family. A resolver of the host that the guest would not reach under its own address (a loopback
 * address, or the address that stands for the host; one of IPv6 if the guest has only IPv4) is advertised as the host's
 * stand-in, and queries to that are intercepted and sent to the resolver the host itself uses.
 */
export function resolveNames(facts: NameFacts, notes: Note[]): Names {
  const { family, request, other, mapHostLoopback, resolvConf } = facts;
  const { nameservers } = resolvConf;
  const warn = (text: string): void => {
    notes.push({ level: 'warn', text });
  };
  const own = nameservers.filter(isOf(family));
  const foreign = nameservers.filter(isOf(family === 4 ? 6 : 4));
  const standIn = request.dnsForward ?? mapHostLoopback;
  const dns: AddressBytes[] = [...request.dns];
  let dnsMatch = request.dnsForward;
  if (request.dns.length === 0 && !facts.dnsNone) {
    for (const addr of own) {
      let advertised: AddressBytes | null = addr;
      if (isUnspecified(addr) || isLoopback(addr) || sameAddress(addr, mapHostLoopback)) {
        advertised = standIn;
        if (advertised === null) {
          warn(`resolver ${formatIp(addr)} is not reachable from the guest, left out (see --dns-forward)`);
          continue;
        }
        dnsMatch = advertised;
      }
      if (dns.length < MAX_DNS && !dns.some((known) => sameAddress(known, advertised))) dns.push(advertised);
    }
    if (own.length === 0 && foreign.length > 0 && !facts.otherGiven) {
      const only = `the host's resolvers have IPv${family === 4 ? 6 : 4} addresses only (${foreign.map(formatIp).join(', ')})`;
      if (!facts.otherSockets) {
        warn(`${only}, and it has no IPv6 sockets: the guest gets no resolver (see --dns)`);
      } else if (standIn === null) {
        warn(`${only}, and no guest-side address maps to them: the guest gets no resolver (see --dns-forward)`);
      } else {
        dns.push(standIn);
        dnsMatch = standIn;
      }
    }
  }
  if (dnsMatch === null) return { dns, dnsMatch: null, dnsHost: null, dnsHostScope: 0 };
  const foreignWish = facts.otherSockets ? other.dnsHost : null;
  const dnsHost =
    request.dnsHost ??
    (facts.otherGiven ? null : foreignWish) ??
    own.at(0) ??
    request.dns.at(0) ??
    foreignWish ??
    (facts.otherSockets ? foreign.at(0) : null) ??
    null;
  if (dnsHost === null) {
    warn(`--dns-forward ${formatIp(dnsMatch)} has no effect: no resolver to forward to, give --dns-host`);
    return { dns, dnsMatch: null, dnsHost: null, dnsHostScope: 0 };
  }
  const zone = resolvConf.zones?.at(nameservers.indexOf(dnsHost)) ?? null;
  return { dns, dnsMatch, dnsHost, dnsHostScope: isLinkLocal6(dnsHost) ? facts.scopeOf(zone) : 0 };
}
