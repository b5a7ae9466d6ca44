/** The host has no memory or descriptors left for a front-end: it is told so, and not accused of anything. */
import type { Native } from '../../src/native';
import { loadNative } from '../../src/native';
import * as p from '../../src/vhost/protocol';
import { LeakCheck } from '../support/vhost/leaks';
import { MockFrontEnd } from '../support/vhost/mock-front-end';
import { logBase, memTable, u64 } from '../support/vhost/payloads';
import { Rig, replay } from '../support/vhost/rig';
import * as t from '../support/vhost/traces';

const ENOMEM = 12;
const ENFILE = 23;
const EMFILE = 24;

const native = loadNative();
/** Calls that fail now, by name: what they return. */
const failing = new Map<keyof Native, number>();
let leaks: LeakCheck;
let rig: Rig;

/** The addon, whose calls fail as `failing` says. */
function shortOf(): Native {
  // eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- of the call that is wrapped
  const fail = <A extends unknown[]>(name: keyof Native, call: (...args: A) => number): PropertyDescriptor => ({
    value: (...args: A): number => failing.get(name) ?? call(...args),
  });
  return Object.create(native, {
    fdKind: fail('fdKind', native.fdKind),
    fileId: fail('fileId', native.fileId),
    mapRegion: fail('mapRegion', native.mapRegion),
    recvFds: fail('recvFds', native.recvFds),
    pollStart: fail('pollStart', native.pollStart),
  }) as Native;
}

beforeEach(() => {
  leaks = new LeakCheck(native);
  rig = new Rig(shortOf());
  rig.server.start();
});

afterEach(async () => {
  failing.clear();
  await rig.close();
  await leaks.verify();
});

const negotiated = t.QEMU_7_2.slice(0, 6);

describe.each([
  ['SET_MEM_TABLE', 'fdKind', ENOMEM, p.VHOST_USER_SET_MEM_TABLE, memTable([t.QEMU_LAYOUT])],
  ['SET_MEM_TABLE', 'fileId', ENOMEM, p.VHOST_USER_SET_MEM_TABLE, memTable([t.QEMU_LAYOUT])],
  ['SET_MEM_TABLE', 'mapRegion', ENOMEM, p.VHOST_USER_SET_MEM_TABLE, memTable([t.QEMU_LAYOUT])],
  ['SET_LOG_BASE', 'fdKind', ENFILE, p.VHOST_USER_SET_LOG_BASE, logBase(0x1000n, 0n)],
  ['SET_LOG_BASE', 'mapRegion', ENOMEM, p.VHOST_USER_SET_LOG_BASE, logBase(0x1000n, 0n)],
  ['SET_VRING_KICK', 'fdKind', EMFILE, p.VHOST_USER_SET_VRING_KICK, u64(0)],
  ['SET_VRING_CALL', 'fdKind', ENOMEM, p.VHOST_USER_SET_VRING_CALL, u64(0)],
  ['SET_VRING_ERR', 'fdKind', ENOMEM, p.VHOST_USER_SET_VRING_ERR, u64(0)],
  ['SET_BACKEND_REQ_FD', 'fdKind', ENOMEM, p.VHOST_USER_SET_BACKEND_REQ_FD, new Uint8Array(0)],
] as const)('%s, where %s fails with errno %i', (name, call, errno, request, payload) => {
  test('without an acknowledgement the session ends; the next front-end is served', async () => {
    const frontEnd = rig.connect();
    await replay(frontEnd, negotiated);
    failing.set(call, -errno);
    frontEnd.send(request, payload, { fds: [frontEnd.memfd(t.MEMORY_SIZE)] });
    expect(await rig.sessionEnd()).toMatchObject({ reason: 'shortage', error: { code: 'VU_ERR_SHORTAGE' } });
    expect(rig.complaints).toEqual([
      expect.stringMatching(
        /^front-end connection closed: .*: this host is short of memory or descriptors \(E[A-Z]+\)$/,
      ),
    ]);
    failing.clear();
    await rig.connect().ask(p.VHOST_USER_GET_FEATURES);
  });

  // SET_LOG_BASE has an answer of its own.
  if (name === 'SET_LOG_BASE') return;
  test('with one it is refused, and the session goes on', async () => {
    const frontEnd = rig.connect();
    await replay(frontEnd, negotiated);
    failing.set(call, -errno);
    const fds = [frontEnd.memfd(t.MEMORY_SIZE)];
    expect(await frontEnd.askU64(request, payload, { needReply: true, fds })).toBe(1n);
    expect(rig.complaints).toEqual([expect.stringMatching(/^front-end request refused: .* short of/)]);
    failing.clear();
    await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
  });
});

test('descriptors that found no place in this process', async () => {
  const frontEnd = rig.connect();
  await replay(frontEnd, negotiated);
  failing.set('recvFds', -EMFILE);
  frontEnd.send(p.VHOST_USER_SET_VRING_CALL, u64(0), { fds: [frontEnd.eventFd()] });
  expect(await rig.sessionEnd()).toMatchObject({ reason: 'shortage' });
  expect(rig.complaints).toEqual([
    'front-end connection closed: descriptors of the front-end were lost: this host is short of memory or descriptors (EMFILE)',
  ]);
});

test('a connection that cannot be watched', async () => {
  await rig.connect().ask(p.VHOST_USER_GET_FEATURES); // the listener is watched
  rig.closeFrontEnds();
  expect(await rig.sessionEnd()).toEqual({ reason: 'left' });
  failing.set('pollStart', -ENOMEM);
  await rig.adopt(MockFrontEnd.connect(native, rig.path)).closed();
  expect(await rig.sessionEnd()).toMatchObject({ reason: 'shortage' });
  failing.clear();
  await rig.connect().ask(p.VHOST_USER_GET_FEATURES);
  expect(rig.complaints).toEqual([
    "front-end connection closed: the front-end's connection cannot be watched: this host is short of memory or descriptors (ENOMEM)",
  ]);
});
