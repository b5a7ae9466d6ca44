/**
 * The stack's TCP on the kernel's sockets: what the fake sockets assume of Linux (peek offsets, edges, room in send
 * buffers) is put to the test. A model guest talks through the stack to a server or client of this process, over
 * loopback.
 */
import { once } from 'node:events';
import net from 'node:net';
import { setImmediate as tick } from 'node:timers/promises';
import { loadNative } from '../../../../src/native';
import type { Native } from '../../../../src/native';
import type { ForwardListener } from '../../../../src/stack/config';
import { COUNTERS, C_TCP_RETRANSMITS } from '../../../../src/stack/counters';
import { createLinkState } from '../../../../src/stack/link/guest-state';
import { TcpHandler } from '../../../../src/stack/tcp/handler';
import { Stack } from '../../../../src/stack/stack';
import { Traffic } from '../../../../src/stack/ip/guest-hints';
import { FakeGuestPort, FakeMemory } from '../../../support/stack/fake-guest-port';
import { FakeRandom } from '../../../support/stack/fake-random';
import { ModelTcp } from '../../../support/stack/model-tcp';
import type { ModelOptions } from '../../../support/stack/model-tcp';
import { stackConfig } from '../../../support/stack/stack-config';
import { guestFrame, idleHandler, parseFrame, pattern } from '../../../support/stack/tcp-rig';
import type { GuestSegment } from '../../../support/stack/tcp-rig';
import { SiteLog } from '../../../../src/stack/kit/site-log';

/** Regions the addon knows, so that system calls can read and write them. */
class NativeMemory extends FakeMemory {
  readonly native: Native;

  constructor(native: Native) {
    super(native.rows.capacity);
    this.native = native;
    Object.assign(this.rows, native.rows);
  }

  override add(length: number): number {
    const region = this.native.allocRegion(length);
    if (region < 0) throw new Error(`allocRegion: ${String(region)}`);
    this.regions[region] = new DataView(this.native.regionBuffer(region));
    return region;
  }
}

const native = loadNative();
const memory = new NativeMemory(native);
const port = new FakeGuestPort({ memory, memorySize: 16 << 20, gsoTcp4: true });
beforeAll(() => {
  native.epollInit();
});

class RealRig {
  readonly clock = { nowMs: 0, nowUs: () => native.nowUs() };
  readonly counters = new Float64Array(COUNTERS);
  readonly tcp: TcpHandler;
  readonly stack: Stack;
  readonly model: ModelTcp;
  readonly ends: { src: string; dst: string; sport: number; dport: number };
  turns = 0;

  constructor(o: {
    peekOff: boolean;
    model: Partial<ModelOptions> & { data: Uint8Array };
    dport?: number;
    listener?: ForwardListener;
  }) {
    const config = stackConfig({ tcpPeekOff: o.peekOff });
    this.update();
    const ctx = {
      config,
      port,
      io: native,
      clock: this.clock,
      random: new FakeRandom(Date.now()),
      counters: this.counters,
      traffic: new Traffic(),
      link: createLinkState(config),
      log: new SiteLog(this.clock, () => undefined),
      ends: null,
    };
    this.tcp = new TcpHandler(ctx, o.listener === undefined ? [] : [o.listener]);
    this.stack = new Stack(ctx, { tcp: this.tcp, udp: idleHandler(), icmp: idleHandler() });
    this.stack.start();
    this.model = new ModelTcp({
      isn: 12345,
      mss: 1460,
      ws: 7,
      receiveBuffer: 262144,
      probeWithData: false,
      ...o.model,
    });
    this.ends = { src: '192.0.2.10', dst: '192.0.2.1', sport: 40000, dport: o.dport ?? 0 };
  }

  update(): void {
    this.clock.nowMs = Math.floor(native.nowUs() / 1000);
  }

  turn(): void {
    this.turns++;
    const n = native.epollWait(0);
    this.update();
    for (let i = 0; i < n; i++) {
      this.stack.onSocket(native.epollOut[3 * i], native.epollOut[3 * i + 1], native.epollOut[3 * i + 2]);
    }
    this.stack.fromGuest(256);
    this.stack.onTimer();
    port.flush();
    const now = this.clock.nowMs;
    for (const f of port.sentFrames()) {
      const s = parseFrame(f.bytes, f.gsoType, f.gsoSize);
      if (this.ends.dport === 0) Object.assign(this.ends, { sport: s.dport, dport: s.sport });
      this.model.input(s, now);
    }
    this.model.tick(now);
    for (const s of this.model.output()) port.inject(guestFrame({ ...this.ends, ...s } satisfies GuestSegment));
  }

  async until(done: () => boolean, what: string): Promise<void> {
    const end = Date.now() + 20_000;
    while (!done()) {
      if (this.model.state === 'reset') throw new Error(`the model was reset by ${this.model.resetBy}`);
      if (Date.now() > end) throw new Error(`${what} takes too long`);
      this.turn();
      await tick();
    }
  }

  read(): Buffer {
    this.model.read(1 << 30);
    return Buffer.concat(this.model.chunks);
  }
}

async function listen(): Promise<{ server: net.Server; port: number; peer: Promise<net.Socket> }> {
  const server = net.createServer({ allowHalfOpen: true });
  const peer = once(server, 'connection').then(([s]) => s as net.Socket);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, port: (server.address() as net.AddressInfo).port, peer };
}

describe.each([true, false])('real sockets, SO_PEEK_OFF %s', (peekOff) => {
  test('both ways at once, half-closes, nothing sent twice', async () => {
    const { server, port: dport, peer } = await listen();
    const toHost = pattern(3_000_000);
    const toGuest = pattern(3_000_000, 77);
    const rig = new RealRig({ peekOff, dport, model: { data: toHost } });
    rig.model.connect(rig.clock.nowMs);
    let socket: net.Socket | null = null;
    void peer.then((s) => (socket = s));
    await rig.until(() => socket !== null && rig.model.state === 'open', 'the handshake');
    const s = socket as unknown as net.Socket;
    const got: Buffer[] = [];
    let ended = false;
    s.on('data', (d) => got.push(d));
    s.on('end', () => (ended = true));
    s.end(toGuest);
    rig.model.closing = true;
    rig.model.push(rig.clock.nowMs);
    await rig.until(() => {
      rig.model.read(100_000);
      return rig.model.finished && ended;
    }, 'the transfer');
    expect(Buffer.compare(rig.read(), toGuest)).toBe(0);
    expect(Buffer.compare(Buffer.concat(got), toHost)).toBe(0);
    expect(rig.model.retransmits).toBe(0);
    expect(rig.counters[C_TCP_RETRANSMITS]).toBe(0);
    server.close();
    rig.tcp.reset();
  }, 30_000);

  test('a peer that does not read stops the guest, and starts it again, without a retransmission', async () => {
    const { server, port: dport, peer } = await listen();
    const toHost = pattern(12_000_000);
    const rig = new RealRig({ peekOff, dport, model: { data: toHost } });
    rig.model.connect(rig.clock.nowMs);
    let socket: net.Socket | null = null;
    void peer.then((s) => {
      s.pause();
      socket = s;
    });
    await rig.until(() => socket !== null && rig.model.state === 'open', 'the handshake');
    rig.model.closing = true;
    rig.model.push(rig.clock.nowMs);
    const s = socket as unknown as net.Socket;
    // Until the window is closed and nothing moves any more.
    let last = -1;
    let quiet = 0;
    const flow = 0;
    await rig.until(() => {
      const at = rig.tcp.engine.rcvNxt[flow];
      quiet = at === last ? quiet + 1 : 0;
      last = at;
      return quiet > 300;
    }, 'filling the buffers');
    expect((rig.tcp.engine.rcvNxt[flow] - 12346) | 0).toBeLessThan(toHost.length);
    expect(rig.tcp.engine.rcvAdv[flow] - rig.tcp.engine.rcvNxt[flow]).toBeLessThan(65536);
    const got: Buffer[] = [];
    let ended = false;
    s.on('data', (d) => got.push(d));
    s.on('end', () => (ended = true));
    s.resume();
    await rig.until(() => ended, 'the rest');
    expect(Buffer.compare(Buffer.concat(got), toHost)).toBe(0);
    expect(rig.model.retransmits).toBe(0);
    s.destroy();
    server.close();
    rig.tcp.reset();
  }, 30_000);

  test('connection from the host, reset by the peer after its data', async () => {
    const fd = native.socket(2, 1);
    native.addrs.setUint16(0, 2, true);
    native.addrs.setUint16(2, 0, true);
    native.addrs.setUint32(4, 0, true);
    for (const [i, w] of [0, 0, 0xffff, 0x7f000001].entries()) native.addrs.setInt32(8 + 4 * i, w);
    expect(native.bind(fd, 0)).toBe(0);
    expect(native.listen(fd, 8)).toBe(0);
    expect(native.getsockname(fd, 0)).toBe(0);
    const hostPort = native.addrs.getUint16(2, true);
    const rig = new RealRig({
      peekOff,
      model: { data: new Uint8Array(0) },
      listener: { fd, protocol: 'tcp', family: 'v4', port: hostPort, targetPort: 8080, targetAddr: null },
    });
    const client = net.connect(hostPort, '127.0.0.1');
    await rig.until(() => rig.model.state === 'open', 'the handshake');
    const data = pattern(60_000); // fits the guest's first window
    client.write(data, () => client.resetAndDestroy());
    await expect(rig.until(() => rig.model.finished, 'the reset')).rejects.toThrow('reset by R. in open');
    expect(Buffer.compare(rig.read(), data)).toBe(0);
    expect(rig.tcp.engine.table.count).toBe(0);
    native.close(fd);
  }, 30_000);

  test('a closed port is refused at once', async () => {
    const { server, port: dport } = await listen();
    server.close();
    await once(server, 'close');
    const rig = new RealRig({ peekOff, dport, model: { data: new Uint8Array(0) } });
    rig.model.connect(rig.clock.nowMs);
    await expect(rig.until(() => rig.model.finished, 'the refusal')).rejects.toThrow('reset by R. in synSent');
    expect(rig.tcp.engine.table.count).toBe(0);
  }, 30_000);
});
