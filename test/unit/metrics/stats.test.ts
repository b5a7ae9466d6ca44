import { StatsTable, tableOf } from '../../../src/metrics/stats';
import * as c from '../../../src/stack/counters';

it('shows what changed since the last table, and nothing if nothing happened', () => {
  const counters = new Float64Array(c.COUNTERS);
  counters[c.C_FRAMES_TO_GUEST] = 5;
  const table = new StatsTable(counters);
  const words = (): string[][] => {
    const changes = table.changes();
    if (changes.length === 0) return [];
    return tableOf(changes).map((line) => line.split(/ {2,}/).filter((word) => word !== ''));
  };
  expect(words()).toEqual([]);

  counters[c.C_LOOP_TURNS] += 3;
  expect(words()).toEqual([]);

  counters[c.C_FRAMES_TO_GUEST] += 7;
  counters[c.C_FLOWS_TCP] = 2;
  expect(words()).toEqual([
    ['counter', 'change', 'now'],
    ['frames to_guest', '+7', '12'],
    ['flows tcp', '+2', '2'],
    ['loop_turns', '+3', '3'],
    [],
  ]);

  counters[c.C_FLOWS_TCP] = 1;
  expect(words()[1]).toEqual(['flows tcp', '-1', '1']);
  expect(words()).toEqual([]);
});
