/** The path of a frame through the stack allocates nothing: measured, for every kind of frame that may come often. */
import { createLinkState } from '../../../../src/stack/link/guest-state';
import { COUNTERS } from '../../../../src/stack/counters';
import type { FlowHandler, FrameInfo, StackContext } from '../../../../src/stack/context';
import type { GuestPort, HostIo } from '../../../../src/stack/ports';
import { GSO_NONE, MAX_HEAD } from '../../../../src/stack/ports';
import { Stack } from '../../../../src/stack/stack';
import { Traffic } from '../../../../src/stack/ip/guest-hints';
import { ip } from '../../../support/stack/addresses';
import { FakeClock } from '../../../support/stack/fake-clock';
import { FakeRandom } from '../../../support/stack/fake-random';
import { GUEST_MAC, NO_FLOWS, bytes, datagram, ethernet, icmpv6, packet } from '../../../support/stack/link-rig';
import { stackConfig } from '../../../support/stack/stack-config';
import { SiteLog } from '../../../../src/stack/kit/site-log';

/** Serves the same frame again and again, and swallows what is sent; itself free of allocation. */
class LoopPort implements GuestPort {
  readonly up = true;
  readonly gsoTcp4 = false;
  readonly gsoTcp6 = false;
  readonly gsoUdp4 = false;
  readonly gsoUdp6 = false;
  readonly maxFrame = 65549;
  readonly head = new DataView(new ArrayBuffer(MAX_HEAD));
  headLen = 0;
  readonly rowCount = 1;
  readonly gsoType = GSO_NONE;
  readonly gsoSize = 0;
  readonly csumPartial = false;
  readonly out = new DataView(new ArrayBuffer(4096));
  readonly outOff = 12;
  sent = 0;
  private frame = new Uint8Array(0);
  private other = new Uint8Array(0);
  private readonly bytes = new Uint8Array(this.head.buffer);

  /** `other`: comes in turn with `frame`. */
  load(frame: Uint8Array, other?: Uint8Array): void {
    this.frame = Uint8Array.from(frame);
    this.other = other === undefined ? this.frame : Uint8Array.from(other);
    this.bytes.set(this.frame);
  }
  receive(): number {
    const { frame, other } = this;
    if (other !== frame) {
      this.frame = other;
      this.other = frame;
      for (let i = 0; i < 96 && i < other.length; i++) this.bytes[i] = other[i];
    }
    this.headLen = Math.min(96, this.frame.length);
    return this.frame.length;
  }
  substitute(): void {
    throw new Error('no fragments here');
  }
  pull(n: number): number {
    return (this.headLen = Math.max(this.headLen, Math.min(n, this.frame.length)));
  }
  releaseReceived(): void {}
  reserve(): number {
    return 0;
  }
  front(): void {}
  commit(): void {
    this.sent++;
  }
  cancel(): void {}
  flush(): void {}
}

class CountingHandler implements FlowHandler {
  readonly busy = false;
  readonly view = NO_FLOWS;
  seen = 0;
  fromGuest(frame: FrameInfo): number {
    this.seen += frame.l4Len > 0 ? 1 : 0;
    return frame.row;
  }
  endOfBatch(): void {}
  onSocket(): void {}
  onGuestReady(): void {}
  onTimer(): void {}
  nextDeadline(): number {
    return Infinity;
  }
  reset(): void {}
}

const FRAMES = 200_000;
/** Below 8 bytes a frame nothing can have been allocated each time. */
const MOST_BYTES = FRAMES * 4;

const MAC_B = '52 54 00 00 00 0b';

test.each<[string, Uint8Array, 'flow' | 'sent' | 'none', Uint8Array?]>([
  [
    'two addresses at two Ethernet addresses, the first of which is not the one given',
    packet('192.0.2.30', '9.9.9.9', 6, new Uint8Array(1000)),
    'flow',
    packet('192.0.2.20', '9.9.9.9', 6, new Uint8Array(1000), { srcMac: MAC_B }),
  ],
  [
    'ARP of two Ethernet addresses, answers for which are looked up',
    ethernet(0x0806, bytes('0001 0800 06 04 0001', GUEST_MAC, 'c000021e 000000000000 c0000201')),
    'sent',
    ethernet(0x0806, bytes('0001 0800 06 04 0001', MAC_B, 'c0000214 000000000000 c0000201'), MAC_B),
  ],
  [
    'SYNs with a segment size',
    packet('192.0.2.10', '9.9.9.9', 6, bytes('0400 0050 00000001 00000000 60 02 ffff 0000 0000 02 04 05b4')),
    'flow',
  ],
  ['an unknown protocol', packet('192.0.2.10', '9.9.9.9', 47, new Uint8Array(100)), 'sent'],
  [
    'a priority tag',
    ethernet(0x8100, bytes('e000 0800', packet('192.0.2.10', '9.9.9.9', 6, new Uint8Array(100)).subarray(14))),
    'flow',
  ],
  ['TCP over IPv4', packet('192.0.2.10', '9.9.9.9', 6, new Uint8Array(1000)), 'flow'],
  ['UDP over IPv6', datagram('2001:db8::10', 1, '2001:db8:9::9', 53, new Uint8Array(1000)), 'flow'],
  [
    'IPv6 with extension headers',
    packet('2001:db8::10', '2001:db8:9::9', 6, new Uint8Array(40), {
      extensions: bytes('06 00 0104 00000000'),
      next: 60,
    }),
    'flow',
  ],
  ['ARP', ethernet(0x0806, bytes('0001 0800 06 04 0001', GUEST_MAC, 'c000020a 000000000000 c0000201')), 'sent'],
  ['a dropped fragment', packet('192.0.2.10', '9.9.9.9', 17, new Uint8Array(60), { fragment: 0x2000 }), 'none'],
  ['neighbour advertisement', icmpv6('fe80::9', 'fe80::1', bytes('88 00 0000 60000000', ip('fe80::9'))), 'none'],
])('%s', (_, frame, effect, ...[other]) => {
  const config = stackConfig();
  const port = new LoopPort();
  const ctx: StackContext = {
    config,
    port,
    io: {} as HostIo,
    clock: new FakeClock(),
    traffic: new Traffic(),
    random: new FakeRandom(),
    counters: new Float64Array(COUNTERS),
    link: createLinkState(config),
    log: new SiteLog(new FakeClock(), () => undefined),
    ends: null,
  };
  const flow = new CountingHandler();
  const stack = new Stack(ctx, { tcp: flow, udp: flow, icmp: flow });
  port.load(frame, other);
  stack.fromGuest(FRAMES); // compiles
  // A collection in between would hide garbage, but also take some time to come back: the least of three counts.
  let least = Infinity;
  for (let round = 0; round < 3; round++) {
    const before = process.memoryUsage().heapUsed;
    stack.fromGuest(FRAMES);
    least = Math.min(least, Math.abs(process.memoryUsage().heapUsed - before));
  }
  expect(least).toBeLessThan(MOST_BYTES);
  expect([flow.seen > 0, port.sent > 0]).toEqual([effect === 'flow', effect === 'sent']);
});
