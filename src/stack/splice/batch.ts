/** Datagrams of the bypass on their way from one socket to another: many at a time, by way of one block of memory. */
import type { StackContext } from '../context';
import { C_DROPS, dropCode } from '../counters';
import { EAGAIN } from '../kit/linux';
import { setRow } from '../kit/rows';
import { MSG_SPLICE, MSG_SPLICE_COUNT, ROWS_SPLICE } from '../scratch';
import type { SpliceIo } from './io';

/** Bytes for one datagram: as many as UDP's length can say. */
const STEP = 1 << 16;
/** Bytes of the block that datagrams are received to. */
export const SPLICE_BLOCK = STEP * MSG_SPLICE_COUNT;
/** Errors of a socket that are read off in a row: ICMP's, one each. */
const MOST_ERRORS = 4;

const DROP_HOST_SOCKET_ERROR = dropCode('host_socket_error');

export class DatagramBatch {
  private readonly ctx: StackContext;
  private readonly io: SpliceIo;
  private readonly region: number;

  /** `region`: of SPLICE_BLOCK bytes. */
  constructor(ctx: StackContext, io: SpliceIo, region: number) {
    this.ctx = ctx;
    this.io = io;
    this.region = region;
  }

  /**
   * Receives what waits at `fd` to messages MSG_SPLICE on: up to MSG_SPLICE_COUNT, their number is returned; fewer: the
   * socket is empty. The address slots of message MSG_SPLICE + i are `slots + 2 i`, its peer's, and the one behind, the
   * local one; `slots` -1: addresses are not needed.
   */
  receive(fd: number, slots: number): number {
    const { io, region } = this;
    for (let i = 0; i < MSG_SPLICE_COUNT; i++) {
      setRow(io.rows, ROWS_SPLICE + i, region, i * STEP, STEP);
      io.msgRow[MSG_SPLICE + i] = ROWS_SPLICE + i;
      io.msgRows[MSG_SPLICE + i] = 1;
      io.msgPeer[MSG_SPLICE + i] = slots < 0 ? -1 : slots + 2 * i;
      io.msgLocal[MSG_SPLICE + i] = slots < 0 ? -1 : slots + 2 * i + 1;
    }
    for (let errors = 0; ;) {
      const n = io.recvMany(fd, MSG_SPLICE, MSG_SPLICE_COUNT, 0);
      if (n >= 0) return n;
      if (n === -EAGAIN || ++errors > MOST_ERRORS) return 0;
    }
  }

  /** Sends messages `first … end - 1` by `fd`, with the addresses and rows that were set for each. */
  send(fd: number, first: number, end: number): void {
    const { io } = this;
    for (let m = first; m < end; m++) {
      io.msgTtl[m] = -1;
      io.msgTos[m] = -1;
    }
    let errors = 0;
    for (let m = first; m < end;) {
      const n = io.sendMany(fd, m, end - m);
      if (n > 0) m += n;
      else if (n === -EAGAIN || ++errors > MOST_ERRORS) {
        // The socket is full, or nobody listens: a datagram may be lost.
        this.ctx.counters[C_DROPS + DROP_HOST_SOCKET_ERROR] += end - m;
        return;
      }
    }
  }
}
