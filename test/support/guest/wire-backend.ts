/**
 * The other end for tests of the guest itself: a minimal vhost-user back-end that hands over raw frames. Two of them
 * make a cable between two guests (`cable`). It believes everything its front-end says: it is no device for strangers.
 */
import { GuestMemory, SplitQueueDevice, faultName, type Rows } from 'virtio-ring-ts';
import type { Native } from '../../../src/native';
import { VhostUserConnection, readU64, u64, vringState, type Message } from './connection';
import * as vu from './constants';
import { PLAIN_HEADER, readHeader, writeHeader, type NetHeader } from './net-driver';

const EVERYTHING = vu.DRIVER_FEATURES | vu.VHOST_USER_F_PROTOCOL_FEATURES | vu.VIRTIO_NET_F_MTU | vu.VHOST_F_LOG_ALL;

export interface WireBackendOptions {
  readonly features?: bigint;
  readonly protocolFeatures?: bigint;
}

interface Region {
  readonly number: number;
  readonly gpa: number;
  readonly size: number;
  readonly userAddr: number;
  readonly buffer: SharedArrayBuffer;
}

class BackendRing {
  size = 0;
  base = 0;
  desc = 0n;
  avail = 0n;
  used = 0n;
  kickFd = -1;
  callFd = -1;
  errFd = -1;
  poll = -1;
  enabled = false;
  queue: SplitQueueDevice | null = null;
}

export class WireBackend {
  /** Called for each frame from the guest. The bytes are the callee's. */
  onFrame: ((frame: Uint8Array, header: NetHeader) => void) | null = null;
  /** Requests seen, in order: number and flags. */
  readonly log: { readonly request: number; readonly flags: number; readonly size: number; readonly fds: number }[] =
    [];
  readonly connection: VhostUserConnection;
  features = 0n;
  protocolFeatures = 0n;
  mtu = 0;
  /** Frames that wait for receive buffers. */
  readonly queue: { frame: Uint8Array; header: NetHeader }[] = [];

  private readonly native: Native;
  private readonly offered: bigint;
  private readonly protocolOffered: bigint;
  private readonly memory = new GuestMemory();
  private regions: Region[] = [];
  private readonly rings = [new BackendRing(), new BackendRing()];
  private readonly rows: Rows;
  private status = 0;
  private backendFd = -1;

  constructor(native: Native, fd: number, options: WireBackendOptions = {}) {
    this.native = native;
    this.offered = options.features ?? EVERYTHING;
    this.protocolOffered = options.protocolFeatures ?? vu.QEMU_PROTOCOL_FEATURES | vu.VHOST_USER_PROTOCOL_F_CONFIG;
    this.rows = {
      region: new Int32Array(1024),
      offset: new Float64Array(1024),
      length: new Int32Array(1024),
      capacity: 1024,
    };
    this.connection = new VhostUserConnection(native, fd);
    this.connection.onMessage = (m) => this.message(m);
  }

  /** Gives a frame to the guest, as soon as it has buffers. */
  toGuest(frame: Uint8Array, header: NetHeader = PLAIN_HEADER): void {
    this.queue.push({ frame, header });
    this.deliver();
  }

  close(): void {
    for (const ring of this.rings) this.stopRing(ring);
    this.dropMemory();
    if (this.backendFd >= 0) this.native.close(this.backendFd);
    this.backendFd = -1;
    this.connection.close();
  }

  private message(m: Message): void {
    this.log.push({ request: m.request, flags: m.flags, size: m.payload.length, fds: m.fds.length });
    const reply = this.handle(m);
    const wantsAck =
      (m.flags & vu.NEED_REPLY) !== 0 && (this.protocolFeatures & vu.VHOST_USER_PROTOCOL_F_REPLY_ACK) !== 0n;
    if (reply !== null) this.connection.send(m.request, vu.VERSION | vu.REPLY, reply);
    else if (wantsAck) this.connection.send(m.request, vu.VERSION | vu.REPLY, u64(0));
  }

  /** Returns the payload of the reply, or null if the request has none. */
  private handle(m: Message): Uint8Array | null {
    const dv = new DataView(m.payload.buffer, m.payload.byteOffset, m.payload.length);
    const vringFd = (): BackendRing => this.rings[Number(readU64(m.payload) & 0xffn)];
    switch (m.request) {
      case vu.VHOST_USER_GET_FEATURES:
        return u64(this.offered);
      case vu.VHOST_USER_SET_FEATURES:
        this.features = readU64(m.payload);
        return null;
      case vu.VHOST_USER_GET_PROTOCOL_FEATURES:
        return u64(this.protocolOffered);
      case vu.VHOST_USER_SET_PROTOCOL_FEATURES:
        this.protocolFeatures = readU64(m.payload);
        return null;
      case vu.VHOST_USER_GET_QUEUE_NUM:
        return u64(1);
      case vu.VHOST_USER_GET_MAX_MEM_SLOTS:
        return u64(64);
      case vu.VHOST_USER_GET_STATUS:
        return u64(this.status);
      case vu.VHOST_USER_SET_STATUS:
        this.status = dv.getUint8(0);
        return null;
      case vu.VHOST_USER_GET_CONFIG:
        return m.payload;
      case vu.VHOST_USER_NET_SET_MTU:
        this.mtu = Number(readU64(m.payload));
        return null;
      case vu.VHOST_USER_SET_BACKEND_REQ_FD:
        [this.backendFd] = m.fds;
        return null;
      case vu.VHOST_USER_SET_LOG_BASE:
        m.fds.forEach((fd) => this.native.close(fd));
        return u64(0);
      case vu.VHOST_USER_SET_MEM_TABLE:
        this.dropMemory();
        for (let i = 0; i < dv.getUint32(0, true); i++) this.addRegion(dv, 8 + 32 * i, m.fds[i]);
        return null;
      case vu.VHOST_USER_ADD_MEM_REG:
        this.addRegion(dv, 8, m.fds[0]);
        return null;
      case vu.VHOST_USER_SET_VRING_NUM:
        this.rings[dv.getUint32(0, true)].size = dv.getUint32(4, true);
        return null;
      case vu.VHOST_USER_SET_VRING_BASE:
        this.rings[dv.getUint32(0, true)].base = dv.getUint32(4, true);
        return null;
      case vu.VHOST_USER_SET_VRING_ADDR: {
        const ring = this.rings[dv.getUint32(0, true)];
        ring.desc = dv.getBigUint64(8, true);
        ring.used = dv.getBigUint64(16, true);
        ring.avail = dv.getBigUint64(24, true);
        return null;
      }
      case vu.VHOST_USER_SET_VRING_ENABLE:
        this.rings[dv.getUint32(0, true)].enabled = dv.getUint32(4, true) === 1;
        this.process();
        return null;
      case vu.VHOST_USER_SET_VRING_KICK:
        this.startRing(vringFd(), m.fds[0]);
        return null;
      case vu.VHOST_USER_SET_VRING_CALL: {
        const ring = vringFd();
        if (ring.callFd >= 0) this.native.close(ring.callFd);
        [ring.callFd] = m.fds;
        ring.queue?.resetSignalled();
        if (ring.queue !== null) this.native.signal(ring.callFd);
        return null;
      }
      case vu.VHOST_USER_SET_VRING_ERR: {
        const ring = vringFd();
        if (ring.errFd >= 0) this.native.close(ring.errFd);
        [ring.errFd] = m.fds;
        return null;
      }
      case vu.VHOST_USER_GET_VRING_BASE: {
        const index = dv.getUint32(0, true);
        const ring = this.rings[index];
        const base = ring.queue?.lastAvail ?? ring.base;
        this.stopRing(ring);
        return vringState(index, base);
      }
      default:
        return null;
    }
  }

  private addRegion(dv: DataView, at: number, fd: number): void {
    const gpa = Number(dv.getBigUint64(at, true));
    const size = Number(dv.getBigUint64(at + 8, true));
    const number = this.native.mapRegion(fd, Number(dv.getBigUint64(at + 24, true)), size);
    this.native.close(fd);
    if (number < 0) throw new Error(`map: ${number}`);
    const buffer = this.native.regionBuffer(number);
    this.regions.push({ number, gpa, size, userAddr: Number(dv.getBigUint64(at + 16, true)), buffer });
    this.memory.add(number, buffer, gpa, size);
  }

  private dropMemory(): void {
    this.memory.clear();
    for (const r of this.regions) this.native.retireRegion(r.number);
    this.regions = [];
  }

  private place(userAddr: bigint): { buffer: SharedArrayBuffer; offset: number } {
    const at = Number(userAddr);
    const r = this.regions.find((x) => at >= x.userAddr && at < x.userAddr + x.size);
    if (r === undefined) throw new Error(`ring address ${userAddr} is not in the memory table`);
    return { buffer: r.buffer, offset: at - r.userAddr };
  }

  private startRing(ring: BackendRing, kickFd: number): void {
    ring.kickFd = kickFd;
    const [desc, avail, used] = [this.place(ring.desc), this.place(ring.avail), this.place(ring.used)];
    const features = {
      indirect: (this.features & vu.VIRTIO_RING_F_INDIRECT_DESC) !== 0n,
      eventIdx: (this.features & vu.VIRTIO_RING_F_EVENT_IDX) !== 0n,
    };
    ring.queue = new SplitQueueDevice(this.memory, { size: ring.size, desc, avail, used }, features, ring.base);
    ring.poll = this.native.pollStart(kickFd, 1, () => {
      this.native.drain(kickFd);
      this.process();
    });
    this.process();
  }

  private stopRing(ring: BackendRing): void {
    if (ring.poll >= 0) this.native.pollStop(ring.poll);
    for (const fd of [ring.kickFd, ring.callFd, ring.errFd]) if (fd >= 0) this.native.close(fd);
    ring.poll = ring.kickFd = ring.callFd = ring.errFd = -1;
    ring.queue = null;
  }

  private process(): void {
    this.receive();
    this.deliver();
  }

  /** Takes everything off the transmit queue. */
  private receive(): void {
    const [, ring] = this.rings;
    const { queue } = ring;
    if (queue === null || !ring.enabled) return;
    const frames: { frame: Uint8Array; header: NetHeader }[] = [];
    do {
      for (;;) {
        const n = queue.pop(this.rows, 0, this.rows.capacity);
        if (n < 0) throw new Error(`transmit queue: ${faultName(n)}`);
        if (!queue.popped) break;
        const bytes = new Uint8Array(queue.readableBytes);
        let at = 0;
        for (let i = 0; i < queue.readableRows; i++) {
          bytes.set(this.slice(i, this.rows.length[i]), at);
          at += this.rows.length[i];
        }
        const header = readHeader(new DataView(bytes.buffer), 0, this.headerLen());
        frames.push({ frame: bytes.subarray(this.headerLen()), header });
        queue.pushUsed(queue.head, 0);
      }
      if (queue.publish()) this.native.signal(ring.callFd);
    } while (queue.enableNotify());
    for (const f of frames) this.onFrame?.(f.frame, f.header);
  }

  /** Puts waiting frames into receive buffers, as many as each takes. */
  private deliver(): void {
    const [ring] = this.rings;
    const { queue } = ring;
    if (queue === null || !ring.enabled) return;
    const headerLen = this.headerLen();
    const merge = (this.features & vu.VIRTIO_NET_F_MRG_RXBUF) !== 0n;
    while (this.queue.length > 0) {
      const { frame, header } = this.queue[0];
      const total = headerLen + frame.length;
      const chains: { head: number; row: number; rows: number; bytes: number }[] = [];
      let room = 0;
      let row = 0;
      while (room < total) {
        const rows = queue.pop(this.rows, row, this.rows.capacity - row);
        if (rows < 0) throw new Error(`receive queue: ${faultName(rows)}`);
        if (!queue.popped) break;
        chains.push({ head: queue.head, row, rows, bytes: queue.writableBytes });
        room += queue.writableBytes;
        row += rows;
        if (!merge) break;
      }
      if (room < total) {
        queue.rewind(chains.length);
        if (chains.length > 0 && !merge) throw new Error(`a frame of ${total} bytes for a buffer of ${room}`);
        if (!queue.enableNotify()) break;
        continue;
      }
      const bytes = new Uint8Array(total);
      writeHeader(new DataView(bytes.buffer), 0, headerLen, { ...header, numBuffers: chains.length });
      bytes.set(frame, headerLen);
      let at = 0;
      for (const c of chains) {
        let used = 0;
        for (let i = c.row; i < c.row + c.rows && at < total; i++) {
          const n = Math.min(this.rows.length[i], total - at);
          this.slice(i, n).set(bytes.subarray(at, at + n));
          at += n;
          used += n;
        }
        queue.pushUsed(c.head, used);
      }
      this.queue.shift();
    }
    if (queue.publish()) this.native.signal(ring.callFd);
  }

  private slice(row: number, length: number): Uint8Array {
    return new Uint8Array(this.memory.view(this.rows.region[row]).buffer, this.rows.offset[row], length);
  }

  private headerLen(): number {
    return (this.features & (vu.VIRTIO_NET_F_MRG_RXBUF | vu.VIRTIO_F_VERSION_1)) !== 0n ? 12 : 10;
  }
}

/** Connects two back-ends. `drop` is asked for every frame: true loses it. */
export function cable(a: WireBackend, b: WireBackend, drop: (frame: Uint8Array) => boolean = () => false): void {
  a.onFrame = (frame, header) => {
    if (!drop(frame)) b.toGuest(frame, header);
  };
  b.onFrame = (frame, header) => {
    if (!drop(frame)) a.toGuest(frame, header);
  };
}
