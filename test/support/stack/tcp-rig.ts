/**
 * TCP of the stack between a scripted guest and scripted host sockets, in the manner of packetdrill: the test sends
 * segments as the guest, acts as the host's peer, moves the clock, and looks at each segment that comes back (tcp-segment.ts
 * verifies each).
 */
import type { ForwardListener, Ip4Config, Ip6Config, StackConfig } from '../../../src/stack/config';
import type { FlowHandler, StackContext } from '../../../src/stack/context';
import { COUNTERS, C_DROPS, C_DROPS_TO_GUEST, DROP_NAMES } from '../../../src/stack/counters';
import type { DropName } from '../../../src/stack/counters';
import type { Clock } from '../../../src/stack/ports';
import type { FlowEnds } from '../../../src/stack/kit/flow-ends';
import { createLinkState } from '../../../src/stack/link/guest-state';
import { Stack } from '../../../src/stack/stack';
import { Traffic } from '../../../src/stack/ip/guest-hints';
import { TcpHandler } from '../../../src/stack/tcp/handler';
import { ip } from './addresses';
import { FakeClock } from './fake-clock';
import { FakeGuestPort, FakeMemory } from './fake-guest-port';
import type { FakeGuestPortOptions } from './fake-guest-port';
import { FakeHostIo } from './fake-host-io';
import type { FakeSocket } from './fake-host-io';
import { FakeRandom } from './fake-random';
import { stackConfig } from './stack-config';
import { guestFrame, parseFrame } from './tcp-segment';
import type { GuestSegment, Segment } from './tcp-segment';
import { SiteLog } from '../../../src/stack/kit/site-log';

export { flagText, guestFrame, parseFrame } from './tcp-segment';
export type { GuestSegment, Segment } from './tcp-segment';

/** A handler for the protocols a test does not use. */
export function idleHandler(): FlowHandler {
  return {
    view: { capacity: 0, view: () => false, close: () => false },
    fromGuest: (frame) => frame.row,
    endOfBatch: () => undefined,
    onSocket: () => undefined,
    onGuestReady: () => undefined,
    onTimer: () => undefined,
    nextDeadline: () => Infinity,
    busy: false,
    reset: () => undefined,
  };
}

export interface TcpRigOptions {
  readonly config?: Partial<StackConfig>;
  readonly ip4?: Partial<Ip4Config> | null;
  readonly ip6?: Partial<Ip6Config> | null;
  readonly port?: FakeGuestPortOptions;
  readonly seed?: number;
  /** Forwarded ports. Each gets a fake listener. */
  readonly forward?: readonly { port: number; targetPort?: number; targetAddr?: string; rule?: number }[];
  /** A flow log. */
  readonly ends?: (clock: Clock) => FlowEnds;
  /** Before the stack starts. */
  readonly prepare?: (host: FakeHostIo) => void;
}

export class TcpRig {
  readonly memory = new FakeMemory();
  readonly port: FakeGuestPort;
  readonly host: FakeHostIo;
  readonly clock = new FakeClock();
  readonly random: FakeRandom;
  readonly ctx: StackContext;
  readonly tcp: TcpHandler;
  readonly stack: Stack;
  readonly listeners: FakeSocket[] = [];
  readonly logs: string[] = [];
  turns = 0;

  constructor(o: TcpRigOptions = {}) {
    this.port = new FakeGuestPort({ memory: this.memory, memorySize: 8 << 20, ...o.port });
    this.host = new FakeHostIo(this.memory);
    this.random = new FakeRandom(o.seed ?? 1);
    const config = stackConfig({ mtu: 1500, ...o.config }, o.ip4, o.ip6);
    this.ctx = {
      config,
      port: this.port,
      io: this.host,
      clock: this.clock,
      random: this.random,
      counters: new Float64Array(COUNTERS),
      traffic: new Traffic(),
      link: createLinkState(config),
      log: new SiteLog(this.clock, (level, message) => this.logs.push(`${level} ${message}`)),
      ends: o.ends?.(this.clock) ?? null,
    };
    const forwards = (o.forward ?? []).map((f): ForwardListener => {
      const s = this.host.listener();
      this.listeners.push(s);
      return {
        fd: s.fd,
        protocol: 'tcp',
        family: 'dual',
        port: f.port,
        targetPort: f.targetPort ?? f.port,
        targetAddr: f.targetAddr === undefined ? null : ip(f.targetAddr),
        rule: f.rule ?? 0,
      };
    });
    this.tcp = new TcpHandler(this.ctx, forwards);
    this.stack = new Stack(this.ctx, { tcp: this.tcp, udp: idleHandler(), icmp: idleHandler() });
    o.prepare?.(this.host);
    this.stack.start();
  }

  /** One turn of the data plane's loop, as src/dataplane does it. Returns true if another should follow at once. */
  turn(): boolean {
    this.turns++;
    for (let n = this.host.pendingEvents; n > 0; n--) {
      const e = this.host.nextEvent();
      if (e !== null) this.stack.onSocket(e.key, e.generation, e.events);
    }
    const more = this.port.pending > 0 && this.stack.fromGuest(256);
    if (this.posted || this.port.retry) {
      this.posted = false;
      this.port.retry = false;
      this.stack.onGuestReady();
    }
    this.stack.onTimer();
    this.port.flush();
    if (this.port.reservedCount !== 0) throw new Error('a reservation was left behind');
    return more || this.stack.busy || this.host.pendingEvents > 0 || this.port.pending > 0;
  }

  /** Turns until nothing more happens by itself. */
  settle(): void {
    for (let n = 0; this.turn(); n++) if (n > 10_000) throw new Error('the stack spins');
  }

  private posted = false;

  /** The guest posts receive buffers. */
  post(n: number): void {
    this.port.post(n);
    this.posted = true;
    this.settle();
  }

  /** Segments in one batch, then turns until all is done. */
  guest(...segments: GuestSegment[]): void {
    for (const s of segments) this.port.inject(guestFrame(s), s.vnet);
    this.settle();
  }

  /** Time passes, timers firing when due. */
  wait(ms: number): void {
    const end = this.clock.nowMs + ms;
    this.settle();
    for (;;) {
      const next = Math.max(this.clock.nowMs + 1, Math.ceil(this.stack.nextDeadline()));
      if (next > end) break;
      this.clock.advance(next - this.clock.nowMs);
      this.settle();
    }
    this.clock.advance(end - this.clock.nowMs);
    this.settle();
  }

  /** Takes the segments sent to the guest so far. */
  sent(): Segment[] {
    return this.port.sentFrames().map((f) => parseFrame(f.bytes, f.gsoType, f.gsoSize));
  }

  /** Takes exactly one segment. */
  one(): Segment {
    const all = this.sent();
    if (all.length !== 1) throw new Error(`expected one segment, got: ${all.map(describe).join(' | ') || 'none'}`);
    return all[0];
  }

  /** The host does what the test told it, then turns. */
  act(f: () => void): void {
    f();
    this.settle();
  }

  drops(name: DropName): number {
    const code = DROP_NAMES.indexOf(name);
    return this.ctx.counters[C_DROPS + code] + this.ctx.counters[C_DROPS_TO_GUEST + code];
  }

  counter(index: number): number {
    return this.ctx.counters[index];
  }
}

/** A segment as one line, sequence numbers as they are. */
export function describe(s: Segment): string {
  return `${s.flags} seq ${String(s.seq)} ack ${String(s.ack)} win ${String(s.win)} len ${String(s.payload.length)}`;
}

export function payloadText(s: Segment): string {
  return Buffer.from(s.payload).toString('latin1');
}

/** Bytes in which every position can be told: repeats only after 251 × 256. */
export function pattern(length: number, start = 0): Uint8Array {
  const out = new Uint8Array(length);
  for (let i = 0; i < length; i++) {
    const p = start + i;
    out[i] = (p % 251) ^ ((p >>> 8) & 255);
  }
  return out;
}

export const GUEST_ISN = 0x10000000;

/** An open connection as the guest sees it: what it sends and acknowledges next, relative to both initial numbers. */
export class Connection {
  readonly rig: TcpRig;
  readonly socket: FakeSocket;
  readonly sport: number;
  readonly dport: number;
  readonly src: string;
  readonly dst: string;
  /** Next sequence number of the guest; initial number of the stack plus one. */
  seq: number;
  readonly base: number;
  guestBase: number;
  ack: number;
  win = 65535;

  constructor(
    rig: TcpRig,
    socket: FakeSocket,
    o: { src: string; dst: string; sport: number; dport: number; seq: number; ack: number },
  ) {
    this.rig = rig;
    this.socket = socket;
    this.src = o.src;
    this.dst = o.dst;
    this.sport = o.sport;
    this.dport = o.dport;
    this.seq = o.seq;
    this.guestBase = o.seq;
    this.ack = o.ack;
    this.base = o.ack;
  }

  /** A segment of this connection with the current numbers, unless told otherwise. `seq` does not advance. */
  segment(s: Partial<GuestSegment> & { flags: string }): GuestSegment {
    return {
      src: this.src,
      dst: this.dst,
      sport: this.sport,
      dport: this.dport,
      seq: this.seq,
      ack: this.ack,
      win: this.win,
      ...s,
    };
  }

  /** Sends payload in one segment and moves on. */
  send(payload: Uint8Array | string, flags = 'P.'): void {
    this.rig.guest(this.segment({ flags, payload }));
    this.seq = (this.seq + payload.length + (flags.includes('F') ? 1 : 0)) >>> 0;
  }

  /** Sends a segment without payload. */
  flags(flags: string, over: Partial<GuestSegment> = {}): void {
    this.rig.guest(this.segment({ flags, ...over }));
    if (flags.includes('F')) this.seq = (this.seq + 1) >>> 0;
  }

  /** Acknowledges `n` bytes more. */
  acknowledge(n: number): void {
    this.ack = (this.ack + n) >>> 0;
    this.flags('.');
  }

  /** Segments the guest received, with numbers relative to the start of the data in each direction. */
  received(): { seq: number; ack: number; flags: string; len: number; win: number; text: string }[] {
    return this.rig.sent().map((s) => ({
      seq: (s.seq - this.base) | 0,
      ack: s.flags.includes('.') ? (s.ack - this.guestBase) | 0 : 0,
      flags: s.flags,
      len: s.payload.length,
      win: s.win,
      text: payloadText(s),
    }));
  }
}

export interface OpenOptions {
  readonly v6?: boolean;
  readonly mss?: number;
  readonly ws?: number | null;
  readonly win?: number;
  readonly sport?: number;
  readonly dport?: number;
  readonly isn?: number;
  /** Acknowledgements may wait for an answer to carry them, as they do on a fresh flow. Default: they come at once. */
  readonly delayedAcks?: boolean;
}

/** As if the answers of all flows so far had been slow. */
function acknowledgeAtOnce(rig: TcpRig, o: OpenOptions): void {
  if (o.delayedAcks !== true) rig.tcp.engine.ackScore.fill(-100);
}

/** Opens a connection from the guest; leaves nothing in `sent`. */
export function openFromGuest(rig: TcpRig, o: OpenOptions = {}): Connection {
  const src = o.v6 === true ? '2001:db8::10' : '192.0.2.10';
  const dst = o.v6 === true ? '2001:db8:1::7' : '198.51.100.7';
  const sport = o.sport ?? 40000;
  const dport = o.dport ?? 80;
  const isn = o.isn ?? GUEST_ISN;
  const ends = { src, dst, sport, dport };
  rig.guest({
    ...ends,
    flags: 'S',
    seq: isn,
    win: o.win ?? 65535,
    mss: o.mss ?? 1460,
    ...(o.ws === null ? {} : { ws: o.ws ?? 7 }),
  });
  const socket = rig.host.last;
  if (socket.state === 'connecting')
    rig.act(() => {
      socket.accept();
    });
  const synAck = rig.one();
  if (synAck.flags !== 'S.') throw new Error(`not a SYN-ACK: ${describe(synAck)}`);
  const c = new Connection(rig, socket, { ...ends, seq: (isn + 1) >>> 0, ack: (synAck.seq + 1) >>> 0 });
  if (o.win !== undefined) c.win = o.win;
  c.flags('.');
  acknowledgeAtOnce(rig, o);
  if (rig.port.sentFrames().length !== 0) throw new Error('the handshake was answered by more than a SYN-ACK');
  return c;
}

/** Opens a connection from the host through listener 0; leaves nothing in `sent`. */
export function openFromHost(rig: TcpRig, o: OpenOptions & { from?: string; port?: number } = {}): Connection {
  const socket = rig.host.incoming(rig.listeners[0], o.from ?? '203.0.113.5', o.port ?? 51000);
  rig.settle();
  const syn = rig.one();
  if (syn.flags !== 'S') throw new Error(`not a SYN: ${describe(syn)}`);
  const isn = o.isn ?? GUEST_ISN;
  const c = new Connection(rig, socket, {
    src: syn.dst,
    dst: syn.src,
    sport: syn.dport,
    dport: syn.sport,
    seq: isn,
    ack: (syn.seq + 1) >>> 0,
  });
  if (o.win !== undefined) c.win = o.win;
  rig.guest(c.segment({ flags: 'S.', mss: o.mss ?? 1460, ...(o.ws === null ? {} : { ws: o.ws ?? 7 }) }));
  const ack = rig.one();
  if (ack.flags !== '.' || ack.ack !== (isn + 1) >>> 0) throw new Error(`not the handshake's ACK: ${describe(ack)}`);
  acknowledgeAtOnce(rig, o);
  c.seq = (isn + 1) >>> 0;
  c.guestBase = c.seq;
  return c;
}
