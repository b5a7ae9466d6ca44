/**
 * Host sockets in memory, for tests of the stack's TCP: `HostIo` as the stack sees it, and for each socket a scripted
 * peer (`FakeSocket`: write, read, close, reset). Semantics follow Linux where the stack depends on them: MSG_PEEK with
 * SO_PEEK_OFF, MSG_TRUNC, reads that stop at an urgent mark, a send buffer that announces room (EPOLLOUT) at a third
 * free and only if somebody was seen waiting, errors reported once and after the data, edges that come once.
 *
 * Events are queued and handed out by `nextEvent` with the readiness of that moment, as epoll does. A call on a
 * descriptor that is not open throws: that would be a bug of the stack.
 */
import {
  addrSlotFamily,
  addrSlotPort,
  addrSlotScope,
  addrSlotWord,
  addrSlotWrite,
} from '../../../src/stack/ip/address';
import {
  AF_INET,
  AF_INET6,
  EPOLLERR,
  EPOLLHUP,
  MEMINFO_SNDBUF,
  MEMINFO_WMEM_QUEUED,
  MSG_PEEK,
  TCPI_BYTES_ACKED,
  TCPI_BYTES_RECEIVED,
  TCPI_RTT,
} from '../../../src/stack/ports';
import { text, words } from './addresses';
import { FakeHostTables } from './fake-host-tables';
import { FakeSocket } from './fake-socket';
import type { Endpoint } from './fake-socket';

export { ECONNREFUSED, ECONNRESET, EPOLLPRI, FakeSocket } from './fake-socket';
export type { Endpoint } from './fake-socket';

export const EPERM = 1;
export const EINTR = 4;
export const EAGAIN = 11;
export const EMFILE = 24;
export const EPIPE = 32;
export const ENETUNREACH = 101;
export const ENOTCONN = 107;
export const ENOMEM = 12;
export const ETIMEDOUT = 110;
export const EINPROGRESS = 115;

const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_PEEK_OFF = 42;
const SO_BUF_LOCK = 72;
const ENOPROTOOPT = 92;

export class FakeHostIo extends FakeHostTables {
  /** All sockets ever opened or accepted, oldest first. */
  readonly all: FakeSocket[] = [];
  /** Result of the next connects: 0 at once, 'later' (call accept or refuse), or an errno. */
  connectResult: 'later' | number = 'later';
  /** Called for each connect under way. */
  onConnect: ((s: FakeSocket) => void) | null = null;
  /** Called when a socket is watched. */
  onWatch: (() => void) | null = null;
  /** Initial send buffer of sockets. */
  sndbuf = 262144;
  /** net.core.wmem_max; null: a kernel without SO_BUF_LOCK. */
  wmemMax: number | null = null;
  /** Descriptors that may be open at a time. */
  maxOpen = 1000;
  /** The next calls of this name fail with -errno. */
  readonly failures = new Map<string, number>();

  private readonly open = new Map<number, FakeSocket>();
  private readonly events: FakeSocket[] = [];
  private nextFd = 100;

  // ---- the test's side ------------------------------------------------------------------------------------------

  /** The socket opened last. */
  get last(): FakeSocket {
    const s = this.all.at(-1);
    if (s === undefined) throw new Error('no socket was opened');
    return s;
  }

  get openCount(): number {
    return this.open.size;
  }

  count(name: string): number {
    return this.calls.get(name) ?? 0;
  }

  /** A listening socket, as the control plane would have opened it. */
  listener(): FakeSocket {
    const s = this.make(AF_INET6);
    s.state = 'listening';
    return s;
  }

  /** A connection from outside arrives at a listener's backlog. */
  incoming(listener: FakeSocket, address: string, port: number): FakeSocket {
    const s = new FakeSocket(this, this.nextFd++, address.includes(':') ? AF_INET6 : AF_INET);
    s.sndbuf = this.sndbuf;
    s.state = 'connected';
    s.remote = { address, port, scope: 0 };
    listener.backlog.push(s);
    listener.edge();
    return s;
  }

  queueEvent(s: FakeSocket): void {
    if (!this.events.includes(s)) this.events.push(s);
  }

  get pendingEvents(): number {
    return this.events.length;
  }

  /** The next event: key, generation and what is ready of what is watched. Null if there is none. */
  nextEvent(): { key: number; generation: number; events: number } | null {
    for (;;) {
      const s = this.events.shift();
      if (s === undefined) return null;
      if (s.watch === null || s.ending !== 'open') continue;
      const events = s.poll() & (s.watch.events | EPOLLERR | EPOLLHUP);
      if (events !== 0) return { key: s.watch.key, generation: s.watch.generation, events };
    }
  }

  private make(family: number): FakeSocket {
    const s = new FakeSocket(this, this.nextFd++, family);
    s.sndbuf = this.sndbuf;
    this.all.push(s);
    this.open.set(s.fd, s);
    return s;
  }

  /** Counts the call; -errno if it is told to fail. */
  private enter(name: string): number {
    this.note(name);
    const errno = this.failures.get(name);
    if (errno === undefined) return 0;
    this.failures.delete(name);
    return -errno;
  }

  private get(fd: number): FakeSocket {
    const s = this.open.get(fd);
    if (s === undefined) throw new Error(`call on descriptor ${String(fd)}, which is not open`);
    return s;
  }

  private endpoint(slot: number): Endpoint {
    const w = Int32Array.from([0, 1, 2, 3], (i) => addrSlotWord(this.addrs, slot, i));
    return { address: text(w), port: addrSlotPort(this.addrs, slot), scope: addrSlotScope(this.addrs, slot) };
  }

  // ---- HostIo ---------------------------------------------------------------------------------------------------

  override socket(family: number): number {
    const r = this.enter('socket');
    if (r < 0) return r;
    if (this.open.size >= this.maxOpen) return -EMFILE;
    return this.make(family).fd;
  }

  override bind(fd: number, slot: number): number {
    const s = this.get(fd);
    const r = this.enter('bind');
    if (r < 0) return r;
    s.local = this.endpoint(slot);
    return 0;
  }

  override connect(fd: number, slot: number): number {
    const s = this.get(fd);
    const r = this.enter('connect');
    if (r < 0) return r;
    if (addrSlotFamily(this.addrs, slot) !== s.family) throw new Error('connect: family of the address');
    s.remote = this.endpoint(slot);
    if (this.connectResult === 'later') {
      s.state = 'connecting';
      this.onConnect?.(s);
      return -EINPROGRESS;
    }
    if (this.connectResult !== 0) return -this.connectResult;
    s.state = 'connected';
    this.onConnect?.(s);
    return 0;
  }

  override accept(fd: number, slot: number): number {
    const listener = this.get(fd);
    const r = this.enter('accept');
    if (r < 0) return r;
    if (listener.backlog.length === 0) return -EAGAIN;
    if (this.open.size >= this.maxOpen) return -EMFILE;
    const s = listener.backlog.shift();
    if (s === undefined || s.remote === null) return -EAGAIN;
    this.all.push(s);
    this.open.set(s.fd, s);
    const w = words(s.remote.address);
    addrSlotWrite(this.addrs, slot, s.family, s.remote.port, 0, w, 0);
    return s.fd;
  }

  override setsockopt(fd: number, level: number, name: number, value: number): number {
    const s = this.get(fd);
    const r = this.enter('setsockopt');
    if (r < 0) return r;
    s.options.set(`${String(level)}.${String(name)}`, value);
    if (level === SOL_SOCKET && name === SO_PEEK_OFF) s.peekOff = value;
    if (level === SOL_SOCKET && name === SO_BUF_LOCK) {
      if (this.wmemMax === null) return -ENOPROTOOPT;
      s.sndbufLocked = value !== 0;
    }
    if (level === SOL_SOCKET && name === SO_SNDBUF) {
      s.sndbuf = 2 * Math.min(value, this.wmemMax ?? 0);
      s.sndbufLocked = true;
    }
    return 0;
  }

  override bindToDevice(fd: number, ifname: string): number {
    const r = this.enter('bindToDevice');
    if (r < 0) return r;
    this.get(fd).device = ifname;
    return 0;
  }

  override shutdown(fd: number, how: number): number {
    const s = this.get(fd);
    const r = this.enter('shutdown');
    if (r < 0) return r;
    if (how !== 1) throw new Error('the stack only shuts down writing');
    if (s.state !== 'connected') return -ENOTCONN;
    s.writeShut = true;
    s.edge(); // a state change wakes pollers
    return 0;
  }

  override close(fd: number): number {
    const s = this.get(fd);
    this.enter('close');
    this.open.delete(fd);
    // Linux answers unread data, or data to come, with a reset.
    s.ending = s.receive.length > 0 && s.state === 'connected' ? 'aborted' : 'closed';
    return 0;
  }

  override abort(fd: number): number {
    const s = this.get(fd);
    this.enter('abort');
    this.open.delete(fd);
    s.ending = 'aborted';
    return 0;
  }

  override recv(fd: number, row: number, rowCount: number, flags: number): number {
    const s = this.get(fd);
    const r = this.enter('recv');
    if (r < 0) return r;
    if (rowCount < 1 || rowCount > 1024) throw new Error(`recv: ${String(rowCount)} rows`);
    if (flags !== MSG_PEEK) throw new Error('the stack only peeks');
    let room = 0;
    for (let i = row; i < row + rowCount; i++) room += this.rows.length[i];
    if (room === 0) throw new Error('recv of nothing');
    const skip = Math.max(0, s.peekOff);
    const n = this.readable(s, skip, room);
    if (n === 0) return this.nothing(s);
    this.memory.scatter(row, rowCount, s.receive.peek(skip, n));
    if (s.peekOff >= 0) s.peekOff += n;
    return n;
  }

  /** How far a read of `max` bytes from `skip` on gets: not across the urgent mark. */
  private readable(s: FakeSocket, skip: number, max: number): number {
    const n = Math.max(0, Math.min(max, s.receive.length - skip));
    const mark = s.urgentAt - s.received - skip;
    return mark > 0 && mark < n ? mark : n;
  }

  private nothing(s: FakeSocket): number {
    if (s.error !== 0) {
      const error = s.error;
      s.error = 0;
      return -error;
    }
    return s.peerClosed ? 0 : -EAGAIN;
  }

  override discard(fd: number, bytes: number): number {
    const s = this.get(fd);
    const r = this.enter('discard');
    if (r < 0) return r;
    const n = this.readable(s, 0, bytes);
    if (n === 0) return this.nothing(s);
    s.receive.drop(n);
    s.received += n;
    if (s.peekOff >= 0) s.peekOff = Math.max(0, s.peekOff - n);
    return n;
  }

  override send(fd: number, row: number, rowCount: number, flags: number): number {
    const s = this.get(fd);
    const r = this.enter('send');
    if (r < 0) return r;
    if (rowCount < 1 || rowCount > 1024) throw new Error(`send: ${String(rowCount)} rows`);
    if (flags !== 0) throw new Error('send: flags');
    s.sends++;
    if (s.error !== 0) {
      const error = s.error;
      s.error = 0;
      return -error;
    }
    if (s.state !== 'connected' || s.writeShut) return -EPIPE;
    const data = this.memory.gather(row, rowCount);
    const n = Math.min(data.length, Math.max(0, Math.floor((s.sndbuf - s.queued) / s.overhead)));
    if (n < data.length) s.noSpace = true;
    if (n === 0) return -EAGAIN;
    s.sent.push(data.subarray(0, n));
    return n;
  }

  override tcpInfo(fd: number): number {
    const s = this.get(fd);
    const r = this.enter('tcpInfo');
    if (r < 0) return r;
    this.tcpInfoOut[TCPI_RTT] = s.rttUs;
    this.tcpInfoOut[TCPI_BYTES_ACKED] = s.bytesAcked;
    this.tcpInfoOut[TCPI_BYTES_RECEIVED] = s.bytesReceived;
    return 0;
  }

  override memInfo(fd: number): number {
    const s = this.get(fd);
    const r = this.enter('memInfo');
    if (r < 0) return r;
    this.memInfoOut.fill(0);
    this.memInfoOut[MEMINFO_SNDBUF] = s.sndbuf;
    this.memInfoOut[MEMINFO_WMEM_QUEUED] = s.queued;
    return 0;
  }

  override outq(fd: number): number {
    this.enter('outq');
    return this.get(fd).sent.length;
  }

  override copyRows(from: number, fromCount: number, to: number, toCount: number): number {
    this.enter('copyRows');
    return super.copyRows(from, fromCount, to, toCount);
  }

  override checksum(row: number, rowCount: number, initial: number): number {
    this.enter('checksum');
    return super.checksum(row, rowCount, initial);
  }

  override watch(fd: number, events: number, key: number, generation: number): number {
    const s = this.get(fd);
    const r = this.enter('watch');
    if (r < 0) return r;
    if (s.watch !== null) throw new Error('watched twice');
    s.watch = { events, key, generation };
    this.onWatch?.();
    if (s.poll() !== 0) this.queueEvent(s);
    return 0;
  }

  override rewatch(fd: number, events: number, key: number, generation: number): number {
    const s = this.get(fd);
    this.enter('rewatch');
    if (s.watch === null) throw new Error('rewatch of what is not watched');
    s.watch = { events, key, generation };
    if (s.poll() !== 0) this.queueEvent(s);
    return 0;
  }

  override unwatch(fd: number): number {
    this.get(fd).watch = null;
    return 0;
  }
}
