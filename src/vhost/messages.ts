/**
 * Control messages of vhost-user: shapes, decoders, validators, encoders. Control messages are rare, so they become
 * plain readonly objects. Each message is checked in the order header → descriptors → exact size → body; a failed
 * check throws `ProtocolError`. What a value means for the device is not known here (session.ts).
 *
 * 64-bit numbers stay `bigint` until a validator has seen that they fit below 2^53.
 */
import { ProtocolError } from './protocol-errors';
import {
  GUEST_PAGE_SIZE,
  LE,
  MAX_PAYLOAD,
  MEM_TABLE_REGIONS,
  VHOST_USER_HDR_SIZE,
  VHOST_USER_MAX_CONFIG_SIZE,
  VHOST_USER_NEED_REPLY_MASK,
  VHOST_USER_REPLY_FLAGS,
  VHOST_USER_VERSION,
  VHOST_USER_VRING_IDX_MASK,
  VHOST_USER_VRING_NOFD_MASK,
  VIRTQUEUE_MAX_SIZE,
  VRING_AVAIL_ALIGN_SIZE,
  VRING_DESC_ALIGN_SIZE,
  VRING_USED_ALIGN_SIZE,
} from './protocol';

const U64_END = 1n << 64n;
/** Numbers are exact below this. */
const EXACT_END = 1n << 53n;

// Sizes of payloads, in bytes.
export const U64_SIZE = 8;
export const VRING_STATE_SIZE = 8;
export const VRING_ADDR_SIZE = 40;
export const MEM_TABLE_HEAD_SIZE = 8;
export const MEM_REGION_SIZE = 32;
export const SINGLE_REGION_SIZE = 40;
export const LOG_SIZE = 16;
export const CONFIG_HEAD_SIZE = 12;

// ---- header -----------------------------------------------------------------------------------------------------

export interface Header {
  readonly request: number;
  readonly needReply: boolean;
  /** Payload bytes that follow. */
  readonly size: number;
}

export function decodeHeader(dv: DataView): Header {
  const flags = dv.getUint32(4, LE);
  return {
    request: dv.getUint32(0, LE),
    needReply: (flags & VHOST_USER_NEED_REPLY_MASK) !== 0,
    size: dv.getUint32(8, LE),
  };
}

/** Checks the 12 header bytes in `dv`: version 1, no reply bit, no reserved bit, a size that can be held. */
export function validateHeader(dv: DataView): void {
  const flags = dv.getUint32(4, LE);
  if ((flags & ~VHOST_USER_NEED_REPLY_MASK) !== VHOST_USER_VERSION) {
    throw new ProtocolError('VU_ERR_HEADER', `message with flags 0x${flags.toString(16)}, not a version 1 request`);
  }
  const size = dv.getUint32(8, LE);
  if (size > MAX_PAYLOAD) throw new ProtocolError('VU_ERR_HEADER', `message of ${size} bytes, limit ${MAX_PAYLOAD}`);
}

/** Checks the payload size of a request called `name`. */
export function validateSize(name: string, size: number, expected: number): void {
  if (size !== expected) {
    throw new ProtocolError('VU_ERR_SIZE', `${name} with ${size} bytes of payload instead of ${expected}`);
  }
}

/** Checks the number of descriptors of a request called `name`. */
export function validateFds(name: string, count: number, expected: number): void {
  if (count !== expected) {
    throw new ProtocolError('VU_ERR_FDS', `${name} with ${count} descriptors instead of ${expected}`);
  }
}

/** A reply to `request` with a payload of `size` bytes, still zero. The payload starts at VHOST_USER_HDR_SIZE. */
function encodeReply(request: number, size: number): DataView {
  const dv = new DataView(new ArrayBuffer(VHOST_USER_HDR_SIZE + size));
  dv.setUint32(0, request, LE);
  dv.setUint32(4, VHOST_USER_REPLY_FLAGS, LE);
  dv.setUint32(8, size, LE);
  return dv;
}

function bytesOf(dv: DataView): Uint8Array {
  return new Uint8Array(dv.buffer, dv.byteOffset, dv.byteLength);
}

/** Reply, or acknowledgement (0 success), of one u64. */
export function encodeU64Reply(request: number, value: bigint): Uint8Array {
  const dv = encodeReply(request, U64_SIZE);
  dv.setBigUint64(VHOST_USER_HDR_SIZE, value, LE);
  return bytesOf(dv);
}

export function decodeU64(dv: DataView): bigint {
  return dv.getBigUint64(0, LE);
}

// ---- ring messages --------------------------------------------------------------------------------------------

/** struct vhost_vring_state. */
export interface VringState {
  readonly index: number;
  readonly num: number;
}

export function decodeVringState(dv: DataView): VringState {
  return { index: dv.getUint32(0, LE), num: dv.getUint32(4, LE) };
}

export function encodeVringStateReply(request: number, state: VringState): Uint8Array {
  const dv = encodeReply(request, VRING_STATE_SIZE);
  dv.setUint32(VHOST_USER_HDR_SIZE, state.index, LE);
  dv.setUint32(VHOST_USER_HDR_SIZE + 4, state.num, LE);
  return bytesOf(dv);
}

/** The whole u32 is compared, never a truncated one (CVE-2020-10723). */
export function validateVringIndex(index: number, rings: number): void {
  if (index >= rings) throw new ProtocolError('VU_ERR_RING_INDEX', `ring ${index} does not exist (there are ${rings})`);
}

/** SET_VRING_NUM: a power of two from 1 to 32768 (split rings, virtio 1.2 §2.7). */
export function validateVringNum(state: VringState): void {
  const n = state.num;
  if (n < 1 || n > VIRTQUEUE_MAX_SIZE || (n & (n - 1)) !== 0) {
    throw new ProtocolError('VU_ERR_RING_VALUE', `ring ${state.index} of size ${n}`);
  }
}

/** SET_VRING_BASE: a free-running 16-bit index (split rings). */
export function validateVringBase(state: VringState): void {
  if (state.num > 0xffff) {
    throw new ProtocolError('VU_ERR_RING_VALUE', `ring ${state.index} with base ${state.num}`);
  }
}

/** SET_VRING_ENABLE: 0 or 1. */
export function validateVringEnable(state: VringState): void {
  if (state.num > 1) {
    throw new ProtocolError('VU_ERR_RING_VALUE', `SET_VRING_ENABLE ${state.num} for ring ${state.index}`);
  }
}

/** struct vhost_vring_addr: front-end user addresses, but for `log`, which is guest-physical. */
export interface VringAddr {
  readonly index: number;
  readonly flags: number;
  readonly desc: bigint;
  readonly used: bigint;
  readonly avail: bigint;
  readonly log: bigint;
}

export function decodeVringAddr(dv: DataView): VringAddr {
  return {
    index: dv.getUint32(0, LE),
    flags: dv.getUint32(4, LE),
    desc: dv.getBigUint64(8, LE),
    used: dv.getBigUint64(16, LE),
    avail: dv.getBigUint64(24, LE),
    log: dv.getBigUint64(32, LE),
  };
}

/** Alignment only: whether memory lies there is known when the ring starts. */
export function validateVringAddr(addr: VringAddr): void {
  if (
    addr.desc % BigInt(VRING_DESC_ALIGN_SIZE) !== 0n ||
    addr.avail % BigInt(VRING_AVAIL_ALIGN_SIZE) !== 0n ||
    addr.used % BigInt(VRING_USED_ALIGN_SIZE) !== 0n
  ) {
    throw new ProtocolError('VU_ERR_RING_ADDRESS', `ring ${addr.index} with misaligned addresses`);
  }
}

/** The log address of a ring as a number. Only of meaning with VHOST_VRING_F_LOG: some front-ends send ~0 else. */
export function validateVringLog(addr: VringAddr): number {
  if (addr.log >= EXACT_END || addr.log % 4n !== 0n) {
    throw new ProtocolError('VU_ERR_LOG', `ring ${addr.index} logged at 0x${addr.log.toString(16)}`);
  }
  return Number(addr.log);
}

/** SET_VRING_KICK, CALL, ERR. */
export interface VringFd {
  readonly index: number;
  /** False: the front-end requests polling, no descriptor comes. */
  readonly hasFd: boolean;
}

export function decodeVringFd(dv: DataView): VringFd {
  const value = dv.getBigUint64(0, LE);
  if (value > (VHOST_USER_VRING_IDX_MASK | VHOST_USER_VRING_NOFD_MASK)) {
    throw new ProtocolError('VU_ERR_RING_INDEX', `ring descriptor for 0x${value.toString(16)}`);
  }
  return { index: Number(value & VHOST_USER_VRING_IDX_MASK), hasFd: (value & VHOST_USER_VRING_NOFD_MASK) === 0n };
}

// ---- memory messages ------------------------------------------------------------------------------------------

/** One entry of the memory table: `size` bytes from `mmapOffset` of a file. */
export interface MemoryRegion {
  /** Guest-physical address. */
  readonly gpa: bigint;
  readonly size: bigint;
  /** Front-end user address: what SET_VRING_ADDR speaks of. */
  readonly uva: bigint;
  readonly mmapOffset: bigint;
}

function decodeMemoryRegion(dv: DataView, off: number): MemoryRegion {
  return {
    gpa: dv.getBigUint64(off, LE),
    size: dv.getBigUint64(off + 8, LE),
    uva: dv.getBigUint64(off + 16, LE),
    mmapOffset: dv.getBigUint64(off + 24, LE),
  };
}

/**
 * SET_MEM_TABLE. The count is checked before anything is read by it. A payload longer than the table needs is
 * accepted: user-mode Linux sends its whole structure, 72 bytes for one region.
 */
export function decodeMemTable(dv: DataView): readonly MemoryRegion[] {
  if (dv.byteLength < MEM_TABLE_HEAD_SIZE) validateSize('SET_MEM_TABLE', dv.byteLength, MEM_TABLE_HEAD_SIZE);
  const count = dv.getUint32(0, LE);
  if (count < 1 || count > MEM_TABLE_REGIONS) {
    throw new ProtocolError('VU_ERR_MEMORY', `memory table of ${count} regions`);
  }
  const needed = MEM_TABLE_HEAD_SIZE + count * MEM_REGION_SIZE;
  if (dv.byteLength < needed) validateSize('SET_MEM_TABLE', dv.byteLength, needed);
  const regions: MemoryRegion[] = [];
  for (let i = 0; i < count; i++) regions.push(decodeMemoryRegion(dv, MEM_TABLE_HEAD_SIZE + i * MEM_REGION_SIZE));
  return regions;
}

/** ADD_MEM_REG, REM_MEM_REG. */
export function decodeSingleRegion(dv: DataView): MemoryRegion {
  return decodeMemoryRegion(dv, 8);
}

/**
 * One region alone: not empty, nothing wraps round 2^64, whole pages. Guest-physical addresses and file offsets
 * must be exact as numbers. (User addresses stay 64-bit: they are only compared.)
 */
export function validateMemoryRegion(region: MemoryRegion): void {
  const { gpa, size, uva, mmapOffset } = region;
  if (size === 0n) throw new ProtocolError('VU_ERR_MEMORY', 'empty memory region');
  if (gpa + size > EXACT_END || mmapOffset + size > EXACT_END || uva + size > U64_END) {
    throw new ProtocolError('VU_ERR_MEMORY', `memory region at 0x${gpa.toString(16)} exceeds the address space`);
  }
  // Whole pages also make every place in the mapping as aligned as its address, which Atomics on ring indices needs.
  if ((gpa | size | uva | mmapOffset) % BigInt(GUEST_PAGE_SIZE) !== 0n) {
    throw new ProtocolError('VU_ERR_MEMORY', `memory region at 0x${gpa.toString(16)} is not made of whole pages`);
  }
}

export function regionsOverlap(a: MemoryRegion, b: MemoryRegion): boolean {
  return (a.gpa < b.gpa + b.size && b.gpa < a.gpa + a.size) || (a.uva < b.uva + b.size && b.uva < a.uva + a.size);
}

/** SET_LOG_BASE. */
export interface LogBase {
  readonly size: number;
  readonly offset: number;
}

export function decodeLogBase(dv: DataView): LogBase {
  const size = dv.getBigUint64(0, LE);
  const offset = dv.getBigUint64(8, LE);
  if (size === 0n || size + offset > EXACT_END) {
    throw new ProtocolError('VU_ERR_LOG', `dirty log of ${size.toString()} bytes at offset ${offset.toString()}`);
  }
  return { size: Number(size), offset: Number(offset) };
}

// ---- configuration space --------------------------------------------------------------------------------------

/** Head of GET_CONFIG and SET_CONFIG; `size` bytes of data follow. */
export interface ConfigRange {
  readonly offset: number;
  readonly size: number;
  readonly flags: number;
}

/** Null if the message is longer or shorter than it says. */
export function decodeConfigRange(dv: DataView): ConfigRange | null {
  if (dv.byteLength < CONFIG_HEAD_SIZE) return null;
  const range = { offset: dv.getUint32(0, LE), size: dv.getUint32(4, LE), flags: dv.getUint32(8, LE) };
  return range.size === dv.byteLength - CONFIG_HEAD_SIZE ? range : null;
}

/** Reply to GET_CONFIG: the requested range, zeros past the end of `space`. A size-0 payload says "failed". */
export function encodeConfigReply(request: number, range: ConfigRange, space: Uint8Array): Uint8Array {
  if (range.offset + range.size > VHOST_USER_MAX_CONFIG_SIZE) return bytesOf(encodeReply(request, 0));
  const dv = encodeReply(request, CONFIG_HEAD_SIZE + range.size);
  dv.setUint32(VHOST_USER_HDR_SIZE, range.offset, LE);
  dv.setUint32(VHOST_USER_HDR_SIZE + 4, range.size, LE);
  dv.setUint32(VHOST_USER_HDR_SIZE + 8, range.flags, LE);
  const bytes = bytesOf(dv);
  bytes.set(space.subarray(range.offset, range.offset + range.size), VHOST_USER_HDR_SIZE + CONFIG_HEAD_SIZE);
  return bytes;
}

/** struct virtio_net_config (virtio 1.2 §5.1.4), of which only the MTU is ours to say. */
export function netConfigSpace(mtu: number): Uint8Array {
  const dv = new DataView(new ArrayBuffer(28));
  dv.setUint16(6, 1, LE); // status: link up
  dv.setUint16(8, 1, LE); // max_virtqueue_pairs
  dv.setUint16(10, mtu, LE);
  return bytesOf(dv);
}
