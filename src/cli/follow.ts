/** Following the host: what it tells at run time becomes a configuration of the data plane (docs/adr/0004). */
import { type ResolvedHost, resolveHostConfig, stackConfig } from '../config/host-config';
import { followHost, sameHost } from '../config/follow';
import { HostMonitor } from '../config/monitor';
import { neighbourEntries } from '../config/neighbours';
import { readHostNetwork } from '../config/netlink';
import { readResolvConf } from '../config/resolv-conf';
import { readSysctls } from '../config/sysctl';
import type { DataPlane } from '../dataplane/data-plane';
import { messageOf } from '../errors';
import type { Log } from '../log';
import type { Native } from '../native';
import type { StackConfig } from '../stack/config';
import type { Options } from './options';

export interface Followed {
  readonly options: Options;
  readonly native: Native;
  readonly log: Log;
  readonly plane: DataPlane;
  /** What the guest got at the start. */
  readonly host: ResolvedHost;
  readonly config: StackConfig;
}

/** From now on the guest is told of changes of the host's network. */
export function follow({ options, native, log, plane, host, config }: Followed): HostMonitor {
  let current = host;
  let links = readHostNetwork(native).links;
  const indexOf = (name: string | null): number => links.find((link) => link.name === name)?.index ?? 0;
  const monitor = new HostMonitor({
    native,
    log: log.log,
    onChange: () => {
      try {
        const network = readHostNetwork(native);
        links = network.links;
        const v6Sockets = config.ip6 !== null;
        const facts = { network, resolvConf: readResolvConf(), v6Sockets };
        const now = followHost(current, resolveHostConfig(options.host, facts));
        if (sameHost(current, now)) return;
        current = now;
        log.info("the host's network changed, and the guest's with it");
        const { maxTcpFlows, maxUdpFlows, maxPingFlows } = config;
        const limits = { maxTcpFlows, maxUdpFlows, maxPingFlows };
        void plane.setConfig(stackConfig(options.host, now, readSysctls(), limits, config.tcpPeekOff));
      } catch (error) {
        // An interface named on the command line may be gone for a while.
        log.warn(`a change of the host's network is not followed: ${messageOf(error)}`);
      }
    },
    onNeighbours: (table) => {
      void plane.setNeighbours(neighbourEntries(table, indexOf(current.template4), indexOf(current.template6)));
    },
  });
  monitor.start();
  return monitor;
}
