/**
 * Commands to the data plane that are not of front-ends: the host's network, policy and rates, forwarded ports, flows,
 * captures. What a later worker has to know of them is kept in `setup`, with which it begins.
 */
import type { CaptureStart } from '../dataplane/commands';
import type { Adoption, ForwardChange, LinkRates, StackConfig } from '../stack/config';
import type { PolicySetup } from '../stack/policy/types';
import { MirroredDevice } from './mirrored-device';
import type { DataPlaneSetup, Look } from './setup';

export abstract class HostOrders extends MirroredDevice {
  /** What workers begin with; null: none has begun. */
  protected setup: DataPlaneSetup | null = null;

  /** The worker that runs; 0: none does. */
  protected abstract get workerId(): number;

  /** The host's network changed. Only after `begin`. */
  async setConfig(config: StackConfig): Promise<void> {
    this.change({ config });
    await this.send({ kind: 'config', config });
  }

  /** Whom the guest may talk to. Only after `begin`. When it settles, flows that it forbids are closed. */
  async setPolicy(policy: PolicySetup): Promise<void> {
    this.change({ policy });
    await this.send({ kind: 'policy', setup: policy });
  }

  /** How much may pass on the guest's link. Only after `begin`. */
  async setRates(rates: LinkRates): Promise<void> {
    this.change({ rates });
    await this.send({ kind: 'rates', rates });
  }

  /** What a later worker begins with. */
  private change(part: Partial<DataPlaneSetup>): void {
    if (this.setup === null) throw new Error('the data plane was not started');
    this.setup = { ...this.setup, ...part };
  }

  /**
   * Forwarded ports come and go; those that are removed may be closed when this has settled. Only after `begin`.
   */
  async forward(change: ForwardChange): Promise<void> {
    if (this.setup === null) throw new Error('the data plane was not started');
    const { remove, add } = change;
    const gone = new Set(remove);
    const kept = this.setup.listeners.filter(({ fd }) => !gone.has(fd));
    this.setup = { ...this.setup, listeners: [...kept, ...add] };
    await this.send({ kind: 'forward', change });
  }

  /** The socket to who makes sockets in the namespace; it stays the caller's. Only after `begin`. */
  async setBypass(channel: number): Promise<void> {
    const { bypass } = this.setup ?? {};
    if (bypass === undefined || bypass === null) throw new Error('the data plane has no bypass');
    this.change({ bypass: { ...bypass, channel } });
    await this.send({ kind: 'bypass', fd: channel });
  }

  /** Gives the guest a connection. False: it could not be taken. The listener stays the caller's. */
  async adopt(adoption: Adoption): Promise<boolean> {
    return (await this.send({ kind: 'adopt', adoption })) === 1;
  }

  /** A capture begins. False: it cannot. Only after `begin`. `onCaptureEnded` follows, or the worker dies. */
  async startCapture(start: CaptureStart): Promise<boolean> {
    return (await this.send({ kind: 'captureStart', ...start })) === 1;
  }

  /** One ends, see the command. When it settles with true, or `now`, its descriptor is not used any more. */
  async stopCapture(id: number, now: boolean): Promise<boolean> {
    return (await this.send({ kind: 'captureStop', id, now })) === 1;
  }

  /** The host's addresses or routes changed: connected sockets of datagrams are looked at when they are used next. */
  async hostMoved(): Promise<void> {
    await this.send({ kind: 'moved' });
  }

  /** The host's neighbours, all of them, in the form of the stack's neighbour table. */
  async setNeighbours(entries: Int32Array): Promise<void> {
    this.mirror.neighbours = entries.slice();
    await this.send({ kind: 'neighbours', entries });
  }

  /**
   * Has the data plane describe flows in `into`: see the command. `worker` names the one that did, whose slots and
   * generations say nothing of another's; `next` is LOOK_GONE if it is gone.
   */
  async lookAtFlows(into: SharedArrayBuffer, look: Look): Promise<{ worker: number; next: number }> {
    const worker = this.workerId;
    return { worker, next: await this.send({ kind: 'flows', into, ...look }) };
  }

  /** Closes a flow of worker `worker`. False: there is none (any more). */
  async closeFlow(worker: number, protocol: number, slot: number, generation: number): Promise<boolean> {
    if (worker === 0 || this.workerId !== worker) return false;
    return (await this.send({ kind: 'closeFlow', protocol, slot, generation })) === 1;
  }
}
