/**
 * Everything the data plane's worker builds, on this thread, with a driver of our own on its rings and no threads at all:
 * for counting what the hot path leaves behind. Nothing here allocates once it is set up.
 */
import { MessageChannel } from 'node:worker_threads';
import { SplitQueueDriver, type SplitQueueDevice, type SplitRingLayout } from 'virtio-ring-ts';
import type { Command, ModerationLevel } from '../../../src/dataplane/commands';
import { Moderation } from '../../../src/dataplane/moderation/moderation';
import { LoopClock } from '../../../src/dataplane/loop-clock';
import { EventLoop } from '../../../src/dataplane/virtio/event-loop';
import { negotiated } from '../../../src/dataplane/virtio/features';
import { RingControl } from '../../../src/dataplane/virtio/ring-control';
import { loadNative, type Native } from '../../../src/native';
import type { StackContext } from '../../../src/stack/context';
import { COUNTERS, C_FRAMES_FROM_GUEST, C_FRAMES_TO_GUEST } from '../../../src/stack/counters';
import { IcmpHandler } from '../../../src/stack/ping/handler';
import { createLinkState } from '../../../src/stack/link/guest-state';
import { Stack } from '../../../src/stack/stack';
import { Traffic } from '../../../src/stack/ip/guest-hints';
import { TcpHandler } from '../../../src/stack/tcp/handler';
import { UdpHandler } from '../../../src/stack/udp/handler';
import { BROADCAST_MAC } from '../guest/bytes';
import { ETHER_ARP, ETHER_IPV4, PROTO_TCP, arp, ethernet, ipHeader } from '../guest/packets';
import { FakeRandom } from '../stack/fake-random';
import { stackConfig } from '../stack/stack-config';
import { SiteLog } from '../../../src/stack/kit/site-log';

/** Where guest memory begins in the guest's addresses. */
const GPA = 0x4000_0000;
const MEMORY = 8 << 20;
export const RING = 256;
const RX_BUFFERS = 0x100000;
const RX_SIZE = 2048;
const TX_BUFFERS = 0x200000;
const TX_SIZE = 2048;

/** struct virtio_net_hdr_v1 (virtio 1.2 §5.1.6), and where its num_buffers is. */
export const VNET_HEADER = 12;
const NUM_BUFFERS = 10;

export interface BareRigOptions {
  /** Default: the addon as it is. */
  readonly native?: Native;
  readonly pollUs?: number;
  /** Default: adaptive. */
  readonly moderation?: ModerationLevel;
}

export class BareRig {
  readonly native: Native;
  readonly counters = new Float64Array(COUNTERS);
  /** Guest memory; `txOffset` and the argument of `onFrame` are offsets into it. */
  readonly memory: DataView;
  /** Called for each frame to the guest with where its virtio_net_hdr is, and its bytes, that header included. */
  onFrame: (offset: number, length: number) => void = () => undefined;
  private readonly rx: SplitQueueDriver;
  private readonly tx: SplitQueueDriver;
  private readonly loop: EventLoop;
  private readonly control: RingControl;
  private readonly kicks: readonly [number, number];
  private readonly channel = new MessageChannel();
  private readonly wakeFd: number;
  private readonly region: number;
  /** The guest leaves what it sent alone until `look`; else it takes completions after each turn, unasked. */
  dozing = false;
  /** Whether the guest takes its frames and posts their buffers anew. */
  collects = true;
  /** Call descriptors of the receive and the transmit queue. */
  readonly calls: readonly [number, number];
  /** What the stack says of what has passed: tests add to it. */
  readonly traffic = new Traffic();
  private seq = 0;

  /** @param features acked by the guest; of the two TSO bits to the guest at most one buffer's worth is looked at. */
  constructor(features: bigint, { native = loadNative(), pollUs = 0, moderation = 'adaptive' }: BareRigOptions = {}) {
    this.native = native;
    this.wakeFd = native.eventFd(0);
    this.kicks = [native.eventFd(0), native.eventFd(0)];
    this.calls = [native.eventFd(0), native.eventFd(0)];
    this.region = native.allocRegion(MEMORY);
    const buffer = native.regionBuffer(this.region);
    this.memory = new DataView(buffer);
    const clock = new LoopClock(native);
    const notifications = new Moderation(clock, this.traffic, { level: moderation, pollUs });
    const control = new RingControl(native, this.channel.port1, this.wakeFd, this.counters, notifications);
    const config = stackConfig();
    const context: StackContext = {
      config,
      port: control.port,
      io: native,
      clock,
      traffic: this.traffic,
      random: new FakeRandom(1),
      counters: this.counters,
      link: createLinkState(config),
      log: new SiteLog(clock, () => undefined),
      ends: null,
    };
    const stack = new Stack(context, {
      tcp: new TcpHandler(context, []),
      udp: new UdpHandler(context, []),
      icmp: new IcmpHandler(context),
    });
    control.serve(stack);
    this.control = control;
    this.loop = new EventLoop(native, clock, control, stack, this.counters);
    const layout = (base: number): SplitRingLayout => ({
      size: RING,
      desc: { buffer, offset: base },
      avail: { buffer, offset: base + 0x2000 },
      used: { buffer, offset: base + 0x4000 },
    });
    const ringFeatures = { indirect: true, eventIdx: negotiated(features).eventIdx };
    this.rx = new SplitQueueDriver(layout(0), ringFeatures);
    this.tx = new SplitQueueDriver(layout(0x10000), ringFeatures);
    for (let i = 0; i < RING; i++) this.postReceive(i);
    this.rx.publish();
    // What run() does before its first turn.
    native.epollInit();
    native.watch(this.wakeFd, 1, 64 << 24, 0);
    stack.start();
    this.tell({ kind: 'features', features });
    this.tell({ kind: 'memory', regions: [{ region: this.region, buffer, gpa: GPA, size: MEMORY }] });
    for (const index of [0, 1]) this.startRing(index);
  }

  /** The device's end of the guest's transmit queue, which must not be stopped. */
  get transmitQueue(): SplitQueueDevice {
    return running(this.control.port.tx.queue);
  }

  /** The device's end of the guest's receive queue, which must not be stopped. */
  get receiveQueue(): SplitQueueDevice {
    return running(this.control.port.rx.queue);
  }

  /** Where the buffer of a slot (0 … 255) of the transmit queue is in `memory`. */
  txOffset(slot: number): number {
    return TX_BUFFERS + slot * TX_SIZE;
  }

  /** Makes a frame of `length` bytes, virtio_net_hdr included, available in a slot; `kick` after several. */
  post(slot: number, length: number): void {
    this.tx.begin();
    this.tx.addReadable(GPA + TX_BUFFERS + slot * TX_SIZE, length);
    this.tx.commit(slot, false);
  }

  /** Publishes what was posted. True if the device wanted a kick, which it got. */
  kick(): boolean {
    const wanted = this.tx.publish();
    if (wanted) this.native.signal(this.kicks[1]);
    return wanted;
  }

  /** One turn of the loop, which cannot wait for ever: the receive ring's kick is always pending. */
  turn(): void {
    this.wake();
    this.step();
  }

  /** An event for the loop that brings nothing: a kick of the receive ring. */
  wake(): void {
    this.native.signal(this.kicks[0]);
  }

  /** One turn of the loop as it comes. */
  step(): void {
    this.loop.turn();
    if (!this.dozing) while (this.tx.pollUsed() === 1);
    if (this.collects) this.collect();
  }

  /** The guest takes its frames and posts their buffers anew. Returns how many buffers. */
  collect(): number {
    let more = 0;
    let count = 0;
    for (; this.rx.pollUsed() === 1; count++) {
      const at = RX_BUFFERS + this.rx.usedToken * RX_SIZE;
      // Buffers after a frame's first have no header.
      if (more > 0) more--;
      else {
        more = this.memory.getUint16(at + NUM_BUFFERS, true) - 1;
        this.onFrame(at, this.rx.usedLen);
      }
      this.postReceive(this.rx.usedToken);
    }
    if (count > 0) this.rx.publish();
    return count;
  }

  /** The guest asks for no notifications, until it looks. */
  mask(): void {
    this.tx.disableCallbacks();
    this.rx.disableCallbacks();
  }

  /** The guest takes completions and asks to be told of the next, of frames too, as Linux's NAPI does. */
  look(): void {
    this.lookAtCompletions();
    this.lookAtFrames();
  }

  /** Returns how many there were. */
  lookAtCompletions(): number {
    let count = 0;
    while (this.tx.pollUsed() === 1) count++;
    this.tx.enableCallbacks();
    return count;
  }

  /** It has collected its frames before. */
  lookAtFrames(): void {
    this.rx.enableCallbacks();
  }

  /** Puts an ARP request for the gateway's address, which is answered at once, into a slot, and `post`s it. */
  postArp(slot: number): void {
    const senderMac = Uint8Array.of(2, 0, 0, 0, 0, 1);
    const [senderIp, targetIp] = [Uint8Array.of(192, 0, 2, 10), Uint8Array.of(192, 0, 2, 1)];
    const request = arp({ op: 1, senderMac, senderIp, targetMac: new Uint8Array(6), targetIp });
    const frame = ethernet(BROADCAST_MAC, senderMac, ETHER_ARP, request);
    this.postFrame(slot, frame);
  }

  /** Puts a TCP segment to nobody, which is dropped without an answer, into a slot, and `post`s it. */
  postStray(slot: number): void {
    const [src, dst] = [Uint8Array.of(192, 0, 2, 10), Uint8Array.of(198, 51, 100, 7)];
    const packet = Uint8Array.from([...ipHeader(src, dst, PROTO_TCP, 20), ...new Uint8Array(20)]);
    const [dstMac, srcMac] = [Uint8Array.of(2, 0, 0, 0, 0, 2), Uint8Array.of(2, 0, 0, 0, 0, 1)];
    this.postFrame(slot, ethernet(dstMac, srcMac, ETHER_IPV4, packet));
  }

  private postFrame(slot: number, frame: Uint8Array): void {
    frame.forEach((byte, i) => {
      this.memory.setUint8(this.txOffset(slot) + VNET_HEADER + i, byte);
    });
    this.post(slot, VNET_HEADER + frame.length);
  }

  stopReceive(): void {
    this.tell({ kind: 'stopRing', index: 0 });
  }

  stopTransmit(): void {
    this.tell({ kind: 'stopRing', index: 1 });
  }

  /** The transmit ring starts again from where it was, all of it completed. */
  startTransmit(): void {
    while (this.tx.pollUsed() === 1);
    this.startRing(1, this.tx.availIdx);
  }

  /** Frames in both directions so far. */
  frames(): number {
    return this.counters[C_FRAMES_FROM_GUEST] + this.counters[C_FRAMES_TO_GUEST];
  }

  close(): void {
    this.tell({ kind: 'stop' });
    this.channel.port1.close();
    for (const fd of [this.wakeFd, ...this.calls, ...this.kicks]) this.native.close(fd);
    this.native.retireRegion(this.region);
    // As the service does: V8 would let thousands of rigs wait for a collection, more than there are regions.
    this.native.relieve(1, MEMORY);
  }

  private postReceive(slot: number): void {
    this.rx.begin();
    this.rx.addWritable(GPA + RX_BUFFERS + slot * RX_SIZE, RX_SIZE);
    this.rx.commit(slot, false);
  }

  private tell(command: Command): void {
    this.channel.port2.postMessage({ seq: ++this.seq, command });
    this.native.signal(this.wakeFd);
    this.loop.turn();
  }

  private startRing(index: number, base = 0): void {
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
        base,
        kickFd: this.kicks[index],
        callFd: this.calls[index],
        errFd: -1,
        enabled: true,
        logAddr: -1,
      },
    });
  }
}

function running(queue: SplitQueueDevice | null): SplitQueueDevice {
  if (queue === null) throw new Error('the queue is stopped');
  return queue;
}
