/**
 * One front-end before the back-end under test: how far it has come (negotiated, memory, rings), and what a request of
 * it led to. Everything it made is given back by `close`.
 */
import { closeSync, openSync } from 'node:fs';
import type { Native } from '../native';
import { Failure } from './check';
import * as vu from './constants';
import { EMPTY, memTable, type RegionFields, u64, vringState } from './payloads';
import { GuestRam, type RamOptions } from './ram';
import { ConnectionClosed, RawFrontEnd, type ReplyMessage, type SendOptions } from './raw-front-end';
import { ProbeRing } from './ring';
import { arpRequest } from './frames';

/** Virtio features taken by default: rings without event indices, so that one flag says all. */
export const BASE_FEATURES = vu.VIRTIO_F_VERSION_1 | vu.VIRTIO_NET_F_MRG_RXBUF | vu.VIRTIO_RING_F_INDIRECT_DESC;

/** Protocol features that change nothing for a front-end which does not use them. */
export const BASE_PROTOCOL =
  vu.VHOST_USER_PROTOCOL_F_MQ |
  vu.VHOST_USER_PROTOCOL_F_LOG_SHMFD |
  vu.VHOST_USER_PROTOCOL_F_RARP |
  vu.VHOST_USER_PROTOCOL_F_REPLY_ACK |
  vu.VHOST_USER_PROTOCOL_F_NET_MTU |
  vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ |
  vu.VHOST_USER_PROTOCOL_F_CONFIG |
  vu.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD |
  vu.VHOST_USER_PROTOCOL_F_RESET_DEVICE |
  vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS |
  vu.VHOST_USER_PROTOCOL_F_STATUS |
  vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE;

export interface SessionOptions {
  /** Virtio features wanted (of those offered; bit 30 is always taken). Default BASE_FEATURES. */
  readonly features?: bigint;
  /** Leave bit 30 out of SET_FEATURES. */
  readonly withoutProtocolBit?: boolean;
  /** Protocol features wanted (of those offered). Default BASE_PROTOCOL. */
  readonly protocol?: bigint;
  readonly ringSize?: number;
  readonly ram?: RamOptions;
}

/**
 * What a request led to. `done`: acknowledged with 0. `refused`: with another number. `closed`: the connection ended.
 * `silent`: no acknowledgements were negotiated, and the connection goes on.
 */
export type Outcome = 'done' | 'refused' | 'closed' | 'silent';

export const RX = 0;
export const TX = 1;

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export class Session {
  readonly native: Native;
  readonly front: RawFrontEnd;
  readonly timeoutMs: number;
  /** What the back-end offers. */
  readonly offered: bigint;
  protocolOffered = 0n;
  /** What was taken. */
  features = 0n;
  protocol = 0n;
  private readonly options: SessionOptions;
  private readonly files: number[] = [];
  private readonly ends: (() => void)[] = [];
  private lazyRam: GuestRam | null = null;
  private lazyRings: readonly ProbeRing[] = [];

  private constructor(native: Native, front: RawFrontEnd, offered: bigint, timeoutMs: number, options: SessionOptions) {
    this.native = native;
    this.front = front;
    this.offered = offered;
    this.timeoutMs = timeoutMs;
    this.options = options;
  }

  /** Speaks over a connected socket, and owns it. Rejects with what `receive` rejects with. */
  static async begin(native: Native, fd: number, timeoutMs: number, options: SessionOptions = {}): Promise<Session> {
    const front = new RawFrontEnd(native, fd);
    try {
      front.send(vu.VHOST_USER_GET_FEATURES);
      return new Session(native, front, u64Of(await front.receive(timeoutMs), 1), timeoutMs, options);
    } catch (error) {
      front.close();
      throw error;
    }
  }

  get hasAcks(): boolean {
    return this.took(vu.VHOST_USER_PROTOCOL_F_REPLY_ACK);
  }

  /** True if this protocol feature was negotiated. */
  took(protocolFeature: bigint): boolean {
    return (this.protocol & protocolFeature) !== 0n;
  }

  offers(feature: bigint): boolean {
    return (this.offered & feature) !== 0n;
  }

  get ram(): GuestRam {
    this.lazyRam ??= new GuestRam(this.native, this.options.ram ?? { size: 16 << 20 });
    return this.lazyRam;
  }

  /** Receive ring, transmit ring. */
  get rings(): readonly ProbeRing[] {
    if (this.lazyRings.length === 0) {
      const size = this.options.ringSize ?? 64;
      this.lazyRings = [RX, TX].map((index) => new ProbeRing(this.native, this.ram, index, size));
    }
    return this.lazyRings;
  }
  get rx(): ProbeRing {
    return this.rings[RX];
  }
  get tx(): ProbeRing {
    return this.rings[TX];
  }

  /** Bytes of virtio_net_hdr: 12 with num_buffers. */
  get headerLength(): number {
    return (this.features & (vu.VIRTIO_F_VERSION_1 | vu.VIRTIO_NET_F_MRG_RXBUF)) !== 0n ? 12 : 10;
  }

  // ---- descriptors, closed with the session

  eventFd(): number {
    return this.front.eventFd();
  }

  memfd(size: number, seals = 0): number {
    return this.front.memfd(size, seals);
  }

  /** A file of the host's, opened as said. */
  file(path: string, flags: string | number = 'r'): number {
    const fd = openSync(path, flags);
    this.files.push(fd);
    return fd;
  }

  /** A TCP socket that is not connected. */
  tcpSocket(): number {
    return this.front.own(this.native.socket(2, 1));
  }

  /** A socket whose other end is closed. */
  deadSocket(): number {
    const pair = new Int32Array(2);
    this.native.unixPair(pair);
    this.native.close(pair[0]);
    return this.front.own(pair[1]);
  }

  // ---- talking

  /** Sends a request that has an answer of its own, and returns that. */
  async call(request: number, payload: Uint8Array = EMPTY, options: SendOptions = {}): Promise<ReplyMessage> {
    this.front.send(request, payload, options);
    return this.reply(request);
  }

  /** The next reply, which must be for `request` and have the flags of a reply. */
  async reply(request: number): Promise<ReplyMessage> {
    const reply = await this.front.receive(this.timeoutMs);
    if (reply.request !== request) throw new Failure(`reply for request ${reply.request} where ${request} was due`);
    if (reply.flags !== (vu.VERSION | vu.REPLY))
      throw new Failure(`reply with flags 0x${reply.flags.toString(16)}, not 0x5`);
    return reply;
  }

  async callU64(request: number, payload: Uint8Array = EMPTY, options: SendOptions = {}): Promise<bigint> {
    return u64Of(await this.call(request, payload, options), request);
  }

  /** Sends a request that is at most acknowledged, and waits until it was handled. */
  async ask(request: number, payload: Uint8Array = EMPTY, options: SendOptions = {}): Promise<Outcome> {
    this.front.send(request, payload, { ...options, needReply: options.needReply ?? this.hasAcks });
    return this.outcome(request, options.needReply ?? this.hasAcks);
  }

  /** What `request`, sent before, led to. */
  async outcome(request: number, acked: boolean): Promise<Outcome> {
    try {
      if (!acked || !this.hasAcks) return (await this.alive()) ? 'silent' : 'closed';
      const answer = u64Of(await this.reply(request), request);
      if (!(await this.alive())) return 'closed';
      return answer === 0n ? 'done' : 'refused';
    } catch (error) {
      if (error instanceof ConnectionClosed) return 'closed';
      throw error;
    }
  }

  /** As `ask`, and it must not fail. */
  async must(request: number, payload?: Uint8Array, options?: SendOptions): Promise<void> {
    const outcome = await this.ask(request, payload, options);
    if (outcome !== 'done' && outcome !== 'silent') throw new Failure(`legal request ${request} was ${outcome}`);
  }

  /** Asks GET_FEATURES: false if the connection was closed. Rejects with NoReply if nothing comes. */
  async alive(): Promise<boolean> {
    try {
      const features = await this.callU64(vu.VHOST_USER_GET_FEATURES);
      if (features !== this.offered) throw new Failure('GET_FEATURES says something else than before');
      return true;
    } catch (error) {
      if (error instanceof ConnectionClosed) return false;
      throw error;
    }
  }

  // ---- coming to run

  /** Protocol features alone, which may come before all else. */
  async negotiateProtocol(wanted = this.options.protocol ?? BASE_PROTOCOL): Promise<void> {
    if (!this.offers(vu.VHOST_USER_F_PROTOCOL_FEATURES)) return;
    this.protocolOffered = await this.callU64(vu.VHOST_USER_GET_PROTOCOL_FEATURES);
    const taken = this.protocolOffered & wanted;
    this.front.send(vu.VHOST_USER_SET_PROTOCOL_FEATURES, u64(taken));
    if (!(await this.alive())) throw new Failure('closed at SET_PROTOCOL_FEATURES of what it offered');
    this.protocol = taken;
  }

  get wantedFeatures(): bigint {
    const { features = BASE_FEATURES, withoutProtocolBit = false } = this.options;
    const bit30 = withoutProtocolBit ? 0n : vu.VHOST_USER_F_PROTOCOL_FEATURES;
    return this.offered & (features | bit30);
  }

  /** Protocol features, owner, features. */
  async negotiate(): Promise<this> {
    await this.negotiateProtocol();
    await this.must(vu.VHOST_USER_SET_OWNER);
    await this.setFeatures();
    return this;
  }

  async setFeatures(): Promise<void> {
    await this.must(vu.VHOST_USER_SET_FEATURES, u64(this.wantedFeatures));
    this.features = this.wantedFeatures;
  }

  /** The regions of guest memory, as requests name them. */
  get regions(): RegionFields[] {
    return this.ram.regions.map((r) => ({
      gpa: BigInt(r.gpa),
      size: BigInt(r.size),
      uva: BigInt(r.userAddr),
      offset: BigInt(r.mmapOffset),
    }));
  }

  async setMemory(): Promise<void> {
    const { regions } = this;
    await this.must(vu.VHOST_USER_SET_MEM_TABLE, memTable(regions), { fds: regions.map(() => this.ram.fd) });
  }

  /** New kick, call and err descriptors for a ring. */
  openFds(ring: ProbeRing): void {
    ring.kickFd = this.eventFd();
    ring.callFd = this.eventFd();
    ring.errFd = this.eventFd();
  }

  /** NUM, BASE, ADDR, ERR, CALL, KICK. `base`: where the ring goes on; by default it is taken into use at 0. */
  async startRing(ring: ProbeRing, base?: number): Promise<void> {
    if (base === undefined) ring.reset();
    this.openFds(ring);
    await this.must(vu.VHOST_USER_SET_VRING_NUM, vringState(ring.index, ring.size));
    await this.must(vu.VHOST_USER_SET_VRING_BASE, vringState(ring.index, base ?? 0));
    await this.must(vu.VHOST_USER_SET_VRING_ADDR, ring.addr());
    await this.must(vu.VHOST_USER_SET_VRING_ERR, u64(ring.index), { fds: [ring.errFd] });
    await this.must(vu.VHOST_USER_SET_VRING_CALL, u64(ring.index), { fds: [ring.callFd] });
    ring.kick(); // as QEMU: the descriptor is readable when it comes
    await this.must(vu.VHOST_USER_SET_VRING_KICK, u64(ring.index), { fds: [ring.kickFd] });
  }

  async enable(ring: ProbeRing, on = true): Promise<void> {
    if ((this.features & vu.VHOST_USER_F_PROTOCOL_FEATURES) === 0n) return;
    await this.must(vu.VHOST_USER_SET_VRING_ENABLE, vringState(ring.index, on ? 1 : 0));
  }

  /** Negotiated, memory, both rings started and enabled. */
  async run(): Promise<this> {
    await this.negotiate();
    await this.setMemory();
    for (const ring of this.rings) await this.startRing(ring);
    for (const ring of this.rings) await this.enable(ring);
    return this;
  }

  /** GET_VRING_BASE: the ring stops. Returns the index it stopped at. */
  async stopRing(ring: ProbeRing): Promise<number> {
    const { payload } = await this.call(vu.VHOST_USER_GET_VRING_BASE, vringState(ring.index, 0));
    if (payload.byteLength !== 8) throw new Failure(`GET_VRING_BASE answered with ${payload.byteLength} bytes, not 8`);
    const index = payload.getUint32(0, true);
    if (index !== ring.index) throw new Failure(`GET_VRING_BASE of ring ${ring.index} answered for ring ${index}`);
    return payload.getUint32(4, true);
  }

  // ---- frames

  /** Waits until the ring's used index is `idx`. False if it is not in time. */
  usedReaches(ring: ProbeRing, idx: number, timeoutMs = this.timeoutMs): Promise<boolean> {
    return this.until(() => ring.usedIdx === (idx & 0xffff), timeoutMs);
  }

  /** Looks again and again, as shared memory tells nobody. */
  async until(condition: () => boolean, timeoutMs = this.timeoutMs): Promise<boolean> {
    const end = performance.now() + timeoutMs;
    while (!condition()) {
      if (performance.now() >= end) return condition();
      await pause(1);
    }
    return true;
  }

  /** Puts an ARP request with its header into new memory. Returns where it lies, and how long it is. */
  arpFrame(): { readonly gpa: number; readonly length: number } {
    return this.frame(arpRequest());
  }

  /** The same for any frame, with a header (zeros by default) of the length negotiated. */
  frame(frame: Uint8Array, header: Uint8Array = EMPTY): { readonly gpa: number; readonly length: number } {
    const length = this.headerLength + frame.length;
    const at = this.ram.alloc(length);
    this.ram.bytes.fill(0, at, at + this.headerLength);
    this.ram.bytes.set(header.subarray(0, this.headerLength), at);
    this.ram.bytes.set(frame, at + this.headerLength);
    return { gpa: this.ram.gpa(at), length };
  }

  /** Sends `count` ARP requests; each must be given back. The first descriptors of the ring are used. */
  async transmit(count = 1, ring = this.tx): Promise<void> {
    const { gpa, length } = this.arpFrame();
    const start = ring.usedIdx;
    if (start !== ring.availIdx) throw new Failure('frames offered before were not given back');
    for (let i = 0; i < count; i++) {
      ring.put(i % ring.size, { gpa, length });
      ring.offer([i % ring.size]);
      if ((i + 1) % ring.size !== 0 && i + 1 < count) continue;
      ring.kick();
      if (await this.usedReaches(ring, start + i + 1)) continue;
      throw new Failure(`a frame was not given back: used index ${ring.usedIdx}, available index ${ring.availIdx}`);
    }
  }

  /** Posts `count` receive buffers of `size` bytes. */
  postBuffers(count = 16, size = 2048): void {
    const { rx } = this;
    const heads: number[] = [];
    for (let i = 0; i < count; i++) {
      rx.put(i, { gpa: this.ram.gpa(this.ram.alloc(size)), length: size, flags: 2 });
      heads.push(i);
    }
    rx.offer(heads);
    rx.kick();
  }

  /** Calls back when the session is closed. */
  atEnd(callback: () => void): void {
    this.ends.push(callback);
  }

  close(): void {
    this.front.close();
    for (const end of this.ends.splice(0)) end();
    this.lazyRam?.close();
    this.lazyRam = null;
    for (const fd of this.files.splice(0)) closeSync(fd);
  }
}

/** The number in a reply of eight bytes. */
export function u64Of(reply: ReplyMessage, request: number): bigint {
  if (reply.payload.byteLength !== 8) {
    throw new Failure(`request ${request} answered with ${reply.payload.byteLength} bytes, not 8`);
  }
  return reply.payload.getBigUint64(0, true);
}
