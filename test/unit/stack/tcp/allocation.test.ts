/**
 * The data path makes no garbage: half a million segments in each direction through one flow, over a port and sockets
 * that allocate nothing themselves, then the collections counted. A scavenge comes about every 16 MiB of garbage.
 */
import { PerformanceObserver } from 'node:perf_hooks';
import type { FrameInfo, StackContext } from '../../../../src/stack/context';
import { COUNTERS } from '../../../../src/stack/counters';
import { createLinkState } from '../../../../src/stack/link/guest-state';
import { EPOLLIN, EPOLLOUT, MAX_HEAD, MEMINFO_SNDBUF, MEMINFO_WMEM_QUEUED } from '../../../../src/stack/ports';
import type { GuestPort, HostIo } from '../../../../src/stack/ports';
import { TcpHandler } from '../../../../src/stack/tcp/handler';
import { Traffic } from '../../../../src/stack/ip/guest-hints';
import { FakeRandom } from '../../../support/stack/fake-random';
import { stackConfig } from '../../../support/stack/stack-config';
import { SiteLog } from '../../../../src/stack/kit/site-log';

const PAYLOAD = 1000;

class BarePort implements GuestPort {
  readonly up = true;
  readonly gsoTcp4 = false;
  readonly gsoTcp6 = false;
  readonly gsoUdp4 = false;
  readonly gsoUdp6 = false;
  readonly maxFrame = 65549;
  readonly head = new DataView(new ArrayBuffer(MAX_HEAD));
  headLen = 0;
  rowCount = 1;
  readonly gsoType = 0;
  readonly gsoSize = 0;
  readonly csumPartial = true;
  readonly out = new DataView(new ArrayBuffer(4096));
  readonly outOff = 0;
  commits = 0;
  receive(): number {
    return 0;
  }
  substitute(): void {
    throw new Error('no fragments here');
  }
  pull(n: number): number {
    return n;
  }
  releaseReceived(): void {
    this.headLen = 0;
  }
  reserve(_header: number, payload: number): number {
    return payload === 0 ? 0 : 1;
  }
  front(): void {
    this.headLen = 0;
  }
  commit(): void {
    this.commits++;
  }
  cancel(): void {
    this.headLen = 0;
  }
  flush(): void {
    this.headLen = 0;
  }
}

/** Calls of a socket that takes everything and has `ready` bytes to read. */
class BareIo {
  readonly rows = {
    region: new Int32Array(8192),
    offset: new Float64Array(8192),
    length: new Int32Array(8192).fill(PAYLOAD),
    capacity: 8192,
  };
  readonly addrs = new DataView(new ArrayBuffer(8192));
  readonly memInfoOut = new Float64Array(9);
  ready = 0;
  sends = 0;
  socket(): number {
    return 5;
  }
  setsockopt(): number {
    return 0;
  }
  connect(): number {
    return -115;
  }
  watch(): number {
    return 0;
  }
  rewatch(): number {
    return 0;
  }
  memInfo(): number {
    this.memInfoOut[MEMINFO_SNDBUF] = 262144;
    this.memInfoOut[MEMINFO_WMEM_QUEUED] = 4096;
    return 0;
  }
  outq(): number {
    return 0;
  }
  recv(): number {
    const n = this.ready;
    this.ready = 0;
    return n === 0 ? -11 : n;
  }
  send(_fd: number, _row: number, count: number): number {
    this.sends++;
    return count * PAYLOAD;
  }
  discard(_fd: number, n: number): number {
    return n;
  }
  abort(): number {
    return 0;
  }
}

test('half a million segments each way cause no garbage', async () => {
  const port = new BarePort();
  const io = new BareIo();
  const config = stackConfig({ mtu: 1500, maxTcpFlows: 4 });
  let us = 1e9;
  const clock = { nowMs: 1e6, nowUs: () => us++ };
  const ctx: StackContext = {
    config,
    port,
    io: io as unknown as HostIo,
    clock,
    random: new FakeRandom(1),
    counters: new Float64Array(COUNTERS),
    link: createLinkState(config),
    traffic: new Traffic(),
    log: new SiteLog(clock, () => undefined),
    ends: null,
  };
  const tcp = new TcpHandler(ctx, []);
  const addr = Int32Array.from([0, 0, 0xffff, 0x0a000002, 0, 0, 0xffff, 0x0a000001]);
  const frame: FrameInfo = {
    frameLen: 0,
    row: 0,
    rowCount: 1,
    version: 4,
    l3Off: 14,
    protocol: 6,
    l4Off: 34,
    l4Len: 20,
    ttl: 64,
    df: true,
    tos: 0,
    addr,
  };
  const segment = (flags: number, seq: number, ack: number, length: number): void => {
    const h = port.head;
    h.setUint16(34, 4000);
    h.setUint16(36, 80);
    h.setInt32(38, seq);
    h.setInt32(42, ack);
    h.setUint8(46, 0x50);
    h.setUint8(47, flags);
    h.setUint16(48, 65535);
    frame.l4Len = 20 + length;
    frame.frameLen = 54 + length;
    frame.row = length === 0 ? 0 : row;
    frame.rowCount = 1;
    io.rows.length[frame.row] = 54 + length;
    io.rows.offset[frame.row] = 0;
    row = tcp.fromGuest(frame);
  };
  let row = 0;
  let seq = 1000;
  segment(2, seq++, 0, 0);
  tcp.endOfBatch();
  tcp.onSocket(1, 0, 1, EPOLLOUT);
  let ack = (tcp.engine.iss[0] + 1) | 0;
  segment(16, seq, ack, 0);
  tcp.endOfBatch();

  const run = (rounds: number): void => {
    for (let i = 0; i < rounds; i++) {
      clock.nowMs++;
      // Five segments with data, then the peer's answer of five, then its acknowledgement.
      row = 0;
      for (let k = 0; k < 5; k++) {
        segment(24, seq, ack, PAYLOAD);
        seq = (seq + PAYLOAD) | 0;
      }
      tcp.endOfBatch();
      io.ready = 5 * PAYLOAD;
      tcp.onSocket(1, 0, 1, EPOLLIN | EPOLLOUT);
      ack = (ack + 5 * PAYLOAD) | 0;
      row = 0;
      segment(16, seq, ack, 0);
      tcp.endOfBatch();
      tcp.onTimer();
      tcp.nextDeadline();
    }
  };
  run(20_000);
  expect(tcp.engine.rcvNxt[0]).toBe(seq);
  expect(tcp.engine.sndUna[0]).toBe(ack);

  let collections = 0;
  const observer = new PerformanceObserver((list) => {
    collections += list.getEntries().length;
  });
  observer.observe({ entryTypes: ['gc'] });
  const sends = io.sends;
  run(100_000);
  await new Promise((resolve) => setImmediate(resolve));
  observer.disconnect();
  expect(io.sends - sends).toBe(100_000); // one send per batch
  expect(collections).toBeLessThanOrEqual(4);
}, 60_000);
