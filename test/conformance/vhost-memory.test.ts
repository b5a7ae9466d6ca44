/** Memory that changes while rings run, the dirty log, and memory that is taken away. */
import { readFileSync } from 'node:fs';
import type { Native } from '../../src/native';
import { loadNative } from '../../src/native';
import * as p from '../../src/vhost/protocol';
import { LeakCheck } from '../support/vhost/leaks';
import type { MockFrontEnd } from '../support/vhost/mock-front-end';
import type { RegionFields } from '../support/vhost/payloads';
import { logBase, memTable, singleRegion, u64 } from '../support/vhost/payloads';
import { Descriptors, Rig, replay } from '../support/vhost/rig';
import * as t from '../support/vhost/traces';

const MiB = 0x10_0000n;
/** A DIMM plugged in behind the guest's memory. */
const DIMM: RegionFields = { gpa: 0x1_0000_0000n, size: MiB, uva: 0x7e00_0000_0000n, offset: 0n };

let native: Native;
let leaks: LeakCheck;
let rig: Rig;
let frontEnd: MockFrontEnd;
let fds: Descriptors;

beforeAll(() => {
  native = loadNative();
});

beforeEach(async () => {
  leaks = new LeakCheck(native);
  rig = new Rig(native);
  rig.server.start();
  frontEnd = rig.connect();
  fds = new Descriptors(frontEnd);
  await replay(frontEnd, t.QEMU_RUNNING, fds);
  await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
  rig.device.calls.length = 0;
});

afterEach(async () => {
  await rig.close();
  await leaks.verify();
});

function setMemTable(regions: readonly RegionFields[], files: readonly number[]): Promise<bigint> {
  return frontEnd.askU64(p.VHOST_USER_SET_MEM_TABLE, memTable(regions), { needReply: true, fds: files });
}

function addRegion(region: RegionFields, file: number): Promise<bigint> {
  return frontEnd.askU64(p.VHOST_USER_ADD_MEM_REG, singleRegion(region), { needReply: true, fds: [file] });
}

function removeRegion(region: RegionFields, files: readonly number[] = []): Promise<bigint> {
  return frontEnd.askU64(p.VHOST_USER_REM_MEM_REG, singleRegion(region), { needReply: true, fds: files });
}

test('memory plugged in by a new table: what was there stays as it is, rings do not notice', async () => {
  const before = rig.device.memory[0];
  expect(await setMemTable([t.QEMU_LAYOUT, DIMM], [fds.memory, frontEnd.memfd(Number(MiB))])).toBe(0n);
  expect(rig.device.calls).toEqual(['setMemory(2)']);
  expect(rig.device.memory[0]).toBe(before);
  expect(rig.device.memory[1]).toMatchObject({ gpa: 0x1_0000_0000, size: Number(MiB) });
});

test('the same table again is no change', async () => {
  expect(await setMemTable([t.QEMU_LAYOUT], [fds.memory])).toBe(0n);
  expect(rig.device.calls).toEqual([]);
});

test('memory plugged in and out again', async () => {
  const regions = native.regionCount();
  expect(await addRegion(DIMM, frontEnd.memfd(Number(MiB)))).toBe(0n);
  expect(native.regionCount()).toBe(regions + 1);
  expect(rig.device.memory).toHaveLength(2);
  // Without the offset, which some front-ends leave out, and with a descriptor, which old ones send.
  expect(await removeRegion({ ...DIMM, offset: 0x55n }, [fds.memory])).toBe(0n);
  expect(rig.device.memory).toHaveLength(1);
  expect(rig.device.calls).toEqual(['setMemory(2)', 'setMemory(1)']);
});

test('a region that was added already is added with success', async () => {
  const regions = native.regionCount();
  expect(await addRegion(t.QEMU_LAYOUT, fds.memory)).toBe(0n);
  expect(native.regionCount()).toBe(regions);
  expect(rig.device.calls).toEqual([]);
});

test('the same addresses in another file: rings stop, move and go on where they were', async () => {
  rig.device.progress = 5;
  const old = rig.device.memory[0];
  const oldBytes = new Uint8Array(old.buffer);
  oldBytes[7] = 1;
  expect(await setMemTable([t.QEMU_LAYOUT], [frontEnd.memfd(t.MEMORY_SIZE)])).toBe(0n);
  expect(rig.device.calls).toEqual(['stopRing(0)', 'stopRing(1)', 'setMemory(1)', 'startRing(0)', 'startRing(1)']);
  const now = rig.device.memory[0];
  expect(now.region).not.toBe(old.region);
  for (const index of [0, 1]) {
    expect(rig.device.running.get(index)).toMatchObject({ base: 5, enabled: true, desc: { region: now.region } });
  }
  expect(oldBytes[7]).toBe(0); // given back: a view that is left reads zeros
});

test('the old map is in use until the device says that it is not', async () => {
  const oldBytes = new Uint8Array(rig.device.memory[0].buffer);
  oldBytes[7] = 1;
  const release = rig.device.hold('setMemory');
  const reply = setMemTable([t.QEMU_LAYOUT], [frontEnd.memfd(t.MEMORY_SIZE)]);
  await rig.device.called('setMemory');
  await new Promise((resolve) => setImmediate(resolve));
  expect(oldBytes[7]).toBe(1);
  expect(frontEnd.waiting).toBe(0);
  release();
  expect(await reply).toBe(0n);
  expect(oldBytes[7]).toBe(0);
});

test('a ring whose memory goes is stopped and reported, and starts again when memory comes back', async () => {
  expect(await removeRegion(t.QEMU_LAYOUT)).toBe(0n);
  expect(rig.device.calls).toEqual(['stopRing(0)', 'stopRing(1)', 'setMemory(0)']);
  expect(rig.complaints).toEqual([
    'ring 0 stopped: its memory was removed from the memory table',
    'ring 1 stopped: its memory was removed from the memory table',
  ]);
  native.closerWait(1000);
  expect(native.drain(fds.events[1])).toBe(1); // err of ring 0
  expect(native.drain(fds.events[3])).toBe(1);
  expect(await addRegion(t.QEMU_LAYOUT, fds.memory)).toBe(0n);
  expect(rig.device.calls.slice(-3)).toEqual(['setMemory(1)', 'startRing(0)', 'startRing(1)']);
});

test('a table that is refused changes nothing', async () => {
  const tooShort = frontEnd.memfd(4096);
  expect(await setMemTable([t.QEMU_LAYOUT, DIMM], [fds.memory, tooShort])).toBe(1n);
  expect(
    await setMemTable(
      [
        { ...DIMM, gpa: 0n },
        { ...DIMM, uva: 0x1000n },
      ],
      [fds.memory, tooShort],
    ),
  ).toBe(1n);
  expect(rig.device.calls).toEqual([]);
  expect(rig.device.running.size).toBe(2);
});

test('slots run out without harm', async () => {
  const file = frontEnd.memfd(4096);
  const page = (i: number): RegionFields => ({
    gpa: DIMM.gpa + 4096n * BigInt(i),
    uva: DIMM.uva + 4096n * BigInt(i),
    size: 4096n,
    offset: 0n,
  });
  const slots = Number(await frontEnd.askU64(p.VHOST_USER_GET_MAX_MEM_SLOTS));
  for (let i = 1; i < slots; i++) expect(await addRegion(page(i), file)).toBe(0n);
  expect(rig.device.memory).toHaveLength(slots);
  expect(await addRegion(page(slots), file)).toBe(1n);
  expect(await removeRegion(page(1))).toBe(0n);
  expect(await addRegion(page(slots), file)).toBe(0n);
});

test('the log grows: the new one is in force before the answer, then the old one goes', async () => {
  const setLog = (size: number): Promise<bigint> =>
    frontEnd.askU64(p.VHOST_USER_SET_LOG_BASE, logBase(BigInt(size), 0n), { fds: [frontEnd.memfd(size)] });
  expect(await setLog(4096)).toBe(0n);
  const first = new Uint8Array(rig.device.dirtyLog?.buffer ?? new ArrayBuffer(0));
  expect(first.length).toBe(4096);
  first[0] = 1;
  expect(await setLog(8192)).toBe(0n);
  expect(rig.device.dirtyLog?.buffer.byteLength).toBe(8192);
  expect(first[0]).toBe(0);
  await frontEnd.ask(p.VHOST_USER_RESET_OWNER, undefined, { needReply: true });
  frontEnd.send(p.VHOST_USER_RESET_DEVICE);
  await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
  expect(rig.device.dirtyLog).toBeNull();
});

test('a log longer than any address calls for is mapped as far as one can reach', async () => {
  const size = 2 ** 45;
  const fd = frontEnd.memfd(size);
  expect(await frontEnd.askU64(p.VHOST_USER_SET_LOG_BASE, logBase(BigInt(size), 0n), { fds: [fd] })).toBe(0n);
  expect(rig.device.dirtyLog?.buffer.byteLength).toBe(2 ** 38);
  // And one that is not there is not mapped at all.
  frontEnd.send(p.VHOST_USER_SET_LOG_BASE, logBase(BigInt(size), 4096n), { fds: [frontEnd.memfd(4096)] });
  expect(await rig.sessionEnd()).toMatchObject({ reason: 'protocol', error: { code: 'VU_ERR_LOG' } });
});

test('more memory than a process can address is refused, in one region or in several, and nothing stays mapped', async () => {
  const regions = native.regionCount();
  const mappings = (): number => readFileSync('/proc/self/maps', 'utf8').split('huge').length;
  const half = 2n ** 44n;
  const file = native.memfdCreate('huge', Number(4n * half), 0);
  const region = (i: bigint, size: bigint): RegionFields => ({
    gpa: 2n ** 46n + i * half,
    size,
    uva: 2n ** 60n + i * half,
    offset: 0n,
  });
  expect(await addRegion(region(0n, 3n * half), file)).toBe(1n);
  expect(await addRegion(region(0n, half), file)).toBe(0n);
  expect(await addRegion(region(1n, half), file)).toBe(1n); // with the guest's own memory too much
  expect(await setMemTable([t.QEMU_LAYOUT, region(0n, half), region(1n, half)], [fds.memory, file, file])).toBe(1n);
  expect(native.regionCount()).toBe(regions + 1);
  expect(await removeRegion(region(0n, half))).toBe(0n);
  expect(mappings()).toBe(1);
  native.close(file);
  expect(await addRegion(DIMM, frontEnd.memfd(Number(MiB)))).toBe(0n);
});

test('memory that is taken away by its file ends the session with a line', async () => {
  const bytes = new Uint8Array(rig.device.memory[0].buffer);
  native.ftruncate(fds.memory, 0);
  expect(bytes[0x5000]).toBe(0); // what the data plane would do: answered with zeros
  frontEnd.send(p.VHOST_USER_SET_OWNER);
  expect(await rig.sessionEnd()).toMatchObject({ reason: 'protocol', error: { code: 'VU_ERR_MEMORY_LOST' } });
  expect(rig.complaints).toEqual([
    'front-end broke the protocol: guest memory was truncated while in use; connection closed',
  ]);
  await frontEnd.closed();
});

test('memory that is taken away is noticed at once also when the front-end says nothing', async () => {
  const bytes = new Uint8Array(rig.device.memory[0].buffer);
  native.ftruncate(fds.memory, 0);
  const began = Date.now();
  expect(bytes[0x5000]).toBe(0);
  const end = await rig.sessionEnd();
  expect(Date.now() - began).toBeLessThan(500); // the next look by the clock may be a second away
  expect(end).toMatchObject({ reason: 'protocol', error: { code: 'VU_ERR_MEMORY_LOST' } });
});

test('so is a dirty log that is taken away', async () => {
  await frontEnd.ask(p.VHOST_USER_SET_LOG_BASE, logBase(4096n, 0n), { fds: [fds.log] });
  const bytes = new Uint8Array(rig.device.dirtyLog?.buffer ?? new ArrayBuffer(0));
  native.ftruncate(fds.log, 0);
  expect(bytes[9]).toBe(0);
  frontEnd.send(p.VHOST_USER_SET_VRING_CALL, u64(0x100));
  expect(await rig.sessionEnd()).toMatchObject({ reason: 'protocol', error: { code: 'VU_ERR_MEMORY_LOST' } });
});
