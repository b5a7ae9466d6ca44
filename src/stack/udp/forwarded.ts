/**
 * Ports of the guest that are forwarded to it: what its service sends leaves from the port of the host that its peers
 * know, with or without a flow. Answers minutes late, or a server that speaks first, come from where they are expected.
 *
 * The listener itself sends, if it can reach the destination from its address and interface. If not, a socket of the
 * flow's own does, bound to the same port of the host.
 */
import { isLinkLocal6, isLoopback, isV4, wordsEqual } from '../ip/address';
import type { StackContext } from '../context';
import type { NatResult } from '../ip/nat';
import { toOtherLoopback } from '../ip/other-loopback';
import type { UdpListener } from './listeners';

const PORTS = 65536;

export class ForwardedPorts {
  /** Result of `find`: a listener that can send to the destination; -1: none. */
  listener: number;
  /** Result of `find`: the port of the host that is forwarded to the guest's; 0: none is. */
  port: number;
  private readonly ctx: StackContext;
  private readonly listeners: readonly UdpListener[];
  /** By port of the guest: number of the first listener plus 1; by listener plus 1: the next one. 0: none. */
  private readonly first: Int32Array;
  private next: Int32Array;

  constructor(ctx: StackContext, listeners: readonly UdpListener[]) {
    this.ctx = ctx;
    this.listeners = listeners;
    this.listener = -1;
    this.port = 0;
    this.first = new Int32Array(PORTS);
    this.next = new Int32Array(0);
  }

  /** After every change of the listeners. Cold. */
  makeChains(): void {
    const { listeners, first } = this;
    first.fill(0);
    this.next = new Int32Array(listeners.length + 1);
    for (let i = listeners.length - 1; i >= 0; i--) {
      if (listeners[i].fd < 0) continue;
      const port = listeners[i].targetPort;
      this.next[i + 1] = first[port];
      first[port] = i + 1;
    }
  }

  /**
   * Which listener stands for the guest's address `from[0…3]`, port `port`, toward `target`? Of several the one that can
   * reach it, and then that of the same port number. A destination on the host's loopback is looked for in the family of
   * the listener if it has but one: `target` is changed to it (route.ts lets such a peer in).
   */
  find(from: Int32Array, port: number, target: NatResult): void {
    this.look(from, port, target);
    const { dst } = target;
    if (this.port === 0 || this.listener >= 0 || !isLoopback(dst, 0)) return;
    toOtherLoopback(dst);
    this.look(from, port, target);
    if (this.listener < 0) toOtherLoopback(dst);
  }

  private look(from: Int32Array, port: number, target: NatResult): void {
    this.listener = -1;
    this.port = 0;
    for (let i = this.first[port]; i !== 0; i = this.next[i]) {
      const l = this.listeners[i - 1];
      if (l.target !== null && !wordsEqual(l.target, 0, from, 0)) continue;
      if (this.port === 0) this.port = l.port;
      if (this.reaches(l, target) && (this.listener < 0 || l.port === port)) this.listener = i - 1;
      if (this.listener === i - 1) this.port = l.port;
      if (this.listener === i - 1 && l.port === port) return;
    }
  }

  private reaches(l: UdpListener, target: NatResult): boolean {
    const { dst } = target;
    const { config } = this.ctx;
    const v4 = isV4(dst, 0);
    if (!l.watched || !(v4 ? l.takes4 : l.takes6)) return false;
    if (l.onDevice) return false;
    if (!target.local) {
      const family = v4 ? config.ip4 : config.ip6;
      if (family !== null && family.outboundIf !== null) return false;
    }
    if (l.wildcard) return true;
    const { bound } = l;
    if (isLoopback(bound, 0) !== isLoopback(dst, 0)) return false;
    return isLinkLocal6(bound, 0) === isLinkLocal6(dst, 0);
  }
}
