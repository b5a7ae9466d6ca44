/**
 * The guest of test/support/guest before the real service: what its network must do whatever the shape of its rings, and
 * the rings it may have. Everything is awaited as an event; a check that fails throws jest's error.
 */
import { createHash } from 'node:crypto';
import type { Native } from '../../../src/native';
import * as vu from './constants';
import type { FrontEndRing } from './front-end';
import { Guest, type GuestOptions } from './guest';
import { noise } from './noise';
import type { GuestRam } from './ram';
import type { TcpStream } from './tcp';
import {
  GATEWAY_4,
  GATEWAY_6,
  HOST_ADDRESS_4,
  HOST_ADDRESS_6,
  HOST_NETWORK_6,
  REMOTE_ADDRESS_4,
  REMOTE_ADDRESS_6,
  type HostWorld,
} from '../world/host-world';
import { setUpBench, type Bench } from '../../e2e/support';
import { poll } from '../world/processes';
import type { Service } from '../world/service';
import { openFdsOf } from '../open-fds';

export const FORWARDED_PORT = 2222;
export const GUEST_PORT = 22;
export const SERVICE_ARGS = ['-t', `${FORWARDED_PORT}:${GUEST_PORT}`, '-u', `${FORWARDED_PORT}:${GUEST_PORT}`];
export const REMOTES = [REMOTE_ADDRESS_4, REMOTE_ADDRESS_6];

const LINK_MTU = 65520;
const MIB = 1 << 20;
const INBOUND = 300_000;

const without = (...bits: bigint[]): bigint => bits.reduce((f, b) => f & ~b, vu.DRIVER_FEATURES);
const { VIRTIO_NET_F_MRG_RXBUF: MRG, VIRTIO_RING_F_EVENT_IDX: EVENT, VIRTIO_RING_F_INDIRECT_DESC: INDIRECT } = vu;
const GUEST_TSO = [vu.VIRTIO_NET_F_GUEST_TSO4, vu.VIRTIO_NET_F_GUEST_TSO6];
const TSO = [...GUEST_TSO, vu.VIRTIO_NET_F_HOST_TSO4, vu.VIRTIO_NET_F_HOST_TSO6];
const OFFLOADS = [...TSO, vu.VIRTIO_NET_F_CSUM, vu.VIRTIO_NET_F_GUEST_CSUM];
/** A header and the headers of a frame in descriptors of their own. */
const PIECES = [12, 14, 20];

export const SHAPES: readonly (readonly [title: string, options: GuestOptions])[] = [
  ['QEMU 10, rings of 256', {}],
  [
    'QEMU 10, rings of 64, no INDIRECT, pages',
    { ringSize: 64, features: without(INDIRECT), driver: { rxSizes: [4096] } },
  ],
  ['QEMU 10, rings of 1024, neither EVENT_IDX nor INDIRECT', { ringSize: 1024, features: without(EVENT, INDIRECT) }],
  [
    'QEMU 10, no MRG_RXBUF, no TSO to the guest, buffers of 1526',
    { features: without(MRG, ...GUEST_TSO), mtu: 1500, driver: { rxSizes: [1526], txSizes: PIECES } },
  ],
  [
    'QEMU 10, indirect receive chains, indices about to wrap',
    { start: 65500, driver: { rxSizes: [100, 1000, 500], rxIndirect: true } },
  ],
  [
    'QEMU 10, two regions of memory, no EVENT_IDX',
    {
      features: without(EVENT),
      ram: {
        size: 64 * MIB,
        regions: [256 * 1024, 64 * MIB - 256 * 1024].map((size, i) => ({ gpa: i * 2 ** 32, size })),
      },
    },
  ],
  ['QEMU 10, MTU 1500', { mtu: 1500 }],
  [
    'QEMU 10, MTU 1500, rings of 64, IPv4 segments only, frames in pieces',
    {
      ringSize: 64,
      mtu: 1500,
      features: without(vu.VIRTIO_NET_F_GUEST_TSO6, vu.VIRTIO_NET_F_HOST_TSO6),
      driver: { rxSizes: [1536], txSizes: PIECES },
    },
  ],
  [
    'QEMU 10, MTU 1500, IPv6 segments only, buffers of 65562 in pieces, no MRG_RXBUF',
    {
      mtu: 1500,
      features: without(MRG, vu.VIRTIO_NET_F_GUEST_TSO4, vu.VIRTIO_NET_F_HOST_TSO4),
      driver: { rxSizes: [12, ...Array<number>(18).fill(3640), 100] },
    },
  ],
  ['QEMU 10, MTU 1500, checksums but no segments', { mtu: 1500, features: without(...TSO) }],
  ['QEMU 7.2, no EVENT_IDX', { style: 'qemu7', features: without(EVENT) }],
  ['QEMU 7.2, rings of 1024, no MRG_RXBUF', { style: 'qemu7', ringSize: 1024, features: without(MRG) }],
  [
    'QEMU 7.2, rings of 64, large buffers, frames in indirect pieces',
    { style: 'qemu7', ringSize: 64, driver: { rxSizes: [65574], txSizes: PIECES } },
  ],
  ['QEMU 7.2, no offloads at all', { style: 'qemu7', features: without(...OFFLOADS), mtu: 1500 }],
  ['user-mode Linux, rings of 256', { style: 'uml' }],
  [
    'user-mode Linux, rings of 64, no MRG_RXBUF, receive chains of 20 descriptors',
    {
      style: 'uml',
      ringSize: 64,
      features: without(MRG),
      driver: { rxSizes: [12, ...Array<number>(18).fill(3640), 100] },
    },
  ],
  [
    'user-mode Linux, rings of 1024, neither EVENT_IDX nor INDIRECT, buffers of 1536',
    { style: 'uml', ringSize: 1024, features: without(EVENT, INDIRECT), driver: { rxSizes: [1536], txSizes: PIECES } },
  ],
];

/** The service and the world around it. */
export interface Stage {
  readonly world: HostWorld;
  readonly service: Service;
}

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Descriptors the service has open. */
export function openFds(service: Service): number {
  return openFdsOf(service.process.pid);
}

/** What no connection of an undisturbed guest may have seen. */
function expectClean(stream: TcpStream): void {
  const { retransmits, outOfOrder, beyondWindow } = stream.stats;
  expect({ retransmits, outOfOrder, beyondWindow }).toEqual({ retransmits: 0, outOfOrder: 0, beyondWindow: 0 });
}

const guests = new Set<Guest>();

/** A guest before the service, its connections forgotten soon after they ended. `closeGuests` closes it, if not before. */
export async function startGuest(native: Native, service: Service, options: GuestOptions = {}): Promise<Guest> {
  const guest = await Guest.start(native, { socket: service.socketPath, tcp: { timeWaitMs: 20 }, ...options });
  guests.add(guest);
  return guest;
}

/** Ends as a VMM that shuts down. */
export async function stopGuest(guest: Guest): Promise<void> {
  guests.delete(guest);
  await guest.stop();
}

/** Closes without a word, as a VMM that is killed. */
export function killGuest(guest: Guest): void {
  if (guests.delete(guest)) guest.close();
}

/** What tests left: after each of them, because the service serves one front-end at a time. */
export function closeGuests(): void {
  for (const guest of guests) killGuest(guest);
}

/**
 * For all tests of the `describe` that calls it: a bench whose service has the arguments `args`, given to `use` before the
 * first test and destroyed behind the last one.
 */
export function useBench(args: readonly string[], use: (bench: Bench) => void): void {
  let bench: Bench | null = null;
  beforeAll(async () => {
    bench = await setUpBench(args);
    use(bench);
  });
  afterEach(closeGuests);
  afterAll(() => bench?.destroy());
}

/** DHCP, router advertisement, DHCPv6: the host's addresses. */
export async function configure(guest: Guest, fixedMtu: number | undefined): Promise<void> {
  const lease = await guest.dhcp();
  expect(lease).toMatchObject({ address: HOST_ADDRESS_4, prefixLen: 24, router: GATEWAY_4, mtu: LINK_MTU });
  const advert = await guest.slaac();
  expect(advert.prefixes.map(({ prefix }) => prefix)).toEqual([`${HOST_NETWORK_6}:`]);
  expect((await guest.dhcp6()).addresses).toEqual([HOST_ADDRESS_6]);
  expect(guest.link.mtu).toBe(fixedMtu ?? LINK_MTU);
}

export async function pings(guest: Guest): Promise<void> {
  for (const address of [GATEWAY_4, GATEWAY_6, ...REMOTES]) {
    for (const size of [56, 1400]) expect((await guest.ping(address, { size })).bytes).toBe(size);
  }
}

export async function datagrams(guest: Guest, { world }: Stage): Promise<void> {
  const socket = guest.udpBind();
  for (const address of REMOTES) {
    for (const size of [1, 1400, 8000]) {
      if (size > guest.link.mtu) continue;
      const sent = noise(size, size);
      await socket.send(address, world.remote.ports.udp, sent);
      const { addr, data } = await socket.recv();
      expect([addr, sha256(data)]).toEqual([address, sha256(sent)]);
    }
  }
  socket.close();
}

/** An echo of `bytes`, the guest's side closed before all of it is back. */
export async function echo(guest: Guest, { world }: Stage, address: string, bytes: number): Promise<void> {
  const stream = await guest.tcpConnect(address, world.remote.ports.echo);
  const data = noise(bytes, bytes);
  const [received] = await Promise.all([stream.readAll(), stream.write(data).then(() => stream.end())]);
  expect(sha256(received)).toBe(sha256(data));
  await stream.closed;
  expect(stream.error).toBeNull();
  expectClean(stream);
}

/** The server says what it got only after the guest's FIN: data comes down a connection that is half closed. */
export async function answerAfterFin(guest: Guest, { world }: Stage, address: string): Promise<void> {
  const stream = await guest.tcpConnect(address, world.remote.ports.sink);
  const data = noise(MIB / 2 + 1, 3);
  await stream.write(data);
  await stream.end();
  expect(Buffer.from(await stream.readAll()).toString()).toBe(`${sha256(data)} ${data.length}\n`);
  await stream.closed;
  expectClean(stream);
}

export async function refusals(guest: Guest, { world }: Stage): Promise<void> {
  for (const address of REMOTES) {
    await expect(guest.tcpConnect(address, 9)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    const byHost = await guest.tcpConnect(address, world.remote.ports.reset);
    await byHost.write(Buffer.from('!'));
    await expect(byHost.readAll()).rejects.toMatchObject({ code: 'ECONNRESET' });

    const { count } = await world.remote.call('echoResets', {});
    const byGuest = await guest.tcpConnect(address, world.remote.ports.echo);
    await byGuest.write(Buffer.from('!'));
    await byGuest.readExactly(1);
    byGuest.reset();
    await poll(
      'a reset at the server',
      async () => ((await world.remote.call('echoResets', {})).count > count ? true : null),
      5000,
      10,
    );
  }
}

/** Connections from outside: through the host's ports to the guest's; a guest that answers after the client's FIN. */
export async function inbound(guest: Guest, { world }: Stage): Promise<void> {
  const listener = guest.tcpListen(GUEST_PORT);
  const socket = guest.udpBind(GUEST_PORT);
  for (const [from, address] of [
    [world.host, '127.0.0.1'],
    [world.host, '::1'],
    [world.remote, HOST_ADDRESS_4],
    [world.remote, HOST_ADDRESS_6],
  ] as const) {
    const client = from.call('tcpEcho', { address, port: FORWARDED_PORT, bytes: INBOUND });
    const stream = await listener.accept();
    const received = await stream.readAll();
    await stream.write(received);
    void stream.end();
    const { sent, received: back } = await client;
    expect([back.bytes, back.sha256]).toEqual([INBOUND, sent.sha256]);
    await stream.closed;
    expectClean(stream);

    const answered = from.call('udpEcho', { address, port: FORWARDED_PORT, bytes: 1400, timeoutMs: 5000 });
    const datagram = await socket.recv();
    await socket.send(datagram.addr, datagram.port, datagram.data);
    expect(await answered).toEqual({ ok: true });
  }
  listener.close();
  socket.close();
}

/** `stop` and `cont` with a connection open, bytes on their way in both directions. */
export async function pauseAndResume(guest: Guest, { world }: Stage): Promise<void> {
  const stream = await guest.tcpConnect(REMOTE_ADDRESS_4, world.remote.ports.echo);
  const data = noise(MIB, 9);
  await stream.write(data.subarray(0, MIB / 2));
  const head = await stream.readExactly(1000);
  await guest.pause();
  await stream.write(data.subarray(MIB / 2));
  await guest.resume();
  void stream.end();
  const rest = await stream.readAll();
  expect(sha256(Buffer.concat([head, rest]))).toBe(sha256(data));
  await stream.closed;
  expectClean(stream);
}

/** Frames to be cut went each way exactly if that was negotiated (for either family), where a segment is far smaller. */
function expectSegments({ driver, frontEnd, link }: Guest): void {
  if (link.mtu > 1500) return;
  const any = (...bits: bigint[]): boolean => bits.some((b) => frontEnd.has(b));
  expect({ received: driver.gsoReceived > 0, sent: driver.gsoSent > 0 }).toEqual({
    received: any(...GUEST_TSO),
    sent: any(vu.VIRTIO_NET_F_HOST_TSO4, vu.VIRTIO_NET_F_HOST_TSO6),
  });
}

/** All of it. */
export async function exercise(guest: Guest, stage: Stage, options: GuestOptions): Promise<void> {
  await configure(guest, options.mtu);
  await pings(guest);
  await datagrams(guest, stage);
  for (const address of REMOTES) {
    await echo(guest, stage, address, MIB + 7);
    await answerAfterFin(guest, stage, address);
  }
  expectSegments(guest);
  await refusals(guest, stage);
  await inbound(guest, stage);
  if (options.style !== 'uml') await pauseAndResume(guest, stage);
  await guest.reboot();
  expect(guest.address4).toBeNull();
  await configure(guest, options.mtu);
  await echo(guest, stage, REMOTE_ADDRESS_6, 100_000);
  expect(guest.violations).toEqual([]);
}

/** The shortest proof that the service serves. */
export async function expectAlive(guest: Guest, stage: Stage): Promise<void> {
  await guest.dhcp();
  await echo(guest, stage, REMOTE_ADDRESS_4, 100_000);
}

/** What a broken or hostile driver does to a ring, and the reason the service gives for stopping it. */
export interface Offence {
  readonly title: string;
  readonly ring: 0 | 1;
  readonly reason: string;
  readonly commit: (ring: RingWords) => void;
}

/** A ring's memory, as its driver sees it. */
export class RingWords {
  private readonly ring: FrontEndRing;
  private readonly view: DataView;
  readonly ram: GuestRam;

  constructor(guest: Guest, index: 0 | 1) {
    this.ring = guest.frontEnd.rings[index];
    this.ram = guest.frontEnd.ram;
    this.view = this.ram.view;
  }

  get size(): number {
    return this.ring.size;
  }

  descriptor(n: number, gpa: bigint, length: number, flags: number, next = 0): void {
    const at = this.ring.layout.desc.offset + 16 * n;
    this.view.setBigUint64(at, gpa, true);
    this.view.setUint32(at + 8, length, true);
    this.view.setUint16(at + 12, flags, true);
    this.view.setUint16(at + 14, next, true);
  }

  /** Makes `head` available, and with it `more` slots that nobody wrote. */
  offer(head: number, more = 0): void {
    const { offset } = this.ring.layout.avail;
    const idx = this.view.getUint16(offset + 2, true);
    this.view.setUint16(offset + 4 + 2 * (idx % this.size), head, true);
    this.view.setUint16(offset + 2, idx + 1 + more, true);
  }
}

const NEXT = 1;
const WRITE = 2;
const INDIRECT_FLAG = 4;

export const OFFENCES: readonly Offence[] = [
  {
    title: 'a buffer outside of memory',
    ring: 1,
    reason: 'address',
    commit: (ring) => {
      ring.descriptor(0, 2n ** 40n, 100, 0);
      ring.offer(0);
    },
  },
  {
    title: 'a buffer that ends past the top of all addresses',
    ring: 1,
    reason: 'address',
    commit: (ring) => {
      ring.descriptor(0, 2n ** 64n - 16n, 0xffff_ffff, 0);
      ring.offer(0);
    },
  },
  { title: 'a head beyond the ring', ring: 1, reason: 'head', commit: (ring) => ring.offer(0xffff) },
  {
    title: 'a chain that bites its tail',
    ring: 1,
    reason: 'loop',
    commit: (ring) => {
      ring.descriptor(0, BigInt(ring.ram.gpa(8192)), 64, NEXT, 1);
      ring.descriptor(1, BigInt(ring.ram.gpa(8192)), 64, NEXT, 0);
      ring.offer(0);
    },
  },
  {
    title: 'a next beyond the ring',
    ring: 1,
    reason: 'next',
    commit: (ring) => {
      ring.descriptor(0, BigInt(ring.ram.gpa(8192)), 64, NEXT, 0x8000);
      ring.offer(0);
    },
  },
  { title: 'an index that runs away', ring: 1, reason: 'avail_index', commit: (ring) => ring.offer(0, 20_000) },
  {
    title: 'an indirect table of 17 bytes',
    ring: 1,
    reason: 'indirect',
    commit: (ring) => {
      ring.descriptor(0, BigInt(ring.ram.gpa(8192)), 17, INDIRECT_FLAG);
      ring.offer(0);
    },
  },
  {
    title: 'a readable descriptor behind a writable one',
    ring: 1,
    reason: 'order',
    commit: (ring) => {
      ring.descriptor(0, BigInt(ring.ram.gpa(8192)), 64, NEXT | WRITE, 1);
      ring.descriptor(1, BigInt(ring.ram.gpa(8192)), 64, 0);
      ring.offer(0);
    },
  },
  {
    title: 'receive buffers that may not be written',
    ring: 0,
    reason: 'receive buffer is not writable',
    commit: (ring) => {
      for (let n = 0; n < ring.size; n++) ring.descriptor(n, BigInt(ring.ram.gpa(8192)), 2048, 0);
    },
  },
];
