/** `npm run bench -- --guests N`: its options, its place in docs/sizing.md, and how it looks at processes. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { BEGIN, END, GuestsUsageError, parseGuestsOptions, withResult } from '../../../bench/guests/main';
import { activityOf, descriptorsOf, memoryOf, processesBy, threadsOf } from '../../../bench/guests/probes';

test('its options', () => {
  expect(parseGuestsOptions(['--guests', '8'])).toEqual({ guests: 8, seconds: 20, rounds: 3, write: null });
  expect(parseGuestsOptions(['--guests=50', '--rounds', '1', '--write', 'x'])).toMatchObject({
    guests: 50,
    write: 'x',
  });
  for (const argv of [
    ['--guests', '1'],
    ['--guests', 'many'],
    ['--guests', '5', '--peer', 'x'],
    ['--seconds', '0'],
  ])
    expect(() => parseGuestsOptions(argv)).toThrow(GuestsUsageError);
});

test('the result takes the place of the one before', () => {
  const document = `a\n${BEGIN}\nold\n${END}\nb`;
  expect(withResult(document, 'new')).toBe(`a\n${BEGIN}\n\nnew\n\n${END}\nb`);
  expect(() => withResult('a', 'new')).toThrow(/no place/);
  expect(() => withResult(readFileSync(join(__dirname, '../../../docs/sizing.md'), 'utf8'), 'new')).not.toThrow();
});

test('the figures of a process are of this one', () => {
  const [name] = Object.keys(process.env);
  const mine = processesBy([`${name}=${process.env[name]}`, 'NO=such']);
  expect(mine.get(`${name}=${process.env[name]}`)).toContain(process.pid);
  expect(mine.get('NO=such')).toEqual([]);
  const pids = [process.pid];
  const memory = memoryOf(pids);
  expect(memory.anonymous).toBeGreaterThan(10 << 20);
  expect(memory.files).toBeGreaterThan(1 << 20);
  expect(threadsOf(pids)).toBeGreaterThan(4);
  expect(descriptorsOf(pids)).toBeGreaterThan(3);
  expect(activityOf(pids).cpuNs).toBeGreaterThan(1e7);
  expect(activityOf([0x7ffffff])).toEqual({ cpuNs: 0, sleeps: 0 });
});
