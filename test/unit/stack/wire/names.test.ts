import { encodeName, encodeNames, encodeSearchList } from '../../../../src/stack/wire/domain-name';

/** Names of a search list (RFC 3397), following pointers; throws if one does not point backwards. */
function decode(data: Uint8Array): string[] {
  const names: string[] = [];
  let at = 0;
  while (at < data.length) {
    const labels: string[] = [];
    let i = at;
    let next = -1;
    while (data[i] !== 0) {
      if (data[i] >= 0xc0) {
        const to = ((data[i] & 0x3f) << 8) | data[i + 1];
        if (to >= i) throw new Error('pointer not backwards');
        if (next < 0) next = i + 2;
        i = to;
      } else {
        labels.push(Buffer.from(data.subarray(i + 1, i + 1 + data[i])).toString());
        i += 1 + data[i];
      }
      if (i >= data.length) throw new Error('past the end');
    }
    at = next < 0 ? i + 1 : next;
    names.push(labels.join('.'));
  }
  return names;
}

describe('domain names', () => {
  test('one name', () => {
    expect(Buffer.from(encodeName('a.example.') ?? []).toString('latin1')).toBe('\x01a\x07example\0');
  });

  test.each(['', '.', 'a..b', `${'x'.repeat(64)}.test`, Array(130).fill('a').join('.')])('no name: %j', (name) => {
    expect(encodeName(name)).toBeNull();
  });

  test('the longest label and name', () => {
    const longest = [63, 63, 63, 61].map((n) => 'x'.repeat(n)).join('.');
    expect(encodeName(longest)?.length).toBe(255);
    expect(encodeName(`${longest}y`)).toBeNull();
  });

  test('names one after the other, within the limit', () => {
    expect(encodeNames(['ab', '', 'cd'], 8)).toEqual(Uint8Array.from([2, 97, 98, 0, 2, 99, 100, 0]));
    expect(encodeNames(['abcdefgh', 'cd'], 8)).toEqual(Uint8Array.from([2, 99, 100, 0]));
  });

  test.each([
    [['example.com', 'lab.example.com', 'com', 'other.test', 'x.LAB.example.com', 'test'], 39],
    [['a.b', 'a.b'], 7],
    [['b', 'a.b'], 7],
  ])('search list %j', (names, length) => {
    const data = encodeSearchList(names, 255);
    expect(decode(data).map((n) => n.toLowerCase())).toEqual(names.map((n) => n.toLowerCase()));
    expect(data.length).toBe(length);
  });

  test('entries that do not fit are left out and not pointed at', () => {
    const data = encodeSearchList(['aaaaaaaaaaaaaaaa.b', 'x', 'y.b'], 10);
    expect(decode(data)).toEqual(['x', 'y.b']);
  });
});
