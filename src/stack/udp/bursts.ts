/** Sockets that receive bursts: enlarged once and only then, so that a request and its answer cost nothing extra. */
import type { StackContext } from '../context';
import { IPPROTO_UDP, SO_RCVBUF, SOL_SOCKET, UDP_GRO } from '../kit/linux';

/** Wanted receive buffer of a busy socket; the kernel cuts it to net.core.rmem_max. */
const BUSY_BUFFER = 4 << 20;

// What was done to a socket.
const QUIET = 0;
const BUSY = 1;
const JOINS = 2;
/** It joined what the guest does not take as one frame. */
const SEPARATE = 3;

export class UdpBursts {
  private readonly ctx: StackContext;
  /** Number of the first listener's socket; those before are flows'. */
  private readonly firstListener: number;
  private state: Uint8Array;

  constructor(ctx: StackContext, firstListener: number) {
    this.ctx = ctx;
    this.firstListener = firstListener;
    this.state = new Uint8Array(firstListener);
  }

  /** There are now `sockets` sockets, none of which was used yet. Cold. */
  makeRoom(sockets: number): void {
    this.state = new Uint8Array(sockets);
  }

  /** Does the socket join datagrams? */
  joins(id: number): boolean {
    return this.state[id] === JOINS;
  }

  /** The flow has just been opened. */
  opened(id: number): void {
    this.state[id] = QUIET;
  }

  /** Prepares socket `id` for bursts of a family, as the guest can take them. Costs nothing if it is. */
  tune(id: number, fd: number, v4: boolean): void {
    const { port, io } = this.ctx;
    const state = this.state[id];
    if (state === SEPARATE) return;
    const listener = id >= this.firstListener;
    let joins = v4 ? port.gsoUdp4 : port.gsoUdp6;
    // One of a forwarded port may have peers of both families.
    if (listener) joins = port.gsoUdp4 && port.gsoUdp6;
    const joined = state === JOINS;
    if (joins === joined && state !== QUIET) return;
    // A listener has its buffer from the start.
    if (state === QUIET && !listener) io.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, BUSY_BUFFER);
    if (joins !== joined) io.setsockopt(fd, IPPROTO_UDP, UDP_GRO, joins ? 1 : 0);
    this.state[id] = joins ? JOINS : BUSY;
  }

  /** Joined datagrams had to be taken apart again, which copies: from now on they come one by one. */
  separate(id: number, fd: number): void {
    this.ctx.io.setsockopt(fd, IPPROTO_UDP, UDP_GRO, 0);
    this.state[id] = SEPARATE;
  }

  /** The guest was reset: the next one may take other frames. */
  reset(): void {
    for (let id = this.firstListener; id < this.state.length; id++) {
      if (this.state[id] === SEPARATE) this.state[id] = BUSY;
    }
  }
}
