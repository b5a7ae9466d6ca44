/**
 * UDP and echo over the host's real loopback: what the fake host only imitates (error queues, PKTINFO, peeking, ping
 * sockets). Needs the addon.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { loadNative, type Native } from '../../../../src/native';
import { addrSlotPort, addrSlotWrite, V4_MAPPED } from '../../../../src/stack/ip/address';
import type { ForwardListener, StackConfig } from '../../../../src/stack/config';
import { KEY_DATAPLANE, KEY_KIND_SHIFT, type StackContext } from '../../../../src/stack/context';
import { ROWS_MISC } from '../../../../src/stack/scratch';
import { COUNTERS, C_DROPS, C_DROPS_TO_GUEST, DROP_NAMES } from '../../../../src/stack/counters';
import { IcmpHandler } from '../../../../src/stack/ping/handler';
import { createLinkState } from '../../../../src/stack/link/guest-state';
import { AF_INET, AF_INET6, EPOLLIN, SOCK_UDP } from '../../../../src/stack/ports';
import { Stack } from '../../../../src/stack/stack';
import { Traffic } from '../../../../src/stack/ip/guest-hints';
import { UdpHandler } from '../../../../src/stack/udp/handler';
import { words } from '../../../support/stack/addresses';
import { addressText, ascii, latin1 } from '../../../support/stack/datagram-rig';
import { FakeClock } from '../../../support/stack/fake-clock';
import { FakeGuestPort } from '../../../support/stack/fake-guest-port';
import { join as joined } from '../../../support/stack/fragments';
import { FakeRandom } from '../../../support/stack/fake-random';
import {
  bytes,
  datagram,
  dissect,
  icmpv6,
  internetChecksum,
  packet,
  RecordingHandler,
  u16,
} from '../../../support/stack/link-rig';
import { NativeMemory } from '../../../support/stack/native-memory';
import { stackConfig } from '../../../support/stack/stack-config';
import { SiteLog } from '../../../../src/stack/kit/site-log';

const built = existsSync(join(__dirname, '../../../../build/Release/tubetti.node'));
const withAddon = built ? describe : describe.skip;

const GUEST = '192.0.2.10';
const GUEST6 = '2001:db8::10';
const GATEWAY = '192.0.2.1';
const GATEWAY6 = 'fe80::1';
const SLOT = 200;
const WAIT_US = 5_000_000;
const KEY_SERVER = (KEY_DATAPLANE + 7) << KEY_KIND_SHIFT;

class RealRig {
  readonly memory: NativeMemory;
  readonly port: FakeGuestPort;
  readonly stack: Stack;
  readonly counters = new Float64Array(COUNTERS);
  private readonly opened: number[] = [];

  constructor(
    readonly native: Native,
    listeners: readonly ForwardListener[] = [],
    over: Partial<StackConfig> = {},
  ) {
    this.memory = new NativeMemory(native);
    this.port = new FakeGuestPort({ memory: this.memory, memorySize: 4 << 20, rowSize: 4096 });
    const config = stackConfig(over);
    const ctx: StackContext = {
      config,
      port: this.port,
      io: native,
      clock: new FakeClock(),
      traffic: new Traffic(),
      random: new FakeRandom(),
      counters: this.counters,
      link: createLinkState(config),
      log: new SiteLog(new FakeClock(), () => undefined),
      ends: null,
    };
    const udp = new UdpHandler(ctx, listeners);
    this.stack = new Stack(ctx, { tcp: new RecordingHandler(), udp, icmp: new IcmpHandler(ctx) });
    this.stack.start();
  }

  /** A socket of the host's, bound; watched so that `until` wakes up for it. */
  open(address: string, port = 0): number {
    const fd = openSocket(this.native, address, port);
    this.opened.push(fd);
    this.native.watch(fd, EPOLLIN, KEY_SERVER, 0);
    return fd;
  }

  guest(...frames: readonly Uint8Array[]): void {
    for (const frame of frames) this.port.inject(frame);
    this.stack.fromGuest(100);
  }

  /** Runs the loop until `done` gives something; each turn waits for an event. */
  until<T>(done: () => T | null): T {
    for (;;) {
      const found = done();
      if (found !== null) return found;
      const n = this.native.epollWait(this.stack.busy ? 0 : WAIT_US);
      if (n === 0 && !this.stack.busy) throw new Error(`nothing happened; drops ${JSON.stringify(this.drops())}`);
      const out = Int32Array.from(this.native.epollOut.subarray(0, 3 * n));
      for (let i = 0; i < n; i++) {
        if (out[3 * i] !== KEY_SERVER) this.stack.onSocket(out[3 * i], out[3 * i + 1], out[3 * i + 2]);
      }
      this.stack.onTimer();
    }
  }

  /** The next frame to the guest. */
  frame(): Uint8Array {
    return this.until(() => this.port.sent()[0] ?? null);
  }

  /** The next datagram at one of the host's sockets; its sender stays in SLOT. */
  receive(fd: number): Uint8Array {
    const { native } = this;
    const buffer = this.memory.add(1 << 16);
    return this.until(() => {
      native.rows.region[ROWS_MISC] = buffer;
      native.rows.offset[ROWS_MISC] = 0;
      native.rows.length[ROWS_MISC] = 1 << 16;
      native.msgRow[255] = ROWS_MISC;
      native.msgRows[255] = 1;
      native.msgPeer[255] = SLOT;
      native.msgLocal[255] = -1;
      if (native.recvMany(fd, 255, 1, 0) < 1) return null;
      return Uint8Array.from(new Uint8Array(this.memory.regions[buffer].buffer).subarray(0, native.msgLen[255]));
    });
  }

  /** Sends from one of the host's sockets: to `to`, or to its peer if that is null. */
  send(fd: number, data: Uint8Array, to: { address: string; port: number } | null): void {
    const { native } = this;
    const buffer = this.memory.add(Math.max(1, data.length));
    new Uint8Array(this.memory.regions[buffer].buffer).set(data);
    native.rows.region[ROWS_MISC] = buffer;
    native.rows.offset[ROWS_MISC] = 0;
    native.rows.length[ROWS_MISC] = data.length;
    native.msgRow[255] = ROWS_MISC;
    native.msgRows[255] = 1;
    native.msgPeer[255] = -1;
    if (to !== null) {
      writeSlot(native, to.address, to.port);
      native.msgPeer[255] = SLOT;
    }
    native.msgLocal[255] = -1;
    native.msgTtl[255] = -1;
    native.msgTos[255] = -1;
    native.msgSegment[255] = 0;
    expect(native.sendMany(fd, 255, 1)).toBe(1);
  }

  drops(): Record<string, number> {
    const all = DROP_NAMES.map((name, i): [string, number] => [
      name,
      this.counters[C_DROPS + i] + this.counters[C_DROPS_TO_GUEST + i],
    ]);
    return Object.fromEntries(all.filter(([, n]) => n > 0));
  }

  close(): void {
    this.stack.reset();
    for (const fd of this.opened) this.native.close(fd);
    this.memory.retire();
  }
}

function writeSlot(native: Native, address: string, port: number): void {
  const w = words(address);
  const family = w[0] === 0 && w[1] === 0 && w[2] === V4_MAPPED ? AF_INET : AF_INET6;
  addrSlotWrite(native.addrs, SLOT, family, port, 0, w, 0);
}

function openSocket(native: Native, address: string, port: number, dual = false): number {
  const fd = native.socket(address.includes(':') ? AF_INET6 : AF_INET, SOCK_UDP);
  if (fd < 0) throw new Error(`socket: errno ${String(-fd)}`);
  if (dual) native.setsockopt(fd, 41, 26, 0);
  writeSlot(native, address, port);
  const r = native.bind(fd, SLOT);
  if (r < 0) throw new Error(`bind ${address}: errno ${String(-r)}`);
  return fd;
}

function portOf(native: Native, fd: number): number {
  native.getsockname(fd, SLOT);
  return addrSlotPort(native.addrs, SLOT);
}

withAddon('real sockets', () => {
  let native: Native;
  let rig: RealRig;

  beforeAll(() => {
    native = loadNative();
    native.epollInit();
  });

  afterEach(() => {
    rig.close();
  });

  test.each([0, 1, 1472, 9000, 65507])('%i bytes to a service of the host, and back', (size) => {
    rig = new RealRig(native);
    const server = rig.open('127.0.0.1');
    const port = portOf(native, server);
    const data = Uint8Array.from({ length: size }, (_, i) => (i * 13) & 0xff);
    rig.guest(datagram(GUEST, 45001, GATEWAY, port, data));
    expect(Buffer.from(rig.receive(server)).equals(data)).toBe(true);
    expect(addrSlotPort(native.addrs, SLOT)).toBe(45001);
    rig.send(server, data, { address: '127.0.0.1', port: 45001 });
    const frames = rig.until(() => {
      const all = rig.port.sent();
      return all.length > 0 ? all : null;
    });
    const d = dissect(frames.length > 1 ? joined(frames) : frames[0]);
    expect(`${addressText(d.src)}:${String(d.srcPort)}`).toBe(`${GATEWAY}:${String(port)}`);
    expect(d.dstPort).toBe(45001);
    expect(Buffer.from(d.payload).equals(data)).toBe(true);
    expect(rig.drops()).toEqual({});
  });

  test('IPv6, many datagrams in one batch, in order', () => {
    rig = new RealRig(native);
    const server = rig.open('::1');
    const port = portOf(native, server);
    const names = Array.from({ length: 50 }, (_, i) => `n${String(i)}`);
    rig.guest(...names.map((n) => datagram(GUEST6, 45002, GATEWAY6, port, ascii(n))));
    expect(names.map(() => latin1(rig.receive(server)))).toEqual(names);
    for (const n of names) rig.send(server, ascii(n), { address: '::1', port: 45002 });
    const got: string[] = [];
    rig.until(() => {
      got.push(...rig.port.sent().map((f) => latin1(dissect(f).payload)));
      return got.length === names.length ? true : null;
    });
    expect(got).toEqual(names);
    expect(rig.drops()).toEqual({});
  });

  test.each([
    [GUEST, GATEWAY, '127.0.0.1', 3, 3],
    [GUEST6, GATEWAY6, '::1', 1, 4],
  ])('from %s: a closed port is reported by %s', (guest, gateway, local, type, code) => {
    rig = new RealRig(native);
    const server = openSocket(native, local, 0);
    const port = portOf(native, server);
    native.close(server);
    rig.guest(datagram(guest, 45003, gateway, port, ascii('anybody there?')));
    const d = dissect(rig.frame());
    expect(addressText(d.src)).toBe(gateway);
    expect([...d.payload.subarray(0, 2)]).toEqual([type, code]);
    const l4 = 8 + (guest === GUEST ? 20 : 40);
    expect([...d.payload.subarray(l4, l4 + 4)]).toEqual([...u16(45003), ...u16(port)]);
    expect(latin1(d.payload.subarray(l4 + 8))).toBe('anybody there?');
    // The next datagram is not lost to the error of the first.
    const late = rig.open(local, port);
    rig.guest(datagram(guest, 45003, gateway, port, ascii('now?')));
    expect(latin1(rig.receive(late))).toBe('now?');
  });

  test('a dual-stack listener: both families, answers from the address that was used', () => {
    const fd = openSocket(native, '::', 0, true);
    const port = portOf(native, fd);
    const forward: ForwardListener = {
      fd,
      protocol: 'udp',
      family: 'dual',
      port,
      targetPort: 80,
      targetAddr: null,
    };
    rig = new RealRig(native, [forward]);
    // A guest that was heard in one family alone would see loopback peers in that.
    for (const [at, guest, gateway] of [
      ['127.0.0.1', GUEST, GATEWAY],
      ['::1', GUEST6, GATEWAY6],
    ]) {
      const hears = rig.open(at);
      rig.guest(datagram(guest, 999, gateway, portOf(native, hears), ascii('here')));
      expect(latin1(rig.receive(hears))).toBe('here');
    }
    // 127.0.0.2 is not the address that the kernel would choose for an answer.
    for (const [from, to, seen, guest] of [
      ['127.0.0.1', '127.0.0.2', GATEWAY, GUEST],
      ['::1', '::1', GATEWAY6, GUEST6],
    ]) {
      const client = rig.open(from);
      const clientPort = portOf(native, client);
      writeSlot(native, to, port);
      expect(native.connect(client, SLOT)).toBe(0);
      rig.send(client, ascii('hello'), null);
      const d = dissect(rig.frame());
      expect([addressText(d.src), d.srcPort, addressText(d.dst), d.dstPort]).toEqual([seen, clientPort, guest, 80]);
      rig.guest(datagram(guest, 80, seen, clientPort, ascii('welcome')));
      expect(latin1(rig.receive(client))).toBe('welcome');
    }
    expect(rig.drops()).toEqual({});
    native.close(fd);
  });

  test('an error about a listener’s answer reaches the guest', () => {
    const fd = openSocket(native, '127.0.0.1', 0);
    const port = portOf(native, fd);
    rig = new RealRig(native, [{ fd, protocol: 'udp', family: 'v4', port, targetPort: 80, targetAddr: null }]);
    const client = openSocket(native, '127.0.0.1', 0);
    const clientPort = portOf(native, client);
    rig.send(client, ascii('hello'), { address: '127.0.0.1', port });
    rig.frame();
    native.close(client);
    rig.guest(datagram(GUEST, 80, GATEWAY, clientPort, ascii('too late')));
    const d = dissect(rig.frame());
    expect(addressText(d.src)).toBe(GATEWAY);
    expect([...d.payload.subarray(0, 2)]).toEqual([3, 3]);
    expect([...d.payload.subarray(28, 32)]).toEqual([...u16(80), ...u16(clientPort)]);
    native.close(fd);
  });

  test('a source port that a service of the host holds', () => {
    rig = new RealRig(native);
    const service = rig.open('0.0.0.0');
    const taken = portOf(native, service);
    const server = rig.open('127.0.0.1');
    rig.guest(datagram(GUEST, taken, GATEWAY, portOf(native, server), ascii('x')));
    expect(latin1(rig.receive(server))).toBe('x');
    expect(addrSlotPort(native.addrs, SLOT)).not.toBe(taken);
  });

  test('a program of the host can have a port that the guest sends from, and gets what is for it', () => {
    // Any port will do: it is said to be one of programs of the host.
    const probe = openSocket(native, '0.0.0.0', 0);
    const port = portOf(native, probe);
    native.close(probe);
    const hostPorts = new Uint8Array(8192);
    hostPorts[port >> 3] |= 1 << (port & 7);
    rig = new RealRig(native, [], { hostPorts });
    const server = rig.open('127.0.0.1');
    rig.guest(datagram(GUEST, port, GATEWAY, portOf(native, server), ascii('from the guest')));
    expect(latin1(rig.receive(server))).toBe('from the guest');
    const from = addrSlotPort(native.addrs, SLOT);
    const program = rig.open('0.0.0.0', port);
    rig.send(server, ascii('for the program'), { address: '127.0.0.1', port });
    expect(latin1(rig.receive(program))).toBe('for the program');
    rig.send(server, ascii('for the guest'), { address: '127.0.0.1', port: from });
    const answer = dissect(rig.frame());
    expect([addressText(answer.src), answer.dstPort, latin1(answer.payload)]).toEqual([GATEWAY, port, 'for the guest']);
  });

  test('of a program that would share its port nothing is taken away', () => {
    const program = openSocket(native, '0.0.0.0', 0);
    native.setsockopt(program, 1, 2, 1); // SO_REUSEADDR
    const port = portOf(native, program);
    rig = new RealRig(native);
    const server = rig.open('127.0.0.1');
    rig.guest(datagram(GUEST, port, GATEWAY, portOf(native, server), ascii('x')));
    rig.receive(server);
    expect(addrSlotPort(native.addrs, SLOT)).not.toBe(port);
    native.close(program);
  });

  // With or without net.ipv4.ping_group_range: by a ping socket, or by ourselves.
  test('ping of the gateway, both families', () => {
    rig = new RealRig(native);
    const message = bytes([8, 0, 0, 0], u16(0x1234), u16(7), ascii('0123456789'));
    message.set(u16(internetChecksum(message)), 2);
    rig.guest(packet(GUEST, GATEWAY, 1, message));
    const v4 = dissect(rig.frame()).payload;
    expect(internetChecksum(v4)).toBe(0);
    expect([...v4.subarray(4)]).toEqual([0x12, 0x34, 0, 7, ...ascii('0123456789')]);
    rig.guest(icmpv6(GUEST6, GATEWAY6, bytes([128, 0, 0, 0], u16(0x1234), u16(8), ascii('six'))));
    const v6 = dissect(rig.frame()).payload;
    expect(v6[0]).toBe(129);
    expect([...v6.subarray(4)]).toEqual([0x12, 0x34, 0, 8, ...ascii('six')]);
  });
});
