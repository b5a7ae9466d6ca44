/** Payloads of vhost-user requests, byte by byte as the specification lays them out: nothing is checked here. */

function build(size: number, fill: (dv: DataView) => void): Uint8Array {
  const bytes = new Uint8Array(size);
  fill(new DataView(bytes.buffer));
  return bytes;
}

export const EMPTY = new Uint8Array(0);

export function u64(value: bigint | number): Uint8Array {
  return build(8, (dv) => {
    dv.setBigUint64(0, BigInt(value), true);
  });
}

export function vringState(index: number, num: number): Uint8Array {
  return build(8, (dv) => {
    dv.setUint32(0, index, true);
    dv.setUint32(4, num, true);
  });
}

export interface VringAddrFields {
  readonly index: number;
  readonly flags?: number;
  readonly desc: bigint;
  readonly used: bigint;
  readonly avail: bigint;
  readonly log?: bigint;
}

export function vringAddr(a: VringAddrFields): Uint8Array {
  return build(40, (dv) => {
    dv.setUint32(0, a.index, true);
    dv.setUint32(4, a.flags ?? 0, true);
    dv.setBigUint64(8, a.desc, true);
    dv.setBigUint64(16, a.used, true);
    dv.setBigUint64(24, a.avail, true);
    dv.setBigUint64(32, a.log ?? 0n, true);
  });
}

export interface RegionFields {
  readonly gpa: bigint;
  readonly size: bigint;
  readonly uva: bigint;
  readonly offset: bigint;
}

function putRegion(dv: DataView, off: number, r: RegionFields): void {
  dv.setBigUint64(off, r.gpa, true);
  dv.setBigUint64(off + 8, r.size, true);
  dv.setBigUint64(off + 16, r.uva, true);
  dv.setBigUint64(off + 24, r.offset, true);
}

/** `count` and `size` may differ from what the regions make, for tests. */
export function memTable(
  regions: readonly RegionFields[],
  { count = regions.length, size = 8 + 32 * regions.length } = {},
): Uint8Array {
  return build(size, (dv) => {
    dv.setUint32(0, count, true);
    regions.forEach((region, i) => {
      putRegion(dv, 8 + 32 * i, region);
    });
  });
}

export function singleRegion(region: RegionFields): Uint8Array {
  return build(40, (dv) => {
    putRegion(dv, 8, region);
  });
}

export function logBase(size: bigint, offset: bigint): Uint8Array {
  return build(16, (dv) => {
    dv.setBigUint64(0, size, true);
    dv.setBigUint64(8, offset, true);
  });
}

export function config(offset: number, size: number, data = size): Uint8Array {
  return build(12 + data, (dv) => {
    dv.setUint32(0, offset, true);
    dv.setUint32(4, size, true);
  });
}
