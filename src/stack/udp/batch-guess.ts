/**
 * What the next datagrams of each socket are expected to look like, learnt from those before: receive buffers are reserved
 * for so many of that length before the call that receives them. Sockets are numbered as in inbound.ts.
 */
import type { HostIo } from '../ports';
import { MSG_IN, MSG_IN_COUNT } from '../scratch';

export class BatchGuess {
  /** Payload bytes of a datagram; 0: not known yet. */
  readonly bytes: Int32Array;
  /** Datagrams to ask for. */
  readonly count: Uint8Array;
  /** Those of the last batch were all as long as guessed. */
  readonly steady: Uint8Array;
  /** The last one went to an IPv4 address of the guest. */
  readonly last4: Uint8Array;

  constructor(sockets: number) {
    this.bytes = new Int32Array(sockets);
    this.count = new Uint8Array(sockets);
    this.steady = new Uint8Array(sockets);
    this.last4 = new Uint8Array(sockets);
  }

  /** The socket is a new flow's. */
  opened(id: number): void {
    this.bytes[id] = 0;
    this.count[id] = 1;
    this.steady[id] = 0;
  }

  /** One datagram of `length` bytes was received on its own. */
  one(id: number, length: number, v4: boolean): void {
    this.bytes[id] = Math.max(1, length);
    this.count[id] = 1;
    this.steady[id] = 0;
    this.last4[id] = v4 ? 1 : 0;
  }

  /**
   * After a batch that received `got` of at most `asked` datagrams, messages MSG_IN on. Returns the length of the longest.
   */
  many(io: HostIo, id: number, got: number, asked: number, v4: boolean): number {
    const { msgLen } = io;
    const guess = this.bytes[id];
    const first = msgLen[MSG_IN];
    let biggest = first;
    let uniform = true;
    for (let m = MSG_IN + 1; m < MSG_IN + got; m++) {
      if (msgLen[m] !== first) uniform = false;
      if (msgLen[m] > biggest) biggest = msgLen[m];
    }
    // Asked for less than wished, at the end of a turn's share or of the guest's buffers, it keeps what it had.
    this.count[id] = got < asked ? got + 1 : Math.max(this.count[id], Math.min(2 * asked, MSG_IN_COUNT));
    this.last4[id] = v4 ? 1 : 0;
    this.steady[id] = uniform && (first === guess || got > 1) ? 1 : 0;
    // Grows at once, shrinks slowly: too long costs nothing for small frames, too short costs a copy.
    if (this.steady[id] === 1 || biggest > guess) this.bytes[id] = Math.max(1, biggest);
    else this.bytes[id] = guess - ((guess - biggest) >> 3);
    return biggest;
  }
}
