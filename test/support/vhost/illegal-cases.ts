/** Messages that a front-end must not send, and the code the session ends with. */
import type { ProtocolErrorCode } from '../../../src/vhost/protocol-errors';
import type { MockFrontEnd } from './mock-front-end';
import { config, logBase, memTable, singleRegion, u64, vringAddr, vringState } from './payloads';
import * as t from './traces';

/** How far the front-end has come: connected, protocol features negotiated, or both rings run (as QEMU does it). */
export type Setup = 'fresh' | 'negotiated' | 'running';

export interface Case {
  readonly name: string;
  readonly setup?: Setup;
  readonly code: ProtocolErrorCode;
  readonly request: number;
  readonly payload?: Uint8Array;
  readonly fds?: (frontEnd: MockFrontEnd) => number[];
}

const event = (f: MockFrontEnd): number[] => [f.eventFd()];
export const events =
  (count: number) =>
  (f: MockFrontEnd): number[] =>
    Array.from({ length: count }, () => f.eventFd());
export const memory =
  (count = 1, size = t.MEMORY_SIZE) =>
  (f: MockFrontEnd): number[] =>
    Array.from({ length: count }, () => f.memfd(size));
const MiB = 0x10_0000n;
export const region = { gpa: 0n, size: MiB, uva: 0x7000_0000_0000n, offset: 0n };
const apart = { ...region, gpa: 16n * MiB, uva: region.uva + 16n * MiB };
const addr = t.ringAddr(t.QEMU_LAYOUT, 0);
const ringAt = (change: object): Uint8Array =>
  vringAddr({ index: 0, desc: 0x1000n, avail: 0x2000n, used: 0x3000n, ...change });

export const CASES: readonly Case[] = [
  // ---- sizes
  { name: 'GET_FEATURES with a payload', code: 'VU_ERR_SIZE', request: 1, payload: u64(0) },
  { name: 'SET_FEATURES of 4 bytes', code: 'VU_ERR_SIZE', request: 2, payload: new Uint8Array(4) },
  { name: 'SET_FEATURES of 16 bytes', code: 'VU_ERR_SIZE', request: 2, payload: new Uint8Array(16) },
  { name: 'SET_OWNER with a payload', code: 'VU_ERR_SIZE', request: 3, payload: u64(0) },
  { name: 'SET_VRING_NUM without payload', code: 'VU_ERR_SIZE', request: 8 },
  { name: 'SET_VRING_ADDR of 39 bytes', code: 'VU_ERR_SIZE', request: 9, payload: new Uint8Array(39) },
  { name: 'SET_VRING_KICK of 4 bytes', code: 'VU_ERR_SIZE', request: 12, payload: new Uint8Array(4), fds: event },
  { name: 'GET_VRING_BASE of 4 bytes', code: 'VU_ERR_SIZE', request: 11, payload: new Uint8Array(4) },
  { name: 'SET_MEM_TABLE without payload', code: 'VU_ERR_SIZE', request: 5 },
  { name: 'SET_MEM_TABLE of half a region', code: 'VU_ERR_SIZE', request: 5, payload: memTable([], { count: 1 }) },
  {
    name: 'ADD_MEM_REG of 32 bytes',
    setup: 'negotiated',
    code: 'VU_ERR_SIZE',
    request: 37,
    payload: new Uint8Array(32),
    fds: memory(),
  },

  // ---- descriptors: too few, too many, of the wrong kind
  { name: 'GET_FEATURES with a descriptor', code: 'VU_ERR_FDS', request: 1, fds: event },
  { name: 'SET_VRING_NUM with descriptors', code: 'VU_ERR_FDS', request: 8, payload: vringState(0, 2), fds: events(8) },
  { name: 'SET_VRING_KICK without one', code: 'VU_ERR_FDS', request: 12, payload: u64(0) },
  { name: 'SET_VRING_CALL with two', code: 'VU_ERR_FDS', request: 13, payload: u64(0), fds: events(2) },
  {
    name: 'SET_VRING_ERR with one, but none announced',
    code: 'VU_ERR_FDS',
    request: 14,
    payload: u64(0x100),
    fds: event,
  },
  { name: 'SET_LOG_FD without one', code: 'VU_ERR_FDS', request: 7 },
  { name: 'nine descriptors', code: 'VU_ERR_FDS', request: 12, payload: u64(0), fds: events(9) },
  { name: 'sixty descriptors', code: 'VU_ERR_FDS', request: 12, payload: u64(0), fds: events(60) },
  { name: 'SET_MEM_TABLE without one', code: 'VU_ERR_FDS', request: 5, payload: memTable([region]) },
  {
    name: 'SET_MEM_TABLE with one too few',
    code: 'VU_ERR_FDS',
    request: 5,
    payload: memTable([region, apart]),
    fds: memory(1),
  },
  {
    name: 'SET_MEM_TABLE with one too many',
    code: 'VU_ERR_FDS',
    request: 5,
    payload: memTable([region]),
    fds: memory(2),
  },
  { name: 'a file to kick', code: 'VU_ERR_FD_KIND', request: 12, payload: u64(0), fds: memory() },
  { name: 'a file to call', code: 'VU_ERR_FD_KIND', request: 13, payload: u64(0), fds: memory() },
  { name: 'a file for errors', code: 'VU_ERR_FD_KIND', request: 14, payload: u64(0), fds: memory() },
  { name: 'an eventfd as memory', code: 'VU_ERR_FD_KIND', request: 5, payload: memTable([region]), fds: event },
  { name: 'an eventfd as back-end channel', setup: 'negotiated', code: 'VU_ERR_FD_KIND', request: 21, fds: event },
  {
    name: 'an eventfd as log',
    setup: 'negotiated',
    code: 'VU_ERR_FD_KIND',
    request: 6,
    payload: logBase(4096n, 0n),
    fds: event,
  },

  // ---- negotiation
  { name: 'a feature that was not offered', code: 'VU_ERR_FEATURES', request: 2, payload: u64(1n << 34n) },
  { name: 'an MTU without a configuration space', code: 'VU_ERR_FEATURES', request: 2, payload: u64(8) },
  { name: 'all features', code: 'VU_ERR_FEATURES', request: 2, payload: u64(2n ** 64n - 1n) },
  { name: 'a protocol feature that was not offered', code: 'VU_ERR_PROTOCOL_FEATURES', request: 16, payload: u64(1) },
  { name: 'features changed while rings run', setup: 'running', code: 'VU_ERR_FEATURES', request: 2, payload: u64(0) },
  {
    name: 'protocol features changed while rings run',
    setup: 'running',
    code: 'VU_ERR_PROTOCOL_FEATURES',
    request: 16,
    payload: u64(8),
  },

  // ---- ring numbers
  { name: 'SET_VRING_NUM of ring 2', code: 'VU_ERR_RING_INDEX', request: 8, payload: vringState(2, 256) },
  {
    name: 'SET_VRING_BASE of ring 2^32-1',
    code: 'VU_ERR_RING_INDEX',
    request: 10,
    payload: vringState(0xffff_ffff, 0),
  },
  { name: 'SET_VRING_ENABLE of ring 256', code: 'VU_ERR_RING_INDEX', request: 18, payload: vringState(256, 1) },
  { name: 'GET_VRING_BASE of ring 65536', code: 'VU_ERR_RING_INDEX', request: 11, payload: vringState(65536, 0) },
  { name: 'SET_VRING_ADDR of ring 7', code: 'VU_ERR_RING_INDEX', request: 9, payload: ringAt({ index: 7 }) },
  { name: 'SET_VRING_KICK of ring 255', code: 'VU_ERR_RING_INDEX', request: 12, payload: u64(255), fds: event },
  {
    name: 'SET_VRING_CALL with high bits',
    code: 'VU_ERR_RING_INDEX',
    request: 13,
    payload: u64(1n << 32n),
    fds: event,
  },
  { name: 'size 0', code: 'VU_ERR_RING_VALUE', request: 8, payload: vringState(0, 0) },
  { name: 'size 100', code: 'VU_ERR_RING_VALUE', request: 8, payload: vringState(0, 100) },
  { name: 'size 65536', code: 'VU_ERR_RING_VALUE', request: 8, payload: vringState(0, 65536) },
  { name: 'base 65536', code: 'VU_ERR_RING_VALUE', request: 10, payload: vringState(0, 65536) },
  { name: 'enable 2', code: 'VU_ERR_RING_VALUE', request: 18, payload: vringState(0, 2) },
  { name: 'misaligned descriptors', code: 'VU_ERR_RING_ADDRESS', request: 9, payload: ringAt({ desc: 0x1008n }) },
  { name: 'misaligned avail', code: 'VU_ERR_RING_ADDRESS', request: 9, payload: ringAt({ avail: 0x2001n }) },
  { name: 'misaligned used', code: 'VU_ERR_RING_ADDRESS', request: 9, payload: ringAt({ used: 0x3002n }) },
  {
    name: 'a log address past all',
    code: 'VU_ERR_LOG',
    request: 9,
    payload: ringAt({ flags: 1, log: 2n ** 64n - 4n }),
  },

  // ---- while the ring runs
  { name: 'SET_VRING_NUM', setup: 'running', code: 'VU_ERR_RING_RUNNING', request: 8, payload: vringState(0, 256) },
  { name: 'SET_VRING_BASE', setup: 'running', code: 'VU_ERR_RING_RUNNING', request: 10, payload: vringState(1, 0) },
  {
    name: 'SET_VRING_ADDR that moves it',
    setup: 'running',
    code: 'VU_ERR_RING_RUNNING',
    request: 9,
    payload: addr.map((byte, i) => (i === 9 ? byte ^ 0x40 : byte)),
  },

  // ---- memory
  { name: 'no region', code: 'VU_ERR_MEMORY', request: 5, payload: memTable([]) },
  {
    name: 'nine regions',
    code: 'VU_ERR_MEMORY',
    request: 5,
    payload: memTable(Array.from({ length: 9 }, () => region)),
  },
  { name: '2^32-1 regions', code: 'VU_ERR_MEMORY', request: 5, payload: memTable([region], { count: 0xffff_ffff }) },
  {
    name: 'regions that overlap for the guest',
    code: 'VU_ERR_MEMORY',
    request: 5,
    payload: memTable([region, { ...apart, gpa: MiB - 4096n }]),
    fds: memory(2),
  },
  {
    name: 'regions that overlap for the front-end',
    code: 'VU_ERR_MEMORY',
    request: 5,
    payload: memTable([region, { ...apart, uva: region.uva + MiB - 4096n }]),
    fds: memory(2),
  },
  {
    name: 'a guest address that wraps',
    code: 'VU_ERR_MEMORY',
    request: 5,
    payload: memTable([{ ...region, gpa: 2n ** 64n - 4096n }]),
    fds: memory(),
  },
  {
    name: 'a user address that wraps',
    code: 'VU_ERR_MEMORY',
    request: 5,
    payload: memTable([{ ...region, uva: 2n ** 64n - 4096n }]),
    fds: memory(),
  },
  {
    name: 'a file offset that wraps',
    code: 'VU_ERR_MEMORY',
    request: 5,
    payload: memTable([{ ...region, offset: 2n ** 64n - 4096n }]),
    fds: memory(),
  },
  {
    name: 'an empty region',
    code: 'VU_ERR_MEMORY',
    request: 5,
    payload: memTable([{ ...region, size: 0n }]),
    fds: memory(),
  },
  {
    name: 'a file that is too short',
    code: 'VU_ERR_MEMORY_MAP',
    request: 5,
    payload: memTable([region]),
    fds: memory(1, 4096),
  },
  {
    name: 'a second file that is too short',
    code: 'VU_ERR_MEMORY_MAP',
    request: 5,
    payload: memTable([region, apart]),
    fds: (f) => [f.memfd(t.MEMORY_SIZE), f.memfd(4096)],
  },
  {
    name: 'more memory than there are addresses',
    code: 'VU_ERR_MEMORY_MAP',
    request: 5,
    payload: memTable([{ ...region, size: 2n ** 52n }]),
    fds: memory(),
  },
  {
    name: 'an added region that overlaps',
    setup: 'running',
    code: 'VU_ERR_MEMORY',
    request: 37,
    payload: singleRegion({ ...t.QEMU_LAYOUT, uva: 0x1000n }),
    fds: memory(),
  },
  {
    name: 'removal of an unknown region',
    setup: 'running',
    code: 'VU_ERR_MEMORY',
    request: 38,
    payload: singleRegion({ ...t.QEMU_LAYOUT, size: MiB / 2n }),
  },
  {
    name: 'an empty log',
    setup: 'negotiated',
    code: 'VU_ERR_LOG',
    request: 6,
    payload: logBase(0n, 0n),
    fds: memory(),
  },
  {
    name: 'a log that wraps',
    setup: 'negotiated',
    code: 'VU_ERR_LOG',
    request: 6,
    payload: logBase(2n ** 64n - 1n, 2n),
    fds: memory(),
  },
  {
    name: 'a log longer than its file',
    setup: 'negotiated',
    code: 'VU_ERR_LOG',
    request: 6,
    payload: logBase(8192n, 0n),
    fds: memory(1, 4096),
  },

  // ---- requests of features that were not negotiated or not offered
  { name: 'ADD_MEM_REG', code: 'VU_ERR_NOT_NEGOTIATED', request: 37, payload: singleRegion(region), fds: memory() },
  { name: 'GET_MAX_MEM_SLOTS', code: 'VU_ERR_NOT_NEGOTIATED', request: 36 },
  { name: 'SET_LOG_BASE', code: 'VU_ERR_NOT_NEGOTIATED', request: 6, payload: logBase(4096n, 0n), fds: memory() },
  { name: 'RESET_DEVICE', code: 'VU_ERR_NOT_NEGOTIATED', request: 34 },
  { name: 'SEND_RARP', code: 'VU_ERR_NOT_NEGOTIATED', request: 19, payload: u64(0) },
  { name: 'SET_BACKEND_REQ_FD', code: 'VU_ERR_NOT_NEGOTIATED', request: 21, fds: (f) => [f.socket()] },
  { name: 'GET_CONFIG', setup: 'negotiated', code: 'VU_ERR_NOT_NEGOTIATED', request: 24, payload: config(0, 6) },
  { name: 'GET_INFLIGHT_FD', setup: 'negotiated', code: 'VU_ERR_REQUEST', request: 31, payload: new Uint8Array(24) },
  { name: 'request 0', code: 'VU_ERR_REQUEST', request: 0 },
  { name: 'request 2^32-1', code: 'VU_ERR_REQUEST', request: 0xffff_ffff },
  { name: 'an unknown request with descriptors', code: 'VU_ERR_REQUEST', request: 33, fds: events(3) },
];
