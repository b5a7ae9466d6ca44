/**
 * What a front-end must not say: each message is sent as it is, and then the right answer or a closed connection, no
 * descriptor and no memory left behind, and the next front-end served.
 */
import { closeSync, openSync } from 'node:fs';
import type { Native } from '../../src/native';
import { loadNative } from '../../src/native';
import type { ProtocolErrorCode } from '../../src/vhost/protocol-errors';
import * as p from '../../src/vhost/protocol';
import { OFFERED_FEATURES } from '../support/vhost/fake-device';
import { LeakCheck } from '../support/vhost/leaks';
import type { MockFrontEnd } from '../support/vhost/mock-front-end';
import { encode } from '../support/vhost/mock-front-end';
import type { Setup } from '../support/vhost/illegal-cases';
import { CASES, events, memory, region } from '../support/vhost/illegal-cases';
import { EMPTY, config, memTable, u64, vringAddr, vringState } from '../support/vhost/payloads';
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

/** The session of `frontEnd` ends with `code`, one line says so, and another front-end gets all it wants. */
async function expectClosed(frontEnd: MockFrontEnd, code: ProtocolErrorCode): Promise<void> {
  const end = await rig.sessionEnd();
  expect(end).toMatchObject({ reason: 'protocol', error: { code } });
  await frontEnd.closed();
  expect(rig.complaints).toHaveLength(1);
  expect(rig.complaints[0]).toMatch(/^front-end broke the protocol: .*; connection closed$/);
  expect(rig.device.attached).toBe(false);
  expect(rig.device.running.size).toBe(0);
  frontEnd.close();
  const next = rig.connect();
  await replay(next, t.DPDK_22_11);
  await next.ask(p.VHOST_USER_GET_FEATURES);
  expect(rig.device.running.size).toBe(2);
}

/** A front-end that has come as far as `setup` says. */
async function arrive(setup: Setup): Promise<MockFrontEnd> {
  const frontEnd = rig.connect();
  if (setup === 'negotiated') frontEnd.send(p.VHOST_USER_SET_PROTOCOL_FEATURES, u64(t.OFFERED_PROTOCOL_FEATURES));
  if (setup === 'running') {
    await replay(frontEnd, t.QEMU_RUNNING);
    await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
  }
  return frontEnd;
}

test.each(CASES)('closes: $name ($code)', async ({ setup = 'fresh', code, request, payload = EMPTY, fds }) => {
  const frontEnd = await arrive(setup);
  frontEnd.send(request, payload, { fds: fds?.(frontEnd) ?? [] });
  await expectClosed(frontEnd, code);
});

test.each([
  ['version 2', { flags: 0x2 }],
  ['a reply', { flags: 0x5 }],
  ['a reserved flag', { flags: 0x101 }],
  ['a payload of 4097 bytes', { size: 4097 }],
  ['a payload of 4 GiB', { size: 0xffff_ffff }],
])('closes: header with %s', async (_name, options) => {
  const frontEnd = await arrive('fresh');
  frontEnd.send(p.VHOST_USER_GET_FEATURES, EMPTY, { ...options, fds: [frontEnd.eventFd()] });
  await expectClosed(frontEnd, 'VU_ERR_HEADER');
});

test('closes: nonsense', async () => {
  const frontEnd = await arrive('fresh');
  frontEnd.sendRaw(Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'));
  await expectClosed(frontEnd, 'VU_ERR_HEADER');
});

test('closes: a message that ends in its header, in its payload, with descriptors', async () => {
  for (const length of [1, 11, 12, 19]) {
    const frontEnd = rig.connect();
    frontEnd.sendRaw(encode(p.VHOST_USER_SET_VRING_KICK, u64(0)).subarray(0, length), [frontEnd.eventFd()]);
    frontEnd.close();
    expect(await rig.sessionEnd()).toMatchObject({ reason: 'protocol', error: { code: 'VU_ERR_TRUNCATED' } });
  }
  const next = rig.connect();
  await replay(next, t.DPDK_22_11);
});

test('descriptors may come with any byte of a message, and too many are too many all together', async () => {
  const frontEnd = await arrive('fresh');
  const bytes = encode(p.VHOST_USER_SET_VRING_KICK, u64(0));
  frontEnd.sendRaw(bytes.subarray(0, 5));
  frontEnd.sendRaw(bytes.subarray(5, 14), [frontEnd.eventFd()]);
  frontEnd.sendRaw(bytes.subarray(14));
  await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
  for (let i = 0; i < 3; i++) frontEnd.sendRaw(bytes.subarray(i, i + 1), events(4)(frontEnd));
  await expectClosed(frontEnd, 'VU_ERR_FDS');
});

test('a sender that gives one byte at a time is served', async () => {
  const frontEnd = rig.connect();
  const fds = new Descriptors(frontEnd);
  for (const { request, payload, needReply, fds: kinds, waits } of t.UML_6_1) {
    const bytes = encode(request, payload, { needReply });
    const now = kinds.map((kind) => fds.make(kind));
    for (let i = 0; i < bytes.length; i++) {
      frontEnd.sendRaw(bytes.subarray(i, i + 1), i === 0 ? now : []);
      if (i % 7 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    if (waits) expect((await frontEnd.receive()).request).toBe(request);
  }
  expect(rig.device.running.size).toBe(2);
});

test('a ring outside of memory, and one that only begins inside', async () => {
  const end = t.DPDK_LAYOUT.uva + t.DPDK_LAYOUT.size;
  const inside = t.DPDK_LAYOUT.uva + 0x1000n;
  const places = [
    { desc: 0x1000n, avail: inside, used: inside },
    { desc: inside, avail: end, used: inside },
    { desc: end - 16n * 255n - 16n + 16n, avail: inside, used: inside },
    { desc: inside, avail: end - 6n - 2n * 256n + 2n, used: inside },
    { desc: inside, avail: inside, used: end - 2048n - 4n },
    { desc: 2n ** 64n - 16n, avail: inside, used: inside },
  ];
  for (const place of places) {
    const frontEnd = rig.connect();
    await replay(frontEnd, t.DPDK_22_11.slice(0, 8)); // up to the memory table
    frontEnd.send(p.VHOST_USER_SET_VRING_NUM, vringState(0, 256));
    frontEnd.send(p.VHOST_USER_SET_VRING_ADDR, vringAddr({ index: 0, ...place }));
    frontEnd.send(p.VHOST_USER_SET_VRING_KICK, u64(0), { fds: [frontEnd.eventFd()] });
    expect(await rig.sessionEnd()).toMatchObject({ reason: 'protocol', error: { code: 'VU_ERR_RING_ADDRESS' } });
    frontEnd.close();
  }
  expect(rig.device.calls.filter((call) => call.startsWith('startRing'))).toEqual([]);
});

test('a ring that ends with its region to the byte', async () => {
  const frontEnd = rig.connect();
  await replay(frontEnd, t.DPDK_22_11.slice(0, 8));
  const { uva, size } = t.DPDK_LAYOUT;
  frontEnd.send(p.VHOST_USER_SET_VRING_NUM, vringState(0, 1));
  frontEnd.send(
    p.VHOST_USER_SET_VRING_ADDR,
    vringAddr({ index: 0, desc: uva + size - 16n, avail: uva + size - 8n, used: uva + size - 16n }),
  );
  await frontEnd.ask(p.VHOST_USER_SET_VRING_KICK, u64(0), { fds: [frontEnd.eventFd()], needReply: true });
  expect(rig.device.running.get(0)?.desc.offset).toBe(t.MEMORY_SIZE - 16);
});

describe('refused, where an acknowledgement was asked for: the session goes on', () => {
  test.each([
    ['an unknown request', 99, EMPTY, 0],
    ['STATUS, which is not offered', p.VHOST_USER_SET_STATUS, u64(15), 0],
    ['INFLIGHT, which is not offered', p.VHOST_USER_SET_INFLIGHT_FD, new Uint8Array(24), 1],
    ['an MTU of 67', p.VHOST_USER_NET_SET_MTU, u64(67), 0],
    ['an MTU of 65536', p.VHOST_USER_NET_SET_MTU, u64(65536), 0],
    ['an MTU of 2^64-1', p.VHOST_USER_NET_SET_MTU, u64(2n ** 64n - 1n), 0],
    ['memory that cannot be mapped', p.VHOST_USER_SET_MEM_TABLE, memTable([{ ...region, size: 2n ** 40n }]), 1],
  ])('%s', async (_name, request, payload, fds) => {
    const frontEnd = await arrive('negotiated');
    const files = memory(fds)(frontEnd);
    expect(await frontEnd.askU64(request, payload, { needReply: true, fds: files })).toBe(1n);
    expect(rig.complaints).toEqual([expect.stringMatching(/^front-end request refused: /)]);
    await replay(frontEnd, t.QEMU_7_2);
    await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
    expect(rig.device.running.size).toBe(2);
  });

  test('but a request with an answer of its own cannot be refused', async () => {
    const frontEnd = await arrive('negotiated');
    frontEnd.send(p.VHOST_USER_GET_CONFIG, config(0, 6), { needReply: true });
    await expectClosed(frontEnd, 'VU_ERR_NOT_NEGOTIATED');
  });

  test('the log stays readable', async () => {
    const frontEnd = await arrive('negotiated');
    for (let i = 0; i < 100; i++) await frontEnd.ask(99, EMPTY, { needReply: true });
    expect(rig.complaints).toHaveLength(10);
  });
});

test('out of order, but allowed', async () => {
  const frontEnd = rig.connect();
  const fd = frontEnd.eventFd();
  for (const index of [0, 1]) {
    frontEnd.send(p.VHOST_USER_SET_VRING_ENABLE, vringState(index, 1));
    frontEnd.send(p.VHOST_USER_SET_VRING_KICK, u64(index), { fds: [fd] });
    frontEnd.send(p.VHOST_USER_SET_VRING_KICK, u64(0x100 | index));
    frontEnd.send(p.VHOST_USER_SET_VRING_CALL, u64(index), { fds: [fd] });
    await frontEnd.ask(p.VHOST_USER_GET_VRING_BASE, vringState(index, 0));
  }
  frontEnd.send(p.VHOST_USER_SET_OWNER);
  frontEnd.send(p.VHOST_USER_SET_OWNER);
  frontEnd.send(p.VHOST_USER_SET_LOG_FD, EMPTY, { fds: [fd] });
  frontEnd.send(p.VHOST_USER_SET_FEATURES, u64(OFFERED_FEATURES));
  frontEnd.send(p.VHOST_USER_SET_FEATURES, u64(0));
  await replay(frontEnd, t.QEMU_7_2);
  await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
  expect(rig.device.running.size).toBe(2);
  expect(rig.complaints).toEqual([]);
});

test('a directory or a device is no memory', async () => {
  for (const path of ['/', '/dev/zero']) {
    const fd = openSync(path, 'r');
    const frontEnd = rig.connect();
    frontEnd.send(p.VHOST_USER_SET_MEM_TABLE, memTable([region]), { fds: [fd] });
    expect(await rig.sessionEnd()).toMatchObject({ reason: 'protocol', error: { code: 'VU_ERR_FD_KIND' } });
    frontEnd.close();
    closeSync(fd);
  }
});
