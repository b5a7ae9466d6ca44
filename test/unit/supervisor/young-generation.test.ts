/** V8's flags are the whole process's: so each is one of its own. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

const ROOT = join(__dirname, '..', '..', '..');
const MIB = 1 << 20;

/** Makes garbage, some of which lives for a while; says how many bytes the young generation then has. */
const CHURN = `
  let kept = [];
  for (let i = 0; i < 5e6; i++) {
    kept.push({ of: [i, i] });
    if (kept.length === 20000) kept = [];
  }
  const [young] = require('node:v8').getHeapSpaceStatistics().filter((space) => space.space_name === 'new_space');
  process.stdout.write(String(young.physical_space_size));
`;

function youngBytesAfter(...steps: string[]): number {
  const module = join(ROOT, 'src', 'supervisor', 'young-generation.ts');
  const script = `const { holdYoungGeneration, letYoungGenerationGrow } = require(${JSON.stringify(module)});`;
  const words = ['--require', join(ROOT, 'scripts', 'lib', 'ts-hook.cjs'), '-e', script + steps.join('') + CHURN];
  return Number(spawnSync(process.execPath, words, { encoding: 'utf8' }).stdout);
}

test('held, it does not grow with the garbage; let go, it does', () => {
  const held = youngBytesAfter('holdYoungGeneration();');
  expect(held).toBeGreaterThan(0);
  expect(held).toBeLessThanOrEqual(16 * MIB);
  expect(youngBytesAfter()).toBeGreaterThanOrEqual(2 * held);
  expect(youngBytesAfter('holdYoungGeneration();', 'letYoungGenerationGrow();')).toBeGreaterThanOrEqual(2 * held);
});
