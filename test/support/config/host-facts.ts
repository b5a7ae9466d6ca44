/** Hosts as `resolveHostConfig` is told of them, and what it makes of them and of a command line, as text. */
import { type Options, parseOptions } from '../../../src/cli/options';
import { formatIp } from '../../../src/config/address-text';
import { type HostFacts, resolveHostConfig, type ResolvedHost } from '../../../src/config/host-config';
import { parseResolvConf } from '../../../src/config/resolv-conf';
import type { HostNetwork, InterfaceAddress, Route } from '../../../src/config/netlink';
import { parseIp } from '../../../src/config/address-text';

export function options(argv: string[]): Options {
  const command = parseOptions(argv, { first: 32768, last: 60999 });
  if (command.action !== 'run') throw new Error('not run');
  return command.options;
}

export const EMPTY: HostNetwork = { links: [], addresses: [], routes: [] };

export function facts(network: HostNetwork, resolvConf = '', v6Sockets = true): HostFacts {
  return { network, resolvConf: parseResolvConf(resolvConf), v6Sockets };
}

export function resolve(argv: string[], host: HostFacts): ResolvedHost {
  return resolveHostConfig(options(argv).host, host);
}

/** Addresses as text, for reading. */
export function shown(value: unknown): unknown {
  if (value instanceof Uint8Array) return formatIp(value);
  if (Array.isArray(value)) return value.map(shown);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, shown(inner)]));
}

export const ip = (text: string): Uint8Array => parseIp(text)!;

/** A host with one interface, eth0 (2), and what is given on it. */
export function oneInterface(
  addresses: [string, number, Partial<InterfaceAddress>?][],
  routes: Partial<Route>[],
): HostNetwork {
  return {
    links: [
      { index: 1, name: 'lo', flags: 1, mac: null, mtu: 65536 },
      { index: 2, name: 'eth0', flags: 1, mac: null, mtu: 1500 },
    ],
    addresses: addresses.map(([text, prefixLen, more]) => ({
      family: text.includes(':') ? 10 : 2,
      index: 2,
      prefixLen,
      flags: 0,
      scope: text.startsWith('fe80') ? 253 : 0,
      addr: ip(text),
      ...more,
    })),
    routes: routes.map((route) => ({
      family: 2,
      dstLen: 0,
      dst: null,
      table: 254,
      type: 1,
      scope: 0,
      priority: 0,
      index: 2,
      gateway: null,
      nextHops: [],
      nextHopId: 0,
      ...route,
    })),
  };
}

export const ORDINARY = oneInterface(
  [
    ['192.0.2.2', 24],
    ['2001:db8::2', 64],
    ['fe80::2', 64],
  ],
  [{ gateway: ip('192.0.2.1') }, { family: 10, gateway: ip('fe80::1') }],
);
