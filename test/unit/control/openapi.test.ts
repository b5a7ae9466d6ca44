/** docs/openapi.json describes the operations that there are. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openApi } from '../../../src/control/openapi';
import { ROUTES } from '../../../src/control/routes';

test('docs/openapi.json is that of the operations: node scripts/openapi.mjs writes it', () => {
  const written: unknown = JSON.parse(readFileSync(join(__dirname, '../../../docs/openapi.json'), 'utf8'));
  expect(openApi(ROUTES)).toEqual(written);
});

test('each operation has a name and a place of its own, and says what it answers', () => {
  expect(new Set(ROUTES.map(({ name }) => name)).size).toBe(ROUTES.length);
  expect(new Set(ROUTES.map(({ method, path }) => `${method} ${path}`)).size).toBe(ROUTES.length);
  for (const { answers, path, method } of ROUTES) {
    expect(Object.keys(answers).map(Number)[0]).toBeLessThan(300);
    expect(path.split('/').filter((part) => part.startsWith('{')).length).toBeLessThan(2);
    if (method === 'GET') expect(Object.keys(answers).filter((status) => status.startsWith('2'))).toHaveLength(1);
  }
});
