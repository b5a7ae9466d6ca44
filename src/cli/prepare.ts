/** What the start has to find out and to open before the service: the host's network, forwarded ports, what there is room for. */
import { type ListenerIo, openListeners, type OpenedListeners } from '../config/forward-listeners';
import { hostReach } from '../config/host-reach';
import { flowLimits, resolveHostConfig, stackConfig, weakListeners } from '../config/host-config';
import { type HostNetwork, readHostNetwork } from '../config/netlink';
import { probePeekOff } from '../config/peek-off';
import { readResolvConf } from '../config/resolv-conf';
import { readSysctls } from '../config/sysctl';
import type { Log } from '../log';
import type { Native } from '../native';
import { formatIp } from '../config/address-text';
import type { StackConfig } from '../stack/config';
import type { HostReach } from '../stack/policy/types';
import { AF_INET, AF_INET6, SOCK_UDP } from '../stack/ports';
import { moreListeners } from './control';
import { checkListeners, raiseFileLimit } from './file-limit';
import type { Options } from './options';

/** True if sockets of the IPv6 family can be made on this host. */
function hasIp6Sockets(native: Native): boolean {
  const fd = native.socket(AF_INET6, SOCK_UDP);
  if (fd >= 0) native.close(fd);
  return fd >= 0;
}

/** For every family of which there are sockets: a guest's resolver may be one of the family that the guest has not. */
function canPeekOff(native: Native, v6: boolean): boolean {
  return probePeekOff(native, AF_INET) && (!v6 || probePeekOff(native, AF_INET6));
}

export interface Prepared {
  readonly network: HostNetwork;
  readonly config: StackConfig;
  readonly opened: OpenedListeners;
  readonly host: ReturnType<typeof resolveHostConfig>;
  readonly v6Sockets: boolean;
  readonly reach: HostReach;
  /** Listeners that there may be besides those of the start. */
  readonly more: number;
}

/** A gateway outside of the guest's subnet works with clients that take routes by DHCP; or it is a typing error. */
function warnOfGateway(options: Options, { ip4 }: Prepared['host'], log: Log): void {
  const { gateway } = options.host.ip4;
  if (gateway === null || ip4 === null) return;
  const wide = (bytes: Uint8Array): number => Buffer.from(bytes).readUInt32BE() / 2 ** (32 - ip4.prefixLen);
  if (Math.floor(wide(gateway)) === Math.floor(wide(ip4.guestAddr))) return;
  const subnet = `${formatIp(ip4.guestAddr)}/${ip4.prefixLen}`;
  log.warn(
    `--gateway ${formatIp(gateway)}: not in the guest's subnet (${subnet}); DHCP sends a route to it (option 121), ` +
      'which some clients ignore',
  );
}

/** Everything that can fail for the user's or the host's reasons. */
export function prepare(options: Options, native: Native, io: ListenerIo, log: Log): Prepared {
  const fileLimit = raiseFileLimit(native);
  const facts = {
    network: readHostNetwork(native),
    resolvConf: readResolvConf(),
    v6Sockets: hasIp6Sockets(native),
  };
  const host = resolveHostConfig(options.host, facts);
  for (const note of host.notes) log.log(note.level, note.text);
  warnOfGateway(options, host, log);
  const families = { v4: host.ip4 !== null, v6: host.ip6 !== null };
  const opened = openListeners(io, options.rules, {
    ...families,
    freebind: options.freebind,
    maxWeak: weakListeners(fileLimit),
  });
  checkListeners(fileLimit, opened.listeners.length);
  const peekOff = canPeekOff(native, facts.v6Sockets);
  const more = moreListeners(options, fileLimit);
  const limits = flowLimits(fileLimit, opened.listeners.length + more);
  log.debug(
    `limit of ${fileLimit} open files: up to ${limits.maxTcpFlows} TCP, ${limits.maxUdpFlows} UDP, ${limits.maxPingFlows} ping flows`,
  );
  log.debug(`SO_PEEK_OFF on TCP: ${peekOff ? 'works' : 'not available, unacknowledged bytes are read again'}`);
  const config = stackConfig(options.host, host, readSysctls(), limits, peekOff);
  const { network, v6Sockets } = facts;
  return { config, opened, host, network, v6Sockets, reach: hostReach(network), more };
}
