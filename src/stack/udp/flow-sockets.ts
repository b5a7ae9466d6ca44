/**
 * Which socket a flow of the guest's has: given to it when it is opened, and replaced where the host has moved to another
 * network since and the kernel would now send from another address. Each move counts up an epoch; a flow of an older one is
 * looked at when the guest sends next.
 */
import { addrSlotsEqual, copyWords, familyOf, isMulticast, isV4, wordsEqual } from '../ip/address';
import { KEY_KIND_SHIFT, KEY_UDP, type StackContext } from '../context';
import { isResolverPort, type NatResult, natToHost, type NatTables } from '../ip/nat';
import { KEY_WORDS } from '../kit/flow-table';
import { EPOLLET, EPOLLIN, SOCK_UDP } from '../ports';
import { ADDR_SLOT_UDP_NOW, ADDR_SLOT_UDP_WAS } from '../scratch';
import { IP_PROTO_UDP } from '../wire/ipv4';
import {
  FLOW_ANY_PORT,
  FLOW_FRESH,
  FLOW_GROUP,
  FLOW_LOCAL,
  FLOW_MULTICAST,
  FLOW_PORT_KEPT,
  type UdpFlows,
} from './flows';
import type { UdpInbound } from './inbound';
import type { UdpSockets } from './sockets';

export class UdpFlowSockets {
  private readonly ctx: StackContext;
  private readonly nat: NatTables;
  private readonly flows: UdpFlows;
  private readonly sockets: UdpSockets;
  private readonly inbound: Pick<UdpInbound, 'renewed'>;
  private readonly target: NatResult;
  /** Counts changes of the host's network. */
  private epoch: number;

  /** `target`: the owner's, in which it says where a flow goes. */
  constructor(
    ctx: StackContext,
    nat: NatTables,
    flows: UdpFlows,
    sockets: UdpSockets,
    inbound: Pick<UdpInbound, 'renewed'>,
    target: NatResult,
  ) {
    this.ctx = ctx;
    this.nat = nat;
    this.flows = flows;
    this.sockets = sockets;
    this.inbound = inbound;
    this.target = target;
    this.epoch = 0;
  }

  /** The host's network changed. */
  moved(): void {
    this.epoch = (this.epoch + 1) | 0;
  }

  /** The host's network is still the one that the flow was last looked at in. */
  isOfNow(slot: number): boolean {
    return this.flows.epoch[slot] === this.epoch;
  }

  /** The flow's socket is `fd`, as `sockets.prepare` left it toward `target`, for the guest's port `srcPort`. */
  give(slot: number, fd: number, srcPort: number): void {
    const { flows, sockets, target } = this;
    const { dst } = target;
    const { group, anyPort, hostPort } = sockets;
    let flags =
      flows.flags[slot] & ~(FLOW_GROUP | FLOW_FRESH | FLOW_PORT_KEPT | FLOW_ANY_PORT | FLOW_MULTICAST | FLOW_LOCAL);
    flags |= group || anyPort ? FLOW_GROUP : FLOW_FRESH;
    if (anyPort) flags |= FLOW_ANY_PORT;
    if (hostPort === srcPort) flags |= FLOW_PORT_KEPT;
    if (isMulticast(dst, 0)) flags |= FLOW_MULTICAST;
    if (target.local) flags |= FLOW_LOCAL;
    flows.flags[slot] = flags;
    flows.fd[slot] = fd;
    flows.hostPort[slot] = hostPort;
    flows.epoch[slot] = this.epoch;
    sockets.ports.hold(isV4(dst, 0), srcPort, hostPort);
  }

  /** Watches the flow's new socket `fd`. Returns 0 or -errno. */
  watch(slot: number, fd: number): number {
    const key = (KEY_UDP << KEY_KIND_SHIFT) | slot;
    return this.ctx.io.watch(fd, EPOLLIN | EPOLLET, key, this.flows.table.generation[slot]);
  }

  /** Closes the flow's socket `fd`, and frees its port; its columns still say which. */
  take(slot: number, fd: number): void {
    this.sockets.ports.release(isV4(this.flows.peer, 4 * slot), this.flows.hostPort[slot]);
    this.ctx.io.close(fd);
  }

  /** A new socket toward the flow's peer, with the port of the old one if that can be. False if it cannot be had. */
  renew(slot: number): boolean {
    const { ctx, flows, target, sockets } = this;
    this.loadPeer(slot);
    const family = familyOf(target.dst, 0);
    const srcPort = flows.table.keys[KEY_WORDS * slot + KEY_WORDS - 1] >>> 16;
    const fd = ctx.io.socket(family, SOCK_UDP);
    if (fd < 0) return false;
    if (
      sockets.prepare(fd, family, target, srcPort, flows.peerPort[slot], flows.hostPort[slot]) < 0 ||
      this.watch(slot, fd) < 0
    ) {
      ctx.io.close(fd);
      return false;
    }
    this.take(slot, flows.fd[slot]);
    flows.fresh(slot);
    this.inbound.renewed(slot);
    this.give(slot, fd, srcPort);
    return true;
  }

  /** `target` becomes the flow's peer. */
  private loadPeer(slot: number): void {
    const { flows, target } = this;
    copyWords(flows.peer, 4 * slot, target.dst, 0);
    target.scope = flows.peerScope[slot];
    target.local = (flows.flags[slot] & FLOW_LOCAL) !== 0;
  }

  /**
   * The host's network changed since the flow was looked at: gives it a socket that fits, if its own does not. False if
   * its datagrams now have another destination, a resolver's. Nothing may be gathered for the flow (udp/outbound.ts).
   */
  refit(slot: number): boolean {
    const { ctx, flows, target, sockets } = this;
    flows.epoch[slot] = this.epoch;
    if (flows.fd[slot] < 0) return true;
    const { keys } = flows.table;
    const k = KEY_WORDS * slot;
    const dstPort = keys[k + KEY_WORDS - 1] & 0xffff;
    if (isResolverPort(dstPort)) {
      const code = natToHost(this.nat, IP_PROTO_UDP, keys, k + 4, dstPort, target);
      if (code !== 0 || !wordsEqual(target.dst, 0, flows.peer, 4 * slot)) return false;
    }
    if ((flows.flags[slot] & FLOW_GROUP) !== 0) {
      // Its address is chosen with each datagram, but not its interface.
      if ((flows.flags[slot] & FLOW_ANY_PORT) === 0) this.renew(slot);
      return true;
    }
    this.loadPeer(slot);
    const family = familyOf(target.dst, 0);
    if (sockets.probe(family, target, flows.peerPort[slot], ADDR_SLOT_UDP_NOW) < 0) return true;
    if (ctx.io.getsockname(flows.fd[slot], ADDR_SLOT_UDP_WAS) < 0) return true;
    if (!addrSlotsEqual(ctx.io.addrs, ADDR_SLOT_UDP_NOW, ADDR_SLOT_UDP_WAS)) this.renew(slot);
    return true;
  }
}
