/**
 * The back-end's side of one session: what was negotiated, memory, rings and log, with one method a request. Methods
 * throw `ProtocolError` before they change anything; those that return a promise are done when it settles, the
 * device included. Framing, checks of size and descriptor count, replies and acknowledgements are session.ts's.
 */
import { getSystemErrorName } from 'node:util';
import type { Native } from '../native';
import { FD_MEMORY, FD_SOCKET } from '../native';
import type { ReceivedFds } from './connection';
import type { VhostDevice } from './device';
import { isShortage, ProtocolError, shortage } from './protocol-errors';
import type { LogFunction } from './log';
import type { MemoryPlan } from './memory-table';
import { MemoryTable, UsedRegions } from './memory-table';
import type { LogBase } from './messages';
import { decodeMemTable, decodeSingleRegion, netConfigSpace, validateFds } from './messages';
import {
  MAX_DIRTY_LOG,
  MAX_MTU,
  MIN_MTU,
  VHOST_F_LOG_ALL,
  VIRTIO_NET_F_MTU,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_PROTOCOL_F_BACKEND_REQ,
  VHOST_USER_PROTOCOL_F_CONFIG,
  VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  VHOST_USER_PROTOCOL_F_LOG_SHMFD,
  VHOST_USER_PROTOCOL_F_NET_MTU,
  VHOST_USER_PROTOCOL_F_RARP,
  VHOST_USER_PROTOCOL_F_REPLY_ACK,
  VHOST_USER_PROTOCOL_F_RESET_DEVICE,
} from './protocol';
import { Rings } from './rings';
import { MemoryWatch, SHARE_MEMORY } from './shared-memory';

export interface BackendOptions {
  readonly native: Native;
  readonly device: VhostDevice;
  readonly log: LogFunction;
  /**
   * MTU to show in a configuration space; null: VHOST_USER_PROTOCOL_F_CONFIG is not offered. QEMU keeps the network
   * device's configuration space itself and warns about back-ends that offer one (7.2.0 could crash).
   */
  readonly configMtu: number | null;
  /**
   * Offer VHOST_USER_PROTOCOL_F_BACKEND_REQ. Default: yes, for user-mode Linux. Not to a front-end that gave us its socket
   * as a descriptor: QEMU 11.1 (`-netdev passt`) closes its copy of that descriptor twice, and the second time hits the
   * channel that it made in between.
   */
  readonly backendRequests?: boolean;
}

function hex(bits: bigint): string {
  return `0x${bits.toString(16)}`;
}

export class Backend {
  readonly rings: Rings;
  /** GET_FEATURES: the same for the life of the process, or a guest could not be reconnected. */
  readonly offeredFeatures: bigint;
  readonly offeredProtocolFeatures: bigint;
  readonly configSpace: Uint8Array;
  private readonly native: Native;
  private readonly device: VhostDevice;
  private readonly log: LogFunction;
  private readonly used: UsedRegions;
  private readonly memory: MemoryTable;
  private readonly memoryWatch: MemoryWatch;
  private features = 0n;
  private protocolFeatures = 0n;
  private logRegion = -1;
  private requestFd = -1;

  constructor(options: BackendOptions) {
    this.native = options.native;
    this.device = options.device;
    this.log = options.log;
    this.used = new UsedRegions(options.native);
    this.memory = new MemoryTable(options.native, this.used);
    this.memoryWatch = new MemoryWatch(options.log);
    this.rings = new Rings(options.native, options.device, this.memory, options.log);
    // Without a configuration space from us a guest must not look for an MTU there: user-mode Linux 6.1 reads what was on
    // its stack and breaks. QEMU shows its own, whether the bit is offered or not (x-mtu-bypass-backend), and tells us.
    const hidden = options.configMtu === null ? VIRTIO_NET_F_MTU : 0n;
    this.offeredFeatures = (options.device.features & ~hidden) | VHOST_USER_F_PROTOCOL_FEATURES | VHOST_F_LOG_ALL;
    const bits = [
      VHOST_USER_PROTOCOL_F_LOG_SHMFD,
      VHOST_USER_PROTOCOL_F_RARP,
      VHOST_USER_PROTOCOL_F_REPLY_ACK,
      VHOST_USER_PROTOCOL_F_NET_MTU,
      // Never used, but user-mode Linux does not work without it: it takes interrupts from the same channel.
      ...(options.backendRequests === false ? [] : [VHOST_USER_PROTOCOL_F_BACKEND_REQ]),
      VHOST_USER_PROTOCOL_F_RESET_DEVICE,
      VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
      ...(options.configMtu === null ? [] : [VHOST_USER_PROTOCOL_F_CONFIG]),
    ];
    this.offeredProtocolFeatures = bits.reduce((all, bit) => all | (1n << BigInt(bit)), 0n);
    this.configSpace = netConfigSpace(options.configMtu ?? 0);
  }

  /** True if protocol feature `bit` was negotiated. */
  has(bit: number): boolean {
    return ((this.protocolFeatures >> BigInt(bit)) & 1n) !== 0n;
  }

  /** True if the front-end cut short a file that it shares: reads of it were answered with zeros. */
  get memoryLost(): boolean {
    return this.memory.lost || (this.logRegion >= 0 && this.native.regionFaults(this.logRegion) > 0);
  }

  /** SET_FEATURES. While rings run only logging may be switched. */
  async setFeatures(features: bigint): Promise<void> {
    const unknown = features & ~this.offeredFeatures;
    if (unknown !== 0n) throw new ProtocolError('VU_ERR_FEATURES', `features ${hex(unknown)} were not offered`);
    const changed = (features ^ this.features) & ~VHOST_F_LOG_ALL;
    if (changed !== 0n && this.rings.anyStarted) {
      throw new ProtocolError('VU_ERR_FEATURES', `features ${hex(changed)} changed while rings run`);
    }
    this.features = features;
    if (this.memory.regions.length === 0) this.memoryWatch.expect();
    await this.device.setFeatures(features);
    if ((features & VHOST_USER_F_PROTOCOL_FEATURES) === 0n) await this.rings.enableAll();
  }

  /** SET_PROTOCOL_FEATURES. */
  setProtocolFeatures(features: bigint): void {
    const unknown = features & ~this.offeredProtocolFeatures;
    if (unknown !== 0n) {
      throw new ProtocolError('VU_ERR_PROTOCOL_FEATURES', `protocol features ${hex(unknown)} were not offered`);
    }
    if (features !== this.protocolFeatures && this.rings.anyStarted) {
      throw new ProtocolError('VU_ERR_PROTOCOL_FEATURES', 'protocol features changed while rings run');
    }
    this.protocolFeatures = features;
  }

  /** SET_MEM_TABLE. */
  async setMemTable(payload: DataView, fds: ReceivedFds): Promise<void> {
    const entries = decodeMemTable(payload);
    if (fds.count === 0 && entries.length > 0) {
      throw new ProtocolError('VU_ERR_FDS', `SET_MEM_TABLE without descriptors: ${SHARE_MEMORY}`);
    }
    validateFds('SET_MEM_TABLE', fds.count, entries.length);
    this.used.relieve();
    await this.changeMemory(this.memory.planReplace(entries, fds));
  }

  /** ADD_MEM_REG. */
  async addMemReg(payload: DataView, fds: ReceivedFds): Promise<void> {
    this.used.relieve();
    await this.changeMemory(this.memory.planAdd(decodeSingleRegion(payload), fds));
  }

  /** REM_MEM_REG. Older front-ends send a descriptor, which says nothing. */
  async remMemReg(payload: DataView, fds: ReceivedFds): Promise<void> {
    if (fds.count > 1) validateFds('REM_MEM_REG', fds.count, 0);
    this.used.relieve();
    await this.changeMemory(this.memory.planRemove(decodeSingleRegion(payload)));
  }

  /** SET_LOG_BASE: maps the dirty log, again whenever it grows, as far as an address can reach into it. */
  async setLogBase(base: LogBase, fds: ReceivedFds): Promise<void> {
    const native = this.native;
    const kind = native.fdKind(fds.peek(0));
    if (isShortage(kind)) throw shortage('SET_LOG_BASE: its descriptor cannot be inspected', kind);
    if (kind !== FD_MEMORY) {
      throw new ProtocolError('VU_ERR_FD_KIND', 'dirty log without a file that can be mapped');
    }
    this.used.relieve();
    const region = native.mapRegion(fds.peek(0), base.offset, Math.min(base.size, MAX_DIRTY_LOG));
    if (isShortage(region)) throw shortage('dirty log cannot be mapped', region);
    if (region < 0) {
      throw new ProtocolError('VU_ERR_LOG', `dirty log cannot be mapped (${getSystemErrorName(region)})`);
    }
    const old = this.logRegion;
    this.logRegion = region;
    try {
      await this.device.setLog({ region, buffer: native.regionBuffer(region) });
    } finally {
      if (old >= 0) this.used.retire(old);
    }
  }

  /** NET_SET_MTU. */
  async setMtu(mtu: bigint): Promise<void> {
    if (mtu < BigInt(MIN_MTU) || mtu > BigInt(MAX_MTU)) {
      throw new ProtocolError('VU_ERR_MTU', `MTU ${mtu.toString()} is not in ${MIN_MTU}…${MAX_MTU}`);
    }
    await this.device.setMtu?.(Number(mtu));
  }

  /** SET_BACKEND_REQ_FD: kept open, nothing is ever sent. Comes again when the front-end reconnects a part of itself. */
  setRequestFd(fds: ReceivedFds): void {
    const kind = this.native.fdKind(fds.peek(0));
    if (isShortage(kind)) throw shortage('SET_BACKEND_REQ_FD: its descriptor cannot be inspected', kind);
    if (kind !== FD_SOCKET) {
      throw new ProtocolError('VU_ERR_FD_KIND', 'SET_BACKEND_REQ_FD with a descriptor that is not a socket');
    }
    this.closeRequestFd();
    this.requestFd = fds.take();
  }

  /** RESET_OWNER (deprecated): nothing runs any more; all else stays. */
  async resetOwner(): Promise<void> {
    await this.rings.reset();
  }

  /** RESET_DEVICE: back to the state before SET_FEATURES; memory and protocol features stay. */
  async resetDevice(): Promise<void> {
    await this.rings.reset();
    this.features = 0n;
    await this.device.setFeatures(0n);
    await this.dropLog();
    await this.device.resetDevice();
  }

  /**
   * End of the session. The rings are stopped and the device lets go of memory before memory goes. Never rejects: what
   * the device does not do is reported to `onError`, and the rest is given back all the same.
   */
  async release(onError: (error: unknown) => void): Promise<void> {
    this.memoryWatch.settle();
    await this.rings.stopAll(onError);
    for (const step of [() => this.dropLog(), () => this.device.detach()]) {
      try {
        await step();
      } catch (error) {
        onError(error);
      }
    }
    this.rings.closeAll();
    this.closeRequestFd();
    this.memory.clear();
    this.used.relieve();
  }

  /** Rings that move with the map stop before and start again after; the others never notice. */
  private async changeMemory(plan: MemoryPlan): Promise<void> {
    if (!plan.changed) return;
    let inForce = false;
    try {
      const moved = await this.rings.suspendMoved(plan.regions);
      await this.device.setMemory(plan.regions);
      inForce = true;
      this.memory.commit(plan);
      if (plan.regions.length > 0) this.memoryWatch.settle();
      this.log('debug', `guest memory: ${plan.regions.length} regions`, 'vhost.memory');
      await this.rings.resume(moved);
    } finally {
      if (!inForce) this.memory.abandon(plan);
    }
  }

  private async dropLog(): Promise<void> {
    const region = this.logRegion;
    if (region < 0) return;
    this.logRegion = -1;
    try {
      await this.device.setLog(null);
    } finally {
      this.used.retire(region);
    }
  }

  private closeRequestFd(): void {
    if (this.requestFd >= 0) this.native.closeLater(this.requestFd);
    this.requestFd = -1;
  }
}
