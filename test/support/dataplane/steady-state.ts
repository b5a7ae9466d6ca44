/**
 * A program of its own, so that V8 can be told to tell what it does (--trace-deopt, --trace-gc): frames of TCP and UDP,
 * both ways at once, through the data plane's loop, rings, stack, addon and sockets of the loopback interface.
 *
 * node --allow-natives-syntax --trace-deopt --trace-gc --require scripts/lib/ts-hook.cjs steady-state.ts FRAMES FEATURES
 *
 * FEATURES as TUBETTI_FEATURES has them. Where the steady state begins and ends, a function called `steadyStateMarker`
 * is deoptimised on purpose: V8's lines and ours would not come in order on one pipe, but V8's do among themselves. On
 * standard error: one line of JSON, what was moved and which objects V8 keeps as hash tables.
 */
import { ipFields } from '../stack/addresses';
import { runInThisContext } from 'node:vm';
import { MessageChannel, MessagePort } from 'node:worker_threads';
import { offeredFeatures } from '../../../src/dataplane/virtio/features';
import type { Native } from '../../../src/native';
import { addrSlotPort, addrSlotWrite } from '../../../src/stack/ip/address';
import { ROWS_MISC } from '../../../src/stack/scratch';
import { C_TCP_RETRANSMITS } from '../../../src/stack/counters';
import { AF_INET, SOCK_TCP, SOCK_UDP } from '../../../src/stack/ports';
import { ETHERNET_HEADER_LEN, ethernetWrite } from '../../../src/stack/wire/ethernet';
import { IPV4_HEADER_LEN, ipv4Protocol, ipv4TotalLen, ipv4Write } from '../../../src/stack/wire/ipv4';
import {
  TCP_ACK,
  TCP_HEADER_LEN,
  TCP_SYN,
  tcpDataOffset,
  tcpFlags,
  tcpSeq,
  tcpSetChecksum,
  tcpWrite,
  tcpWriteMss,
} from '../../../src/stack/wire/tcp';
import { udpWrite } from '../../../src/stack/wire/udp';
import { collectGarbage } from '../collect-garbage';
import { BareRig, VNET_HEADER } from './bare-rig';

const GUEST = 0xc000020a | 0;
const GATEWAY = 0xc0000201 | 0;
const [TCP, UDP] = [6, 17];
const [TCP_SOURCE, UDP_SOURCE] = [41000, 40000];
/** Of each protocol, in each round and each direction. */
const BATCH = 32;
const SEGMENT = 1000;
const DATAGRAM = 200;
const MSS = 1460;
/** What all of the guest's stream is made of; datagrams are zeros. */
const TCP_BYTE = 0x54;
const LOOK_EVERY = 100;
const SLOT = 250;
const IP = VNET_HEADER + ETHERNET_HEADER_LEN;
const L4 = IP + IPV4_HEADER_LEN;
const NEEDS_CSUM = 1;
const UDP_FRAME = L4 + 8 + DATAGRAM;
const TCP_FRAME = L4 + TCP_HEADER_LEN + SEGMENT;
/** Slots of the transmit queue: datagrams, then segments, then one acknowledgement. */
const [UDP_SLOT, TCP_SLOT, ACK_SLOT] = [0, BATCH, 2 * BATCH];

/** One connection and one datagram exchange of a guest with servers on the host's loopback. */
class Traffic {
  readonly rig: BareRig;
  private readonly ip = ipFields(true, [0, 0, 0xffff, GUEST], [0, 0, 0xffff, GATEWAY], {});
  private readonly native: Native;
  private readonly udpFd: number;
  private readonly tcpFd: number;
  private readonly udpPort: number;
  private readonly tcpPort: number;
  private sndNxt = 1000;
  private rcvNxt = 0;
  private connected = false;
  datagrams = 0;
  up = 0;
  down = 0;
  /** Bytes seen in the host's stream that the guest never sent on it. */
  foreign = 0;

  constructor(features: bigint) {
    this.rig = new BareRig(features);
    this.native = this.rig.native;
    this.rig.onFrame = (at) => this.frame(at);
    const listener = this.bound(SOCK_TCP);
    if (this.native.listen(listener, 1) < 0) throw new Error('listen');
    this.tcpPort = addrSlotPort(this.native.addrs, SLOT);
    this.udpFd = this.bound(SOCK_UDP);
    this.udpPort = addrSlotPort(this.native.addrs, SLOT);
    for (let i = 0; i < BATCH; i++) {
      const at = this.headers(UDP_SLOT + i, UDP, UDP_FRAME);
      udpWrite(this.rig.memory, at + L4, UDP_SOURCE, this.udpPort, 8 + DATAGRAM, 0);
      const segment = this.headers(TCP_SLOT + i, TCP, TCP_FRAME);
      for (let j = L4 + TCP_HEADER_LEN; j < TCP_FRAME; j++) this.rig.memory.setUint8(segment + j, TCP_BYTE);
    }
    this.handshake();
    this.tcpFd = this.native.accept(listener, SLOT);
    if (this.tcpFd < 0) throw new Error('accept');
    this.native.close(listener);
  }

  /** 32 segments and datagrams each way, and what acknowledges them. */
  round(): void {
    const { rig, native } = this;
    for (let i = 0; i < BATCH; i++) {
      rig.post(UDP_SLOT + i, UDP_FRAME);
      this.segment(TCP_SLOT + i, TCP_ACK);
      rig.post(TCP_SLOT + i, TCP_FRAME);
      this.sndNxt = (this.sndNxt + SEGMENT) | 0;
    }
    rig.kick();
    rig.turn();
    echo(native, this.udpFd);
    this.take();
    this.row(0, BATCH * MSS);
    native.send(this.tcpFd, ROWS_MISC, 1, 0);
    rig.turn();
    this.headers(ACK_SLOT, TCP, L4 + TCP_HEADER_LEN);
    this.segment(ACK_SLOT, TCP_ACK);
    rig.post(ACK_SLOT, L4 + TCP_HEADER_LEN);
    rig.kick();
    rig.turn();
    // A guest that never asked for a notification would be sent one where the 16 bits of its ring's index begin anew: a
    // way of the loop that is taken once in 65536 frames, and first long after V8 has compiled all others.
    rig.look();
  }

  /** The host's end of the segments. */
  private take(): void {
    const { native } = this;
    for (;;) {
      this.row(0, BATCH * MSS);
      const taken = native.recv(this.tcpFd, ROWS_MISC, 1, 0);
      if (taken <= 0) return;
      this.up += taken;
      // A datagram's bytes among them would be seen: it is longer than a step.
      for (let i = 0; i < taken; i += LOOK_EVERY) if (native.scratch.getUint8(i) !== TCP_BYTE) this.foreign++;
    }
  }

  close(): void {
    this.native.close(this.tcpFd);
    this.native.close(this.udpFd);
    this.rig.close();
  }

  private handshake(): void {
    const at = this.headers(ACK_SLOT, TCP, L4 + TCP_HEADER_LEN + 4);
    this.segment(ACK_SLOT, TCP_SYN, TCP_HEADER_LEN + 4);
    tcpWriteMss(this.rig.memory, at + L4 + TCP_HEADER_LEN, MSS);
    this.sndNxt++;
    this.rig.post(ACK_SLOT, L4 + TCP_HEADER_LEN + 4);
    this.rig.kick();
    for (let i = 0; i < 1000 && !this.connected; i++) this.rig.turn();
    if (!this.connected) throw new Error('no SYN-ACK');
    this.headers(ACK_SLOT, TCP, L4 + TCP_HEADER_LEN);
    this.segment(ACK_SLOT, TCP_ACK);
    this.rig.post(ACK_SLOT, L4 + TCP_HEADER_LEN);
    this.rig.kick();
    this.rig.turn();
  }

  /** A frame to the guest, from its virtio_net_hdr on. */
  private frame(at: number): void {
    const { memory } = this.rig;
    const protocol = memory.getUint16(at + VNET_HEADER + 12) === 0x0800 ? ipv4Protocol(memory, at + IP) : 0;
    if (protocol === UDP) this.datagrams++;
    if (protocol !== TCP) return;
    if ((tcpFlags(memory, at + L4) & TCP_SYN) !== 0) {
      this.connected = true;
      this.rcvNxt = (tcpSeq(memory, at + L4) + 1) | 0;
      return;
    }
    const payload = ipv4TotalLen(memory, at + IP) - IPV4_HEADER_LEN - tcpDataOffset(memory, at + L4);
    if (payload === 0 || tcpSeq(memory, at + L4) !== this.rcvNxt) return;
    this.rcvNxt = (this.rcvNxt + payload) | 0;
    this.down += payload;
  }

  /** Writes what does not change from frame to frame. Returns where the frame is. */
  private headers(slot: number, protocol: number, length: number): number {
    const { rig } = this;
    const { memory } = rig;
    const at = rig.txOffset(slot);
    for (let i = 0; i < VNET_HEADER; i++) memory.setUint8(at + i, 0);
    if (protocol === TCP) {
      memory.setUint8(at, NEEDS_CSUM);
      memory.setUint16(at + 6, L4 - VNET_HEADER, true);
      memory.setUint16(at + 8, 16, true);
    }
    ethernetWrite(memory, at + VNET_HEADER, 0x9a55, 0x9a559a55 | 0, 0x0200, 0x00000001, 0x0800);
    this.ip.protocol = protocol;
    ipv4Write(memory, at + IP, this.ip, length - IP, 0, 0x4000);
    return at;
  }

  private segment(slot: number, flags: number, headerLen = TCP_HEADER_LEN): void {
    const at = this.rig.txOffset(slot) + L4;
    const { sndNxt, rcvNxt, tcpPort } = this;
    const ports = (tcpPort << 16) | TCP_SOURCE;
    tcpWrite(this.rig.memory, at, ports, sndNxt, rcvNxt, headerLen, flags, 65535);
    tcpSetChecksum(this.rig.memory, at, 0);
  }

  private bound(kind: number): number {
    const { native } = this;
    const fd = native.socket(AF_INET, kind);
    addrSlotWrite(native.addrs, SLOT, AF_INET, 0, 0, Int32Array.of(0, 0, 0xffff, 0x7f000001), 0);
    if (native.bind(fd, SLOT) < 0 || native.getsockname(fd, SLOT) < 0) throw new Error('bind');
    return fd;
  }

  private row(offset: number, length: number): void {
    const { rows, scratchRegion } = this.native;
    rows.region[ROWS_MISC] = scratchRegion;
    rows.offset[ROWS_MISC] = offset;
    rows.length[ROWS_MISC] = length;
  }
}

/** The host's end of the datagrams: sends each back where it came from. */
function echo(native: Native, fd: number): void {
  for (;;) {
    for (let i = 0; i < BATCH; i++) {
      native.rows.region[ROWS_MISC + i] = native.scratchRegion;
      native.rows.offset[ROWS_MISC + i] = i * 512;
      native.rows.length[ROWS_MISC + i] = 512;
      native.msgRow[i] = ROWS_MISC + i;
      native.msgRows[i] = 1;
      native.msgPeer[i] = 128 + i;
      native.msgLocal[i] = -1;
    }
    const n = native.recvMany(fd, 0, BATCH, 0);
    if (n <= 0) return;
    for (let i = 0; i < n; i++) {
      native.rows.length[ROWS_MISC + i] = native.msgLen[i];
      native.msgTtl[i] = -1;
      native.msgTos[i] = -1;
      native.msgSegment[i] = 0;
    }
    native.sendMany(fd, 0, n);
  }
}

/** Something for V8 to deoptimise, compiled anew each time so that it has learned nothing yet; see above. */
function mark(): void {
  runInThisContext(`(() => {
    function steadyStateMarker(x) { return x + 1; }
    %PrepareFunctionForOptimization(steadyStateMarker);
    steadyStateMarker(1); steadyStateMarker(2);
    %OptimizeFunctionOnNextCall(steadyStateMarker);
    steadyStateMarker(3); steadyStateMarker('');
  })()`);
}

/**
 * Objects reachable from `root`, prototypes included, that V8 keeps as hash tables: each access to one is a lookup that
 * compiled code has to call. Named by the path to them; what private names (`#name`) hold is not found.
 */
function dictionaries(root: object): string[] {
  const isFast = runInThisContext('(object) => %HasFastProperties(object)') as (object: object) => boolean;
  const found: string[] = [];
  const seen = new Set<object>([Object.prototype]);
  const queue: (readonly [string, object])[] = [['', root]];
  for (const [path, object] of queue) {
    if (seen.has(object) || isBuiltIn(object)) continue;
    seen.add(object);
    if (!isFast(object)) found.push(path);
    for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(object))) {
      const part: unknown = value;
      if (typeof part === 'object' && part !== null) queue.push([`${path}.${name}`, part]);
    }
    const prototype = Object.getPrototypeOf(object) as object | null;
    if (prototype !== null) queue.push([`${path}.prototype`, prototype]);
  }
  return found;
}

/** Memory has no names to look up, and Node's messages are asked for between turns only. */
function isBuiltIn(object: object): boolean {
  if (ArrayBuffer.isView(object)) return true;
  return [ArrayBuffer, SharedArrayBuffer, MessagePort, MessageChannel].some((kind) => object instanceof kind);
}

function main(): void {
  const [frames, words] = process.argv.slice(2);
  const traffic = new Traffic(offeredFeatures(words));
  const { rig } = traffic;
  const pass = (count: number): number => {
    const started = performance.now();
    const goal = rig.frames() + count;
    while (rig.frames() < goal) traffic.round();
    return performance.now() - started;
  };
  const warmUpMs = pass(Number(frames) / 5);
  const before = rig.frames();
  const { datagrams, up, down } = traffic;
  // Of what the warm-up left: a collection after this is the steady state's own.
  collectGarbage();
  mark();
  const steadyMs = pass(Number(frames));
  mark();
  const moved = {
    dictionaries: dictionaries(rig),
    frames: rig.frames() - before,
    datagrams: traffic.datagrams - datagrams,
    up: traffic.up - up,
    down: traffic.down - down,
    foreign: traffic.foreign,
    retransmits: rig.counters[C_TCP_RETRANSMITS],
    warmUpMs: Math.round(warmUpMs),
    steadyMs: Math.round(steadyMs),
  };
  traffic.close();
  process.stderr.write(`${JSON.stringify(moved)}\n`);
}

main();
