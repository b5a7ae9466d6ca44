import { readFileSync } from 'node:fs';
import * as names from '../../../src/metrics/names';
import { LAYER_NAMES } from '../../../src/sandbox/layer';

type Page = (from: typeof names, layers: readonly string[]) => string;

test('docs/metrics.md has the metrics as they are: else node scripts/metrics-page.mjs', () => {
  const { MARK, metricsPage } = jest.requireActual<{ MARK: string; metricsPage: Page }>(
    '../../../scripts/lib/metrics-page.cjs',
  );
  const page = readFileSync(require.resolve('../../../docs/metrics.md'), 'utf8');
  expect(page.slice(page.indexOf(MARK))).toBe(`${MARK}\n${metricsPage(names, LAYER_NAMES)}\n`);
});
