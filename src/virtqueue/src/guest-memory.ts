/**
 * The guest's physical address space as a list of mapped regions: translates guest-physical addresses (gpa) into
 * (region number, offset). Knows nothing of rings.
 *
 * Regions are kept sorted by gpa in struct-of-arrays; look-up tries the region hit last, then a binary search, so that
 * neither the usual case (one or two regions) nor a front-end with hundreds of memory slots costs much. Nothing
 * allocates after `add`.
 */

/** Region numbers index a table of views; anything above is a caller's mistake, not a region. */
const MAX_REGION_NUMBER = 0xffff;

const EMPTY_VIEW = new DataView(new ArrayBuffer(0));

export class GuestMemory {
  /** Result of the last successful `translate`: region number, byte offset in its buffer, index in address order. */
  hitRegion: number;
  hitOffset: number;
  hitIndex: number;

  private count: number;
  private readonly gpas: Float64Array;
  private readonly sizes: Float64Array;
  private readonly regions: Int32Array;
  /** By region number. */
  private readonly views: DataView[];

  /** `maxRegions`: how many regions `add` accepts at the same time. */
  constructor(maxRegions = 512) {
    this.hitRegion = -1;
    this.hitOffset = 0;
    this.hitIndex = 0;
    this.count = 0;
    this.gpas = new Float64Array(maxRegions);
    this.sizes = new Float64Array(maxRegions);
    this.regions = new Int32Array(maxRegions).fill(-1);
    this.views = [];
  }

  /** Number of regions. */
  get regionCount(): number {
    return this.count;
  }

  /** Forgets all regions and their buffers. */
  clear(): void {
    this.count = 0;
    this.hitRegion = -1;
    this.hitOffset = 0;
    this.hitIndex = 0;
    this.views.fill(EMPTY_VIEW);
  }

  /**
   * Adds region number `region` (0 … 65535, not in use): `size` bytes at guest-physical address `gpa` are the first
   * `size` bytes of `buffer`. Returns false, and changes nothing, if the range is empty, reaches past 2^53 or past the
   * buffer's end, or overlaps another region, and if the table is full. Voids `hitIndex`.
   */
  add(region: number, buffer: SharedArrayBuffer | ArrayBuffer, gpa: number, size: number): boolean {
    if (!Number.isInteger(region) || region < 0 || region > MAX_REGION_NUMBER) return false;
    if (!Number.isSafeInteger(gpa) || gpa < 0 || !Number.isSafeInteger(size) || size <= 0) return false;
    if (!Number.isSafeInteger(gpa + size) || size > buffer.byteLength) return false;
    if (this.count === this.gpas.length) return false;
    let at = 0;
    for (let i = 0; i < this.count; i++) {
      if (this.regions[i] === region) return false;
      if (gpa < this.gpas[i] + this.sizes[i] && this.gpas[i] < gpa + size) return false;
      if (this.gpas[i] < gpa) at = i + 1;
    }
    this.gpas.copyWithin(at + 1, at, this.count);
    this.sizes.copyWithin(at + 1, at, this.count);
    this.regions.copyWithin(at + 1, at, this.count);
    this.gpas[at] = gpa;
    this.sizes[at] = size;
    this.regions[at] = region;
    this.count++;
    this.hitIndex = 0;
    // Dense on purpose: a table with holes would become a dictionary and slow every header access.
    while (this.views.length <= region) this.views.push(EMPTY_VIEW);
    // eslint-disable-next-line no-restricted-syntax -- memory tables change a few times in a guest's life
    this.views[region] = new DataView(buffer);
    return true;
  }

  /** Forgets a region. Returns false if there is no such region. Voids `hitIndex`. */
  remove(region: number): boolean {
    for (let i = 0; i < this.count; i++) {
      if (this.regions[i] !== region) continue;
      this.gpas.copyWithin(i, i + 1, this.count);
      this.sizes.copyWithin(i, i + 1, this.count);
      this.regions.copyWithin(i, i + 1, this.count);
      this.count--;
      this.hitIndex = 0;
      this.views[region] = EMPTY_VIEW;
      return true;
    }
    return false;
  }

  /**
   * Finds the region that holds `gpa` and sets the `hit…` fields. Returns how many bytes follow from `gpa` to the end
   * of that region (at least 1), or 0 if the address is not mapped (the fields then keep their values).
   */
  translate(gpa: number): number {
    let i = this.hitIndex;
    if (i < this.count) {
      const off = gpa - this.gpas[i];
      const left = this.sizes[i] - off;
      if (off >= 0 && left > 0) {
        this.hitRegion = this.regions[i];
        this.hitOffset = off;
        return left;
      }
    }
    i = this.search(gpa);
    if (i < 0) return 0;
    const off = gpa - this.gpas[i];
    this.hitIndex = i;
    this.hitRegion = this.regions[i];
    this.hitOffset = off;
    return this.sizes[i] - off;
  }

  /**
   * The whole buffer of a region, by region number. An unknown region gives an empty view, on which every access
   * throws RangeError: naming one is a bug of the caller's, never the guest's doing.
   */
  view(region: number): DataView {
    return region >= 0 && region < this.views.length ? this.views[region] : EMPTY_VIEW;
  }

  /** Binary search: index of the region that holds `gpa`, or -1. */
  private search(gpa: number): number {
    let low = 0;
    let high = this.count;
    while (low < high) {
      const mid = (low + high) >>> 1;
      if (this.gpas[mid] <= gpa) low = mid + 1;
      else high = mid;
    }
    const i = low - 1;
    return i >= 0 && gpa - this.gpas[i] < this.sizes[i] ? i : -1;
  }
}
