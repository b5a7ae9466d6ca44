/** docs/performance.md, its plots and bench/report.md: made of bench/results, and by nothing else. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { files, readResults } from '../../../bench/page/main';
import { svg, tickStep, type Plot } from '../../../bench/page/plot';

const ROOT = join(__dirname, '../../..');

test.each(files(readResults()))('%s is what `npm run bench:page` writes', (path, content) => {
  expect(readFileSync(join(ROOT, path), 'utf8')).toBe(content);
});

test.each([
  [1, 0.2],
  [4.9, 1],
  [5.1, 2],
  [11, 2.5],
  [24, 5],
  [1_600_000, 500_000],
])('an axis up to %d has steps of %d', (most, step) => {
  expect(tickStep(most)).toBeCloseTo(step, 9);
});

describe('a plot', () => {
  const bar = (backend: string, median: number): Plot['groups'][number]['bars'][number] => ({
    ...{ backend, median },
    ...{ least: median, most: median },
  });
  const plot: Plot = {
    title: 'a < b & c',
    axis: 'Gbit/s',
    digits: 1,
    groups: [{ label: ['case'], bars: [bar('tubetti', 4), bar('passt', 2)] }],
  };
  const text = svg(plot);

  test('has bars as high as their values', () => {
    const heights = [...text.matchAll(/<rect x="[^"]+" y="[^"]+" width="22" height="([^"]+)"/g)].map(([, height]) =>
      Number(height),
    );
    expect(heights).toHaveLength(2);
    expect(heights[0] / heights[1]).toBeCloseTo(2, 1);
  });

  test('names each back-end once, and each value', () => {
    for (const word of ['>tubetti<', '>passt<', '>4.0<', '>2.0<', '>case<']) {
      expect(text.split(word)).toHaveLength(2);
    }
  });

  test('is well-formed where a title has markup', () => {
    expect(text).toContain('a &lt; b &amp; c');
    expect(text).not.toContain('a < b');
  });
});
