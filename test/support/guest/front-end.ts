/**
 * A vhost-user front-end: says to a back-end what QEMU 7.2, QEMU 10 and user-mode Linux say for one virtio-net device
 * with one queue pair, in their order (vhost-user specification, "Starting and stopping rings"; the order of messages
 * was observed). The rings' memory belongs to a driver (net-driver.ts); this file tells the back-end where it lies.
 *
 * `connection` is open to tests: any message may be sent at any time between these steps.
 */
import type { Native } from '../../../src/native';
import type { SplitRingLayout } from 'virtio-ring-ts';
import * as vu from './constants';
import { type VhostUserConnection, errnoName, readU64, u64, vringState } from './connection';
import { GuestRam, type RamOptions } from './ram';

export type FrontEndStyle = 'qemu10' | 'qemu7' | 'uml';

export interface FrontEndOptions {
  /** Whose order of messages. Default 'qemu10'. */
  readonly style?: FrontEndStyle;
  /** Feature bits to take of those offered. Default DRIVER_FEATURES. */
  readonly features?: bigint;
  /** Protocol feature bits to take of those offered. Default: what the style's model knows. */
  readonly protocolFeatures?: bigint;
  /** Descriptors in each ring. Default 256. */
  readonly ringSize?: number;
  /** Index fresh rings start at (mod 2^16). Default 0. */
  readonly start?: number;
  readonly ram?: RamOptions;
  /** Told by NET_SET_MTU, if NET_MTU is there. */
  readonly hostMtu?: number;
  /** The back-end gets memory that the guest's writes never reach: QEMU without share=on. */
  readonly privateMemory?: boolean;
}

/** One ring as the front-end sees it: memory, descriptors, base. */
export class FrontEndRing {
  readonly index: number;
  readonly size: number;
  readonly layout: SplitRingLayout;
  /** What SET_VRING_BASE will say: set by a stop, or by the driver for a fresh ring. */
  base = 0;
  /** Notifications received, and errors the back-end reported. */
  calls = 0;
  errors = 0;
  /** Called for each notification. */
  onCall: (() => void) | null = null;
  onError: (() => void) | null = null;
  kickFd = -1;
  callFd = -1;
  errFd = -1;

  private readonly native: Native;
  private readonly ram: GuestRam;
  private readonly descAt: number;
  private readonly availAt: number;
  private readonly usedAt: number;
  private polls: number[] = [];
  /** Our end, if the call descriptor is a socket. */
  private callPeer = -1;
  private sink = -1;

  constructor(native: Native, ram: GuestRam, index: number, size: number) {
    this.native = native;
    this.ram = ram;
    this.index = index;
    this.size = size;
    // Page-aligned parts, as a modern driver allocates them.
    this.descAt = ram.alloc(16 * size, 4096);
    this.availAt = ram.alloc(6 + 2 * size, 4096);
    this.usedAt = ram.alloc(6 + 8 * size, 4096);
    const { buffer } = ram;
    this.layout = {
      size,
      desc: { buffer, offset: this.descAt },
      avail: { buffer, offset: this.availAt },
      used: { buffer, offset: this.usedAt },
    };
  }

  /** Notifies the back-end. */
  kick(): void {
    if (this.kickFd >= 0) this.native.signal(this.kickFd);
  }

  /** used.idx as it now stands in memory. */
  get usedIdx(): number {
    return this.ram.view.getUint16(this.usedAt + 2, true);
  }

  /** The payload of SET_VRING_ADDR. `log`: guest-physical address of the used ring; flags bit 0 switches logging on. */
  addrPayload(flags = 0, log = BigInt(this.ram.gpa(this.usedAt))): Uint8Array {
    const bytes = new Uint8Array(40);
    const dv = new DataView(bytes.buffer);
    dv.setUint32(0, this.index, true);
    dv.setUint32(4, flags, true);
    dv.setBigUint64(8, BigInt(this.ram.userAddr(this.descAt)), true);
    dv.setBigUint64(16, BigInt(this.ram.userAddr(this.usedAt)), true);
    dv.setBigUint64(24, BigInt(this.ram.userAddr(this.availAt)), true);
    dv.setBigUint64(32, log, true);
    return bytes;
  }

  /** Makes the masked call descriptor QEMU sets first: nobody listens to it. */
  sinkFd(): number {
    if (this.sink < 0) this.sink = check(this.native.eventFd(0), 'eventfd');
    return this.sink;
  }

  /** Makes and watches new descriptors. With `socketCall` the call descriptor is a stream socket, as in UML. */
  openFds(socketCall: boolean): void {
    this.closeFds();
    this.kickFd = check(this.native.eventFd(0), 'eventfd');
    this.errFd = check(this.native.eventFd(0), 'eventfd');
    if (socketCall) {
      const pair = new Int32Array(2);
      check(this.native.unixPair(pair), 'socketpair');
      this.callFd = pair[0];
      this.callPeer = pair[1];
      this.native.setNonBlocking(this.callPeer);
      this.watchSocket(this.callPeer);
    } else {
      this.callFd = check(this.native.eventFd(0), 'eventfd');
      this.watch(this.callFd, () => {
        this.calls++;
        this.onCall?.();
      });
    }
    this.watch(this.errFd, () => {
      this.errors++;
      this.onError?.();
    });
  }

  closeFds(): void {
    for (const p of this.polls) this.native.pollStop(p);
    this.polls = [];
    for (const fd of [this.kickFd, this.callFd, this.errFd, this.callPeer, this.sink]) {
      if (fd >= 0) this.native.close(fd);
    }
    this.kickFd = this.callFd = this.errFd = this.callPeer = this.sink = -1;
  }

  private watch(fd: number, callback: () => void): void {
    this.polls.push(
      this.native.pollStart(fd, 1, () => {
        if (this.native.drain(fd) > 0) callback();
      }),
    );
  }

  private watchSocket(fd: number): void {
    const bytes = new Uint8Array(4096);
    const poll = this.native.pollStart(fd, 1, () => {
      const n = this.native.read(fd, bytes, 0, bytes.length);
      if (n > 0) {
        this.calls++;
        this.onCall?.();
        return;
      }
      // The back-end closed its end: level-triggered readiness would never cease.
      this.native.pollStop(poll);
      this.polls = this.polls.filter((p) => p !== poll);
    });
    this.polls.push(poll);
  }
}

export class FrontEnd {
  readonly native: Native;
  readonly style: FrontEndStyle;
  readonly ram: GuestRam;
  /** Ring 0 is the guest's receive queue, ring 1 its transmit queue. */
  readonly rings: readonly [FrontEndRing, FrontEndRing];
  connection: VhostUserConnection;
  /** What the back-end offered, and what was taken. */
  offered = 0n;
  features = 0n;
  protocolOffered = 0n;
  protocolFeatures = 0n;
  memSlots = 0;
  queueNum = 0;
  private readonly options: FrontEndOptions;
  private backendFds: Int32Array | null = null;
  private log: { fd: number; region: number } | null = null;
  private memoryKnown = false;
  private copyFd = -1;

  constructor(native: Native, connection: VhostUserConnection, options: FrontEndOptions = {}) {
    this.native = native;
    this.connection = connection;
    this.options = options;
    this.style = options.style ?? 'qemu10';
    const uml = { fileOffset: 0x1db5_2000, userBase: 0, regions: [{ gpa: 0x1db5_2000, size: 64 << 20 }] };
    this.ram = new GuestRam(native, options.ram ?? (this.style === 'uml' ? { ...uml, seals: 1 } : {}));
    const size = options.ringSize ?? 256;
    this.rings = [new FrontEndRing(native, this.ram, 0, size), new FrontEndRing(native, this.ram, 1, size)];
    for (const ring of this.rings) ring.base = (options.start ?? 0) & 0xffff;
  }

  /** True if the feature was negotiated. */
  has(feature: bigint): boolean {
    return (this.features & feature) !== 0n;
  }

  /** Everything before the guest's driver runs: features, protocol features, owner. */
  async negotiate(): Promise<void> {
    this.memoryKnown = false;
    if (this.style === 'uml') await this.negotiateUml();
    else await this.negotiateQemu();
  }

  /** DRIVER_OK: memory table and rings, which the driver must have initialised. */
  async start(): Promise<void> {
    if (this.style === 'uml') await this.startUml();
    else await this.startQemu();
  }

  /** Stops both rings (guest reset, reboot, `stop`): their bases are then what the back-end replied. */
  async stop(): Promise<void> {
    if (this.style === 'uml') {
      for (const ring of [...this.rings].reverse()) this.enable(ring.index, false);
      await this.getFeatures();
    } else {
      const status = (this.protocolFeatures & vu.VHOST_USER_PROTOCOL_F_STATUS) !== 0n;
      if (status && this.style === 'qemu7') this.post(vu.VHOST_USER_SET_STATUS, u64(0));
      for (const ring of this.rings) ring.base = await this.getVringBase(ring.index);
      if (status && this.style !== 'qemu7') this.post(vu.VHOST_USER_SET_STATUS, u64(0));
    }
    for (const ring of this.rings) ring.closeFds();
  }

  /**
   * Moves to a new connection after the back-end went away; `negotiate` and `start` follow. As QEMU does, the rings go
   * on from the used index: what the old back-end had taken and not given back is offered again.
   */
  reconnect(connection: VhostUserConnection): void {
    this.connection.close();
    this.closeBackendFds();
    for (const ring of this.rings) {
      ring.closeFds();
      ring.base = ring.usedIdx;
    }
    this.connection = connection;
  }

  /** Closes everything, memory included. */
  close(): void {
    this.connection.close();
    this.closeBackendFds();
    for (const ring of this.rings) ring.closeFds();
    if (this.log !== null) {
      this.native.retireRegion(this.log.region);
      this.native.close(this.log.fd);
      this.log = null;
    }
    if (this.copyFd >= 0) this.native.close(this.copyFd);
    this.copyFd = -1;
    this.ram.close();
  }

  // ---- single messages, for tests that go their own way

  /** Sends without asking for an acknowledgement. */
  post(request: number, payload?: Uint8Array, fds: readonly number[] = []): void {
    this.connection.send(request, vu.VERSION, payload, fds);
  }

  /** Sends and waits until the back-end has done it: by acknowledgement, or as QEMU does without REPLY_ACK. */
  async ask(request: number, payload?: Uint8Array, fds: readonly number[] = []): Promise<void> {
    if ((this.protocolFeatures & vu.VHOST_USER_PROTOCOL_F_REPLY_ACK) !== 0n) {
      const result = await this.connection.callAck(request, payload, fds);
      if (result !== 0n) throw new Error(`request ${request} refused: ${result}`);
    } else {
      this.post(request, payload, fds);
      await this.getFeatures();
    }
  }

  async getFeatures(): Promise<bigint> {
    return readU64((await this.connection.call(vu.VHOST_USER_GET_FEATURES)).payload);
  }

  async getVringBase(index: number): Promise<number> {
    const { payload } = await this.connection.call(vu.VHOST_USER_GET_VRING_BASE, vringState(index, 0));
    const dv = new DataView(payload.buffer, payload.byteOffset, payload.length);
    if (payload.length !== 8 || dv.getUint32(0, true) !== index) throw new Error('bad reply to GET_VRING_BASE');
    return dv.getUint32(4, true);
  }

  enable(index: number, on: boolean): void {
    this.post(vu.VHOST_USER_SET_VRING_ENABLE, vringState(index, on ? 1 : 0));
  }

  async getStatus(): Promise<number> {
    return Number(readU64((await this.connection.call(vu.VHOST_USER_GET_STATUS)).payload));
  }

  async getConfig(offset: number, size: number): Promise<Uint8Array> {
    const request = new Uint8Array(12 + size);
    const dv = new DataView(request.buffer);
    dv.setUint32(0, offset, true);
    dv.setUint32(4, size, true);
    const { payload } = await this.connection.call(vu.VHOST_USER_GET_CONFIG, request);
    return payload.subarray(12);
  }

  private memoryFd(): number {
    if (this.options.privateMemory !== true) return this.ram.fd;
    if (this.copyFd < 0) {
      const size = Math.max(...this.ram.regions.map((r) => r.mmapOffset + r.size));
      this.copyFd = check(this.native.memfdCreate('private-copy', size, 7), 'memfd');
    }
    return this.copyFd;
  }

  /** SET_MEM_TABLE of all regions (`pad` entries more than needed, as UML sends them), or ADD_MEM_REG of each. */
  async setMemory(pad = 0): Promise<void> {
    const { regions } = this.ram;
    const fd = this.memoryFd();
    if ((this.protocolFeatures & vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) !== 0n) {
      for (const r of regions) {
        const bytes = new Uint8Array(40);
        writeRegion(new DataView(bytes.buffer), 8, r);
        await this.ask(vu.VHOST_USER_ADD_MEM_REG, bytes, [fd]);
      }
      return;
    }
    const bytes = new Uint8Array(8 + 32 * (regions.length + pad));
    const dv = new DataView(bytes.buffer);
    dv.setUint32(0, regions.length, true);
    regions.forEach((r, i) => writeRegion(dv, 8 + 32 * i, r));
    await this.ask(
      vu.VHOST_USER_SET_MEM_TABLE,
      bytes,
      regions.map(() => fd),
    );
  }

  /** Switches dirty logging on while rings run, as at the start of a migration. Returns the log: one bit a page. */
  async startLogging(): Promise<Uint8Array> {
    const top = Math.max(...this.ram.regions.map((r) => r.gpa + r.size));
    const size = Math.ceil(top / 4096 / 8 / 4096) * 4096;
    const fd = check(this.native.memfdCreate('vhost-log', size, 0), 'memfd');
    const region = check(this.native.mapRegion(fd, 0, size), 'map');
    this.log = { fd, region };
    const bytes = new Uint8Array(16);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(size), true);
    await this.connection.call(vu.VHOST_USER_SET_LOG_BASE, bytes, [fd]);
    await this.ask(vu.VHOST_USER_SET_FEATURES, u64(this.features | vu.VHOST_F_LOG_ALL));
    for (const ring of this.rings) await this.ask(vu.VHOST_USER_SET_VRING_ADDR, ring.addrPayload(1));
    return new Uint8Array(this.native.regionBuffer(region));
  }

  /** Switches dirty logging off again (migration cancelled). */
  async stopLogging(): Promise<void> {
    await this.ask(vu.VHOST_USER_SET_FEATURES, u64(this.features));
    for (const ring of this.rings) await this.ask(vu.VHOST_USER_SET_VRING_ADDR, ring.addrPayload(0));
  }

  // ---- orders

  private async negotiateQemu(): Promise<void> {
    this.offered = await this.getFeatures();
    await this.negotiateProtocol(vu.QEMU_PROTOCOL_FEATURES);
    if ((this.protocolFeatures & vu.VHOST_USER_PROTOCOL_F_MQ) !== 0n) {
      this.queueNum = Number(readU64((await this.connection.call(vu.VHOST_USER_GET_QUEUE_NUM)).payload));
    }
    if ((this.protocolFeatures & vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) !== 0n) {
      this.memSlots = Number(readU64((await this.connection.call(vu.VHOST_USER_GET_MAX_MEM_SLOTS)).payload));
    }
    await this.sendBackendFd();
    this.post(vu.VHOST_USER_SET_OWNER);
    this.offered = await this.getFeatures();
    this.takeFeatures();
    for (const ring of this.rings) {
      this.post(vu.VHOST_USER_SET_VRING_CALL, u64(ring.index), [ring.sinkFd()]);
      const err = check(this.native.eventFd(0), 'eventfd');
      this.post(vu.VHOST_USER_SET_VRING_ERR, u64(ring.index), [err]);
      this.native.close(err);
    }
  }

  private async startQemu(): Promise<void> {
    const resets = (this.protocolFeatures & vu.VHOST_USER_PROTOCOL_F_RESET_DEVICE) !== 0n;
    if (this.style === 'qemu10' && resets && !this.memoryKnown) this.post(vu.VHOST_USER_RESET_DEVICE);
    await this.enableBoth();
    const mtu = this.options.hostMtu;
    // QEMU shows its guest an MTU whether the back-end offers the feature or not (x-mtu-bypass-backend), and tells it.
    const tellMtu = (this.protocolFeatures & vu.VHOST_USER_PROTOCOL_F_NET_MTU) !== 0n;
    if (mtu !== undefined && tellMtu) await this.ask(vu.VHOST_USER_NET_SET_MTU, u64(mtu));
    await this.enableBoth();
    this.post(vu.VHOST_USER_SET_FEATURES, u64(this.features));
    const status = (this.protocolFeatures & vu.VHOST_USER_PROTOCOL_F_STATUS) !== 0n;
    if (status) {
      await this.getStatus();
      this.post(vu.VHOST_USER_SET_STATUS, u64(0x8));
    }
    const slots = (this.protocolFeatures & vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) !== 0n;
    if (!slots || !this.memoryKnown) await this.setMemory();
    this.memoryKnown = true;
    for (const ring of this.rings) {
      ring.openFds(false);
      this.post(vu.VHOST_USER_SET_VRING_NUM, vringState(ring.index, ring.size));
      this.post(vu.VHOST_USER_SET_VRING_BASE, vringState(ring.index, ring.base));
      this.post(vu.VHOST_USER_SET_VRING_ADDR, ring.addrPayload());
      this.post(vu.VHOST_USER_SET_VRING_ERR, u64(ring.index), [ring.errFd]);
      // QEMU passes the kick eventfd with a count already in it.
      ring.kick();
      this.post(vu.VHOST_USER_SET_VRING_KICK, u64(ring.index), [ring.kickFd]);
      this.post(vu.VHOST_USER_SET_VRING_CALL, u64(ring.index), [ring.callFd]);
    }
    if (status) {
      await this.getStatus();
      this.post(vu.VHOST_USER_SET_STATUS, u64(0xf));
    }
    await this.getFeatures(); // a barrier of our own: tests go on when the back-end has seen everything
  }

  private async enableBoth(): Promise<void> {
    if ((this.offered & vu.VHOST_USER_F_PROTOCOL_FEATURES) === 0n) return;
    for (const ring of this.rings) {
      if (this.style === 'qemu7') this.enable(ring.index, true);
      else await this.ask(vu.VHOST_USER_SET_VRING_ENABLE, vringState(ring.index, 1));
    }
  }

  private async negotiateUml(): Promise<void> {
    this.post(vu.VHOST_USER_SET_OWNER);
    this.offered = await this.getFeatures();
    await this.negotiateProtocol(vu.UML_PROTOCOL_FEATURES);
    await this.sendBackendFd();
    this.takeFeatures();
    this.post(vu.VHOST_USER_SET_FEATURES, u64(this.features));
    if ((this.protocolFeatures & vu.VHOST_USER_PROTOCOL_F_CONFIG) !== 0n) {
      await this.getConfig(0, 6);
      await this.getConfig(6, 2);
    }
  }

  private async startUml(): Promise<void> {
    await this.setMemory(1);
    for (const ring of this.rings) {
      ring.openFds(true);
      this.post(vu.VHOST_USER_SET_VRING_CALL, u64(ring.index), [ring.callFd]);
      this.post(vu.VHOST_USER_SET_VRING_NUM, vringState(ring.index, ring.size));
      this.post(vu.VHOST_USER_SET_VRING_BASE, vringState(ring.index, ring.base));
      this.post(vu.VHOST_USER_SET_VRING_ADDR, ring.addrPayload(0, 0xffff_ffff_ffff_ffffn));
    }
    for (const ring of this.rings) {
      this.post(vu.VHOST_USER_SET_VRING_KICK, u64(ring.index), [ring.kickFd]);
      await this.ask(vu.VHOST_USER_SET_VRING_ENABLE, vringState(ring.index, 1));
    }
  }

  private async negotiateProtocol(known: bigint): Promise<void> {
    this.protocolFeatures = 0n;
    if ((this.offered & vu.VHOST_USER_F_PROTOCOL_FEATURES) === 0n) return;
    const reply = await this.connection.call(vu.VHOST_USER_GET_PROTOCOL_FEATURES);
    this.protocolOffered = readU64(reply.payload);
    const taken = this.protocolOffered & (this.options.protocolFeatures ?? known);
    const replyAck = (taken & vu.VHOST_USER_PROTOCOL_F_REPLY_ACK) !== 0n;
    if (this.style === 'uml' && replyAck) {
      // UML asks for the acknowledgement of the very message that makes acknowledgements legal.
      const result = await this.connection.callAck(vu.VHOST_USER_SET_PROTOCOL_FEATURES, u64(taken));
      if (result !== 0n) throw new Error('SET_PROTOCOL_FEATURES refused');
    } else {
      this.post(vu.VHOST_USER_SET_PROTOCOL_FEATURES, u64(taken));
    }
    this.protocolFeatures = taken;
  }

  private takeFeatures(): void {
    const wanted = this.options.features ?? vu.DRIVER_FEATURES;
    this.features = this.offered & (wanted | vu.VHOST_USER_F_PROTOCOL_FEATURES);
  }

  private async sendBackendFd(): Promise<void> {
    if ((this.protocolFeatures & vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ) === 0n) return;
    this.closeBackendFds();
    this.backendFds = new Int32Array(2);
    check(this.native.unixPair(this.backendFds), 'socketpair');
    await this.ask(vu.VHOST_USER_SET_BACKEND_REQ_FD, new Uint8Array(0), [this.backendFds[1]]);
  }

  private closeBackendFds(): void {
    this.backendFds?.forEach((fd) => this.native.close(fd));
    this.backendFds = null;
  }
}

function writeRegion(dv: DataView, at: number, r: GuestRam['regions'][number]): void {
  dv.setBigUint64(at, BigInt(r.gpa), true);
  dv.setBigUint64(at + 8, BigInt(r.size), true);
  dv.setBigUint64(at + 16, BigInt(r.userAddr), true);
  dv.setBigUint64(at + 24, BigInt(r.mmapOffset), true);
}

function check(result: number, what: string): number {
  if (result < 0) throw new Error(`${what}: ${errnoName(result)}`);
  return result;
}
