/** Two guests on a cable: every service of the guest against itself, over rings of every shape. */
import { createHash } from 'node:crypto';
import * as vu from '../../support/guest/constants';
import type { GuestOptions } from '../../support/guest/guest';
import { noise } from '../../support/guest/noise';
import { join, unplugAll } from '../../support/guest/pair';

afterEach(unplugAll);

const without = (...bits: bigint[]): bigint => bits.reduce((f, b) => f & ~b, vu.DRIVER_FEATURES);
const OFFLOADS = [
  vu.VIRTIO_NET_F_CSUM,
  vu.VIRTIO_NET_F_GUEST_CSUM,
  vu.VIRTIO_NET_F_HOST_TSO4,
  vu.VIRTIO_NET_F_HOST_TSO6,
];

/** Ring shapes and features. */
const SHAPES: [string, GuestOptions][] = [
  ['as by default', {}],
  ['no EVENT_IDX', { features: without(vu.VIRTIO_RING_F_EVENT_IDX) }],
  [
    'no INDIRECT_DESC, frames in four descriptors',
    { features: without(vu.VIRTIO_RING_F_INDIRECT_DESC), driver: { txSizes: [12, 14, 20] } },
  ],
  ['indirect, header in pieces of one byte', { driver: { txSizes: Array<number>(20).fill(1) } }],
  ['no MRG_RXBUF', { features: without(vu.VIRTIO_NET_F_MRG_RXBUF) }],
  [
    'no MRG_RXBUF, receive chains of 20 descriptors',
    { features: without(vu.VIRTIO_NET_F_MRG_RXBUF), driver: { rxSizes: [12, ...Array<number>(18).fill(3640), 100] } },
  ],
  ['indirect receive chains', { driver: { rxSizes: [100, 1000, 500], rxIndirect: true } }],
  ['small merged buffers, indices near the wrap-around', { driver: { rxSizes: [1536] }, start: 65530 }],
  ['rings of 16', { ringSize: 16, driver: { rxSizes: [8192] } }],
  [
    'two regions of memory',
    {
      ram: {
        size: 64 << 20,
        regions: [
          { gpa: 0, size: 1 << 20 },
          { gpa: 2 ** 32, size: 63 << 20 },
        ],
      },
    },
  ],
  ['as user-mode Linux', { style: 'uml' }],
  ['as QEMU 7.2', { style: 'qemu7' }],
];

describe.each(SHAPES)('%s', (_name, options) => {
  it('pings, sends datagrams and streams, both families, without an offence', async () => {
    const [a, b, one, two] = await join(options, options);
    for (const addr of ['10.0.0.2', 'fd00::2', formatLinkLocal(b)]) {
      expect((await a.ping(addr)).bytes).toBe(56);
      expect((await a.ping(addr, { size: 9000 })).bytes).toBe(9000);
    }
    const [sa, sb] = [a.udpBind(), b.udpBind(5000)];
    const big = noise(60_000);
    await sa.send('10.0.0.2', 5000, big);
    const got = await sb.recv();
    expect([got.addr, got.port, Buffer.compare(got.data, big)]).toEqual(['10.0.0.1', sa.port, 0]);
    await sb.send(got.addr, got.port, 'answer');
    expect(Buffer.from((await sa.recv()).data).toString()).toBe('answer');

    for (const addr of ['10.0.0.2', 'fd00::2']) {
      const listener = b.tcpListen(80);
      const stream = await a.tcpConnect(addr, 80);
      const peer = await listener.accept();
      listener.close();
      const data = noise(1_000_000);
      const [received] = await Promise.all([peer.readAll(), stream.write(data).then(() => stream.end())]);
      expect(createHash('sha256').update(received).digest('hex')).toBe(createHash('sha256').update(data).digest('hex'));
      await peer.write(noise(100_000, 7));
      void peer.end();
      expect(Buffer.compare(await stream.readAll(), noise(100_000, 7))).toBe(0);
      await Promise.all([stream.closed, peer.closed]);
      expect([stream.stats.retransmits, stream.stats.outOfOrder, stream.stats.beyondWindow]).toEqual([0, 0, 0]);
      expect([peer.stats.retransmits, peer.stats.outOfOrder, peer.stats.beyondWindow]).toEqual([0, 0, 0]);
    }
    await a.driver.drained();
    expect([a.violations, b.violations]).toEqual([[], []]);
    expect([one.wire.queue.length, two.wire.queue.length]).toEqual([0, 0]);
  }, 20_000);
});

function formatLinkLocal(g: { addresses6: readonly string[] }): string {
  return g.addresses6[0];
}

describe('TCP', () => {
  it('cuts segments to the MSS and computes checksums where the device does not', async () => {
    const plain: GuestOptions = { features: without(...OFFLOADS), mtu: 1500 };
    const [a, b, one] = await join(plain, plain);
    let largest = 0;
    const relay = one.wire.onFrame;
    one.wire.onFrame = (frame, header) => {
      largest = Math.max(largest, frame.length);
      expect([header.flags, header.gsoType]).toEqual([0, 0]);
      relay?.(frame, header);
    };
    const listener = b.tcpListen(80);
    const stream = await a.tcpConnect('10.0.0.2', 80);
    const peer = await listener.accept();
    const data = noise(200_000);
    const [received] = await Promise.all([peer.readAll(), stream.write(data).then(() => stream.end())]);
    expect(Buffer.compare(received, data)).toBe(0);
    expect(largest).toBe(1514);
    expect([a.violations, b.violations]).toEqual([[], []]);
  });

  it('sends large segments to be cut by the device, in pieces that fit', async () => {
    const [a, b, one] = await join({ mtu: 1500 }, { mtu: 1500 });
    const sizes: number[] = [];
    const relay = one.wire.onFrame;
    one.wire.onFrame = (frame, header) => {
      if (header.gsoType !== 0) sizes.push(header.gsoSize);
      relay?.(frame, header);
    };
    const listener = b.tcpListen(80);
    const stream = await a.tcpConnect('fd00::2', 80);
    const peer = await listener.accept();
    const [received] = await Promise.all([peer.readAll(), stream.write(noise(500_000)).then(() => stream.end())]);
    expect(received.length).toBe(500_000);
    expect(sizes.length).toBeGreaterThan(5);
    expect(new Set(sizes)).toEqual(new Set([1440]));
    expect([a.violations, b.violations]).toEqual([[], []]);
  });

  it('delivers over a link that loses one frame in ten', async () => {
    let n = 0;
    const [a, b] = await join(
      { mtu: 1500, tcp: { rtoMs: 30 } },
      { mtu: 1500, tcp: { rtoMs: 30 } },
      () => ++n % 10 === 7,
    );
    const listener = b.tcpListen(80);
    const stream = await a.tcpConnect('10.0.0.2', 80, { mss: 1000, sendBuffer: 65536 });
    const peer = await listener.accept();
    const data = noise(1_000_000);
    const [received] = await Promise.all([peer.readAll(), stream.write(data).then(() => stream.end())]);
    expect(Buffer.compare(received, data)).toBe(0);
    expect(stream.stats.retransmits).toBeGreaterThan(0);
    expect([a.violations, b.violations]).toEqual([[], []]);
  }, 20_000);

  it('is refused at a port nobody listens to', async () => {
    const [a] = await join();
    await expect(a.tcpConnect('10.0.0.2', 81)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    await expect(a.tcpConnect('fd00::2', 81)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    expect(a.tcp.size).toBe(0);
  });

  it('gives up when nobody answers', async () => {
    const [a, b] = await join({ tcp: { rtoMs: 10, maxRetries: 2 } });
    b.tcp.answersUnknown = false;
    await expect(a.tcpConnect('10.0.0.2', 81)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  });

  it('resets: what came before is read, then the error', async () => {
    const [a, b] = await join();
    const listener = b.tcpListen(80);
    const stream = await a.tcpConnect('10.0.0.2', 80);
    const peer = await listener.accept();
    await stream.write(Buffer.from('last words'));
    await stream.flush();
    stream.reset();
    await peer.closed;
    expect(Buffer.from((await peer.read())!).toString()).toBe('last words');
    await expect(peer.read()).rejects.toMatchObject({ code: 'ECONNRESET' });
    await expect(peer.write(Buffer.from('x'))).rejects.toMatchObject({ code: 'ECONNRESET' });
    expect([a.tcp.size, b.tcp.size]).toEqual([0, 0]);
  });

  it('closes one way and goes on the other', async () => {
    const [a, b] = await join();
    const listener = b.tcpListen(80);
    const stream = await a.tcpConnect('10.0.0.2', 80);
    const peer = await listener.accept();
    await stream.end();
    expect([stream.state, peer.state]).toEqual(['FIN_WAIT_2', 'CLOSE_WAIT']);
    expect(await peer.read()).toBeNull();
    await peer.write(noise(100_000));
    await peer.end();
    expect((await stream.readAll()).length).toBe(100_000);
    await Promise.all([stream.closed, peer.closed]);
    await expect(stream.write(Buffer.from('x'))).rejects.toMatchObject({ code: 'EPIPE' });
  });

  it('stops at a closed window, probes it, and goes on when it opens', async () => {
    const [a, b] = await join({ tcp: { rtoMs: 30 } }, {});
    const listener = b.tcpListen(80, { receiveBuffer: 20_000, windowScale: null });
    const stream = await a.tcpConnect('10.0.0.2', 80);
    const peer = await listener.accept();
    const data = noise(100_000);
    const writing = stream.write(data);
    while (stream.stats.zeroWindowProbes < 2) await a.waitFrame(() => true);
    expect([peer.unread, stream.peerWindow]).toEqual([20_000, 0]);
    const reading = peer.readExactly(100_000);
    await writing;
    expect(Buffer.compare(await reading, data)).toBe(0);
    expect(peer.stats.beyondWindow).toBe(0);
  });

  it('goes on over stop and cont, and over an index that wraps', async () => {
    const [a, b] = await join({ start: 65530 }, { start: 65530 });
    const listener = b.tcpListen(80);
    const stream = await a.tcpConnect('10.0.0.2', 80);
    const peer = await listener.accept();
    for (let i = 0; i < 3; i++) {
      await stream.write(noise(300_000, i));
      expect(Buffer.compare(await peer.readExactly(300_000), noise(300_000, i))).toBe(0);
      await a.pause();
      await a.resume();
    }
    expect(a.frontEnd.rings[1].usedIdx).toBeLessThan(65530);
    expect([a.violations, b.violations]).toEqual([[], []]);
  });
});

describe('the rest', () => {
  it('an unknown UDP port is answered by ICMP', async () => {
    const [a] = await join();
    const socket = a.udpBind();
    await socket.send('10.0.0.2', 9, 'x');
    expect(await socket.nextError()).toMatchObject({
      type: 3,
      code: 3,
      from: '10.0.0.2',
      dport: 9,
      sport: socket.port,
    });
    await socket.send('fd00::2', 9, 'x');
    expect(await socket.nextError()).toMatchObject({ type: 1, code: 4, from: 'fd00::2', dport: 9 });
  });

  it('a neighbour that does not answer, a ping that gets none', async () => {
    const [a, b] = await join();
    await expect(a.askNeighbour('10.0.0.9', 50)).rejects.toThrow('10.0.0.9');
    expect(await a.askNeighbour('10.0.0.2')).toBe('52:54:00:00:00:02');
    expect(await a.askNeighbour('fd00::2')).toBe('52:54:00:00:00:02');
    b.link.ip4 = null;
    await expect(a.ping('10.0.0.2', { timeoutMs: 50 })).rejects.toThrow('echo reply');
  });

  it('a reboot starts from nothing, with other buffers', async () => {
    const [a, b, one] = await join();
    await a.ping('10.0.0.2');
    await a.reboot({ rxSizes: [1536] });
    expect(a.address4).toBeNull();
    a.link.setIp4('10.0.0.1', 24, null);
    expect((await a.ping('10.0.0.2', { size: 20_000 })).bytes).toBe(20_000);
    expect(one.wire.queue.length).toBe(0);
    expect([a.violations, b.violations]).toEqual([[], []]);
  });

  it('frames wait while receive buffers are withheld, and none is lost', async () => {
    const [a, b] = await join({ driver: { rxCount: 4 } });
    a.driver.reposting = false;
    const socket = a.udpBind(7);
    const sender = b.udpBind();
    for (let i = 0; i < 10; i++) await sender.send('10.0.0.1', 7, `${i}`);
    while (a.driver.posted > 0) await a.waitFrame(() => true);
    a.driver.reposting = true;
    a.driver.repost();
    for (let i = 0; i < 10; i++) expect(Buffer.from((await socket.recv()).data).toString()).toBe(`${i}`);
  });
});

describe('offences of the device are noticed', () => {
  const frame = (length: number): Uint8Array => {
    const f = new Uint8Array(length);
    f.fill(0xff, 0, 6);
    f[12] = 0x88;
    return f;
  };
  const plain = { flags: 0, gsoType: 0, hdrLen: 0, gsoSize: 0, csumStart: 0, csumOffset: 0, numBuffers: 1 };

  it.each([
    ['flags without GUEST_CSUM', vu.VIRTIO_F_VERSION_1, { flags: 2 }, 'without GUEST_CSUM'],
    [
      'a GSO type without GUEST_TSO4',
      vu.VIRTIO_F_VERSION_1 | vu.VIRTIO_NET_F_GUEST_CSUM,
      { flags: 1, gsoType: 1, gsoSize: 100 },
      'not negotiated',
    ],
    ['GSO of size 0', vu.DRIVER_FEATURES, { flags: 1, gsoType: 1 }, 'gso_size 0'],
    ['GSO without a partial checksum', vu.DRIVER_FEATURES, { gsoType: 1, gsoSize: 10 }, 'without NEEDS_CSUM'],
    ['a checksum outside the frame', vu.DRIVER_FEATURES, { flags: 1, csumStart: 60, csumOffset: 6 }, 'outside a frame'],
    ['an unknown EtherType', vu.DRIVER_FEATURES, {}, 'EtherType'],
  ])('%s', async (_name, features, header, text) => {
    const [a, , one] = await join({ features });
    const seen = a.waitFrame(() => true);
    one.wire.toGuest(frame(64), { ...plain, ...header });
    await seen;
    expect(a.violations.join()).toContain(text);
  });

  it('wrong checksums of every kind', async () => {
    const [a, b, , two] = await join();
    const relay = two.wire.onFrame;
    let at = 0;
    two.wire.onFrame = (f, h) => {
      const g = f.slice();
      if (at > 0) g[at] ^= 0x55;
      relay?.(g, h);
    };
    await a.ping('10.0.0.2');
    await a.ping('fd00::2');
    const sender = b.udpBind();
    const next = async (offset: number, addr: string, text: string): Promise<void> => {
      const seen = a.waitFrame(() => true);
      at = offset;
      await sender.send(addr, 9, 'some data');
      await seen;
      expect(a.violations[a.violations.length - 1]).toContain(text);
    };
    await next(14 + 8, '10.0.0.1', 'header checksum');
    await next(14 + 20 + 9, '10.0.0.1', 'protocol 17: wrong checksum');
    await next(14 + 40 + 9, 'fd00::1', 'protocol 17: wrong checksum');
    await next(14 + 3, '10.0.0.1', 'total length');
  });
});
