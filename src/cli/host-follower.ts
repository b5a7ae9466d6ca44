/**
 * Following the host: changes of its network become a new configuration of the data plane (docs/adr/0004). With
 * `--no-follow` the guest's configuration stays. Its flows are checked all the same when the host moved: a connected
 * socket of IPv6 keeps sending from an address that the host has no more, and no error says so.
 */
import { type ResolvedHost, resolveHostConfig, stackConfig } from '../config/host-config';
import { followHost, sameHost, whereabouts } from '../config/keep-addresses';
import { hostAddresses } from '../config/host-addresses';
import { hostReach } from '../config/host-reach';
import { HostMonitor } from '../config/monitor';
import { type Neighbours, neighbourEntries } from '../config/host-neighbours';
import { type HostNetwork, isDefaultRoute, readHostNetwork } from '../config/netlink';
import { readResolvConf } from '../config/resolv-conf';
import { readSysctls } from '../config/sysctl';
import type { HostAddress } from '../control/types';
import type { DataPlane } from '../supervisor/data-plane';
import { messageOf } from '../errors';
import type { Log } from '../log';
import type { Native } from '../native';
import type { Broker } from '../sandbox/broker';
import type { StackConfig } from '../stack/config';
import type { Options } from './options';
import type { ServicePolicy } from './policy';

export interface Followed {
  readonly options: Options;
  readonly native: Native;
  readonly log: Log;
  readonly plane: DataPlane;
  /** What the guest got at the start. */
  readonly host: ResolvedHost;
  readonly config: StackConfig;
  /** As at the start: a family does not come or go while the service runs. */
  readonly v6Sockets: boolean;
  /** Who reads and watches resolv.conf for us; null: we do. */
  readonly broker: Broker | null;
  readonly policy: ServicePolicy;
  /** Called with the host's addresses when they have changed; null: nobody wants them. */
  readonly onAddresses: ((addresses: readonly HostAddress[]) => void) | null;
  /** What besides has to follow the host's interfaces; null: nothing. */
  readonly followInterfaces: (() => Promise<void>) | null;
}

/** From now on changes of the host's network reach the guest, or with `--no-follow` the sockets of its flows. */
export function follow({
  options,
  native,
  log,
  plane,
  host,
  config,
  v6Sockets,
  broker,
  policy,
  onAddresses,
  followInterfaces,
}: Followed): HostMonitor {
  let current = host;
  let links: HostNetwork['links'] = [];
  /** The host's addresses at the last read; null: not read yet, or nobody wants to know. */
  let shown: string | null = null;
  const showAddresses = (network: HostNetwork): void => {
    if (onAddresses === null) return;
    const addresses = hostAddresses(network);
    const before = shown;
    shown = JSON.stringify(addresses);
    if (before !== null && before !== shown) onAddresses(addresses);
  };
  /** The host's source addresses at the last read; null: not read yet. */
  let place: string | null = null;
  const withDefault = new Set<number>();
  const indexOf = (name: string | null): number => links.find((link) => link.name === name)?.index ?? 0;
  let unread = false;
  /** Descriptors or memory may have run out for a moment, and there is no second notification of the change. */
  const readOrRetry = (): HostNetwork | null => {
    try {
      const network = readHostNetwork(native);
      unread = false;
      return network;
    } catch (error) {
      monitor.lookAgain();
      if (!unread) warn(error);
      unread = true;
      return null;
    }
  };
  const look = async (): Promise<void> => {
    const network = readOrRetry();
    if (network === null) return;
    links = network.links;
    showAddresses(network);
    await followInterfaces?.();
    withDefault.clear();
    for (const route of network.routes) if (isDefaultRoute(route)) withDefault.add(route.family);
    await policy.setReach(hostReach(network));
    let now = current;
    if (options.follow) {
      const facts = { network, resolvConf: readResolvConf(broker ?? undefined), v6Sockets };
      now = followHost(current, resolveHostConfig(options.host, facts));
    }
    const before = place;
    place = whereabouts(network);
    if (sameHost(current, now)) {
      if (before !== null && before !== place) await plane.hostMoved();
      return;
    }
    current = now;
    const { maxTcpFlows, maxUdpFlows, maxPingFlows } = config;
    const limits = { maxTcpFlows, maxUdpFlows, maxPingFlows };
    // Of which interface neighbours count may be another one now.
    monitor.tell();
    const next = stackConfig(options.host, now, readSysctls(), limits, config.tcpPeekOff);
    await plane.setConfig({ ...next, ownListeners: config.ownListeners });
    log.log('info', "the host's network changed, the guest's configuration follows", 'follow.changed');
  };
  const warn = (error: unknown): void => {
    // An interface named on the command line may be gone for a while.
    log.log('warn', `cannot follow a change of the host's network: ${messageOf(error)}`, 'follow.failed');
  };
  const lookOrWarn = (): void => {
    look().catch(warn);
  };
  const tellNeighbours = (table: Neighbours): void => {
    const entries = neighbourEntries(table, indexOf(current.template4), indexOf(current.template6));
    plane.setNeighbours(entries).catch(warn);
  };
  const monitor = new HostMonitor({
    native,
    log: log.log,
    onChange: lookOrWarn,
    onNeighbours: options.follow ? tellNeighbours : null,
    resolvConf: options.follow ? undefined : null,
    hasDefaultRoute: (family) => withDefault.has(family),
    ...(broker === null ? {} : { watchResolvers: (changed: () => void) => broker.watchResolvConf(changed) }),
  });
  monitor.start();
  // What changed since the network was read for the start.
  lookOrWarn();
  return monitor;
}
