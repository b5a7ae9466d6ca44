/** What a worker says to people: where it goes, and that the worker learns how much of it was taken. */
import type { DataPlaneSetup } from '../../../src/supervisor/setup';
import { WorkerReports } from '../../../src/supervisor/worker-reports';

let said: unknown[][];
let reports: WorkerReports;
const heard = { names: [] as string[], news: 0 };

const setup = (over: Partial<DataPlaneSetup>): DataPlaneSetup => over as DataPlaneSetup;

beforeEach(() => {
  said = [];
  heard.names = [];
  heard.news = 0;
  reports = new WorkerReports((...args) => {
    said.push(args);
  });
});

test('lines go to the log, after how many before them were lost', () => {
  reports.begin(setup({}));
  reports.take({ kind: 'log', level: 'info', message: 'a guest', leftOut: 0 });
  reports.take({ kind: 'log', level: 'warn', message: 'another', leftOut: 3 });
  expect(said).toEqual([
    ['info', 'a guest'],
    ['warn', 'log lines lost because the log was too slow: 3', 'data-plane.lines'],
    ['warn', 'another'],
  ]);
  expect(Atomics.load(reports.logged, 0)).toBe(2);
});

test.each([true, false])('lines of --trace (%s)', (trace) => {
  reports.begin(setup({ trace }));
  reports.take({ kind: 'trace', lines: ['one', 'two'], leftOut: 1 });
  expect(said).toEqual([
    ['trace', 'trace lines lost because the log was too slow: 1', 'data-plane.trace'],
    ['trace', 'one'],
    ['trace', 'two'],
  ]);
  expect(reports.traced === null ? null : Atomics.load(reports.traced, 0)).toBe(trace ? 2 : null);
});

test('names and addresses go to those who listen, and are counted where nobody does', () => {
  const news = {} as Parameters<NonNullable<DataPlaneSetup['onAddress']>>[0];
  const both = (): void => {
    reports.take({ kind: 'name', name: 'web.example', address: new Int32Array(4) });
    reports.take({ kind: 'address', news });
  };
  both();
  reports.begin(setup({}));
  both();
  const listening: Partial<DataPlaneSetup> = {
    onName: (name) => heard.names.push(name),
    onAddress: () => heard.news++,
  };
  reports.begin(setup(listening));
  both();
  expect(heard).toEqual({ names: ['web.example'], news: 1 });
  // Those of a worker of before do not count.
  expect([reports.named, reports.addressed].map((count) => Atomics.load(count, 0))).toEqual([1, 1]);
});
