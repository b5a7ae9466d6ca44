/** The monitor of the host's network where the kernel has no memory for what it asks. */
import { HostMonitor, type MonitorOptions } from '../../../src/config/monitor';

const ENOMEM = 12;

beforeEach(() => {
  jest.useFakeTimers();
});

afterEach(() => {
  jest.useRealTimers();
});

function monitorWith(write: () => number): { monitor: HostMonitor; looks: () => number } {
  let looks = 0;
  const native: MonitorOptions['native'] = {
    netlinkOpen: () => 100,
    read: () => 0,
    write,
    close: () => 0,
    pollStart: () => 0,
    pollStop: () => 0,
  };
  const monitor = new HostMonitor({
    native,
    log: () => undefined,
    onChange: () => looks++,
    onNeighbours: () => undefined,
    hasDefaultRoute: () => true,
    resolvConf: '/nonexistent/resolv.conf',
  });
  return { monitor, looks: () => looks };
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
