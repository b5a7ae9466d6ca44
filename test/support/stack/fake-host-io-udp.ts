/**
 * A host with UDP and ping sockets in memory: enough of Linux's rules (who gets a datagram, who may bind, how errors are
 * reported) to test the handlers without a network. Calls that only TCP makes throw. Stricter than a kernel: using or
 * closing a closed descriptor throws, because it is always a bug of the stack.
 */
import {
  addrSlotFamily,
  addrSlotPort,
  addrSlotScope,
  addrSlotWord,
  addrSlotWrite,
  familyOf,
} from '../../../src/stack/ip/address';
import { MSGS_TOTAL, SCRATCH_SIZE } from '../../../src/stack/scratch';
import type { HostIo, Rows } from '../../../src/stack/ports';
import {
  ADDR_SLOT_SIZE,
  ADDR_SLOTS,
  AF_INET,
  AF_INET6,
  EPOLLERR,
  EPOLLIN,
  MSG_PEEK,
  MSG_TRUNC,
  SOCK_ICMP,
  SOCK_UDP,
} from '../../../src/stack/ports';
import { text, words } from './addresses';
import type { FakeMemory } from './fake-guest-port';

export const EPERM = 1;
export const EAGAIN = 11;
export const EACCES = 13;
export const EINVAL = 22;
export const EMFILE = 24;
export const EDESTADDRREQ = 89;
export const EMSGSIZE = 90;
export const EADDRINUSE = 98;
export const ENETUNREACH = 101;
export const ECONNREFUSED = 111;

export interface Address {
  readonly address: string;
  readonly port: number;
}

/** What left the host's sockets. */
export interface SentDatagram {
  readonly fd: number;
  readonly from: Address;
  readonly to: Address;
  readonly data: Uint8Array;
  /** From control data; null: none given. */
  readonly ttl: number | null;
  readonly tos: number | null;
  readonly scope: number;
}

/** One entry of a socket's error queue. */
export interface FakeError {
  readonly errno: number;
  readonly origin: number;
  readonly type: number;
  readonly code: number;
  readonly info?: number;
  readonly offender: string;
  readonly dest: Address;
  readonly payload?: Uint8Array;
}

interface Received {
  readonly from: Address;
  readonly to: string;
  readonly data: Uint8Array;
  /** Told only to sockets that asked for it. */
  readonly ttl: number;
  readonly tos: number;
}

export class FakeSocket {
  local: Address | null = null;
  peer: Address | null = null;
  scope = 0;
  device: string | null = null;
  readonly options = new Map<string, number>();
  readonly queue: Received[] = [];
  readonly errors: FakeError[] = [];
  /** Reported by the next send or receive, as sk_err is. */
  pendingError = 0;
  watched: { key: number; generation: number; events: number } | null = null;
  /** epoll edges not yet fetched. */
  edge = 0;

  constructor(
    readonly fd: number,
    readonly family: number,
    readonly kind: number,
    readonly dual: boolean,
  ) {}

  option(level: number, name: number): number | undefined {
    return this.options.get(`${String(level)}/${String(name)}`);
  }
}

interface TakenDatagrams {
  readonly n: number;
  readonly from: Received | null;
  /** Length of each but the last if there are several, else 0. */
  readonly segment: number;
}

/** How many of the datagrams at the head UDP_GRO joins: of one flow and length, the last perhaps shorter. */
function joinable(queue: readonly Received[]): number {
  const [head] = queue;
  let bytes = head.data.length;
  let n = 1;
  while (n < Math.min(queue.length, 64)) {
    const next = queue[n];
    const same = next.from.address === head.from.address && next.from.port === head.from.port && next.to === head.to;
    if (!same || next.ttl !== head.ttl || next.tos !== head.tos) break;
    if (next.data.length === 0 || next.data.length > head.data.length) break;
    bytes += next.data.length;
    if (bytes > 65_535 - 28) break;
    n++;
    if (next.data.length < head.data.length) break;
  }
  return n;
}

const SO_REUSEADDR = '1/2';
const SO_BROADCAST = '1/6';

function isWildcard(address: string): boolean {
  return address === '0.0.0.0' || address === '::';
}

export class FakeDatagramHost implements HostIo {
  readonly rows: Rows;
  readonly addrs = new DataView(new ArrayBuffer(ADDR_SLOTS * ADDR_SLOT_SIZE));
  readonly tcpInfoOut = new Float64Array(12);
  readonly memInfoOut = new Float64Array(4);
  readonly sockErrOut = new Int32Array(6);
  readonly msgRow = new Int32Array(MSGS_TOTAL);
  readonly msgRows = new Int32Array(MSGS_TOTAL);
  readonly msgLen = new Int32Array(MSGS_TOTAL);
  readonly msgPeer = new Int32Array(MSGS_TOTAL);
  readonly msgLocal = new Int32Array(MSGS_TOTAL);
  readonly msgTtl = new Int32Array(MSGS_TOTAL);
  readonly msgTos = new Int32Array(MSGS_TOTAL);
  readonly msgSegment = new Int32Array(MSGS_TOTAL);
  readonly scratch: DataView;
  readonly scratchRegion: number;

  // ---- the test's controls
  readonly sockets = new Map<number, FakeSocket>();
  readonly sent: SentDatagram[] = [];
  /** System calls made, by name. */
  readonly calls = new Map<string, number>();
  /** Ports that services of the host hold without SO_REUSEADDR. */
  readonly takenPorts = new Set<number>();
  privileged = false;
  /** Of the host's interface. */
  mtu = 65_536;
  maxSockets = 1000;
  /** -errno that socket(SOCK_ICMP) returns; 0: ping sockets are allowed. */
  pingRefused = 0;
  /** Where sockets send from, by family: what a connected one gets. */
  source = { v4: '198.51.100.99', v6: '2001:db8:99::99' };
  /** Addresses that the host had and has no more: IPv4 refuses to send from them, IPv6 does not look. */
  readonly gone = new Set<string>();
  /** -errno of connect by destination. */
  readonly unreachable = new Map<string, number>();
  readonly broadcast = new Set(['255.255.255.255']);
  /** -errno that the next sends return, one each. */
  readonly sendErrors: number[] = [];
  /** What calls of this name return, for as long as they are here: -errno. */
  readonly failing = new Map<string, number>();
  /** UDP_SEGMENT is refused (the path's MTU is small). */
  segmentRefused = false;
  /** Datagrams that wait together are joined for sockets with UDP_GRO, as a network card's driver would have. */
  joins = false;
  /** Datagrams, or joined ones, that were taken with less room than they have. */
  cut = 0;
  /** Called when a socket is about to connect: datagrams may land in between. */
  onConnect: ((socket: FakeSocket) => void) | null = null;

  private readonly memory: FakeMemory;
  private nextFd = 100;
  private nextPort = 40000;

  constructor(memory: FakeMemory) {
    this.memory = memory;
    this.rows = memory.rows;
    this.scratchRegion = memory.add(SCRATCH_SIZE);
    this.scratch = memory.regions[this.scratchRegion];
  }

  /** A listener opened by the control plane. `dual`: [::] with IPV6_V6ONLY off. */
  listener(address: string, port: number, dual = false): FakeSocket {
    const socket = this.open(familyOf4(address), SOCK_UDP, dual);
    socket.local = { address, port };
    return socket;
  }

  get(fd: number): FakeSocket {
    const socket = this.sockets.get(fd);
    if (socket === undefined) throw new Error(`descriptor ${String(fd)} is not open`);
    return socket;
  }

  /** A datagram arrives from the network. Returns the socket that got it, or null if nobody did. */
  deliver(from: Address, to: Address, data: Uint8Array, ttl = 64, tos = 0): FakeSocket | null {
    let best: FakeSocket | null = null;
    let bestScore = -1;
    for (const s of this.sockets.values()) {
      const score = this.score(s, from, to);
      if (score > bestScore) {
        best = s;
        bestScore = score;
      }
    }
    if (best !== null) this.queue(best, from, to.address, data, ttl, tos);
    return best;
  }

  queue(socket: FakeSocket, from: Address, to: string, data: Uint8Array, ttl = 64, tos = 0): void {
    socket.queue.push({ from, to, data: Uint8Array.from(data), ttl, tos });
    socket.edge |= EPOLLIN;
  }

  /** An ICMP error arrives for what `socket` sent. */
  fail(socket: FakeSocket, error: FakeError): void {
    socket.errors.push(error);
    socket.pendingError = error.errno;
    socket.edge |= EPOLLERR;
  }

  /** Edges since the last call, as epoll would report them: [key, generation, events]. */
  events(): [number, number, number][] {
    const out: [number, number, number][] = [];
    for (const s of this.sockets.values()) {
      if (s.watched === null || s.edge === 0) continue;
      const state = (s.queue.length > 0 ? EPOLLIN : 0) | (s.errors.length > 0 || s.pendingError !== 0 ? EPOLLERR : 0);
      s.edge = 0;
      if (state !== 0) out.push([s.watched.key, s.watched.generation, state]);
    }
    return out;
  }

  private open(family: number, kind: number, dual: boolean): FakeSocket {
    const socket = new FakeSocket(this.nextFd++, family, kind, dual);
    this.sockets.set(socket.fd, socket);
    return socket;
  }

  private score(s: FakeSocket, from: Address, to: Address): number {
    if (s.kind !== SOCK_UDP || s.local?.port !== to.port) return -1;
    if (s.family !== familyOf4(to.address) && !s.dual) return -1;
    let score = 0;
    if (!isWildcard(s.local.address)) {
      if (s.local.address !== to.address) return -1;
      score += 2;
    }
    if (s.peer !== null) {
      if (s.peer.address !== from.address || s.peer.port !== from.port) return -1;
      score += 4;
    }
    return score;
  }

  private count(name: string): void {
    this.calls.set(name, (this.calls.get(name) ?? 0) + 1);
  }

  private readSlot(slot: number): Address {
    const w = Int32Array.from([0, 1, 2, 3], (i) => addrSlotWord(this.addrs, slot, i));
    if (familyOf(w, 0) !== addrSlotFamily(this.addrs, slot)) throw new Error('slot: family does not match');
    return { address: text(w), port: addrSlotPort(this.addrs, slot) };
  }

  private writeSlot(slot: number, a: Address, scope = 0): void {
    const w = words(a.address);
    addrSlotWrite(this.addrs, slot, familyOf(w, 0), a.port, scope, w, 0);
  }

  // ---- HostIo ---------------------------------------------------------------------------------------------------

  socket(family: number, kind: number): number {
    this.count('socket');
    if (this.sockets.size >= this.maxSockets) return -EMFILE;
    if (kind === SOCK_ICMP && this.pingRefused !== 0) return this.pingRefused;
    return this.open(family, kind, false).fd;
  }

  bind(fd: number, slot: number): number {
    const s = this.get(fd);
    const want = this.readSlot(slot);
    if (addrSlotFamily(this.addrs, slot) !== s.family) return -EINVAL;
    if (s.local !== null) return -EINVAL;
    let port = want.port;
    if (s.kind === SOCK_ICMP || port === 0) {
      port = port === 0 ? this.nextPort++ : port;
    } else {
      if (port < 1024 && !this.privileged) return -EACCES;
      if (this.takenPorts.has(port)) return -EADDRINUSE;
      for (const o of this.sockets.values()) {
        if (o.kind !== SOCK_UDP || o.local?.port !== port) continue;
        if (o.family !== s.family && !o.dual) continue;
        if (o.options.get(SO_REUSEADDR) !== 1 || s.options.get(SO_REUSEADDR) !== 1) return -EADDRINUSE;
      }
    }
    s.local = { address: want.address, port };
    return 0;
  }

  connect(fd: number, slot: number): number {
    const s = this.get(fd);
    const to = this.readSlot(slot);
    this.onConnect?.(s);
    const error = this.unreachable.get(to.address);
    if (error !== undefined) return error;
    if (this.broadcast.has(to.address) && s.options.get(SO_BROADCAST) !== 1) return -EACCES;
    s.local ??= { address: s.family === AF_INET ? '0.0.0.0' : '::', port: this.nextPort++ };
    if (isWildcard(s.local.address)) {
      let address = s.family === AF_INET ? this.source.v4 : this.source.v6;
      if (to.address.startsWith('127.') || to.address === '::1') address = to.address;
      s.local = { address, port: s.local.port };
    }
    s.peer = to;
    s.scope = addrSlotScope(this.addrs, slot);
    return 0;
  }

  getsockname(fd: number, slot: number): number {
    const s = this.get(fd);
    const failure = this.failing.get('getsockname');
    if (failure !== undefined) return failure;
    const local = s.local ?? { address: s.family === AF_INET ? '0.0.0.0' : '::', port: 0 };
    this.writeSlot(slot, local);
    return 0;
  }

  setsockopt(fd: number, level: number, name: number, value: number): number {
    this.count('setsockopt');
    this.get(fd).options.set(`${String(level)}/${String(name)}`, value);
    return 0;
  }

  bindToDevice(fd: number, ifname: string): number {
    this.get(fd).device = ifname;
    return 0;
  }

  close(fd: number): number {
    this.get(fd);
    this.sockets.delete(fd);
    return 0;
  }

  private receive(s: FakeSocket, row: number, rowCount: number, flags: number): TakenDatagrams {
    if (s.pendingError !== 0) {
      const n = -s.pendingError;
      s.pendingError = 0;
      return { n, from: null, segment: 0 };
    }
    const head = s.queue[0];
    if (head === undefined) return { n: -EAGAIN, from: null, segment: 0 };
    const count = this.joins && s.option(17, 104) === 1 ? joinable(s.queue) : 1;
    const data = Uint8Array.from(Buffer.concat(s.queue.slice(0, count).map((q) => q.data)));
    const copied = this.memory.scatter(row, rowCount, data);
    if ((flags & MSG_PEEK) === 0) {
      s.queue.splice(0, count);
      if (copied < data.length) this.cut++;
    }
    // Linux's ping_recvmsg returns what was copied, whatever the flags.
    const whole = (flags & MSG_TRUNC) !== 0 && s.kind !== SOCK_ICMP;
    return { n: whole ? data.length : copied, from: head, segment: count > 1 ? head.data.length : 0 };
  }

  recv(fd: number, row: number, rowCount: number, flags: number): number {
    this.count('recv');
    const failure = this.failing.get('recv');
    if (failure !== undefined) return failure;
    return this.receive(this.get(fd), row, rowCount, flags).n;
  }

  recvMany(fd: number, first: number, count: number, flags: number): number {
    this.count('recvMany');
    const s = this.get(fd);
    const failure = this.failing.get('recvMany');
    if (failure !== undefined) return failure;
    for (let i = 0; i < count; i++) {
      const m = first + i;
      const { n, from, segment } = this.receive(s, this.msgRow[m], this.msgRows[m], flags);
      if (n < 0) return i > 0 ? i : n;
      this.msgLen[m] = n;
      this.msgTtl[m] = -1;
      this.msgTos[m] = -1;
      this.msgSegment[m] = segment;
      if (from === null) continue;
      const v4 = !from.from.address.includes(':');
      if (s.option(v4 ? 0 : 41, v4 ? 12 : 51) === 1) this.msgTtl[m] = from.ttl;
      if (s.option(v4 ? 0 : 41, v4 ? 13 : 66) === 1) this.msgTos[m] = from.tos;
      const linkLocal = from.from.address.startsWith('fe80:');
      if (this.msgPeer[m] >= 0) this.writeSlot(this.msgPeer[m], from.from, linkLocal ? 3 : 0);
      const pktinfo = s.option(0, 8) === 1 || s.option(41, 49) === 1;
      if (this.msgLocal[m] >= 0) {
        if (pktinfo) this.writeSlot(this.msgLocal[m], { address: from.to, port: 0 });
        else addrSlotWrite(this.addrs, this.msgLocal[m], 0, 0, 0, new Int32Array(4), 0);
      }
    }
    return count;
  }

  private transmit(s: FakeSocket, m: number, data: Uint8Array): number {
    if (s.pendingError !== 0) {
      const n = -s.pendingError;
      s.pendingError = 0;
      return n;
    }
    const injected = this.sendErrors.shift();
    if (injected !== undefined) return injected;
    if (s.family === AF_INET && s.local !== null && this.gone.has(s.local.address)) return -EINVAL;
    if (m >= 0 && this.msgLocal[m] >= 0 && this.gone.has(this.readSlot(this.msgLocal[m]).address)) return -EINVAL;
    const peer = m >= 0 && this.msgPeer[m] >= 0 ? this.readSlot(this.msgPeer[m]) : s.peer;
    if (peer === null) return -EDESTADDRREQ;
    if (this.broadcast.has(peer.address) && s.options.get(SO_BROADCAST) !== 1) return -EACCES;
    const refused = this.unreachable.get(peer.address);
    if (refused !== undefined) return refused;
    const segment = m >= 0 ? this.msgSegment[m] : 0;
    // As udp_send_skb: whatever may be fragmented, what is cut must not be.
    if (segment > 0 && Math.min(data.length, segment) > this.mtu - (s.family === AF_INET ? 28 : 48)) return -EMSGSIZE;
    if (segment > 0 && (this.segmentRefused || data.length > 64 * segment)) return -EINVAL;
    const v4 = !peer.address.includes(':');
    const discover = s.option(v4 ? 0 : 41, v4 ? 10 : 23) ?? 1;
    if (segment === 0 && data.length > this.mtu - (v4 ? 28 : 48) && discover >= 2) {
      // As ip_local_error: an entry of local origin, with the MTU and no payload; the caller has the error already. IPv4
      // has the port of a connected socket only.
      s.errors.push({
        errno: EMSGSIZE,
        origin: 1,
        type: 0,
        code: 0,
        info: this.mtu,
        offender: peer.address,
        dest: { address: peer.address, port: v4 ? (s.peer?.port ?? 0) : peer.port },
      });
      return -EMSGSIZE;
    }
    s.local ??= { address: s.family === AF_INET ? '0.0.0.0' : '::', port: this.nextPort++ };
    const source = m >= 0 && this.msgLocal[m] >= 0 ? this.readSlot(this.msgLocal[m]).address : s.local.address;
    const scope = m >= 0 && this.msgPeer[m] >= 0 ? addrSlotScope(this.addrs, this.msgPeer[m]) : s.scope;
    const ttl = m >= 0 && this.msgTtl[m] >= 0 ? this.msgTtl[m] : null;
    const tos = m >= 0 && this.msgTos[m] >= 0 ? this.msgTos[m] : null;
    const step = segment > 0 ? segment : Math.max(1, data.length);
    for (let at = 0; at < Math.max(1, data.length); at += step) {
      const part = data.slice(at, at + step);
      if (s.kind === SOCK_ICMP) {
        // The kernel puts the socket's own identifier in.
        part[4] = s.local.port >> 8;
        part[5] = s.local.port & 0xff;
      }
      this.sent.push({
        fd: s.fd,
        from: { address: source, port: s.local.port },
        to: peer,
        data: part,
        ttl,
        tos,
        scope,
      });
    }
    return data.length;
  }

  send(fd: number, row: number, rowCount: number, _flags: number): number {
    this.count('send');
    return this.transmit(this.get(fd), -1, this.memory.gather(row, rowCount));
  }

  sendMany(fd: number, first: number, count: number): number {
    this.count('sendMany');
    const s = this.get(fd);
    for (let i = 0; i < count; i++) {
      const m = first + i;
      const n = this.transmit(s, m, this.memory.gather(this.msgRow[m], this.msgRows[m]));
      if (n < 0) return i > 0 ? i : n;
      this.msgLen[m] = n;
    }
    return count;
  }

  recvError(fd: number, offenderSlot: number, destSlot: number, row: number, rowCount: number): number {
    const s = this.get(fd);
    const failure = this.failing.get('recvError');
    if (failure !== undefined) return failure;
    const error = s.errors.shift();
    if (error === undefined) return 0;
    s.pendingError = s.errors.length > 0 ? s.errors[0].errno : 0;
    this.writeSlot(offenderSlot, { address: error.offender, port: 0 });
    this.writeSlot(destSlot, error.dest);
    const copied = this.memory.scatter(row, rowCount, error.payload ?? new Uint8Array(0));
    this.sockErrOut.set([error.errno, error.origin, error.type, error.code, error.info ?? 0, copied]);
    return 1;
  }

  checksum(row: number, rowCount: number, initial: number): number {
    let sum = initial;
    this.memory.gather(row, rowCount).forEach((byte, i) => (sum += i % 2 === 0 ? byte * 256 : byte));
    while (sum > 0xffff) sum = (sum % 0x10000) + Math.floor(sum / 0x10000);
    return sum;
  }

  copyRows(from: number, fromCount: number, to: number, toCount: number): number {
    this.count('copyRows');
    return this.memory.scatter(to, toCount, this.memory.gather(from, fromCount));
  }

  watch(fd: number, events: number, key: number, generation: number): number {
    const s = this.get(fd);
    const failure = this.failing.get('watch');
    if (failure !== undefined) return failure;
    s.watched = { key, generation, events };
    if (s.queue.length > 0) s.edge |= EPOLLIN;
    return 0;
  }

  rewatch(): number {
    throw new Error('not a call of UDP');
  }
  unwatch(): number {
    throw new Error('not a call of UDP');
  }
  listen(): number {
    throw new Error('a call of TCP');
  }
  accept(): number {
    throw new Error('a call of TCP');
  }
  getpeername(): number {
    throw new Error('a call of TCP');
  }
  getsockopt(): number {
    throw new Error('not a call of UDP');
  }
  shutdown(): number {
    throw new Error('a call of TCP');
  }
  abort(): number {
    throw new Error('a call of TCP');
  }
  discard(): number {
    throw new Error('a call of TCP');
  }
  tcpInfo(): number {
    throw new Error('a call of TCP');
  }
  memInfo(): number {
    throw new Error('a call of TCP');
  }
  outq(): number {
    throw new Error('a call of TCP');
  }
}

function familyOf4(address: string): number {
  return address.includes(':') ? AF_INET6 : AF_INET;
}
