/** What a parent that passes sockets may say, and what is made of it; that they are served is conformance/activation's. */
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { activated, HANDED_ON, passedFds, sorted, takePassed } from '../../../src/cli/activation';
import { WAITING_FD } from '../../../src/cli/background-service';
import type { Transport } from '../../../src/cli/options';
import { LAUNCH, Launched } from '../../../src/sandbox/launched';

const OURS = String(process.pid);
const launchedWith = (text: string): Launched | null => Launched.take({ [LAUNCH]: text });

describe('takePassed', () => {
  test.each<[string, NodeJS.ProcessEnv, Launched | null, number | null]>([
    ['one socket', { LISTEN_PID: OURS, LISTEN_FDS: '1' }, null, 1],
    ['two', { LISTEN_PID: OURS, LISTEN_FDS: '2' }, null, 2],
    ['none', { LISTEN_PID: OURS, LISTEN_FDS: '0' }, null, null],
    ['for another process', { LISTEN_PID: '1', LISTEN_FDS: '1' }, null, null],
    ['for nobody', { LISTEN_FDS: '1' }, null, null],
    ['no number of them', { LISTEN_PID: OURS }, null, null],
    ['the launcher has seen that it is for us', { LISTEN_PID: '1', LISTEN_FDS: '1' }, launchedWith('listen=1'), 1],
    ['the launcher has seen that it is not', { LISTEN_PID: OURS, LISTEN_FDS: '1' }, launchedWith('listen=0'), null],
    ['handed on to the background', { ...HANDED_ON, [WAITING_FD]: '4' }, launchedWith('listen=0'), 1],
    ['not handed on', { LISTEN_PID: OURS, LISTEN_FDS: '1', [WAITING_FD]: '4' }, launchedWith('listen=1'), null],
  ])('%s', (_name, env, launched, count) => {
    const rest = Object.fromEntries(Object.entries(env).filter(([name]) => name === WAITING_FD));
    const passed = takePassed({ ...env, LISTEN_FDNAMES: 'a' }, launched);
    expect(passed).toEqual(count === null ? null : { count, names: 'a' });
    takePassed(env, launched);
    expect(env).toEqual(rest);
  });

  test.each(['', '-1', '1x', '1.5', '9999999999'])('LISTEN_FDS=%s is no number of sockets', (text) => {
    expect(() => takePassed({ LISTEN_PID: OURS, LISTEN_FDS: text }, null)).toThrow(
      `LISTEN_FDS ${text}: give the number of sockets that are passed`,
    );
  });

  test('descriptors from 3 on, as many as are worth keeping', () => {
    expect(passedFds(null)).toEqual([]);
    expect(passedFds({ count: 2, names: '' })).toEqual([3, 4]);
    expect(passedFds({ count: 1_000_000, names: '' })).toHaveLength(32);
  });
});

describe('sorted', () => {
  const ports = new Set([4, 5]);
  const sort = (names: string, forwards: readonly string[], later = false, count = names.split(':').length) =>
    sorted({ count, names }, { names: new Set(forwards), later, isPort: (fd) => ports.has(fd) });

  test('scrapers by name, forwards by name, ports where there may be forwards, the rest is for front-ends', () => {
    const web = { fd: 4, name: 'web' };
    const spare = { fd: 5, name: 'spare' };
    const rest = { metrics: 6, frontEnds: { count: 1, names: 'vm' }, first: 3 };
    expect(sort('vm:web:spare:metrics', ['web'])).toEqual({ ...rest, forwards: [web, spare] });
    expect(sort('vm:web:spare:metrics', [], true)).toEqual({ ...rest, forwards: [web, spare] });
    expect(sort('vm:web', [])).toEqual({
      ...{ metrics: null, forwards: [], frontEnds: { count: 2, names: 'vm:web' }, first: 3 },
    });
    expect(sort('metrics:vm', ['vm'])).toMatchObject({
      metrics: 3,
      forwards: [{ fd: 4, name: 'vm' }],
      frontEnds: null,
    });
  });

  test('sockets without names are "unknown"', () => {
    const sockets = [4, 5].map((fd) => ({ fd, name: 'unknown' }));
    expect(sort('', ['unknown'], false, 3).forwards).toEqual([{ fd: 3, name: 'unknown' }, ...sockets]);
    expect(sort('', [], true, 3)).toMatchObject({ forwards: sockets, frontEnds: { count: 1, names: '' }, first: 3 });
  });

  test('what cannot be', () => {
    expect(() => sort('metrics:metrics', [])).toThrow('several sockets named metrics');
    expect(() => sort('metrics', ['metrics'])).toThrow('the socket of that name is for scrapers');
    expect(() => sort('', [], false, 33)).toThrow('has passed 33 sockets: give at most 32');
  });
});

describe('activated', () => {
  const PATH = '/run/one.sock';
  const ONE = { count: 1, names: '' };
  const listening = (path = PATH): { unixListenerPath: (fd: number, out: Uint8Array) => number } => ({
    unixListenerPath: (fd, out) => {
      expect(fd).toBe(3);
      return Buffer.from(out.buffer, out.byteOffset, out.byteLength).write(path);
    },
  });
  const given = (path: string | null): Transport => ({ kind: 'listen', path });

  test('the socket and its path', () => {
    for (const path of [null, PATH, '/run/../run/one.sock'])
      expect(activated(given(path), ONE, [], listening())).toEqual({ kind: 'listen', path: PATH, opened: 3 });
  });

  test('another path of the same file is the same', () => {
    const dir = mkdtempSync(join(tmpdir(), 'tubetti-activated-'));
    const path = join(dir, 's');
    writeFileSync(path, '');
    symlinkSync('s', join(dir, 'link'));
    expect(activated(given(join(dir, 'link')), ONE, [], listening(path))).toMatchObject({ path });
    rmSync(dir, { recursive: true });
  });

  test('the command line wants something else', () => {
    expect(() => activated(given('/run/two.sock'), ONE, [], listening())).toThrow(
      '--socket /run/two.sock: systemd (LISTEN_FDS) has passed a socket that listens on /run/one.sock: leave --socket out',
    );
    for (const other of [{ kind: 'fd', fd: 5 } as const, { kind: 'connect', path: PATH } as const])
      expect(() => activated(other, ONE, [], listening())).toThrow(
        `--${other.kind}: systemd (LISTEN_FDS) has passed a socket`,
      );
  });

  test('more than one', () => {
    expect(() => activated(given(null), { count: 2, names: 'a:b' }, [], listening())).toThrow(
      /has passed 2 sockets \(a:b\): /,
    );
    expect(() => activated(given(null), { count: 3, names: '' }, [], listening())).toThrow(
      /has passed 3 sockets: give one /,
    );
  });

  test('a number that is one of ours was not passed', () => {
    expect(() => activated(given(null), ONE, [5, 3], listening())).toThrow(
      'descriptor 3 of systemd (LISTEN_FDS) is not open: ',
    );
    expect(activated(given(null), ONE, [4, 5], listening())).toMatchObject({ opened: 3 });
  });

  test.each([
    ['EBADF', 'is not open: '],
    ['ENOTSOCK', 'is not a socket: '],
    ['EAFNOSUPPORT', 'is not a unix socket: '],
    ['EPROTOTYPE', 'is not a stream socket: '],
    ['EINVAL', 'does not listen: set Accept=no'],
    ['EADDRNOTAVAIL', 'has no path: '],
    ['ENOMEM', 'cannot be used: '],
  ] as const)('a descriptor that is none to serve on: %s', (errno, said) => {
    const native = { unixListenerPath: () => -constants.errno[errno] };
    expect(() => activated(given(null), ONE, [], native)).toThrow(`descriptor 3 of systemd (LISTEN_FDS) ${said}`);
  });
});
