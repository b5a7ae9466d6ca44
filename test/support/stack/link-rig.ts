/**
 * A Stack on a fake port with recording flow handlers, and frames as hexadecimal text. The builders and checks here
 * share no code with src/stack/wire: bytes are put together and verified the long way.
 */
import type { FlowView } from '../../../src/stack/kit/flow-rows';
import type { FlowHandler, FrameInfo, StackContext } from '../../../src/stack/context';
import { SCRATCH_SIZE } from '../../../src/stack/scratch';
import type { Ip4Config, Ip6Config, StackConfig } from '../../../src/stack/config';
import { COUNTERS, C_DROPS, C_DROPS_TO_GUEST, DROP_NAMES } from '../../../src/stack/counters';
import type { DropName } from '../../../src/stack/counters';
import { createLinkState } from '../../../src/stack/link/guest-state';
import type { HostIo } from '../../../src/stack/ports';
import type { FileSource } from '../../../src/stack/link/tftp';
import { Stack } from '../../../src/stack/stack';
import { Traffic } from '../../../src/stack/ip/guest-hints';
import { ip } from './addresses';
import { FakeClock } from './fake-clock';
import { FakeGuestPort } from './fake-guest-port';
import type { FakeGuestPortOptions } from './fake-guest-port';
import { FakeRandom } from './fake-random';
import { stackConfig } from './stack-config';
import { SiteLog } from '../../../src/stack/kit/site-log';
import { onesComplementSum } from './rows';

export const GUEST_MAC = '52 54 00 12 34 56';
export const OUR_MAC = '9a 55 9a 55 9a 55';
export const BROADCAST_MAC = 'ff ff ff ff ff ff';

function fromHex(text: string): Uint8Array {
  const digits = text.replace(/\s/g, '');
  if (!/^([0-9a-f]{2})*$/i.test(digits)) throw new Error(`not hexadecimal: ${text}`);
  return Buffer.from(digits, 'hex');
}

/** Bytes from hexadecimal text (blanks ignored) and arrays. */
export function bytes(...parts: (string | readonly number[] | Uint8Array)[]): Uint8Array {
  const all = parts.map((part) => (typeof part === 'string' ? fromHex(part) : part));
  const joined = new Uint8Array(all.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of all) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

export function hex(data: Uint8Array): string {
  return Buffer.from(data).toString('hex');
}

export function u16(value: number): number[] {
  return [(value >> 8) & 0xff, value & 0xff];
}

/** One's complement sum over whole bytes, inverted. */
export function internetChecksum(data: Uint8Array): number {
  return 0xffff - onesComplementSum(data, 0);
}

function pseudoHeader(src: Uint8Array, dst: Uint8Array, protocol: number, length: number): Uint8Array {
  return src.length === 4
    ? bytes(src, dst, [0, protocol], u16(length))
    : bytes(src, dst, [0, 0], u16(length), [0, 0, 0, protocol]);
}

/** Ethernet frame from the guest to us. */
export function ethernet(type: number, payload: Uint8Array, src = GUEST_MAC, dst = OUR_MAC): Uint8Array {
  return bytes(dst, src, u16(type), payload);
}

export interface IpOptions {
  readonly ttl?: number;
  /** IPv4: flags and fragment offset. */
  readonly fragment?: number;
  /** Bytes after the packet. */
  readonly padding?: number;
  /** IPv6: extension headers, with `next` naming the first. */
  readonly extensions?: Uint8Array;
  readonly next?: number;
  readonly srcMac?: string;
}

/** Frame with an IPv4 or IPv6 packet, headers complete. */
export function packet(src: string, dst: string, protocol: number, payload: Uint8Array, o: IpOptions = {}): Uint8Array {
  const padding = new Uint8Array(o.padding ?? 0).fill(0xee);
  const ttl = o.ttl ?? (protocol === 58 ? 255 : 64);
  if (src.includes(':')) {
    const ext = o.extensions ?? new Uint8Array(0);
    const fixed = bytes('60 00 00 00', u16(ext.length + payload.length), [o.next ?? protocol, ttl], ip(src), ip(dst));
    return ethernet(0x86dd, bytes(fixed, ext, payload, padding), o.srcMac);
  }
  const length = u16(20 + payload.length);
  const header = bytes('45 00', length, '12 34', u16(o.fragment ?? 0), [ttl, protocol], '00 00', ip(src), ip(dst));
  header.set(u16(internetChecksum(header)), 10);
  return ethernet(0x0800, bytes(header, payload, padding), o.srcMac);
}

/** Frame with a UDP datagram, checksum right. */
export function datagram(
  src: string,
  srcPort: number,
  dst: string,
  dstPort: number,
  payload: Uint8Array,
  o: IpOptions = {},
): Uint8Array {
  const length = 8 + payload.length;
  const udp = bytes(u16(srcPort), u16(dstPort), u16(length), '00 00', payload);
  udp.set(u16(internetChecksum(bytes(pseudoHeader(ip(src), ip(dst), 17, length), udp)) || 0xffff), 6);
  return packet(src, dst, 17, udp, o);
}

/** Frame with an ICMPv6 message, checksum put at its place. */
export function icmpv6(src: string, dst: string, message: Uint8Array, o: IpOptions = {}): Uint8Array {
  const m = Uint8Array.from(message);
  m.set(u16(internetChecksum(bytes(pseudoHeader(ip(src), ip(dst), 58, m.length), m))), 2);
  return packet(src, dst, 58, m, o);
}

/** What a frame to the guest says, with every length and checksum verified; throws if one is wrong. */
export interface Dissected {
  readonly dstMac: string;
  readonly srcMac: string;
  readonly type: number;
  readonly ttl: number;
  readonly src: Uint8Array;
  readonly dst: Uint8Array;
  readonly protocol: number;
  readonly flowLabel: number;
  readonly srcPort: number;
  readonly dstPort: number;
  /** UDP payload, ICMP message, ARP packet. */
  readonly payload: Uint8Array;
}

export function dissect(frame: Uint8Array): Dissected {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const fail = (what: string): never => {
    throw new Error(`${what}: ${hex(frame)}`);
  };
  if (frame.length < 60) fail('frame shorter than 60 bytes');
  const base = {
    dstMac: hex(frame.subarray(0, 6)),
    srcMac: hex(frame.subarray(6, 12)),
    type: view.getUint16(12),
    ttl: 0,
    src: frame.subarray(0, 0),
    dst: frame.subarray(0, 0),
    protocol: 0,
    flowLabel: 0,
    srcPort: 0,
    dstPort: 0,
    payload: frame.subarray(14),
  };
  const padded = (end: number): void => {
    if (end > frame.length) fail('longer than its frame');
    if (frame.length > Math.max(60, end)) fail('bytes after the packet');
    if (frame.subarray(end).some((b) => b !== 0)) fail('padding not zero');
  };
  if (base.type === 0x0806) {
    padded(42);
    return { ...base, payload: frame.subarray(14, 42) };
  }
  let l4 = 34;
  let end = 0;
  let ipPart = { ttl: 0, protocol: 0, src: base.src, dst: base.dst, flowLabel: 0 };
  if (base.type === 0x0800) {
    if (frame[14] !== 0x45) fail('IPv4 header');
    if (internetChecksum(frame.subarray(14, 34)) !== 0) fail('IPv4 header checksum');
    // RFC 6864 §4: a packet that is never fragmented has no identification; one that may be has no DF.
    if (view.getUint16(20) === 0x4000 ? view.getUint16(18) !== 0 : view.getUint16(20) !== 0) {
      fail('IPv4 identification or flags');
    }
    end = 14 + view.getUint16(16);
    ipPart = {
      ttl: frame[22],
      protocol: frame[23],
      src: frame.subarray(26, 30),
      dst: frame.subarray(30, 34),
      flowLabel: 0,
    };
  } else if (base.type === 0x86dd) {
    if (frame[14] >> 4 !== 6) fail('IPv6 version');
    l4 = 54;
    end = 54 + view.getUint16(18);
    const flowLabel = view.getUint32(14) & 0xfffff;
    ipPart = {
      ttl: frame[21],
      protocol: frame[20],
      src: frame.subarray(22, 38),
      dst: frame.subarray(38, 54),
      flowLabel,
    };
  } else {
    fail('EtherType');
  }
  padded(end);
  const body = frame.subarray(l4, end);
  const pseudo = pseudoHeader(ipPart.src, ipPart.dst, ipPart.protocol, body.length);
  switch (ipPart.protocol) {
    case 17: {
      if (view.getUint16(l4 + 4) !== body.length) fail('UDP length');
      if (view.getUint16(l4 + 6) === 0 || internetChecksum(bytes(pseudo, body)) !== 0) fail('UDP checksum');
      const ports = { srcPort: view.getUint16(l4), dstPort: view.getUint16(l4 + 2) };
      return { ...base, ...ipPart, ...ports, payload: body.subarray(8) };
    }
    case 58:
      if (internetChecksum(bytes(pseudo, body)) !== 0) fail('ICMPv6 checksum');
      return { ...base, ...ipPart, payload: body };
    default:
      return { ...base, ...ipPart, payload: body };
  }
}

/** Of a handler without flows. */
export const NO_FLOWS: FlowView = { capacity: 0, view: () => false, close: () => false };

/** A flow handler that writes down what it was given, and keeps `keep` rows a frame. */
export class RecordingHandler implements FlowHandler {
  readonly frames: FrameInfo[] = [];
  readonly calls: string[] = [];
  readonly view = NO_FLOWS;
  keep = 0;
  busy = false;
  deadline = Infinity;

  fromGuest(frame: FrameInfo): number {
    this.frames.push({ ...frame, addr: Int32Array.from(frame.addr) });
    return frame.row + this.keep;
  }
  endOfBatch(): void {
    this.calls.push('endOfBatch');
  }
  onSocket(kind: number, index: number, generation: number, events: number): void {
    this.calls.push(`onSocket ${[kind, index, generation, events].join(' ')}`);
  }
  onGuestReady(): void {
    this.calls.push('onGuestReady');
  }
  onTimer(): void {
    this.calls.push('onTimer');
  }
  nextDeadline(): number {
    return this.deadline;
  }
  reset(): void {
    this.calls.push('reset');
  }
}

export interface LinkRig {
  readonly ctx: StackContext;
  readonly port: FakeGuestPort;
  readonly clock: FakeClock;
  readonly random: FakeRandom;
  readonly stack: Stack;
  readonly tcp: RecordingHandler;
  readonly udp: RecordingHandler;
  readonly icmp: RecordingHandler;
  readonly logged: string[];
  /** Injects the frame, runs the stack, returns the frames sent. */
  exchange(frame: Uint8Array): Uint8Array[];
  /** Count of a drop reason. */
  drops(name: DropName): number;
}

export function linkRig(
  over: Partial<StackConfig> = {},
  ip4: Partial<Ip4Config> | null = {},
  ip6: Partial<Ip6Config> | null = {},
  portOptions: FakeGuestPortOptions = {},
  files?: FileSource,
): LinkRig {
  const config = stackConfig(over, ip4, ip6);
  const port = new FakeGuestPort({ memorySize: 4 << 20, ...portOptions });
  const clock = new FakeClock();
  const random = new FakeRandom();
  const logged: string[] = [];
  // The services on the link make no system call: any use is a failure. Fragments are kept in scratch memory.
  const { memory } = port;
  let region = -1;
  const kept = {
    rows: memory.rows,
    get scratchRegion(): number {
      if (region < 0) region = memory.add(SCRATCH_SIZE);
      return region;
    },
    get scratch(): DataView {
      return memory.regions[this.scratchRegion];
    },
    copyRows: (from: number, fromCount: number, to: number, toCount: number): number =>
      memory.scatter(to, toCount, memory.gather(from, fromCount)),
  };
  const io = new Proxy(kept as unknown as HostIo, {
    get: (target, name: keyof HostIo) => {
      if (name in target) return target[name];
      throw new Error(`HostIo.${name} used`);
    },
  });
  const counters = new Float64Array(COUNTERS);
  const ctx: StackContext = {
    config,
    port,
    io,
    clock,
    traffic: new Traffic(),
    random,
    counters,
    link: createLinkState(config),
    log: new SiteLog(clock, (level, message) => void logged.push(`${level}: ${message}`)),
    ends: null,
    ...(files === undefined ? {} : { files }),
  };
  const tcp = new RecordingHandler();
  const udp = new RecordingHandler();
  const icmp = new RecordingHandler();
  const stack = new Stack(ctx, { tcp, udp, icmp });
  return {
    ctx,
    port,
    clock,
    random,
    stack,
    tcp,
    udp,
    icmp,
    logged,
    exchange: (frame) => {
      port.inject(frame);
      stack.fromGuest(16);
      return port.sent();
    },
    drops: (name) => {
      const code = DROP_NAMES.indexOf(name);
      return counters[C_DROPS + code] + counters[C_DROPS_TO_GUEST + code];
    },
  };
}
