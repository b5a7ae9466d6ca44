/**
 * State sent to the data plane's worker that a new worker needs: the front-end's features, memory, rings, log and
 * MTU, the stream's socket, the host's neighbours. Written before the command goes out.
 */
import type { DeviceMemoryRegion, DeviceRing, DirtyLog } from '../vhost/device';
import { BASE_FROM_USED_INDEX, type Command } from '../dataplane/commands';

const USED_IDX = 2;

export class DeviceMirror {
  features = 0n;
  regions: readonly DeviceMemoryRegion[] = [];
  readonly rings = new Map<number, DeviceRing>();
  log: DirtyLog | null = null;
  streamFd = -1;
  /** The namespace's tap device and its offloads; null: the guest is none. */
  tap: { readonly fd: number; readonly offloads: number } | null = null;
  neighbours: Int32Array | null = null;
  /** NET_SET_MTU; 0: none. */
  mtu = 0;

  /** True if anything here comes from a front-end, which may then be what a worker died of. */
  get ofFrontEnd(): boolean {
    return (
      this.features !== 0n ||
      this.mtu !== 0 ||
      this.regions.length > 0 ||
      this.rings.size > 0 ||
      this.log !== null ||
      this.streamFd >= 0
    );
  }

  changeRing(index: number, fields: Partial<DeviceRing>): void {
    const ring = this.rings.get(index);
    if (ring !== undefined) this.rings.set(index, { ...ring, ...fields });
  }

  /** Forgets the front-end; the host's side stays. */
  forgetFrontEnd(): void {
    this.features = 0n;
    this.regions = [];
    this.rings.clear();
    this.log = null;
    this.streamFd = -1;
    this.mtu = 0;
  }

  /** The commands that bring a new worker to where the old one was, without rings in `stopped`. */
  commands(stopped: ReadonlySet<number>): Command[] {
    const list: Command[] = [];
    if (this.neighbours !== null) list.push({ kind: 'neighbours', entries: this.neighbours });
    if (this.tap !== null) list.push({ kind: 'tapOpen', ...this.tap });
    if (!this.ofFrontEnd) return list;
    list.push({ kind: 'features', features: this.features });
    list.push({ kind: 'memory', regions: this.regions });
    list.push({ kind: 'log', log: this.log });
    if (this.mtu !== 0) list.push({ kind: 'mtu', mtu: this.mtu });
    if (this.streamFd >= 0) list.push({ kind: 'streamOpen', fd: this.streamFd });
    for (const ring of this.rings.values()) {
      if (!stopped.has(ring.index)) list.push({ kind: 'startRing', ring: { ...ring, base: BASE_FROM_USED_INDEX } });
    }
    return list;
  }

  /** used.idx of a ring from guest memory: how far a worker came that cannot tell any more. */
  usedIndex(index: number): number {
    const ring = this.rings.get(index);
    const region = this.regions.find((r) => r.region === ring?.used.region);
    if (ring === undefined || region === undefined) return 0;
    return Atomics.load(new Uint16Array(region.buffer, ring.used.offset + USED_IDX, 1), 0);
  }
}
