/**
 * The data plane's side of the control plane's commands that are about virtqueues: guest memory, rings and their
 * descriptors, dirty log. Runs on the data plane's thread between frames, so nothing here is concurrent with the rings it
 * changes. Cold: allocates.
 */
import type { MessagePort } from 'node:worker_threads';
import { GuestMemory, SplitQueueDevice, faultName } from 'virtio-ring-ts';
import type { RingPlace } from 'virtio-ring-ts';
import type { Native } from '../../native';
import { KEY_DATAPLANE, KEY_KIND_SHIFT } from '../../stack/context';
import { C_RING_FAULTS } from '../../stack/counters';
import type { Counters } from '../../stack/counters';
import { EPOLLET, EPOLLIN } from '../../stack/ports';
import type { DeviceMemoryRegion, DevicePlace, DeviceRing, DirtyLog } from '../../vhost/device';
import { BASE_FROM_USED_INDEX } from '../commands';
import { LinkControl } from '../link-control';
import type { LinkCommand } from '../link-control';
import type { Moderation } from '../moderation/moderation';
import { allocateBlock } from '../private-block';
import { DirtyLogMarker } from './dirty-log';
import { VHOST_F_LOG_ALL, has, negotiated } from './features';
import type { NegotiatedFeatures } from './features';
import { RING_RECEIVE, RING_TRANSMIT, VirtioGuestPort } from './guest-port';
import { PRIVATE_MEMORY_TEXT, PrivateMemoryWatch } from './private-memory';
import { BAD_RECEIVE_BUFFER } from './receive-side';

export const RINGS = 2;
export const KIND_KICK = KEY_DATAPLANE + 1;

/** Bytes of the block in which headers are put together that do not fit the guest's first buffer. */
const HEADER_BLOCK = 8192;

export class RingControl extends LinkControl {
  readonly port: VirtioGuestPort;
  /** A running ring has no kick descriptor (vhost-user: VHOST_USER_VRING_NOFD_MASK) and has to be polled. */
  polling: boolean;
  /** Per ring: its kick descriptor (-1: none), the generation its watch carries, and whether it is to be looked at. */
  readonly kickFd: Int32Array;
  readonly kickGeneration: Int32Array;
  /** Kicks seen since their descriptor was read. */
  readonly unread: Int32Array;
  readonly kicked: Uint8Array;
  /** Is the guest's memory shared with us at all? */
  readonly sharing: PrivateMemoryWatch;

  private readonly memory: GuestMemory;
  private features: NegotiatedFeatures;
  private logAll: boolean;
  private regions: readonly DeviceMemoryRegion[];
  private log: DirtyLog | null;
  private readonly started: Uint8Array;
  private readonly faultReported: Uint8Array;
  /** Guest-physical address of each used ring for the dirty log; -1: not logged. */
  private readonly logAddr: Float64Array;
  private wasUp: boolean;

  constructor(native: Native, messages: MessagePort, wakeFd: number, counters: Counters, moderation: Moderation) {
    super(native, messages, wakeFd, counters);
    this.memory = new GuestMemory();
    this.features = negotiated(0n);
    const header = allocateBlock(native, HEADER_BLOCK);
    this.port = new VirtioGuestPort(native, this.memory, header, counters, this.features, moderation);
    this.polling = false;
    this.kickFd = new Int32Array(RINGS).fill(-1);
    this.kickGeneration = new Int32Array(RINGS);
    this.unread = new Int32Array(RINGS);
    this.kicked = new Uint8Array(RINGS);
    this.sharing = new PrivateMemoryWatch();
    this.logAll = false;
    this.regions = [];
    this.log = null;
    this.started = new Uint8Array(RINGS);
    this.faultReported = new Uint8Array(RINGS);
    this.logAddr = new Float64Array(RINGS).fill(-1);
    this.wasUp = false;
  }

  isPolled(index: number): boolean {
    return this.polling && this.started[index] !== 0 && this.kickFd[index] < 0;
  }

  /** Tells the control plane of rings that broke, once each, and lets their descriptors rest. */
  reportFaults(): void {
    this.reportFault(RING_RECEIVE, this.port.rx.fault);
    this.reportFault(RING_TRANSMIT, this.port.tx.fault);
  }

  /** At a time that `sharing.dueMs` names. */
  lookForSharing(nowMs: number): void {
    if (this.sharing.look(nowMs)) {
      this.post({ kind: 'log', level: 'warn', message: PRIVATE_MEMORY_TEXT, leftOut: 0 });
    }
  }

  private reportFault(index: number, fault: number): void {
    if (fault === 0 || this.faultReported[index] !== 0) return;
    this.faultReported[index] = 1;
    this.counters[C_RING_FAULTS]++;
    if (this.kickFd[index] >= 0) this.native.unwatch(this.kickFd[index]);
    const reason = fault === BAD_RECEIVE_BUFFER ? 'receive buffer is not writable' : faultName(fault);
    this.post({ kind: 'fault', index, reason });
  }

  protected executeOwn(command: LinkCommand): number {
    switch (command.kind) {
      case 'features':
        this.setFeatures(command.features);
        return 0;
      case 'memory':
        this.setMemory(command.regions);
        return 0;
      case 'startRing':
        this.startRing(command.ring);
        return 0;
      case 'stopRing':
        return this.stopRing(command.index);
      case 'enable':
        this.enable(command.index, command.enabled);
        return 0;
      case 'call':
        this.setCall(command.index, command.fd);
        return 0;
      case 'kick':
        this.setKick(command.index, command.fd);
        return 0;
      case 'logRing':
        this.logAddr[command.index] = command.logAddr;
        this.applyLog();
        return 0;
      case 'log':
        this.setLog(command.log);
        return 0;
      case 'mtu':
        this.stack?.setMtu(command.mtu);
        return 0;
      case 'streamOpen':
      case 'streamClose':
      case 'streamProbe':
      case 'tapOpen':
        return 0; // for the other kinds of link
    }
  }

  protected end(): void {
    // Rings were stopped before, or are the next data plane's.
  }

  private setFeatures(features: bigint): void {
    this.logAll = has(features, VHOST_F_LOG_ALL);
    this.features = negotiated(features);
    this.port.setFeatures(this.features);
    this.applyLog();
  }

  private setMemory(regions: readonly DeviceMemoryRegion[]): void {
    // What this turn did is named in terms of the old map.
    this.publishAll();
    if (regions.length === 0) this.sharing.reset();
    const gone = this.sizesWithout(regions);
    this.regions = regions;
    this.memory.clear();
    for (const r of regions) this.memory.add(r.region, r.buffer, r.gpa, r.size);
    // Ring structures keep the places the session gave them: it stops rings whose memory went away.
    this.applyLog();
    // Nothing of this thread refers to them any more; the control plane retires them when it has our answer.
    this.native.relieve(
      gone.length,
      gone.reduce((sum, size) => sum + size, 0),
    );
  }

  /** Sizes of the regions that are not in `next`. A function of its own, so that no old buffer is left on the stack. */
  private sizesWithout(next: readonly DeviceMemoryRegion[]): readonly number[] {
    const kept = new Set(next.map((r) => r.region));
    return this.regions.filter((r) => !kept.has(r.region)).map((r) => r.size);
  }

  private setLog(log: DirtyLog | null): void {
    const bytes = this.logBytes();
    this.log = log;
    this.applyLog();
    if (bytes > 0) this.native.relieve(1, bytes);
  }

  private logBytes(): number {
    return this.log?.buffer.byteLength ?? 0;
  }

  private place(place: DevicePlace): RingPlace {
    const region = this.regions.find((r) => r.region === place.region);
    if (region === undefined) throw new Error(`ring in unknown region ${String(place.region)}`);
    return { buffer: region.buffer, offset: place.offset };
  }

  private startRing(ring: DeviceRing): void {
    const layout = {
      size: ring.size,
      desc: this.place(ring.desc),
      avail: this.place(ring.avail),
      used: this.place(ring.used),
    };
    const { indirect, eventIdx } = this.features;
    let queue = new SplitQueueDevice(this.memory, layout, { indirect, eventIdx }, Math.max(0, ring.base));
    if (ring.base === BASE_FROM_USED_INDEX) {
      queue = new SplitQueueDevice(this.memory, layout, { indirect, eventIdx }, queue.usedIdx);
    }
    if (ring.index === RING_RECEIVE && queue.lastAvail === 0 && queue.usedIdx === 0) {
      // A ring that starts from nothing is a guest that booted or rebound its driver: its connections are gone.
      // (After a stop and start, a reconnect or a migration the ring continues at its index.)
      this.stack?.reset();
    }
    this.started[ring.index] = 1;
    this.faultReported[ring.index] = 0;
    this.logAddr[ring.index] = ring.logAddr;
    this.port.startRing(ring.index, queue, ring.enabled, ring.callFd);
    this.sharing.started(ring.index, queue, Math.floor(this.native.nowUs() / 1000));
    this.watchKick(ring.index, ring.kickFd);
    this.applyLog();
    this.kicked[ring.index] = 1; // kicks from before the start are not repeated
    this.linkChanged();
  }

  private stopRing(index: number): number {
    const side = index === RING_RECEIVE ? this.port.rx : this.port.tx;
    const queue = side.queue;
    this.publishAll();
    side.stop();
    this.sharing.stopped(index);
    this.unwatchKick(index);
    this.started[index] = 0;
    this.updatePolling();
    this.linkChanged();
    return queue === null ? 0 : queue.lastAvail;
  }

  private enable(index: number, enabled: boolean): void {
    const side = index === RING_RECEIVE ? this.port.rx : this.port.tx;
    side.enabled = enabled;
    if (enabled) {
      this.kicked[index] = 1;
    } else {
      // User-mode Linux frees a ring once its disabling is acknowledged: what this turn did is published before that.
      this.publishAll();
    }
    this.linkChanged();
  }

  /** What was done with the rings so far is the guest's to see, and it has been told. */
  private publishAll(): void {
    this.port.releaseReceived();
    this.port.endDelays();
    this.port.flush();
  }

  private setCall(index: number, fd: number): void {
    this.port.setCall(index, fd);
    // A notification may have gone to the descriptor just replaced: one too many does no harm.
    if (this.started[index] !== 0) this.port.call(index);
  }

  private setKick(index: number, fd: number): void {
    this.unwatchKick(index);
    this.watchKick(index, fd);
    this.kicked[index] = 1;
  }

  private watchKick(index: number, fd: number): void {
    this.kickFd[index] = fd;
    this.kickGeneration[index] = (this.kickGeneration[index] + 1) & 0x7fffffff;
    this.unread[index] = 0;
    const key = (KIND_KICK << KEY_KIND_SHIFT) | index;
    if (fd >= 0 && this.native.watch(fd, EPOLLIN | EPOLLET, key, this.kickGeneration[index]) < 0) {
      // No memory for a watch, or none left (epoll_ctl(2)): the ring is looked at as one without a kick descriptor.
      this.kickFd[index] = -1;
    }
    this.updatePolling();
  }

  private unwatchKick(index: number): void {
    const fd = this.kickFd[index];
    if (fd < 0) return;
    this.native.unwatch(fd);
    // Who looks at it next shall not find kicks that were answered.
    this.native.drain(fd);
    this.kickFd[index] = -1;
  }

  private updatePolling(): void {
    this.polling = false;
    for (let i = 0; i < RINGS; i++) if (this.started[i] !== 0 && this.kickFd[i] < 0) this.polling = true;
  }

  private linkChanged(): void {
    const up = this.port.up;
    if (up && !this.wasUp) this.stack?.onLinkUp();
    this.wasUp = up;
  }

  private applyLog(): void {
    this.port.rx.dirty = this.marker(RING_RECEIVE);
    this.port.tx.dirty = this.marker(RING_TRANSMIT);
  }

  private marker(index: number): DirtyLogMarker | null {
    const logAddr = this.logAddr[index];
    if (this.log === null || (!this.logAll && logAddr < 0)) return null;
    return new DirtyLogMarker(this.log, this.regions, logAddr, this.logAll);
  }
}
