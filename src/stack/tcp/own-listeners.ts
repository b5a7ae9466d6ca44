/**
 * Our own listeners (metrics), which the guest must not reach: it would talk to the service from the host's side, where
 * what it asks costs the control plane's time. Looked at after translation, as the guest's names for the host are many.
 */
import { ADDR_SLOT_TCP } from '../scratch';
import { addrSlotWrite, addressWords, familyOf, isUnspecified, isV4, V4_MAPPED, wordsEqual } from '../ip/address';
import type { OwnListener } from '../config';
import { AF_INET6, type HostIo, SOCK_TCP } from '../ports';

export class OwnListeners {
  private readonly count: number;
  private readonly ports: Int32Array;
  /** Four words each; unspecified: every address of the host, of the family that the word before last says. */
  private readonly words: Int32Array;

  /** Allocates. */
  constructor(listeners: readonly OwnListener[]) {
    this.count = listeners.length;
    this.ports = new Int32Array(this.count);
    this.words = new Int32Array(4 * this.count);
    for (const [i, { address, port }] of listeners.entries()) {
      this.ports[i] = port;
      addressWords(address, this.words, 4 * i);
    }
  }

  /**
   * Whether a connection to `dst` (four words, IPv4 as v4-mapped) and `port` would reach one of them. Costs a comparison
   * a listener, and where one listens on all addresses and the port is its own, three system calls.
   */
  reached(io: HostIo, dst: Int32Array, scope: number, port: number): boolean {
    for (let i = 0; i < this.count; i++) {
      if (this.ports[i] !== port) continue;
      const at = 4 * i;
      if (wordsEqual(this.words, at, dst, 0)) return true;
      if (this.takesAll(at, isV4(dst, 0)) && isOurs(io, dst, scope)) return true;
    }
    return false;
  }

  /** `::` takes IPv4, too. */
  private takesAll(at: number, v4: boolean): boolean {
    const w = this.words;
    if (!isUnspecified(w, at)) return false;
    return v4 || w[at + 2] !== V4_MAPPED;
  }
}

/** Whether `dst` is an address of the host: then, and only then, a socket can be bound to it. If in doubt: yes. */
function isOurs(io: HostIo, dst: Int32Array, scope: number): boolean {
  const family = familyOf(dst, 0);
  const fd = io.socket(family, SOCK_TCP);
  if (fd < 0) return true;
  addrSlotWrite(io.addrs, ADDR_SLOT_TCP, family, 0, family === AF_INET6 ? scope : 0, dst, 0);
  const bound = io.bind(fd, ADDR_SLOT_TCP) >= 0;
  io.close(fd);
  return bound;
}
