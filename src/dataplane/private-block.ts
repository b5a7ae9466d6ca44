/** Memory of the data plane's own that rows can name. */
import { getSystemErrorName } from 'node:util';
import type { Native } from '../native';

/** A region and a view of all of it. */
export interface PrivateBlock {
  readonly region: number;
  readonly view: DataView;
}

/** Throws Error if there is no memory: at start, where nothing works without it. */
export function allocateBlock(native: Pick<Native, 'allocRegion' | 'regionBuffer'>, size: number): PrivateBlock {
  const region = native.allocRegion(size);
  if (region < 0) throw new Error(`cannot allocate memory (${getSystemErrorName(region)})`);
  return { region, view: new DataView(native.regionBuffer(region)) };
}
