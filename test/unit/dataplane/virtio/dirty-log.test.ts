import { DirtyLogMarker } from '../../../../src/dataplane/virtio/dirty-log';
import { loadNative } from '../../../../src/native';

const PAGE = 4096;

describe('a dirty log longer than V8 has typed arrays', () => {
  const native = loadNative();
  const size = 2 ** 38; // as long as any address calls for
  let fd = -1;
  let region = -1;
  let log: DataView;

  beforeAll(() => {
    fd = native.memfdCreate('log', size, 0);
    region = native.mapRegion(fd, 0, size);
    log = new DataView(native.regionBuffer(region));
  });

  afterAll(() => {
    native.retireRegion(region);
    native.close(fd);
  });

  test.each([0, 2 ** 45 - PAGE, 2 ** 45, 2 ** 48, 2 ** 53 - 2 * PAGE])('pages at guest-physical %d', (gpa) => {
    const rows = {
      region: Int32Array.of(7),
      offset: Float64Array.of(PAGE - 1),
      length: Int32Array.of(100),
      capacity: 1,
    };
    const marker = new DirtyLogMarker(
      { region, buffer: native.regionBuffer(region) },
      [{ region: 7, buffer: new SharedArrayBuffer(0), gpa, size: 2 * PAGE }],
      -1,
      true,
    );
    marker.segments(rows, 0, 1, 100); // one byte of the first page, the rest in the next
    for (const page of [gpa / PAGE, gpa / PAGE + 1]) {
      expect((log.getUint8(Math.floor(page / 8)) >>> (page % 8)) & 1).toBe(1);
    }
    const after = gpa / PAGE + 2;
    if (after < 8 * size) expect((log.getUint8(Math.floor(after / 8)) >>> (after % 8)) & 1).toBe(0);
  });

  test('what lies beyond a short log is not marked', () => {
    const marker = new DirtyLogMarker({ region, buffer: new SharedArrayBuffer(1) }, [], 8 * PAGE, true);
    expect(() => marker.usedIndex()).not.toThrow();
  });
});
