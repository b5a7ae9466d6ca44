/** The monitor of the host's network where the kernel has no memory for what it asks. */
import fs from 'node:fs';
import { HostMonitor, type MonitorOptions } from '../../../src/config/monitor';

const ENOMEM = 12;
const EMFILE = 24;
const ENOSPC = 28;
const EPERM = 1;

const logged: string[] = [];

beforeEach(() => {
  jest.useFakeTimers();
});

afterEach(() => {
  jest.useRealTimers();
});

function monitorWith(
  write: () => number,
  calls: Partial<MonitorOptions['native']> = {},
  more: Partial<MonitorOptions> = {},
): { monitor: HostMonitor; looks: () => number; opened: readonly number[] } {
  let looks = 0;
  const opened: number[] = [];
  logged.length = 0;
  const native: MonitorOptions['native'] = {
    netlinkOpen: (groups) => 100 + opened.push(groups),
    read: () => 0,
    write,
    close: () => 0,
    pollStart: () => 0,
    pollStop: () => 0,
    ...calls,
  };
  const monitor = new HostMonitor({
    native,
    log: (level, message) => {
      if (level === 'warn') logged.push(message);
    },
    onChange: () => looks++,
    onNeighbours: () => undefined,
    hasDefaultRoute: () => true,
    resolvConf: '/nonexistent/resolv.conf',
    ...more,
  });
  return { monitor, looks: () => looks, opened };
}

test('a question for the neighbours that could not be sent is sent again', () => {
  const results = [-ENOMEM, -ENOMEM, 20];
  let written = 0;
  const { monitor } = monitorWith(() => results[written++]);
  monitor.start();
  jest.advanceTimersByTime(10_000);
  expect(written).toBe(3);
  monitor.stop();
  expect(jest.getTimerCount()).toBe(0);
});

test('a look that failed is taken again, once however often that is said, and not after the end', () => {
  const { monitor, looks } = monitorWith(() => 20);
  monitor.start();
  monitor.lookAgain();
  monitor.lookAgain();
  jest.advanceTimersByTime(10_000);
  expect(looks()).toBe(1);
  monitor.lookAgain();
  monitor.stop();
  jest.advanceTimersByTime(10_000);
  expect(looks()).toBe(1);
});

test.each([
  ['netlinkOpen', EMFILE],
  ['netlinkOpen', ENOMEM],
  ['pollStart', ENOMEM],
  ['pollStart', ENOSPC],
])(
  'sockets that could not be had (%s, errno %i) are had later, and what changed until then is looked at',
  (call, errno) => {
    let short = true;
    let written = 0;
    let open = 0;
    const { monitor, looks } = monitorWith(() => ++written, {
      netlinkOpen: () => (short && call === 'netlinkOpen' ? -errno : (open++, 100)),
      pollStart: () => (short && call === 'pollStart' ? -errno : 0),
      close: () => (open--, 0),
    });
    monitor.start();
    jest.advanceTimersByTime(100_000);
    expect([open, looks(), written]).toEqual([0, 0, 0]);
    // Both sockets, once each, however long it takes.
    expect(logged).toHaveLength(2);
    expect(logged[0]).toMatch(/^cannot follow changes of the host's network: .*; trying again$/);
    short = false;
    jest.advanceTimersByTime(10_000);
    expect([open, looks()]).toEqual([2, 1]);
    expect(written).toBeGreaterThan(0);
    monitor.stop();
    expect(open).toBe(0);
    expect(jest.getTimerCount()).toBe(0);
  },
);

test('sockets that are forbidden are not asked for again; nor is any after the end', () => {
  let asked = 0;
  const refused = monitorWith(() => 20, { netlinkOpen: () => (asked++, -EPERM) });
  refused.monitor.start();
  jest.advanceTimersByTime(100_000);
  expect(asked).toBe(2);
  refused.monitor.stop();
  const short = monitorWith(() => 20, { netlinkOpen: () => (asked++, -EMFILE) });
  short.monitor.start();
  short.monitor.stop();
  jest.advanceTimersByTime(100_000);
  expect(asked).toBe(4);
});

test('who wants no neighbours and no resolvers has one socket and asks nothing', () => {
  const watched = jest.spyOn(fs, 'watch');
  let written = 0;
  const { monitor, opened } = monitorWith(() => ++written, {}, { onNeighbours: null, resolvConf: null });
  monitor.start();
  jest.advanceTimersByTime(10_000);
  expect([opened.length, written, watched.mock.calls.length]).toEqual([1, 0, 0]);
  monitor.lookAgain();
  jest.advanceTimersByTime(10_000);
  expect(watched).not.toHaveBeenCalled();
  monitor.stop();
  watched.mockRestore();
});
