/**
 * A million frames through the data plane's real loop, rings, stack, addon and sockets: half of them datagrams from the
 * guest, half the answers to them. In the steady state nothing may be allocated, so nothing is ever collected.
 */
import { PerformanceObserver } from 'node:perf_hooks';
import { MessageChannel } from 'node:worker_threads';
import { SplitQueueDriver } from 'virtio-ring-ts';
import type { SplitRingLayout } from 'virtio-ring-ts';
import type { Command } from '../../src/dataplane/commands';
import { EventLoop, LoopClock } from '../../src/dataplane/event-loop';
import { DEVICE_FEATURES } from '../../src/dataplane/features';
import { RingControl } from '../../src/dataplane/ring-control';
import { loadNative } from '../../src/native';
import type { Native } from '../../src/native';
import { addrSlotPort, addrSlotWrite } from '../../src/stack/address';
import { ROWS_MISC } from '../../src/stack/context';
import type { StackContext } from '../../src/stack/context';
import { COUNTERS, C_FRAMES_FROM_GUEST, C_FRAMES_TO_GUEST } from '../../src/stack/counters';
import { IcmpHandler } from '../../src/stack/icmp';
import { createLinkState } from '../../src/stack/link';
import { AF_INET, SOCK_UDP } from '../../src/stack/ports';
import { Stack } from '../../src/stack/stack';
import { TcpHandler } from '../../src/stack/tcp/tcp';
import { UdpHandler } from '../../src/stack/udp';
import { FakeRandom } from '../support/stack/fake-random';
import { stackConfig } from '../support/stack/stack-config';

const FRAMES = 1_000_000;
const WARM_UP = 40_000;
const BATCH = 64;
const PAYLOAD = 200;
const SLOT = 250;

const GPA = 0x4000_0000;
const MEMORY = 8 << 20;
const RING = 256;
const RX_BUFFERS = 0x100000;
const RX_SIZE = 2048;
const TX_BUFFERS = 0x200000;
const TX_SIZE = 512;

function ipChecksum(b: Buffer, from: number, length: number): number {
  let sum = 0;
  for (let i = 0; i < length; i += 2) sum += b.readUInt16BE(from + i);
  while (sum > 0xffff) sum = (sum >>> 16) + (sum & 0xffff);
  return ~sum & 0xffff;
}

/** virtio_net_hdr, Ethernet, IPv4, UDP from 192.0.2.10:40000 to the gateway's `port`. */
function datagram(port: number): Buffer {
  const b = Buffer.alloc(12 + 42 + PAYLOAD, 0x61);
  b.fill(0, 0, 12 + 42);
  b.write('9a559a559a55020000000001' + '0800', 12, 'hex');
  const ip = 12 + 14;
  b[ip] = 0x45;
  b.writeUInt16BE(28 + PAYLOAD, ip + 2);
  b[ip + 8] = 64;
  b[ip + 9] = 17;
  b.write('c000020a' + 'c0000201', ip + 12, 'hex');
  b.writeUInt16BE(ipChecksum(b, ip, 20), ip + 10);
  b.writeUInt16BE(40000, ip + 20);
  b.writeUInt16BE(port, ip + 22);
  b.writeUInt16BE(8 + PAYLOAD, ip + 24);
  return b;
}

/** Everything the worker builds, on this thread, with a driver of our own on the rings. */
class Rig {
  readonly native: Native = loadNative();
  readonly counters = new Float64Array(COUNTERS);
  readonly rx: SplitQueueDriver;
  readonly tx: SplitQueueDriver;
  readonly loop: EventLoop;
  readonly kicks: readonly [number, number];
  readonly bytes: Uint8Array;
  received = 0;
  private readonly channel = new MessageChannel();
  private readonly wakeFd: number;
  private readonly region: number;
  private seq = 0;

  constructor() {
    const { native } = this;
    this.wakeFd = native.eventFd(0);
    this.kicks = [native.eventFd(0), native.eventFd(0)];
    this.region = native.allocRegion(MEMORY);
    const buffer = native.regionBuffer(this.region);
    this.bytes = new Uint8Array(buffer);
    const control = new RingControl(native, this.channel.port1, this.wakeFd, this.counters);
    const clock = new LoopClock(native);
    const config = stackConfig();
    const context: StackContext = {
      config,
      port: control.port,
      io: native,
      clock,
      random: new FakeRandom(1),
      counters: this.counters,
      link: createLinkState(config),
      log: () => undefined,
    };
    const stack = new Stack(context, {
      tcp: new TcpHandler(context, []),
      udp: new UdpHandler(context, []),
      icmp: new IcmpHandler(context),
    });
    control.serve(stack);
    this.loop = new EventLoop(native, clock, control, stack, this.counters);
    const layout = (base: number): SplitRingLayout => ({
      size: RING,
      desc: { buffer, offset: base },
      avail: { buffer, offset: base + 0x2000 },
      used: { buffer, offset: base + 0x4000 },
    });
    const features = { indirect: true, eventIdx: true };
    this.rx = new SplitQueueDriver(layout(0), features);
    this.tx = new SplitQueueDriver(layout(0x10000), features);
    for (let i = 0; i < RING; i++) this.postReceive(i);
    this.rx.publish();
    // What run() does before its first turn.
    native.epollInit();
    native.watch(this.wakeFd, 1, 64 << 24, 0);
    stack.start();
    this.tell({ kind: 'features', features: DEVICE_FEATURES });
    this.tell({ kind: 'memory', regions: [{ region: this.region, buffer, gpa: GPA, size: MEMORY }] });
    for (const index of [0, 1]) {
      const place = (offset: number): { region: number; offset: number } => ({
        region: this.region,
        offset: 0x10000 * index + offset,
      });
      this.tell({
        kind: 'startRing',
        ring: {
          index,
          size: RING,
          desc: place(0),
          avail: place(0x2000),
          used: place(0x4000),
          base: 0,
          kickFd: this.kicks[index],
          callFd: -1,
          errFd: -1,
          enabled: true,
          logAddr: -1,
        },
      });
    }
  }

  tell(command: Command): void {
    this.channel.port2.postMessage({ seq: ++this.seq, command });
    this.native.signal(this.wakeFd);
    this.loop.turn();
  }

  postReceive(slot: number): void {
    this.rx.begin();
    this.rx.addWritable(GPA + RX_BUFFERS + slot * RX_SIZE, RX_SIZE);
    this.rx.commit(slot, false);
  }

  /** One turn that cannot wait for ever: the receive ring's kick is always pending. */
  turn(): void {
    this.native.signal(this.kicks[0]);
    this.loop.turn();
    while (this.tx.pollUsed() === 1);
    let posted = false;
    while (this.rx.pollUsed() === 1) {
      // Only datagrams of the expected size are answers.
      if (this.rx.usedLen === 12 + 42 + PAYLOAD) this.received++;
      this.postReceive(this.rx.usedToken);
      posted = true;
    }
    if (posted) this.rx.publish();
  }

  send(count: number): void {
    for (let i = 0; i < count; i++) {
      this.tx.begin();
      this.tx.addReadable(GPA + TX_BUFFERS + i * TX_SIZE, 12 + 42 + PAYLOAD);
      this.tx.commit(i, false);
    }
    if (this.tx.publish()) this.native.signal(this.kicks[1]);
  }

  close(): void {
    this.tell({ kind: 'stop' });
    this.channel.port1.close();
    for (const fd of [this.wakeFd, ...this.kicks]) this.native.close(fd);
    this.native.retireRegion(this.region);
  }
}

/** The host's end: sends every datagram back where it came from. */
function echo(native: Native, fd: number): number {
  let done = 0;
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
    if (n <= 0) return done;
    for (let i = 0; i < n; i++) {
      native.rows.length[ROWS_MISC + i] = native.msgLen[i];
      native.msgTtl[i] = -1;
      native.msgTos[i] = -1;
      native.msgSegment[i] = 0;
    }
    done += native.sendMany(fd, 0, n);
  }
}

it('a million frames, no collection', async () => {
  const rig = new Rig();
  const { native } = rig;
  const fd = native.socket(AF_INET, SOCK_UDP);
  addrSlotWrite(native.addrs, SLOT, AF_INET, 0, 0, 0, 0, 0xffff, 0x7f000001);
  expect(native.bind(fd, SLOT)).toBe(0);
  expect(native.getsockname(fd, SLOT)).toBe(0);
  const frame = datagram(addrSlotPort(native.addrs, SLOT));
  for (let i = 0; i < BATCH; i++) rig.bytes.set(frame, TX_BUFFERS + i * TX_SIZE);

  const pass = (frames: number): void => {
    const goal = rig.received + frames / 2;
    let idle = 0;
    while (rig.received < goal) {
      const before = rig.received;
      rig.send(BATCH);
      rig.turn();
      echo(native, fd);
      rig.turn();
      // Loopback may lose a datagram only if a buffer is full, which these are not.
      idle = rig.received === before ? idle + 1 : 0;
      if (idle > 1000) throw new Error(`no answers after ${String(rig.received)}`);
    }
  };
  pass(WARM_UP);

  const collections: number[] = [];
  const observer = new PerformanceObserver((list) => {
    for (const e of list.getEntries()) collections.push(e.duration);
  });
  observer.observe({ entryTypes: ['gc'] });
  const from = rig.counters[C_FRAMES_FROM_GUEST] + rig.counters[C_FRAMES_TO_GUEST];
  pass(FRAMES);
  const moved = rig.counters[C_FRAMES_FROM_GUEST] + rig.counters[C_FRAMES_TO_GUEST] - from;
  await new Promise(setImmediate);
  observer.disconnect();
  rig.close();
  native.close(fd);
  expect(moved).toBeGreaterThanOrEqual(FRAMES);
  // A handful: optimised code and inline caches are allocated too, while V8 still makes up its mind.
  expect(collections.length).toBeLessThanOrEqual(3);
}, 120_000);
