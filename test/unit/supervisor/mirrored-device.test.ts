/** The device of front-ends as commands, and what of them a new worker would be given. */
import type { Command } from '../../../src/dataplane/commands';
import { MirroredDevice } from '../../../src/supervisor/mirrored-device';
import type { DeviceRing } from '../../../src/vhost/device';

class Device extends MirroredDevice {
  readonly sent: (Command & { readonly takesCall?: number })[] = [];
  answer = 0;

  protected send(command: Command, takesCall?: number): Promise<number> {
    this.sent.push(takesCall === undefined ? command : { ...command, takesCall });
    return Promise.resolve(this.answer);
  }

  fail(): void {
    this.failed = true;
  }

  get kinds(): string[] {
    return this.sent.map(({ kind }) => kind);
  }

  /** What a new worker would be told. */
  get replay(): Command[] {
    return this.mirror.commands(new Set());
  }
}

const BUFFER = new SharedArrayBuffer(4096);
const REGIONS = [{ region: 3, buffer: BUFFER, gpa: 0x1000, size: 4096 }];

function ring(index: number): DeviceRing {
  const place = (offset: number) => ({ region: 3, offset });
  const fds = { kickFd: 10, callFd: 11, errFd: -1 };
  return {
    ...{ index, size: 256, base: 7, enabled: false, logAddr: -1, ...fds },
    ...{ desc: place(0), avail: place(1024), used: place(2048) },
  };
}

let device: Device;

beforeEach(() => {
  device = new Device();
});

/** The ring that a new worker would be given. */
function replayed(index: number): DeviceRing | undefined {
  for (const command of device.replay)
    if (command.kind === 'startRing' && command.ring.index === index) return command.ring;
  return undefined;
}

test('what a front-end sets up goes to the data plane, and to the next one', async () => {
  await device.setFeatures(0x1_0000_8000n);
  await device.setMemory(REGIONS);
  await device.setLog({ region: 4, buffer: BUFFER });
  await device.setMtu(1400);
  await device.startRing(ring(0));
  const set = [
    { kind: 'features', features: 0x1_0000_8000n },
    { kind: 'memory', regions: REGIONS },
    { kind: 'log', log: { region: 4, buffer: BUFFER } },
    { kind: 'mtu', mtu: 1400 },
  ];
  expect(device.sent).toEqual([...set, { kind: 'startRing', ring: ring(0) }]);
  expect(device.replay.slice(0, 4)).toEqual(set);
  expect(replayed(0)).toMatchObject({ index: 0, size: 256, callFd: 11 });
  expect(device.negotiated).toEqual(['mrg_rxbuf', 'version_1']);
});

test('changes of a ring: the old call descriptor goes with the command that replaces it', async () => {
  await device.startRing(ring(1));
  await device.setRingEnabled(1, true);
  await device.setRingCall(1, 21);
  await device.setRingKick(1, 20);
  await device.setRingErr(1, 22);
  await device.setRingLog(1, 0x5000);
  expect(device.sent.slice(1)).toEqual([
    { kind: 'enable', index: 1, enabled: true },
    { kind: 'call', index: 1, fd: 21, takesCall: 11 },
    { kind: 'kick', index: 1, fd: 20 },
    { kind: 'logRing', index: 1, logAddr: 0x5000 },
  ]);
  expect(replayed(1)).toMatchObject({ enabled: true, callFd: 21, kickFd: 20, errFd: 22, logAddr: 0x5000 });
});

test('a ring that was never started is not made up by a change of it', async () => {
  await device.setFeatures(1n);
  await device.setRingCall(0, 21);
  expect(device.sent.at(-1)).toEqual({ kind: 'call', index: 0, fd: 21, takesCall: -1 });
  expect(replayed(0)).toBeUndefined();
});

test('a stopped ring is not started again, and says where it was', async () => {
  await device.startRing(ring(0));
  await device.startRing(ring(1));
  device.answer = 1234;
  expect(await device.stopRing(0)).toBe(1234);
  expect([replayed(0), replayed(1)?.index]).toEqual([undefined, 1]);
});

test('a front-end that leaves is forgotten; the MTU goes back if it set one', async () => {
  await device.setFeatures(1n);
  await device.setMemory(REGIONS);
  await device.detach();
  expect(device.kinds.slice(2)).toEqual(['log', 'memory']);
  expect(device.replay).toEqual([]);
  await device.setMtu(1400);
  await device.detach();
  expect(device.sent.at(-1)).toEqual({ kind: 'mtu', mtu: 0 });
  expect(device.replay).toEqual([]);
  expect(device.negotiated).toEqual([]);
});

test('what a failed session says is passed on, and not remembered; the next session starts afresh', async () => {
  device.fail();
  await device.setFeatures(1n);
  await device.setMemory(REGIONS);
  await device.setLog({ region: 4, buffer: BUFFER });
  await device.setMtu(1400);
  await device.startRing(ring(0));
  expect(device.kinds).toEqual(['features', 'memory', 'log', 'mtu', 'startRing']);
  expect(device.replay).toEqual([]);
  device.attach();
  await device.setFeatures(1n);
  expect(device.replay[0]).toEqual({ kind: 'features', features: 1n });
});

test('a stream: opened again by a new worker until it is closed', async () => {
  device.fail();
  await device.openStream(30);
  expect(device.sent).toEqual([{ kind: 'streamOpen', fd: 30 }]);
  expect(device.replay).toContainEqual({ kind: 'streamOpen', fd: 30 });
  await device.setMtu(1400); // a stream is a new session
  expect(device.replay).toContainEqual({ kind: 'mtu', mtu: 1400 });
  await device.setMtu(0);
  await device.closeStream();
  expect(device.sent.at(-1)).toEqual({ kind: 'streamClose' });
  expect(device.replay).toEqual([]);
});

test('the tap of a namespace outlives every front-end', async () => {
  await device.openTap(31, 5);
  await device.detach();
  expect(device.sent[0]).toEqual({ kind: 'tapOpen', fd: 31, offloads: 5 });
  expect(device.replay).toEqual([{ kind: 'tapOpen', fd: 31, offloads: 5 }]);
});

test.each([
  [1, true],
  [0, false],
])('a probe that is answered by %d: %s', async (answer, alive) => {
  device.answer = answer;
  expect(await device.probeStream()).toBe(alive);
  expect(device.kinds).toEqual(['streamProbe']);
});

test('the command for what is known of the guest carries the memory that takes it', async () => {
  const out = new Int32Array(new SharedArrayBuffer(64));
  device.answer = 2;
  expect(await device.describeGuest(out)).toBe(2);
  expect(device.sent).toEqual([{ kind: 'describeGuest', out }]);
});

test('a reset is a command, and nothing to remember', async () => {
  await device.resetDevice();
  expect([device.kinds, device.replay]).toEqual([['reset'], []]);
});
