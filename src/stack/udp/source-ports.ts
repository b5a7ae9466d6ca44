/**
 * Which port of the host a flow's socket sends from.
 *
 * The guest's own, if that can be: NTP, IKE, STUN and games care. But a port that one of our sockets has is one that no
 * program of the host can bind (unless both say SO_REUSEADDR), and the host's programs come first. So ports that are
 * usually services' (`StackConfig.hostPorts`) are not taken on the guest's behalf, unless they are forwarded to it, nor
 * are ports that a program has, even one that would share. Such a flow gets a port of the kernel's choice, the same for
 * all flows from that port of the guest (endpoint-independent mapping, RFC 4787 REQ-1).
 *
 * Sockets of our own share a port among them; it is tried exclusively while none of them has it, so that we share with
 * nobody else.
 */
import type { UdpListener } from './listeners';

const PORTS = 65536;

/** State of one address family. */
class FamilyPorts {
  /** Sockets of flows that are bound to each port of the host. */
  readonly held: Uint16Array;
  /** Port of the host that flows from each port of the guest got last, where it was not the same; 0: none. */
  readonly given: Uint16Array;

  constructor() {
    this.held = new Uint16Array(PORTS);
    this.given = new Uint16Array(PORTS);
  }
}

export class SourcePorts {
  private readonly v4: FamilyPorts;
  private readonly v6: FamilyPorts;
  private readonly listeners: readonly UdpListener[];
  /** By port of the host: number of its first listener plus 1; by listener: the next one on that port. 0: none. */
  private readonly firstListener: Int32Array;
  private nextListener: Int32Array;

  constructor(listeners: readonly UdpListener[]) {
    this.v4 = new FamilyPorts();
    this.v6 = new FamilyPorts();
    this.listeners = listeners;
    this.firstListener = new Int32Array(PORTS);
    this.nextListener = new Int32Array(0);
  }

  /** After every change of the listeners. Cold. */
  makeChains(): void {
    this.firstListener.fill(0);
    this.nextListener = new Int32Array(this.listeners.length + 1);
    for (let i = 0; i < this.listeners.length; i++) {
      const { fd, port } = this.listeners[i];
      if (fd < 0) continue;
      this.nextListener[i + 1] = this.firstListener[port];
      this.firstListener[port] = i + 1;
    }
  }

  /** May a flow from this port of the guest's have the same on the host? */
  keeps(hostPorts: Uint8Array, port: number): boolean {
    if (this.firstListener[port] !== 0) return true;
    return port >>> 3 >= hostPorts.length || ((hostPorts[port >>> 3] >>> (port & 7)) & 1) === 0;
  }

  /** Has a socket of ours this port? Then the others share it. */
  isOurs(v4: boolean, port: number): boolean {
    return (v4 ? this.v4 : this.v6).held[port] > 0 || this.firstListener[port] !== 0;
  }

  /** The descriptor of the listener on this port after `after` (0: the first one); sets `cursor`. -1: there is none. */
  listenerAfter(port: number, after: number): number {
    this.cursor = after === 0 ? this.firstListener[port] : this.nextListener[after];
    return this.cursor === 0 ? -1 : this.listeners[this.cursor - 1].fd;
  }
  cursor = 0;

  /** The port that other flows from the guest's port `port` have; 0: none has one, or they have that port itself. */
  givenTo(v4: boolean, port: number): number {
    return (v4 ? this.v4 : this.v6).given[port];
  }

  /** A flow from the guest's port `guest` has a socket bound to `port` of the host. */
  hold(v4: boolean, guest: number, port: number): void {
    const ports = v4 ? this.v4 : this.v6;
    if (ports.held[port] < 0xffff) ports.held[port]++;
    if (guest === port) return;
    const given = ports.given[guest];
    // The first of several that are in use stays.
    if (given === 0 || ports.held[given] === 0) ports.given[guest] = port;
  }

  /** Its socket is closed. */
  release(v4: boolean, port: number): void {
    const { held } = v4 ? this.v4 : this.v6;
    if (held[port] > 0) held[port]--;
  }
}
