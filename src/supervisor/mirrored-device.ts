/**
 * The device that front-ends are given (`VhostDevice`, `StreamDevice`), as commands to the data plane. What a new worker
 * would need is mirrored (device-mirror.ts) before the command goes out.
 */
import type { Command } from '../dataplane/commands';
import { featureNames, offeredFeatures } from '../dataplane/virtio/features';
import type { StreamDevice, StreamEnd } from '../stream/device';
import type { DeviceMemoryRegion, DeviceRing, DirtyLog, VhostDevice } from '../vhost/device';
import { DeviceMirror } from './device-mirror';

export abstract class MirroredDevice implements VhostDevice, StreamDevice {
  readonly features = offeredFeatures(process.env.TUBETTI_FEATURES);
  readonly rings = 2;
  onRingFault: ((index: number, reason: string) => void) | null = null;
  onFailed: ((error: Error) => void) | null = null;
  onStreamEnded: ((end: StreamEnd) => void) | null = null;

  protected readonly mirror = new DeviceMirror();
  /** The front-end's session ended here; what it still says is answered, and done by nobody. */
  protected failed = false;

  /** Settles with the answer of the data plane. `takesCall`: the call descriptor that the command replaces; -1: none. */
  protected abstract send(command: Command, takesCall?: number): Promise<number>;

  /** Another front-end is there. */
  protected newSession(): void {
    this.failed = false;
  }

  /** What the front-end negotiated, by the names that TUBETTI_FEATURES takes. */
  get negotiated(): readonly string[] {
    return featureNames(this.mirror.features);
  }

  /**
   * Has the data plane write what is known of the guest to `out`, which is shared memory (src/stack/link/seen.ts).
   * Settles with the number of addresses; 0 and an `out` as it was: there is no data plane at this moment.
   */
  describeGuest(out: Int32Array): Promise<number> {
    return this.send({ kind: 'describeGuest', out });
  }

  attach(): void {
    this.newSession();
  }

  async detach(): Promise<void> {
    await this.setLog(null);
    await this.setMemory([]);
    if (this.mirror.mtu !== 0) await this.setMtu(0);
    // The front-end's session is over: what it negotiated is not what a worker dies of from now on.
    this.mirror.forgetFrontEnd();
  }

  async setFeatures(features: bigint): Promise<void> {
    if (!this.failed) this.mirror.features = features;
    await this.send({ kind: 'features', features });
  }

  async setMemory(regions: readonly DeviceMemoryRegion[]): Promise<void> {
    if (!this.failed) this.mirror.regions = regions;
    await this.send({ kind: 'memory', regions });
  }

  async startRing(ring: DeviceRing): Promise<void> {
    if (!this.failed) this.mirror.rings.set(ring.index, ring);
    await this.send({ kind: 'startRing', ring });
  }

  async stopRing(index: number): Promise<number> {
    const value = await this.send({ kind: 'stopRing', index });
    this.mirror.rings.delete(index);
    return value;
  }

  async setRingEnabled(index: number, enabled: boolean): Promise<void> {
    this.mirror.changeRing(index, { enabled });
    await this.send({ kind: 'enable', index, enabled });
  }

  async setRingCall(index: number, callFd: number): Promise<void> {
    const takesCall = this.mirror.rings.get(index)?.callFd ?? -1;
    this.mirror.changeRing(index, { callFd });
    await this.send({ kind: 'call', index, fd: callFd }, takesCall);
  }

  async setRingKick(index: number, kickFd: number): Promise<void> {
    this.mirror.changeRing(index, { kickFd });
    await this.send({ kind: 'kick', index, fd: kickFd });
  }

  setRingErr(index: number, errFd: number): Promise<void> {
    this.mirror.changeRing(index, { errFd }); // the session signals it
    return Promise.resolve();
  }

  async setRingLog(index: number, logAddr: number): Promise<void> {
    this.mirror.changeRing(index, { logAddr });
    await this.send({ kind: 'logRing', index, logAddr });
  }

  async setLog(log: DirtyLog | null): Promise<void> {
    if (!this.failed) this.mirror.log = log;
    await this.send({ kind: 'log', log });
  }

  /** NET_SET_MTU of the front-end; 0: it left. */
  async setMtu(mtu: number): Promise<void> {
    if (!this.failed) this.mirror.mtu = mtu;
    await this.send({ kind: 'mtu', mtu });
  }

  async resetDevice(): Promise<void> {
    await this.send({ kind: 'reset' });
  }

  async openStream(fd: number): Promise<void> {
    this.newSession();
    this.mirror.streamFd = fd;
    await this.send({ kind: 'streamOpen', fd });
  }

  async closeStream(): Promise<void> {
    this.mirror.streamFd = -1;
    await this.send({ kind: 'streamClose' });
  }

  /** Serves a namespace by its tap device, which stays the caller's, until the data plane ends or `onStreamEnded`. */
  async openTap(fd: number, offloads: number): Promise<void> {
    this.mirror.tap = { fd, offloads };
    await this.send({ kind: 'tapOpen', fd, offloads });
  }

  async probeStream(): Promise<boolean> {
    return (await this.send({ kind: 'streamProbe' })) === 1;
  }
}
