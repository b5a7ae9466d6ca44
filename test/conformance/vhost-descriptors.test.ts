/**
 * Descriptors that block whoever touches them, and front-ends that come by the thousand: the next front-end is served all
 * the same. The hostile front-end is a process of its own (test/support/world/hostile-fds.cc).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import type { Native } from '../../src/native';
import { FD_MEMORY, FD_OTHER, loadNative } from '../../src/native';
import * as p from '../../src/vhost/protocol';
import { helperProgram } from '../support/world/image';
import { scratchDirectory } from '../support/world/paths';
import { PROGRAM, launchProgram, SAME_USER } from '../support/program';
import { LeakCheck } from '../support/vhost/leaks';
import { MockFrontEnd, encode } from '../support/vhost/mock-front-end';
import { logBase, memTable, u64 } from '../support/vhost/payloads';
import { Descriptors, Rig, replay } from '../support/vhost/rig';
import * as t from '../support/vhost/traces';

let native: Native;
let leaks: LeakCheck;
let rig: Rig;
const hostile: ChildProcess[] = [];

beforeAll(() => {
  native = loadNative();
  helperProgram('hostile-fds');
});

beforeEach(() => {
  leaks = new LeakCheck(native);
  rig = new Rig(native);
  rig.server.start();
});

afterEach(async () => {
  for (const child of hostile.splice(0)) await kill(child);
  await rig.close();
  await leaks.verify();
  expect(native.closerLost()).toBe(0); // whoever was given up came back, now that its descriptor is nobody's
});

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('close', resolve));
  child.kill('SIGKILL');
  await gone;
  while (native.closerLost() > 0) await new Promise((resolve) => setTimeout(resolve, 10));
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** Starts it; settles when it has sent its message. */
async function attack(argv: readonly string[], fds: readonly number[] = []): Promise<void> {
  const child = spawn(helperProgram('hostile-fds'), argv, { stdio: ['ignore', 'pipe', 'inherit', ...fds] });
  hostile.push(child);
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once('data', () => {
      resolve();
    });
    child.once('close', (status) => {
      reject(new Error(`it ended with ${String(status)}`));
    });
  });
}

/** A front-end that is served now, within `mostMs`. */
async function expectServed(mostMs: number): Promise<void> {
  const begun = performance.now();
  const next = rig.connect();
  await next.ask(p.VHOST_USER_GET_FEATURES);
  expect(performance.now() - begun).toBeLessThan(mostMs);
  next.close();
  await rig.sessionEnd();
}

const PREFIX = hex(encode(p.VHOST_USER_SET_PROTOCOL_FEATURES, u64(t.OFFERED_PROTOCOL_FEATURES)));
const MEMORY = memTable([t.QEMU_LAYOUT]);

describe.each([
  ['SET_VRING_KICK', encode(p.VHOST_USER_SET_VRING_KICK, u64(0))],
  ['SET_VRING_CALL', encode(p.VHOST_USER_SET_VRING_CALL, u64(0))],
  ['SET_VRING_ERR', encode(p.VHOST_USER_SET_VRING_ERR, u64(0))],
  ['SET_BACKEND_REQ_FD', encode(p.VHOST_USER_SET_BACKEND_REQ_FD)],
  ['SET_LOG_BASE', encode(p.VHOST_USER_SET_LOG_BASE, logBase(0x1000n, 0n))],
  ['SET_MEM_TABLE', encode(p.VHOST_USER_SET_MEM_TABLE, MEMORY)],
  ['a message without descriptors', encode(p.VHOST_USER_SET_OWNER)],
  ['an unknown message', encode(99)],
])('%s', (_name, message) => {
  test('with a TCP socket that lingers: closed at once', async () => {
    await attack(['tcp', '1', rig.path, PREFIX, hex(message)]);
    expect(await rig.sessionEnd()).toMatchObject({ reason: 'protocol' });
    await expectServed(500);
  });

  (existsSync('/dev/fuse') && process.getuid?.() === 0 ? test : test.skip)(
    'with a file of a silent FUSE server: nobody waits for it',
    async () => {
      const { path, remove } = scratchDirectory();
      const mount = join(path, 'm');
      mkdirSync(mount);
      await attack(['fuse', mount, rig.path, PREFIX, hex(message)]);
      expect(await rig.sessionEnd()).toMatchObject({ reason: 'protocol' });
      await expectServed(500);
      await kill(hostile[0]);
      remove();
    },
  );
});

test('more descriptors than a message may have, each of which lingers', async () => {
  await attack(['tcp', '100', rig.path, PREFIX, hex(encode(p.VHOST_USER_SET_OWNER))]);
  expect(await rig.sessionEnd()).toMatchObject({ reason: 'protocol', error: { code: 'VU_ERR_FDS' } });
  await expectServed(500);
});

test('descriptors that linger in the queue of one that was taken: a thread is given up, this front-end ends, others go on', async () => {
  // Taken, then replaced by none, which closes it.
  const taken = encode(p.VHOST_USER_SET_VRING_ERR, u64(0));
  const replaced = encode(p.VHOST_USER_SET_VRING_ERR, u64(p.VHOST_USER_VRING_NOFD_MASK));
  await attack(['nested', '1', rig.path, PREFIX, hex(taken) + hex(replaced)]);
  expect(await rig.sessionEnd()).toMatchObject({ reason: 'protocol', error: { code: 'VU_ERR_FD_KIND' } });
  expect(native.closerLost()).toBe(1);
  await expectServed(500);
  await kill(hostile[0]);
});

test('files of a disk of ours are memory, devices and other files are not', () => {
  const disk = openSync(__filename, 'r');
  const device = openSync('/dev/null', 'r');
  const proc = openSync('/proc/self/status', 'r');
  const directory = openSync(__dirname, 'r');
  const all = [disk, device, proc, directory];
  expect(all.map((fd) => native.fdKind(fd))).toEqual([FD_MEMORY, FD_OTHER, FD_OTHER, FD_OTHER]);
  for (const fd of all) native.close(fd);
});

test('a first front-end that does not read its replies: the second one is turned away within a second or so', async () => {
  const deaf = native.unixConnect(rig.path);
  const ask = encode(p.VHOST_USER_GET_FEATURES);
  const none = new Int32Array(1);
  let idle = 0;
  for (let i = 0; i < 1e6 && idle < 50; i++) {
    const full = native.sendFds(deaf, ask, 0, ask.length, none, 0) < 0;
    idle = full ? idle + 1 : 0;
    if (full) await new Promise((resolve) => setImmediate(resolve));
  }
  const begun = performance.now();
  await rig.connect().closed();
  expect(performance.now() - begun).toBeLessThan(2500);
  await rig.connect().closed(); // and the next one
  expect(rig.complaints).toEqual([
    'second front-end refused, one is connected already',
    'second front-end refused, one is connected already',
  ]);
  native.close(deaf);
  expect(await rig.sessionEnd()).toEqual({ reason: 'left' });
  await expectServed(500);
});

describe('the running service', () => {
  const dir = scratchDirectory();
  afterAll(dir.remove);

  async function launch(name: string): Promise<{ path: string; service: ReturnType<typeof launchProgram> }> {
    const path = join(dir.path, name);
    const service = launchProgram([...PROGRAM, '--foreground', '--socket', path, ...SAME_USER]);
    hostile.push(service.child);
    await service.says(/waiting for a front-end/);
    return { path, service };
  }

  test('eventfds that are full and block, kept so by others: the guest is served, SIGTERM ends it', async () => {
    const { path, service } = await launch('full');
    const frontEnd = rig.adopt(MockFrontEnd.connect(native, path));
    const fds = new Descriptors(frontEnd);
    await replay(frontEnd, t.QEMU_RUNNING, fds);
    // By index: call and err of both rings at the connection's start, then kick and call of each.
    const [, err0, , err1, , call0, kick1, call1] = fds.events;
    await attack(['fill', '3', '4', '5', '6'], [call0, call1, err0, err1]);
    const region = native.mapRegion(fds.memory, 0, t.MEMORY_SIZE);
    const memory = new DataView(native.regionBuffer(region));
    const at = t.ringOffsets(1);
    // One chain of the transmit queue: 72 bytes that are no frame we know.
    memory.setBigUint64(at.desc, 0x80000n, true);
    memory.setUint32(at.desc + 8, 72, true);
    for (let n = 1; n <= 20; n++) {
      memory.setUint16(at.avail + 2, n, true); // each entry is chain 0
      memory.setUint16(at.avail + 4 + 2 * t.RING_SIZE, n - 1, true); // used_event: an interrupt for each
      native.signal(kick1);
      while (memory.getUint16(at.used + 2, true) !== n) await new Promise((resolve) => setImmediate(resolve));
      // That a small frame was completed is told up to 2 ms late.
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    memory.setUint16(at.avail + 2, 5000, true); // breaks the ring: err
    native.signal(kick1);
    await service.says(/ring 1 stopped/);
    await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
    const begun = performance.now();
    service.child.kill('SIGTERM');
    expect(await service.exit).toEqual({ status: 0, signal: null });
    expect(performance.now() - begun).toBeLessThan(1000);
    native.retireRegion(region);
  }, 20_000);

  test('a flood of second front-ends: few lines, and the first one is served', async () => {
    const { path, service } = await launch('flood');
    const first = rig.adopt(MockFrontEnd.connect(native, path));
    await first.ask(p.VHOST_USER_GET_FEATURES);
    let worst = 0;
    let answers = 0;
    let refused = 0;
    const until = performance.now() + 2000;
    while (performance.now() < until) {
      const asked = performance.now();
      let answered = false;
      void first.ask(p.VHOST_USER_GET_FEATURES).then(() => {
        answered = true;
      });
      while (!answered) {
        const fd = native.unixConnect(path);
        if (fd >= 0) {
          native.close(fd);
          refused++;
        }
        await new Promise((resolve) => setImmediate(resolve));
      }
      worst = Math.max(worst, performance.now() - asked);
      answers++;
    }
    expect(worst).toBeLessThan(500);
    expect(answers).toBeGreaterThan(20);
    expect(refused).toBeGreaterThan(100);
    expect(service.stderr().split('\n').length).toBeLessThan(40);
    first.close();
    service.child.kill('SIGTERM');
    expect(await service.exit).toEqual({ status: 0, signal: null });
  }, 20_000);
});
