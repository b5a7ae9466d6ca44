/** A `VhostDevice` without a data plane: it writes down what it is asked, and answers when the test lets it. */
import type { DeviceMemoryRegion, DeviceRing, DirtyLog, VhostDevice } from '../../../src/vhost/device';

/** VIRTIO_NET_F_CSUM, GUEST_CSUM, MTU, GUEST_TSO4/6, HOST_TSO4/6, MRG_RXBUF; INDIRECT_DESC, EVENT_IDX; VERSION_1. */
export const FAKE_FEATURES = 0x1_3000_998bn;

/** What of them is offered when there is no configuration space to read an MTU from. */
export const OFFERED_FEATURES = FAKE_FEATURES & ~8n;

export class FakeDevice implements VhostDevice {
  readonly features = FAKE_FEATURES;
  readonly rings = 2;
  onRingFault: ((index: number, reason: string) => void) | null = null;
  onFailed: ((error: Error) => void) | null = null;

  /** Calls in order, as `name(argument,…)`. */
  readonly calls: string[] = [];
  attached = false;
  acked = 0n;
  memory: readonly DeviceMemoryRegion[] = [];
  dirtyLog: DirtyLog | null = null;
  readonly running = new Map<number, DeviceRing>();
  /** Next index that a stopped ring answers with: its base plus this. */
  progress = 0;
  mtu = 0;

  private readonly held = new Map<string, Promise<void>>();
  private readonly failing = new Map<string, Error>();

  /** Makes calls of `name` wait until the returned function is called. */
  hold(name: string): () => void {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      release = () => {
        this.held.delete(name);
        resolve();
      };
    });
    this.held.set(name, gate);
    return release;
  }

  /** Makes the next call of `name` reject. */
  failOn(name: string, error: Error): void {
    this.failing.set(name, error);
  }

  /** Settles once a call of `name` was made (now or earlier). */
  async called(name: string): Promise<void> {
    while (!this.calls.some((call) => call.startsWith(`${name}(`))) await new Promise((r) => setImmediate(r));
  }

  private async call(name: string, ...args: (number | bigint | string | boolean)[]): Promise<void> {
    this.calls.push(`${name}(${args.join(',')})`);
    const error = this.failing.get(name);
    this.failing.delete(name);
    if (error !== undefined) throw error;
    await this.held.get(name);
  }

  attach(): void {
    this.calls.push('attach()');
    this.attached = true;
  }

  async detach(): Promise<void> {
    await this.call('detach');
    this.attached = false;
    this.memory = [];
  }

  async setFeatures(features: bigint): Promise<void> {
    await this.call('setFeatures', `0x${features.toString(16)}`);
    this.acked = features;
  }

  async setMemory(regions: readonly DeviceMemoryRegion[]): Promise<void> {
    await this.call('setMemory', regions.length);
    this.memory = regions;
  }

  async startRing(ring: DeviceRing): Promise<void> {
    await this.call('startRing', ring.index);
    this.running.set(ring.index, ring);
  }

  async stopRing(index: number): Promise<number> {
    await this.call('stopRing', index);
    const ring = this.running.get(index);
    if (ring === undefined) throw new Error(`ring ${index} does not run`);
    this.running.delete(index);
    return (ring.base + this.progress) & 0xffff;
  }

  async setRingEnabled(index: number, enabled: boolean): Promise<void> {
    await this.change(index, { enabled }, 'setRingEnabled', enabled);
  }

  async setRingCall(index: number, callFd: number): Promise<void> {
    await this.change(index, { callFd }, 'setRingCall', callFd >= 0);
  }

  async setRingKick(index: number, kickFd: number): Promise<void> {
    await this.change(index, { kickFd }, 'setRingKick', kickFd >= 0);
  }

  async setRingErr(index: number, errFd: number): Promise<void> {
    await this.change(index, { errFd }, 'setRingErr', errFd >= 0);
  }

  async setRingLog(index: number, logAddr: number): Promise<void> {
    await this.change(index, { logAddr }, 'setRingLog', logAddr);
  }

  async setLog(log: DirtyLog | null): Promise<void> {
    await this.call('setLog', log !== null);
    this.dirtyLog = log;
  }

  async setMtu(mtu: number): Promise<void> {
    await this.call('setMtu', mtu);
    this.mtu = mtu;
  }

  async resetDevice(): Promise<void> {
    await this.call('resetDevice');
  }

  private async change(index: number, change: Partial<DeviceRing>, name: string, arg: number | boolean): Promise<void> {
    await this.call(name, index, arg);
    const ring = this.running.get(index);
    if (ring === undefined) throw new Error(`ring ${index} does not run`);
    this.running.set(index, { ...ring, ...change });
  }
}
