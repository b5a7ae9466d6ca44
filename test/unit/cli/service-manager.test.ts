import { NOTIFY_SOCKET, ServiceManager } from '../../../src/cli/service-manager';
import { createLog } from '../../../src/log';

const EAGAIN = -11;

/** A manager that can be full, and what it was told. */
function manager(name: string) {
  const state = { result: 0, connected: -1, path: '', closed: 0 };
  const sent: string[] = [];
  const lines: string[] = [];
  const native = {
    unixDatagram: (path: string) => {
      state.path = path;
      return state.connected;
    },
    sendFds: (_fd: number, bytes: Uint8Array, offset: number, length: number) => {
      if (state.result < 0) return state.result;
      sent.push(Buffer.from(bytes).toString('utf8', offset, offset + length));
      return length;
    },
    close: () => ++state.closed,
  };
  const log = createLog('info', [(_level, message) => lines.push(message)]);
  const env: NodeJS.ProcessEnv = { [NOTIFY_SOCKET]: name };
  const find = (): ServiceManager | null => ServiceManager.find(env, native, log);
  return { state, sent, lines, env, find };
}

function found(name = '/run/notify') {
  const it = manager(name);
  it.state.connected = 7;
  const service = it.find();
  if (service === null) throw new Error('none found');
  return { ...it, service };
}

beforeEach(() => {
  jest.useFakeTimers();
});
afterEach(() => {
  jest.useRealTimers();
});

test('no variable: no manager; it is taken out of the environment', () => {
  expect(manager('').find()).toBeNull();
  const { env } = found();
  expect(env).not.toHaveProperty(NOTIFY_SOCKET);
});

test('an abstract name begins with a zero byte', () => {
  expect(found('@/org/systemd').state.path).toBe('\0/org/systemd');
  expect(found('/run/notify').state.path).toBe('/run/notify');
});

test('a name of another kind, and nobody there: said once, and the service goes on', () => {
  const vsock = manager('vsock:2:9999');
  expect(vsock.find()).toBeNull();
  expect(vsock.lines).toEqual([expect.stringMatching(/^NOTIFY_SOCKET vsock:2:9999: no path/)]);
  const gone = manager('/run/gone');
  gone.state.connected = -2;
  expect(gone.find()).toBeNull();
  expect(gone.lines).toEqual([expect.stringMatching(/^NOTIFY_SOCKET \/run\/gone: cannot connect.*no such file/)]);
});

test('ready, and whose number it is in the background', () => {
  const { service, sent } = found();
  service.ready(null);
  service.ready(4321);
  expect(sent).toEqual(['READY=1\n', 'READY=1\nMAINPID=4321\n']);
});

test('a front-end that comes and goes changes the status once a second at most, to what it is then', () => {
  const { service, sent } = found();
  for (let i = 0; i < 100; i++) service.status(`status ${i}`);
  expect(sent).toEqual(['STATUS=status 0\n']);
  jest.advanceTimersByTime(999);
  expect(sent).toHaveLength(1);
  jest.advanceTimersByTime(1);
  expect(sent).toEqual(['STATUS=status 0\n', 'STATUS=status 99\n']);
});

test('stopping is said at once', () => {
  const { service, sent } = found();
  service.status('serving');
  service.status('waiting');
  service.stopping();
  expect(sent).toEqual(['STATUS=serving\n', 'STOPPING=1\nSTATUS=stopping\n']);
  jest.advanceTimersByTime(5000);
  expect(sent).toHaveLength(2);
});

test('a manager whose queue is full is told when it has room: the newest of each', () => {
  const { service, sent, state } = found();
  state.result = EAGAIN;
  service.status('first');
  service.ready(null);
  jest.advanceTimersByTime(2000);
  service.status('second');
  expect(sent).toEqual([]);
  state.result = 0;
  jest.advanceTimersByTime(100);
  expect(sent).toEqual(['STATUS=second\nREADY=1\n']);
});

test('one that is gone is given up with a line, and the descriptor is given back', () => {
  const { service, state, lines } = found();
  state.result = -111;
  service.ready(null);
  expect(lines).toEqual([expect.stringMatching(/the service manager was not told: connection refused/)]);
  service.close();
  expect(state.closed).toBe(1);
});
