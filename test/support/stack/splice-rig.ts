/**
 * The bypass on sockets of the kernel, in this thread. The host's loopback and the namespace's are both the loopback of this
 * process; what tells them apart is who made a socket. Needs the addon.
 */
import { policyOf } from '../../../src/config/policy';
import { parseRule } from '../../../src/config/policy-rule';
import type { EndedFlow } from '../../../src/control/types';
import { loadNative, type Native } from '../../../src/native';
import type { BypassSetup, ForwardListener, StackConfig } from '../../../src/stack/config';
import {
  KEY_BYPASS_STOCK,
  KEY_DATAPLANE,
  KEY_INDEX_MASK,
  KEY_KIND_SHIFT,
  type StackContext,
} from '../../../src/stack/context';
import { COUNTERS, C_DROPS, C_DROPS_TO_GUEST, DROP_NAMES } from '../../../src/stack/counters';
import { addrSlotPort, addrSlotWrite } from '../../../src/stack/ip/address';
import { Traffic } from '../../../src/stack/ip/guest-hints';
import {
  EAGAIN,
  EINPROGRESS,
  IP_PKTINFO,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_RECVPKTINFO,
  SO_OOBINLINE,
  SOL_SOCKET,
} from '../../../src/stack/kit/linux';
import { SiteLog } from '../../../src/stack/kit/site-log';
import { createLinkState } from '../../../src/stack/link/guest-state';
import type { PolicyVerdict } from '../../../src/stack/policy/types';
import { AF_INET, AF_INET6, EPOLLET, EPOLLIN, SOCK_TCP, SOCK_UDP } from '../../../src/stack/ports';
import {
  ADDR_SLOT_TCP,
  MSG_IN,
  MSG_IN_COUNT,
  ROWS_IN,
  ROWS_MISC,
  slotLocal,
  slotPeer,
} from '../../../src/stack/scratch';
import { LoopbackBypass, SPLICE_BLOCK } from '../../../src/stack/splice/bypass';
import type { SpliceIo } from '../../../src/stack/splice/io';
import { words } from './addresses';
import { FakeClock } from './fake-clock';
import { FakeGuestPort } from './fake-guest-port';
import { FakeRandom } from './fake-random';
import { EndsTap } from './flow-list';
import { stackConfig } from './stack-config';

const SLOT = 200;
const MESSAGE = 255;
const KEY_HOST_LISTENER = (KEY_DATAPLANE + 1) << KEY_KIND_SHIFT;
export const MSG_OOB = 1;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const IPV6_V6ONLY = 26;
const RULES = 8;
/** Bytes of a small buffer, which the kernel doubles. */
const SMALL = 1 << 14;
const CHUNK = 1 << 16;
/** Any descriptor that is no socket of the bypass's: nothing is ever sent to it. */
const CHANNEL = 1_000_000;
/** Sockets of an answer of the process inside: what is in stock at the end of a test is never closed. */
const MADE_AT_ONCE = 2;
const PATIENCE_MS = 10_000;

export type Loopback = '127.0.0.1' | '::1';
/** Who began: the host (`-t`, `-u`) or the namespace (`-T`, `-U`). */
export type Direction = 'in' | 'out';

const familyOf = (address: string): number => (address.includes(':') ? AF_INET6 : AF_INET);

function ok(result: number, what: string): number {
  if (result < 0 && result !== -EINPROGRESS) throw new Error(`${what}: errno ${String(-result)}`);
  return result;
}

/** What came to a socket of a test's own. */
export class Heard {
  readonly chunks: Buffer[] = [];
  bytes = 0;
  ended = false;
  /** errno, 0: none. */
  error = 0;

  get data(): Buffer {
    if (this.chunks.length > 1) this.chunks.splice(0, this.chunks.length, Buffer.concat(this.chunks));
    return this.chunks[0] ?? Buffer.alloc(0);
  }
}

export class SpliceRig {
  readonly native: Native = loadNative();
  readonly clock = new FakeClock();
  readonly counters = new Float64Array(COUNTERS + RULES);
  readonly ends = new EndsTap();
  readonly ctx: StackContext;
  readonly bypass: LoopbackBypass;
  /** Sockets that the process inside would make; false: it does not answer. */
  stocked = true;
  /** Sockets that the bypass connects have send buffers as small as they can be: what it takes soon stays with it. */
  tight = false;
  private readonly answers: { family: number; type: number; count: number }[] = [];
  private readonly hostListeners: ForwardListener[] = [];
  private readonly opened = new Set<number>();
  private readonly heard = new Map<number, Heard>();
  private readonly region: number;
  private readonly block: number;

  constructor(setup: Partial<BypassSetup> = {}, over: Partial<StackConfig> = {}) {
    const { native } = this;
    this.region = ok(native.allocRegion(CHUNK * MSG_IN_COUNT), 'allocRegion');
    this.block = ok(native.allocRegion(SPLICE_BLOCK), 'allocRegion');
    const config = stackConfig(over);
    this.ctx = {
      config,
      port: new FakeGuestPort({ memorySize: 1 << 16 }),
      io: native,
      clock: this.clock,
      random: new FakeRandom(),
      counters: this.counters,
      link: createLinkState(config),
      traffic: new Traffic(),
      log: new SiteLog(this.clock, () => undefined),
      ends: this.ends.make(this.clock),
    };
    const io = Object.create(native) as SpliceIo;
    Object.assign(io, {
      askSockets: (_: number, family: number, type: number, count: number): number => {
        this.answers.push({ family, type, count });
        return 0;
      },
      takeSockets: (_: number, out: Int32Array): number => this.takeSockets(out),
      socket: (family: number, kind: number): number => this.made(family, kind),
      watch: (fd: number, events: number, key: number, generation: number): number =>
        fd === CHANNEL ? 0 : native.watch(fd, events, key, generation),
    });
    // Destinations are kept: there is one loopback here, and no address of the guest's.
    const whole = { inward: true, keepsLoopback: true, only: false, v4: true, v6: true, channel: CHANNEL, ...setup };
    this.bypass = new LoopbackBypass(this.ctx, io, whole, [], { region: this.block });
    this.bypass.start();
    this.answer();
  }

  /** The process inside answers what was asked for. */
  private takeSockets(out: Int32Array): number {
    const ask = this.stocked ? this.answers.shift() : undefined;
    if (ask === undefined) return -EAGAIN;
    out[0] = ask.family;
    out[1] = ask.type;
    const made = Math.min(ask.count, MADE_AT_ONCE);
    for (let i = 0; i < made; i++) {
      out[2 + i] = this.made(ask.family, ask.type === 1 ? SOCK_TCP : SOCK_UDP);
      if (ask.type === 1) this.native.setsockopt(out[2 + i], SOL_SOCKET, SO_OOBINLINE, 1);
    }
    return made;
  }

  /** A socket that the bypass connects. */
  private made(family: number, kind: number): number {
    const fd = ok(this.native.socket(family, kind), 'socket');
    if (this.tight) this.native.setsockopt(fd, SOL_SOCKET, SO_SNDBUF, SMALL);
    return fd;
  }

  private answer(): void {
    if (this.stocked && this.answers.length > 0) this.bypass.onSocket(KEY_BYPASS_STOCK, 0, 0, EPOLLIN);
  }

  // ---- forwarded ports

  /** Forwards a port of either side to `targetPort` of the other. Returns the port. */
  forward(direction: Direction, protocol: 'tcp' | 'udp', targetPort: number, address: Loopback, rule = 1): Forwarded {
    const fd = this.bound(protocol, address, 0);
    if (protocol === 'tcp') ok(this.native.listen(fd, 128), 'listen');
    const port = this.portOf(fd);
    const listener: ForwardListener = {
      fd,
      protocol,
      family: address === '::1' ? 'v6' : 'v4',
      port,
      targetPort,
      targetAddr: null,
      rule,
      ...(direction === 'out' ? { inside: true } : {}),
    };
    this.bypass.makeForwards({ remove: [], add: [listener], closeFlows: false });
    if (direction === 'in') {
      const index = this.hostListeners.push(listener) - 1;
      if (protocol === 'udp') {
        this.native.setsockopt(fd, IPPROTO_IP, IP_PKTINFO, 1);
        this.native.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
      }
      this.native.watch(fd, EPOLLIN | EPOLLET, KEY_HOST_LISTENER | index, 0);
    }
    return listener;
  }

  /** What TCP's and UDP's listeners of the stack do with a connection or datagrams. */
  private hostListenerReadable(index: number): void {
    const listener = this.hostListeners[index];
    const { native } = this;
    if (listener.protocol === 'tcp') {
      for (let fd = native.accept(listener.fd, ADDR_SLOT_TCP); fd >= 0;) {
        if (!this.bypass.takeTcp(fd, listener, listener.rule ?? 0)) throw new Error('it would go over the link');
        fd = native.accept(listener.fd, ADDR_SLOT_TCP);
      }
      return;
    }
    for (;;) {
      for (let i = 0; i < MSG_IN_COUNT; i++) {
        const m = MSG_IN + i;
        this.row(ROWS_IN + i, this.region, CHUNK * i, CHUNK);
        native.msgRow[m] = ROWS_IN + i;
        native.msgRows[m] = 1;
        native.msgPeer[m] = slotPeer(m);
        native.msgLocal[m] = slotLocal(m);
      }
      const n = native.recvMany(listener.fd, MSG_IN, MSG_IN_COUNT, 0);
      if (n <= 0) return;
      this.bypass.takeUdp(listener.fd, listener.port, listener.targetPort, listener.rule ?? 0, MSG_IN, MSG_IN + n);
    }
  }

  // ---- sockets of programs on either side

  private bound(protocol: 'tcp' | 'udp', address: Loopback, port: number): number {
    const fd = ok(this.native.socket(familyOf(address), protocol === 'tcp' ? SOCK_TCP : SOCK_UDP), 'socket');
    this.opened.add(fd);
    if (familyOf(address) === AF_INET6) this.native.setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    this.slot(address, port);
    ok(this.native.bind(fd, SLOT), 'bind');
    return fd;
  }

  private slot(address: string, port: number): void {
    addrSlotWrite(this.native.addrs, SLOT, familyOf(address), port, 0, words(address), 0);
  }

  private row(row: number, region: number, offset: number, length: number): void {
    const { rows } = this.native;
    rows.region[row] = region;
    rows.offset[row] = offset;
    rows.length[row] = length;
  }

  portOf(fd: number): number {
    ok(this.native.getsockname(fd, SLOT), 'getsockname');
    return addrSlotPort(this.native.addrs, SLOT);
  }

  /** A program that listens; its port is `portOf`. `small`: its connections receive to small buffers. */
  listen(address: Loopback, small = false): number {
    const fd = this.bound('tcp', address, 0);
    if (small) this.native.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, SMALL);
    ok(this.native.listen(fd, 1024), 'listen');
    return fd;
  }

  /** A port that nobody listens on. */
  unused(address: Loopback): number {
    const fd = this.bound('tcp', address, 0);
    const port = this.portOf(fd);
    this.close(fd);
    return port;
  }

  datagramSocket(address: Loopback, port = 0): number {
    return this.bound('udp', address, port);
  }

  connect(address: Loopback, port: number, protocol: 'tcp' | 'udp' = 'tcp', small = false): number {
    const fd = this.bound(protocol, address, 0);
    if (small) this.native.setsockopt(fd, SOL_SOCKET, SO_SNDBUF, SMALL);
    this.native.setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, 1);
    this.slot(address, port);
    ok(this.native.connect(fd, SLOT), 'connect');
    return fd;
  }

  /** The next connection of a listening program, or -1. */
  tryAccept(fd: number): number {
    const accepted = this.native.accept(fd, SLOT);
    if (accepted < 0) return -1;
    this.opened.add(accepted);
    return accepted;
  }

  accept(fd: number): number {
    let accepted = -1;
    this.until(() => (accepted = this.tryAccept(fd)) >= 0, 'accepting');
    return accepted;
  }

  /** A connection through the bypass: both ends, and the forward that it came by. */
  pair(direction: Direction, address: Loopback = '127.0.0.1', small = false): Pair {
    const server = this.listen(address, small);
    const forward = this.forward(direction, 'tcp', this.portOf(server), address);
    const client = this.connect(address, forward.port, 'tcp', small);
    return { client, accepted: this.accept(server), server, forward };
  }

  /** Sends what is taken at once; the number of bytes, or -errno. `flags`: MSG_*. */
  send(fd: number, data: Uint8Array, flags = 0): number {
    const taken = Math.min(data.length, CHUNK);
    new Uint8Array(this.native.regionBuffer(this.region)).set(data.subarray(0, taken));
    this.row(ROWS_MISC, this.region, 0, taken);
    return this.native.send(fd, ROWS_MISC, 1, flags);
  }

  /** Sends all of it, while the bypass works. */
  sendAll(fd: number, data: Uint8Array): void {
    let sent = 0;
    this.until(() => {
      const n = this.send(fd, data.subarray(sent));
      if (n < 0 && n !== -EAGAIN) throw new Error(`send: errno ${String(-n)}`);
      sent += Math.max(0, n);
      return sent === data.length;
    }, 'sending');
  }

  /** Sends until nothing was taken in a turn in which the bypass had nothing to do either. Returns the bytes. */
  fill(fd: number, data: Uint8Array): number {
    let sent = 0;
    for (let idle = 0; idle < 3;) {
      const n = this.send(fd, data.subarray(sent % data.length));
      sent += Math.max(0, n);
      idle = this.turn() === 0 && n <= 0 ? idle + 1 : 0;
    }
    return sent;
  }

  /** Reads what is there, `most` bytes and a little more at the most. */
  hear(fd: number, most = Infinity): Heard {
    let heard = this.heard.get(fd);
    if (heard === undefined) this.heard.set(fd, (heard = new Heard()));
    for (const before = heard.bytes; heard.bytes - before < most && !heard.ended && heard.error === 0;) {
      this.row(ROWS_MISC, this.region, 0, CHUNK);
      const n = this.native.recv(fd, ROWS_MISC, 1, 0);
      if (n === -EAGAIN) break;
      if (n < 0) heard.error = -n;
      else if (n === 0) heard.ended = true;
      else heard.chunks.push(Buffer.from(new Uint8Array(this.native.regionBuffer(this.region)).slice(0, n)));
      heard.bytes += Math.max(0, n);
    }
    return heard;
  }

  /** The urgent byte that waits at a socket without SO_OOBINLINE; '': none. */
  urgent(fd: number): string {
    this.row(ROWS_MISC, this.region, 0, 1);
    if (this.native.recv(fd, ROWS_MISC, 1, MSG_OOB) !== 1) return '';
    return String.fromCharCode(new Uint8Array(this.native.regionBuffer(this.region))[0]);
  }

  /** Sends a datagram: by a connected socket, or to a port of its own loopback. */
  sendDatagram(fd: number, data: Uint8Array, to?: { address: Loopback; port: number }): number {
    const { native } = this;
    new Uint8Array(native.regionBuffer(this.region)).set(data);
    this.row(ROWS_MISC, this.region, 0, data.length);
    native.msgRow[MESSAGE] = ROWS_MISC;
    native.msgRows[MESSAGE] = 1;
    native.msgPeer[MESSAGE] = -1;
    if (to !== undefined) {
      this.slot(to.address, to.port);
      native.msgPeer[MESSAGE] = SLOT;
    }
    native.msgLocal[MESSAGE] = native.msgTtl[MESSAGE] = native.msgTos[MESSAGE] = -1;
    native.msgSegment[MESSAGE] = 0;
    return native.sendMany(fd, MESSAGE, 1);
  }

  /** The next datagram and the port that it came from. */
  receiveDatagram(fd: number): { data: Buffer; port: number } {
    let found: { data: Buffer; port: number } | null = null;
    this.until(() => (found = this.tryReceiveDatagram(fd)) !== null, 'a datagram');
    if (found === null) throw new Error('unreachable');
    return found;
  }

  tryReceiveDatagram(fd: number): { data: Buffer; port: number } | null {
    const { native } = this;
    this.row(ROWS_MISC, this.region, 0, CHUNK);
    native.msgRow[MESSAGE] = ROWS_MISC;
    native.msgRows[MESSAGE] = 1;
    native.msgPeer[MESSAGE] = SLOT;
    native.msgLocal[MESSAGE] = -1;
    if (native.recvMany(fd, MESSAGE, 1, 0) < 1) return null;
    const data = Buffer.from(new Uint8Array(native.regionBuffer(this.region)).slice(0, native.msgLen[MESSAGE]));
    return { data, port: addrSlotPort(native.addrs, SLOT) };
  }

  close(fd: number): void {
    this.heard.delete(fd);
    if (this.opened.delete(fd)) this.native.close(fd);
  }

  abort(fd: number): void {
    this.heard.delete(fd);
    if (this.opened.delete(fd)) this.native.abort(fd);
  }

  // ---- the loop

  /** One turn. Returns the number of events. */
  turn(): number {
    const n = this.native.epollWait(this.bypass.busy ? 0 : 1000);
    const events = Int32Array.from(this.native.epollOut.subarray(0, 3 * n));
    for (let i = 0; i < 3 * n; i += 3) {
      const key = events[i];
      const index = key & KEY_INDEX_MASK;
      if (key >>> KEY_KIND_SHIFT === KEY_HOST_LISTENER >>> KEY_KIND_SHIFT) this.hostListenerReadable(index);
      else this.bypass.onSocket(key >>> KEY_KIND_SHIFT, index, events[i + 1], events[i + 2]);
    }
    this.answer();
    this.bypass.onTimer();
    return n;
  }

  until(done: () => boolean, what: string): void {
    const end = Date.now() + PATIENCE_MS;
    while (!done()) {
      if (Date.now() > end) throw new Error(`${what} takes too long: ${JSON.stringify(this.drops())}`);
      this.turn();
    }
  }

  /** Turns until three in a row had no events. */
  settle(): void {
    for (let idle = 0; idle < 3; idle = this.turn() === 0 ? idle + 1 : 0);
  }

  // ---- what it did

  drops(): Record<string, number> {
    const all = DROP_NAMES.map((name, i): [string, number] => [
      name,
      this.counters[C_DROPS + i] + this.counters[C_DROPS_TO_GUEST + i],
    ]);
    return Object.fromEntries(all.filter(([, n]) => n > 0));
  }

  /** Flows that ended since the last call, and why. */
  ended(): EndedFlow[] {
    return this.ends.take();
  }

  /** Why flows ended since the last call. */
  endings(): string[] {
    return this.ended().map(({ reason }) => reason);
  }

  setPolicy(...texts: string[]): void {
    const rules = texts.map((text) => {
      const [verdict, rule] = text.split(' ');
      return parseRule(verdict as PolicyVerdict, rule);
    });
    const verdicts = new SharedArrayBuffer(8 * (rules.length + 1));
    this.ctx.link.policy.set({ policy: policyOf(rules, false), reach: { own: [], onLink: [] }, verdicts });
    this.bypass.enforce();
  }

  stop(): void {
    this.bypass.reset();
    for (const fd of [...this.opened]) this.close(fd);
    this.native.retireRegion(this.region);
    this.native.retireRegion(this.block);
  }
}

/** A forwarded port. */
export type Forwarded = ForwardListener;

export interface Pair {
  readonly client: number;
  readonly accepted: number;
  readonly server: number;
  readonly forward: Forwarded;
}
