/**
 * The network inside a namespace: the loopback interface, the tap's name, address and MTU and, with `--config-net`, its
 * addresses and routes. What DHCP and router advertisements would say is said by rtnetlink there.
 */
import { readFileSync } from 'node:fs';
import { formatIp } from '../config/address-text';
import type { ResolvedHost } from '../config/host-config';
import {
  AF_INET,
  AF_INET6,
  DATAGRAM_MAX,
  dumpBytes,
  type HostNetwork,
  IFA_F_DEPRECATED,
  IFA_F_TENTATIVE,
  IFA_F_DADFAILED,
  type InterfaceAddress,
  parseLinks,
  RT_SCOPE_LINK,
  RT_SCOPE_UNIVERSE,
  RTM_GETLINK,
  RTM_GETROUTE,
  splitMessages,
} from '../config/netlink';
import { ConfigError, describeErrno } from '../errors';
import type { Native } from '../native';
import type { AddressBytes, StackConfig } from '../stack/config';
import type { Holder } from './holder';
import { addAddress, addDefaultRoute, changeLink, copyRoutes } from './link-messages';
import type { NamespaceRequest } from './request';

const EEXIST = 17;
const ENETUNREACH = 101;
const EHOSTUNREACH = 113;
const EADDRNOTAVAIL = 99;
const EOPNOTSUPP = 95;
const EACCES = 13;
const ENODEV = 19;
const NLMSG_ERROR = 2;

const INDEX_LOOPBACK = 1;
/** Prefix of an IPv6 address that was given (RFC 4291 §2.5.1). */
const PREFIX_6 = 64;

type NetlinkIo = Pick<Native, 'netlinkOpen' | 'read' | 'write' | 'close'>;

/** The namespace's rtnetlink: dumps by the descriptor, changes by the process that has the rights. */
class Inside {
  private readonly native: NetlinkIo;
  private readonly holder: Holder;
  private readonly fd: number;
  private readonly buffer = new Uint8Array(DATAGRAM_MAX);

  private constructor(native: NetlinkIo, holder: Holder, fd: number) {
    this.native = native;
    this.holder = holder;
    this.fd = fd;
  }

  static async open(native: NetlinkIo, holder: Holder): Promise<Inside> {
    const { result, fd } = await holder.netlink();
    if (result < 0 || fd < 0) throw failed('cannot configure the namespace', result);
    return new Inside(native, holder, fd);
  }

  close(): void {
    this.native.close(this.fd);
  }

  dump(type: number, family: number, what: string): Uint8Array {
    const { native, fd } = this;
    const io: NetlinkIo = {
      netlinkOpen: () => fd,
      read: (...args) => native.read(...args),
      write: (...args) => native.write(...args),
      close: () => 0,
    };
    return dumpBytes(io, type, family, what);
  }

  /** Sends a change; 0 or the kernel's -errno. It has answered when the request was sent. */
  async change(message: Uint8Array): Promise<number> {
    const { result } = await this.holder.send(message);
    if (result < 0) return result;
    const got = this.native.read(this.fd, this.buffer, 0, this.buffer.length);
    if (got < 0) return got;
    const answer = splitMessages(this.buffer.subarray(0, got)).find(({ type }) => type === NLMSG_ERROR);
    return answer === undefined ? 0 : new DataView(this.buffer.buffer).getInt32(answer.start, true);
  }
}

function failed(what: string, result: number): ConfigError {
  return new ConfigError('CFG_ERR_HOST', `${what}: ${describeErrno(result)}`);
}

export interface NetworkPlan {
  readonly request: NamespaceRequest;
  readonly host: ResolvedHost;
  readonly network: HostNetwork;
  readonly config: StackConfig;
  /** The tap's name; null: there is none. */
  readonly ifname: string | null;
}

/** Addresses of the template that the namespace gets: those that last, and that are not of a link alone. */
function copied(network: HostNetwork, family: number, index: number): InterfaceAddress[] {
  return network.addresses.filter(
    (address) =>
      address.family === family &&
      address.index === index &&
      address.scope < RT_SCOPE_LINK &&
      (address.flags & (IFA_F_DEPRECATED | IFA_F_TENTATIVE | IFA_F_DADFAILED)) === 0,
  );
}

class Configurator {
  private readonly native: NetlinkIo;
  private readonly inside: Inside;
  private readonly plan: NetworkPlan;
  private readonly index: number;

  constructor(native: NetlinkIo, inside: Inside, plan: NetworkPlan, index: number) {
    this.native = native;
    this.inside = inside;
    this.plan = plan;
    this.index = index;
  }

  async addresses(family: 4 | 6): Promise<void> {
    const { request, host, network, config } = this.plan;
    const ip = family === 4 ? config.ip4 : config.ip6;
    if (ip === null) return;
    const template = family === 4 ? host.template4 : host.template6;
    const from = network.links.find(({ name }) => name === template)?.index ?? 0;
    const own =
      ip.addrFixed || request.noCopyAddrs || from === 0 ? [] : copied(network, family === 4 ? AF_INET : AF_INET6, from);
    for (const { addr, prefixLen, scope } of own) await this.address(addr, prefixLen, scope);
    if (own.length === 0 && ip.guestAddr !== null) {
      await this.address(ip.guestAddr, family === 4 ? (config.ip4?.prefixLen ?? 32) : PREFIX_6, RT_SCOPE_UNIVERSE);
    }
    const given = family === 4 ? request.gateway4 : request.gateway6;
    if (given || request.noCopyRoutes || from === 0) await this.gateway(ip.gateway);
    else await this.routes(family, from);
  }

  private async address(addr: AddressBytes, prefixLen: number, scope: number): Promise<void> {
    const result = await this.inside.change(addAddress(this.index, addr, prefixLen, scope));
    // Linux without IPv6 on the interface says EACCES.
    if (result === 0 || result === -EEXIST || (addr.length === 16 && result === -EACCES)) return;
    throw failed(`--config-net: cannot give the namespace the address ${formatIp(addr)}/${prefixLen}`, result);
  }

  private async gateway(gateway: AddressBytes | null): Promise<void> {
    if (gateway === null) return;
    let result = await this.inside.change(addDefaultRoute(this.index, gateway, false));
    // A gateway outside of the subnet: it is us, so the link leads there.
    if (result === -ENETUNREACH || result === -EHOSTUNREACH) {
      result = await this.inside.change(addDefaultRoute(this.index, gateway, true));
    }
    if (result < 0 && result !== -EEXIST && result !== -EACCES && result !== -ENODEV) {
      throw failed(`--config-net: cannot give the namespace the gateway ${formatIp(gateway)}`, result);
    }
  }

  /** Routes depend on one another (a gateway on the route to its network), so those that fail are tried again. */
  private async routes(family: 4 | 6, from: number): Promise<void> {
    const dump = dumpBytes(this.native, RTM_GETROUTE, family === 4 ? AF_INET : AF_INET6, 'routes');
    let left = copyRoutes(dump, from, this.index);
    for (let before = left.length + 1; left.length > 0 && left.length < before;) {
      before = left.length;
      const again: Uint8Array[] = [];
      for (const message of left) {
        const result = await this.inside.change(message);
        if (result === -ENETUNREACH || result === -EHOSTUNREACH) again.push(message);
        else if (result < 0 && result !== -EEXIST && result !== -EACCES && result !== -ENODEV && result !== -EOPNOTSUPP)
          throw failed('--config-net: cannot give the namespace a route of the host', result);
      }
      left = again;
    }
  }
}

/** The tap's own link-layer address. */
export interface Configured {
  readonly mac: Uint8Array | null;
}

/** Below /proc/sys/net, of the network namespace of the process that looks. */
const CONGESTION_CONTROL = 'ipv4/tcp_congestion_control';
/** Those that do not space segments out by a timer. */
const UNPACED = ['cubic', 'reno'];

/** What a new namespace has by default: the host's. */
function isPaced(): boolean {
  try {
    return !UNPACED.includes(readFileSync(`/proc/sys/net/${CONGESTION_CONTROL}`, 'utf8').trim());
  } catch {
    return false; // not to be seen in this container
  }
}

/** Sets up the network inside. Throws ConfigError. */
export async function configureNetwork(native: NetlinkIo, holder: Holder, plan: NetworkPlan): Promise<Configured> {
  const inside = await Inside.open(native, holder);
  try {
    const { request, config, ifname } = plan;
    const up = await inside.change(changeLink(INDEX_LOOPBACK, { up: true }));
    if (up < 0) throw failed('cannot set the loopback interface of the namespace up', up);
    if (ifname === null) return { mac: null };
    const find = () =>
      parseLinks(inside.dump(RTM_GETLINK, 0, "namespace's interfaces")).find(({ name }) => name === ifname);
    const index = find()?.index ?? 0;
    if (request.nsMac !== null) {
      const result = await inside.change(changeLink(index, { mac: request.nsMac }));
      if (result === -EADDRNOTAVAIL) {
        throw new ConfigError(
          'CFG_ERR_VALUE',
          '--ns-mac-addr: not the address of one interface, give a unicast address',
        );
      }
      if (result < 0) throw failed('--ns-mac-addr', result);
    }
    if (request.configNet) {
      // No other host is on the link, and nothing is to be learned from routers: all is said here.
      await holder.setting(`ipv6/conf/${ifname}/accept_dad`, '0');
      await holder.setting(`ipv6/conf/${ifname}/accept_ra`, '0');
      // The path of these connections is one from memory to memory; that of the host's sockets has the host's own.
      if (isPaced()) await holder.setting(CONGESTION_CONTROL, 'reno');
      if (config.ip6 === null) await holder.setting(`ipv6/conf/${ifname}/disable_ipv6`, '1');
      const change = config.mtu === 0 ? { up: true } : { up: true, mtu: config.mtu };
      const result = await inside.change(changeLink(index, change));
      if (result < 0) throw failed(`--config-net: cannot set ${ifname} up with MTU ${config.mtu}`, result);
      const configurator = new Configurator(native, inside, plan, index);
      await configurator.addresses(4);
      await configurator.addresses(6);
    }
    return { mac: find()?.mac ?? null };
  } finally {
    inside.close();
  }
}
