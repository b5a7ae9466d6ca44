/**
 * The guest's configuration after the host's network changed: a pure function of the configuration before and of what
 * the host would give now. A family that lost its network keeps its addresses, for there is nothing better, and they
 * may come back (a cable, a wireless network, a suspended machine): IPv6 tells the guest so (`withdrawn`), IPv4 cannot,
 * but leases are short until then.
 */
import { LOCAL_LEASE_SEC, type ResolvedHost } from './host-config';
import type { Ip4Config } from '../stack/config';
import type { HostNetwork } from './netlink';
import { IFA_F_DADFAILED, IFA_F_TENTATIVE, isDefaultRoute } from './netlink';

export function followHost(before: ResolvedHost, now: ResolvedHost): ResolvedHost {
  const lost4 = before.template4 !== null && now.template4 === null && before.ip4 !== null && now.ip4 !== null;
  const lost6 = before.template6 !== null && now.template6 === null && before.ip6 !== null && now.ip6 !== null;
  return {
    ...now,
    ip4: lost4 ? { ...before.ip4, ...namesOf(before.ip4, now.ip4), leaseSec: LOCAL_LEASE_SEC } : now.ip4,
    template4: lost4 ? before.template4 : now.template4,
    ip6: lost6
      ? { ...before.ip6, ...namesOf(before.ip6, now.ip6), withdrawn: true, leaseSec: LOCAL_LEASE_SEC }
      : now.ip6,
    template6: lost6 ? before.template6 : now.template6,
  };
}

type Names = Pick<Ip4Config, 'dns' | 'dnsMatch' | 'dnsHost' | 'dnsHostScope'>;

/** A host that lost one family's network may have resolvers in another, and the guest its old addresses of them. */
function namesOf(before: Names, now: Names): Names {
  const { dns, dnsMatch, dnsHost, dnsHostScope } = now.dns.length > 0 ? now : before;
  return { dns, dnsMatch, dnsHost, dnsHostScope };
}

/**
 * What decides from which address the host's sockets send: its addresses and default routes, as text. Whoever has a
 * network that changes all the time in other ways (containers that come and go) has the same text.
 */
export function whereabouts(network: HostNetwork): string {
  const addresses = network.addresses
    .filter(({ flags, index }) => (flags & (IFA_F_DADFAILED | IFA_F_TENTATIVE)) === 0 && index > 1)
    .map(({ index, addr, prefixLen }) => [index, String(addr), prefixLen]);
  const routes = network.routes
    .filter(isDefaultRoute)
    .map(({ family, priority, index, gateway, nextHops }) => [
      family,
      priority,
      index,
      String(gateway),
      nextHops.map((hop) => [hop.index, hop.hops, String(hop.gateway)]),
    ]);
  return JSON.stringify([addresses, routes]);
}

/** True if the guest would notice no difference. Notes are remarks on how it was found. */
export function sameHost(a: ResolvedHost, b: ResolvedHost): boolean {
  return text(a) === text(b);
}

function text(host: ResolvedHost): string {
  const { ip4, ip6, search, template4, template6 } = host;
  return JSON.stringify([ip4, ip6, search, template4, template6], (_key, value: unknown) =>
    value instanceof Uint8Array ? String(value) : value,
  );
}
