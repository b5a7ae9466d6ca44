import { parseExposition, quantile, sumOf } from '../../../src/page/exposition';

const PAGE = `# HELP a_total Some.
# TYPE a_total counter
a_total{direction="to_guest",protocol="tcp"} 5
a_total{direction="to_guest",protocol="udp"} 7
a_total{direction="from_guest",protocol="tcp"} 1e3
plain 0.25
odd{rule="a\\"b\\\\c\\nd",le="+Inf"} 1
nonsense
`;

test('samples by name, with their labels', () => {
  const samples = parseExposition(PAGE);
  expect([...samples.keys()]).toEqual(['a_total', 'plain', 'odd']);
  expect(samples.get('odd')).toEqual([{ labels: { rule: 'a"b\\c\nd', le: '+Inf' }, value: 1 }]);
  expect(sumOf(samples, 'plain')).toBe(0.25);
  expect(sumOf(samples, 'a_total')).toBe(1012);
  expect(sumOf(samples, 'a_total', { direction: 'to_guest' })).toBe(12);
  expect(sumOf(samples, 'a_total', { direction: 'to_guest', protocol: 'udp' })).toBe(7);
  expect(sumOf(samples, 'a_total', { direction: 'sideways' })).toBe(0);
  expect(sumOf(samples, 'none')).toBe(0);
});

describe('quantiles, as histogram_quantile() has them', () => {
  const histogram = (...counts: number[]): ReturnType<typeof parseExposition> =>
    parseExposition(['1', '2', '4', '+Inf'].map((le, i) => `h_bucket{le="${le}"} ${counts[i]}`).join('\n'));
  const none = parseExposition('');

  test.each<[string, number[], number, number | null]>([
    ['nothing counted', [0, 0, 0, 0], 0.5, null],
    ['the middle of the first bucket', [10, 10, 10, 10], 0.5, 0.5],
    ['the end of the second', [5, 10, 10, 10], 1, 2],
    ['within the third', [0, 0, 8, 8], 0.25, 2.5],
    ['beyond all bounds', [0, 0, 1, 100], 0.99, 4],
  ])('%s', (_, counts, q, expected) => {
    expect(quantile(none, histogram(...counts), 'h', q)).toBe(expected);
  });

  test('only what was counted since', () => {
    expect(quantile(histogram(100, 100, 100, 100), histogram(100, 110, 110, 110), 'h', 0.5)).toBe(1.5);
    expect(quantile(histogram(1, 2, 3, 4), histogram(1, 2, 3, 4), 'h', 0.5)).toBeNull();
  });
});
