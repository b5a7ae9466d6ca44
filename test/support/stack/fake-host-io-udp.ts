/**
 * A host with UDP and ping sockets in memory: enough of Linux's rules (who gets a datagram, who may bind, how errors are
 * reported) to test the handlers without a network. Stricter than a kernel: using or
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
import {
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
import { FakeDatagramSocket, joinable } from './fake-datagram-socket';
import type { Address, FakeError, Received, SentDatagram } from './fake-datagram-socket';
import { FakeHostTables } from './fake-host-tables';

export { FakeDatagramSocket } from './fake-datagram-socket';
export type { Address, FakeError, SentDatagram } from './fake-datagram-socket';

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

interface TakenDatagrams {
  readonly n: number;
  readonly from: Received | null;
  /** Length of each but the last if there are several, else 0. */
  readonly segment: number;
}

const SO_REUSEADDR = '1/2';
const SO_BROADCAST = '1/6';

function isWildcard(address: string): boolean {
  return address === '0.0.0.0' || address === '::';
}

export class FakeDatagramHost extends FakeHostTables {
  // ---- the test's controls
  readonly sockets = new Map<number, FakeDatagramSocket>();
  readonly sent: SentDatagram[] = [];
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
  onConnect: ((socket: FakeDatagramSocket) => void) | null = null;

  private nextFd = 100;
  private nextPort = 40000;

  /** A listener opened by the control plane. `dual`: [::] with IPV6_V6ONLY off. */
  listener(address: string, port: number, dual = false): FakeDatagramSocket {
    const socket = this.open(familyOf4(address), SOCK_UDP, dual);
    socket.local = { address, port };
    return socket;
  }

  get(fd: number): FakeDatagramSocket {
    const socket = this.sockets.get(fd);
    if (socket === undefined) throw new Error(`descriptor ${String(fd)} is not open`);
    return socket;
  }

  /** A datagram arrives from the network. Returns the socket that got it, or null if nobody did. */
  deliver(from: Address, to: Address, data: Uint8Array, ttl = 64, tos = 0): FakeDatagramSocket | null {
    let best: FakeDatagramSocket | null = null;
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

  queue(socket: FakeDatagramSocket, from: Address, to: string, data: Uint8Array, ttl = 64, tos = 0): void {
    socket.queue.push({ from, to, data: Uint8Array.from(data), ttl, tos });
    socket.edge |= EPOLLIN;
  }

  /** An ICMP error arrives for what `socket` sent. */
  fail(socket: FakeDatagramSocket, error: FakeError): void {
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

  private open(family: number, kind: number, dual: boolean): FakeDatagramSocket {
    const socket = new FakeDatagramSocket(this.nextFd++, family, kind, dual);
    this.sockets.set(socket.fd, socket);
    return socket;
  }

  private score(s: FakeDatagramSocket, from: Address, to: Address): number {
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

  override socket(family: number, kind: number): number {
    this.note('socket');
    if (this.sockets.size >= this.maxSockets) return -EMFILE;
    if (kind === SOCK_ICMP && this.pingRefused !== 0) return this.pingRefused;
    return this.open(family, kind, false).fd;
  }

  override bind(fd: number, slot: number): number {
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

  override connect(fd: number, slot: number): number {
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

  override getsockname(fd: number, slot: number): number {
    const s = this.get(fd);
    const failure = this.failing.get('getsockname');
    if (failure !== undefined) return failure;
    const local = s.local ?? { address: s.family === AF_INET ? '0.0.0.0' : '::', port: 0 };
    this.writeSlot(slot, local);
    return 0;
  }

  override setsockopt(fd: number, level: number, name: number, value: number): number {
    this.note('setsockopt');
    this.get(fd).options.set(`${String(level)}/${String(name)}`, value);
    return 0;
  }

  override bindToDevice(fd: number, ifname: string): number {
    this.get(fd).device = ifname;
    return 0;
  }

  override close(fd: number): number {
    this.get(fd);
    this.sockets.delete(fd);
    return 0;
  }

  private receive(s: FakeDatagramSocket, row: number, rowCount: number, flags: number): TakenDatagrams {
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

  override recv(fd: number, row: number, rowCount: number, flags: number): number {
    this.note('recv');
    const failure = this.failing.get('recv');
    if (failure !== undefined) return failure;
    return this.receive(this.get(fd), row, rowCount, flags).n;
  }

  override recvMany(fd: number, first: number, count: number, flags: number): number {
    this.note('recvMany');
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

  private transmit(s: FakeDatagramSocket, m: number, data: Uint8Array): number {
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

  override send(fd: number, row: number, rowCount: number, _flags: number): number {
    this.note('send');
    return this.transmit(this.get(fd), -1, this.memory.gather(row, rowCount));
  }

  override sendMany(fd: number, first: number, count: number): number {
    this.note('sendMany');
    const s = this.get(fd);
    for (let i = 0; i < count; i++) {
      const m = first + i;
      const n = this.transmit(s, m, this.memory.gather(this.msgRow[m], this.msgRows[m]));
      if (n < 0) return i > 0 ? i : n;
      this.msgLen[m] = n;
    }
    return count;
  }

  override recvError(fd: number, offenderSlot: number, destSlot: number, row: number, rowCount: number): number {
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

  override watch(fd: number, events: number, key: number, generation: number): number {
    const s = this.get(fd);
    const failure = this.failing.get('watch');
    if (failure !== undefined) return failure;
    s.watched = { key, generation, events };
    if (s.queue.length > 0) s.edge |= EPOLLIN;
    return 0;
  }
}

function familyOf4(address: string): number {
  return address.includes(':') ? AF_INET6 : AF_INET;
}
