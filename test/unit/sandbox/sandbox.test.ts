/** What the launcher's word means, what goes into the room, and what closing the door does in which order. */
import { mkdirSync, mkdtempSync, openSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Native } from '../../../src/native';
import type { Broker } from '../../../src/sandbox/broker';
import { LAUNCH, Launched } from '../../../src/sandbox/launched';
import { roomPaths } from '../../../src/sandbox/room';
import { allLayers, closeDoor, type Door, missingLine } from '../../../src/sandbox/sandbox';

const ALL = 'user=0 mount=0 ipc=0 uts=0 pid=-1 nnp=0 broker=5 bind=1 number=0 ready=-1 closed=1';

function launchedBy(text: string): Launched {
  const launched = Launched.take({ [LAUNCH]: text });
  if (launched === null) throw new Error('nothing was taken');
  return launched;
}

test('the word of the launcher is taken once, and what is none of its words is passed over', () => {
  const env: NodeJS.ProcessEnv = { [LAUNCH]: 'user=0 mount=1 bogus=7 broker=x ready=9999999999999 pid' };
  const launched = Launched.take(env);
  expect(env).toEqual({});
  expect(Launched.take(env)).toBeNull();
  expect([launched?.get('user'), launched?.get('mount'), launched?.get('broker'), launched?.get('ready')]).toEqual([
    0, 1, -1, -1,
  ]);
  expect(launched?.descriptors).toEqual([]);
  expect(launched?.pid).toBe(process.pid);
});

test('a process that inherits it has other descriptors, and its own number', () => {
  const next = launchedBy(launchedBy(ALL.replace('number=0 ready=-1', 'number=77 ready=6')).handedOn(8));
  expect(next.descriptors).toEqual([8]);
  expect(next.pid).toBe(process.pid);
  expect(next.get('mount')).toBe(0);
});

test('the room has the package, without its sources where it is bundled, and what Node loads into each thread', () => {
  const root = realpathSync(mkdtempSync(join(tmpdir(), 'tubetti-room-')));
  try {
    for (const name of ['bin', 'dist', 'build/Release', 'src/virtqueue'])
      mkdirSync(join(root, name), { recursive: true });
    for (const name of ['package.json', 'preload.js', 'other.js']) writeFileSync(join(root, name), '');
    symlinkSync('preload.js', join(root, 'link.js'));
    const kernel = ['/proc/self', '/proc/sys/net'];
    const package_ = ['bin', 'build/Release', 'dist', 'package.json'].map((name) => join(root, name));
    const words = [
      '--require',
      join(root, 'link.js'),
      `--import=${join(root, 'other.js')}`,
      '--require',
      '/nonexistent',
    ];
    expect(roomPaths(root, join(root, 'build/Release'), words)).toEqual(
      [
        ...kernel,
        ...package_,
        ...['src/virtqueue', 'link.js', 'preload.js', 'other.js'].map((n) => join(root, n)),
      ].sort(),
    );
    writeFileSync(join(root, 'dist/data-plane.js'), '');
    expect(roomPaths(root, join(root, 'build/Release'), [])).toEqual([...kernel, ...package_].sort());
  } finally {
    rmSync(root, { recursive: true });
  }
});

interface Doing {
  readonly door: Door;
  readonly done: string[];
}

function doorWith(over: Partial<Door>, results: Partial<Record<keyof Native, number>> = {}): Doing {
  const done: string[] = [];
  const call =
    (name: keyof Native) =>
    (...args: unknown[]): number => {
      done.push([name, ...args.filter((arg) => typeof arg !== 'object')].join(' ').replaceAll('\0', ','));
      return results[name] ?? 0;
    };
  const native = {
    enterRoom: call('enterRoom'),
    landlockRules: (...args: unknown[]): number => {
      call('landlockRules')(...args);
      // A descriptor of its own: the door closes it.
      return results.landlockRules ?? openSync('/dev/null', 'r');
    },
    confine: call('confine'),
    setDumpable: call('setDumpable'),
    brokerUse: call('brokerUse'),
  };
  const broker: Partial<Broker> = {
    seal: () => {
      done.push('seal');
      return 0;
    },
  };
  const door: Door = {
    native,
    mode: 'on',
    launched: launchedBy(ALL),
    broker: broker as Broker,
    user: { uid: 5, gid: 6 },
    becomeUser: () => done.push('user'),
    paths: ['/a', '/b'],
    ...over,
  };
  return { door, done };
}

const ENOSYS = -38;
const state = (layers: readonly { name: string; state: string }[], name: string): string | undefined =>
  layers.find((layer) => layer.name === name)?.state;

test('the door: the room, then the user, then the rights of all, then what others may see', () => {
  const { door, done } = doorWith({}, { landlockRules: ENOSYS });
  const layers = closeDoor(door);
  expect(done).toEqual([
    'enterRoom /a,/b',
    'user',
    'seal',
    'brokerUse 5 0',
    'landlockRules 0',
    'confine 0 -1',
    'setDumpable 0',
  ]);
  expect(state(layers, 'root')).toBe('on');
  expect(missingLine(layers)).toBe('sandbox: not in force: landlock (function not implemented)');
});

test('without launcher and broker: rights go all the same, and one line has the reasons', () => {
  const { door, done } = doorWith({ launched: null, broker: null, user: null }, { landlockRules: ENOSYS });
  const layers = closeDoor(door);
  expect(done).toEqual(['user', 'landlockRules 1', 'confine 1 -1', 'setDumpable 0']);
  expect(missingLine(layers)).toMatch(
    /^sandbox: not in force: user-namespace, mount-namespace, ipc-namespace, uts-namespace, pid-namespace, root \(not started by tubetti-launch\); landlock \(.*\)$/,
  );
});

test('off: the user and the capabilities go as ever, the rest stays', () => {
  const { door, done } = doorWith({ mode: 'off' });
  const layers = closeDoor(door);
  expect(done).toEqual(['user', 'seal', 'brokerUse 5 0', 'confine 1 -1']);
  expect(state(layers, 'root')).toBe('off');
  expect(state(layers, 'landlock')).toBe('off');
  expect(state(layers, 'capabilities')).toBe('on');
});

test('a namespace that somebody else has made for the service is not missing, and not ours', () => {
  const { door } = doorWith({ launched: launchedBy(ALL.replace('ipc=0 uts=0', 'ipc=-2 uts=-2')) });
  const layers = closeDoor(door);
  expect([state(layers, 'ipc-namespace'), state(layers, 'uts-namespace')]).toEqual(['off', 'off']);
  expect(missingLine(layers)).toBeNull();
});

test('what the kernel refused is named with its reason; what is not wanted is not missing', () => {
  const launched = launchedBy('user=1 mount=1 ipc=1 uts=1 pid=-1 nnp=0');
  const { door } = doorWith({ launched }, { landlockRules: ENOSYS, confine: 2 });
  const layers = closeDoor(door);
  expect(missingLine(layers)).toBe(
    'sandbox: not in force: user-namespace, mount-namespace, ipc-namespace, uts-namespace (operation not permitted); ' +
      'root (there is no mount namespace); capabilities (not on 2 threads); landlock (function not implemented)',
  );
  expect(
    allLayers(layers)
      .map(({ name, state: s }) => [name, s])
      .slice(4, 6),
  ).toEqual([
    ['pid-namespace', 'off'],
    ['root', 'missing'],
  ]);
});
