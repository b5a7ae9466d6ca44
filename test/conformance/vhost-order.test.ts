/** Barriers and order: replies wait for the device, messages for each other, and we for nobody else. */
import type { Native } from '../../src/native';
import { loadNative } from '../../src/native';
import * as p from '../../src/vhost/protocol';
import { LeakCheck } from '../support/vhost/leaks';
import type { MockFrontEnd } from '../support/vhost/mock-front-end';
import { encode } from '../support/vhost/mock-front-end';
import { u64, vringState } from '../support/vhost/payloads';
import { Rig, blurt, replay } from '../support/vhost/rig';
import * as t from '../support/vhost/traces';

let native: Native;
let leaks: LeakCheck;
let rig: Rig;
let frontEnd: MockFrontEnd;

beforeAll(() => {
  native = loadNative();
});

beforeEach(async () => {
  leaks = new LeakCheck(native);
  rig = new Rig(native);
  rig.server.start();
  frontEnd = rig.connect();
  await replay(frontEnd, t.QEMU_RUNNING);
  await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
});

afterEach(async () => {
  await rig.close();
  await leaks.verify();
});

/** Some turns of the loop, in which anything that is ready happens. */
async function turns(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
}

test('GET_VRING_BASE is answered when the device has stopped the ring, not before', async () => {
  rig.device.progress = 300;
  const release = rig.device.hold('stopRing');
  const reply = frontEnd.ask(p.VHOST_USER_GET_VRING_BASE, vringState(0, 0));
  await rig.device.called('stopRing');
  await turns();
  expect(frontEnd.waiting).toBe(0);
  release();
  expect((await reply).getUint32(4, true)).toBe(300);
});

test('GET_QUEUE_NUM is answered though MQ is not offered: one pair', async () => {
  expect(await frontEnd.askU64(p.VHOST_USER_GET_QUEUE_NUM)).toBe(1n);
  expect(await frontEnd.askU64(p.VHOST_USER_GET_QUEUE_NUM, undefined, { needReply: true })).toBe(1n);
  await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
  expect(rig.device.running.size).toBe(2);
  expect(rig.complaints).toEqual([]);
});

test('the kick descriptor stays open until the ring has stopped', async () => {
  const kick = rig.device.running.get(0)?.kickFd ?? -1;
  const release = rig.device.hold('stopRing');
  const reply = frontEnd.ask(p.VHOST_USER_GET_VRING_BASE, vringState(0, 0));
  await rig.device.called('stopRing');
  await turns();
  expect(native.fdKind(kick)).toBe(1);
  release();
  await reply;
  native.closerWait(1000);
  expect(native.fdKind(kick)).toBeLessThan(0);
});

test('a replaced call descriptor stays open until the device uses the new one', async () => {
  const old = rig.device.running.get(0)?.callFd ?? -1;
  const release = rig.device.hold('setRingCall');
  frontEnd.send(p.VHOST_USER_SET_VRING_CALL, u64(0), { fds: [frontEnd.eventFd()] });
  await rig.device.called('setRingCall');
  await turns();
  expect(native.fdKind(old)).toBe(1);
  release();
  await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
  native.closerWait(1000);
  expect(native.fdKind(old)).toBeLessThan(0);
});

test('later messages wait for a slow one, in order, replies too', async () => {
  const release = rig.device.hold('setRingEnabled');
  rig.device.calls.length = 0;
  const wanted = [
    [p.VHOST_USER_SET_VRING_ENABLE, vringState(0, 0), true],
    [p.VHOST_USER_GET_FEATURES, undefined, false],
    [p.VHOST_USER_GET_VRING_BASE, vringState(1, 0), false],
    [p.VHOST_USER_SET_OWNER, undefined, true],
    [p.VHOST_USER_GET_PROTOCOL_FEATURES, undefined, false],
    [p.VHOST_USER_GET_VRING_BASE, vringState(0, 0), false],
  ] as const;
  for (const [request, payload, needReply] of wanted) frontEnd.send(request, payload, { needReply });
  await rig.device.called('setRingEnabled');
  await turns();
  expect(frontEnd.waiting).toBe(0);
  expect(rig.device.calls).toEqual(['setRingEnabled(0,false)']);
  release();
  for (const [request] of wanted) {
    expect(await frontEnd.receive()).toMatchObject({ request, flags: 0x5 });
  }
  expect(rig.device.calls).toEqual(['setRingEnabled(0,false)', 'stopRing(1)', 'stopRing(0)']);
});

test('a disable is acknowledged when the device has seen it; a repeated one needs no device', async () => {
  rig.device.calls.length = 0;
  await frontEnd.ask(p.VHOST_USER_SET_VRING_ENABLE, vringState(1, 0), { needReply: true });
  await frontEnd.ask(p.VHOST_USER_SET_VRING_ENABLE, vringState(1, 0), { needReply: true });
  expect(rig.device.calls).toEqual(['setRingEnabled(1,false)']);
});

test('logging is on before the acknowledgement of SET_FEATURES', async () => {
  const release = rig.device.hold('setFeatures');
  const ack = frontEnd.ask(p.VHOST_USER_SET_FEATURES, u64(t.ACKED | p.VHOST_F_LOG_ALL), { needReply: true });
  await turns();
  expect(frontEnd.waiting).toBe(0);
  release();
  await ack;
  expect(rig.device.acked).toBe(t.ACKED | p.VHOST_F_LOG_ALL);
});

test('the front-end leaves while the device is slow: all ends in order', async () => {
  const release = rig.device.hold('stopRing');
  frontEnd.send(p.VHOST_USER_GET_VRING_BASE, vringState(0, 0));
  await rig.device.called('stopRing');
  frontEnd.close();
  await turns();
  expect(rig.device.attached).toBe(true);
  release();
  expect(await rig.sessionEnd()).toEqual({ reason: 'left' });
  expect(rig.device.calls.slice(-3)).toEqual(['stopRing(0)', 'stopRing(1)', 'detach()']);
});

test('we stop while a request waits for the device: it is finished first', async () => {
  rig.device.calls.length = 0;
  const release = rig.device.hold('stopRing');
  frontEnd.send(p.VHOST_USER_GET_VRING_BASE, vringState(0, 0));
  await rig.device.called('stopRing');
  const stopped = rig.server.stop();
  await turns();
  expect(rig.device.calls).toEqual(['stopRing(0)']);
  release();
  await stopped;
  expect(rig.device.calls).toEqual(['stopRing(0)', 'stopRing(1)', 'detach()']);
});

test('the socket closes after the rings have stopped, not before', async () => {
  const release = rig.device.hold('stopRing');
  frontEnd.send(0xbad);
  await rig.device.called('stopRing');
  await turns();
  expect(frontEnd.isClosed).toBe(false);
  release();
  await frontEnd.closed();
});

test('memory is shared until the device has let go of it', async () => {
  const bytes = new Uint8Array(rig.device.memory[0].buffer);
  bytes[3] = 1;
  const release = rig.device.hold('detach');
  frontEnd.close();
  await rig.device.called('detach');
  await turns();
  expect(bytes[3]).toBe(1);
  release();
  await rig.sessionEnd();
  expect(bytes[3]).toBe(0);
});

test('a front-end that does not read its replies is not read from either, and loses nothing', async () => {
  // One session at a time, as in the service: all watch one event for lost memory.
  frontEnd.close();
  await rig.sessionEnd();
  const pair = new Int32Array(2);
  native.unixPair(pair);
  const given = new Rig(native, { source: { fd: pair[1] } });
  given.server.start();
  const ask = encode(p.VHOST_USER_GET_FEATURES);
  const none = new Int32Array(1);
  // Nobody reads pair[0]: replies pile up, then requests do, until the socket takes no more of them either.
  let sent = 0;
  for (let idle = 0; idle < 50;) {
    if (native.sendFds(pair[0], ask, 0, ask.length, none, 0) === ask.length) {
      sent++;
      idle = 0;
    } else {
      idle++;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  expect(sent).toBeGreaterThan(100);
  const buf = new Uint8Array(65536);
  let got = 0;
  while (got < sent * 20) {
    const n = native.recvFds(pair[0], buf, 0, buf.length, new Int32Array(2));
    if (n > 0) got += n;
    else await new Promise((resolve) => setImmediate(resolve));
  }
  expect(got).toBe(sent * 20);
  native.close(pair[0]);
  expect(await given.sessionEnd()).toEqual({ reason: 'left' });
  await given.close();
});

test('a flood of messages leaves turns for others', async () => {
  // All in the socket's buffer at once: more than one turn's worth.
  for (let i = 0; i < 200; i++) frontEnd.send(p.VHOST_USER_SET_OWNER);
  const reply = frontEnd.ask(p.VHOST_USER_GET_FEATURES);
  let turnsTaken = 0;
  let done = false;
  const count = (): void => {
    turnsTaken++;
    if (!done) setImmediate(count);
  };
  setImmediate(count);
  await reply;
  done = true;
  expect(turnsTaken).toBeGreaterThanOrEqual(200 / 64);
});

describe('a device that fails (our bug)', () => {
  test('in a request: the session ends, with a line, and the next is served', async () => {
    rig.device.failOn('setRingEnabled', new Error('no such luck'));
    frontEnd.send(p.VHOST_USER_SET_VRING_ENABLE, vringState(0, 0));
    expect(await rig.sessionEnd()).toMatchObject({ reason: 'internal' });
    expect(rig.complaints).toEqual(['internal error, front-end connection closed: Error: no such luck']);
    await frontEnd.closed();
    await replay(rig.connect(), t.UML_6_1);
  });

  test.each(['stopRing', 'detach'])('in %s at the end: the rest is given back', async (name) => {
    rig.device.failOn(name, new Error('no such luck'));
    frontEnd.close();
    expect(await rig.sessionEnd()).toEqual({ reason: 'left' });
    expect(rig.complaints[0]).toMatch(/no such luck/);
  });

  test('in setMemory: neither map leaks', async () => {
    rig.device.failOn('setMemory', new Error('no such luck'));
    await replay(frontEnd, t.UML_END.slice(-1));
    blurt(
      frontEnd,
      t.DPDK_22_11.filter(({ request }) => request === p.VHOST_USER_SET_MEM_TABLE),
    );
    expect(await rig.sessionEnd()).toMatchObject({ reason: 'internal' });
  });
});
