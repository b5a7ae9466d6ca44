import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { DataPlane, type DataPlaneOptions, type DataPlaneSetup } from '../../../src/supervisor/data-plane';
import { SESSION_DEATHS } from '../../../src/supervisor/restart-policy';
import { createLog, LOG_LIMIT_PER_SECOND } from '../../../src/log';
import { loadNative } from '../../../src/native';
import { Filters } from '../../../src/sandbox/seccomp';
import type { DeviceRing } from '../../../src/vhost/device';
import { C_DATA_PLANE_EXITS, COUNTERS } from '../../../src/stack/counters';
import { NO_REACH } from '../../../src/stack/policy/types';
import { stackConfig } from '../../support/stack/stack-config';

const workerFile = join(__dirname, '../../fixtures/dataplane/fake-worker.js');

/** Kick descriptors at which the worker of test/fixtures does not answer, or loops. */
const DEAF = 1001;
const LOOP = 1002;

interface Told {
  readonly kind: string;
  readonly ring?: DeviceRing;
  readonly features?: string;
  readonly mtu?: number;
  readonly regions?: readonly { readonly gpa: number }[];
}

function ring(index: number, usedOffset: number): DeviceRing {
  const place = (offset: number): { region: number; offset: number } => ({ region: 3, offset });
  return {
    index,
    size: 256,
    desc: place(0),
    avail: place(4096),
    used: place(usedOffset),
    base: 0,
    kickFd: -1,
    callFd: -1,
    errFd: -1,
    enabled: false,
    logAddr: -1,
  };
}

/** What a filter's program begins with (linux/bpf_common.h). */
const BPF_LD_W_ABS = 0x20;

describe('DataPlane', () => {
  let told: Told[];
  let logged: string[];
  let fatal: Error[];
  let setup: DataPlaneOptions & DataPlaneSetup;
  let plane: DataPlane;

  beforeEach(async () => {
    told = [];
    logged = [];
    fatal = [];
    setup = {
      config: stackConfig(),
      listeners: [],
      counters: new SharedArrayBuffer(8 * COUNTERS),
      workerFile,
      log: (level, message) => {
        if (level === 'debug') told.push(JSON.parse(message) as Told);
        else logged.push(`${level}: ${message}`);
      },
      onFatal: (error) => fatal.push(error),
    };
    plane = await DataPlane.start(setup);
  });

  afterEach(() => plane.stop());

  /** Data planes replaced, by reason: exit, hung, heap. */
  const restarts = (): number[] => [...new Float64Array(setup.counters).subarray(C_DATA_PLANE_EXITS).subarray(0, 3)];

  it('gives a new worker the rings of one that died, and settles what that one owed', async () => {
    const buffer = new SharedArrayBuffer(65536);
    new DataView(buffer).setUint16(8192 + 2, 1234, true); // used.idx of ring 1
    await plane.setFeatures(0x1_3000_8000n);
    await plane.setMemory([{ region: 3, buffer, gpa: 0x1000, size: 65536 }]);
    await plane.startRing(ring(0, 12288));
    await plane.startRing(ring(1, 8192));
    await plane.setRingEnabled(0, true);
    await plane.setRingCall(0, 55);
    await plane.setMtu(1500);
    told.length = 0;
    const reset = plane.resetDevice();
    const stopped = plane.stopRing(1);
    await reset;
    // The base that a dead worker cannot tell is what it had completed.
    expect(await stopped).toBe(1234);
    expect(await plane.stopRing(0)).toBe(77);
    expect(told.map((t) => t.kind)).toEqual(['features', 'memory', 'log', 'mtu', 'startRing', 'stopRing']);
    expect(told[0].features).toBe(String(0x1_3000_8000n));
    expect(told[1].regions?.[0].gpa).toBe(0x1000);
    expect(told[3].mtu).toBe(1500);
    expect(told[4].ring).toMatchObject({ index: 0, base: -1, enabled: true, callFd: 55 });
    expect(logged).toHaveLength(1);
    expect(logged[0]).toContain('told to die');
    await plane.stop();
    expect(fatal).toEqual([]);
  });

  it('says of a front-end that kills worker after worker, session after session, no more than the log allows', async () => {
    await plane.stop();
    const lines: string[] = [];
    const log = createLog('info', [(_level, line) => lines.push(line)]);
    plane = await DataPlane.start({ ...setup, log: log.log });
    // All in the same second, however slow the machine is.
    const now = jest.spyOn(performance, 'now').mockReturnValue(12_345);
    const deaths = 2 * LOG_LIMIT_PER_SECOND;
    for (let death = 0; death < deaths; death++) {
      plane.attach();
      await plane.setFeatures(1n);
      await plane.resetDevice();
    }
    await plane.setFeatures(2n);
    now.mockRestore();
    expect(restarts()).toEqual([deaths, 0, 0]);
    expect(lines).toHaveLength(LOG_LIMIT_PER_SECOND);
    expect(fatal).toEqual([]);
  }, 30_000);

  it('asks for a watchdog again that the host had no memory for, and says so once', async () => {
    await plane.stop();
    logged.length = 0;
    const native = loadNative();
    const poll = jest.spyOn(native, 'pollStart').mockReturnValueOnce(-12).mockReturnValueOnce(-28);
    const start = jest.spyOn(native, 'watchdogStart').mockReturnValueOnce(-11);
    plane = await DataPlane.start(setup);
    await plane.setMemory([{ region: 3, buffer: new SharedArrayBuffer(65536), gpa: 0x1000, size: 65536 }]);
    while (poll.mock.calls.length < 3) await new Promise((resolve) => setTimeout(resolve, 10));
    poll.mockRestore();
    start.mockRestore();
    expect(logged).toEqual(['warn: no watchdog (errno 11): a data plane that hangs is not replaced until this works']);
  });

  it('forgets the MTU of a front-end that left', async () => {
    await plane.detach();
    expect(told.map((t) => t.kind)).toEqual(['log', 'memory']);
    await plane.setMtu(1500);
    told.length = 0;
    await plane.detach();
    await plane.detach();
    expect(told.filter((t) => t.kind === 'mtu')).toEqual([{ kind: 'mtu', mtu: 0 }]);
    await plane.stop();
  });

  it('gets a command for each change while it serves', async () => {
    await plane.setConfig(stackConfig({ mtu: 1400 }));
    await plane.setRates({ in: 5e6, out: 0 });
    await plane.setPolicy({ policy: null, reach: NO_REACH, verdicts: new SharedArrayBuffer(16) });
    await plane.forward({ remove: [7], add: [], closeFlows: true });
    await plane.setNeighbours(Int32Array.of(1, 2));
    await plane.hostMoved();
    expect(told).toMatchObject([
      { kind: 'config', config: { mtu: 1400 } },
      { kind: 'rates', rates: { in: 5e6, out: 0 } },
      { kind: 'policy', setup: { policy: null, verdicts: 16 } },
      { kind: 'forward', change: { remove: [7], add: [], closeFlows: true } },
      { kind: 'neighbours', entries: { 0: 1, 1: 2 } },
      { kind: 'moved' },
    ]);
  });

  it('asks the worker for flows, and of none for the flow of another one', async () => {
    const { worker, next } = await plane.lookAtFlows(new SharedArrayBuffer(64), { protocols: 1, from: 0, most: 1 });
    expect([told.at(-1)?.kind, next]).toEqual(['flows', 0]);
    expect(await plane.closeFlow(worker, 0, 17, 3)).toBe(false); // the worker answers 0
    expect(told.at(-1)).toMatchObject({ kind: 'closeFlow', slot: 17, generation: 3 });
    const before = told.length;
    expect(await plane.closeFlow(worker + 1, 0, 17, 3)).toBe(false);
    expect(told).toHaveLength(before);
    expect(await plane.adopt({ fd: 9, peerPort: 5001, targetPort: 22, targetAddr: null, rule: 0 })).toBe(false);
    expect(told.at(-1)).toMatchObject({ kind: 'adopt', adoption: { fd: 9, peerPort: 5001, targetPort: 22 } });
  });

  it('has the thread confined, unless there is no sandbox', async () => {
    expect(await plane.confine(new Filters(loadNative(), 'off'))).toEqual({ name: 'seccomp-data-plane', state: 'off' });
    expect(told).toEqual([]);
    expect(await plane.confine(new Filters(loadNative(), 'on'))).toEqual({ name: 'seccomp-data-plane', state: 'on' });
    expect(told).toMatchObject([{ kind: 'confine', program: { 0: BPF_LD_W_ABS } }]);
  });

  it('gets a worker out of a notification that the front-end makes it wait in', async () => {
    const native = loadNative();
    const callFd = native.eventFd(0);
    const most = Buffer.alloc(8);
    most.writeBigUInt64LE(2n ** 64n - 2n);
    expect(native.write(callFd, most, 0, 8)).toBe(8);
    spawnSync('true', { stdio: [callFd] }); // libuv makes a child's standard streams blocking
    await plane.setMemory([{ region: 3, buffer: new SharedArrayBuffer(65536), gpa: 0x1000, size: 65536 }]);
    await plane.startRing({ ...ring(0, 12288), callFd });
    await plane.setRingEnabled(0, true);
    // Emptied, rung again, and rung by the worker.
    expect(native.drain(callFd)).toBe(2);
    await plane.stop();
    native.close(callFd);
  });

  it('settles every command, whenever it comes: between two workers, after the end', async () => {
    const died = plane.resetDevice();
    const settled = Promise.all([
      died.then(() => plane.setFeatures(1n)),
      plane.setMemory([]),
      plane.setConfig(stackConfig({ mtu: 1400 })),
    ]);
    await settled;
    // The host's change came while no worker was there to hear it: the next one does.
    await plane.setNeighbours(new Int32Array(0));
    expect(told.filter((t) => t.kind === 'config')).toHaveLength(1);
    const stopped = plane.stop();
    const during = plane.setFeatures(3n);
    await stopped;
    await during;
    expect(await plane.stopRing(0)).toBe(0);
    await expect(plane.begin(setup)).rejects.toThrow('stopped');
    await plane.stop(); // twice is once
  });

  it('replaces a worker that does not answer, and answers in its place', async () => {
    await plane.setFeatures(5n);
    await plane.setRingKick(1, DEAF);
    expect(logged).toEqual([expect.stringMatching(/data plane hangs.*no answer to "kick"/)]);
    expect(restarts()).toEqual([0, 1, 0]);
    await plane.setRingKick(1, 7);
    expect(told.slice(-4).map((t) => t.kind)).toEqual(['features', 'memory', 'log', 'kick']);
    await plane.stop();
  }, 15_000);

  it('ends, although its worker does not', async () => {
    const looping = plane.setRingKick(1, LOOP);
    const began = performance.now();
    await plane.stop();
    expect(performance.now() - began).toBeLessThan(2500);
    await looping;
  });

  it.each([0, 1, 5, 20, 50, 100])('stops while it begins, %i ms into it', async (ms) => {
    await plane.stop();
    const other = DataPlane.launch({ ...setup, onFatal: (error) => fatal.push(error) });
    const begun = other.begin(setup).then(
      () => 'begun',
      () => 'not begun',
    );
    const early = other.setFeatures(1n);
    await new Promise((resolve) => setTimeout(resolve, ms)); // a moment is what is tested
    await other.stop();
    expect(['begun', 'not begun']).toContain(await begun);
    await early;
    expect(fatal).toEqual([]);
  });

  it('says why a worker did not begin', async () => {
    await plane.stop();
    const broken = { ...setup, workerFile: join(__dirname, '../../fixtures/dataplane/no-such-worker.js') };
    await expect(DataPlane.start(broken)).rejects.toThrow(/no-such-worker/);
    expect(fatal).toEqual([]);
  });

  it('ends the session whose state each worker dies of, and serves the next', async () => {
    const failures: string[] = [];
    plane.onFailed = (error) => failures.push(error.message);
    plane.attach();
    await plane.setFeatures(5n);
    await plane.setMemory([{ region: 3, buffer: new SharedArrayBuffer(65536), gpa: 0x1000, size: 65536 }]);
    for (let i = 0; i < SESSION_DEATHS; i++) {
      expect(failures).toEqual([]);
      await plane.resetDevice();
    }
    expect(failures).toHaveLength(1);
    // What the session still says on its way out reaches nobody, or the next worker would die of it.
    told.length = 0;
    await plane.setFeatures(9n);
    await plane.startRing(ring(0, 12288));
    expect(await plane.stopRing(0)).toBe(0);
    await plane.detach();
    plane.attach();
    await plane.setFeatures(7n);
    await plane.setRingKick(1, 7); // by now the next worker has all that it is given
    const kinds = told.map((t) => t.kind);
    expect(kinds).not.toContain('startRing');
    expect(told.filter((t) => t.kind === 'features').map((t) => t.features)).toEqual(['7']);
    expect(told.filter((t) => t.kind === 'memory').flatMap((t) => t.regions ?? [])).toEqual([]);
    expect(restarts()).toEqual([SESSION_DEATHS, 0, 0]);
    await plane.stop();
    expect(fatal).toEqual([]);
  });

  it('gives up on a worker that keeps dying', async () => {
    for (let i = 0; i < 5; i++) await plane.resetDevice();
    const last = plane.resetDevice();
    while (fatal.length === 0) await new Promise(setImmediate);
    expect(fatal[0].message).toContain('told to die');
    await plane.stop();
    await last; // settled, not left hanging
    await plane.setFeatures(1n); // what comes after it, too
  });
});
