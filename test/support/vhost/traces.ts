/**
 * What real front-ends send, message by message, against this back-end's offer and one queue pair: QEMU 7.2 and 10.0
 * with a Linux guest, user-mode Linux 6.1, DPDK virtio-user 22.11. As data, so that tests can also mutate them.
 */
import * as p from '../../../src/vhost/protocol';
import { OFFERED_FEATURES } from './fake-device';
import { EMPTY, logBase, memTable, singleRegion, u64, vringAddr, vringState } from './payloads';

export type FdKind = 'event' | 'memory' | 'socket' | 'log';

export interface Step {
  readonly request: number;
  readonly payload: Uint8Array;
  readonly needReply: boolean;
  readonly fds: readonly FdKind[];
  /** The front-end waits for a reply before it goes on. */
  readonly waits: boolean;
}

export type Trace = readonly Step[];

export const MEMORY_SIZE = 0x100000;
export const LOG_SIZE = 0x1000;
export const RING_SIZE = 256;

const REPLY_ACK = 1n << BigInt(p.VHOST_USER_PROTOCOL_F_REPLY_ACK);
const BACKEND_REQ = 1n << BigInt(p.VHOST_USER_PROTOCOL_F_BACKEND_REQ);
/** LOG_SHMFD, RARP, REPLY_ACK, NET_MTU, BACKEND_REQ, RESET_DEVICE, CONFIGURE_MEM_SLOTS: all that is offered. */
export const OFFERED_PROTOCOL_FEATURES = 0xa03en;
/** VIRTIO features as acked by a Linux guest, with VHOST_USER_F_PROTOCOL_FEATURES. */
export const ACKED = OFFERED_FEATURES | p.VHOST_USER_F_PROTOCOL_FEATURES;

function step(request: number, payload: Uint8Array = EMPTY, fds: readonly FdKind[] = []): Step {
  return { request, payload, needReply: false, fds, waits: false };
}

/** A request that is answered. */
function get(request: number, payload: Uint8Array = EMPTY, fds: readonly FdKind[] = []): Step {
  return { request, payload, needReply: false, fds, waits: true };
}

/** A request with need_reply. */
function acked(request: number, payload: Uint8Array = EMPTY, fds: readonly FdKind[] = []): Step {
  return { request, payload, needReply: true, fds, waits: true };
}

/** Where memory lies for the two front-ends' views: guest-physical and user address of its first byte, file offset. */
export interface Layout {
  readonly gpa: bigint;
  readonly uva: bigint;
  readonly offset: bigint;
  readonly size: bigint;
}

/** QEMU: user addresses are only page-aligned. */
export const QEMU_LAYOUT: Layout = { gpa: 0n, uva: 0x7f3a_3fff_f000n, offset: 0n, size: BigInt(MEMORY_SIZE) };
/** User-mode Linux: all three addresses are the same. */
export const UML_LAYOUT: Layout = { gpa: 0x4_2000n, uva: 0x4_2000n, offset: 0x4_2000n, size: 0xb_e000n };
/** DPDK: guest-physical addresses are user addresses. */
export const DPDK_LAYOUT: Layout = { gpa: 0x1_0000_0000n, uva: 0x1_0000_0000n, offset: 0n, size: BigInt(MEMORY_SIZE) };

/** Ring parts of ring `index` as offsets in the region. */
export function ringOffsets(index: number): { readonly desc: number; readonly avail: number; readonly used: number } {
  const start = 0x4000 * (index + 1);
  return { desc: start, avail: start + 0x1000, used: start + 0x2000 };
}

export function ringAddr(layout: Layout, index: number, flags = 0, log = 0n): Uint8Array {
  const at = ringOffsets(index);
  return vringAddr({
    index,
    flags,
    desc: layout.uva + BigInt(at.desc),
    avail: layout.uva + BigInt(at.avail),
    used: layout.uva + BigInt(at.used),
    log,
  });
}

/** GPA of the used ring, as QEMU always sends it. */
function usedGpa(layout: Layout, index: number): bigint {
  return layout.gpa + BigInt(ringOffsets(index).used);
}

function qemuConnect(): Step[] {
  return [
    get(p.VHOST_USER_GET_FEATURES),
    get(p.VHOST_USER_GET_PROTOCOL_FEATURES),
    step(p.VHOST_USER_SET_PROTOCOL_FEATURES, u64(OFFERED_PROTOCOL_FEATURES)),
    get(p.VHOST_USER_GET_MAX_MEM_SLOTS),
    acked(p.VHOST_USER_SET_BACKEND_REQ_FD, EMPTY, ['socket']),
    step(p.VHOST_USER_SET_OWNER),
    get(p.VHOST_USER_GET_FEATURES),
    ...[0, 1].flatMap((index) => [
      step(p.VHOST_USER_SET_VRING_CALL, u64(index), ['event']),
      step(p.VHOST_USER_SET_VRING_ERR, u64(index), ['event']),
    ]),
  ];
}

function qemuStart(enable: typeof step, base: number, mtu: boolean): Step[] {
  return [
    ...(mtu ? [acked(p.VHOST_USER_NET_SET_MTU, u64(9000))] : []),
    enable(p.VHOST_USER_SET_VRING_ENABLE, vringState(0, 1)),
    enable(p.VHOST_USER_SET_VRING_ENABLE, vringState(1, 1)),
    step(p.VHOST_USER_SET_FEATURES, u64(ACKED)),
    acked(p.VHOST_USER_ADD_MEM_REG, singleRegion(QEMU_LAYOUT), ['memory']),
    ...[0, 1].flatMap((index) => [
      step(p.VHOST_USER_SET_VRING_NUM, vringState(index, RING_SIZE)),
      step(p.VHOST_USER_SET_VRING_BASE, vringState(index, base)),
      step(p.VHOST_USER_SET_VRING_ADDR, ringAddr(QEMU_LAYOUT, index, 0, usedGpa(QEMU_LAYOUT, index))),
      step(p.VHOST_USER_SET_VRING_KICK, u64(index), ['event']),
      // The interrupt's descriptor comes after the kick: until then the masked one of the connection's start.
      step(p.VHOST_USER_SET_VRING_CALL, u64(index), ['event']),
    ]),
  ];
}

function stop(): Step[] {
  return [get(p.VHOST_USER_GET_VRING_BASE, vringState(0, 0)), get(p.VHOST_USER_GET_VRING_BASE, vringState(1, 0))];
}

const enables = (enable: typeof step): Step[] =>
  [0, 1].map((index) => enable(p.VHOST_USER_SET_VRING_ENABLE, vringState(index, 1)));

/** QEMU 7.2: connect, firmware and driver probe, start. */
export const QEMU_RUNNING: Trace = [
  ...qemuConnect(),
  ...Array.from({ length: 5 }, () => enables(step)).flat(),
  ...qemuStart(step, 0, false),
];

/** QEMU 7.2: the same; stop and cont. */
export const QEMU_7_2: Trace = [...QEMU_RUNNING, ...stop(), ...enables(step), ...qemuStart(step, 0, false)];

/** QEMU 10.0: RESET_DEVICE at each device reset, acknowledged enables, an MTU; reboot; start of a migration; its end. */
export const QEMU_10_0: Trace = [
  ...qemuConnect(),
  ...Array.from({ length: 3 }, () => [step(p.VHOST_USER_RESET_DEVICE), ...enables(acked)]).flat(),
  ...qemuStart(acked, 0, true),
  ...stop(),
  step(p.VHOST_USER_RESET_DEVICE),
  ...enables(acked),
  ...qemuStart(acked, 0, true),
  get(p.VHOST_USER_SET_LOG_BASE, logBase(BigInt(LOG_SIZE), 0n), ['log']),
  acked(p.VHOST_USER_SET_FEATURES, u64(ACKED | p.VHOST_F_LOG_ALL)),
  acked(p.VHOST_USER_SET_VRING_ADDR, ringAddr(QEMU_LAYOUT, 0, 1, usedGpa(QEMU_LAYOUT, 0))),
  acked(p.VHOST_USER_SET_VRING_ADDR, ringAddr(QEMU_LAYOUT, 1, 1, usedGpa(QEMU_LAYOUT, 1))),
  step(p.VHOST_USER_SEND_RARP, u64(0x5634_1200_5452n)),
  ...stop(),
];

/** User-mode Linux 6.1: acknowledgements for all; a table of 72 bytes; a socket to call; no GET_VRING_BASE, ever. */
export const UML_6_1: Trace = [
  step(p.VHOST_USER_SET_OWNER),
  get(p.VHOST_USER_GET_FEATURES),
  get(p.VHOST_USER_GET_PROTOCOL_FEATURES),
  acked(p.VHOST_USER_SET_PROTOCOL_FEATURES, u64(REPLY_ACK | BACKEND_REQ)),
  acked(p.VHOST_USER_SET_BACKEND_REQ_FD, EMPTY, ['socket']),
  acked(p.VHOST_USER_SET_FEATURES, u64(ACKED)),
  acked(p.VHOST_USER_SET_FEATURES, u64(ACKED)),
  acked(p.VHOST_USER_SET_MEM_TABLE, memTable([UML_LAYOUT], { size: 72 }), ['memory']),
  ...[0, 1].flatMap((index) => [
    acked(p.VHOST_USER_SET_VRING_CALL, u64(index), ['socket']),
    acked(p.VHOST_USER_SET_VRING_NUM, vringState(index, RING_SIZE)),
    acked(p.VHOST_USER_SET_VRING_BASE, vringState(index, 0)),
    acked(p.VHOST_USER_SET_VRING_ADDR, ringAddr(UML_LAYOUT, index, 0, 0xffff_ffff_ffff_ffffn)),
  ]),
  ...[0, 1].flatMap((index) => [
    acked(p.VHOST_USER_SET_VRING_KICK, u64(index), ['event']),
    acked(p.VHOST_USER_SET_VRING_ENABLE, vringState(index, 1)),
  ]),
];

/** How user-mode Linux takes its device down. */
export const UML_END: Trace = [
  acked(p.VHOST_USER_SET_VRING_ENABLE, vringState(1, 0)),
  acked(p.VHOST_USER_SET_VRING_ENABLE, vringState(0, 0)),
  get(p.VHOST_USER_GET_FEATURES),
];

/** DPDK virtio-user 22.11: memory as a table, kicks before enables. */
export const DPDK_22_11: Trace = [
  step(p.VHOST_USER_SET_OWNER),
  get(p.VHOST_USER_GET_FEATURES),
  get(p.VHOST_USER_GET_PROTOCOL_FEATURES),
  step(p.VHOST_USER_SET_PROTOCOL_FEATURES, u64(REPLY_ACK)),
  step(p.VHOST_USER_SET_VRING_CALL, u64(0), ['event']),
  step(p.VHOST_USER_SET_VRING_CALL, u64(1), ['event']),
  acked(p.VHOST_USER_SET_FEATURES, u64(ACKED)),
  acked(p.VHOST_USER_SET_MEM_TABLE, memTable([DPDK_LAYOUT]), ['memory']),
  ...[0, 1].flatMap((index) => [
    step(p.VHOST_USER_SET_VRING_NUM, vringState(index, RING_SIZE)),
    step(p.VHOST_USER_SET_VRING_BASE, vringState(index, 0)),
    step(p.VHOST_USER_SET_VRING_ADDR, ringAddr(DPDK_LAYOUT, index)),
    step(p.VHOST_USER_SET_VRING_KICK, u64(index), ['event']),
  ]),
  step(p.VHOST_USER_SET_VRING_ENABLE, vringState(0, 1)),
  step(p.VHOST_USER_SET_VRING_ENABLE, vringState(1, 1)),
];

/** How DPDK stops its device. */
export const DPDK_END: Trace = [
  step(p.VHOST_USER_SET_VRING_ENABLE, vringState(0, 0)),
  step(p.VHOST_USER_SET_VRING_ENABLE, vringState(1, 0)),
  ...stop(),
];

export const TRACES: Readonly<Record<string, Trace>> = {
  'QEMU 7.2': QEMU_7_2,
  'QEMU 10.0': QEMU_10_0,
  'user-mode Linux 6.1': [...UML_6_1, ...UML_END],
  'DPDK 22.11': [...DPDK_22_11, ...DPDK_END],
};
