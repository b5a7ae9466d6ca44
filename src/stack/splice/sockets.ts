/**
 * Sockets of the guest's namespace, kept in stock, so that a connection into it does not wait for the process in there that
 * makes them. The next sockets of a kind are requested when half of its stock is used, in one message.
 */
import { KEY_BYPASS_STOCK, KEY_KIND_SHIFT } from '../context';
import { AF_INET6, EPOLLIN, SOCK_TCP, SOCK_UDP } from '../ports';
import { EAGAIN } from '../kit/linux';
import type { SpliceIo } from './io';

/** Sockets of each kind. */
const STOCK = 64;
const KINDS = 4;
/** An answer that did not come is not waited for any longer, ms. */
const ANSWER_MS = 1000;
/** Linux's SOCK_STREAM and SOCK_DGRAM, which SOCK_TCP and SOCK_UDP of ports.ts happen to be. */
const STREAM = SOCK_TCP;
const DATAGRAM = SOCK_UDP;

function kindOf(family: number, type: number): number {
  return (family === AF_INET6 ? 1 : 0) + (type === DATAGRAM ? 2 : 0);
}

export class NamespaceSockets {
  private readonly io: SpliceIo;
  private readonly families: readonly number[];
  private fd: number;
  private readonly stock: Int32Array;
  private readonly count: Int32Array;
  /** When a kind was asked for, ms; -1: it is not under way. */
  private readonly askedAt: Float64Array;
  private readonly answer: Int32Array;

  /** `families`: those that the guest has. */
  constructor(io: SpliceIo, families: readonly number[]) {
    this.io = io;
    this.families = families;
    this.fd = -1;
    this.stock = new Int32Array(KINDS * STOCK);
    this.count = new Int32Array(KINDS);
    this.askedAt = new Float64Array(KINDS).fill(-1);
    this.answer = new Int32Array(2 + STOCK);
  }

  /** Where to ask, from now on; the descriptor stays its owner's. */
  setChannel(fd: number, nowMs: number): void {
    this.fd = fd;
    this.io.watch(fd, EPOLLIN, KEY_BYPASS_STOCK << KEY_KIND_SHIFT, 0);
    for (const family of this.families) {
      this.ask(family, STREAM, nowMs);
      this.ask(family, DATAGRAM, nowMs);
    }
  }

  /** A socket, or -1: there is none now, and one was asked for. */
  take(family: number, type: number, nowMs: number): number {
    const kind = kindOf(family, type);
    const left = this.count[kind];
    const fd = left > 0 ? this.stock[kind * STOCK + left - 1] : -1;
    if (left > 0) this.count[kind] = left - 1;
    if (left <= STOCK / 2) this.ask(family, type, nowMs);
    return fd;
  }

  /** Answers wait. */
  receive(nowMs: number): void {
    const { io, answer } = this;
    for (;;) {
      const n = io.takeSockets(this.fd, answer);
      if (n === -EAGAIN) return;
      if (n < 0) {
        io.unwatch(this.fd);
        this.fd = -1;
        return;
      }
      const kind = kindOf(answer[0], answer[1]);
      // An answer without sockets: the process inside has no descriptor or memory left. The next request comes after a while.
      this.askedAt[kind] = n > 0 ? -1 : nowMs;
      for (let i = 0; i < n; i++) {
        if (this.count[kind] < STOCK) this.stock[kind * STOCK + this.count[kind]++] = answer[2 + i];
        else io.close(answer[2 + i]);
      }
    }
  }

  private ask(family: number, type: number, nowMs: number): void {
    const kind = kindOf(family, type);
    const asked = this.askedAt[kind];
    if (this.fd < 0 || (asked >= 0 && nowMs - asked < ANSWER_MS)) return;
    const sent = this.io.askSockets(this.fd, family, type, STOCK - this.count[kind]);
    if (sent >= 0) this.askedAt[kind] = nowMs;
  }
}
