/** The life of the service: who is served, who is turned away, how it begins and ends. */
import { existsSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { constants } from 'node:os';
import { join } from 'node:path';
import type { Native } from '../../src/native';
import { loadNative } from '../../src/native';
import * as p from '../../src/vhost/protocol';
import type { VhostServerOptions } from '../../src/vhost/server';
import { scratchDirectory } from '../support/world/paths';
import { LeakCheck } from '../support/vhost/leaks';
import { MockFrontEnd } from '../support/vhost/mock-front-end';
import { Rig, replay } from '../support/vhost/rig';
import * as t from '../support/vhost/traces';

const { ENOBUFS, ENOMEM } = constants.errno;

let native: Native;
let leaks: LeakCheck;
const rigs: Rig[] = [];

beforeAll(() => {
  native = loadNative();
});

beforeEach(() => {
  leaks = new LeakCheck(native);
});

afterEach(async () => {
  for (const rig of rigs.splice(0)) await rig.close();
  await leaks.verify();
});

function makeRig(options: Partial<VhostServerOptions> = {}): Rig {
  const rig = new Rig(native, options);
  rigs.push(rig);
  return rig;
}

function errorOf(run: () => void): unknown {
  try {
    run();
  } catch (error) {
    return error;
  }
  return null;
}

describe('listening', () => {
  test('the socket is for its owner only, and is removed at the end', async () => {
    const rig = makeRig();
    let listening = 0;
    rig.server.on('listening', () => listening++);
    rig.server.start();
    expect(listening).toBe(1);
    expect(statSync(rig.path).mode & 0o777).toBe(0o600);
    await rig.server.stop();
    expect(existsSync(rig.path)).toBe(false);
  });

  test('no memory to watch the socket, or a connection: served later, and the next one', async () => {
    /** Which of the next calls fail. */
    let fails = [true];
    const short = Object.create(native) as Native;
    short.pollStart = (...args) => (fails.shift() === true ? -ENOMEM : native.pollStart(...args));
    const rig = makeRig({ native: short, retryMs: 10 });
    rig.server.start();
    await replay(rig.connect(), t.QEMU_RUNNING);
    rig.closeFrontEnds();
    await rig.sessionEnd();
    const why = "the front-end's connection cannot be watched: this host is short of memory or descriptors (ENOMEM)";
    // The session's two watches: of faults, and of its connection.
    for (const calls of [[true], [false, true]]) {
      fails = calls;
      const lost = rig.connect();
      await lost.closed();
      expect(await rig.sessionEnd()).toMatchObject({ reason: 'shortage', error: { message: why } });
    }
    await replay(rig.connect(), t.QEMU_RUNNING);
    const closed = `front-end connection closed: ${why}`;
    expect(rig.complaints).toEqual(['cannot accept a front-end: ENOMEM', closed, closed]);
  });

  test('no memory for a message or a reply: it is read and sent a little later', async () => {
    const failing = { recvFds: 3, sendFds: 3 };
    const short = Object.create(native) as Native;
    short.recvFds = (...args) => (failing.recvFds-- > 0 ? -ENOMEM : native.recvFds(...args));
    short.sendFds = (...args) => (failing.sendFds-- > 0 ? -ENOBUFS : native.sendFds(...args));
    const rig = makeRig({ native: short });
    rig.server.start();
    await replay(rig.connect(), t.QEMU_RUNNING);
    expect([failing.recvFds < 0, failing.sendFds < 0]).toEqual([true, true]);
    expect(rig.complaints).toEqual([]);
  });

  test('what somebody else put in its place is not removed', async () => {
    const rig = makeRig();
    rig.server.start();
    const other = `${rig.path}.other`;
    writeFileSync(other, '');
    renameSync(other, rig.path);
    await rig.server.stop();
    expect(existsSync(rig.path)).toBe(true);
  });

  test('a directory that cannot be looked into any more does not keep the service from ending', async () => {
    const { path: directory, remove } = scratchDirectory();
    const rig = makeRig({ source: { listen: join(directory, 's') } });
    rig.server.start();
    rmSync(directory, { recursive: true });
    // What an unprivileged user sees of a closed directory is EACCES; this fails for root as well.
    writeFileSync(directory, '');
    let ended = 0;
    rig.server.on('end', () => ended++);
    await rig.server.stop();
    expect(ended).toBe(1);
    remove();
  });

  test('a path that is taken is an error with a code', () => {
    const rig = makeRig();
    rig.server.start();
    const second = makeRig({ source: { listen: rig.path } });
    expect(errorOf(() => second.server.start())).toMatchObject({ name: 'ServerError', code: 'VU_ERR_LISTEN' });
  });

  test('a front-end that comes before the service may serve it waits, and is served then', async () => {
    const rig = makeRig();
    let connected = 0;
    rig.server.on('connected', () => connected++);
    rig.server.listen();
    const early = rig.connect();
    await new Promise((resolve) => setImmediate(resolve));
    expect(connected).toBe(0);
    rig.server.start();
    await replay(early, t.QEMU_RUNNING);
    expect(connected).toBe(1);
  });

  test('one front-end at a time: the second is closed at once, the first does not notice', async () => {
    const rig = makeRig();
    rig.server.start();
    const first = rig.connect();
    await replay(first, t.QEMU_RUNNING);
    for (let i = 0; i < 3; i++) {
      const second = rig.connect();
      await second.closed();
      second.close();
    }
    await first.ask(p.VHOST_USER_GET_FEATURES);
    expect(rig.device.running.size).toBe(2);
    expect(rig.complaints).toEqual(
      Array.from({ length: 3 }, () => 'second front-end refused, one is connected already'),
    );
  });

  test('a second one that connects again at once, as QEMU does: slowed down, and served when the first leaves', async () => {
    const rig = makeRig();
    rig.server.start();
    const first = rig.connect();
    await replay(first, t.QEMU_RUNNING);
    const begun = performance.now();
    let attempts = 0;
    while (performance.now() - begun < 1500) {
      await rig.connect().closed();
      attempts++;
    }
    // Four at once, then four a second.
    expect(attempts).toBeGreaterThanOrEqual(5);
    expect(attempts).toBeLessThanOrEqual(4 + 6);
    await first.ask(p.VHOST_USER_GET_FEATURES);
    expect(rig.complaints).toHaveLength(5);
    expect(rig.complaints[4]).toMatch(/two guests on one socket\?/);
    const second = rig.connect();
    second.send(p.VHOST_USER_GET_FEATURES);
    first.close();
    expect((await second.receive()).request).toBe(p.VHOST_USER_GET_FEATURES);
  });

  test('more than can be held: the oldest are let go, and the end waits for none', async () => {
    const rig = makeRig();
    rig.server.start();
    await replay(rig.connect(), t.QEMU_RUNNING);
    const files = (): number => readdirSync('/proc/self/fd').length;
    const others: MockFrontEnd[] = [];
    for (let i = 0; i < 40; i++) {
      others.push(rig.connect());
      // Each is looked at before the next comes.
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
    }
    const held = others.filter((other) => !other.isClosed).length;
    expect(held).toBeGreaterThan(0);
    expect(held).toBeLessThanOrEqual(9);
    const before = files();
    await rig.server.stop();
    for (const other of others) await other.closed();
    expect(files()).toBeLessThan(before);
  });

  test('a front-end that comes back at once is served, whatever the order of events', async () => {
    const rig = makeRig();
    rig.server.start();
    for (let round = 0; round < 20; round++) {
      const frontEnd = rig.connect();
      await replay(frontEnd, t.QEMU_RUNNING);
      frontEnd.close();
    }
    for (let round = 0; round < 20; round++) expect(await rig.sessionEnd()).toEqual({ reason: 'left' });
    expect(rig.complaints).toEqual([]);
  });

  test('a front-end that comes while the former is taken down waits for that', async () => {
    const rig = makeRig();
    rig.server.start();
    const first = rig.connect();
    await replay(first, t.QEMU_RUNNING);
    const release = rig.device.hold('detach');
    first.close();
    await rig.device.called('detach');
    const second = rig.connect();
    const third = rig.connect();
    second.send(p.VHOST_USER_GET_FEATURES);
    await third.closed();
    expect(second.waiting).toBe(0);
    release();
    expect((await second.receive()).request).toBe(p.VHOST_USER_GET_FEATURES);
  });

  test('a front-end that comes while a request of the former waits is turned away when that is done', async () => {
    const rig = makeRig();
    rig.server.start();
    const first = rig.connect();
    await replay(first, t.QEMU_RUNNING);
    const release = rig.device.hold('setRingEnabled');
    first.send(p.VHOST_USER_SET_VRING_ENABLE, Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0), { needReply: true });
    await rig.device.called('setRingEnabled');
    const second = rig.connect();
    for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
    expect(second.isClosed).toBe(false);
    release();
    await second.closed();
    expect((await first.receive()).request).toBe(p.VHOST_USER_SET_VRING_ENABLE);
  });

  test('events: connected, disconnected with the reason', async () => {
    const rig = makeRig();
    const seen: string[] = [];
    rig.server.on('connected', () => seen.push('connected'));
    rig.server.on('disconnected', ({ reason }) => seen.push(reason));
    rig.server.on('end', () => seen.push('end'));
    rig.server.start();
    const frontEnd = rig.connect();
    await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
    expect(rig.server.connected).toBe(true);
    frontEnd.close();
    await rig.sessionEnd();
    expect(rig.server.connected).toBe(false);
    const again = rig.connect();
    await again.ask(p.VHOST_USER_GET_FEATURES);
    await rig.server.stop();
    expect(seen).toEqual(['connected', 'left', 'connected', 'stopped', 'end']);
    await again.closed();
  });

  test('one-off: ends with the first front-end', async () => {
    const rig = makeRig({ oneOff: true });
    rig.server.start();
    const end = once(rig.server, 'end');
    const frontEnd = rig.connect();
    await replay(frontEnd, t.DPDK_22_11);
    frontEnd.close();
    await end;
    expect(existsSync(rig.path)).toBe(false);
    expect(native.unixConnect(rig.path)).toBeLessThan(0);
  });

  test('one-off: ends with a front-end that breaks the protocol, too, and no file is left', async () => {
    const rig = makeRig({ oneOff: true });
    rig.server.start();
    const end = once(rig.server, 'end');
    rig.connect().sendRaw(new Uint8Array(12).fill(0xff));
    await end;
    expect(existsSync(rig.path)).toBe(false);
    expect(rig.complaints).toEqual([expect.stringContaining('broke the protocol')]);
  });

  test('stop while rings run: they stop, the front-end sees the end', async () => {
    const rig = makeRig();
    rig.server.start();
    const frontEnd = rig.connect();
    await replay(frontEnd, t.QEMU_RUNNING);
    await rig.server.stop();
    expect(rig.device.running.size).toBe(0);
    expect(rig.device.attached).toBe(false);
    await frontEnd.closed();
  });
});

describe('connecting', () => {
  /** A socket that front-ends listen on (QEMU's server=on). */
  function listenAt(path: string): { accept: () => Promise<MockFrontEnd>; close: () => void } {
    const fd = native.unixListen(path, 1);
    return {
      accept: async () => {
        for (;;) {
          const accepted = native.unixAccept(fd);
          if (accepted >= 0) return new MockFrontEnd(native, accepted);
          await new Promise((resolve) => setImmediate(resolve));
        }
      },
      close: () => native.close(fd),
    };
  }

  test('tries until somebody listens, says so once, and again after a disconnect', async () => {
    const rig = makeRig({ retryMs: 5 });
    const path = `${rig.path}.qemu`;
    const client = makeRig({ retryMs: 5, source: { connect: path } });
    client.server.start();
    await new Promise((resolve) => setTimeout(resolve, 40));
    expect(client.log).toEqual([{ level: 'info', message: `waiting for a front-end at ${path}` }]);
    const listener = listenAt(path);
    for (let round = 0; round < 2; round++) {
      const frontEnd = client.adopt(await listener.accept());
      await replay(frontEnd, t.QEMU_RUNNING);
      frontEnd.close();
      expect(await client.sessionEnd()).toEqual({ reason: 'left' });
    }
    await client.server.stop();
    listener.close();
    expect(client.log.filter(({ message }) => message.startsWith('waiting'))).toHaveLength(1);
  });

  test('stop ends the attempts', async () => {
    const client = makeRig({ retryMs: 1, source: { connect: '/nonexistent/socket' } });
    const end = once(client.server, 'end');
    client.server.start();
    await client.server.stop();
    await end;
    const lines = client.log.length;
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(client.log).toHaveLength(lines);
  });
});

describe('a given descriptor', () => {
  test('is served once', async () => {
    const pair = new Int32Array(2);
    native.unixPair(pair);
    const rig = makeRig({ source: { fd: pair[1] } });
    const end = once(rig.server, 'end');
    rig.server.start();
    const frontEnd = rig.adopt(new MockFrontEnd(native, pair[0]));
    await replay(frontEnd, t.DPDK_22_11);
    frontEnd.close();
    await end;
    expect(native.fdKind(pair[1])).toBeLessThan(0);
  });

  test('must be a socket', () => {
    const fd = native.eventFd(0);
    const rig = makeRig({ source: { fd } });
    expect(errorOf(() => rig.server.start())).toMatchObject({ name: 'ServerError', code: 'VU_ERR_SOCKET' });
    native.close(fd);
  });
});
