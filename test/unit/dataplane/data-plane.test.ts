import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { DataPlane } from '../../../src/dataplane/data-plane';
import { loadNative } from '../../../src/native';
import type { DeviceRing } from '../../../src/vhost/device';
import { COUNTERS } from '../../../src/stack/counters';
import { stackConfig } from '../../support/stack/stack-config';

const workerFile = join(__dirname, '../../fixtures/dataplane/fake-worker.js');

interface Told {
  readonly kind: string;
  readonly ring?: DeviceRing;
  readonly features?: string;
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

describe('DataPlane', () => {
  let told: Told[];
  let logged: string[];
  let fatal: Error[];
  let plane: DataPlane;

  beforeEach(async () => {
    told = [];
    logged = [];
    fatal = [];
    plane = await DataPlane.start({
      config: stackConfig(),
      listeners: [],
      counters: new SharedArrayBuffer(8 * COUNTERS),
      workerFile,
      log: (level, message) => {
        if (level === 'debug') told.push(JSON.parse(message) as Told);
        else logged.push(`${level}: ${message}`);
      },
      onFatal: (error) => fatal.push(error),
    });
  });

  it('gives a new worker the rings of one that died, and settles what that one owed', async () => {
    const buffer = new SharedArrayBuffer(65536);
    new DataView(buffer).setUint16(8192 + 2, 1234, true); // used.idx of ring 1
    await plane.setFeatures(0x1_3000_8000n);
    await plane.setMemory([{ region: 3, buffer, gpa: 0x1000, size: 65536 }]);
    await plane.startRing(ring(0, 12288));
    await plane.startRing(ring(1, 8192));
    await plane.setRingEnabled(0, true);
    await plane.setRingCall(0, 55);
    told.length = 0;
    const reset = plane.resetDevice();
    const stopped = plane.stopRing(1);
    await reset;
    // The base that a dead worker cannot tell is what it had completed.
    expect(await stopped).toBe(1234);
    expect(await plane.stopRing(0)).toBe(77);
    expect(told.map((t) => t.kind)).toEqual(['features', 'memory', 'log', 'startRing', 'stopRing']);
    expect(told[0].features).toBe(String(0x1_3000_8000n));
    expect(told[1].regions?.[0].gpa).toBe(0x1000);
    expect(told[3].ring).toMatchObject({ index: 0, base: -1, enabled: true, callFd: 55 });
    expect(logged).toHaveLength(1);
    expect(logged[0]).toContain('told to die');
    await plane.stop();
    expect(fatal).toEqual([]);
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

  it('gives up on a worker that keeps dying', async () => {
    for (let i = 0; i < 5; i++) await plane.resetDevice();
    const last = plane.resetDevice();
    while (fatal.length === 0) await new Promise(setImmediate);
    expect(fatal[0].message).toContain('told to die');
    await plane.stop();
    await last; // settled, not left hanging
  });
});
