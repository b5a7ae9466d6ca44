/** Datagrams in the steady state allocate nothing: the heap does not grow while hundreds of thousands pass. */
import { KEY_KIND_SHIFT, KEY_UDP, type StackContext } from '../../../../src/stack/context';
import { ROWS_TOTAL, SCRATCH_SIZE } from '../../../../src/stack/scratch';
import { C_FRAMES_TO_GUEST, COUNTERS } from '../../../../src/stack/counters';
import { createLinkState } from '../../../../src/stack/link/guest-state';
import {
  ADDR_SLOT_SIZE,
  ADDR_SLOTS,
  EPOLLIN,
  MSG_PEEK,
  type GuestPort,
  type HostIo,
} from '../../../../src/stack/ports';
import { Stack } from '../../../../src/stack/stack';
import { Traffic } from '../../../../src/stack/ip/guest-hints';
import { UdpHandler } from '../../../../src/stack/udp/handler';
import { ascii } from '../../../support/stack/datagram-rig';
import { FakeClock } from '../../../support/stack/fake-clock';
import { FakeRandom } from '../../../support/stack/fake-random';
import { makeRows } from '../../../support/stack/rows';
import { datagram } from '../../../support/stack/link-rig';
import { stackConfig } from '../../../support/stack/stack-config';
import { SiteLog } from '../../../../src/stack/kit/site-log';

const FRAME = datagram('192.0.2.10', 5000, '203.0.113.5', 7000, ascii('x'.repeat(100)));
const BATCH = 32;
const ROUNDS = 9;
const TURNS = 2000;
const rows = makeRows(ROWS_TOTAL);

/** A guest that always has the same frame, and room for any. */
class TightPort implements GuestPort {
  up = true;
  gsoTcp4 = false;
  gsoTcp6 = false;
  gsoUdp4 = false;
  gsoUdp6 = false;
  maxFrame = 65549;
  head = new DataView(FRAME.slice().buffer);
  headLen = 96;
  rowCount = 1;
  gsoType = 0;
  gsoSize = 0;
  csumPartial = false;
  out = new DataView(new ArrayBuffer(4096));
  outOff = 0;
  left = 0;
  receive(row: number): number {
    if (this.left === 0) return 0;
    this.left--;
    rows.length[row] = FRAME.length;
    rows.offset[row] = 0;
    return FRAME.length;
  }
  substitute(): void {
    throw new Error('no fragments here');
  }
  pull(n: number): number {
    return Math.min(Math.max(n, 96), FRAME.length);
  }
  releaseReceived(): void {
    this.left = Math.max(0, this.left);
  }
  reserve(): number {
    return 1;
  }
  front(): void {
    this.outOff = 0;
  }
  commit(): void {
    this.outOff = 0;
  }
  cancel(): void {
    this.outOff = 0;
  }
  flush(): void {
    this.outOff = 0;
  }
}

/** A socket that takes everything and has `waiting` datagrams of 100 bytes. */
class TightIo {
  readonly rows = rows;
  readonly addrs = new DataView(new ArrayBuffer(ADDR_SLOTS * ADDR_SLOT_SIZE));
  readonly msgRow = new Int32Array(256);
  readonly msgRows = new Int32Array(256);
  readonly msgLen = new Int32Array(256);
  readonly msgPeer = new Int32Array(256);
  readonly msgLocal = new Int32Array(256);
  readonly msgTtl = new Int32Array(256);
  readonly msgTos = new Int32Array(256);
  readonly msgSegment = new Int32Array(256);
  readonly scratch = new DataView(new ArrayBuffer(SCRATCH_SIZE));
  readonly scratchRegion = 0;
  sent = 0;
  waiting = 0;
  /** Datagrams that come as one message, if the socket was told so. */
  joined = 1;
  joins = false;
  /** Calls of recvMany that took something. */
  received = 0;
  socket(): number {
    return 5;
  }
  bind(): number {
    return 0;
  }
  connect(): number {
    return 0;
  }
  setsockopt(_fd: number, level: number, name: number, value: number): number {
    if (level === 17 && name === 104) this.joins = value === 1;
    return 0;
  }
  watch(): number {
    return 0;
  }
  close(): number {
    return 0;
  }
  checksum(): number {
    return 0xffff;
  }
  sendMany(_fd: number, first: number, count: number): number {
    for (let i = first; i < first + count; i++) this.sent += this.msgRows[i]; // a row holds one payload
    return count;
  }
  recvMany(_fd: number, first: number, count: number, flags: number): number {
    const each = this.joins ? this.joined : 1;
    const n = Math.min(count, this.waiting / each);
    for (let i = first; i < first + n; i++) {
      this.msgLen[i] = 100 * each;
      this.msgSegment[i] = each > 1 ? 100 : 0;
      this.msgTtl[i] = 57;
      this.msgTos[i] = 0;
    }
    if ((flags & MSG_PEEK) === 0) {
      this.waiting -= n * each;
      this.received++;
    }
    return n === 0 ? -11 : n;
  }
  /** Of the first message that is longer than expected. */
  copyRows(): number {
    return 0;
  }
  recv(): number {
    this.waiting--;
    return 100;
  }
}

test.each([
  ['each by itself', 1],
  ['joined', 8],
])(
  'both directions, %s',
  (_how, joined) => {
    const config = stackConfig();
    const port = new TightPort();
    const io = new TightIo();
    port.gsoUdp4 = joined > 1;
    io.joined = joined;
    const counters = new Float64Array(COUNTERS);
    const clock = new FakeClock();
    const link = createLinkState(config);
    const ctx: StackContext = {
      config,
      port,
      io: io as unknown as HostIo,
      clock,
      traffic: new Traffic(),
      random: new FakeRandom(),
      counters,
      link,
      log: new SiteLog(clock, () => undefined),
      ends: null,
    };
    const udp = new UdpHandler(ctx, []);
    // The others stay idle; a recording handler would write down every turn.
    const stack = new Stack(ctx, { tcp: new UdpHandler(ctx, []), udp, icmp: new UdpHandler(ctx, []) });

    function turns(n: number): void {
      for (let i = 0; i < n; i++) {
        port.left = BATCH;
        stack.fromGuest(BATCH);
        io.waiting = BATCH;
        stack.onSocket(KEY_UDP << KEY_KIND_SHIFT, 1, EPOLLIN);
        stack.onTimer();
        clock.nowMs++;
      }
    }

    turns(3000); // let the code be compiled
    const callsBefore = io.received;
    const framesBefore = counters[C_FRAMES_TO_GUEST];
    const sentBefore = io.sent;
    const growth: number[] = [];
    for (let i = 0; i < ROUNDS; i++) {
      const before = process.memoryUsage().heapUsed;
      turns(TURNS);
      growth.push(process.memoryUsage().heapUsed - before);
    }
    const datagrams = ROUNDS * TURNS * BATCH;
    expect(io.sent - sentBefore).toBe(datagrams);
    expect(counters[C_FRAMES_TO_GUEST] - framesBefore).toBe(datagrams / joined);
    // One call takes what came in a turn, and one more finds that there is nothing left.
    expect(io.received - callsBefore).toBeLessThanOrEqual(2 * ROUNDS * TURNS);
    // The median: a collection, or a late compilation, may fall into a round.
    const median = growth.sort((a, b) => a - b)[ROUNDS >> 1];
    expect(median / (TURNS * BATCH)).toBeLessThan(2); // bytes a datagram; the smallest object has 12
  },
  60_000,
);
