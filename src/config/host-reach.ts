/** What of the host's network the policy's rules `host` and `lan` mean (docs/policy.md). */
import { type HostNetwork, RT_TABLE_MAIN, RTN_UNICAST } from './netlink';
import type { HostReach, Prefix } from '../stack/policy/types';

/** The host's own addresses, and what it reaches without a router. A pure function. */
export function hostReach({ addresses, routes }: HostNetwork): HostReach {
  const onLink = new Map<string, Prefix>();
  const add = (prefix: Prefix): void => {
    // A default route without a router (a tunnel) makes the world no neighbour.
    if (prefix.length > 0) onLink.set(`${String(prefix.address)}/${prefix.length}`, prefix);
  };
  for (const { addr, prefixLen } of addresses) add({ address: addr, length: prefixLen });
  for (const { dst, dstLen, gateway, nextHops, nextHopId, index, table, type } of routes) {
    const direct = gateway === null && nextHopId === 0 && index !== 0 && nextHops.every((hop) => hop.gateway === null);
    if (dst !== null && direct && table === RT_TABLE_MAIN && type === RTN_UNICAST)
      add({ address: dst, length: dstLen });
  }
  return { own: addresses.map(({ addr }) => addr), onLink: [...onLink.values()] };
}

/** The same, as text, to see whether it changed. */
export function reachText({ own, onLink }: HostReach): string {
  return JSON.stringify([own.map(String), onLink.map(({ address, length }) => `${String(address)}/${length}`)]);
}
