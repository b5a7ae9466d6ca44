/** A Stack with real UDP and ICMP handlers between a fake guest and a fake host. */
import type { ForwardListener, Ip4Config, Ip6Config, StackConfig } from '../../../src/stack/config';
import type { StackContext } from '../../../src/stack/context';
import { COUNTERS, C_DROPS, C_DROPS_TO_GUEST, DROP_NAMES } from '../../../src/stack/counters';
import type { DropName } from '../../../src/stack/counters';
import { IcmpHandler } from '../../../src/stack/ping/handler';
import type { Clock } from '../../../src/stack/ports';
import type { FlowEnds } from '../../../src/stack/kit/flow-ends';
import { createLinkState } from '../../../src/stack/link/guest-state';
import { Stack } from '../../../src/stack/stack';
import { Traffic } from '../../../src/stack/ip/guest-hints';
import { UdpHandler } from '../../../src/stack/udp/handler';
import { text } from './addresses';
import { addressWords } from '../../../src/stack/ip/address';
import { FakeClock } from './fake-clock';
import { FakeGuestPort } from './fake-guest-port';
import type { FakeGuestPortOptions, FakeVnet } from './fake-guest-port';
import { FakeDatagramHost } from './fake-host-io-udp';
import type { FakeDatagramSocket } from './fake-host-io-udp';
import { FakeRandom } from './fake-random';
import { dissect, RecordingHandler } from './link-rig';
import { stackConfig } from './stack-config';
import { SiteLog } from '../../../src/stack/kit/site-log';

export interface DatagramRigOptions {
  readonly config?: Partial<StackConfig>;
  readonly ip4?: Partial<Ip4Config> | null;
  readonly ip6?: Partial<Ip6Config> | null;
  readonly port?: FakeGuestPortOptions;
  /** A flow log. */
  readonly ends?: (clock: Clock) => FlowEnds;
  /** Before the handlers start. */
  readonly prepare?: (host: FakeDatagramHost) => void;
}

/** `listen` entries are opened before the handlers start. */
export interface Forward {
  readonly address: string;
  readonly port: number;
  readonly targetPort?: number;
  readonly targetAddr?: Uint8Array;
  readonly dual?: boolean;
  readonly rule?: number;
}

export function addressText(bytes: Uint8Array): string {
  const w = new Int32Array(4);
  addressWords(bytes, w, 0);
  return text(w);
}

export class DatagramRig {
  readonly port: FakeGuestPort;
  readonly host: FakeDatagramHost;
  readonly clock = new FakeClock();
  readonly logged: string[] = [];
  readonly ctx: StackContext;
  readonly udp: UdpHandler;
  readonly icmp: IcmpHandler;
  readonly stack: Stack;
  readonly listeners: FakeDatagramSocket[] = [];

  constructor(options: DatagramRigOptions = {}, forwards: readonly Forward[] = []) {
    const config = stackConfig(options.config, options.ip4, options.ip6);
    this.port = new FakeGuestPort({ memorySize: 16 << 20, ...options.port });
    this.host = new FakeDatagramHost(this.port.memory);
    this.ctx = {
      config,
      port: this.port,
      io: this.host,
      clock: this.clock,
      random: new FakeRandom(),
      counters: new Float64Array(COUNTERS),
      traffic: new Traffic(),
      link: createLinkState(config),
      log: new SiteLog(this.clock, (level, message) => void this.logged.push(`${level}: ${message}`)),
      ends: options.ends?.(this.clock) ?? null,
    };
    this.ctx.link.guestMacHi = 0x5254;
    this.ctx.link.guestMacLo = 0x00123456;
    const opened = forwards.map((f): ForwardListener => {
      const socket = this.host.listener(f.address, f.port, f.dual);
      this.listeners.push(socket);
      return {
        fd: socket.fd,
        protocol: 'udp',
        family: f.dual === true ? 'dual' : f.address.includes(':') ? 'v6' : 'v4',
        port: f.port,
        targetPort: f.targetPort ?? f.port,
        targetAddr: f.targetAddr ?? null,
        rule: f.rule ?? 0,
      };
    });
    this.udp = new UdpHandler(this.ctx, opened);
    this.icmp = new IcmpHandler(this.ctx);
    this.stack = new Stack(this.ctx, { tcp: new RecordingHandler(), udp: this.udp, icmp: this.icmp });
    options.prepare?.(this.host);
    this.stack.start();
  }

  /** The guest sends frames in one batch. */
  guest(...frames: readonly Uint8Array[]): void {
    for (const frame of frames) this.port.inject(frame);
    this.stack.fromGuest(4096);
  }

  guestVnet(frame: Uint8Array, vnet: FakeVnet): void {
    this.port.inject(frame, vnet);
    this.stack.fromGuest(1);
  }

  /** Runs the loop until nothing is left to do. Returns how many turns it took. */
  pump(): number {
    for (let turns = 1; turns < 10_000; turns++) {
      const events = this.host.events();
      for (const [key, generation, bits] of events) this.stack.onSocket(key, generation, bits);
      this.stack.onTimer();
      if (this.port.retry) {
        this.port.retry = false;
        this.stack.onGuestReady();
      }
      if (this.port.reservedCount !== 0) throw new Error('a frame stayed reserved');
      if (events.length === 0 && !this.stack.busy) return turns;
    }
    throw new Error('the loop never comes to rest');
  }

  /** Moves time and runs what is due. */
  later(ms: number): void {
    this.clock.advance(ms);
    this.stack.onTimer();
  }

  /** Frames to the guest, dissected and verified, as short text. */
  seen(): string[] {
    return this.port.sent().map((frame) => {
      const d = dissect(frame);
      const src = addressText(d.src);
      const dst = addressText(d.dst);
      const body = Buffer.from(d.payload).toString('latin1');
      if (d.protocol !== 17) return `${src} > ${dst} protocol ${String(d.protocol)} type ${String(d.payload[0])}`;
      return `${src}:${String(d.srcPort)} > ${dst}:${String(d.dstPort)} ${body}`;
    });
  }

  /** What left the host, as short text; forgotten afterwards. */
  left(): string[] {
    return this.host.sent
      .splice(0)
      .map((s) => `${s.from.address}:${String(s.from.port)} > ${s.to.address}:${String(s.to.port)} ${latin1(s.data)}`);
  }

  counter(index: number): number {
    return this.ctx.counters[index];
  }

  drops(name: DropName): number {
    const code = DROP_NAMES.indexOf(name);
    return this.ctx.counters[C_DROPS + code] + this.ctx.counters[C_DROPS_TO_GUEST + code];
  }

  /** All drops, by name: for failures that explain themselves. */
  allDrops(): Record<string, number> {
    const found = DROP_NAMES.map((name, i): [string, number] => [
      name,
      this.ctx.counters[C_DROPS + i] + this.ctx.counters[C_DROPS_TO_GUEST + i],
    ]);
    return Object.fromEntries(found.filter(([, n]) => n > 0));
  }
}

export function latin1(data: Uint8Array): string {
  return Buffer.from(data).toString('latin1');
}

export function ascii(s: string): Uint8Array {
  return Uint8Array.from(Buffer.from(s, 'latin1'));
}
