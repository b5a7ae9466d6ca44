/**
 * The device's rings: what each SET_VRING_* message does to a ring's state and to the device behind it.
 *
 * Only one call runs at a time (messages are handled in order); only `fault` may come at any moment. Descriptors given
 * to the device stay open until the device has confirmed that it uses others.
 *
 * A ring is stopped by GET_VRING_BASE. User-mode Linux never sends that: a driver that lets go of the device disables
 * the rings, and the next one sets them up again. So a set-up message for a ring that is started but disabled stops it
 * first (`stopDisabled`); for a ring that is enabled it breaks the protocol.
 */
import type { Native } from '../native';
import { FD_EVENTFD, FD_PIPE, FD_SOCKET } from '../native';
import type { ReceivedFds } from './connection';
import type { VhostDevice } from './device';
import { isShortage, ProtocolError, shortage } from './protocol-errors';
import type { LogFunction } from './log';
import type { MappedRegion } from './memory-table';
import { MemoryTable } from './memory-table';
import type { VringAddr, VringFd, VringState } from './messages';
import {
  validateFds,
  validateVringAddr,
  validateVringBase,
  validateVringEnable,
  validateVringIndex,
  validateVringLog,
  validateVringNum,
} from './messages';
import { VHOST_VRING_F_LOG } from './protocol';
import type { RingPlaces } from './ring-state';
import { RingState, samePlaces } from './ring-state';

export class Rings {
  private readonly native: Native;
  private readonly device: VhostDevice;
  private readonly memory: MemoryTable;
  private readonly log: LogFunction;
  private readonly rings: readonly RingState[];

  constructor(native: Native, device: VhostDevice, memory: MemoryTable, log: LogFunction) {
    this.native = native;
    this.device = device;
    this.memory = memory;
    this.log = log;
    this.rings = Array.from({ length: device.rings }, (_, index) => new RingState(index));
  }

  get anyStarted(): boolean {
    return this.rings.some((ring) => ring.started);
  }

  /** SET_VRING_NUM. */
  async setNum(state: VringState): Promise<void> {
    const ring = this.ring(state.index);
    validateVringNum(state);
    await this.stopDisabled(ring, 'SET_VRING_NUM');
    ring.size = state.num;
    await this.startIfComplete(ring);
  }

  /** SET_VRING_BASE. */
  async setBase(state: VringState): Promise<void> {
    const ring = this.ring(state.index);
    validateVringBase(state);
    await this.stopDisabled(ring, 'SET_VRING_BASE');
    ring.base = state.num;
  }

  /** SET_VRING_ADDR. On a running ring it may only switch logging (a migration begins or was given up). */
  async setAddr(addr: VringAddr): Promise<void> {
    const ring = this.ring(addr.index);
    validateVringAddr(addr);
    if ((addr.flags & VHOST_VRING_F_LOG) !== 0) validateVringLog(addr);
    const old = ring.addr;
    const moves = addr.desc !== old?.desc || addr.avail !== old.avail || addr.used !== old.used;
    if (moves) await this.stopDisabled(ring, 'SET_VRING_ADDR to another place');
    ring.addr = addr;
    if (ring.started) await this.device.setRingLog(ring.index, ring.logAddr);
    else await this.startIfComplete(ring);
  }

  /** SET_VRING_KICK: starts the ring if nothing is missing, also one that was disabled. A running one keeps running. */
  async setKick(vring: VringFd, fds: ReceivedFds): Promise<void> {
    const ring = this.ring(vring.index);
    const fd = this.takeFd('SET_VRING_KICK', vring, fds);
    // What else was said still holds: a front-end that sets the ring up again has sent new values before this.
    if (ring.started && !ring.enabled) await this.stop(ring);
    const old = ring.replaceKick(fd);
    if (ring.started) await this.device.setRingKick(ring.index, fd);
    this.close(old);
    if (ring.started || !ring.complete || this.memory.regions.length === 0) return;
    const places = this.resolve(ring, this.memory.regions);
    if (places === null) {
      throw new ProtocolError('VU_ERR_RING_ADDRESS', `ring ${ring.index} is not in guest memory`);
    }
    await this.start(ring, places);
  }

  /** SET_VRING_CALL: at any time; a running ring may get another descriptor whenever the guest masks a vector. */
  async setCall(vring: VringFd, fds: ReceivedFds): Promise<void> {
    const ring = this.ring(vring.index);
    const fd = this.takeFd('SET_VRING_CALL', vring, fds);
    const old = ring.replaceCall(fd);
    if (ring.started) await this.device.setRingCall(ring.index, fd);
    this.close(old);
  }

  /** SET_VRING_ERR. */
  async setErr(vring: VringFd, fds: ReceivedFds): Promise<void> {
    const ring = this.ring(vring.index);
    const fd = this.takeFd('SET_VRING_ERR', vring, fds);
    const old = ring.replaceErr(fd);
    if (ring.started) await this.device.setRingErr(ring.index, fd);
    this.close(old);
  }

  /** SET_VRING_ENABLE: remembered for a stopped ring. */
  async setEnabled(state: VringState): Promise<void> {
    const ring = this.ring(state.index);
    validateVringEnable(state);
    await this.enable(ring, state.num === 1);
  }

  /** SET_FEATURES without VHOST_USER_F_PROTOCOL_FEATURES: such a front-end knows no SET_VRING_ENABLE. */
  async enableAll(): Promise<void> {
    for (const ring of this.rings) await this.enable(ring, true);
  }

  /**
   * GET_VRING_BASE: settles with the ring's next index once nothing touches the ring any more. A ring that never ran
   * answers with what SET_VRING_BASE said.
   */
  async getBase(index: number): Promise<number> {
    const ring = this.ring(index);
    if (ring.started) await this.stop(ring);
    const base = ring.base;
    this.forget(ring);
    return base;
  }

  /** Stops, disables and forgets all rings (RESET_DEVICE, RESET_OWNER). */
  async reset(): Promise<void> {
    for (const ring of this.rings) {
      if (ring.started) await this.stop(ring);
      this.forget(ring);
      ring.enabled = false;
    }
  }

  /**
   * The memory map is about to become `regions`: stops the running rings that move with it or lie outside of it.
   * `resume` starts them, and those that waited for memory, in the map then in force.
   */
  async suspendMoved(regions: readonly MappedRegion[]): Promise<readonly RingState[]> {
    const moved: RingState[] = [];
    for (const ring of this.rings) {
      if (!ring.started || ring.places === null) continue;
      const places = this.resolve(ring, regions);
      if (places !== null && samePlaces(places, ring.places)) continue;
      await this.stop(ring);
      moved.push(ring);
    }
    return moved;
  }

  async resume(moved: readonly RingState[]): Promise<void> {
    for (const ring of this.rings) {
      if (ring.started || !ring.complete) continue;
      const started = await this.startIfComplete(ring);
      if (!started && moved.includes(ring)) this.fault(ring.index, 'its memory was removed from the memory table');
    }
  }

  /** A ring broke: tells the front-end through the ring's err descriptor, and the log once a start. */
  fault(index: number, reason: string): void {
    const ring = this.rings[index];
    if (ring.faulted) return;
    ring.faulted = true;
    if (ring.errFd >= 0) this.native.signalLater(ring.errFd);
    this.log('warn', `ring ${index} stopped: ${reason}`, 'vhost.ring');
  }

  /** End of the session: stops what runs, whatever a single ring answers. `onError` takes rejections. */
  async stopAll(onError: (error: unknown) => void): Promise<void> {
    for (const ring of this.rings) {
      try {
        if (ring.started) await this.stop(ring);
      } catch (error) {
        onError(error);
      }
      ring.enabled = false;
    }
  }

  /** Closes every descriptor. The device uses none any more. */
  closeAll(): void {
    for (const ring of this.rings) {
      this.forget(ring);
      this.close(ring.replaceErr(-1));
    }
  }

  private ring(index: number): RingState {
    validateVringIndex(index, this.rings.length);
    return this.rings[index];
  }

  /**
   * Before a set-up message: stops the ring if it runs disabled, and forgets where it was and its kick descriptor, so
   * that it does not start before it is set up again. The call descriptor stays: User Mode Linux sends the new one
   * first.
   */
  private async stopDisabled(ring: RingState, message: string): Promise<void> {
    if (!ring.started) return;
    if (ring.enabled) {
      throw new ProtocolError('VU_ERR_RING_RUNNING', `${message} for ring ${ring.index} while it runs`);
    }
    await this.stop(ring);
    this.close(ring.forgetPlace());
  }

  /**
   * The one descriptor of a message that says it has one. Files are refused: always readable, they would keep the
   * data plane awake for nothing. So are sockets of other families, whose calls may wait for a network.
   */
  private takeFd(name: string, vring: VringFd, fds: ReceivedFds): number {
    validateFds(name, fds.count, vring.hasFd ? 1 : 0);
    if (!vring.hasFd) return -1;
    const kind = this.native.fdKind(fds.peek(0));
    if (isShortage(kind)) throw shortage(`${name}: its descriptor cannot be inspected`, kind);
    if (kind !== FD_EVENTFD && kind !== FD_SOCKET && kind !== FD_PIPE) {
      throw new ProtocolError(
        'VU_ERR_FD_KIND',
        `${name} with a descriptor that is not an eventfd, unix socket or pipe`,
      );
    }
    // For kernels that have no other way to ring an eventfd; the front-end may undo it (see event_fd.cc).
    this.native.setNonBlocking(fds.peek(0));
    return fds.take();
  }

  /** Each part of the ring, whole, in one region each: checking first bytes only was CVE-2018-1059. */
  private resolve(ring: RingState, regions: readonly MappedRegion[]): RingPlaces | null {
    const { addr, size } = ring;
    if (addr === null) return null;
    const desc = MemoryTable.translate(regions, addr.desc, 16 * size);
    const avail = MemoryTable.translate(regions, addr.avail, 6 + 2 * size);
    const used = MemoryTable.translate(regions, addr.used, 6 + 8 * size);
    return desc === null || avail === null || used === null ? null : { desc, avail, used };
  }

  /** Starts a stopped ring if all is there and in memory. If not, something that is still to come may complete it. */
  private async startIfComplete(ring: RingState): Promise<boolean> {
    if (!ring.complete) return false;
    const places = this.resolve(ring, this.memory.regions);
    if (places === null) return false;
    await this.start(ring, places);
    return true;
  }

  private async start(ring: RingState, places: RingPlaces): Promise<void> {
    ring.started = true;
    ring.faulted = false;
    ring.places = places;
    await this.device.startRing(ring.describe(places));
  }

  private async stop(ring: RingState): Promise<void> {
    ring.base = await this.device.stopRing(ring.index);
    ring.started = false;
    ring.places = null;
  }

  private async enable(ring: RingState, enabled: boolean): Promise<void> {
    const changed = ring.enabled !== enabled;
    ring.enabled = enabled;
    if (ring.started && changed) await this.device.setRingEnabled(ring.index, enabled);
  }

  private forget(ring: RingState): void {
    for (const fd of ring.forget()) this.close(fd);
  }

  private close(fd: number): void {
    if (fd >= 0) this.native.closeLater(fd);
  }
}
