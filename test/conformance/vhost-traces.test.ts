/** What real front-ends say, replayed against the real addon over a real socket. */
import type { Native } from '../../src/native';
import { loadNative } from '../../src/native';
import * as p from '../../src/vhost/protocol';
import { OFFERED_FEATURES } from '../support/vhost/fake-device';
import { LeakCheck } from '../support/vhost/leaks';
import { config, u64, vringState } from '../support/vhost/payloads';
import { Descriptors, Rig, replay } from '../support/vhost/rig';
import * as t from '../support/vhost/traces';

let native: Native;
let leaks: LeakCheck;
let rig: Rig;

beforeAll(() => {
  native = loadNative();
});

beforeEach(() => {
  leaks = new LeakCheck(native);
  rig = new Rig(native);
  rig.server.start();
});

afterEach(async () => {
  await rig.close();
  await leaks.verify();
});

/** Ring calls only, in order. */
function ringCalls(): string[] {
  return rig.device.calls.filter((call) => /^(start|stop)Ring/.test(call));
}

describe.each(Object.entries(t.TRACES))('%s', (_name, trace) => {
  test('is served, and again after a reconnect', async () => {
    for (let round = 0; round < 3; round++) {
      const frontEnd = rig.connect();
      await replay(frontEnd, trace);
      await frontEnd.ask(p.VHOST_USER_GET_FEATURES); // all before is done
      expect(rig.complaints).toEqual([]);
      expect(rig.device.acked & OFFERED_FEATURES).toBe(OFFERED_FEATURES);
      expect(rig.device.memory).toHaveLength(1);
      expect(frontEnd.waiting).toBe(0);
      frontEnd.close();
      expect(await rig.sessionEnd()).toEqual({ reason: 'left' });
      expect(rig.device.attached).toBe(false);
      expect(rig.device.running.size).toBe(0);
    }
  });
});

test('QEMU 7.2: offers, ring set-up, and what the device is asked', async () => {
  const frontEnd = rig.connect();
  const fds = new Descriptors(frontEnd);
  rig.device.progress = 7;
  const replies = await replay(frontEnd, t.QEMU_7_2, fds);
  const values = replies.map((reply) => reply.getBigUint64(0, true));
  const offered = OFFERED_FEATURES | (1n << 30n) | (1n << 26n);
  // GET_FEATURES, GET_PROTOCOL_FEATURES, slots, ack, GET_FEATURES, ack of memory, two bases, ack of memory.
  expect(values).toEqual([offered, 0xa03en, 509n, 0n, offered, 0n, 7n << 32n, 1n | (7n << 32n), 0n]);
  await frontEnd.ask(p.VHOST_USER_GET_FEATURES); // all before is done
  const starts = ['startRing(0)', 'startRing(1)'];
  expect(ringCalls()).toEqual([...starts, 'stopRing(0)', 'stopRing(1)', ...starts]);
  // The same memory again is no change, and rings were enabled before features and memory were known.
  expect(rig.device.calls.filter((call) => call.startsWith('setMemory'))).toEqual(['setMemory(1)']);
  const ring = rig.device.running.get(1);
  const region = rig.device.memory[0].region;
  const at = t.ringOffsets(1);
  expect(ring).toMatchObject({
    index: 1,
    size: 256,
    desc: { region, offset: at.desc },
    avail: { region, offset: at.avail },
    used: { region, offset: at.used },
    base: 0,
    enabled: true,
    logAddr: -1,
  });
  expect(rig.device.memory[0]).toMatchObject({ gpa: 0, size: t.MEMORY_SIZE });
});

test('the rings are the descriptors that were sent, the call descriptor that came last counts', async () => {
  const frontEnd = rig.connect();
  const fds = new Descriptors(frontEnd);
  await replay(frontEnd, t.QEMU_7_2, fds);
  await frontEnd.ask(p.VHOST_USER_GET_FEATURES); // all before is done
  const ring = rig.device.running.get(1);
  const [kick, call] = fds.events.slice(-2);
  native.signal(ring?.callFd ?? -1);
  expect(native.drain(call)).toBe(1);
  native.signal(kick);
  expect(native.drain(ring?.kickFd ?? -1)).toBe(1);
  native.signal(ring?.errFd ?? -1);
  expect(native.drain(fds.events[3])).toBe(1); // calls and errs of the connection's start: ring 0, ring 1
});

test('the memory is the one that was shared', async () => {
  const frontEnd = rig.connect();
  const fds = new Descriptors(frontEnd);
  await replay(frontEnd, t.UML_6_1, fds);
  // User-mode Linux: the region begins in the middle of the file.
  const theirs = native.mapRegion(fds.memory, 0, t.MEMORY_SIZE);
  new Uint8Array(native.regionBuffer(theirs))[0x4_2000 + 5] = 0xa5;
  expect(new Uint8Array(rig.device.memory[0].buffer)[5]).toBe(0xa5);
  expect(rig.device.memory[0].gpa).toBe(0x4_2000);
  native.retireRegion(theirs);
});

test('QEMU 10.0: a migration switches logging on while rings run', async () => {
  const frontEnd = rig.connect();
  const trace = t.QEMU_10_0;
  await replay(frontEnd, trace.slice(0, -3)); // without the RARP and the stop
  expect(rig.device.mtu).toBe(9000);
  expect(rig.device.acked).toBe(t.ACKED | (1n << 26n));
  expect(rig.device.dirtyLog?.buffer.byteLength).toBe(t.LOG_SIZE);
  expect(rig.device.running.get(0)?.logAddr).toBe(t.ringOffsets(0).used);
  expect(rig.device.running.get(1)?.logAddr).toBe(t.ringOffsets(1).used);
  expect(ringCalls().at(-1)).toBe('startRing(1)');
  await replay(frontEnd, trace.slice(-3));
  expect(rig.device.running.size).toBe(0);
  expect(rig.device.calls.filter((call) => call === 'resetDevice()')).toHaveLength(4);
});

test('a migration that was given up', async () => {
  const frontEnd = rig.connect();
  await replay(frontEnd, t.QEMU_10_0.slice(0, -3));
  await frontEnd.ask(p.VHOST_USER_SET_FEATURES, u64(t.ACKED), { needReply: true });
  for (const index of [0, 1]) {
    await frontEnd.ask(p.VHOST_USER_SET_VRING_ADDR, t.ringAddr(t.QEMU_LAYOUT, index), { needReply: true });
    expect(rig.device.running.get(index)?.logAddr).toBe(-1);
  }
  expect(rig.device.acked).toBe(t.ACKED);
});

test('user-mode Linux: acknowledged on the very message that negotiates it, called through a socket', async () => {
  const frontEnd = rig.connect();
  const replies = await replay(frontEnd, t.UML_6_1);
  expect(replies.slice(2).map((reply) => reply.getBigUint64(0, true))).toEqual(replies.slice(2).map(() => 0n));
  expect(rig.device.running.get(0)).toMatchObject({ enabled: true });
  await replay(frontEnd, t.UML_END);
  expect(rig.device.running.get(0)).toMatchObject({ enabled: false });
  expect(ringCalls()).toEqual(['startRing(0)', 'startRing(1)']);
  frontEnd.close();
  await rig.sessionEnd();
  expect(ringCalls()).toEqual(['startRing(0)', 'startRing(1)', 'stopRing(0)', 'stopRing(1)']);
});

test('user-mode Linux: a driver lets go of the device and another takes it, over and over', async () => {
  const frontEnd = rig.connect();
  const fds = new Descriptors(frontEnd);
  await replay(frontEnd, t.UML_6_1, fds);
  rig.device.progress = 5;
  const setUpRings = t.UML_6_1.slice(t.UML_6_1.findIndex((step) => step.request === p.VHOST_USER_SET_FEATURES));
  for (let round = 1; round <= 4; round++) {
    await replay(frontEnd, t.UML_END);
    rig.device.calls.length = 0;
    await replay(frontEnd, setUpRings, fds);
    // Stopped at the first word about its set-up, started with the kick; the memory is the same and never touched.
    expect(rig.device.calls.filter((call) => /Ring\(|Memory/.test(call))).toEqual([
      'stopRing(0)',
      'stopRing(1)',
      'startRing(0)',
      'startRing(1)',
    ]);
    for (const index of [0, 1]) {
      const ring = rig.device.running.get(index);
      // What SET_VRING_BASE said counts, not how far the ring had come.
      expect(ring).toMatchObject({ enabled: true, base: 0, size: 256, desc: { offset: t.ringOffsets(index).desc } });
      native.signal(fds.events.at(index - 2) ?? -1);
      expect(native.drain(ring?.kickFd ?? -1)).toBe(1);
    }
  }
  expect(rig.complaints).toEqual([]);
  frontEnd.close();
  expect(await rig.sessionEnd()).toEqual({ reason: 'left' });
});

describe('a ring that is started but disabled is stopped, and waited for, by', () => {
  const moved = t.ringAddr(t.DPDK_LAYOUT, 1);
  const into0 = Uint8Array.from(moved, (byte, i) => (i === 0 ? 0 : byte));
  test.each([
    ['SET_VRING_NUM', p.VHOST_USER_SET_VRING_NUM, vringState(0, 128), false],
    ['SET_VRING_BASE', p.VHOST_USER_SET_VRING_BASE, vringState(0, 77), false],
    ['SET_VRING_ADDR to another place', p.VHOST_USER_SET_VRING_ADDR, into0, false],
    ['SET_VRING_KICK, which starts it again', p.VHOST_USER_SET_VRING_KICK, u64(0), true],
  ])('%s', async (_name, request, payload, starts) => {
    const frontEnd = rig.connect();
    await replay(frontEnd, t.DPDK_22_11);
    rig.device.progress = 9;
    await frontEnd.ask(p.VHOST_USER_SET_VRING_ENABLE, vringState(0, 0), { needReply: true });
    const kick = rig.device.running.get(0)?.kickFd ?? -1;
    const release = rig.device.hold('stopRing');
    const done = frontEnd.ask(request, payload, { needReply: true, fds: starts ? [frontEnd.eventFd()] : [] });
    await rig.device.called('stopRing');
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
    expect([frontEnd.waiting, native.fdKind(kick)]).toEqual([0, 1]);
    release();
    expect((await done).getBigUint64(0, true)).toBe(0n);
    native.closerWait(1000);
    expect(native.fdKind(kick)).toBeLessThan(0);
    expect(ringCalls().slice(2)).toEqual(starts ? ['stopRing(0)', 'startRing(0)'] : ['stopRing(0)']);
    if (starts) expect(rig.device.running.get(0)).toMatchObject({ base: 9, enabled: false });
    expect(rig.device.running.get(1)).toMatchObject({ enabled: true });
  });

  test('SET_VRING_ADDR to where it is does not stop it', async () => {
    const frontEnd = rig.connect();
    await replay(frontEnd, t.DPDK_22_11);
    frontEnd.send(p.VHOST_USER_SET_VRING_ENABLE, vringState(0, 0));
    await frontEnd.ask(p.VHOST_USER_SET_VRING_ADDR, t.ringAddr(t.DPDK_LAYOUT, 0), { needReply: true });
    expect(ringCalls()).toEqual(['startRing(0)', 'startRing(1)']);
  });
});

test('need_reply without REPLY_ACK is not answered', async () => {
  const frontEnd = rig.connect();
  frontEnd.send(p.VHOST_USER_SET_OWNER, undefined, { needReply: true });
  frontEnd.send(p.VHOST_USER_SET_VRING_ENABLE, vringState(0, 1), { needReply: true });
  await frontEnd.ask(p.VHOST_USER_GET_FEATURES, undefined, { needReply: true });
});

test('SET_FEATURES without bit 30 enables all rings; with it, it leaves them alone', async () => {
  const enabledAfter = async (features: bigint): Promise<boolean[]> => {
    const frontEnd = rig.connect();
    const trace = t.DPDK_22_11.filter(({ request }) => request !== p.VHOST_USER_SET_VRING_ENABLE).map((step) =>
      step.request === p.VHOST_USER_SET_FEATURES ? { ...step, payload: u64(features) } : step,
    );
    await replay(frontEnd, trace);
    await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
    const enabled = [0, 1].map((index) => rig.device.running.get(index)?.enabled === true);
    frontEnd.close();
    await rig.sessionEnd();
    return enabled;
  };
  expect(await enabledAfter(OFFERED_FEATURES)).toEqual([true, true]);
  expect(await enabledAfter(OFFERED_FEATURES | (1n << 30n))).toEqual([false, false]);
});

test('addresses before base, and memory after all else (other front-ends)', async () => {
  const frontEnd = rig.connect();
  const at = (request: number): t.Trace => t.DPDK_22_11.filter((step) => step.request === request);
  await replay(frontEnd, [
    ...t.DPDK_22_11.slice(0, 7),
    ...at(p.VHOST_USER_SET_VRING_KICK),
    ...at(p.VHOST_USER_SET_VRING_ADDR),
    ...at(p.VHOST_USER_SET_VRING_BASE),
    ...at(p.VHOST_USER_SET_VRING_NUM),
    ...at(p.VHOST_USER_SET_VRING_ENABLE),
  ]);
  expect(ringCalls()).toEqual([]);
  await replay(frontEnd, at(p.VHOST_USER_SET_MEM_TABLE));
  expect(ringCalls()).toEqual(['startRing(0)', 'startRing(1)']);
  expect(rig.device.running.get(0)?.enabled).toBe(true);
});

test('GET_VRING_BASE of a ring that never ran answers what was set, and forgets it', async () => {
  const frontEnd = rig.connect();
  frontEnd.send(p.VHOST_USER_SET_VRING_BASE, vringState(1, 4711));
  const first = await frontEnd.ask(p.VHOST_USER_GET_VRING_BASE, vringState(1, 0xdead));
  expect([first.getUint32(0, true), first.getUint32(4, true)]).toEqual([1, 4711]);
  const second = await frontEnd.ask(p.VHOST_USER_GET_VRING_BASE, vringState(1, 0));
  expect(second.getUint32(4, true)).toBe(0);
});

test('a stopped ring needs its whole set-up again', async () => {
  const frontEnd = rig.connect();
  const fds = new Descriptors(frontEnd);
  await replay(frontEnd, t.DPDK_22_11, fds);
  await replay(frontEnd, t.DPDK_END, fds);
  const starts = ringCalls().filter((call) => call.startsWith('start')).length;
  frontEnd.send(p.VHOST_USER_SET_VRING_KICK, u64(0), { fds: [frontEnd.eventFd()] });
  await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
  expect(ringCalls().filter((call) => call.startsWith('start'))).toHaveLength(starts);
});

test('kick, call and err of a running ring can be replaced, also by none', async () => {
  const frontEnd = rig.connect();
  await replay(frontEnd, t.DPDK_22_11);
  for (const request of [p.VHOST_USER_SET_VRING_KICK, p.VHOST_USER_SET_VRING_CALL, p.VHOST_USER_SET_VRING_ERR]) {
    const fd = frontEnd.eventFd();
    await frontEnd.ask(request, u64(0), { needReply: true, fds: [fd] });
    await frontEnd.ask(request, u64(0x100), { needReply: true });
  }
  expect(rig.device.running.get(0)).toMatchObject({ kickFd: -1, callFd: -1, errFd: -1 });
  expect(rig.device.calls.slice(-6)).toEqual([
    'setRingKick(0,true)',
    'setRingKick(0,false)',
    'setRingCall(0,true)',
    'setRingCall(0,false)',
    'setRingErr(0,true)',
    'setRingErr(0,false)',
  ]);
});

test('RESET_OWNER stops and disables, and keeps what was negotiated', async () => {
  const frontEnd = rig.connect();
  await replay(frontEnd, t.DPDK_22_11);
  await frontEnd.ask(p.VHOST_USER_RESET_OWNER, undefined, { needReply: true });
  expect(rig.device.running.size).toBe(0);
  expect(rig.device.memory).toHaveLength(1);
});

test('a ring fault is signalled and logged once a start', async () => {
  const frontEnd = rig.connect();
  const fds = new Descriptors(frontEnd);
  await replay(frontEnd, t.QEMU_7_2, fds);
  await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
  rig.device.onRingFault?.(1, 'head beyond the ring');
  rig.device.onRingFault?.(1, 'head beyond the ring');
  native.closerWait(1000);
  expect(native.drain(fds.events[3])).toBe(1);
  expect(rig.complaints).toEqual(['ring 1 stopped: head beyond the ring']);
  await frontEnd.ask(p.VHOST_USER_GET_VRING_BASE, vringState(1, 0)); // the session lives
});

describe('configuration space', () => {
  test('is not offered unless asked for', async () => {
    const frontEnd = rig.connect();
    const offered = await frontEnd.askU64(p.VHOST_USER_GET_PROTOCOL_FEATURES);
    expect(offered).toBe(t.OFFERED_PROTOCOL_FEATURES);
    expect((await frontEnd.askU64(p.VHOST_USER_GET_FEATURES)) & p.VIRTIO_NET_F_MTU).toBe(0n);
  });

  test('has the MTU', async () => {
    await rig.close();
    rig = new Rig(native, { configMtu: 9000 });
    rig.server.start();
    const frontEnd = rig.connect();
    const offered = await frontEnd.askU64(p.VHOST_USER_GET_PROTOCOL_FEATURES);
    expect(offered).toBe(t.OFFERED_PROTOCOL_FEATURES | (1n << 9n));
    expect((await frontEnd.askU64(p.VHOST_USER_GET_FEATURES)) & p.VIRTIO_NET_F_MTU).toBe(p.VIRTIO_NET_F_MTU);
    frontEnd.send(p.VHOST_USER_SET_PROTOCOL_FEATURES, u64((1n << 9n) | (1n << 3n)));
    const reply = await frontEnd.ask(p.VHOST_USER_GET_CONFIG, config(10, 2));
    expect([reply.byteLength, reply.getUint16(12, true)]).toEqual([14, 9000]);
    expect((await frontEnd.ask(p.VHOST_USER_GET_CONFIG, config(255, 2))).byteLength).toBe(0);
    expect(await frontEnd.askU64(p.VHOST_USER_SET_CONFIG, config(0, 6), { needReply: true })).toBe(0n);
  });
});
