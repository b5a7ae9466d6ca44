/** `FakeMemory` over the addon's regions and rows, so that a fake guest port works with real system calls. */
import type { Native } from '../../../src/native';
import type { Rows } from '../../../src/stack/ports';
import { FakeMemory } from './fake-guest-port';

export class NativeMemory extends FakeMemory {
  override readonly rows: Rows;
  private readonly native: Native;
  private readonly added: number[] = [];

  constructor(native: Native) {
    super(1);
    this.native = native;
    this.rows = native.rows;
  }

  override add(length: number): number {
    const region = this.native.allocRegion(length);
    if (region < 0) throw new Error(`allocRegion: errno ${String(-region)}`);
    this.regions[region] = new DataView(this.native.regionBuffer(region) as unknown as ArrayBuffer);
    this.added.push(region);
    return region;
  }

  retire(): void {
    for (const region of this.added) this.native.retireRegion(region);
  }
}
