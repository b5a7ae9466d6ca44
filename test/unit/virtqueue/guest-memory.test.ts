import { GuestMemory } from 'virtio-ring-ts';

const buf = (n: number): SharedArrayBuffer => new SharedArrayBuffer(n);

describe('GuestMemory', () => {
  it('translates inside a region and reports the bytes left in it', () => {
    const m = new GuestMemory();
    expect(m.add(4, buf(0x2000), 0x1000, 0x2000)).toBe(true);
    expect(m.translate(0x1000)).toBe(0x2000);
    expect([m.hitRegion, m.hitOffset]).toEqual([4, 0]);
    expect(m.translate(0x2fff)).toBe(1);
    expect([m.hitRegion, m.hitOffset]).toEqual([4, 0x1fff]);
  });

  it('returns 0 just outside, and for numbers no address can be', () => {
    const m = new GuestMemory();
    m.add(0, buf(0x1000), 0x1000, 0x1000);
    for (const gpa of [0, 0xfff, 0x2000, 2 ** 52, 2 ** 53, -1, NaN, Infinity]) expect(m.translate(gpa)).toBe(0);
  });

  it('finds every region of many, in any order of adding', () => {
    const m = new GuestMemory(64);
    const order = Array.from({ length: 64 }, (_, i) => (i * 37) % 64);
    for (const i of order) expect(m.add(i, buf(16), i * 32, 16)).toBe(true);
    for (let i = 0; i < 64; i++) {
      expect(m.translate(i * 32 + 5)).toBe(11);
      expect([m.hitRegion, m.hitOffset]).toEqual([i, 5]);
      expect(m.translate(i * 32 + 16)).toBe(0);
    }
    expect(m.add(64, buf(16), 64 * 32, 16)).toBe(false); // full
  });

  it('refuses overlaps, bad sizes and numbers in use', () => {
    const m = new GuestMemory();
    expect(m.add(1, buf(0x1000), 0x1000, 0x1000)).toBe(true);
    expect(m.add(2, buf(0x1000), 0x1fff, 0x1000)).toBe(false);
    expect(m.add(2, buf(0x1000), 0x0001, 0x1000)).toBe(false);
    expect(m.add(2, buf(0x4000), 0x0000, 0x4000)).toBe(false); // around it
    expect(m.add(2, buf(0x10), 0x1100, 0x10)).toBe(false); // inside it
    expect(m.add(1, buf(0x10), 0x9000, 0x10)).toBe(false); // number in use
    expect(m.add(2, buf(0x10), 0x9000, 0x11)).toBe(false); // past the buffer
    expect(m.add(2, buf(0x10), 0x9000, 0)).toBe(false);
    expect(m.add(2, buf(0x10), -16, 16)).toBe(false);
    expect(m.add(2, buf(0x10), 2 ** 53 - 8, 16)).toBe(false);
    expect(m.add(2, buf(0x10), 0.5, 16)).toBe(false);
    expect(m.add(-1, buf(0x10), 0x9000, 16)).toBe(false);
    expect(m.add(0x10000, buf(0x10), 0x9000, 16)).toBe(false);
    expect(m.add(2, buf(0x1000), 0x2000, 0x1000)).toBe(true); // touching is not overlapping
    expect(m.regionCount).toBe(2);
  });

  it('forgets removed and cleared regions, also the one hit last', () => {
    const m = new GuestMemory();
    m.add(1, buf(16), 0, 16);
    m.add(2, buf(16), 16, 16);
    expect(m.translate(20)).toBe(12);
    expect(m.remove(2)).toBe(true);
    expect(m.remove(2)).toBe(false);
    expect(m.translate(20)).toBe(0);
    expect(m.translate(3)).toBe(13);
    expect(m.add(2, buf(32), 16, 32)).toBe(true);
    expect(m.translate(40)).toBe(8);
    m.clear();
    expect(m.translate(3)).toBe(0);
    expect(m.view(1).byteLength).toBe(0);
  });

  it('shows a region through one cached view', () => {
    const m = new GuestMemory();
    const b = buf(16);
    m.add(9, b, 0, 8);
    expect(m.view(9)).toBe(m.view(9));
    expect(m.view(9).buffer).toBe(b);
    expect(m.view(9).byteLength).toBe(16);
    expect(m.view(8).byteLength).toBe(0);
    expect(m.view(-1).byteLength).toBe(0);
    expect(m.view(10_000).byteLength).toBe(0);
  });
});
